//! Windows' machine-check section: whole banks, which go to the machine-check decoder.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    CpuVendor, Details, ErrorClass, ErrorRecord, Guid, McaRegisters, Raw, Timestamp, Value,
};

use super::super::linux::adopt;
use super::super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{Field, code, flag, flags, found, hex, little, number, number_at, size, skip};
use crate::mca::{self, Context};

/// `XPF_MCA_SECTION_GUID`.
pub(in super::super) const XPF_MCA: Guid =
    Guid::new(0x8a1e_1d01, 0x42f9, 0x4557, [0x9c, 0x33, 0x56, 0x5e, 0x5c, 0xc3, 0xf7, 0xe8]);

/// `WHEA_XPF_MCA_SECTION`, up to its extended registers.
const HEAD: &[Field] = &[
    number("version_number", 4),
    code("cpu_vendor", 4, &[(0, "other"), (INTEL, "Intel"), (AMD, "AMD")]),
    number("filetime", 8),
    number("processor_number", 4),
    hex("mcg_status", 8),
    hex("instruction_pointer", 8),
    number("bank_number", 4),
    hex("status", 8),
    hex("address", 8),
    hex("misc", 8),
    number("extended_register_count", 4),
    number("apic_id", 4),
];
const _: () = assert!(size(HEAD) == EXTENDED);
const INTEL: u64 = 1;
const AMD: u64 = 2;

/// Where the extended registers are: 24 of any maker, or AMD's ten by name.
const EXTENDED: usize = 72;
const EXTENDED_MAX: usize = 24;
const AMD_EXTENDED: &[Field] = &[
    hex("ipid", 8),
    hex("synd", 8),
    hex("config", 8),
    hex("destat", 8),
    hex("deaddr", 8),
    hex("misc1", 8),
    hex("misc2", 8),
    hex("misc3", 8),
    hex("misc4", 8),
    hex("ras_cap", 8),
];

/// A later form of version 2 has `MCG_CAP`.
const MCG_CAP: usize = EXTENDED + 8 * EXTENDED_MAX;
/// From version 3 on.
const RECOVERY: usize = MCG_CAP + 8;
const RECOVERY_FIELDS: &[Field] = &[
    flags("recovery_failure", 4, RECOVERY_FAILURE),
    flags("recovery_action", 4, RECOVERY_ACTION),
    flag("action_required"),
    flag("recovery_succeeded"),
    flag("recovery_kernel"),
    skip(9),
];
/// From version 4 on: further banks, as four arrays.
const BANKS: usize = RECOVERY + size(RECOVERY_FIELDS);
const _: () = assert!(MCG_CAP == 264 && BANKS == 292);

const RECOVERY_FAILURE: &[(u32, &str)] = &[
    (0, "not supported"),
    (1, "overflow"),
    (2, "context corrupt"),
    (3, "no valid instruction pointer"),
    (4, "no recovery context"),
    (5, "MISC or ADDR not valid"),
    (6, "invalid address mode"),
    (7, "high IRQL"),
    (8, "interrupts disabled"),
    (9, "swap busy"),
    (10, "stack overflow"),
];
const RECOVERY_ACTION: &[(u32, &str)] = &[(0, "attempted"), (1, "handled by the hypervisor")];

/// Length of the arrays of further banks.
const fn banks(version: u64) -> usize {
    match version {
        ..4 => 0,
        4 => 32,
        _ => 64,
    }
}

pub(in super::super) fn xpf_mca(section: &Section<'_>, record: &mut ErrorRecord) {
    let body = section.body;
    summarize(record, ErrorClass::Processor, "machine check".into());
    if !add("machine check", HEAD, 0, 0, section, record) {
        return;
    }
    let field = |name| found(&record.details, name).unwrap_or(0);
    let word = |name| u32::try_from(field(name)).unwrap_or(u32::MAX);
    let (version, vendor) = (field("version_number"), field("cpu_vendor"));
    let context = Context {
        time: filetime(field("filetime")).or(section.time),
        cpu: Some(word("processor_number")),
        socket: None,
    };
    let mut registers = McaRegisters {
        vendor: match vendor {
            INTEL => CpuVendor::Intel,
            AMD => CpuVendor::Amd,
            _ => CpuVendor::default(),
        },
        bank: u8::try_from(field("bank_number")).unwrap_or(u8::MAX),
        mcg_status: field("mcg_status"),
        status: field("status"),
        addr: field("address"),
        misc: field("misc"),
        ip: field("instruction_pointer"),
        apic_id: if version >= 2 { word("apic_id") } else { 0 },
        ..McaRegisters::default()
    };
    let count = usize::try_from(field("extended_register_count")).unwrap_or(usize::MAX);
    registers.mcg_cap = number_at(body, MCG_CAP, 8).unwrap_or(0);
    if vendor == AMD && body.len() >= RECOVERY {
        add("machine check", AMD_EXTENDED, EXTENDED, 0, section, record);
        let field = |name| found(&record.details, name).unwrap_or(0);
        registers.ipid = field("ipid");
        registers.synd = field("synd");
        registers.config = field("config");
        registers.destat = field("destat");
        registers.deaddr = field("deaddr");
    } else {
        let words = body.get(EXTENDED..).unwrap_or_default().chunks_exact(8);
        let words = words.take(count.min(EXTENDED_MAX));
        let list: Vec<Value> = words.map(|word| Value::Hex(little(word))).collect();
        if !list.is_empty() {
            record.details.add("extended_registers", Value::List(list));
        }
    }
    record.details.add_some("mcg_cap", number_at(body, MCG_CAP, 8).map(Value::Hex));
    if version >= 3 {
        add("machine check", RECOVERY_FIELDS, RECOVERY, 0, section, record);
    }
    bank(&registers, context, record);
    more_banks(version, &registers, context, section, record);
    if let Some(first) = record.witnesses.first().cloned() {
        adopt(&first, record);
    }
}

