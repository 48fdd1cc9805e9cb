//! Numbers and pieces out of the fuzzer's bytes. Where they end, zeroes follow.

use std::fs::File;

/// A file without a name, in memory where that can be: a disk would be what is measured.
pub(crate) fn file() -> File {
    tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a file")
}

/// The bytes that are left.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.word())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.word())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.word())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.word())
    }

    fn word<const N: usize>(&mut self) -> [u8; N] {
        let mut word = [0; N];
        let bytes = self.bytes(N);
        word[..bytes.len()].copy_from_slice(bytes);
        word
    }
}
