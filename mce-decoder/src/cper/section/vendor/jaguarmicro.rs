//! JaguarMicro Corsica's sections. rasdaemon, `non-standard-jaguarmicro.h`: five types, which differ
//! in the registers between a common head and a common tail.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Value};

use super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{Field, code, found, hex, little, meaning, number, number_at, size, skip};

/// Section type of the power-on reset block's registers.
pub(super) const POR: Guid =
    Guid::new(0x82d7_8ba3, 0xfa14, 0x407a, [0xba, 0x0e, 0xf3, 0xba, 0x81, 0x70, 0x01, 0x3c]);
/// Section type of the SMMU's registers.
pub(super) const SMMU: Guid =
    Guid::new(0xf972_3053, 0x2558, 0x49b1, [0xb5, 0x8a, 0x1c, 0x1a, 0x82, 0x49, 0x2a, 0x62]);
/// Section type of the accelerators' memories.
pub(super) const HAC_SRAM: Guid =
    Guid::new(0x2d31_de54, 0x3037, 0x4f24, [0xa2, 0x83, 0xf6, 0x9c, 0xa1, 0xec, 0x0b, 0x9a]);
/// Section type of the coherent mesh network's registers.
pub(super) const CMN: Guid =
    Guid::new(0xdac8_0d69, 0x0a72, 0x4eba, [0x81, 0x14, 0x14, 0x8e, 0xe3, 0x44, 0xaf, 0x06]);
/// Section type of the interrupt controller's registers.
pub(super) const GIC: Guid =
    Guid::new(0x746f_06fe, 0x405e, 0x451f, [0x8d, 0x09, 0x02, 0xe8, 0x02, 0xed, 0x98, 0x4a]);

const HEAD: &[Field] = &[
    hex("val_bits", 4),
    number("version", 1).valid(0),
    code("soc_id", 1, &[(0, "Corsica 1.0")]).valid(1),
    code("subsystem_id", 1, SUBSYSTEMS).valid(2),
    number("module_id", 1).valid(3),
    number("submodule_id", 1).valid(4),
    number("dev_id", 1).valid(5),
    number("err_type", 2).valid(6),
    code("err_severity", 1, SEVERITY).valid(7),
    skip(3),
];
const _: () = assert!(size(HEAD) == 16);
/// Validity bit of the register array in the tail.
const ARRAY_VALID: u32 = 11;

/// As CPER's own.
const SEVERITY: &[(u64, &str)] = &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "none")];

const POR_REGISTERS: &[Field] = &[
    hex("lock_control", 4),
    hex("lock_function", 4),
    hex("cfg_ram_id", 4),
    hex("err_fr", 8),
    hex("err_ctlr_low", 4),
    hex("ecc_status_low", 4),
    hex("ecc_addr", 8),
    hex("ecc_misc0", 8),
    hex("ecc_misc1", 8),
    hex("ecc_misc2", 8),
];
const SMMU_REGISTERS: &[Field] = &[
    hex("csr_int_status", 4),
    hex("err_fr", 4),
    hex("err_ctlr", 4),
    hex("err_status", 4),
    hex("err_gen", 4),
];
const HAC_SRAM_REGISTERS: &[Field] = &[hex("ecc_1bit_info", 8), hex("ecc_2bit_info", 8)];
const CMN_REGISTERS: &[Field] = &[
    hex("cfgm_mxp_0", 8),
    hex("cfgm_hnf_0", 8),
    hex("cfgm_hni_0", 8),
    hex("cfgm_sbsx_0", 8),
    hex("err_fr_ns", 8),
    hex("err_ctlr_ns", 8),
    hex("err_status_ns", 8),
    hex("err_addr_ns", 8),
    hex("err_misc_ns", 8),
    hex("err_fr", 8),
    hex("err_ctlr", 8),
    hex("err_status", 8),
    hex("err_addr", 8),
    hex("err_misc", 8),
];
const GIC_REGISTERS: &[Field] = &[
    hex("record_id", 8),
    hex("gict_err_fr", 8),
    hex("gict_err_ctlr", 8),
    hex("gict_err_status", 8),
    hex("gict_err_addr", 8),
    hex("gict_err_misc0", 8),
    hex("gict_err_misc1", 8),
    hex("gict_errgsr", 8),
];

const SUBSYSTEMS: &[(u64, &str)] = &[
    (0, "AP"),
    (1, "CMN"),
    (2, "DDRH"),
    (3, "DDRV"),
    (4, "GIC"),
    (5, "IOSUB"),
    (6, "SCP"),
    (7, "MCP"),
    (8, "IMU0"),
    (9, "DPE"),
    (10, "RPE"),
    (11, "PSUB"),
    (12, "HAC"),
    (13, "TCM"),
    (14, "IMU1"),
];

