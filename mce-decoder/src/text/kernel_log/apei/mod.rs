//! Firmware's error records as the kernel prints them: APEI's GHES at run time, BERT after a boot.
//!
//! ```text
//!  {3}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 2
//!  {3}[Hardware Error]: event severity: corrected
//!  {3}[Hardware Error]:  Error 0, type: corrected
//!  {3}[Hardware Error]:   section_type: memory error
//!  {3}[Hardware Error]:   physical_address: 0x000000093724c020 ...
//! ```
//! Linux `drivers/firmware/efi/cper.c`, `drivers/acpi/apei/ghes.c` and `bert.c`. Every section is put
//! back into firmware's own form and decoded as such; what is said of it is kept as text.

mod rebuild;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    Details, ErrorClass, ErrorRecord, ErrorSource, Guid, Problem, ProblemKind, Raw, SmolStr,
    Timestamp, Value,
};

use super::{Line, RawLines, Stamp};
use crate::cper;
use crate::date::civil;
use crate::text::Found;
use crate::text::bytes::{self, decimal, split, whole_hex};

/// Reports open at once: each has a number of its own, so that processors may mix them.
const OPEN_MAX: usize = 16;

/// Lines after which a report that got none of them is taken for complete. Nothing ends a report.
const PATIENCE: u64 = 64;

/// Reports that have begun.
#[derive(Debug, Default)]
pub(super) struct Apei {
    open: Vec<Report>,
    /// What follows without a number is of a previous boot.
    previous_boot: bool,
}

#[derive(Debug)]
struct Report {
    /// The kernel's number of it; BERT's have none.
    sequence: Option<u64>,
    offset: u64,
    stamp: Stamp,
    source_id: Option<u64>,
    severity: Option<u32>,
    previous_boot: bool,
    /// Stated by firmware, before the section it belongs to.
    time: Option<Timestamp>,
    section: Option<Section>,
    /// Sections that were made records.
    done: usize,
    /// Of its last line.
    last: u64,
}

/// The section that is being printed.
#[derive(Debug)]
struct Section {
    offset: u64,
    number: u64,
    severity: u32,
    time: Option<Timestamp>,
    lines: RawLines,
    /// Lines that there was no room for.
    lost: usize,
}

impl Apei {
    /// `BERT: Error records from previous boot:`.
    pub(super) fn bert(&mut self, text: &[u8], found: &mut Vec<Found>) -> bool {
        if !text.starts_with(b"BERT: Error record") {
            return text.starts_with(b"BERT: Total records") || text.starts_with(b"BERT: Skipped");
        }
        self.finish(found);
        self.previous_boot = true;
        true
    }

    /// Whether `text` was of a report; `sequence` is the kernel's number of it.
    pub(super) fn line(
        &mut self,
        text: &[u8],
        sequence: Option<u64>,
        line: &Line<'_>,
        found: &mut Vec<Found>,
    ) -> bool {
        let at = self.open.iter().position(|report| report.sequence == sequence);
        if text.is_empty() {
            return at.is_some();
        }
        let source = text
            .strip_prefix(b"Hardware error from APEI Generic")
            .and_then(|rest| bytes::rsplit(rest, b":"));
        let begins = source.is_some()
            || event_severity(text).is_some()
                && at.and_then(|at| self.open.get(at)).is_none_or(|open| open.severity.is_some());
        let at = match at {
            Some(at) if !begins => at,
            _ if begins => {
                if let Some(at) = at {
                    self.open.remove(at).end(found);
                }
                self.begin(sequence, line, found);
                self.open.len().saturating_sub(1)
            }
            // The beginning is lost, but the kernel's number says what it is.
            None if sequence.is_some() => {
                self.begin(sequence, line, found);
                self.open.len().saturating_sub(1)
            }
            _ => return false,
        };
        let Some(report) = self.open.get_mut(at) else { return false };
        report.last = line.number;
        if let Some((_, id)) = source {
            report.source_id = bytes::whole_number(id);
            return true;
        }
        report.line(text, line, found)
    }

    fn begin(&mut self, sequence: Option<u64>, line: &Line<'_>, found: &mut Vec<Found>) {
        if self.open.len() >= OPEN_MAX {
            self.open.remove(0).end(found);
        }
        // A report with a number is of this boot.
        let previous_boot = self.previous_boot && sequence.is_none();
        self.open.push(Report {
            sequence,
            offset: line.offset,
            stamp: line.stamp,
            source_id: None,
            severity: None,
            previous_boot,
            time: None,
            section: None,
            done: 0,
            last: line.number,
        });
    }

