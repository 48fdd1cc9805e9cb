//! Where everything lies: the file header, the blocks and their two copies, the witness.
//! `persist-store/FORMAT.md` has the pictures and the reasons.

use alloc::vec;
use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc32c;
use crate::entry::{LINE_MAX, NAME_MAX, RECORD_HEADER_SIZE};

/// Unit of writing, in bytes. A physical sector of today's media: an acknowledged block is never
/// touched by the write of a later one.
pub const BLOCK_SIZE: usize = 4096;

/// Copies of every block and of the file header.
pub const COPIES: u64 = 2;

/// Version this crate writes. A reader refuses another major version and reads any minor one.
pub const VERSION: (u16, u16) = (1, 1);

/// Longest journal this format allows, in bytes. Some half a million pages; a reader can hold it.
pub const JOURNAL_SIZE_MAX: u64 = 256 << 20;

const HEADER_MAGIC: [u8; 8] = *b"RASPAGES";
const BLOCK_MAGIC: [u8; 4] = *b"RASB";
const WITNESS_MAGIC: [u8; 8] = *b"RASWITNS";

/// The file header, twice: block 0 and block 1. Its magic, checksum and version keep their places in
/// every version to come, so that "newer" is never mistaken for "damaged".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    /// CRC32C of the rest of the 4096 bytes.
    checksum: U32,
    major: U16,
    minor: U16,
    generation: U64,
    segment_blocks: U32,
}
const _: () = assert!(size_of::<RawHeader>() == 28);

/// At the start of each block; the records follow, then zeros.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawBlock {
    magic: [u8; 4],
    /// CRC32C of the rest of the 4096 bytes.
    checksum: U32,
    generation: U64,
    number: U64,
    commit_start: U64,
    commit_blocks: U32,
    /// Bytes of records.
    used: U16,
    reserved: U16,
}
const _: () = assert!(size_of::<RawBlock>() == 40);

/// The whole witness file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawWitness {
    magic: [u8; 8],
    /// CRC32C of the rest.
    checksum: U32,
    reserved: U32,
    generation: U64,
    blocks: U64,
}
const _: () = assert!(size_of::<RawWitness>() == 32);

const HEADER_CHECKED_FROM: usize = 12;
const BLOCK_CHECKED_FROM: usize = 8;
const WITNESS_CHECKED_FROM: usize = 12;

/// Bytes of records a block holds. A record never spans blocks.
pub const PAYLOAD_SIZE: usize = BLOCK_SIZE - size_of::<RawBlock>();

// The largest thing to be said, a page with its module and its origin, every field at its limit, fits
// in one block.
const PAGE_RECORD_SIZE_MAX: usize =
    RECORD_HEADER_SIZE + 32 + (2 + 14 * 4) + (2 + NAME_MAX as usize) + 2 * (2 + LINE_MAX as usize);
const DIMM_RECORD_SIZE_MAX: usize = RECORD_HEADER_SIZE + 16 + 5 * (2 + NAME_MAX as usize);
const ORIGIN_RECORD_SIZE_MAX: usize = RECORD_HEADER_SIZE + 17 + 8 + 8 + 2 + 1 + 7;
const _: () =
    assert!(PAGE_RECORD_SIZE_MAX + DIMM_RECORD_SIZE_MAX + ORIGIN_RECORD_SIZE_MAX <= PAYLOAD_SIZE);

/// What the file header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Minor version of the newest writer.
    pub minor: u16,
    /// Number of this journal; grows with every rewrite, so that bytes of an older one are never
    /// taken for its own.
    pub generation: u64,
    /// Where its blocks are.
    pub geometry: Geometry,
}

/// A header whose checksum holds.
#[derive(Clone, Copy)]
pub(crate) enum CheckedHeader {
    Ours(Header),
    OtherMajor(u16),
}

impl Header {
    /// One copy of the header, a whole block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK_SIZE];
        let mut raw = RawHeader {
            magic: HEADER_MAGIC,
            checksum: U32::ZERO,
            major: VERSION.0.into(),
            minor: self.minor.into(),
            generation: self.generation.into(),
            segment_blocks: self.geometry.segment_blocks.into(),
        };
        block[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        raw.checksum = crc32c(&block[HEADER_CHECKED_FROM..]).into();
        block[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        block
    }

    pub(crate) fn check(block: &[u8]) -> Option<CheckedHeader> {
        let (raw, _) = RawHeader::ref_from_prefix(block).ok()?;
        let checked = block.get(HEADER_CHECKED_FROM..BLOCK_SIZE)?;
        if raw.magic != HEADER_MAGIC || raw.checksum.get() != crc32c(checked) {
            return None;
        }
        if raw.major.get() != VERSION.0 {
            return Some(CheckedHeader::OtherMajor(raw.major.get()));
        }
        let geometry = Geometry::new(raw.segment_blocks.get())?;
        let (minor, generation) = (raw.minor.get(), raw.generation.get());
        Some(CheckedHeader::Ours(Self { minor, generation, geometry }))
    }
}

/// Where blocks are. After the two headers the file is a row of segments; each has room for
/// `segment_blocks` blocks and then for their second copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    segment_blocks: u32,
}

impl Geometry {
    /// Segments of 1 MiB: the file grows once per 128 blocks.
    pub const DEFAULT: Self = Self { segment_blocks: 128 };

    /// `None` unless `segment_blocks` is from 1 to 16384 (128 MiB per segment).
    #[must_use]
    pub const fn new(segment_blocks: u32) -> Option<Self> {
        match segment_blocks {
            1..=16_384 => Some(Self { segment_blocks }),
            _ => None,
        }
    }

