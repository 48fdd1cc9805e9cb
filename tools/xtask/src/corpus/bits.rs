//! Single bits of CPER sections, which libcper spells as booleans and we as lists of names.
//!
//! One bit holds too little to learn a correspondence from: this one is by hand. Fields of several bits are
//! the learned correspondence's.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Fact;

/// Bits of one register: the section, where libcper has them, where we have them. `*` is each item of a
/// list; items at the same position belong together.
const GROUPS: &[(&str, &str, &str)] = &[
    ("descriptor", "flags", "section.flags"),
    ("Memory", "errorStatus", "error_status_bits"),
    ("Memory2", "errorStatus", "error_status_bits"),
    ("PciBus", "errorStatus", "error_status_bits"),
    ("PciComponent", "errorStatus", "error_status_bits"),
    ("GenericProcessor", "flags", "flags"),
    ("VtdDmar", "faultRecord", "fault_record.flags"),
    ("ArmProcessor", "", ""),
    ("ArmProcessor", "errorInfo.*.flags", "error_info.*.flags"),
    ("ArmProcessor", "errorInfo.*.errorInformation.cacheError", "error_info.*.error"),
    ("ArmProcessor", "errorInfo.*.errorInformation.tlbError", "error_info.*.error"),
    ("ArmProcessor", "errorInfo.*.errorInformation.busError", "error_info.*.error"),
    ("Ia32x64Processor", "processorErrorInfo.*.checkInfo", "error_info.*.check"),
    ("NvidiaEvent", "eventInfo.cpu.Architecture", "architecture"),
    ("Pcie", "aerInfo.uncorrectable_error_status", "aer.uncorrectable_errors"),
    ("Pcie", "aerInfo.uncorrectable_error_mask", "aer.uncorrectable_masked"),
    ("Pcie", "aerInfo.uncorrectable_error_severity", "aer.uncorrectable_fatal"),
    ("Pcie", "aerInfo.correctable_error_status", "aer.correctable_errors"),
    ("Pcie", "aerInfo.correctable_error_mask", "aer.correctable_masked"),
    ("Pcie", "aerInfo.advanced_error_capabilities_and_control", "aer.control.flags"),
    ("Pcie", "aerInfo.root_error_command", "aer.root_reports"),
    ("Pcie", "aerInfo.root_error_status", "aer.root_status.flags"),
    ("Pcie", "capabilityStructure.pcie_capabilities", "capability.capabilities.flags"),
    ("Pcie", "capabilityStructure.device_capabilities", "capability.device_capabilities.flags"),
    ("Pcie", "capabilityStructure.device_control", "capability.device_control.flags"),
    ("Pcie", "capabilityStructure.device_status", "capability.device_status.flags"),
    ("Pcie", "capabilityStructure.link_capabilities", "capability.link_capabilities.flags"),
    ("Pcie", "capabilityStructure.link_control", "capability.link_control.flags"),
    ("Pcie", "capabilityStructure.link_status", "capability.link_status.flags"),
    ("Pcie", "capabilityStructure.slot_capabilities", "capability.slot_capabilities.flags"),
    ("Pcie", "capabilityStructure.slot_control", "capability.slot_control.flags"),
    ("Pcie", "capabilityStructure.slot_status", "capability.slot_status.flags"),
    ("Pcie", "capabilityStructure.root_control", "capability.root_control.flags"),
    ("Pcie", "capabilityStructure.root_capabilities", "capability.root_capabilities.flags"),
    ("Pcie", "capabilityStructure.root_status", "capability.root_status.flags"),
    ("Pcie", "capabilityStructure.device_capabilities2", "capability.device_capabilities_2.flags"),
    ("Pcie", "capabilityStructure.device_control2", "capability.device_control_2.flags"),
    ("Pcie", "capabilityStructure.link_capabilities2", "capability.link_capabilities_2.flags"),
    ("Pcie", "capabilityStructure.link_control2", "capability.link_control_2.flags"),
    ("Pcie", "capabilityStructure.link_status2", "capability.link_status_2.flags"),
];

/// Bits that the two call differently, both as [`plain`] has them.
const NAMES: &[(&str, &str)] = &[
    ("containmentwarning", "notcontained"),
    ("reset", "componentwasreset"),
    ("errorthresholdexceeded", "thresholdexceeded"),
    ("addresssignal", "address"),
    ("controlsignal", "control"),
    ("datasignal", "data"),
    ("detectedbyrequester", "detectedbyrequestor"),
    ("overflowdroppedlogs", "overflow"),
    ("privelegemoderequested", "privilegemoderequested"),
    ("mcblockedtlp", "multicastblockedtlp"),
    ("replaynumrollover", "replaynumberrollover"),
    ("relaxedorderingenable", "enablerelaxedordering"),
    ("functionlevelresetcapabilitysupported", "functionlevelresetcapability"),
    ("32bitatomicopcompletersupported", "atomicop32bitcompletersupported"),
    ("64bitatomicopcompletersupported", "atomicop64bitcompletersupported"),
    ("128bitcascompletersupported", "cas128bitcompletersupported"),
    ("bittagrequester10enable", "tag10bitrequesterenable"),
    ("ptmpropdelayadaptationinterpretation", "ptmpropagationdelayadaptation"),
    ("mrlsensorstate", "mrlopen"),
];

