//! The list on a second medium (`store.mirror`), for the day its disk is lost or replaced.
//!
//! ```text
//!  start    medium --load--> what the list lacks --Ledger::bring_back--> list
//!  change   list --Mirror::follow--> medium              on the followers' thread
//! ```
//! **Invariant:** the medium is not written before everything in it is on the list: until it was read, and
//! what only it knew is durable, it may be all there is. Whatever is wrong with it is said, and keeps
//! nothing from starting.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use persist_store::efivarfs::Efivarfs;
use persist_store::{Boot, EfiVarList, ErstDevice, ErstList, Mirror, Recovery, State, StoreError};
use rasd_api::MirrorStatus;

use crate::config::{Config, Medium};
use crate::followers::Follower;
use crate::guests::chain;
use crate::kill_point::{KillPoint, Step};
use crate::pace::Pace;
use crate::shared::Shared;
use crate::source::wall_clock;

/// Keeps the mirror in step with the list.
pub struct Mirroring {
    list: Box<dyn Mirror + Send>,
    place: &'static str,
    /// A directory that has to have something in it.
    mounted: Option<PathBuf>,
    /// Whether everything in it is on the list.
    is_read: bool,
    /// Both copies were lost, and nothing was written since.
    is_lost: bool,
    pace: Pace,
    status: MirrorStatus,
    kill: KillPoint,
}

impl Mirroring {
    /// The mirror that the configuration names, if it does.
    ///
    /// # Errors
    /// The kernel does not say which boot this is, so that wear can't be bounded.
    pub fn new(config: &Config, kill: KillPoint) -> io::Result<Option<Self>> {
        let Some(medium) = config.store.mirror else { return Ok(None) };
        let boot = Boot::current()?;
        let (place, mounted, list): (_, _, Box<dyn Mirror + Send>) = match medium {
            Medium::EfiVariable => {
                let dir = config.efivars();
                let list = EfiVarList::in_variables(Efivarfs::new(&dir), boot);
                ("EFI variables", Some(dir), Box::new(list))
            }
            Medium::Erst => {
                let device = ErstDevice::new(&config.paths.dev.join("erst_dbg"));
                ("error records", None, Box::new(ErstList::new(device, boot)))
            }
        };
        let [settle, pause] = [config.store.mirror_settle_s, config.store.mirror_pause_s];
        let [settle, pause] = [settle, pause].map(Duration::from_secs);
        Ok(Some(Self {
            list,
            place,
            mounted,
            is_read: false,
            is_lost: false,
            pace: Pace::new(settle, pause, Instant::now()),
            status: MirrorStatus::default(),
            kill,
        }))
    }

    /// Reads the mirror, and gives it and its name to the list, which takes what only the mirror has: see
    /// [`Ledger::bring_back`](crate::ledger::Ledger::bring_back). Where that fails it is said, and tried
    /// again before the mirror is written for the first time.
    pub fn bring_back(&mut self, take: impl FnOnce(&State, &str) -> Result<u64, StoreError>) {
        let loaded = self.check_mount().and_then(|()| self.list.load());
        let outcome = loaded.and_then(|(state, recovery)| {
            self.heed(&recovery);
            take(&state, self.place)
        });
        match outcome {
            Ok(back) => {
                self.is_read = true;
                self.status.brought_back += back;
                if back > 0 {
                    let place = self.place;
                    tracing::error!(back, place, "THE LIST HAD LOST ENTRIES: they are back");
                }
            }
            Err(error) => self.fail(&error, "THE MIRROR OF THE LIST CAN'T BE READ"),
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> MirrorStatus {
        let (written_bytes, budget_bytes) = self.list.wear();
        MirrorStatus { written_bytes, budget_bytes, ..self.status.clone() }
    }

    /// Where efivarfs is not mounted yet, there are no variables to be seen, not ours either: that is no
    /// empty mirror. Firmware always has some of its own.
    fn check_mount(&self) -> Result<(), StoreError> {
        let Some(dir) = &self.mounted else { return Ok(()) };
        let first = fs::read_dir(dir).and_then(|mut entries| match entries.next() {
            Some(entry) => entry.map(drop),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "there are none: efivarfs is not mounted, or the machine has no UEFI",
            )),
        });
        let step = "find EFI variables";
        first.map_err(|source| StoreError::Io { step, dir: dir.clone(), source })
    }

    fn heed(&mut self, recovery: &Recovery) {
        let place = self.place;
        if recovery.created {
            tracing::info!(place, "there is no mirror of the list yet");
        } else if !recovery.is_clean() {
            self.status.damaged += 1;
            tracing::error!(place, %recovery, "THE MIRROR OF THE LIST WAS DAMAGED");
        }
        self.is_lost = recovery.damage.is_some();
    }

    fn follow(&mut self, shared: &Shared) {
        if !self.is_read {
            self.bring_back(|mirror, place| {
                shared.ledger().bring_back(mirror, place, wall_clock())
            });
            // Whatever came back walks like an order.
            shared.queue.nudge();
        }
        if self.is_read {
            self.write(shared);
        }
        shared.set_mirror(self.status());
    }

