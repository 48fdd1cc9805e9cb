use super::*;
use alloc::vec;
use ras_core::{CpuVendor, Guid, ProblemKind, Raw, Timestamp};

use crate::cper::decode_record;
use crate::cper::tests::record as cper;

/// `WHEA_XPF_MCA_SECTION` of a version, with one further bank from version 4 on.
pub(crate) fn xpf_mca(version: u32) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend(2u32.to_le_bytes());
    // 2023-11-14T22:13:20Z.
    bytes.extend(133_444_736_000_000_000u64.to_le_bytes());
    bytes.extend(5u32.to_le_bytes());
    bytes.extend(4u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(17u32.to_le_bytes());
    for word in [0x9c20_4000_0000_011bu64, 0x1_2345_6000, 0xd01a_0ffe_0000_0000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(10u32.to_le_bytes());
    bytes.extend(7u32.to_le_bytes());
    for word in [0x96_0005_0f00u64, 0x5a02_0001, 0x27_0000_007d] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(264, 0);
    if version >= 2 {
        bytes.extend(0u64.to_le_bytes());
    }
    if version >= 3 {
        bytes.resize(292, 0);
    }
    if version >= 4 {
        let length = if version == 4 { 32 } else { 64 };
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(3u32.to_le_bytes());
        bytes.resize(296 + 4 * length, 0);
        bytes.extend(0xbe00_0000_0000_0800u64.to_le_bytes());
        bytes.resize(296 + (4 + 3 * 8) * length, 0);
    }
    bytes
}

/// `WHEA_ERROR_PACKET_V2` with 8 bytes of data and 4 of a plug-in's.
pub(crate) fn error_packet_v2() -> Vec<u8> {
    let mut bytes = b"WHEA".to_vec();
    for word in [3u32, 92, 1, 1, 2, 6, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0xab; 16]);
    bytes.extend(0x1122u64.to_le_bytes());
    for word in [2u32, 0, 80, 8, 88, 4] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    bytes
}

fn decoded(section: Guid, body: Vec<u8>) -> ErrorRecord {
    decode_record(&cper(&[(section, 1, body)])).records.remove(0)
}

#[test]
fn banks_become_witnesses() {
    for (version, length, banks) in
        [(1, 264, 1), (2, 272, 1), (3, 292, 1), (4, 1192, 2), (5, 2088, 2)]
    {
        let bytes = xpf_mca(version);
        assert_eq!(bytes.len(), length);
        let record = decoded(XPF_MCA, bytes);
        assert_eq!(record.problems, [], "{version}");
        assert_eq!(record.witnesses.len(), banks, "{version}");
        let Raw::Mca(registers) = &record.witnesses[0].raw else { panic!("{record:?}") };
        assert_eq!((registers.vendor, registers.bank), (CpuVendor::Amd, 17));
        assert_eq!(registers.status, 0x9c20_4000_0000_011b);
        // The first form of the structure has no registers of AMD's.
        assert_eq!(registers.ipid, if version >= 2 { 0x96_0005_0f00 } else { 0 });
        assert_eq!(record.time, Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(record.location.cpu, Some(5));
        assert_eq!(record.location.fru.as_deref(), Some("DIMM_A1"));
        if let Some(Raw::Mca(further)) = record.witnesses.get(1).map(|bank| &bank.raw) {
            assert_eq!((further.bank, further.status), (3, 0xbe00_0000_0000_0800));
        }
    }
}

#[test]
fn a_neighbour_names_the_processor() {
    let generic =
        Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]);
    let mut processor = vec![0; 192];
    processor[0] = 1 << 6;
    processor[16..20].copy_from_slice(&0xa0_0f11u32.to_le_bytes());
    for order in [[0, 1], [1, 0]] {
        let sections = [(generic, 1, processor.clone()), (XPF_MCA, 1, xpf_mca(3))];
        let bytes = cper(&order.map(|index: usize| sections[index].clone()));
        let records = decode_record(&bytes).records;
        let bank = &records.iter().find(|record| !record.witnesses.is_empty()).unwrap();
        let Raw::Mca(registers) = &bank.witnesses[0].raw else { panic!("{bank:?}") };
        assert_eq!(registers.cpuid, 0xa0_0f11);
        assert_eq!(bank.class, ErrorClass::Memory, "a Zen 3 memory controller");
        assert_eq!(bank.witnesses[0].source, bank.source);
    }
}

