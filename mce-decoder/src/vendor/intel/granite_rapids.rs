//! Granite Rapids (and D), Sierra Forest and Clearwater Forest.
//!
//! SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_ADH, 06_AEH, and
//! 06_AFH". Intel's engineers in mcelog and rasdaemon decode all four alike.

use super::{Bank, bits, byte, coded, narrow, parts, word};
use crate::mca::findings::{Fact, Findings, meaning};

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        5 => {
            findings.unit = Some("UPI");
            // As on every generation before, six bits; what the others mean here nobody says.
            coded(bank.mscod_bits(16, 21), UPI_ERRORS, findings);
        }
        6 => {
            findings.unit = Some("Punit");
            let (code, controller) = (bank.mscod_bits(24, 31), bank.mscod_bits(16, 23));
            parts(
                &[
                    ("punit_error", code, meaning(PUNIT_ERRORS, code)),
                    (
                        "microcontroller_error",
                        controller,
                        meaning(PUNIT_MICROCONTROLLER_ERRORS, controller),
                    ),
                ],
                findings,
            );
        }
        12 => {
            findings.unit = Some("B2CMI");
            coded(bank.mscod(), B2CMI_ERRORS, findings);
        }
        number @ 13..=24 => {
            findings.unit = Some("MCCHAN");
            findings.channel = Some(number - 13);
            coded(bank.mscod(), MEMORY_ERRORS, findings);
            dram(bank, findings);
        }
        _ => {}
    }
}

/// What MISC holds is said by bit 1 of the other information, and from 0x800 to 0x82f by the code.
fn dram(bank: &Bank<'_>, findings: &mut Findings) {
    let Some(misc) = bank.misc() else { return };
    if bank.status.other_info() & 2 == 0 || matches!(bank.mscod(), 0x800..=0x82f) {
        return;
    }
    let transient = bits(misc, 63, 63) == 1;
    let dimm = &mut findings.dimm;
    dimm.column = Some(word(misc, 9, 18) << 2);
    dimm.row = Some(word(misc, 19, 36));
    dimm.bank = Some(narrow(misc, 37, 38));
    dimm.bank_group = Some(byte(misc, 39, 41));
    dimm.device = (!transient).then(|| narrow(misc, 43, 48));
    dimm.chip = Some(byte(misc, 51, 54));
    dimm.rank = Some(narrow(misc, 55, 57));
    findings.code("ecc_mode", bits(misc, 58, 61), ECC_MODES);
    if transient {
        findings.add("transient", Fact::Flag(true));
    }
}

/// Bits 61:58 of MISC: the code, the bits it leaves for other uses, and one or two levels of memory.
const ECC_MODES: &[(u64, &str)] = &[
    (1, "SDDC 128b, one level"),
    (2, "SDDC 125b, one level"),
    (3, "SDDC 96b, one level"),
    (4, "SDDC 96b, two levels"),
    (5, "ADDDC 80b, one level"),
    (6, "ADDDC 80b, two levels"),
    (7, "ADDDC 64b, one level"),
    (8, "9x4 61b, one level"),
    (9, "9x4 32b, one level"),
    (10, "9x4 32b, two levels"),
];

/// SDM vol. 3B, "Intel UPI MC Error Codes for IA32_MC5_STATUS".
const UPI_ERRORS: &[(u64, &str)] = &[
    (0x00, "physical layer: initialization failed"),
    (0x01, "physical layer: drift buffer alarm"),
    (0x02, "physical layer: latency buffer rolled over"),
    (0x10, "CRC error: link-level retry gave up"),
    (0x11, "packet unsupported or undefined"),
    (0x12, "control error"),
    (0x13, "link layer: parameter exchange failed"),
    (0x14, "link layer: trust domain (TDX) failure"),
    (0x15, "link layer: enclave (SGX) failure"),
    (0x16, "link layer: parity error in sent data"),
    (0x17, "link layer: parity error in received data"),
    (0x18, "link layer: encryption failure (FLE)"),
    (0x1f, "link layer: control error"),
    (0x20, "physical layer: initialization aborted, corrected"),
    (0x21, "physical layer: in-band reset, corrected"),
    (0x22, "physical layer: lane failed, link goes on at width 8"),
    (0x23, "physical layer: L0c error, corrected without reset"),
    (0x24, "physical layer: L0c error, reset"),
    (0x25, "physical layer: error on leaving L0p, corrected by reset"),
    (0x30, "CRC error: link-level retry succeeded"),
    (0x31, "CRC error: link-level retry succeeded after physical re-initialization"),
];

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC6_STATUS", bits 23:16. The Punit is the power
/// management unit.
const PUNIT_MICROCONTROLLER_ERRORS: &[(u64, &str)] = &[
    (0x02, "double-bit ECC error"),
    (0x03, "double-bit ECC error"),
    (0x08, "microcontroller error"),
    (0x09, "microcontroller error"),
    (0x0a, "patch failed to load"),
    (0x0b, "request valid error (POReqValid)"),
    (0x10, "double-bit ECC error in the telemetry memory"),
    (0x20, "error signalled by a power management agent"),
    (0x80, "error signalled by the security module (S3M)"),
    (0xa0, "double-bit ECC error in the hierarchical power management memory"),
    (0xb0, "double-bit ECC error in the topology-aware register memory (TPMI)"),
];

