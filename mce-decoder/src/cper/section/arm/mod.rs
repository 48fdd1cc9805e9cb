//! ARM processor section. UEFI Specification, Appendix N, "ARM Processor Error Section".
//!
//! ```text
//!  | ArmError 40 | ArmErrorInfo 32 | x N | ArmContextHeader 8 | registers | x M | vendor's own |
//! ```

mod context;
mod error;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{
    AddressMode, Detail, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PhysAddr,
    ProblemKind, Value,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::registers::{self, Field};
use super::{Fields, Section};
use crate::cper::names::push_hex;
use crate::cper::{read, report, size};
use crate::mca::phrase;

pub use self::context::ArmContextHeader;
pub use self::error::ArmErrorInfo;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xe19e_3d16, 0xbc11, 0x11e4, [0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0]);

/// The section's beginning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ArmError {
    /// Bit 0 MPIDR, 1 affinity level, 2 running state, 3 vendor's information.
    pub validation_bits: U32,
    pub error_info_count: U16,
    pub context_count: U16,
    /// Bytes of all of it.
    pub section_length: U32,
    pub affinity_level: u8,
    pub reserved: [u8; 3],
    pub mpidr: U64,
    pub midr: U64,
    /// Bit 0: the processor runs; then the PSCI state is zero.
    pub running_state: U32,
    pub psci_state: U32,
}
const _: () = assert!(size_of::<ArmError>() == 40);

/// Arm Architecture Reference Manual, "`MIDR_EL1`".
const MIDR: &[Field] = &[
    Field::code("implementer", 24, 8, IMPLEMENTERS),
    Field::hex("variant", 20, 4),
    Field::hex("architecture", 16, 4),
    Field::hex("part", 4, 12),
    Field::hex("revision", 0, 4),
];

const IMPLEMENTERS: &[(u64, &str)] = &[
    (0x41, "Arm"),
    (0x42, "Broadcom"),
    (0x43, "Cavium"),
    (0x46, "Fujitsu"),
    (0x48, "HiSilicon"),
    (0x4e, "NVIDIA"),
    (0x50, "Applied Micro"),
    (0x51, "Qualcomm"),
    (0x53, "Samsung"),
    (0x56, "Marvell"),
    (0x61, "Apple"),
    (0x69, "Intel"),
    (0x6d, "Microsoft"),
    (0x70, "Phytium"),
    (0xc0, "Ampere"),
];

/// Arm Architecture Reference Manual, "`MPIDR_EL1`".
const MPIDR: &[Field] = &[
    Field::number("aff3", 32, 8),
    Field::number("aff2", 16, 8),
    Field::number("aff1", 8, 8),
    Field::number("aff0", 0, 8),
];

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<ArmError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, ArmError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits).map_or(0, U32::get);
    let is = |bit: u32| valid >> bit & 1 == 1;
    let details = &mut record.details;
    let mpidr = field!(is(0), mpidr);
    details.add_some("mpidr", mpidr.map(|mpidr| registers::fields(mpidr.get(), MPIDR)));
    details.add_some("affinity_level", field!(is(1), affinity_level));
    let midr = field!(true, midr);
    details.add_some("midr", midr.map(|midr| registers::fields(midr.get(), MIDR)));
    if let Some(state) = field!(is(2), running_state) {
        details.add_hex("running_state", state.get());
        details.add("running", state.get() & 1 == 1);
    }
    let psci = field!(is(2), psci_state);
    details.add_some("psci_state", psci.map(|state| Value::Hex(state.get().into())));
    let infos = field!(true, error_info_count).map_or(0, U16::get);
    let contexts = field!(true, context_count).map_or(0, U16::get);
    let length = field!(true, section_length);
    details.add_some("length", length.map(U32::get));
    fields.finish("ARM processor", section, record);

    let length = size(length.unwrap_or_default());
    let at = size_of::<ArmError>();
    if length > section.body.len() && section.body.len() >= at {
        let detail = format!("ARM section of {length} bytes in one of {}", section.length);
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    let at = errors(section, at, infos.into(), record);
    let at = self::contexts(section, at, contexts.into(), record);
    let vendor = section.body.get(at..length.min(section.body.len())).unwrap_or_default();
    if is(3) && !vendor.is_empty() {
        record.details.add("vendor_info", Value::Bytes(vendor.into()));
    }
}

