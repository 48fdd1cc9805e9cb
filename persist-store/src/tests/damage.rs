//! Bytes change behind the store's back: nothing acknowledged goes silently.

use super::*;
use crate::backend::File;
use crate::backend::simulated::{Rng, SECTOR};

/// A journal of four commits, the last of three blocks, in two segments; cleanly closed.
fn healthy() -> (Simulated, State) {
    let disk = Simulated::empty("healthy");
    let (mut journal, _) = open(&disk).unwrap();
    for entries in script().iter().take(3) {
        journal.append(entries).unwrap();
    }
    let several: Vec<_> = (10..70).map(|number| page(number, RetireState::Pending)).collect();
    journal.append(&several).unwrap();
    let state = journal.state().clone();
    let end = |number| usize::try_from(SMALL.geometry.offset(number, 0)).unwrap();
    let bytes = disk.contents(File::Journal).unwrap();
    assert!(bytes[end(5)] != 0 && bytes[end(6)] == 0, "the commits changed their shape");
    (disk, state)
}

/// Either everything is there, or damage is reported, is in the state, and stays there; and the
/// damaged file is kept. Returns whether everything was there, and what was reported.
fn check(damaged: &Simulated, healthy: &State, context: &str) -> (bool, Recovery) {
    let before = damaged.contents(File::Journal);
    let (journal, recovery) = open(damaged).unwrap_or_else(|error| panic!("{context}: {error}"));
    let state = journal.state().clone();
    let whole = state.pages == healthy.pages
        && state.node == healthy.node
        && state.observed == healthy.observed;
    if recovery.damage.is_some() {
        assert!(state.is_damaged(), "{context}: reported, but not remembered");
        if let Some(before) = before {
            let kept = damaged.quarantine();
            assert!(kept.values().any(|bytes| *bytes == before), "{context}: not set aside");
        }
    } else {
        assert!(whole, "{context}: a silent loss, {recovery}");
        assert!(!state.is_damaged(), "{context}");
    }
    (whole, recovery)
}

/// [`check`], and then that recovery left nothing to do.
fn check_settled(damaged: &Simulated, healthy: &State, context: &str) -> (bool, Recovery) {
    let checked = check(damaged, healthy, context);
    let (journal, second) = open(damaged).unwrap();
    assert_eq!(journal.state().is_damaged(), checked.1.damage.is_some(), "{context}");
    assert!(second.is_clean(), "{context}: the second open still finds work: {second}");
    checked
}

#[test]
fn every_byte_flipped() {
    let (disk, state) = healthy();
    let mut rng = Rng::seeded("every_byte_flipped");
    for file in [File::Journal, File::Witness] {
        for index in 0..disk.contents(file).unwrap().len() {
            let damaged = disk.duplicate();
            let bit = rng.below(8);
            damaged.tamper(file, |bytes| bytes[index] ^= 1 << bit);
            let context = format!("{file:?} byte {index} bit {bit}");
            let check = if index % 64 == 0 { check_settled } else { check };
            let (whole, recovery) = check(&damaged, &state, &context);
            assert!(!recovery.is_clean(), "{context}: went unnoticed");
            assert_eq!(recovery.damage, None, "{context}: not mended");
            assert!(whole, "{context}");
        }
    }
}

#[test]
fn every_sector_lost() {
    let (disk, state) = healthy();
    let mut rng = Rng::seeded("every_sector_lost");
    let sectors = disk.contents(File::Journal).unwrap().len() / SECTOR;
    for sector in 0..sectors {
        for garbage in [false, true] {
            let damaged = disk.duplicate();
            damaged.tamper(File::Journal, |bytes| {
                for byte in &mut bytes[sector * SECTOR..][..SECTOR] {
                    *byte = if garbage { rng.next().to_le_bytes()[0] } else { 0 };
                }
            });
            assert!(
                check_settled(&damaged, &state, &format!("sector {sector}, garbage {garbage}")).0
            );
        }
    }
}

#[test]
fn cut_at_every_length() {
    let (disk, state) = healthy();
    for length in 0..disk.contents(File::Journal).unwrap().len() {
        let damaged = disk.duplicate();
        damaged.tamper(File::Journal, |bytes| bytes.truncate(length));
        let check = if length % 64 == 0 { check_settled } else { check };
        check(&damaged, &state, &format!("cut to {length}"));
        // The same where power loss took the witness back to nothing.
        if length % 16 == 0 {
            let damaged = disk.duplicate();
            damaged.tamper(File::Journal, |bytes| bytes.truncate(length));
            damaged.tamper(File::Witness, Vec::clear);
            check(&damaged, &state, &format!("cut to {length}, no witness"));
        }
    }
}