/// The same table, bits 31:24.
const PUNIT_ERRORS: &[(u64, &str)] = &[
    (0x09, "time-stamp counter was not downloaded in time"),
    (0x0b, "general-purpose sideband timed out"),
    (0x0c, "power-management sideband timed out"),
    (0x10, "calibration of the maximum power detector failed"),
    (0x1a, "dispatcher busy for too long"),
    (0x1d, "more than one trusted-execution agent at boot"),
    (0x23, "SVID error"),
    (0x35, "SVID: invalid load line of the input regulator"),
    (0x36, "SVID: invalid maximum current"),
    (0x40, "SVID: invalid maximum voltage"),
    (0x41, "SVID: invalid ramp voltage"),
    (0x48, "fuses for temperature compensation are invalid"),
    (0x49, "SVID: fuses for the DC load line are invalid"),
    (0x4a, "integrated regulator: fault"),
    (0x4c, "double-bit error in the hierarchical power management memory"),
    (0x56, "SVID: fuses for the active voltage are invalid"),
];

/// SDM vol. 3B, "B2CMI MC Error Codes for IA32_MC12_STATUS". B2CMI: the bridge from the mesh to CMI,
/// the interface of the memory controllers.
const B2CMI_ERRORS: &[(u64, &str)] = &[
    (0x01, "read ECC error"),
    (0x02, "bucket-1 error"),
    (0x03, "tracker parity error"),
    (0x04, "security attributes do not match"),
    (0x07, "read completion parity error"),
    (0x08, "response parity error"),
    (0x09, "timeout"),
    (0x0a, "address parity error"),
    (0x0c, "CMI: more credits used than granted"),
    (0x0d, "security attributes of the initiator do not match (SAI)"),
];

/// SDM vol. 3B, "MCCHAN MC Error Codes for IA32_MCi_STATUS (i = 13-24)". From 0x2000 up, what sub-channel
/// 0 reports below.
const MEMORY_ERRORS: &[(u64, &str)] = &[
    (0x0001, "address parity error"),
    (0x0002, "CMI: write data parity error, sub-channel 0"),
    (0x0003, "CMI: write data ECC error, sub-channel 0"),
    (0x0004, "CMI: byte-enable parity error, sub-channel 0"),
    (0x0005, "CMI: authentication code parity error, sub-channel 0"),
    (0x0008, "corrected patrol scrub error"),
    (0x0010, "uncorrected patrol scrub error"),
    (0x0020, "corrected error while sparing"),
    (0x0040, "uncorrected error while sparing"),
    (0x0080, "transient or corrected read error"),
    (0x00a0, "uncorrected read error"),
    (0x00b0, "poison read while poison was disabled"),
    (0x00c0, "metadata error in two-level memory"),
    (0x0100, "write data buffer parity error, sub-channel 0"),
    (0x0102, "write data buffer ECC error, sub-channel 0"),
    (0x0104, "write data buffer byte-enable parity error, sub-channel 0"),
    (0x0106, "write data buffer persistent corrected ECC error, sub-channel 0"),
    (0x0108, "DDR link failure"),
    (0x0109, "illegal request received"),
    (0x0200, "DDR command/address parity or write CRC error"),
    (0x0400, "scheduler address parity error"),
    (0x0832, "internal error"),
    (0x0833, "tracker address parity error"),
    (0x2002, "CMI: write data parity error, sub-channel 1"),
    (0x2003, "CMI: write data ECC error, sub-channel 1"),
    (0x2004, "CMI: byte-enable parity error, sub-channel 1"),
    (0x2005, "CMI: authentication code parity error, sub-channel 1"),
    (0x2100, "write data buffer parity error, sub-channel 1"),
    (0x2102, "write data buffer ECC error, sub-channel 1"),
    (0x2104, "write data buffer byte-enable parity error, sub-channel 1"),
    (0x2106, "write data buffer persistent corrected ECC error, sub-channel 1"),
];
