//! Platform Memory Error section. UEFI Specification, Appendix N, "Memory Error Section".

use alloc::string::String;
use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use ras_core::{
    AddressMode, Details, DimmLocation, ErrorAddress, ErrorClass, ErrorRecord, Guid, PAGE_SHIFT,
    PhysAddr, Problem, ProblemKind, Value,
};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fields, Section, error_status};
use crate::cper::names::{push_hex, push_number};
use crate::mca::findings::meaning;
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xa5bc_1114, 0x6f64, 0x4ede, [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1]);

/// The section's body since UEFI 2.3; before that it ended after `error_type`, at 73 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct MemoryError {
    /// See [`MemoryValid`].
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
    pub device: U16,
    /// Bits 15:0.
    pub row: U16,
    pub column: U16,
    pub bit_position: U16,
    pub requestor_id: U64,
    pub responder_id: U64,
    pub target_id: U64,
    pub error_type: u8,
    /// Bits 1:0: bits 17:16 of the row. Bits 7:5: chip of a stack.
    pub extended: u8,
    pub rank: U16,
    /// SMBIOS type 16 handle.
    pub card_handle: U16,
    /// SMBIOS type 17 handle.
    pub module_handle: U16,
}
const _: () = assert!(size_of::<MemoryError>() == 80);
const _: () = assert!(offset_of!(MemoryError, extended) == 73);

/// Which fields of [`MemoryError`] are valid.
#[bitfield(u64)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct MemoryValid {
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
    pub bit_position: bool,
    pub requestor_id: bool,
    pub responder_id: bool,
    pub target_id: bool,
    pub error_type: bool,
    pub rank: bool,
    pub card_handle: bool,
    pub module_handle: bool,
    pub extended_row: bool,
    pub bank_group: bool,
    pub bank_address: bool,
    pub chip_identification: bool,
    #[bits(42)]
    __: u64,
}

/// Fills in a record from the section. Fields that lie beyond the end of a short section count as
/// not valid, and are a problem if the validation bits claim them.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<MemoryError>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            super::field!(fields, MemoryError, $valid, $name)
        };
    }
    let valid = field!(true, validation_bits);
    let valid = MemoryValid::from_bits(valid.map_or(0, U64::get));
    let number = |value: Option<U16>| value.map(U16::get);

    let error_status = field!(valid.error_status(), error_status).map(U64::get);
    let error_type = field!(valid.error_type(), error_type).map(u64::from);
    let address = field!(valid.physical_address(), physical_address).map(U64::get);
    let mask = field!(valid.physical_address_mask(), physical_address_mask).map(U64::get);
    let grouped = valid.bank_group() || valid.bank_address();
    let bank = number(field!(valid.bank() || grouped, bank)).map(U16::new);
    let row = number(field!(valid.row(), row));
    let row_high = field!(valid.extended_row(), extended).map_or(0, |bits| bits & 3);
    let [bank_low, bank_high] = bank.unwrap_or_default().to_bytes();
    let dimm = DimmLocation {
        node: number(field!(valid.node(), node)),
        card: number(field!(valid.card(), card)),
        module: number(field!(valid.module(), module)),
        rank: number(field!(valid.rank(), rank)),
        bank_group: bank.filter(|_| valid.bank_group()).map(|_| bank_high),
        bank: match grouped {
            true => bank.filter(|_| valid.bank_address()).map(|_| bank_low.into()),
            false => bank.map(U16::get),
        },
        chip: field!(valid.chip_identification(), extended).map(|bits| bits >> 5),
        device: number(field!(valid.device(), device)),
        row: row.map(|row| u32::from(row) | u32::from(row_high) << 16),
        column: number(field!(valid.column(), column)).map(u32::from),
        bit_position: number(field!(valid.bit_position(), bit_position)),
        module_handle: number(field!(valid.module_handle(), module_handle)),
    };
    let other = Other {
        error_status,
        requestor_id: field!(valid.requestor_id(), requestor_id).map(U64::get),
        responder_id: field!(valid.responder_id(), responder_id).map(U64::get),
        target_id: field!(valid.target_id(), target_id).map(U64::get),
        card_handle: number(field!(valid.card_handle(), card_handle)).map(u32::from),
        module_handle: None,
    };
    fields.finish("memory", section, record);

    let mask_at = section.offset + offset_of!(MemoryError, physical_address_mask);
    fill(record, error_type, address, (mask, mask_at), &other);
    record.location.dimm = dimm;
}

