//! The list beside the machine as it is now: which entries still mean what they meant.
//!
//! ```text
//!                              the map is the entry's         another map
//!  module in its slot          nothing, or back on the list   found again at another page, or stale
//!  module in another slot      found again, or stale          found again, or stale
//!  module not in the machine   expired                        expired
//!  nobody can say which        nothing                        found again, or stale
//! ```
//! Unknown is unknown: a module without a serial number is neither taken for the entry's nor for another
//! one, and where the entry's map or today's is not known, maps are not compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use ras_core::{
    Dimm, DimmIdentity, Location, MachineMap, MapEpoch, Pfn, RetireState, RetiredPage, Timestamp,
    format_smolstr,
};

use crate::{Change, ChangeKind, Entry, State};

/// What is known of the machine right now.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// Its modules and its map.
    pub map: &'a MachineMap,
    /// Where cells are now, if that can be told.
    pub translate: Option<&'a Translate<'a>>,
    /// Rows that were replaced for good, as the firmware or the kernel confirmed. Those of all times may
    /// be named at every start: entries made after a repair are not its.
    pub repairs: &'a [Repair],
}

/// Finds the cells of an entry under today's map: their page, and their location as it is called now.
/// The module is where the entry's now sits; `None` where nobody knows which module that is. Two
/// different cells have two different addresses; `None` rather than a guess.
pub type Translate<'a> = dyn Fn(&RetiredPage, Option<&Dimm>) -> Option<(Pfn, Location)> + 'a;

/// A post-package repair that stays over a reset (hard PPR).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// The module, by what is printed on it; `None` where the report names the PCI function that it is
    /// behind, in `place`.
    pub dimm: Option<DimmIdentity>,
    /// The row, with all that the repair's report names (channel, rank, bank group, bank, row; device
    /// where only one was repaired). An entry matches that knows the same of each.
    pub place: Location,
    /// When it was done.
    pub time: Timestamp,
}

/// The rules, by the names that the audit gives them.
mod rule {
    pub(super) const MODULE_GONE: &str = "rule module-gone";
    pub(super) const MODULE_MOVED: &str = "rule module-moved";
    pub(super) const MODULE_BACK: &str = "rule module-back";
    pub(super) const MAP_BACK: &str = "rule map-back";
    pub(super) const MAP_CHANGED: &str = "rule map-changed";
    pub(super) const REPAIRED: &str = "rule repaired";
    pub(super) const PROBATION_FAILED: &str = "rule probation-failed";
}

/// The entries to commit, in one go, so that the list fits the machine. Pure; committed and asked again,
/// it has nothing more to say.
///
/// Nothing leaves the list but with a logged [`Change`] that names the rule and the reason.
#[must_use]
pub fn reconcile(state: &State, present: &Present<'_>, now: Timestamp) -> Vec<Entry> {
    let mut entries = step(state, present, now);
    if entries.is_empty() {
        return entries;
    }
    // A page that one entry gave up may be the one that another's cells are at now.
    let mut list = state.clone();
    entries.iter().cloned().for_each(|entry| list.apply(entry));
    for _ in 1..STEPS_MAX {
        let more = step(&list, present, now);
        if more.is_empty() {
            break;
        }
        more.iter().cloned().for_each(|entry| list.apply(entry));
        entries.extend(more);
    }
    entries
}

/// Steps after which nothing can be left to say: each only follows from pages that the one before it
/// gave back, and an entry is moved, suspended or put on probation once.
const STEPS_MAX: usize = 8;

fn step(state: &State, present: &Present<'_>, now: Timestamp) -> Vec<Entry> {
    let mut plan = Plan { state, present, now, here: present.map.epoch(), entries: Vec::new() };
    let mut moves = Vec::new();
    let mut back = Vec::new();
    for page in state.all_pages() {
        match plan.judge(page) {
            Judgement::Keep => {}
            Judgement::Back(who, note) => back.push((page, who, note)),
            Judgement::Suspend(kind, who, note) => plan.suspend(page, kind, who, note),
            Judgement::Move(found) => moves.push((page, found)),
        }
    }
    plan.carry_out_moves(moves);
    plan.bring_back(back);
    plan.note_repairs();
    plan.entries
}

