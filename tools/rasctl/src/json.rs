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

use self::write::{Object, guid, hex, list, name, number, string, time};
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
    object.text(name!("file"), &found.file);
    object.number(name!("offset"), found.offset);
    object.some(name!("line"), found.line);
    members(&found.record, &mut object);
    object.end();
}

/// Appends damage that belongs to no record as one object, without a line feed.
pub fn damage(damage: &Damage, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text(name!("file"), &damage.file);
    object.number(name!("offset"), damage.problem.offset);
    object.some(name!("line"), damage.line);
    problem(&damage.problem, object.key(name!("problem")));
    object.end();
}

/// Appends the members of `record` to an object that is being written.
fn members(record: &ErrorRecord, object: &mut Object<'_>) {
    object.word(name!("source"), record.source.name());
    match record.time {
        Some(at) => time(at, object.key(name!("time"))),
        None => object.null(name!("time")),
    }
    object.word(name!("class"), record.class.name());
    object.word(name!("severity"), record.severity.name());
    object.text(name!("severity_reason"), &record.severity_reason);
    flags(record.flags, object);
    object.text(name!("summary"), &record.summary);
    match &record.address {
        Some(at) => address(at, object.key(name!("address"))),
        None => object.null(name!("address")),
    }
    object.number(name!("count"), record.count.into());
    location(&record.location, object.key(name!("location")));
    group(&record.details, object.key(name!("details")));
    raw(&record.raw, object.key(name!("raw")));
    list(&record.problems, problem, object.key(name!("problems")));
    list(&record.witnesses, self::record, object.key(name!("witnesses")));
}

/// Appends one piece of damage.
pub fn problem(problem: &Problem, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.number(name!("offset"), problem.offset);
    object.word(name!("kind"), problem.kind.name());
    object.text(name!("detail"), &problem.detail);
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
    let out = object.key(name!("flags"));
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
    object.hex(name!("addr"), address.addr.0);
    object.number(name!("lsb"), address.lsb.into());
    object.word(name!("mode"), address.mode.name());
    object.end();
}

pub(crate) fn location(location: &Location, out: &mut Vec<u8>) {
    let Location { cpu, socket, imc, channel, dimm, fru, pci } = location;
    let mut object = Object::begin(out);
    object.some(name!("cpu"), *cpu);
    object.some(name!("socket"), *socket);
    object.some(name!("imc"), *imc);
    object.some(name!("channel"), *channel);
    if *dimm != DimmLocation::default() {
        self::dimm(dimm, object.key(name!("dimm")));
    }
    if let Some(fru) = fru {
        object.text(name!("fru"), fru);
    }
    if let Some(pci) = pci {
        object.text(name!("pci"), &pci.to_string());
    }
    object.end();
}

fn dimm(dimm: &DimmLocation, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.some(name!("node"), dimm.node);
    object.some(name!("card"), dimm.card);
    object.some(name!("module"), dimm.module);
    object.some(name!("rank"), dimm.rank);
    object.some(name!("bank_group"), dimm.bank_group);
    object.some(name!("bank"), dimm.bank);
    object.some(name!("chip"), dimm.chip);
    object.some(name!("device"), dimm.device);
    object.some(name!("row"), dimm.row);
    object.some(name!("column"), dimm.column);
    object.some(name!("bit_position"), dimm.bit_position);
    if let Some(handle) = dimm.module_handle {
        object.hex(name!("module_handle"), handle.into());
    }
    object.end();
}

fn raw(raw: &Raw, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    match raw {
        Raw::Mca(registers) => mca(registers, object.key(name!("mca"))),
        Raw::Section { section_type, bytes } => {
            guid(*section_type, object.key(name!("section_type")));
            write::bytes(bytes, object.key(name!("bytes")));
        }
        Raw::Bytes(bytes) => write::bytes(bytes, object.key(name!("bytes"))),
        Raw::Text(text) => object.text(name!("text"), text),
        _ => {}
    }
    object.end();
}

/// Registers that only some processors have are left out where they are zero.
fn mca(registers: &McaRegisters, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.word(name!("vendor"), registers.vendor.name());
    object.hex(name!("cpuid"), registers.cpuid.into());
    object.number(name!("bank"), registers.bank.into());
    object.hex(name!("status"), registers.status);
    object.hex(name!("addr"), registers.addr);
    object.hex(name!("misc"), registers.misc);
    object.hex(name!("mcg_status"), registers.mcg_status);
    object.rare(name!("mcg_cap"), registers.mcg_cap);
    object.rare(name!("synd"), registers.synd);
    object.rare(name!("ipid"), registers.ipid);
    object.rare(name!("synd1"), registers.synd1);
    object.rare(name!("synd2"), registers.synd2);
    object.rare(name!("config"), registers.config);
    object.rare(name!("destat"), registers.destat);
    object.rare(name!("deaddr"), registers.deaddr);
    object.rare(name!("ip"), registers.ip);
    object.rare(name!("cs"), registers.cs);
    object.rare(name!("tsc"), registers.tsc);
    object.rare(name!("ppin"), registers.ppin);
    object.rare(name!("apic_id"), registers.apic_id);
    object.rare(name!("microcode"), registers.microcode);
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
            object.number(name!("code"), *code);
            if let Some(meaning) = meaning {
                object.text(name!("meaning"), meaning);
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
