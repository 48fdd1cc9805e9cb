//! Text that a [`LineDecoder`] takes line by line.

use std::collections::VecDeque;

use mce_decoder::text::{Found, LineDecoder};
use mce_decoder::trace::text::{self as trace_text, TraceText};
use ras_core::{Problem, ProblemKind};

use crate::input::{Input, LINE_MAX};
use crate::read::{Options, Output, Stop};

/// Lines whose numbers are remembered: an error's first line is at most so far back.
const LINES_BACK: usize = 1024;

pub(super) fn is_trace(text: &str) -> bool {
    text.lines().any(|line| trace_text::decode(line).is_some())
}

pub(super) fn trace(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    read(input, &mut TraceText::default(), output)
}

/// Feeds `decoder` all lines and hands on what it finds.
pub(super) fn read(
    input: &mut Input,
    decoder: &mut impl LineDecoder,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut found = Vec::new();
    let mut places = Places::default();
    while let Some(line) = input.line()? {
        let number = line.number;
        let cut = line.cut.then_some(line.offset);
        places.add(line.offset, number);
        let bytes = line.bytes.strip_suffix(b"\r").unwrap_or(line.bytes);
        decoder.line(bytes, line.offset, &mut found);
        hand_on(&mut found, &places, output)?;
        if let Some(offset) = cut {
            output.damage(Some(number), too_long(offset))?;
        }
    }
    decoder.finish(&mut found);
    hand_on(&mut found, &places, output)
}

pub(super) fn too_long(offset: u64) -> Problem {
    let detail = format!("line is longer than {LINE_MAX} bytes, the rest of it is not read");
    Problem { offset, kind: ProblemKind::Limit, detail }
}

fn hand_on(found: &mut Vec<Found>, places: &Places, output: &mut Output<'_>) -> Result<(), Stop> {
    for Found { offset, record } in found.drain(..) {
        output.record(offset, places.line(offset), record)?;
    }
    Ok(())
}

/// Where the last lines began.
#[derive(Default)]
struct Places(VecDeque<(u64, u64)>);

impl Places {
    fn add(&mut self, offset: u64, number: u64) {
        if self.0.len() == LINES_BACK {
            self.0.pop_front();
        }
        self.0.push_back((offset, number));
    }

    fn line(&self, offset: u64) -> Option<u64> {
        let at = self.0.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        self.0.get(at).map(|(_, number)| *number)
    }
}
