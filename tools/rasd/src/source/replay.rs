//! A capture instead of a machine: `rasd --replay FILE`. See `REPLAY.md`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use mce_decoder::trace::EventFormat;
use rasd_api::capture::{self, Line, Reader};

use super::{Body, Report, Tracepoint, wall_clock};
use crate::guests::chain;
use crate::shared::Handle;

/// Complaints in the log about one capture. The count goes on.
const COMPLAINTS_MAX: u64 = 20;

/// Opens a capture; `-` is standard input.
///
/// # Errors
/// It can't be opened, or is a directory.
pub fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path)?;
    // Opening a directory succeeds; only reading it would not.
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(Box::new(file))
}

/// Puts every report of the capture into the queue, waiting for room. Returns at the end of the
/// capture, or when the queue is closed.
pub fn run(input: impl Read, name: &str, shared: &Handle) {
    shared.source("replay", "running", name);
    let (mut reports, mut garbage) = (0u64, 0u64);
    let mut formats = HashMap::new();
    let mut end = String::new();
    for entry in Reader::new(input) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(name, %error, "the capture can't be read to the end");
                end = format!("; then: {error}");
                break;
            }
        };
        let report = match entry.line {
            Ok(line) => take(line, &mut formats),
            Err(error) => Err(chain(&error)),
        };
        match report {
            Ok(None) => {}
            Ok(Some(report)) => {
                reports += 1;
                if !shared.queue.put(report) {
                    end = "; stopped before its end".into();
                    break;
                }
            }
            Err(complaint) => {
                garbage += 1;
                shared.count(|counts| counts.garbage += 1);
                if garbage <= COMPLAINTS_MAX {
                    tracing::warn!("replay, {}: {complaint}", entry.place);
                }
                if garbage == COMPLAINTS_MAX {
                    tracing::warn!("replay: further garbage is only counted");
                }
            }
        }
    }
    let detail = format!("{name}: {reports} reports, {garbage} garbage{end}");
    tracing::info!(detail, "replay ended");
    shared.source("replay", "done", &detail);
}

/// A line to a report; a format is kept for the reports that follow.
fn take(
    line: Line,
    formats: &mut HashMap<Tracepoint, Arc<EventFormat>>,
) -> Result<Option<Report>, String> {
    let tracepoint = |name: &str| {
        Tracepoint::from_name(name).ok_or_else(|| format!("nobody decodes tracepoint {name:?}"))
    };
    let (time, body) = match line {
        Line::Format { tracepoint: name, text } => {
            let format = EventFormat::parse(&text).map_err(|error| chain(&error))?;
            formats.insert(tracepoint(&name)?, Arc::new(format));
            return Ok(None);
        }
        Line::Report { time, body } => (time, body),
    };
    let body = match body {
        capture::Body::Mce(mce) => Body::Mce(mce),
        capture::Body::Cper(bytes) => Body::Cper(bytes),
        capture::Body::StatusBlock(bytes) => Body::StatusBlock(bytes),
        capture::Body::Tracepoint { name, payload } => {
            let event = tracepoint(&name)?;
            let format = formats.get(&event).ok_or("no 'format' line of its tracepoint before")?;
            Body::Trace { event, format: format.clone(), payload }
        }
    };
    Ok(Some(Report::now(body, time.unwrap_or_else(wall_clock))))
}
