//! The pages whose contents the guest vouches for.
//!
//! Every page holds a [`Stamp`]; every tick rewrites some and verifies others. So a write that got
//! lost on the way (by a bad migration, a page repaired behind the guest's back, a block punched
//! too early) shows within a few ticks.

use alloc::vec::Vec;

use crate::frames::{Frames, Health, Owner};
use crate::mca::BadMemory;
use crate::page::{Gpa, Memory, PAGE_SIZE, Poisoned, Stamp};

/// Pages rewritten per tick.
const WRITES_PER_TICK: usize = 16;

/// Pages verified per tick, besides those.
const CHECKS_PER_TICK: usize = 64;

/// What happened to a page, for the serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The page was poisoned; its contents are gone and no longer vouched for.
    Lost(Gpa),
    /// The page does not hold what was written to it.
    Mismatch(Gpa),
    /// The guest gave the contents up itself: its block had to go and no page was free.
    Dropped(Gpa),
}

/// What the set works in: the pages there are, access to them, and somebody to tell.
pub struct World<'a> {
    /// Whose each page is.
    pub frames: &'a mut Frames,
    /// The pages themselves.
    pub memory: &'a mut dyn Memory,
    /// Called for everything worth a line.
    pub emit: &'a mut dyn FnMut(Event),
}

/// Where an entry lives, and its generation. 8 bytes, because `fill` has one for every page.
#[derive(Clone, Copy)]
struct Entry {
    /// Page number + 1; 0 while the entry has no page.
    page: u32,
    generation: u32,
}

/// The set.
pub struct WorkingSet {
    entries: Vec<Entry>,
    limit: usize,
    fill: bool,
    homeless: usize,
    write_cursor: usize,
    check_cursor: usize,
    settle_cursor: usize,
}

impl WorkingSet {
    /// An empty set for at most `limit` pages; with `fill` it also takes every page plugged later.
    #[must_use]
    pub fn new(limit: usize, fill: bool) -> Self {
        Self {
            entries: Vec::with_capacity(limit),
            limit,
            fill,
            homeless: 0,
            write_cursor: 0,
            check_cursor: 0,
            settle_cursor: 0,
        }
    }