/// Up to eight bad places at once, which both copies of a block may be among.
#[test]
fn many_faults_at_once() {
    let (disk, state) = healthy();
    let mut rng = Rng::seeded("many_faults_at_once");
    let mut lost = 0;
    for round in 0..2000 {
        let damaged = disk.duplicate();
        damaged.tamper(File::Journal, |bytes| {
            for _ in 0..=rng.below(8) {
                let sector = rng.below(bytes.len() / SECTOR);
                let random = rng.next().to_le_bytes();
                let content = [[0; SECTOR], [random[0]; SECTOR]][rng.below(2)];
                match rng.below(3) {
                    0 => bytes[sector * SECTOR + rng.below(SECTOR)] ^= random[1] | 1,
                    1 => bytes[sector * SECTOR..][..SECTOR].copy_from_slice(&content),
                    // A misdirected write: one block lands on another.
                    _ => {
                        let (from, to) = (rng.below(bytes.len() / 4096), sector / 8);
                        bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
                    }
                }
            }
        });
        lost += usize::from(!check_settled(&damaged, &state, &format!("round {round}")).0);
    }
    assert!(lost > 20, "the faults were too kind: {lost}");
}

/// What lies around lost blocks is salvaged, and the quarantine name is in the list.
#[test]
fn both_copies_lost_in_the_middle() {
    let (disk, state) = healthy();
    disk.tamper(File::Journal, |bytes| {
        for copy in 0..2 {
            let offset = usize::try_from(SMALL.geometry.offset(0, copy)).unwrap();
            bytes[offset..offset + 4096].fill(0xee);
        }
    });
    let (journal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.damage, Some(ras_store_format::Fault::Gap { first: 0 }));
    // Block 0 held the first word on page 1, block 1 the second: the list is whole all the same.
    assert_eq!(journal.state().pages, state.pages);
    let quarantined = &journal.state().damage[0].quarantined;
    assert!(disk.quarantine().contains_key(quarantined), "{quarantined}");
    assert_eq!(recovery.quarantined, Some(dir().join("quarantine").join(quarantined)));

    // Damage stays in the list until a person accepts it.
    let (mut journal, _) = open(&disk).unwrap();
    assert!(journal.state().is_damaged());
    let accepted = Entry::DamageAccepted {
        time: time(0),
        who: "operator".into(),
        note: "compared with the hardware log".into(),
    };
    journal.append(&[accepted]).unwrap();
    assert!(!open(&disk).unwrap().0.state().is_damaged());
}

/// Both copies of the last commit look like a commit that never finished; the witness knows better.
#[test]
fn both_copies_of_the_last_commit_lost() {
    let (disk, _) = healthy();
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[page(99, RetireState::Pending)]).unwrap();
    let bytes = disk.contents(File::Journal).unwrap();
    let last = (0..).find(|&number| {
        let offset = usize::try_from(SMALL.geometry.offset(number, 0)).unwrap();
        bytes[offset..offset + 4096].iter().all(|&byte| byte == 0)
    });
    let last = last.unwrap() - 1;
    disk.tamper(File::Journal, |bytes| {
        for copy in 0..2 {
            let offset = usize::try_from(SMALL.geometry.offset(last, copy)).unwrap();
            bytes[offset..offset + 4096].fill(0);
        }
    });
    let (_, recovery) = open(&disk).unwrap();
    let expected = ras_store_format::Fault::Forgotten { acknowledged: last + 1, found: last };
    assert_eq!(recovery.damage, Some(expected));
}

#[test]
fn a_missing_journal_is_damage() {
    let (disk, _) = healthy();
    disk.remove(File::Journal);
    let (journal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.damage, Some(ras_store_format::Fault::Missing));
    assert!(!recovery.created);
    assert!(journal.state().is_damaged());
}

/// A journal from before the last compaction, put back by a restored backup.
#[test]
fn an_old_journal_is_damage() {
    let (disk, _) = healthy();
    let old = disk.contents(File::Journal).unwrap();
    let (mut journal, _) = open(&disk).unwrap();
    for entries in script() {
        journal.append(&entries).unwrap();
    }
    disk.tamper(File::Journal, |bytes| *bytes = old);
    let (_, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.damage, Some(ras_store_format::Fault::Outdated));
}

#[test]
fn garbage_of_any_size_is_damage() {
    let mut rng = Rng::seeded("garbage_of_any_size_is_damage");
    for size in [0, 1, 511, 4095, 4096, 4097, 8192, 40_960, 1 << 20] {
        let (disk, state) = healthy();
        disk.tamper(File::Journal, |bytes| {
            *bytes = (0..size).map(|_| rng.next().to_le_bytes()[0]).collect();
        });
        assert!(!check_settled(&disk, &state, &format!("{size} bytes of garbage")).0);
    }
    let (disk, _) = healthy();
    disk.tamper(File::Journal, |bytes| bytes.resize((1 << 20) + 1, 0));
    assert!(matches!(open(&disk), Err(StoreError::Corrupt { .. })));
}
