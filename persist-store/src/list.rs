//! What every backend is: a list that is loaded whole and grows by commits.
//!
//! ```text
//!  FileList      a journal in a directory: everything, see FORMAT.md        [Store]
//!  MemoryList    nothing survives the process: tests, hosts without a disk
//!  EfiVarList    two EFI variables: pages, when the disk is lost           [ImageList]
//!  ErstList      ACPI's error records: the same, and the kernel's own list  [ImageList, Crossing]
//! ```
//! One suite runs over all of them (`tests/suite.rs`). Its first chapter is what [`PageList`] says; in the
//! others the medium below is simulated and loses power at every call, which memory has no part in.

use std::path::{Path, PathBuf};

use crate::{Entry, Recovery, State, Store, StoreError};

/// A retired-page list on some medium.
///
/// A commit is acknowledged when it returns `Ok`: from then on every [`Self::load`], also by another
/// process after power loss, gives a state with it. One that fails, or is cut off, is found whole or
/// not at all.
pub trait PageList {
    /// Reads the list, mends what has a good second copy, and makes sure that what is returned is
    /// durable. The caller reports what was found. Called before the first commit, and again after a
    /// [`StoreError::Poisoned`].
    ///
    /// # Errors
    /// The medium can't be read or mended, or is in use, or holds a newer format. Never because it is
    /// damaged: that is a finding, and the list holds what could be read.
    fn load(&mut self) -> Result<(State, Recovery), StoreError>;

    /// Remembers entries, all or none, in order. See [`State::apply`] for what each means.
    ///
    /// # Errors
    /// None is acknowledged. [`StoreError::Full`] where they do not fit, now or ever: the list as it
    /// was is still there. [`StoreError::Poisoned`] where only a new [`Self::load`] can tell what is
    /// on the medium; also before the first one.
    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError>;

    /// How much fits.
    fn capacity(&self) -> Capacity;

    /// What this medium keeps of a state: what [`Self::load`] gives after commits that led to it. A
    /// small medium keeps pages and no diagnoses; pages themselves no medium leaves out.
    fn kept(&self, state: &State) -> State;
}

/// How much a list can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Bytes of the medium that the list may take.
    pub bytes: u64,
    /// Pages that fit in any case, whatever is said of each.
    pub pages: u64,
}

/// The default: a [`Store`] in a directory. Keeps everything.
pub struct FileList {
    dir: PathBuf,
    store: Option<Store>,
}

impl FileList {
    /// Names the directory and touches nothing; [`PageList::load`] makes the store where there is none.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), store: None }
    }
}

impl PageList for FileList {
    fn load(&mut self) -> Result<(State, Recovery), StoreError> {
        // Dropped first: it holds the lock that the new one needs.
        self.store = None;
        let (store, recovery) = Store::open(&self.dir)?;
        let state = store.state().clone();
        self.store = Some(store);
        Ok((state, recovery))
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        match &mut self.store {
            Some(store) => store.append_all(entries),
            None => Err(StoreError::Poisoned { dir: self.dir.clone() }),
        }
    }

    fn capacity(&self) -> Capacity {
        Store::CAPACITY
    }

    fn kept(&self, state: &State) -> State {
        state.clone()
    }
}

/// A list that lives as long as its value: every load of the same one gives what was committed.
#[derive(Debug, Default)]
pub struct MemoryList {
    state: State,
    loaded: bool,
}

/// What errors call its place.
const MEMORY: &str = "memory";

impl PageList for MemoryList {
    fn load(&mut self) -> Result<(State, Recovery), StoreError> {
        let created = !self.loaded;
        self.loaded = true;
        Ok((self.state.clone(), Recovery { created, ..Recovery::default() }))
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        if !self.loaded {
            return Err(StoreError::Poisoned { dir: MEMORY.into() });
        }
        let before = self.state.pages.len() as u64;
        let mut state = self.state.clone();
        entries.iter().cloned().for_each(|entry| state.apply(entry));
        // Bounded as the default is. What makes a full list no longer is always taken.
        let Capacity { bytes, pages } = self.capacity();
        let after = state.pages.len() as u64;
        if after > pages.max(before) {
            return Err(StoreError::Full { dir: MEMORY.into(), size_max: bytes });
        }
        self.state = state;
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        Store::CAPACITY
    }

    fn kept(&self, state: &State) -> State {
        state.clone()
    }
}