/// What becomes of one entry.
enum Judgement {
    Keep,
    /// Its page is its own again: by which rule, and why.
    Back(&'static str, String),
    /// By which rule, and why.
    Suspend(ChangeKind, &'static str, String),
    Move(Found),
}

/// An entry whose cells were found again.
struct Found {
    page: RetiredPage,
    who: &'static str,
    note: String,
}

/// Where the module of an entry is.
enum Place<'a> {
    /// Nobody can say.
    Unknown,
    /// In its slot.
    There,
    Moved(&'a Arc<Dimm>),
    /// Not in its slot; it may be one whose serial number is not known.
    Displaced,
    /// Not in the machine.
    Gone,
}

struct Plan<'a> {
    state: &'a State,
    present: &'a Present<'a>,
    now: Timestamp,
    here: Option<MapEpoch>,
    entries: Vec<Entry>,
}

impl<'a> Plan<'a> {
    fn judge(&self, page: &RetiredPage) -> Judgement {
        let place = whereabouts(self.present.map, page.dimm.as_deref());
        let other_map = page.epoch.zip(self.here).is_some_and(|(then, here)| then != here);
        let module = || page.dimm.as_ref().map_or_else(String::new, ToString::to_string);
        let gone_before = page.state == RetireState::Expired;
        match place {
            Place::Gone => suspend(page, ChangeKind::Expired, rule::MODULE_GONE, || {
                format!("{} is not in the machine", module())
            }),
            Place::Displaced => suspend(page, ChangeKind::Stale, rule::MODULE_MOVED, || {
                format!("{} is not in its slot, and not every module has a serial number", module())
            }),
            Place::Moved(dimm) => self.find(page, Some(dimm), rule::MODULE_MOVED, || {
                format!("{} is now in slot {:?}", module(), dimm.locator)
            }),
            // It was certain that the module went; that it is back is not.
            Place::Unknown if gone_before => Judgement::Keep,
            Place::There | Place::Unknown if other_map => {
                let dimm = page.dimm.as_ref().filter(|_| matches!(place, Place::There));
                self.find(page, dimm, rule::MAP_CHANGED, || {
                    let map =
                        |epoch: Option<MapEpoch>| epoch.map_or_else(String::new, |e| e.to_string());
                    format!("the map was {}, and is {}", map(page.epoch), map(self.here))
                })
            }
            _ if !is_out_of_sight(page.state) => Judgement::Keep,
            // Where its map was never known, only the module's going can have taken it off.
            Place::There if page.epoch.is_none() || page.epoch == self.here => {
                Judgement::Back(rule::MODULE_BACK, format!("{} is where it was", module()))
            }
            // Nothing tells such a module from another, so only the map can have made it stale.
            Place::Unknown if page.epoch == self.here && !has_serial(page) => {
                Judgement::Back(rule::MAP_BACK, "the map is as it was".into())
            }
            Place::There | Place::Unknown => Judgement::Keep,
        }
    }

    /// Looks for the cells of an entry whose address no longer means them.
    fn find(
        &self,
        page: &RetiredPage,
        dimm: Option<&Arc<Dimm>>,
        who: &'static str,
        why: impl Fn() -> String,
    ) -> Judgement {
        let translate = self.present.translate.filter(|_| self.here.is_some());
        let Some((pfn, location)) =
            translate.and_then(|translate| translate(page, dimm.map(AsRef::as_ref)))
        else {
            return suspend(page, ChangeKind::Stale, who, || {
                format!("{}; where its cells are now is not known", why())
            });
        };
        let page = RetiredPage {
            pfn,
            location,
            state: RetireState::Pending,
            updated: self.now,
            attempts: 0,
            dimm: dimm.or(page.dimm.as_ref()).cloned(),
            epoch: self.here,
            outcome: format_smolstr!("was page {} before", page.pfn),
            ..page.clone()
        };
        Judgement::Move(Found { page, who, note: why() })
    }

