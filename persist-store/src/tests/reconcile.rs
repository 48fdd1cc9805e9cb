//! Modules are pulled, swapped and moved, maps change, rows are repaired: every entry stays, or its
//! going is in the audit; and nobody is taken for somebody else.

use proptest::prelude::*;
use ras_core::{MachineMap, MapRange, PciAddress, PhysAddr, Slot};
use ras_store_format::AuditKind;

use super::*;
use crate::reconcile::{Present, Repair, Translate, reconcile};

const SLOTS: [&str; 3] = ["A1", "A2", "B1"];

/// A machine with a module of that serial number in each slot; 0 is an empty slot, 9 a module without
/// a serial number.
fn machine(serials: [u8; 3], map: u64) -> MachineMap {
    let slots = SLOTS.iter().zip(serials).map(|(slot, serial)| Slot {
        handle: 0,
        ranks: 2,
        dimm: module(slot, serial),
    });
    let range = MapRange { start: PhysAddr(0), end: PhysAddr(map << 30), unit: 0 };
    MachineMap {
        slots: slots.collect(),
        ranges: vec![range],
        firmware: String::new(),
        interleave: None,
    }
}

fn module(slot: &str, serial: u8) -> Arc<Dimm> {
    let text = if serial == 9 { String::new() } else { format!("S{serial}") };
    Arc::new(Dimm {
        identity: DimmIdentity::new("Maker", "PART-1", &text),
        locator: slot.into(),
        bank_locator: String::new(),
        size: if serial == 0 { 0 } else { 32 << 30 },
    })
}

/// An entry made on `machine` of a page in the module of its slot `slot`.
fn made_on(map: &MachineMap, number: u64, slot: usize) -> RetiredPage {
    let Entry::Page(mut page) = page(number, RetireState::Retired) else { unreachable!() };
    page.location.dimm.row = Some(u32::try_from(number).unwrap());
    page.dimm = Some(map.slots[slot].dimm.clone()).filter(|dimm| dimm.size > 0);
    page.epoch = map.epoch();
    *page
}

fn list(pages: impl IntoIterator<Item = RetiredPage>) -> State {
    let mut state = State::default();
    pages.into_iter().for_each(|page| state.apply(Entry::Page(Box::new(page))));
    state
}

/// Asks once, checks what holds for every answer, and gives the list after it.
fn settled(state: &State, present: &Present<'_>) -> State {
    settled_at(state, present, time(1000))
}

fn settled_at(state: &State, present: &Present<'_>, now: Timestamp) -> State {
    let entries = reconcile(state, present, now);
    let after = applied(state, &entries);
    let again = reconcile(&after, present, Timestamp(now.0 + 1));
    assert_eq!(again, [], "twice is not once; first {entries:#?}");

    let logged = |pfn: Pfn, since: Timestamp, kinds: &dyn Fn(ChangeKind) -> bool| {
        entries.iter().any(|entry| match entry {
            Entry::Changed(change) => {
                (change.pfn, change.since, change.logged) == (pfn, since, true)
                    && kinds(change.kind)
                    && !change.note.is_empty()
                    && change.who.starts_with("rule ")
            }
            _ => false,
        })
    };
    let is_there = |pfn: Pfn, since: Timestamp| {
        let active = after.pages.get(&pfn).is_some_and(|page| page.since == since);
        assert!(!(active && after.suspended.contains_key(&(pfn, since))), "there twice");
        active || after.suspended.contains_key(&(pfn, since))
    };
    let names = state.pages.values().map(|page| (page.pfn, page.since));
    for (pfn, since) in names.chain(state.suspended.keys().copied()) {
        let leaves = |kind| matches!(kind, ChangeKind::Moved { .. } | ChangeKind::Forgotten);
        let moved = entries.iter().find_map(|entry| match entry {
            Entry::Changed(Change {
                pfn: from,
                since: when,
                kind: ChangeKind::Moved { to },
                ..
            }) if (*from, *when) == (pfn, since) => Some(*to),
            _ => None,
        });
        match moved {
            Some(to) => assert!(is_there(to, since), "{pfn} got lost on its way to {to}"),
            None => assert!(is_there(pfn, since) || logged(pfn, since, &leaves), "{pfn} is gone"),
        }
        // Back in use only by a logged word.
        if state.pages.get(&pfn).is_some_and(|page| page.since == since)
            && !after.pages.contains_key(&pfn)
        {
            assert!(logged(pfn, since, &|kind| kind != ChangeKind::Reinstated), "{pfn}: silently");
        }
    }
    after
}

fn states(state: &State) -> Vec<(u64, RetireState)> {
    state.all_pages().map(|page| (page.pfn.0 - 0x12_3000, page.state)).collect()
}

