//! HEST: where errors come from on this platform, and who handles them.
//!
//! ACPI Specification, "Hardware Error Source Table (HEST)".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Detail, Details, ErrorRecord, ProblemKind as Kind, Value};

use super::{BODY, ENTRIES_MAX, GENERIC_ADDRESS, fields, report};
use crate::layout::{
    Field, Part, code, flag, flags, found, hex, number, number_at, part, parts, read, size, skip,
};

/// What every source begins with.
const SOURCE: &[Field] = &[code("type", 2, TYPES), number("source_id", 2)];

const TYPES: &[(u64, &str)] = &[
    (MCE, "IA32 machine check exception"),
    (CMC, "IA32 corrected machine check"),
    (NMI, "IA32 non-maskable interrupt"),
    (ROOT_PORT, "PCIe root port AER"),
    (ENDPOINT, "PCIe device AER"),
    (BRIDGE, "PCIe/PCI-X bridge AER"),
    (GENERIC, "generic hardware error source"),
    (GENERIC_V2, "generic hardware error source, version 2"),
    (DEFERRED, "IA32 deferred machine check"),
];
const MCE: u64 = 0;
const CMC: u64 = 1;
const NMI: u64 = 2;
const ROOT_PORT: u64 = 6;
const ENDPOINT: u64 = 7;
const BRIDGE: u64 = 8;
const GENERIC: u64 = 9;
const GENERIC_V2: u64 = 10;
const DEFERRED: u64 = 11;

const MCE_FIELDS: &[Field] = &[
    skip(2),
    flags("flags", 1, FLAGS),
    flag("enabled"),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
    hex("global_capability_init", 8),
    hex("global_control_init", 8),
    number("hardware_banks", 1),
    skip(7),
];
/// Corrected machine checks; deferred ones have the same form.
const CMC_FIELDS: &[Field] = &[
    skip(2),
    flags("flags", 1, FLAGS),
    flag("enabled"),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
];
const BANK_COUNT: &[Field] = &[number("hardware_banks", 1), skip(3)];
const BANK: &[Field] = &[
    number("bank", 1),
    flag("clear_status_on_init"),
    code("status_format", 1, &[(0, "IA32"), (1, "Intel 64"), (2, "AMD64")]),
    skip(1),
    hex("control_msr", 4),
    hex("control_init", 8),
    hex("status_msr", 4),
    hex("address_msr", 4),
    hex("misc_msr", 4),
];
const _: () = assert!(size(BANK) == 28);

const NMI_FIELDS: &[Field] = &[
    skip(4),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
    number("max_raw_data_length", 4),
];

const AER_FIELDS: &[Field] = &[
    skip(2),
    flags("flags", 1, FLAGS),
    flag("enabled"),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
    parts("bus", 4, &[part("number", 0, 8), part("segment", 8, 16)]),
    number("device", 2),
    number("function", 2),
    hex("device_control", 2),
    skip(2),
    hex("uncorrectable_mask", 4),
    hex("uncorrectable_severity", 4),
    hex("correctable_mask", 4),
    hex("advanced_capabilities", 4),
];
const ROOT_PORT_FIELDS: &[Field] = &[hex("root_error_command", 4)];
const BRIDGE_FIELDS: &[Field] = &[
    hex("secondary_uncorrectable_mask", 4),
    hex("secondary_uncorrectable_severity", 4),
    hex("secondary_advanced_capabilities", 4),
];

const GENERIC_FIELDS: &[Field] = &[
    hex("related_source_id", 2),
    flags("flags", 1, FLAGS),
    flag("enabled"),
    number("records_to_preallocate", 4),
    number("max_sections_per_record", 4),
    number("max_raw_data_length", 4),
];
const BLOCK_LENGTH: &[Field] = &[number("error_status_block_length", 4)];
const ACK_MASKS: &[Field] = &[hex("read_ack_preserve", 8), hex("read_ack_write", 8)];

/// "Hardware Error Notification Structure".
const NOTIFICATION: &[Field] = &[
    code("type", 1, NOTIFICATIONS),
    number("length", 1),
    parts("write_enable", 2, WRITE_ENABLE),
    number("poll_interval_ms", 4),
    number("vector", 4),
    number("polling_threshold", 4),
    number("polling_threshold_window_ms", 4),
    number("error_threshold", 4),
    number("error_threshold_window_ms", 4),
];
const _: () = assert!(size(NOTIFICATION) == 28);

const NOTIFICATIONS: &[(u64, &str)] = &[
    (0, "polled"),
    (1, "external interrupt"),
    (2, "local interrupt"),
    (3, "SCI"),
    (4, "NMI"),
    (5, "CMCI"),
    (6, "MCE"),
    (7, "GPIO"),
    (8, "SEA"),
    (9, "SEI"),
    (10, "GSIV"),
    (11, "software delegated exception"),
];

