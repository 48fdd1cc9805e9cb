//! Skylake, Cascade Lake and Cooper Lake servers.
//!
//! SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_55H"; Google's
//! Ecclesia (`skylake_mce_decode`) for what each bank belongs to.

use super::haswell::fallback;
use super::{Bank, byte, coded, core_unit, failing_devices, flagged, mirrored};
use crate::mca::findings::Findings;

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => {
            findings.unit = Some(if bank.mcacod() == 0x407 { "UBox" } else { "PCU" });
            coded(bank.mscod_bits(24, 31), PCU_ERRORS, findings);
            fallback(bank, findings);
        }
        5 | 12 | 19 => upi(bank, UPI_ERRORS, false, findings),
        6 => findings.unit = Some("IIO"),
        number @ (7 | 8) => {
            findings.unit = Some("M2M");
            findings.imc = Some(u16::from(number == 8));
            // Bits 31:24 are reserved, and set at times.
            flagged(bank.mscod_bits(16, 23), M2M_ERRORS, findings);
            mirrored(bank, 63, 62, findings);
            // Where the code does not name the channel, MISC does.
            findings.channel = bank.channel().or_else(|| {
                bank.misc().filter(|_| bank.is_memory_error()).map(|misc| byte(misc, 50, 51))
            });
        }
        9..=11 => findings.unit = Some("CHA"),
        number @ 13..=18 => {
            findings.unit = Some("IMC");
            let (imc, channel) = match number {
                13 => (0, 0),
                14 => (0, 1),
                15 => (1, 0),
                16 => (1, 1),
                17 => (0, 2),
                _ => (1, 2),
            };
            findings.imc = Some(imc);
            findings.channel = Some(channel);
            // Codes from 0x800 up are numbers, those below are bits.
            match bank.mscod() {
                code @ 0x800..=0x8ff => coded(code, DDRT_ERRORS, findings),
                errors => flagged(errors, MEMORY_ERRORS, findings),
            }
            failing_devices(bank, findings);
            // Ecclesia: four ranks a module.
            findings.dimm.module = findings.dimm.rank.map(|rank| rank >> 2);
        }
        other => findings.unit = core_unit(other),
    }
}

