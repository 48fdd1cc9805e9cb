//! Ice Lake servers, Ice Lake D and Snow Ridge.
//!
//! SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_6AH and 06_6CH"
//! and "… 06_86H". Each memory controller has four banks: its mesh-to-memory bridge (M2M), then its
//! channels.

use super::skylake::{M2M_ERRORS, upi};
use super::{Bank, Dram, bits, byte, core_unit, flagged, mirrored, narrow, parts, word};
use crate::mca::findings::{Fact, Findings, meaning};

pub(super) fn server(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        5 | 7 | 8 => upi(bank, UPI_ERRORS, true, findings),
        12 | 16 | 20 | 24 => m2m(bank, findings),
        13..=15 | 17..=19 | 21..=23 | 25..=27 => imc(bank, findings),
        _ => dense(bank, findings),
    }
}

pub(super) fn dense(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        12 | 16 => m2m(bank, findings),
        13..=15 | 17..=19 => imc(bank, findings),
        4 => pcu(bank, findings),
        other => findings.unit = core_unit(other),
    }
}

/// Its cores are not the others': what their banks belong to is not described.
pub(super) fn snow_ridge(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.number() {
        4 => pcu(bank, findings),
        12 => m2m(bank, findings),
        13..=15 => imc(bank, findings),
        _ => {}
    }
}

fn pcu(bank: &Bank<'_>, findings: &mut Findings) {
    findings.unit = Some("PCU");
    let (code, clock, controller) =
        (bank.mscod_bits(24, 31), bank.mscod_bits(20, 23), bank.mscod_bits(16, 19));
    parts(
        &[
            ("pcu_error", code, pcu_error(code)),
            ("clock_or_bus_error", clock, meaning(PCU_CLOCK_ERRORS, clock)),
            ("microcontroller_error", controller, meaning(PCU_MICROCONTROLLER_ERRORS, controller)),
        ],
        findings,
    );
}

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC4_STATUS", bits 31:24.
pub(super) fn pcu_error(code: u64) -> Option<&'static str> {
    match code {
        0x65..=0x7a => Some("package S-state: preparing the reset timed out"),
        _ => meaning(PCU_ERRORS, code),
    }
}

const PCU_ERRORS: &[(u64, &str)] = &[
    (0x0d, "self-test of the last-level cache still active"),
    (0x0e, "DMI training timed out"),
    (0x0f, "DMI straps did not arrive in time"),
    (0x10, "DMI did not acknowledge the reset in time"),
    (0x11, "more than one trusted-execution agent"),
    (0x14, "PCH of an incompatible type"),
    (0x1e, "firmware's end-of-reset came out of sequence"),
    (0x1f, "firmware's package-state configuration is invalid"),
    (0x2d, "calibration of the maximum power detector failed"),
    (0x2e, "time-stamp counter did not synchronize in time"),
    (0x3a, "general-purpose sideband timed out"),
    (0x3b, "power-management sideband timed out"),
    (0x3e, "sideband fabric: power request not completed in time"),
    (0x40, "SVID: maximum current of the input regulator"),
    (0x42, "SVID: output voltage of the input regulator"),
    (0x43, "SVID: capability of the processor's regulator"),
    (0x44, "SVID: critical voltage regulator failed"),
    (0x45, "SVID: system agent's temperature compensation"),
    (0x46, "SVID: register read failed"),
    (0x47, "SVID: register write failed"),
    (0x4a, "SVID: package C-state request failed"),
    (0x4b, "SVID: current monitor request failed"),
    (0x4c, "SVID: alert request failed"),
    (0x4d, "SVID: second package's regulator did not ramp"),
    (0x56, "integrated regulator: hard error"),
    (0x58, "watchdog: package C-state, as secondary"),
    (0x59, "watchdog: package C-state, as primary"),
    (0x5a, "watchdog: package S-state, as primary"),
    (0x5b, "watchdog: message channel"),
    (0x5c, "watchdog: bulk register access"),
    (0x5d, "watchdog: sideband fabric"),
    (0x60, "package S-state: no safe point in time"),
    (0x61, "package S-state: core power-down or power-up timed out"),
    (0x62, "package S-state: invalid request from the PCH"),
    (0x63, "package S-state: invalid internal request"),
    (0x64, "package S-state: invalid internal response"),
    (0x7b, "package S-state: SMBus for hot-plug did not pause in time"),
    (0x7c, "package S-state: SMBus of the second package did not pause in time"),
    (0x7d, "package S-state: SMBus of the modules did not pause in time"),
    (0x80, "package C-state: dispatcher busy for too long"),
    (0x81, "package C-state: invalid response from the PCH"),
    (0x83, "watchdog: package C-state, CBo powering down"),
    (0x84, "watchdog: package C-state, CBo powering up"),
    (0x87, "watchdog: package C2, blocking of requesters"),
    (0x88, "watchdog: package C2, limit on package states"),
    (0x89, "watchdog: package C-state, setting the dispatcher"),
    (0x8b, "package C-state: error on allowing L1"),
    (0x90, "die too hot, recoverable"),
    (0xa0, "memory flush on power loss (ADR) was not signalled in time"),
    (0xa1, "base clock above its limit"),
    (0xb0, "dispatcher busy for too long"),
];

