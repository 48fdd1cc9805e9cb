use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::{AddressMode, ErrorAddress, PhysAddr, Severity};

const WINDOW: u64 = 2_000_000_000;

fn record(source: ErrorSource, page: u64, secs: Option<u64>) -> ErrorRecord {
    ErrorRecord {
        time: secs.map(Timestamp::from_secs),
        class: ErrorClass::Memory,
        severity: Severity::Corrected,
        address: Some(ErrorAddress {
            addr: PhysAddr(page << 12),
            lsb: 12,
            mode: AddressMode::Physical,
        }),
        ..ErrorRecord::new(source)
    }
}

fn mce(bank: u8, page: u64, secs: Option<u64>) -> ErrorRecord {
    let registers = McaRegisters { bank, status: 7, addr: page << 12, ..McaRegisters::default() };
    ErrorRecord { raw: Raw::Mca(registers), ..record(ErrorSource::MceRecord, page, secs) }
}

/// What comes out, each error as its sources, the head first.
fn joined(records: Vec<ErrorRecord>) -> Vec<Vec<&'static str>> {
    all(records).iter().map(sources).collect()
}

fn all(records: Vec<ErrorRecord>) -> Vec<Joined<usize>> {
    let mut join = Join::new(WINDOW);
    let mut found = vec![];
    let mut out = |joined| {
        found.push(joined);
        Ok::<_, core::convert::Infallible>(())
    };
    for (place, record) in records.into_iter().enumerate() {
        join.push(0, place, record, &mut out).unwrap();
        assert!(join.pending.len() <= Join::<usize>::PENDING_MAX);
    }
    join.finish(&mut out).unwrap();
    assert_eq!(join.alone, [0; CHANNELS]);
    found
}

fn sources(joined: &Joined<usize>) -> Vec<&'static str> {
    let head = core::iter::once(&*joined.record);
    head.chain(&joined.record.witnesses).map(|record| record.source.name()).collect()
}

use ErrorSource::{ApeiStatusBlock, KernelEdac, McEvent, MceRecord, MemoryFailure};

#[test]
fn the_most_informative_report_is_the_head_whatever_the_order() {
    let reports = || {
        [
            mce(7, 5, Some(10)),
            mce(255, 5, Some(10)),
            record(ApeiStatusBlock, 5, Some(11)),
            record(KernelEdac, 5, Some(10)),
            record(MemoryFailure, 5, Some(11)),
        ]
    };
    let expected = [vec![
        "mce_record",
        "apei_status_block",
        "mce_record",
        "kernel_log_edac",
        "memory_failure",
    ]];
    assert_eq!(joined(reports().to_vec()), expected);
    let mut backwards = reports().to_vec();
    backwards.reverse();
    let found = all(backwards);
    assert_eq!(sources(&found[0]), expected[0]);
    assert_eq!((found[0].place, found[0].places.as_slice()), (4, [2, 3, 1, 0].as_slice()));
}

#[test]
fn reports_of_one_source_are_counted_and_paired_in_order() {
    let reports = vec![
        record(MceRecord, 5, Some(10)),
        record(MceRecord, 5, Some(10)),
        record(McEvent, 5, Some(10)),
        record(McEvent, 5, Some(10)),
        record(McEvent, 5, Some(10)),
    ];
    let expected =
        [vec!["mce_record", "mc_event"], vec!["mce_record", "mc_event"], vec!["mc_event"]];
    assert_eq!(joined(reports), expected);
}

#[test]
fn what_differs_stays_apart() {
    let apart = |other: ErrorRecord| {
        let first = mce(7, 5, Some(10));
        assert_eq!(joined(vec![first, other]).len(), 2);
    };
    apart(record(KernelEdac, 6, Some(10)));
    apart(record(KernelEdac, 5, Some(13)));
    apart(ErrorRecord { severity: Severity::Srao, ..record(KernelEdac, 5, Some(10)) });
    apart(ErrorRecord { address: None, ..record(KernelEdac, 5, Some(10)) });
    let coarse = ErrorAddress { addr: PhysAddr(0), lsb: 30, mode: AddressMode::Physical };
    apart(ErrorRecord { address: Some(coarse), ..record(KernelEdac, 5, Some(10)) });
}

