//! Which pages to take out of the memory map, of all that are listed. Pure.
//!
//! Each separate range costs every boot some time, and a kernel has room for so many only: a machine that
//! loses memory or does not boot is worse than a bad page that is offlined a minute later. So there are
//! few ranges, and they hold the worst pages.

use alloc::collections::{BTreeMap, BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

use ras_core::{PAGE_SIZE, PfnRange};

use super::runs::difference;
use super::{BadRange, Badness, LeftOver, between, flatten, total, union};

/// Longest gap between two ranges that is given away to make one of them: 64 KiB.
pub const GAP_PAGES_MAX: u64 = 16;

/// Sound pages given away in total: 4 MiB.
pub const FILLER_PAGES_MAX: u64 = 1024;

/// Rounds over what was passed over: ranges that grew may touch it by then.
const ROUNDS_MAX: usize = 3;

/// How far to go. Zero means the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Separate ranges.
    pub ranges_max: u32,
    /// Memory taken in total, in bytes: bad pages and what lies between them.
    pub bytes_max: u64,
}

impl Limits {
    /// Ranges by default, from the curve in `EXCLUSION.md`.
    pub const RANGES_DEFAULT: u32 = 200;

    /// Ranges at most, whatever a list asks for. Linux boots with them, slowly.
    pub const RANGES_MAX: u32 = 512;

    /// Bytes by default: 256 MiB.
    pub const BYTES_DEFAULT: u64 = 256 << 20;

    /// A list never takes more than this fraction of the machine's memory, whatever it asks for: it
    /// is not authenticated, and a machine has to boot.
    pub const MEMORY_FRACTION: u64 = 16;

    /// The limits that hold: defaults put in, and the bounds of this crate.
    #[must_use]
    pub const fn bounded(self) -> Self {
        let ranges_max = match self.ranges_max {
            0 => Self::RANGES_DEFAULT,
            asked if asked > Self::RANGES_MAX => Self::RANGES_MAX,
            asked => asked,
        };
        let bytes_max = if self.bytes_max == 0 { Self::BYTES_DEFAULT } else { self.bytes_max };
        Self { ranges_max, bytes_max }
    }

    /// [`Self::bounded`], on a machine with so much memory.
    #[must_use]
    pub const fn bounded_by_memory(self, memory_bytes: u64) -> Self {
        let Self { ranges_max, bytes_max } = self.bounded();
        let share = memory_bytes / Self::MEMORY_FRACTION;
        Self { ranges_max, bytes_max: if bytes_max > share { share } else { bytes_max } }
    }
}

/// What to take out of the memory map, and what is left to the running kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Ranges to take, in ascending order, no two of them touching; each as bad as its worst page.
    pub ranges: Vec<BadRange>,
    /// Listed pages that are not in them, in ascending order, no two runs touching.
    pub left_over: Vec<PfnRange>,
    /// Listed pages in `ranges`.
    pub bad_pages: u64,
    /// Pages in `ranges` that nobody listed: they lie between bad ones.
    pub filler_pages: u64,
}

impl Plan {
    /// The counts of `left_over`.
    #[must_use]
    pub fn left_over(&self) -> LeftOver {
        LeftOver {
            ranges: u32::try_from(self.left_over.len()).unwrap_or(u32::MAX),
            pages: total(&self.left_over),
        }
    }
}

/// Plans the exclusion of `listed`, in any order and overlapping or not, within [`Limits::bounded`].
///
/// The worst pages come first, longer runs before shorter ones of the same badness. Pages that touch a
/// range extend it. Once there are as many ranges as allowed, one more is made room for by giving
/// away the smallest gap: between that page and a range, or between two ranges, of at most
/// [`GAP_PAGES_MAX`] pages each and [`FILLER_PAGES_MAX`] in total. Below the limit nothing is given away.
/// Time n log n.
#[must_use]
pub fn plan(listed: &[BadRange], limits: Limits) -> Plan {
    let limits = limits.bounded();
    let mut selection = Selection {
        ranges: BTreeMap::new(),
        gaps: BinaryHeap::new(),
        ranges_max: usize::try_from(limits.ranges_max).unwrap_or(usize::MAX),
        pages_left: limits.bytes_max / PAGE_SIZE,
        filler_left: FILLER_PAGES_MAX,
    };
    let mut runs = flatten(listed);
    runs.sort_unstable_by_key(|run| {
        (Reverse(run.badness), Reverse(run.pages.count), run.pages.start)
    });
    let mut waiting: VecDeque<BadRange> = runs.into();
    for _ in 0..ROUNDS_MAX {
        let mut passed_over = VecDeque::new();
        let mut grown_since = false;
        while selection.pages_left > 0 {
            // A range that became free goes to the worst one that had none.
            let freed = if selection.is_full() { None } else { passed_over.pop_front() };
            let Some(next) = freed.or_else(|| waiting.pop_front()) else { break };
            match selection.offer(next) {
                Offer::Taken => grown_since |= !passed_over.is_empty(),
                Offer::RangeFreed => waiting.push_front(next),
                Offer::NoRoom => passed_over.push_back(next),
            }
        }
        passed_over.append(&mut waiting);
        waiting = passed_over;
        if !grown_since {
            break;
        }
    }

    let taken: Vec<PfnRange> =
        selection.ranges.iter().filter_map(|(&start, run)| between(start, run.end)).collect();
    let listed = union(listed);
    let left_over = difference(&listed, &taken);
    let bad_pages = total(&listed).saturating_sub(total(&left_over));
    let filler_pages = total(&taken).saturating_sub(bad_pages);
    let badness = selection.ranges.values().map(|run| run.badness);
    let ranges = taken
        .into_iter()
        .zip(badness)
        .map(|(pages, badness)| BadRange { pages, badness })
        .collect();
    Plan { ranges, left_over, bad_pages, filler_pages }
}

