//! Findings as one JSON object, the form that `rasctl schema` publishes as `analysis`.

use ras_core::diagnosis::grouping::{Cell, Group, Tally};
use ras_core::{Location, PciAddress, Timestamp};
use serde_json::{Map, Value, json};

use super::advice::{Advice, Retire};
use super::counter::{Total, Totals};
use super::{Findings, Level, Levels, Module};
use crate::human;

/// Names in each list. What is beyond is counted under `others`; faults and pages to retire are whole.
const LIST_MAX: usize = 1000;
/// Steps of the timeline.
const STEPS: usize = 200;

/// The object.
#[must_use]
pub fn object(findings: &Findings) -> Value {
    let Findings { sources, classes, severities, files, sockets, cpus, devices, banks, .. } =
        findings;
    let text = |name: &'static str| json!(name);
    let (pages, pages_total) = findings.pages(LIST_MAX);
    let pages: Vec<Value> = pages
        .iter()
        .map(|(pages, tally)| {
            let mut object = counts(tally);
            object.insert("pfn".into(), json!(pages.start.to_string()));
            object.insert("pages".into(), json!(pages.count));
            Value::Object(object)
        })
        .collect();
    json!({
        "verdict": findings.verdict(),
        "reports": findings.reports,
        "witnesses": findings.witnesses,
        "informational": findings.informational,
        "simulated": findings.simulated,
        "previous_boot": findings.previous_boot,
        "errors": findings.errors.total(),
        "errors_by_level": levels(&findings.errors),
        "first": time(findings.first),
        "last": time(findings.last),
        "damaged_places": findings.damages,
        "unreadable": findings.unreadable,
        "notes": findings.notes,
        "limits": findings.limits(),
        "advice": findings.advice.iter().map(advice).collect::<Vec<_>>(),
        "retire": findings.retire.iter().map(retire).collect::<Vec<_>>(),
        "faults": findings.groups.iter().map(fault).collect::<Vec<_>>(),
        "timeline": timeline(findings),
        "storms": findings.storms.iter().map(|(part, storm)| json!({
            "part": part,
            "start": time(Some(storm.start)),
            "end": time(Some(storm.end)),
            "corrected": storm.errors,
            "reports": storm.reports,
        })).collect::<Vec<_>>(),
        "totals": {
            "severity": totals(severities, |name| text(name.name())),
            "source": totals(sources, |name| text(name.name())),
            "class": totals(classes, |name| text(name.name())),
            "file": totals(files, |name| json!(&**name)),
            "socket": totals(sockets, |name| json!(name)),
            "cpu": totals(cpus, |name| json!(name)),
            "pci": totals(devices, |name: &PciAddress| json!(name.to_string())),
            "mca_bank": totals(banks, |(cpu, bank)| json!({ "cpu": cpu, "bank": bank })),
            "page": { "list": pages, "count": pages_total },
        },
        "modules": findings.modules.iter().map(module).collect::<Vec<_>>(),
    })
}

fn time(time: Option<Timestamp>) -> Value {
    time.map_or(Value::Null, |time| json!(human::rfc3339(time)))
}

fn levels(levels: &Levels) -> Value {
    let object = Level::ALL.map(|level| (level.name().to_owned(), json!(levels.get(level))));
    Value::Object(object.into_iter().collect())
}

fn counts(tally: &Tally) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("reports".into(), json!(tally.reports));
    object.insert("errors".into(), json!(tally.errors()));
    object.insert("corrected".into(), json!(tally.corrected));
    object.insert("uncorrected".into(), json!(tally.uncorrected));
    object.insert("unclassified".into(), json!(tally.unknown));
    object.insert("risky".into(), json!(tally.risky));
    object.insert("first".into(), time(tally.first));
    object.insert("last".into(), time(tally.last));
    object
}

fn totals<K>(totals: &Totals<K>, name: impl Fn(&K) -> Value) -> Value {
    let list: Vec<Value> = totals
        .list
        .iter()
        .take(LIST_MAX)
        .map(|total| {
            let mut object = counts(&total.tally);
            object.insert("name".into(), name(&total.name));
            Value::Object(object)
        })
        .collect();
    let mut others = totals.others;
    totals.list.iter().skip(LIST_MAX).for_each(|Total { tally, .. }| others.join(tally));
    json!({ "list": list, "count": totals.list.len(), "others": counts(&others) })
}

