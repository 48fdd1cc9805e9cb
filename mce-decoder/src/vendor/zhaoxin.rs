//! Zhaoxin.

use ras_core::McaRegisters;

use crate::mca::findings::Findings;

pub(super) fn decode(_registers: &McaRegisters, _findings: &mut Findings) {}
