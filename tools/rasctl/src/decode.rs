//! `rasctl decode`: what is in a capture, without acting.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use mce_decoder::mca::Context;
use mce_decoder::trace::EventFormat;
use mce_decoder::{Decoded, cper, mca, trace};
use ras_core::{ErrorRecord, Problem, Timestamp};
use rasd_api::capture::{Body, Line, Reader};
use serde::Serialize;

use crate::Failure;
use crate::text::{chain, json, rfc3339};

pub(crate) fn run(file: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let open = File::open(file).map_err(|error| unreadable(file, &error))?;
        Box::new(open)
    };
    let mut formats = HashMap::new();
    let mut damaged: u64 = 0;
    for entry in Reader::new(input) {
        let entry = entry.map_err(|error| unreadable(file, &error))?;
        let decoded = match entry.line {
            Ok(Line::Format { tracepoint, text }) => match EventFormat::parse(&text) {
                Ok(format) => {
                    formats.insert(tracepoint, format);
                    continue;
                }
                Err(error) => Err(chain(&error)),
            },
            Ok(Line::Report { time, body }) => decode(&body, &formats).map(|found| (time, found)),
            Err(error) => Err(chain(&error)),
        };
        match decoded {
            Ok((time, decoded)) => {
                damaged += decoded.problems.len() as u64;
                for record in &decoded.records {
                    if as_json { object(record, out)? } else { show(record, time, out)? }
                }
                for Problem { offset, detail, .. } in &decoded.problems {
                    problem(&format!("{}, byte {offset}", entry.place), detail, as_json, out)?;
                }
            }
            Err(detail) => {
                damaged += 1;
                problem(&entry.place.to_string(), &detail, as_json, out)?;
            }
        }
    }
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::NotDone(format!("{damaged} places in {} are damaged", file.display())))
}

fn decode(body: &Body, formats: &HashMap<String, EventFormat>) -> Result<Decoded, String> {
    match body {
        Body::Mce(mce) => {
            let context = Context { time: None, cpu: mce.cpu, socket: mce.socket };
            Ok(mca::decode(&mce.registers, context).into())
        }
        Body::Cper(bytes) => Ok(Decoded::sequence(bytes, cper::decode_record)),
        Body::StatusBlock(bytes) => Ok(Decoded::sequence(bytes, cper::decode_status_block)),
        Body::Tracepoint { name, payload } => {
            let format = formats.get(name).ok_or("no 'format' line of its tracepoint before")?;
            trace::decode(format, payload).map(Decoded::from).map_err(|error| chain(&error))
        }
    }
}

fn object(record: &ErrorRecord, out: &mut dyn Write) -> Result<(), Failure> {
    let mut line = Vec::new();
    rasctl::json::record(record, &mut line);
    line.push(b'\n');
    Ok(out.write_all(&line)?)
}

fn show(
    record: &ErrorRecord,
    captured: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let time = record.time.or(captured).map_or_else(|| "unknown time".into(), rfc3339);
    writeln!(out, "{time}  {}  {}", record.severity, record.summary)?;
    writeln!(out, "    severity  {}", record.severity_reason)?;
    if let Some(pages) = record.pages() {
        writeln!(out, "    pages     {} from {}", pages.count, pages.start)?;
    }
    Ok(writeln!(out, "    location  {}, source {}", record.location, record.source)?)
}

fn problem(place: &str, detail: &str, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Damaged<'a> {
        damaged: &'a str,
        detail: &'a str,
    }
    if as_json {
        return json(&Damaged { damaged: place, detail }, out);
    }
    Ok(writeln!(out, "{place}: {detail}")?)
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::NotReached(format!("reading {}: {error}", file.display()))
}
