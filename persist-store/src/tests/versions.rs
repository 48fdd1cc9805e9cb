//! Lists that older versions wrote: bytes they made, kept for good, and read by this one.

use std::fs;

use ras_store_format::{AuditKind, Damage, Header, Reading, Record};
use tempfile::TempDir;

use super::*;
use crate::{Store, read};

/// Every version that was handed out, with what it wrote and who reads it here.
const VERSIONS: &[(&str, &str, &str)] =
    &[("1.0", include_str!("golden/journal-1.0.hex"), include_str!("golden/witness-1.0.hex"))];

/// `size N`, then `OFFSET HEX` for each 32 bytes that are not zero; all in hexadecimal but N.
fn bytes(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let size = lines.next().and_then(|line| line.strip_prefix("size ")).unwrap();
    let mut bytes = vec![0; size.parse().unwrap()];
    for line in lines {
        let (offset, row) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        for (index, digits) in row.as_bytes().chunks(2).enumerate() {
            let digits = std::str::from_utf8(digits).unwrap();
            bytes[offset + index] = u8::from_str_radix(digits, 16).unwrap();
        }
    }
    bytes
}

/// What version 1.0 was told.
fn told() -> State {
    let place = DimmLocation {
        node: Some(1),
        card: Some(2),
        module: Some(3),
        rank: Some(0),
        bank_group: Some(2),
        bank: Some(7),
        device: Some(11),
        row: Some(0x1_2345),
        column: Some(0x3f8),
        bit_position: Some(5),
        module_handle: Some(0x1101),
        chip: None,
    };
    let page = |number, state| {
        let Entry::Page(mut page) = page(number, state) else { unreachable!() };
        page.location.cpu = Some(3);
        page.location.dimm = place;
        page
    };
    let bare = RetiredPage {
        reason: RetireReason::CorrectedThreshold,
        severity: Severity::Corrected,
        source: ErrorSource::Cper,
        location: Location::default(),
        outcome: "".into(),
        ..*page(2, RetireState::Failed)
    };
    let operator = RetiredPage {
        reason: RetireReason::Operator,
        severity: Severity::Unknown,
        source: ErrorSource::Operator,
        location: Location::default(),
        diagnosis: "é日".into(),
        ..*page(3, RetireState::Pending)
    };
    let mut state = State::default();
    let pages = [page(1, RetireState::Retired), Box::new(bare), Box::new(operator)];
    let row = (11..30).map(|number| page(number, RetireState::Retired));
    state.pages = pages.into_iter().chain(row).map(|page| (page.pfn, page)).collect();
    state.node = Some(NodeState {
        health: Health::Red,
        evacuation: Evacuation::Done,
        reason: "two pages".into(),
        since: time(9),
    });
    state.apply(Entry::Observed { pfn: Pfn(0x99), time: time(5) });
    state.apply(Entry::DamageAccepted {
        time: time(7),
        who: "operator".into(),
        note: "compared with the log".into(),
    });
    state.apply(Entry::Unretired {
        pfn: Pfn(0x12_300a),
        time: time(8),
        who: "operator".into(),
        note: "tested for a week".into(),
    });
    state.apply(Entry::Damaged(Damage {
        time: time(9),
        detail: "the journal was cut short".into(),
        quarantined: String::new(),
    }));
    state
}

#[test]
fn every_older_version_is_read_and_taken_over() {
    for (version, journal, witness) in VERSIONS {
        let temp = TempDir::new().unwrap();
        let (journal, witness) = (bytes(journal), bytes(witness));
        fs::write(temp.path().join("journal"), &journal).unwrap();
        fs::write(temp.path().join("witness"), &witness).unwrap();
        let (state, recovery) = read(temp.path()).unwrap();
        assert!(recovery.is_clean() && recovery.unknown_records == 0, "{version}: {recovery}");
        assert_eq!(state, told(), "{version}");
        assert_eq!(fs::read(temp.path().join("journal")).unwrap(), journal, "a reader wrote");

        // Taken over for writing, and what this version can say beside it.
        let (mut store, recovery) = Store::open(temp.path()).unwrap();
        assert!(recovery.is_clean(), "{version}: {recovery}");
        assert_eq!(*store.state(), state);
        store.append(placed(40, RetireState::Pending)).unwrap();
        let state = store.state().clone();
        drop(store);
        assert_eq!(read(temp.path()).unwrap().0, state);
        let journal = fs::read(temp.path().join("journal")).unwrap();
        let reading = Reading::of(&journal, None).unwrap();
        assert!(matches!(reading.header, Some(Header { minor: 1, .. })), "{version}");
    }
}

