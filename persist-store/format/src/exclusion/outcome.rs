//! What the driver did: a record in a volatile variable, for whoever runs later in the same boot.

use alloc::vec::Vec;

use ras_core::PfnRange;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::seal::{is_sealed, seal};
use super::{LeftOver, pack, unpack};

/// Version this crate writes. A reader refuses another major version and reads any minor one.
const VERSION: (u16, u16) = (1, 0);

/// Runs of pages whose fate is told one by one: those that were not simply excluded, the first of them.
pub const DETAILS_MAX: usize = 128;

/// Bytes of the longest record this version writes.
pub const OUTCOME_SIZE_MAX: usize = size_of::<RawOutcome>() + DETAILS_MAX * DETAIL_SIZE;

const DETAIL_SIZE: usize = 8;
const MAGIC: [u8; 8] = *b"RASXDONE";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawOutcome {
    magic: [u8; 8],
    /// CRC32C of everything behind it.
    checksum: U32,
    major: U16,
    minor: U16,
    /// Bytes of the whole record.
    length: U32,
    /// Bytes before the first detail.
    header_size: U16,
    flags: U16,
    /// One more than the place of the list used; 0 for none.
    source: u8,
    clock: u8,
    reserved: [u8; 2],
    copies: [u8; 4],
    generation: U64,
    map_epoch: U64,
    listed_pages: U64,
    excluded_pages: U64,
    filler_pages: U64,
    handed_over_pages: U64,
    kept_pages: U64,
    absent_pages: U64,
    refused_pages: U64,
    left_over_pages: U64,
    listed_ranges: U32,
    excluded_ranges: U32,
    left_over_ranges: U32,
    total_us: U32,
    read_us: U32,
    exclude_us: U32,
}
const _: () = assert!(size_of::<RawOutcome>() == 136);

const FLAG_OUT_OF_TIME: u16 = 1;
const FLAG_LIMITED: u16 = 2;

/// What became of the list at this boot. Pages are counted once: those of the plan are `excluded`, `handed_over`,
/// `kept`, `absent` or `refused`; the listed rest is `left_over`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Which place the list was in, as in [`Self::copies`]; `None` where there was none to use.
    pub source: Option<u8>,
    /// The two variables, then the two files.
    pub copies: [CopyState; 4],
    /// The list's generation; 0 without a list.
    pub generation: u64,
    /// The list's map epoch; 0 where unknown.
    pub map_epoch: u64,
    /// Entries of the list.
    pub listed_ranges: u32,
    /// Pages of the list.
    pub listed_pages: u64,
    /// Separate ranges that are now unusable memory.
    pub excluded_ranges: u32,
    /// Pages in them.
    pub excluded_pages: u64,
    /// Of those, pages nobody listed.
    pub filler_pages: u64,
    /// Pages the firmware uses until the operating system starts, entered in Linux' table of reservations.
    pub handed_over_pages: u64,
    /// Pages that never become ordinary memory: reserved, run time services, tables, unusable already.
    pub kept_pages: u64,
    /// Pages that are no memory on this machine.
    pub absent_pages: u64,
    /// Pages that could not be had: ordinary memory to any operating system.
    pub refused_pages: u64,
    /// Listed pages beyond the limits, the writer's and the driver's: ordinary memory, too.
    pub left_over: LeftOver,
    /// The driver stopped at its deadline; what it had not come to counts as refused.
    pub out_of_time: bool,
    /// The list asked for more than the driver's own bounds allow.
    pub limited: bool,
    /// How long it took.
    pub times: Times,
    /// Pages that were not simply excluded, in order of frames; at most [`DETAILS_MAX`] runs.
    pub details: Vec<Detail>,
}

/// The driver's own time, up to the writing of the outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// What was used to measure.
    pub clock: Clock,
    /// All of it, in microseconds.
    pub total_us: u32,
    /// Of that, reading the copies of the list.
    pub read_us: u32,
    /// Of that, taking pages out of the map.
    pub exclude_us: u32,
}

/// What the driver measured time with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Clock {
    /// Nothing it had could be trusted: times are 0, and there was no deadline.
    #[default]
    None,
    /// The firmware's timestamp protocol (UEFI 2.10, section 39.1).
    Timestamp,
    /// The processor's time-stamp counter, its rate measured against a stall of the firmware's.
    Tsc,
    /// A number of a newer version.
    Other(u8),
}

/// What was found in a place a list can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyState {
    /// Nothing.
    #[default]
    Absent,
    /// A list.
    Sound,
    /// Something that is no list, or a damaged one.
    Damaged,
    /// A list of another major version.
    OtherVersion,
    /// The firmware could not read it.
    Unreadable,
    /// A number of a newer version.
    Other(u8),
}

/// What became of some pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detail {
    /// Which.
    pub pages: PfnRange,
    /// What.
    pub fate: Fate,
}

/// What became of pages that were not simply excluded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// See [`Outcome::handed_over_pages`].
    HandedOver,
    /// See [`Outcome::kept_pages`].
    Kept,
    /// See [`Outcome::absent_pages`].
    Absent,
    /// See [`Outcome::refused_pages`].
    Refused,
    /// A number of a newer version.
    Other(u8),
}

