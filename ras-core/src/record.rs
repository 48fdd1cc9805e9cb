//! What was observed: one [`ErrorRecord`] per error report, with nothing decided yet.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    CpuVendor, Detail, Location, PAGE_SHIFT, Pfn, PfnRange, PhysAddr, Severity, Timestamp,
};

/// One report of one error, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorRecord {
    /// When it happened, as the source says; `None` where it does not say.
    pub time: Option<Timestamp>,
    /// Who reported it.
    pub source: ErrorSource,
    /// What kind of hardware it concerns.
    pub class: ErrorClass,
    /// How bad it is.
    pub severity: Severity,
    /// Which bits and which rule led to `severity`.
    pub severity_reason: String,
    /// What the source says about the report itself.
    pub flags: RecordFlags,
    /// Where in physical memory, if the source gave a valid address.
    pub address: Option<ErrorAddress>,
    /// Errors this report stands for, at least 1 (`IA32_MCi_STATUS` bits 52:38 can count several).
    pub count: u32,
    /// Which processor and which memory module.
    pub location: Location,
    /// The error in one line, for people.
    pub summary: String,
    /// Everything else the source said, by name.
    pub details: Vec<Detail>,
    /// The bits it was decoded from.
    pub raw: Raw,
    /// What was damaged or missing in the input.
    pub problems: Vec<Problem>,
    /// Other reports of the very same error, whole: from other sources, or machine-check banks found
    /// inside of this one.
    pub witnesses: Vec<ErrorRecord>,
}

impl ErrorRecord {
    /// A record of which only the source is known: the start of every decoder.
    #[must_use]
    pub fn new(source: ErrorSource) -> Self {
        Self {
            time: None,
            source,
            class: ErrorClass::Unknown,
            severity: Severity::Unknown,
            severity_reason: String::new(),
            flags: RecordFlags::default(),
            address: None,
            count: 1,
            location: Location::default(),
            summary: String::new(),
            details: Vec::new(),
            raw: Raw::None,
            problems: Vec::new(),
            witnesses: Vec::new(),
        }
    }

    /// Whether the error happened before this boot, so that nothing of what it hit is in use now.
    ///
    /// By its flags (UEFI Specification, Appendix N, "Error Record Header Flags":
    /// `HW_ERROR_FLAGS_PREVERR`); by where it lay, since the boot error record table has nothing but
    /// errors of a previous boot (ACPI Specification, "Boot Error Source"); and a fatal error that can be
    /// read back from the serialization store ended the system that wrote it.
    #[must_use]
    pub fn is_of_previous_boot(&self) -> bool {
        self.flags.previous_boot
            || self.source == ErrorSource::Bert
            || (self.source == ErrorSource::Erst && self.severity == Severity::Fatal)
    }

    /// The pages the error concerns: `None` without a physical address; see [`ErrorAddress::pages`].
    #[must_use]
    pub fn pages(&self) -> Option<PfnRange> {
        self.address.as_ref().and_then(ErrorAddress::pages)
    }
}

/// What a source says about a report beside how bad the error is. UEFI Specification, Appendix N,
/// "Section Descriptor" (section flags) and "Error Record Header Flags". Sources without such flags
/// leave them all unset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RecordFlags {
    /// Corrected errors have gone over a threshold that firmware keeps.
    pub threshold_exceeded: bool,
    /// The error is of a previous boot.
    pub previous_boot: bool,
    /// The error was injected, or is otherwise not real.
    pub simulated: bool,
    /// Firmware or the operating system has already recovered from it.
    pub recovered: bool,
    /// Further errors went unrecorded for want of space.
    pub overflow: bool,
}

impl RecordFlags {
    /// None of them.
    pub const NONE: Self = Self {
        threshold_exceeded: false,
        previous_boot: false,
        simulated: false,
        recovered: false,
        overflow: false,
    };
}