/// What a version 1.0 program makes of a journal: kinds it does not know it keeps as they are, and
/// puts first when it rewrites.
fn old_program(bytes: &[u8]) -> (State, Vec<Vec<u8>>) {
    const KINDS: u16 = 6;
    let reading = Reading::of(bytes, None).unwrap();
    let (mut state, mut unknown) = (State::default(), Vec::new());
    for mut records in reading.blocks {
        while let Some((record, rest)) = Record::split(records) {
            let whole = &records[..records.len() - rest.len()];
            if u16::from_le_bytes([whole[0], whole[1]]) > KINDS {
                unknown.push(whole.to_vec());
            } else {
                state.read(record);
            }
            records = rest;
        }
    }
    (state, unknown)
}

/// Whatever this version says of a page, version 1.0 keeps it out of use; and what version 1.0 makes of
/// the journal loses nothing but what was suspended, which is then out of use.
#[test]
fn an_older_program_stays_conservative() {
    for rewritten in [false, true] {
        let disk = Simulated::empty("conservative");
        let (mut journal, _) = open(&disk).unwrap();
        journal
            .append(&[placed(1, RetireState::Pending), placed(2, RetireState::Retired)])
            .unwrap();
        journal.append(&[placed(3, RetireState::Retired), page(4, RetireState::Retired)]).unwrap();
        let suspend = |number, kind| change(number, kind);
        journal.append(&[suspend(1, ChangeKind::Expired)]).unwrap();
        journal.append(&[suspend(2, ChangeKind::Probation)]).unwrap();
        journal.append(&[suspend(3, ChangeKind::Stale), placed(5, RetireState::Pending)]).unwrap();
        let moved = ChangeKind::Moved { to: Pfn(0x12_3005) };
        journal.append(&[suspend(3, moved)]).unwrap();
        if rewritten {
            journal.upgrade().unwrap();
        }
        let state = journal.state().clone();
        assert_eq!(state.pages.len(), 2, "4 and 5");
        assert_eq!(state.suspended.len(), 2, "1 and 2");
        assert_eq!(open(&disk).unwrap().0.state(), &state);

        let bytes = disk.contents(crate::backend::File::Journal).unwrap();
        let (seen, unknown) = old_program(&bytes);
        let known_before = if rewritten { vec![1, 2, 4, 5] } else { vec![1, 2, 3, 4, 5] };
        let pages: Vec<_> = seen.pages.keys().map(|pfn| pfn.0 - 0x12_3000).collect();
        assert_eq!(pages, known_before, "rewritten: {rewritten}");

        // It rewrites: first what it does not know, then its own list.
        let mut back = State::default();
        let known = seen.entries().map(|entry| entry.encode().unwrap());
        for record in unknown.into_iter().chain(known) {
            let mut records = record.as_slice();
            while let Some((record, rest)) = Record::split(records) {
                back.read(record);
                records = rest;
            }
        }
        back.settle();
        assert_eq!(back.pages.keys().collect::<Vec<_>>(), seen.pages.keys().collect::<Vec<_>>());
        let (four, five) = (Pfn(0x12_3004), Pfn(0x12_3005));
        assert_eq!(
            [&back.pages[&four], &back.pages[&five]],
            [&state.pages[&four], &state.pages[&five]]
        );
        assert!(back.pages[&Pfn(0x12_3001)].dimm.is_some(), "the origin was not kept");
        let of_page = |event: &&ras_store_format::AuditEvent| {
            matches!(event.what, AuditKind::Changed { pfn: Pfn(0x12_3001), .. })
        };
        assert_eq!(back.audit.iter().filter(of_page).count(), 1);
    }
}

/// A module that left the list with its last page is named again with the next one.
#[test]
fn a_module_is_named_again_after_a_rewrite() {
    let disk = Simulated::empty("named again");
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&[placed(1, RetireState::Retired), unretired(1)]).unwrap();
    journal.upgrade().unwrap();
    journal.append(&[placed(2, RetireState::Retired)]).unwrap();
    let state = journal.state().clone();
    assert!(state.pages.values().all(|page| page.dimm.is_some()));
    assert_eq!(open(&disk).unwrap().0.state(), &state);
}
