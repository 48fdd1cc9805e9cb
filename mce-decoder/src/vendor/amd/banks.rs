//! Types of scalable-MCA banks: what `MCA_IPID[HardwareID]` and `MCA_IPID[McaType]` name.
//!
//! The one table of them. A type means the same whichever bank number it sits at and whichever
//! instance it is; a pair that is not in the table stays unknown, whatever it may resemble.

use ras_core::ErrorClass;

use super::codes::{self, Codes};
use crate::mca::status::{CpuSignature, McaIpid};

/// A type of bank.
pub(super) struct BankType {
    /// AMD's abbreviation.
    pub(super) name: &'static str,
    /// The hardware block, in words.
    pub(super) unit: &'static str,
    /// The kind of hardware; `None` where the architectural code says it better.
    pub(super) class: Option<ErrorClass>,
    /// What a memory controller is connected to.
    pub(super) memory: Option<Memory>,
    /// Its extended error codes.
    pub(super) codes: &'static Codes,
}

/// Memory controllers number their channels differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memory {
    /// DDR4, DDR5, LPDDR: one channel for each controller.
    Ddr,
    /// HBM2 of MI200: eight channels for each controller, in two halves.
    Mi200,
    /// HBM3 of MI300.
    Mi300,
}

impl BankType {
    /// The meaning of an extended error code.
    pub(super) fn error(&self, code: u8) -> Option<&'static str> {
        let found = self.codes.binary_search_by_key(&code, |(code, _)| *code).ok()?;
        self.codes.get(found).map(|(_, meaning)| *meaning)
    }
}

/// The type of the bank that `ipid` identifies, on the processor `cpu`.
pub(super) fn bank_type(ipid: McaIpid, cpu: CpuSignature) -> Option<&'static BankType> {
    let key = (ipid.hardware_id(), ipid.mca_type());
    match (key, cpu.family(), cpu.model()) {
        // Revision guide of Genoa, erratum 1384; its relatives inherited the mistake.
        (CS_V2, 0x19, 0x10..=0x1f | 0x60..=0x7b | 0xa0..=0xaf) | (CS_V2, 0x1a, 0x40..=0x4f) => {
            Some(&CS_V2_ERRATUM_1384)
        }
        (UMC, 0x19, 0x90..=0x9f) => Some(&UMC_MI300),
        _ => {
            let found = KEYS.binary_search(&packed(key)).ok()?;
            BANKS.get(found).map(|(_, bank)| bank)
        }
    }
}

/// Pairs of hardware ID and MCA type whose meaning depends on the processor.
const CS_V2: (u16, u16) = (0x2e, 2);
const UMC: (u16, u16) = (0x96, 0);

const CS_V2_ERRATUM_1384: BankType =
    BankType { codes: codes::CS_V2_ERRATUM_1384, ..fabric("CS", "coherent station", codes::CS_V2) };

const UMC_MI300: BankType = umc("UMC", Memory::Mi300, codes::UMC_MI300);