    /// All of them leave their pages before the first takes another's. A page that is taken already
    /// stays its first owner's; the other entry waits, stale.
    fn carry_out_moves(&mut self, moves: Vec<(&'a RetiredPage, Found)>) {
        let (mut moves, mut stuck) = (moves, Vec::new());
        let suspended = self.entries.iter().filter_map(|planned| match planned {
            Entry::Changed(change) => Some((change.pfn, change.since)),
            _ => None,
        });
        let suspended: BTreeSet<_> = suspended.collect();
        loop {
            let leaving: BTreeSet<_> = moves.iter().map(|(page, _)| name(page)).collect();
            let mut taken: BTreeSet<Pfn> = BTreeSet::new();
            let before = moves.len();
            let (free, refused): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(_, found)| {
                let to = found.page.pfn;
                let owner = self.state.pages.get(&to).map(|page| name(page));
                let stays = owner
                    .is_some_and(|owner| !leaving.contains(&owner) && !suspended.contains(&owner));
                let twin = self.state.suspended.contains_key(&name(&found.page))
                    && !leaving.contains(&name(&found.page));
                !stays && !twin && taken.insert(to)
            });
            stuck.extend(refused);
            moves = free;
            if moves.len() == before {
                break;
            }
        }
        for (page, found) in stuck {
            if page.state != RetireState::Stale {
                let note = format!("{}; page {} is out of use already", found.note, found.page.pfn);
                self.suspend(page, ChangeKind::Stale, found.who, note);
            }
        }
        for (page, found) in &moves {
            if !page.state.is_suspended() {
                let step = self.change(page, ChangeKind::Stale, found.who, found.note.clone());
                self.entries.push(Entry::Changed(Change { logged: false, ..step }));
            }
        }
        for (page, found) in moves {
            let kind = ChangeKind::Moved { to: found.page.pfn };
            let change = self.change(page, kind, found.who, found.note);
            self.entries.extend([Entry::Page(Box::new(found.page)), Entry::Changed(change)]);
        }
    }

    fn bring_back(&mut self, back: Vec<(&'a RetiredPage, &'static str, String)>) {
        if back.is_empty() {
            return;
        }
        let mut list = self.list();
        for (page, who, note) in back {
            if list.pages.contains_key(&page.pfn) {
                continue;
            }
            let change = self.change(page, ChangeKind::Reinstated, who, note);
            list.apply(Entry::Changed(change.clone()));
            self.entries.push(Entry::Changed(change));
        }
    }

    /// Puts what was repaired on probation, and ends probations that failed.
    fn note_repairs(&mut self) {
        let probation = |page: &RetiredPage| page.state == RetireState::Probation;
        let any = self.state.suspended.values().any(|suspended| probation(&suspended.page));
        if self.present.repairs.is_empty() && !any {
            return;
        }
        let list = self.list();
        for page in list.pages.values() {
            let repaired = |repair: &&Repair| repair.repaired(page);
            if let Some(repair) = self.present.repairs.iter().find(repaired) {
                let note = format!("its row was repaired at {} s", repair.time.secs());
                self.suspend(page, ChangeKind::Probation, rule::REPAIRED, note);
            }
        }
        let failed = list.suspended.values().map(|suspended| &suspended.page).filter(|page| {
            let active = list.pages.get(&page.pfn);
            probation(page) && active.is_some_and(|active| active.since > page.updated)
        });
        let forgotten: Vec<_> = failed
            .map(|page| {
                let note = "an error on it condemned the page again".into();
                self.change(page, ChangeKind::Forgotten, rule::PROBATION_FAILED, note)
            })
            .collect();
        self.entries.extend(forgotten.into_iter().map(Entry::Changed));
    }

    /// The list with what was decided so far.
    fn list(&self) -> State {
        let mut list = self.state.clone();
        self.entries.iter().cloned().for_each(|entry| list.apply(entry));
        list
    }

