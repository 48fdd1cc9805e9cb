//! AMD and Hygon: families 0Fh to 16h, and scalable MCA from 17h on.

use ras_core::McaRegisters;

use crate::mca::findings::Findings;

pub(super) fn decode(_registers: &McaRegisters, _findings: &mut Findings) {}
