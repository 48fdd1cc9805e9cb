//! From bytes that are not yet trusted to records that are, and to a verdict on the rest.
//!
//! ```text
//!  copies of a block      what follows it                  verdict
//!  ------------------     ------------------------------   -------------------------------------
//!  both good              -                                read
//!  one good               -                                read; the other is mended from it
//!  none good              nothing of a later commit        the end; anything there is a torn tail
//!  none good              a good block of a later commit   Gap: acknowledged data is gone
//!  end of the file        -                                Cut: the last block is never used
//! ```
//! A torn commit was never acknowledged, because acknowledging needs both copies durable. So one
//! fault, wherever it hits, is either mended or seen; it can't pass for a torn tail. The witness
//! extends that to faults that take both copies of the last commit.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use crate::layout::{BLOCK_SIZE, Block, COPIES, CheckedHeader, Header, VERSION, Witness};

/// A journal that was read.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The header; `None` where both copies are damaged.
    pub header: Option<Header>,
    /// Highest generation number seen anywhere, the witness included. A rewrite must exceed it.
    pub generation_max: u64,
    /// The records of each good block, in order; [`Record::split`](crate::Record::split) takes them
    /// apart.
    pub blocks: Vec<&'a [u8]>,
    /// Damage that lost data or may have. The journal has to be set aside and rewritten from
    /// `blocks`.
    pub fault: Option<Fault>,
    /// Without a fault: what to write so that every block in use has two good copies and the rest is
    /// zero.
    pub repairs: Vec<Repair>,
    /// Of the repairs: copies of acknowledged blocks or of the header that were damaged.
    pub damaged_copies: u64,
    /// Of the repairs: bytes of a commit that was never finished.
    pub torn_bytes: u64,
    /// Leading blocks known to be durable: the caller must make the others so before relying on them.
    pub durable_blocks: u64,
}

/// One block-sized write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repair {
    /// Byte offset of the block to write.
    pub offset: u64,
    /// Byte offset of its good twin; `None` to write zeros.
    pub twin: Option<u64>,
}

/// Damage that can't be mended from a second copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Both copies of the header are damaged, or this is not a journal.
    HeaderLost,
    /// The file is shorter than it was.
    Cut,
    /// Both copies of at least one block are damaged, and later commits follow.
    Gap {
        /// Number of the first lost block.
        first: u64,
    },
    /// The journal ends before what the witness saw acknowledged.
    Forgotten {
        /// Blocks acknowledged.
        acknowledged: u64,
        /// Blocks found.
        found: u64,
    },
    /// The witness speaks of a later journal: this one is an old copy.
    Outdated,
    /// There is no journal, but the witness saw one.
    Missing,
    /// A block with a good checksum holds bytes that are not records: a writer's bug.
    Malformed,
    /// Both copies of an [`Image`](crate::Image) are damaged or lost.
    ImagesLost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderLost => f.write_str("both copies of the header are damaged"),
            Self::Cut => f.write_str("the journal was cut short"),
            Self::Gap { first } => {
                write!(f, "both copies of block {first} are damaged, and later ones follow")
            }
            Self::Forgotten { acknowledged, found } => {
                write!(f, "{acknowledged} blocks were acknowledged, {found} are there")
            }
            Self::Outdated => f.write_str("the journal is an older one than was last in use"),
            Self::Missing => f.write_str("the journal is missing, but was in use"),
            Self::Malformed => f.write_str("a block with a good checksum holds no records"),
            Self::ImagesLost => f.write_str("both copies of the list are damaged"),
        }
    }
}

/// The journal was written by a version this crate can't read. It has to be left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("format version {found}; this program reads version {}", VERSION.0)]
pub struct UnsupportedVersion {
    /// Its major version.
    pub found: u16,
}

impl<'a> Reading<'a> {
    /// Reads a journal. Takes time and memory linear in `bytes`.
    pub fn of(bytes: &'a [u8], witness: Option<Witness>) -> Result<Self, UnsupportedVersion> {
        let [first, second] = [block_at(bytes, 0), block_at(bytes, 1)];
        let checked = Header::check(first);
        let equal = checked.is_some() && first == second;
        let headers = [checked, if equal { checked } else { Header::check(second) }];
        let mut header = None;
        for checked in headers.iter().flatten() {
            match checked {
                CheckedHeader::OtherMajor(found) => {
                    return Err(UnsupportedVersion { found: *found });
                }
                CheckedHeader::Ours(ours) => header = header.or(Some(*ours)),
            }
        }
        let Some(trusted) = header else {
            return Ok(Self::salvage(bytes, None, witness, Fault::HeaderLost));
        };
        let mut reading = Self {
            header,
            generation_max: trusted.generation.max(witness.map_or(0, |witness| witness.generation)),
            blocks: Vec::new(),
            fault: None,
            repairs: Vec::new(),
            damaged_copies: 0,
            torn_bytes: 0,
            durable_blocks: 0,
        };
        for (index, twin) in [(0, 1), (1, 0)] {
            if headers[index].is_none() {
                reading.repairs.push(Repair { offset: at(index), twin: Some(at(twin)) });
                reading.damaged_copies += 1;
            }
        }
        Ok(match reading.walk(bytes, trusted, witness) {
            Ok(()) => reading,
            Err(fault) => Self::salvage(bytes, header, witness, fault),
        })
    }

