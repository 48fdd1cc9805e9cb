//! The public face: a locked directory with a journal in it.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ras_core::Timestamp;
use ras_store_format::Geometry;
use ras_store_format::layout::{BLOCK_SIZE, COPIES, JOURNAL_SIZE_MAX};

use crate::backend::{Directory, Lock, LockError};
use crate::error::io_error;
use crate::journal::{Journal, Limits};
use crate::recovery::{self, Recovery};
use crate::{Capacity, Entry, State, StoreError};

/// Times [`read`] looks when a writer may be at work, and the pause before each but the first.
pub(crate) const LOOKS: u32 = 10;
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// A store open for writing. There is one per directory; dropping it lets the next writer in.
pub struct Store {
    journal: Journal<Directory>,
    _lock: Lock,
}

impl Store {
    /// What fits into the largest journal, were every entry as large as the format allows: each takes
    /// a block, in two copies.
    pub const CAPACITY: Capacity = Capacity {
        bytes: JOURNAL_SIZE_MAX,
        pages: JOURNAL_SIZE_MAX / (COPIES * BLOCK_SIZE as u64) - Geometry::DEFAULT.segment_blocks(),
    };

    /// Opens the store in `dir` for writing, creating it where there is none.
    ///
    /// Takes the lock, reads the journal and brings it back to a state in which every entry has two
    /// good copies. What was found on the way is in [`Recovery`]; the caller reports it. Fails with
    /// [`StoreError::Locked`], [`StoreError::UnsupportedVersion`], [`StoreError::Corrupt`] or
    /// [`StoreError::Io`]; what is on the medium is then still there.
    pub fn open(dir: &Path) -> Result<(Self, Recovery), StoreError> {
        Directory::create_all(dir).map_err(io_error(dir, "create the directory"))?;
        let lock = Lock::take(dir).map_err(|error| match error {
            LockError::Held { pid } => StoreError::Locked { dir: dir.into(), pid },
            LockError::Io(source) => io_error(dir, "take the lock")(source),
        })?;
        let (journal, recovery) = recovery::open(Directory::new(dir), dir, Limits::DEFAULT, now())?;
        Ok((Self { journal, _lock: lock }, recovery))
    }

    /// Remembers one entry: it is durable when this returns `Ok`. See [`Self::append_all`].
    pub fn append(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.append_all(&[entry])
    }

    /// Remembers entries with one sync: after a crash all of them are there or none.
    ///
    /// After `Err` none is acknowledged. A full disk leaves the store usable; an error that leaves
    /// open what is durable does not, see [`StoreError::Poisoned`].
    pub fn append_all(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        self.journal.append(entries)
    }

    /// Rewrites the journal as short as it can be. Happens by itself where it pays.
    ///
    /// Fails as [`Self::append_all`] does; the list is then as it was.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        self.journal.compact()
    }

    /// What is remembered. Texts are as they lie on disk, cut to the format's limits.
    #[must_use]
    pub fn state(&self) -> &State {
        self.journal.state()
    }
}

/// Reads the store in `dir` without lock and without writing, also while a writer is at work.
///
/// Nothing is mended: damage is reported in [`Recovery`] and in [`State::damage`], and the state
/// holds all that could be read. Fails with [`StoreError::NotFound`] where there is no store.
pub fn read(dir: &Path) -> Result<(State, Recovery), StoreError> {
    // A commit under way looks like a torn one, but not for long: what two looks agree on is real.
    let look = || recovery::inspect(&Directory::new(dir), dir, now());
    let (mut state, mut recovery) = look()?;
    for _ in 1..LOOKS {
        if recovery.is_clean() {
            return Ok((state, recovery));
        }
        thread::sleep(PAUSE);
        let before = recovery;
        (state, recovery) = look()?;
        if recovery == before {
            return Ok((state, recovery));
        }
    }
    // A writer never stopped writing. Its last commit is not a finding.
    (recovery.torn_tail, recovery.damaged_copies) = (None, 0);
    Ok((state, recovery))
}

pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}
