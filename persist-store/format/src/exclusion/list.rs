//! The list as firmware reads it. Every copy is whole in itself: variables and files hold one each.

use alloc::vec::Vec;

use ras_core::{Pfn, PfnRange};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::seal::{is_sealed, seal};
use super::{BadRange, Badness, ENTRY_PAGES_MAX, Limits, PFN_BITS, end, pack, unpack};

/// Version this crate writes. A reader refuses another major version and reads any minor one.
const VERSION: (u16, u16) = (1, 0);

/// Entries of the longest list: firmware has to hold it, and a plan takes some 200 of them.
pub const ENTRIES_MAX: usize = 1 << 16;

/// Bytes before the entries, as this version writes them.
pub const HEADER_SIZE: usize = size_of::<RawList>();

/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 8;

/// Bytes of the longest list this version writes.
pub const LIST_SIZE_MAX: usize = HEADER_SIZE + ENTRIES_MAX * ENTRY_SIZE;

const MAGIC: [u8; 8] = *b"RASXLIST";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawList {
    magic: [u8; 8],
    /// CRC32C of everything behind it.
    checksum: U32,
    major: U16,
    minor: U16,
    /// Bytes of the whole copy.
    length: U32,
    /// Bytes before the first entry: a newer minor version may have more fields.
    header_size: U16,
    reserved: U16,
    generation: U64,
    map_epoch: U64,
    ranges_max: U32,
    left_over_ranges: U32,
    bytes_max: U64,
    left_over_pages: U64,
}
const _: () = assert!(size_of::<RawList>() == 64);

/// Pages to exclude, and how far to go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List {
    /// Grows with every change; the copy with the highest one is the list.
    pub generation: u64,
    /// Digest of how addresses map to DIMMs, as of when the list was written; 0 where unknown. Firmware
    /// passes it on to the outcome and makes nothing of it.
    pub map_epoch: u64,
    /// How far to go. The reader has bounds of its own.
    pub limits: Limits,
    /// What the writer already left out.
    pub left_over: LeftOver,
    /// What to exclude, in any order; overlaps do no harm.
    pub ranges: Vec<BadRange>,
}

/// Listed pages that are not excluded: the running kernel's job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOver {
    /// Runs of neighbouring pages.
    pub ranges: u32,
    /// Pages.
    pub pages: u64,
}

/// Why a copy is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListDamage {
    /// Not a list, or cut short.
    #[error("no list begins here")]
    NoList,
    /// Its checksum or a length in it is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// It is sound, and of a major version this reader does not know.
    #[error("it is of version {0}")]
    Version(u16),
}

/// More than [`ENTRIES_MAX`] entries, or a frame number beyond [`PFN_BITS`] bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a list has at most {ENTRIES_MAX} entries, and frames of {PFN_BITS} bits")]
pub struct ListTooLong;

impl List {
    /// One copy. Ranges longer than [`ENTRY_PAGES_MAX`] pages become several entries.
    ///
    /// # Errors
    /// See [`ListTooLong`]: a longer list is cut down by [`plan`](super::plan) first.
    pub fn encode(&self) -> Result<Vec<u8>, ListTooLong> {
        let mut entries = Vec::new();
        for range in &self.ranges {
            if end(range.pages) > 1 << PFN_BITS || range.pages.count == 0 {
                return Err(ListTooLong);
            }
            let (mut start, mut left) = (range.pages.start.0, range.pages.count);
            while left > 0 {
                let count = left.min(ENTRY_PAGES_MAX);
                entries.push(pack(PfnRange { start: Pfn(start), count }, range.badness.0));
                if entries.len() > ENTRIES_MAX {
                    return Err(ListTooLong);
                }
                (start, left) = (start + count, left - count);
            }
        }
        let length = HEADER_SIZE + entries.len() * ENTRY_SIZE;
        let raw = RawList {
            magic: MAGIC,
            checksum: U32::ZERO,
            major: VERSION.0.into(),
            minor: VERSION.1.into(),
            length: u32::try_from(length).map_err(|_| ListTooLong)?.into(),
            header_size: u16::try_from(HEADER_SIZE).map_err(|_| ListTooLong)?.into(),
            reserved: U16::ZERO,
            generation: self.generation.into(),
            map_epoch: self.map_epoch.into(),
            ranges_max: self.limits.ranges_max.into(),
            left_over_ranges: self.left_over.ranges.into(),
            bytes_max: self.limits.bytes_max.into(),
            left_over_pages: self.left_over.pages.into(),
        };
        let mut copy = Vec::with_capacity(length);
        copy.extend_from_slice(raw.as_bytes());
        for entry in entries {
            copy.extend_from_slice(&entry.to_le_bytes());
        }
        Ok(seal(copy))
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// It is damaged or of another version.
    pub fn decode(copy: &[u8]) -> Result<Self, ListDamage> {
        Checked::new(copy).map(|checked| checked.list())
    }
}

/// A copy whose checksum holds.
struct Checked<'a> {
    raw: &'a RawList,
    entries: &'a [u8],
}

