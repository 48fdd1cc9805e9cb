//! What `page-holder` reports: one JSON object a line.

use serde::{Deserialize, Serialize};

/// Pages of the working set whose frames the holder tells and watches.
pub const WATCHED: usize = 3;

/// A report of the program that owns the pages the story injects errors into.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It holds its working set and uses it.
    Holding {
        /// Pages of the working set.
        pages: usize,
        /// Page frames of the watched pages.
        watched: [u64; WATCHED],
    },
    /// The kernel moved a watched page to another frame.
    Moved {
        /// Page frame before.
        from: u64,
        /// Page frame now.
        to: u64,
        /// Whether the page still holds what was written to it.
        intact: bool,
    },
    /// A SIGBUS about memory arrived. `sigaction(2)`, "The siginfo_t argument".
    Sigbus {
        /// `si_code`: 4 is `BUS_MCEERR_AR` (consumed), 5 is `BUS_MCEERR_AO` (found before its use).
        code: i32,
        /// The frame of the watched page `si_addr` lies in, if it lies in one.
        frame: Option<u64>,
        /// `si_addr_lsb`: log2 of the size of what is lost, in bytes.
        lsb: u8,
    },
    /// The whole working set, without pages reported lost, was read through and written again.
    Verified {
        /// Pages read.
        pages: usize,
        /// Pages that did not hold what was written to them.
        damaged: usize,
    },
}