/// What both memory sections say beside the place.
pub(super) struct Other {
    pub(super) error_status: Option<u64>,
    pub(super) requestor_id: Option<u64>,
    pub(super) responder_id: Option<u64>,
    pub(super) target_id: Option<u64>,
    pub(super) card_handle: Option<u32>,
    /// Where it does not fit the place.
    pub(super) module_handle: Option<u32>,
}

/// What both memory sections make of a record: class, address, summary, details. `mask` comes with
/// its offset in the input.
pub(super) fn fill(
    record: &mut ErrorRecord,
    error_type: Option<u64>,
    address: Option<u64>,
    (mask, mask_at): (Option<u64>, usize),
    other: &Other,
) {
    let lsb = address.map(|_| {
        let (lsb, problem) = granularity(mask, mask_at);
        record.problems.extend(problem);
        lsb
    });
    record.class = ErrorClass::Memory;
    record.address = address.zip(lsb).map(|(address, lsb)| ErrorAddress {
        addr: PhysAddr(address >> lsb << lsb),
        lsb,
        mode: AddressMode::Physical,
    });
    record.summary = summary(record, error_type, other.error_status);

    let details = &mut record.details;
    details.add_some("error_type", error_type.map(|code| Value::code(code, MEMORY_ERROR_TYPES)));
    if let Some(status) = other.error_status {
        error_status::add(details, status);
    }
    // The record's address has lost the bits below its granularity.
    let whole = address.filter(|address| record.address.map(|at| at.addr.0) != Some(*address));
    details.add_some("physical_address", whole.map(Value::Hex));
    details.add_some("physical_address_mask", mask.map(Value::Hex));
    details.add_some("requestor_id", other.requestor_id.map(Value::Hex));
    details.add_some("responder_id", other.responder_id.map(Value::Hex));
    details.add_some("target_id", other.target_id.map(Value::Hex));
    details.add_some("card_handle", other.card_handle.map(|handle| Value::Hex(handle.into())));
    details.add_some("module_handle", other.module_handle.map(|handle| Value::Hex(handle.into())));
}

fn summary(record: &ErrorRecord, error_type: Option<u64>, status: Option<u64>) -> String {
    let mut text = String::with_capacity(96);
    match error_type.map(|code| (code, meaning(MEMORY_ERROR_TYPES, code))) {
        None => text.push_str("memory error"),
        Some((_, Some(name))) => text.push_str(name),
        Some((code, None)) => {
            text.push_str("memory error of undefined type ");
            push_number(&mut text, code);
        }
    }
    if let Some(name) = status.and_then(error_status::name) {
        text.push_str(" (");
        text.push_str(name);
        text.push(')');
    }
    text.push_str(", ");
    text.push_str(phrase(record.severity));
    if let Some(address) = record.address {
        text.push_str(", at ");
        push_hex(&mut text, address.addr.0);
    }
    text
}

/// log2 of the bytes the address is good for: the lowest bit of its mask. Without a mask a page is
/// assumed, as Linux does; so it is for a mask of zero, which would make the whole address invalid.
fn granularity(mask: Option<u64>, at: usize) -> (u8, Option<Problem>) {
    let page = PAGE_SHIFT.to_le_bytes()[0];
    match mask {
        None => (page, None),
        Some(0) => {
            let detail = "address mask is zero, a page is assumed".into();
            let kind = ProblemKind::Inconsistent;
            (page, Some(Problem { offset: at as u64, kind, detail }))
        }
        Some(mask) => (mask.trailing_zeros().to_le_bytes()[0], None),
    }
}