impl<'a> Checked<'a> {
    fn new(copy: &'a [u8]) -> Result<Self, ListDamage> {
        let (raw, _) = RawList::ref_from_prefix(copy).map_err(|_| ListDamage::NoList)?;
        if raw.magic != MAGIC {
            return Err(ListDamage::NoList);
        }
        if !is_sealed(copy, raw.length.get(), raw.checksum.get()) {
            return Err(ListDamage::Checksum);
        }
        if raw.major.get() != VERSION.0 {
            return Err(ListDamage::Version(raw.major.get()));
        }
        // A sound checksum over a header that contradicts itself: somebody else's mistake.
        let header_size = usize::from(raw.header_size.get());
        let entries = copy.get(header_size..).ok_or(ListDamage::Checksum)?;
        if header_size < HEADER_SIZE
            || entries.len() % ENTRY_SIZE != 0
            || entries.len() / ENTRY_SIZE > ENTRIES_MAX
        {
            return Err(ListDamage::Checksum);
        }
        Ok(Self { raw, entries })
    }

    fn list(&self) -> List {
        let entries = self.entries.chunks_exact(ENTRY_SIZE).filter_map(|entry| {
            let (pages, badness) = unpack(u64::from_le_bytes(entry.try_into().ok()?));
            Some(BadRange { pages, badness: Badness(badness) })
        });
        List {
            generation: self.raw.generation.get(),
            map_epoch: self.raw.map_epoch.get(),
            limits: Limits {
                ranges_max: self.raw.ranges_max.get(),
                bytes_max: self.raw.bytes_max.get(),
            },
            left_over: LeftOver {
                ranges: self.raw.left_over_ranges.get(),
                pages: self.raw.left_over_pages.get(),
            },
            ranges: entries.collect(),
        }
    }
}

/// What was found in the places a list can be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// The newest sound copy, and which of the places it was in.
    pub chosen: Option<(usize, List)>,
    /// Places with a copy that can't be used.
    pub damaged: Vec<(usize, ListDamage)>,
}

/// The list, of all copies found: the newest sound one; of equally new ones the first. A place without
/// a copy is `None`.
pub fn choose<'a>(copies: impl IntoIterator<Item = Option<&'a [u8]>>) -> Choice {
    let mut newest: Option<(usize, Checked<'a>)> = None;
    let mut damaged = Vec::new();
    for (place, copy) in copies.into_iter().enumerate() {
        match copy.map(Checked::new) {
            None => {}
            Some(Err(damage)) => damaged.push((place, damage)),
            Some(Ok(copy)) => {
                let known = newest.as_ref().map(|(_, known)| known.raw.generation.get());
                if known.is_none_or(|known| copy.raw.generation.get() > known) {
                    newest = Some((place, copy));
                }
            }
        }
    }
    Choice { chosen: newest.map(|(place, copy)| (place, copy.list())), damaged }
}
