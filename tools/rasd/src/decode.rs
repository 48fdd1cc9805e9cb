//! A report's bytes to error records: which decoder of `mce_decoder` reads what.

use mce_decoder::mca::Context;
use mce_decoder::trace::TraceError;
use mce_decoder::{Decoded, cper, mca, trace};
use ras_core::{ErrorRecord, Pfn, Problem, ProblemKind};

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
            mca::decode(&mce.registers, context).into()
        }
        Body::Cper(bytes) => Decoded::sequence(bytes, cper::decode_record),
        Body::StatusBlock(bytes) => Decoded::sequence(bytes, cper::decode_status_block),
    }
}

/// The page the kernel's own recovery marked as poisoned but could not free, and its words for that.
/// Linux, `mm/memory-failure.c`, `action_result`: `Recovered` and `Delayed` (freed with its last user)
/// are successes; an attempt on a page that was poisoned before says nothing new.
#[must_use]
pub fn left_in_use(body: &Body) -> Option<(Pfn, String)> {
    let Body::Trace { event: Tracepoint::MemoryFailure, format, payload } = body else {
        return None;
    };
    let failure = trace::memory_failure::read(format, payload).ok()?;
    let kept = matches!(failure.result.as_str(), "Ignored" | "Failed");
    let news = !failure.page_type.contains("already poisoned");
    (kept && news).then(|| (failure.pfn, format!("{}: {}", failure.page_type, failure.result)))
}

fn one(record: Result<ErrorRecord, TraceError>) -> Decoded {
    record.map_or_else(
        |error| Decoded {
            problems: vec![Problem {
                offset: 0,
                kind: ProblemKind::Malformed,
                detail: error.to_string(),
            }],
            ..Decoded::default()
        },
        Decoded::from,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_a_first_attempt_that_failed_leaves_a_page_in_use() {
        let format = mce_decoder::trace::EventFormat::parse(
            "name: memory_failure_event\nID: 7\nformat:\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:unsigned long pfn;\toffset:8;\tsize:8;\tsigned:0;\n\
             \tfield:int type;\toffset:16;\tsize:4;\tsigned:1;\n\
             \tfield:int result;\toffset:20;\tsize:4;\tsigned:1;\n\n\
             print fmt: \"%s %s\", __print_symbolic(REC->type, { 0, \"reserved kernel page\" }, \
             { 19, \"already poisoned\" }), __print_symbolic(REC->result, { 0, \"Ignored\" }, \
             { 2, \"Delayed\" }, { 3, \"Recovered\" })\n",
        )
        .unwrap();
        let format = Arc::new(format);
        let kept = |page_type: i32, result: i32| {
            let mut payload = vec![7, 0, 0, 0, 0, 0, 0, 0];
            payload.extend(0x1000_u64.to_le_bytes());
            payload.extend(page_type.to_le_bytes());
            payload.extend(result.to_le_bytes());
            let event = Tracepoint::MemoryFailure;
            left_in_use(&Body::Trace { event, format: Arc::clone(&format), payload })
        };
        assert_eq!(kept(0, 0), Some((Pfn(0x1000), "reserved kernel page: Ignored".to_owned())));
        assert_eq!((kept(0, 2), kept(0, 3), kept(19, 0)), (None, None, None));
    }
}
