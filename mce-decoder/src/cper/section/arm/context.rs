//! Processor contexts: registers as they were when the error was noticed. UEFI Specification,
//! Appendix N, "ARM Processor Context Information".

use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{Detail, Details, Value};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::section::registers::{self, Field};
use crate::layout::number_at;

/// The beginning of a context; the registers follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ArmContextHeader {
    pub version: U16,
    pub context_type: U16,
    /// Bytes of registers.
    pub array_size: U32,
}
const _: () = assert!(size_of::<ArmContextHeader>() == 8);

/// "Register Context Type".
const CONTEXT_TYPES: &[(u64, &str)] = &[
    (0, "AArch32 general purpose registers"),
    (1, "AArch32 EL1 registers"),
    (2, "AArch32 EL2 registers"),
    (3, "AArch32 secure registers"),
    (4, "AArch64 general purpose registers"),
    (5, "AArch64 EL1 registers"),
    (6, "AArch64 EL2 registers"),
    (7, "AArch64 EL3 registers"),
    (8, "system registers"),
];

/// A system register: how an `MRS` instruction names it, and its value.
const SYSTEM_REGISTER: usize = 10;
const ENCODING: &[Field] = &[
    Field::number("op2", 0, 3),
    Field::number("crm", 3, 4),
    Field::number("crn", 7, 4),
    Field::number("op1", 11, 3),
    Field::number("o0", 14, 2),
];

/// The header and the registers in `array`.
pub(super) fn details(header: &ArmContextHeader, array: &[u8]) -> Vec<Detail> {
    let context_type = header.context_type.get();
    let mut details = Vec::with_capacity(4);
    details.add("version", header.version.get());
    details.add("type", Value::code(context_type.into(), CONTEXT_TYPES));
    details.add("array_size", header.array_size.get());
    let table = match context_type {
        0 => GPR_32,
        1 => EL1_32,
        2 => EL2_32,
        3 => SECURE_32,
        4 => GPR_64,
        5 => EL1_64,
        6 => EL2_64,
        7 => EL3_64,
        _ => &[],
    };
    let registers = match context_type {
        0..=7 => registers::named(array, table),
        8 if array.len().is_multiple_of(SYSTEM_REGISTER) => {
            Value::List(array.chunks_exact(SYSTEM_REGISTER).map(system_register).collect())
        }
        _ => Value::Bytes(array.into()),
    };
    details.add("registers", registers);
    details
}

fn system_register(bytes: &[u8]) -> Value {
    let mut group = Vec::with_capacity(ENCODING.len() + 2);
    let encoding = number_at(bytes, 0, 2).unwrap_or(0);
    group.add_hex("encoding", encoding);
    registers::add_fields(&mut group, encoding, ENCODING);
    group.add_some("value", number_at(bytes, 2, 8).map(Value::Hex));
    Value::Group(group)
}

/// AArch32 general purpose registers: name and width in bytes.
const GPR_32: &[(&str, usize)] = &[
    ("r0", 4),
    ("r1", 4),
    ("r2", 4),
    ("r3", 4),
    ("r4", 4),
    ("r5", 4),
    ("r6", 4),
    ("r7", 4),
    ("r8", 4),
    ("r9", 4),
    ("r10", 4),
    ("r11", 4),
    ("r12", 4),
    ("r13_sp", 4),
    ("r14_lr", 4),
    ("r15_pc", 4),
];

/// AArch32 EL1 context.
const EL1_32: &[(&str, usize)] = &[
    ("dfar", 4),
    ("dfsr", 4),
    ("ifar", 4),
    ("isr", 4),
    ("mair0", 4),
    ("mair1", 4),
    ("midr", 4),
    ("mpidr", 4),
    ("nmrr", 4),
    ("prrr", 4),
    ("sctlr_ns", 4),
    ("spsr", 4),
    ("spsr_abt", 4),
    ("spsr_fiq", 4),
    ("spsr_irq", 4),
    ("spsr_svc", 4),
    ("spsr_und", 4),
    ("tpidrprw", 4),
    ("tpidruro", 4),
    ("tpidrurw", 4),
    ("ttbcr", 4),
    ("ttbr0", 4),
    ("ttbr1", 4),
    ("dacr", 4),
];

/// AArch32 EL2 context.
const EL2_32: &[(&str, usize)] = &[
    ("elr_hyp", 4),
    ("hamair0", 4),
    ("hamair1", 4),
    ("hcr", 4),
    ("hcr2", 4),
    ("hdfar", 4),
    ("hifar", 4),
    ("hpfar", 4),
    ("hsr", 4),
    ("htcr", 4),
    ("htpidr", 4),
    ("httbr", 4),
    ("spsr_hyp", 4),
    ("vtcr", 4),
    ("vttbr", 4),
    ("dacr32_el2", 4),
];

/// AArch32 secure context.
const SECURE_32: &[(&str, usize)] = &[("sctlr_s", 4), ("spsr_mon", 4)];

/// AArch64 general purpose registers.
const GPR_64: &[(&str, usize)] = &[
    ("x0", 8),
    ("x1", 8),
    ("x2", 8),
    ("x3", 8),
    ("x4", 8),
    ("x5", 8),
    ("x6", 8),
    ("x7", 8),
    ("x8", 8),
    ("x9", 8),
    ("x10", 8),
    ("x11", 8),
    ("x12", 8),
    ("x13", 8),
    ("x14", 8),
    ("x15", 8),
    ("x16", 8),
    ("x17", 8),
    ("x18", 8),
    ("x19", 8),
    ("x20", 8),
    ("x21", 8),
    ("x22", 8),
    ("x23", 8),
    ("x24", 8),
    ("x25", 8),
    ("x26", 8),
    ("x27", 8),
    ("x28", 8),
    ("x29", 8),
    ("x30", 8),
    ("sp", 8),
];

/// AArch64 EL1 context.
const EL1_64: &[(&str, usize)] = &[
    ("elr_el1", 8),
    ("esr_el1", 8),
    ("far_el1", 8),
    ("isr_el1", 8),
    ("mair_el1", 8),
    ("midr_el1", 8),
    ("mpidr_el1", 8),
    ("sctlr_el1", 8),
    ("sp_el0", 8),
    ("sp_el1", 8),
    ("spsr_el1", 8),
    ("tcr_el1", 8),
    ("tpidr_el0", 8),
    ("tpidr_el1", 8),
    ("tpidrro_el0", 8),
    ("ttbr0_el1", 8),
    ("ttbr1_el1", 8),
];

/// AArch64 EL2 context.
const EL2_64: &[(&str, usize)] = &[
    ("elr_el2", 8),
    ("esr_el2", 8),
    ("far_el2", 8),
    ("hacr_el2", 8),
    ("hcr_el2", 8),
    ("hpfar_el2", 8),
    ("mair_el2", 8),
    ("sctlr_el2", 8),
    ("sp_el2", 8),
    ("spsr_el2", 8),
    ("tcr_el2", 8),
    ("tpidr_el2", 8),
    ("ttbr0_el2", 8),
    ("vtcr_el2", 8),
    ("vttbr_el2", 8),
];

/// AArch64 EL3 context.
const EL3_64: &[(&str, usize)] = &[
    ("elr_el3", 8),
    ("esr_el3", 8),
    ("far_el3", 8),
    ("mair_el3", 8),
    ("sctlr_el3", 8),
    ("sp_el3", 8),
    ("spsr_el3", 8),
    ("tcr_el3", 8),
    ("tpidr_el3", 8),
    ("ttbr0_el3", 8),
];
