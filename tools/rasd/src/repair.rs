//! Records that say that a row was replaced for good: the entries it condemned go on probation.
//!
//! The only such record that is decoded is the event of a CXL device, "Memory Sparing Event Record" (CXL
//! Specification 3.2), in a CPER section. Others tell what was asked for, or what could be done
//! ([`crate::machine::mem_repair`]), and firmware that repairs modules while it starts tells nobody.

use persist_store::Repair;
use ras_core::{Detail, DimmLocation, ErrorRecord, Location, Timestamp, Value};

/// `sparing_op_class`, `sparing_op_sub_class`. "Maintenance Operation: Classes, Subclasses, and Feature
/// UUIDs".
const SPARING: u64 = 2;
const OF_A_ROW: u64 = 1;

/// `result`.
const SUCCESS: u64 = 0;

/// `nibble_mask` of all devices of a rank. Of fewer, nobody could say whether an entry's cells were theirs.
const ALL_NIBBLES: u64 = 0xff_ffff;

/// The repair that `record` reports, which came at `arrived`.
#[must_use]
pub fn of(record: &ErrorRecord, arrived: Timestamp) -> Option<Repair> {
    let number = |name| number(&record.details, name);
    let done = number("sparing_op_class") == Some(SPARING)
        && number("sparing_op_sub_class") == Some(OF_A_ROW)
        && number("result") == Some(SUCCESS)
        && has_flag(&record.details, "sparing_flags", "hard sparing")
        && !has_flag(&record.details, "sparing_flags", "query of resources")
        && number("nibble_mask").is_none_or(|mask| mask == ALL_NIBBLES)
        // No entry knows its sub-channel.
        && number("sub_channel").is_none();
    let Location { channel, pci, dimm, .. } = record.location.clone();
    let whole = channel.is_some() && dimm.rank.is_some() && dimm.bank_group.is_some();
    if !done || !whole || dimm.bank.is_none() || dimm.row.is_none() {
        return None;
    }
    // The device counts in its own way; its PCI function says which one it is.
    let dimm = DimmLocation { column: None, ..dimm };
    let place = Location { channel, pci: Some(pci?), dimm, ..Location::default() };
    Some(Repair { dimm: None, place, time: record.time.unwrap_or(arrived) })
}

fn value<'a>(details: &'a [Detail], name: &str) -> Option<&'a Value> {
    details.iter().find(|detail| detail.name == name).map(|detail| &detail.value)
}

fn number(details: &[Detail], name: &str) -> Option<u64> {
    match value(details, name)? {
        Value::Number(number) | Value::Hex(number) | Value::Code { code: number, .. } => {
            Some(*number)
        }
        _ => None,
    }
}

fn has_flag(details: &[Detail], name: &str, flag: &str) -> bool {
    match value(details, name) {
        Some(Value::List(flags)) => {
            flags.iter().any(|found| matches!(found, Value::Text(text) if text == flag))
        }
        _ => false,
    }
}