fn bank(registers: &McaRegisters, context: Context, record: &mut ErrorRecord) {
    let mut bank = mca::decode(registers, context);
    bank.source = record.source;
    record.witnesses.push(bank);
}

/// Further banks of the same machine check, with nothing but their number, STATUS, ADDR and MISC.
fn more_banks(
    version: u64,
    first: &McaRegisters,
    context: Context,
    section: &Section<'_>,
    record: &mut ErrorRecord,
) {
    let length = banks(version);
    if length == 0 {
        return;
    }
    let Some(count) = number_at(section.body, BANKS, 4) else {
        return cut(section, record, "machine check section ends before its further banks");
    };
    record.details.add("ex_bank_count", count);
    let numbers = BANKS + 4;
    let statuses = numbers + 4 * length;
    let field = |base: usize, index: usize| number_at(section.body, base + 8 * index, 8);
    for index in 0..length.min(usize::try_from(count).unwrap_or(usize::MAX)) {
        let number = number_at(section.body, numbers + 4 * index, 4);
        let (status, addr, misc) = (
            field(statuses, index),
            field(statuses + 8 * length, index),
            field(statuses + 16 * length, index),
        );
        let (Some(number), Some(status), Some(addr), Some(misc)) = (number, status, addr, misc)
        else {
            return cut(section, record, &format!("bank {index} of {count} is cut"));
        };
        let registers = McaRegisters {
            bank: u8::try_from(number).unwrap_or(u8::MAX),
            status,
            addr,
            misc,
            ipid: 0,
            synd: 0,
            config: 0,
            destat: 0,
            deaddr: 0,
            ..first.clone()
        };
        bank(&registers, context, record);
    }
}

/// Windows' time: 100 ns since 1601.
pub(in super::super) fn filetime(ticks: u64) -> Option<Timestamp> {
    const TO_1970: u64 = 116_444_736_000_000_000;
    ticks.checked_sub(TO_1970)?.checked_mul(100).map(Timestamp)
}

/// The machine-check section does not say which processor it was, and without that no model-specific
/// code has a meaning. Its neighbours in the record do: the processor sections.
pub(in crate::cper) fn identify_processor(records: &mut [ErrorRecord]) {
    let Some(cpuid) = records.iter().find_map(signature) else { return };
    for record in records {
        let is_machine_check =
            matches!(&record.raw, Raw::Section { section_type, .. } if *section_type == XPF_MCA);
        if !is_machine_check {
            continue;
        }
        for witness in &mut record.witnesses {
            let Raw::Mca(registers) = &mut witness.raw else { continue };
            registers.cpuid = cpuid;
            let location = &witness.location;
            let context =
                Context { time: witness.time, cpu: location.cpu, socket: location.socket };
            let decoded = mca::decode(registers, context);
            *witness = ErrorRecord { source: witness.source, ..decoded };
        }
        if let Some(first) = record.witnesses.first().cloned() {
            adopt(&first, record);
        }
    }
}

/// CPUID leaf 1, EAX, from a generic processor section or an IA32/X64 one.
fn signature(record: &ErrorRecord) -> Option<u32> {
    const GENERIC: Guid =
        Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]);
    const IA32_X64: Guid =
        Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]);
    /// Both have it at the same place, behind different validity bits.
    const AT: usize = 16;
    let Raw::Section { section_type, bytes } = &record.raw else { return None };
    let valid = match *section_type {
        GENERIC => 6,
        IA32_X64 => 1,
        _ => return None,
    };
    let claimed = number_at(bytes, 0, 8)? >> valid & 1 == 1;
    let signature = number_at(bytes, AT, 4)?;
    u32::try_from(signature).ok().filter(|signature| claimed && *signature != 0)
}
