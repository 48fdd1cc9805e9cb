//! Intel: a file for each family of generations.
//!
//! Sources, named at each table: SDM vol. 3B, "Interpreting Machine Check Error Codes"; SDM vol. 4
//! for what a bank belongs to; for what the manual leaves out, Intel's own engineers' work on Linux'
//! EDAC drivers and its user-space tools. Bits that none of them explain stay raw.

mod denverton;
mod diamond_rapids;
mod front_side_bus;
mod granite_rapids;
mod haswell;
mod ice_lake;
mod knights;
mod nehalem;
mod sandy_bridge;
mod sapphire_rapids;
mod skylake;

#[cfg(test)]
mod tests;

use ras_core::{ErrorClass, McaRegisters, PciAddress};

use crate::mca::SOFTWARE_BANKS;
use crate::mca::findings::{Fact, Findings, meaning};
use crate::mca::status::{CpuSignature, McgCap, MciStatus};

/// Adds what a generation's manual says about one of its banks.
type Decode = fn(&Bank<'_>, &mut Findings);

/// The generation, and its decoder: a family and a model of CPUID each name one.
///
/// Client generations have no model-specific codes that Intel describes.
const fn generation(cpu: CpuSignature) -> Option<(&'static str, Decode)> {
    let found: (&'static str, Decode) = match (cpu.family(), cpu.model()) {
        (6, 0x01) => ("Pentium Pro", front_side_bus::p6),
        (6, 0x03..=0x06) => ("Pentium II", front_side_bus::p6),
        (6, 0x07 | 0x08 | 0x0a | 0x0b) => ("Pentium III", front_side_bus::p6),
        (6, 0x09 | 0x0d) => ("Pentium M", front_side_bus::p6),
        (6, 0x0e) => ("Core Duo", front_side_bus::p6),
        (6, 0x00..=0x0e) => ("P6", front_side_bus::p6),
        (6, 0x0f | 0x16) => ("Core 2 (Merom)", front_side_bus::core2),
        (6, 0x17) => ("Core 2 (Penryn)", front_side_bus::core2),
        (6, 0x1d) => ("Dunnington", front_side_bus::dunnington),
        (15, 0x06) => ("Tulsa", front_side_bus::tulsa),
        (15, _) => ("Pentium 4", front_side_bus::pentium4),

        (6, 0x1a) => ("Nehalem EP", nehalem::ep),
        (6, 0x1e | 0x1f) => ("Nehalem", nehalem::ep),
        (6, 0x25) => ("Westmere", nehalem::ep),
        (6, 0x2c) => ("Westmere EP", nehalem::ep),
        (6, 0x2e) => ("Nehalem EX", nehalem::ex),
        (6, 0x2f) => ("Westmere EX", nehalem::ex),

        // The manual describes the server only; the client has the same PCU and controller codes.
        (6, 0x2a) => ("Sandy Bridge", sandy_bridge::client),
        (6, 0x2d) => ("Sandy Bridge EP", sandy_bridge::sandy_bridge_ep),
        (6, 0x3a) => ("Ivy Bridge", architectural),
        (6, 0x3e) => ("Ivy Bridge EP/EX", sandy_bridge::ivy_bridge_ep),

        (6, 0x3c | 0x45 | 0x46) => ("Haswell", architectural),
        (6, 0x3f) => ("Haswell EP/EX", haswell::haswell_ep),
        (6, 0x3d | 0x47) => ("Broadwell", architectural),
        (6, 0x4f) => ("Broadwell EP/EX", haswell::broadwell_ep),
        (6, 0x56) => ("Broadwell DE", haswell::broadwell_de),

        (6, 0x57) => ("Knights Landing", knights::decode),
        (6, 0x85) => ("Knights Mill", knights::decode),

        (6, 0x4e | 0x5e) => ("Skylake", architectural),
        (6, 0x55) => match cpu.stepping() {
            // Linux' `intel-family.h`.
            0..=4 => ("Skylake server", skylake::decode),
            5..=7 => ("Cascade Lake server", skylake::decode),
            _ => ("Cooper Lake server", skylake::decode),
        },
        (6, 0x8e | 0x9e) => ("Kaby Lake/Coffee Lake", architectural),
        (6, 0xa5 | 0xa6) => ("Comet Lake", architectural),
        (6, 0x66) => ("Cannon Lake", architectural),

        (6, 0x6a) => ("Ice Lake server", ice_lake::server),
        (6, 0x6c) => ("Ice Lake D", ice_lake::dense),
        (6, 0x86) => ("Snow Ridge", ice_lake::snow_ridge),
        (6, 0x7d | 0x7e | 0x9d) => ("Ice Lake", architectural),
        (6, 0xa7) => ("Rocket Lake", architectural),
        (6, 0x8c | 0x8d) => ("Tiger Lake", architectural),
        (6, 0x8a) => ("Lakefield", architectural),

        (6, 0x8f) => ("Sapphire Rapids", sapphire_rapids::decode),
        (6, 0xcf) => ("Emerald Rapids", sapphire_rapids::decode),
        (6, 0x97 | 0x9a) => ("Alder Lake", architectural),
        (6, 0xbe) => ("Alder Lake N", architectural),
        (6, 0xb7 | 0xba | 0xbf) => ("Raptor Lake", architectural),
        (6, 0xd7) => ("Bartlett Lake", architectural),
        (6, 0xaa | 0xac) => ("Meteor Lake", architectural),

        (6, 0xad) => ("Granite Rapids", granite_rapids::decode),
        (6, 0xae) => ("Granite Rapids D", granite_rapids::decode),
        (6, 0xaf) => ("Sierra Forest", granite_rapids::decode),
        (6, 0xdd) => ("Clearwater Forest", granite_rapids::decode),
        (6, 0xb6) => ("Grand Ridge", architectural),
        (6, 0xb5 | 0xc5 | 0xc6) => ("Arrow Lake", architectural),
        (6, 0xbd) => ("Lunar Lake", architectural),
        (6, 0xcc) => ("Panther Lake", architectural),
        (6, 0xd5) => ("Wildcat Lake", architectural),
        (19, 0x01) => ("Diamond Rapids", diamond_rapids::decode),

        (6, 0x5f) => ("Denverton", denverton::decode),
        (6, 0x1c | 0x26) => ("Atom (Bonnell)", architectural),
        (6, 0x27 | 0x35 | 0x36) => ("Atom (Saltwell)", architectural),
        (6, 0x37 | 0x4a | 0x4d) => ("Atom (Silvermont)", architectural),
        (6, 0x4c | 0x5a | 0x75) => ("Atom (Airmont)", architectural),
        (6, 0x5c) => ("Atom (Goldmont)", architectural),
        (6, 0x7a) => ("Atom (Goldmont Plus)", architectural),
        (6, 0x96 | 0x9c) => ("Atom (Tremont)", architectural),
        _ => return None,
    };
    Some(found)
}

/// For generations of which no model-specific codes are known.
fn architectural(_: &Bank<'_>, _: &mut Findings) {}

pub(super) fn decode(registers: &McaRegisters, findings: &mut Findings) {
    let bank = Bank { registers, status: MciStatus::from_bits(registers.status) };
    let cpu = CpuSignature::from_bits(registers.cpuid);
    if bank.number() >= SOFTWARE_BANKS || !bank.status.val() {
        findings.generation = generation(cpu).map(|(name, _)| name);
        software_bank(&bank, findings);
        return;
    }
    if let Some((name, decode)) = generation(cpu) {
        findings.generation = Some(name);
        decode(&bank, findings);
    }
    io_error(&bank, findings);
    if bank.mscod() != 0 {
        findings.add("mscod", Fact::Hex(bank.mscod()));
    }
    if bank.status.other_info() != 0 {
        findings.add("other_info", Fact::Hex(bank.status.other_info().into()));
    }
    counters(&bank, cpu, findings);
}

/// The events that Linux logs as banks of their own. The first has `IA32_THERM_STATUS` for a status
/// (SDM vol. 3B, "Thermal Monitor"); the other is from kernels of 2009.
fn software_bank(bank: &Bank<'_>, findings: &mut Findings) {
    const THERMAL: u8 = SOFTWARE_BANKS;
    const TIMEOUT: u8 = SOFTWARE_BANKS + 90;
    match bank.number() {
        THERMAL => {
            findings.unit = Some("thermal monitor");
            findings.class = Some(ErrorClass::Platform);
            findings.error = Some(match bank.registers.status & 1 {
                1 => "processor above its trip temperature, clock throttled",
                _ => "processor back below its trip temperature",
            });
            findings.add("therm_status", Fact::Hex(bank.registers.status));
        }
        TIMEOUT => {
            findings.class = Some(ErrorClass::Processor);
            findings.error = Some("other processors did not take the machine check in time");
        }
        _ => {}
    }
}

/// Whether bits 52:38 of the status are no count of corrected errors. SDM vol. 3B, "Corrected
/// Machine Check Error Interrupt": 06_1AH was the first that has it.
pub(crate) const fn predates_count(cpu: CpuSignature) -> bool {
    match cpu.family() {
        6 => cpu.model() < 0x1a || cpu.model() == 0x1d,
        family => family == 15,
    }
}

/// Whether S and AR have no meaning. SDM vol. 3B, "Recovery of Uncorrected Recoverable Errors":
/// 06_2EH was the first that has it.
pub(crate) const fn predates_recovery(cpu: CpuSignature) -> bool {
    match cpu.family() {
        6 => cpu.model() < 0x20,
        family => family == 15,
    }
}

/// What the architecture says beyond the error code, where the capability register says so or was
/// not captured.
fn counters(bank: &Bank<'_>, cpu: CpuSignature, findings: &mut Findings) {
    let cap = McgCap::from_bits(bank.registers.mcg_cap);
    let assumed = !cap.is_known() && !predates_count(cpu);
    // SDM vol. 3B, "IA32_MCi_STATUS MSRs": bit 37, where MCG_EMC_P.
    if cap.emc_p() && bank.status.other_info() & 1 << 5 != 0 {
        findings.add("firmware_updated", Fact::Flag(true));
    }
    if bank.status.uc() {
        return;
    }
    if bank.status.mcacod() & FILTERED != 0 && bank.mcacod() >= FIRST_COMPOUND_CODE {
        findings.add("filtered", Fact::Flag(true));
    }
    if (cap.cmci_p() || assumed) && bank.status.corrected_count() != 0 {
        findings.add("corrected_count", Fact::Number(bank.status.corrected_count().into()));
    }
    if (cap.tes_p() || assumed) && bank.status.threshold_status() != 0 {
        findings.code(
            "threshold_status",
            bank.status.threshold_status().into(),
            THRESHOLD_BASED_ERROR_STATUS,
        );
    }
}

/// F, "correction report filtering": further corrected errors of the same place are no longer
/// reported. SDM vol. 3B, "Compound Error Codes".
const FILTERED: u16 = 1 << 12;
const FIRST_COMPOUND_CODE: u16 = 0x000c;

/// SDM vol. 3B, "Threshold-Based Error Status".
const THRESHOLD_BASED_ERROR_STATUS: &[(u64, &str)] =
    &[(1, "green: below the threshold"), (2, "yellow: above the threshold")];

/// SDM vol. 3B, "I/O machine check errors": MISC names the function that reported to its root port.
fn io_error(bank: &Bank<'_>, findings: &mut Findings) {
    const IO: u16 = 0x0e0b;
    if bank.mcacod() != IO {
        return;
    }
    if let Some(misc) = bank.misc() {
        findings.pci = Some(PciAddress {
            segment: word(misc, 32, 39),
            bus: byte(misc, 24, 31),
            device: byte(misc, 19, 23),
            function: byte(misc, 16, 18),
        });
    }
}

/// One bank, as the decoders read it.
struct Bank<'a> {
    registers: &'a McaRegisters,
    status: MciStatus,
}

impl Bank<'_> {
    const fn number(&self) -> u8 {
        self.registers.bank
    }

    /// The architectural code, without F, the filtering bit.
    const fn mcacod(&self) -> u16 {
        self.status.mcacod() & !FILTERED
    }

    const fn mscod(&self) -> u64 {
        self.status.mscod() as u64
    }

    /// Bits `low` to `high` of the model-specific code, counted as bits of the status register.
    const fn mscod_bits(&self, low: u32, high: u32) -> u64 {
        bits(self.registers.status, low, high)
    }

    /// The miscellaneous register, where valid.
    const fn misc(&self) -> Option<u64> {
        if self.status.miscv() { Some(self.registers.misc) } else { None }
    }

    /// `000F 1PPT RRRR IILL`.
    const fn is_bus_error(&self) -> bool {
        self.mcacod() & 0xf800 == 0x0800
    }

    /// `000F 0000 1MMM CCCC`, or the same of memory that serves as a cache.
    const fn is_memory_error(&self) -> bool {
        self.mcacod() & 0xfd80 == 0x0080
    }

    /// The channel in a memory controller's code.
    const fn channel(&self) -> Option<u8> {
        match self.mcacod() & 15 {
            15 => None,
            _ if !self.is_memory_error() => None,
            channel => Some(channel.to_le_bytes()[0]),
        }
    }
}

