//! The page from top to bottom.

use std::borrow::Cow;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use ras_core::diagnosis::grouping::{Confidence, Group};
use ras_core::{Severity, Timestamp};

use super::{BYTES_MAX, Kept, heat, timeline};
use crate::analyze::counter::Totals;
use crate::analyze::text::{cell_name, plural};
use crate::analyze::timeline::Level;
use crate::analyze::{Findings, Module};
use crate::human::{printable, rfc3339};

/// Lines of each table.
const ADVICE: usize = 50;
const FAULTS: usize = 300;
const RETIRE: usize = 300;
const STORMS: usize = 50;
const TOTALS: usize = 12;
const ROWS: usize = 20;
const NOTES: usize = 50;
/// Modules drawn, and of those the ones that are open from the start.
const MODULES: usize = 16;
const MODULES_OPEN: usize = 3;
/// Characters of any text from an input outside of a record's own.
const WORDS_MAX: usize = 400;

/// Bytes that the maps may have, and those that the records may have beyond all else.
const MAPS_BYTES_MAX: usize = BYTES_MAX / 5 * 2;
const RECORDS_BYTES_MAX: usize = BYTES_MAX / 4;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// SHA-256 of [`SCRIPT`] in base64: the only script that a browser runs here. The story in a real
/// browser fails where it is another's.
const SCRIPT_SHA256: &str = "CTFiyvFABUH5XE4uVRaeoi8WblhoijiItoyN3YCL6+4=";

/// The page.
#[must_use]
pub fn page(findings: &Findings, kept: &[Kept]) -> String {
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT_SHA256}'; \
         base-uri 'none'; form-action 'none'"
    );
    let body = html! {
        header {
            h1 { "Hardware errors" }
            button #theme type="button" hidden { "light / dark" }
        }
        main {
            (verdict(findings))
            @if findings.errors.total() > 0 {
                (advice(findings))
                section { h2 { "When" } (timeline::draw(findings)) (storms(findings)) }
                (faults(findings))
                (retire(findings))
                (modules(findings))
                @if let Some(matrix) = heat::machine_checks(findings) {
                    section { h2 { "Machine checks by processor and bank" } (matrix) (heat::legend()) }
                }
                (totals(findings))
            }
            (inputs(findings))
            (records(findings, kept))
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("rasctl ", env!("CARGO_PKG_VERSION")));
                title { "Hardware errors: " (clean(&findings.verdict())) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) script { (PreEscaped(SCRIPT)) } }
        }
    };
    page.into_string()
}

fn verdict(findings: &Findings) -> Markup {
    let class = match (findings.advice.first(), findings.errors.total()) {
        (Some(advice), _) => advice.deed.name(),
        (None, 0) if findings.exit_code() == 0 => "clean",
        _ => "unknown",
    };
    let lost =
        findings.errors.get(Level::Uncorrected).saturating_add(findings.errors.get(Level::Fatal));
    html! {
        section.verdict.(class) {
            p.sentence { (said(&findings.verdict())) }
            dl.figures {
                (figure("errors", &findings.errors.total().to_string()))
                (figure("with loss of data", &lost.to_string()))
                (figure("reports", &findings.reports.to_string()))
                @if findings.witnesses > 0 { (figure("joined to those", &findings.witnesses.to_string())) }
                @if findings.informational > 0 { (figure("notices", &findings.informational.to_string())) }
                (figure("inputs with errors", &findings.files.list.len().to_string()))
                @if !findings.unreadable.is_empty() {
                    (figure("inputs not read", &findings.unreadable.len().to_string()))
                }
                @if let (Some(first), Some(last)) = (findings.first, findings.last) {
                    div { dt { "from, to (UTC)" }
                        dd.small { (moment(first)) " – " (moment(last)) } }
                }
            }
        }
    }
}

