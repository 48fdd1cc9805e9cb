//! Files of Linux' `/sys/fs/pstore`: what the kernel saved when it died.
//!
//! Linux `fs/pstore`. A file's name says what it is: `mce-erst-ID` a machine check, `dmesg-erst-ID`
//! the end of the kernel log (also `dmesg-efi-ID`, `dmesg-ramoops-N`), with `.enc.z` where the kernel
//! could not inflate it.

use alloc::format;
use alloc::string::String;

use ras_core::{
    Details, ErrorClass, ErrorRecord, ErrorSource, Problem, ProblemKind as Kind, Raw, Severity,
};

use crate::Decoded;
use crate::cper::kernel_machine_check;
use crate::mca;

/// Bytes of a kernel log kept; pstore's own default is 10 KiB for a whole log.
const LOG_MAX: usize = 64 * 1024;

/// Decodes the file `name` (its path may be before it) with the contents `bytes`.
#[must_use]
pub fn decode(name: &str, bytes: &[u8]) -> Decoded {
    let name = name.rsplit('/').next().unwrap_or(name);
    let record = if name.starts_with("mce-") {
        machine_check(bytes)
    } else if name.starts_with("dmesg-") {
        kernel_log(name, bytes)
    } else {
        let detail = "pstore file that holds no error known here".into();
        unknown(Kind::Unknown, detail, bytes)
    };
    Decoded { consumed: bytes.len(), ..Decoded::from(record) }
}

fn machine_check(bytes: &[u8]) -> ErrorRecord {
    let Some((registers, context)) = kernel_machine_check(bytes) else {
        let detail = format!("machine check of {} bytes is cut", bytes.len());
        return unknown(Kind::Truncated, detail, bytes);
    };
    let mut record = mca::decode(&registers, context);
    record.source = ErrorSource::Erst;
    record
}

/// A kernel log begins with why it was saved and which part of it this is: `Panic#1 Part1`.
fn kernel_log(name: &str, bytes: &[u8]) -> ErrorRecord {
    let kept = bytes.get(..LOG_MAX).unwrap_or(bytes);
    let text = match core::str::from_utf8(kept) {
        _ if name.ends_with(".z") => None,
        Ok(text) => Some(String::from(text)),
        // A log cut in the middle of a character is text all the same; a compressed one is not.
        Err(error) if error.valid_up_to() + 4 > kept.len() => {
            Some(String::from_utf8_lossy(kept).into_owned())
        }
        Err(_) => None,
    };
    let Some(text) = text else {
        return unknown(Kind::Unknown, "compressed kernel log is not decoded".into(), bytes);
    };
    let mut record = ErrorRecord {
        severity_reason: "the kernel saved its log, which may name the error".into(),
        ..ErrorRecord::new(ErrorSource::Erst)
    };
    let first = text.lines().next().unwrap_or_default();
    let words = first.split_once(' ').and_then(|(reason, part)| {
        let (reason, count) = reason.split_once('#')?;
        let part = part.trim().strip_prefix("Part")?;
        Some((reason, count.parse::<u32>().ok()?, part.parse::<u32>().ok()?))
    });
    record.summary = match words {
        Some((reason, count, part)) => {
            record.details.add("reason", String::from(reason));
            record.details.add("dump", count);
            record.details.add("part", part);
            format!("kernel log kept at a crash ({reason}, part {part})")
        }
        None => "kernel log kept at a crash".into(),
    };
    if kept.len() < bytes.len() {
        let detail = format!("kernel log of {} bytes, the first {LOG_MAX} are kept", bytes.len());
        let offset = u64::try_from(LOG_MAX).unwrap_or(u64::MAX);
        record.problems.push(Problem { offset, kind: Kind::Limit, detail });
    }
    record.raw = Raw::Text(text);
    record
}

fn unknown(kind: Kind, detail: String, bytes: &[u8]) -> ErrorRecord {
    let mut record = ErrorRecord {
        class: ErrorClass::Unknown,
        severity: Severity::Unknown,
        summary: detail.clone(),
        raw: Raw::Bytes(bytes.get(..LOG_MAX).unwrap_or(bytes).into()),
        ..ErrorRecord::new(ErrorSource::Erst)
    };
    let offset = if kind == Kind::Truncated { bytes.len() } else { 0 };
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    record.problems.push(Problem { offset, kind, detail });
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::Timestamp;

    #[test]
    fn a_log_tells_why_it_was_kept() {
        let decoded =
            decode("/sys/fs/pstore/dmesg-erst-7290", b"Panic#2 Part3\n<0>[ 1.0] Kernel panic");
        let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(record.summary, "kernel log kept at a crash (Panic, part 3)");
        assert_eq!(record.problems, []);
        assert_eq!(record.raw, Raw::Text("Panic#2 Part3\n<0>[ 1.0] Kernel panic".into()));
    }

    #[test]
    fn what_is_compressed_or_cut_is_said_to_be() {
        for (name, bytes, kind) in [
            ("dmesg-erst-1.enc.z", &b"text"[..], Kind::Unknown),
            ("dmesg-erst-1", &b"\x78\x9c\xff\xfe\x00\x01\x02\x03\x04"[..], Kind::Unknown),
            ("mce-erst-1", &b"\0\0\0"[..], Kind::Truncated),
            ("console-ramoops-0", &b"text"[..], Kind::Unknown),
        ] {
            let decoded = decode(name, bytes);
            assert_eq!(decoded.problems[0].kind, kind, "{name}");
            assert!(decoded.problems[0].offset <= bytes.len() as u64);
        }
    }

    #[test]
    fn a_machine_check_is_decoded_by_its_processor() {
        let bytes = crate::cper::section::tests::struct_mce();
        let decoded = decode("mce-erst-5", &bytes);
        let [record] = decoded.records.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(record.source, ErrorSource::Erst);
        assert_eq!(record.severity, Severity::Fatal);
        assert_eq!(record.time, Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(record.location.socket, Some(1));
    }
}
