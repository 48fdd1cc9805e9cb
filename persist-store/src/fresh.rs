//! A whole new journal: at creation, after damage, and to compact.

use std::io;
use std::path::Path;

use ras_store_format::layout::{BLOCK_SIZE, COPIES, encode_commit};
use ras_store_format::{Encoder, Geometry, Header, State, UnknownRecord};

use crate::StoreError;
use crate::backend::{Backend, File};
use crate::error::io_error;

/// The bytes of a journal that says one state in one commit.
pub(crate) struct Image {
    pub(crate) header: Header,
    /// Blocks in use.
    pub(crate) end: u64,
    /// Blocks there is room for.
    pub(crate) capacity: u64,
    bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn of(header: Header, state: &State, dir: &Path) -> Result<Self, StoreError> {
        let blocks = snapshot(header, state, dir)?;
        let end = block_count(&blocks);
        let size = header.geometry.size(end + 1);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        bytes.extend(header.encode().repeat(2));
        for segment in blocks.chunks(segment_size(header.geometry)) {
            // Unused room in the last segment stays zero.
            for _copy in 0..COPIES {
                let start = bytes.len();
                bytes.extend(segment);
                bytes.resize(start + segment_size(header.geometry), 0);
            }
        }
        bytes.resize(usize::try_from(size).unwrap_or(bytes.len()), 0);
        Ok(Self { header, end, capacity: header.geometry.capacity(size), bytes })
    }

    /// Writes it beside the journal, durably, with a name nobody reads. Failing here changes nothing.
    pub(crate) fn write<B: Backend>(&self, backend: &mut B, dir: &Path) -> Result<(), StoreError> {
        let step = || io_error(dir, "write a new journal");
        backend.create(File::Fresh).map_err(step())?;
        backend.write(File::Fresh, 0, &self.bytes).map_err(step())?;
        backend.sync(File::Fresh).map_err(step())
    }

    /// Puts what [`Self::write`] wrote in the journal's place, durably. After an error either of the
    /// two may be there; both say the same.
    pub(crate) fn install<B: Backend>(
        &self,
        backend: &mut B,
        dir: &Path,
    ) -> Result<(), StoreError> {
        backend
            .rename_fresh()
            .and_then(|()| backend.sync_directory())
            .map_err(io_error(dir, "put the new journal in place"))
    }
}

/// Blocks a fresh journal of `state` would have in use.
pub(crate) fn live_blocks(header: Header, state: &State, dir: &Path) -> Result<u64, StoreError> {
    snapshot(header, state, dir).map(|blocks| block_count(&blocks))
}

/// Writes one copy of consecutive blocks of the journal, from block `start` on.
pub(crate) fn write_copy<B: Backend>(
    backend: &mut B,
    geometry: Geometry,
    mut start: u64,
    copy: u64,
    mut blocks: &[u8],
) -> io::Result<()> {
    while !blocks.is_empty() {
        let left = geometry.segment_blocks() - start % geometry.segment_blocks();
        let count = left.min(block_count(blocks));
        let (run, rest) = blocks.split_at(usize::try_from(count).unwrap_or(0) * BLOCK_SIZE);
        backend.write(File::Journal, geometry.offset(start, copy), run)?;
        (start, blocks) = (start + count, rest);
    }
    Ok(())
}

pub(crate) fn block_count(blocks: &[u8]) -> u64 {
    (blocks.len() / BLOCK_SIZE) as u64
}

/// Everything in one commit; no block at all where there is nothing to say.
fn snapshot(header: Header, state: &State, dir: &Path) -> Result<Vec<u8>, StoreError> {
    // Modules are named anew: the rewritten journal has nothing before it.
    let mut encoder = Encoder::default();
    let known = state.entries().map(|entry| encoder.encode(&entry));
    let unknown = state.unknown.iter().map(UnknownRecord::encode).map(Ok);
    let records = unknown
        .chain(known)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| StoreError::Encode { dir: dir.into(), source })?;
    if records.is_empty() {
        return Ok(Vec::new());
    }
    encode_commit(header.generation, 0, &records).ok_or_else(|| StoreError::Corrupt {
        dir: dir.into(),
        detail: "a record is larger than a block".into(),
    })
}

fn segment_size(geometry: Geometry) -> usize {
    usize::try_from(geometry.segment_blocks()).unwrap_or(0) * BLOCK_SIZE
}
