//! The frame of a CPER record, and our own record in it: a part of a list in ACPI's error record
//! store. UEFI Specification, Appendix N; `persist-store/FORMAT.md`, "Records of the list".

use alloc::vec::Vec;

use ras_core::Guid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "Record Header".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) signature: [u8; 4],
    pub(crate) revision: U16,
    pub(crate) signature_end: [u8; 4],
    pub(crate) section_count: U16,
    pub(crate) error_severity: U32,
    pub(crate) validation_bits: U32,
    pub(crate) record_length: U32,
    pub(crate) timestamp: [u8; 8],
    pub(crate) platform_id: [u8; 16],
    pub(crate) partition_id: [u8; 16],
    pub(crate) creator_id: [u8; 16],
    pub(crate) notification_type: [u8; 16],
    pub(crate) record_id: U64,
    pub(crate) flags: U32,
    pub(crate) persistence_information: [u8; 8],
    pub(crate) reserved: [u8; 12],
}
const _: () = assert!(size_of::<RawHeader>() == 128);

/// "Section Descriptor".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDescriptor {
    pub(crate) section_offset: U32,
    pub(crate) section_length: U32,
    pub(crate) revision: U16,
    pub(crate) validation_bits: u8,
    pub(crate) reserved: u8,
    pub(crate) flags: U32,
    pub(crate) section_type: [u8; 16],
    pub(crate) fru_id: [u8; 16],
    pub(crate) section_severity: U32,
    pub(crate) fru_text: [u8; 20],
}
const _: () = assert!(size_of::<RawDescriptor>() == 72);

/// Signature of a record.
pub(crate) const SIGNATURE: [u8; 4] = *b"CPER";

/// What Linux' `erst_write` puts into the persistence information of every record.
pub(crate) const PERSISTENCE: [u8; 8] = *b"ER\0\0\0\0\0\0";

/// Creator of our records. It must not be FMPM's or pstore's: those erase what they can't use.
pub const CREATOR: Guid =
    Guid::new(0x44d1_f536, 0x5507, 0x4a94, [0xbd, 0xf2, 0xa9, 0x74, 0xe8, 0x77, 0x4e, 0x43]);

/// Type of the section with a part of an image.
pub const SECTION: Guid =
    Guid::new(0xf167_88b1, 0xfcea, 0x46ea, [0x8c, 0x8c, 0x8e, 0x0a, 0x7e, 0x63, 0x56, 0xc8]);

/// Numbers of our records begin here. Linux counts its own up from seconds since 1970, shifted by 32
/// bits, and sets bit 63 only beyond 2038, with bit 62 clear for the next centuries.
pub const ID_BASE: u64 = 0xf252_4153_5047_0000;

/// "Severity": informational.
const INFORMATIONAL: u32 = 3;

/// `CPER_HW_ERROR_FLAGS_PREVERR`: it speaks of earlier errors.
const PREVIOUS: u32 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPart {
    header: RawHeader,
    descriptor: RawDescriptor,
    copy: U16,
    number: U16,
    count: U16,
    reserved: U16,
}

/// Whose a record is that is no [`Part`] any more, as far as its header still says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wreck {
    /// Of this copy.
    Of(u8),
    /// One of ours, of whichever copy.
    Ours,
}

impl Wreck {
    /// `None` where the record is another program's.
    #[must_use]
    pub fn of(record: &[u8]) -> Option<Self> {
        let (header, _) = RawHeader::ref_from_prefix(record).ok()?;
        let [number, copy, high @ ..] = header.record_id.get().to_le_bytes();
        let [_, _, base @ ..] = ID_BASE.to_le_bytes();
        match high == base && copy < 2 && number < 0xf0 {
            true => Some(Self::Of(copy)),
            false => (header.creator_id == CREATOR.0).then_some(Self::Ours),
        }
    }
}

/// Bytes of a record before its share of the image.
pub const PART_OVERHEAD: usize = size_of::<RawPart>();
const SECTION_AT: usize = size_of::<RawHeader>() + size_of::<RawDescriptor>();

/// A share of one copy of an [`Image`](crate::Image), in a record of its own. It has no checksum: the
/// image has one over all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// Copy 0 or 1.
    pub copy: u8,
    /// Which part, from 0.
    pub number: u8,
    /// How many there are.
    pub count: u8,
    /// The share.
    pub bytes: &'a [u8],
}

impl<'a> Part<'a> {
    /// The record's number in the store: one for each part of each copy.
    #[must_use]
    pub fn id(&self) -> u64 {
        ID_BASE | u64::from(self.copy) << 8 | u64::from(self.number)
    }

    /// The whole record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = |bytes: usize| U32::new(u32::try_from(bytes).unwrap_or(u32::MAX));
        let raw = RawPart {
            header: RawHeader {
                signature: SIGNATURE,
                revision: 0x101.into(),
                signature_end: [0xff; 4],
                section_count: 1.into(),
                error_severity: INFORMATIONAL.into(),
                validation_bits: U32::ZERO,
                record_length: length(PART_OVERHEAD + self.bytes.len()),
                timestamp: [0; 8],
                platform_id: [0; 16],
                partition_id: [0; 16],
                creator_id: CREATOR.0,
                notification_type: [0; 16],
                record_id: self.id().into(),
                flags: PREVIOUS.into(),
                persistence_information: PERSISTENCE,
                reserved: [0; 12],
            },
            descriptor: RawDescriptor {
                section_offset: length(SECTION_AT),
                section_length: length(PART_OVERHEAD - SECTION_AT + self.bytes.len()),
                revision: 0x100.into(),
                validation_bits: 0,
                reserved: 0,
                flags: 1.into(),
                section_type: SECTION.0,
                fru_id: [0; 16],
                section_severity: INFORMATIONAL.into(),
                fru_text: [0; 20],
            },
            copy: u16::from(self.copy).into(),
            number: u16::from(self.number).into(),
            count: u16::from(self.count).into(),
            reserved: U16::ZERO,
        };
        let mut record = Vec::with_capacity(PART_OVERHEAD + self.bytes.len());
        record.extend(raw.as_bytes());
        record.extend(self.bytes);
        record
    }

    /// Our part in a record of the store; `None` where it is another program's, or not exactly what
    /// [`Self::encode`] makes: then it was damaged, and so is the copy that lacks it.
    #[must_use]
    pub fn decode(record: &'a [u8]) -> Option<Self> {
        let (raw, bytes) = RawPart::ref_from_prefix(record).ok()?;
        let narrow = |number: U16| u8::try_from(number.get()).ok();
        let part = Self {
            copy: narrow(raw.copy)?,
            number: narrow(raw.number)?,
            count: narrow(raw.count)?,
            bytes,
        };
        (part.encode() == record).then_some(part)
    }
}
