//! BadRAM patterns: pairs of an address and a mask. A page is meant if its address equals the pattern's
//! in every bit that is set in the mask.
//!
//! Source: GNU GRUB Manual, "badram"; Memtest86+ README, "BadRAM Patterns".

use persist_store::exclusion::PFN_BITS;
use ras_core::{PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange};

use super::PAGES_MAX;

/// An address and a mask, as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    pub(super) address: u64,
    pub(super) mask: u64,
}

impl Pattern {
    /// Patterns that mean these pages and no others: blocks of a power of two, aligned to their size.
    pub(super) fn covering(range: PfnRange) -> impl Iterator<Item = Self> {
        let (mut start, mut left) = (range.start.0, range.count);
        std::iter::from_fn(move || {
            let alignment = if start == 0 { u64::MAX } else { 1 << start.trailing_zeros() };
            let size = alignment.min(1 << left.checked_ilog2()?);
            let pattern = Self { address: start * PAGE_SIZE, mask: !(size * PAGE_SIZE - 1) };
            (start, left) = (start + size, left - size);
            Some(pattern)
        })
    }

    /// The pages it means, ascending. The error says why not: too many, or more than can be.
    pub(super) fn pages(self) -> Result<Vec<PfnRange>, String> {
        let frames = (1 << PFN_BITS) - 1;
        let mask = self.mask >> PAGE_SHIFT;
        // Part of a page is the whole page.
        let fixed = (self.address >> PAGE_SHIFT) & mask;
        if fixed > frames {
            return Err("no machine has memory at such an address".into());
        }
        let free = !mask & frames;
        let count = 1_u64.checked_shl(free.count_ones()).filter(|&count| count <= PAGES_MAX);
        let count = count.ok_or_else(|| {
            format!("it means 2^{} pages; {PAGES_MAX} are the limit", free.count_ones())
        })?;
        // Counting through the free bits only: the lowest of them make runs of neighbours.
        let mut bits = 0_u64;
        let run = 1_u64 << free.trailing_ones();
        let ranges = (0..count / run).map(|_| {
            let range = PfnRange { start: Pfn(fixed | bits), count: run };
            bits = (bits | !free).wrapping_add(run) & free;
            range
        });
        Ok(ranges.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(address: u64, mask: u64) -> Vec<(u64, u64)> {
        let ranges = Pattern { address, mask }.pages().unwrap();
        ranges.into_iter().map(|range| (range.start.0, range.count)).collect()
    }

    #[test]
    fn a_mask_with_holes_means_pages_far_apart() {
        assert_eq!(pages(0x7ddf_0000, !0x3fff), [(0x7ddf0, 4)]);
        assert_eq!(pages(0x1234_5678, !7), [(0x12345, 1)]);
        assert_eq!(pages(0x1_0000, !0x4_0fff), [(0x10, 1), (0x50, 1)]);
        assert_eq!(pages(0x1_0000, !0x4_3fff), [(0x10, 4), (0x50, 4)]);
        let holes = pages(0, !0xa_afff);
        assert_eq!(holes.len(), 16);
        assert!(holes.iter().all(|&(start, count)| start & !0xaa == 0 && count == 1));
        assert!(Pattern { address: 0, mask: 0 }.pages().is_err());
        assert!(Pattern { address: 1 << 60, mask: !0xfff }.pages().is_err());
    }

    #[test]
    fn blocks_cover_a_range_and_nothing_else() {
        for (start, count) in [(0, 1), (0, 7), (1, 1), (3, 13), (0xfff, 0x1002), (1 << 39, 5)] {
            let range = PfnRange { start: Pfn(start), count };
            let covered: Vec<PfnRange> =
                Pattern::covering(range).flat_map(|pattern| pattern.pages().unwrap()).collect();
            assert_eq!(super::super::runs(covered), [range]);
        }
    }
}
