//! Where an error happened, as far as its source knew.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

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

/// A place in a memory module. Each field is what the source reported, `None` where it did not.
///
/// Field meanings: UEFI Specification, Appendix N, "Memory Error Section".
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Location {
    /// Logical CPU number, the operating system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Processor package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// Memory channel: MCACOD bits 3:0 of a memory-controller error, 0 to 14.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<u8>,
    /// The memory module and the cells in it.
    pub dimm: DimmLocation,
    /// Field-replaceable unit text or DIMM label, as the firmware spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fru: Option<String>,
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
        part(f, "channel", self.channel.map(u64::from))?;
        part(f, "card", dimm.card.map(u64::from))?;
        part(f, "module", dimm.module.map(u64::from))?;
        part(f, "rank", dimm.rank.map(u64::from))?;
        part(f, "bank group", dimm.bank_group.map(u64::from))?;
        part(f, "bank", dimm.bank.map(u64::from))?;
        part(f, "device", dimm.device.map(u64::from))?;
        part(f, "row", dimm.row.map(u64::from))?;
        part(f, "column", dimm.column.map(u64::from))?;
        match &self.fru {
            Some(fru) => write!(f, "{separator}FRU {fru:?}"),
            None if separator.is_empty() => f.write_str("unknown location"),
            None => Ok(()),
        }
    }
}
