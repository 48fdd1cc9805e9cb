//! Pages that firmware takes out of the memory map before any operating system runs: the list it
//! reads, the plan it makes of the list, and the record of what came of it. `persist-store/EXCLUSION.md`
//! has the pictures and the reasons.
//!
//! ```text
//! store --List::encode--> variable or file --choose--> List --plan--> Plan --driver--> Outcome --> rasd
//! ```
//! The same [`plan_with_room`] serves the UEFI driver and the fallback by GRUB or the kernel's command line;
//! [`plan`] the exports, whose machine is not known.

use ras_core::{Pfn, PfnRange, RetireReason, RetireState, RetiredPage, Severity};

mod list;
mod outcome;
mod plan;
mod room;
mod runs;
mod seal;

pub mod place;

pub use list::{
    Choice, ENTRIES_MAX, ENTRY_SIZE, HEADER_SIZE, LIST_SIZE_MAX, LeftOver, List, ListDamage,
    ListTooLong, choose,
};
pub use outcome::{
    Clock, CopyState, DETAILS_MAX, Detail, Fate, OUTCOME_SIZE_MAX, Outcome, OutcomeDamage, Times,
};
pub use plan::{FILLER_PAGES_MAX, GAP_PAGES_MAX, Limits, Plan, plan};
pub use room::{ROOM_PAGES, plan_with_room};
pub use runs::{flatten, total, union};

/// Page frame numbers have 40 bits: x86 has at most 52 bits of physical address.
pub const PFN_BITS: u32 = 40;

/// Pages one entry can hold: its count has 16 bits and starts at one.
pub const ENTRY_PAGES_MAX: u64 = 1 << 16;

/// How much a page has to be kept from use: 0 least, 255 most. Where not every page can be taken
/// out of the memory map, the worst ones are. Steps between the names are left for finer judgement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Badness(pub u8);

impl Badness {
    /// Data at the page was lost.
    pub const UNCORRECTED: Self = Self(224);
    /// The page has cells that fail for good.
    pub const HARD: Self = Self(192);
    /// A person asked for it.
    pub const OPERATOR: Self = Self(176);
    /// The page belongs to a row (or another piece of DRAM) that is failing.
    pub const ROW: Self = Self(160);
    /// Its corrected errors passed the rate of the policy.
    pub const CORRECTED: Self = Self(96);

    /// Added where the running kernel could not give the page up: only firmware can, or a kernel that is
    /// asked before anybody else gets the page.
    pub const STUCK: u8 = 16;

    /// What a page of the store's list is worth: by why it is there, of those the ones that are stuck
    /// first, and of those by what the error meant. Whoever has to choose among pages, or to begin with
    /// one, goes by this order.
    #[must_use]
    pub const fn of(page: &RetiredPage) -> Self {
        let Self(reason) = match page.reason {
            RetireReason::Uncorrected => Self::UNCORRECTED,
            RetireReason::CorrectedThreshold => Self::CORRECTED,
            RetireReason::Operator => Self::OPERATOR,
        };
        let badness = reason.saturating_add(grade(page.severity));
        match page.state {
            RetireState::Failed => Self(badness.saturating_add(Self::STUCK)),
            // Suspended entries keep no page out of use; whoever makes a list leaves them out.
            RetireState::Pending
            | RetireState::Retired
            | RetireState::Probation
            | RetireState::Expired
            | RetireState::Stale => Self(badness),
        }
    }
}

/// Steps for severities, below the one for being stuck. One that is not known here is as bad as can be.
const fn grade(severity: Severity) -> u8 {
    match severity {
        Severity::Unknown | Severity::Informational | Severity::Corrected => 0,
        Severity::Deferred => 1,
        Severity::Ucna => 2,
        Severity::Srao => 3,
        Severity::Srar => 4,
        _ => 5,
    }
}

/// Pages to keep from use, all of them for the same reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BadRange {
    /// Which.
    pub pages: PfnRange,
    /// How much.
    pub badness: Badness,
}

impl BadRange {
    /// The frame after its last. Saturates for numbers no machine can have.
    #[must_use]
    pub const fn end(&self) -> u64 {
        end(self.pages)
    }

    /// The one page.
    #[must_use]
    pub const fn single(pfn: Pfn, badness: Badness) -> Self {
        Self { pages: PfnRange::single(pfn), badness }
    }
}

const fn end(range: PfnRange) -> u64 {
    range.start.0.saturating_add(range.count)
}

/// The range from one frame up to, and without, another; `None` where that is empty.
const fn between(start: u64, end: u64) -> Option<PfnRange> {
    match end.saturating_sub(start) {
        0 => None,
        count => Some(PfnRange { start: Pfn(start), count }),
    }
}

/// Frame, pages and a code in 8 bytes: 40 bits, 16 bits (less one), 8 bits. A count beyond
/// [`ENTRY_PAGES_MAX`] is cut; higher bits of the frame are lost.
const fn pack(pages: PfnRange, code: u8) -> u64 {
    let frame = pages.start.0 & ((1 << PFN_BITS) - 1);
    let more = pages.count.saturating_sub(1);
    let more = if more < ENTRY_PAGES_MAX { more } else { ENTRY_PAGES_MAX - 1 };
    frame | more << PFN_BITS | (code as u64) << 56
}

const fn unpack(entry: u64) -> (PfnRange, u8) {
    let [.., code] = entry.to_le_bytes();
    let start = Pfn(entry & ((1 << PFN_BITS) - 1));
    let count = (entry >> PFN_BITS & (ENTRY_PAGES_MAX - 1)) + 1;
    (PfnRange { start, count }, code)
}
