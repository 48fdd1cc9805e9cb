//! Haswell and Broadwell servers.

use super::sandy_bridge::{IVY_BRIDGE_MEMORY_ERRORS, write_buffer};
use super::{Bank, bits, coded, core_unit, failing_devices, flagged, mirrored};
use crate::mca::findings::Findings;

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_3FH".
pub(super) fn haswell_ep(bank: &Bank<'_>, findings: &mut Findings) {
    server(bank, HASWELL_MEMORY_ERRORS, findings);
}

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_4FH".
pub(super) fn broadwell_ep(bank: &Bank<'_>, findings: &mut Findings) {
    server(bank, BROADWELL_MEMORY_ERRORS, findings);
    if matches!(bank.number(), 7 | 8) {
        // Intel's engineers in mcelog.
        mirrored(bank, 41, 42, findings);
    }
}

/// SDM vol. 4, "MSRs in Intel Xeon E5 v3", says what the banks belong to.
fn server(bank: &Bank<'_>, memory: &'static [(u32, &'static str)], findings: &mut Findings) {
    match bank.number() {
        4 => {
            power_control(bank, bits(bank.mscod(), 0, 3) != 0, findings);
            coded(bank.mscod_bits(24, 31), PCU_ERRORS, findings);
            fallback(bank, findings);
        }
        5 | 20 | 21 => {
            findings.unit = Some("QPI");
            coded(bank.mscod(), QPI_ERRORS, findings);
        }
        6 => findings.unit = Some("IIO"),
        7 | 8 => {
            findings.unit = Some("home agent");
            findings.imc = Some(u16::from(bank.number() == 8));
        }
        number @ 9..=16 => {
            findings.unit = Some("IMC");
            findings.imc = Some(u16::from(number > 12));
            findings.channel = Some((number - 9) & 3);
            flagged(bank.mscod(), memory, findings);
            write_buffer(bank, findings);
            failing_devices(bank, findings);
        }
        17..=19 => findings.unit = Some("CBo"),
        other => findings.unit = core_unit(other),
    }
}

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_56H".
pub(super) fn broadwell_de(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => {
            power_control(bank, bits(bank.mscod(), 0, 1) != 0, findings);
            if bits(bank.mscod(), 6, 6) != 0 {
                findings.unit = Some("UBox");
            }
            coded(bank.mscod_bits(24, 31), BROADWELL_DE_PCU_ERRORS, findings);
            fallback(bank, findings);
        }
        number @ (9 | 10) => {
            findings.unit = Some("IMC");
            findings.imc = Some(0);
            findings.channel = Some(number - 9);
            flagged(bank.mscod(), IVY_BRIDGE_MEMORY_ERRORS, findings);
            write_buffer(bank, findings);
            failing_devices(bank, findings);
        }
        other => findings.unit = core_unit(other),
    }
}

/// The bank that the power control unit, the trusted-execution logic and the UBox share: which of
/// them it was is in the error code, or else in bits 23:16.
fn power_control(bank: &Bank<'_>, in_pcu: bool, findings: &mut Findings) {
    findings.unit = Some(match bank.mcacod() {
        0x407 if !in_pcu => "UBox",
        _ => "PCU",
    });
}

/// What is left to say where bits 31:24 have no meaning.
pub(super) fn fallback(bank: &Bank<'_>, findings: &mut Findings) {
    if findings.error.is_some() {
        return;
    }
    findings.error = match bank.mcacod() {
        0x402 | 0x403 => Some("internal error of the power control unit"),
        0x406 => Some("trusted-execution (TXT) error"),
        0x407 => Some("internal error of the UBox"),
        _ if findings.unit == Some("UBox") => Some("internal error of the UBox"),
        _ if bits(bank.mscod(), 0, 3) != 0 => Some("internal error of the power control unit"),
        _ => None,
    };
}

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS" of 06_3FH, bits 31:24.
const PCU_ERRORS: &[(u64, &str)] = &[
    (0x09, "message channel timed out"),
    (0x0d, "memory controller did not reach self-refresh for S3 in time"),
    (0x0e, "core power-down or power-up timed out"),
    (0x13, "DMI training timed out"),
    (0x15, "DMI did not acknowledge the reset in time"),
    (0x1e, "voltage regulator's maximum current is below the fused one"),
    (0x25, "SVID command timed out"),
    (0x29, "voltage regulator's maximum voltage is below the fused one"),
    (0x2b, "watchdog: package C-state, CBo powering down"),
    (0x2c, "watchdog: package C-state, CBo powering up"),
    (0x39, "watchdog: package C3, snoop filter powering up"),
    (0x44, "critical voltage regulator failed"),
    (0x45, "maximum current not supported"),
    (0x46, "voltage ramp-down failed"),
    (0x47, "exclusive mode: power request not completed"),
    (0x48, "SVID: reading the maximum current failed"),
    (0x49, "SVID: writing the maximum voltage failed"),
    (0x4b, "boot voltage timed out, DRAM 0"),
    (0x4c, "boot voltage timed out, DRAM 1"),
    (0x4d, "boot voltage timed out, DRAM 2"),
    (0x4e, "boot voltage timed out, DRAM 3"),
    (0x4f, "SVID command failed"),
    (0x52, "integrated regulator: catastrophic overvoltage"),
    (0x53, "integrated regulator: catastrophic overcurrent"),
    (0x57, "SVID: package C-state request failed"),
    (0x58, "SVID: current monitor request failed"),
    (0x59, "SVID: alert request failed"),
    (0x60, "invalid package-state request from the PCH"),
    (0x61, "invalid package-state request from QPI"),
    (0x62, "invalid package-state response from QPI"),
    (0x63, "invalid package-state response from the PCH"),
    (0x64, "invalid package-state configuration"),
    (0x67, "home agent and memory controller did not block in time"),
    (0x68, "memory controller's SMBus timed out"),
    (0x69, "home agent's fail status changed"),
    (0x6a, "message channel: power request not completed in time"),
    (0x70, "watchdog: package C-state, as secondary"),
    (0x71, "watchdog: package C-state, as primary"),
    (0x72, "watchdog: package S-state, as primary"),
    (0x7c, "firmware's end-of-reset came out of sequence"),
    (0x7d, "more than one trusted-execution agent"),
    (0x81, "die too hot, recoverable"),
];

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS" of 06_56H, bits 31:24.
const BROADWELL_DE_PCU_ERRORS: &[(u64, &str)] = &[
    (0x09, "message channel timed out"),
    (0x13, "DMI training timed out"),
    (0x15, "DMI did not acknowledge the reset in time"),
    (0x1e, "voltage regulator's maximum current is below the fused one"),
    (0x25, "SVID command timed out"),
    (0x26, "package C-state: direct wake over the ring timed out"),
    (0x29, "voltage regulator's maximum voltage is below the fused one"),
    (0x2b, "watchdog: package C-state, CBo powering down"),
    (0x2c, "watchdog: package C-state, CBo powering up"),
    (0x44, "critical voltage regulator failed"),
    (0x46, "voltage ramp-down failed"),
    (0x49, "SVID: writing the maximum voltage failed"),
    (0x4b, "boot voltage timed out, DRAM 0"),
    (0x4f, "SVID command failed"),
    (0x52, "integrated regulator: catastrophic overvoltage"),
    (0x53, "integrated regulator: catastrophic overcurrent"),
    (0x57, "SVID: package C-state request failed"),
    (0x58, "SVID: current monitor request failed"),
    (0x59, "SVID: alert request failed"),
    (0x62, "invalid package-state response from QPI"),
    (0x64, "invalid package-state configuration"),
    (0x67, "home agent and memory controller did not block in time"),
    (0x6a, "message channel: power request not completed in time"),
    (0x72, "watchdog: package S-state, as primary"),
    (0x81, "die too hot, recoverable"),
];

/// SDM vol. 3B, "Intel QPI MC Error Codes for IA32_MCi_STATUS (i= 5, 20, 21)".
const QPI_ERRORS: &[(u64, &str)] = &[
    (0x02, "physical layer: drift buffer alarm"),
    (0x03, "physical layer: latency buffer rolled over"),
    (0x10, "link layer: control error from the ring interface (R3QPI)"),
    (0x11, "CRC error: link-level retry gave up"),
    (0x12, "packet unsupported or undefined"),
    (0x13, "link layer: control error"),
    (0x15, "route-back table used before it was set"),
    (0x20, "physical layer: in-band reset, initialization aborted"),
    (0x21, "failover: a data lane was left out"),
    (0x22, "physical layer: in-band reset, width unchanged"),
    (0x23, "failover: a clock lane was replaced"),
    (0x30, "CRC error: link-level retry succeeded after physical re-initialization"),
    (0x31, "CRC error: link-level retry succeeded"),
];

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i= 9-16)" of 06_3FH.
const HASWELL_MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "DDR3 address parity error"),
    (1, "uncorrected error in write data from the home agent"),
    (2, "uncorrected error in byte enables from the home agent"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
    (7, "corrected read error"),
    (8, "write data buffer parity error"),
    (9, "DDR4 command/address parity error"),
];

/// The same of 06_4FH: without bit 7.
const BROADWELL_MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "DDR3 address parity error"),
    (1, "uncorrected error in write data from the home agent"),
    (2, "uncorrected error in byte enables from the home agent"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
    (8, "write data buffer parity error"),
    (9, "DDR4 command/address parity error"),
];
