//! Appending: a journal that was recovered, and the rules by which it grows.

use std::io;
use std::path::{Path, PathBuf};

use ras_store_format::layout::{BLOCK_SIZE, COPIES, JOURNAL_SIZE_MAX, VERSION, encode_commit};
use ras_store_format::{Encoder, Entry, Geometry, Header, Record, State, Witness};
use tracing::warn;

use crate::StoreError;
use crate::backend::{Backend, File};
use crate::error::io_error;
use crate::fresh::{Image, block_count, live_blocks, write_copy};

/// Sizes that tests make small.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Of journals made from here on.
    pub(crate) geometry: Geometry,
    /// A journal of fewer blocks is not worth compacting.
    pub(crate) compact_blocks_min: u64,
    /// Largest journal in bytes.
    pub(crate) size_max: u64,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        geometry: Geometry::DEFAULT,
        compact_blocks_min: (1 << 20) / BLOCK_SIZE as u64,
        size_max: JOURNAL_SIZE_MAX,
    };
}

/// A journal is compacted when it is this many times as long as a fresh one would be.
const COMPACT_FACTOR: u64 = 4;

/// A journal that is whole, durable and ready for the next commit.
///
/// ```text
/// blocks   0 ........ end ........ capacity
///          in use      zero; at least one, so that a file that was cut is noticed
/// ```
pub(crate) struct Journal<B> {
    backend: B,
    dir: PathBuf,
    limits: Limits,
    header: Header,
    /// Blocks in use.
    end: u64,
    /// Blocks the file has room for.
    capacity: u64,
    /// Blocks in use from which compaction is considered.
    compact_above: u64,
    state: State,
    poisoned: bool,
    witness_failed: bool,
}

