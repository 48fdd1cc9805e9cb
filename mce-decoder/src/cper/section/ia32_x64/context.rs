//! Processor contexts: registers as they were when the error was noticed. UEFI Specification,
//! Appendix N, "IA32/X64 Processor Context Information".

use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{Detail, Details, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::section::registers;

/// The beginning of a context; the registers follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ContextHeader {
    pub context_type: U16,
    /// Bytes of registers.
    pub array_size: U16,
    /// The first of several machine-specific registers.
    pub msr_address: U32,
    /// The first of several memory-mapped registers.
    pub mm_register_address: U64,
}
const _: () = assert!(size_of::<ContextHeader>() == 16);

/// Context type of machine-specific registers.
pub(super) const MSR: u16 = 1;

/// "Register Context Type".
const CONTEXT_TYPES: &[(u64, &str)] = &[
    (0, "unclassified data"),
    (1, "machine-specific registers"),
    (2, "32-bit mode registers"),
    (3, "64-bit mode registers"),
    (4, "FXSAVE"),
    (5, "32-bit mode debug registers"),
    (6, "64-bit mode debug registers"),
    (7, "memory-mapped registers"),
];

/// "X86 Error Context, 32-bit": name and width in bytes.
const REGISTERS_32: &[(&str, usize)] = &[
    ("eax", 4),
    ("ebx", 4),
    ("ecx", 4),
    ("edx", 4),
    ("esi", 4),
    ("edi", 4),
    ("ebp", 4),
    ("esp", 4),
    ("cs", 2),
    ("ds", 2),
    ("ss", 2),
    ("es", 2),
    ("fs", 2),
    ("gs", 2),
    ("eflags", 4),
    ("eip", 4),
    ("cr0", 4),
    ("cr1", 4),
    ("cr2", 4),
    ("cr3", 4),
    ("cr4", 4),
    ("gdtr", 8),
    ("idtr", 8),
    ("ldtr", 2),
    ("tr", 2),
];

/// "X64 Error Context". The descriptor table registers take 16 bytes each.
const REGISTERS_64: &[(&str, usize)] = &[
    ("rax", 8),
    ("rbx", 8),
    ("rcx", 8),
    ("rdx", 8),
    ("rsi", 8),
    ("rdi", 8),
    ("rbp", 8),
    ("rsp", 8),
    ("r8", 8),
    ("r9", 8),
    ("r10", 8),
    ("r11", 8),
    ("r12", 8),
    ("r13", 8),
    ("r14", 8),
    ("r15", 8),
    ("cs", 2),
    ("ds", 2),
    ("ss", 2),
    ("es", 2),
    ("fs", 2),
    ("gs", 2),
    ("", 4),
    ("rflags", 8),
    ("rip", 8),
    ("cr0", 8),
    ("cr1", 8),
    ("cr2", 8),
    ("cr3", 8),
    ("cr4", 8),
    ("cr8", 8),
    ("gdtr", 8),
    ("gdtr_high", 8),
    ("idtr", 8),
    ("idtr_high", 8),
    ("ldtr", 2),
    ("tr", 2),
];

/// SDM vol. 1, "Non-64-bit-Mode Layout of FXSAVE and FXRSTOR Memory Region" and the 64-bit one, which
/// has 64-bit pointers where the other has a selector and 32 bits.
const FXSAVE: &[(&str, usize)] = &[
    ("fcw", 2),
    ("fsw", 2),
    ("ftw", 1),
    ("", 1),
    ("fop", 2),
    ("fip", 8),
    ("fdp", 8),
    ("mxcsr", 4),
    ("mxcsr_mask", 4),
    ("st0", 16),
    ("st1", 16),
    ("st2", 16),
    ("st3", 16),
    ("st4", 16),
    ("st5", 16),
    ("st6", 16),
    ("st7", 16),
    ("xmm0", 16),
    ("xmm1", 16),
    ("xmm2", 16),
    ("xmm3", 16),
    ("xmm4", 16),
    ("xmm5", 16),
    ("xmm6", 16),
    ("xmm7", 16),
    ("xmm8", 16),
    ("xmm9", 16),
    ("xmm10", 16),
    ("xmm11", 16),
    ("xmm12", 16),
    ("xmm13", 16),
    ("xmm14", 16),
    ("xmm15", 16),
];

const DEBUG_32: &[(&str, usize)] = &[
    ("dr0", 4),
    ("dr1", 4),
    ("dr2", 4),
    ("dr3", 4),
    ("dr4", 4),
    ("dr5", 4),
    ("dr6", 4),
    ("dr7", 4),
];

const DEBUG_64: &[(&str, usize)] = &[
    ("dr0", 8),
    ("dr1", 8),
    ("dr2", 8),
    ("dr3", 8),
    ("dr4", 8),
    ("dr5", 8),
    ("dr6", 8),
    ("dr7", 8),
];

/// The header and the registers in `array`.
pub(super) fn details(header: &ContextHeader, array: &[u8]) -> Vec<Detail> {
    let context_type = header.context_type.get();
    let mut details = Vec::with_capacity(5);
    details.add("type", Value::code(context_type.into(), CONTEXT_TYPES));
    details.add("array_size", header.array_size.get());
    details.add_hex("msr_address", header.msr_address.get());
    details.add_hex("mm_register_address", header.mm_register_address.get());
    details.add(
        "registers",
        match context_type {
            // Registers of either sort are told apart by their addresses, which count up.
            MSR | 7 if array.len().is_multiple_of(8) => registers::wide(array),
            2 => registers::named(array, REGISTERS_32),
            3 => registers::named(array, REGISTERS_64),
            4 => registers::named(array, FXSAVE),
            5 => registers::named(array, DEBUG_32),
            6 => registers::named(array, DEBUG_64),
            _ => Value::Bytes(array.into()),
        },
    );
    details
}