    /// Commit by commit to the end, then a look at what lies beyond it.
    fn walk(
        &mut self,
        bytes: &'a [u8],
        header: Header,
        witness: Option<Witness>,
    ) -> Result<(), Fault> {
        let Header { geometry, generation, .. } = header;
        let capacity = geometry.capacity(bytes.len() as u64);
        let good = |number: u64, bytes: &'a [u8]| {
            let block = Block::check(bytes)?;
            (block.number == number && block.generation == generation).then_some(block)
        };
        let both = |number: u64| {
            let [first, second] = [0, 1].map(|copy| slice_at(bytes, geometry.offset(number, copy)));
            let checked = good(number, first);
            // Comparing is several times faster than another checksum over the same bytes.
            let equal = checked.is_some() && first == second;
            [checked, if equal { checked } else { good(number, second) }]
        };
        let table: Vec<[Option<Block<'a>>; 2]> = (0..capacity).map(both).collect();
        let copies = |number: u64| {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            table.get(index).copied().unwrap_or_default()
        };
        let either = |number: u64| copies(number)[0].or(copies(number)[1]);

        let commit = |number| either(number).map(|block| (block.commit_start, block.commit_blocks));
        let (end, last_commit) = commits(capacity, commit)?;

        // The file only grows by zeros, and that is durable before a block is put there.
        let beyond = usize::try_from(geometry.size(capacity)).unwrap_or(usize::MAX);
        if end >= capacity || bytes.get(beyond..).is_some_and(|rest| !is_zero(rest)) {
            return Err(Fault::Cut);
        }
        self.durable_blocks = Witness::durable_blocks(witness, generation);
        // A commit is only begun after the one before it was acknowledged, so all but the last were.
        let acknowledged = self.durable_blocks.max(last_commit);
        for number in 0..end {
            let copies = copies(number);
            let offset = |copy| geometry.offset(number, copy);
            for (copy, twin) in [(0, 1), (1, 0)] {
                if copies[usize::from(copy != 0)].is_none() {
                    self.repairs.push(Repair { offset: offset(copy), twin: Some(offset(twin)) });
                    self.damaged_copies += u64::from(number < acknowledged);
                }
            }
            self.blocks.extend(copies[0].or(copies[1]).map(|block| block.records));
        }
        for number in end..capacity {
            for (copy, block) in (0..COPIES).zip(copies(number)) {
                let offset = geometry.offset(number, copy);
                if is_zero(slice_at(bytes, offset)) {
                    continue;
                }
                if block.is_some_and(|block| block.commit_start > end) {
                    return Err(Fault::Gap { first: end });
                }
                self.repairs.push(Repair { offset, twin: None });
                self.torn_bytes += BLOCK_SIZE as u64;
            }
        }
        match witness {
            Some(witness) if witness.generation > generation => Err(Fault::Outdated),
            _ if self.durable_blocks > end => {
                Err(Fault::Forgotten { acknowledged: self.durable_blocks, found: end })
            }
            _ => Ok(()),
        }
    }

    /// Every good block, wherever it lies, in order of number. Blocks know their journal and their
    /// place in it, so this needs no header.
    fn salvage(
        bytes: &'a [u8],
        header: Option<Header>,
        witness: Option<Witness>,
        fault: Fault,
    ) -> Self {
        let all = || bytes.chunks_exact(BLOCK_SIZE).filter_map(Block::check);
        let newest = all().map(|block| block.generation).max();
        let generation = header.map(|header| header.generation).or(newest);
        let found: BTreeMap<u64, &[u8]> = all()
            .filter(|block| Some(block.generation) == generation)
            .map(|block| (block.number, block.records))
            .collect();
        let witnessed = witness.map(|witness| witness.generation);
        Self {
            header,
            generation_max: generation.max(newest).max(witnessed).unwrap_or(0),
            blocks: found.into_values().collect(),
            fault: Some(fault),
            repairs: Vec::new(),
            damaged_copies: 0,
            torn_bytes: 0,
            durable_blocks: 0,
        }
    }
}

/// The end of the last whole commit and its first block; `commit` says for each good block where its
/// commit begins and how many blocks it has.
pub(crate) fn commits(
    capacity: u64,
    commit: impl Fn(u64) -> Option<(u64, u64)>,
) -> Result<(u64, u64), Fault> {
    let (mut end, mut last_commit) = (0, 0);
    while let Some(first @ (start, blocks)) = (end < capacity).then(|| commit(end)).flatten() {
        let after = end.saturating_add(blocks);
        if start != end || blocks == 0 {
            break;
        }
        // A commit is only begun where it and one unused block fit.
        if after >= capacity {
            return Err(Fault::Cut);
        }
        if !(end..after).all(|number| commit(number) == Some(first)) {
            break;
        }
        (last_commit, end) = (end, after);
    }
    Ok((end, last_commit))
}

/// Byte offset of the block at `index` of the file.
const fn at(index: usize) -> u64 {
    (index * BLOCK_SIZE) as u64
}

fn block_at(bytes: &[u8], index: usize) -> &[u8] {
    slice_at(bytes, at(index))
}

/// The block at a byte offset; empty where the file ends before its end.
fn slice_at(bytes: &[u8], offset: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    bytes.get(start..start.saturating_add(BLOCK_SIZE)).unwrap_or_default()
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Word by word: most of a journal is unused.
    let mut words = bytes.chunks_exact(16);
    words.all(|word| word == [0; 16]) && words.remainder().iter().all(|&byte| byte == 0)
}