/// Why a record of an outcome can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OutcomeDamage {
    /// No such record, or a damaged one.
    #[error("no sound record of an outcome")]
    Damaged,
    /// A sound record of a major version this reader does not know.
    #[error("a record of version {0}")]
    Version(u16),
}

/// Codes of an open set of values, in both directions.
macro_rules! codes {
    ($name:ident { $($code:literal => $variant:ident),* $(,)? }) => {
        impl $name {
            const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code }
            }
            const fn of(code: u8) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Other(other) }
            }
        }
    };
}
codes!(Clock { 0 => None, 1 => Timestamp, 2 => Tsc });
codes!(CopyState { 0 => Absent, 1 => Sound, 2 => Damaged, 3 => OtherVersion, 4 => Unreadable });
codes!(Fate { 1 => HandedOver, 2 => Kept, 3 => Absent, 4 => Refused });

impl Outcome {
    /// Whether a copy of the list was found that can't be used. With [`Self::source`] the other one was
    /// used; without, nothing was excluded.
    #[must_use]
    pub fn found_damage(&self) -> bool {
        self.copies.iter().any(|copy| !matches!(copy, CopyState::Absent | CopyState::Sound))
    }

    /// The record. Details beyond [`DETAILS_MAX`] are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let details = self.details.get(..DETAILS_MAX).unwrap_or(&self.details);
        let length = size_of::<RawOutcome>() + details.len() * DETAIL_SIZE;
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(self.out_of_time, FLAG_OUT_OF_TIME) | flag(self.limited, FLAG_LIMITED);
        let raw = RawOutcome {
            magic: MAGIC,
            checksum: U32::ZERO,
            major: VERSION.0.into(),
            minor: VERSION.1.into(),
            // At most OUTCOME_SIZE_MAX.
            length: u32::try_from(length).unwrap_or(0).into(),
            header_size: u16::try_from(size_of::<RawOutcome>()).unwrap_or(0).into(),
            flags: flags.into(),
            source: self.source.map_or(0, |place| place.saturating_add(1)),
            clock: self.times.clock.code(),
            reserved: [0; 2],
            copies: self.copies.map(CopyState::code),
            generation: self.generation.into(),
            map_epoch: self.map_epoch.into(),
            listed_pages: self.listed_pages.into(),
            excluded_pages: self.excluded_pages.into(),
            filler_pages: self.filler_pages.into(),
            handed_over_pages: self.handed_over_pages.into(),
            kept_pages: self.kept_pages.into(),
            absent_pages: self.absent_pages.into(),
            refused_pages: self.refused_pages.into(),
            left_over_pages: self.left_over.pages.into(),
            listed_ranges: self.listed_ranges.into(),
            excluded_ranges: self.excluded_ranges.into(),
            left_over_ranges: self.left_over.ranges.into(),
            total_us: self.times.total_us.into(),
            read_us: self.times.read_us.into(),
            exclude_us: self.times.exclude_us.into(),
        };
        let mut record = Vec::with_capacity(length);
        record.extend_from_slice(raw.as_bytes());
        for detail in details {
            record.extend_from_slice(&pack(detail.pages, detail.fate.code()).to_le_bytes());
        }
        seal(record)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// It is damaged or of another version.
    pub fn decode(record: &[u8]) -> Result<Self, OutcomeDamage> {
        let (raw, _) = RawOutcome::ref_from_prefix(record).map_err(|_| OutcomeDamage::Damaged)?;
        if raw.magic != MAGIC || !is_sealed(record, raw.length.get(), raw.checksum.get()) {
            return Err(OutcomeDamage::Damaged);
        }
        if raw.major.get() != VERSION.0 {
            return Err(OutcomeDamage::Version(raw.major.get()));
        }
        let header_size = usize::from(raw.header_size.get());
        let details =
            record.get(header_size.max(size_of::<RawOutcome>())..).ok_or(OutcomeDamage::Damaged)?;
        let details = details.chunks_exact(DETAIL_SIZE).take(DETAILS_MAX).filter_map(|detail| {
            let (pages, fate) = unpack(u64::from_le_bytes(detail.try_into().ok()?));
            Some(Detail { pages, fate: Fate::of(fate) })
        });
        Ok(Self {
            source: raw.source.checked_sub(1),
            copies: raw.copies.map(CopyState::of),
            generation: raw.generation.get(),
            map_epoch: raw.map_epoch.get(),
            listed_ranges: raw.listed_ranges.get(),
            listed_pages: raw.listed_pages.get(),
            excluded_ranges: raw.excluded_ranges.get(),
            excluded_pages: raw.excluded_pages.get(),
            filler_pages: raw.filler_pages.get(),
            handed_over_pages: raw.handed_over_pages.get(),
            kept_pages: raw.kept_pages.get(),
            absent_pages: raw.absent_pages.get(),
            refused_pages: raw.refused_pages.get(),
            left_over: LeftOver {
                ranges: raw.left_over_ranges.get(),
                pages: raw.left_over_pages.get(),
            },
            out_of_time: raw.flags.get() & FLAG_OUT_OF_TIME != 0,
            limited: raw.flags.get() & FLAG_LIMITED != 0,
            times: Times {
                clock: Clock::of(raw.clock),
                total_us: raw.total_us.get(),
                read_us: raw.read_us.get(),
                exclude_us: raw.exclude_us.get(),
            },
            details: details.collect(),
        })
    }
}
