//! `rasctl report`: [`Findings`] as one self-contained HTML page.
//!
//! The page asks for nothing: style, script and drawings are in it, and its content security policy
//! lets nothing else run. It reads without the script, which only sorts tables and switches the theme.
//! Everything that comes from an input is escaped by the templates, and isolated where it could turn
//! the direction of text. Its size is bounded by [`BYTES_MAX`] whatever was read.

mod heat;
mod page;
mod timeline;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};

use ras_core::diagnosis::grouping::Part;
use ras_core::{ErrorClass, Severity, Timestamp};

use crate::analyze::{Analysis, Findings};
use crate::human::Human;
use crate::read::{Damage, Found, Sink};

pub use self::page::page;

/// Most bytes that a page has: browsers open it at once, and mail takes it.
pub const BYTES_MAX: usize = 5 << 20;

/// Records that are kept whole to be shown.
const RECORDS_MAX: usize = 300;
/// Of those, records alike: of one part, class and severity. A storm would push out all others.
const ALIKE_MAX: u32 = 10;
/// Kinds of records told apart.
const KINDS_MAX: usize = 4096;
/// Bytes of a record's text that are kept.
const RECORD_BYTES_MAX: usize = 6 << 10;

/// Counts as [`Analysis`] does, and keeps some records to show.
#[derive(Debug, Default)]
pub struct Collector {
    analysis: Analysis,
    kept: Vec<Kept>,
    alike: BTreeMap<(Part, ErrorClass, Severity), u32>,
}

/// A record to show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its time.
    pub time: Option<Timestamp>,
    /// Its severity.
    pub severity: Severity,
    /// Its summary.
    pub summary: String,
    /// All of it as text.
    pub text: String,
    /// Whether the text was cut.
    pub cut: bool,
}

impl Collector {
    /// Concludes.
    #[must_use]
    pub fn finish(self) -> (Findings, Vec<Kept>) {
        (self.analysis.finish(), self.kept)
    }

    fn keep(&mut self, found: &Found) {
        if self.kept.len() >= RECORDS_MAX {
            return;
        }
        let record = &found.record;
        let kind = (Part::of(record), record.class, record.severity);
        if self.alike.len() >= KINDS_MAX && !self.alike.contains_key(&kind) {
            return;
        }
        let alike = self.alike.entry(kind).or_default();
        if *alike >= ALIKE_MAX {
            return;
        }
        *alike += 1;
        let mut bytes = Limited { bytes: Vec::new(), cut: false };
        // It fails where there is no more room, and the rest is not even rendered.
        let _ = Human { color: false }.found(found, &mut bytes);
        self.kept.push(Kept {
            time: record.time,
            severity: record.severity,
            summary: record.summary.chars().take(300).collect(),
            text: String::from_utf8_lossy(&bytes.bytes).into_owned(),
            cut: bytes.cut,
        });
    }
}

impl Sink for Collector {
    fn record(&mut self, found: Found) -> io::Result<()> {
        self.keep(&found);
        self.analysis.record(found)
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.analysis.damage(damage)
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        self.analysis.note(file, note)
    }
}

/// Takes [`RECORD_BYTES_MAX`] bytes and then refuses.
struct Limited {
    bytes: Vec<u8>,
    cut: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = RECORD_BYTES_MAX - self.bytes.len();
        if room == 0 {
            self.cut = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
