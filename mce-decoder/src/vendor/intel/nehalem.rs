//! Nehalem and Westmere, the first with QuickPath links and a memory controller of their own.
//!
//! SDM vol. 3B, "Incremental Decoding Information: Processor Family with CPUID 06_1AH". The links
//! report to banks 0 and 1, the power control unit to 7, the memory controller to 8; the error code
//! tells them apart on every model of the family.

use super::{Bank, bits, coded, flagged, narrow};
use crate::mca::findings::{Fact, Findings};

/// EP and client processors.
pub(super) fn ep(bank: &Bank<'_>, findings: &mut Findings) {
    if bank.is_bus_error() {
        quickpath(bank, findings);
    } else if bank.is_memory_error() {
        memory_controller(bank, findings);
    } else {
        ex(bank, findings);
    }
}

/// EX processors: of their links and memory buffers nothing is described.
pub(super) fn ex(bank: &Bank<'_>, findings: &mut Findings) {
    const UNCLASSIFIED: u16 = 1;
    if bank.mcacod() == UNCLASSIFIED {
        findings.unit = Some("PCU");
        coded(bank.mscod_bits(24, 31), PCU_ERRORS, findings);
    }
}

fn quickpath(bank: &Bank<'_>, findings: &mut Findings) {
    findings.unit = Some("QPI");
    flagged(bank.mscod() & 0x7ff, QPI_ERRORS, findings);
    if let Some(misc) = bank.misc() {
        findings.add("qpi_opcode", Fact::Hex(bits(misc, 0, 7)));
        findings.add("qpi_request_transaction", Fact::Hex(bits(misc, 8, 13)));
        findings.add("qpi_node", Fact::Number(bits(misc, 16, 18)));
        findings.add("qpi_interleave_head", Fact::Flag(bits(misc, 24, 24) == 1));
    }
}

/// SDM vol. 3B, "Intel QPI Machine Check Error Codes for IA32_MC0_STATUS and IA32_MC1_STATUS".
const QPI_ERRORS: &[(u32, &str)] = &[
    (0, "header with bad parity"),
    (1, "data packet with bad parity"),
    (2, "too many retries"),
    (3, "data packet that its sender marked as poisoned"),
    (6, "message encoding not supported"),
    (7, "credit type not supported"),
    (8, "more flits than the receiver had room for"),
    (9, "sender gave a failed response"),
    (10, "clock jitter"),
];

fn memory_controller(bank: &Bank<'_>, findings: &mut Findings) {
    findings.unit = Some("IMC");
    flagged(bank.mscod() & 0x1ff, MEMORY_ERRORS, findings);
    if let Some(misc) = bank.misc() {
        findings.channel = Some(super::byte(misc, 18, 19));
        findings.dimm.module = Some(narrow(misc, 16, 17));
        findings.add("transaction_tracker", Fact::Hex(bits(misc, 0, 7)));
        findings.add("ecc_syndrome", Fact::Hex(bits(misc, 32, 63)));
    }
}

/// SDM vol. 3B, "Incremental Memory Controller Error Codes of Machine Check for IA32_MC8_STATUS".
const MEMORY_ERRORS: &[(u32, &str)] = &[
    (0, "read ECC error"),
    (1, "ECC error found while scrubbing"),
    (2, "write parity error"),
    (3, "error in one half of redundant memory"),
    (5, "access out of range"),
    (6, "invalid transaction tracker"),
    (7, "address parity error"),
    (8, "byte-enable parity error"),
];

/// SDM vol. 3B, "Machine Check Error Codes for IA32_MC7_STATUS", bits 31:24.
const PCU_ERRORS: &[(u64, &str)] = &[
    (0x03, "reset firmware did not complete"),
    (0x08, "invalid completion received (CMPD)"),
    (0x0a, "invalid power management request"),
    (0x0d, "invalid S-state transition"),
    (0x11, "voltage regulator is not the one configured at power-on"),
    (0x1a, "market segment at power-on is not this processor's"),
];
