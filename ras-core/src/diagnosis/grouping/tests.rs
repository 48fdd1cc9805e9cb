//! Each rule with figures at its limit and below, and what holds for any records.

use alloc::string::ToString as _;
use alloc::vec;
use proptest::prelude::*;
use smol_str::ToSmolStr as _;

use super::*;
use crate::{DimmLocation, ErrorAddress, Pfn, PhysAddr};

fn at(rank: u16, device: u16, bank: u16, row: u32, column: u32) -> ErrorRecord {
    let dimm = DimmLocation {
        rank: Some(rank),
        device: Some(device),
        bank_group: Some(0),
        bank: Some(bank),
        row: Some(row),
        column: Some(column),
        ..DimmLocation::default()
    };
    let location = Location { dimm, fru: Some("DIMM_A1".into()), ..Location::default() };
    ErrorRecord { location, ..memory() }
}

fn memory() -> ErrorRecord {
    ErrorRecord {
        class: ErrorClass::Memory,
        severity: Severity::Corrected,
        ..ErrorRecord::new(ErrorSource::Cper)
    }
}

fn cell(row: u32, column: u32) -> ErrorRecord {
    at(0, 0, 0, row, column)
}

fn other(class: ErrorClass, severity: Severity) -> ErrorRecord {
    ErrorRecord { class, severity, ..ErrorRecord::new(ErrorSource::MceRecord) }
}

fn on_page(record: ErrorRecord, pfn: u64) -> ErrorRecord {
    let address = ErrorAddress { addr: PhysAddr(pfn << 12), lsb: 6, mode: AddressMode::Physical };
    ErrorRecord { address: Some(address), ..record }
}

fn groups(records: impl IntoIterator<Item = ErrorRecord>) -> Vec<Group> {
    let mut grouping = Grouping::default();
    for record in records {
        grouping.add(&record);
    }
    grouping.groups()
}

fn modes(records: impl IntoIterator<Item = ErrorRecord>) -> Vec<&'static str> {
    let mut modes: Vec<_> = groups(records).iter().map(|group| group.fault.mode.name()).collect();
    modes.sort_unstable();
    modes
}

#[test]
fn one_corrected_error_is_no_fault_and_the_second_on_its_cell_is() {
    assert!(modes([cell(1, 1)]).is_empty());
    assert!(modes([cell(1, 1), cell(2, 2)]).is_empty());
    assert_eq!(modes([cell(1, 1), cell(1, 1)]), ["cell"]);
    assert_eq!(modes([ErrorRecord { count: 2, ..cell(1, 1) }]), ["cell"], "two in one report");
}

#[test]
fn an_uncorrected_error_is_a_fault_by_itself() {
    let found = groups([ErrorRecord { severity: Severity::Srao, ..cell(1, 1) }]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].fault.mode, FaultMode::Cell);
    assert_eq!(found[0].fault.severity, Severity::Srao);
    assert_eq!(found[0].fault.location.dimm.row, Some(1));
    assert_eq!(found[0].fault.reason, "row 0x1, column 0x1: 1 uncorrected error");
}

#[test]
fn rows_columns_and_banks_at_their_limits() {
    assert_eq!(modes([cell(1, 1), cell(1, 2)]), ["row"]);
    assert!(modes((0..3).map(|row| cell(row, 1))).is_empty());
    assert_eq!(modes((0..4).map(|row| cell(row, 1))), ["column"]);
    assert!(modes((0..3).map(|n| cell(n, n))).is_empty());
    assert_eq!(modes((0..4).map(|n| cell(n, n))), ["bank"]);
}

#[test]
fn the_reason_has_the_figures() {
    let row = groups([cell(7, 1), cell(7, 2), cell(7, 2)]);
    assert_eq!(row[0].fault.reason, "2 columns in row 0x7 (limit 2): 3 corrected errors");
    assert_eq!(row[0].spread.columns, 2);
    let dimm = row[0].fault.location.dimm;
    assert_eq!((dimm.bank, dimm.row, dimm.column), (Some(0), Some(7), None));
}

