//! Families 0Fh to 16h: a fixed set of banks, one for each part of the processor.
//!
//! BKDGs (BIOS and Kernel Developer's Guides) of the families, "Machine Check Errors": tables of error
//! signatures, and the northbridge's `MC4_STATUS`. What a code means depends on the bank, the family,
//! the extended code and the kind of the architectural code.

use bitfield_struct::bitfield;
use ras_core::{ErrorClass, McaRegisters};

use crate::mca::error_code::{BusTarget, ErrorCode, Level, Request, Transaction};
use crate::mca::findings::{Fact, Findings};
use crate::mca::status::{AmdMisc, CpuSignature};

/// The bank of the northbridge: DRAM, links and the L3 cache.
pub(super) const NORTHBRIDGE: u8 = 4;

/// `MCi_STATUS`, the bits that scalable MCA has otherwise or not at all.
#[bitfield(u64)]
struct LegacyStatus {
    error_code: u16,
    #[bits(6)]
    error_code_ext: u8,
    #[bits(2)]
    __: u8,
    /// Northbridge: bits 15:8 of a DRAM error's syndrome.
    syndrome_high: u8,
    /// Northbridge: the core, where `core_valid` and from family 15h on.
    #[bits(4)]
    core: u8,
    /// Northbridge: the HyperTransport link.
    #[bits(4)]
    link: u8,
    /// Found by a scrubber.
    scrub: bool,
    /// Northbridge: half of the link, or, for DRAM errors, the DRAM controller (channel).
    sublink: bool,
    /// Northbridge: subcache of the L3 cache. Bit 43 is POISON in other banks.
    #[bits(2)]
    subcache: u8,
    deferred: bool,
    uecc: bool,
    cecc: bool,
    /// ECC syndrome, of a DRAM error bits 7:0.
    syndrome_low: u8,
    __: bool,
    core_valid: bool,
    #[bits(7)]
    __: u8,
}

/// What a family's and bank's error signature is made of.
#[derive(Clone, Copy)]
struct Signature {
    family: u16,
    extended: u8,
    code: ErrorCode,
}

pub(super) fn decode(registers: &McaRegisters, findings: &mut Findings) {
    let status = LegacyStatus::from_bits(registers.status);
    let family = CpuSignature::from_bits(registers.cpuid).family();
    let signature = Signature {
        family,
        extended: extended_code(registers),
        code: ErrorCode::from_amd(status.error_code()),
    };
    findings.unit = unit(family, registers.bank);
    findings.add("extended_error_code", Fact::Number(signature.extended.into()));
    findings.error = match registers.bank {
        _ if findings.unit.is_none() => None,
        0 => data_cache(signature),
        1 => instruction_cache(signature, registers),
        2 => bus_unit(signature),
        3 => load_store(signature),
        NORTHBRIDGE => {
            northbridge_details(signature, status, findings);
            northbridge(signature).map(|(error, class)| {
                findings.class = class;
                error
            })
        }
        5 => execution(signature),
        6 => FLOATING_POINT.get(usize::from(signature.extended)).copied(),
        _ if AmdMisc::from_bits(registers.misc).overflow() => Some("threshold reached"),
        _ => None,
    };
    if registers.bank == 0 && family <= 0x12 && (status.cecc() || status.uecc()) {
        findings.add("ecc_syndrome", Fact::Hex(status.syndrome_low().into()));
    }
    findings.add("status_flags", status_flags(registers, family));
}

/// Whether an error in the northbridge bank is one of DRAM. Family 11h has no ECC.
pub(super) fn is_dram_error(registers: &McaRegisters) -> bool {
    let family = CpuSignature::from_bits(registers.cpuid).family();
    family != 0x11 && matches!(extended_code(registers), 0 | 8)
}

/// The extended code's width: four bits at first; five in the northbridge of family 10h and later, and
/// everywhere from family 15h on; six in the last models of 15h.
fn extended_code(registers: &McaRegisters) -> u8 {
    let cpu = CpuSignature::from_bits(registers.cpuid);
    let mask = match (cpu.family(), cpu.model()) {
        (0x0f, _) => 0x0f,
        _ if registers.bank == NORTHBRIDGE => 0x1f,
        (0x10..=0x14, _) => 0x0f,
        (0x15, 0x60..) => 0x3f,
        _ => 0x1f,
    };
    LegacyStatus::from_bits(registers.status).error_code_ext() & mask
}

