//! `rasctl pages history`: what the list remembers of its own past.

use std::collections::BTreeMap;
use std::io::Write;

use persist_store::{AuditKind, ChangeKind, State};
use ras_core::{Pfn, Timestamp};
use serde::Serialize;

use crate::Failure;
use crate::options::Global;
use crate::source::{directory, unknown};
use crate::text::{Table, json};
use rasctl::chain;
use rasctl::human::rfc3339;

/// Something that happened to the list.
#[derive(Serialize)]
struct Event {
    /// Nanoseconds since 1970.
    time: Timestamp,
    /// The page; none where it was about the whole list or the node.
    pfn: Option<Pfn>,
    what: String,
    /// A person, or the part of the machine that decided it.
    who: String,
    why: String,
}

pub(super) fn run(page: Option<Pfn>, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    // Read beside a running rasd: readers need no lock.
    let dir = directory(&global.socket, global.store.as_deref())?;
    let (state, _) =
        persist_store::read(&dir).map_err(|error| Failure::NotReached(chain(&error)))?;
    let mut events = events(&state);
    if let Some(page) = page {
        events.retain(|event| event.pfn == Some(page));
        if events.is_empty() {
            return Err(Failure::NotDone(format!("{}, and never was", unknown(page))));
        }
    }
    events.sort_by_key(|event| event.time);
    if global.json {
        return events.iter().try_for_each(|event| json(event, out));
    }
    if events.is_empty() {
        return Ok(writeln!(out, "nothing happened yet")?);
    }
    let mut table = Table::new(["TIME", "ADDRESS", "WHAT", "WHO", "WHY"]);
    for event in events {
        let address = event.pfn.map_or_else(|| "-".into(), |pfn| pfn.addr().to_string());
        table.row([rfc3339(event.time), address, event.what, event.who, event.why]);
    }
    Ok(table.print(out)?)
}

fn events(state: &State) -> Vec<Event> {
    let mut events = Vec::new();
    let mut event = |time, pfn, what: &str, who: &str, why: &str| {
        let [what, who, why] = [what, who, why].map(str::to_owned);
        events.push(Event { time, pfn, what, who, why });
    };
    for page in state.all_pages() {
        let pfn = Some(page.pfn);
        event(page.since, pfn, "condemned", page.source.name(), &page.diagnosis);
        if !page.outcome.is_empty() || page.updated > page.since {
            event(page.updated, pfn, page.state.name(), "rasd", &page.outcome);
        }
    }
    for audit in &state.audit {
        let what = match audit.what {
            AuditKind::Unretired(_) => "unretired".into(),
            AuditKind::DamageAccepted => "damage accepted".into(),
            AuditKind::Changed { kind, .. } => match kind {
                ChangeKind::Probation => "on probation".into(),
                ChangeKind::Expired => "expired".into(),
                ChangeKind::Stale => "stale".into(),
                ChangeKind::Reinstated => "reinstated".into(),
                ChangeKind::Moved { to } => format!("moved to {}", to.addr()),
                ChangeKind::Forgotten => "forgotten".into(),
            },
        };
        event(audit.time, audit.what.pfn(), &what, &audit.who, &audit.note);
    }
    for damage in &state.damage {
        let kept = if damage.quarantined.is_empty() { "" } else { "; kept in quarantine: " };
        let why = format!("{}{kept}{}", damage.detail, damage.quarantined);
        event(damage.time, None, "damage found", "store", &why);
    }
    if let Some(node) = &state.node {
        event(node.since, None, &format!("health {}", node.health), "rasd", &node.reason);
    }
    // Many pages have many of them: each page's in one line, at its last one.
    let mut observed: BTreeMap<Pfn, (u64, Timestamp, Timestamp)> = BTreeMap::new();
    for (pfn, time) in state.observed.iter() {
        let (count, _, last) = observed.entry(pfn).or_insert((0, time, time));
        (*count, *last) = (*count + 1, time);
    }
    for (pfn, (count, first, last)) in observed {
        let errors = if count == 1 { "corrected error" } else { "corrected errors" };
        let why = format!("{count} {errors} since {}, below the policy's rate", rfc3339(first));
        event(last, Some(pfn), "observed", "rasd", &why);
    }
    events
}
