//! Processors with a front-side bus: P6, Core 2, Xeon 7400 (Dunnington), Pentium 4, Xeon 7100
//! (Tulsa). They count nothing: bits 56:38 of the status register tell of the bus or of ECC.

use super::{Bank, bits, coded, flagged};
use crate::mca::findings::{Fact, Findings};

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family 06H".
pub(super) fn p6(bank: &Bank<'_>, findings: &mut Findings) {
    if bank.is_bus_error() {
        bus_queue(bank, P6_BUS_ERRORS, findings);
    }
}

/// SDM vol. 3B, "Incremental Decoding Information: Intel Core 2 Processor Family".
pub(super) fn core2(bank: &Bank<'_>, findings: &mut Findings) {
    if bank.is_bus_error() {
        bus_queue(bank, CORE2_BUS_ERRORS, findings);
    }
}

fn bus_queue(bank: &Bank<'_>, table: &'static [(u32, &'static str)], findings: &mut Findings) {
    let status = bank.registers.status;
    findings.unit = Some("front-side bus");
    // Bits 28 to 46; 39 to 41 are reserved.
    let set = status & (0x7_ffff << 28) & !(7 << 39);
    let named = table.iter().find(|(bit, _)| set >> bit & 1 == 1);
    findings.error = findings.error.or(named.map(|(_, name)| *name));
    findings.add("bus_errors", Fact::Flags(set, table));
    let error = bits(status, 25, 27);
    coded(error, BUS_QUEUE_ERROR_TYPE, findings);
    findings.code("bus_request", bits(status, 19, 24), BUS_QUEUE_REQUEST_TYPE);
    findings.code("bus_error", error, BUS_QUEUE_ERROR_TYPE);
    if bits(status, 45, 46) != 0 {
        findings.add("ecc_syndrome", Fact::Hex(bits(status, 47, 54)));
    }
}

/// SDM vol. 3B, "Incremental Error Codes for Processor Family 06H Machine Check", bits 24:19. BQ is
/// the bus queue, DCU the data cache unit, IFU the instruction fetch unit.
const BUS_QUEUE_REQUEST_TYPE: &[(u64, &str)] = &[
    (0, "DCU read"),
    (2, "IFU demand fetch"),
    (3, "IFU demand fetch, not cacheable"),
    (4, "DCU read for ownership"),
    (5, "DCU read for ownership, locked"),
    (6, "DCU invalid to modified"),
    (8, "DCU write-back"),
    (10, "DCU write-combining eviction"),
    (11, "DCU write-combining line"),
    (12, "DCU branch trace message"),
    (13, "DCU interrupt acknowledge"),
    (14, "DCU invalidate all of L2"),
    (15, "DCU flush L2"),
    (16, "DCU partial read"),
    (18, "DCU partial write"),
    (20, "DCU special cycle"),
    (24, "DCU I/O read"),
    (25, "DCU I/O write"),
    (28, "DCU locked read"),
    (29, "DCU locked write"),
    (30, "DCU split locked read"),
];

/// The same table, bits 27:25.
const BUS_QUEUE_ERROR_TYPE: &[(u64, &str)] = &[
    (0, "hard failure response"),
    (1, "double-bit error"),
    (2, "second address parity error (AERR2)"),
    (4, "single-bit error"),
    (5, "address parity error (AERR1)"),
];

/// The same table, bits 28 to 46.
const P6_BUS_ERRORS: &[(u32, &str)] = &[
    (28, "functional redundancy check failed (FRC)"),
    (29, "bus error driven by this processor (BERR)"),
    (30, "BINIT driven by this processor"),
    (35, "BINIT received from the bus"),
    (36, "parity error on a response"),
    (37, "hard failure response to a split transaction"),
    (38, "reorder buffer timed out: no instruction retired (BINIT)"),
    (42, "hard failure response"),
    (43, "failure that asserted IERR"),
    (44, "two transactions failed on address parity (AERR)"),
    (45, "uncorrectable ECC error"),
    (46, "correctable ECC error"),
];

/// SDM vol. 3B, "Incremental Bus Error Codes of Machine Check for Processors Based on Intel Core
/// Microarchitecture", bits 28 to 38, and what P6 has above them.
const CORE2_BUS_ERRORS: &[(u32, &str)] = &[
    (28, "machine check driven by this processor"),
    (29, "machine check observed"),
    (30, "BINIT driven by this processor"),
    (31, "BINIT observed"),
    (34, "data parity error on the APIC or front-side bus"),
    (36, "parity error on a response"),
    (37, "address parity error"),
    (38, "reorder buffer timed out: no instruction retired (BINIT)"),
    (42, "hard failure response"),
    (43, "failure that asserted IERR"),
    (44, "two transactions failed on address parity (AERR)"),
    (45, "uncorrectable ECC error"),
    (46, "correctable ECC error"),
];

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family 0FH".
pub(super) fn pentium4(bank: &Bank<'_>, findings: &mut Findings) {
    if bank.is_bus_error() {
        findings.unit = Some("front-side bus");
        flagged(bank.mscod(), PENTIUM4_BUS_ERRORS, findings);
    }
}

/// SDM vol. 3B, "Incremental Decoding Information: Processor Family 0FH Machine Error Codes for
/// Machine Check", bits 16 to 23.
const PENTIUM4_BUS_ERRORS: &[(u32, &str)] = &[
    (0, "address parity error"),
    (1, "hard failure response"),
    (2, "parity error on a response"),
    (3, "data parity error on the APIC or front-side bus"),
    (4, "invalid request on the APIC bus"),
    (5, "pad state machine out of step"),
    (6, "pad strobe glitch"),
    (7, "pad address glitch"),
];

/// What both Xeon MPs say of bus errors in their cache bus controller.
const CONTROLLER_BUS_ERROR: u16 = 0x0e0f;
/// And of errors inside of it.
const CONTROLLER_INTERNAL_ERROR: u16 = 0x0400;

/// SDM vol. 3B, "Machine-Check Error Codes for the Intel Xeon Processor MP 7100 Series".
pub(super) fn tulsa(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.mcacod() {
        CONTROLLER_BUS_ERROR => {
            findings.unit = Some("front-side bus");
            flagged(bank.mscod(), TULSA_BUS_ERRORS, findings);
        }
        CONTROLLER_INTERNAL_ERROR => {
            findings.unit = Some("cache bus controller");
            coded(bank.mscod(), TULSA_CACHE_BUS_CONTROLLER_ERRORS, findings);
            ecc_events(bank, TULSA_OUTGOING, findings);
        }
        _ => pentium4(bank, findings),
    }
    other_information(bank, findings);
}

/// SDM vol. 3B, "Other Information Field Bit Definition". The events are counted since the last cold
/// reset, up to 255: how many this report stands for nobody says.
fn other_information(bank: &Bank<'_>, findings: &mut Findings) {
    let status = bank.registers.status;
    if bits(status, 32, 39) != 0 {
        findings.add("correctable_events", Fact::Number(bits(status, 32, 39)));
    }
    if bits(status, 52, 52) == 1 {
        findings.add("ecc_syndrome", Fact::Hex(bits(status, 44, 51)));
    }
    if bank.status.miscv() {
        findings.add("misc_format", Fact::Number(bits(status, 40, 41)));
    }
}

/// SDM vol. 3B, "Type B Bus and Interconnect Error Codes" of the 7100.
const TULSA_BUS_ERRORS: &[(u32, &str)] = &[
    (0, "parity error in the request phase"),
    (1, "address parity error in a request of core 0"),
    (2, "address parity error in a request of core 1"),
    (4, "parity error on a response"),
    (5, "parity error in data from the bus"),
    (6, "parity error in data from core 0"),
    (7, "parity error in data from core 1"),
    (8, "parity error in an enhanced deferred reply"),
    (9, "ECC error in data from the bus"),
    (10, "pad: data strobe glitch or wrong sequence"),
    (11, "pad: request strobe glitch or wrong sequence"),
];

/// SDM vol. 3B, "Type C Cache Bus Controller Error Codes" of the 7100.
const TULSA_CACHE_BUS_CONTROLLER_ERRORS: &[(u64, &str)] = &[
    (0x0001, "inclusion error from core 0"),
    (0x0002, "inclusion error from core 1"),
    (0x0003, "exclusive-write error from core 0"),
    (0x0004, "exclusive-write error from core 1"),
    (0x0005, "inclusion error from the bus"),
    (0x0006, "snoop from the bus stalled"),
    (0x0007, "write from the bus stalled"),
    (0x0008, "bus arbiter timed out"),
    (0x0009, "out-of-order data queue over- or underflow"),
    (0x0100, "speed step or thermal monitor transition failed"),
    (0x0200, "internal timeout"),
    (0x0300, "internal timeout"),
    (0x0400, "cache safe queue full, or too many ways of a set disabled"),
];

/// Correctable (0xc000) and uncorrectable (0xe000) ECC events on data that left the controller.
fn ecc_events(bank: &Bank<'_>, table: &'static [(u32, &'static str)], findings: &mut Findings) {
    let kind = match bank.mscod() & 0xfff0 {
        0xc000 => "correctable",
        0xe000 => "uncorrectable",
        _ => return,
    };
    flagged(bank.mscod() & 15, table, findings);
    findings.add("ecc_event", Fact::Text(kind));
}

const TULSA_OUTGOING: &[(u32, &str)] = &[
    (0, "ECC event in data to the bus"),
    (1, "ECC event in data to core 0"),
    (2, "ECC event in data to core 1"),
];

/// SDM vol. 3B, "Intel Xeon Processor 7400 Model Specific Error Code Field".
pub(super) fn dunnington(bank: &Bank<'_>, findings: &mut Findings) {
    match bank.mcacod() {
        // "Additional" codes, the manual says: Core 2's are there as well.
        CONTROLLER_BUS_ERROR => {
            flagged(bank.mscod() & 0x71, DUNNINGTON_BUS_ERRORS, findings);
            core2(bank, findings);
        }
        CONTROLLER_INTERNAL_ERROR => {
            findings.unit = Some("cache bus controller");
            coded(bank.mscod(), DUNNINGTON_CACHE_BUS_CONTROLLER_ERRORS, findings);
            ecc_events(bank, DUNNINGTON_OUTGOING, findings);
            other_information(bank, findings);
        }
        _ => core2(bank, findings),
    }
}

/// SDM vol. 3B, "Type B Bus and Interconnect Error Codes" of the 7400.
const DUNNINGTON_BUS_ERRORS: &[(u32, &str)] = &[
    (0, "parity error in the request phase"),
    (4, "hard failure response to a local transaction"),
    (5, "parity error on a response"),
    (6, "parity error in data from the bus"),
];

/// SDM vol. 3B, "Type C Cache Bus Controller Error Codes" of the 7400.
const DUNNINGTON_CACHE_BUS_CONTROLLER_ERRORS: &[(u64, &str)] = &[
    (0x0001, "inclusion error from core 0"),
    (0x0002, "inclusion error from core 1"),
    (0x0003, "exclusive-write error from core 0"),
    (0x0004, "exclusive-write error from core 1"),
    (0x0005, "inclusion error from the bus"),
    (0x0006, "snoop from the bus stalled"),
    (0x0007, "write from the bus stalled"),
    (0x0008, "bus arbiter timed out"),
    (0x000a, "inclusion error from core 2"),
    (0x000b, "exclusive-write error from core 2"),
    (0x0200, "internal timeout"),
    (0x0300, "internal timeout"),
    (0x0400, "cache safe queue full, or too many ways of a set disabled"),
    (0x0500, "quiet cycle timed out, corrected"),
];

const DUNNINGTON_OUTGOING: &[(u32, &str)] = &[
    (1, "ECC event in data to core 0"),
    (2, "ECC event in data to core 1"),
    (3, "ECC event in data to core 2"),
];