/// The part of the processor a bank belongs to. Banks that a family does not have stay unknown.
fn unit(family: u16, bank: u8) -> Option<&'static str> {
    Some(match (bank, family) {
        (0, 0x15) => "load-store unit",
        (0, _) => "data cache",
        (1, 0x15) => "instruction fetch unit",
        (1, _) => "instruction cache",
        (2, 0x15) => "combined unit (L2 cache)",
        (2, _) => "bus unit (L2 cache)",
        (3, 0x0f..=0x12) => "load-store unit",
        (NORTHBRIDGE, _) => "northbridge",
        (5, 0x10 | 0x12 | 0x14) => "fixed-issue reorder unit",
        (5, 0x15 | 0x16) => "execution unit",
        (6, 0x15 | 0x16) => "floating-point unit",
        // Old kernels logged the interrupt of a counter that overflowed in banks of their own: from
        // 129 on, nine for each bank. These are the northbridge's.
        (165, _) => "counter of DRAM errors",
        (166, _) => "counter of link errors",
        (167, _) => "counter of L3 cache errors",
        (168, _) => "counter of FB-DIMM errors",
        _ => return None,
    })
}

fn data_cache(signature: Signature) -> Option<&'static str> {
    let Signature { family, extended, code } = signature;
    if let ErrorCode::Tlb { transaction: Transaction::Data, .. } = code {
        return Some(match extended {
            0 => "parity error in the data TLB",
            2 => "locked miss in the data TLB",
            _ => "several hits in the data TLB",
        });
    }
    match family {
        0x15 => load_store_15h(extended, code),
        0x14 | 0x16 => data_cache_cat(code),
        _ => data_cache_k8(family, code),
    }
}

fn data_cache_k8(family: u16, code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::Bus { .. } if matches!(family, 0x0f | 0x11) => {
            Some("error in a line filled from the system")
        }
        ErrorCode::CacheHierarchy { request: Request::Error, level: Level::L1, .. }
            if family != 0x12 =>
        {
            Some("error found by the data scrubber")
        }
        ErrorCode::CacheHierarchy { level: Level::L1, .. } => Some("data or tag error"),
        ErrorCode::CacheHierarchy { level: Level::L2, .. } => {
            Some("error in a line filled from the L2 cache")
        }
        _ => None,
    }
}

/// Families 14h and 16h.
fn data_cache_cat(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::CacheHierarchy { request, transaction: Transaction::Data, level: Level::L1 } => {
            Some(match request {
                Request::DataRead => "data or tag parity error, by a load or prefetch",
                Request::DataWrite => "data or tag parity error, by a store",
                Request::Eviction => "parity error in a copyback after a tag miss",
                Request::Snoop => "tag parity error, by a snoop",
                _ => return None,
            })
        }
        ErrorCode::Bus {
            request,
            target: BusTarget::Memory | BusTarget::Io,
            level: Level::Generic,
            ..
        } => Some(match request {
            Request::Read => "system read data error, reloading a TLB",
            Request::DataRead => "system read data error, by a load",
            Request::DataWrite => "system read data error, by a store",
            _ => return None,
        }),
        _ => None,
    }
}

fn load_store_15h(extended: u8, code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::CacheHierarchy { .. } => Some(match extended {
            0x00 => "error in the data array",
            0x01 => "uncorrected error in a line filled from the L2 cache or northbridge",
            0x02 | 0x11 => "error in the store queue",
            0x03 => "error in the store coalescing buffer",
            0x10 => "tag error",
            0x12 => "error in the load queue",
            _ => return None,
        }),
        ErrorCode::Bus { .. } if extended == 0 => Some("system read data error"),
        // The extended code is the condition's type.
        ErrorCode::Bus { .. } => Some("internal error condition"),
        ErrorCode::InternalUnclassified(_) if extended <= 0x1f => Some("hardware assertion"),
        _ => None,
    }
}

