//! Records as JSON, the form that `rasctl schema` publishes.
//!
//! Written by hand and straight into one buffer: a kernel log gives hundreds of thousands of records a
//! second, and a general serializer would take most of the time. Names are stable; numbers are
//! numbers; addresses and raw registers are `"0x…"`, GUIDs are in their canonical form, bytes are
//! hexadecimal digits.

mod write;

use std::borrow::Cow;

use ras_core::{
    Detail, DimmLocation, ErrorAddress, ErrorRecord, Location, McaRegisters, Problem, Raw,
    RecordFlags, Value,
};

pub use self::write::Object;
use self::write::{guid, hex, list, number, string, time};
use crate::read::{Damage, Found};

/// The JSON Schema of what `rasctl decode --json` prints, draft 2020-12.
pub const SCHEMA: &str = include_str!("../schema/record.json");

/// Appends `record` as one object, without a line feed.
pub fn record(record: &ErrorRecord, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    members(record, &mut object);
    object.end();
}

/// Appends a record with its place as one object, without a line feed.
pub fn found(found: &Found, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("file", &found.file);
    object.number("offset", found.offset);
    object.some("line", found.line);
    members(&found.record, &mut object);
    object.end();
}

/// Appends damage that belongs to no record as one object, without a line feed.
pub fn damage(damage: &Damage, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("file", &damage.file);
    object.number("offset", damage.problem.offset);
    object.some("line", damage.line);
    problem(&damage.problem, object.key("problem"));
    object.end();
}

/// Appends the members of `record` to an object that is being written.
pub fn members(record: &ErrorRecord, object: &mut Object<'_>) {
    object.text("source", record.source.name());
    match record.time {
        Some(at) => time(at, object.key("time")),
        None => object.null("time"),
    }
    object.text("class", record.class.name());
    object.text("severity", record.severity.name());
    object.text("severity_reason", &record.severity_reason);
    flags(record.flags, object);
    object.text("summary", &record.summary);
    match &record.address {
        Some(at) => address(at, object.key("address")),
        None => object.null("address"),
    }
    object.number("count", record.count.into());
    location(&record.location, object.key("location"));
    group(&record.details, object.key("details"));
    raw(&record.raw, object.key("raw"));
    list(&record.problems, problem, object.key("problems"));
    list(&record.witnesses, self::record, object.key("witnesses"));
}

/// Appends one piece of damage.
pub fn problem(problem: &Problem, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.number("offset", problem.offset);
    object.text("kind", problem.kind.name());
    object.text("detail", &problem.detail);
    object.end();
}

/// The flags that are set, by name. Few records have any: without them there is no member.
fn flags(flags: RecordFlags, object: &mut Object<'_>) {
    let RecordFlags { threshold_exceeded, previous_boot, simulated, recovered, overflow } = flags;
    let named = [
        (threshold_exceeded, "threshold_exceeded"),
        (previous_boot, "previous_boot"),
        (simulated, "simulated"),
        (recovered, "recovered"),
        (overflow, "overflow"),
    ];
    let set = || named.iter().filter(|(set, _)| *set).map(|(_, name)| *name);
    if set().next().is_none() {
        return;
    }
    let out = object.key("flags");
    let mut separator = b'[';
    for name in set() {
        out.push(separator);
        separator = b',';
        string(name, out);
    }
    out.push(b']');
}

fn address(address: &ErrorAddress, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.hex("addr", address.addr.0);
    object.number("lsb", address.lsb.into());
    object.text("mode", address.mode.name());
    object.end();
}

pub(crate) fn location(location: &Location, out: &mut Vec<u8>) {
    let Location { cpu, socket, imc, channel, dimm, fru, pci } = location;
    let mut object = Object::begin(out);
    object.some("cpu", *cpu);
    object.some("socket", *socket);
    object.some("imc", *imc);
    object.some("channel", *channel);
    if *dimm != DimmLocation::default() {
        self::dimm(dimm, object.key("dimm"));
    }
    if let Some(fru) = fru {
        object.text("fru", fru);
    }
    if let Some(pci) = pci {
        object.text("pci", &pci.to_string());
    }
    object.end();
}

fn dimm(dimm: &DimmLocation, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.some("node", dimm.node);
    object.some("card", dimm.card);
    object.some("module", dimm.module);
    object.some("rank", dimm.rank);
    object.some("bank_group", dimm.bank_group);
    object.some("bank", dimm.bank);
    object.some("chip", dimm.chip);
    object.some("device", dimm.device);
    object.some("row", dimm.row);
    object.some("column", dimm.column);
    object.some("bit_position", dimm.bit_position);
    if let Some(handle) = dimm.module_handle {
        object.hex("module_handle", handle.into());
    }
    object.end();
}

fn raw(raw: &Raw, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    match raw {
        Raw::Mca(registers) => mca(registers, object.key("mca")),
        Raw::Section { section_type, bytes } => {
            guid(*section_type, object.key("section_type"));
            write::bytes(bytes, object.key("bytes"));
        }
        Raw::Bytes(bytes) => write::bytes(bytes, object.key("bytes")),
        Raw::Text(text) => object.text("text", text),
        _ => {}
    }
    object.end();
}

/// Registers that only some processors have are left out where they are zero.
fn mca(registers: &McaRegisters, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("vendor", registers.vendor.name());
    object.hex("cpuid", registers.cpuid.into());
    object.number("bank", registers.bank.into());
    object.hex("status", registers.status);
    object.hex("addr", registers.addr);
    object.hex("misc", registers.misc);
    object.hex("mcg_status", registers.mcg_status);
    let rare = [
        ("mcg_cap", registers.mcg_cap),
        ("synd", registers.synd),
        ("ipid", registers.ipid),
        ("synd1", registers.synd1),
        ("synd2", registers.synd2),
        ("config", registers.config),
        ("destat", registers.destat),
        ("deaddr", registers.deaddr),
        ("ip", registers.ip),
        ("cs", registers.cs.into()),
        ("tsc", registers.tsc),
        ("ppin", registers.ppin),
        ("apic_id", registers.apic_id.into()),
        ("microcode", registers.microcode.into()),
    ];
    for (name, value) in rare {
        if value != 0 {
            object.hex(name, value);
        }
    }
    object.end();
}

fn group(details: &[Detail], out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    for Detail { name, value } in details {
        // Names that are borrowed are ours; others come from the input.
        let out = match name {
            Cow::Borrowed(name) => object.any_key(name),
            Cow::Owned(name) => object.foreign_key(name),
        };
        self::value(value, out);
    }
    object.end();
}

fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(value) => number(*value, out),
        Value::Signed(value) => {
            if *value < 0 {
                out.push(b'-');
            }
            number(value.unsigned_abs(), out);
        }
        Value::Hex(bits) => hex(*bits, out),
        Value::Flag(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        Value::Text(text) => string(text, out),
        Value::Code { code, meaning } => {
            let mut object = Object::begin(out);
            object.number("code", *code);
            if let Some(meaning) = meaning {
                object.text("meaning", meaning);
            }
            object.end();
        }
        Value::Guid(value) => guid(*value, out),
        Value::Bytes(value) => write::bytes(value, out),
        Value::List(values) => list(values, self::value, out),
        Value::Group(details) => group(details, out),
        _ => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::ErrorSource;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_empty_record_is_valid_json() {
        let text = written(|out| record(&ErrorRecord::new(ErrorSource::Cper), out));
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["source"], "cper");
        assert_eq!(parsed["address"], serde_json::Value::Null);
        assert_eq!(parsed["details"], serde_json::json!({}));
    }
}
