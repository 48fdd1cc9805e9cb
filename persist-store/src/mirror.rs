//! A second list on another medium, for the day the first one is gone.
//!
//! ```text
//!  start    mirror --brought_back--> entries that the list lacks --commit--> list
//!  change   list --Mirror::follow--> mirror
//! ```
//! The list decides; the mirror only remembers. Nothing is taken from the list because the mirror lacks
//! it, and nothing comes back that a person or a rule took out.

use ras_core::{Pfn, RetireState, RetiredPage, Timestamp};
use ras_store_format::{AuditKind, Change, ChangeKind, Entry, State};

use crate::{ErstList, ImageList, Medium, PageList, RecordStore, StoreError};

/// A [`PageList`] that can be made like another one.
pub trait Mirror: PageList {
    /// Makes this list what it keeps of `state`; after a [`PageList::load`]. Writes nothing where that
    /// changes nothing, however much changed in `state`: the longer the caller waits between calls, the
    /// more changes one write takes.
    ///
    /// # Errors
    /// As [`PageList::commit`].
    fn follow(&mut self, state: &State) -> Result<(), StoreError>;

    /// Bytes the medium took in this boot, and how many it may take; after a [`PageList::load`].
    fn wear(&self) -> (u64, u64);
}

impl<M: Medium> Mirror for ImageList<M> {
    fn follow(&mut self, state: &State) -> Result<(), StoreError> {
        self.put(state)
    }

    fn wear(&self) -> (u64, u64) {
        self.wear()
    }
}

impl<R: RecordStore> Mirror for ErstList<R> {
    fn follow(&mut self, state: &State) -> Result<(), StoreError> {
        self.put(state)
    }

    fn wear(&self) -> (u64, u64) {
        self.wear()
    }
}

/// The entries that give `list` back what only the mirror remembers, said to come from `place`, `now`; an
/// audit event for each. Once they are committed there are none.
#[must_use]
pub fn brought_back(list: &State, mirror: &State, place: &str, now: Timestamp) -> Vec<Entry> {
    let note = format!("brought back from {place}, which the list had lost it from");
    // `updated` stays: no data was lost now, so that nothing has to be thrown away.
    let back = |page: &RetiredPage| {
        Entry::from(RetiredPage {
            state: RetireState::Pending,
            outcome: note.as_str().into(),
            diagnosis: match page.diagnosis.is_empty() {
                true => "no longer known".into(),
                false => page.diagnosis.clone(),
            },
            ..page.clone()
        })
    };
    let change = |page: &RetiredPage, kind| {
        let RetiredPage { pfn, since, .. } = *page;
        let (who, note) = ("mirror".into(), note.clone());
        Entry::Changed(Change { pfn, since, time: now, kind, logged: true, who, note })
    };
    let mut entries: Vec<Entry> = Vec::new();
    let suspended = mirror.suspended.values().map(|suspended| &suspended.page);
    for page in suspended.filter(|page| is_missing(list, page)) {
        let Some(kind) = ChangeKind::suspending(page.state) else { continue };
        // As an active page first. Where another entry has the address, it can't come back: what the
        // list knows now is worth more.
        if list.pages.contains_key(&page.pfn) {
            continue;
        }
        entries.extend([back(page), change(page, kind)]);
    }
    for page in mirror.pages.values().filter(|page| is_missing(list, page)) {
        // The change is for the audit alone: by then the entry is on the list.
        entries.extend([back(page), change(page, ChangeKind::Reinstated)]);
    }
    entries
}

/// Whether the list does not know of an entry, and nobody took it out.
fn is_missing(list: &State, page: &RetiredPage) -> bool {
    let (pfn, since) = (page.pfn, page.since);
    let known = list.pages.contains_key(&pfn) && !page.state.is_suspended()
        || list.pages.get(&pfn).is_some_and(|known| known.since == since)
        || list.suspended.contains_key(&(pfn, since));
    !known && !was_taken_out(list, pfn, since)
}