/// By hardware ID and MCA type, sorted. PPR, "MCA Banks", and Linux' `smca_hwid_mcatypes`; types
/// without codes are named there and nowhere described.
const BANKS: &[((u16, u16), BankType)] = &[
    ((0x01, 0), platform("SMU", "system management unit", codes::SMU)),
    ((0x01, 1), platform("SMU", "system management unit", codes::SMU_V2)),
    ((0x01, 2), platform("MP5", "microprocessor 5", codes::MP5)),
    ((0x01, 3), platform("MPDMA", "DMA microprocessor", codes::MPDMA)),
    ((0x05, 0), platform("PB", "parameter block", codes::PB)),
    ((0x12, 0), platform("MPRAS", "RAS microprocessor", &[])),
    ((0x18, 0), fabric("NBIO", "northbridge I/O unit", codes::NBIO)),
    ((0x2e, 0), fabric("CS", "coherent station", codes::CS)),
    ((0x2e, 1), fabric("PIE", "power, interrupts and the like", codes::PIE)),
    (CS_V2, fabric("CS", "coherent station", codes::CS_V2)),
    ((0x2e, 4), cache("MA_LLC", "memory-attached last-level cache", codes::MA_LLC)),
    ((0x46, 0), pcie("PCIE", "PCI Express controller", codes::PCIE)),
    ((0x46, 1), pcie("PCIE", "PCI Express controller", codes::PCIE_V2)),
    ((0x50, 0), fabric("XGMI_PCS", "xGMI link coding", codes::XGMI_PCS)),
    ((0x5c, 0), fabric("SSBDCI", "die-to-die interconnect", &[])),
    ((0x6c, 0), fabric("NBIF", "northbridge interface", codes::NBIF)),
    ((0x80, 0), fabric("SHUB", "system hub", codes::NBIF)),
    (UMC, umc("UMC", Memory::Ddr, codes::UMC)),
    ((0x96, 1), umc("UMC_V2", Memory::Mi200, codes::UMC_V2)),
    ((0xa8, 0), platform("SATA", "SATA controller", codes::SATA)),
    ((0xaa, 0), platform("USB", "USB controller", codes::USB)),
    ((0xb0, 0), by_code("LS", "load-store unit", codes::LS)),
    ((0xb0, 1), by_code("IF", "instruction fetch unit", codes::IF)),
    ((0xb0, 2), by_code("L2", "L2 cache", codes::L2)),
    ((0xb0, 3), core("DE", "decode unit", codes::DE)),
    ((0xb0, 5), core("EX", "execution unit", codes::EX)),
    ((0xb0, 6), core("FP", "floating-point unit", codes::FP)),
    ((0xb0, 7), by_code("L3", "L3 cache", codes::L3)),
    ((0xb0, 0x10), by_code("LS", "load-store unit", codes::LS_V2)),
    ((0xbe, 0), platform("MPDACC", "data acceleration microprocessor", &[])),
    ((0xf9, 0), platform("MPM", "manageability microprocessor", &[])),
    ((0xfd, 0), platform("MPASP", "AMD secure processor", &[])),
    ((0xfd, 1), platform("MPASP", "AMD secure processor", &[])),
    ((0xff, 0), platform("PSP", "platform security processor", codes::PSP)),
    ((0xff, 1), platform("PSP", "platform security processor", codes::PSP_V2)),
    ((0xff, 2), platform("MPART", "root of trust microprocessor", &[])),
    ((0x157, 0), platform("DACC_FE", "data acceleration front end", &[])),
    ((0x164, 0), platform("DACC_BE", "data acceleration back end", &[])),
    ((0x170, 0), fabric("USR_DP", "ultra-short-reach link, data plane", codes::USR_DP)),
    ((0x180, 0), fabric("USR_CP", "ultra-short-reach link, control plane", codes::USR_CP)),
    ((0x1e0, 0), platform("EDDR5CMN", "eDDR5 common block", &[])),
    ((0x1e1, 0), pcie("PCIE_PL", "PCI Express link", &[])),
    ((0x241, 0), fabric("GMI_PCS", "GMI link coding", codes::GMI_PCS)),
    ((0x259, 0), fabric("XGMI_PHY", "xGMI PHY", codes::PHY)),
    ((0x267, 0), fabric("WAFL_PHY", "WAFL PHY", codes::PHY)),
    ((0x269, 0), fabric("GMI_PHY", "GMI PHY", codes::PHY)),
];

/// The keys alone, packed: the search stays within a few cache lines.
const KEYS: [u32; BANKS.len()] = {
    let mut keys = [0; BANKS.len()];
    let mut index = 0;
    while index < keys.len() {
        keys[index] = packed(BANKS[index].0);
        index += 1;
    }
    keys
};

const fn packed((hardware_id, mca_type): (u16, u16)) -> u32 {
    (hardware_id as u32) << 16 | mca_type as u32
}

/// A part of a core, or a cache, that reports cache, TLB and bus errors by their codes.
const fn by_code(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { name, unit, class: None, memory: None, codes }
}

