//! The outcome in the firmware's console: a line or two.

use core::fmt;

use ras_store_format::exclusion::{CopyState, Outcome, place};

/// Lines for people, each ending in CR LF as the console wants it.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(pub &'a Outcome);

/// The places by name, in their order.
const PLACES: [&str; 4] = [
    place::LIST_VARIABLES[0],
    place::LIST_VARIABLES[1],
    place::LIST_FILES[0],
    place::LIST_FILES[1],
];

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(outcome) = self;
        for (copy, name) in outcome.copies.iter().zip(PLACES) {
            let what = match copy {
                CopyState::Absent | CopyState::Sound => continue,
                CopyState::Damaged => "is damaged",
                CopyState::OtherVersion => "is of a version this driver does not know",
                CopyState::Unreadable | CopyState::Other(_) => "can't be read",
            };
            write!(f, "rampart: {name} {what}\r\n")?;
        }
        let source = outcome.source.and_then(|source| PLACES.get(usize::from(source)));
        let Some(source) = source else {
            let why = if outcome.found_damage() { "no sound list" } else { "no list" };
            return write!(f, "rampart: {why} of bad pages: nothing is excluded\r\n");
        };
        let Outcome { generation, excluded_pages, excluded_ranges, .. } = outcome;
        write!(
            f,
            "rampart: list {generation} of {source}: {excluded_pages} pages in {excluded_ranges} \
             ranges are unusable now"
        )?;
        for (pages, what) in [
            (outcome.handed_over_pages, "handed over to the kernel"),
            (outcome.kept_pages, "kept by the firmware"),
            (outcome.absent_pages, "no memory"),
            (outcome.refused_pages, "refused"),
            (outcome.left_over.pages, "left over"),
        ] {
            if pages > 0 {
                write!(f, ", {pages} {what}")?;
            }
        }
        if outcome.out_of_time {
            f.write_str("; out of time")?;
        }
        write!(f, " ({} us)\r\n", outcome.times.total_us)
    }
}
