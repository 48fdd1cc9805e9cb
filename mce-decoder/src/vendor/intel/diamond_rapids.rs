//! Diamond Rapids: core building blocks (CBB), and I/O and memory hubs (IMH) of which each package
//! has two. The APIC ID tells which of the two a bank belongs to.
//!
//! SDM vol. 3B does not describe it yet; Intel's engineers in mcelog and rasdaemon do, alike.

use super::sapphire_rapids::SHUTDOWN_CAUSES;
use super::{Bank, bits, byte, coded, narrow, word};
use crate::mca::findings::{Fact, Findings, meaning};

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => {
            const SCAN_AT_FIELD: u16 = 0x040b;
            findings.unit = Some("CBB Punit");
            findings.error = match bank.mscod() {
                _ if bank.mcacod() == SCAN_AT_FIELD => Some("in-field scan test failed"),
                code @ 1..=0xff => meaning(SHUTDOWN_CAUSES, code),
                code => meaning(CBB_PUNIT_ERRORS, code),
            };
        }
        11 => {
            findings.unit = Some("IMH Punit");
            hub(bank, findings);
            imh_punit(bank, findings);
        }
        18 => {
            findings.unit = Some("UPI");
            coded(bank.mscod(), UPI_ERRORS, findings);
        }
        number @ 19..=26 => {
            findings.unit = Some("MCCHAN");
            findings.channel = Some(number - 19 + 8 * hub(bank, findings));
            coded(bank.mscod(), MEMORY_ERRORS, findings);
            dram(bank, findings);
        }
        _ => {}
    }
}

fn hub(bank: &Bank<'_>, findings: &mut Findings) -> u8 {
    let hub = byte(bank.registers.apic_id.into(), 2, 2);
    findings.add("imh", Fact::Number(hub.into()));
    hub
}

fn imh_punit(bank: &Bank<'_>, findings: &mut Findings) {
    // A code of its own, told apart by the model-specific part of MISC.
    const WATCHDOG_OR_TELEMETRY: u64 = 0x10;
    let (code, controller) = (bank.mscod_bits(24, 31), bank.mscod_bits(16, 23));
    if code != 0 {
        coded(code, IMH_PUNIT_ERRORS, findings);
    } else if controller == WATCHDOG_OR_TELEMETRY {
        findings.error = Some(match bank.misc().map(|misc| bits(misc, 9, 63)) {
            Some(1) => "watchdog of the power management firmware expired",
            Some(3) => "double-bit ECC error in the telemetry memory",
            _ => "watchdog expired, or double-bit ECC error in the telemetry memory",
        });
    } else {
        coded(controller, IMH_PUNIT_MICROCONTROLLER_ERRORS, findings);
    }
}

/// As on Granite Rapids; from code 0x800 up, MISC holds what is not described.
fn dram(bank: &Bank<'_>, findings: &mut Findings) {
    let Some(misc) = bank.misc() else { return };
    if bank.status.other_info() & 2 == 0 || bank.mscod() >= 0x800 {
        return;
    }
    let transient = bits(misc, 63, 63) == 1;
    let dimm = &mut findings.dimm;
    dimm.column = Some(word(misc, 9, 18) << 2);
    dimm.row = Some(word(misc, 19, 36));
    dimm.bank = Some(narrow(misc, 37, 38));
    dimm.bank_group = Some(byte(misc, 39, 41));
    dimm.chip = Some(byte(misc, 51, 54));
    dimm.rank = Some(narrow(misc, 55, 56));
    findings.add("sub_channel", Fact::Number(bits(misc, 49, 49)));
    if transient {
        findings.add("transient", Fact::Flag(true));
        return;
    }
    if bits(misc, 42, 42) == 1 {
        findings.dimm.device = Some(narrow(misc, 44, 48));
    }
    findings.code("ecc_mode", bits(misc, 58, 61), ECC_MODES);
}

/// Bits 61:58 of MISC, as on Granite Rapids.
const ECC_MODES: &[(u64, &str)] = &[
    (1, "SDDC 128b, one level"),
    (2, "SDDC 125b, one level"),
    (3, "SDDC 125b, two levels"),
    (4, "ADDDC 80b, one level"),
    (5, "ADDDC 80b, two levels"),
    (9, "5x8 128b, one level"),
    (10, "5x8 125b, one level"),
    (11, "5x8 125b, two levels"),
];

/// MSCOD of bank 4 from 0x800 up.
const CBB_PUNIT_ERRORS: &[(u64, &str)] = &[
    (0x0816, "voltage and frequency scaling: counter expired"),
    (0x0823, "unsupported response"),
    (0x0825, "functional safety: memory self-test failed"),
    (0x0826, "system agent's PLL not locked"),
    (0x0827, "crystal frequency monitor"),
    (0x0828, "fuses not read over the power-management sideband"),
    (0x0829, "fuses not read over the general-purpose sideband"),
    (0x0830, "watchdog of the power management firmware"),
    (0x0831, "functional safety: band gap reference"),
    (0x0832, "integrated regulator: cores"),
    (0x0833, "integrated regulator: die-to-die link"),
    (0x0834, "integrated regulator: mid-level caches"),
    (0x0835, "integrated regulator: ring"),
    (0x0836, "functional safety: die-to-die PLL 0"),
    (0x0837, "functional safety: die-to-die PLL 1"),
    (0x0838, "functional safety: PLL of top die 0"),
    (0x0839, "functional safety: PLL of the base die"),
    (0x0840, "UCIe: reset while the bus was stopped on an error"),
    (0x0841, "resource adaption 0"),
    (0x0842, "resource adaption 1"),
    (0x0845, "functional safety: PLL of top die 1"),
    (0x0846, "functional safety: PLL of top die 2"),
    (0x0847, "functional safety: PLL of top die 3"),
    (0x0848, "patch load not acknowledged"),
    (0x0c01, "microcontroller: double error in instruction memory"),
    (0x0c02, "microcontroller: double exception"),
    (0x0c03, "microcontroller: telemetry memory"),
    (0x0c04, "microcontroller: double error in data memory"),
    (0x0c05, "microcontroller: topology-aware register memory (TPMI)"),
    (0x1401, "integrated regulator too hot: yellow"),
    (0x1402, "integrated regulator too hot: red"),
];

