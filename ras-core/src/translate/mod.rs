//! Addresses as memory controllers count them, to system addresses.
//!
//! Offline: all that has to be known about the machine is in a snapshot of its registers. Absent:
//! reading those registers, and Intel's.

pub mod amd;

use core::fmt::Write as _;

use crate::{AddressMode, CpuVendor, Details as _, ErrorAddress, ErrorRecord, PhysAddr, Raw};

pub use amd::{NormalizedAddr, Snapshot, SnapshotFault, StationId, TranslateError};

/// Coarsest granularity, as log2 of bytes, of an address that is in one place after translation:
/// channels take turns every 256 bytes at the least.
const LSB_MAX: u8 = 8;

/// `MCA_ADDR` bits 55:0 are address; above, some banks give its granularity.
const ADDR_BITS: u64 = (1 << 56) - 1;

/// Gives a record its system address, where it has only its memory controller's own: AMD's
/// normalized addresses. The latter is kept as the detail `normalized_address`, beside the coherent
/// station's `fabric_die` and `fabric_instance`; the socket is filled in. `snapshot` has to be of the
/// machine and the boot that the record is of.
///
/// Returns whether there was such an address, from `MCA_ADDR`. Witnesses are left as they are.
///
/// # Errors
///
/// As [`Snapshot::umc_address`], and if the address is too coarse to be in one place. The record is
/// then as before.
pub fn apply(record: &mut ErrorRecord, snapshot: &Snapshot) -> Result<bool, TranslateError> {
    let Some(ErrorAddress { addr, lsb, mode: AddressMode::Memory }) = record.address else {
        return Ok(false);
    };
    let Raw::Mca(registers) = &record.raw else { return Ok(false) };
    if !matches!(registers.vendor, CpuVendor::Amd | CpuVendor::Hygon) {
        return Ok(false);
    }
    if lsb > LSB_MAX {
        return Err(TranslateError::Coarse { lsb });
    }
    // An address that another register gave (MCA_DEADDR) is not the one that would be translated.
    if (addr.0 ^ registers.addr) & (ADDR_BITS >> lsb << lsb) != 0 {
        return Ok(false);
    }
    let socket = record.location.socket.and_then(|socket| u8::try_from(socket).ok());
    let found = snapshot.umc_address(registers, socket)?;
    // Translation keeps the lower eight bits, so what the address is good to stays.
    let system = found.system.0 >> lsb << lsb;
    record.address =
        Some(ErrorAddress { addr: PhysAddr(system), lsb, mode: AddressMode::Physical });
    record.location.socket.get_or_insert(found.station.socket.into());
    record.details.add_hex("normalized_address", found.normalized.0);
    record.details.add("fabric_die", found.station.die);
    record.details.add("fabric_instance", found.station.instance);
    // Writing to a string can't fail.
    let _ = write!(record.summary, ", system address {system:#x}");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::amd::{DramMap, Register, Revision, Station};
    use super::*;
    use crate::{ErrorSource, McaRegisters, Pfn, Value};

    /// Two channels, by 256 bytes, in one socket (DF2).
    fn snapshot() -> Snapshot {
        let map = DramMap {
            base: Register(0x11),
            limit: Register(0xff_f000),
            ctl: None,
            intlv: None,
            offset: None,
        };
        let stations = [0, 1].map(|instance| Station {
            socket: 0,
            die: 0,
            instance,
            block_instance_information: Some(Register(u32::from(instance) << 8)),
            maps: vec![map],
            target_remap: vec![],
            np2_channel_config: None,
        });
        Snapshot {
            revision: Revision::Df2,
            device_vendor_id: Register(0),
            fabric_id_mask: vec![Register(0x7580_6000)],
            dram_hole_control: Register(0),
            apic: None,
            umc: None,
            stations: stations.into(),
        }
    }

    fn record() -> ErrorRecord {
        let addr = 0x1234_5680;
        let mut record = ErrorRecord::new(ErrorSource::MceRecord);
        record.summary = "corrected".to_string();
        record.address =
            Some(ErrorAddress { addr: PhysAddr(addr), lsb: 6, mode: AddressMode::Memory });
        record.raw = Raw::Mca(McaRegisters {
            vendor: CpuVendor::Amd,
            cpuid: 0x0080_0f12,
            status: 0x9c20_4000_0000_011b,
            addr,
            ipid: 0x0096_0010_0f00,
            ..McaRegisters::default()
        });
        record
    }

    #[test]
    fn a_normalized_address_becomes_a_page_and_is_kept() {
        let mut record = record();
        assert_eq!(record.pages(), None);
        assert_eq!(apply(&mut record, &snapshot()), Ok(true));
        let address = record.address.unwrap();
        assert_eq!((address.addr, address.lsb), (PhysAddr(0x2468_ad80), 6));
        assert_eq!(record.pages().unwrap().start, Pfn(0x2_468a));
        assert_eq!(record.details[0].name, "normalized_address");
        assert_eq!(record.details[0].value, Value::Hex(0x1234_5680));
        assert_eq!(record.location.socket, Some(0));
        assert_eq!(record.summary, "corrected, system address 0x2468ad80");
        let once = record.clone();
        assert_eq!(apply(&mut record, &snapshot()), Ok(false), "it is physical already");
        assert_eq!(record, once);
    }

    #[test]
    fn what_can_t_be_translated_stays_as_it_was() {
        let before = record();
        let mut record = before.clone();
        let mut other = snapshot();
        other.stations.truncate(1);
        assert!(matches!(apply(&mut record, &other), Err(TranslateError::NoStation(_))));
        assert_eq!(record, before);
        if let Some(address) = record.address.as_mut() {
            address.lsb = 12;
        }
        assert_eq!(apply(&mut record, &snapshot()), Err(TranslateError::Coarse { lsb: 12 }));
        record.raw = Raw::None;
        assert_eq!(apply(&mut record, &snapshot()), Ok(false));
        let mut deferred = before;
        if let Some(address) = deferred.address.as_mut() {
            address.addr = PhysAddr(0x1_0000);
        }
        assert_eq!(apply(&mut deferred, &snapshot()), Ok(false), "not MCA_ADDR's");
    }
}
