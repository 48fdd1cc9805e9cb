//! The firmware's memory map, as far as it matters here.

use alloc::vec::Vec;

use ras_core::{PAGE_SIZE, Pfn, PfnRange};
use ras_store_format::exclusion::BadRange;

/// Pages the firmware describes in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Which.
    pub pages: PfnRange,
    /// What they are.
    pub kind: Kind,
}

/// What pages are to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Free to be taken.
    Free,
    /// The firmware's or a loader's, and the operating system's once that runs.
    Transient,
    /// Never an operating system's ordinary memory.
    Kept,
    /// Page 0. Its address is also the firmware's "no address", so it can't be asked for.
    First,
}

/// `EFI_MEMORY_TYPE`. UEFI 2.10, section 7.2.1.
mod efi {
    pub(super) const LOADER_CODE: u32 = 1;
    pub(super) const BOOT_SERVICES_DATA: u32 = 4;
    pub(super) const CONVENTIONAL: u32 = 7;
}

impl Kind {
    /// What pages of an `EFI_MEMORY_TYPE` are. Types 1 to 4 are loader and boot services, code and data.
    #[must_use]
    pub const fn of(memory_type: u32) -> Self {
        match memory_type {
            efi::CONVENTIONAL => Self::Free,
            efi::LOADER_CODE..=efi::BOOT_SERVICES_DATA => Self::Transient,
            _ => Self::Kept,
        }
    }
}

/// A memory map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Map {
    /// In ascending order, without overlaps.
    regions: Vec<Region>,
}

impl Map {
    /// Makes one of what the firmware says, in any order. Where it says two things of a page, the first
    /// region by address counts.
    #[must_use]
    pub fn new(mut regions: Vec<Region>) -> Self {
        regions.sort_by_key(|region| region.pages.start);
        let mut map = Self { regions: Vec::with_capacity(regions.len().saturating_add(1)) };
        let mut at = 0;
        for Region { pages, kind } in regions {
            let stop = pages.start.0.saturating_add(pages.count);
            let start = pages.start.0.max(at);
            if stop <= start {
                continue;
            }
            at = stop;
            if start == 0 && kind == Kind::Free {
                map.push(0, 1, Kind::First);
                map.push(1, stop, kind);
            } else {
                map.push(start, stop, kind);
            }
        }
        map
    }

    fn push(&mut self, start: u64, stop: u64, kind: Kind) {
        if start < stop {
            let pages = PfnRange { start: Pfn(start), count: stop - start };
            self.regions.push(Region { pages, kind });
        }
    }

    /// Ordinary memory of an operating system, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let ordinary = |region: &&Region| matches!(region.kind, Kind::Free | Kind::Transient);
        let pages = self.regions.iter().filter(ordinary).map(|region| region.pages.count);
        pages.fold(0, u64::saturating_add).saturating_mul(PAGE_SIZE)
    }

    /// What is free, in ascending order.
    pub fn free(&self) -> impl Iterator<Item = PfnRange> {
        let free = self.regions.iter().filter(|region| region.kind == Kind::Free);
        free.map(|region| region.pages)
    }

    /// `ranges` cut into pieces of one kind each; `None` for what is in no region.
    #[must_use]
    pub fn pieces(&self, ranges: &[BadRange]) -> Vec<(BadRange, Option<Kind>)> {
        let mut pieces = Vec::with_capacity(ranges.len());
        for range in ranges {
            let (mut at, end) = (range.pages.start.0, range.end());
            let mut push = |start: u64, stop: u64, kind| {
                if start < stop {
                    let pages = PfnRange { start: Pfn(start), count: stop - start };
                    pieces.push((BadRange { pages, badness: range.badness }, kind));
                }
            };
            let stop = |region: &Region| region.pages.start.0.saturating_add(region.pages.count);
            let first = self.regions.partition_point(|region| stop(region) <= at);
            for region in self.regions.get(first..).unwrap_or_default() {
                if region.pages.start.0 >= end {
                    break;
                }
                push(at, region.pages.start.0, None);
                at = at.max(region.pages.start.0);
                push(at, stop(region).min(end), Some(region.kind));
                at = stop(region).min(end);
            }
            push(at, end, None);
        }
        pieces
    }
}