/// Bits 23:16 of bank 11's status.
const IMH_PUNIT_MICROCONTROLLER_ERRORS: &[(u64, &str)] = &[
    (0x02, "double-bit ECC error"),
    (0x03, "double-bit ECC error"),
    (0x08, "microcontroller error"),
    (0x09, "microcontroller error"),
    (0x0a, "patch failed to load"),
    (0x0b, "request valid error (POReqValid)"),
    (0x0c, "memory address error"),
    (0x0d, "memory access error"),
    (0x20, "error signalled by a power management agent"),
    (0x30, "microcontroller error"),
    (0xa0, "double-bit ECC error in the hierarchical power management memory"),
    (0xb0, "double-bit ECC error in the topology-aware register memory (TPMI)"),
];

/// Bits 31:24 of bank 11's status.
const IMH_PUNIT_ERRORS: &[(u64, &str)] = &[
    (0x09, "time-stamp counter was not downloaded in time"),
    (0x0a, "crystal frequency out of range"),
    (0x0b, "general-purpose sideband timed out"),
    (0x0c, "power-management sideband timed out"),
    (0x0d, "configuration not acknowledged in time"),
    (0x23, "SVID error"),
    (0x35, "SVID: invalid load line"),
    (0x36, "SVID: invalid maximum current"),
    (0x4a, "integrated regulator: fault"),
    (0x4c, "double-bit error in the hierarchical power management memory"),
    (0x58, "invalid memory frequency"),
    (0x63, "SVID: protocol error of the input regulator"),
    (0x6a, "post-package repair (sPPR) timed out"),
    (0x6f, "invalid socket identifier"),
    (0x70, "invalid remote legacy agent"),
    (0x71, "invalid remote trusted-execution agent"),
    (0x7b, "thermal sensor invalid"),
    (0x7c, "CXL device has no credit"),
    (0x7e, "die too hot, recoverable"),
    (0x83, "reset preparation not acknowledged in time, recoverable"),
];

/// MSCOD of bank 18.
const UPI_ERRORS: &[(u64, &str)] = &[
    (0x0000, "internal parity error"),
    (0x0001, "internal parity error"),
    (0x0002, "internal parity error"),
    (0x0005, "internal parity error"),
    (0x0008, "internal queue overflow"),
    (0x0009, "link layer: buffer overflow"),
    (0x000a, "internal queue underflow"),
    (0x000b, "link layer: buffer underflow"),
    (0x000c, "link layer or internal credit overflow"),
    (0x0011, "internal queue overflow"),
    (0x0012, "internal queue overflow"),
    (0x0013, "internal queue underflow"),
    (0x0014, "internal queue underflow"),
    (0x0021, "internal interface error"),
    (0x0023, "invalid message"),
    (0x0024, "protocol error"),
    (0x0025, "interleave error"),
    (0x0028, "internal interface error"),
    (0x0029, "link integrity or initialization error"),
    (0x002a, "power management transition timed out"),
    (0x002b, "power management transition timed out"),
    (0x002c, "power management transition timed out"),
    (0x002d, "power management transition timed out"),
    (0x0030, "poison received while poison was disabled"),
    (0x0031, "internal interface error"),
    (0x0200, "link integrity or initialization error"),
    (0x0203, "link degraded"),
    (0x0204, "power management transition timed out"),
    (0x0205, "power management transition timed out"),
    (0x0206, "power management transition timed out"),
    (0x0207, "power management transition timed out"),
];

/// MSCOD of banks 19 to 26.
const MEMORY_ERRORS: &[(u64, &str)] = &[
    (0x0001, "CMI: request address parity error"),
    (0x0002, "CMI: write data parity error"),
    (0x0004, "CMI: byte-enable parity error"),
    (0x0008, "transient or corrected patrol scrub error"),
    (0x0010, "uncorrected patrol scrub error"),
    (0x0020, "transient or corrected error while sparing"),
    (0x0040, "uncorrected error while sparing"),
    (0x0080, "transient or corrected read error"),
    (0x00a0, "uncorrected read error"),
    (0x00b0, "poison read while poison was disabled"),
    (0x00c0, "metadata error in two-level memory"),
    (0x0102, "write data buffer ECC error"),
    (0x0104, "write data buffer byte-enable parity error"),
    (0x0106, "write data buffer persistent ECC error"),
    (0x0108, "DDR link failure"),
    (0x0109, "illegal request received"),
    (0x0200, "DDR command/address parity or write CRC error"),
    (0x0240, "decoder structure error"),
    (0x0400, "internal address parity error"),
    (0x0813, "CMI: more credits used than granted"),
    (0x0814, "CMI: wrong total of credits"),
    (0x0815, "CMI: reserved credit pool"),
    (0x0832, "internal error"),
    (0x0834, "tracker parity error, read completion"),
    (0x0836, "tracker parity error, write completion"),
];
