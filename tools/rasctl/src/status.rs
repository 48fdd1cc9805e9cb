//! `rasctl status` and `rasctl health`.

use std::fmt::Write as _;
use std::io::Write;

use persist_store::{Recovery, State};
use ras_core::Evacuation;
use rasd_api::{Gap, HealthStatus, PageCounts, Status};
use serde::Serialize;

use crate::Failure;
use crate::source::Source;
use crate::text::json;
use rasctl::human::rfc3339;

pub(crate) fn show(source: &mut Source, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    match source {
        Source::Daemon(client) => {
            let status = client.status()?;
            if as_json { json(&status, out) } else { daemon(&status, out) }
        }
        Source::Store(read) => store(&read.0, &read.1, as_json, out),
    }
}

pub(crate) fn health(
    health: &HealthStatus,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if as_json {
        return json(health, out);
    }
    let because = if health.reason.is_empty() { "" } else { ": " };
    writeln!(out, "health      {}{because}{}", health.health, health.reason)?;
    if let Some(since) = health.since {
        writeln!(out, "since       {}", rfc3339(since))?;
    }
    writeln!(out, "evacuation  {}", evacuation(&health.evacuation))?;
    if !health.reported {
        writeln!(out, "            THE CLUSTER HAS NOT TAKEN THIS YET; rasd keeps telling it")?;
    }
    Ok(())
}

fn daemon(status: &Status, out: &mut dyn Write) -> Result<(), Failure> {
    let Status { pages, gap, queue, counts, store, engine, .. } = status;
    let ready = if status.ready { "ready" } else { "NOT READY: stored pages are being offlined" };
    writeln!(
        out,
        "rasd        {} (process {}), since {}, {ready}",
        status.version,
        status.pid,
        rfc3339(status.started)
    )?;
    health(&status.health, false, out)?;
    writeln!(out, "engine      {}: {}", engine.name, engine.notes)?;
    writeln!(out, "pages       {}", page_counts(*pages))?;
    for line in gap_lines(gap) {
        writeln!(out, "gap         {line}")?;
    }
    writeln!(out, "store       {}", store.dir)?;
    for line in store.recovery.iter().chain(&store.damage) {
        writeln!(out, "            {line}")?;
    }
    if !store.damage.is_empty() {
        writeln!(out, "            THE LIST MAY BE INCOMPLETE: see rasctl accept-damage")?;
    }
    if let Some(error) = &store.failing {
        writeln!(out, "            FAILING, {} entries wait: {error}", store.unsaved)?;
    }
    let mirror = &status.mirror;
    if !mirror.state.is_empty() {
        let failing = if mirror.state == "failing" { "FAILING" } else { &mirror.state };
        writeln!(out, "mirror      {failing}: {}", mirror.detail)?;
    }
    if mirror.brought_back > 0 {
        let entries = mirror.brought_back;
        writeln!(out, "            {entries} ENTRIES THAT THE LIST LACKED CAME BACK FROM IT")?;
    }
    if !status.boot.state.is_empty() {
        let failing = if status.boot.state == "failing" { "FAILING, " } else { "" };
        writeln!(out, "next boot   {failing}{}: {}", status.boot.state, status.boot.detail)?;
    }
    for source in &status.sources {
        writeln!(out, "source      {}: {} {}", source.name, source.state, source.detail)?;
    }
    writeln!(
        out,
        "queue       {} of {} waiting, {} lost, {} missed by the kernel",
        queue.waiting, queue.capacity, queue.lost, counts.missed
    )?;
    writeln!(
        out,
        "events      {} ({} records, {} damaged, {} garbage)",
        counts.events, counts.records, counts.damaged, counts.garbage
    )?;
    writeln!(
        out,
        "verdicts    {} faults, {} counted, {} duplicates, {} on retired pages, {} noted",
        counts.faults, counts.counted, counts.duplicates, counts.already_retired, counts.noted
    )?;
    writeln!(
        out,
        "actions     {} offlined, {} not; guests: {} unplugged, {} not; {} evacuations",
        counts.offlined,
        counts.offline_failed,
        counts.guest_unplugged,
        counts.guest_refused,
        counts.evacuations
    )?;
    Ok(writeln!(
        out,
        "errors      {} of the store, {} of the engine",
        counts.store_errors, counts.engine_errors
    )?)
}

/// What the start had to do about the stored pages; nothing where there was nothing.
fn gap_lines(gap: &Gap) -> Vec<String> {
    let mut lines = Vec::new();
    if gap.excluded > 0 {
        lines.push(format!("{} were excluded before the kernel started", gap.excluded));
    }
    if gap.pages > 0 {
        lines.push(format!(
            "{} had been usable for up to {} s of this boot; offlined in {} ms, {} a second",
            gap.pages,
            gap.seconds,
            gap.offlining_ms,
            gap.pages_per_second()
        ));
    }
    if gap.absent > 0 {
        lines.push(format!("{} lie where this machine has no memory", gap.absent));
    }
    if gap.in_use > 0 {
        lines.push(format!("{} ARE IN USE: the kernel did not give them up", gap.in_use));
    }
    lines
}

/// What can be said without the daemon.
#[derive(Serialize)]
struct StoreOnly {
    pages: PageCounts,
    recovery: String,
    clean: bool,
    damage: Vec<String>,
    node: Option<ras_core::NodeState>,
}

fn store(
    state: &State,
    recovery: &Recovery,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut pages = PageCounts::default();
    for page in state.pages.values() {
        pages.add(page.state);
    }
    let only = StoreOnly {
        pages,
        recovery: recovery.to_string(),
        clean: recovery.is_clean() && !state.is_damaged(),
        damage: state.damage.iter().map(|damage| damage.detail.clone()).collect(),
        node: state.node.clone(),
    };
    if as_json {
        json(&only, out)?;
    } else {
        writeln!(out, "pages       {}", page_counts(pages))?;
        writeln!(out, "store       {}", only.recovery)?;
        for line in &only.damage {
            writeln!(out, "            {line}")?;
        }
        if let Some(node) = &only.node {
            writeln!(out, "health      {}: {}", node.health, node.reason)?;
            writeln!(out, "evacuation  {}", evacuation(&node.evacuation))?;
        }
    }
    if only.clean {
        return Ok(());
    }
    Err(Failure::NotDone("the store is damaged; the next start of rasd mends what it can".into()))
}

pub(crate) fn page_counts(counts: PageCounts) -> String {
    let PageCounts { pending, retired, failed, probation, expired, stale } = counts;
    let mut text = format!("{retired} retired, {pending} pending, {failed} failed");
    for (count, state) in [(probation, "on probation"), (expired, "expired"), (stale, "stale")] {
        if count > 0 {
            let _ = write!(text, ", {count} {state}");
        }
    }
    text
}

fn evacuation(evacuation: &Evacuation) -> String {
    match evacuation {
        Evacuation::None => "none".into(),
        Evacuation::Pending { guest: Some(guest) } => format!("{guest} has to leave"),
        Evacuation::Pending { guest: None } => "every guest has to leave".into(),
        Evacuation::Done => "done".into(),
    }
}
