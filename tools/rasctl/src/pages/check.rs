//! `rasctl pages verify` and `repair`: how the list is stored.

use std::io::Write;
use std::path::Path;

use persist_store::{Part, Store, StoreError, Verdict, Verification};
use rasctl::chain;
use rasctl::human::rfc3339;
use rasd_api::PageCounts;
use serde_json::json;

use crate::Failure;
use crate::options::Global;
use crate::source::{connect, directory};
use crate::status::page_counts;
use crate::text;

pub(super) fn verify(global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let dir = directory(&global.socket, global.store.as_deref())?;
    let found = look(&dir)?;
    if global.json {
        text::json(&object(&found, &dir), out)?;
    } else {
        describe(&found, &dir, out)?;
    }
    verdict(&found)
}

pub(super) fn repair(global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(dir) = &global.store else {
        // Without a directory there is only one store to speak of, and who answers for it has it open.
        let status = connect(&global.socket)?.status()?;
        return Err(held(&format!("rasd (process {})", status.pid), &status.store.dir));
    };
    let before = look(dir)?;
    let opened = Store::open(dir).map_err(|error| match &error {
        StoreError::Locked { pid, .. } => {
            let holder =
                pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
            held(&holder, &dir.display().to_string())
        }
        _ => Failure::NotReached(chain(&error)),
    });
    let (store, recovery) = opened?;
    drop(store);
    let after = look(dir)?;
    if global.json {
        let object = json!({
            "before": object(&before, dir),
            "recovery": recovery.to_string(),
            "quarantined": recovery.quarantined,
            "after": object(&after, dir),
        });
        text::json(&object, out)?;
    } else {
        for block in &before.damaged {
            writeln!(out, "{block}")?;
        }
        match before.verdict {
            Verdict::Sound => writeln!(out, "nothing to mend")?,
            _ => writeln!(out, "mended: {recovery}")?,
        }
        writeln!(out, "now {}, {}", after.verdict.name(), counts(&after))?;
    }
    verdict(&after)
}

fn look(dir: &Path) -> Result<Verification, Failure> {
    persist_store::verify(dir).map_err(|error| Failure::NotReached(chain(&error)))
}

fn held(holder: &str, dir: &str) -> Failure {
    Failure::NotDone(format!(
        "{holder} has {dir} open, and mended what it could when it opened it; to mend it now, stop that \
         first (systemctl stop rasd), then: rasctl --store {dir} pages repair"
    ))
}

/// What the exit code says, in words.
fn verdict(found: &Verification) -> Result<(), Failure> {
    match found.verdict {
        Verdict::Mendable => Err(Failure::NotDone(
            "damaged, and nothing is lost: `rasctl pages repair`, or the next start of rasd, mends it"
                .into(),
        )),
        Verdict::Damaged => Err(Failure::NotDone(
            "damaged, and entries may be lost: `rasctl pages repair`, or the next start of rasd, sets \
             the journal aside and goes on with what can be read of it"
                .into(),
        )),
        Verdict::Sound if !found.unaccepted.is_empty() => Err(Failure::NotDone(
            "sound, but entries may have been lost before: compare the list with what else you have \
             (rasctl pages import adds to it), then: rasctl accept-damage --note WHY"
                .into(),
        )),
        Verdict::Sound => Ok(()),
    }
}

fn describe(found: &Verification, dir: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "store    {}", dir.display())?;
    writeln!(out, "journal  {} bytes, {}", found.journal_size, found.recovery)?;
    match (found.witness, found.recovery.witness_damaged) {
        (Some(witness), _) => writeln!(
            out,
            "witness  {} blocks of generation {} were acknowledged",
            witness.blocks, witness.generation
        )?,
        (None, true) => writeln!(out, "witness  damaged; no entry is in it")?,
        (None, false) => {
            writeln!(out, "witness  none: a loss of the last entries would go unseen")?;
        }
    }
    for block in &found.damaged {
        writeln!(out, "damage   {block}")?;
    }
    for damage in &found.unaccepted {
        let kept = if damage.quarantined.is_empty() { "" } else { "; kept in quarantine/" };
        let (when, detail, kept_as) = (rfc3339(damage.time), &damage.detail, &damage.quarantined);
        writeln!(out, "loss     {when}: {detail}{kept}{kept_as}")?;
    }
    writeln!(out, "pages    {}", counts(found))?;
    Ok(writeln!(out, "verdict  {}", found.verdict.name())?)
}

fn counts(found: &Verification) -> String {
    let mut counts = PageCounts::default();
    found.state.pages.values().for_each(|page| counts.add(page.state));
    page_counts(counts)
}

fn object(found: &Verification, dir: &Path) -> serde_json::Value {
    let damaged = found.damaged.iter().map(|block| {
        let (part, number, copy) = match block.part {
            Some(Part::Header { copy }) => (Some("header"), None, Some(copy)),
            Some(Part::Block { number, copy }) => (Some("block"), Some(number), Some(copy)),
            None => (None, None, None),
        };
        json!({
            "offset": block.offset, "part": part, "number": number, "copy": copy,
            "first_byte": block.byte, "bytes": block.bytes, "torn": block.torn,
        })
    });
    let losses = found.unaccepted.iter().map(|damage| {
        json!({ "time": damage.time, "detail": damage.detail, "quarantined": damage.quarantined })
    });
    json!({
        "store": dir,
        "verdict": found.verdict.name(),
        "journal_size": found.journal_size,
        "records": found.recovery.records,
        "unknown_records": found.recovery.unknown_records,
        "torn_bytes": found.recovery.torn_tail,
        "witness": found.witness.map(|witness| witness.blocks),
        "witness_damaged": found.recovery.witness_damaged,
        "damage": found.recovery.damage.map(|fault| fault.to_string()),
        "damaged": damaged.collect::<Vec<_>>(),
        "losses": losses.collect::<Vec<_>>(),
        "pages": found.state.pages.len(),
    })
}
