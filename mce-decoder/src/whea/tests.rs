use super::*;
use alloc::vec;
use proptest::prelude::*;

use crate::cper::section::tests::{error_packet_v2, xpf_mca};
use crate::cper::tests::record as cper;

/// An entry of the log with the payload its identifier wants.
fn log_entry(kind: u32, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(32 + payload.len()).unwrap();
    let mut bytes = b"WhLg".to_vec();
    for word in [1, length, kind, u32::from_le_bytes(*b"KRNL"), id, 2] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// `WHEAP_PFA_MEMORY_OFFLINED`.
fn page_offlined(page: u32) -> Vec<u8> {
    let mut payload = 1u32.to_le_bytes().to_vec();
    payload.push(1);
    payload.extend(page.to_le_bytes());
    payload.push(0);
    log_entry(1, 0x8000_0006, &payload)
}

#[test]
fn a_page_taken_offline_is_a_page() {
    let decoded = decode_raw(&page_offlined(0x12345));
    assert_eq!(decoded.problems, []);
    let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
    assert_eq!(record.class, ErrorClass::Memory);
    assert_eq!(record.pages().map(|pages| (pages.start.0, pages.count)), Some((0x12345, 1)));
    assert_eq!(record.summary, "Windows: page taken offline");
    assert_eq!(meaning(&record.details, "decision_type"), Some("predictive failure"));
}

#[test]
fn entries_and_records_follow_one_another() {
    let other = ras_core::Guid([7; 16]);
    let record = cper(&[(other, 2, vec![1])]);
    let bytes = [page_offlined(1), record, log_entry(2, 0x8000_ffff, b"what"), vec![0; 7]].concat();
    let decoded = decode_raw(&bytes);
    assert_eq!(decoded.problems, []);
    assert_eq!(decoded.consumed, bytes.len());
    assert_eq!(decoded.records.len(), 3);
    assert!(decoded.records.iter().all(|record| record.source == ErrorSource::Whea));
    assert_eq!(decoded.records[2].summary, "Windows: log entry 0x8000ffff of unknown meaning");
    assert_eq!(decoded.records[2].severity, Severity::Unknown);
}

#[test]
fn an_added_source_is_described() {
    let mut payload = vec![0; 977];
    payload[..4].copy_from_slice(&972u32.to_le_bytes());
    payload[8] = 5;
    payload[12] = 2;
    payload[40] = 9;
    payload[43] = 1;
    payload[56..64].copy_from_slice(&0x7000_0000u64.to_le_bytes());
    payload[976] = 1;
    let decoded = decode_raw(&log_entry(0, 0x8000_000c, &payload));
    assert_eq!(decoded.problems, []);
    let details = &decoded.records[0].details;
    assert_eq!(found(details, "is_remove"), Some(1));
    let source = details.iter().find(|detail| detail.name == "error_source").unwrap();
    let Value::Group(source) = &source.value else { panic!("{source:?}") };
    assert_eq!(meaning(source, "source_type"), Some("generic"));
    let address = source.iter().find(|detail| detail.name == "error_status_address").unwrap();
    assert!(
        matches!(&address.value, Value::Group(group) if found(group, "address") == Some(0x7000_0000))
    );
}

#[test]
fn every_cut_is_noticed() {
    for bytes in [page_offlined(7), error_packet_v2(), log_entry(0, 0x8000_0014, &[0; 101])] {
        assert_eq!(decode_raw(&bytes).problems, []);
        for length in 1..bytes.len() {
            let decoded = decode_raw(&bytes[..length]);
            assert!(!decoded.problems.is_empty(), "{length}");
            assert!(decoded.problems.iter().all(|p| p.offset <= length as u64), "{length}");
        }
    }
}

#[test]
fn a_machine_check_packet_keeps_its_source() {
    let decoded = decode_raw(&error_packet_v2());
    assert_eq!(decoded.records[0].source, ErrorSource::Whea);
    let section = ras_core::Guid::new(
        0x8a1e_1d01,
        0x42f9,
        0x4557,
        [0x9c, 0x33, 0x56, 0x5e, 0x5c, 0xc3, 0xf7, 0xe8],
    );
    let decoded = decode_raw(&cper(&[(section, 1, xpf_mca(4))]));
    assert!(decoded.records[0].witnesses.iter().all(|bank| bank.source == ErrorSource::Whea));
}

proptest! {
    #[test]
    fn any_bytes_are_bounded(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), id in 0x8000_0000u32..0x8000_0080,
    ) {
        let mut input = b"WhLg".to_vec();
        input.extend(&bytes);
        for bytes in [input, log_entry(1, id, &bytes)] {
            let decoded = decode_raw(&bytes);
            prop_assert!(decoded.consumed <= bytes.len());
            prop_assert!(decoded.problems.iter().all(|p| p.offset <= bytes.len() as u64));
        }
    }
}