/// A UPI link: a code in bits 21:16, and above it what kind of control error it was. On Skylake the
/// upper bits belong to code 0x12 alone.
pub(super) fn upi(
    bank: &Bank<'_>,
    errors: &[(u64, &'static str)],
    always_control: bool,
    findings: &mut Findings,
) {
    const CONTROL_ERROR: u64 = 0x12;
    findings.unit = Some("UPI");
    let (code, control) = (bank.mscod_bits(16, 21), bank.mscod() & 0xffc0);
    if code != CONTROL_ERROR {
        coded(code, errors, findings);
    }
    if code == CONTROL_ERROR || always_control {
        flagged(control, UPI_CONTROL_ERRORS, findings);
    }
    coded(code, errors, findings);
}

/// SDM vol. 3B, "Intel UPI MC Error Codes for IA32_MCi_STATUS", bits 31:22 for code 0x12.
const UPI_CONTROL_ERRORS: &[(u32, &str)] = &[
    (6, "physical layer: control error"),
    (7, "unexpected Retry.Ack flit"),
    (8, "unexpected Retry.Req flit"),
    (9, "register file parity error"),
    (10, "route-back table error"),
    (11, "unexpected protocol flit to send (end of packet, header or data)"),
    (12, "receive header-or-credit buffer: credits over- or underflowed"),
    (13, "link layer was still in reset when the physical layer got ready"),
    (14, "link layer was reset while protocol traffic was going on"),
    (15, "link layer: transmit parity error"),
];

/// The same table, bits 21:16.
const UPI_ERRORS: &[(u64, &str)] = &[
    (0x00, "physical layer: initialization failed"),
    (0x01, "physical layer: drift buffer alarm"),
    (0x02, "physical layer: latency buffer rolled over"),
    (0x10, "CRC error: link-level retry gave up"),
    (0x11, "packet unsupported or undefined"),
    (0x12, "control error"),
    (0x13, "link layer: parameter exchange failed"),
    (0x1f, "link layer: control error from the mesh interface"),
    (0x20, "physical layer: initialization aborted, corrected"),
    (0x21, "physical layer: in-band reset, corrected"),
    (0x22, "physical layer: lane failed, link goes on at width 8"),
    (0x23, "physical layer: L0c error, corrected without reset"),
    (0x24, "physical layer: L0c error, reset"),
    (0x25, "physical layer: error on leaving L0p, corrected by reset"),
    (0x30, "CRC error: link-level retry succeeded"),
    (0x31, "CRC error: link-level retry succeeded after physical re-initialization"),
];

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS" of 06_55H, bits 31:24.
const PCU_ERRORS: &[(u64, &str)] = &[
    (0x0d, "DMI training timed out"),
    (0x0f, "DMI did not acknowledge the reset in time"),
    (0x10, "more than one trusted-execution agent"),
    (0x1e, "firmware's end-of-reset came out of sequence"),
    (0x1f, "firmware's package-state configuration is invalid"),
    (0x25, "message channel timed out"),
    (0x27, "message channel: power request not completed in time"),
    (0x30, "package C-state: direct wake over the ring timed out"),
    (0x31, "package C-state: invalid response from the PCH"),
    (0x33, "watchdog: package C-state, CBo powering down"),
    (0x34, "watchdog: package C-state, CBo powering up"),
    (0x38, "watchdog: package C3, snoop filter powering up"),
    (0x40, "SVID: maximum current of the input regulator"),
    (0x41, "SVID command timed out"),
    (0x42, "SVID: output voltage of the input regulator"),
    (0x43, "SVID: capability of the processor's regulator"),
    (0x44, "SVID: critical voltage regulator failed"),
    (0x45, "SVID: system agent's temperature compensation"),
    (0x46, "SVID: register read failed"),
    (0x47, "SVID: register write failed"),
    (0x48, "SVID: package C-state initialization failed"),
    (0x49, "SVID: package C-state configuration failed"),
    (0x4a, "SVID: package C-state request failed"),
    (0x4b, "SVID: current monitor request failed"),
    (0x4c, "SVID: alert request failed"),
    (0x4d, "SVID: second package's regulator absent, or did not ramp"),
    (0x4e, "SVID: second package's regulator found where none was expected"),
    (0x51, "integrated regulator: catastrophic overvoltage"),
    (0x52, "integrated regulator: catastrophic overcurrent"),
    (0x58, "watchdog: package C-state, as secondary"),
    (0x59, "watchdog: package C-state, as primary"),
    (0x5a, "watchdog: package S-state, as primary"),
    (0x61, "package S-state: core power-down or power-up timed out"),
    (0x63, "package S-state: invalid request from the PCH"),
    (0x64, "package S-state: invalid internal request"),
    (0x65, "package S-state: invalid internal response"),
    (0x6b, "package S-state: SMBus for hot-plug did not pause in time"),
    (0x81, "die too hot, recoverable"),
];

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i= 13-16)", below 0x800.
const MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "address parity error"),
    (1, "parity error in write data from the home agent"),
    (2, "parity error in byte enables from the home agent"),
    (3, "corrected patrol scrub error"),
    (4, "uncorrected patrol scrub error"),
    (5, "corrected error while sparing"),
    (6, "uncorrected error while sparing"),
    (7, "read error"),
    (8, "write data buffer parity error"),
    (9, "DDR4 command/address parity error"),
    (10, "uncorrected address parity error"),
];

/// The same table from 0x800 up: the interface to persistent memory.
const DDRT_ERRORS: &[(u64, &str)] = &[
    (0x800, "unrecognized request"),
    (0x801, "read response to an invalid scoreboard entry"),
    (0x802, "unexpected read response"),
    (0x803, "DDR4 completion to an invalid scoreboard entry"),
    (0x804, "completion to an invalid scoreboard entry"),
    (0x805, "completion FIFO overflow"),
    (0x806, "correctable parity error"),
    (0x807, "uncorrectable error"),
    (0x808, "interrupt while another was not acknowledged"),
    (0x809, "ERID FIFO overflow"),
    (0x80a, "write credits"),
    (0x80b, "read credits"),
    (0x80c, "scheduler error"),
    (0x80d, "error event"),
];

/// SDM vol. 3B, "M2M MC Error Codes for IA32_MCi_STATUS (i= 7-8)". M2M: mesh to memory.
pub(super) const M2M_ERRORS: &[(u32, &str)] = &[
    (0, "read data error"),
    (2, "partial write data error"),
    (3, "full write data error"),
    (4, "clock-crossing buffer (BGF) error"),
    (5, "timeout"),
    (6, "tracker parity error"),
    (7, "fatal bucket-1 error"),
];
