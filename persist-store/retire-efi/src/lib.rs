//! Takes retired pages out of the memory map before any operating system runs: what to do, apart
//! from how firmware is asked. `persist-store/EXCLUSION.md` has the formats and the reasons.
//!
//! ```text
//! copies --choose--> List --Map::pieces--> free memory --plan--> ranges --Firmware::exclude--> unusable
//!                                   |                                 \-- refused: halves, pages
//!                                   +--> the firmware's own until boot --Firmware::hand_over--> Linux
//! ```
//! A machine has to boot, whatever the list says and whatever the firmware answers: everything has a
//! bound, nothing panics, and what could not be done is counted.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod map;
mod summary;
#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::array;
use core::cmp::Reverse;

use ras_core::{Pfn, PfnRange};
use ras_store_format::exclusion::{
    BadRange, Clock, CopyState, DETAILS_MAX, Detail, ENTRY_PAGES_MAX, Fate, LeftOver, Limits, List,
    ListDamage, Outcome, Times, choose, flatten, plan, plan_with_room, total, union,
};

pub use map::{Kind, Map, Region};
pub use summary::Summary;

/// Time for everything, in microseconds. What is not done by then is left to the running kernel. Some 10 ms are
/// usual; an emulated machine on a busy host can need a hundred times that.
pub const DEADLINE_US: u64 = 5_000_000;

/// Questions to the firmware for ranges, refused ones and their halves included. Bounds the time where
/// there is no clock.
pub const ATTEMPTS_MAX: u32 = 8192;

/// Entries of Linux' table of reservations that fit into the one page it maps.
pub const HAND_OVER_MAX: u32 = 255;

/// What the firmware is asked for.
pub trait Firmware {
    /// The copy of the list at a place: the two variables, then the two files.
    fn read_copy(&mut self, place: usize) -> Found;

    /// The memory map as it is now; `None` where the firmware does not give it.
    fn memory_map(&mut self) -> Option<Map>;

    /// Makes free pages unusable memory, all of them or none; whether it worked.
    fn exclude(&mut self, pages: PfnRange) -> bool;

    /// Asks Linux to reserve pages, in addition to what others asked for; whether it worked. Called once,
    /// with at most [`HAND_OVER_MAX`] runs.
    fn hand_over(&mut self, pages: &[PfnRange]) -> bool;

    /// Microseconds since the driver was started; `None` without a clock.
    fn now_us(&mut self) -> Option<u64>;

    /// What [`Self::now_us`] measures with.
    fn clock(&self) -> Clock;
}

/// What is at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Absent,
    /// Something the firmware could not read, or something too long for a list.
    Unreadable,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Reads the list and excludes what it says.
pub fn run(firmware: &mut impl Firmware) -> Outcome {
    let copies: [Found; 4] = array::from_fn(|place| firmware.read_copy(place));
    let choice = choose(copies.iter().map(|copy| match copy {
        Found::Bytes(bytes) => Some(bytes.as_slice()),
        Found::Absent | Found::Unreadable => None,
    }));
    let mut outcome = Outcome {
        copies: copies.each_ref().map(|copy| match copy {
            Found::Absent => CopyState::Absent,
            Found::Unreadable => CopyState::Unreadable,
            Found::Bytes(_) => CopyState::Sound,
        }),
        ..Outcome::default()
    };
    for (place, damage) in choice.damaged {
        if let Some(copy) = outcome.copies.get_mut(place) {
            *copy = match damage {
                ListDamage::Version(_) => CopyState::OtherVersion,
                ListDamage::NoList | ListDamage::Checksum => CopyState::Damaged,
            };
        }
    }
    drop(copies);
    let read = firmware.now_us();
    if let Some((place, list)) = choice.chosen {
        outcome.source = u8::try_from(place).ok();
        outcome.generation = list.generation;
        outcome.map_epoch = list.map_epoch;
        exclude(firmware, &list, &mut outcome);
    }
    let done = firmware.now_us();
    if let Some((read, done)) = read.zip(done) {
        let us = |time: u64| u32::try_from(time).unwrap_or(u32::MAX);
        outcome.times = Times {
            clock: firmware.clock(),
            total_us: us(done),
            read_us: us(read),
            exclude_us: us(done.saturating_sub(read)),
        };
    }
    outcome
}

