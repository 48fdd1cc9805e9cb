//! Which pages there are and whose each is: plain RAM, and the blocks of one virtio-mem device.

use alloc::vec;
use alloc::vec::Vec;

use crate::page::{Gpa, PAGE_SIZE};

/// Whose a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody's.
    Free,
    /// The working set's, at this index.
    Entry(u32),
    /// The dirty ring's.
    Ring,
    /// Bad: never handed out again, unless its whole block is given back and plugged afresh.
    Retired,
}

/// An [`Owner`] in 32 bits, of which all zero is [`Owner::Free`]: the tables have a slot for every
/// page, and start out as zeroes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot(u32);

impl Slot {
    const FREE: Self = Self(0);
    const RETIRED: Self = Self(u32::MAX);
    const RING: Self = Self(u32::MAX - 1);

    const fn entry(index: u32) -> Self {
        Self(index + 1)
    }

    const fn owner(self) -> Owner {
        match self {
            Self::FREE => Owner::Free,
            Self::RETIRED => Owner::Retired,
            Self::RING => Owner::Ring,
            Self(entry) => Owner::Entry(entry - 1),
        }
    }
}

impl From<Owner> for Slot {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Free => Self::FREE,
            Owner::Retired => Self::RETIRED,
            Owner::Ring => Self::RING,
            Owner::Entry(index) => Self::entry(index),
        }
    }
}

/// What is known about a block's memory, from best to worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// Nothing against it.
    Good,
    /// Corrected errors: its contents can still be moved away.
    Failing,
    /// Contents were lost.
    Poisoned,
}

/// One block of the device.
#[derive(Clone, Debug)]
pub struct Block {
    /// The guest may use it.
    pub plugged: bool,
    /// Pages of the working set inside.
    pub used: u32,
    /// Reset when the block is plugged: the memory behind it is then the host's fresh promise.
    pub health: Health,
    /// Tick before which the device is not asked about this block again.
    pub retry_at: u64,
}

/// The device's blocks: they tile its region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Address of block 0.
    pub start: Gpa,
    /// Bytes of a block, a multiple of the page size.
    pub block_size: u64,
    /// Number of blocks.
    pub blocks: usize,
}

impl Region {
    /// No device.
    pub const NONE: Self = Self { start: Gpa(0), block_size: PAGE_SIZE, blocks: 0 };

    /// Address of block `index`.
    #[must_use]
    pub const fn block(&self, index: usize) -> Gpa {
        Gpa(self.start.0 + index as u64 * self.block_size)
    }

    /// The block that holds `page`.
    #[must_use]
    pub fn block_of(&self, page: Gpa) -> Option<usize> {
        let index = usize::try_from(page.0.checked_sub(self.start.0)? / self.block_size).ok()?;
        (index < self.blocks).then_some(index)
    }
}

/// All pages.
pub struct Frames {
    ram_start: Gpa,
    ram: Vec<Slot>,
    ram_free: usize,
    ram_cursor: usize,
    region: Region,
    blocks: Vec<Block>,
    block_pages: Vec<Slot>,
    block_cursor: usize,
}

impl Frames {
    /// All of `ram` (page-aligned) free, all blocks unplugged.
    #[must_use]
    pub fn new(ram_start: Gpa, ram_pages: usize, region: Region) -> Self {
        let block = Block { plugged: false, used: 0, health: Health::Good, retry_at: 0 };
        let per_block = index(region.block_size / PAGE_SIZE);
        Self {
            ram_start,
            ram: zeroes(ram_pages),
            ram_free: ram_pages,
            ram_cursor: 0,
            region,
            blocks: vec![block; region.blocks],
            block_pages: zeroes(region.blocks * per_block),
            block_cursor: 0,
        }
    }

    /// Takes the first pages of RAM out of the game: the guest itself lies there.
    pub fn reserve_ram_below(&mut self, end: Gpa) {
        let pages = index(end.0.saturating_sub(self.ram_start.0).div_ceil(PAGE_SIZE));
        self.ram.drain(..pages.min(self.ram.len()));
        self.ram_start = Gpa(self.ram_start.0 + pages as u64 * PAGE_SIZE);
        self.ram_free = self.ram.len();
    }