/// The channel an error report came through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorSource {
    /// The kernel's `mce:mce_record` trace event.
    MceRecord,
    /// A UEFI common platform error record.
    Cper,
    /// An ACPI APEI generic error status block, as GHES holds it.
    ApeiStatusBlock,
    /// The kernel's account of what it did about a page: `ras:memory_failure_event`, or its log
    /// line.
    MemoryFailure,
    /// A person, through `rasctl`.
    Operator,
    /// EDAC's `ras:mc_event` trace event.
    McEvent,
    /// The kernel's `ras:aer_event` trace event.
    AerEvent,
    /// The kernel's `ras:extlog_mem_event` trace event.
    #[serde(rename = "extlog_mem_event")]
    ExtlogMem,
    /// The kernel's `ras:arm_event` trace event.
    ArmEvent,
    /// The kernel's `ras:non_standard_event` trace event: a CPER section it has no decoder for.
    #[serde(rename = "non_standard_event")]
    NonStandard,
    /// A trace event of the kernel's `cxl` system.
    CxlEvent,
    /// mcelog's text, or the kernel's structures that it reads.
    Mcelog,
    /// A machine check in the kernel log.
    #[serde(rename = "kernel_log_mce")]
    KernelMce,
    /// A firmware record in the kernel log.
    #[serde(rename = "kernel_log_apei")]
    KernelApei,
    /// An EDAC line in the kernel log.
    #[serde(rename = "kernel_log_edac")]
    KernelEdac,
    /// A PCIe advanced error report in the kernel log.
    #[serde(rename = "kernel_log_aer")]
    KernelAer,
    /// Any other error in the kernel log.
    KernelLog,
    /// EDAC's counters, from sysfs or a tool that prints them.
    EdacCounter,
    /// The boot error record table's region.
    Bert,
    /// The error record serialization table's store, or pstore's files from it.
    Erst,
    /// rasdaemon's database.
    Rasdaemon,
    /// A Windows hardware error event.
    Whea,
    /// An ACPI table about error sources; no error in itself.
    #[serde(rename = "acpi_table")]
    ErrorSourceTable,
}

impl ErrorSource {
    /// The stable name used in JSON, logs and on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MceRecord => "mce_record",
            Self::Cper => "cper",
            Self::ApeiStatusBlock => "apei_status_block",
            Self::MemoryFailure => "memory_failure",
            Self::Operator => "operator",
            Self::McEvent => "mc_event",
            Self::AerEvent => "aer_event",
            Self::ExtlogMem => "extlog_mem_event",
            Self::ArmEvent => "arm_event",
            Self::NonStandard => "non_standard_event",
            Self::CxlEvent => "cxl_event",
            Self::Mcelog => "mcelog",
            Self::KernelMce => "kernel_log_mce",
            Self::KernelApei => "kernel_log_apei",
            Self::KernelEdac => "kernel_log_edac",
            Self::KernelAer => "kernel_log_aer",
            Self::KernelLog => "kernel_log",
            Self::EdacCounter => "edac_counter",
            Self::Bert => "bert",
            Self::Erst => "erst",
            Self::Rasdaemon => "rasdaemon",
            Self::Whea => "whea",
            Self::ErrorSourceTable => "acpi_table",
        }
    }
}

impl fmt::Display for ErrorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The kind of hardware an error concerns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// DRAM or its controller.
    Memory,
    /// A cache.
    Cache,
    /// A translation buffer.
    Tlb,
    /// Bus or interconnect.
    Bus,
    /// Inside the processor: microcode, internal timer, parity, FRC, unclassified.
    Internal,
    /// A processor, with nothing said about the part of it.
    Processor,
    /// PCI, PCI-X or PCI Express: a bus, a link or a device on it.
    Pcie,
    /// A Compute Express Link device or link.
    Cxl,
    /// An I/O memory management unit.
    Iommu,
    /// Firmware, or the platform it speaks for.
    Firmware,
    /// Power, thermals, management or another part of the platform, as its maker reports it.
    Platform,
    /// The source's code has no meaning here; the raw bits are in the record.
    Unknown,
}

