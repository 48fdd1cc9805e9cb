use super::*;
use alloc::vec;
use alloc::vec::Vec;
use ras_core::{Detail, Guid, Timestamp, Value};

use crate::cper::tests::record as cper;
use crate::layout::meaning;

/// A table with its header's length and checksum as they have to be.
fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(u32::try_from(36 + body.len()).unwrap().to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend(*b"RAMPRTGOLDEN  ");
    bytes.extend(7u32.to_le_bytes());
    bytes.extend(*b"TEST");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(body);
    bytes[9] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    bytes
}

fn list<'a>(record: &'a ErrorRecord, name: &str) -> Vec<&'a [Detail]> {
    let list = record.details.iter().find(|detail| detail.name == name).unwrap();
    let Value::List(list) = &list.value else { panic!("{list:?}") };
    list.iter()
        .map(|value| match value {
            Value::Group(group) => group.as_slice(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn notification(kind: u8) -> Vec<u8> {
    let mut bytes = vec![kind, 28, 0, 0];
    bytes.extend(1000u32.to_le_bytes());
    bytes.resize(28, 0);
    bytes
}

/// One source of each type, in the order of the type numbers.
fn every_source() -> Vec<Vec<u8>> {
    let bank = [&[3, 1, 1, 0][..], &[0; 24]].concat();
    let mce = [&[0, 0, 1, 0, 0, 0, 1, 1][..], &[2, 0, 0, 0, 1, 0, 0, 0], &[0; 16], &[2], &[0; 7]];
    let mce = [mce.concat(), bank.clone(), bank.clone()].concat();
    let cmc = |kind: u8| {
        let head = [kind, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0];
        [&head[..], &notification(5), &[1, 0, 0, 0], &bank].concat()
    };
    let nmi = [&[2, 0, 3, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0, 0]].concat();
    let aer = |kind: u8, more: usize| {
        let mut bytes = vec![kind, 0, kind, 0, 0, 0, 2, 1, 1, 0, 0, 0, 1, 0, 0, 0];
        bytes.extend(0x0000_013b_u32.to_le_bytes());
        bytes.resize(44 + more, 0);
        bytes
    };
    let ghes = |kind: u8| {
        let mut bytes = vec![kind, 0, kind, 0, 0xff, 0xff, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0];
        bytes.extend(4096u32.to_le_bytes());
        bytes.extend([0, 64, 0, 4]);
        bytes.extend(0x7fff_0000u64.to_le_bytes());
        bytes.extend(notification(3));
        bytes.extend(4096u32.to_le_bytes());
        if kind == 10 {
            bytes.extend([0, 64, 0, 4]);
            bytes.extend(0x7fff_1000u64.to_le_bytes());
            bytes.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            bytes.extend(1u64.to_le_bytes());
        }
        bytes
    };
    vec![mce, cmc(1), nmi, aer(6, 4), aer(7, 0), aer(8, 12), ghes(9), ghes(10), cmc(11)]
}

fn hest(sources: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(sources.len()).unwrap().to_le_bytes();
    table(b"HEST", &[&count[..], &sources.concat()].concat())
}

#[test]
fn every_type_of_error_source() {
    let bytes = hest(&every_source());
    let decoded = decode_table(&bytes);
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.consumed, bytes.len());
    let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
    assert_eq!(record.source, ErrorSource::ErrorSourceTable);
    assert_eq!(record.severity, Severity::Informational);
    assert_eq!(record.summary, "HEST: 9 error sources");
    let sources = list(record, "sources");
    let types: Vec<u64> = sources.iter().filter_map(|source| found(source, "type")).collect();
    assert_eq!(types, [0, 1, 2, 6, 7, 8, 9, 10, 11]);
    assert_eq!(meaning(sources[7], "type"), Some("generic hardware error source, version 2"));
    let banks = sources[0].iter().find(|detail| detail.name == "banks").unwrap();
    assert!(matches!(&banks.value, Value::List(list) if list.len() == 2));
}

#[test]
fn every_cut_of_a_table_is_noticed() {
    let bytes = hest(&every_source());
    for length in 0..bytes.len() {
        let decoded = decode_table(&bytes[..length]);
        assert!(!decoded.problems.is_empty(), "{length}");
        assert!(decoded.problems.iter().all(|p| p.offset <= length as u64), "{length}");
        assert_eq!(decoded.records.len(), 1);
    }
}

#[test]
fn lies_in_a_table() {
    let check = |at: usize, with: u8, detail: &str| {
        let mut bytes = hest(&every_source());
        let right = bytes[at];
        bytes[at] = with;
        bytes[9] = bytes[9].wrapping_add(right).wrapping_sub(with);
        let problems = decode_table(&bytes).problems;
        assert!(problems.iter().any(|p| p.detail == detail), "{problems:?}");
    };
    check(36, 10, "error source 9 ends before type");
    check(40, 77, "error source 0 of unknown type ends the list");
    let mut bytes = hest(&every_source());
    bytes[9] ^= 0x10;
    assert_eq!(decode_table(&bytes).problems[0].detail, "checksum of the table is wrong");
    assert_eq!(decode_table(&table(b"DSDT", &[])).problems[0].kind, Kind::Unknown);
}

#[test]
fn instructions_of_both_tables() {
    let mut body = 12u32.to_le_bytes().to_vec();
    body.extend([0; 4]);
    body.extend(2u32.to_le_bytes());
    for action in [0, 16] {
        body.extend([action, 3, 1, 0, 0, 64, 0, 4]);
        body.extend(0xfed0_0000u64.to_le_bytes());
        body.extend(1u64.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes());
    }
    for (signature, first) in [(b"ERST", "begin write"), (b"EINJ", "begin injection")] {
        let decoded = decode_table(&table(signature, &body));
        assert_eq!(decoded.problems, []);
        let instructions = list(&decoded.records[0], "instructions");
        assert_eq!(instructions.len(), 2);
        assert_eq!(meaning(instructions[0], "action"), Some(first));
        assert_eq!(found(instructions[1], "mask"), Some(u64::MAX));
    }
    body[8] = 9;
    let decoded = decode_table(&table(b"ERST", &body));
    assert_eq!(decoded.problems[0].detail, "9 instructions announced, 2 are there");
}

/// A status block with one memory entry.
fn block() -> Vec<u8> {
    let memory = crate::cper::section::memory::SECTION_TYPE;
    let mut bytes = Vec::new();
    for word in [1u32 | 1 << 4, 0, 0, 64 + 80, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(memory.0);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([1, 2, 0, 0]);
    bytes.extend(80u32.to_le_bytes());
    bytes.extend([0; 36 + 80]);
    bytes
}

#[test]
fn a_region_holds_several_blocks() {
    let region = [block(), block(), vec![0; 100]].concat();
    let decoded = decode_bert_region(&region);
    assert_eq!((decoded.records.len(), decoded.problems.len()), (2, 0));
    assert!(decoded.records.iter().all(|record| record.source == ErrorSource::Bert));

    let body = [&428u32.to_le_bytes()[..], &0x7000_0000u64.to_le_bytes()].concat();
    let bytes = [table(b"BERT", &body), region].concat();
    let decoded = decode_table(&bytes);
    assert_eq!(decoded.records.len(), 3);
    assert_eq!(decoded.records[0].summary, "BERT: boot error region of 428 bytes at 0x70000000");
    assert_eq!(decoded.records[2].severity, Severity::Fatal);
}

const OTHER: Guid = Guid([7; 16]);

/// A store as QEMU keeps it, with records in the given slots of 8 KiB.
fn store(slots: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = b"ERSTSTOR".to_vec();
    bytes.extend(8192u32.to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    bytes.extend([0, 1, 0, 0]);
    let used = slots.iter().flatten().count();
    bytes.extend(u32::try_from(used).unwrap().to_le_bytes());
    bytes.resize(8192, 0);
    for slot in slots {
        let start = bytes.len();
        bytes.extend(slot.iter().flatten());
        bytes.resize(start + 8192, 0xff);
    }
    bytes
}

#[test]
fn slots_of_a_store() {
    let record = cper(&[(OTHER, 1, vec![1, 2, 3])]);
    let bytes = store(&[Some(record.clone()), None, Some(record.clone())]);
    for bytes in [bytes.clone(), bytes[8192..].to_vec()] {
        let decoded = decode_erst_image(&bytes);
        assert_eq!(decoded.problems, []);
        assert_eq!(decoded.records.len(), 2);
        assert_eq!(decoded.records[0].source, ErrorSource::Erst);
    }
    assert_eq!(
        decode_erst_image(&store(&[None, None])),
        Decoded { consumed: 3 * 8192, ..Decoded::default() }
    );
}

#[test]
fn problems_in_a_store_say_where_they_are() {
    let mut record = cper(&[(OTHER, 1, vec![1, 2, 3])]);
    record[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    let decoded = decode_erst_image(&store(&[None, Some(record.clone())]));
    assert_eq!(decoded.problems[0].offset, 3 * 8192);
    // Without slots, a record that lies about its length ends where the next one begins.
    let other = cper(&[(OTHER, 1, vec![1, 2, 3])]);
    assert_eq!(decode_erst_image(&[record, other].concat()).records.len(), 2);
}

#[test]
fn the_kernel_s_own_records_count_seconds() {
    let log =
        Guid::new(0xc197_e04e, 0xd545, 0x4a70, [0x9c, 0x17, 0xa5, 0x54, 0x94, 0x19, 0xeb, 0x12]);
    let mut record = cper(&[(log, 1, b"Panic#1 Part1\n<2>oops".to_vec())]);
    record[24..32].copy_from_slice(&1_700_000_000u64.to_le_bytes());
    let creator =
        Guid::new(0x75a5_74e3, 0x5052, 0x4b29, [0x8a, 0x8e, 0xbe, 0x2c, 0x64, 0x90, 0xb8, 0x9d]);
    record[64..80].copy_from_slice(&creator.0);
    let decoded = decode_erst_image(&store(&[Some(record)]));
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.records[0].time, Some(Timestamp::from_secs(1_700_000_000)));
    assert_eq!(decoded.records[0].raw, Raw::Text("Panic#1 Part1\n<2>oops".into()));
}

/// Twice the slots, twice the records: nothing is looked at more than a fixed number of times.
#[test]
fn work_grows_with_the_image_and_no_faster() {
    let bad = {
        let mut record = cper(&[(OTHER, 1, vec![9])]);
        record[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        record
    };
    let records = |count: usize| decode_erst_image(&bad.repeat(count)).records.len();
    assert_eq!((records(100), records(200)), (100, 200));
}