fn figure(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn advice(findings: &Findings) -> Markup {
    html! {
        section {
            h2 { "What to do" }
            @if findings.advice.is_empty() {
                p { "Nothing: no part has errors that together make a fault." }
            }
            ol.advice {
                @for advice in findings.advice.iter().take(ADVICE) {
                    li {
                        span.deed.(advice.deed.name()) { (advice.deed.words()) }
                        span { span.part { (said(&advice.part.to_string())) } " "
                            span.muted { (advice.confidence.name()) " confidence · "
                                (plural(advice.tally.errors(), "error")) ", "
                                (advice.tally.uncorrected) " uncorrected" } }
                        p { (said(&advice.reason)) "." }
                    }
                }
            }
            (more(findings.advice.len(), ADVICE, "part"))
        }
    }
}

fn storms(findings: &Findings) -> Markup {
    let mut storms: Vec<_> = findings.storms.iter().collect();
    storms.sort_by_key(|(_, storm)| std::cmp::Reverse(storm.errors));
    html! {
        @if !storms.is_empty() {
            details {
                summary { (plural(storms.len() as u64, "storm"))
                    ": 10 corrected errors or more of one part, with gaps of 60 s at most" }
                div.scroll { table.sortable {
                    thead { tr { th { "Start (UTC)" } th.number { "Seconds" } th.number { "Errors" }
                        th { "Part" } } }
                    tbody { @for (part, storm) in storms.iter().take(STORMS) { tr {
                        td.word { (moment(storm.start)) }
                        td.number { (storm.end.nanos_since(storm.start) / 1_000_000_000) }
                        td.number { (storm.errors) }
                        td.part { (said(part)) }
                    } } }
                } }
                (more(storms.len(), STORMS, "storm"))
            }
        }
    }
}

fn faults(findings: &Findings) -> Markup {
    html! {
        section {
            h2 { "Faults" }
            @if findings.groups.is_empty() {
                p { "The errors have nothing in common that would make one." }
            } @else {
                div.scroll { table.sortable {
                    thead { tr { th { "What" } th { "Severity" } th { "Confidence" }
                        th.number { "Errors" } th { "Part" } th { "Why" } th { "Last (UTC)" } } }
                    tbody { @for group in findings.groups.iter().take(FAULTS) { (fault(group)) } }
                } }
                (more(findings.groups.len(), FAULTS, "fault"))
            }
        }
    }
}

fn fault(group: &Group) -> Markup {
    let Group { part, fault, confidence, tally, .. } = group;
    let order = match confidence {
        Confidence::Low => "1",
        Confidence::Medium => "2",
        Confidence::High => "3",
    };
    html! {
        tr {
            td.word { (fault.mode.name()) }
            td { (badge(fault.severity)) }
            td.word data-key=(order) { (confidence.name()) }
            td.number { (tally.errors()) }
            td.part { (said(&part.to_string())) }
            td.why { (said(&fault.reason)) }
            td.word { @match tally.last { Some(last) => (moment(last)), None => "unknown" } }
        }
    }
}

fn retire(findings: &Findings) -> Markup {
    html! {
        @if !findings.retire.is_empty() {
            section {
                h2 { "Pages to retire" }
                p.muted { "Of a broken row only the pages that had errors are known: where the rest of it \
                    lies, only the platform's address map says." }
                details open[findings.retire.len() <= 12] {
                    summary { (findings.retire.len()) " in the list" }
                    div.scroll { table.sortable {
                        thead { tr { th { "Page frame" } th.number { "Pages" } th.number { "Errors" }
                            th { "Why" } th { "Part" } } }
                        tbody { @for page in findings.retire.iter().take(RETIRE) { tr {
                            td.code { (page.pages.start) }
                            td.number { (page.pages.count) }
                            td.number { (page.tally.errors()) }
                            td.word { (page.why.words()) }
                            td.part { (said(&page.part.to_string())) }
                        } } }
                    } }
                    (more(findings.retire.len(), RETIRE, "line"))
                }
            }
        }
    }
}

fn modules(findings: &Findings) -> Markup {
    let mut room = MAPS_BYTES_MAX;
    let mut drawn = Vec::new();
    for (index, module) in findings.modules.iter().take(MODULES).enumerate() {
        let markup = self::module(findings, module, index < MODULES_OPEN);
        let Some(left) = room.checked_sub(markup.0.len()) else { break };
        room = left;
        drawn.push(markup);
    }
    html! {
        @if !drawn.is_empty() {
            section {
                h2 { "Memory modules" }
                (heat::legend())
                @for module in &drawn { (module) }
                (more(findings.modules.len(), drawn.len(), "module"))
            }
        }
    }
}

fn module(findings: &Findings, module: &Module, open: bool) -> Markup {
    let Module { part, tally, without_cell, blind, rows, .. } = module;
    let maps = heat::module(findings, module);
    html! {
        details.module open[open] {
            summary { (said(&part.to_string())) " "
                span.muted { (plural(tally.errors(), "error")) ", " (tally.uncorrected) " uncorrected"
                    @if let Some(last) = tally.last { ", the last at " (moment(last)) } } }
            @if *without_cell > 0 {
                p.muted { "Partial: of " (plural(tally.errors(), "error")) ", " (without_cell)
                    " name no cell, and " (blind) " of those no page either." }
            }
            @match maps {
                Some(maps) => (maps),
                None => p.muted { "No map: its reports name no bank and row." },
            }
            @if !rows.list.is_empty() {
                details {
                    summary { "the rows as numbers" }
                    div.scroll { table.sortable {
                        thead { tr { th { "Row" } th.number { "Errors" } th.number { "Uncorrected" } } }
                        tbody { @for row in rows.list.iter().take(ROWS) { tr {
                            td { (cell_name(&row.name)) }
                            td.number { (row.tally.errors()) }
                            td.number { (row.tally.uncorrected) }
                        } } }
                    } }
                    (more(rows.list.len(), ROWS, "row"))
                }
            }
        }
    }
}

fn totals(findings: &Findings) -> Markup {
    let Findings { severities, sources, classes, sockets, cpus, devices, .. } = findings;
    let (pages, all) = findings.pages(TOTALS);
    html! {
        section {
            h2 { "Counts" }
            div.totals {
                (total("By severity", severities, |name| name.name().into()))
                (total("By source", sources, |name| name.name().into()))
                (total("By class", classes, |name| name.name().into()))
                (total("By processor package", sockets, |name| format!("socket {name}")))
                (total("By CPU", cpus, |name| format!("CPU {name}")))
                (total("By PCI function", devices, ToString::to_string))
                @if all > 0 {
                    div {
                        h3 { "By page" }
                        table {
                            thead { tr { th { "Page frame" } th.number { "Errors" }
                                th.number { "Uncorrected" } } }
                            tbody { @for (pages, tally) in &pages { tr {
                                td.code { (pages.start) @if pages.count > 1 { " +" (pages.count - 1) } }
                                td.number { (tally.errors()) }
                                td.number { (tally.uncorrected) }
                            } } }
                        }
                        (more(all, TOTALS, "page"))
                    }
                }
            }
        }
    }
}

fn total<K>(title: &str, totals: &Totals<K>, name: impl Fn(&K) -> String) -> Markup {
    html! {
        @if !totals.list.is_empty() {
            div {
                h3 { (title) }
                table {
                    thead { tr { th { "" } th.number { "Reports" } th.number { "Errors" } } }
                    tbody { @for total in totals.list.iter().take(TOTALS) { tr {
                        td { (said(&name(&total.name))) }
                        td.number { (total.tally.reports) }
                        td.number { (total.tally.errors()) }
                    } } }
                }
                (more(totals.list.len(), TOTALS, "line"))
            }
        }
    }
}

fn inputs(findings: &Findings) -> Markup {
    let limits = findings.limits();
    html! {
        section {
            h2 { "What was read" }
            div.scroll { table {
                thead { tr { th { "Input" } th.number { "Reports" } th.number { "Errors" } } }
                tbody { @for file in findings.files.list.iter().take(TOTALS) { tr {
                    td { (said(&file.name)) }
                    td.number { (file.tally.reports) }
                    td.number { (file.tally.errors()) }
                } } }
            } }
            (more(findings.files.list.len(), TOTALS, "input"))
            @if findings.damages > 0 {
                p { (plural(findings.damages, "damaged place")) " in the inputs; "
                    code { "rasctl decode" } " shows them." }
            }
            ul {
                @for why in findings.unreadable.iter().take(NOTES) { li { "not read: " (said(why)) } }
                @for limit in &limits { li { (limit) } }
                @for note in findings.notes.iter().take(NOTES) { li { (said(note)) } }
            }
            (more(findings.unreadable.len(), NOTES, "unread input"))
            (more(findings.notes.len(), NOTES, "note"))
        }
    }
}

fn records(findings: &Findings, kept: &[Kept]) -> Markup {
    let mut room = RECORDS_BYTES_MAX;
    let mut shown = Vec::new();
    for kept in kept {
        let markup = record(kept);
        // Smaller ones after it may still fit.
        if let Some(left) = room.checked_sub(markup.0.len()) {
            room = left;
            shown.push(markup);
        }
    }
    let left_out = findings.reports.saturating_sub(shown.len() as u64);
    html! {
        section {
            h2 { "Records" }
            @if left_out > 0 {
                p.muted { (shown.len()) " of " (plural(findings.reports, "record"))
                    ", the first few of each kind; " (left_out) " are left out. "
                    code { "rasctl decode" } " shows all of them." }
            }
            @for record in &shown { (record) }
        }
    }
}

fn record(kept: &Kept) -> Markup {
    html! {
        details {
            summary { (badge(kept.severity)) " "
                @if let Some(time) = kept.time { (moment(time)) " " }
                (said(&kept.summary)) }
            pre { (kept.text) @if kept.cut { "\n… cut here" } }
        }
    }
}

fn badge(severity: Severity) -> Markup {
    let class = Level::of(severity).map_or("informational", Level::name);
    html! { span.badge.(class) { (severity) } }
}

fn moment(time: Timestamp) -> Markup {
    let text = rfc3339(time);
    html! { time datetime=(text) { (text.replace('T', " ").trim_end_matches('Z')) } }
}

fn more(all: usize, shown: usize, what: &str) -> Markup {
    html! {
        @if all > shown {
            p.muted { "and " (plural((all - shown) as u64, &format!("more {what}"))) }
        }
    }
}

/// Text that may hold what inputs say: short, without control characters, and by itself where it turns
/// the direction of writing.
fn said(text: &str) -> Markup {
    html! { bdi { (clean(text)) } }
}

fn clean(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(WORDS_MAX) {
        None => printable(text),
        Some((end, _)) => Cow::Owned(format!("{}…", printable(&text[..end]))),
    }
}
