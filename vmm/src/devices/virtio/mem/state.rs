//! Which blocks are plugged.

use std::ops::Range;

use ras_core::Gpa;
use serde::{Deserialize, Serialize};

/// Size of a block in bytes: what the guest plugs and unplugs, and one huge page.
pub const BLOCK_SIZE: u64 = 2 << 20;

/// The blocks of a device's region, by number from its start; one bit each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocks {
    start: Gpa,
    count: u64,
    plugged: Vec<u64>,
}

impl Blocks {
    /// `size` bytes from `start`, all unplugged. Both are multiples of [`BLOCK_SIZE`].
    #[must_use]
    pub fn new(start: Gpa, size: u64) -> Self {
        let count = size / BLOCK_SIZE;
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self { start, count, plugged: vec![0; words] }
    }

    /// Whether these can be the blocks of a device with `own` blocks: as many from the same address, with
    /// a bit for each and for no other. What arrives with a migration is not trusted.
    #[must_use]
    pub fn fits(&self, own: &Self) -> bool {
        let all = own.count..own.plugged.len() as u64 * 64;
        (self.start, self.count, self.plugged.len()) == (own.start, own.count, own.plugged.len())
            && !all.into_iter().any(|number| self.is_plugged(number))
    }

    /// First byte of the region.
    #[must_use]
    pub const fn start(&self) -> Gpa {
        self.start
    }

    /// Bytes of the region.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.count * BLOCK_SIZE
    }

    /// First byte of block `number`.
    #[must_use]
    pub const fn gpa(&self, number: u64) -> Gpa {
        Gpa(self.start.0 + number * BLOCK_SIZE)
    }

    /// The block that holds `gpa`.
    #[must_use]
    pub fn number(&self, gpa: Gpa) -> Option<u64> {
        let number = gpa.0.checked_sub(self.start.0)? / BLOCK_SIZE;
        (number < self.count).then_some(number)
    }

    /// The blocks that `len` bytes at `gpa` touch; `None` if any of it lies outside the region.
    #[must_use]
    pub fn touched(&self, gpa: Gpa, len: u64) -> Option<Range<u64>> {
        let last = gpa.0.checked_add(len.checked_sub(1)?)?;
        Some(self.number(gpa)?..self.number(Gpa(last))? + 1)
    }

    /// Whether block `number` is plugged.
    #[must_use]
    pub fn is_plugged(&self, number: u64) -> bool {
        let (word, mask) = bit(number);
        self.plugged.get(word).is_some_and(|word| word & mask != 0)
    }

    /// Marks blocks.
    pub fn set(&mut self, numbers: Range<u64>, plugged: bool) {
        for number in numbers {
            let (word, mask) = bit(number);
            if let Some(word) = self.plugged.get_mut(word) {
                if plugged { *word |= mask } else { *word &= !mask }
            }
        }
    }

    /// Bytes in plugged blocks.
    #[must_use]
    pub fn plugged_size(&self) -> u64 {
        self.plugged.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * BLOCK_SIZE
    }

    /// The plugged blocks as runs of (first address, bytes).
    #[must_use]
    pub fn plugged(&self) -> Vec<(Gpa, u64)> {
        let mut runs: Vec<(Gpa, u64)> = Vec::new();
        for number in (0..self.count).filter(|number| self.is_plugged(*number)) {
            let gpa = self.gpa(number);
            match runs.last_mut() {
                Some((start, len)) if start.0 + *len == gpa.0 => *len += BLOCK_SIZE,
                _ => runs.push((gpa, BLOCK_SIZE)),
            }
        }
        runs
    }
}

fn bit(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_and_counted() {
        let start = Gpa(4 << 30);
        let mut blocks = Blocks::new(start, 200 * BLOCK_SIZE);
        assert_eq!(blocks.number(Gpa(start.0 - 1)), None);
        assert_eq!(blocks.number(Gpa(start.0 + 200 * BLOCK_SIZE)), None);
        assert_eq!(blocks.touched(Gpa(start.0 + BLOCK_SIZE - 1), 2), Some(0..2));
        assert_eq!(blocks.touched(start, 0), None);
        assert_eq!(blocks.touched(start, u64::MAX), None);
        blocks.set(63..66, true);
        blocks.set(199..200, true);
        assert_eq!(blocks.plugged_size(), 4 * BLOCK_SIZE);
        assert_eq!(
            blocks.plugged(),
            [(blocks.gpa(63), 3 * BLOCK_SIZE), (blocks.gpa(199), BLOCK_SIZE)]
        );
        blocks.set(0..200, false);
        assert_eq!(blocks.plugged(), []);
    }
}