fn place(location: &Location) -> Value {
    let mut out = Vec::new();
    crate::json::location(location, &mut out);
    serde_json::from_slice(&out).unwrap_or(Value::Null)
}

fn cell(cell: &Cell) -> Value {
    let names = [
        ("rank", cell.rank.map(u64::from)),
        ("chip", cell.chip.map(u64::from)),
        ("device", cell.device.map(u64::from)),
        ("bank_group", cell.bank_group.map(u64::from)),
        ("bank", cell.bank.map(u64::from)),
        ("row", cell.row.map(u64::from)),
        ("column", cell.column.map(u64::from)),
    ];
    let known =
        names.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object(known.collect())
}

fn fault(group: &Group) -> Value {
    let Group { part, fault, confidence, tally, spread } = group;
    let mut object = counts(tally);
    object.insert("mode".into(), json!(fault.mode.name()));
    object.insert("severity".into(), json!(fault.severity.name()));
    object.insert("part".into(), json!(part.to_string()));
    object.insert("part_kind".into(), json!(part.kind.name()));
    object.insert("location".into(), place(&fault.location));
    object.insert("reason".into(), json!(fault.reason));
    object.insert("confidence".into(), json!(confidence.name()));
    if let Some(pages) = fault.mode.pages() {
        let pages = json!({ "pfn": pages.start.to_string(), "count": pages.count });
        object.insert("pages".into(), pages);
    }
    let spread = json!({
        "cells": spread.cells,
        "rows": spread.rows,
        "columns": spread.columns,
        "banks": spread.banks,
        "devices": spread.devices,
        "ranks": spread.ranks,
    });
    object.insert("spread".into(), spread);
    Value::Object(object)
}

fn advice(advice: &Advice) -> Value {
    let Advice { deed, part, confidence, reason, faults, tally } = advice;
    let mut object = counts(tally);
    object.insert("advice".into(), json!(deed.name()));
    object.insert("part".into(), json!(part.to_string()));
    object.insert("part_kind".into(), json!(part.kind.name()));
    object.insert("location".into(), place(&part.place));
    object.insert("confidence".into(), json!(confidence.name()));
    object.insert("reason".into(), json!(reason));
    object.insert("faults".into(), json!(faults));
    Value::Object(object)
}

fn retire(retire: &Retire) -> Value {
    let Retire { pages, part, tally, why } = retire;
    json!({
        "pfn": pages.start.to_string(),
        "pages": pages.count,
        "address": pages.start.addr().to_string(),
        "part": part.to_string(),
        "why": why.name(),
        "errors": tally.errors(),
    })
}

fn timeline(findings: &Findings) -> Value {
    let view = findings.timeline.view(STEPS);
    let at = |index: usize| {
        let offset = view.step_s.saturating_mul(index as u64);
        time(Some(Timestamp::from_secs(view.start_s.saturating_add(offset))))
    };
    // Steps without errors are left out: each has its time.
    let steps = view.steps.iter().enumerate().filter(|(_, levels)| levels.total() > 0);
    let steps: Vec<Value> =
        steps.map(|(index, step)| json!({ "start": at(index), "errors": levels(step) })).collect();
    json!({
        "step_s": view.step_s,
        "steps": steps,
        "without_time": levels(&findings.timeline.untimed),
    })
}

fn module(module: &Module) -> Value {
    let Module { part, tally, without_cell, blind, ranks, banks, rows } = module;
    let mut object = counts(tally);
    object.insert("part".into(), json!(part.to_string()));
    object.insert("location".into(), place(&part.place));
    object.insert("is_single".into(), json!(part.is_single()));
    object.insert("errors_without_cell".into(), json!(without_cell));
    object.insert("errors_without_cell_and_page".into(), json!(blind));
    object.insert("rank".into(), totals(ranks, |rank| json!(rank)));
    object.insert("bank".into(), totals(banks, cell));
    object.insert("row".into(), totals(rows, cell));
    Value::Object(object)
}
