//! The crash suite over the journal in a directory, and what only that can show.

use std::io::ErrorKind;

use super::suite::{self, Medium};
use super::*;
use crate::backend::File;
use crate::backend::simulated::{Fate, Plan, Rng, SECTOR, Unsynced};
use crate::{Capacity, PageList, Store};

/// A [`crate::FileList`] on a simulated directory, with small limits.
pub(crate) struct JournalList {
    disk: Simulated,
    journal: Option<Journal<Simulated>>,
}

impl PageList for JournalList {
    fn load(&mut self) -> Result<(State, Recovery), StoreError> {
        self.journal = None;
        let (journal, recovery) = open(&self.disk)?;
        let state = journal.state().clone();
        self.journal = Some(journal);
        Ok((state, recovery))
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        match &mut self.journal {
            Some(journal) => {
                let before = journal.state().clone();
                let result = journal.append(entries);
                match &result {
                    Ok(()) => assert_eq!(*journal.state(), applied(&before, entries)),
                    Err(_) => assert_eq!(*journal.state(), before, "a failed append was applied"),
                }
                result
            }
            None => Err(StoreError::Poisoned { dir: dir().into() }),
        }
    }

    fn capacity(&self) -> Capacity {
        Store::CAPACITY
    }

    fn kept(&self, state: &State) -> State {
        state.clone()
    }
}

const FILES: [File; 2] = [File::Journal, File::Witness];

impl Medium for Simulated {
    type List = JournalList;

    fn empty(seed: &str) -> Self {
        Self::empty(seed)
    }

    fn list(&self) -> JournalList {
        JournalList { disk: self.clone(), journal: None }
    }

    fn duplicate(&self) -> Self {
        self.duplicate()
    }

    fn plan(&self, plan: Plan) {
        self.plan(plan);
    }

    fn unsynced(&self) -> Unsynced {
        self.unsynced()
    }

    fn with_survivors(&self, changes: usize, fate: &mut dyn FnMut(usize) -> Fate) -> Self {
        self.with_survivors(changes, fate)
    }

    fn after_process_death(&self) -> Self {
        self.after_process_death()
    }

    fn sectors(&self) -> usize {
        let sizes = FILES.map(|file| self.contents(file).map_or(0, |bytes| bytes.len()));
        sizes.iter().map(|size| size.div_ceil(SECTOR)).sum()
    }

    fn spoil(&self, mut sector: usize, change: &mut dyn FnMut(&mut [u8])) {
        for file in FILES {
            let size = self.contents(file).map_or(0, |bytes| bytes.len());
            let sectors = size.div_ceil(SECTOR);
            if sector < sectors {
                let range = sector * SECTOR..size.min((sector + 1) * SECTOR);
                return self.tamper(file, |bytes| change(&mut bytes[range]));
            }
            sector -= sectors;
        }
    }
}

#[test]
fn power_loss_at_every_call() {
    suite::power_loss_at_every_call::<Simulated>("journal", suite::points_wanted());
}

#[test]
fn every_call_fails_once_with_eio() {
    suite::every_call_fails_once::<Simulated>("journal", ErrorKind::Other);
}

#[test]
fn every_call_fails_once_with_enospc() {
    suite::every_call_fails_once::<Simulated>("journal", ErrorKind::StorageFull);
}

#[test]
fn every_sector_spoiled() {
    suite::every_sector_spoiled::<Simulated>("journal");
}

/// One block in two copies is sixteen sectors: all subsets of them.
#[test]
fn every_subset_of_one_commit() {
    let disk = Simulated::empty("every_subset_of_one_commit");
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[page(1, RetireState::Pending)]).unwrap();
    let acknowledged = journal.state().clone();

    // Two writes reach the cache; power goes in the sync.
    disk.plan(Plan::PowerLoss { at: 2 });
    let in_flight = vec![page(2, RetireState::Pending)];
    journal.append(&in_flight).unwrap_err();
    let finished = applied(&acknowledged, &in_flight);
    let step = if suite::points_wanted() > 100_000 { 1 } else { 7 };
    let mut rng = Rng::seeded("subsets");
    for subset in (0u32..1 << 16).step_by(step) {
        // The witness is unsynced too; it goes one way or the other with the first bit.
        let mut sector = 0;
        let after = disk.after_power_loss(&mut rng, |_| {
            sector += 1;
            subset & (1 << (sector % 16)) != 0
        });
        let (journal, recovery) = open(&after).unwrap();
        let state = journal.state();
        assert!(*state == acknowledged || *state == finished, "subset {subset:#x}: {recovery}");
        assert_eq!(recovery.damage, None, "subset {subset:#x}: a false alarm");
        assert!(open(&after).unwrap().1.is_clean(), "subset {subset:#x}");
    }
}