    fn write(&mut self, shared: &Shared) {
        // The ledger is free again before the medium is asked: that can take a second.
        let (list, changes) = {
            let ledger = shared.ledger();
            (ledger.to_mirror(), ledger.changes())
        };
        let entries = list.pages.len() + list.suspended.len();
        if self.is_lost && entries == 0 {
            // Writing an empty list over a lost one would look like one that is sound.
            self.pace.has(changes);
            self.tell("failing", "damaged, and there is nothing to put in its place".into());
            return;
        }
        let (before, _) = self.list.wear();
        self.kill.passed(Step::Mirroring);
        if let Err(error) = self.list.follow(&list) {
            self.fail(&error, "THE MIRROR OF THE LIST IS NOT UP TO DATE");
            return;
        }
        self.kill.passed(Step::Mirrored);
        self.pace.has(changes);
        self.is_lost = false;
        let (written, budget) = self.list.wear();
        if written != before {
            self.pace.wrote(Instant::now());
            let bytes = written.saturating_sub(before);
            tracing::info!(entries, bytes, place = self.place, "the mirror has the list");
        }
        let detail = format!(
            "{entries} entries in {}; {written} of {budget} bytes written in this boot",
            self.place
        );
        self.tell("in step", detail);
    }

    /// Tried again after the pause. The same news is said once.
    fn fail(&mut self, error: &StoreError, what: &str) {
        let error = chain(error);
        self.status.errors += 1;
        self.pace.failed(Instant::now());
        if self.status.detail != error {
            tracing::error!(error, place = self.place, "{what}");
        }
        self.tell("failing", error);
    }

    fn tell(&mut self, state: &str, detail: String) {
        self.status.state = state.into();
        self.status.detail = detail;
    }
}

impl Follower for Mirroring {
    fn name(&self) -> &'static str {
        "the mirror"
    }

    fn look(&mut self, shared: &Shared) {
        if self.pace.is_due(shared.ledger().changes(), Instant::now()) {
            self.follow(shared);
        }
    }

    fn finish(&mut self, shared: &Shared) {
        if self.pace.is_behind(shared.ledger().changes()) {
            self.follow(shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use persist_store::RecordStore;
    use ras_core::{Pfn, Policy, RetireState, Timestamp};

    use crate::ledger::Ledger;

    /// Firmware's error records, by their identifiers.
    #[derive(Clone, Default)]
    struct Records(Arc<Mutex<(Vec<Vec<u8>>, bool)>>);

    impl Records {
        fn set_broken(&self, broken: bool) {
            self.0.lock().unwrap().1 = broken;
        }

        fn count(&self) -> usize {
            self.0.lock().unwrap().0.len()
        }

        fn mirroring(&self) -> Mirroring {
            Mirroring {
                list: Box::new(ErstList::new(self.clone(), Boot([1; 16]))),
                place: "error records",
                mounted: None,
                is_read: false,
                is_lost: false,
                pace: Pace::new(Duration::ZERO, Duration::ZERO, Instant::now()),
                status: MirrorStatus::default(),
                kill: KillPoint::default(),
            }
        }
    }

    impl RecordStore for Records {
        fn place(&self) -> &Path {
            Path::new("/dev/erst_dbg")
        }

        fn records(&mut self) -> io::Result<Vec<Vec<u8>>> {
            let (records, broken) = &*self.0.lock().unwrap();
            if *broken { Err(io::ErrorKind::NotFound.into()) } else { Ok(records.clone()) }
        }

        fn write(&mut self, record: &[u8]) -> io::Result<()> {
            let (records, broken) = &mut *self.0.lock().unwrap();
            if *broken {
                return Err(io::ErrorKind::NotFound.into());
            }
            let id = |record: &[u8]| record[96..104].to_vec();
            records.retain(|known| id(known) != id(record));
            records.push(record.into());
            Ok(())
        }
    }

    fn ledger(dir: &Path) -> Ledger {
        Ledger::open(dir, &Policy::default()).unwrap()
    }

    #[test]
    fn error_records_are_not_written_before_they_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::default();
        records.set_broken(true);
        let mut mirror = records.mirroring();
        let mut first = ledger(&dir.path().join("first"));
        mirror.bring_back(|list, place| first.bring_back(list, place, wall_clock()));
        assert_eq!((mirror.status().state.as_str(), mirror.status().errors), ("failing", 1));
        let page = ras_core::order::retire(None, Pfn(7), Timestamp(7), "root", "x").unwrap();
        first.order(vec![page]).unwrap();
        let first = Shared::alone(first);
        mirror.finish(&first);
        assert_eq!((mirror.status().errors, records.count()), (2, 0));

        records.set_broken(false);
        mirror.look(&first);
        assert_eq!(mirror.status().state, "in step", "{:?}", mirror.status());
        assert_eq!(records.count(), 2, "both copies");
        let written = mirror.status().written_bytes;
        mirror.look(&first);
        mirror.finish(&first);
        assert!(written > 0 && mirror.status().written_bytes == written, "nothing changed");

        // Another disk: the page is on its list, and in line for the walk.
        let mut mirror = records.mirroring();
        let mut second = ledger(&dir.path().join("second"));
        mirror.bring_back(|list, place| second.bring_back(list, place, wall_clock()));
        assert_eq!(mirror.status().brought_back, 1);
        assert_eq!(second.page(Pfn(7)).unwrap().state, RetireState::Pending);
        assert_eq!(second.take_ordered(9).len(), 1);
        mirror.finish(&Shared::alone(second));
        assert_eq!(mirror.status().written_bytes, written, "it has that already");
    }
}
