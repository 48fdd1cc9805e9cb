//! ERST and EINJ: lists of instructions that carry out actions on registers.
//!
//! ACPI Specification, "Error Serialization" and "Error Injection".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Details, ErrorRecord, ProblemKind as Kind, Value};

use super::{BODY, ENTRIES_MAX, GENERIC_ADDRESS, fields, report};
use crate::layout::{Field, code, flags, hex, number, number_at, read, size, skip};

const ERST_HEADER: &[Field] =
    &[number("header_length", 4), skip(4), number("instruction_entry_count", 4)];
const EINJ_HEADER: &[Field] =
    &[number("header_length", 4), hex("flags", 1), skip(3), number("instruction_entry_count", 4)];
const _: () = assert!(size(ERST_HEADER) == 12 && size(EINJ_HEADER) == 12);
const ENTRIES: usize = BODY + 12;
const COUNT: usize = BODY + 8;

/// "Serialization Instruction Entry"; an injection instruction has the same form.
const fn entry(actions: &'static [(u64, &'static str)]) -> [Field; 4] {
    [
        code("action", 1, actions),
        code("instruction", 1, INSTRUCTIONS),
        flags("flags", 1, &[(0, "preserve register")]),
        skip(1),
    ]
}
const ERST_ENTRY: [Field; 4] = entry(ERST_ACTIONS);
const EINJ_ENTRY: [Field; 4] = entry(EINJ_ACTIONS);
const OPERANDS: &[Field] = &[hex("value", 8), hex("mask", 8)];
const ENTRY: usize = 32;
const _: () = assert!(size(&ERST_ENTRY) + size(GENERIC_ADDRESS) + size(OPERANDS) == ENTRY);

/// "Error Record Serialization Actions".
const ERST_ACTIONS: &[(u64, &str)] = &[
    (0, "begin write"),
    (1, "begin read"),
    (2, "begin clear"),
    (3, "end"),
    (4, "set record offset"),
    (5, "execute"),
    (6, "check busy status"),
    (7, "get command status"),
    (8, "get record identifier"),
    (9, "set record identifier"),
    (10, "get record count"),
    (11, "begin dummy write"),
    (13, "get error log address range"),
    (14, "get error log address range length"),
    (15, "get error log address range attributes"),
    (16, "get execute timings"),
];

/// "Error Injection Actions".
const EINJ_ACTIONS: &[(u64, &str)] = &[
    (0, "begin injection"),
    (1, "get trigger action table"),
    (2, "set error type"),
    (3, "get error type"),
    (4, "end"),
    (5, "execute"),
    (6, "check busy status"),
    (7, "get command status"),
    (8, "set error type with address"),
    (9, "get execute timings"),
    (16, "EINJv2: set error type"),
    (17, "EINJv2: get error type"),
    (255, "trigger error"),
];

/// "Serialization Instructions"; injection has the first six.
const INSTRUCTIONS: &[(u64, &str)] = &[
    (0, "read register"),
    (1, "read register and compare"),
    (2, "write register"),
    (3, "write register value"),
    (4, "no operation"),
    (5, "load var1"),
    (6, "load var2"),
    (7, "store var1"),
    (8, "add"),
    (9, "subtract"),
    (10, "add value"),
    (11, "subtract value"),
    (12, "stall"),
    (13, "stall while true"),
    (14, "skip next if true"),
    (15, "go to"),
    (16, "set source base"),
    (17, "set destination base"),
    (18, "move data"),
];

pub(super) fn erst(table: &[u8], record: &mut ErrorRecord) -> String {
    list("ERST", ERST_HEADER, &ERST_ENTRY, table, record)
}

pub(super) fn einj(table: &[u8], record: &mut ErrorRecord) -> String {
    list("EINJ", EINJ_HEADER, &EINJ_ENTRY, table, record)
}

/// Adds the table's contents; returns its summary.
fn list(
    name: &str,
    header: &[Field],
    entry: &[Field],
    table: &[u8],
    record: &mut ErrorRecord,
) -> String {
    fields(name, header, BODY, table, record);
    let announced = number_at(table, COUNT, 4).unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let entries = table.get(ENTRIES..).unwrap_or_default();
    let mut list = Vec::new();
    for bytes in entries.chunks_exact(ENTRY).take(announced.min(ENTRIES_MAX)) {
        let mut group = Vec::with_capacity(6);
        read(entry, bytes, 0, &mut group);
        let mut register = Vec::with_capacity(5);
        read(GENERIC_ADDRESS, bytes.get(4..).unwrap_or_default(), 0, &mut register);
        group.add("register", Value::Group(register));
        read(OPERANDS, bytes.get(16..).unwrap_or_default(), 0, &mut group);
        list.push(Value::Group(group));
    }
    let there = list.len();
    if announced > ENTRIES_MAX && there == ENTRIES_MAX {
        let detail = format!("{announced} instructions, only {ENTRIES_MAX} are decoded");
        report(record, COUNT, Kind::Limit, detail);
    } else if there < announced {
        let detail = format!("{announced} instructions announced, {there} are there");
        report(record, table.len(), Kind::Truncated, detail);
    }
    record.details.add("instructions", Value::List(list));
    format!("{name}: {there} instructions")
}
