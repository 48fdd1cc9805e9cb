//! What lies on disk: fixed bytes of version 1, every entry there and back, and bytes from anywhere.

use std::sync::Arc;

use proptest::prelude::*;
use ras_core::{
    Dimm, DimmIdentity, DimmLocation, ErrorSource, Evacuation, Health, Location, MapEpoch,
    NodeState, PciAddress, Pfn, RetireReason, RetireState, RetiredPage, Severity, SmolStr,
    Timestamp,
};
use ras_store_format::layout::{BLOCK_SIZE, PAYLOAD_SIZE, encode_commit};
use ras_store_format::{
    Change, ChangeKind, Damage, Encoder, Entry, Geometry, Header, Observations, Part, Reading,
    Record, State, Witness,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn small_page() -> Entry {
    Entry::Page(Box::new(RetiredPage {
        pfn: Pfn(0x12_3456),
        reason: RetireReason::CorrectedThreshold,
        state: RetireState::Retired,
        severity: Severity::Corrected,
        source: ErrorSource::Cper,
        since: Timestamp(0x0102_0304_0506_0708),
        updated: Timestamp(0x1112_1314_1516_1718),
        attempts: 3,
        location: Location {
            socket: Some(1),
            dimm: DimmLocation { row: Some(0xbeef), ..DimmLocation::default() },
            fru: Some("B2".into()),
            ..Location::default()
        },
        dimm: None,
        epoch: None,
        diagnosis: "why".into(),
        outcome: "ok".into(),
    }))
}

/// Version 1 for good. If this fails, journals in the field can't be read any more: a changed layout
/// is a new record kind, never a new meaning of an old one.
#[test]
fn bytes_of_version_1() {
    let page = [
        "0100",             // kind 1
        "3700",             // 55 bytes
        "5634120000000000", // pfn
        "0807060504030201", // since
        "1817161514131211", // updated
        "03000000",         // attempts
        "01010201",         // reason, state, severity, source
        "0244",             // location: socket, row, FRU
        "01000000",
        "efbe0000",
        "02004232",   // "B2"
        "0300776879", // "why"
        "02006f6b",   // "ok"
    ]
    .concat();
    assert_eq!(hex(&small_page().encode().unwrap()), page);

    let node = Entry::Node(NodeState {
        health: Health::Red,
        evacuation: Evacuation::Pending { guest: Some("vm1".into()) },
        reason: "r".into(),
        since: Timestamp(1),
    });
    assert_eq!(hex(&node.encode().unwrap()), "04001200010000000000000002020300766d31010072");
    let observed = Entry::Observed { pfn: Pfn(2), time: Timestamp(3) };
    let observed = observed.encode().unwrap();
    assert_eq!(hex(&observed), "0300100002000000000000000300000000000000");

    let header = Header { minor: 0, generation: 5, geometry: Geometry::DEFAULT }.encode();
    assert_eq!(header.len(), BLOCK_SIZE);
    let expect = [
        "5241535041474553",
        "46b14517",
        "0100",
        "0000",
        "0500000000000000",
        "80000000",
        "00000000",
    ];
    assert_eq!(hex(&header[..32]), expect.concat());

    let block = encode_commit(5, 9, &[observed]).unwrap();
    let expect = [
        "52415342",         // "RASB"
        "a66d0407",         // checksum
        "0500000000000000", // generation
        "0900000000000000", // number
        "0900000000000000", // first block of the commit
        "01000000",         // its blocks
        "1400",             // bytes of records
        "0000",
    ];
    assert_eq!(hex(&block[..40]), expect.concat());

    let expect =
        ["5241535749544e53", "bf098e58", "00000000", "0500000000000000", "0a00000000000000"];
    assert_eq!(hex(&Witness { generation: 5, blocks: 10 }.encode()), expect.concat());
}

/// What version 1.1 added, likewise for good.
#[test]
fn bytes_of_version_1_1() {
    let Entry::Page(mut page) = small_page() else { unreachable!() };
    page.location.imc = Some(2);
    page.location.dimm.chip = Some(1);
    page.location.pci = Some(PciAddress { segment: 1, bus: 0x7f, device: 10, function: 3 });
    page.epoch = Some(MapEpoch(0x0102_0304_0506_0708));
    page.dimm = Some(Arc::new(Dimm {
        identity: DimmIdentity::new("M", "P", "S1"),
        locator: "A1".into(),
        bank_locator: String::new(),
        size: 0x8_0000_0000,
    }));
    let dimm = [
        "0700",             // kind 7
        "2000",             // 32 bytes
        "bda9509a7bf7e232", // digest
        "0000000008000000", // size
        "01004d",           // manufacturer
        "010050",           // part
        "02005331",         // serial
        "02004131",         // locator
        "0000",             // bank locator
    ]
    .concat();
    let origin = [
        "0800",             // kind 8
        "2b00",             // 43 bytes
        "5634120000000000", // pfn
        "0807060504030201", // since
        "1f",               // all there
        "0807060504030201", // epoch
        "bda9509a7bf7e232", // module
        "0200",             // memory controller
        "01",               // die
        "010000007f0a03",   // PCI function
    ]
    .concat();
    let base = hex(&small_page().encode().unwrap());
    assert_eq!(hex(&Entry::Page(page).encode().unwrap()), [dimm, base, origin].concat());

    let change = Entry::Changed(Change {
        pfn: Pfn(1),
        since: Timestamp(2),
        time: Timestamp(3),
        kind: ChangeKind::Moved { to: Pfn(4) },
        logged: true,
        who: "w".into(),
        note: "n".into(),
    });
    let expect = [
        "0900",
        "2800",
        "0100000000000000",
        "0200000000000000",
        "0400000000000000",
        "0401",
        "0300000000000000",
        "010077",
        "01006e",
    ];
    assert_eq!(hex(&change.encode().unwrap()), expect.concat());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{0,40}", ".{900,1100}", Just("é".repeat(700))]
}

fn location() -> impl Strategy<Value = Location> {
    let dimm = (any::<[Option<u16>; 8]>(), any::<[Option<u32>; 2]>(), any::<[Option<u8>; 2]>());
    let pci = proptest::option::of(any::<(u32, u8, u8, u8)>());
    let pci = pci.prop_map(|pci| {
        pci.map(|(segment, bus, device, function)| PciAddress { segment, bus, device, function })
    });
    let place = (any::<[Option<u32>; 2]>(), any::<Option<u8>>(), any::<Option<u16>>(), pci);
    (place, dimm, proptest::option::of(text())).prop_map(
        |(([cpu, socket], channel, imc, pci), (words, [row, column], [bank_group, chip]), fru)| {
            let [node, card, module, rank, bank, device, bit_position, module_handle] = words;
            let dimm = DimmLocation {
                node,
                card,
                module,
                rank,
                bank_group,
                bank,
                device,
                row,
                column,
                bit_position,
                module_handle,
                chip,
            };
            Location { cpu, socket, imc, channel, dimm, fru: fru.map(SmolStr::from), pci }
        },
    )
}

fn dimm() -> impl Strategy<Value = Arc<Dimm>> {
    let texts = (text(), text(), text(), text(), text());
    (texts, any::<u64>()).prop_map(|((manufacturer, part, serial, locator, bank_locator), size)| {
        let identity = DimmIdentity::new(&manufacturer, &part, &serial);
        Arc::new(Dimm { identity, locator, bank_locator, size })
    })
}

fn page() -> impl Strategy<Value = RetiredPage> {
    use Severity as S;
    (
        (0u64..6, 0u64..3, any::<u64>(), any::<u32>()),
        proptest::sample::select(vec![
            RetireReason::Uncorrected,
            RetireReason::CorrectedThreshold,
            RetireReason::Operator,
        ]),
        proptest::sample::select(vec![
            RetireState::Pending,
            RetireState::Retired,
            RetireState::Failed,
        ]),
        proptest::sample::select(vec![
            S::Unknown,
            S::Informational,
            S::Corrected,
            S::Deferred,
            S::Ucna,
            S::Srao,
            S::Srar,
            S::Fatal,
        ]),
        proptest::sample::select(vec![
            ErrorSource::MceRecord,
            ErrorSource::Cper,
            ErrorSource::ApeiStatusBlock,
            ErrorSource::MemoryFailure,
            ErrorSource::Operator,
        ]),
        location(),
        (text(), text()),
        (proptest::option::of(dimm()), proptest::option::of(any::<u64>().prop_map(MapEpoch))),
    )
        .prop_map(|(numbers, reason, state, severity, source, location, texts, origin)| {
            let (pfn, since, updated, attempts) = numbers;
            RetiredPage {
                pfn: Pfn(pfn),
                reason,
                state,
                severity,
                source,
                since: Timestamp(since),
                updated: Timestamp(updated),
                attempts,
                location,
                dimm: origin.0,
                epoch: origin.1,
                diagnosis: texts.0.into(),
                outcome: texts.1.into(),
            }
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    let pfn = (0u64..6).prop_map(Pfn);
    let time = || any::<u64>().prop_map(Timestamp);
    let health = proptest::sample::select(vec![Health::Green, Health::Yellow, Health::Red]);
    let evacuation = prop_oneof![
        Just(Evacuation::None),
        proptest::option::of(text()).prop_map(|guest| Evacuation::Pending { guest }),
        Just(Evacuation::Done),
    ];
    let change = proptest::sample::select(vec![
        ChangeKind::Probation,
        ChangeKind::Expired,
        ChangeKind::Stale,
        ChangeKind::Reinstated,
        ChangeKind::Moved { to: Pfn(3) },
        ChangeKind::Forgotten,
    ]);
    prop_oneof![
        page().prop_map(Entry::from),
        (pfn.clone(), 0u64..3, time(), change, any::<bool>(), text(), text()).prop_map(
            |(pfn, since, time, kind, logged, who, note)| {
                let since = Timestamp(since);
                Entry::Changed(Change { pfn, since, time, kind, logged, who, note })
            }
        ),
        (pfn.clone(), time(), text(), text()).prop_map(|(pfn, time, who, note)| Entry::Unretired {
            pfn,
            time,
            who,
            note
        }),
        (pfn, time()).prop_map(|(pfn, time)| Entry::Observed { pfn, time }),
        (health, evacuation, text(), time()).prop_map(|(health, evacuation, reason, since)| {
            Entry::Node(NodeState { health, evacuation, reason, since })
        }),
        (time(), text(), text()).prop_map(|(time, detail, quarantined)| {
            Entry::Damaged(Damage { time, detail, quarantined })
        }),
        (time(), text(), text()).prop_map(|(time, who, note)| Entry::DamageAccepted {
            time,
            who,
            note
        }),
    ]
}

/// The list that the records make.
fn read(mut records: &[u8]) -> State {
    let mut state = State::default();
    while let Some((record, rest)) = Record::split(records) {
        assert!(!matches!(record, Record::Unknown(_)), "{record:?}");
        state.read(record);
        records = rest;
    }
    assert!(records.is_empty());
    state.settle();
    state
}

/// The same by way of [`Part`]s, the second of which begins behind `first` records.
fn joined(records: &[u8], first: usize) -> State {
    let mut rest = records;
    for _ in 0..first {
        rest = Record::split(rest).map_or(rest, |(_, rest)| rest);
    }
    let parts = [&records[..records.len() - rest.len()], rest].map(|records| {
        let mut part = Part::default();
        assert!(part.read(records));
        part
    });
    State::of(parts)
}

fn applied(entry: Entry) -> State {
    let mut state = State::default();
    state.apply(entry);
    state
}

proptest! {
    /// There and back. Only texts beyond the limits change, and only once.
    #[test]
    fn every_entry_comes_back(entry in entry()) {
        let record = entry.encode().unwrap();
        prop_assert!(record.len() <= PAYLOAD_SIZE);
        let back = read(&record);
        let again: Vec<u8> = back.entries().flat_map(|entry| entry.encode().unwrap()).collect();
        prop_assert!(read(&again) == back);
        if record.len() < 255 {
            prop_assert!(back == applied(entry));
        }
    }

    /// A rewrite says the same: the entries of a state make that state.
    #[test]
    fn a_state_is_its_entries(
        entries in proptest::collection::vec(entry(), 0..40),
        cut in 0..80usize,
    ) {
        let mut encoder = Encoder::default();
        let bytes: Vec<u8> =
            entries.iter().flat_map(|entry| encoder.encode(entry).unwrap()).collect();
        prop_assert!(joined(&bytes, cut) == read(&bytes), "in parts it is another list");
        let mut state = State::default();
        for entry in entries {
            state.apply(entry.clone());
            let once = state.clone();
            state.apply(entry);
            prop_assert!(state == once, "applying twice changed something");
        }
        let mut again = State::default();
        state.entries().for_each(|entry| again.apply(entry));
        prop_assert!(again == state);
        // And so do the bytes, each module named once.
        let mut encoder = Encoder::default();
        let bytes: Vec<u8> =
            again.entries().flat_map(|entry| encoder.encode(&entry).unwrap()).collect();
        let cut = read(&bytes);
        let mut encoder = Encoder::default();
        let bytes: Vec<u8> =
            cut.entries().flat_map(|entry| encoder.encode(&entry).unwrap()).collect();
        prop_assert!(read(&bytes) == cut);
        prop_assert_eq!(cut.pages.len(), state.pages.len());
        prop_assert_eq!(cut.suspended.len(), state.suspended.len());
    }

    #[test]
    fn records_from_anywhere(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..11) {
        let _ = Record::split(&bytes);
        // The same behind a frame that fits, so that every decoder sees it.
        let mut framed = vec![kind, 0];
        framed.extend(u16::try_from(bytes.len()).unwrap().to_le_bytes());
        framed.extend(&bytes);
        let (record, rest) = Record::split(&framed).unwrap();
        prop_assert!(rest.is_empty());
        // Whatever it is, a rewrite gives the same bytes.
        match record {
            Record::Known(entry) => prop_assert_eq!(entry.encode().unwrap(), framed),
            Record::Unknown(unknown) => prop_assert_eq!(unknown.encode(), framed),
            // Written with their page only.
            Record::Dimm(_) | Record::Origin(_) => {}
        }
    }

    #[test]
    fn journals_from_anywhere(
        bytes in proptest::collection::vec(any::<u8>(), 0..3 * BLOCK_SIZE),
        generation in 0u64..3,
        blocks in any::<u64>(),
    ) {
        let reading = Reading::of(&bytes, Some(Witness { generation, blocks })).unwrap();
        prop_assert!(reading.fault.is_some());
        prop_assert!(Witness::decode(&bytes).is_none());
    }

    /// Headers and blocks with good checksums and absurd numbers.
    #[test]
    fn journals_with_absurd_numbers(
        segment_blocks in 1u32..=16_384,
        numbers in any::<[u64; 4]>(),
        place in 2usize..6,
        witness in any::<Option<(u64, u64)>>(),
    ) {
        let [generation, start, other, shift] = numbers;
        let geometry = Geometry::new(segment_blocks).unwrap();
        let mut bytes = Header { minor: 9, generation, geometry }.encode().repeat(2);
        bytes.resize(8 * BLOCK_SIZE, 0);
        for (index, start) in [start >> (shift % 64), other, 0].into_iter().enumerate() {
            if let Some(block) = encode_commit(generation, start, &[vec![7; 30]]) {
                let at = (place + index).min(7) * BLOCK_SIZE;
                bytes[at..at + BLOCK_SIZE].copy_from_slice(&block);
            }
        }
        let witness = witness.map(|(generation, blocks)| Witness { generation, blocks });
        let _ = Reading::of(&bytes, witness).unwrap();
    }
}

/// Both bounds: number and age relative to the newest.
#[test]
fn observations_are_bounded() {
    let mut state = State::default();
    let mut observe = |pfn: u64, time: u64| {
        state.apply(Entry::Observed { pfn: Pfn(pfn), time: Timestamp(time) });
        state.observed.len()
    };
    let count = Observations::COUNT_MAX as u64;
    for number in 0..count + 100 {
        observe(number % 7, number);
    }
    assert_eq!(observe(0, count + 200), Observations::COUNT_MAX);
    assert_eq!(observe(1, count + 200 + Observations::AGE_MAX_NS), 2);
    assert_eq!(state.observed.of_page(Pfn(1)).count(), 1);

    // Retiring a page ends the counting.
    state.apply(small_page());
    let retired = Pfn(0x12_3456);
    state.apply(Entry::Observed { pfn: retired, time: Timestamp(u64::MAX) });
    assert_eq!(state.observed.of_page(retired).count(), 0);
}