#[test]
fn one_row_and_one_column_are_not_a_bank() {
    let row = (0..20).map(|column| cell(100, column * 8));
    let column = (0..20).map(|row| cell(row, 40));
    assert_eq!(modes(row.chain(column)), ["column", "row"]);
}

#[test]
fn two_columns_that_cross_every_row_break_no_row() {
    let both = (0..6).flat_map(|row| [cell(row, 8), cell(row, 16)]);
    assert_eq!(modes(both), ["column", "column"]);
}

#[test]
fn several_broken_banks_are_a_device_and_several_devices_a_rank() {
    let row = |rank, device, bank| [at(rank, device, bank, 5, 1), at(rank, device, bank, 5, 2)];
    assert_eq!(modes(row(0, 3, 0).into_iter().chain(row(0, 3, 1))), ["device"]);
    assert_eq!(modes(row(0, 3, 0).into_iter().chain(row(0, 4, 0))), ["rank"]);
    let four = [(0, 3, 0), (0, 3, 1), (1, 3, 0), (1, 3, 1)];
    assert_eq!(modes(four.into_iter().flat_map(|(r, d, b)| row(r, d, b))), ["module"]);
    // Cells weak by chance: two banks are not enough, three are.
    let weak = |bank| [at(0, 3, bank, 9, 9), at(0, 3, bank, 9, 9)];
    assert_eq!(modes((0..2).flat_map(weak)), ["cell", "cell"]);
    assert_eq!(modes((0..3).flat_map(weak)), ["device"]);
}

#[test]
fn an_unnamed_device_makes_it_the_rank() {
    let unnamed = |bank, column| {
        let mut record = at(0, 0, bank, 5, column);
        record.location.dimm.device = None;
        record
    };
    let found = groups([unnamed(0, 1), unnamed(0, 2), unnamed(1, 1), unnamed(1, 2)]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].fault.mode, found[0].confidence), (FaultMode::Rank, Confidence::Medium));
    assert!(found[0].fault.reason.contains("no record names the device"));
}

#[test]
fn without_a_bank_a_row_says_nothing() {
    let no_bank = |column| {
        let mut record = cell(5, column);
        record.location.dimm.bank = None;
        on_page(record, 7)
    };
    let found = groups([no_bank(1), no_bank(2)]);
    assert_eq!(found[0].fault.mode, FaultMode::Pages(PfnRange::single(Pfn(7))));
    assert!(found[0].fault.reason.contains("no record names a cell"));
}

#[test]
fn rows_without_columns_are_a_bank_with_doubt() {
    let no_column = |row| {
        let mut record = cell(row, 0);
        record.location.dimm.column = None;
        record
    };
    assert!(modes((0..3).map(no_column)).is_empty());
    let found = groups((0..4).map(no_column));
    assert_eq!((found[0].fault.mode, found[0].confidence), (FaultMode::Bank, Confidence::Low));
}

#[test]
fn pages_stand_in_where_no_cell_is_named() {
    assert!(modes([on_page(memory(), 7)]).is_empty());
    assert_eq!(modes([on_page(memory(), 7), on_page(memory(), 7)]), ["pages"]);
    // A page of a cell that is known is not told twice.
    assert_eq!(modes([on_page(cell(1, 1), 7), on_page(cell(1, 1), 7)]), ["cell"]);
    let many = (0..64).flat_map(|page| [on_page(memory(), page), on_page(memory(), page)]);
    assert_eq!(modes(many), ["module"]);
}

#[test]
fn normalized_addresses_name_no_page_but_the_same_place_twice() {
    let normalized = |addr| {
        let address = ErrorAddress { addr: PhysAddr(addr), lsb: 6, mode: AddressMode::Memory };
        ErrorRecord { address: Some(address), ..memory() }
    };
    let mut grouping = Grouping::default();
    for addr in [0x1000, 0x2000, 0x1020] {
        grouping.add(&normalized(addr));
    }
    assert_eq!(grouping.pages().count(), 0);
    let found = grouping.groups();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].fault.mode, FaultMode::Cell);
}

