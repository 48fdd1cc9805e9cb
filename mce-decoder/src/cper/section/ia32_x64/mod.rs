//! x86 processor section: what was found wrong, and the registers at that time. UEFI Specification,
//! Appendix N, "IA32/X64 Processor Error Section".
//!
//! ```text
//!  | Ia32X64Error 64 | ErrorInfo 64 | x N | ContextHeader 16 | registers | x M
//! ```
//! Machine-check banks among the registers become witnesses of the record: see [`banks`].

mod banks;
mod check;
mod context;

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::size_of;

use bitfield_struct::bitfield;
use ras_core::{
    AddressMode, Detail, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PhysAddr,
    ProblemKind, Value,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use self::check::Check;
use super::{Fields, Section};
use crate::cper::{read, report};
use crate::layout::little;
use crate::mca::phrase;
use crate::mca::status::CpuSignature;

pub use self::context::ContextHeader;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]);

/// The section's beginning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct Ia32X64Error {
    /// See [`Ia32X64Valid`].
    pub validation_bits: U64,
    pub local_apic_id: U64,
    /// CPUID leaf 1: EAX, EBX, ECX, EDX, each widened to 64 bits; two reserved words.
    pub cpuid: [U64; 6],
}
const _: () = assert!(size_of::<Ia32X64Error>() == 64);

/// Which fields of [`Ia32X64Error`] are valid, and what follows it.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct Ia32X64Valid {
    pub local_apic_id: bool,
    pub cpuid: bool,
    #[bits(6)]
    pub error_info_count: u8,
    #[bits(6)]
    pub context_count: u8,
    #[bits(50)]
    __: u64,
}

/// "IA32/X64 Processor Error Information Structure".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ErrorInfo {
    /// Which sort of check `check_info` is.
    pub error_type: [u8; 16],
    /// Bit 0 check info, 1 target, 2 requestor, 3 responder, 4 instruction pointer.
    pub validation_bits: U64,
    pub check_info: U64,
    /// An address.
    pub target_id: U64,
    pub requestor_id: U64,
    pub responder_id: U64,
    pub instruction_pointer: U64,
}
const _: () = assert!(size_of::<ErrorInfo>() == 64);

/// Fills in a record from the section.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<Ia32X64Error>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, Ia32X64Error, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = Ia32X64Valid::from_bits(valid.map_or(0, U64::get));
    let apic_id = field!(valid.local_apic_id(), local_apic_id).map(U64::get);
    let cpuid = field!(valid.cpuid(), cpuid).map(|words| words.map(U64::get));
    fields.finish("IA32/X64 processor", section, record);
    record.class = ErrorClass::Processor;
    let details = &mut record.details;
    details.add_some("local_apic_id", apic_id.map(Value::Hex));
    if let Some([eax, ebx, ecx, edx, ..]) = cpuid {
        let words = [("eax", eax), ("ebx", ebx), ("ecx", ecx), ("edx", edx)];
        let mut group = Vec::with_capacity(words.len());
        for (name, word) in words {
            group.add_hex(name, word);
        }
        details.add("cpuid", Value::Group(group));
        add_signature(details, eax);
    }

    let mut at = size_of::<Ia32X64Error>();
    at = errors(section, at, valid.error_info_count().into(), record);
    let mut found = banks::Banks::default();
    contexts(section, at, valid.context_count().into(), record, &mut found);
    let signature = cpuid.map_or(0, |words| banks::low(words[0]));
    let apic_id = apic_id.map_or(0, banks::low);
    record.witnesses = found.witnesses(section, signature, apic_id);
    banks::improve(record);
}

/// Family, model and stepping from CPUID leaf 1, EAX.
pub(super) fn add_signature(details: &mut Vec<Detail>, eax: u64) {
    let signature = CpuSignature::from_bits(banks::low(eax));
    details.add_hex("family", signature.family());
    details.add_hex("model", signature.model());
    details.add("stepping", eax & 15);
}

