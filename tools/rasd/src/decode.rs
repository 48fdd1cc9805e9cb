//! A report's bytes to error records: which decoder of `mce_decoder` reads what.

use mce_decoder::mca::Context;
use mce_decoder::{Decoded, cper, mca, trace};
use ras_core::{ErrorRecord, Problem};

use crate::source::{Body, Tracepoint};

/// Everything that is in a report, damaged parts as problems.
#[must_use]
pub fn decode(body: &Body) -> Decoded {
    match body {
        Body::Trace { event, format, payload } => one(match event {
            Tracepoint::MceRecord => trace::mce_record::decode(format, payload),
            Tracepoint::MemoryFailure => trace::memory_failure::decode(format, payload),
        }),
        Body::Mce(mce) => {
            let context = Context { time: None, cpu: mce.cpu, socket: mce.socket };
            one::<std::convert::Infallible>(Ok(mca::decode(&mce.registers, context)))
        }
        Body::Cper(bytes) => sequence(bytes, cper::decode_record),
        Body::StatusBlock(bytes) => sequence(bytes, cper::decode_status_block),
    }
}

fn one<E: std::fmt::Display>(record: Result<ErrorRecord, E>) -> Decoded {
    match record {
        Ok(record) => {
            Decoded { problems: record.problems.clone(), records: vec![record], consumed: 0 }
        }
        Err(error) => {
            let problem = Problem { offset: 0, detail: error.to_string() };
            Decoded { problems: vec![problem], ..Decoded::default() }
        }
    }
}

/// Records that follow one another. Ends where nothing more can be read; every step takes bytes.
fn sequence(bytes: &[u8], decode_first: impl Fn(&[u8]) -> Decoded) -> Decoded {
    let mut all = Decoded::default();
    while let Some(rest @ [_, ..]) = bytes.get(all.consumed..) {
        let decoded = decode_first(rest);
        all.records.extend(decoded.records);
        all.problems.extend(decoded.problems.into_iter().map(|problem| Problem {
            offset: problem.offset.saturating_add(all.consumed as u64),
            ..problem
        }));
        if decoded.consumed == 0 {
            break;
        }
        all.consumed += decoded.consumed;
    }
    all
}