#[test]
fn a_module_of_which_only_the_name_is_known_needs_mcelogs_rate() {
    let hourly = |hours: u64, count| {
        (0..count).map(move |n| ErrorRecord {
            time: Some(Timestamp::from_secs(n * hours * 3600)),
            ..memory()
        })
    };
    assert!(modes(hourly(1, 9)).is_empty());
    assert_eq!(modes(hourly(1, 10)), ["module"]);
    assert!(modes(hourly(24, 30)).is_empty(), "one a day is below the rate");
    let lost = ErrorRecord { severity: Severity::Ucna, ..memory() };
    assert_eq!(modes([lost]), ["unlocated"]);
}

#[test]
fn caches_links_and_processors() {
    let cache = |cpu| {
        let mut record = other(ErrorClass::Cache, Severity::Corrected);
        record.location = Location { cpu: Some(cpu), socket: Some(0), ..Location::default() };
        record
    };
    assert!(modes([cache(1), cache(1), cache(2)]).is_empty());
    assert_eq!(modes([cache(1), cache(1), cache(1)]), ["cache"]);
    let link = other(ErrorClass::Pcie, Severity::Corrected);
    assert!(modes(vec![link.clone(); 9]).is_empty());
    assert_eq!(modes(vec![link; 10]), ["link"]);
    assert_eq!(modes([other(ErrorClass::Internal, Severity::Fatal)]), ["processor"]);
    assert_eq!(modes([other(ErrorClass::Firmware, Severity::Fatal)]), ["firmware"]);
    assert!(modes([other(ErrorClass::Firmware, Severity::Corrected)]).is_empty());
}

#[test]
fn a_consumed_poison_is_not_blamed_on_the_cache_with_certainty() {
    let srar = on_page(other(ErrorClass::Cache, Severity::Srar), 9);
    let mut grouping = Grouping::default();
    grouping.add(&srar);
    assert_eq!(grouping.groups()[0].confidence, Confidence::Low);
    assert!(grouping.pages().all(|(_, page)| page.is_condemned()), "the data is lost all the same");
    grouping = Grouping::default();
    grouping.add(&on_page(other(ErrorClass::Cache, Severity::Corrected), 9));
    assert_eq!(grouping.pages().count(), 0);
}

#[test]
fn informational_records_are_no_errors() {
    let notice = ErrorRecord { severity: Severity::Informational, count: 99, ..cell(1, 1) };
    let mut grouping = Grouping::default();
    grouping.add(&notice);
    assert_eq!((grouping.parts().count(), grouping.groups().len()), (0, 0));
}

#[test]
fn simulated_errors_are_none_of_the_hardware() {
    let flags = crate::RecordFlags { simulated: true, ..crate::RecordFlags::NONE };
    let mut grouping = Grouping::default();
    let lost = ErrorRecord { severity: Severity::Fatal, flags, ..cell(1, 1) };
    assert_eq!(grouping.add(&lost), None);
    assert_eq!((grouping.parts().count(), grouping.groups().len()), (0, 0));
}

#[test]
fn firmware_s_threshold_condemns_a_page() {
    let flags = crate::RecordFlags { threshold_exceeded: true, ..crate::RecordFlags::NONE };
    let address = ErrorAddress { addr: PhysAddr(0x7000), lsb: 6, mode: AddressMode::Physical };
    let error = ErrorRecord { address: Some(address), flags, ..memory() };
    let found = groups([error.clone()]);
    assert_eq!(found[0].fault.mode.pages(), Some(PfnRange::single(Pfn(7))));
    assert_eq!(groups([ErrorRecord { flags: crate::RecordFlags::NONE, ..error }]), []);
}

#[test]
fn risky_bits_are_counted() {
    let mut risky = cell(1, 1);
    risky.details.push(crate::Detail {
        name: "error_type".into(),
        value: Value::code(5, &[(5, "multi-symbol chipkill ECC memory error")]),
    });
    let found = groups([risky, cell(1, 1)]);
    assert_eq!(found[0].tally.risky, 1);
    assert!(found[0].fault.reason.ends_with("2 corrected errors, 1 with risky error bits"));
}

