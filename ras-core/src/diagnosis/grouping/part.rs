//! What can be replaced: memory modules, processors, cards.

use core::fmt;

use crate::{DimmLocation, ErrorClass, ErrorRecord, Location, SmolStr};

/// Characters of a label that tell parts apart; longer ones are cut. CPER's FRU text has 20, SMBIOS
/// strings at most 64 in practice.
pub const LABEL_MAX: usize = 128;

/// Something that can be taken out of a machine, as far as errors name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Which one. Only what tells it from others of its kind is set: the label where there is one,
    /// since sources count sockets, controllers and channels each in its own way.
    pub place: Location,
}

/// Kinds of parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum PartKind {
    /// A memory module.
    Module,
    /// A processor package, or one CPU of it where no package is known.
    Processor,
    /// A PCI Express device, or the link to it.
    Pci,
    /// A CXL device.
    Cxl,
    /// Firmware, or the platform that it speaks for.
    Firmware,
    /// Nobody said what it concerns.
    Unknown,
}

impl PartKind {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Processor => "processor",
            Self::Pci => "pcie",
            Self::Cxl => "cxl",
            Self::Firmware => "firmware",
            Self::Unknown => "unknown",
        }
    }
}

impl Part {
    /// The part that `record` concerns.
    #[must_use]
    pub fn of(record: &ErrorRecord) -> Self {
        let Location { cpu, socket, imc, channel, dimm, fru, pci } = &record.location;
        let label = label(fru.as_deref());
        let none = Location::default();
        let (kind, place) = match record.class {
            ErrorClass::Memory => match label {
                Some(label) => (PartKind::Module, Location { fru: Some(label), ..none }),
                None => {
                    let DimmLocation { node, card, module, module_handle, .. } = *dimm;
                    let dimm = DimmLocation {
                        node,
                        card,
                        module,
                        module_handle,
                        ..DimmLocation::default()
                    };
                    let place = Location {
                        socket: *socket,
                        imc: *imc,
                        channel: *channel,
                        dimm,
                        ..Location::default()
                    };
                    (PartKind::Module, place)
                }
            },
            ErrorClass::Cache
            | ErrorClass::Tlb
            | ErrorClass::Bus
            | ErrorClass::Internal
            | ErrorClass::Processor => {
                let cpu = if socket.is_none() { *cpu } else { None };
                (PartKind::Processor, Location { socket: *socket, cpu, ..none })
            }
            ErrorClass::Pcie | ErrorClass::Cxl => {
                let cxl = record.class == ErrorClass::Cxl;
                let kind = if cxl { PartKind::Cxl } else { PartKind::Pci };
                let fru = if pci.is_none() { label } else { None };
                (kind, Location { pci: *pci, fru, ..none })
            }
            ErrorClass::Iommu | ErrorClass::Firmware | ErrorClass::Platform => {
                (PartKind::Firmware, Location { fru: label, ..none })
            }
            ErrorClass::Unknown => (PartKind::Unknown, Location { fru: label, ..none }),
        };
        Self { kind, place }
    }

    /// Whether the name is that of a single part, and not of whatever is at a place known in part.
    #[must_use]
    pub fn is_single(&self) -> bool {
        let Location { cpu, socket, dimm, fru, pci, .. } = &self.place;
        match self.kind {
            PartKind::Module => {
                let named = fru.as_deref().is_some_and(is_one);
                named || dimm.module.is_some() || dimm.module_handle.is_some()
            }
            PartKind::Processor => socket.is_some() || cpu.is_some(),
            PartKind::Pci | PartKind::Cxl => pci.is_some() || fru.is_some(),
            PartKind::Firmware => true,
            PartKind::Unknown => false,
        }
    }
}

/// What of a label tells parts apart.
pub(super) fn label(fru: Option<&str>) -> Option<SmolStr> {
    let label = fru.map(str::trim).filter(|label| !label.is_empty());
    label.map(|label| label.chars().take(LABEL_MAX).collect())
}

/// Whether a label is that of one module. EDAC joins those of all modules that it may have been.
pub(super) fn is_one(label: &str) -> bool {
    !label.contains(" or ")
}

impl fmt::Display for Part {
    /// As a person would call it: `module DIMM_A1`, `a module on socket 0, channel 3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let known = *place != Location::default();
        match (self.kind, &place.fru) {
            (PartKind::Module, Some(label)) if is_one(label) => write!(f, "module {label}"),
            (PartKind::Module, Some(label)) => write!(f, "a module, {label}"),
            (PartKind::Module, None) if !known => {
                f.write_str("a memory module that no record names")
            }
            (PartKind::Module, None) if self.is_single() => match place.dimm.module_handle {
                Some(handle) if place.dimm.module.is_none() => {
                    write!(f, "module with SMBIOS handle {handle:#x}")?;
                    let unnamed = Location {
                        dimm: DimmLocation { module_handle: None, ..place.dimm },
                        ..place.clone()
                    };
                    if unnamed == Location::default() { Ok(()) } else { write!(f, ", {unnamed}") }
                }
                _ => write!(f, "module at {place}"),
            },
            (PartKind::Module, None) => write!(f, "a module on {place}"),
            (PartKind::Processor, _) => match (place.socket, place.cpu) {
                (Some(socket), _) => write!(f, "processor in socket {socket}"),
                (None, Some(cpu)) => write!(f, "processor with CPU {cpu}"),
                (None, None) => f.write_str("a processor that no record names"),
            },
            (PartKind::Pci, label) => device(f, "PCIe device", place, label.as_deref()),
            (PartKind::Cxl, label) => device(f, "CXL device", place, label.as_deref()),
            (PartKind::Firmware, Some(label)) => write!(f, "firmware or platform, {label}"),
            (PartKind::Firmware, None) => f.write_str("firmware or platform"),
            (PartKind::Unknown, Some(label)) => write!(f, "unknown hardware, {label}"),
            (PartKind::Unknown, None) => f.write_str("unknown hardware"),
        }
    }
}

fn device(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    place: &Location,
    label: Option<&str>,
) -> fmt::Result {
    match (place.pci, label) {
        (Some(pci), _) => write!(f, "{what} {pci}"),
        (None, Some(label)) => write!(f, "{what} {label}"),
        (None, None) => write!(f, "a {what} that no record names"),
    }
}
