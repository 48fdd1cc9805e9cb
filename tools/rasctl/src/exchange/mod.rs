//! Lists of bad pages in the words of other programs: read from what they print, written as what they
//! take.
//!
//! ```text
//!  text --import::parse--> [Item] --> rasd or the store
//!  [RetiredPage] --export::export--> text, and what had to be left out
//! ```
//! Nothing is left out silently: a line that is not understood is named, and so is every page that did
//! not fit.

pub mod export;
pub mod import;
pub mod place;

mod pattern;

#[cfg(test)]
mod round_trip;

use ras_core::PfnRange;

/// Pages that one import may condemn: 256 MiB. More is a typing error, or a module to be replaced.
pub const PAGES_MAX: u64 = 1 << 16;

/// A range as it is shown: one page by its address, several from first to last byte.
#[must_use]
pub fn shown(range: PfnRange) -> String {
    let first = range.start.addr().0;
    match range.count {
        1 => format!("{first:#x}"),
        count => {
            let last = first.saturating_add(count.saturating_mul(ras_core::PAGE_SIZE) - 1);
            format!("{first:#x}-{last:#x}")
        }
    }
}

/// The ranges' pages as runs that neither touch nor overlap, ascending.
#[must_use]
pub fn runs(mut ranges: Vec<PfnRange>) -> Vec<PfnRange> {
    let end = |range: &PfnRange| range.start.0.saturating_add(range.count);
    ranges.retain(|range| range.count > 0);
    ranges.sort_unstable();
    ranges.dedup_by(|next, run| {
        let joined = next.start.0 <= end(run);
        if joined {
            run.count = end(run).max(end(next)) - run.start.0;
        }
        joined
    });
    ranges
}
