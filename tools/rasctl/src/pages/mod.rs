//! `rasctl pages`: looks at the list, changes it, carries it in and out, and checks how it is stored.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use ras_core::{Pfn, RetiredPage, Timestamp};
use rasd_api::PageDetail;

use crate::Failure;
use crate::options::{Global, List, Pages, Sort};
use crate::source::Source;
use crate::text::{Table, json};
use rasctl::human::rfc3339;

mod carry;
mod check;
mod history;
mod order;

pub(crate) fn run(pages: &Pages, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let as_json = global.json;
    let source = || Source::open(&global.socket, global.store.as_deref());
    match pages {
        Pages::List(wanted) => list(source()?.entries()?, wanted, as_json, out),
        Pages::Show(page) => show(page.pfn, &source()?.page(page.pfn)?, as_json, out),
        Pages::History { page } => history::run(*page, global, out),
        Pages::Retire { pages, note, wait } => order::retire(pages, note, wait, global, out),
        Pages::Unretire { pages, note } => order::unretire(pages, note, global, out),
        Pages::Export(wanted) => carry::export(&source()?.entries()?, wanted, out),
        Pages::Import(wanted) => carry::import(wanted, global, out),
        Pages::Verify => check::verify(global, out),
        Pages::Repair => check::repair(global, out),
    }
}

fn list(
    mut pages: Vec<RetiredPage>,
    wanted: &List,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let all = pages.len();
    pages.retain(|page| {
        (wanted.states.is_empty() || wanted.states.contains(&page.state))
            && wanted.since.is_none_or(|since| page.since >= since)
            && wanted.dimm.as_deref().is_none_or(|text| is_of_module(page, text))
    });
    // Stable: equals stay in order of address.
    match wanted.sort {
        Sort::Address => {}
        Sort::State => pages.sort_by_key(|page| page.state.name()),
        Sort::Since => pages.sort_by_key(|page| page.since),
        Sort::Updated => pages.sort_by_key(|page| page.updated),
        Sort::Severity => pages.sort_by_key(|page| std::cmp::Reverse(page.severity)),
    }
    if as_json {
        return pages.iter().try_for_each(|page| json(page, out));
    }
    if pages.is_empty() {
        let said =
            if all == 0 { "no bad pages".into() } else { format!("none of {all} bad pages") };
        return Ok(writeln!(out, "{said}")?);
    }
    let mut table = Table::new([
        "ADDRESS", "STATE", "REASON", "SEVERITY", "SINCE", "SOURCE", "ATTEMPTS", "MODULE",
        "OUTCOME",
    ]);
    table.paint(1, state_style);
    for page in &pages {
        table.row([
            page.pfn.addr().to_string(),
            page.state.to_string(),
            page.reason.to_string(),
            page.severity.to_string(),
            rfc3339(page.since),
            page.source.to_string(),
            page.attempts.to_string(),
            module(page),
            page.outcome.to_string(),
        ]);
    }
    Ok(table.print(out)?)
}

fn state_style(state: &str) -> Style {
    match state {
        "failed" => AnsiColor::Red.on_default().bold(),
        "pending" | "probation" => AnsiColor::Yellow.on_default(),
        "retired" => AnsiColor::Green.on_default(),
        _ => Style::new(),
    }
}

/// The module's slot, or the label in the report; `-` where neither is known.
fn module(page: &RetiredPage) -> String {
    let slot = page.dimm.as_ref().map(|dimm| dimm.locator.as_str());
    let label = slot.filter(|slot| !slot.is_empty()).or(page.location.fru.as_deref());
    label.unwrap_or("-").into()
}

fn is_of_module(page: &RetiredPage, text: &str) -> bool {
    let has = |name: &str| name.to_lowercase().contains(&text.to_lowercase());
    let named = page.dimm.as_ref().is_some_and(|dimm| {
        let identity = &dimm.identity;
        let parts =
            [&identity.manufacturer, &identity.part, &identity.serial].into_iter().flatten();
        parts.chain([&dimm.locator, &dimm.bank_locator]).any(|name| has(name))
    });
    named || has(&page.location.to_string()) || page.location.fru.as_deref().is_some_and(has)
}

fn show(pfn: Pfn, detail: &PageDetail, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    if as_json {
        return json(detail, out);
    }
    writeln!(out, "page {} (pfn:{pfn})", pfn.addr())?;
    match &detail.page {
        Some(page) => {
            writeln!(out, "  state      {} ({} attempts)", page.state, page.attempts)?;
            writeln!(out, "  reason     {}: {}", page.reason, page.diagnosis)?;
            writeln!(out, "  severity   {}", page.severity)?;
            writeln!(out, "  location   {}", page.location)?;
            if let Some(dimm) = &page.dimm {
                writeln!(out, "  module     {dimm}")?;
            }
            if let Some(epoch) = page.epoch {
                writeln!(out, "  map        {epoch}")?;
            }
            writeln!(out, "  source     {}", page.source)?;
            writeln!(out, "  since      {}", rfc3339(page.since))?;
            writeln!(out, "  updated    {}", rfc3339(page.updated))?;
            writeln!(out, "  outcome    {}", page.outcome)?;
        }
        None => writeln!(out, "  state      not on the list")?,
    }
    for event in &detail.unretired {
        let when = rfc3339(event.time);
        writeln!(out, "  unretired  {when} by {}: {}", event.who, event.note)?;
    }
    for time in summary(&detail.observed) {
        writeln!(out, "  corrected  {time}")?;
    }
    Ok(())
}

/// All times of a few errors; first, last and number of many.
fn summary(times: &[Timestamp]) -> Vec<String> {
    match times {
        [first, .., last] if times.len() > 10 => {
            vec![format!("{} errors, {} to {}", times.len(), rfc3339(*first), rfc3339(*last))]
        }
        few => few.iter().map(|time| rfc3339(*time)).collect(),
    }
}