/// Bits `low` to `high` of `value`.
const fn bits(value: u64, low: u32, high: u32) -> u64 {
    (value >> low) & (u64::MAX >> (63 - (high - low)))
}

/// Bits `low` to `high` of `value`, for fields no wider than 16 bits.
const fn narrow(value: u64, low: u32, high: u32) -> u16 {
    let [low, high, ..] = bits(value, low, high).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Bits `low` to `high` of `value`, for fields no wider than 8 bits.
const fn byte(value: u64, low: u32, high: u32) -> u8 {
    bits(value, low, high).to_le_bytes()[0]
}

/// Bits `low` to `high` of `value`, for fields no wider than 32 bits.
const fn word(value: u64, low: u32, high: u32) -> u32 {
    let [a, b, c, d, ..] = bits(value, low, high).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A code whose every bit is an error of its own: the lowest that has a name is the error; where
/// there are several, all are listed.
fn flagged(set: u64, table: &'static [(u32, &'static str)], findings: &mut Findings) {
    if set == 0 {
        return;
    }
    let named = table.iter().find(|(bit, _)| set >> bit & 1 == 1);
    findings.error = findings.error.or(named.map(|(_, name)| *name));
    if set & (set - 1) != 0 || named.is_none() {
        findings.add("errors", Fact::Flags(set, table));
    }
}

