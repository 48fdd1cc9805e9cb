//! Logs and counters as people posted them: every fact that the corpus lists has to be found in what
//! we decode, wherever we put it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::flat::{leaves, normal};
use super::{Case, Fact, observe};

/// What the corpus's maker noted for people, or made out of several facts.
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
];

pub(super) fn facts(case: &Case) -> Vec<Fact> {
    let records = observe::case_records(case);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for record in &records {
        for values in leaves(&observe::json(record)).into_values() {
            for value in values {
                // A phrase may hold the value, too: labels and names stand in summaries and raw text.
                seen.extend(value.split([' ', ',', '(', ')', '"']).map(str::to_owned));
                seen.insert(value);
            }
        }
    }
    let mut facts = Vec::new();
    collect("", &case.expected, &mut |path, value| {
        let wanted = normal(value);
        let ours = seen.contains(&wanted).then(|| wanted.clone());
        facts.push(Fact::new(path, vec![("corpus", wanted)], ours));
    });
    facts
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
        leaf => each(path, leaf),
    }
}
