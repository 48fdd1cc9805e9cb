//! Denverton. SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_5FH".

use super::{Bank, flagged};
use crate::mca::findings::Findings;

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    if let number @ (6 | 7) = bank.number() {
        findings.unit = Some("IMC");
        findings.imc = Some(u16::from(number - 6));
        flagged(bank.mscod(), MEMORY_ERRORS, findings);
    }
}

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i= 6,7)".
const MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "command/address parity error"),
    (1, "corrected demand or patrol scrub error"),
    (2, "uncorrected patrol scrub error"),
    (3, "uncorrected demand read error"),
    (4, "write data buffer ECC error on read"),
];