/// A single error is enough, whether or not a record says where in the module it was.
#[test]
fn bits_over_several_lines_and_beats_are_risky() {
    let with = |mut record: ErrorRecord, dqs: u64, beats: u64| {
        let detail = |name: &'static str, value| crate::Detail { name: name.into(), value };
        let bits = vec![detail("dqs", Value::Number(dqs)), detail("beats", Value::Number(beats))];
        record.details.push(detail("error_bits", Value::Group(bits)));
        record
    };
    for quiet in [(1, 1), (4, 1), (1, 8)] {
        assert_eq!(groups([with(cell(1, 1), quiet.0, quiet.1)]), [], "{quiet:?}");
    }
    for record in [cell(1, 1), memory()] {
        let found = groups([with(record, 2, 2)]);
        assert_eq!((found.len(), found[0].fault.mode), (1, FaultMode::Module));
        assert_eq!(found[0].tally.risky, 1);
    }
    let found = groups([with(cell(1, 1), 2, 2), cell(1, 1)]);
    assert_eq!((found.len(), found[0].fault.mode), (1, FaultMode::Cell), "told once");
}

#[test]
fn a_part_is_named_as_well_as_it_is_known() {
    let name = |class, location| {
        let record = ErrorRecord { class, location, ..ErrorRecord::new(ErrorSource::Cper) };
        Part::of(&record).to_string()
    };
    let nowhere = Location::default;
    assert_eq!(name(ErrorClass::Memory, cell(1, 1).location), "module DIMM_A1");
    let slot = Location { socket: Some(1), imc: Some(0), channel: Some(2), ..nowhere() };
    assert_eq!(
        name(ErrorClass::Memory, slot.clone()),
        "a module on socket 1, memory controller 0, channel 2"
    );
    let dimm = DimmLocation { module: Some(1), ..DimmLocation::default() };
    assert_eq!(
        name(ErrorClass::Memory, Location { dimm, ..slot }),
        "module at socket 1, memory controller 0, channel 2, module 1"
    );
    let dimm = DimmLocation { module_handle: Some(0x1100), ..DimmLocation::default() };
    assert_eq!(
        name(ErrorClass::Memory, Location { dimm, ..nowhere() }),
        "module with SMBIOS handle 0x1100"
    );
    assert_eq!(name(ErrorClass::Memory, nowhere()), "a memory module that no record names");
    let cpu = Location { cpu: Some(3), ..nowhere() };
    assert_eq!(name(ErrorClass::Cache, cpu), "processor with CPU 3");
    assert_eq!(name(ErrorClass::Pcie, nowhere()), "a PCIe device that no record names");
}

#[test]
fn a_module_known_in_part_lowers_the_confidence() {
    let mut record = cell(1, 1);
    record.location.fru = None;
    record.location.channel = Some(1);
    let found = groups(vec![record; 2]);
    assert_eq!(found[0].confidence, Confidence::Low);
    assert!(found[0].fault.reason.ends_with("do not say which part it is"));
}

#[test]
fn memory_is_bounded_and_what_is_left_out_is_counted() {
    let mut grouping = Grouping::default();
    let many = u32::try_from(CELLS_MAX).unwrap() + 10;
    for n in 0..many {
        grouping.add(&on_page(cell(n, n), n.into()));
    }
    assert_eq!(grouping.cells(&Part::of(&cell(0, 0))).count(), CELLS_MAX);
    assert_eq!(grouping.pages().count(), PAGES_MAX);
    let LeftOut { cells, pages, .. } = grouping.left_out();
    assert_eq!((cells, pages), (10, 10));
    let total: u64 = grouping.parts().map(|(_, errors)| errors.tally.errors()).sum();
    assert_eq!(total, u64::from(many), "the part's own count has them all");
    assert_eq!(grouping.groups().len(), 1);
    for n in 0..=PARTS_MAX {
        let mut record = memory();
        record.location.fru = Some(n.to_smolstr());
        grouping.add(&record);
    }
    assert_eq!(grouping.parts().count(), PARTS_MAX);
    assert_eq!(grouping.left_out().parts, 2);
}

