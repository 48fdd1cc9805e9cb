//! Sapphire Rapids and Emerald Rapids.
//!
//! SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_8FH". The user-space
//! tools contradict each other here: rasdaemon decodes these processors by Ice Lake's tables, mcelog
//! by tables of their own. Linux' `i10nm_edac` (by Intel, for this memory controller) has the same
//! bits as mcelog, except that the row ends at bit 36, below the bank group: it is followed here.

use super::ice_lake::{
    MEMORY_ERRORS, PCU_CLOCK_ERRORS, PCU_MICROCONTROLLER_ERRORS, is_persistent_memory, pcu_error,
};
use super::skylake::upi;
use super::{Bank, Dram, bits, byte, coded, core_unit, narrow, parts, word};
use crate::mca::findings::{Fact, Findings, meaning};

pub(super) fn decode(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => pcu(bank, findings),
        5 => upi(bank, UPI_ERRORS, true, findings),
        12 => m2m(bank, "M2M", findings),
        number @ 13..=20 => {
            findings.imc = Some(u16::from((number - 13) / 2));
            findings.channel = Some((number - 13) & 1);
            imc(bank, "IMC", ECC_MODES, findings);
        }
        29 => m2m(bank, "HBM M2M", findings),
        30 | 31 => imc(bank, "HBM IMC", HBM_ECC_MODES, findings),
        other => findings.unit = core_unit(other),
    }
}

fn pcu(bank: &Bank<'_>, findings: &mut Findings) {
    const SHUTDOWN: u16 = 0x040c;
    findings.unit = Some("PCU");
    let (code, clock, low) =
        (bank.mscod_bits(24, 31), bank.mscod_bits(20, 23), bank.mscod_bits(16, 19));
    let (low_name, low_table) = match bank.mcacod() {
        SHUTDOWN => ("shutdown_cause", SHUTDOWN_CAUSES),
        _ => ("microcontroller_error", PCU_MICROCONTROLLER_ERRORS),
    };
    let named = match code {
        0xc0 => Some("dispatcher busy for too long"),
        _ => pcu_error(code),
    };
    parts(
        &[
            ("pcu_error", code, named),
            ("clock_or_bus_error", clock, meaning(PCU_CLOCK_ERRORS, clock)),
            (low_name, low, meaning(low_table, low)),
        ],
        findings,
    );
}

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS", bits 19:16 where MCACOD is 0x40c:
/// why a logical processor shut down. Diamond Rapids numbers them the same.
pub(super) const SHUTDOWN_CAUSES: &[(u64, &str)] = &[
    (1, "machine check while CR4.MCE was clear"),
    (2, "machine check while another was being handled (MCIP)"),
    (3, "machine check while waiting for SIPI"),
    (4, "unrecoverable error in a security flow"),
    (5, "triple fault"),
    (6, "VMX abort: state inconsistent at VM exit"),
    (7, "RSM: state inconsistent"),
    (8, "SMM entry in a mode that does not allow it"),
    (9, "unrecoverable error while loading a microcode update"),
];

/// SDM vol. 3B, "Intel UPI MC Error Codes for IA32_MC5_STATUS", bits 21:16.
const UPI_ERRORS: &[(u64, &str)] = &[
    (0x00, "physical layer: initialization failed"),
    (0x01, "physical layer: drift buffer alarm"),
    (0x02, "physical layer: latency buffer rolled over"),
    (0x10, "CRC error: link-level retry gave up"),
    (0x11, "packet unsupported or undefined"),
    (0x12, "control error"),
    (0x13, "link layer: parameter exchange failed"),
    (0x15, "link layer: message authentication (SGX) failed"),
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

fn m2m(bank: &Bank<'_>, unit: &'static str, findings: &mut Findings) {
    findings.unit = Some(unit);
    coded(bank.mscod_bits(16, 23), M2M_ERRORS, findings);
    if bank.mscod_bits(24, 25) == 1 {
        findings.add("high_bandwidth_memory", Fact::Flag(true));
    }
}

/// SDM vol. 3B, "M2M MC Error Codes for IA32_MC12_STATUS", bits 23:16. Unlike before, numbers: Ice
/// Lake's bits would be other errors.
const M2M_ERRORS: &[(u64, &str)] = &[
    (0x01, "read ECC error"),
    (0x02, "bucket-1 error"),
    (0x03, "read tracker parity error"),
    (0x05, "prefetch answered on another channel"),
    (0x07, "read completion parity error"),
    (0x08, "response parity error"),
    (0x09, "timeout"),
    (0x0a, "CMI: reserved credit pool"),
    (0x0b, "CMI: wrong total of credits"),
    (0x0c, "CMI: more credits used than granted"),
];

fn imc(
    bank: &Bank<'_>,
    unit: &'static str,
    ecc_modes: &[(u64, &'static str)],
    findings: &mut Findings,
) {
    findings.unit = Some(unit);
    let code = bank.mscod();
    findings.error = meaning(MEMORY_ERRORS, code).or(meaning(DDR5_MEMORY_ERRORS, code));
    let Some(misc) = bank.misc() else { return };
    if is_persistent_memory(code, misc) {
        return;
    }
    let is_hbm = bank.number() >= 30;
    let dram = Dram {
        column: word(misc, 9, 18) << 2,
        row: word(misc, 19, 36),
        bank_group: byte(misc, 37, 38) | byte(misc, 41, 41) << 2,
        bank: narrow(misc, 39, 40),
        device: narrow(misc, 43, 48),
        sub_rank: byte(misc, 52, 55),
        chip_select: narrow(misc, 56, 58),
        ecc_mode: bits(misc, 59, 62),
        transient: bits(misc, 63, 63) == 1,
    };
    dram.add_to(bank, ecc_modes, findings);
    if is_hbm {
        // mcelog: there is no stack of dies here, and the module is part of the processor.
        findings.dimm.chip = None;
        findings.dimm.module = None;
        if findings.dimm.device.is_some() {
            findings.add("second_device", Fact::Number(bits(misc, 51, 55)));
        }
    }
}

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS (i = 13-20)": those of this
/// generation only.
const DDR5_MEMORY_ERRORS: &[(u64, &str)] = &[
    (0x0100, "write data buffer parity error on read"),
    (0x0108, "DDR link failure"),
    (0x0200, "DDR5 command/address parity error"),
];

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_MISC (i = 13-20)", bits 62:59.
const ECC_MODES: &[(u64, &str)] = &[
    (0, "SDDC, memory mode"),
    (1, "SDDC"),
    (2, "SDDC+1, memory mode"),
    (3, "SDDC+1"),
    (4, "ADDDC, memory mode"),
    (5, "ADDDC"),
    (6, "ADDDC+1, memory mode"),
    (7, "ADDDC+1"),
    (8, "read from persistent memory"),
];

/// The same of banks 30 and 31.
const HBM_ECC_MODES: &[(u64, &str)] = &[(1, "read of 64 bytes"), (9, "read of 32 bytes")];
