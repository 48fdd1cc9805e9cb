//! HiSilicon Kunpeng's sections. rasdaemon, `non-standard-hisi_hip08.c` and
//! `non-standard-hisilicon.c`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Detail, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PciAddress,
    PhysAddr, Value,
};

use super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{Field, code, found, hex, little, meaning, number, number_at, size, skip};

/// Section type of "OEM type 1": modules without an Armv8 error record.
pub(super) const OEM_TYPE1: Guid =
    Guid::new(0x1f81_61e1, 0x55d6, 0x41e6, [0xbd, 0x10, 0x7a, 0xfd, 0x1d, 0xc5, 0xf7, 0xc5]);
/// Section type of "OEM type 2": modules with one.
pub(super) const OEM_TYPE2: Guid =
    Guid::new(0x4553_4ea6, 0xce23, 0x4115, [0x85, 0x35, 0xe0, 0x7a, 0xb3, 0xae, 0xf9, 0x1d]);
/// Section type of "PCIe local": the PCIe controller's inside.
pub(super) const PCIE_LOCAL: Guid =
    Guid::new(0xb288_9fc9, 0xe7d7, 0x4f9d, [0xa8, 0x67, 0xaf, 0x42, 0xe9, 0x8b, 0xe7, 0x72]);
/// Section type of the common section of later chips.
pub(super) const COMMON: Guid =
    Guid::new(0xc8b3_28a8, 0x9917, 0x4af6, [0x9a, 0x13, 0x2e, 0x08, 0xab, 0x2e, 0x75, 0x86]);

/// What type 1 and 2 begin with, but for the meaning of the module.
const fn head(modules: &'static [(u64, &'static str)]) -> [Field; 9] {
    [
        hex("val_bits", 4),
        number("version", 1),
        number("soc_id", 1).valid(0),
        number("socket_id", 1).valid(1),
        number("nimbus_id", 1).valid(2),
        code("module_id", 1, modules).valid(3),
        number("sub_module_id", 1).valid(4),
        code("err_severity", 1, SEVERITY).valid(5),
        skip(1),
    ]
}
const TYPE1_HEAD: [Field; 9] = head(TYPE1_MODULES);
const TYPE2_HEAD: [Field; 9] = head(TYPE2_MODULES);
const HEAD: usize = size(&TYPE1_HEAD);

const TYPE1_REGISTERS: &[Field] = &[
    hex("err_misc_0", 4).valid(6),
    hex("err_misc_1", 4).valid(7),
    hex("err_misc_2", 4).valid(8),
    hex("err_misc_3", 4).valid(9),
    hex("err_misc_4", 4).valid(10),
    hex("err_addr", 8).valid(11),
];
const _: () = assert!(HEAD + size(TYPE1_REGISTERS) == 40);

const TYPE2_REGISTERS: &[Field] = &[
    hex("err_fr", 8).valid(6),
    hex("err_ctrl", 8).valid(7),
    hex("err_status", 8).valid(8),
    hex("err_addr", 8).valid(9),
    hex("err_misc0", 8).valid(10),
    hex("err_misc1", 8).valid(11),
];
const _: () = assert!(HEAD + size(TYPE2_REGISTERS) == 60);

const PCIE: &[Field] = &[
    hex("val_bits", 8),
    number("version", 1).valid(0),
    number("soc_id", 1).valid(1),
    number("socket_id", 1).valid(2),
    number("nimbus_id", 1).valid(3),
    code("sub_module_id", 1, PCIE_LAYERS).valid(4),
    number("core_id", 1).valid(5),
    number("port_id", 1).valid(6),
    code("err_severity", 1, SEVERITY).valid(8),
    number("err_type", 2).valid(7),
    skip(2),
];
const _: () = assert!(size(PCIE) == 20);
/// Registers behind [`PCIE`], each with a validity bit from this one on.
const PCIE_MISC: u32 = 33;
const PCIE_MISC_VALID: u32 = 9;

const COMMON_FIELDS: &[Field] = &[
    hex("val_bits", 4),
    number("version", 1),
    code("soc_id", 1, SOCS).valid(0),
    number("socket_id", 1).valid(1),
    number("totem_id", 1).valid(2),
    number("nimbus_id", 1).valid(3),
    number("subsystem_id", 1).valid(4),
    code("module_id", 1, COMMON_MODULES).valid(5),
    number("sub_module_id", 1).valid(6),
    number("core_id", 1).valid(7),
    number("port_id", 1).valid(8),
    number("err_type", 2).valid(9),
    number("function", 1).valid(10),
    number("device", 1).valid(10),
    number("segment", 2).valid(10),
    number("bus", 1).valid(10),
    skip(3),
    code("err_severity", 1, SEVERITY).valid(11),
    skip(3),
    number("reg_array_size", 4).valid(12),
];
const _: () = assert!(size(COMMON_FIELDS) == 32);

