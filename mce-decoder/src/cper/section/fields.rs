//! Fixed structures with validity bits, in sections that may be too short for them.

use alloc::format;
use alloc::string::String;

use ras_core::{ErrorRecord, ProblemKind};
use zerocopy::{FromZeros, IntoBytes};

use super::Section;
use crate::cper::report;

/// A section's structure, with zeros where the section is too short for it.
///
/// Fields that lie beyond the end count as not given, and are a problem if validity bits claim them.
pub(super) struct Fields<T> {
    /// The structure.
    pub(super) body: T,
    available: usize,
    /// Names of the fields that are claimed to be valid and lie beyond the end.
    lacking: String,
}

impl<T: FromZeros + IntoBytes> Fields<T> {
    pub(super) fn new(bytes: &[u8]) -> Self
    where
        T: zerocopy::FromBytes,
    {
        let mut body = T::new_zeroed();
        for (to, from) in body.as_mut_bytes().iter_mut().zip(bytes) {
            *to = *from;
        }
        Self { body, available: bytes.len(), lacking: String::new() }
    }

    /// Whether a field that ends at `end` is both claimed and there.
    #[inline]
    pub(super) fn is_there(&mut self, valid: bool, name: &str, end: usize) -> bool {
        let there = end <= self.available;
        if valid && !there {
            self.lack(name);
        }
        valid && there
    }

    #[cold]
    fn lack(&mut self, name: &str) {
        // A field may be asked for twice, where bits of it have validity bits of their own.
        if self.lacking.split(", ").any(|told| told == name) {
            return;
        }
        let separator = if self.lacking.is_empty() { "" } else { ", " };
        self.lacking.push_str(separator);
        self.lacking.push_str(name);
    }

    /// Tells what was claimed and is not there. `name` is the section's.
    pub(super) fn finish(self, name: &str, section: &Section<'_>, record: &mut ErrorRecord) {
        if !self.lacking.is_empty() {
            let Self { available, lacking, .. } = self;
            let detail = format!("{name} section of {available} bytes lacks {lacking}");
            let at = section.offset + available;
            report(&mut record.problems, at, ProblemKind::Truncated, detail);
        }
    }
}

/// `field!(fields, Structure, valid, name)`: the field `name`, if `valid` and if it is there.
macro_rules! field {
    ($fields:ident, $structure:ty, $valid:expr, $name:ident) => {{
        let end = core::mem::offset_of!($structure, $name) + size_of_val(&$fields.body.$name);
        let value = $fields.body.$name;
        $fields.is_there($valid, stringify!($name), end).then_some(value)
    }};
}
pub(super) use field;
