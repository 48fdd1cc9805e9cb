//! "Error Status", which several sections have in common. UEFI Specification, Appendix N, "Error
//! Status" and "Error Types".

use alloc::vec::Vec;

use ras_core::{Detail, Details, Value};

use crate::mca::findings::meaning;

/// Bits 15:8: the error in general terms.
const TYPES: &[(u64, &str)] = &[
    (1, "inside the component"),
    (4, "storage in DRAM"),
    (5, "storage in a TLB"),
    (6, "storage in a cache"),
    (7, "functional unit"),
    (8, "failed self test"),
    (9, "internal queue over- or underflow"),
    (16, "bus"),
    (17, "no I/O translation for the address"),
    (18, "improper access"),
    (19, "access to nothing"),
    (20, "loss of lockstep"),
    (21, "response without request"),
    (22, "bus parity"),
    (23, "bus protocol"),
    (24, "path error"),
    (25, "bus timeout"),
    (26, "poisoned data was read"),
];

/// Bits 22:16: what the error was in, who saw it, and how it was logged.
const BITS: &[(u32, &str)] = &[
    (16, "address"),
    (17, "control"),
    (18, "data"),
    (19, "detected by responder"),
    (20, "detected by requestor"),
    (21, "first error"),
    (22, "overflow"),
];

/// The register, its type and its bits.
pub(super) fn add(details: &mut Vec<Detail>, status: u64) {
    details.add_hex("error_status", status);
    details.add("error_status_type", Value::code(kind(status), TYPES));
    details.add("error_status_bits", Value::flags(status & !0xffff, BITS));
}

/// The type's meaning; `None` where it says nothing, or nothing that is defined.
pub(super) fn name(status: u64) -> Option<&'static str> {
    meaning(TYPES, kind(status))
}

const fn kind(status: u64) -> u64 {
    status >> 8 & 0xff
}