/// Pages 1, 2 and 3 in the three slots, recorded on one machine and looked at on another.
fn look(before: [u8; 3], after: [u8; 3], map: u64) -> Vec<(u64, RetireState)> {
    let then = machine(before, 16);
    let state = list((0..3).map(|slot| made_on(&then, slot as u64 + 1, slot)));
    let map = machine(after, map);
    let after = settled(&state, &Present { map: &map, translate: None, repairs: &[] });
    // Everything back as it was: so is the list.
    let back = settled(&after, &Present { map: &then, translate: None, repairs: &[] });
    assert_eq!(back.pages.len(), 3, "{:?}", states(&back));
    states(&after)
}

#[test]
fn a_swapped_module_takes_its_entries_with_it() {
    use RetireState::{Expired, Retired, Stale};
    assert_eq!(look([1, 2, 3], [1, 2, 3], 16), [(1, Retired), (2, Retired), (3, Retired)]);
    assert_eq!(look([1, 2, 3], [1, 4, 3], 16), [(1, Retired), (3, Retired), (2, Expired)]);
    // Pulled without a successor, the map is another one: the others' cells are not found again.
    assert_eq!(look([1, 2, 3], [1, 0, 3], 16), [(1, Stale), (2, Expired), (3, Stale)]);
    // Two modules changed places.
    assert_eq!(look([1, 2, 3], [2, 1, 3], 16), [(3, Retired), (1, Stale), (2, Stale)]);
    assert_eq!(look([1, 2, 3], [1, 2, 3], 32), [(1, Stale), (2, Stale), (3, Stale)]);
}

#[test]
fn an_unknown_serial_number_is_nobodys() {
    use RetireState::{Retired, Stale};
    // The entry's module has none: whatever sits there, nobody says that it is another one.
    assert_eq!(look([9, 9, 3], [9, 2, 3], 16), [(1, Retired), (2, Retired), (3, Retired)]);
    // The slot's present module has none: it may be the entry's.
    assert_eq!(look([1, 2, 3], [1, 9, 3], 16), [(1, Retired), (2, Retired), (3, Retired)]);
    // Another one is in the slot, and the entry's may be the one without a number.
    assert_eq!(look([1, 2, 3], [9, 4, 3], 16), [(1, Retired), (3, Retired), (2, Stale)]);
    // A number that is there twice.
    assert_eq!(
        look([1, 2, 3], [2, 2, 3], 16),
        [(2, Retired), (3, Retired), (1, RetireState::Expired)]
    );
    // SMBIOS says nothing at this start.
    let then = machine([1, 2, 3], 16);
    let state = list([made_on(&then, 1, 0)]);
    let nothing = MachineMap::default();
    let present = Present { map: &nothing, translate: None, repairs: &[] };
    assert_eq!(reconcile(&state, &present, time(0)), []);
}

#[test]
fn entries_follow_their_cells_where_that_can_be_told() {
    let then = machine([1, 2, 3], 16);
    let state = list((1..5).map(|number| made_on(&then, number, 0)));
    let map = machine([1, 2, 3], 32);
    // Pages change places; 3 goes to 9, 4 is not found.
    let swap = |page: &RetiredPage, _: Option<&Dimm>| {
        let to =
            [0, 2, 1, 9][usize::try_from(page.location.dimm.row?).ok().filter(|&row| row < 4)?];
        Some((Pfn(0x12_3000 + to), page.location.clone()))
    };
    let present = Present { map: &map, translate: Some(&swap), repairs: &[] };
    let after = settled(&state, &present);
    let rows: Vec<_> =
        after.pages.values().map(|page| (page.pfn.0 - 0x12_3000, page.location.dimm.row)).collect();
    assert_eq!(rows, [(1, Some(2)), (2, Some(1)), (9, Some(3))]);
    assert!(after.pages.values().all(|page| page.epoch == map.epoch()));
    assert!(after.pages.values().all(|page| page.state == RetireState::Pending));
    assert_eq!(after.suspended.len(), 1);
    let kinds = after.audit.iter().filter(|event| {
        matches!(event.what, AuditKind::Changed { kind: ChangeKind::Moved { .. }, .. })
    });
    assert_eq!(kinds.count(), 3);
}

#[test]
fn a_repaired_row_is_on_probation_until_the_next_error() {
    let map = machine([1, 2, 3], 16);
    let mut pages: Vec<_> = (1..4).map(|number| made_on(&map, number, 0)).collect();
    pages[1].location.dimm.row = Some(1);
    pages[2].location.dimm.row = None;
    let state = list(pages.clone());
    let repair = Repair {
        dimm: Some(module("A1", 1).identity.clone()),
        place: cells(DimmLocation { rank: Some(0), row: Some(1), ..DimmLocation::default() }),
        time: time(100),
    };
    let repairs = [repair];
    let present = Present { map: &map, translate: None, repairs: &repairs };
    let after = settled(&state, &present);
    use RetireState::{Probation, Retired};
    assert_eq!(states(&after), [(3, Retired), (1, Probation), (2, Probation)]);

    // An error after the repair makes an entry of its own, which the repair does not excuse.
    let again = RetiredPage { since: time(1500), ..pages[0].clone() };
    let failed = settled(&applied(&after, &[Entry::Page(Box::new(again))]), &present);
    assert_eq!(states(&failed), [(1, Retired), (3, Retired), (2, Probation)]);
    let last = failed.audit.back().unwrap();
    assert_eq!(last.who, "rule probation-failed");

    // Another module's row of the same number.
    let other = [Repair { dimm: Some(module("A1", 2).identity.clone()), ..repairs[0].clone() }];
    let present = Present { repairs: &other, ..present };
    assert_eq!(reconcile(&state, &present, time(1000)), []);
}