fn instruction_cache(signature: Signature, registers: &McaRegisters) -> Option<&'static str> {
    let Signature { family, extended, code } = signature;
    match code {
        ErrorCode::Tlb { .. } if extended == 0 => Some("parity error in the instruction TLB"),
        ErrorCode::Tlb { .. } => Some("several hits in the instruction TLB"),
        ErrorCode::Bus { .. } if family == 0x0f && registers.status >> 58 & 1 == 1 => {
            Some("error in a line filled from the system")
        }
        ErrorCode::Bus { .. } => Some("error in data read from the northbridge"),
        ErrorCode::InternalUnclassified(_) => Some("hardware assertion"),
        ErrorCode::CacheHierarchy { .. } if family == 0x15 => {
            let found = INSTRUCTION_FETCH_15H.iter().find(|(known, _)| *known == extended);
            found.map(|(_, error)| *error)
        }
        ErrorCode::CacheHierarchy { request, transaction, .. } if matches!(family, 0x14 | 0x16) => {
            match (transaction, request, extended) {
                (Transaction::Instruction, Request::InstructionRead, _) => {
                    Some("data or tag parity error after a tag hit")
                }
                (Transaction::Instruction, Request::Snoop, _) => {
                    Some("tag error, by a snoop or victim")
                }
                (Transaction::Instruction, _, 0) => Some("tag parity error of a victim cast out"),
                (Transaction::Instruction, _, 2) => Some("parity error in the microcode patch RAM"),
                _ => None,
            }
        }
        ErrorCode::CacheHierarchy { level: Level::L2, .. } => {
            Some("error in a line filled from the L2 cache")
        }
        ErrorCode::CacheHierarchy { request, level: Level::L1, .. } => Some(match request {
            Request::InstructionRead => "parity error in data read",
            Request::Eviction => "parity error in a copyback or victim",
            Request::Snoop => "tag error, by a snoop",
            _ => return None,
        }),
        _ => None,
    }
}

/// Family 15h BKDG, "MC1 Error Signatures".
const INSTRUCTION_FETCH_15H: &[(u8, &str)] = &[
    (0x00, "uncorrected error in a demanded line filled from the L2 cache"),
    (0x01, "parity error in data read from the instruction cache"),
    (0x02, "parity error in the valid bit of the instruction cache"),
    (0x03, "parity error in the main tag"),
    (0x04, "parity error in the prediction queue"),
    (0x05, "parity error in the data or address of the prefetch buffer (PFB)"),
    (0x06, "parity error in the branch status register"),
    (0x07, "promotion address error of the prefetch buffer (PFB)"),
    (0x08, "tag error, by a probe or victim"),
    (0x09, "parity error in the valid bit of the probe tag"),
    (0x0a, "parity error in the non-cacheable bit of the prefetch buffer (PFB)"),
    (0x0d, "parity error in the valid bit of the prefetch buffer (PFB)"),
    (0x10, "error in the microcode patch buffer"),
    (0x11, "parity error in the decoder's micro-op queue"),
    (0x12, "parity error in the decoder's instruction buffer"),
    (0x13, "parity error in the decoder's predecode buffer"),
    (0x14, "parity error in the decoder's fetch address FIFO"),
    (0x15, "parity error in the decoder's dispatch queue"),
];

fn bus_unit(signature: Signature) -> Option<&'static str> {
    match signature.family {
        0x15 => combined_unit_15h(signature.extended, signature.code),
        0x16 => bus_unit_16h(signature.extended, signature.code),
        _ => bus_unit_k8(signature.extended, signature.code),
    }
}

fn bus_unit_k8(extended: u8, code: ErrorCode) -> Option<&'static str> {
    match (extended, code) {
        (0, ErrorCode::Tlb { .. }) => Some("error in the page descriptor cache or guest TLB"),
        (0, ErrorCode::Bus { .. }) => Some("ECC error in data read from the northbridge"),
        (0, ErrorCode::CacheHierarchy { request, .. }) => match request {
            Request::Error | Request::Read => {
                Some("parity or ECC error in data read from the L2 cache")
            }
            Request::Eviction | Request::Snoop | Request::Reserved(_) => {
                Some("error in data copied back")
            }
            _ => None,
        },
        (1, _) => Some("error in the write data buffers"),
        (2, ErrorCode::CacheHierarchy { .. }) => Some("error in the L2 cache tags"),
        (3, _) => Some("error in the victim data buffers"),
        _ => None,
    }
}