/// The same table, bits 23:20.
pub(super) const PCU_CLOCK_ERRORS: &[(u64, &str)] = &[
    (0x4, "clock or power block did not respond in time"),
    (0x5, "SMBus controller raised an SMI"),
    (0x9, "power management controller received an invalid transaction"),
];

/// The same table, bits 19:16.
pub(super) const PCU_MICROCONTROLLER_ERRORS: &[(u64, &str)] = &[
    (0x1, "instruction fetch outside of its memory"),
    (0x2, "double-bit error on instruction fetch"),
    (0x3, "invalid instruction"),
    (0x4, "stack underflow"),
    (0x5, "stack overflow"),
    (0x6, "data access outside of its memory"),
    (0x7, "double-bit error on data access"),
];

/// SDM vol. 3B, "Intel UPI MC Error Codes for IA32_MCi_STATUS (i = 5, 7, 8)", bits 21:16.
const UPI_ERRORS: &[(u64, &str)] = &[
    (0x00, "physical layer: initialization failed"),
    (0x01, "physical layer: drift buffer alarm"),
    (0x02, "physical layer: latency buffer rolled over"),
    (0x10, "CRC error: link-level retry gave up"),
    (0x11, "packet unsupported or undefined"),
    (0x12, "control error"),
    (0x13, "link layer: parameter exchange failed"),
    (0x1f, "link layer: control error"),
    (0x20, "physical layer: initialization aborted, corrected"),
    (0x21, "physical layer: in-band reset, corrected"),
    (0x22, "physical layer: lane failed, link goes on at width 8"),
    (0x23, "physical layer: L0c error, corrected without reset"),
    (0x24, "physical layer: L0c error, reset"),
    (0x25, "physical layer: error on leaving L0p, corrected by reset"),
    (0x30, "CRC error: link-level retry succeeded"),
    (0x31, "CRC error: link-level retry succeeded after physical re-initialization"),
    (0x32, "link-level retry request received"),
];

fn m2m(bank: &Bank<'_>, findings: &mut Findings) {
    findings.unit = Some("M2M");
    findings.imc = Some(u16::from((bank.number() - 12) / 4));
    flagged(bank.mscod_bits(16, 23), M2M_ERRORS, findings);
    mirrored(bank, 63, 62, findings);
    // SDM vol. 3B, "M2M MC Error Codes for IA32_MCi_STATUS (i = 12, 16, 20, 24)".
    if bank.mscod_bits(24, 25) != 0 {
        findings.add("ddr_type", Fact::Number(bank.mscod_bits(24, 25)));
    }
    if bank.mscod_bits(26, 31) != 0 {
        findings.add("miscellaneous_errors", Fact::Hex(bank.mscod_bits(26, 31)));
    }
}

fn imc(bank: &Bank<'_>, findings: &mut Findings) {
    findings.unit = Some("IMC");
    findings.imc = Some(u16::from((bank.number() - 13) / 4));
    findings.channel = Some((bank.number() - 13) & 3);
    let code = bank.mscod();
    findings.error = meaning(MEMORY_ERRORS, code).or(meaning(DDR4_MEMORY_ERRORS, code));
    if let Some(misc) = bank.misc()
        && !is_persistent_memory(code, misc)
    {
        // SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_MISC"; Linux' `i10nm_edac` reads the
        // same bits.
        Dram {
            column: word(misc, 9, 18) << 2,
            row: word(misc, 19, 39),
            bank_group: byte(misc, 40, 41) | byte(misc, 44, 44) << 2,
            bank: narrow(misc, 42, 43),
            device: narrow(misc, 46, 51),
            sub_rank: byte(misc, 52, 55),
            chip_select: narrow(misc, 56, 58),
            ecc_mode: bits(misc, 59, 62),
            transient: bits(misc, 63, 63) == 1,
        }
        .add_to(bank, ECC_MODES, findings);
    }
}

/// Errors of persistent memory have no DRAM coordinates. Linux' `i10nm_mscod_is_ddrt`.
pub(super) fn is_persistent_memory(mscod: u64, misc: u64) -> bool {
    const READ_FROM_PERSISTENT_MEMORY: u64 = 8;
    bits(misc, 59, 62) == READ_FROM_PERSISTENT_MEMORY
        || matches!(
            mscod,
            0x106
                | 0x107
                | 0x800
                | 0x804
                | 0x806..=0x808
                | 0x80a..=0x80e
                | 0x810
                | 0x811
                | 0x816
                | 0x81e
                | 0x81f
        )
}