fn cells(dimm: DimmLocation) -> Location {
    Location { dimm, ..Location::default() }
}

#[test]
fn a_repair_behind_a_pci_function_is_only_its() {
    let map = machine([1, 2, 3], 16);
    let pci = |bus| Some(PciAddress { segment: 0, bus, device: 0, function: 0 });
    let place = Location {
        pci: pci(13),
        channel: Some(1),
        ..cells(DimmLocation { row: Some(1), ..DimmLocation::default() })
    };
    let page = |number, change: &dyn Fn(&mut Location)| {
        let mut page = RetiredPage { dimm: None, ..made_on(&map, number, 0) };
        page.location = place.clone();
        change(&mut page.location);
        page
    };
    let pages = vec![
        page(1, &|_| ()),
        page(2, &|location| location.pci = pci(14)),
        page(3, &|location| location.channel = None),
        page(4, &|location| location.pci = None),
    ];
    let repairs = [Repair { dimm: None, place: place.clone(), time: time(100) }];
    let after = settled(&list(pages), &Present { map: &map, translate: None, repairs: &repairs });
    use RetireState::{Probation, Retired};
    assert_eq!(states(&after), [(2, Retired), (3, Retired), (4, Retired), (1, Probation)]);
}

#[derive(Clone, Debug)]
enum Event {
    /// The machine is another one at the next start.
    Machine([u8; 3], u64),
    /// An error on a page of a slot.
    Condemned(u64, usize),
    Unretired(u64),
    /// Where cells are found: every row's page number is shifted and wrapped.
    Translate(Option<u64>),
    Repaired(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let serial = prop_oneof![4 => 1u8..5, 1 => Just(0), 1 => Just(9)];
    prop_oneof![
        ([serial.clone(), serial.clone(), serial], 1u64..4)
            .prop_map(|(serials, map)| Event::Machine(serials, map)),
        (0u64..8, 0usize..3).prop_map(|(page, slot)| Event::Condemned(page, slot)),
        (0u64..8).prop_map(Event::Unretired),
        proptest::option::of(0u64..8).prop_map(Event::Translate),
        (0u32..8).prop_map(Event::Repaired),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// See [`settled`], through any history.
    #[test]
    fn nothing_leaves_but_by_an_audited_word(
        events in proptest::collection::vec(event(), 1..40),
        bare in any::<[bool; 2]>(),
    ) {
        let mut map = machine([1, 2, 3], 1);
        let (mut state, mut shift, mut repairs) = (State::default(), None, Vec::new());
        for (now, event) in (0u64..).zip(events) {
            match event {
                Event::Machine(serials, size) => map = machine(serials, size),
                Event::Condemned(number, slot) => {
                    let mut page = made_on(&map, number, slot);
                    page.since = time(10 * now);
                    if bare[0] { page.epoch = None; }
                    if bare[1] { page.dimm = None; }
                    state.apply(Entry::Page(Box::new(page)));
                }
                Event::Unretired(number) => state.apply(unretired(number)),
                Event::Translate(by) => shift = by,
                Event::Repaired(row) => repairs.push(Repair {
                    dimm: Some(module("", 1).identity.clone()),
                    place: cells(DimmLocation { row: Some(row), ..DimmLocation::default() }),
                    time: time(10 * now),
                }),
            }
            // Rows of a page are its first number's: a translation may take two to one page.
            let translate = |page: &RetiredPage, _: Option<&Dimm>| {
                let row = u64::from(page.location.dimm.row?);
                let to = Pfn(0x12_3000 + (row * 3 / 2 + shift? + map.ranges[0].end.0) % 8);
                (row != 7).then(|| (to, page.location.clone()))
            };
            let translate: &Translate<'_> = &translate;
            let translate = shift.is_some().then_some(translate);
            let present = Present { map: &map, translate, repairs: &repairs };
            state = settled_at(&state, &present, time(10 * now + 5));
            for suspended in state.suspended.values().filter(|s| s.page.state == RetireState::Expired) {
                let serial = suspended.page.dimm.as_ref().and_then(|dimm| dimm.identity.serial.as_ref());
                prop_assert!(serial.is_some(), "expired by a guess: {suspended:?}");
            }
        }
    }
}