    /// Pages vouched for.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.entries.len() - self.homeless
    }

    /// Takes up pages to the limit: a third evenly spread over RAM, the others in the plugged
    /// blocks by turns, beginning with the first page of each.
    pub fn populate(&mut self, world: &mut World<'_>) {
        let plugged: Vec<usize> = (0..world.frames.blocks().len())
            .filter(|block| world.frames.blocks()[*block].plugged)
            .collect();
        let ram_share = if plugged.is_empty() { self.limit } else { self.limit.div_ceil(3) };
        let ram_step = world.frames.ram_pages() / ram_share.max(1);
        let (mut in_ram, mut in_blocks) = (0, 0);
        while self.entries.len() < self.limit {
            let page = if plugged.is_empty() || self.entries.len() % 3 == 2 {
                in_ram += 1;
                world.frames.free_in_ram(Some((in_ram - 1) * ram_step))
            } else {
                in_blocks += 1;
                let (round, turn) =
                    ((in_blocks - 1) / plugged.len(), (in_blocks - 1) % plugged.len());
                world.frames.free_in_block(plugged[turn], round * 37)
            };
            let Some(page) = page.or_else(|| world.frames.free_elsewhere(None)) else {
                return;
            };
            self.adopt(page, world);
        }
    }

    /// Rewrites some pages and verifies others.
    pub fn tick(&mut self, world: &mut World<'_>) {
        let count = self.entries.len();
        for _ in 0..WRITES_PER_TICK.min(count) {
            self.write_cursor = (self.write_cursor + 1) % count;
            if self.verify(self.write_cursor, world) {
                self.rewrite(self.write_cursor, world);
            }
        }
        for _ in 0..CHECKS_PER_TICK.min(count) {
            self.check_cursor = (self.check_cursor + 1) % count;
            self.verify(self.check_cursor, world);
        }
    }

    /// Memory went bad. Lost contents are lost; others move away. The pages are not used again.
    pub fn note_bad(&mut self, bad: BadMemory, world: &mut World<'_>) {
        let health = if bad.lost { Health::Poisoned } else { Health::Failing };
        for n in 0..bad.pages {
            let page = Gpa(bad.page.0 + n * PAGE_SIZE);
            world.frames.worsen(page, health);
            match world.frames.owner(page) {
                Some(Owner::Entry(index)) if bad.lost => self.lose(index as usize, world),
                Some(Owner::Entry(index)) => {
                    self.relocate(index as usize, None, world);
                    world.frames.set(page, Owner::Retired);
                }
                Some(Owner::Free) => world.frames.set(page, Owner::Retired),
                Some(Owner::Ring) if bad.lost => {
                    world.frames.set(page, Owner::Retired);
                    (world.emit)(Event::Lost(page));
                }
                Some(Owner::Ring | Owner::Retired) | None => {}
            }
        }
    }

    /// Moves everything out of a block that is about to be given back.
    pub fn evacuate(&mut self, block: usize, world: &mut World<'_>) {
        if world.frames.blocks()[block].used == 0 {
            return;
        }
        let indices: Vec<u32> = world
            .frames
            .pages_of(block)
            .filter_map(|(_, owner)| match owner {
                Owner::Entry(index) => Some(index),
                _ => None,
            })
            .collect();
        for index in indices {
            self.relocate(index as usize, Some(block), world);
        }
    }

    /// Makes use of a block just plugged: everything with `fill`, else one page: one that had lost
    /// its place, or the next by turns, so that fresh memory is vouched for too.
    pub fn settle(&mut self, block: usize, world: &mut World<'_>) {
        while self.fill
            && self.entries.len() < self.limit
            && let Some(page) =
                world.frames.free_in_block(block, world.frames.blocks()[block].used as usize)
        {
            self.adopt(page, world);
        }
        if self.fill || self.entries.is_empty() {
            return;
        }
        let Some(page) = world.frames.free_in_block(block, 0) else {
            return;
        };
        if let Some(index) = self.entries.iter().position(|entry| entry.page == 0) {
            self.homeless -= 1;
            self.place(index, page, world);
            self.rewrite(index, world);
        } else {
            self.settle_cursor = (self.settle_cursor + 1) % self.entries.len();
            self.move_to(self.settle_cursor, page, world);
        }
    }

    /// Takes `page` into the set.
    fn adopt(&mut self, page: Gpa, world: &mut World<'_>) {
        self.entries.push(Entry { page: 0, generation: 0 });
        let index = self.entries.len() - 1;
        self.place(index, page, world);
        self.rewrite(index, world);
    }

    /// Whether the entry has a page and it holds what it must. A mismatch is told once: the page
    /// is written afresh.
    fn verify(&mut self, index: usize, world: &mut World<'_>) -> bool {
        let Some(page) = self.page(index) else {
            return false;
        };
        match world.memory.load(page) {
            Ok(words) if self.stamp(index).matches(&words) => true,
            Ok(_) => {
                (world.emit)(Event::Mismatch(page));
                self.rewrite(index, world);
                false
            }
            Err(Poisoned) => {
                self.lose(index, world);
                false
            }
        }
    }

    fn rewrite(&mut self, index: usize, world: &mut World<'_>) {
        let Some(page) = self.page(index) else {
            return;
        };
        self.entries[index].generation = self.entries[index].generation.wrapping_add(1);
        if world.memory.store(page, &self.stamp(index).words()).is_err() {
            self.lose(index, world);
        }
    }

    /// Moves an entry to any page outside block `not_in`, or drops it.
    fn relocate(&mut self, index: usize, not_in: Option<usize>, world: &mut World<'_>) {
        let Some(page) = self.page(index) else {
            return;
        };
        match world.frames.free_elsewhere(not_in) {
            Some(destination) => self.move_to(index, destination, world),
            None => {
                self.unplace(index, Owner::Free, world);
                (world.emit)(Event::Dropped(page));
            }
        }
    }

    fn move_to(&mut self, index: usize, destination: Gpa, world: &mut World<'_>) {
        // The words are copied as they are, never made anew: what is wrong must stay visible.
        let Some(page) = self.page(index) else {
            return;
        };
        let Ok(words) = world.memory.load(page) else {
            return self.lose(index, world);
        };
        world.frames.set(page, Owner::Free);
        self.place(index, destination, world);
        if world.memory.store(destination, &words).is_err() {
            self.lose(index, world);
        }
    }

    fn lose(&mut self, index: usize, world: &mut World<'_>) {
        if let Some(page) = self.page(index) {
            self.unplace(index, Owner::Retired, world);
            world.frames.worsen(page, Health::Poisoned);
            (world.emit)(Event::Lost(page));
        }
    }

    fn place(&mut self, index: usize, page: Gpa, world: &mut World<'_>) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "page numbers below 16 TiB, as documented"
        )]
        let number = (page.0 / PAGE_SIZE) as u32;
        #[expect(clippy::cast_possible_truncation, reason = "an index counts pages")]
        world.frames.set(page, Owner::Entry(index as u32));
        self.entries[index].page = number + 1;
    }

    fn unplace(&mut self, index: usize, owner: Owner, world: &mut World<'_>) {
        if let Some(page) = self.page(index) {
            world.frames.set(page, owner);
            self.entries[index].page = 0;
            self.homeless += 1;
        }
    }

    fn page(&self, index: usize) -> Option<Gpa> {
        let number = self.entries[index].page.checked_sub(1)?;
        Some(Gpa(u64::from(number) * PAGE_SIZE))
    }

    fn stamp(&self, index: usize) -> Stamp {
        #[expect(clippy::cast_possible_truncation, reason = "an index counts pages")]
        Stamp { index: index as u32, generation: self.entries[index].generation }
    }
}
