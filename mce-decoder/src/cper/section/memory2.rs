//! Platform Memory Error section, second form: wider numbers for large modules. UEFI Specification,
//! Appendix N, "Memory Error Section 2".

use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use ras_core::{Details, DimmLocation, ErrorRecord, Guid, Value};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, memory};

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0x61ec_04fc, 0x48e6, 0xd813, [0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12]);

/// The section's body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct MemoryError2 {
    /// See [`Memory2Valid`].
    pub validation_bits: U64,
    pub error_status: U64,
    pub physical_address: U64,
    /// Bits of the address that are valid.
    pub physical_address_mask: U64,
    pub node: U16,
    pub card: U16,
    pub module: U16,
    /// Bank, or bank group in bits 15:8 and bank address in bits 7:0.
    pub bank: U16,
    pub device: U32,
    pub row: U32,
    pub column: U32,
    pub rank: U32,
    pub bit_position: U32,
    /// Chip of a stack.
    pub chip_identification: u8,
    pub error_type: u8,
    /// Bit 0: not corrected.
    pub status: u8,
    pub reserved: u8,
    pub requestor_id: U64,
    pub responder_id: U64,
    pub target_id: U64,
    /// SMBIOS type 16 handle.
    pub card_handle: U32,
    /// SMBIOS type 17 handle.
    pub module_handle: U32,
}
const _: () = assert!(size_of::<MemoryError2>() == 96);

/// Which fields of [`MemoryError2`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct Memory2Valid {
    pub error_status: bool,
    pub physical_address: bool,
    pub physical_address_mask: bool,
    pub node: bool,
    pub card: bool,
    pub module: bool,
    pub bank: bool,
    pub device: bool,
    pub row: bool,
    pub column: bool,
    pub rank: bool,
    pub bit_position: bool,
    pub chip_identification: bool,
    pub error_type: bool,
    pub status: bool,
    pub requestor_id: bool,
    pub responder_id: bool,
    pub target_id: bool,
    pub card_handle: bool,
    pub module_handle: bool,
    pub bank_group: bool,
    pub bank_address: bool,
    #[bits(42)]
    __: u64,
}

/// Fills in a record from the section. Fields that lie beyond its end count as not valid.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<MemoryError2>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, MemoryError2, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = Memory2Valid::from_bits(valid.map_or(0, U64::get));
    let number = |value: Option<U16>| value.map(U16::get);

    let address = field!(valid.physical_address(), physical_address).map(U64::get);
    let mask = field!(valid.physical_address_mask(), physical_address_mask).map(U64::get);
    let error_type = field!(valid.error_type(), error_type).map(u64::from);
    let grouped = valid.bank_group() || valid.bank_address();
    let bank = field!(valid.bank() || grouped, bank);
    let [bank_low, bank_high] = bank.unwrap_or_default().to_bytes();
    let device = narrow(field!(valid.device(), device));
    let rank = narrow(field!(valid.rank(), rank));
    let bit_position = narrow(field!(valid.bit_position(), bit_position));
    let module_handle = narrow(field!(valid.module_handle(), module_handle));
    let dimm = DimmLocation {
        node: number(field!(valid.node(), node)),
        card: number(field!(valid.card(), card)),
        module: number(field!(valid.module(), module)),
        rank: rank.0,
        bank_group: bank.filter(|_| valid.bank_group()).map(|_| bank_high),
        bank: match grouped {
            true => bank.filter(|_| valid.bank_address()).map(|_| bank_low.into()),
            false => number(bank),
        },
        chip: field!(valid.chip_identification(), chip_identification),
        device: device.0,
        row: field!(valid.row(), row).map(U32::get),
        column: field!(valid.column(), column).map(U32::get),
        bit_position: bit_position.0,
        module_handle: module_handle.0,
    };
    let other = memory::Other {
        error_status: field!(valid.error_status(), error_status).map(U64::get),
        requestor_id: field!(valid.requestor_id(), requestor_id).map(U64::get),
        responder_id: field!(valid.responder_id(), responder_id).map(U64::get),
        target_id: field!(valid.target_id(), target_id).map(U64::get),
        card_handle: field!(valid.card_handle(), card_handle).map(U32::get),
        module_handle: module_handle.1,
    };
    let status = field!(valid.status(), status);
    fields.finish("memory (2)", section, record);

    let mask_at = section.offset + offset_of!(MemoryError2, physical_address_mask);
    memory::fill(record, error_type, address, (mask, mask_at), &other);
    record.location.dimm = dimm;
    let details = &mut record.details;
    details.add_some("status", status.map(status_code));
    details.add_some("rank", rank.1);
    details.add_some("device", device.1);
    details.add_some("bit_position", bit_position.1);
}

