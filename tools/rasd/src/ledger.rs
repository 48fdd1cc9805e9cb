//! What rasd knows: the diagnosis' engines in memory and the list on disk, kept in step.
//!
//! The store may fail while the machine runs (a full disk, a dying one). Protection goes on then: what
//! could not be stored is kept here, shown as such, and stored as soon as that works again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use persist_store::{
    AuditKind, Change, ChangeKind, Entry, Present, State, Store, StoreError, Suspended,
    brought_back, reconcile,
};
use ras_core::{
    Diagnosis, ErrorRecord, Evacuation, Health, NodeState, Pfn, Policy, RetireState, RetiredPage,
    Timestamp, Verdict, analyze,
};
use rasd_api::{PageCounts, PageDetail, StoreStatus, Unretirement};

use crate::guests::chain;

/// Corrected errors that wait for a common sync. A crash forgets at most these; nobody was promised
/// that a single corrected error is remembered.
const OBSERVED_BATCH: usize = 256;

/// See the module.
pub struct Ledger {
    dir: PathBuf,
    policy: Policy,
    diagnosis: Diagnosis,
    /// `None` while a store that failed can't be opened again.
    store: Option<Store>,
    /// The list as it was when the store was lost.
    last_state: State,
    recovery: Vec<String>,
    /// There was no list when it was opened.
    is_new: bool,
    unsaved: Unsaved,
    failing: Option<String>,
    changes: u64,
    /// Pages a person put on the list that have not walked yet: `Pending` on disk, so that a restart
    /// takes them up.
    ordered: VecDeque<Pfn>,
}

/// What the store did not take yet. Newer than what it holds.
#[derive(Debug, Default)]
struct Unsaved {
    pages: BTreeMap<Pfn, RetiredPage>,
    node: Option<NodeState>,
    observed: Vec<Entry>,
}

impl Ledger {
    /// Opens the store and takes up where the last process stopped.
    ///
    /// # Errors
    /// The store can't be opened; somebody else has it, or it is read-only.
    pub fn open(dir: &Path, policy: &Policy) -> Result<Self, StoreError> {
        let (store, recovery) = Store::open(dir)?;
        let is_new = recovery.created;
        let recovery = if recovery.is_clean() { vec![] } else { vec![recovery.to_string()] };
        let state = store.state();
        let diagnosis = diagnose(policy, state);
        Ok(Self {
            dir: dir.to_owned(),
            policy: policy.clone(),
            diagnosis,
            store: Some(store),
            last_state: State::default(),
            recovery,
            is_new,
            unsaved: Unsaved::default(),
            failing: None,
            changes: 0,
            ordered: VecDeque::new(),
        })
    }

    /// Holds the list beside the machine as it is: entries of modules that went, came back or moved, and
    /// of another map of memory, change what they are worth. Each change is durable, audited and logged.
    ///
    /// # Errors
    /// The store did not take it; the list is as it was, and no page too few is kept out of use.
    pub fn reconcile(&mut self, present: &Present<'_>, now: Timestamp) -> Result<(), StoreError> {
        // What waits is newer than what the rules would judge.
        self.flush();
        let entries = reconcile(self.state(), present, now);
        if entries.is_empty() {
            return Ok(());
        }
        self.append(&entries)?;
        self.changes += 1;
        for entry in &entries {
            if let Entry::Changed(Change { pfn, since, kind, logged: true, who, note, .. }) = entry
            {
                let since = since.secs();
                tracing::warn!(%pfn, since, ?kind, rule = who, note, "the list follows the machine");
            }
        }
        self.diagnosis = diagnose(&self.policy, self.state());
        Ok(())
    }

    /// Gives the list back what only its mirror in `place` remembers, durably, each entry audited and logged;
    /// pages get in line for the walk, which has nothing left to do where they are out of use by then.
    /// Returns the number of entries.
    ///
    /// # Errors
    /// The store did not take them: nothing came back.
    pub fn bring_back(
        &mut self,
        mirror: &State,
        place: &str,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut entries = brought_back(self.state(), mirror, place, now);
        // Where the whole list is gone, nobody else remembers that it had been damaged.
        if self.is_new {
            entries.extend(mirror.damage.iter().cloned().map(Entry::Damaged));
        }
        if entries.is_empty() {
            return Ok(0);
        }
        self.append(&entries)?;
        self.is_new = false;
        self.changes += 1;
        self.diagnosis = diagnose(&self.policy, self.state());
        let mut back = 0;
        for entry in &entries {
            let Entry::Changed(Change { pfn, since, kind, logged: true, note, .. }) = entry else {
                continue;
            };
            back += 1;
            if *kind == ChangeKind::Reinstated {
                self.ordered.push_back(*pfn);
            }
            tracing::warn!(%pfn, since = since.secs(), note, "AN ENTRY THAT THE LIST LACKED");
        }
        Ok(back)
    }

