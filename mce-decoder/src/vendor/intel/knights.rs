//! Knights Landing and Knights Mill (Xeon Phi). The manual does not describe their banks: rasdaemon
//! (Intel's engineers), mcelog and Linux' `sb_edac` do, and agree.

use super::{Bank, failing_devices, flagged};
use crate::mca::findings::{Fact, Findings};

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        5 => {
            let (unit, error) = match bank.mcacod() {
                0x402 => ("PCU", "internal error of the power control unit"),
                0x403 => ("VCU", "internal error of the voltage control unit"),
                0x407 => ("UBox", "internal error of the UBox"),
                _ => return,
            };
            findings.unit = Some(unit);
            findings.error = Some(error);
        }
        // The on-package memory's controllers name no DDR channel.
        number @ 7..=14 => {
            findings.unit = Some("EDC");
            findings.add("edc", Fact::Number(u64::from(number) - 7));
            memory(bank, findings);
        }
        number @ (15 | 16) => {
            findings.unit = Some("IMC");
            // Each of the two controllers counts its three channels from zero.
            let first = if number == 15 { 3 } else { 0 };
            findings.channel = bank.channel().map(|channel| channel + first);
            memory(bank, findings);
        }
        _ => {}
    }
}

fn memory(bank: &Bank<'_>, findings: &mut Findings) {
    flagged(bank.mscod(), MEMORY_ERRORS, findings);
    failing_devices(bank, findings);
}

/// MSCOD of banks 7 to 16; rasdaemon's `mce-intel-knl.c`.
const MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "command/address parity error"),
    (1, "internal parity error outside of the write data buffer"),
    (2, "write data buffer parity error"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
    (7, "chip failed, corrected (DDR), or burst of four bits (on-package memory)"),
];
