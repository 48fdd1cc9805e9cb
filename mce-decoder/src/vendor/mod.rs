//! Model-specific meanings: what the makers' manuals say beyond the architecture.
//!
//! A new processor generation is one file below its maker's folder and one line in its table.

pub mod amd;
pub mod intel;
pub mod zhaoxin;

use ras_core::{CpuVendor, McaRegisters};

use crate::mca::findings::Findings;

/// Adds what the processor's own manual says about a bank. Nothing for a model nobody here knows.
pub(crate) type VendorDecoder = fn(&McaRegisters, &mut Findings);

/// The decoder for `registers`' processor.
pub(crate) fn decoder(registers: &McaRegisters) -> Option<VendorDecoder> {
    match registers.vendor {
        CpuVendor::Intel => Some(intel::decode),
        CpuVendor::Amd | CpuVendor::Hygon => Some(amd::decode),
        CpuVendor::Zhaoxin => Some(zhaoxin::decode),
        _ => None,
    }
}
