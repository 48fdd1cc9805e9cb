//! What the kernel says about broken hardware in one line: panics, NMIs, throttling.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{Details, ErrorClass, ErrorRecord, ErrorSource, Problem, ProblemKind, Severity};

use super::{Line, RawLines};
use crate::text::Found;
use crate::text::bytes::{self, decimal, find, hex, narrow, number};

/// Lines within which a notice that machine checks were logged is followed by one of them.
const PATIENCE: u64 = 32;

/// Single lines, and the one that only counts if nothing follows it.
#[derive(Debug, Default)]
pub(super) struct Other {
    /// A notice that machine checks were logged, and the number of its line.
    logged: Option<(u64, Found)>,
}

/// A line known by its beginning.
struct Known {
    starts: &'static [u8],
    severity: Severity,
    class: ErrorClass,
    summary: &'static str,
}

const fn known(
    starts: &'static str,
    severity: Severity,
    class: ErrorClass,
    summary: &'static str,
) -> Known {
    Known { starts: starts.as_bytes(), severity, class, summary }
}

/// Linux `arch/x86/kernel/cpu/mce/core.c`, `arch/x86/kernel/nmi.c`, `drivers/acpi/apei/ghes.c`.
const KNOWN: &[Known] = &[
    known(
        "Kernel panic - not syncing: Fatal machine check",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped for a fatal machine check",
    ),
    known(
        "Kernel panic - not syncing: Fatal local machine check",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped for a fatal machine check",
    ),
    known(
        "Kernel panic - not syncing: Local fatal machine check",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped for a fatal machine check",
    ),
    known(
        "Kernel panic - not syncing: Machine check",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped for a machine check",
    ),
    known(
        "Kernel panic - not syncing: Uncorrected machine check",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped for an uncorrected machine check",
    ),
    known(
        "Kernel panic - not syncing: Timeout",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped: processors did not answer to a machine check",
    ),
    known(
        "Kernel panic - not syncing: MCA architectural violation",
        Severity::Fatal,
        ErrorClass::Processor,
        "the kernel stopped: a machine-check register could not be accessed",
    ),
    known(
        "Kernel panic - not syncing: Fatal hardware error",
        Severity::Fatal,
        ErrorClass::Unknown,
        "the kernel stopped for a fatal hardware error that firmware reported",
    ),
    known(
        "Kernel panic - not syncing: NMI: Not continuing",
        Severity::Fatal,
        ErrorClass::Unknown,
        "the kernel stopped for a non-maskable interrupt",
    ),
    known(
        "NMI: PCI system error (SERR)",
        Severity::Unknown,
        ErrorClass::Bus,
        "non-maskable interrupt: system error on the PCI bus (SERR)",
    ),
    known(
        "NMI: IOCK error",
        Severity::Unknown,
        ErrorClass::Bus,
        "non-maskable interrupt: I/O channel check (IOCK)",
    ),
    known(
        "Uhhuh. NMI received",
        Severity::Unknown,
        ErrorClass::Unknown,
        "non-maskable interrupt for an unknown reason",
    ),
    known(
        "NMI: Memory parity error",
        Severity::Unknown,
        ErrorClass::Memory,
        "non-maskable interrupt: memory parity error",
    ),
];

impl Other {
    /// Whether the line is one of these.
    pub(super) fn line(&mut self, text: &[u8], line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        let Some(record) = single(text) else { return false };
        found.push(complete(record, line));
        true
    }

    /// Whether a marked line is one of these, whatever report is being printed.
    pub(super) fn claims(text: &[u8]) -> bool {
        text.starts_with(b"Machine check") || IDLE.iter().any(|idle| text.starts_with(idle))
    }

