//! Calls fail: an error is loud, what was acknowledged stays, and the store says when it can go on.

use std::io::ErrorKind;

use super::*;
use crate::backend::simulated::{Plan, Rng};

#[test]
fn a_failed_sync_poisons_until_reopened() {
    let disk = Simulated::empty("poison");
    let (mut journal, _) = open(&disk).unwrap();
    disk.plan(Plan::Error { at: 2, kind: ErrorKind::Other });
    let error = journal.append(&[page(1, RetireState::Pending)]).unwrap_err();
    assert!(matches!(error, StoreError::Io { step: "sync the journal", .. }), "{error}");
    let error = journal.append(&[page(2, RetireState::Pending)]).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned { .. }), "{error}");
    assert!(journal.state().pages.is_empty());

    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[page(2, RetireState::Pending)]).unwrap();
}

/// A disk that is full from some call on: what has room is remembered, what has not is an error, and
/// when there is room again the same handle goes on.
#[test]
fn a_full_disk_is_loud_and_passes() {
    for from in 0..12 {
        let disk = Simulated::empty("full");
        let (mut journal, _) = open(&disk).unwrap();
        disk.plan(Plan::Full { from });
        let mut acknowledged = State::default();
        let mut refused = 0;
        for entries in script() {
            match journal.append(&entries) {
                Ok(()) => acknowledged = applied(&acknowledged, &entries),
                Err(StoreError::Io { source, .. }) => {
                    assert_eq!(source.kind(), ErrorKind::StorageFull);
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(refused > 0 || from > 2, "nothing was refused from call {from}");
        // The list can be opened on the full disk.
        let (reopened, recovery) = open(&disk.duplicate()).unwrap();
        assert_eq!(*reopened.state(), acknowledged);
        assert!(recovery.is_clean(), "{recovery}");

        disk.plan(Plan::Nothing);
        for entries in script() {
            journal.append(&entries).unwrap();
            acknowledged = applied(&acknowledged, &entries);
        }
        assert_eq!(*open(&disk).unwrap().0.state(), acknowledged);
    }
}

/// Two commits of the same shape at the same place, the first refused: no crash may leave a blend.
#[test]
fn a_refused_commit_is_never_blended_with_the_next() {
    let commit = |first: u64| -> Vec<Entry> {
        (first..first + 50).map(|number| page(number, RetireState::Pending)).collect()
    };
    let (refused, next) = (commit(100), commit(200));
    let mut rng = Rng::seeded("blend");
    for round in 0..200 {
        let disk = Simulated::empty("blend");
        let (mut journal, _) = open(&disk).unwrap();
        // The second copy is refused; the first was written.
        disk.plan(Plan::Error { at: 1, kind: ErrorKind::StorageFull });
        journal.append(&refused).unwrap_err();
        // The next one gets as far as its sync: the two writes before it are call 0 and 1.
        disk.plan(Plan::PowerLoss { at: 2 });
        journal.append(&next).unwrap_err();
        // Block by block: a blend of sectors would fail its checksum anyway.
        let (blocks, mut sector) = (rng.next(), 0);
        let after = disk.after_power_loss(&mut rng, |_| {
            sector += 1;
            blocks >> ((sector - 1) / 8) & 1 == 1
        });
        let (journal, recovery) = open(&after).unwrap();
        let empty = State::default();
        let allowed = [applied(&empty, &refused), applied(&empty, &next), empty];
        assert!(allowed.contains(journal.state()), "round {round}: a blend, {recovery}");
        assert_eq!(recovery.damage, None, "round {round}");
    }
}
