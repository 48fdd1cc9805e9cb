//! Runs of pages, as sets.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;

use ras_core::PfnRange;

use super::{BadRange, Badness, between, end};

/// The same pages, each with its worst badness, in ascending order and without overlaps; neighbours of one
/// badness are one range. At most twice as many ranges as before. Time n log n.
#[must_use]
pub fn flatten(ranges: &[BadRange]) -> Vec<BadRange> {
    let mut sorted: Vec<BadRange> =
        ranges.iter().filter(|range| range.pages.count > 0).copied().collect();
    sorted.sort_unstable_by_key(|range| range.pages.start);
    let mut waiting = sorted.into_iter().peekable();
    // Ranges that hold the frame we are at, the worst on top; some have ended.
    let mut open: BinaryHeap<(Badness, u64)> = BinaryHeap::new();
    let mut flat: Vec<BadRange> = Vec::new();
    let mut at = 0;
    loop {
        while open.peek().is_some_and(|(_, end)| *end <= at) {
            open.pop();
        }
        if open.is_empty() {
            let Some(next) = waiting.peek() else { return flat };
            at = next.pages.start.0;
        }
        while let Some(next) = waiting.next_if(|next| next.pages.start.0 <= at) {
            open.push((next.badness, next.end()));
        }
        let Some(&(badness, end)) = open.peek() else { continue };
        let stop = waiting.peek().map_or(end, |next| end.min(next.pages.start.0));
        match flat.last_mut() {
            Some(last) if last.badness == badness && last.end() == at => {
                last.pages.count = last.pages.count.saturating_add(stop.saturating_sub(at));
            }
            _ => flat.extend(between(at, stop).map(|pages| BadRange { pages, badness })),
        }
        at = stop;
    }
}

/// The pages of `ranges`, in ascending order, as runs that don't touch.
#[must_use]
pub fn union(ranges: &[BadRange]) -> Vec<PfnRange> {
    let mut runs: Vec<PfnRange> = Vec::new();
    for range in flatten(ranges) {
        match runs.last_mut() {
            Some(last) if end(*last) == range.pages.start.0 => last.count += range.pages.count,
            _ => runs.push(range.pages),
        }
    }
    runs
}

/// The pages of `runs` that are not in `taken`; both ascending and without overlaps.
pub(super) fn difference(runs: &[PfnRange], taken: &[PfnRange]) -> Vec<PfnRange> {
    let mut left = Vec::new();
    let mut taken = taken.iter().copied().peekable();
    for &run in runs {
        let (mut at, stop) = (run.start.0, end(run));
        while let Some(next) = taken.peek().filter(|next| next.start.0 < stop) {
            left.extend(between(at, next.start.0));
            at = at.max(end(*next));
            if at >= stop {
                break;
            }
            taken.next();
        }
        left.extend(between(at, stop));
    }
    left
}

/// Pages in all of them.
#[must_use]
pub fn total(runs: &[PfnRange]) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
}