impl ErrorClass {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cache => "cache",
            Self::Tlb => "tlb",
            Self::Bus => "bus",
            Self::Internal => "internal",
            Self::Processor => "processor",
            Self::Pcie => "pcie",
            Self::Cxl => "cxl",
            Self::Iommu => "iommu",
            Self::Firmware => "firmware",
            Self::Platform => "platform",
            Self::Unknown => "unknown",
        }
    }
}

/// A reported address, with how far it can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ErrorAddress {
    /// The address as reported, low bits cleared below `lsb`.
    pub addr: PhysAddr,
    /// Least significant valid bit: 6 means one 64-byte line, 12 one page (`IA32_MCi_MISC` bits 5:0).
    pub lsb: u8,
    /// What kind of address it is.
    pub mode: AddressMode,
}

impl ErrorAddress {
    /// Coarsest granularity, as log2 of bytes, still taken as a range of pages: 2 MiB. Anything
    /// coarser names a region, not pages, and is answered by evacuation.
    pub const LSB_MAX: u8 = 21;

    /// The pages at this address, aligned to its granularity. `None` if the address is not a
    /// physical one or is coarser than [`Self::LSB_MAX`].
    #[must_use]
    pub fn pages(&self) -> Option<PfnRange> {
        if self.mode != AddressMode::Physical || self.lsb > Self::LSB_MAX {
            return None;
        }
        let order = u32::from(self.lsb).saturating_sub(PAGE_SHIFT);
        let count = 1u64 << order;
        Some(PfnRange { start: Pfn(self.addr.pfn().0 & !(count - 1)), count })
    }
}

/// What an address counts. SDM vol. 3B, "`IA32_MCi_MISC` MSRs", address mode, bits 8:6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressMode {
    /// Offset in a segment (mode 0).
    SegmentOffset,
    /// Linear address (mode 1).
    Linear,
    /// System physical address (mode 2).
    Physical,
    /// Memory address (mode 3), such as AMD's normalized UMC addresses: not a system address.
    Memory,
    /// Generic (mode 7), or a mode the specification reserves.
    Generic,
}

impl AddressMode {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SegmentOffset => "segment_offset",
            Self::Linear => "linear",
            Self::Physical => "physical",
            Self::Memory => "memory",
            Self::Generic => "generic",
        }
    }
}

/// The bits a record was decoded from. Nothing a source said is thrown away.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Raw {
    /// Nothing beyond the record's own fields.
    None,
    /// Machine-check registers.
    Mca(McaRegisters),
    /// A CPER section's body.
    Section {
        /// Section type.
        section_type: Guid,
        /// The body as found, possibly cut short; then a [`Problem`] says so.
        bytes: Vec<u8>,
    },
    /// A trace event's payload, or another structure without a type of its own.
    Bytes(Vec<u8>),
    /// The text it was read from, without what its log puts before each line.
    Text(String),
}

/// One bank's registers and the context they were read in.
///
/// SDM vol. 3B, "Machine-Check Architecture"; AMD's registers from `SYND` on as in APM vol. 2,
/// "Scalable MCA". A register that its source did not capture is zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names are the registers' own")]
pub struct McaRegisters {
    pub vendor: CpuVendor,
    /// CPUID leaf 1, EAX: family, model, stepping.
    pub cpuid: u32,
    pub bank: u8,
    pub mcg_cap: u64,
    pub mcg_status: u64,
    pub status: u64,
    pub addr: u64,
    pub misc: u64,
    pub synd: u64,
    pub ipid: u64,
    /// `MCA_SYND1` and `MCA_SYND2`.
    pub synd1: u64,
    pub synd2: u64,
    /// `MCA_CONFIG`.
    pub config: u64,
    /// `MCA_DESTAT` and `MCA_DEADDR`: a deferred error's own status and address.
    pub destat: u64,
    pub deaddr: u64,
    pub ip: u64,
    pub cs: u8,
    pub tsc: u64,
    pub ppin: u64,
    pub apic_id: u32,
    pub microcode: u32,
}

