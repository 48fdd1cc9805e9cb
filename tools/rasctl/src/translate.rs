//! Memory controllers' own addresses to system addresses, by a snapshot of a machine's registers.
//!
//! The snapshot is a file, described in TRANSLATE.md; [`load`] reads and checks it. [`Translating`] gives
//! records their system addresses on their way to a sink.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use ras_core::translate::{self, Snapshot, SnapshotFault};
use ras_core::{Details as _, ErrorRecord};

use crate::input::Input;
use crate::read::{Damage, Found, Sink};

/// Longest snapshot read: those of the largest machines, with 128 channels, have some 100 KiB.
const SIZE_MAX: u64 = 4 << 20;

/// A snapshot to begin with: two channels of a Zen 1 server.
pub const EXAMPLE: &str = include_str!("translate/example.toml");

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It can't be read.
    #[error("reading it")]
    Read(#[source] io::Error),
    /// It is longer than any machine's.
    #[error("it is longer than {SIZE_MAX} bytes")]
    TooLong,
    /// It is no JSON, or has other members.
    #[error("as JSON (it begins with {{)")]
    Json(#[source] serde_json::Error),
    /// It is no TOML, or has other members.
    #[error("as TOML (it does not begin with {{)")]
    Toml(#[source] toml::de::Error),
    /// Its registers are no machine's.
    #[error(transparent)]
    Registers(#[from] SnapshotFault),
}

/// Reads a snapshot, in TOML, or JSON if it begins with `{`, and checks that each station's memory has a
/// place of its own.
///
/// # Errors
/// [`SnapshotError`].
pub fn load(path: &Path) -> Result<Snapshot, SnapshotError> {
    let mut text = String::new();
    let file = File::open(path).map_err(SnapshotError::Read)?;
    let read = file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(SnapshotError::Read)?;
    if read as u64 > SIZE_MAX {
        return Err(SnapshotError::TooLong);
    }
    parse(&text)
}

/// As [`load`], of what was read already.
///
/// # Errors
/// [`SnapshotError`].
pub fn parse(text: &str) -> Result<Snapshot, SnapshotError> {
    let snapshot: Snapshot = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(SnapshotError::Json)?
    } else {
        toml::from_str(text).map_err(SnapshotError::Toml)?
    };
    snapshot.check()?;
    Ok(snapshot)
}

/// Gives records that have a memory controller's address only their system address, before they reach
/// `S`. Where that can't be done, the detail `not_translated` says why.
#[derive(Debug)]
pub struct Translating<S> {
    sink: S,
    snapshot: Option<Snapshot>,
    translated: u64,
    failed: u64,
}

impl<S: Sink> Translating<S> {
    /// In front of `sink`. Without a snapshot, records pass as they are.
    pub const fn new(sink: S, snapshot: Option<Snapshot>) -> Self {
        Self { sink, snapshot, translated: 0, failed: 0 }
    }

    /// The sink.
    pub fn into_inner(self) -> S {
        self.sink
    }

    fn apply(&mut self, record: &mut ErrorRecord) {
        let Some(snapshot) = &self.snapshot else { return };
        match translate::apply(record, snapshot) {
            Ok(done) => self.translated += u64::from(done),
            Err(error) => {
                self.failed += 1;
                record.details.add("not_translated", error.to_string());
            }
        }
        // Banks inside of a firmware record have addresses of their own. They are not nested deeper.
        let mut witnesses = std::mem::take(&mut record.witnesses);
        witnesses.iter_mut().for_each(|witness| self.apply(witness));
        record.witnesses = witnesses;
    }
}

impl<S: Sink> Sink for Translating<S> {
    fn record(&mut self, mut found: Found) -> io::Result<()> {
        self.apply(&mut found.record);
        self.sink.record(found)
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.sink.damage(damage)
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        self.sink.note(file, note)
    }

    fn begin(&mut self, file: &str, input: Option<(&Input, u64)>) {
        self.sink.begin(file, input);
    }

    fn one_source(&mut self) {
        self.sink.one_source();
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.snapshot.is_some() {
            let Self { translated, failed, .. } = self;
            let why = if *failed > 0 { "; `not_translated` in their details says why" } else { "" };
            let note = format!("addresses translated: {translated}, not translated: {failed}{why}");
            self.sink.note("--translate", &note)?;
        }
        self.sink.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use ras_core::translate::{NormalizedAddr, StationId};

    #[test]
    fn the_example_is_sound_in_both_languages() {
        let snapshot = parse(EXAMPLE).unwrap();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(parse(&json).unwrap(), snapshot);
        let second = StationId { socket: 0, die: 0, instance: 1 };
        let system = snapshot.system_address(second, NormalizedAddr(0x1234)).unwrap();
        assert_eq!(snapshot.normalized_address(system), Ok((second, NormalizedAddr(0x1234))));
    }

    #[test]
    fn what_is_wrong_with_a_snapshot_is_said() {
        let check = |change: &dyn Fn(&mut String), expected: &str| {
            let mut text = EXAMPLE.to_owned();
            change(&mut text);
            let error = chain(&parse(&text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        let replace = |from: &'static str, to: &'static str| {
            move |text: &mut String| {
                assert!(text.contains(from));
                *text = text.replace(from, to);
            }
        };
        check(&replace("revision = \"df2\"", "revision = \"df9\""), "unknown variant `df9`");
        check(&replace("revision = \"df2\"", ""), "missing field `revision`");
        check(&replace("fabric_id_mask", "fabric_mask"), "unknown field `fabric_mask`");
        check(&replace("\"0x75806000\"", "\"75806000\""), "a 32-bit register value");
        check(&replace("\"0x75806000\"", "-1"), "a 32-bit register value");
        check(&replace("\"0x75806000\"", "0x175806000"), "a 32-bit register value");
        check(
            &replace("instance = 1", "instance = 0"),
            "two stations at socket 0, die 0, instance 0",
        );
        check(&replace("base = \"0x11\"", "base = \"0x10\""), "no valid map");
        check(&replace("base = \"0x11\"", "base = \"0x21\""), "no interleave mode 0x2");
        check(&replace("\"0x100\"", "\"0x0\""), "both hold");
        check(&|text: &mut String| text.clear(), "missing field");
        check(&|text: &mut String| "{".clone_into(text), "as JSON");
        check(&|text: &mut String| text.truncate(text.find("[[stations]]").unwrap()), "stations");
    }
}
