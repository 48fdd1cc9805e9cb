//! `rasctl pages`: the list as a table, and one page in full.

use std::io::Write;

use ras_core::{Pfn, RetiredPage, Timestamp};
use rasd_api::PageDetail;

use crate::Failure;
use crate::text::{Table, json};
use rasctl::human::rfc3339;

pub(crate) fn list(
    pages: &[RetiredPage],
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        return pages.iter().try_for_each(|page| json(page, out));
    }
    if pages.is_empty() {
        return Ok(writeln!(out, "no bad pages")?);
    }
    let mut table = Table::new([
        "PFN", "STATE", "REASON", "SEVERITY", "SINCE", "SOURCE", "ATTEMPTS", "OUTCOME",
    ]);
    for page in pages {
        table.row([
            page.pfn.to_string(),
            page.state.to_string(),
            page.reason.to_string(),
            page.severity.to_string(),
            rfc3339(page.since),
            page.source.to_string(),
            page.attempts.to_string(),
            page.outcome.clone(),
        ]);
    }
    Ok(table.print(out)?)
}

pub(crate) fn show(
    pfn: Pfn,
    detail: &PageDetail,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        return json(detail, out);
    }
    writeln!(out, "page {pfn}, physical address {}", pfn.addr())?;
    match &detail.page {
        Some(page) => {
            writeln!(out, "  state      {} ({} attempts)", page.state, page.attempts)?;
            writeln!(out, "  reason     {}: {}", page.reason, page.diagnosis)?;
            writeln!(out, "  severity   {}", page.severity)?;
            writeln!(out, "  location   {}", page.location)?;
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