fn was_taken_out(list: &State, pfn: Pfn, since: Timestamp) -> bool {
    list.audit.iter().any(|event| match event.what {
        AuditKind::Unretired(page) => page == pfn && event.time >= since,
        AuditKind::Changed { pfn: page, since: entry, kind } => {
            (page, entry) == (pfn, since)
                && matches!(kind, ChangeKind::Moved { .. } | ChangeKind::Forgotten)
        }
        AuditKind::DamageAccepted => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::simulated_device::SimulatedDevice;
    use crate::tests::{applied, page, time, unretired};
    use crate::{Boot, ImageList};

    fn mirror_of(state: &State) -> State {
        let device = SimulatedDevice::empty("mirror");
        let mut mirror = ImageList::new(device, Boot([1; 16]), u64::MAX);
        mirror.load().unwrap();
        mirror.follow(state).unwrap();
        mirror.load().unwrap().0
    }

    fn suspended(number: u64) -> Entry {
        Entry::Changed(Change {
            pfn: Pfn(0x12_3000 + number),
            since: time(number),
            time: time(number + 5),
            kind: ChangeKind::Expired,
            logged: true,
            who: "rule".into(),
            note: String::new(),
        })
    }

    #[test]
    fn a_lost_list_comes_back() {
        let pages = [1, 2, 3].map(|number| page(number, RetireState::Retired));
        let full = applied(&applied(&State::default(), &pages), &[suspended(2)]);
        let mirror = mirror_of(&full);

        let lost = State::default();
        let back = applied(&lost, &brought_back(&lost, &mirror, "EFI variables", time(100)));
        assert_eq!(back.pages.keys().collect::<Vec<_>>(), full.pages.keys().collect::<Vec<_>>());
        assert_eq!(
            back.suspended.keys().collect::<Vec<_>>(),
            full.suspended.keys().collect::<Vec<_>>()
        );
        let found = &back.pages[&Pfn(0x12_3001)];
        assert_eq!((found.state, found.since), (RetireState::Pending, time(1)));
        assert!(found.outcome.contains("EFI variables"), "{}", found.outcome);
        let told: Vec<_> = back.audit.iter().map(|event| event.what).collect();
        let event = |number, kind| AuditKind::Changed {
            pfn: Pfn(0x12_3000 + number),
            since: time(number),
            kind,
        };
        let expired = event(2, ChangeKind::Expired);
        let [one, three] = [1, 3].map(|number| event(number, ChangeKind::Reinstated));
        assert_eq!(told, [expired, one, three], "each entry once");
        assert_eq!(brought_back(&back, &mirror, "EFI variables", time(101)), []);
        // And the mirror follows what came back without a write.
        assert_eq!(mirror_of(&back), mirror);
    }

    #[test]
    fn what_was_taken_out_stays_out() {
        let both = [page(1, RetireState::Retired), page(2, RetireState::Retired)];
        let before = applied(&State::default(), &both);
        let mirror = mirror_of(&before);
        // The mirror missed what happened next.
        let forgotten = |kind| {
            Entry::Changed(Change {
                pfn: Pfn(0x12_3002),
                since: time(2),
                time: time(9),
                kind,
                logged: true,
                who: "operator".into(),
                note: String::new(),
            })
        };
        let after = [unretired(1), suspended(2), forgotten(ChangeKind::Forgotten)];
        let list = applied(&before, &after);
        assert!(list.pages.is_empty() && list.suspended.is_empty());
        assert_eq!(brought_back(&list, &mirror, "EFI variables", time(100)), []);

        // Condemned anew since then: the mirror has the newer word, and the list lost it.
        let anew =
            Entry::from(RetiredPage { since: time(50), ..*before.pages[&Pfn(0x12_3001)].clone() });
        let mirror = mirror_of(&applied(&list, &[anew]));
        let entries = brought_back(&list, &mirror, "EFI variables", time(100));
        let back = applied(&list, &entries);
        assert_eq!(back.pages[&Pfn(0x12_3001)].since, time(50));
        assert!(back.suspended.is_empty());
        assert_eq!(brought_back(&back, &mirror, "EFI variables", time(101)), []);
    }

    #[test]
    fn the_list_is_never_shortened() {
        let list = applied(&State::default(), &[page(1, RetireState::Retired)]);
        assert_eq!(brought_back(&list, &State::default(), "an empty mirror", time(9)), []);
        // What both know is the list's.
        let mirror = mirror_of(&list);
        assert_eq!(brought_back(&list, &mirror, "EFI variables", time(9)), []);
    }
}