/// UEFI Specification, Appendix N, "Memory Error Section" and "Memory Error Section 2", Memory Error
/// Type.
const MEMORY_ERROR_TYPES: &[(u64, &str)] = &[
    (0, "memory error of unknown type"),
    (1, "memory report without error"),
    (2, "single-bit ECC memory error"),
    (3, "multi-bit ECC memory error"),
    (4, "single-symbol chipkill ECC memory error"),
    (5, "multi-symbol chipkill ECC memory error"),
    (6, "memory master abort"),
    (7, "memory target abort"),
    (8, "memory parity error"),
    (9, "memory watchdog timeout"),
    (10, "invalid memory address"),
    (11, "memory mirror broken"),
    (12, "memory sparing"),
    (13, "memory error corrected by the scrubber"),
    (14, "memory error found by the scrubber, not correctable"),
    (15, "physical memory mapped out"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::detail;
    use crate::cper::{decode_record, tests::record};
    use alloc::vec::Vec;
    use proptest::prelude::*;
    use ras_core::Severity;
    use zerocopy::FromZeros;

    fn body(valid: u64, fill: impl FnOnce(&mut MemoryError)) -> MemoryError {
        let mut body = MemoryError::new_zeroed();
        body.validation_bits = U64::new(valid);
        fill(&mut body);
        body
    }

    fn decoded(severity: u32, bytes: &[u8]) -> ErrorRecord {
        let mut decoded = decode_record(&record(&[(SECTION_TYPE, severity, bytes.to_vec())]));
        assert_eq!(decoded.records.len(), 1);
        decoded.records.remove(0)
    }

    #[test]
    fn every_field() {
        let body = body((1 << 22) - 1, |body| {
            body.error_status = U64::new(4 << 8 | 1 << 18);
            body.physical_address = U64::new(0x12_3456_789a);
            body.physical_address_mask = U64::new(!0x3f);
            body.node = U16::new(1);
            body.card = U16::new(2);
            body.module = U16::new(3);
            body.bank = U16::new(0x0205);
            body.device = U16::new(7);
            body.row = U16::new(0x8001);
            body.column = U16::new(0x3f8);
            body.bit_position = U16::new(13);
            body.error_type = 2;
            body.extended = 0x42;
            body.rank = U16::new(1);
            body.requestor_id = U64::new(0x1_0000_0001);
            body.card_handle = U16::new(0x1000);
            body.module_handle = U16::new(0x1100);
        });
        let record = decoded(2, body.as_bytes());
        assert_eq!(record.problems, []);
        assert_eq!(record.severity, Severity::Corrected);
        assert_eq!(
            record.location.dimm,
            DimmLocation {
                node: Some(1),
                card: Some(2),
                module: Some(3),
                rank: Some(1),
                bank_group: Some(2),
                bank: Some(5),
                chip: Some(2),
                device: Some(7),
                row: Some(0x2_8001),
                column: Some(0x3f8),
                bit_position: Some(13),
                module_handle: Some(0x1100),
            }
        );
        assert_eq!(
            record.summary,
            "single-bit ECC memory error (storage in DRAM), corrected, at 0x1234567880"
        );
        assert_eq!(record.pages().map(|pages| (pages.start.0, pages.count)), Some((0x123_4567, 1)));
        assert_eq!(
            detail(&record, "error_status_type"),
            Some(&Value::code(4, &[(4, "storage in DRAM")]))
        );
        assert_eq!(detail(&record, "error_status_bits.0"), Some(&Value::from("data")));
        assert_eq!(detail(&record, "physical_address"), Some(&Value::Hex(0x12_3456_789a)));
        assert_eq!(detail(&record, "physical_address_mask"), Some(&Value::Hex(!0x3f)));
        assert_eq!(detail(&record, "requestor_id"), Some(&Value::Hex(0x1_0000_0001)));
        assert_eq!(detail(&record, "card_handle"), Some(&Value::Hex(0x1000)));
    }

    #[test]
    fn nothing_valid_is_nothing_known() {
        let record = decoded(1, body(0, |body| body.row = U16::new(9)).as_bytes());
        assert_eq!(record.location.dimm, DimmLocation::default());
        assert_eq!((record.address, record.severity), (None, Severity::Fatal));
        assert_eq!(record.summary, "memory error, fatal");
    }

    #[test]
    fn a_plain_bank_has_no_group() {
        let dimm = |valid| {
            let body = body(valid, |body| body.bank = U16::new(0x0205));
            let dimm = decoded(2, body.as_bytes()).location.dimm;
            (dimm.bank_group, dimm.bank)
        };
        assert_eq!(dimm(1 << 6), (None, Some(0x205)));
        assert_eq!(dimm(1 << 19), (Some(2), None));
        assert_eq!(dimm(1 << 20), (None, Some(5)));
        assert_eq!(dimm(1 << 6 | 1 << 19 | 1 << 20), (Some(2), Some(5)));
    }

    #[test]
    fn the_mask_is_the_granularity() {
        let check = |valid, mask, expected| {
            let body = body(valid, |body| {
                body.physical_address = U64::new(0xffff_ffff);
                body.physical_address_mask = U64::new(mask);
            });
            let record = decoded(0, body.as_bytes());
            assert_eq!(record.address.map(|a| (a.addr.0, a.lsb)), Some(expected));
            record.problems
        };
        assert!(check(2, 0, (0xffff_f000, 12)).is_empty());
        assert!(check(6, u64::MAX, (0xffff_ffff, 0)).is_empty());
        assert!(check(6, !0xfff, (0xffff_f000, 12)).is_empty());
        assert!(check(6, 0xffff_0000, (0xffff_0000, 16)).is_empty());
        assert!(check(6, 1 << 63, (0, 63)).is_empty());
        assert_eq!(check(6, 0, (0xffff_f000, 12))[0].offset, 200 + 24);
    }

    #[test]
    fn the_short_form_has_no_extended_fields() {
        let body = body((1 << 18) - 1, |body| {
            body.error_type = 3;
            body.physical_address_mask = U64::new(u64::MAX);
        });
        let record = decoded(0, &body.as_bytes()[..73]);
        let lacking: Vec<_> =
            record.problems.iter().map(|p| (p.offset, p.detail.as_str())).collect();
        assert_eq!(
            lacking,
            [(273, "memory section of 73 bytes lacks rank, module_handle, card_handle")]
        );
        assert!(record.summary.starts_with("multi-bit ECC memory error"));
        assert_eq!(record.location.dimm.rank, None);
        assert!(record.address.is_some());
    }

    #[test]
    fn a_tiny_section_is_a_problem() {
        for len in 0..8 {
            let record = decoded(0, &[0xff; 8][..len]);
            assert_eq!(record.problems.len(), 1, "{len}");
            assert_eq!(record.address, None);
        }
    }

    #[test]
    fn undefined_values_keep_their_number() {
        let body = body(1 | 1 << 14, |body| {
            body.error_type = 99;
            body.error_status = U64::new(200 << 8);
        });
        assert_eq!(
            decoded(7, body.as_bytes()).summary,
            "memory error of undefined type 99, severity unknown"
        );
    }

    proptest! {
        #[test]
        fn what_was_built_is_decoded(
            valid in 0u64..1 << 22, severity in 0u32..4, address: u64, mask in 1u64..,
            shorts: [u16; 10], error_type: u8, extended: u8,
        ) {
            let [node, card, module, bank, device, row, column, bit, rank, handle] = shorts;
            let body = body(valid, |body| {
                body.physical_address = U64::new(address);
                body.physical_address_mask = U64::new(mask);
                body.node = U16::new(node);
                body.card = U16::new(card);
                body.module = U16::new(module);
                body.bank = U16::new(bank);
                body.device = U16::new(device);
                body.row = U16::new(row);
                body.column = U16::new(column);
                body.bit_position = U16::new(bit);
                body.error_type = error_type;
                body.extended = extended;
                body.rank = U16::new(rank);
                body.module_handle = U16::new(handle);
            });
            let record = decoded(severity, body.as_bytes());
            let is = |bit: u32| valid >> bit & 1 == 1;
            let dimm = &record.location.dimm;
            prop_assert_eq!(&record.problems, &[]);
            prop_assert_eq!(dimm.node, is(3).then_some(node));
            prop_assert_eq!(dimm.card, is(4).then_some(card));
            prop_assert_eq!(dimm.module, is(5).then_some(module));
            prop_assert_eq!(dimm.device, is(7).then_some(device));
            prop_assert_eq!(dimm.column, is(9).then_some(column.into()));
            prop_assert_eq!(dimm.bit_position, is(10).then_some(bit));
            prop_assert_eq!(dimm.rank, is(15).then_some(rank));
            prop_assert_eq!(dimm.module_handle, is(17).then_some(handle));
            let high = if is(18) { u32::from(extended & 3) << 16 } else { 0 };
            prop_assert_eq!(dimm.row, is(8).then_some(high | u32::from(row)));
            let lsb = if is(2) { mask.trailing_zeros() } else { 12 };
            prop_assert_eq!(
                record.address.map(|a| (a.addr.0, u32::from(a.lsb))),
                is(1).then_some((address >> lsb << lsb, lsb))
            );
        }

        #[test]
        fn any_body_is_one_record(bytes in proptest::collection::vec(any::<u8>(), 0..100), severity: u32) {
            let record = decoded(severity, &bytes);
            prop_assert_eq!(record.class, ErrorClass::Memory);
            prop_assert!(!record.summary.is_empty());
        }
    }
}
