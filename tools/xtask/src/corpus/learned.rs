//! CPER records: libcper's JSON against ours, without a table of which of its names is which of ours.
//!
//! The correspondence is learned: a field of libcper's is found again in ours if one of our paths has
//! its value in *every* case that has the field. Records with random contents make an accident
//! unlikely; fields that hold the same small number in all cases are not counted. Single bits prove
//! nothing this way: their correspondence is by hand, see [`bits`]. About half of the learned one was read
//! by a person: names agree throughout.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::flat::{Leaves, leaves, normal};
use super::{Case, Fact, at, bits, observe};

const PEER: &str = "libcper";

pub(super) fn facts(cases: &[Case]) -> Vec<(&str, Fact)> {
    let seen: Vec<(&Case, Value)> =
        cases.iter().filter_map(|case| Some((case, observe::case(case)?))).collect();
    let mut facts: Vec<(&str, Fact)> = Vec::new();
    for (case, ours) in &seen {
        facts.extend(structure(case, ours).into_iter().map(|fact| (case.id.as_str(), fact)));
    }
    let pairs: Vec<Pair<'_, '_>> = seen.iter().flat_map(|(case, ours)| pairs(case, ours)).collect();
    let sections: Vec<bits::Section<'_, '_>> = pairs
        .iter()
        .filter_map(|pair| {
            let Pair { id, kind, body, details, .. } = pair;
            Some(bits::Section { id, kind, theirs: body, ours: (*details)? })
        })
        .collect();
    facts.extend(bits::facts(&sections, wrong));
    let correspondence = learn(&pairs);
    for pair in &pairs {
        for (path, values) in pair.theirs.iter().filter(|(path, _)| !is_form(&pair.kind, path)) {
            let Some(found) = correspondence.get(&(pair.kind.clone(), path.clone())) else {
                continue;
            };
            for value in values {
                let ours = found.as_ref().and_then(|path| pair.ours.get(path));
                let ours = ours.map(|ours| match holds(ours, value) {
                    true => value.clone(),
                    false => ours.iter().cloned().collect::<Vec<_>>().join("|"),
                });
                let name = format!("{} {path}", pair.kind);
                let mut fact = Fact::new(name, vec![(PEER, value.clone())], ours);
                fact.peer_wrong = wrong(&pair.kind, path);
                facts.push((pair.id, fact));
            }
        }
    }
    facts
}

/// Link Capabilities 2, and the registers behind it.
const LINK_2: &[&str] = &["link_capabilities2", "link_control2", "link_status2"];

/// What is known to be wrong in libcper, by section and field. `tests/CORPUS.md` has the reasons.
fn wrong(kind: &str, path: &str) -> Option<&'static str> {
    let tail = path.rsplit('.').next().unwrap_or_default();
    Some(match (kind, tail) {
        ("Pcie", _) if LINK_2.iter().any(|register| path.contains(register)) => {
            "libcper reads Link Capabilities 2 as eight bytes, and all after it from the wrong place"
        }
        ("Pcie", "advanced_error_interrupt_message_number") => {
            "libcper reads the interrupt message number from bits 29:25 of the root error status"
        }
        ("Pcie", _) if tail.ends_with("_Hex") => "libcper cuts slot and segment to 8 bits",
        ("ArmProcessor", _) if path.contains("errorInformation") => {
            "libcper takes ARM's error types for the numbers 1, 2, 4 and 8"
        }
        ("CxlProtocol", "vendorID") => "libcper prints what the validity bits call invalid",
        ("ArmProcessor", "psciState") => "libcper prints what the validity bits call invalid",
        ("Memory" | "Memory2", "group" | "address") if path.starts_with("bank.") => {
            "libcper prints what the validity bits call invalid"
        }
        ("Memory2", "physicalAddressHex") => "libcper prints what the validity bits call invalid",
        ("ArmRas", _) if tail.starts_with("pidr") => {
            "libcper reads format 2 of the IP type as PIDR"
        }
        ("Ia32x64Processor", "eip") => "libcper reads the 32-bit EIP as 64 bits",
        ("header", "value") => "libcper takes the header's flags for an enumeration",
        _ => return None,
    })
}

/// The same fact in a form of its own: the row without its extended bits, an OEM id as a number, counts
/// that are the lengths of our lists, addresses to the byte where the granularity is coarser.
fn is_form(kind: &str, path: &str) -> bool {
    matches!(
        (kind, path),
        ("Memory", "row" | "physicalAddress" | "physicalAddressHex")
            | ("Memory2", "physicalAddress")
            | ("VtdDmar", "oemID")
            | ("Ia32x64Processor", "processorErrorInfoNum" | "processorContextInfoNum")
            | ("PciComponent", "registerDataPairs.firstHalf" | "registerDataPairs.secondHalf")
    )
}