    /// The device's blocks.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// State of every block, by index.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Pages of plain RAM, whoever owns them.
    #[must_use]
    pub fn ram_pages(&self) -> usize {
        self.ram.len()
    }

    /// Free pages of plain RAM.
    #[must_use]
    pub fn ram_free(&self) -> usize {
        self.ram_free
    }

    /// Whose `page` is; `None` where there is no memory that the guest may touch or manages.
    #[must_use]
    pub fn owner(&self, page: Gpa) -> Option<Owner> {
        match self.place(page)? {
            Place::Ram(slot) => Some(self.ram[slot].owner()),
            Place::Block { block, slot } => {
                self.blocks[block].plugged.then(|| self.block_pages[slot].owner())
            }
        }
    }

    /// Gives `page` to `owner`. Does nothing where there is no memory.
    pub fn set(&mut self, page: Gpa, owner: Owner) {
        match self.place(page) {
            Some(Place::Ram(slot)) => {
                self.ram_free -= usize::from(self.ram[slot] == Slot::FREE);
                self.ram_free += usize::from(owner == Owner::Free);
                self.ram[slot] = owner.into();
            }
            Some(Place::Block { block, slot }) => {
                let used = &mut self.blocks[block].used;
                *used -= u32::from(matches!(self.block_pages[slot].owner(), Owner::Entry(_)));
                *used += u32::from(matches!(owner, Owner::Entry(_)));
                self.block_pages[slot] = owner.into();
            }
            None => {}
        }
    }

    /// The last `pages` pages of RAM, or as many as leave a quarter of it free, as one run.
    pub fn reserve_ring(&mut self, pages: usize) -> (Gpa, usize) {
        let pages = pages.min(self.ram.len() / 4 * 3);
        let first = self.ram.len() - pages;
        let taken = &mut self.ram[first..];
        self.ram_free -= taken.iter().filter(|slot| **slot == Slot::FREE).count();
        taken.fill(Slot::RING);
        (self.ram_page(first), pages)
    }

    /// A free page of RAM, the first at or after `hint` pages from its start, wrapping round.
    #[must_use]
    pub fn free_in_ram(&mut self, hint: Option<usize>) -> Option<Gpa> {
        if self.ram_free == 0 {
            return None;
        }
        let from = hint.unwrap_or(self.ram_cursor) % self.ram.len();
        let (head, tail) = self.ram.split_at(from);
        let slot = match free_slot(tail) {
            Some(slot) => from + slot,
            None => free_slot(head)?,
        };
        self.ram_cursor = slot + 1;
        Some(self.ram_page(slot))
    }

    /// A free page of a plugged block, the first at or after page `hint` of it, wrapping round.
    #[must_use]
    pub fn free_in_block(&self, block: usize, hint: usize) -> Option<Gpa> {
        if !self.blocks[block].plugged {
            return None;
        }
        let pages = self.pages_per_block();
        let first = block * pages;
        let (head, tail) = self.block_pages[first..first + pages].split_at(hint % pages);
        let slot = match free_slot(tail) {
            Some(slot) => hint % pages + slot,
            None => free_slot(head)?,
        };
        Some(Gpa(self.region.block(block).0 + slot as u64 * PAGE_SIZE))
    }

    /// A free page outside block `not_in`: in the healthy blocks by turns, else in RAM.
    #[must_use]
    pub fn free_elsewhere(&mut self, not_in: Option<usize>) -> Option<Gpa> {
        let pages = self.pages_per_block();
        for _ in 0..self.blocks.len() {
            self.block_cursor = (self.block_cursor + 1) % self.blocks.len();
            let block = &self.blocks[self.block_cursor];
            let roomy = index(u64::from(block.used)) < pages;
            if block.plugged
                && roomy
                && block.health == Health::Good
                && Some(self.block_cursor) != not_in
                && let Some(page) =
                    self.free_in_block(self.block_cursor, index(u64::from(block.used)))
            {
                return Some(page);
            }
        }
        self.free_in_ram(None)
    }

