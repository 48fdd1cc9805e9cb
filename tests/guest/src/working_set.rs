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
pub struct World<'a, M> {
    /// Whose each page is.
    pub frames: &'a mut Frames,
    /// The pages themselves.
    pub memory: &'a mut M,
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
    pub fn populate(&mut self, world: &mut World<'_, impl Memory>) {
        let plugged: Vec<usize> = (0..world.frames.blocks().len())
            .filter(|block| world.frames.blocks()[*block].plugged)
            .collect();
        if self.fill {
            self.claim_all(None, world);
            plugged.iter().for_each(|block| self.claim_all(Some(*block), world));
            return;
        }
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
    pub fn tick(&mut self, world: &mut World<'_, impl Memory>) {
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
    pub fn note_bad(&mut self, bad: BadMemory, world: &mut World<'_, impl Memory>) {
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
    pub fn evacuate(&mut self, block: usize, world: &mut World<'_, impl Memory>) {
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
    pub fn settle(&mut self, block: usize, world: &mut World<'_, impl Memory>) {
        if self.fill {
            self.house_homeless(block, usize::MAX, world);
            self.claim_all(Some(block), world);
        } else if self.homeless > 0 {
            self.house_homeless(block, 1, world);
        } else if !self.entries.is_empty()
            && let Some(page) = world.frames.free_in_block(block, 0)
        {
            self.settle_cursor = (self.settle_cursor + 1) % self.entries.len();
            self.move_to(self.settle_cursor, page, world);
        }
    }

    /// Gives entries without a page one in `block`, at most `count`. They begin afresh there.
    fn house_homeless(&mut self, block: usize, count: usize, world: &mut World<'_, impl Memory>) {
        let mut left = count.min(self.homeless);
        for index in 0..self.entries.len() {
            if left == 0 {
                return;
            }
            if self.entries[index].page == 0 {
                let used = world.frames.blocks()[block].used as usize;
                let Some(page) = world.frames.free_in_block(block, used) else {
                    return;
                };
                left -= 1;
                self.homeless -= 1;
                self.place(index, page, world);
                self.rewrite(index, world);
            }
        }
    }

    /// Takes all free pages of RAM or of a block into the set.
    fn claim_all(&mut self, block: Option<usize>, world: &mut World<'_, impl Memory>) {
        let next = as_u32(self.entries.len());
        let (entries, memory) = (&mut self.entries, &mut *world.memory);
        let mut poisoned = Vec::new();
        world.frames.claim_all(block, next, |page| {
            if entries.len() == self.limit {
                return false;
            }
            let stamp = Stamp { index: as_u32(entries.len()), generation: 1 };
            entries.push(Entry { page: page_number(page), generation: 1 });
            if memory.store(page, &stamp.words()).is_err() {
                poisoned.push(entries.len() - 1);
            }
            true
        });
        poisoned.into_iter().for_each(|index| self.lose(index, world));
    }

    /// Takes `page` into the set.
    fn adopt(&mut self, page: Gpa, world: &mut World<'_, impl Memory>) {
        self.entries.push(Entry { page: 0, generation: 0 });
        let index = self.entries.len() - 1;
        self.place(index, page, world);
        self.rewrite(index, world);
    }

    /// Whether the entry has a page and it holds what it must. A mismatch is told once: the page
    /// is written afresh.
    fn verify(&mut self, index: usize, world: &mut World<'_, impl Memory>) -> bool {
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

    fn rewrite(&mut self, index: usize, world: &mut World<'_, impl Memory>) {
        let Some(page) = self.page(index) else {
            return;
        };
        self.entries[index].generation = self.entries[index].generation.wrapping_add(1);
        if world.memory.store(page, &self.stamp(index).words()).is_err() {
            self.lose(index, world);
        }
    }

    /// Moves an entry to any page outside block `not_in`, or drops it.
    fn relocate(
        &mut self,
        index: usize,
        not_in: Option<usize>,
        world: &mut World<'_, impl Memory>,
    ) {
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

    fn move_to(&mut self, index: usize, destination: Gpa, world: &mut World<'_, impl Memory>) {
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

    fn lose(&mut self, index: usize, world: &mut World<'_, impl Memory>) {
        if let Some(page) = self.page(index) {
            self.unplace(index, Owner::Retired, world);
            world.frames.worsen(page, Health::Poisoned);
            (world.emit)(Event::Lost(page));
        }
    }

    fn place(&mut self, index: usize, page: Gpa, world: &mut World<'_, impl Memory>) {
        world.frames.set(page, Owner::Entry(as_u32(index)));
        self.entries[index].page = page_number(page);
    }

    fn unplace(&mut self, index: usize, owner: Owner, world: &mut World<'_, impl Memory>) {
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
        Stamp { index: as_u32(index), generation: self.entries[index].generation }
    }
}

/// [`Entry::page`] of a page. Good for 16 TiB, more than the page tables cover.
fn page_number(page: Gpa) -> u32 {
    as_u32(usize::try_from(page.0 / PAGE_SIZE).unwrap_or(usize::MAX)) + 1
}

#[expect(clippy::cast_possible_truncation, reason = "page numbers and indices stay below 2^32")]
const fn as_u32(value: usize) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::frames::Region;
    use crate::page::WORDS;

    const REGION: Region = Region { start: Gpa(4 << 30), block_size: 2 << 20, blocks: 4 };

    #[derive(Default)]
    struct Fake {
        pages: BTreeMap<u64, [u64; WORDS]>,
        poisoned: BTreeSet<u64>,
    }

    impl Memory for Fake {
        fn load(&mut self, page: Gpa) -> Result<[u64; WORDS], Poisoned> {
            match self.poisoned.contains(&page.0) {
                true => Err(Poisoned),
                false => Ok(self.pages.get(&page.0).copied().unwrap_or_default()),
            }
        }

        fn store(&mut self, page: Gpa, words: &[u64; WORDS]) -> Result<(), Poisoned> {
            match self.poisoned.contains(&page.0) {
                true => Err(Poisoned),
                false => {
                    self.pages.insert(page.0, *words);
                    Ok(())
                }
            }
        }
    }

    struct Machine {
        frames: Frames,
        memory: Fake,
        set: WorkingSet,
    }

    impl Machine {
        fn new(ram_pages: usize, limit: usize, fill: bool) -> Self {
            let mut frames = Frames::new(Gpa(0x10_0000), ram_pages, REGION);
            frames.plugged(0);
            frames.plugged(1);
            let mut machine =
                Self { frames, memory: Fake::default(), set: WorkingSet::new(limit, fill) };
            assert_eq!(machine.run(WorkingSet::populate), []);
            machine
        }

        fn run(&mut self, step: impl FnOnce(&mut WorkingSet, &mut World<'_, Fake>)) -> Vec<Event> {
            let mut events = Vec::new();
            let mut emit = |event| events.push(event);
            let (frames, memory) = (&mut self.frames, &mut self.memory);
            step(&mut self.set, &mut World { frames, memory, emit: &mut emit });
            events
        }

        fn ticks(&mut self, count: usize) -> Vec<Event> {
            (0..count).flat_map(|_| self.run(WorkingSet::tick)).collect()
        }
    }

    #[test]
    fn the_first_page_of_every_block_is_vouched_for() {
        let machine = Machine::new(64, 10, false);
        assert_eq!(machine.set.pages(), 10);
        for block in 0..2 {
            let first = machine.frames.owner(REGION.block(block));
            assert!(matches!(first, Some(Owner::Entry(_))), "{first:?}");
        }
        assert_eq!(machine.frames.ram_free(), 61);
    }

    #[test]
    fn a_lost_write_is_told_once_wherever_it_is() {
        let mut machine = Machine::new(64, 100, false);
        assert_eq!(machine.ticks(20), []);
        let older = machine.memory.pages.clone();
        assert_eq!(machine.ticks(20), []);
        for (page, words) in older {
            assert_ne!(machine.memory.pages[&page], words, "{page:#x} was never rewritten");
            machine.memory.pages.insert(page, words);
            assert_eq!(machine.ticks(20), [Event::Mismatch(Gpa(page))]);
        }
    }

    #[test]
    fn poison_loses_a_page_once_and_its_block_is_known_to_be_bad() {
        let mut machine = Machine::new(64, 10, false);
        let page = REGION.block(1);
        machine.memory.poisoned.insert(page.0);
        assert_eq!(machine.ticks(10), [Event::Lost(page)]);
        assert_eq!(machine.frames.blocks()[1].health, Health::Poisoned);
        assert_eq!(machine.frames.owner(page), Some(Owner::Retired));
        assert_eq!(machine.set.pages(), 9);
        // The machine check's own record comes later and changes nothing.
        let bad = BadMemory { page, pages: 1, lost: true };
        assert_eq!(machine.run(|set, world| set.note_bad(bad, world)), []);
    }

    #[test]
    fn a_corrected_error_moves_the_page_and_loses_nothing() {
        let mut machine = Machine::new(64, 10, false);
        let bad = BadMemory { page: REGION.block(0), pages: 512, lost: false };
        assert_eq!(machine.run(|set, world| set.note_bad(bad, world)), []);
        assert_eq!(machine.frames.blocks()[0].used, 0);
        assert_eq!(machine.frames.blocks()[0].health, Health::Failing);
        assert_eq!(machine.set.pages(), 10);
        assert_eq!(machine.ticks(10), []);
    }

    #[test]
    fn a_block_is_evacuated_with_its_contents_and_a_new_one_is_settled() {
        let mut machine = Machine::new(64, 30, false);
        let before = machine.frames.blocks()[1].used;
        assert!(before > 1);
        machine.memory.poisoned.insert(REGION.block(1).0);
        let events = machine.run(|set, world| set.evacuate(1, world));
        assert_eq!(events, [Event::Lost(REGION.block(1))]);
        assert_eq!(machine.frames.blocks()[1].used, 0);
        machine.frames.unplugged(1);
        // The host may do with the block what it likes.
        machine.memory.pages.retain(|page, _| REGION.block_of(Gpa(*page)) != Some(1));
        assert_eq!(machine.ticks(10), []);
        assert_eq!(machine.set.pages(), 29);

        machine.frames.plugged(2);
        assert_eq!(machine.run(|set, world| set.settle(2, world)), []);
        assert_eq!(machine.frames.blocks()[2].used, 1);
        assert_eq!(machine.set.pages(), 30, "the lost one has a place again");
        machine.frames.plugged(3);
        assert_eq!(machine.run(|set, world| set.settle(3, world)), []);
        assert_eq!(machine.frames.blocks()[3].used, 1);
        assert_eq!(machine.ticks(10), []);
    }

    #[test]
    fn full_memory_drops_what_finds_no_place() {
        let mut machine = Machine::new(16, 10_000, true);
        assert_eq!(machine.set.pages(), 16 + 2 * 512);
        let events = machine.run(|set, world| set.evacuate(0, world));
        assert_eq!(events.len(), 512);
        assert!(events.iter().all(|event| matches!(event, Event::Dropped(_))));
        machine.frames.unplugged(0);
        machine.frames.plugged(3);
        assert_eq!(machine.run(|set, world| set.settle(3, world)), []);
        assert_eq!(machine.frames.blocks()[3].used, 512);
        assert_eq!(machine.set.pages(), 16 + 2 * 512);
        assert_eq!(machine.set.entries.len(), 16 + 2 * 512, "entries are used again");
        assert_eq!(machine.ticks(100), []);
    }
}