    /// The list as a mirror is to have it: what could not be stored yet needs one most.
    #[must_use]
    pub fn to_mirror(&self) -> State {
        let State { pages, suspended, damage, .. } = self.state();
        let mut list = State::default();
        (list.pages, list.suspended) = (pages.clone(), suspended.clone());
        list.damage.clone_from(damage);
        self.unsaved.pages.values().cloned().map(Entry::from).for_each(|page| list.apply(page));
        list
    }

    /// Grows whenever a page came, went or changed, and when damage was accepted.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Joins a record to what is known; see [`ras_core::analyze`]. A corrected error that only counts
    /// is put down to be stored.
    pub fn analyze(&mut self, record: &ErrorRecord, now: Timestamp) -> Verdict {
        let verdict = analyze(&mut self.diagnosis, &self.policy, record, now);
        if let Verdict::Counted { pfn, limit, .. } = verdict {
            let time = record.time.unwrap_or(now);
            // One record may stand for several errors; an observation is known by its time, so they
            // are told apart by a nanosecond. More than the limit can't change any verdict.
            for nth in 0..u64::from(record.count.min(limit)) {
                let time = Timestamp(time.0.saturating_add(nth));
                self.unsaved.observed.push(Entry::Observed { pfn, time });
            }
            if self.unsaved.observed.len() >= OBSERVED_BATCH {
                self.flush();
            }
        }
        verdict
    }

    /// Stores what happened, durably and all at once, together with everything that still waits.
    ///
    /// Returns whether it is durable. If not, it is remembered here and tried again.
    pub fn remember(&mut self, node: Option<NodeState>, pages: Vec<RetiredPage>) -> bool {
        self.changes += u64::from(!pages.is_empty());
        self.unsaved.node = node.or(self.unsaved.node.take());
        self.unsaved.pages.extend(pages.into_iter().map(|page| (page.pfn, page)));
        self.flush()
    }

