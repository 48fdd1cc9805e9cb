//! Calls fail: an error is loud, what was acknowledged stays, and the store says when it can go on.

use std::io::ErrorKind;

use super::*;
use crate::backend::simulated::{Plan, Rng};

/// The script with one failing call, going on where the store allows it. Returns what was
/// acknowledged and what may be there beside it.
fn run(disk: &Simulated) -> (State, Vec<State>) {
    let mut acknowledged = State::default();
    let mut possible = Vec::new();
    let opened = open(disk).or_else(|_| open(disk));
    let (mut journal, _) = opened.unwrap();
    for entries in script() {
        let result = journal.append(&entries);
        match result {
            Ok(()) => {
                acknowledged = applied(&acknowledged, &entries);
                possible.clear();
                assert_eq!(*journal.state(), acknowledged);
            }
            Err(StoreError::Poisoned { .. }) => {
                // Only a new open tells; here it is the one at the end.
                break;
            }
            Err(StoreError::Io { .. }) => {
                assert_eq!(*journal.state(), acknowledged, "a failed append was applied");
                possible.push(applied(&acknowledged, &entries));
            }
            Err(other) => panic!("{other}"),
        }
    }
    (acknowledged, possible)
}

fn every_call_fails_once(kind: ErrorKind) {
    let mut rng = Rng::seeded("every_call_fails_once");
    let whole = Simulated::empty("whole");
    run(&whole);
    let calls = whole.calls();
    for at in 0..calls {
        for round in 0..20 {
            let disk = Simulated::empty(&format!("{kind:?} {at} {round}"));
            disk.plan(Plan::Error { at, kind });
            let (acknowledged, possible) = run(&disk);
            let context = format!("{kind:?} at call {at}, round {round}");

            let check = |disk: &Simulated, context: &str| {
                let (journal, recovery) = open(disk).unwrap();
                assert_eq!(recovery.damage, None, "{context}");
                let state = journal.state();
                assert!(*state == acknowledged || possible.contains(state), "{context}");
                state.clone()
            };
            // Power goes right away, or after the store was opened again from the page cache. What
            // that open showed has to be on the medium, although the failed sync had dropped it.
            check(&disk.after_power_loss(&mut rng, |rng| rng.below(2) == 0), &context);
            disk.plan(Plan::Nothing);
            let shown = check(&disk, &context);
            let after = disk.after_power_loss(&mut rng, |rng| rng.below(2) == 0);
            let durable = *open(&after).unwrap().0.state() == shown;
            assert!(durable, "{context}: not durable");
        }
    }
}

#[test]
fn every_call_fails_once_with_eio() {
    every_call_fails_once(ErrorKind::Other);
}

#[test]
fn every_call_fails_once_with_enospc() {
    every_call_fails_once(ErrorKind::StorageFull);
}

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