fn exclude(firmware: &mut impl Firmware, list: &List, outcome: &mut Outcome) {
    let listed = flatten(&list.ranges);
    let runs = union(&listed);
    outcome.listed_ranges = u32::try_from(list.ranges.len()).unwrap_or(u32::MAX);
    outcome.listed_pages = total(&runs);
    let mut fates = Fates::default();
    let Some(map) = firmware.memory_map() else {
        fates.add(Fate::Refused, &runs);
        fates.tell(outcome);
        return;
    };

    let limits = list.limits.bounded_by_memory(map.memory_bytes());
    outcome.limited =
        list.limits.ranges_max > limits.ranges_max || list.limits.bytes_max > limits.bytes_max;
    let (mut free, mut transient) = (Vec::new(), Vec::new());
    for (piece, kind) in map.pieces(&listed) {
        match kind {
            Some(Kind::Free) => free.push(piece),
            Some(Kind::Transient) => transient.push(piece),
            Some(Kind::Kept) => fates.add(Fate::Kept, &[piece.pages]),
            Some(Kind::First) => fates.add(Fate::Refused, &[piece.pages]),
            None => fates.add(Fate::Absent, &[piece.pages]),
        }
    }

    let excluding = plan_with_room(&free, limits, &map.free().collect::<Vec<_>>());
    let left_over = excluding.left_over();
    outcome.left_over = LeftOver {
        ranges: list.left_over.ranges.saturating_add(left_over.ranges),
        pages: list.left_over.pages.saturating_add(left_over.pages),
    };
    let mut taker = Taker {
        firmware,
        attempts_left: ATTEMPTS_MAX,
        ranges_left: limits.ranges_max,
        taken: Vec::new(),
        refused: Vec::new(),
        out_of_time: false,
    };
    let mut ranges = excluding.ranges;
    ranges.sort_by_key(|range| Reverse(range.badness));
    for range in ranges {
        // What lies between bad pages need not be free.
        for (piece, kind) in map.pieces(&[range]) {
            if kind == Some(Kind::Free) {
                taker.take(piece);
            }
        }
    }
    let Taker { taken, refused, out_of_time, .. } = taker;
    outcome.out_of_time = out_of_time;
    let taken = union(&taken);
    outcome.excluded_ranges = u32::try_from(taken.len()).unwrap_or(u32::MAX);
    outcome.excluded_pages = total(&taken);
    // Of what was refused, only what somebody asked for matters. The map has changed since: the firmware
    // may have put to use what it refused, our own heap for instance.
    let refused = within(&refused, &free);
    let bad_pages = excluding.bad_pages.saturating_sub(total(&union(&refused)));
    outcome.filler_pages = outcome.excluded_pages.saturating_sub(bad_pages);
    if !refused.is_empty() {
        let map = firmware.memory_map().unwrap_or(map);
        for (piece, kind) in map.pieces(&refused) {
            match kind {
                Some(Kind::Transient) => transient.push(piece),
                Some(Kind::Kept) => fates.add(Fate::Kept, &[piece.pages]),
                _ => fates.add(Fate::Refused, &[piece.pages]),
            }
        }
    }
    hand_over(firmware, &transient, limits, &mut fates);
    fates.tell(outcome);
}