    /// Stores what still waits, if anything does. Returns whether all of it is durable.
    pub fn flush(&mut self) -> bool {
        let mut entries: Vec<Entry> = self.unsaved.node.iter().cloned().map(Entry::Node).collect();
        entries.extend(self.unsaved.pages.values().cloned().map(Entry::from));
        // Observations go first in time: a page entry makes the observations of its page moot.
        entries.splice(0..0, self.unsaved.observed.iter().cloned());
        if entries.is_empty() {
            return true;
        }
        match self.append(&entries) {
            Ok(()) => {
                self.unsaved = Unsaved::default();
                if self.failing.take().is_some() {
                    tracing::info!("the store takes entries again; nothing is missing");
                }
                true
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    error,
                    "THE STORE FAILS: bad pages would be forgotten by a restart"
                );
                self.failing = Some(error);
                // Pages and health are few and precious; corrected errors are neither.
                self.unsaved.observed.clear();
                false
            }
        }
    }

    /// A person accepts the list as it is after damage.
    ///
    /// # Errors
    /// The store did not take it.
    pub fn accept_damage(
        &mut self,
        time: Timestamp,
        who: String,
        note: String,
    ) -> Result<(), StoreError> {
        self.append(&[Entry::DamageAccepted { time, who, note }])?;
        self.changes += 1;
        Ok(())
    }

    /// Puts pages on the list that nobody's errors condemned, durably, and in line for the walk.
    ///
    /// # Errors
    /// The store did not take them: none is on the list.
    pub fn order(&mut self, pages: Vec<RetiredPage>) -> Result<(), StoreError> {
        let entries: Vec<Entry> = pages.iter().cloned().map(Entry::from).collect();
        self.append(&entries)?;
        self.changes += 1;
        for page in pages {
            self.unsaved.pages.remove(&page.pfn);
            self.diagnosis.mark_retired(page.pfn);
            self.ordered.push_back(page.pfn);
        }
        Ok(())
    }

    /// The next at most `count` ordered pages, out of line.
    pub fn take_ordered(&mut self, count: usize) -> Vec<RetiredPage> {
        let next: Vec<Pfn> = self.ordered.drain(..count.min(self.ordered.len())).collect();
        // A page that a person gave back meanwhile, or whose own error made it walk, is done with.
        let pending = |page: &&RetiredPage| page.state == RetireState::Pending;
        next.into_iter().filter_map(|pfn| self.page(pfn).filter(pending).cloned()).collect()
    }

    /// Takes a page off the list for good.
    ///
    /// # Errors
    /// The store did not take it: the page stays.
    pub fn unretire(
        &mut self,
        pfn: Pfn,
        time: Timestamp,
        who: String,
        note: String,
    ) -> Result<(), StoreError> {
        self.append(&[Entry::Unretired { pfn, time, who, note }])?;
        self.changes += 1;
        self.unsaved.pages.remove(&pfn);
        self.diagnosis.mark_unretired(pfn);
        Ok(())
    }

    /// A page as it is now.
    #[must_use]
    pub fn page(&self, pfn: Pfn) -> Option<&RetiredPage> {
        self.unsaved.pages.get(&pfn).or_else(|| self.state().pages.get(&pfn).map(|page| &**page))
    }

    /// At most `count` pages above `after`, ascending.
    #[must_use]
    pub fn pages(&self, after: Option<Pfn>, count: usize) -> Vec<RetiredPage> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let stored = self.state().pages.range(range).map(|(pfn, page)| (pfn, &**page)).take(count);
        let waiting = self.unsaved.pages.range(range).take(count);
        // The later word on a page wins.
        let merged: BTreeMap<Pfn, RetiredPage> =
            stored.chain(waiting).map(|(pfn, page)| (*pfn, page.clone())).collect();
        merged.into_values().take(count).collect()
    }

    /// Number of pages by state.
    #[must_use]
    pub fn page_counts(&self) -> PageCounts {
        let mut counts = PageCounts::default();
        let waiting = &self.unsaved.pages;
        let stored = self.state().active_pages().filter(|page| !waiting.contains_key(&page.pfn));
        for page in stored.chain(waiting.values()).chain(self.suspended()) {
            counts.add(page.state);
        }
        counts
    }

    /// Entries that keep no page out of use.
    pub fn suspended(&self) -> impl Iterator<Item = &RetiredPage> {
        self.state().suspended.values().map(|Suspended { page, .. }| page)
    }

    /// A page with its history; `None` if it has none.
    #[must_use]
    pub fn page_detail(&self, pfn: Pfn) -> Option<PageDetail> {
        let unretired: Vec<Unretirement> = self
            .state()
            .audit
            .iter()
            .filter(|event| event.what == AuditKind::Unretired(pfn))
            .map(|event| Unretirement {
                time: event.time,
                who: event.who.clone(),
                note: event.note.clone(),
            })
            .collect();
        let observed: Vec<Timestamp> = self.state().observed.of_page(pfn).collect();
        let page = self.page(pfn).cloned();
        let known = page.is_some() || !unretired.is_empty() || !observed.is_empty();
        known.then_some(PageDetail { page, unretired, observed })
    }

    /// What the node is worth; `None` where nothing was ever decided.
    #[must_use]
    pub fn node(&self) -> Option<&NodeState> {
        self.unsaved.node.as_ref().or(self.state().node.as_ref())
    }

    /// Health as decided last.
    #[must_use]
    pub fn health(&self) -> Health {
        self.node().map(|node| node.health).unwrap_or_default()
    }

    /// The evacuation as decided last.
    #[must_use]
    pub fn evacuation(&self) -> Evacuation {
        self.node().map_or(Evacuation::None, |node| node.evacuation.clone())
    }

    /// How the store is, for `rasctl status`.
    #[must_use]
    pub fn store_status(&self) -> StoreStatus {
        StoreStatus {
            dir: self.dir.display().to_string(),
            recovery: self.recovery.clone(),
            damage: self.state().damage.iter().map(|damage| damage.detail.clone()).collect(),
            unsaved: (self.unsaved.pages.len() + usize::from(self.unsaved.node.is_some())) as u64,
            failing: self.failing.clone(),
        }
    }

    fn state(&self) -> &State {
        self.store.as_ref().map_or(&self.last_state, Store::state)
    }

    /// Appends, opening the store again once if it demands that.
    fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        if let Some(store) = &mut self.store {
            match store.append_all(entries) {
                Err(StoreError::Poisoned { .. }) => {}
                decided => return decided,
            }
            // Dropped first: it holds the lock that the new one needs.
            self.last_state = store.state().clone();
            self.store = None;
        }
        let (mut store, recovery) = Store::open(&self.dir)?;
        tracing::warn!(%recovery, "the store was opened again");
        // An entry may be there twice then; taking one in twice changes nothing.
        let result = store.append_all(entries);
        self.store = Some(store);
        result
    }
}

/// The diagnosis' engines as the list left them.
fn diagnose(policy: &Policy, state: &State) -> Diagnosis {
    let mut diagnosis = Diagnosis::restore(policy, state.active_pages(), state.observed.iter());
    for page in state.suspended.values().map(|suspended| &suspended.page) {
        if page.state == RetireState::Probation {
            diagnosis.mark_probation(page.pfn);
        }
    }
    diagnosis
}
