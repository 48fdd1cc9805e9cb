//! What makes a copy of the list, and an outcome, one whole thing: its length and its checksum.

use alloc::vec::Vec;

use crate::crc32c;

/// The checksum lies before this byte and covers everything from it on.
const CHECKED_FROM: usize = 12;

/// Puts the checksum in its place. `bytes` are at least a header.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum_of(&bytes);
    if let Some(place) = bytes.get_mut(CHECKED_FROM - 4..CHECKED_FROM) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

/// Whether `bytes` are as long as their header says, and have its checksum.
pub(super) fn is_sealed(bytes: &[u8], length: u32, checksum: u32) -> bool {
    usize::try_from(length) == Ok(bytes.len()) && checksum == checksum_of(bytes)
}

fn checksum_of(bytes: &[u8]) -> u32 {
    crc32c(bytes.get(CHECKED_FROM..).unwrap_or_default())
}