prop_compose! {
    /// Small numbers, so that places are met again.
    fn any_record()(
        class in 0..12_usize,
        severity in 0..8_usize,
        count in prop_oneof![Just(0_u32), Just(1), Just(u32::MAX), 0..20_u32],
        time in proptest::option::of(any::<u64>()),
        places in proptest::collection::vec(proptest::option::of(0..5_u8), 14),
        address in proptest::option::of((any::<u64>(), any::<u8>(), 0..5_usize)),
    ) -> ErrorRecord {
        const CLASSES: [ErrorClass; 12] = [
            ErrorClass::Memory, ErrorClass::Cache, ErrorClass::Tlb, ErrorClass::Bus,
            ErrorClass::Internal, ErrorClass::Processor, ErrorClass::Pcie, ErrorClass::Cxl,
            ErrorClass::Iommu, ErrorClass::Firmware, ErrorClass::Platform, ErrorClass::Unknown,
        ];
        const SEVERITIES: [Severity; 8] = [
            Severity::Unknown, Severity::Informational, Severity::Corrected, Severity::Deferred,
            Severity::Ucna, Severity::Srao, Severity::Srar, Severity::Fatal,
        ];
        const MODES: [AddressMode; 5] = [
            AddressMode::SegmentOffset, AddressMode::Linear, AddressMode::Physical,
            AddressMode::Memory, AddressMode::Generic,
        ];
        let at = |n: usize| places.get(n).copied().flatten();
        ErrorRecord {
            class: CLASSES[class],
            severity: SEVERITIES[severity],
            count,
            time: time.map(Timestamp),
            address: address.map(|(addr, lsb, mode)| ErrorAddress {
                addr: PhysAddr(addr), lsb, mode: MODES[mode],
            }),
            location: Location {
                cpu: at(0).map(Into::into),
                socket: at(1).map(Into::into),
                imc: at(2).map(Into::into),
                channel: at(3),
                dimm: DimmLocation {
                    node: at(4).map(Into::into),
                    module: at(5).map(Into::into),
                    rank: at(6).map(Into::into),
                    bank_group: at(7),
                    bank: at(8).map(Into::into),
                    device: at(9).map(Into::into),
                    row: at(10).map(Into::into),
                    column: at(11).map(Into::into),
                    ..DimmLocation::default()
                },
                fru: at(12).map(|n| n.to_smolstr()),
                pci: None,
            },
            ..ErrorRecord::new(ErrorSource::Cper)
        }
    }
}

proptest! {
    #[test]
    fn any_records_are_grouped_and_the_totals_add_up(
        records in proptest::collection::vec(any_record(), 0..200)
    ) {
        let mut grouping = Grouping::default();
        for record in &records {
            grouping.add(record);
        }
        let errors = records.iter().filter(|record| record.severity != Severity::Informational);
        let expected: u64 = errors.map(|record| u64::from(record.count.max(1))).sum();
        let counted: u64 = grouping.parts().map(|(_, part)| part.tally.errors()).sum();
        prop_assert_eq!(counted, expected);

        let found = grouping.groups();
        prop_assert_eq!(&found, &grouping.groups());
        for (part, errors) in grouping.parts() {
            // Modes of memory but the blind module are disjoint: no error is in two groups.
            let disjoint = |group: &&Group| group.part == *part && !group.fault.reason.contains("or more");
            let in_groups: u64 = found.iter().filter(disjoint).map(|g| g.tally.errors()).sum();
            prop_assert!(in_groups <= errors.tally.errors(), "{part}: {found:#?}");
        }
        for group in &found {
            prop_assert!(group.tally.reports > 0 && !group.fault.reason.is_empty());
            let Spread { cells, rows, columns, .. } = group.spread;
            for count in [cells, rows, columns] {
                prop_assert!(count as u64 <= group.tally.reports);
            }
        }
    }
}

/// A record of a module by its label, by its place, by its SMBIOS handle, or by several of them.
fn named(label: Option<&str>, place: Option<(u16, u8, u16)>, handle: Option<u16>) -> ErrorRecord {
    let mut record = memory();
    record.location.fru = label.map(Into::into);
    if let Some((imc, channel, module)) = place {
        record.location.imc = Some(imc);
        record.location.channel = Some(channel);
        record.location.dimm.module = Some(module);
    }
    record.location.dimm.module_handle = handle;
    record
}

