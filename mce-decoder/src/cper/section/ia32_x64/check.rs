//! Check information: one word that says what went wrong. UEFI Specification, Appendix N, "IA32/X64
//! Cache Check Structure", "TLB Check Structure", "Bus Check Structure", "MS Check Field Description".

use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Detail, Details, ErrorClass, Guid, Value};

use crate::cper::names::push_number;
use crate::cper::section::{processor, registers};
use crate::mca::findings::meaning;

/// "Error Structure Type" GUIDs, in the order of [`Kind`].
const CACHE: Guid =
    Guid::new(0xa557_01f5, 0xe3ef, 0x43de, [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c]);
const TLB: Guid =
    Guid::new(0xfc06_b535, 0x5e1f, 0x4562, [0x9f, 0x25, 0x0a, 0x3b, 0x9a, 0xdb, 0x63, 0xc3]);
const BUS: Guid =
    Guid::new(0x1cf3_f8b3, 0xc5b1, 0x49a2, [0xaa, 0x59, 0x5e, 0xef, 0x92, 0xff, 0xa6, 0x3c]);
const MS: Guid =
    Guid::new(0x48ab_7f57, 0xdc34, 0x4f6c, [0xa7, 0xd3, 0xb0, 0xb5, 0xb0, 0xa7, 0x43, 0x14]);

/// "Transaction Type".
const TRANSACTIONS: &[(u64, &str)] = &[(0, "instruction"), (1, "data access"), (2, "generic")];
/// "Operation" of a cache; buses and TLBs have only the first seven.
const OPERATIONS: &[(u64, &str)] = &[
    (0, "generic error"),
    (1, "generic read"),
    (2, "generic write"),
    (3, "data read"),
    (4, "data write"),
    (5, "instruction fetch"),
    (6, "prefetch"),
    (7, "eviction"),
    (8, "snoop"),
];
/// "Participation Type".
const PARTICIPATIONS: &[(u64, &str)] = &[
    (0, "this processor made the request"),
    (1, "this processor answered the request"),
    (2, "this processor observed it"),
    (3, "generic"),
];
/// "Address Space"; 1 is reserved.
const ADDRESS_SPACES: &[(u64, &str)] = &[(0, "memory"), (2, "I/O"), (3, "other")];
/// "Error Type" of a microarchitecture-specific check.
const MS_TYPES: &[(u64, &str)] = &[
    (0, "no error"),
    (1, "unclassified"),
    (2, "microcode ROM parity"),
    (3, "external"),
    (4, "FRC"),
    (5, "internal unclassified"),
];

/// A word of check information of a known sort. Bits 15:0 say which fields are valid.
pub(super) struct Check {
    kind: Kind,
    word: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cache,
    Tlb,
    Bus,
    Ms,
}

/// A one-bit field: name, validity bit, its own bit.
type Flag = (&'static str, u32, u32);

/// Flags of cache, TLB and bus checks.
const COMMON_FLAGS: [Flag; 5] = [
    ("processor_context_corrupt", 3, 25),
    ("uncorrected", 4, 26),
    ("precise_ip", 5, 27),
    ("restartable_ip", 6, 28),
    ("overflow", 7, 29),
];
/// The same of a microarchitecture-specific check, whose fields are elsewhere.
const MS_FLAGS: [Flag; 5] = [
    ("processor_context_corrupt", 1, 19),
    ("uncorrected", 2, 20),
    ("precise_ip", 3, 21),
    ("restartable_ip", 4, 22),
    ("overflow", 5, 23),
];

impl Check {
    pub(super) fn new(error_type: Guid, word: u64) -> Option<Self> {
        let kind = match error_type {
            CACHE => Kind::Cache,
            TLB => Kind::Tlb,
            BUS => Kind::Bus,
            MS => Kind::Ms,
            _ => return None,
        };
        Some(Self { kind, word })
    }

    pub(super) const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Cache => "cache check",
            Kind::Tlb => "TLB check",
            Kind::Bus => "bus check",
            Kind::Ms => "microarchitecture check",
        }
    }

    pub(super) const fn class(&self) -> ErrorClass {
        match self.kind {
            Kind::Cache => ErrorClass::Cache,
            Kind::Tlb => ErrorClass::Tlb,
            Kind::Bus => ErrorClass::Bus,
            Kind::Ms => ErrorClass::Internal,
        }
    }

    /// Orders several checks of one section: 2 where the context is corrupt, 1 where uncorrected.
    pub(super) fn gravity(&self) -> u8 {
        let [context_corrupt, uncorrected, ..] = self.flags();
        match () {
            () if self.is_set(context_corrupt) => 2,
            () if self.is_set(uncorrected) => 1,
            () => 0,
        }
    }

    /// The error in words, without its severity; only its kind where the word is not valid.
    pub(super) fn describe(&self, valid: bool, text: &mut String) {
        text.push_str(processor::kind(self.class()));
        if !valid {
            return;
        }
        if self.kind == Kind::Ms {
            if let Some(name) = registers::valid_meaning(self.word, 0, (16, 3), MS_TYPES) {
                text.push_str(" (");
                text.push_str(name);
                text.push(')');
            }
            return;
        }
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
        let mut details = Vec::with_capacity(11);
        let code = |valid, bits, table| self.code(valid, bits).map(|code| Value::code(code, table));
        if self.kind == Kind::Ms {
            details.add_some("error_type", code(0, (16, 3), MS_TYPES));
        } else {
            details.add_some("transaction_type", code(0, (16, 2), TRANSACTIONS));
            details.add_some("operation", code(1, (18, 4), self.operations()));
            details.add_some("level", self.code(2, (22, 3)));
        }
        for (name, valid, bit) in self.flags() {
            details.add_some(name, self.code(valid, (bit, 1)).map(|set| set == 1));
        }
        if self.kind == Kind::Bus {
            details.add_some("participation_type", code(8, (30, 2), PARTICIPATIONS));
            details.add_some("timed_out", self.code(9, (32, 1)).map(|set| set == 1));
            details.add_some("address_space", code(10, (33, 2), ADDRESS_SPACES));
        }
        details
    }

    fn operations(&self) -> &'static [(u64, &'static str)] {
        match self.kind {
            Kind::Cache => OPERATIONS,
            _ => OPERATIONS.split_at_checked(7).map_or(OPERATIONS, |(first, _)| first),
        }
    }

    const fn flags(&self) -> [Flag; 5] {
        match self.kind {
            Kind::Ms => MS_FLAGS,
            _ => COMMON_FLAGS,
        }
    }

    fn is_set(&self, (_, valid, bit): Flag) -> bool {
        self.code(valid, (bit, 1)) == Some(1)
    }

    /// A field, if its validity bit is set.
    fn code(&self, valid: u32, (low, width): (u32, u32)) -> Option<u64> {
        let code = self.word >> low & (u64::MAX >> (64 - width));
        (self.word >> valid & 1 == 1).then_some(code)
    }
}