#[test]
fn a_machine_check_that_is_cut() {
    let whole = xpf_mca(4);
    for length in 0..whole.len() {
        let record = decoded(XPF_MCA, whole[..length].to_vec());
        // The further bank's last register ends before the arrays do.
        let needed = 296 + 4 * 32 + 16 * 32 + 8;
        assert_eq!(!record.problems.is_empty(), length < needed, "{length}");
    }
}

/// A status block of `sections`.
fn block(sections: &[(Guid, Vec<u8>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (section, body) in sections {
        data.extend(section.0);
        data.extend(2u32.to_le_bytes());
        data.extend([0, 2, 0, 0]);
        data.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        data.resize(data.len() + 36, 0);
        data.extend(body);
    }
    let status = 2 | u32::try_from(sections.len()).unwrap() << 4;
    let words = [status, 0, 0, u32::try_from(data.len()).unwrap(), 2];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(data).collect()
}

#[test]
fn a_status_block_s_entries_are_witnesses() {
    let memory = crate::cper::section::memory::SECTION_TYPE;
    let mut body = vec![0; 80];
    body[0] = 2;
    body[16..24].copy_from_slice(&0x7000u64.to_le_bytes());
    let record = decoded(GENERIC, block(&[(memory, body)]));
    assert_eq!(record.problems, []);
    assert_eq!(record.witnesses.len(), 1);
    assert_eq!(record.address.map(|at| at.addr.0), Some(0x7000));
}

/// The deepest nesting that fits: each level would read all of the levels inside of it.
#[test]
fn status_blocks_do_not_nest() {
    let mut body = vec![0; 16];
    for _ in 0..200 {
        body = block(&[(GENERIC, body)]);
    }
    let record = decoded(GENERIC, body);
    assert_eq!(record.witnesses, []);
    assert!(record.problems.iter().any(|p| p.kind == ProblemKind::Limit));
}

#[test]
fn packets_of_both_versions() {
    let record = decoded(ERROR_PACKET, error_packet_v2());
    assert_eq!(record.problems, []);
    assert_eq!(record.summary, "Windows error packet: memory error, source CMC, fatal");
    let data = record.details.iter().find(|detail| detail.name == "data").unwrap();
    assert_eq!(data.value, Value::Bytes(vec![1, 2, 3, 4, 5, 6, 7, 8]));

    let mut old = vec![0; 280 + 256];
    old[..4].copy_from_slice(b"ErPt");
    old[32] = 0;
    old[272] = 2;
    old[276..280].copy_from_slice(&256u32.to_le_bytes());
    old[284] = 1;
    old[304] = 9;
    old[312..320].copy_from_slice(&0xbe00_0000_0080_0090u64.to_le_bytes());
    let record = decoded(ERROR_PACKET, old);
    assert_eq!(record.problems, []);
    let Raw::Mca(bank) = &record.witnesses.last().unwrap().raw else { panic!("{record:?}") };
    assert_eq!((bank.bank, bank.status), (9, 0xbe00_0000_0080_0090));
}

#[test]
fn data_of_a_packet_stays_inside() {
    for at in [64, 68, 72, 76] {
        let mut packet = error_packet_v2();
        packet[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let record = decoded(ERROR_PACKET, packet);
        assert_eq!(record.problems.len(), 1, "{at}");
        assert_eq!(record.problems[0].kind, ProblemKind::OutOfBounds);
    }
}

#[test]
fn summaries_count_what_is_there() {
    let mut body = vec![1, 0, 2, 0];
    for count in [5u32, 7] {
        body.extend(0xfu64.to_le_bytes());
        for word in [1, 2, 0, count] {
            body.extend(word.to_le_bytes());
        }
    }
    let record = decoded(MEMORY_CORRECTED, body.clone());
    assert_eq!((record.count, record.problems.len()), (12, 0));
    body[2] = 3;
    let record = decoded(MEMORY_CORRECTED, body);
    assert_eq!(record.problems[0].detail, "3 entries announced, 2 are there");
}

#[test]
fn recovery_that_failed_says_why() {
    let mut body = vec![0; 39];
    (body[1], body[9], body[15]) = (2, 1, 10);
    body[19..22].copy_from_slice(b"sql");
    let record = decoded(RECOVERY_INFO, body);
    assert_eq!(record.summary, "Windows did not recover from the error: high IRQL, fatal");
    assert_eq!(meaning(&record.details, "process_name"), Some("sql"));
}