    /// A line marked as a hardware error that no group claims.
    pub(super) fn marked(&mut self, text: &[u8], line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        if text.is_empty() || IDLE.iter().any(|idle| text.starts_with(idle)) {
            return true;
        }
        if text.starts_with(b"Machine check events logged") {
            let record = ErrorRecord {
                severity: Severity::Informational,
                severity_reason: "the kernel says no more than that there were some".into(),
                class: ErrorClass::Processor,
                summary: "machine checks were logged, and none of them is here".into(),
                ..ErrorRecord::new(ErrorSource::KernelLog)
            };
            self.logged.get_or_insert_with(|| (line.number, complete(record, line)));
            return true;
        }
        let mut record = ErrorRecord::new(ErrorSource::KernelLog);
        if let Some(reason) = text.strip_prefix(b"Machine check: ") {
            record.severity = Severity::Fatal;
            record.severity_reason = "the kernel gives it as the reason to stop".into();
            record.class = ErrorClass::Processor;
            record.summary = "the kernel stopped for a machine check".into();
            record.details.add("reason", bytes::text(reason));
        } else {
            record.severity_reason =
                "the line is marked as a hardware error, and says no more".into();
            record.summary = "hardware error of a form that is not known".into();
            record.problems.push(Problem {
                offset: line.offset,
                kind: ProblemKind::Unknown,
                detail: format!("{:?} is of no known form", bytes::text(text)),
            });
        }
        found.push(complete(record, line));
        true
    }

    /// The notice counts if no machine check came after it.
    pub(super) fn expire(&mut self, now: u64, any: bool, found: &mut Vec<Found>) {
        match self.logged {
            Some((number, _)) if any && number != now => self.logged = None,
            Some((number, _)) if now.saturating_sub(number) > PATIENCE => self.finish(found),
            _ => {}
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        found.extend(self.logged.take().map(|(_, found)| found));
    }
}

/// Marked lines around a report that are no report.
const IDLE: &[&[u8]] = &[
    b"Run the above through",
    b"No human readable MCE decoding support",
    b"This is not a software problem",
    b"Fake kernel panic",
    b"Some CPUs didn't answer",
    b"CPUs not responding to MCE broadcast",
];

fn single(text: &[u8]) -> Option<ErrorRecord> {
    let mut record = ErrorRecord::new(ErrorSource::KernelLog);
    if let Some(known) = KNOWN.iter().find(|known| text.starts_with(known.starts)) {
        record.severity = known.severity;
        record.class = known.class;
        record.summary = known.summary.into();
        record.severity_reason = match known.severity {
            Severity::Fatal => "the kernel stopped",
            _ => "the kernel does not know what it means",
        }
        .into();
        // `for reason 2d on CPU 3.`, `for unknown reason 2d on CPU 3.`
        let after = |word: &[u8]| {
            let at = find(text, word)?.checked_add(word.len())?;
            text.get(at..)
        };
        record.location.cpu = after(b" on CPU ").and_then(decimal).and_then(|(cpu, _)| narrow(cpu));
        if let Some((reason, _)) = after(b"reason ").and_then(hex) {
            record.details.add_hex("nmi_reason", reason);
        }
        return Some(record);
    }
    throttled(text, &mut record).then_some(record)
}

/// `CPU0: Package temperature above threshold, cpu clock throttled (total events = 1)`,
/// `CPU0: Core power limit notification`. Linux `arch/x86/kernel/cpu/mce/therm_throt.c`.
fn throttled(text: &[u8], record: &mut ErrorRecord) -> bool {
    let Some((cpu, rest)) = text.strip_prefix(b"CPU").and_then(decimal) else { return false };
    let Some(rest) = rest.strip_prefix(b": ") else { return false };
    let (part, rest) = bytes::word(rest);
    if !matches!(part, b"Core" | b"Package" | b"Temperature") {
        return false;
    }
    let hot = part == b"Temperature" || rest.starts_with(b"temperature above threshold");
    if !hot && !rest.starts_with(b"power limit notification") {
        return false;
    }
    record.class = ErrorClass::Platform;
    record.severity = Severity::Informational;
    record.severity_reason = "the processor protected itself".into();
    record.location.cpu = narrow(cpu);
    let whole = if part == b"Package" { "package" } else { "core" };
    record.summary = if hot {
        format!("CPU {cpu}: {whole} too hot, slowed down")
    } else {
        format!("CPU {cpu}: {whole} at its power limit")
    };
    let events = bytes::split(rest, b"total events = ").and_then(|(_, events)| number(events));
    record.details.add_some("total_events", events.map(|(events, _)| events));
    true
}

/// The record with its line, and when it was written.
fn complete(mut record: ErrorRecord, line: &Line<'_>) -> Found {
    let mut raw = RawLines::default();
    raw.push(line.text);
    record.raw = raw.raw();
    record.time = line.stamp.time;
    line.stamp.add_to(&mut record.details);
    Found::new(line.offset, record)
}