/// The error information structures, and what they say of the record. Returns where they end.
fn errors(section: &Section<'_>, mut at: usize, count: usize, record: &mut ErrorRecord) -> usize {
    let there = section.body.len() / size_of::<ArmErrorInfo>();
    let mut infos = Vec::with_capacity(count.min(there));
    let mut worst: Option<ArmErrorInfo> = None;
    for index in 0..count {
        let Some(info) = read::<ArmErrorInfo>(section.body, at) else {
            missing(section, at, "error information", (index, count), record);
            break;
        };
        infos.push(Value::Group(info.details()));
        if worst.is_none_or(|worst| info.gravity() > worst.gravity()) {
            worst = Some(info);
        }
        // Its length may one day be more than what is known of it, and can't be less.
        at += usize::from(info.length).max(size_of::<ArmErrorInfo>());
    }
    if !infos.is_empty() {
        record.details.add("error_info", Value::List(infos));
    }
    summarize(worst.as_ref(), record);
    at
}

fn summarize(worst: Option<&ArmErrorInfo>, record: &mut ErrorRecord) {
    let mut summary = String::with_capacity(96);
    record.class = worst.map_or(ErrorClass::Processor, ArmErrorInfo::class);
    record.count = worst.map_or(1, ArmErrorInfo::count);
    summary.push_str("ARM ");
    match worst {
        None => summary.push_str("processor error"),
        Some(info) => info.describe(&mut summary),
    }
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    if let Some((address, mode)) = worst.and_then(ArmErrorInfo::address) {
        summary.push_str(match mode {
            AddressMode::Physical => ", at ",
            _ => ", at virtual address ",
        });
        push_hex(&mut summary, address);
        record.address = Some(ErrorAddress { addr: PhysAddr(address), lsb: 0, mode });
    }
    record.summary = summary;
}

/// The context structures. Returns where they end.
fn contexts(section: &Section<'_>, mut at: usize, count: usize, record: &mut ErrorRecord) -> usize {
    let mut contexts = Vec::new();
    for index in 0..count {
        let Some(header) = read::<ArmContextHeader>(section.body, at) else {
            missing(section, at, "context", (index, count), record);
            break;
        };
        at += size_of::<ArmContextHeader>();
        let there = section.body.get(at..).unwrap_or_default();
        let announced = size(header.array_size);
        let array = there.get(..announced).unwrap_or(there);
        contexts.push(Value::Group(context::details(&header, array)));
        at += array.len();
        if array.len() < announced {
            missing(section, at, "context", (index, count), record);
            break;
        }
    }
    if !contexts.is_empty() {
        record.details.add("contexts", Value::List(contexts));
    }
    at
}

fn missing(
    section: &Section<'_>,
    at: usize,
    what: &str,
    (index, count): (usize, usize),
    record: &mut ErrorRecord,
) {
    let at = section.offset + at.min(section.body.len());
    let detail = format!("{what} structure {index} of {count} is cut");
    report(&mut record.problems, at, ProblemKind::Truncated, detail);
}

/// Adds `MIDR_EL1`, as the ARM RAS section has it too.
pub(super) fn add_midr(details: &mut Vec<Detail>, midr: u64) {
    details.add("midr", registers::fields(midr, MIDR));
}

/// Adds `MPIDR_EL1`, likewise.
pub(super) fn add_mpidr(details: &mut Vec<Detail>, mpidr: u64) {
    details.add("mpidr", registers::fields(mpidr, MPIDR));
}

#[cfg(test)]
mod tests;
