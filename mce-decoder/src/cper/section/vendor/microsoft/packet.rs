//! Windows' raw error packets: what an error source handed over before a record was made of it, and
//! the status block a firmware-first source did.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    CpuVendor, Details, ErrorClass, ErrorRecord, Guid, McaRegisters, Problem, ProblemKind, Value,
};

use super::super::linux::adopt;
use super::super::{add, cut, summarize};
use super::{NMI, PMEM};
use crate::cper::report;
use crate::cper::section::{self, Section};
use crate::cper::status_block::decode_status_block;
use crate::layout::{Field, code, flags, found, guid, hex, meaning, number, number_at, size, skip};
use crate::mca::{self, Context};
use crate::whea::SOURCE_TYPE;

/// `WHEA_ERROR_PACKET_SECTION_GUID`.
pub(in crate::cper) const ERROR_PACKET: Guid =
    Guid::new(0xe712_54e9, 0xc1b9, 0x4940, [0xab, 0x76, 0x90, 0x97, 0x03, 0xa4, 0x32, 0x0f]);
/// `GENERIC_SECTION_GUID`.
pub(in super::super) const GENERIC: Guid =
    Guid::new(0xe712_54e8, 0xc1b9, 0x4940, [0xab, 0x76, 0x90, 0x97, 0x03, 0xa4, 0x32, 0x0f]);

/// `WHEA_ERROR_PACKET_V1`, but for the error itself and the raw data.
const V1: &[Field] = &[
    hex("signature", 4),
    flags("flags", 4, FLAGS),
    number("size", 4),
    number("raw_data_length", 4),
    skip(8),
    hex("context", 8),
    code("error_type", 4, ERROR_TYPE),
    code("error_severity", 4, SEVERITY),
    number("error_source_id", 4),
    code("error_source_type", 4, SOURCE_TYPE),
    skip(4),
    number("version", 4),
    number("cpu", 8),
    skip(208),
    code("raw_data_format", 4, RAW_FORMAT),
    number("raw_data_offset", 4),
];
const _: () = assert!(size(V1) == 280);
/// Where the error itself is, as the section that its type names.
const V1_ERROR: core::ops::Range<usize> = 64..272;

/// `WHEA_ERROR_PACKET_V2`.
const V2: &[Field] = &[
    hex("signature", 4),
    number("version", 4),
    number("length", 4),
    flags("flags", 4, FLAGS),
    code("error_type", 4, ERROR_TYPE),
    code("error_severity", 4, SEVERITY),
    number("error_source_id", 4),
    code("error_source_type", 4, SOURCE_TYPE),
    guid("notify_type"),
    hex("context", 8),
    code("data_format", 4, DATA_FORMAT),
    skip(4),
    number("data_offset", 4),
    number("data_length", 4),
    number("pshed_data_offset", 4),
    number("pshed_data_length", 4),
];
const _: () = assert!(size(V2) == 80);

/// `WHEA_ERROR_PACKET_FLAGS`.
const FLAGS: &[(u32, &str)] = &[
    (0, "previous error"),
    (1, "critical event"),
    (2, "hypervisor error"),
    (3, "simulated"),
    (4, "platform controls failure analysis"),
    (5, "platform directs page offlining"),
    (6, "address translation required"),
    (7, "address translation completed"),
    (8, "recovery optional"),
];

/// `WHEA_ERROR_TYPE`.
const ERROR_TYPE: &[(u64, &str)] = &[
    (0, "processor"),
    (1, "memory"),
    (2, "PCI Express"),
    (3, "NMI"),
    (4, "PCI-X bus"),
    (5, "PCI-X device"),
    (6, "generic"),
    (7, "persistent memory"),
];

/// As CPER's own.
const SEVERITY: &[(u64, &str)] =
    &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "informational")];

/// `WHEA_RAW_DATA_FORMAT`.
const RAW_FORMAT: &[(u64, &str)] = &[
    (0, "Itanium SAL record"),
    (1, "IA32 MCA"),
    (2, "Intel 64 MCA"),
    (3, "AMD64 MCA"),
    (4, "memory"),
    (5, "PCI Express"),
    (6, "NMI port"),
    (7, "PCI-X bus"),
    (8, "PCI-X device"),
    (RAW_GENERIC, "generic"),
];
const RAW_GENERIC: u64 = 9;