/// A part of a core whose cache codes say nothing: there is no cache in it.
const fn core(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { class: Some(ErrorClass::Internal), ..by_code(name, unit, codes) }
}

const fn cache(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { class: Some(ErrorClass::Cache), ..by_code(name, unit, codes) }
}

/// The data fabric and the links that carry it.
const fn fabric(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { class: Some(ErrorClass::Bus), ..by_code(name, unit, codes) }
}

const fn pcie(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { class: Some(ErrorClass::Pcie), ..by_code(name, unit, codes) }
}

/// Management processors and controllers beside the cores.
const fn platform(name: &'static str, unit: &'static str, codes: &'static Codes) -> BankType {
    BankType { class: Some(ErrorClass::Platform), ..by_code(name, unit, codes) }
}

const fn umc(name: &'static str, memory: Memory, codes: &'static Codes) -> BankType {
    BankType {
        class: Some(ErrorClass::Memory),
        memory: Some(memory),
        ..by_code(name, "memory controller", codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILAN: CpuSignature = CpuSignature::from_bits(0xa0_0f11);
    const GENOA: CpuSignature = CpuSignature::from_bits(0xa1_0f11);
    const MI300A: CpuSignature = CpuSignature::from_bits(0xa9_0f01);

    fn ipid(hardware_id: u16, mca_type: u16) -> McaIpid {
        McaIpid::new()
            .with_hardware_id(hardware_id)
            .with_mca_type(mca_type)
            .with_instance_id(0x1234_5678)
            .with_instance_id_hi(9)
    }

    #[test]
    fn tables_are_sorted_and_fit_the_field() {
        assert!(BANKS.is_sorted_by(|(a, _), (b, _)| a < b));
        let own = [&CS_V2_ERRATUM_1384, &UMC_MI300];
        for bank in BANKS.iter().map(|(_, bank)| bank).chain(own) {
            assert!(bank.codes.is_sorted_by(|(a, _), (b, _)| a < b), "{}", bank.name);
            assert!(bank.codes.iter().all(|(code, _)| *code < 64), "{}", bank.name);
            assert!(bank.codes.iter().all(|(_, text)| !text.is_empty()), "{}", bank.name);
        }
    }

    #[test]
    fn every_type_is_found_at_every_instance() {
        for ((hardware_id, mca_type), expected) in BANKS {
            let found = bank_type(ipid(*hardware_id, *mca_type), MILAN).unwrap();
            assert_eq!((found.name, found.unit), (expected.name, expected.unit));
        }
        assert!(BANKS.len() >= 46);
    }

    #[test]
    fn what_is_not_in_the_table_is_unknown() {
        // Turin has banks of hardware ID 0xA7, which no list names.
        for (hardware_id, mca_type) in [(0, 0), (0xa7, 0), (0xb0, 4), (0x96, 2), (0xfff, 0xffff)] {
            assert!(bank_type(ipid(hardware_id, mca_type), MILAN).is_none());
        }
    }

    #[test]
    fn some_meanings_depend_on_the_processor() {
        let error = |pair: (u16, u16), cpu, code| {
            bank_type(ipid(pair.0, pair.1), cpu).and_then(|bank| bank.error(code))
        };
        assert_eq!(error(CS_V2, MILAN, 12), Some("counter overflow"));
        assert_eq!(error(CS_V2, GENOA, 12), Some("protocol error in the probe filter"));
        assert_eq!(error(CS_V2, GENOA, 18), None);
        assert_eq!(error(UMC, MILAN, 0), Some("DRAM ECC error"));
        assert_eq!(error(UMC, MI300A, 0), Some("on-die ECC error of the DRAM"));
        assert_eq!(error(UMC, MILAN, 12), None);
        let memory = |pair: (u16, u16), cpu| bank_type(ipid(pair.0, pair.1), cpu).unwrap().memory;
        assert_eq!(memory(UMC, MI300A), Some(Memory::Mi300));
        assert_eq!(memory((0x96, 1), MILAN), Some(Memory::Mi200));
    }
}
