//! What kind 1 has no room for: a page's module, its map, and the rest of its location. Records of
//! their own, so that a version 1.0 reader still sees the page.

use alloc::string::String;

use ras_core::{
    Dimm, DimmIdentity, DimmLocation, Location, MapEpoch, PciAddress, Pfn, RetiredPage, Timestamp,
};

use crate::entry::NAME_MAX;
use crate::wire::{Reader, Writer};

/// Belongs to the page with the same `pfn` and `since`, wherever in the journal that is: a version 1.0
/// writer puts records it does not know first when it rewrites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The page.
    pub pfn: Pfn,
    /// When it was first condemned.
    pub since: Timestamp,
    /// The map under which the page is the right one.
    pub epoch: Option<MapEpoch>,
    /// [`Dimm::digest`] of the module.
    pub dimm: Option<u64>,
    /// [`Location::imc`].
    pub imc: Option<u16>,
    /// [`DimmLocation::chip`].
    pub chip: Option<u8>,
    /// [`Location::pci`].
    pub pci: Option<PciAddress>,
}

const EPOCH: u8 = 1 << 0;
const DIMM: u8 = 1 << 1;
const IMC: u8 = 1 << 2;
const CHIP: u8 = 1 << 3;
const PCI: u8 = 1 << 4;

impl Origin {
    /// What is to be told of `page` beside its own record.
    #[must_use]
    pub fn of(page: &RetiredPage) -> Self {
        let Location { imc, dimm: DimmLocation { chip, .. }, pci, .. } = page.location;
        let dimm = page.dimm.as_ref().map(|dimm| dimm.digest());
        Self { pfn: page.pfn, since: page.since, epoch: page.epoch, dimm, imc, chip, pci }
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.present() == 0
    }

    const fn present(&self) -> u8 {
        let mut present = 0;
        let Self { pfn: _, since: _, epoch, dimm, imc, chip, pci } = self;
        if epoch.is_some() {
            present |= EPOCH;
        }
        if dimm.is_some() {
            present |= DIMM;
        }
        if imc.is_some() {
            present |= IMC;
        }
        if chip.is_some() {
            present |= CHIP;
        }
        if pci.is_some() {
            present |= PCI;
        }
        present
    }

    pub(crate) fn encode(&self, payload: &mut Writer) {
        payload.u64(self.pfn.0);
        payload.u64(self.since.0);
        payload.u8(self.present());
        if let Some(epoch) = self.epoch {
            payload.u64(epoch.0);
        }
        if let Some(dimm) = self.dimm {
            payload.u64(dimm);
        }
        if let Some(imc) = self.imc {
            payload.u16(imc);
        }
        if let Some(chip) = self.chip {
            payload.u8(chip);
        }
        if let Some(PciAddress { segment, bus, device, function }) = self.pci {
            payload.u32(segment);
            payload.u8(bus);
            payload.u8(device);
            payload.u8(function);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let (pfn, since) = (Pfn(reader.u64()?), Timestamp(reader.u64()?));
        let present = reader.u8()?;
        if present & !(EPOCH | DIMM | IMC | CHIP | PCI) != 0 {
            return None;
        }
        let mut origin =
            Self { pfn, since, epoch: None, dimm: None, imc: None, chip: None, pci: None };
        if present & EPOCH != 0 {
            origin.epoch = Some(MapEpoch(reader.u64()?));
        }
        if present & DIMM != 0 {
            origin.dimm = Some(reader.u64()?);
        }
        if present & IMC != 0 {
            origin.imc = Some(reader.u16()?);
        }
        if present & CHIP != 0 {
            origin.chip = Some(reader.u8()?);
        }
        if present & PCI != 0 {
            origin.pci = Some(PciAddress {
                segment: reader.u32()?,
                bus: reader.u8()?,
                device: reader.u8()?,
                function: reader.u8()?,
            });
        }
        Some(origin)
    }
}

/// Each text a name; an unknown one is empty.
pub(crate) fn encode_dimm(payload: &mut Writer, dimm: &Dimm) {
    let Dimm { identity: DimmIdentity { manufacturer, part, serial }, .. } = dimm;
    payload.u64(dimm.digest());
    payload.u64(dimm.size);
    for text in [manufacturer, part, serial] {
        payload.text(text.as_deref().unwrap_or_default(), NAME_MAX);
    }
    payload.text(&dimm.locator, NAME_MAX);
    payload.text(&dimm.bank_locator, NAME_MAX);
}

/// The digest must be what it is here: one over names that were cut, or made otherwise, is nobody's.
pub(crate) fn decode_dimm(reader: &mut Reader<'_>) -> Option<Dimm> {
    let (digest, size) = (reader.u64()?, reader.u64()?);
    let mut text = || reader.text(NAME_MAX);
    let [manufacturer, part, serial] = [text()?, text()?, text()?].map(known);
    let identity = DimmIdentity { manufacturer, part, serial };
    let dimm = Dimm { identity, locator: text()?, bank_locator: text()?, size };
    (dimm.digest() == digest).then_some(dimm)
}

fn known(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
