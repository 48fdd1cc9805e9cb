//! Every block of a journal, looked at by itself: where damage lies, whatever it means.
//! [`Reading`](crate::Reading) says what it means.

use alloc::vec::Vec;

use crate::layout::{BLOCK_SIZE, Block, COPIES, Geometry, Header};

/// Byte offsets of the blocks that are neither sound nor unused (zero), ascending. A piece shorter
/// than a block at the end of the file is one, too.
#[must_use]
pub fn unsound_blocks(journal: &[u8]) -> Vec<u64> {
    let pieces = journal.chunks(BLOCK_SIZE).enumerate();
    let unsound = pieces.filter(|(index, piece)| {
        let sound = match *index as u64 {
            header if header < COPIES => Header::check(piece).is_some(),
            _ => Block::check(piece).is_some() || piece.iter().all(|&byte| byte == 0),
        };
        !sound
    });
    unsound.map(|(index, _)| (index as u64).saturating_mul(BLOCK_SIZE as u64)).collect()
}

/// What lies at an offset of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A copy of the header.
    Header {
        /// 0 or 1.
        copy: u64,
    },
    /// A copy of a block.
    Block {
        /// Its number.
        number: u64,
        /// 0 or 1.
        copy: u64,
    },
}

impl Place {
    /// The place that the byte at `offset` belongs to.
    #[must_use]
    pub const fn at(geometry: Geometry, offset: u64) -> Self {
        let index = offset / BLOCK_SIZE as u64;
        if index < COPIES {
            return Self::Header { copy: index };
        }
        let blocks = geometry.segment_blocks();
        let (segment, within) =
            ((index - COPIES) / (COPIES * blocks), (index - COPIES) % (COPIES * blocks));
        Self::Block { number: segment * blocks + within % blocks, copy: within / blocks }
    }

    /// Byte offset of the other copy.
    #[must_use]
    pub const fn twin(self, geometry: Geometry) -> u64 {
        match self {
            Self::Header { copy } => (1 - copy) * BLOCK_SIZE as u64,
            Self::Block { number, copy } => geometry.offset(number, 1 - copy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_has_its_place() {
        for geometry in [Geometry::DEFAULT, Geometry::new(1).unwrap(), Geometry::new(7).unwrap()] {
            for number in 0..1000 {
                for copy in 0..COPIES {
                    let offset = geometry.offset(number, copy);
                    let place = Place::Block { number, copy };
                    assert_eq!(Place::at(geometry, offset), place);
                    assert_eq!(Place::at(geometry, offset + BLOCK_SIZE as u64 - 1), place);
                    assert_eq!(place.twin(geometry), geometry.offset(number, 1 - copy));
                }
            }
            assert_eq!(Place::at(geometry, 4095), Place::Header { copy: 0 });
            assert_eq!(Place::at(geometry, 4096).twin(geometry), 0);
        }
    }
}
