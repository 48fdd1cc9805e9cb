//! A page of the working set: what it holds, and how a lost or stale write shows.

use core::fmt;

/// Base page size in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Words that a page of the working set holds. The rest of the page is never looked at: on an
/// emulating KVM a tick over whole pages would take seconds.
pub const WORDS: usize = 3;

/// Distance of those words, in bytes: they lie in the first, a middle and the last line.
pub const STRIDE: usize = 2040;
const _: () = assert!(STRIDE.is_multiple_of(8) && STRIDE * (WORDS - 1) + 8 <= 4096);

/// An address in the guest's physical memory, in bytes.
///
/// The guest declares its own: like any operating system it shares no code with the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address rounded down to its page.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The memory under an access is gone: a machine check interrupted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poisoned;

/// Access to pages that survives poison.
pub trait Memory {
    /// Reads the words of a page.
    ///
    /// # Errors
    /// [`Poisoned`] if a machine check interrupted the read.
    fn load(&mut self, page: Gpa) -> Result<[u64; WORDS], Poisoned>;

    /// Writes the words of a page.
    ///
    /// # Errors
    /// [`Poisoned`] if a machine check interrupted the write.
    fn store(&mut self, page: Gpa, words: &[u64; WORDS]) -> Result<(), Poisoned>;
}

/// What a page must hold: whose it is, and how often it was rewritten.
///
/// The guest remembers the stamp outside the page, so a write that got lost (the page still holds
/// an older generation) is noticed although the page's own checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Index in the working set. It stays when the page moves.
    pub index: u32,
    /// Grows with every rewrite; wraps.
    pub generation: u32,
}

impl Stamp {
    /// The words of the page: the stamp, a word derived from it that changes in every byte, and the
    /// checksum of both.
    #[must_use]
    pub const fn words(self) -> [u64; WORDS] {
        let tag = ((self.index as u64) << 32) | self.generation as u64;
        let pattern = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xa5a5_5a5a_c3c3_3c3c;
        [tag, pattern, tag.rotate_left(7).wrapping_add(pattern)]
    }

    /// Whether `words` are exactly what this stamp wrote.
    #[must_use]
    pub fn matches(self, words: &[u64; WORDS]) -> bool {
        let expected = self.words();
        expected[0] == words[0] && expected[1] == words[1] && expected[2] == words[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_write_and_any_flipped_bit_show() {
        let stamp = Stamp { index: 7, generation: 41 };
        let words = stamp.words();
        assert!(stamp.matches(&words));
        assert!(!Stamp { generation: 42, ..stamp }.matches(&words), "stale");
        assert!(!Stamp { index: 8, ..stamp }.matches(&words), "somebody else's page");
        for word in 0..WORDS {
            for bit in 0..64 {
                let mut damaged = words;
                damaged[word] ^= 1 << bit;
                assert!(!stamp.matches(&damaged), "word {word} bit {bit}");
            }
        }
    }

    #[test]
    fn no_stamp_looks_like_fresh_memory() {
        for index in 0..100 {
            assert!(!Stamp { index, generation: 1 }.matches(&[0; WORDS]));
            assert_ne!(Stamp { index, generation: 1 }.words(), [0; WORDS]);
        }
    }
}
