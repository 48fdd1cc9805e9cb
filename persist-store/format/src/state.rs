//! The list itself: entries applied in order. Pure, idempotent, bounded.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{NodeState, Pfn, RetiredPage, Timestamp};

use crate::{Damage, Entry, UnknownRecord};

/// Audit events kept; older ones leave the list (they stay in journals already set aside).
pub const AUDIT_MAX: usize = 1024;

/// Findings of damage kept until a person accepts them.
pub const DAMAGE_MAX: usize = 32;

/// Everything the journal says, newest word first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Pages that must not be used.
    pub pages: BTreeMap<Pfn, RetiredPage>,
    /// The node's state, once one was recorded.
    pub node: Option<NodeState>,
    /// Corrected errors on pages that are not retired.
    pub observed: Observations,
    /// What people did to the list, oldest first; at most [`AUDIT_MAX`].
    pub audit: VecDeque<AuditEvent>,
    /// Damage found and not yet accepted by a person, oldest first; at most [`DAMAGE_MAX`]. While it
    /// is not empty the list may be incomplete.
    pub damage: VecDeque<Damage>,
    /// Records only a newer version can read, oldest first.
    pub unknown: Vec<UnknownRecord>,
}

/// Something a person did to the list.
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
}

impl State {
    /// Takes `entry` in. Applying an entry twice in a row changes nothing.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Page(page) => {
                self.observed.forget(page.pfn);
                self.pages.insert(page.pfn, page);
            }
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

    /// Whether damage was found that no person has accepted: the list may be incomplete.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty()
    }

    /// The entries that make an empty state equal to this one, apart from `unknown`. The audit comes
    /// first, because applying it removes pages and clears damage.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let audit = self.audit.iter().cloned().map(|event| {
            let AuditEvent { time, who, note, what } = event;
            match what {
                AuditKind::Unretired(pfn) => Entry::Unretired { pfn, time, who, note },
                AuditKind::DamageAccepted => Entry::DamageAccepted { time, who, note },
            }
        });
        let damage = self.damage.iter().cloned().map(Entry::Damaged);
        let observed = self.observed.iter().map(|(pfn, time)| Entry::Observed { pfn, time });
        let pages = self.pages.values().cloned().map(Entry::Page);
        audit.chain(damage).chain(observed).chain(pages).chain(self.node.clone().map(Entry::Node))
    }

    fn record(&mut self, event: AuditEvent) {
        push_bounded(&mut self.audit, event, AUDIT_MAX);
    }
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
