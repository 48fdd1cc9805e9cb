//! Which pages still have to be sent: one bit per page of guest memory.

use ras_core::{Gpa, PAGE_SIZE};

use crate::memory::mapping::{DirtyBitmap, GuestRam, bytes};

/// A set of guest pages. Pages outside guest memory are never in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PageSet(Vec<Region>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Region {
    start: u64,
    pages: u64,
    words: Vec<u64>,
}

impl PageSet {
    pub(super) fn empty(ram: &GuestRam) -> Self {
        let region = |region: &crate::memory::mapping::Region| {
            let pages = region.size() / PAGE_SIZE;
            let words = vec![0; bytes(pages.div_ceil(64))];
            Region { start: region.gpa().0, pages, words }
        };
        Self(ram.regions().iter().map(region).collect())
    }

    pub(super) fn of(ram: &GuestRam, ranges: &[(Gpa, u64)]) -> Self {
        let mut set = Self::empty(ram);
        for (gpa, len) in ranges {
            set.insert_range(*gpa, *len);
        }
        set
    }

    /// Adds the pages that `len` bytes at `gpa` touch.
    pub(super) fn insert_range(&mut self, gpa: Gpa, len: u64) {
        let end = gpa.0.saturating_add(len);
        for region in &mut self.0 {
            let from = gpa.0.max(region.start);
            let to = end.min(region.start + region.pages * PAGE_SIZE);
            if from < to {
                let first = (from - region.start) / PAGE_SIZE;
                let last = (to - 1 - region.start) / PAGE_SIZE;
                for page in first..=last {
                    region.words[bytes(page / 64)] |= 1 << (page % 64);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, page: Gpa) {
        for region in &mut self.0 {
            if let Some(offset) = page.0.checked_sub(region.start)
                && offset / PAGE_SIZE < region.pages
            {
                let index = offset / PAGE_SIZE;
                region.words[bytes(index / 64)] &= !(1 << (index % 64));
            }
        }
    }

    /// Adds a dirty bitmap. Slots normally are whole regions; one that is not is added bit by bit.
    pub(super) fn merge(&mut self, (start, bitmap): &DirtyBitmap) {
        if let Some(region) = self.0.iter_mut().find(|region| region.start == start.0) {
            for (index, (word, dirty)) in region.words.iter_mut().zip(bitmap).enumerate() {
                // The last word may be longer than the region.
                let left = region.pages - index as u64 * 64;
                *word |= if left < 64 { dirty & ((1 << left) - 1) } else { *dirty };
            }
            return;
        }
        for (index, word) in bitmap.iter().enumerate() {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                let offset = (index as u64 * 64 + bit).saturating_mul(PAGE_SIZE);
                self.insert_range(Gpa(start.0.saturating_add(offset)), 1);
            }
        }
    }

    /// Keeps what is also in `other`, a set over the same memory.
    pub(super) fn intersect(&mut self, other: &Self) {
        for (word, mask) in self.words_with(other) {
            *word &= mask;
        }
    }

    /// Takes out what is in `other`, a set over the same memory.
    pub(super) fn subtract(&mut self, other: &Self) {
        for (word, mask) in self.words_with(other) {
            *word &= !mask;
        }
    }

    /// Adds what is in `other`, a set over the same memory.
    pub(super) fn unite(&mut self, other: &Self) {
        for (word, more) in self.words_with(other) {
            *word |= more;
        }
    }

    fn words_with<'a>(&'a mut self, other: &'a Self) -> impl Iterator<Item = (&'a mut u64, u64)> {
        let regions = self.0.iter_mut().zip(&other.0);
        regions.flat_map(|(ours, theirs)| ours.words.iter_mut().zip(theirs.words.iter().copied()))
    }

    /// Number of pages.
    pub(super) fn count(&self) -> u64 {
        let words = self.0.iter().flat_map(|region| &region.words);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// The pages, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Gpa> {
        self.0.iter().flat_map(|region| {
            region.words.iter().enumerate().flat_map(move |(index, word)| {
                let mut rest = *word;
                std::iter::from_fn(move || {
                    let bit = rest.trailing_zeros();
                    // Clears the lowest bit; 0 stays 0.
                    rest &= rest.wrapping_sub(1);
                    (bit < 64).then(|| {
                        Gpa(region.start + (index as u64 * 64 + u64::from(bit)) * PAGE_SIZE)
                    })
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;
    use crate::memory::mapping::{RegionConfig, RegionKind};
    use crate::migrate::format::Run;

    /// 70 pages at 0 and 130 pages at 1 GiB.
    fn ram() -> GuestRam {
        let region = |gpa, pages| RegionConfig {
            gpa: Gpa(gpa),
            size: pages * PAGE_SIZE,
            kind: RegionKind::Ram,
        };
        GuestRam::new(&[region(0, 70), region(1 << 30, 130)]).unwrap()
    }

    fn page(index: u64) -> Gpa {
        Gpa(if index < 70 { index * PAGE_SIZE } else { (1 << 30) + (index - 70) * PAGE_SIZE })
    }

    #[test]
    fn bitmaps_merge_wherever_their_slot_begins() {
        let mut set = PageSet::empty(&ram());
        set.merge(&(Gpa(0), vec![1, u64::MAX]));
        assert_eq!(set.count(), 7, "bits beyond the region's 70 pages don't count");
        set.merge(&(Gpa((1 << 30) + 5 * PAGE_SIZE), vec![0b11]));
        let high: Vec<Gpa> = set.iter().filter(|page| page.0 >= 1 << 30).collect();
        assert_eq!(high, [page(75), page(76)]);
        set.merge(&(Gpa(1 << 40), vec![u64::MAX]));
        assert_eq!(set.count(), 9);
    }

    proptest! {
        #[test]
        fn a_page_set_is_a_set(
            ours in proptest::collection::btree_set(0_u64..200, 0..60),
            theirs in proptest::collection::btree_set(0_u64..200, 0..60),
        ) {
            let ram = ram();
            let make = |pages: &BTreeSet<u64>| {
                let mut set = PageSet::empty(&ram);
                pages.iter().for_each(|index| set.insert_range(page(*index), 1));
                set
            };
            let check = |set: &PageSet, expected: BTreeSet<u64>| {
                let expected: Vec<Gpa> = expected.into_iter().map(page).collect();
                assert_eq!(set.iter().collect::<Vec<_>>(), expected);
                assert_eq!(set.count(), expected.len() as u64);
                let runs = Run::collect(set.iter()).into_iter().flat_map(Run::iter);
                assert_eq!(runs.collect::<Vec<_>>(), expected);
            };
            let (a, b) = (make(&ours), make(&theirs));
            check(&a, ours.clone());
            let with = |change: fn(&mut PageSet, &PageSet)| {
                let mut set = a.clone();
                change(&mut set, &b);
                set
            };
            check(&with(PageSet::intersect), &ours & &theirs);
            check(&with(PageSet::subtract), &ours - &theirs);
            check(&with(PageSet::unite), &ours | &theirs);
            let mut set = a.clone();
            theirs.iter().for_each(|index| set.remove(page(*index)));
            check(&set, &ours - &theirs);
        }
    }
}
