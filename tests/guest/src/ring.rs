//! A run of pages dirtied round and round, as fast as the processor can: the load that a live
//! migration has to outrun. Each page counts the laps, so that a lost write shows.

use alloc::vec::Vec;

use crate::page::{Gpa, PAGE_SIZE};

/// Pages dirtied per tick, at most.
const PAGES_PER_TICK: u64 = 1024;

/// Why a run along the ring ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Nothing is wrong. Some of the pages asked for may still be to do.
    End,
    /// A page did not hold the last lap's number.
    Mismatch,
    /// A machine check interrupted the access.
    Poisoned,
}

/// What the ring needs of memory.
pub trait Advance {
    /// Replaces the number at the start of each of `pages` pages from `first` by `new`, as long as
    /// it finds `old` (or whatever it finds, if `old` is `None`). Returns how many it did, and why
    /// it ended.
    fn advance(&mut self, first: Gpa, pages: u64, old: Option<u64>, new: u64) -> (u64, Stop);
}

/// The ring.
pub struct Ring {
    first: Gpa,
    pages: u64,
    next: u64,
    lap: u64,
    /// Positions that are lost, ascending.
    gone: Vec<u64>,
}

impl Ring {
    /// A ring over `pages` pages from `first`.
    #[must_use]
    pub fn new(first: Gpa, pages: u64) -> Self {
        Self { first, pages, next: 0, lap: 1, gone: Vec::with_capacity(64) }
    }

    /// Pages of the ring, the lost ones included.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Stops using `page` if it belongs to the ring; whether it was in use.
    pub fn lose(&mut self, page: Gpa) -> bool {
        let Some(offset) = page.0.checked_sub(self.first.0) else {
            return false;
        };
        let position = offset / PAGE_SIZE;
        match self.gone.binary_search(&position) {
            Err(at) if position < self.pages => {
                self.gone.insert(at, position);
                true
            }
            _ => false,
        }
    }

    /// Dirties the next pages. `found` hears of the pages that were lost or did not match.
    pub fn tick(&mut self, memory: &mut dyn Advance, found: &mut dyn FnMut(Gpa, Stop)) {
        let mut budget = PAGES_PER_TICK.min(self.pages);
        while budget > 0 {
            let end = self.gone.iter().copied().find(|gone| *gone >= self.next);
            let run = (end.unwrap_or(self.pages) - self.next).min(budget);
            let old = (self.lap > 1).then(|| self.lap - 1);
            let first = Gpa(self.first.0 + self.next * PAGE_SIZE);
            let (done, stop) = memory.advance(first, run, old, self.lap);
            self.next += done;
            budget -= done;
            let here = Gpa(self.first.0 + self.next * PAGE_SIZE);
            match stop {
                // At the end of the run lies a lost page, the end of the ring or of the budget.
                Stop::End if end == Some(self.next) && budget > 0 => {
                    self.next += 1;
                    budget -= 1;
                }
                Stop::End => {}
                Stop::Mismatch => {
                    found(here, stop);
                    // Told once: the page counts along again from here.
                    if let (_, Stop::Poisoned) = memory.advance(here, 1, None, self.lap) {
                        self.lose(here);
                        found(here, Stop::Poisoned);
                    }
                    self.next += 1;
                    budget = budget.saturating_sub(1);
                }
                Stop::Poisoned => {
                    self.lose(here);
                    found(here, stop);
                    self.next += 1;
                    budget = budget.saturating_sub(1);
                }
            }
            if self.next >= self.pages {
                self.next = 0;
                self.lap += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        first: Gpa,
        pages: Vec<Result<u64, ()>>,
    }

    impl Advance for Fake {
        fn advance(&mut self, first: Gpa, pages: u64, old: Option<u64>, new: u64) -> (u64, Stop) {
            let from = usize::try_from((first.0 - self.first.0) / PAGE_SIZE).unwrap();
            for done in 0..pages {
                match &mut self.pages[from + usize::try_from(done).unwrap()] {
                    Err(()) => return (done, Stop::Poisoned),
                    Ok(value) if old.is_some_and(|old| old != *value) => {
                        return (done, Stop::Mismatch);
                    }
                    Ok(value) => *value = new,
                }
            }
            (pages, Stop::End)
        }
    }

    fn ticks(ring: &mut Ring, memory: &mut Fake, count: u32) -> Vec<(u64, Stop)> {
        let mut events = Vec::new();
        for _ in 0..count {
            ring.tick(memory, &mut |page, stop| {
                events.push(((page.0 - ring_start().0) / PAGE_SIZE, stop));
            });
        }
        events
    }

    fn ring_start() -> Gpa {
        Gpa(0x10_0000)
    }

    #[test]
    fn every_page_counts_every_lap() {
        let mut memory = Fake { first: ring_start(), pages: vec![Ok(99); 1500] };
        let mut ring = Ring::new(ring_start(), 1500);
        assert_eq!(ticks(&mut ring, &mut memory, 3), []);
        assert_eq!(memory.pages[0], Ok(3));
        assert_eq!(memory.pages[71], Ok(3));
        assert_eq!(memory.pages[72], Ok(2));
    }

    #[test]
    fn a_lost_write_and_a_lost_page_are_told_once() {
        let mut memory = Fake { first: ring_start(), pages: vec![Ok(0); 16] };
        let mut ring = Ring::new(ring_start(), 16);
        assert_eq!(ticks(&mut ring, &mut memory, 4), []);
        memory.pages[3] = Ok(1);
        memory.pages[15] = Err(());
        memory.pages[0] = Err(());
        let events = ticks(&mut ring, &mut memory, 5);
        assert_eq!(events, [(0, Stop::Poisoned), (3, Stop::Mismatch), (15, Stop::Poisoned)]);
        assert!(!ring.lose(ring_start()), "known already");
        assert!(ring.lose(Gpa(ring_start().0 + PAGE_SIZE)));
        assert!(!ring.lose(Gpa(0)));
        memory.pages[1] = Err(());
        assert_eq!(ticks(&mut ring, &mut memory, 9), []);
    }

    #[test]
    fn a_ring_of_nothing_but_lost_pages_ends_its_ticks() {
        let mut memory = Fake { first: ring_start(), pages: vec![Err(()); 2] };
        let mut ring = Ring::new(ring_start(), 2);
        assert_eq!(ticks(&mut ring, &mut memory, 10).len(), 2);
        assert_eq!(ticks(&mut Ring::new(ring_start(), 0), &mut memory, 10), []);
    }
}
