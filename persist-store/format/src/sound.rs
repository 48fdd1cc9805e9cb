//! The usual journal: exactly as a writer leaves it.
//!
//! It can be checked segment by segment, in any order and by several threads, without ever being held
//! in memory. Whatever is unusual, however small, ends that with `None`; [`Reading`](crate::Reading) then
//! looks at the whole journal and says what it is. What is sound here is what it finds nothing to say
//! about.

use alloc::vec::Vec;
use core::ops::Range;

use crate::layout::{BLOCK_SIZE, Block, COPIES, CheckedHeader, Header, Witness};
use crate::reading::{commits, is_zero};

/// What is known of a journal before its blocks are read.
#[derive(Clone, Copy, Debug)]
pub struct Sound {
    /// The header, both copies of which are good.
    pub header: Header,
    /// Blocks there is room for.
    pub capacity: u64,
    witness: Option<Witness>,
}

/// A block's commit, its first block and number of blocks; `None` for a block that is not in use.
type Commit = Option<(u64, u64)>;

/// What a sound segment holds beside records.
#[derive(Debug)]
pub struct Segment(Vec<Commit>);

impl Sound {
    /// Bytes of the headers, which come first.
    pub const HEADERS_SIZE: usize = 2 * BLOCK_SIZE;

    /// From the first [`Self::HEADERS_SIZE`] bytes of a file of `size` bytes.
    #[must_use]
    pub fn begin(headers: &[u8], size: u64, witness: Option<Witness>) -> Option<Self> {
        let (first, second) = headers.split_at_checked(BLOCK_SIZE)?;
        let Some(CheckedHeader::Ours(header)) = Header::check(first) else { return None };
        let capacity = header.geometry.capacity(size);
        let whole = first == second && header.geometry.size(capacity) == size;
        let outdated = witness.is_some_and(|witness| witness.generation > header.generation);
        (whole && !outdated).then_some(Self { header, capacity, witness })
    }

    /// Number of segments.
    #[must_use]
    pub const fn segments(&self) -> u64 {
        self.capacity / self.header.geometry.segment_blocks()
    }

    /// Bytes of one segment, with both copies of its blocks.
    #[must_use]
    pub fn segment_size(&self) -> usize {
        let bytes = COPIES * self.header.geometry.segment_blocks() * BLOCK_SIZE as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Where the segment begins in the file.
    #[must_use]
    pub const fn offset(&self, segment: u64) -> u64 {
        let geometry = self.header.geometry;
        geometry.offset(segment.saturating_mul(geometry.segment_blocks()), 0)
    }

    /// Checks a segment; `read` takes each block's records and says whether they are any.
    pub fn segment(
        &self,
        number: u64,
        bytes: &[u8],
        mut read: impl FnMut(&[u8]) -> bool,
    ) -> Option<Segment> {
        let (first, second) = bytes.split_at_checked(self.segment_size() / 2)?;
        if first != second {
            return None;
        }
        let numbers = number.checked_mul(self.header.geometry.segment_blocks())?..;
        let blocks = first.chunks_exact(BLOCK_SIZE).zip(numbers);
        let commits = blocks.map(|(bytes, number)| {
            let Some(block) = Block::check(bytes) else { return is_zero(bytes).then_some(None) };
            let here = (block.number, block.generation) == (number, self.header.generation);
            let sound = here && read(block.records);
            sound.then_some(Some((block.commit_start, block.commit_blocks)))
        });
        commits.collect::<Option<Vec<_>>>().map(Segment)
    }

    /// The blocks in use of which it is not known that they are durable; from 0 to their end all are
    /// in use. Takes all segments in order.
    pub fn finish(&self, segments: impl IntoIterator<Item = Segment>) -> Option<Range<u64>> {
        let table: Vec<Commit> = segments.into_iter().flat_map(|segment| segment.0).collect();
        let at = |number: u64| table.get(usize::try_from(number).ok()?).copied().flatten();
        let (end, _) = commits(self.capacity, at).ok()?;
        let in_use = table.iter().filter(|commit| commit.is_some()).count() as u64;
        let durable = Witness::durable_blocks(self.witness, self.header.generation);
        let sound = table.len() as u64 == self.capacity
            && end < self.capacity
            && in_use == end
            && durable <= end;
        sound.then_some(durable..end)
    }
}
