//! The list itself: entries applied in order. Pure, idempotent, bounded.

use alloc::boxed::Box;
use alloc::collections::btree_map::Entry as MapEntry;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ras_core::{Dimm, NodeState, Pfn, RetireState, RetiredPage, Timestamp};

use crate::{Change, ChangeKind, Damage, Entry, Origin, Record, UnknownRecord};

/// Audit events kept; older ones leave the list (they stay in journals already set aside).
pub const AUDIT_MAX: usize = 1024;

/// Findings of damage kept until a person accepts them.
pub const DAMAGE_MAX: usize = 32;

/// Everything the journal says, newest word first.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Pages that must not be used. Boxed, so that a list grows, and is read, without moving them.
    pub pages: BTreeMap<Pfn, Box<RetiredPage>>,
    /// Entries that keep no page out of use, by what names them: there may be several of one address,
    /// from different modules.
    pub suspended: BTreeMap<(Pfn, Timestamp), Suspended>,
    /// The node's state, once one was recorded.
    pub node: Option<NodeState>,
    /// Corrected errors on pages that are not retired.
    pub observed: Observations,
    /// What people and rules did to the list, oldest first; at most [`AUDIT_MAX`].
    pub audit: VecDeque<AuditEvent>,
    /// Damage found and not yet accepted by a person, oldest first; at most [`DAMAGE_MAX`]. While it
    /// is not empty the list may be incomplete.
    pub damage: VecDeque<Damage>,
    /// Records only a newer version can read, oldest first.
    pub unknown: Vec<UnknownRecord>,
    /// The modules that origins may name by their digest.
    pub(crate) dimms: BTreeMap<u64, Arc<Dimm>>,
    /// Origins that came before their pages.
    waiting: BTreeMap<(Pfn, Timestamp), Origin>,
}

impl PartialEq for State {
    /// Whether both say the same; what is only there to read on does not count.
    fn eq(&self, other: &Self) -> bool {
        let Self { pages, suspended, node, observed, audit, damage, unknown, .. } = self;
        *pages == other.pages
            && *suspended == other.suspended
            && *node == other.node
            && *observed == other.observed
            && *audit == other.audit
            && *damage == other.damage
            && *unknown == other.unknown
    }
}

impl Eq for State {}

/// An entry that keeps no page out of use, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Suspended {
    /// The entry; its state is one of the suspended ones, `updated` is when it became so.
    pub page: RetiredPage,
    /// Which rule or who decided it.
    pub who: String,
    /// Why.
    pub note: String,
}

/// Something a person or a rule did to the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEvent {
    /// When.
    pub time: Timestamp,
    /// Who.
    pub who: String,
    /// Why.
    pub note: String,
    /// What.
    pub what: AuditKind,
}

/// See [`AuditEvent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuditKind {
    /// The page was put back into use.
    Unretired(Pfn),
    /// The list was accepted as it is after damage.
    DamageAccepted,
    /// What an entry is worth changed.
    Changed {
        /// The entry's page.
        pfn: Pfn,
        /// When that was first condemned.
        since: Timestamp,
        /// What became of it.
        kind: ChangeKind,
    },
}

impl AuditKind {
    /// The page it concerns.
    #[must_use]
    pub const fn pfn(self) -> Option<Pfn> {
        match self {
            Self::Unretired(pfn) | Self::Changed { pfn, .. } => Some(pfn),
            Self::DamageAccepted => None,
        }
    }
}