#[test]
fn without_times_the_place_in_the_log_decides() {
    let between = |count| {
        let mut records = vec![mce(7, 5, None)];
        records.extend((0..count).map(|page| record(MceRecord, 100 + page, None)));
        records.push(record(KernelEdac, 5, None));
        joined(records).iter().any(|sources| sources.len() == 2)
    };
    assert!(between(0) && between(60) && !between(70));

    let mut join = Join::new(WINDOW);
    let mut count = 0;
    let mut out = |_: Joined<()>| {
        count += 1;
        Ok::<_, core::convert::Infallible>(())
    };
    join.push(0, (), mce(7, 5, None), &mut out).unwrap();
    join.push(1, (), record(KernelEdac, 5, Some(1)), &mut out).unwrap();
    join.finish(&mut out).unwrap();
    assert_eq!(count, 2, "another log's places say nothing");
}

#[test]
fn one_bank_in_two_places_needs_no_page() {
    let normalized = |source| {
        let mut record = ErrorRecord { source, ..mce(17, 5, Some(1)) };
        record.address = record.address.map(|at| ErrorAddress { mode: AddressMode::Memory, ..at });
        record
    };
    let expected = [vec!["mce_record", "kernel_log_mce"]];
    assert_eq!(joined(vec![normalized(MceRecord), normalized(ErrorSource::KernelMce)]), expected);
}

#[test]
fn only_what_is_absent_is_filled_in_and_it_is_said_from_whom() {
    let mut head = mce(7, 5, Some(10));
    head.location.channel = Some(1);
    head.location.dimm.row = Some(3);
    let mut edac = record(KernelEdac, 5, Some(10));
    edac.location = Location {
        imc: Some(2),
        channel: Some(0),
        fru: Some("CPU_SrcID#0_MC#2_Chan#0_DIMM#0".into()),
        dimm: DimmLocation { row: Some(9), column: Some(4), ..DimmLocation::default() },
        ..Location::default()
    };
    let mut found = all(vec![head, edac.clone()]);
    let Joined { record, .. } = found.remove(0);
    assert_eq!(record.witnesses, [edac], "the witness is whole");
    let location = &record.location;
    assert_eq!((location.imc, location.channel), (None, Some(1)), "one counting, not a mixture");
    assert_eq!((location.dimm.row, location.dimm.column), (Some(3), Some(4)));
    assert_eq!(location.fru.as_deref(), Some("CPU_SrcID#0_MC#2_Chan#0_DIMM#0"));
    let from = |name| Detail { name: Cow::Borrowed(name), value: "kernel_log_edac".into() };
    let expected = Value::Group(vec![from("fru"), from("dimm.column")]);
    assert_eq!(record.details, [Detail { name: Cow::Borrowed("location_from"), value: expected }]);
}

proptest! {
    /// Whatever comes in comes out, once, the first report of each error in its order.
    #[test]
    fn nothing_is_lost(
        records in proptest::collection::vec(
            (0usize..4, 0u64..6, proptest::option::of(0u64..100)), 0..1500
        )
    ) {
        let kinds = [MceRecord, ApeiStatusBlock, McEvent, MemoryFailure];
        let records: Vec<ErrorRecord> =
            records.into_iter().map(|(kind, page, time)| record(kinds[kind], page, time)).collect();
        let count = records.len();
        let found = all(records);
        let places = found.iter().map(|joined| {
            let mut places = joined.places.clone();
            places.push(joined.place);
            places
        });
        let first: Vec<usize> = places.clone().filter_map(|places| places.into_iter().min()).collect();
        prop_assert!(first.is_sorted());
        let mut all: Vec<usize> = places.flatten().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        for joined in &found {
            let mut sources = sources(joined);
            sources.sort_unstable();
            sources.dedup();
            prop_assert_eq!(sources.len(), joined.record.witnesses.len() + 1);
        }
    }
}
