//! JSON as a list of leaves: the path without positions in lists, and a value that compares across
//! spellings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Paths, and all the values that stand at each.
pub(super) type Leaves = BTreeMap<String, BTreeSet<String>>;

pub(super) fn leaves(value: &Value) -> Leaves {
    let mut leaves = Leaves::new();
    collect("", value, &mut leaves);
    leaves
}

fn collect(path: &str, value: &Value, leaves: &mut Leaves) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let separator = if path.is_empty() { "" } else { "." };
                collect(&format!("{path}{separator}{name}"), member, leaves);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(path, item, leaves)),
        Value::Null => {}
        leaf => {
            leaves.entry(path.to_owned()).or_default().insert(normal(leaf));
            for (part, value) in parts(leaf) {
                leaves.entry(format!("{path}.{part}")).or_default().insert(value);
            }
        }
    }
}

/// The numbers in a revision (`1.2`) and in a PCI address (`0000:3b:00.0`).
fn parts(leaf: &Value) -> Vec<(&'static str, String)> {
    let Some((head, tail)) = leaf.as_str().and_then(|text| text.split_once('.')) else {
        return Vec::new();
    };
    if let (Ok(_), Ok(_)) = (head.parse::<u16>(), tail.parse::<u16>()) {
        return vec![("major", head.to_owned()), ("minor", tail.to_owned())];
    }
    let numbers: Vec<u32> = head
        .split(':')
        .chain([tail])
        .map_while(|part| u32::from_str_radix(part, 16).ok())
        .collect();
    let names = ["segment", "bus", "device", "function"];
    match numbers.len() == names.len() {
        true => names.into_iter().zip(numbers.iter().map(ToString::to_string)).collect(),
        false => Vec::new(),
    }
}

/// One spelling for what means the same: numbers in decimal, text without case and outer blanks.
pub(super) fn normal(leaf: &Value) -> String {
    match leaf {
        Value::String(text) => {
            let text = text.trim().trim_end_matches('\0').to_ascii_lowercase();
            let number = match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            };
            number.map_or(text, |number: u64| number.to_string())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spellings_meet() {
        for value in [json!(26), json!("0x1A"), json!("0x001a"), json!("26")] {
            assert_eq!(normal(&value), "26");
        }
        assert_eq!(normal(&json!("DIMM A1 ")), "dimm a1");
        assert_eq!(parts(&json!("1.2")).len(), 2);
        assert_eq!(parts(&json!("0000:3b:00.1"))[1], ("bus", "59".to_owned()));
        assert_eq!(parts(&json!("a.b")), []);
        let leaves = leaves(&json!({"a": [{"b": 1}, {"b": 2}], "c": null}));
        assert_eq!(leaves.keys().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(leaves["a.b"].len(), 2);
    }
}