/// A name without case and separators, nor the register that it is in.
fn plain(name: &str) -> String {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut name = name.to_ascii_lowercase();
    for end in ["status", "mask", "severity", "error"] {
        if let Some(rest) = name.strip_suffix(end) {
            name.truncate(rest.len());
        }
    }
    name
}

fn ours_for(theirs: &str) -> String {
    let name = plain(theirs);
    let known = NAMES.iter().find(|(theirs, _)| *theirs == name);
    known.map_or(name, |(_, ours)| (*ours).to_owned())
}

/// What stands at `path`, one for each way through its lists; `None` where a way ends early.
fn at<'a>(value: &'a Value, path: &str) -> Vec<Option<&'a Value>> {
    let mut found = vec![Some(value)];
    for key in path.split('.').filter(|key| !key.is_empty()) {
        let mut next = Vec::new();
        for value in found {
            match (key, value) {
                ("*", Some(Value::Array(items))) => next.extend(items.iter().map(Some)),
                (_, value) => next.push(value.and_then(|value| value.get(key))),
            }
        }
        found = next;
    }
    found
}

/// A bit as libcper spells it; whether it may be the value of a longer field.
fn bit(value: &Value) -> Option<(bool, bool)> {
    Some(match value {
        Value::Bool(set) => (*set, false),
        Value::Number(number) if number.as_u64()? < 2 => (number.as_u64() == Some(1), true),
        Value::Object(_) => (bit(value.get("raw")?)?.0, true),
        Value::String(text) => match text.as_str() {
            "Supported" | "Enabled" | "Fatal" => (true, true),
            "NotSupported" | "Disabled" | "NonFatal" => (false, true),
            _ => return None,
        },
        _ => return None,
    })
}

/// Names that we give bits at `path` of this section in any case.
fn named(path: &str, details: &[&Value]) -> BTreeSet<String> {
    let lists = details.iter().flat_map(|details| at(details, path)).flatten();
    lists.filter_map(Value::as_array).flatten().filter_map(Value::as_str).map(plain).collect()
}

/// One section: libcper's body, and our details.
pub(super) struct Section<'c, 'a> {
    pub(super) id: &'c str,
    pub(super) kind: &'a str,
    pub(super) theirs: &'a Value,
    pub(super) ours: &'a Value,
}

pub(super) fn facts<'c>(
    sections: &[Section<'c, '_>],
    wrong: fn(&str, &str) -> Option<&'static str>,
) -> Vec<(&'c str, Fact)> {
    let mut facts = Vec::new();
    for (kind, theirs, ours) in GROUPS {
        let of_kind = || sections.iter().filter(|section| section.kind == *kind);
        let known = named(ours, &of_kind().map(|section| section.ours).collect::<Vec<_>>());
        for section in of_kind() {
            let pairs = at(section.theirs, theirs).into_iter().zip(at(section.ours, ours));
            for (register, mine) in pairs {
                let Some(Value::Object(register)) = register else { continue };
                for (leaf, value) in register {
                    let Some((set, several)) = bit(value) else { continue };
                    let name = ours_for(leaf);
                    let mine = mine.and_then(|mine| mine_of(mine, &name));
                    // What may be a longer field is one bit only where we have a bit of its name.
                    if several && !known.contains(&name) {
                        continue;
                    }
                    let path = format!("{theirs}.{leaf}");
                    let mut fact = Fact::new(
                        format!("{kind} bit {path}"),
                        vec![("libcper", set.to_string())],
                        mine.map(|set| set.to_string()),
                    );
                    fact.peer_wrong = wrong(kind, &path);
                    facts.push((section.id, fact));
                }
            }
        }
    }
    facts
}

/// Our bit: a name in a list, or a member that is true or false.
fn mine_of(mine: &Value, name: &str) -> Option<bool> {
    match mine {
        Value::Array(names) => {
            Some(names.iter().filter_map(Value::as_str).any(|ours| plain(ours) == name))
        }
        Value::Object(members) => members.iter().find(|(ours, _)| plain(ours) == name)?.1.as_bool(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bits_of_both_spellings_meet() {
        let (theirs, ours) = (
            json!({"aerInfo": {"uncorrectable_error_mask": {
                "surprise_down_error_mask": 1, "mc_blocked_tlp_mask": 0, "rsvd": 1}}}),
            json!({"aer": {"uncorrectable_masked": ["surprise down", "multicast blocked TLP"]}}),
        );
        let section = Section { id: "case", kind: "Pcie", theirs: &theirs, ours: &ours };
        let facts = facts(&[section], |_, _| None);
        let said: Vec<_> = facts
            .iter()
            .map(|(_, fact)| (fact.peers[0].1.as_str(), fact.ours.as_deref()))
            .collect();
        assert_eq!(said, [("false", Some("true")), ("true", Some("true"))]);
    }

    #[test]
    fn items_of_lists_keep_their_places() {
        let value = json!({"a": [{"b": 1}, {}, {"b": 3}]});
        assert_eq!(at(&value, "a.*.b"), [Some(&json!(1)), None, Some(&json!(3))]);
        assert_eq!(at(&value, ""), [Some(&value)]);
    }
}