/// Pages that the firmware itself uses become ordinary memory once it is done: Linux is asked to reserve
/// them.
fn hand_over(
    firmware: &mut impl Firmware,
    transient: &[BadRange],
    limits: Limits,
    fates: &mut Fates,
) {
    if transient.is_empty() {
        return;
    }
    let asked = plan(transient, Limits { ranges_max: HAND_OVER_MAX, ..limits });
    let runs: Vec<PfnRange> = asked.ranges.iter().map(|range| range.pages).collect();
    let fate = if firmware.hand_over(&runs) { Fate::HandedOver } else { Fate::Refused };
    fates.add(fate, &union(&within(&asked.ranges, transient)));
    fates.add(Fate::Refused, &asked.left_over);
}

/// The parts of `wanted` that lie in `ranges`; both without overlaps.
fn within(ranges: &[BadRange], wanted: &[BadRange]) -> Vec<BadRange> {
    let regions = ranges.iter().map(|range| Region { pages: range.pages, kind: Kind::Free });
    let inside = Map::new(regions.collect()).pieces(wanted);
    inside.into_iter().filter(|(_, kind)| kind.is_some()).map(|(piece, _)| piece).collect()
}

/// Takes ranges one by one, within bounds.
struct Taker<'a, F> {
    firmware: &'a mut F,
    attempts_left: u32,
    /// Separate ranges that may still be made.
    ranges_left: u32,
    taken: Vec<BadRange>,
    refused: Vec<BadRange>,
    out_of_time: bool,
}

impl<F: Firmware> Taker<'_, F> {
    /// Takes a range whole, or else what there is of it: its halves, and theirs, down to pages.
    fn take(&mut self, range: BadRange) {
        let mut open = vec![range];
        while let Some(next) = open.pop() {
            let joins = self.taken.last().is_some_and(|last| last.end() == next.pages.start.0);
            if !self.may_go_on() || self.ranges_left == 0 && !joins {
                self.refused.push(next);
            } else if self.firmware.exclude(next.pages) {
                self.taken.push(next);
                self.ranges_left -= u32::from(!joins);
            } else if next.pages.count == 1 {
                self.refused.push(next);
            } else {
                let (start, half) = (next.pages.start, next.pages.count / 2);
                let middle = Pfn(start.0.saturating_add(half));
                let pages = PfnRange { start: middle, count: next.pages.count - half };
                open.push(BadRange { pages, ..next });
                open.push(BadRange { pages: PfnRange { start, count: half }, ..next });
            }
        }
    }

    fn may_go_on(&mut self) -> bool {
        let late = self.firmware.now_us().is_some_and(|now| now >= DEADLINE_US);
        self.out_of_time |= late || self.attempts_left == 0;
        self.attempts_left = self.attempts_left.saturating_sub(1);
        !self.out_of_time
    }
}

/// What became of listed pages that were not simply excluded.
#[derive(Default)]
struct Fates(Vec<Detail>);

impl Fates {
    fn add(&mut self, fate: Fate, runs: &[PfnRange]) {
        self.0.extend(runs.iter().map(|&pages| Detail { pages, fate }));
    }

    /// Enters them, as counts and one by one.
    fn tell(mut self, outcome: &mut Outcome) {
        self.0.sort_unstable_by_key(|detail| detail.pages.start);
        for &Detail { pages, fate } in &self.0 {
            let count = match fate {
                Fate::HandedOver => &mut outcome.handed_over_pages,
                Fate::Kept => &mut outcome.kept_pages,
                Fate::Absent => &mut outcome.absent_pages,
                Fate::Refused | Fate::Other(_) => &mut outcome.refused_pages,
            };
            *count = count.saturating_add(pages.count);
            let room = outcome.details.len() < DETAILS_MAX;
            match outcome.details.last_mut() {
                Some(last)
                    if last.fate == fate
                        && last.pages.start.0.saturating_add(last.pages.count) == pages.start.0
                        && last.pages.count.saturating_add(pages.count) <= ENTRY_PAGES_MAX =>
                {
                    last.pages.count += pages.count;
                }
                _ if room => outcome.details.push(Detail { pages, fate }),
                _ => {}
            }
        }
    }
}