/// Family 15h BKDG, "MC2 Error Signatures".
fn combined_unit_15h(extended: u8, code: ErrorCode) -> Option<&'static str> {
    match (code, extended) {
        (ErrorCode::Tlb { .. }, 0) => Some("parity error in data read from the TLB"),
        (ErrorCode::Tlb { .. }, 1) => Some("poisoned data filled into the TLB"),
        (ErrorCode::Bus { .. }, 0..=2) => Some("error in data read from the northbridge"),
        (ErrorCode::InternalUnclassified(_), _) => Some("hardware assertion"),
        (ErrorCode::CacheHierarchy { .. }, extended) => Some(match extended {
            0x04 => "ECC error in data filled",
            0x05 => "parity error in instructions filled",
            0x06 => "parity error in the prefetcher's request FIFO",
            0x07 => "parity error in a probe queue (PRQ) address",
            0x08 => "parity error in probe queue (PRQ) data",
            0x09 => "ECC error in a write coalescing cache tag",
            0x0a => "ECC error in write coalescing cache data",
            0x0b => "parity error in write coalescing buffer data",
            0x0c => "ECC or parity error in victim buffer data",
            0x10 => "ECC error in an L2 tag",
            0x11 => "hard ECC error in an L2 tag",
            0x12 => "several hits in the L2 tags",
            0x13 => "parity error in the XAB",
            0x14 => "parity error in a probe buffer (PRB) address",
            _ => return None,
        }),
        _ => None,
    }
}

/// Family 16h BKDG, "MC2 Error Signatures".
fn bus_unit_16h(extended: u8, code: ErrorCode) -> Option<&'static str> {
    let ErrorCode::CacheHierarchy { request, .. } = code else { return None };
    Some(match (extended, request) {
        (0x04..=0x05, Request::Read) => "parity error in the input buffer",
        (0x04..=0x05, _) => "parity error in the output buffer",
        (0x09..=0x0b | 0x0d..=0x0f, Request::Error) => "ECC error in an L2 tag, by a bank request",
        (0x09..=0x0b | 0x0d..=0x0f, Request::Snoop) => "ECC error in an L2 tag, by a probe",
        (0x09..=0x0b | 0x0d..=0x0f, _) => "ECC error in an L2 tag, by a fill",
        (0x10 | 0x14 | 0x18, Request::Read) => "ECC error in L2 data, by a hit",
        (0x10..=0x19 | 0x1b, Request::Error) => "ECC error in L2 data, attributes",
        (0x10..=0x19 | 0x1b, Request::Eviction) => "ECC error in L2 data, by a victim",
        (0x10..=0x19 | 0x1b, _) => "ECC error in L2 data, by a fill",
        (0x1c..=0x1d | 0x1f, Request::Read) => "parity error in L2 attributes, by a hit",
        (0x1c..=0x1d | 0x1f, Request::Error) => "parity error in L2 attributes",
        (0x1c..=0x1d | 0x1f, _) => "parity error in L2 attributes, by a fill",
        _ => return None,
    })
}

fn load_store(signature: Signature) -> Option<&'static str> {
    match (signature.extended, signature.code) {
        (0, ErrorCode::Bus { request: Request::DataRead, .. }) => Some("bus error of a load"),
        (0, ErrorCode::Bus { request: Request::DataWrite, .. }) => Some("bus error of a store"),
        _ => None,
    }
}