/// A code that is one number: its meaning is the error, unless a more telling field gave one.
fn coded(code: u64, table: &[(u64, &'static str)], findings: &mut Findings) {
    findings.error = findings.error.or(meaning(table, code));
}

/// A code of several fields, the most telling first: the first that is set is the error, any other,
/// and any that has no meaning, is a fact.
fn parts(parts: &[(&'static str, u64, Option<&'static str>)], findings: &mut Findings) {
    for &(name, code, meaning) in parts.iter().filter(|(_, code, _)| *code != 0) {
        if findings.error.is_some() || meaning.is_none() {
            findings.add(name, Fact::Code(code, meaning));
        }
        findings.error = findings.error.or(meaning);
    }
}

/// Where in a memory module, as the memory controllers of Ice Lake and Sapphire Rapids report it.
struct Dram {
    column: u32,
    row: u32,
    bank_group: u8,
    bank: u16,
    device: u16,
    sub_rank: u8,
    /// Rank within the channel: the highest bit is the module.
    chip_select: u16,
    ecc_mode: u64,
    /// A repeated read found nothing wrong.
    transient: bool,
}

impl Dram {
    fn add_to(&self, bank: &Bank<'_>, modes: &[(u64, &'static str)], findings: &mut Findings) {
        let dimm = &mut findings.dimm;
        dimm.module = Some(self.chip_select >> 2);
        dimm.rank = Some(self.chip_select);
        dimm.bank_group = Some(self.bank_group);
        dimm.bank = Some(self.bank);
        dimm.chip = Some(self.sub_rank);
        dimm.row = Some(self.row);
        dimm.column = Some(self.column);
        // Only a corrected error that comes again tells the device.
        dimm.device = (!self.transient && !bank.status.uc()).then_some(self.device);
        findings.code("ecc_mode", self.ecc_mode, modes);
        if self.transient {
            findings.add("transient", Fact::Flag(true));
        }
    }
}