    pub(super) fn expire(&mut self, now: u64, found: &mut Vec<Found>) {
        let stale = |report: &Report| now.saturating_sub(report.last) > PATIENCE;
        while let Some(at) = self.open.iter().position(stale) {
            self.open.remove(at).end(found);
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        self.open.drain(..).for_each(|report| report.end(found));
    }
}

/// `event severity: corrected`, or `severity: 2, corrected` before Linux 3.14.
fn event_severity(text: &[u8]) -> Option<u32> {
    if let Some(name) = text.strip_prefix(b"event severity:") {
        return Some(severity(name));
    }
    let (_, name) = split(text.strip_prefix(b"severity: ")?, b", ")?;
    Some(severity(name))
}

/// UEFI's number for a severity in the kernel's words.
fn severity(name: &[u8]) -> u32 {
    match name.trim_ascii() {
        b"recoverable" => 0,
        b"fatal" => 1,
        b"corrected" => 2,
        b"info" => 3,
        _ => u32::MAX,
    }
}

/// `Error 0, type: corrected`, or `section: 0, severity: 2, corrected` before Linux 3.14.
fn section_start(text: &[u8]) -> Option<(u64, u32)> {
    if let Some(rest) = text.strip_prefix(b"Error ") {
        let (number, rest) = decimal(rest)?;
        return Some((number, severity(rest.strip_prefix(b", type:")?)));
    }
    let (number, rest) = decimal(text.strip_prefix(b"section: ")?)?;
    let (_, name) = split(rest.strip_prefix(b", severity: ")?, b", ")?;
    Some((number, severity(name)))
}

impl Report {
    fn line(&mut self, text: &[u8], line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        if let Some(severity) = event_severity(text) {
            self.severity = Some(severity);
        } else if let Some((number, severity)) = section_start(text) {
            self.end_section(found);
            // The first section's record begins where the report does.
            let offset = if self.done == 0 { self.offset } else { line.offset };
            let time = self.time.take();
            let mut lines = RawLines::default();
            lines.push(text);
            let section = Section { offset, number, severity, time, lines, lost: 0 };
            self.section = Some(section);
        } else if let Some((kind, time)) = split(text, b"tstamp:") {
            let _precise = kind;
            self.time = date(time);
        } else if text.starts_with(b"It has been corrected by h/w")
            || text.starts_with(b"APEI generic hardware error status")
        {
            return true;
        } else if let Some(section) = &mut self.section {
            // Without room for them, fields are lost, but not in silence.
            section.lost += usize::from(!section.lines.push(text));
        } else {
            // A number says whose line it is; without one it may be anybody's.
            return self.sequence.is_some() && {
                let severity = self.severity.unwrap_or(u32::MAX);
                let mut lines = RawLines::default();
                lines.push(text);
                let offset = self.offset;
                self.section =
                    Some(Section { offset, number: 0, severity, time: None, lines, lost: 0 });
                true
            };
        }
        true
    }

    fn end_section(&mut self, found: &mut Vec<Found>) {
        let Some(section) = self.section.take() else { return };
        self.done += 1;
        let offset = section.offset;
        let mut record = section.record();
        self.add_to(&mut record, offset);
        found.push(Found::new(offset, record));
    }

    /// A report without a section is one too.
    fn end(mut self, found: &mut Vec<Found>) {
        self.end_section(found);
        if self.done > 0 {
            return;
        }
        let (severity, rule) = cper::severity(self.severity.unwrap_or(u32::MAX));
        let mut record = ErrorRecord {
            severity,
            severity_reason: rule.into(),
            summary: "firmware's report of an error, without the error".into(),
            problems: Vec::from([Problem {
                offset: self.offset,
                kind: ProblemKind::Truncated,
                detail: "none of the report's sections is there".into(),
            }]),
            ..ErrorRecord::new(ErrorSource::KernelApei)
        };
        let offset = self.offset;
        self.add_to(&mut record, offset);
        found.push(Found::new(offset, record));
    }