/// As CPER's own.
const SEVERITY: &[(u64, &str)] = &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "none")];

const SOCS: &[(u64, &str)] = &[(0, "Kunpeng 916"), (1, "Kunpeng 920"), (2, "Kunpeng 930")];

const PCIE_LAYERS: &[(u64, &str)] = &[(0, "AP"), (1, "TL"), (2, "MAC"), (3, "DL"), (4, "SDI")];

const TYPE1_MODULES: &[(u64, &str)] = &[
    (0, "MN"),
    (1, "PLL"),
    (2, "SLLC"),
    (3, "AA"),
    (4, "SIOE"),
    (5, "POE"),
    (8, "DISP"),
    (9, "LPC"),
    (13, "GIC"),
    (14, "RDE"),
    (15, "SAS"),
    (16, "SATA"),
    (17, "USB"),
];

const TYPE2_MODULES: &[(u64, &str)] =
    &[(0, "SMMU"), (1, "HHA"), (2, "PA"), (3, "HLLC"), (4, "DDRC"), (5, "L3TAG"), (6, "L3DATA")];

const COMMON_MODULES: &[(u64, &str)] = &[
    (0, "MN"),
    (1, "PLL"),
    (2, "SLLC"),
    (3, "AA"),
    (4, "SIOE"),
    (5, "POE"),
    (6, "CPA"),
    (7, "DISP"),
    (8, "GIC"),
    (9, "ITS"),
    (10, "AVSBUS"),
    (11, "CS"),
    (12, "PPU"),
    (13, "SMMU"),
    (14, "PA"),
    (15, "HLLC"),
    (16, "DDRC"),
    (17, "L3TAG"),
    (18, "L3DATA"),
    (19, "PCS"),
    (20, "HHA"),
    (21, "PCIe local"),
    (22, "SAS"),
    (23, "SATA"),
    (24, "NIC"),
    (25, "RoCE"),
    (26, "USB"),
    (27, "ZIP"),
    (28, "HPRE"),
    (29, "SEC"),
    (30, "RDE"),
    (31, "MEE"),
    (32, "L4D"),
    (33, "Tsensor"),
    (34, "ROH"),
    (35, "BTC"),
    (36, "HILINK"),
    (37, "STARS"),
    (38, "SDMA"),
    (39, "UC"),
    (40, "HBMC"),
    (41, "PMC"),
    (42, "SCHE"),
    (43, "ASMB_DFS"),
    (44, "ASMB_NTU"),
    (45, "UB"),
    (46, "UMMU"),
    (47, "PCU"),
    (48, "UCMI"),
    (49, "DJTAGM"),
    (50, "CFGBUS"),
    (51, "MPU"),
    (52, "CRG"),
];

/// Names of sub-modules: runs of numbered instances on the dies TB, TA and nimbus.
fn sub_module(module: &str, index: u64) -> Option<String> {
    let runs: &[(&str, u64)] = match module {
        "PLL" => &[("TB_PLL", 4), ("TA_PLL", 4), ("NIMBUS_PLL", 5)],
        "SLLC" => &[("TB_SLLC", 3), ("TA_SLLC", 3), ("NIMBUS_SLLC", 2)],
        "SIOE" => &[("TB_SIOE", 4), ("TA_SIOE", 4), ("NIMBUS_SIOE", 2)],
        "SAS" => &[("SAS", 2)],
        "HLLC" => &[("HLLC", 3)],
        "HHA" => &[("TB_HHA", 2), ("TA_HHA", 2)],
        "DDRC" => &[("TB_DDRC", 4), ("TA_DDRC", 4)],
        "L3TAG" => &[("TB_PARTITION", 8), ("TA_PARTITION", 8)],
        "L3DATA" => &[("TB_BANK", 4), ("TA_BANK", 4)],
        _ => &[],
    };
    let single: &[&str] = match module {
        "POE" => &["TB_POE", "TA_POE"],
        "DISP" => &[
            "TB_PERI_DISP",
            "TB_POE_DISP",
            "TB_GIC_DISP",
            "TA_PERI_DISP",
            "TA_POE_DISP",
            "TA_GIC_DISP",
            "HAC_DISP",
            "PCIE_DISP",
            "IO_MGMT_DISP",
            "NETWORK_DISP",
        ],
        "SMMU" => &["HAC_SMMU", "PCIE_SMMU", "MGMT_SMMU", "NIC_SMMU"],
        _ => &[],
    };
    let mut index = index;
    for (name, count) in runs {
        if index < *count {
            return Some(format!("{name}{index}"));
        }
        index -= count;
    }
    single.get(usize::try_from(index).ok()?).map(|name| String::from(*name))
}