    /// Gives every free page of RAM (or of plugged block `block`) to the working set, at indices
    /// from `next`, and shows each to `take`, which says whether to go on. In one pass: `fill`
    /// does this for all memory, and every instruction counts.
    pub fn claim_all(
        &mut self,
        block: Option<usize>,
        mut next: u32,
        mut take: impl FnMut(Gpa) -> bool,
    ) {
        let pages = self.pages_per_block();
        let first = next;
        let (mut page, slots) = match block {
            None => (self.ram_start, &mut self.ram[..]),
            Some(block) if self.blocks[block].plugged => (
                self.region.block(block),
                &mut self.block_pages[block * pages..(block + 1) * pages],
            ),
            Some(_) => return,
        };
        for slot in slots {
            if *slot == Slot::FREE {
                if !take(page) {
                    break;
                }
                *slot = Slot::entry(next);
                next += 1;
            }
            page.0 += PAGE_SIZE;
        }
        match block {
            None => self.ram_free -= (next - first) as usize,
            Some(block) => self.blocks[block].used += next - first,
        }
    }

    /// Pages of one block with their owners, ascending.
    pub fn pages_of(&self, block: usize) -> impl Iterator<Item = (Gpa, Owner)> + '_ {
        let first = block * self.pages_per_block();
        let start = self.region.block(block).0;
        self.block_pages[first..first + self.pages_per_block()]
            .iter()
            .enumerate()
            .map(move |(slot, owner)| (Gpa(start + slot as u64 * PAGE_SIZE), owner.owner()))
    }

    /// The device gave a block: fresh memory, whatever was there before.
    pub fn plugged(&mut self, block: usize) {
        self.reset(block, true);
    }

    /// The device took a block back. Its pages must have been moved away.
    pub fn unplugged(&mut self, block: usize) {
        debug_assert_eq!(self.blocks[block].used, 0);
        self.reset(block, false);
    }

    /// The device said no about a block: leaves it alone until tick `until`.
    pub fn postpone(&mut self, block: usize, until: u64) {
        self.blocks[block].retry_at = until;
    }

    /// Remembers the worst that is known about the block of `page`, if it lies in one.
    pub fn worsen(&mut self, page: Gpa, health: Health) {
        if let Some(block) = self.region.block_of(page) {
            let block = &mut self.blocks[block];
            block.health = block.health.max(health);
        }
    }

    fn reset(&mut self, block: usize, plugged: bool) {
        let pages = self.pages_per_block();
        self.block_pages[block * pages..(block + 1) * pages].fill(Slot::FREE);
        self.blocks[block] = Block { plugged, used: 0, health: Health::Good, retry_at: 0 };
    }

    fn pages_per_block(&self) -> usize {
        index(self.region.block_size / PAGE_SIZE)
    }

    fn ram_page(&self, slot: usize) -> Gpa {
        Gpa(self.ram_start.0 + slot as u64 * PAGE_SIZE)
    }

    fn place(&self, page: Gpa) -> Option<Place> {
        if let Some(offset) = page.0.checked_sub(self.ram_start.0) {
            let slot = index(offset / PAGE_SIZE);
            if slot < self.ram.len() {
                return Some(Place::Ram(slot));
            }
        }
        let block = self.region.block_of(page)?;
        let slot = index((page.0 - self.region.start.0) / PAGE_SIZE);
        Some(Place::Block { block, slot })
    }
}

enum Place {
    Ram(usize),
    Block { block: usize, slot: usize },
}

fn zeroes(pages: usize) -> Vec<Slot> {
    // `vec!` of integers asks for zeroed memory at once; of any other type it writes a loop.
    vec![0; pages].into_iter().map(Slot).collect()
}

fn free_slot(slots: &[Slot]) -> Option<usize> {
    slots.iter().position(|slot| *slot == Slot::FREE)
}

