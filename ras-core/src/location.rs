//! Where an error happened, as far as its source knew.

use core::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Maker of the processor, as CPUID leaf 0 tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CpuVendor {
    /// `GenuineIntel`.
    Intel,
    /// `AuthenticAMD`.
    Amd,
    /// `HygonGenuine`: AMD's machine-check architecture.
    Hygon,
    /// `CentaurHauls` or `  Shanghai  `: Intel's machine-check architecture.
    Zhaoxin,
    /// Any other, with the number the source used (the kernel's `X86_VENDOR_*` in trace events).
    Unknown(u8),
}

impl Default for CpuVendor {
    /// Nobody said: the kernel's number for it.
    fn default() -> Self {
        Self::Unknown(0xff)
    }
}

impl CpuVendor {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel => "intel",
            Self::Amd => "amd",
            Self::Hygon => "hygon",
            Self::Zhaoxin => "zhaoxin",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A PCI function: segment (domain), bus, device, function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct PciAddress {
    pub segment: u32,
    pub bus: u8,
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    /// As Linux and `lspci` write it: `0000:3b:00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// A place in a memory module. Each field is what the source reported, `None` where it did not.
///
/// Field meanings: UEFI Specification, Appendix N, "Memory Error Section".
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct DimmLocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank_group: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bank: Option<u16>,
    /// Die of a stack (chip identification, also called sub-rank or chip select of a 3DS module).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bit_position: Option<u16>,
    /// SMBIOS type 17 handle of the module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_handle: Option<u16>,
}

/// Where an error happened: the processor that reported it and the memory it concerns.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Location {
    /// Logical CPU number, the operating system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Processor package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// Memory controller, counted as its source does: within the socket, or EDAC's `mcN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imc: Option<u16>,
    /// Memory channel, counted within whatever is named above; a machine check's MCACOD bits 3:0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// The memory module and the cells in it.
    pub dimm: DimmLocation,
    /// Field-replaceable unit text or DIMM label, as the firmware spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fru: Option<SmolStr>,
    /// The PCI function it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci: Option<PciAddress>,
}

impl fmt::Display for Location {
    /// The known fields, most significant first; `unknown location` where there are none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut part = |f: &mut fmt::Formatter<'_>, name: &str, value: Option<u64>| {
            value.map_or(Ok(()), |value| {
                let result = write!(f, "{separator}{name} {value}");
                separator = ", ";
                result
            })
        };
        let dimm = &self.dimm;
        part(f, "socket", self.socket.map(u64::from))?;
        part(f, "node", dimm.node.map(u64::from))?;
        part(f, "memory controller", self.imc.map(u64::from))?;
        part(f, "channel", self.channel.map(u64::from))?;
        part(f, "card", dimm.card.map(u64::from))?;
        part(f, "module", dimm.module.map(u64::from))?;
        part(f, "rank", dimm.rank.map(u64::from))?;
        part(f, "bank group", dimm.bank_group.map(u64::from))?;
        part(f, "bank", dimm.bank.map(u64::from))?;
        part(f, "die", dimm.chip.map(u64::from))?;
        part(f, "device", dimm.device.map(u64::from))?;
        part(f, "row", dimm.row.map(u64::from))?;
        part(f, "column", dimm.column.map(u64::from))?;
        if let Some(pci) = self.pci {
            write!(f, "{separator}PCI {pci}")?;
            separator = ", ";
        }
        match &self.fru {
            Some(fru) => write!(f, "{separator}FRU {fru:?}"),
            None if separator.is_empty() => f.write_str("unknown location"),
            None => Ok(()),
        }
    }
}