/// The same table, bits 62:59.
const ECC_MODES: &[(u64, &str)] = &[
    (0, "SDDC, memory mode"),
    (1, "SDDC"),
    (4, "ADDDC, memory mode"),
    (5, "ADDDC"),
    (8, "read from persistent memory"),
];

/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_STATUS": those that Sapphire Rapids has too.
/// DDR-T and ERID are the interface to persistent memory, CMI the one to the mesh, TME encryption.
pub(super) const MEMORY_ERRORS: &[(u64, &str)] = &[
    (0x0001, "address parity error"),
    (0x0002, "data parity error"),
    (0x0003, "data ECC error"),
    (0x0004, "byte-enable parity error"),
    (0x0007, "transaction identifier parity error"),
    (0x0008, "corrected patrol scrub error"),
    (0x0010, "uncorrected patrol scrub error"),
    (0x0020, "corrected error while sparing"),
    (0x0040, "uncorrected error while sparing"),
    (0x0080, "corrected read error"),
    (0x00a0, "uncorrected read error"),
    (0x00c0, "uncorrected metadata error"),
    (0x0400, "read pending queue parity error"),
    (0x0800, "DDR-T: bad request"),
    (0x0801, "data response to an invalid entry"),
    (0x0802, "data response to an entry that expects none"),
    (0x0803, "DDR completion to an invalid entry"),
    (0x0804, "DDR-T: completion to an invalid entry"),
    (0x0805, "data and completion FIFO overflow"),
    (0x0806, "DDR-T: correctable ERID parity error"),
    (0x0807, "DDR-T: uncorrectable ERID error"),
    (0x0808, "DDR-T: interrupt while another was not acknowledged"),
    (0x0809, "ERID FIFO overflow"),
    (0x080a, "DDR-T: write credits"),
    (0x080b, "DDR-T: read credits"),
    (0x080c, "DDR-T: scheduler error"),
    (0x080d, "DDR-T: error event of the module's controller"),
    (0x080e, "DDR-T: thermal event of the module's controller"),
    (0x080f, "CMI: packet while idle"),
    (0x0810, "DDR-T: read request parity error"),
    (0x0811, "DDR-T: write request parity error"),
    (0x0812, "two-level memory: near-memory fill found no entry"),
    (0x0813, "CMI: more credits used than granted"),
    (0x0814, "CMI: wrong total of credits"),
    (0x0815, "CMI: reserved credit pool"),
    (0x0816, "DDR-T: read error"),
    (0x0817, "write data buffer FIFO error"),
    (0x0818, "CMI: request FIFO overflow"),
    (0x0819, "CMI: request FIFO underflow"),
    (0x081a, "CMI: response FIFO overflow"),
    (0x081b, "CMI: response FIFO underflow"),
    (0x081c, "CMI: credits of the controller"),
    (0x081d, "CMI: arbitration of the controller"),
    (0x081e, "DDR-T: write completion FIFO overflow"),
    (0x081f, "DDR-T: write completion FIFO underflow"),
    (0x0820, "CMI: read completion FIFO overflow"),
    (0x0821, "CMI: read completion FIFO underflow"),
    (0x0822, "TME: key parity error"),
    (0x0823, "TME: CMI error"),
    (0x0824, "TME: CMI overflow"),
    (0x0825, "TME: CMI underflow"),
    (0x0826, "TME: security violation (TEM)"),
    (0x0827, "TME: underfill parity error"),
    (0x0829, "internal error"),
    (0x082a, "TME: integrity check failed"),
    (0x082b, "TME: trust domain violation (TDX)"),
    (0x082c, "TME: security violation on underfill (TEM)"),
    (0x082d, "TME: poisoned key"),
    (0x082e, "TME: security engine error"),
    (0x1008, "corrected patrol scrub error, secondary mirror channel"),
    (0x1010, "uncorrected patrol scrub error, secondary mirror channel"),
    (0x1020, "corrected error while sparing, secondary mirror channel"),
    (0x1040, "uncorrected error while sparing, secondary mirror channel"),
    (0x1080, "corrected read error, secondary mirror channel"),
    (0x10a0, "uncorrected read error, secondary mirror channel"),
];

/// The same table: those of this generation only.
const DDR4_MEMORY_ERRORS: &[(u64, &str)] = &[
    (0x0100, "write data buffer parity error on read"),
    (0x0103, "read pending array parity error"),
    (0x0106, "DDR-T: byte-enable error"),
    (0x0107, "DDR-T: data error"),
    (0x0108, "DDR link failure"),
    (0x0111, "partial cache line sparing: address match error"),
    (0x0112, "partial cache line sparing: data error"),
    (0x0200, "DDR4 command/address parity error"),
    (0x0220, "HBM command/address parity error"),
    (0x0221, "HBM data parity error"),
];