    fn add_to(&self, record: &mut ErrorRecord, offset: u64) {
        record.source = ErrorSource::KernelApei;
        // A previous boot's error did not happen when this boot printed it.
        if !self.previous_boot {
            record.time = record.time.or(self.stamp.time);
        }
        record.flags.previous_boot |= self.previous_boot;
        for problem in &mut record.problems {
            problem.offset = offset;
        }
        record.details.add_some("apei_source", self.source_id);
        record.details.add_some("report", self.sequence);
        let severity = self.severity.filter(|severity| *severity != u32::MAX);
        let severity =
            severity.map(|severity| Value::code(severity.into(), cper::names::SEVERITIES));
        record.details.add_some("event_severity", severity);
        self.stamp.add_to(&mut record.details);
    }
}

impl Section {
    fn record(self) -> ErrorRecord {
        let text = self.lines.0.as_bytes();
        let value = |key: &[u8]| {
            text.split(|byte| *byte == b'\n')
                .find_map(|line| line.strip_prefix(key))
                .map(<[u8]>::trim_ascii)
        };
        let fru = value(b"fru_text:")
            .filter(|text| !text.is_empty())
            .or_else(|| value(b"fru_id:"))
            .map(bytes::text)
            .or_else(|| dimm_location(text))
            .map(SmolStr::from);
        let name = value(b"section_type:");
        let unknown = value(b"section type:")
            .and_then(|value| guid(value.rsplit(|byte| *byte == b' ').next().unwrap_or_default()));
        let rebuilt = name.and_then(|name| rebuild::section(name, text));
        let source = ErrorSource::KernelApei;
        let mut record = match (unknown, rebuilt) {
            (Some(section_type), _) => {
                let body = rebuild::dump(text);
                let length = value(b"section length:").and_then(bytes::whole_number);
                let mut record =
                    cper::decode_section(source, section_type, self.severity, fru, &body);
                if let Some(length) = length.filter(|length| *length > body.len() as u64) {
                    record.problems.push(Problem {
                        offset: self.offset,
                        kind: ProblemKind::Truncated,
                        detail: format!("section of {length} bytes, {} are there", body.len()),
                    });
                }
                record
            }
            (None, Some((section_type, body))) => {
                let mut record =
                    cper::decode_section(source, section_type, self.severity, fru, &body);
                record.raw = Raw::Text(self.lines.0.clone());
                record
            }
            (None, None) => {
                let (severity, rule) = cper::severity(self.severity);
                let name = name.map(bytes::text);
                let mut record = ErrorRecord {
                    class: class(name.as_deref().unwrap_or_default()),
                    severity,
                    severity_reason: format!("{rule} ({})", self.severity),
                    summary: match &name {
                        Some(name) => format!("firmware's report of an error: {name}"),
                        None => "firmware's report of an error of unstated kind".into(),
                    },
                    raw: self.lines.clone().raw(),
                    ..ErrorRecord::new(source)
                };
                record.location.fru = fru;
                let agent = value(b"agent_address:").or_else(|| value(b"device_id:"));
                record.location.pci = agent.and_then(pci);
                if name.is_none() {
                    record.problems.push(Problem {
                        offset: self.offset,
                        kind: ProblemKind::Truncated,
                        detail: "the line with the section's type is missing".into(),
                    });
                }
                record.details.add_some("section", name);
                record
            }
        };
        if record.location.pci.is_none() && name == Some(b"PCIe error") {
            record.location.pci = value(b"device_id:").and_then(pci);
        }
        if record.class == ErrorClass::Unknown {
            record.class = class(&name.map(bytes::text).unwrap_or_default());
        }
        record.time = self.time;
        record.details.add("section_number", self.number);
        if self.lost > 0 {
            record.problems.push(Problem {
                offset: self.offset,
                kind: ProblemKind::Limit,
                detail: format!("{} lines of a long report are left out", self.lost),
            });
        }
        record
    }
}

/// `DIMM location: BANK 0 DIMM 1`, from SMBIOS; not what stands there where SMBIOS has no name.
fn dimm_location(text: &[u8]) -> Option<String> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let place = lines.find_map(|line| line.strip_prefix(b"DIMM location:"))?.trim_ascii();
    (!place.is_empty() && !place.starts_with(b"not present")).then(|| bytes::text(place))
}

fn pci(text: &[u8]) -> Option<ras_core::PciAddress> {
    crate::pci::address(core::str::from_utf8(text).ok()?)
}

/// The kind of hardware of a section whose body can't be had.
fn class(name: &str) -> ErrorClass {
    if name.starts_with("CXL") {
        ErrorClass::Cxl
    } else if name.starts_with("PCIe") {
        ErrorClass::Pcie
    } else if name.contains("rocessor") {
        ErrorClass::Processor
    } else if name.starts_with("Firmware") {
        ErrorClass::Firmware
    } else if name.starts_with("memory") {
        ErrorClass::Memory
    } else {
        ErrorClass::Unknown
    }
}

/// `81212a96-09ed-4996-9471-8d729c8e69ed`.
fn guid(text: &[u8]) -> Option<Guid> {
    Guid::try_from(bytes::text(text)).ok()
}

/// `2023-11-21 07:41:29`, in UTC as all of firmware's times.
fn date(text: &[u8]) -> Option<Timestamp> {
    let mut numbers = text
        .split(|byte| !byte.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| decimal(part).map(|(number, _)| number));
    let mut next = || numbers.next().flatten();
    let (year, month, day) = (next()?, next()?, next()?);
    civil(year, month, day, [next()?, next()?, next()?])
}

/// The number a field's text begins with; what follows it are the kernel's words for it.
fn field(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    let first = text.split(|byte| matches!(byte, b',' | b' ' | b':')).next()?;
    bytes::whole_number(first).or_else(|| whole_hex(first))
}
