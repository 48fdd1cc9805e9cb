//! The made-up machine, and what holds for any records.

use proptest::prelude::*;
use ras_core::diagnosis::grouping::Confidence;
use ras_core::{Problem, ProblemKind, RecordFlags};

use super::advice::{Deed, Why};
use super::data::{HOSTILE, START_S, cell, findings, records};
use super::*;

fn rendered(findings: &Findings, color: bool) -> String {
    let mut out = Vec::new();
    text::write(findings, color, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_made_up_machine_is_understood() {
    let found = findings(&records());
    println!("{}", rendered(&found, false));
    let faults: Vec<(String, &str)> = found
        .groups
        .iter()
        .map(|group| (group.part.to_string(), group.fault.mode.name()))
        .collect();
    let expected = [
        ("module DIMM_A1", "row"),
        ("module DIMM_B2", "column"),
        ("module DIMM_C1", "cell"),
        ("processor in socket 0", "cache"),
        ("processor in socket 0", "cache"),
        ("PCIe device 0000:3b:00.0", "link"),
    ];
    let mut sorted: Vec<_> = faults.iter().map(|(part, mode)| (part.as_str(), *mode)).collect();
    sorted.sort_by_key(|fault| expected.iter().position(|known| known == fault));
    assert_eq!(sorted, expected);
    assert_eq!(faults[0].1, "row", "the row that lost data comes first");

    let deeds: Vec<(Deed, String)> =
        found.advice.iter().map(|advice| (advice.deed, advice.part.to_string())).collect();
    assert_eq!(deeds[0], (Deed::Replace, "module DIMM_A1".into()));
    assert_eq!(deeds[1], (Deed::PlanReplacement, "module DIMM_B2".into()));
    assert!(deeds.contains(&(Deed::Inspect, "PCIe device 0000:3b:00.0".into())));
    assert!(deeds.contains(&(Deed::Watch, "module DIMM_C1".into())));
    assert_eq!(deeds.len(), 5);
    assert_eq!(found.advice[0].confidence, Confidence::High);
    assert_eq!(found.verdict(), "Replace module DIMM_A1: 459 errors, 1 of them with loss of data.");
    assert_eq!(found.exit_code(), 1);
}

#[test]
fn storms_are_those_of_their_parts() {
    let found = findings(&records());
    assert_eq!(found.storms.len(), 1);
    let (part, storm) = &found.storms[0];
    assert_eq!((part.as_str(), storm.errors), ("module DIMM_A1", 60));
    assert_eq!(storm.start.secs(), START_S + 100 * 3600);
}

#[test]
fn pages_are_retired_with_their_reasons() {
    let found = findings(&records());
    let count = |why| found.retire.iter().filter(|page| page.why == why).count();
    assert_eq!(count(Why::Lost), 1);
    assert_eq!(found.retire[0].why, Why::Lost, "the most urgent first");
    assert!(count(Why::Repeated) >= 1, "the weak cell's");
    let in_row = count(Why::BrokenRow) + count(Why::Repeated) + count(Why::Lost);
    assert_eq!(in_row, found.retire.len());
    let single = cell("DIMM_C2", 0, 0x99, 0x18, 0).pages().unwrap();
    assert!(found.retire.iter().all(|page| page.pages != single), "one error is none");
}

#[test]
fn totals_have_every_name() {
    let found = findings(&records());
    assert_eq!(found.informational, 1);
    let names: Vec<_> = found.modules.iter().map(|module| module.part.to_string()).collect();
    assert_eq!(names[..2], ["module DIMM_A1", "module DIMM_C1"]);
    assert_eq!(found.banks.list[0].name, (2, 3));
    assert_eq!(found.banks.list[0].tally.corrected, 25, "one report of many");
    assert_eq!(found.timeline.untimed.total(), 25);
    assert_eq!(found.devices.list.len(), 2);
    assert_eq!(found.sockets.list.len(), 2);
    let rows: usize = found.modules.iter().map(|module| module.rows.list.len()).sum();
    assert_eq!(rows, 1 + 1 + 1 + 12);
}

#[test]
fn witnesses_count_once_and_their_bank_is_seen() {
    let record = |bank| ErrorRecord {
        raw: Raw::Mca(McaRegisters { bank, apic_id: 9, ..McaRegisters::default() }),
        ..ErrorRecord::new(ErrorSource::MceRecord)
    };
    let mut whole = cell("X", 0, 1, 1, 0);
    whole.witnesses = vec![record(7), record(8)];
    let found = findings(&[whole]);
    assert_eq!((found.errors.total(), found.witnesses, found.reports), (1, 2, 1));
    assert_eq!(found.banks.list[0].name, (9, 7));
}

#[test]
fn exit_codes_say_what_was_found() {
    assert_eq!(findings(&[]).exit_code(), 0);
    let notice =
        ErrorRecord { severity: Severity::Informational, ..ErrorRecord::new(ErrorSource::Cper) };
    assert_eq!(findings(std::slice::from_ref(&notice)).exit_code(), 0);
    let problem = Problem { offset: 0, kind: ProblemKind::Truncated, detail: "cut".into() };
    let damaged = ErrorRecord { problems: vec![problem], ..notice };
    assert_eq!(findings(std::slice::from_ref(&damaged)).exit_code(), 2);
    let error = cell("X", 0, 1, 1, 0);
    assert_eq!(findings(&[damaged, error.clone()]).exit_code(), 1);
    let mut unreadable = findings(&[error]);
    unreadable.unreadable.push("x: no such file".into());
    assert_eq!(unreadable.exit_code(), 2);
}

#[test]
fn edac_counters_beside_reports_are_told_to_count_twice() {
    let counter =
        ErrorRecord { source: ErrorSource::EdacCounter, time: None, ..cell("X", 0, 1, 1, 0) };
    assert!(findings(std::slice::from_ref(&counter)).notes.is_empty());
    let both = findings(&[counter, cell("X", 0, 1, 1, 0)]);
    assert!(both.notes[0].contains("counted twice"));
}

#[test]
fn a_terminal_gets_no_control_characters_from_labels() {
    let mut records = records();
    records.extend([cell("A\x1b[31m\r\nB", 0, 1, 1, 0), cell("A\x1b[31m\r\nB", 0, 1, 1, 1)]);
    records.extend([cell(HOSTILE, 0, 1, 1, 0), cell(HOSTILE, 0, 1, 1, 1)]);
    let plain = rendered(&findings(&records), false);
    assert!(!plain.contains('\x1b') && !plain.contains('\r'));
    assert!(plain.contains(HOSTILE), "text needs no escapes");
    assert!(rendered(&findings(&records), true).contains('\x1b'));
}

#[test]
fn json_has_stable_names() {
    let object = json::object(&findings(&records()));
    assert_eq!(object["errors"], 459);
    assert_eq!(object["errors_by_level"]["uncorrected"], 1);
    assert_eq!(object["first"], "2023-11-14T22:13:20Z");
    assert_eq!(object["faults"][0]["mode"], "row");
    assert_eq!(object["faults"][0]["location"]["dimm"]["row"], 0x1a2b);
    assert_eq!(object["advice"][0]["advice"], "replace");
    assert_eq!(object["retire"][0]["why"], "data_lost");
    assert!(object["retire"][0]["pfn"].as_str().unwrap().starts_with("0x"));
    assert_eq!(object["storms"][0]["corrected"], 60);
    assert_eq!(object["modules"][0]["row"]["list"][0]["name"]["row"], 0x1a2b);
}

#[test]
fn a_flood_of_names_is_bounded_and_said() {
    let mut analysis = Analysis::default();
    for n in 0..10_000 {
        let mut record = cell("X", 0, 1, 1, 0);
        record.location.cpu = Some(n);
        analysis.add(&Arc::from(format!("{n}.log")), &record);
    }
    let found = analysis.finish();
    assert_eq!(found.cpus.list.len(), 4096);
    assert_eq!(found.cpus.others.errors(), 10_000 - 4096);
    assert!(found.limits().iter().any(|limit| limit.contains("CPUs")));
}

proptest! {
    #[test]
    fn totals_add_up_and_everything_renders(
        picks in proptest::collection::vec((0..500_usize, any::<Option<u64>>(), any::<u32>()), 0..60),
        labels in proptest::collection::vec(".*", 1..4),
    ) {
        let all = records();
        let picked: Vec<ErrorRecord> = picks
            .iter()
            .enumerate()
            .map(|(index, (pick, time, count))| {
                let mut record = all[pick % all.len()].clone();
                record.time = time.map(Timestamp);
                record.count = *count;
                record.location.fru = Some(labels[index % labels.len()].as_str().into());
                record
            })
            .collect();
        let found = findings(&picked);
        let errors = picked.iter().filter(|record| record.severity != Severity::Informational);
        let expected: u64 = errors.map(|record| u64::from(record.count.max(1))).sum();
        prop_assert_eq!(found.errors.total(), expected);
        let by_class: u64 = found.classes.list.iter().map(|total| total.tally.errors()).sum();
        prop_assert_eq!(by_class, expected);
        let view = found.timeline.view(100);
        let timed: u64 = view.steps.iter().map(Levels::total).sum();
        prop_assert_eq!(timed + found.timeline.untimed.total(), expected);
        prop_assert!(!rendered(&found, true).is_empty());
        prop_assert!(json::object(&found).is_object());
    }
}

/// What is said of the report itself: simulated errors retire no real memory, and firmware's threshold
/// retires what it is about.
#[test]
fn what_a_source_says_of_its_report_is_heeded() {
    let flagged = |flags| ErrorRecord { flags, ..data::cell("DIMM_A1", 1, 7, 8, 0) };
    let simulated = RecordFlags { simulated: true, ..RecordFlags::NONE };
    let lost = ErrorRecord { severity: Severity::Fatal, ..flagged(simulated) };
    let findings = data::findings(&[lost.clone(), lost]);
    assert_eq!((findings.errors.total(), findings.simulated, findings.exit_code()), (0, 2, 0));
    assert_eq!((findings.retire.len(), findings.advice.len()), (0, 0));
    assert_eq!(findings.verdict(), "There are reports of simulated errors, and of no real one.");

    let over = RecordFlags { threshold_exceeded: true, ..RecordFlags::NONE };
    let findings = data::findings(&[flagged(over)]);
    assert_eq!(findings.retire[0].why, advice::Why::OverThreshold);
    assert_eq!(data::findings(&[flagged(RecordFlags::NONE)]).retire.len(), 0);
}

/// Loss of data comes first, even where no record says which module it was.
#[test]
fn lost_data_comes_before_plans() {
    let mut records: Vec<_> = (0..9).map(|n| data::cell("DIMM_A1", 1, 7, n, 0)).collect();
    let mut lost = ErrorRecord { severity: Severity::Srao, ..data::cell("", 1, 1, 1, 0) };
    lost.location = Location::default();
    records.push(lost);
    let findings = data::findings(&records);
    let deeds: Vec<_> = findings.advice.iter().map(|advice| advice.deed).collect();
    assert_eq!(deeds, [Deed::Inspect, Deed::PlanReplacement]);
    assert!(findings.verdict().starts_with("Inspect a memory module that no record names"));
}

/// One module under two names: one line, and a note that says so.
#[test]
fn a_module_under_two_names_is_one_line() {
    let by_place = |second| {
        let mut record = data::cell("", 5, 0x1a2b, 0x88, second);
        record.location.fru = None;
        record.location.imc = Some(0);
        record.location.channel = Some(1);
        record.location.dimm.module = Some(0);
        record
    };
    let mut both = by_place(60);
    both.location.fru = Some("DIMM_A1".into());
    let by_label = data::cell("DIMM_A1", 5, 0x1a2b, 0x90, 120);
    let findings = data::findings(&[by_place(0), both, by_label.clone()]);
    assert_eq!(findings.modules.len(), 1);
    assert_eq!(findings.modules[0].tally.errors(), 3);
    assert!(findings.notes.iter().any(|note| note.contains("counted as one")));
    let findings = data::findings(&[by_place(0), by_label]);
    assert_eq!(findings.modules.len(), 2);
    assert!(findings.notes.iter().any(|note| note.contains("may be counted under each")));
}