/// Modules of each subsystem, in order of their numbers.
const fn modules(subsystem: u64) -> &'static [&'static str] {
    match subsystem {
        0 => &["CORE"],
        1 => &["MXP", "HNI", "HNF", "SBSX", "CCG", "HND"],
        2 | 3 => &["DDRCtrl", "DDRPHY", "SRAM"],
        4 => &["GICIP", "GICSRAM"],
        5 => &["SMMU", "NIC450", "OTHER"],
        6 => &["SRAM", "WDT", "PLL"],
        7 | 8 | 14 => &["SRAM", "WDT"],
        9 => &[
            "EPG", "PIPE", "EMEP", "IMEP", "EPAE", "IPAE", "ETH", "TPG", "MIG", "HIG", "DPETOP",
            "SMMU",
        ],
        10 => &["TOP", "TXP_RXP", "SMMU"],
        11 => &[
            "PCIE0",
            "UP_MIX",
            "PCIE1",
            "PTOP",
            "N2IF",
            "VPE0_RAS",
            "VPE1_RAS",
            "X2RC_SMMU",
            "X16RC_SMMU",
            "SDMA_SMMU",
        ],
        12 => &["SRAM", "SMMU"],
        13 => &["SRAM", "SMMU", "IP"],
        _ => &[],
    }
}

/// Parts of those modules that have some.
fn submodules(subsystem: u64, module: &str) -> &'static [&'static str] {
    match (subsystem, module) {
        (5, "SMMU") => &["TBU", "TCU"],
        (5, "OTHER") => &["RAM"],
        (11, "PCIE0") => &["RAS0", "RAS1"],
        (9 | 10 | 13, "SMMU") | (11, "X2RC_SMMU" | "X16RC_SMMU" | "SDMA_SMMU") => &["TCU", "TBU"],
        _ => &[],
    }
}

pub(super) fn por(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(POR_REGISTERS, section, record);
}

pub(super) fn smmu(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(SMMU_REGISTERS, section, record);
}

pub(super) fn hac_sram(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(HAC_SRAM_REGISTERS, section, record);
}

pub(super) fn cmn(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(CMN_REGISTERS, section, record);
}

pub(super) fn gic(section: &Section<'_>, record: &mut ErrorRecord) {
    decode(GIC_REGISTERS, section, record);
}

fn decode(registers: &[Field], section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, 0, 4).unwrap_or(0);
    if add("JaguarMicro", HEAD, 0, valid, section, record)
        && add("JaguarMicro", registers, size(HEAD), 0, section, record)
        && valid >> ARRAY_VALID & 1 == 1
    {
        array(size(HEAD) + size(registers), section, record);
    }
    let subsystem = found(&record.details, "subsystem_id");
    let pick = |names: &[&'static str], name: &str| {
        let index = usize::try_from(found(&record.details, name)?).ok()?;
        names.get(index).copied()
    };
    let module = subsystem.and_then(|subsystem| pick(modules(subsystem), "module_id"));
    let part = subsystem
        .zip(module)
        .and_then(|(subsystem, module)| pick(submodules(subsystem, module), "submodule_id"));
    let mut what = String::from("JaguarMicro");
    for name in [meaning(&record.details, "subsystem_id"), module, part].into_iter().flatten() {
        what.push(' ');
        what.push_str(name);
    }
    what.push_str(" error");
    record.details.add_some("module", module);
    record.details.add_some("submodule", part);
    let class = match subsystem {
        Some(0) => ErrorClass::Processor,
        Some(2 | 3) => ErrorClass::Memory,
        Some(1) => ErrorClass::Bus,
        Some(11) => ErrorClass::Pcie,
        _ if module.is_some_and(|module| module.ends_with("SMMU")) => ErrorClass::Iommu,
        _ => ErrorClass::Platform,
    };
    summarize(record, class, what);
}

/// The tail: a count of 32-bit registers, and the registers.
fn array(at: usize, section: &Section<'_>, record: &mut ErrorRecord) {
    let Some(count) = number_at(section.body, at, 4) else {
        return cut(section, record, "JaguarMicro section ends before reg_array_size");
    };
    record.details.add("reg_array_size", count);
    let registers = section.body.get(at + 4..).unwrap_or_default();
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    let list: Vec<Value> =
        registers.chunks_exact(4).take(wanted).map(|word| Value::Hex(little(word))).collect();
    if list.len() < wanted {
        let there = list.len();
        cut(section, record, &format!("{count} registers announced, {there} are there"));
    }
    record.details.add("registers", Value::List(list));
}
