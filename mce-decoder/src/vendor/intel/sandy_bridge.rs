//! Sandy Bridge and Ivy Bridge.

use super::{Bank, bits, coded, core_unit, failing_devices, flagged};
use crate::mca::findings::{Fact, Findings, meaning};

pub(super) fn client(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => pcu(bank, |code| meaning(PCU_ERRORS, code), findings),
        8..=11 => memory_controller(bank, SANDY_BRIDGE_MEMORY_ERRORS, findings),
        other => findings.unit = core_unit(other),
    }
}

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_2DH".
pub(super) fn sandy_bridge_ep(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        // Bits 56:16 of the links' banks are reserved.
        6 | 7 => findings.unit = Some("QPI"),
        8..=11 => {
            findings.imc = Some(0);
            memory_controller(bank, SANDY_BRIDGE_MEMORY_ERRORS, findings);
        }
        _ => client(bank, findings),
    }
}

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_3EH"; SDM vol. 4
/// for the banks without codes of their own.
pub(super) fn ivy_bridge_ep(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => {
            let name = |code| meaning(PCU_ERRORS, code).or(meaning(IVY_BRIDGE_PCU_ERRORS, code));
            pcu(bank, name, findings);
        }
        5 => findings.unit = Some("QPI"),
        6 => findings.unit = Some("IIO"),
        7 | 8 => {
            findings.unit = Some("home agent");
            findings.imc = Some(u16::from(bank.number() == 8));
        }
        bank_of_channel @ 9..=16 => {
            findings.imc = Some(u16::from(bank_of_channel > 12));
            memory_controller(bank, IVY_BRIDGE_MEMORY_ERRORS, findings);
        }
        other => findings.unit = core_unit(other),
    }
}

fn pcu(bank: &Bank<'_>, name: impl Fn(u64) -> Option<&'static str>, findings: &mut Findings) {
    findings.unit = Some("PCU");
    let code = bank.mscod_bits(24, 31);
    findings.error = name(code);
    let controller = bank.mscod_bits(16, 19);
    if controller != 0 {
        coded(controller, PCU_MICROCONTROLLER_ERRORS, findings);
        if code != 0 {
            findings.code("microcontroller_error", controller, PCU_MICROCONTROLLER_ERRORS);
        }
    }
}

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS", bits 19:16.
const PCU_MICROCONTROLLER_ERRORS: &[(u64, &str)] = &[
    (1, "instruction fetch outside of its memory"),
    (2, "instruction parity error"),
    (3, "invalid instruction"),
    (4, "instruction stack underflow"),
    (5, "instruction stack overflow"),
    (6, "data stack underflow"),
    (7, "data stack overflow"),
    (8, "data access outside of its memory"),
    (9, "data parity error"),
];

/// The same table, bits 31:24.
const PCU_ERRORS: &[(u64, &str)] = &[
    (0x0d, "memory controller did not reach self-refresh for S3 in time"),
    (0x0e, "core power-down or power-up timed out"),
    (0x0f, "package state: no safe point in time"),
    (0x43, "PECI mailbox did not get quiet in time"),
    (0x5c, "more than one trusted-execution agent"),
    (0x60, "invalid package-state request from the PCH"),
    (0x61, "invalid package-state request from QPI"),
    (0x62, "invalid package-state response from QPI"),
    (0x63, "invalid package C-state response from the PCH"),
    (0x64, "invalid package-state configuration"),
    (0x70, "watchdog: package C-state, as secondary"),
    (0x71, "watchdog: package C-state, as primary"),
    (0x72, "watchdog: package S-state, as primary"),
    (0x7a, "home agent's fail status changed"),
    (0x81, "die too hot, recoverable"),
];

/// The codes Ivy Bridge has beyond [`PCU_ERRORS`].
const IVY_BRIDGE_PCU_ERRORS: &[(u64, &str)] = &[
    (0x44, "critical voltage regulator failed"),
    (0x45, "maximum current not supported"),
    (0x7b, "PCIe ring interface did not block in time"),
];

fn memory_controller(
    bank: &Bank<'_>,
    table: &'static [(u32, &'static str)],
    findings: &mut Findings,
) {
    findings.unit = Some("IMC");
    flagged(bank.mscod(), table, findings);
    write_buffer(bank, findings);
    failing_devices(bank, findings);
}

/// Which write buffer held the data with bad parity. SDM vol. 3B, "Intel IMC MC Error Codes for
/// IA32_MCi_MISC", bits 13:9.
pub(super) fn write_buffer(bank: &Bank<'_>, findings: &mut Findings) {
    const DATA_OR_BYTE_ENABLE: u64 = 0b110;
    if bank.mscod() & DATA_OR_BYTE_ENABLE != 0
        && let Some(misc) = bank.misc()
    {
        findings.add("write_buffer", Fact::Number(bits(misc, 9, 13)));
    }
}

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i= 8, 11)".
const SANDY_BRIDGE_MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "address parity error"),
    (1, "parity error in write data from the home agent"),
    (2, "parity error in byte enables from the home agent"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
];

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i= 9-16)" of 06_3EH.
pub(super) const IVY_BRIDGE_MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "address parity error"),
    (1, "parity error in write data from the home agent"),
    (2, "parity error in byte enables from the home agent"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
    (7, "corrected read error"),
    (8, "write data buffer parity error"),
];