/// The error information structures: details, and what they say of the record. Returns where they
/// end.
fn errors(section: &Section<'_>, mut at: usize, count: usize, record: &mut ErrorRecord) -> usize {
    let mut infos = Vec::with_capacity(count.min(section.body.len() / size_of::<ErrorInfo>()));
    let mut worst: Option<(Check, ErrorInfo)> = None;
    for index in 0..count {
        let Some(info) = read::<ErrorInfo>(section.body, at) else {
            missing(section, at, "error information", (index, count), record);
            break;
        };
        at += size_of::<ErrorInfo>();
        let check = Check::new(Guid(info.error_type), info.check_info.get());
        infos.push(Value::Group(error_details(&info, check.as_ref())));
        // The first one is the error itself unless a later one is worse.
        if let Some(check) = check
            && worst.as_ref().is_none_or(|(worst, _)| check.gravity() > worst.gravity())
        {
            worst = Some((check, info));
        }
    }
    if !infos.is_empty() {
        record.details.add("error_info", Value::List(infos));
    }
    let mut summary = String::with_capacity(96);
    match worst {
        None => summary.push_str("x86 processor error"),
        Some((check, info)) => {
            record.class = check.class();
            check.describe(info.validation_bits.get() & 1 != 0, &mut summary);
            // The specification does not say what kind of address the target's is.
            if info.validation_bits.get() & 2 != 0 {
                let addr = PhysAddr(info.target_id.get());
                record.address = Some(ErrorAddress { addr, lsb: 0, mode: AddressMode::Generic });
            }
        }
    }
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    record.summary = summary;
    at
}

fn error_details(info: &ErrorInfo, check: Option<&Check>) -> Vec<Detail> {
    let valid = info.validation_bits.get();
    let hex = |bit: u32, value: U64| (valid >> bit & 1 == 1).then(|| Value::Hex(value.get()));
    let mut details = Vec::with_capacity(8);
    details.add("error_type", Value::Guid(Guid(info.error_type)));
    details.add_some("error_type_name", check.map(Check::name));
    if let Some(word) = hex(0, info.check_info) {
        details.add("check_info", word);
        if let Some(check) = check {
            details.add("check", Value::Group(check.details()));
        }
    }
    details.add_some("target_id", hex(1, info.target_id));
    details.add_some("requestor_id", hex(2, info.requestor_id));
    details.add_some("responder_id", hex(3, info.responder_id));
    details.add_some("instruction_pointer", hex(4, info.instruction_pointer));
    details
}

/// The context structures: details, and the machine-check registers among them.
fn contexts(
    section: &Section<'_>,
    mut at: usize,
    count: usize,
    record: &mut ErrorRecord,
    found: &mut banks::Banks,
) {
    let mut contexts = Vec::new();
    for index in 0..count {
        let Some(header) = read::<ContextHeader>(section.body, at) else {
            missing(section, at, "context", (index, count), record);
            break;
        };
        at += size_of::<ContextHeader>();
        let size = usize::from(header.array_size.get());
        let there = section.body.get(at..).unwrap_or_default();
        let array = there.get(..size).unwrap_or(there);
        if array.len() < size {
            missing(section, at + array.len(), "context", (index, count), record);
        }
        contexts.push(Value::Group(context::details(&header, array)));
        if header.context_type.get() == context::MSR {
            let words = array.chunks_exact(8).map(little);
            for (msr, value) in (header.msr_address.get()..=u32::MAX).zip(words) {
                found.take(msr, value);
            }
        }
        at += array.len();
    }
    if !contexts.is_empty() {
        record.details.add("contexts", Value::List(contexts));
    }
}

fn missing(
    section: &Section<'_>,
    at: usize,
    what: &str,
    (index, count): (usize, usize),
    record: &mut ErrorRecord,
) {
    let at = section.offset + at.min(section.body.len());
    let detail = alloc::format!("{what} structure {index} of {count} is cut");
    report(&mut record.problems, at, ProblemKind::Truncated, detail);
}

#[cfg(test)]
mod tests;