/// `WHEA_ERROR_PACKET_DATA_FORMAT`.
const DATA_FORMAT: &[(u64, &str)] = &[
    (0, "Itanium SAL record"),
    (1, "XPF MCA"),
    (2, "memory"),
    (3, "PCI Express"),
    (4, "NMI port"),
    (5, "PCI-X bus"),
    (6, "PCI-X device"),
    (DATA_GENERIC, "generic"),
];
const DATA_GENERIC: u64 = 7;

pub(in super::super) fn error_packet(section: &Section<'_>, record: &mut ErrorRecord) {
    match section.body.get(..4) {
        Some(b"ErPt") => v1(section, record),
        Some(b"WHEA") => v2(section, record),
        _ => {
            let detail = "error packet with a signature that is not defined".into();
            report(&mut record.problems, section.offset, ProblemKind::Malformed, detail);
            return summarize(record, ErrorClass::Unknown, "Windows error packet".into());
        }
    }
    let what = meaning(&record.details, "error_type").unwrap_or("unknown");
    let source = meaning(&record.details, "error_source_type").unwrap_or("unknown");
    let class = match found(&record.details, "error_type") {
        Some(0) => ErrorClass::Processor,
        Some(1 | 7) => ErrorClass::Memory,
        Some(2 | 4 | 5) => ErrorClass::Pcie,
        _ => ErrorClass::Platform,
    };
    let what = format!("Windows error packet: {what} error, source {source}");
    match record.witnesses.first().cloned() {
        Some(first) => adopt(&first, record),
        None => summarize(record, class, what),
    }
}

fn v1(section: &Section<'_>, record: &mut ErrorRecord) {
    if !add("error packet", V1, 0, 0, section, record) {
        return;
    }
    let field = |name| found(&record.details, name).unwrap_or(0);
    let format = field("raw_data_format");
    // Named an offset, it is the length of the data before what a plug-in added.
    let length = usize::try_from(field("raw_data_offset")).unwrap_or(usize::MAX);
    let kind = field("error_type");
    let data = section.body.get(size(V1)..).unwrap_or_default();
    let (data, plugin) = data.split_at(length.min(data.len()));
    if let Some(body) = section.body.get(V1_ERROR)
        && let Some(section_type) = section_type(kind)
    {
        nested(section_type, body, V1_ERROR.start, section, record);
    }
    match format {
        1..=3 => machine_check(format, data, record),
        RAW_GENERIC => status_block(data, size(V1), section, record),
        _ => keep("raw_data", data, record),
    }
    keep("pshed_data", plugin, record);
}

fn v2(section: &Section<'_>, record: &mut ErrorRecord) {
    if !add("error packet", V2, 0, 0, section, record) {
        return;
    }
    let field =
        |name| usize::try_from(found(&record.details, name).unwrap_or(0)).unwrap_or(usize::MAX);
    let slice = |offset: usize, length: usize| {
        section.body.get(offset..offset.saturating_add(length)).filter(|_| offset >= size(V2))
    };
    let (at, length) = (field("data_offset"), field("data_length"));
    let (pshed_at, pshed_length) = (field("pshed_data_offset"), field("pshed_data_length"));
    let (data, pshed) = (slice(at, length), slice(pshed_at, pshed_length));
    if (length > 0 && data.is_none()) || (pshed_length > 0 && pshed.is_none()) {
        let detail = "data of the error packet lies outside of it".into();
        report(&mut record.problems, section.offset + 64, ProblemKind::OutOfBounds, detail);
    }
    let data = data.unwrap_or_default();
    match found(&record.details, "data_format") {
        Some(DATA_GENERIC) => status_block(data, at, section, record),
        _ => keep("data", data, record),
    }
    keep("pshed_data", pshed.unwrap_or_default(), record);
}

/// Bytes without a form known here. The first ones: the section's raw bytes have them all.
fn keep(name: &'static str, bytes: &[u8], record: &mut ErrorRecord) {
    if !bytes.is_empty() {
        record.details.add(name, Value::Bytes(bytes.get(..256).unwrap_or(bytes).into()));
    }
}

/// The section whose layout an error of this type has.
const fn section_type(error_type: u64) -> Option<Guid> {
    Some(match error_type {
        0 => {
            Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb])
        }
        1 => section::memory::SECTION_TYPE,
        2 => {
            Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35])
        }
        3 => NMI,
        4 => {
            Guid::new(0xc575_3963, 0x3b84, 0x4095, [0xbf, 0x78, 0xed, 0xda, 0xd3, 0xf9, 0xc9, 0xdd])
        }
        5 => {
            Guid::new(0xeb5e_4685, 0xca66, 0x4769, [0xb6, 0xa2, 0x26, 0x06, 0x8b, 0x00, 0x13, 0x26])
        }
        7 => PMEM,
        _ => return None,
    })
}