impl State {
    /// Takes `entry` in. Applying an entry twice in a row changes nothing.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Page(page) => self.insert(page),
            Entry::Changed(change) => self.change(change),
            Entry::Unretired { pfn, time, who, note } => {
                self.pages.remove(&pfn);
                self.record(AuditEvent { time, who, note, what: AuditKind::Unretired(pfn) });
            }
            // A page already condemned can't be condemned again by counting.
            Entry::Observed { pfn, time } => {
                if !self.pages.contains_key(&pfn) {
                    self.observed.insert(pfn, time);
                }
            }
            Entry::Node(node) => self.node = Some(node),
            Entry::Damaged(damage) => push_bounded(&mut self.damage, damage, DAMAGE_MAX),
            Entry::DamageAccepted { time, who, note } => {
                self.damage.clear();
                self.record(AuditEvent { time, who, note, what: AuditKind::DamageAccepted });
            }
        }
    }

    /// Takes in what a journal says.
    pub fn read(&mut self, record: Record) {
        match record {
            Record::Known(entry) => self.apply(entry),
            Record::Dimm(dimm) => {
                self.dimms.insert(dimm.digest(), Arc::new(dimm));
            }
            Record::Origin(origin) => self.add_origin(origin),
            Record::Unknown(unknown) => self.unknown.push(unknown),
        }
    }

    /// Everything was read: what waits for a page waits in vain.
    pub fn settle(&mut self) {
        self.waiting.clear();
    }

    /// Forgets modules that no entry names, as a rewrite of the list does.
    pub fn forget_unused_dimms(&mut self) {
        let named = self.all_pages().filter_map(|page| page.dimm.as_ref());
        self.dimms = named.map(|dimm| (dimm.digest(), dimm.clone())).collect();
    }

    fn insert(&mut self, mut page: Box<RetiredPage>) {
        let pfn = page.pfn;
        self.observed.forget(pfn);
        // It is the same entry, and it is back.
        self.suspended.remove(&(pfn, page.since));
        let origin = Origin::of(&page);
        match self.pages.entry(pfn) {
            MapEntry::Occupied(mut known) => {
                if origin.is_empty() && known.get().since == page.since {
                    inherit(&mut page, known.get());
                }
                known.insert(page);
            }
            MapEntry::Vacant(place) => {
                if let Some(waiting) = self.waiting.remove(&(pfn, page.since))
                    && origin.is_empty()
                {
                    fill(&mut page, &waiting, &self.dimms);
                }
                place.insert(page);
            }
        }
    }

    fn add_origin(&mut self, origin: Origin) {
        let key @ (pfn, since) = (origin.pfn, origin.since);
        let active = self.pages.get_mut(&pfn).filter(|page| page.since == since);
        let page = match active {
            Some(page) => Some(&mut **page),
            None => self.suspended.get_mut(&key).map(|suspended| &mut suspended.page),
        };
        match page {
            Some(page) => fill(page, &origin, &self.dimms),
            None => {
                self.waiting.insert(key, origin);
            }
        }
    }

    fn change(&mut self, change: Change) {
        let Change { pfn, since, time, kind, logged, who, note } = change;
        let key = (pfn, since);
        if logged {
            let what = AuditKind::Changed { pfn, since, kind };
            self.record(AuditEvent { time, who: who.clone(), note: note.clone(), what });
        }
        let is_free = !self.pages.contains_key(&pfn);
        match (kind.suspends(), kind) {
            (Some(state), _) => {
                let active = self.pages.get(&pfn).is_some_and(|page| page.since == since);
                let page = match active {
                    true => self.pages.remove(&pfn).map(|page| *page),
                    false => self.suspended.remove(&key).map(|suspended| suspended.page),
                };
                if let Some(mut page) = page {
                    (page.state, page.updated) = (state, time);
                    self.suspended.insert(key, Suspended { page, who, note });
                }
            }
            (None, ChangeKind::Reinstated) if is_free => {
                if let Some(Suspended { mut page, .. }) = self.suspended.remove(&key) {
                    (page.state, page.updated) = (RetireState::Pending, time);
                    self.insert(Box::new(page));
                }
            }
            (None, ChangeKind::Moved { .. } | ChangeKind::Forgotten) => {
                self.suspended.remove(&key);
            }
            (None, _) => {}
        }
    }

    /// Pages that must not be used, in order.
    pub fn active_pages(&self) -> impl Iterator<Item = &RetiredPage> {
        self.pages.values().map(|page| &**page)
    }

    /// The same, and then those of suspended entries.
    pub fn all_pages(&self) -> impl Iterator<Item = &RetiredPage> {
        let suspended = self.suspended.values().map(|suspended| &suspended.page);
        self.active_pages().chain(suspended)
    }

    /// Whether damage was found that no person has accepted: the list may be incomplete.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// The entries that make an empty state equal to this one, apart from `unknown`. The audit comes
    /// first, because applying it removes pages and clears damage; then suspended entries, each as a
    /// page and what became of it, so that version 1.0 keeps them out of use; they end no counting.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let audit = self.audit.iter().cloned().map(|event| {
            let AuditEvent { time, who, note, what } = event;
            match what {
                AuditKind::Unretired(pfn) => Entry::Unretired { pfn, time, who, note },
                AuditKind::DamageAccepted => Entry::DamageAccepted { time, who, note },
                AuditKind::Changed { pfn, since, kind } => {
                    Entry::Changed(Change { pfn, since, time, kind, logged: true, who, note })
                }
            }
        });
        let suspended = self.suspended.values().flat_map(Suspended::entries);
        let damage = self.damage.iter().cloned().map(Entry::Damaged);
        let observed = self.observed.iter().map(|(pfn, time)| Entry::Observed { pfn, time });
        let pages = self.pages.values().cloned().map(Entry::Page);
        let before = audit.chain(damage).chain(suspended).chain(observed);
        before.chain(pages).chain(self.node.clone().map(Entry::Node))
    }

    fn record(&mut self, event: AuditEvent) {
        push_bounded(&mut self.audit, event, AUDIT_MAX);
    }
}