fn joined(records: impl IntoIterator<Item = ErrorRecord>) -> Vec<(String, u64)> {
    let mut grouping = Grouping::default();
    for record in records {
        grouping.add(&record);
    }
    grouping.join_names();
    let parts = grouping.parts();
    parts.map(|(part, errors)| (part.to_string(), errors.tally.errors())).collect()
}

#[test]
fn a_module_with_two_names_is_counted_once() {
    let (label, place) = (Some("DIMM_A1"), Some((0, 1, 0)));
    let both = || named(label, place, None);
    let one = [("module DIMM_A1".to_string(), 3)];
    assert_eq!(joined([named(None, place, None), both(), named(label, None, None)]), one);
    // Through a witness, whose place is counted in another way.
    let mut seen =
        ErrorRecord { witnesses: vec![named(None, place, None)], ..named(label, None, None) };
    (seen.location.dimm.node, seen.location.dimm.card) = (Some(7), Some(7));
    seen.location.dimm.module = Some(7);
    assert_eq!(joined([named(None, place, None), seen, named(label, None, None)]), one);
    // Over three corners.
    let handle = || named(None, None, Some(0x1100));
    let corner = named(None, place, Some(0x1100));
    assert_eq!(joined([handle(), corner, both()]), one);
    // Nobody says so.
    assert_eq!(joined([named(None, place, None), named(label, None, None)]).len(), 2);
}

#[test]
fn names_that_contradict_each_other_join_nothing() {
    let place = Some((0, 1, 0));
    let records =
        || [named(None, place, None), named(Some("A"), place, None), named(Some("B"), place, None)];
    assert_eq!(joined(records()).len(), 3, "a place with two labels");
    let records = [
        named(None, place, None),
        named(None, Some((1, 1, 0)), None),
        named(Some("A"), place, None),
        named(Some("A"), Some((1, 1, 0)), None),
    ];
    assert_eq!(joined(records).len(), 3, "a label with two places");
    // Which of two modules it was is what nobody knows.
    let either = named(Some("A or B"), place, None);
    assert!(!Part::of(&either).is_single());
    assert_eq!(joined([named(None, place, None), either]).len(), 2);
    // A channel may have several modules.
    let mut channel = named(None, place, None);
    channel.location.dimm.module = None;
    let mut labelled = channel.clone();
    labelled.location.fru = Some("A".into());
    assert_eq!(joined([channel, labelled]).len(), 2);
}

/// All that was counted under the other name comes along: cells, pages, and the rate of blind errors.
#[test]
fn a_joined_module_has_all_errors() {
    let place = Some((0, 1, 0));
    let mut grouping = Grouping::default();
    let at = |record: ErrorRecord, row: u32, column: u32| {
        let mut record = record;
        record.location.dimm.rank = Some(0);
        record.location.dimm.bank = Some(1);
        record.location.dimm.row = Some(row);
        record.location.dimm.column = Some(column);
        let addr = PhysAddr(u64::from(row) << 12);
        record.address = Some(ErrorAddress { addr, lsb: 6, mode: AddressMode::Physical });
        record
    };
    let by_place = grouping.add(&at(named(None, place, None), 5, 1)).unwrap();
    let by_label = grouping.add(&at(named(Some("A"), place, None), 5, 2)).unwrap();
    for second in 0..10 {
        let name = [named(None, place, None), named(Some("A"), None, None)];
        let time = Some(Timestamp::from_secs(second));
        grouping.add(&ErrorRecord { time, ..name[usize::from(second % 2 == 0)].clone() });
    }
    assert_eq!(grouping.groups(), [], "each name by itself has too little");
    assert_eq!(grouping.join_names().len(), 1);
    assert_eq!(grouping.current_number(by_place), by_label);
    let found = grouping.groups();
    let modes: Vec<_> = found.iter().map(|group| group.fault.mode).collect();
    assert_eq!(modes, [FaultMode::Row, FaultMode::Module]);
    assert!(grouping.pages().all(|(_, page)| page.part() == by_label));
    assert_eq!(grouping.join_names(), []);
}