/// The guest and its tests are 64-bit programs; nothing is lost.
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide here")]
pub(crate) const fn index(value: u64) -> usize {
    const { assert!(usize::BITS == 64) };
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Region = Region { start: Gpa(0x1_0000_0000), block_size: 2 << 20, blocks: 3 };

    #[test]
    fn only_plugged_blocks_and_ram_are_memory() {
        let mut frames = Frames::new(Gpa(0x20_0000), 16, REGION);
        frames.plugged(1);
        assert_eq!(frames.owner(Gpa(0x1f_f000)), None);
        assert_eq!(frames.owner(Gpa(0x20_0000)), Some(Owner::Free));
        assert_eq!(frames.owner(Gpa(0x21_0000)), None);
        assert_eq!(frames.owner(REGION.block(0)), None);
        assert_eq!(frames.owner(REGION.block(1)), Some(Owner::Free));
        assert_eq!(frames.owner(REGION.block(3)), None);
        assert_eq!(frames.free_in_block(0, 0), None);
    }

    #[test]
    fn used_and_free_are_counted() {
        let mut frames = Frames::new(Gpa(0), 8, REGION);
        frames.reserve_ram_below(Gpa(0x1001));
        assert_eq!((frames.ram_pages(), frames.ram_free()), (6, 6));
        assert_eq!(frames.reserve_ring(100), (Gpa(0x5000), 3));
        assert_eq!(frames.ram_free(), 3);
        for expected in [0x3000, 0x4000, 0x2000] {
            let hint = (expected == 0x3000).then_some(1);
            let page = frames.free_in_ram(hint).unwrap();
            assert_eq!(page, Gpa(expected));
            frames.set(page, Owner::Entry(0));
        }
        assert_eq!(frames.free_in_ram(None), None);
        frames.set(Gpa(0x4000), Owner::Retired);
        assert_eq!(frames.ram_free(), 0);

        frames.plugged(2);
        frames.set(REGION.block(2), Owner::Entry(1));
        frames.set(Gpa(REGION.block(2).0 + PAGE_SIZE), Owner::Retired);
        assert_eq!(frames.blocks()[2].used, 1);
        assert_eq!(frames.free_in_block(2, 0), Some(Gpa(REGION.block(2).0 + 2 * PAGE_SIZE)));
        frames.set(REGION.block(2), Owner::Free);
        assert_eq!(frames.blocks()[2].used, 0);
    }

    #[test]
    fn claiming_all_takes_each_free_page_once_and_stops_when_told() {
        let mut frames = Frames::new(Gpa(0), 4, REGION);
        frames.set(Gpa(0x1000), Owner::Retired);
        let mut seen = Vec::new();
        frames.claim_all(None, 5, |page| {
            seen.push(page);
            seen.len() < 3
        });
        assert_eq!(seen, [Gpa(0), Gpa(0x2000), Gpa(0x3000)]);
        assert_eq!(frames.owner(Gpa(0x2000)), Some(Owner::Entry(6)));
        assert_eq!(frames.owner(Gpa(0x3000)), Some(Owner::Free), "not taken");
        assert_eq!(frames.ram_free(), 1);

        frames.claim_all(Some(0), 9, |_| panic!("not plugged"));
        frames.plugged(0);
        frames.claim_all(Some(0), 9, |_| true);
        assert_eq!(frames.blocks()[0].used, 512);
        assert_eq!(frames.free_in_block(0, 7), None);
    }

    #[test]
    fn elsewhere_is_never_the_block_itself_nor_a_bad_one() {
        let mut frames = Frames::new(Gpa(0), 1, REGION);
        (0..3).for_each(|block| frames.plugged(block));
        frames.worsen(REGION.block(2), Health::Failing);
        for _ in 0..4 {
            let page = frames.free_elsewhere(Some(0)).unwrap();
            assert_eq!(REGION.block_of(page), Some(1));
            frames.set(page, Owner::Entry(0));
        }
        frames.worsen(REGION.block(1), Health::Poisoned);
        assert_eq!(frames.free_elsewhere(Some(0)), Some(Gpa(0)));
        frames.set(Gpa(0), Owner::Entry(0));
        assert_eq!(frames.free_elsewhere(Some(0)), None);
    }
}
