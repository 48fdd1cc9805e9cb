//! `memory_failure_event`: what the kernel did about a page with lost data.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Detail, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, PAGE_SHIFT, Pfn,
    Problem, ProblemKind, Severity,
};

use super::{EventFormat, TraceError};

/// Page frames of the largest x86 physical address space: 52 bits. SDM vol. 1, "Physical Address Space".
const PFN_MAX: u64 = 1 << (52 - PAGE_SHIFT);

/// The event's own fields, named as this kernel names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryFailure {
    /// The page.
    pub pfn: Pfn,
    /// What the page was: `dirty LRU page`, `free buddy page`, ... The numbering differs between
    /// kernels, so this is the name from the print format, or `page type N` where it has none.
    pub page_type: String,
    /// What came of it: `Ignored`, `Failed`, `Delayed` or `Recovered`; or `result N`.
    pub result: String,
}

/// Reads the fields of one payload.
///
/// # Errors
/// [`TraceError`] where `pfn`, `type` or `result` is missing or the payload ends before it.
pub fn read(format: &EventFormat, payload: &[u8]) -> Result<MemoryFailure, TraceError> {
    format.check_event(payload)?;
    let named = |field, fallback| {
        let value = format.integer(payload, field)?.cast_signed();
        let name = format.symbol(field, value);
        Ok(name.map_or_else(|| format!("{fallback} {value}"), String::from))
    };
    Ok(MemoryFailure {
        pfn: Pfn(format.integer(payload, "pfn")?),
        page_type: named("type", "page type")?,
        result: named("result", "result")?,
    })
}

/// Decodes one payload, the common fields included.
///
/// # Errors
/// As [`read`].
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    let failure = read(format, payload)?;
    Ok(record(failure, format.field("pfn").map_or(0, |field| field.offset as u64)))
}

/// The record of what was read; `offset` is where in its input the page frame number stands.
///
/// The kernel reports a page only after data on it was lost, and does not say whether anybody
/// consumed it: [`Severity::Srao`], whatever the outcome. The event has no time of its own.
#[must_use]
pub fn record(failure: MemoryFailure, offset: u64) -> ErrorRecord {
    let MemoryFailure { pfn, page_type, result } = failure;
    let (address, problems): (_, Vec<Problem>) = if pfn.0 < PFN_MAX {
        let lsb = PAGE_SHIFT.to_le_bytes()[0];
        (Some(ErrorAddress { addr: pfn.addr(), lsb, mode: AddressMode::Physical }), vec![])
    } else {
        let kind = ProblemKind::Malformed;
        let detail = format!("page frame {pfn} can't exist");
        (None, vec![Problem { offset, kind, detail }])
    };
    ErrorRecord {
        class: ErrorClass::Memory,
        severity: Severity::Srao,
        severity_reason:
            "the kernel handled the page as lost; it does not say whether the data was consumed"
                .into(),
        address,
        summary: format!("kernel handled lost page {pfn} ({page_type}): {result}"),
        details: vec![
            Detail { name: "page_type".into(), value: page_type.into() },
            Detail { name: "result".into(), value: result.into() },
        ],
        problems,
        ..ErrorRecord::new(ErrorSource::MemoryFailure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two kernels' numberings of the same page types.
    fn format(huge_page: u32) -> EventFormat {
        EventFormat::parse(&format!(
            "name: memory_failure_event\nID: 1347\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:unsigned long pfn;\toffset:8;\tsize:8;\tsigned:0;\n\
             \tfield:int type;\toffset:16;\tsize:4;\tsigned:1;\n\
             \tfield:int result;\toffset:20;\tsize:4;\tsigned:1;\n\n\
             print fmt: \"%#lx %s %s\", REC->pfn, \
             __print_symbolic(REC->type, {{ 0, \"reserved kernel page\" }}, {{ {huge_page}, \"huge page\" }}), \
             __print_symbolic(REC->result, {{ 0, \"Ignored\" }}, {{ 3, \"Recovered\" }})\n"
        ))
        .unwrap()
    }

    fn payload(pfn: u64, page_type: i32, result: i32) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[..2].copy_from_slice(&1347u16.to_le_bytes());
        bytes[8..16].copy_from_slice(&pfn.to_le_bytes());
        bytes[16..20].copy_from_slice(&page_type.to_le_bytes());
        bytes[20..].copy_from_slice(&result.to_le_bytes());
        bytes
    }

    #[test]
    fn names_come_from_the_kernel_s_own_tables() {
        let read = |huge, kind| read(&format(huge), &payload(0x1234, kind, 3)).unwrap();
        assert_eq!(read(3, 3).page_type, "huge page");
        assert_eq!(read(4, 4).page_type, "huge page");
        assert_eq!(read(3, 4).page_type, "page type 4");
        assert_eq!(read(3, -1).page_type, "page type -1");
        assert_eq!(read(3, 0).result, "Recovered");
    }

    #[test]
    fn a_page_is_named_to_the_page() {
        let record = decode(&format(3), &payload(0x1234, 3, 3)).unwrap();
        assert_eq!(record.pages().map(|pages| (pages.start, pages.count)), Some((Pfn(0x1234), 1)));
        assert!(record.severity.is_uncorrected());
        assert_eq!(record.summary, "kernel handled lost page 0x1234 (huge page): Recovered");
        let record = decode(&format(3), &payload(u64::MAX, 3, 3)).unwrap();
        assert_eq!(record.address, None);
        assert_eq!(record.problems[0].offset, 8);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = payload(0x1234, 3, 3);
        for len in 0..bytes.len() {
            let error = decode(&format(3), &bytes[..len]).unwrap_err();
            assert!(matches!(error, TraceError::Truncated { .. }), "{len}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&format(3), &bytes);
        }
    }
}