/// Header and descriptors, which the corpus gives in a form of its own.
fn structure(case: &Case, ours: &Value) -> Vec<Fact> {
    let Some(structure) = case.expected.get("structure") else { return Vec::new() };
    let records = ours.get("records").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut facts = Vec::new();
    let mut fact = |name: &str, theirs: Option<&Value>, ours: Option<String>| {
        if let Some(theirs) = theirs.filter(|theirs| !theirs.is_null()) {
            facts.push(Fact::new(
                format!("structure {name}"),
                vec![("bytes", normal(theirs))],
                ours,
            ));
        }
    };
    let header = |name: &str| {
        let value = records.first().and_then(|record| at(record, &["details", "record", name]));
        value.map(|value| normal(value.get("code").unwrap_or(value)))
    };
    if !records.is_empty() {
        fact("severity", structure.get("severity"), header("severity"));
        fact("section_count", structure.get("section_count"), header("section_count"));
    }
    let sections = structure.get("sections").and_then(Value::as_array);
    for (index, section) in sections.into_iter().flatten().enumerate() {
        let guid = section.get("type").cloned().unwrap_or_default();
        let in_bounds = section.get("in_bounds").and_then(Value::as_bool) == Some(true);
        let mine = records.get(index);
        let value = |path: &[&str]| mine.and_then(|record| at(record, path)).map(normal);
        if in_bounds && records.len() == sections.map_or(0, Vec::len) {
            fact("type", Some(&guid), value(&["raw", "section_type"]));
            fact("offset", section.get("offset"), value(&["details", "section", "offset"]));
            fact("length", section.get("length"), value(&["details", "section", "length"]));
        }
        if !in_bounds {
            let problems = ours.get("problems").and_then(Value::as_array).map_or(0, Vec::len);
            let told = (problems > 0).then(|| "damaged".to_owned());
            facts.push(Fact::new("structure damage", vec![("bytes", "damaged".into())], told));
            break;
        }
    }
    facts
}

/// One section: what libcper says of it, and what we say.
struct Pair<'c, 'a> {
    id: &'c str,
    kind: String,
    theirs: Leaves,
    ours: Leaves,
    /// The same, whole.
    body: &'a Value,
    details: Option<&'a Value>,
}

fn pairs<'c: 'a, 'a>(case: &'c Case, ours: &'a Value) -> Vec<Pair<'c, 'a>> {
    let Some(theirs) = case.expected.get("libcper-7c410e2").filter(|value| value.is_object())
    else {
        return Vec::new();
    };
    let list = |value: &'a Value, name: &str| {
        value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
    };
    let records = list(ours, "records");
    let (sections, descriptors) = (list(theirs, "sections"), list(theirs, "sectionDescriptors"));
    // Where the numbers differ nothing tells which section is which.
    if records.len() != sections.len() || records.is_empty() {
        return Vec::new();
    }
    let mut pairs = Vec::new();
    let mut pair = |kind: &str, body: &'a Value, record: &'a Value| {
        pairs.push(Pair {
            id: &case.id,
            kind: kind.to_owned(),
            theirs: comparable(body),
            ours: leaves(record),
            body,
            details: record.get("details"),
        });
    };
    for ((record, section), index) in records.iter().zip(sections).zip(0..) {
        let Some(members) = section.as_object() else { continue };
        for (kind, body) in members.iter().filter(|(name, _)| *name != "message") {
            pair(kind, body, record);
        }
        if let Some(descriptor) = descriptors.get(index) {
            pair("descriptor", descriptor, record);
        }
    }
    if let (Some(header), Some(record)) = (theirs.get("header"), records.first()) {
        pair("header", header, record);
    }
    pairs
}

/// What can be compared: numbers, GUIDs, texts that firmware wrote, and bytes, which libcper prints in
/// base64. Its own words, dates and bits (as booleans or as `supported`) are left out.
fn comparable(value: &Value) -> Leaves {
    let mut leaves = Leaves::new();
    walk("", value, &mut leaves);
    leaves
}

fn walk(path: &str, value: &Value, leaves: &mut Leaves) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let separator = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{separator}{name}"), member, leaves);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(path, item, leaves)),
        leaf => {
            if let Some(value) = comparable_leaf(path, leaf) {
                leaves.entry(path.to_owned()).or_default().insert(value);
            }
        }
    }
}

/// Marks bytes: they may be part of a longer run of ours.
const BYTES: &str = "bytes:";