/// Decodes a section inside of this one. Never called for types that hold sections themselves.
fn nested(
    section_type: Guid,
    body: &[u8],
    at: usize,
    section: &Section<'_>,
    record: &mut ErrorRecord,
) {
    let inner = Section {
        source: section.source,
        time: section.time,
        section_type,
        severity: section.severity,
        revision: None,
        flags: section.flags,
        record_flags: section.record_flags,
        fru: None,
        fru_id: None,
        offset: section.offset + at,
        length: body.len(),
        body,
    };
    record.witnesses.push(section::decode(inner));
}

/// `MCA_EXCEPTION`, before its extended registers.
const MCA_EXCEPTION: &[Field] = &[
    number("mca_version", 4),
    code("exception_type", 4, &[(0, "MCE"), (1, "MCA")]),
    number("filetime", 8),
    number("processor_number", 4),
    skip(4),
    number("bank_number", 1),
    skip(7),
    hex("status", 8),
    hex("address", 8),
    hex("misc", 8),
];

fn machine_check(format: u64, data: &[u8], record: &mut ErrorRecord) {
    let mut group = Vec::with_capacity(8);
    let whole = crate::layout::read(MCA_EXCEPTION, data, 0, &mut group).is_none();
    let field = |name| found(&group, name).unwrap_or(0);
    if whole && field("exception_type") == 1 {
        let registers = McaRegisters {
            vendor: match format {
                2 => CpuVendor::Intel,
                3 => CpuVendor::Amd,
                _ => CpuVendor::default(),
            },
            bank: u8::try_from(field("bank_number")).unwrap_or(u8::MAX),
            status: field("status"),
            addr: field("address"),
            misc: field("misc"),
            ..McaRegisters::default()
        };
        let context = Context {
            time: super::mca::filetime(field("filetime")),
            cpu: u32::try_from(field("processor_number")).ok(),
            socket: None,
        };
        let mut bank = mca::decode(&registers, context);
        bank.source = record.source;
        record.witnesses.push(bank);
    }
    record.details.add("mca_exception", Value::Group(group));
}

pub(in super::super) fn generic(section: &Section<'_>, record: &mut ErrorRecord) {
    if section.body.len() < 20 {
        cut(section, record, "status block is cut");
    }
    status_block(section.body, 0, section, record);
    let entries = record.witnesses.len();
    match record.witnesses.first().cloned() {
        Some(first) => adopt(&first, record),
        None => {
            let what = format!("Windows generic error with {entries} entries");
            summarize(record, ErrorClass::Platform, what);
        }
    }
}

/// Decodes the status block in `block`, which begins at `at` in the section; its entries become
/// witnesses.
///
/// A status block in a section in a status block would make every byte be read as often as it is
/// nested: only the outermost one is decoded.
fn status_block(block: &[u8], at: usize, section: &Section<'_>, record: &mut ErrorRecord) {
    let offset = section.offset + at;
    if nests(block) {
        let detail = "status block with further ones inside is not decoded".into();
        return report(&mut record.problems, offset, ProblemKind::Limit, detail);
    }
    let shift = |problem: Problem| Problem {
        offset: problem.offset.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)),
        ..problem
    };
    let decoded = decode_status_block(block);
    record.problems.extend(decoded.problems.into_iter().map(shift));
    for mut witness in decoded.records {
        witness.source = record.source;
        witness.problems = witness.problems.into_iter().map(shift).collect();
        record.witnesses.push(witness);
    }
}

/// Whether an entry of the block is of a type that can hold a status block.
fn nests(block: &[u8]) -> bool {
    let mut at = 20;
    while let Some(entry) = block.get(at..).and_then(|rest| rest.get(..64)) {
        let is = |guid: Guid| entry.starts_with(&guid.0);
        if is(GENERIC) || is(ERROR_PACKET) {
            return true;
        }
        let header = if entry[21] >= 3 { 72 } else { 64 };
        let length = number_at(entry, 24, 4).and_then(|length| usize::try_from(length).ok());
        at = at.saturating_add(header).saturating_add(length.unwrap_or(usize::MAX));
    }
    false
}