impl State {
    /// Takes in pages that are ascending, and have their origins. All at once where they are the
    /// first: a tree that grows page by page takes several times as long.
    pub(crate) fn add_run(&mut self, run: Vec<(Pfn, Box<RetiredPage>)>) {
        if !self.pages.is_empty() || !self.waiting.is_empty() {
            run.into_iter().for_each(|(_, page)| self.insert(page));
            return;
        }
        if !self.observed.is_empty() {
            run.iter().for_each(|(pfn, _)| self.observed.forget(*pfn));
        }
        if !self.suspended.is_empty() {
            run.iter().for_each(|(pfn, page)| {
                self.suspended.remove(&(*pfn, page.since));
            });
        }
        self.pages = run.into_iter().collect();
    }
}

impl Suspended {
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let page = Box::new(RetiredPage { state: RetireState::Retired, ..self.page.clone() });
        let change = ChangeKind::suspending(self.page.state).map(|kind| {
            Entry::Changed(Change {
                pfn: self.page.pfn,
                since: self.page.since,
                time: self.page.updated,
                kind,
                logged: false,
                who: self.who.clone(),
                note: self.note.clone(),
            })
        });
        [Entry::Page(page)].into_iter().chain(change)
    }
}

/// What one record of a page did not say and the one before it did.
fn inherit(page: &mut RetiredPage, before: &RetiredPage) {
    (page.dimm, page.epoch) = (before.dimm.clone(), before.epoch);
    (page.location.imc, page.location.pci) = (before.location.imc, before.location.pci);
    page.location.dimm.chip = before.location.dimm.chip;
}

/// A module whose record is lost stays unknown.
pub(crate) fn fill(page: &mut RetiredPage, origin: &Origin, dimms: &BTreeMap<u64, Arc<Dimm>>) {
    page.epoch = origin.epoch;
    page.dimm = origin.dimm.and_then(|digest| dimms.get(&digest).cloned());
    (page.location.imc, page.location.pci) = (origin.imc, origin.pci);
    page.location.dimm.chip = origin.chip;
}

fn push_bounded<T: PartialEq>(list: &mut VecDeque<T>, item: T, max: usize) {
    if list.back() == Some(&item) {
        return;
    }
    if list.len() == max {
        list.pop_front();
    }
    list.push_back(item);
}

/// Corrected errors below the policy's rate. Bounded in number and in age; the oldest leave first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observations {
    by_time: BTreeSet<(Timestamp, Pfn)>,
    by_page: BTreeSet<(Pfn, Timestamp)>,
}

impl Observations {
    /// Observations kept in total: at 16 bytes and a frame each, some 80 blocks of journal.
    pub const COUNT_MAX: usize = 16_384;

    /// Age, relative to the newest, from which an observation no longer matters to any rate the
    /// policy can ask for: 30 days.
    pub const AGE_MAX_NS: u64 = 30 * 24 * 3600 * 1_000_000_000;

    /// The observations, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Pfn, Timestamp)> {
        self.by_time.iter().map(|&(time, pfn)| (pfn, time))
    }

    /// When errors were seen on `pfn`, oldest first.
    pub fn of_page(&self, pfn: Pfn) -> impl Iterator<Item = Timestamp> {
        self.by_page.range((pfn, Timestamp(0))..=(pfn, Timestamp(u64::MAX))).map(|&(_, time)| time)
    }

    /// Number of observations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    fn insert(&mut self, pfn: Pfn, time: Timestamp) {
        self.by_time.insert((time, pfn));
        self.by_page.insert((pfn, time));
        while let (Some(&(oldest, page)), Some(&(newest, _))) =
            (self.by_time.first(), self.by_time.last())
        {
            if self.len() <= Self::COUNT_MAX && newest.nanos_since(oldest) <= Self::AGE_MAX_NS {
                break;
            }
            self.by_time.remove(&(oldest, page));
            self.by_page.remove(&(page, oldest));
        }
    }

    fn forget(&mut self, pfn: Pfn) {
        let times: Vec<Timestamp> = self.of_page(pfn).collect();
        for time in times {
            self.by_time.remove(&(time, pfn));
            self.by_page.remove(&(pfn, time));
        }
    }
}