const WRITE_ENABLE: &[Part] = &[
    part("type", 0, 1),
    part("poll_interval", 1, 1),
    part("polling_threshold", 2, 1),
    part("polling_threshold_window", 3, 1),
    part("error_threshold", 4, 1),
    part("error_threshold_window", 5, 1),
];

const FLAGS: &[(u32, &str)] = &[(0, "firmware first"), (1, "global"), (2, "GHES assist")];

/// Adds the table's contents; returns its summary.
pub(super) fn decode(table: &[u8], record: &mut ErrorRecord) -> String {
    const COUNT: &[Field] = &[number("error_source_count", 4)];
    fields("HEST", COUNT, BODY, table, record);
    let announced = number_at(table, BODY, 4).unwrap_or(0);
    let mut list = Vec::new();
    let mut at = BODY + size(COUNT);
    while u64::try_from(list.len()).unwrap_or(u64::MAX) < announced {
        if list.len() == ENTRIES_MAX {
            let detail = format!("{announced} error sources, only {ENTRIES_MAX} are decoded");
            report(record, at, Kind::Limit, detail);
            break;
        }
        let mut source = Source { table, at, group: Vec::with_capacity(20), cut: None };
        let known = source.decode();
        let Source { at: next, group, cut, .. } = source;
        if let Some(lacking) = cut {
            let detail = format!("error source {} ends before {lacking}", list.len());
            report(record, table.len(), Kind::Truncated, detail);
        }
        let complete = known && cut.is_none();
        if !known {
            // Nothing says how long it is.
            let detail = format!("error source {} of unknown type ends the list", list.len());
            report(record, at, Kind::Unknown, detail);
        }
        if !group.is_empty() {
            list.push(Value::Group(group));
        }
        if !complete {
            break;
        }
        at = next;
    }
    let found = list.len();
    record.details.add("sources", Value::List(list));
    format!("HEST: {found} error sources")
}

/// A source that is being read. Every part moves on, or ends the list.
struct Source<'a> {
    table: &'a [u8],
    at: usize,
    group: Vec<Detail>,
    cut: Option<&'static str>,
}

impl Source<'_> {
    /// Whether the type is known.
    fn decode(&mut self) -> bool {
        self.add(SOURCE);
        let Some(kind) = found(&self.group, "type") else { return true };
        match kind {
            MCE => {
                self.add(MCE_FIELDS);
                self.banks();
            }
            CMC | DEFERRED => {
                self.add(CMC_FIELDS);
                self.nested("notification", NOTIFICATION);
                self.add(BANK_COUNT);
                self.banks();
            }
            NMI => self.add(NMI_FIELDS),
            ROOT_PORT | ENDPOINT | BRIDGE => {
                self.add(AER_FIELDS);
                match kind {
                    ROOT_PORT => self.add(ROOT_PORT_FIELDS),
                    BRIDGE => self.add(BRIDGE_FIELDS),
                    _ => {}
                }
            }
            GENERIC | GENERIC_V2 => {
                self.add(GENERIC_FIELDS);
                self.nested("error_status_address", GENERIC_ADDRESS);
                self.nested("notification", NOTIFICATION);
                self.add(BLOCK_LENGTH);
                if kind == GENERIC_V2 {
                    self.nested("read_ack_register", GENERIC_ADDRESS);
                    self.add(ACK_MASKS);
                }
            }
            _ => return false,
        }
        true
    }

    fn add(&mut self, fields: &[Field]) {
        let rest = self.table.get(self.at..).unwrap_or_default();
        self.cut = self.cut.or(read(fields, rest, 0, &mut self.group));
        self.at = self.at.saturating_add(size(fields));
    }

    fn nested(&mut self, name: &'static str, fields: &[Field]) {
        let rest = self.table.get(self.at..).unwrap_or_default();
        let mut group = Vec::with_capacity(fields.len());
        self.cut = self.cut.or(read(fields, rest, 0, &mut group));
        self.at = self.at.saturating_add(size(fields));
        if !group.is_empty() {
            self.group.add(name, Value::Group(group));
        }
    }

    fn banks(&mut self) {
        let count = found(&self.group, "hardware_banks").unwrap_or(0);
        let mut list = Vec::new();
        for _ in 0..count {
            if self.cut.is_some() {
                break;
            }
            let rest = self.table.get(self.at..).unwrap_or_default();
            let mut group = Vec::with_capacity(BANK.len());
            self.cut = read(BANK, rest, 0, &mut group);
            self.at = self.at.saturating_add(size(BANK));
            list.push(Value::Group(group));
        }
        self.group.add("banks", Value::List(list));
    }
}
