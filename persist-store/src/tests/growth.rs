//! Size, versions and the meaning of a rewrite.

use super::*;
use crate::backend::File;
use ras_store_format::UnknownRecord;
use ras_store_format::layout::{BLOCK_SIZE, encode_commit};

#[test]
fn compaction_bounds_the_journal_and_changes_nothing() {
    let disk = Simulated::empty("compaction");
    let (mut journal, _) = open(&disk).unwrap();
    let mut longest = 0;
    let mut expected = State::default();
    for round in 0..600 {
        let entries = [page(round % 5, RetireState::Pending), observed(round), node(round)];
        journal.append(&entries).unwrap();
        expected = applied(&expected, &entries);
        assert_eq!(*journal.state(), expected, "round {round}");
        longest = longest.max(disk.contents(File::Journal).unwrap().len());
    }
    // A handful of live blocks, four times as many before a rewrite, in two copies and whole
    // segments.
    assert!(longest <= 64 * BLOCK_SIZE, "{longest} bytes");
    let (journal, recovery) = open(&disk).unwrap();
    assert_eq!(*journal.state(), expected);
    assert!(recovery.is_clean(), "{recovery}");
}

#[test]
fn a_full_store_is_loud_and_loses_nothing() {
    let disk = Simulated::empty("full store");
    let (mut journal, _) = open(&disk).unwrap();
    let mut number = 0;
    let error = loop {
        let entries: Vec<_> =
            (number..number + 50).map(|number| page(number, RetireState::Retired)).collect();
        match journal.append(&entries) {
            Ok(()) => number += 50,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(journal.state().pages.len() as u64, number);
    // Making room is possible: unretiring needs a block, compaction finds it.
    assert!(disk.contents(File::Journal).unwrap().len() as u64 <= SMALL.size_max);
    let (journal, recovery) = open(&disk).unwrap();
    assert_eq!(journal.state().pages.len() as u64, number);
    assert!(recovery.is_clean(), "{recovery}");
}

/// A record of a newer minor version is kept through reading and rewriting, and counted.
#[test]
fn records_of_a_newer_version_are_kept() {
    let disk = Simulated::empty("newer");
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[page(1, RetireState::Pending)]).unwrap();
    let newer = UnknownRecord { kind: 0x4242, payload: b"from the future".to_vec() };
    disk.tamper(File::Journal, |bytes| {
        let generation = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let commit = encode_commit(generation, 1, &[newer.encode()]).unwrap();
        for copy in 0..2 {
            let offset = usize::try_from(SMALL.geometry.offset(1, copy)).unwrap();
            bytes[offset..offset + BLOCK_SIZE].copy_from_slice(&commit);
        }
    });
    let (mut journal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.unknown_records, 1);
    assert_eq!(journal.state().unknown, std::slice::from_ref(&newer));
    for round in 0..60 {
        journal.append(&[page(round % 5, RetireState::Retired)]).unwrap();
    }
    let (journal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.unknown_records, 1);
    assert_eq!(journal.state().unknown, [newer]);
}

#[test]
fn another_major_version_is_left_alone() {
    let disk = Simulated::empty("major");
    drop(open(&disk).unwrap());
    disk.tamper(File::Journal, |bytes| {
        for header in bytes.chunks_exact_mut(BLOCK_SIZE).take(2) {
            header[12] = 2;
            let checksum = ras_store_format::crc32c(&header[12..]);
            header[8..12].copy_from_slice(&checksum.to_le_bytes());
        }
    });
    let before = disk.contents(File::Journal);
    assert!(matches!(open(&disk), Err(StoreError::UnsupportedVersion { .. })));
    let read = recovery::inspect(&disk, dir(), Timestamp(7));
    assert!(matches!(read, Err(StoreError::UnsupportedVersion { .. })));
    assert_eq!(disk.contents(File::Journal), before);
    assert!(disk.quarantine().is_empty());
}

/// Texts beyond the format's limits are cut at a character, and the state shows what a restart would.
#[test]
fn long_texts_are_cut_at_a_character() {
    let disk = Simulated::empty("long");
    let (mut journal, _) = open(&disk).unwrap();
    let Entry::Page(mut long) = page(1, RetireState::Failed) else { unreachable!() };
    long.diagnosis = "é".repeat(2000).into();
    long.outcome = "x".repeat(100_000).into();
    long.location.fru = Some("日".repeat(200).into());
    journal.append(&[Entry::Page(long.clone())]).unwrap();
    let shown = &journal.state().pages[&long.pfn];
    assert_eq!(shown.diagnosis, "é".repeat(511));
    assert_eq!(shown.outcome.len(), 1023);
    assert_eq!(shown.location.fru, Some("日".repeat(85).into()));
    assert_eq!(open(&disk).unwrap().0.state(), journal.state());
}