/// BKDGs, "MC4 Error Signatures": `F3x44[ErrorCodeExt]`.
fn northbridge(signature: Signature) -> Option<(&'static str, Option<ErrorClass>)> {
    let Signature { family, extended, code } = signature;
    let [memory, bus, cache, internal] =
        [ErrorClass::Memory, ErrorClass::Bus, ErrorClass::Cache, ErrorClass::Internal].map(Some);
    Some(match extended {
        0x00 | 0x08 if family == 0x11 => return None,
        0x00 => ("DRAM ECC error", memory),
        0x01 => ("CRC error on a HyperTransport link", bus),
        0x02 => ("sync packets on a HyperTransport link", bus),
        0x03 => ("master abort on a HyperTransport link", bus),
        0x04 => ("target abort on a HyperTransport link", bus),
        0x05 => ("invalid entry in a GART table walk", None),
        0x06 => ("atomic read-modify-write from an I/O link", bus),
        0x07 => ("watchdog timeout: a transaction makes no progress", bus),
        0x08 => ("DRAM ECC error (chipkill)", memory),
        0x09 => ("DMA exclusion vector (DEV) violation", bus),
        0x0a => ("data error on a HyperTransport link", bus),
        0x0b => ("protocol error of a link, the L3 cache or the probe filter", bus),
        0x0c => ("parity error in an internal array", internal),
        0x0d => ("DRAM address or control parity error", memory),
        0x0e => ("transmission error on an I/O link", bus),
        0x0f => match code {
            ErrorCode::Tlb { .. } => ("data error in a GART table walk", None),
            ErrorCode::Bus { .. } => ("data error in a DMA exclusion vector table walk", bus),
            _ => return None,
        },
        0x19 if matches!(family, 0x15 | 0x16) => ("data error of a compute unit", internal),
        0x1c => ("ECC error in L3 cache data", cache),
        0x1d => ("L3 cache tag error", cache),
        0x1e => ("parity error in the L3 cache's LRU bits", cache),
        0x1f => ("directory ECC error in the probe filter", cache),
        _ => return None,
    })
}

/// Where in the northbridge's reach the error is, as far as its status says.
fn northbridge_details(signature: Signature, status: LegacyStatus, findings: &mut Findings) {
    let Signature { family, extended, .. } = signature;
    match extended {
        0x00 | 0x08 if family != 0x11 => {
            // K8 without chipkill has eight bits of syndrome; the other eight are reserved.
            let high = match (family, extended) {
                (0x0f, 0x00) => 0,
                _ => status.syndrome_high(),
            };
            let syndrome = u64::from(high) << 8 | u64::from(status.syndrome_low());
            findings.add("ecc_syndrome", Fact::Hex(syndrome));
            if family != 0x0f {
                findings.add("dram_controller", Fact::Number(status.sublink().into()));
            }
        }
        0x01..=0x04 | 0x06 | 0x0a | 0x0b | 0x0e => {
            findings.add("link", Fact::Number(status.link().into()));
            findings.add("sublink", Fact::Number(status.sublink().into()));
        }
        0x1c..=0x1e => findings.add("subcache", Fact::Number(status.subcache().into())),
        _ => {}
    }
    if family >= 0x15 && status.core_valid() {
        findings.add("error_core_id", Fact::Number(status.core().into()));
    }
}

/// BKDGs, "MC5 Error Signatures".
fn execution(signature: Signature) -> Option<&'static str> {
    match signature.code {
        ErrorCode::InternalUnclassified(_) => Some("hardware assertion"),
        _ => EXECUTION.get(usize::from(signature.extended)).copied(),
    }
}

/// By the extended code, as family 15h has them; Linux reads the other families' so too.
const EXECUTION: &[&str] = &[
    "watchdog timeout: no instruction retired",
    "parity error in the wakeup array",
    "parity error in the address generator payload",
    "parity error in the execution payload",
    "parity error in the immediate displacement register file",
    "parity error in the retire dispatch queue",
    "parity error in the mapper's checkpoint array",
    "parity error in the physical register file, port EX0",
    "parity error in the physical register file, port EX1",
    "parity error in the physical register file, port AG0",
    "parity error in the physical register file, port AG1",
    "parity error in the flag register file",
    "error in the decoder",
    "parity error in the retire status queue",
];

/// Family 15h BKDG, "MC6 Error Signatures", by the extended code.
const FLOATING_POINT: &[&str] = &[
    "hardware assertion",
    "parity error in the free list",
    "parity error in the physical register file",
    "parity error in the retire queue",
    "parity error in the scheduler table",
    "parity error in the status register file",
];