/// What came of offering a run.
enum Offer {
    Taken,
    /// It is not taken, but now there is a range for it or for a worse one.
    RangeFreed,
    NoRoom,
}

struct Run {
    end: u64,
    badness: Badness,
}

/// Ranges taken so far: no two of them touch.
struct Selection {
    /// By their first frame.
    ranges: BTreeMap<u64, Run>,
    /// Gaps between neighbours that may be given away, the smallest on top: pages, first frame. Some
    /// are outdated.
    gaps: BinaryHeap<Reverse<(u64, u64)>>,
    ranges_max: usize,
    pages_left: u64,
    filler_left: u64,
}

impl Selection {
    fn is_full(&self) -> bool {
        self.ranges.len() >= self.ranges_max
    }

    /// Takes a run, or as much of it as there is memory for, if it needs no further range or there is
    /// one. Otherwise a gap is given away: to join it, or to have one range less.
    fn offer(&mut self, run: BadRange) -> Offer {
        let BadRange { pages, badness } = run;
        let start = pages.start.0;
        let mut end = run.end();
        if pages.count > self.pages_left
            && pages.count.saturating_sub(self.covered(start, end)) > self.pages_left
        {
            end = start.saturating_add(self.pages_left);
        }
        if !self.is_full() || self.touches(start, end) {
            self.insert(start, end, badness);
            return Offer::Taken;
        }
        // At most this much may be between, if the run itself is to fit as well.
        let room = self.pages_left.saturating_sub(end.saturating_sub(start));
        let allowed = GAP_PAGES_MAX.min(self.filler_left).min(room);
        let below = self.below(start).map(|(_, below)| below.end);
        let above = self.ranges.range(end..).next().map(|(&above, _)| above);
        let joined = [
            below.map(|below| (start.saturating_sub(below), below, end)),
            above.map(|above| (above.saturating_sub(end), start, above)),
        ];
        let joined = joined.into_iter().flatten().min().filter(|(gap, ..)| *gap <= allowed);
        let closed = self.smallest_gap().filter(|(gap, _)| *gap <= allowed);
        match (joined, closed) {
            (Some((gap, start, end)), other) if other.is_none_or(|(other, _)| gap <= other) => {
                self.filler_left -= gap;
                self.insert(start, end, badness);
                Offer::Taken
            }
            (_, Some((gap, first))) => {
                self.filler_left -= gap;
                self.insert(first, first + gap, Badness::default());
                Offer::RangeFreed
            }
            _ => Offer::NoRoom,
        }
    }

    fn below(&self, frame: u64) -> Option<(u64, &Run)> {
        self.ranges.range(..=frame).next_back().map(|(&start, run)| (start, run))
    }

    fn touches(&self, start: u64, end: u64) -> bool {
        self.below(end).is_some_and(|(_, run)| run.end >= start)
    }

    /// Pages of `start..end` that are taken already.
    fn covered(&self, start: u64, end: u64) -> u64 {
        let first = self.below(start).map_or(start, |(first, _)| first);
        let runs = self.ranges.range(first..end);
        runs.map(|(&first, run)| run.end.min(end).saturating_sub(first.max(start))).sum()
    }

    /// The smallest gap that is still one.
    fn smallest_gap(&mut self) -> Option<(u64, u64)> {
        while let Some(&Reverse((gap, first))) = self.gaps.peek() {
            let begins = self.below(first).is_some_and(|(_, run)| run.end == first);
            let next = self.ranges.range(first..).next();
            if begins && next.is_some_and(|(&start, _)| start == first.saturating_add(gap)) {
                return Some((gap, first));
            }
            self.gaps.pop();
        }
        None
    }

    /// Adds `start..end`, joined with everything it touches.
    fn insert(&mut self, mut start: u64, mut end: u64, mut badness: Badness) {
        let mut covered = 0;
        while let Some((&first, run)) =
            self.ranges.range(..=end).next_back().filter(|(_, run)| run.end >= start)
        {
            covered += run.end - first;
            (start, end) = (start.min(first), end.max(run.end));
            badness = badness.max(run.badness);
            self.ranges.remove(&first);
        }
        self.pages_left = self.pages_left.saturating_sub((end - start).saturating_sub(covered));
        let below = self.below(start).map(|(_, run)| run.end);
        let above = self.ranges.range(end..).next().map(|(&above, _)| above);
        let gaps =
            [below.map(|below| (start - below, below)), above.map(|above| (above - end, end))];
        for (gap, first) in gaps.into_iter().flatten().filter(|(gap, _)| *gap <= GAP_PAGES_MAX) {
            self.gaps.push(Reverse((gap, first)));
        }
        self.ranges.insert(start, Run { end, badness });
    }
}