/// The number where it fits a place, else as what it is.
fn narrow(value: Option<U32>) -> (Option<u16>, Option<u32>) {
    match value.map(|value| u16::try_from(value.get()).map_err(|_| value.get())) {
        None => (None, None),
        Some(Ok(fits)) => (Some(fits), None),
        Some(Err(wide)) => (None, Some(wide)),
    }
}

/// Bit 0 is all that is defined.
fn status_code(status: u8) -> Value {
    let meaning = if status & 1 == 0 { "corrected" } else { "not corrected" };
    Value::Code { code: status.into(), meaning: Some(meaning.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use proptest::prelude::*;
    use ras_core::{ErrorClass, Severity};

    #[test]
    fn wide_numbers() {
        let body = body::<MemoryError2>(|body| {
            body.validation_bits = U64::new((1 << 22) - 1);
            body.physical_address = U64::new(0x12_3456_789a);
            body.physical_address_mask = U64::new(!0x3f);
            body.bank = U16::new(0x0305);
            body.device = U32::new(0x1_0000);
            body.row = U32::new(0x12_3456);
            body.column = U32::new(0x1_03f8);
            body.rank = U32::new(3);
            body.chip_identification = 5;
            body.error_type = 3;
            body.status = 1;
            body.card_handle = U32::new(0x1000);
            body.module_handle = U32::new(0x1101);
        });
        let record = decoded(SECTION_TYPE, 0, &body);
        assert_eq!(record.problems, []);
        assert_eq!((record.class, record.severity), (ErrorClass::Memory, Severity::Srao));
        let dimm = record.location.dimm;
        assert_eq!((dimm.row, dimm.column), (Some(0x12_3456), Some(0x1_03f8)));
        assert_eq!((dimm.bank_group, dimm.bank, dimm.chip), (Some(3), Some(5), Some(5)));
        assert_eq!((dimm.rank, dimm.module_handle), (Some(3), Some(0x1101)));
        assert_eq!(dimm.device, None, "too wide for a place");
        assert_eq!(detail(&record, "device"), Some(&Value::Number(0x1_0000)));
        assert_eq!(detail(&record, "status"), Some(&status_code(1)));
        assert_eq!(detail(&record, "card_handle"), Some(&Value::Hex(0x1000)));
        assert_eq!(
            record.summary,
            "multi-bit ECC memory error, uncorrected, action optional, at 0x1234567880"
        );
    }

    proptest! {
        #[test]
        fn fields_come_back(
            valid in 0u64..1 << 22,
            (node, card, module, bank) in any::<(u16, u16, u16, u16)>(),
            (device, row, column, rank, bit) in any::<(u16, u32, u32, u16, u16)>(),
            chip in any::<u8>(),
        ) {
            let body = body::<MemoryError2>(|body| {
                body.validation_bits = U64::new(valid);
                body.node = U16::new(node);
                body.card = U16::new(card);
                body.module = U16::new(module);
                body.bank = U16::new(bank);
                body.device = U32::new(device.into());
                body.row = U32::new(row);
                body.column = U32::new(column);
                body.rank = U32::new(rank.into());
                body.bit_position = U32::new(bit.into());
                body.chip_identification = chip;
            });
            let record = decoded(SECTION_TYPE, 2, &body);
            let is = |bit: u32| valid >> bit & 1 == 1;
            let dimm = &record.location.dimm;
            prop_assert_eq!(dimm.node, is(3).then_some(node));
            prop_assert_eq!(dimm.card, is(4).then_some(card));
            prop_assert_eq!(dimm.module, is(5).then_some(module));
            prop_assert_eq!(dimm.device, is(7).then_some(device));
            prop_assert_eq!(dimm.row, is(8).then_some(row));
            prop_assert_eq!(dimm.column, is(9).then_some(column));
            prop_assert_eq!(dimm.rank, is(10).then_some(rank));
            prop_assert_eq!(dimm.bit_position, is(11).then_some(bit));
            prop_assert_eq!(dimm.chip, is(12).then_some(chip));
            let [low, high] = bank.to_le_bytes();
            prop_assert_eq!(dimm.bank_group, is(20).then_some(high));
            prop_assert_eq!(dimm.bank, match is(20) || is(21) {
                true => is(21).then_some(low.into()),
                false => is(6).then_some(bank),
            });
        }
    }
}