fn class(module: &str) -> ErrorClass {
    match module {
        "DDRC" | "HBMC" | "MEE" => ErrorClass::Memory,
        "L3TAG" | "L3DATA" | "L4D" | "HHA" => ErrorClass::Cache,
        "SMMU" | "UMMU" => ErrorClass::Iommu,
        "SLLC" | "HLLC" | "PA" | "AA" | "MN" | "SIOE" => ErrorClass::Bus,
        "PCIe local" | "PCS" => ErrorClass::Pcie,
        _ => ErrorClass::Platform,
    }
}

pub(super) fn oem_type1(section: &Section<'_>, record: &mut ErrorRecord) {
    oem("HiSilicon OEM type 1", &TYPE1_HEAD, TYPE1_REGISTERS, section, record);
}

pub(super) fn oem_type2(section: &Section<'_>, record: &mut ErrorRecord) {
    oem("HiSilicon OEM type 2", &TYPE2_HEAD, TYPE2_REGISTERS, section, record);
}

fn oem(
    name: &str,
    head: &[Field],
    registers: &[Field],
    section: &Section<'_>,
    record: &mut ErrorRecord,
) {
    let valid = number_at(section.body, 0, 4).unwrap_or(0);
    if add(name, head, 0, valid, section, record) {
        add(name, registers, HEAD, valid, section, record);
    }
    finish(record);
    // The registers hold a physical address only where a memory controller or a cache says so.
    let physical = matches!(record.class, ErrorClass::Memory | ErrorClass::Cache);
    if let Some(addr) = found(&record.details, "err_addr").filter(|_| physical) {
        // Armv8's record registers keep flags above the address.
        let addr = PhysAddr(addr & ((1 << 56) - 1));
        record.address = Some(ErrorAddress { addr, lsb: 6, mode: AddressMode::Generic });
    }
}

pub(super) fn pcie_local(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, 0, 8).unwrap_or(0);
    if add("HiSilicon PCIe local", PCIE, 0, valid, section, record) {
        for index in (0..PCIE_MISC).filter(|index| valid >> (PCIE_MISC_VALID + index) & 1 == 1) {
            let at = size(PCIE) + 4 * usize::try_from(index).unwrap_or(0);
            let Some(register) = number_at(section.body, at, 4) else {
                cut(section, record, &format!("PCIe local section ends before err_misc_{index}"));
                break;
            };
            let name = format!("err_misc_{index}").into();
            record.details.push(Detail { name, value: Value::Hex(register) });
        }
    }
    socket(record);
    let layer = meaning(&record.details, "sub_module_id");
    let layer = layer.map_or_else(String::new, |layer| format!(" ({layer} layer)"));
    summarize(record, ErrorClass::Pcie, format!("HiSilicon PCIe controller error{layer}"));
}

pub(super) fn common(section: &Section<'_>, record: &mut ErrorRecord) {
    let valid = number_at(section.body, 0, 4).unwrap_or(0);
    add("HiSilicon common", COMMON_FIELDS, 0, valid, section, record);
    if let Some(bytes) = found(&record.details, "reg_array_size") {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let registers = section.body.get(size(COMMON_FIELDS)..).unwrap_or_default();
        if registers.len() < bytes {
            let there = registers.len();
            cut(section, record, &format!("register array of {bytes} bytes is cut to {there}"));
        }
        let registers = registers.get(..bytes).unwrap_or(registers).chunks_exact(4);
        let registers: Vec<Value> = registers.map(|word| Value::Hex(little(word))).collect();
        record.details.add("registers", Value::List(registers));
    }
    record.location.pci = pci(&record.details);
    finish(record);
}

fn pci(details: &[Detail]) -> Option<PciAddress> {
    let byte = |name| found(details, name).and_then(|number| u8::try_from(number).ok());
    let segment = u32::try_from(found(details, "segment")?).ok()?;
    let (device, function) = (byte("device")?, byte("function")?);
    let address = PciAddress { segment, bus: byte("bus")?, device, function };
    (device < 32 && function < 8).then_some(address)
}

fn socket(record: &mut ErrorRecord) {
    record.location.socket =
        found(&record.details, "socket_id").and_then(|socket| u32::try_from(socket).ok());
}

/// Location, class and summary of a section that names a module.
fn finish(record: &mut ErrorRecord) {
    socket(record);
    let module = meaning(&record.details, "module_id").unwrap_or("module of unknown type");
    let part = found(&record.details, "sub_module_id").and_then(|part| sub_module(module, part));
    let (class, what) = match &part {
        Some(part) => (class(module), format!("HiSilicon {module} error ({part})")),
        None => (class(module), format!("HiSilicon {module} error")),
    };
    record.details.add_some("sub_module", part);
    summarize(record, class, what);
}
