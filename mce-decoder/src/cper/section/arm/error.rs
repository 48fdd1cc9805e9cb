//! One error of an ARM processor. UEFI Specification, Appendix N, "ARM Processor Error Information".

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{AddressMode, Detail, Details, ErrorClass, Value};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::names::push_number;
use crate::cper::section::{processor, registers};
use crate::mca::findings::meaning;

/// "ARM Processor Error Information Structure".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ArmErrorInfo {
    pub version: u8,
    /// Bytes of the structure.
    pub length: u8,
    /// Bit 0 multiple errors, 1 flags, 2 error information, 3 virtual, 4 physical fault address.
    pub validation_bits: U16,
    /// Bit 1 cache, 2 TLB, 3 bus, 4 microarchitecture.
    pub error_type: u8,
    /// 0: one error, 1: several, else their number.
    pub multiple_error: U16,
    pub flags: u8,
    pub error_info: U64,
    pub virtual_fault_address: U64,
    pub physical_fault_address: U64,
}
const _: () = assert!(size_of::<ArmErrorInfo>() == 32);

/// "Type". Up to UEFI 2.9 the specification listed the four without numbers, and firmware counted
/// from 0, or from 1 as the generic processor section does. Since the errata of 2.9 they are bits
/// 1 to 4. What has another bit set, or none, has no certain meaning and gets none.
const ERROR_TYPES: &[(u32, &str)] =
    &[(1, "cache"), (2, "TLB"), (3, "bus"), (4, "microarchitecture")];
const CACHE: u8 = 1 << 1;
const TLB: u8 = 1 << 2;
const BUS: u8 = 1 << 3;
const MICROARCHITECTURE: u8 = 1 << 4;

/// "Flags".
const FLAGS: &[(u32, &str)] =
    &[(0, "first error captured"), (1, "last error captured"), (2, "propagated"), (3, "overflow")];
/// "Transaction Type".
const TRANSACTIONS: &[(u64, &str)] = &[(0, "instruction"), (1, "data access"), (2, "generic")];
/// "Operation" of a cache; of a bus, the first seven.
const OPERATIONS: &[(u64, &str)] = &[
    (0, "generic error"),
    (1, "generic read"),
    (2, "generic write"),
    (3, "data read"),
    (4, "data write"),
    (5, "instruction fetch"),
    (6, "prefetch"),
    (7, "eviction"),
    (8, "snooping another cache"),
    (9, "being snooped"),
    (10, "management"),
];
/// "Operation" of a TLB.
const TLB_OPERATIONS: &[(u64, &str)] = &[
    (0, "generic error"),
    (1, "generic read"),
    (2, "generic write"),
    (3, "data read"),
    (4, "data write"),
    (5, "instruction fetch"),
    (6, "prefetch"),
    (7, "local management"),
    (8, "external management"),
];
/// "Participation Type".
const PARTICIPATIONS: &[(u64, &str)] = &[
    (0, "this processor made the request"),
    (1, "this processor answered the request"),
    (2, "this processor observed it"),
    (3, "generic"),
];
/// "Address Space".
const ADDRESS_SPACES: &[(u64, &str)] =
    &[(0, "external memory"), (1, "internal memory"), (2, "unknown"), (3, "device memory")];
/// "Access Mode".
const ACCESS_MODES: &[(u64, &str)] = &[(0, "secure"), (1, "normal")];

/// Fields that all three structures have: name, validity bit, bit.
const COMMON_FLAGS: [(&str, u32, u32); 4] = [
    ("processor_context_corrupt", 3, 25),
    ("corrected", 4, 26),
    ("precise_pc", 5, 27),
    ("restartable_pc", 6, 28),
];

impl ArmErrorInfo {
    pub(super) const fn class(&self) -> ErrorClass {
        match self.error_type {
            CACHE => ErrorClass::Cache,
            TLB => ErrorClass::Tlb,
            BUS => ErrorClass::Bus,
            MICROARCHITECTURE => ErrorClass::Internal,
            _ => ErrorClass::Processor,
        }
    }