    fn suspend(&mut self, page: &RetiredPage, kind: ChangeKind, who: &'static str, note: String) {
        let change = self.change(page, kind, who, note);
        self.entries.push(Entry::Changed(change));
    }

    fn change(
        &self,
        page: &RetiredPage,
        kind: ChangeKind,
        who: &'static str,
        note: String,
    ) -> Change {
        let RetiredPage { pfn, since, .. } = *page;
        Change { pfn, since, time: self.now, kind, logged: true, who: who.into(), note }
    }
}

impl Repair {
    /// Whether `page` was bad in what was repaired, and before that.
    fn repaired(&self, page: &RetiredPage) -> bool {
        let same = match &self.dimm {
            Some(dimm) => page.dimm.as_ref().and_then(|its| its.identity.is_same(dimm)),
            None => self.place.pci.map(|pci| Some(pci) == page.location.pci),
        };
        let channels = (self.place.channel.map(Into::into), page.location.channel.map(Into::into));
        let (mine, its) = (&self.place.dimm, &page.location.dimm);
        let fits = |mine: Option<u32>, its: Option<u32>| mine.is_none() || mine == its;
        same == Some(true)
            && page.since < self.time
            && mine.row.is_some()
            && fits(channels.0, channels.1)
            && fits(mine.row, its.row)
            && fits(mine.rank.map(Into::into), its.rank.map(Into::into))
            && fits(mine.chip.map(Into::into), its.chip.map(Into::into))
            && fits(mine.bank_group.map(Into::into), its.bank_group.map(Into::into))
            && fits(mine.bank.map(Into::into), its.bank.map(Into::into))
            && fits(mine.device.map(Into::into), its.device.map(Into::into))
    }
}

fn name(page: &RetiredPage) -> (Pfn, Timestamp) {
    (page.pfn, page.since)
}

fn has_serial(page: &RetiredPage) -> bool {
    page.dimm.as_ref().is_some_and(|dimm| dimm.identity.serial.is_some())
}

/// Suspended for a reason that can go away.
fn is_out_of_sight(state: RetireState) -> bool {
    matches!(state, RetireState::Expired | RetireState::Stale)
}

/// Nothing where the entry is in that state, or in one that says more, already.
fn suspend(
    page: &RetiredPage,
    kind: ChangeKind,
    who: &'static str,
    note: impl FnOnce() -> String,
) -> Judgement {
    let said = kind.suspends() == Some(page.state)
        || (kind == ChangeKind::Stale && page.state == RetireState::Expired);
    if said { Judgement::Keep } else { Judgement::Suspend(kind, who, note()) }
}

fn whereabouts<'a>(map: &'a MachineMap, dimm: Option<&Dimm>) -> Place<'a> {
    let Some(dimm) = dimm.filter(|dimm| dimm.identity.serial.is_some()) else {
        return Place::Unknown;
    };
    let populated = || map.slots.iter().map(|slot| &slot.dimm).filter(|other| other.size > 0);
    if populated().next().is_none() {
        return Place::Unknown;
    }
    let mut same = populated().filter(|other| dimm.identity.is_same(&other.identity) == Some(true));
    if let Some(found) = same.next() {
        // A serial number that is there twice names nobody.
        return match (same.next(), found.is_in_slot_of(dimm)) {
            (Some(_), _) => Place::Unknown,
            (None, true) => Place::There,
            (None, false) => Place::Moved(found),
        };
    }
    let mut unknown = populated().filter(|other| dimm.identity.is_same(&other.identity).is_none());
    match unknown.next() {
        None => Place::Gone,
        Some(first) => {
            let here = first.is_in_slot_of(dimm) || unknown.any(|other| other.is_in_slot_of(dimm));
            // A slot that the firmware calls otherwise now may be this one.
            let listed = map.slots.iter().any(|slot| slot.dimm.is_in_slot_of(dimm));
            if here || !listed { Place::Unknown } else { Place::Displaced }
        }
    }
}
