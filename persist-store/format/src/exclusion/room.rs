//! Room for a kernel. Boot loaders and kernels need memory in one piece: a stock kernel unpacks itself into
//! some 60 MiB, beside an initial RAM file system of any size. A few hundred pages spread evenly over a small
//! machine leave no such piece, and the machine does not boot; so one is kept.

use alloc::vec::Vec;

use ras_core::{PAGE_SIZE, Pfn, PfnRange};

use super::{BadRange, Badness, Limits, Plan, between, end, plan, union};

/// What is kept in one piece: 256 MiB, or a quarter of the largest piece where that is less. Small machines have
/// small initial RAM file systems.
pub const ROOM_PAGES: u64 = (256 << 20) / PAGE_SIZE;

/// Where it has to be: below 4 GiB, where every loader looks.
const BELOW: u64 = (4 << 30) / PAGE_SIZE;

/// [`plan`] for a machine whose free memory is known: if it leaves no room for a kernel, the pages that are in
/// the way are left over. `free` is in ascending order and without overlaps; where nothing of it is known,
/// it is empty and the plan as ever. Time n log n, and linear in the length of `free`.
#[must_use]
pub fn plan_with_room(listed: &[BadRange], limits: Limits, free: &[PfnRange]) -> Plan {
    let planned = plan(listed, limits);
    let Some(room) = to_keep(free, &planned.ranges) else { return planned };
    let (first, behind) = (room.start.0, end(room));
    let (mut spared, mut others) = (Vec::new(), Vec::new());
    for range in listed {
        let (start, stop) = (range.pages.start.0, range.end());
        let part = |start, stop| {
            between(start, stop).map(|pages| BadRange { pages, badness: range.badness })
        };
        spared.extend(part(start.max(first), stop.min(behind)));
        others.extend(part(start, stop.min(first)));
        others.extend(part(start.max(behind), stop));
    }
    let mut planned = plan(&others, limits);
    let left = planned.left_over.iter();
    spared.extend(left.map(|&pages| BadRange { pages, badness: Badness::default() }));
    planned.left_over = union(&spared);
    planned
}

/// Free memory in one piece from which nothing is to be taken, if `planned` leaves none: where there are
/// the mildest and fewest of these. `None` where there is room anyway. `planned` is in ascending order
/// and without overlaps. Linear in the number of regions and ranges.
fn to_keep(free: &[PfnRange], planned: &[BadRange]) -> Option<PfnRange> {
    let regions: Vec<(u64, u64)> = free
        .iter()
        .map(|region| (region.start.0, end(*region).min(BELOW)))
        .filter(|(start, end)| start < end)
        .collect();
    let largest = regions.iter().map(|(start, end)| end - start).max()?;
    let room = ROOM_PAGES.min(largest / 4).max(1);
    let mut best: Option<((u8, u64), u64)> = None;
    for (start, end) in regions.into_iter().filter(|(start, end)| end - start >= room) {
        let first = planned.partition_point(|range| range.end() <= start);
        let inside = planned.get(first..).unwrap_or_default();
        let count = inside.partition_point(|range| range.pages.start.0 < end);
        let inside = inside.get(..count).unwrap_or_default();
        // It begins with its region or behind a range: moved further up, it would only meet more of them.
        let begins = core::iter::once(start).chain(inside.iter().map(BadRange::end));
        let mut window = Window::default();
        for begin in begins {
            if end.saturating_sub(begin) < room {
                break;
            }
            let cost = window.cost(inside, begin, begin + room);
            if cost == (0, 0) {
                return None;
            }
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, begin));
            }
        }
    }
    best.map(|(_, begin)| PfnRange { start: Pfn(begin), count: room })
}

/// The ranges in a window that only moves up.
struct Window {
    /// Ranges before the window, and up to its end.
    left: usize,
    right: usize,
    /// Ranges in it, by badness.
    of_badness: [u32; 256],
}

impl Default for Window {
    fn default() -> Self {
        Self { left: 0, right: 0, of_badness: [0; 256] }
    }
}

impl Window {
    /// One more than the worst badness in `begin..end`, and the number of ranges.
    fn cost(&mut self, ranges: &[BadRange], begin: u64, end: u64) -> (u8, u64) {
        while let Some(range) = ranges.get(self.right).filter(|range| range.pages.start.0 < end) {
            if let Some(count) = self.of_badness.get_mut(usize::from(range.badness.0)) {
                *count += 1;
            }
            self.right += 1;
        }
        while let Some(range) = ranges.get(self.left).filter(|range| range.end() <= begin) {
            if let Some(count) = self.of_badness.get_mut(usize::from(range.badness.0)) {
                *count = count.saturating_sub(1);
            }
            self.left += 1;
        }
        let inside = u64::try_from(self.right.saturating_sub(self.left)).unwrap_or(u64::MAX);
        let worst = (0..=u8::MAX).rev().zip(self.of_badness.iter().rev());
        let worst = worst.into_iter().find(|(_, count)| **count > 0).map(|(badness, _)| badness);
        (worst.map_or(0, |badness| badness.saturating_add(1)), inside)
    }
}