    /// Orders several of one section: 2 where the context is corrupt, 1 where not corrected.
    pub(super) fn gravity(&self) -> u8 {
        match () {
            () if self.code(3, (25, 1)) == Some(1) => 2,
            () if self.code(4, (26, 1)) == Some(0) => 1,
            () => 0,
        }
    }

    /// The physical address, or else the virtual one.
    pub(super) fn address(&self) -> Option<(u64, AddressMode)> {
        if self.is_valid(4) {
            Some((self.physical_fault_address.get(), AddressMode::Physical))
        } else {
            let address = self.virtual_fault_address.get();
            self.is_valid(3).then_some((address, AddressMode::Linear))
        }
    }

    /// How many errors it stands for, where that is said.
    pub(super) fn count(&self) -> u32 {
        if self.is_valid(0) { u32::from(self.multiple_error.get()).max(1) } else { 1 }
    }

    /// The error in words, without its severity.
    pub(super) fn describe(&self, text: &mut String) {
        let class = self.class();
        if class == ErrorClass::Processor {
            text.push_str("processor ");
        }
        text.push_str(processor::kind(class));
        let operation = self.code(1, (18, 4)).and_then(|code| meaning(self.operations(), code));
        if let Some(operation) = operation.filter(|name| *name != "generic error") {
            text.push_str(" during ");
            text.push_str(operation);
        }
        if let Some(level) = self.code(2, (22, 3)) {
            text.push_str(", level ");
            push_number(text, level);
        }
    }

    pub(super) fn details(&self) -> Vec<Detail> {
        let mut details = Vec::with_capacity(10);
        details.add("version", self.version);
        details.add("length", self.length);
        details.add("error_type", registers::bits(self.error_type.into(), ERROR_TYPES));
        if self.is_valid(0) {
            details.add("multiple_error", self.multiple_error.get());
        }
        if self.is_valid(1) {
            details.add("flags", Value::flags(self.flags.into(), FLAGS));
        }
        if self.is_valid(2) {
            details.add_hex("error_info", self.error_info.get());
            if matches!(self.error_type, CACHE | TLB | BUS) {
                details.add("error", Value::Group(self.information()));
            }
        }
        if self.is_valid(3) {
            details.add_hex("virtual_fault_address", self.virtual_fault_address.get());
        }
        if self.is_valid(4) {
            details.add_hex("physical_fault_address", self.physical_fault_address.get());
        }
        details
    }

    /// The word of error information, by its fields.
    fn information(&self) -> Vec<Detail> {
        let mut details = Vec::with_capacity(12);
        let code = |valid, bits, table| self.code(valid, bits).map(|code| Value::code(code, table));
        details.add_some("transaction_type", code(0, (16, 2), TRANSACTIONS));
        details.add_some("operation", code(1, (18, 4), self.operations()));
        details.add_some("level", self.code(2, (22, 3)));
        for (name, valid, bit) in COMMON_FLAGS {
            details.add_some(name, self.code(valid, (bit, 1)).map(|set| set == 1));
        }
        if self.error_type == BUS {
            details.add_some("participation_type", code(7, (29, 2), PARTICIPATIONS));
            details.add_some("timed_out", self.code(8, (31, 1)).map(|set| set == 1));
            details.add_some("address_space", code(9, (32, 2), ADDRESS_SPACES));
            details.add_some("memory_attributes", self.code(10, (34, 9)).map(Value::Hex));
            details.add_some("access_mode", code(11, (43, 1), ACCESS_MODES));
        }
        details
    }

    fn operations(&self) -> &'static [(u64, &'static str)] {
        match self.error_type {
            TLB => TLB_OPERATIONS,
            BUS => OPERATIONS.split_at_checked(7).map_or(OPERATIONS, |(first, _)| first),
            _ => OPERATIONS,
        }
    }

    fn is_valid(&self, bit: u32) -> bool {
        self.validation_bits.get() >> bit & 1 == 1
    }

    /// A field of the error information, if its validity bit is set and its structure is known.
    fn code(&self, valid: u32, (low, width): (u32, u32)) -> Option<u64> {
        let word = self.error_info.get();
        let known = self.is_valid(2) && matches!(self.error_type, CACHE | TLB | BUS);
        (known && word >> valid & 1 == 1).then_some(word >> low & (u64::MAX >> (64 - width)))
    }
}
