//! DMA remapping sections: of any I/O memory management unit, of Intel's VT-d, of AMD's IOMMU. UEFI
//! Specification, Appendix N, "DMAr Error Sections".

pub mod generic;
pub mod iommu;
pub mod vtd;

use alloc::string::String;

use ras_core::{AddressMode, ErrorAddress, ErrorClass, ErrorRecord, PciAddress, PhysAddr};

use crate::cper::names::push_hex;
use crate::mca::phrase;

/// What all three have in common: class and summary. `address` is what a device asked for, before its
/// translation; it names no page.
fn fill(record: &mut ErrorRecord, unit: &str, what: &str, address: Option<u64>) {
    record.class = ErrorClass::Iommu;
    record.address = address.map(|address| ErrorAddress {
        addr: PhysAddr(address),
        lsb: 0,
        mode: AddressMode::Generic,
    });
    let mut summary = String::with_capacity(112);
    summary.push_str(unit);
    summary.push_str(": ");
    summary.push_str(what);
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    if let Some(address) = address {
        summary.push_str(", at device address ");
        push_hex(&mut summary, address);
    }
    record.summary = summary;
}

/// A requester id: bus in bits 15:8, device in 7:3, function in 2:0.
fn requester(segment: u16, id: u16) -> PciAddress {
    let [low, bus] = id.to_le_bytes();
    PciAddress { segment: segment.into(), bus, device: low >> 3, function: low & 7 }
}
