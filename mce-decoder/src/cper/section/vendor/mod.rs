//! Sections that makers have defined for themselves, and those of other specifications than UEFI's.
//!
//! Almost all of them are fixed layouts: a table of fields (see `crate::layout`), an entry in
//! [`SECTIONS`], and a few words for the summary.

mod ampere;
mod fmpm;
mod hisilicon;
mod jaguarmicro;
mod linux;
mod microsoft;
mod nvidia;
mod nvidia_event;
mod yitian;

use alloc::format;
use alloc::string::String;

use ras_core::{ErrorClass, ErrorRecord, Guid, ProblemKind};

use super::{Decode, Section, SectionType};
use crate::cper::report;
use crate::layout::{Field, read};
use crate::mca::phrase;

pub(in crate::cper) use self::fmpm::place;
pub(crate) use self::linux::mce as kernel_machine_check;
pub(in crate::cper) use self::microsoft::{ERROR_PACKET, identify_processor};

/// One line a section type.
pub(super) const SECTIONS: &[SectionType] = &[
    known("FRU memory poison", fmpm::SECTION_TYPE, fmpm::decode),
    known("NVIDIA", nvidia::SECTION_TYPE, nvidia::decode),
    known("NVIDIA event", nvidia_event::SECTION_TYPE, nvidia_event::decode),
    known("Ampere", ampere::SECTION_TYPE, ampere::decode),
    known("Ampere", ampere::BMC_SECTION_TYPE, ampere::decode_ids),
    known("HiSilicon OEM type 1", hisilicon::OEM_TYPE1, hisilicon::oem_type1),
    known("HiSilicon OEM type 2", hisilicon::OEM_TYPE2, hisilicon::oem_type2),
    known("HiSilicon PCIe local", hisilicon::PCIE_LOCAL, hisilicon::pcie_local),
    known("HiSilicon common", hisilicon::COMMON, hisilicon::common),
    known("Yitian 710", yitian::SECTION_TYPE, yitian::decode),
    known("JaguarMicro POR", jaguarmicro::POR, jaguarmicro::por),
    known("JaguarMicro SMMU", jaguarmicro::SMMU, jaguarmicro::smmu),
    known("JaguarMicro HAC SRAM", jaguarmicro::HAC_SRAM, jaguarmicro::hac_sram),
    known("JaguarMicro CMN", jaguarmicro::CMN, jaguarmicro::cmn),
    known("JaguarMicro GIC", jaguarmicro::GIC, jaguarmicro::gic),
    known("Linux machine check", linux::MACHINE_CHECK, linux::machine_check),
    known("Linux kernel log", linux::KERNEL_LOG, linux::kernel_log),
    SectionType::named("Linux kernel log, compressed", linux::KERNEL_LOG_COMPRESSED),
    known("Windows machine check", microsoft::XPF_MCA, microsoft::xpf_mca),
    known("Windows error packet", microsoft::ERROR_PACKET, microsoft::error_packet),
    known("Windows generic error", microsoft::GENERIC, microsoft::generic),
    known("Windows NMI", microsoft::NMI, microsoft::nmi),
    known("Windows recovery information", microsoft::RECOVERY_INFO, microsoft::recovery_info),
    known("Windows persistent memory", microsoft::PMEM, microsoft::pmem),
    known("Windows PCIe DPC", microsoft::PCI_DPC, microsoft::pci_dpc),
    known("Windows PCI recovery", microsoft::PCI_RECOVERY, microsoft::pci_recovery),
    known("Windows PCIe corrected errors", microsoft::PCIE_CORRECTED, microsoft::pcie_corrected),
    known(
        "Windows memory corrected errors",
        microsoft::MEMORY_CORRECTED,
        microsoft::memory_corrected,
    ),
    known("Windows memory, Intel extension", microsoft::MEMORY_INTEL, microsoft::memory_intel),
    known("Windows memory, AMD extension", microsoft::MEMORY_AMD, microsoft::memory_amd),
    known("Windows memory range", microsoft::MEMORY_RANGE, microsoft::memory_range),
    known("Windows MSR dump", microsoft::MSR_DUMP, microsoft::msr_dump),
    known("Windows ARM SEA", microsoft::ARM_SEA, microsoft::arm_sea),
    known("Windows ARM SEI", microsoft::ARM_SEI, microsoft::arm_sei),
    known("Windows ARM RAS node", microsoft::ARM_RAS_NODE, microsoft::arm_ras_node),
    known("Project Mu telemetry", microsoft::MU_TELEMETRY, microsoft::mu_telemetry),
    SectionType::named("Windows extended RAS", microsoft::EXTENDED_RAS),
    SectionType::named("Itanium SAL record", microsoft::IPF_SAL),
    SectionType::named("Windows device error summary", microsoft::DEVICE_SUMMARY),
    SectionType::named(
        "Itanium processor",
        Guid::new(0xe429_faf1, 0x3cb7, 0x11d4, [0xbc, 0xa7, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81]),
    ),
    // ACPI: a firmware error record reference names it, and so do some BMCs' sections.
    SectionType::named(
        "Intel crash log",
        Guid::new(0x8f87_f311, 0xc998, 0x4d9e, [0xa0, 0xc4, 0x60, 0x65, 0x51, 0x8c, 0x4f, 0x6d]),
    ),
];

const fn known(name: &'static str, guid: Guid, decode: Decode) -> SectionType {
    SectionType::new(guid, name, decode)
}

/// Adds the fields of a layout at `at` in the section; `name` is the section's, for the problem that
/// tells where it is too short. Returns whether all of them were there.
fn add(
    name: &str,
    fields: &[Field],
    at: usize,
    valid: u64,
    section: &Section<'_>,
    record: &mut ErrorRecord,
) -> bool {
    let body = section.body.get(at..).unwrap_or_default();
    let lacking = read(fields, body, valid, &mut record.details);
    if let Some(lacking) = lacking {
        cut(
            section,
            record,
            &format!("{name} section of {} bytes ends before {lacking}", section.body.len()),
        );
    }
    lacking.is_none()
}

/// The section ends inside of something.
fn cut(section: &Section<'_>, record: &mut ErrorRecord, detail: &str) {
    let at = section.offset + section.body.len();
    report(&mut record.problems, at, ProblemKind::Truncated, detail.into());
}

/// What kind of hardware, and the error in one line.
fn summarize(record: &mut ErrorRecord, class: ErrorClass, what: String) {
    record.class = class;
    record.summary = what;
    record.summary.push_str(", ");
    record.summary.push_str(phrase(record.severity));
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::linux::tests::struct_mce;
    pub(crate) use super::microsoft::tests::{error_packet_v2, xpf_mca};
}