/// Sandy Bridge to Skylake server: which device of which rank failed first and second. Firmware has
/// to switch this on (`MSR_ERROR_CONTROL[1]`); the registers say whether it is there.
///
/// SDM vol. 3B, "Intel IMC MC Error Codes for IA32_MCi_MISC". Bits 61:56 are reserved (Intel's
/// correction of an early edition). Of Knights Landing and Skylake server the manual says nothing;
/// rasdaemon and Google's Ecclesia read them by the same layout.
fn failing_devices(bank: &Bank<'_>, findings: &mut Findings) {
    let Some(misc) = bank.misc() else { return };
    if !bank.is_memory_error() || bank.status.uc() {
        return;
    }
    let (first, second) = (bits(misc, 62, 62) == 1, bits(misc, 63, 63) == 1);
    if first {
        findings.dimm.rank = Some(narrow(misc, 46, 50));
        findings.add("first_device", Fact::Number(bits(bank.registers.status, 32, 36)));
        findings.add("first_device_mask", Fact::Hex(bits(misc, 14, 29)));
    }
    if second {
        let rank = narrow(misc, 51, 55);
        match findings.dimm.rank {
            Some(_) => findings.add("second_rank", Fact::Number(rank.into())),
            None => findings.dimm.rank = Some(rank),
        }
        findings.add("second_device", Fact::Number(bits(misc, 9, 13)));
        findings.add("second_device_mask", Fact::Hex(bits(misc, 30, 45)));
    }
}

/// Memory mirroring saved the data: said by two bits of MISC, at other places on each generation.
fn mirrored(bank: &Bank<'_>, failed_over: u32, scrubbed: u32, findings: &mut Findings) {
    let Some(misc) = bank.misc() else { return };
    if bank.status.uc() {
        return;
    }
    if bits(misc, failed_over, failed_over) == 1 {
        findings.add("corrected_by", Fact::Text("mirroring, the failed channel is now left out"));
    } else if bits(misc, scrubbed, scrubbed) == 1 {
        findings.add("corrected_by", Fact::Text("mirroring, the primary channel was repaired"));
    }
}

/// The banks of a core. Google's Ecclesia names them for Skylake, Linux the first for Sandy Bridge
/// (`quirk_sandybridge_ifu`); that the others up to Emerald Rapids number them alike is seen from
/// their errors: fetches in bank 0, loads in 1, level-2 evictions in 3.
const fn core_unit(bank: u8) -> Option<&'static str> {
    Some(match bank {
        0 => "IFU",
        1 => "DCU",
        2 => "DTLB",
        3 => "MLC",
        _ => return None,
    })
}