/// The status bits that only AMD has, as far as the family and bank define them.
fn status_flags(registers: &McaRegisters, family: u16) -> Fact {
    let scrub =
        registers.bank == NORTHBRIDGE || (matches!(registers.bank, 0 | 2) && family <= 0x12);
    let poison = family >= 0x15 && registers.bank != NORTHBRIDGE;
    let defined = u64::from(scrub) << 40
        | u64::from(poison) << 43
        | u64::from(family >= 0x15) << 44
        | 0b11 << 45;
    Fact::Flags(registers.status & defined, STATUS_FLAGS)
}

const STATUS_FLAGS: &[(u32, &str)] =
    &[(40, "scrub"), (43, "poison"), (44, "deferred"), (45, "uecc"), (46, "cecc")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::tests::amd;

    const K8: u32 = 0x4_0f12;
    const FAM_10H: u32 = 0x10_0f43;
    const FAM_11H: u32 = 0x20_0f31;
    const FAM_12H: u32 = 0x30_0f10;
    const FAM_14H: u32 = 0x50_0f20;
    const FAM_15H: u32 = 0x60_0f20;
    const FAM_15H_60: u32 = 0x66_0f01;
    const FAM_16H: u32 = 0x73_0f01;

    fn found(cpuid: u32, bank: u8, status: u64) -> Findings {
        let mut findings = Findings::default();
        decode(&McaRegisters { cpuid, bank, ..amd(status) }, &mut findings);
        findings
    }

    fn fact(findings: &Findings, name: &str) -> Option<Fact> {
        findings.facts().iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
    }

    #[test]
    fn signatures() {
        for (cpuid, bank, code, expected) in [
            // Data cache.
            (K8, 0, 0x0_0015, Some("parity error in the data TLB")),
            (K8, 0, 0x1_0015, Some("several hits in the data TLB")),
            (K8, 0, 0x0_0011, None),
            (K8, 0, 0x0_0833, Some("error in a line filled from the system")),
            (FAM_10H, 0, 0x0_0833, None),
            (FAM_10H, 0, 0x0_0105, Some("error found by the data scrubber")),
            (FAM_12H, 0, 0x0_0105, Some("data or tag error")),
            (FAM_12H, 0, 0x0_0136, Some("error in a line filled from the L2 cache")),
            (FAM_14H, 0, 0x0_0145, Some("data or tag parity error, by a store")),
            (FAM_16H, 0, 0x0_0831, None),
            (FAM_16H, 0, 0x0_0f3b, Some("system read data error, by a load")),
            (FAM_15H, 0, 0x2_0145, Some("error in the store queue")),
            (FAM_15H, 0, 0xf_0863, Some("internal error condition")),
            (FAM_15H, 0, 0x4_0600, Some("hardware assertion")),
            // Instruction cache.
            (K8, 1, 0x1_0011, Some("several hits in the instruction TLB")),
            (K8, 1, 0x0_0853, Some("error in a line filled from the system")),
            (FAM_10H, 1, 0x0_0853, Some("error in data read from the northbridge")),
            (FAM_10H, 1, 0x0_0151, Some("parity error in data read")),
            (FAM_14H, 1, 0x2_0101, Some("parity error in the microcode patch RAM")),
            (
                FAM_15H,
                1,
                0xd_0151,
                Some("parity error in the valid bit of the prefetch buffer (PFB)"),
            ),
            (FAM_15H, 1, 0xb_0151, None),
            // Bus unit, combined unit.
            (K8, 2, 0x2_0151, Some("error in the L2 cache tags")),
            (K8, 2, 0x0_017a, Some("error in data copied back")),
            (FAM_11H, 2, 0x4_080f, None),
            (FAM_15H_60, 2, 0x8_0145, Some("parity error in probe queue (PRQ) data")),
            (FAM_15H_60, 2, 0x28_0145, None),
            (FAM_15H, 2, 0x28_0145, Some("parity error in probe queue (PRQ) data")),
            (FAM_16H, 2, 0x10_0116, Some("ECC error in L2 data, by a hit")),
            (FAM_16H, 2, 0x11_0116, Some("ECC error in L2 data, by a fill")),
            // Load and store.
            (FAM_10H, 3, 0x0_0833, Some("bus error of a load")),
            (FAM_14H, 3, 0x0_0833, None),
            // Northbridge.
            (FAM_11H, 4, 0x8_0a13, None),
            (FAM_12H, 4, 0xf_0813, Some("data error in a DMA exclusion vector table walk")),
            (FAM_16H, 4, 0x19_0010, Some("data error of a compute unit")),
            (FAM_10H, 4, 0x19_0010, None),
            (FAM_10H, 4, 0x1e_0163, Some("parity error in the L3 cache's LRU bits")),
            (K8, 4, 0x1e_0163, Some("transmission error on an I/O link")),
            // Execution, floating point.
            (FAM_15H, 5, 0xd_0135, Some("parity error in the retire status queue")),
            (FAM_15H, 5, 0x1b_0135, None),
            (FAM_15H, 6, 0x5_0135, Some("parity error in the status register file")),
            (FAM_15H, 6, 0x6_0135, None),
            // Banks that these families do not have.
            (K8, 5, 0x0_0135, None),
            (FAM_10H, 6, 0x1_0135, None),
            (FAM_16H, 7, 0x0_0135, None),
        ] {
            let findings = found(cpuid, bank, 0x9c00_4000_0000_0000 | code);
            assert_eq!(findings.error, expected, "{cpuid:#x} bank {bank} {code:#x}");
        }
    }

    #[test]
    fn old_kernels_have_banks_for_counters() {
        let counter = |misc| {
            let mut findings = Findings::default();
            let bank = McaRegisters { cpuid: FAM_10H, bank: 165, misc, ..amd(1 << 63) };
            decode(&bank, &mut findings);
            (findings.unit, findings.error)
        };
        assert_eq!(counter(1 << 48), (Some("counter of DRAM errors"), Some("threshold reached")));
        assert_eq!(counter(0), (Some("counter of DRAM errors"), None));
    }

    #[test]
    fn a_chipkill_error() {
        let findings = found(FAM_10H, 4, 0x9c41_4200_a008_0813);
        assert_eq!(findings.unit, Some("northbridge"));
        assert_eq!(findings.class, Some(ErrorClass::Memory));
        assert_eq!(fact(&findings, "ecc_syndrome"), Some(Fact::Hex(0xa082)));
        assert_eq!(fact(&findings, "dram_controller"), Some(Fact::Number(1)));
        let k8 = found(K8, 4, 0x9c41_4000_a000_0813);
        assert_eq!(fact(&k8, "ecc_syndrome"), Some(Fact::Hex(0x82)), "eight bits without chipkill");
        assert_eq!(fact(&k8, "dram_controller"), None);
    }

    #[test]
    fn a_link_error_names_its_link() {
        let findings = found(FAM_10H, 4, 0x9c00_0220_0001_0a13);
        assert_eq!(fact(&findings, "link"), Some(Fact::Number(2)));
        assert_eq!(fact(&findings, "sublink"), Some(Fact::Number(1)));
        assert_eq!(findings.class, Some(ErrorClass::Bus));
    }

    #[test]
    fn a_data_cache_error_has_a_syndrome() {
        let findings = found(0x6_0fb1, 0, 0xb653_c000_0000_0135);
        assert_eq!(fact(&findings, "ecc_syndrome"), Some(Fact::Hex(0xa7)));
        assert_eq!(fact(&findings, "status_flags"), Some(Fact::Flags(1 << 46, STATUS_FLAGS)));
    }

    #[test]
    fn flags_are_read_where_they_are_defined() {
        let all = 0x9c00_7900_0000_0135;
        let flags = |cpuid, bank| match fact(&found(cpuid, bank, all), "status_flags") {
            Some(Fact::Flags(bits, _)) => bits >> 40,
            _ => 0,
        };
        assert_eq!(flags(FAM_10H, 1), 0x60);
        assert_eq!(flags(FAM_10H, 4), 0x61);
        assert_eq!(flags(FAM_15H, 4), 0x71, "bit 43 is a part of the subcache there");
        assert_eq!(flags(FAM_15H, 0), 0x78);
    }
}
