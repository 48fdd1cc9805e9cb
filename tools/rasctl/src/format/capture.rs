//! Captures: what `rasd --replay` reads.

use std::collections::HashMap;

use mce_decoder::mca::{self, Context};
use mce_decoder::trace::{self, EventFormat};
use mce_decoder::{Decoded, cper};
use ras_core::{Problem, ProblemKind, Timestamp};
use rasd_api::capture::{Body, Line};

use super::{binary, lines};
use crate::chain;
use crate::input::Input;
use crate::read::{Options, Output, Stop};

/// Keys of which every line of a capture has one.
const KEYS: [&str; 4] = ["\"tracepoint\":", "\"mce\":", "\"cper\":", "\"status_block\":"];

/// By its first line that is none of what a log may have in front.
pub(super) fn is_capture(text: &str) -> bool {
    let mut objects = text.lines().map(str::trim_start).filter(|line| line.starts_with('{'));
    objects.next().is_some_and(|line| KEYS.iter().any(|key| line.contains(key)))
}

/// Tracepoints whose format is kept. The kernel has two thousand; those about errors are two dozen.
const FORMATS_MAX: usize = 256;

pub(super) fn read(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut formats = HashMap::new();
    while let Some(line) = input.line()? {
        if line.bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let (number, offset) = (Some(line.number), line.offset);
        let damage = |detail| Problem { offset, kind: ProblemKind::Malformed, detail };
        if line.cut {
            output.damage(number, lines::too_long(offset))?;
            continue;
        }
        let decoded = match Line::parse(line.bytes) {
            Ok(Line::Format { tracepoint, text }) => match EventFormat::parse(&text) {
                Ok(format) if formats.len() < FORMATS_MAX || formats.contains_key(&tracepoint) => {
                    formats.insert(tracepoint, format);
                    continue;
                }
                Ok(_) => Err(format!("more than {FORMATS_MAX} formats, this one is left out")),
                Err(error) => Err(chain(&error)),
            },
            Ok(Line::Report { time, body }) => decode(body, &formats, options).map(|mut found| {
                arrived(&mut found, time);
                found
            }),
            Err(error) => Err(chain(&error)),
        };
        match decoded {
            Ok(decoded) => hand_on(decoded, offset, number, output)?,
            Err(detail) => output.damage(number, damage(detail))?,
        }
    }
    Ok(())
}

fn decode(
    body: Body,
    formats: &HashMap<String, EventFormat>,
    options: &Options,
) -> Result<Decoded, String> {
    match body {
        Body::Mce(mut mce) => {
            if let Some(cpu) = options.cpu {
                cpu.complete(&mut mce.registers);
            }
            let context = Context { time: None, cpu: mce.cpu, socket: mce.socket };
            Ok(mca::decode(&mce.registers, context).into())
        }
        Body::Cper(bytes) => Ok(Decoded::sequence(&bytes, cper::decode_record)),
        Body::StatusBlock(bytes) => Ok(Decoded::sequence(&bytes, cper::decode_status_block)),
        Body::Tracepoint { name, payload } => {
            let format = formats.get(&name).ok_or("no 'format' line of its tracepoint before")?;
            trace::decode(format, &payload).map(Decoded::from).map_err(|error| chain(&error))
        }
    }
}

/// When a report came stands in for the time that it does not have itself.
fn arrived(decoded: &mut Decoded, time: Option<Timestamp>) {
    for record in &mut decoded.records {
        record.time = record.time.or(time);
    }
}

/// Offsets of problems stay those in the line's own bytes: its digits have no others.
fn hand_on(
    decoded: Decoded,
    offset: u64,
    line: Option<u64>,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let (records, outside) = binary::split(decoded);
    records.into_iter().try_for_each(|record| output.record(offset, line, record))?;
    outside.into_iter().try_for_each(|problem| output.damage(line, problem))
}