fn comparable_leaf(path: &str, leaf: &Value) -> Option<String> {
    /// Firmware's own words.
    const TEXTS: &[&str] = &["fruText", "signature"];
    let tail = path.rsplit('.').next().unwrap_or_default();
    match leaf {
        Value::Number(_) => Some(normal(leaf)),
        Value::String(text) if TEXTS.contains(&tail) => {
            Some(normal(leaf)).filter(|_| !text.is_empty())
        }
        Value::String(_) if matches!(tail, "type" | "name") => None,
        Value::String(text) => {
            let value = normal(leaf);
            let is_guid = text.len() == 36 && text.split('-').count() == 5;
            if value.parse::<u64>().is_ok() || is_guid {
                return Some(value);
            }
            let octets: Vec<&str> = text.split(':').collect();
            if octets.len() > 2 && octets.iter().all(|octet| octet.len() == 2) {
                return Some(format!("{BYTES}{}", octets.concat().to_ascii_lowercase()));
            }
            if text.len() >= 16 && text.len().is_multiple_of(2) && is_hex(text) {
                return Some(format!("{BYTES}{}", text.to_ascii_lowercase()));
            }
            // A word can look like base64; what holds no digit and no sign is taken for one.
            let telling =
                text.contains(|c: char| c.is_ascii_digit() || matches!(c, '+' | '/' | '='));
            let bytes = base64(text).filter(|bytes| telling && bytes.len() > 1)?;
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("{BYTES}{hex}"))
        }
        _ => None,
    }
}

/// Bytes that are printed as digits: nobody's base64 has no other letter in so many.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// RFC 4648, section 4; `None` for what is none.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| {
        Some(match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    let digits = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let mut bits: u32 = 0;
        for position in 0..4 {
            let value = group.get(position).map_or(Some(0), |c| digit(*c))?;
            bits = bits << 6 | u32::from(value);
        }
        let [_, a, b, c] = bits.to_be_bytes();
        bytes.extend([a, b, c].iter().take(group.len() - 1));
    }
    Some(bytes)
}

/// Whether ours holds the value: the same, or bytes that are part of a run of ours.
fn holds(ours: &BTreeSet<String>, value: &str) -> bool {
    match value.strip_prefix(BYTES) {
        Some(hex) => {
            let number = u64::from_str_radix(hex, 16).ok();
            ours.iter().any(|ours| ours.contains(hex))
                || number.is_some_and(|number| ours.contains(&number.to_string()))
        }
        None => ours.contains(value),
    }
}

/// For each section type and path of theirs: our path that has its value in every case, or else in
/// most of them. Paths whose values are too few and too small to tell are left out.
type Correspondence = BTreeMap<(String, String), Option<String>>;

fn learn(pairs: &[Pair<'_, '_>]) -> Correspondence {
    let mut correspondence = Correspondence::new();
    let keys: BTreeSet<(String, String)> = pairs
        .iter()
        .flat_map(|pair| pair.theirs.keys().map(|path| (pair.kind.clone(), path.clone())))
        .collect();
    for (kind, path) in keys {
        let cases: Vec<_> = pairs
            .iter()
            .filter(|pair| pair.kind == kind)
            .filter_map(|pair| Some((pair.theirs.get(&path)?, &pair.ours)))
            .collect();
        let distinct: BTreeSet<&String> = cases.iter().flat_map(|(values, _)| *values).collect();
        let small = |value: &&String| value.parse::<u64>().is_ok_and(|number| number < 16);
        if distinct.iter().all(small) && distinct.len() < 3 {
            continue;
        }
        let mut best: Option<(usize, &String)> = None;
        let candidates: BTreeSet<&String> =
            cases.iter().flat_map(|(_, ours)| ours.keys()).collect();
        for candidate in candidates {
            let matches = cases
                .iter()
                .filter(|(values, ours)| {
                    let ours = ours.get(candidate);
                    ours.is_some_and(|ours| values.iter().all(|value| holds(ours, value)))
                })
                .count();
            if matches > best.map_or(0, |(most, _)| most) {
                best = Some((matches, candidate));
            }
        }
        correspondence.insert((kind, path), best.map(|(_, path)| path.clone()));
    }
    correspondence
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bytes_are_found_in_longer_ones() {
        assert_eq!(base64("AQID"), Some(vec![1, 2, 3]));
        assert_eq!(base64("AQI="), Some(vec![1, 2]));
        assert_eq!(base64("AQ=="), Some(vec![1]));
        assert_eq!(base64("A"), None);
        let value = comparable_leaf("data", &json!("AQI=")).unwrap();
        assert!(holds(&BTreeSet::from(["00010203".to_owned()]), &value));
        assert!(!holds(&BTreeSet::from(["000103".to_owned()]), &value));
        assert_eq!(comparable_leaf("kind", &json!("supported")), None);
        assert_eq!(comparable_leaf("pdi", &json!("aa:61:19")), Some("bytes:aa6119".into()));
    }
}
