//! Logs and counters as people posted them: every fact that the corpus lists has to be found in what
//! we decode, wherever we put it.

use std::collections::BTreeSet;

use mce_decoder::mca::status::CpuSignature;
use ras_core::{ErrorRecord, Raw};
use serde_json::Value;

use super::flat::{leaves, normal};
use super::{Case, Fact, observe};

/// What the corpus's maker noted for people, named himself, or made out of several facts.
const NOTES: &[&str] = &[
    "note",
    "xec_note",
    "tlp_decoded",
    "format",
    "valid_page",
    "reason",
    "ip_exact",
    "syndrome_peer",
    "label_note",
    "kind",
    "type",
    "aer_bits",
    "bank_type",
];

pub(super) fn facts(case: &Case) -> Vec<Fact> {
    let records = observe::case_records(case);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for record in &records {
        for values in leaves(&observe::json(record)).into_values() {
            for value in values {
                // A phrase may hold the value, too: labels and names stand in summaries and raw text.
                seen.extend(value.split([' ', ',', '(', ')', '"', ':', '=']).map(str::to_owned));
                seen.insert(value);
            }
        }
        seen.extend(derived(record));
    }
    let mut facts = Vec::new();
    collect("", &case.expected, &mut |path, value| {
        let wanted = normal(value);
        let known = seen.contains(&wanted) || utc(&wanted).is_some_and(|time| seen.contains(&time));
        let ours = known.then(|| wanted.clone());
        facts.push(Fact::new(path, vec![("corpus", wanted)], ours));
    });
    facts
}

/// `2022-02-11 22:34:40 +0100` as seconds since 1970.
fn utc(text: &str) -> Option<String> {
    let (local, zone) = text.rsplit_once(' ')?;
    let zone: i64 = zone.parse().ok().filter(|_| zone.len() == 5)?;
    let local = humantime::parse_rfc3339_weak(local).ok()?;
    let local = local.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let offset = (zone / 100 * 60 + zone % 100) * 60;
    Some(local.checked_add_signed(-offset)?.to_string())
}

/// What the corpus spells in other units: pages and offsets, seconds, family and model.
fn derived(record: &ErrorRecord) -> Vec<String> {
    let mut values = Vec::new();
    if let Some(address) = record.address {
        let addr = address.addr.0;
        values
            .extend([addr >> 12, addr & 0xfff, 1u64 << address.lsb].map(|value| value.to_string()));
    }
    if let Some(time) = record.time {
        values.push(time.secs().to_string());
        let text = humantime::format_rfc3339_seconds(
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.secs()),
        );
        values.push(text.to_string().replace('T', " ").trim_end_matches('Z').to_owned());
    }
    if let Raw::Mca(registers) = &record.raw {
        let cpu = CpuSignature::from_bits(registers.cpuid);
        let stepping = registers.cpuid & 15;
        values.extend([cpu.family().to_string(), cpu.model().to_string(), stepping.to_string()]);
    }
    values.extend(record.witnesses.iter().flat_map(derived));
    values
}

fn collect(path: &str, value: &Value, each: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(name, _)| !NOTES.contains(&name.as_str()))
            {
                collect(&format!("{path}.{name}"), member, each);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(path, item, each)),
        // Flags say what the words around them say already; an empty label is none.
        Value::Null | Value::Bool(_) => {}
        Value::String(text) if text.is_empty() => {}
        // A counter of zero is no error.
        Value::Number(number) if number.as_u64() == Some(0) && path.contains(".counts.") => {}
        leaf => each(path, leaf),
    }
}