    /// Blocks per segment.
    #[must_use]
    pub const fn segment_blocks(self) -> u64 {
        self.segment_blocks as u64
    }

    /// Blocks the whole segments of a file of `size` bytes hold.
    #[must_use]
    pub const fn capacity(self, size: u64) -> u64 {
        size.saturating_sub(self.size(0)) / self.segment_size() * self.segment_blocks()
    }

    /// Size in bytes of a file with room for at least `blocks` blocks, in whole segments. Saturates.
    #[must_use]
    pub const fn size(self, blocks: u64) -> u64 {
        let segments = blocks.div_ceil(self.segment_blocks());
        segments.saturating_mul(self.segment_size()).saturating_add(COPIES * BLOCK_SIZE as u64)
    }

    /// Byte offset of a copy (0 or 1) of a block. Saturates for numbers no file can have.
    #[must_use]
    pub const fn offset(self, number: u64, copy: u64) -> u64 {
        let (segment, index) = (number / self.segment_blocks(), number % self.segment_blocks());
        let block = segment
            .saturating_mul(COPIES * self.segment_blocks())
            .saturating_add(COPIES + copy * self.segment_blocks() + index);
        block.saturating_mul(BLOCK_SIZE as u64)
    }

    const fn segment_size(self) -> u64 {
        COPIES * self.segment_blocks() * BLOCK_SIZE as u64
    }
}

/// A block whose checksum holds.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) generation: u64,
    pub(crate) number: u64,
    pub(crate) commit_start: u64,
    pub(crate) commit_blocks: u64,
    pub(crate) records: &'a [u8],
}

impl<'a> Block<'a> {
    pub(crate) fn check(block: &'a [u8]) -> Option<Self> {
        let (raw, rest) = RawBlock::ref_from_prefix(block).ok()?;
        let checked = block.get(BLOCK_CHECKED_FROM..BLOCK_SIZE)?;
        if raw.magic != BLOCK_MAGIC || raw.checksum.get() != crc32c(checked) {
            return None;
        }
        Some(Self {
            generation: raw.generation.get(),
            number: raw.number.get(),
            commit_start: raw.commit_start.get(),
            commit_blocks: raw.commit_blocks.get().into(),
            records: rest.get(..usize::from(raw.used.get()))?,
        })
    }
}

/// The blocks of one commit, one after another: `records` packed in order from block `start` on.
/// `None` if a record is larger than a block or there are more than 2^32 blocks.
#[must_use]
pub fn encode_commit(generation: u64, start: u64, records: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = vec![Vec::new()];
    for record in records {
        if record.len() > PAYLOAD_SIZE {
            return None;
        }
        match payloads.last_mut() {
            Some(last) if last.len() + record.len() <= PAYLOAD_SIZE => last.extend(record),
            _ => payloads.push(record.clone()),
        }
    }
    let commit_blocks = U32::new(u32::try_from(payloads.len()).ok()?);
    let mut blocks = vec![0; payloads.len() * BLOCK_SIZE];
    for ((number, payload), block) in
        (start..).zip(&payloads).zip(blocks.chunks_exact_mut(BLOCK_SIZE))
    {
        let mut raw = RawBlock {
            magic: BLOCK_MAGIC,
            checksum: U32::ZERO,
            generation: generation.into(),
            number: number.into(),
            commit_start: start.into(),
            commit_blocks,
            used: u16::try_from(payload.len()).ok()?.into(),
            reserved: U16::ZERO,
        };
        let (head, body) = block.split_at_mut(size_of::<RawBlock>());
        body[..payload.len()].copy_from_slice(payload);
        head.copy_from_slice(raw.as_bytes());
        raw.checksum = crc32c(&block[BLOCK_CHECKED_FROM..]).into();
        block[..size_of::<RawBlock>()].copy_from_slice(raw.as_bytes());
    }
    Some(blocks)
}

/// What was acknowledged, in a file of its own that is written after each commit and not synced: a
/// lower bound. It tells the loss of an acknowledged commit from a commit that never finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The journal it speaks of.
    pub generation: u64,
    /// Blocks of that journal that were durable and acknowledged.
    pub blocks: u64,
}

impl Witness {
    /// The whole file.
    #[must_use]
    pub fn encode(&self) -> [u8; size_of::<RawWitness>()] {
        let mut raw = RawWitness {
            magic: WITNESS_MAGIC,
            checksum: U32::ZERO,
            reserved: U32::ZERO,
            generation: self.generation.into(),
            blocks: self.blocks.into(),
        };
        raw.checksum = crc32c(&raw.as_bytes()[WITNESS_CHECKED_FROM..]).into();
        zerocopy::transmute!(raw)
    }

    /// Blocks of the journal of this generation that are known to be durable.
    pub(crate) fn durable_blocks(witness: Option<Self>, generation: u64) -> u64 {
        witness.filter(|witness| witness.generation == generation).map_or(0, |it| it.blocks)
    }

    /// `None` where the file is damaged.
    #[must_use]
    pub fn decode(file: &[u8]) -> Option<Self> {
        let raw = RawWitness::ref_from_bytes(file).ok()?;
        let intact = raw.magic == WITNESS_MAGIC
            && raw.checksum.get() == crc32c(&file[WITNESS_CHECKED_FROM..]);
        intact.then_some(Self { generation: raw.generation.get(), blocks: raw.blocks.get() })
    }
}
