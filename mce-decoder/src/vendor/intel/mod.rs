//! Intel: a file for each family of generations.

use ras_core::McaRegisters;

use crate::mca::findings::Findings;

pub(super) fn decode(_registers: &McaRegisters, _findings: &mut Findings) {}