impl<B: Backend> Journal<B> {
    /// Takes over a file that holds `state` in `end` durable blocks and room for `capacity`, then
    /// says so in the witness.
    pub(crate) fn new(
        backend: B,
        dir: &Path,
        limits: Limits,
        (header, end, capacity): (Header, u64, u64),
        state: State,
    ) -> Self {
        let mut journal = Self {
            backend,
            dir: dir.into(),
            limits,
            header,
            end,
            capacity,
            compact_above: limits.compact_blocks_min,
            state,
            poisoned: false,
            witness_failed: false,
        };
        journal.testify();
        journal
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// See [`crate::Store::append_all`].
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned { dir: self.dir.clone() });
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut encoder = Encoder::after(&self.state);
        let records = entries
            .iter()
            .map(|entry| encoder.encode(entry))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| StoreError::Encode { dir: self.dir.clone(), source })?;

        let blocks = self.commit_of(&records)?;
        let blocks = if self.make_room(&blocks)? { self.commit_of(&records)? } else { blocks };
        self.commit(&blocks)?;

        // What a reader of the file would see, so that a restart changes nothing.
        for record in &records {
            let mut bytes = record.as_slice();
            while let Some((record, rest)) = Record::split(bytes) {
                self.state.read(record);
                bytes = rest;
            }
        }
        self.state.settle();
        self.compact_if_long();
        Ok(())
    }

    /// The blocks of a commit that begins at the end.
    fn commit_of(&self, records: &[Vec<u8>]) -> Result<Vec<u8>, StoreError> {
        encode_commit(self.header.generation, self.end, records).ok_or_else(|| self.full())
    }

    /// Grows the file until `blocks` and one unused block fit. True if the journal was compacted on
    /// the way, so that the commit has to be encoded anew.
    fn make_room(&mut self, blocks: &[u8]) -> Result<bool, StoreError> {
        let count = block_count(blocks);
        let needed = |end: u64| self.header.geometry.size(end + count + 1);
        let compacted = needed(self.end) > self.limits.size_max;
        if compacted {
            if self.header.geometry.size(self.live_blocks().saturating_add(count + 1))
                > self.limits.size_max
            {
                return Err(self.full());
            }
            self.compact()?;
        }
        let size = self.header.geometry.size(self.end + count + 1);
        let from = self.header.geometry.size(self.capacity);
        if size > from {
            let zeros = vec![0; usize::try_from(size - from).map_err(|_| self.full())?];
            // Zeros alone change nothing, so a disk that fills up here leaves a sound journal.
            self.backend
                .write(File::Journal, from, &zeros)
                .map_err(io_error(&self.dir, "make the journal longer"))?;
            self.sync()?;
            self.capacity = self.header.geometry.capacity(size);
        }
        Ok(compacted)
    }

    /// Both copies, one sync, then the witness.
    fn commit(&mut self, blocks: &[u8]) -> Result<(), StoreError> {
        if let Err(source) = self.write_copies(blocks) {
            // A commit that went wrong must not be found later beside parts of the next one.
            let wiped = self.write_copies(&vec![0; blocks.len()]);
            if wiped.and_then(|()| self.backend.sync(File::Journal)).is_err() {
                self.poisoned = true;
            }
            return Err(io_error(&self.dir, "write to the journal")(source));
        }
        self.sync()?;
        self.end += block_count(blocks);
        self.testify();
        Ok(())
    }

    fn write_copies(&mut self, blocks: &[u8]) -> io::Result<()> {
        (0..COPIES).try_for_each(|copy| {
            write_copy(&mut self.backend, self.header.geometry, self.end, copy, blocks)
        })
    }

    /// After a failed sync the kernel may have dropped what it could not write and call the file
    /// clean. So the second try would succeed and mean nothing: there is no second try.
    fn sync(&mut self) -> Result<(), StoreError> {
        self.backend.sync(File::Journal).map_err(|source| {
            self.poisoned = true;
            io_error(&self.dir, "sync the journal")(source)
        })
    }

    /// Says in the witness what is acknowledged. It is a lower bound and not synced: where it can't
    /// be written, a fault that takes both copies of the last commit would pass for a torn commit.
    fn testify(&mut self) {
        let witness = Witness { generation: self.header.generation, blocks: self.end };
        let written = self.backend.write(File::Witness, 0, &witness.encode());
        if let Err(error) = &written
            && !self.witness_failed
        {
            warn!(dir = %self.dir.display(), %error, "cannot write the store's witness");
        }
        self.witness_failed = written.is_err();
    }

    /// Compacts where it pays. The entries are durable either way, so failing is not their failure.
    fn compact_if_long(&mut self) {
        if self.end <= self.compact_above {
            return;
        }
        let worth = self.live_blocks().saturating_mul(COMPACT_FACTOR);
        self.compact_above = worth.max(self.limits.compact_blocks_min);
        if self.end <= self.compact_above {
            return;
        }
        if let Err(error) = self.compact() {
            // Not with every append: the disk may be full for long.
            self.compact_above = self.end + self.limits.compact_blocks_min / 4;
            warn!(dir = %self.dir.display(), %error, source = ?std::error::Error::source(&error),
                "cannot compact the journal");
        }
    }

    /// Rewrites what an older minor version wrote, so that the header says what may be in the journal.
    /// No reader depends on it: where there is no room, it stays as it is.
    pub(crate) fn upgrade(&mut self) -> Result<(), StoreError> {
        match self.compact() {
            Err(error) if self.poisoned => Err(error),
            Err(error) => {
                warn!(dir = %self.dir.display(), %error, "cannot raise the journal's version");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    pub(crate) fn compact(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned { dir: self.dir.clone() });
        }
        self.state.forget_unused_dimms();
        let generation = self.header.generation.saturating_add(1);
        let minor = self.header.minor.max(VERSION.1);
        let header = Header { generation, minor, ..self.header };
        let image = Image::of(header, &self.state, &self.dir)?;
        image.write(&mut self.backend, &self.dir)?;
        // From here on the old journal may be gone: what fails leaves open which one is there.
        let installed = image.install(&mut self.backend, &self.dir);
        self.poisoned |= installed.is_err();
        installed?;
        (self.header, self.end, self.capacity) = (header, image.end, image.capacity);
        self.testify();
        Ok(())
    }

    /// Too many to be worth anything where the state can't be encoded.
    fn live_blocks(&self) -> u64 {
        live_blocks(self.header, &self.state, &self.dir).unwrap_or(u64::MAX / 8)
    }

    fn full(&self) -> StoreError {
        StoreError::Full { dir: self.dir.clone(), size_max: self.limits.size_max }
    }
}
