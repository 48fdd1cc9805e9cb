//! A capture instead of a machine: `rasd --replay FILE`. The format is documented in `REPLAY.md`.
//!
//! Reads as a stream, with bounded memory. What is not a report is counted and named by line (or byte
//! offset), at most [`COMPLAINTS_MAX`] times in the log; it never ends the replay.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use mce_decoder::trace::EventFormat;
use rasd_api::capture::{self, Line};

use super::input::{Input, LineEnd};
use super::{Body, Report, Tracepoint, wall_clock};
use crate::guests::chain;
use crate::shared::Handle;

/// Complaints in the log about one capture. The counts go on.
const COMPLAINTS_MAX: u64 = 20;

/// Longest CPER record taken from a binary capture, in bytes. Real ones are below 64 KiB.
const RECORD_MAX: usize = 1 << 20;

/// What a capture is made of, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Lines,
    /// UEFI Specification, Appendix N: starts with `CPER`.
    Records,
    /// ACPI, "Generic Error Status Block": no signature, so anything binary that is not CPER.
    StatusBlocks,
}

/// Opens a capture; `-` is standard input.
///
/// # Errors
/// It can't be opened.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path)?;
    // Reading a directory fails only later, at the first read.
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(Box::new(file))
}

/// Puts every report of the capture into the queue, waiting for room. Returns at the end of the
/// capture, or when the queue is closed.
pub fn run(input: impl Read, name: &str, shared: &Handle) {
    shared.source("replay", "running", name);
    let mut replay = Replay { shared, input: Input::new(input), garbage: 0, reports: 0 };
    let detail = match replay.run() {
        Ok(()) => format!("{name}: {} reports, {} garbage", replay.reports, replay.garbage),
        Err(error) => {
            tracing::error!(name, %error, "the capture can't be read to the end");
            format!("{name}: {} reports, then: {error}", replay.reports)
        }
    };
    tracing::info!(detail, "replay ended");
    shared.source("replay", "done", &detail);
}

struct Replay<'a, R: Read> {
    shared: &'a Handle,
    input: Input<R>,
    garbage: u64,
    reports: u64,
}

impl<R: Read> Replay<'_, R> {
    fn run(&mut self) -> io::Result<()> {
        match kind(self.input.peek(20)?) {
            Kind::Lines => self.lines(),
            Kind::Records => self.records(),
            Kind::StatusBlocks => self.status_blocks(),
        }
    }

    fn lines(&mut self) -> io::Result<()> {
        let mut formats: HashMap<Tracepoint, Arc<EventFormat>> = HashMap::new();
        let mut line = Vec::new();
        let mut number: u64 = 0;
        loop {
            number += 1;
            match self.input.read_line(&mut line)? {
                LineEnd::OfInput => return Ok(()),
                LineEnd::TooLong => {
                    self.garbage("line", number, "longer than 1 MiB");
                    continue;
                }
                LineEnd::Whole => {}
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (time, body) = match Line::parse(&line) {
                Ok(Line::Report { time, body }) => (time, body),
                Ok(Line::Format { tracepoint, text }) => {
                    match (Tracepoint::from_name(&tracepoint), EventFormat::parse(&text)) {
                        (Some(event), Ok(format)) => {
                            formats.insert(event, Arc::new(format));
                        }
                        (None, _) => self.garbage("line", number, "a tracepoint nobody decodes"),
                        (_, Err(error)) => self.garbage("line", number, &chain(&error)),
                    }
                    continue;
                }
                Err(error) => {
                    self.garbage("line", number, &chain(&error));
                    continue;
                }
            };
            let body = match body {
                capture::Body::Mce(mce) => Body::Mce(mce),
                capture::Body::Cper(bytes) => Body::Cper(bytes),
                capture::Body::StatusBlock(bytes) => Body::StatusBlock(bytes),
                capture::Body::Tracepoint { name, payload } => {
                    let Some(event) = Tracepoint::from_name(&name) else {
                        self.garbage("line", number, "a tracepoint nobody decodes");
                        continue;
                    };
                    let Some(format) = formats.get(&event) else {
                        self.garbage("line", number, "no 'format' line of this tracepoint before");
                        continue;
                    };
                    Body::Trace { event, format: format.clone(), payload }
                }
            };
            if !self.put(body, time) {
                return Ok(());
            }
        }
    }

    /// CPER records one after the other; between them, anything is skipped up to the next signature.
    fn records(&mut self) -> io::Result<()> {
        const LENGTH_AT: usize = 20;
        const HEADER: usize = 128;
        let mut offset: u64 = 0;
        loop {
            let header = self.input.peek(LENGTH_AT + 4)?;
            if header.is_empty() {
                return Ok(());
            }
            let length = header
                .strip_prefix(b"CPER")
                .and_then(|_| header.get(LENGTH_AT..)?.first_chunk())
                .and_then(|length| usize::try_from(u32::from_le_bytes(*length)).ok())
                .filter(|length| (HEADER..=RECORD_MAX).contains(length));
            let Some(length) = length else {
                self.garbage("offset", offset, "no CPER record");
                offset += self.input.skip_to(b"CPER")?;
                continue;
            };
            let bytes = self.input.take(length)?;
            offset += bytes.len() as u64;
            if !self.put(Body::Cper(bytes), None) {
                return Ok(());
            }
        }
    }

    /// Status blocks have no signature to find the next one by: the first damaged length ends them.
    fn status_blocks(&mut self) -> io::Result<()> {
        let mut offset: u64 = 0;
        loop {
            let header = self.input.peek(20)?;
            if header.is_empty() {
                return Ok(());
            }
            let Some(length) = status_block_length(header) else {
                self.garbage("offset", offset, "no error status block; the rest is not read");
                return Ok(());
            };
            let bytes = self.input.take(length)?;
            offset += bytes.len() as u64;
            if !self.put(Body::StatusBlock(bytes), None) {
                return Ok(());
            }
        }
    }

    fn put(&mut self, body: Body, time: Option<ras_core::Timestamp>) -> bool {
        self.reports += 1;
        self.shared.queue.put(Report::now(body, time.unwrap_or_else(wall_clock)))
    }

    fn garbage(&mut self, unit: &str, place: u64, detail: &str) {
        self.garbage += 1;
        self.shared.count(|counts| counts.garbage += 1);
        if self.garbage <= COMPLAINTS_MAX {
            tracing::warn!("replay, {unit} {place}: {detail}");
        }
        if self.garbage == COMPLAINTS_MAX {
            tracing::warn!("replay: further garbage is only counted");
        }
    }
}

fn kind(start: &[u8]) -> Kind {
    if start.starts_with(b"CPER") {
        Kind::Records
    } else if status_block_length(start).is_some() {
        Kind::StatusBlocks
    } else {
        Kind::Lines
    }
}

/// Length of the status block that starts here, if one plausibly does: ACPI, "Generic Error Status
/// Block": status, raw data offset, raw data length, data length, severity 0 to 3, each a u32.
fn status_block_length(start: &[u8]) -> Option<usize> {
    const HEADER: usize = 20;
    let word = |at: usize| Some(u32::from_le_bytes(*start.get(at..)?.first_chunk()?) as usize);
    let (raw_offset, raw_length, data_length) = (word(4)?, word(8)?, word(12)?);
    let plausible = word(16)? <= 3 && raw_length <= RECORD_MAX && data_length <= RECORD_MAX;
    let end = if raw_length > 0 { raw_offset.checked_add(raw_length)? } else { 0 };
    let length = end.max(HEADER + data_length);
    (plausible && length <= RECORD_MAX).then_some(length)
}