/// Damage found in the input, beside whatever could still be decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Bytes from the start of the decoded input.
    pub offset: u64,
    /// Which sort of damage.
    pub kind: ProblemKind,
    /// What is wrong, in one line.
    pub detail: String,
}

/// Sorts of damage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The input ends inside of something.
    Truncated,
    /// An offset or a length points out of its container.
    OutOfBounds,
    /// Two parts claim the same bytes.
    Overlap,
    /// A value that its format does not allow.
    Malformed,
    /// Two statements of the input contradict each other.
    Inconsistent,
    /// More of something than is decoded: the rest is kept raw, or left out.
    Limit,
    /// Well formed, but of a kind that nothing here knows.
    Unknown,
}

impl ProblemKind {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::OutOfBounds => "out_of_bounds",
            Self::Overlap => "overlap",
            Self::Malformed => "malformed",
            Self::Inconsistent => "inconsistent",
            Self::Limit => "limit",
            Self::Unknown => "unknown",
        }
    }
}

/// A GUID as it lies in memory (mixed endian). UEFI Specification, Appendix A.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String")]
#[serde(try_from = "String")]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the parts of the canonical form, as specifications print them.
    #[must_use]
    pub const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        // Where there is no dash: 8-4-4-4-12.
        let mut places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
        for index in ORDER {
            for nibble in [self.0[index] >> 4, self.0[index] & 15] {
                if let Some(place) = places.next() {
                    text[place] = DIGITS[usize::from(nibble)];
                }
            }
        }
        f.pad(core::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        alloc::format!("{guid}")
    }
}

impl TryFrom<String> for Guid {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const SHAPE: &str = "a GUID has 32 hexadecimal digits in groups of 8-4-4-4-12";
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return Err(SHAPE);
        }
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| SHAPE);
        let part = |index: usize| number(groups[index]);
        let tail = ((part(3)? << 48) | part(4)?).to_be_bytes();
        let narrow = |value: u64| u16::try_from(value).map_err(|_| SHAPE);
        Ok(Self::new(
            u32::try_from(part(0)?).map_err(|_| SHAPE)?,
            narrow(part(1)?)?,
            narrow(part(2)?)?,
            tail,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn at(addr: u64, lsb: u8) -> ErrorAddress {
        ErrorAddress { addr: PhysAddr(addr), lsb, mode: AddressMode::Physical }
    }

    #[test]
    fn granularity_decides_the_pages() {
        let pages = |addr, lsb| at(addr, lsb).pages().map(|range| (range.start.0, range.count));
        assert_eq!(pages(0x1234_5678, 6), Some((0x12345, 1)));
        assert_eq!(pages(0x1234_5678, 12), Some((0x12345, 1)));
        assert_eq!(pages(0x1234_5678, 13), Some((0x12344, 2)));
        assert_eq!(pages(0x1234_5678, 21), Some((0x12200, 512)));
        assert_eq!(pages(0x1234_5678, 22), None, "a region is not pages");
        assert_eq!(ErrorAddress { mode: AddressMode::Memory, ..at(0x1000, 6) }.pages(), None);
    }

    #[test]
    fn guids_print_and_parse_in_canonical_form() {
        let text = "a5bc1114-6f64-4ede-b863-3e83ed7c83b1";
        let guid = Guid::new(
            0xa5bc_1114,
            0x6f64,
            0x4ede,
            [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1],
        );
        assert_eq!(guid.to_string(), text);
        assert_eq!(Guid::try_from(text.to_string()), Ok(guid));
        for wrong in [
            "",
            "a5bc1114",
            "a5bc1114-6f64-4ede-b863-3e83ed7c83bx",
            "a5bc1114-6f64-4ede-b863-3e83éd7c83b",
        ] {
            assert!(Guid::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
