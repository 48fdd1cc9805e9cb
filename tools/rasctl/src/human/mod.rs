//! Records as text for people: what happened, what it means, what to do, where, and all the rest.

mod advice;

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};
use ras_core::{
    Detail, ErrorRecord, McaRegisters, Problem, Raw, RecordFlags, Severity, Timestamp, Value,
};

use crate::read::{Damage, Found};

/// Bytes of raw data in one line.
const BYTES_A_LINE: usize = 32;

/// How text is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Human {
    /// With colours.
    pub color: bool,
}

impl Human {
    /// Writes a record with everything known about it.
    ///
    /// # Errors
    /// `out` takes no more.
    pub fn found(self, found: &Found, out: &mut dyn Write) -> io::Result<()> {
        let record = &found.record;
        self.headline(record, out)?;
        let mut block = Block { human: self, indent: 4, out };
        block.line("meaning", advice::meaning(record))?;
        block.line("advice", advice::advice(record))?;
        block.body(record)?;
        block.line("found in", &place(&found.file, found.line, found.offset))
    }

    /// Writes damage that belongs to no record.
    ///
    /// # Errors
    /// As [`Self::found`].
    pub fn damage(self, damage: &Damage, out: &mut dyn Write) -> io::Result<()> {
        let place = place(&damage.file, damage.line, damage.problem.offset);
        let style = self.style(AnsiColor::Yellow.on_default());
        writeln!(out, "{style}{place}: {}{style:#}", damage.problem.detail)
    }

    fn headline(self, record: &ErrorRecord, out: &mut dyn Write) -> io::Result<()> {
        let time = record.time.map_or_else(|| "unknown time".into(), rfc3339);
        let style = self.style(severity_style(record.severity));
        let bold = self.style(Style::new().bold());
        let severity = record.severity;
        writeln!(out, "{time}  {style}{severity}{style:#}  {bold}{}{bold:#}", record.summary)
    }

    fn style(self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }
}

const fn severity_style(severity: Severity) -> Style {
    let color = match severity {
        Severity::Informational => AnsiColor::Cyan,
        Severity::Corrected => AnsiColor::Green,
        Severity::Deferred | Severity::Ucna | Severity::Unknown => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    Style::new().fg_color(Some(anstyle::Color::Ansi(color))).bold()
}

/// Where something was found: the line where there are lines, else the byte.
fn place(file: &str, line: Option<u64>, offset: u64) -> String {
    let file = printable(file);
    match line {
        Some(line) => format!("{file}, line {line}"),
        None => format!("{file}, byte {offset}"),
    }
}

/// Lines of names and values, all indented alike.
struct Block<'a> {
    human: Human,
    indent: usize,
    out: &'a mut dyn Write,
}

impl Block<'_> {
    fn line(&mut self, name: &str, value: &str) -> io::Result<()> {
        let dim = self.human.style(Style::new().dimmed());
        let indent = self.indent;
        writeln!(self.out, "{:indent$}{dim}{name:<10}{dim:#}{}", "", printable(value))
    }

    fn deeper(&mut self) -> Block<'_> {
        Block { human: self.human, indent: self.indent + 4, out: self.out }
    }

    /// All but headline and advice.
    fn body(&mut self, record: &ErrorRecord) -> io::Result<()> {
        if !record.severity_reason.is_empty() {
            self.line("severity", &record.severity_reason)?;
        }
        let RecordFlags { threshold_exceeded, previous_boot, simulated, recovered, overflow } =
            record.flags;
        let notes = [
            (previous_boot, "it is of a previous boot"),
            (simulated, "it was injected, not real"),
            (recovered, "the system has already recovered from it"),
            (threshold_exceeded, "corrected errors went over firmware's threshold"),
            (overflow, "more errors came than could be recorded"),
        ];
        for (_, note) in notes.iter().filter(|(set, _)| *set) {
            self.line("note", note)?;
        }
        if record.count > 1 {
            self.line("count", &record.count.to_string())?;
        }
        if let Some(pages) = record.pages() {
            self.line("pages", &format!("{} from {}", pages.count, pages.start))?;
        }
        self.line("location", &location(record))?;
        self.line("source", record.source.name())?;
        self.details(&record.details)?;
        self.raw(&record.raw)?;
        for problem in &record.problems {
            self.problem(problem)?;
        }
        for witness in &record.witnesses {
            let indent = self.indent;
            write!(self.out, "{:indent$}also      ", "")?;
            self.human.headline(witness, self.out)?;
            self.deeper().body(witness)?;
        }
        Ok(())
    }

    fn problem(&mut self, problem: &Problem) -> io::Result<()> {
        let style = self.human.style(AnsiColor::Yellow.on_default());
        let (indent, Problem { offset, detail, .. }) = (self.indent, problem);
        let detail = printable(detail);
        writeln!(self.out, "{:indent$}{style}damaged   byte {offset}: {detail}{style:#}", "")
    }

    fn details(&mut self, details: &[Detail]) -> io::Result<()> {
        if details.is_empty() {
            return Ok(());
        }
        let indent = self.indent;
        writeln!(self.out, "{:indent$}details", "")?;
        self.deeper().group(details)
    }

    fn group(&mut self, details: &[Detail]) -> io::Result<()> {
        let name = |detail: &Detail| detail.name.chars().count();
        let width = details.iter().map(name).max().unwrap_or(0).min(28);
        for Detail { name, value } in details {
            let (indent, name) = (self.indent, printable(name));
            let inline = inline(value);
            match (value, inline) {
                (_, Some(text)) => {
                    writeln!(self.out, "{:indent$}{name:<width$}  {}", "", printable(&text))?;
                }
                (Value::Group(details), None) => {
                    writeln!(self.out, "{:indent$}{name}", "")?;
                    self.deeper().group(details)?;
                }
                (Value::List(values), None) => {
                    for (index, value) in values.iter().enumerate() {
                        writeln!(self.out, "{:indent$}{name} {index}", "")?;
                        self.deeper().value(value)?;
                    }
                }
                (value, None) => {
                    writeln!(self.out, "{:indent$}{name}", "")?;
                    self.deeper().value(value)?;
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Value) -> io::Result<()> {
        let indent = self.indent;
        match value {
            Value::Group(details) => self.group(details),
            Value::List(values) => values.iter().try_for_each(|value| self.value(value)),
            Value::Bytes(bytes) => self.bytes(bytes),
            value => {
                let text = inline(value).unwrap_or_default();
                writeln!(self.out, "{:indent$}{}", "", printable(&text))
            }
        }
    }

    fn raw(&mut self, raw: &Raw) -> io::Result<()> {
        match raw {
            Raw::Mca(registers) => self.registers(registers),
            Raw::Section { section_type, bytes } => {
                self.line("raw", &format!("section {section_type}, {} bytes", bytes.len()))?;
                self.deeper().bytes(bytes)
            }
            Raw::Bytes(bytes) => {
                self.line("raw", &format!("{} bytes", bytes.len()))?;
                self.deeper().bytes(bytes)
            }
            Raw::Text(text) => {
                let mut lines = text.lines();
                self.line("raw", lines.next().unwrap_or_default())?;
                lines.try_for_each(|line| self.line("", line))
            }
            _ => Ok(()),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let indent = self.indent;
        for (line, bytes) in bytes.chunks(BYTES_A_LINE).enumerate() {
            write!(self.out, "{:indent$}{:04x} ", "", line * BYTES_A_LINE)?;
            for bytes in bytes.chunks(4) {
                write!(self.out, " ")?;
                bytes.iter().try_for_each(|byte| write!(self.out, "{byte:02x}"))?;
            }
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Registers by their names; those that were not captured, or hold nothing, are left out.
    fn registers(&mut self, registers: &McaRegisters) -> io::Result<()> {
        let McaRegisters { vendor, cpuid, bank, .. } = registers;
        let processor = format!("{} cpuid {cpuid:#x}, bank {bank}", vendor.name());
        self.line("raw", &processor)?;
        let named = [
            ("STATUS", registers.status),
            ("ADDR", registers.addr),
            ("MISC", registers.misc),
            ("MCG_STATUS", registers.mcg_status),
            ("MCG_CAP", registers.mcg_cap),
            ("SYND", registers.synd),
            ("IPID", registers.ipid),
            ("SYND1", registers.synd1),
            ("SYND2", registers.synd2),
            ("CONFIG", registers.config),
            ("DESTAT", registers.destat),
            ("DEADDR", registers.deaddr),
            ("CS", registers.cs.into()),
            ("IP", registers.ip),
            ("TSC", registers.tsc),
            ("PPIN", registers.ppin),
            ("APIC", registers.apic_id.into()),
            ("MICROCODE", registers.microcode.into()),
        ];
        let mut text = String::new();
        for (name, value) in
            named.into_iter().filter(|(name, value)| *value != 0 || *name == "STATUS")
        {
            if text.len() > 64 {
                self.line("", text.trim_end())?;
                text.clear();
            }
            text += &format!("{name} {value:#x}  ");
        }
        self.line("", text.trim_end())
    }
}

/// The place in words. A processor is said too: it is no part of where in memory an error is.
fn location(record: &ErrorRecord) -> String {
    match record.location.cpu {
        Some(cpu) => format!("{}, seen by CPU {cpu}", record.location),
        None => record.location.to_string(),
    }
}

/// The value in one line, if it is a short one.
fn inline(value: &Value) -> Option<String> {
    const LONG: usize = 100;
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::Signed(number) => number.to_string(),
        Value::Hex(bits) => format!("{bits:#x}"),
        Value::Flag(flag) => if *flag { "yes" } else { "no" }.into(),
        Value::Text(text) => text.to_string(),
        Value::Code { code, meaning: Some(meaning) } => format!("{meaning} ({code})"),
        Value::Code { code, meaning: None } => format!("{code}, which has no defined meaning"),
        Value::Guid(guid) => guid.to_string(),
        Value::Bytes(bytes) if bytes.len() <= BYTES_A_LINE => {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        }
        Value::List(values) if values.is_empty() => "none".into(),
        Value::List(values) => {
            let all: Option<Vec<String>> = values.iter().map(inline).collect();
            Some(all?.join(", ")).filter(|text| text.len() <= LONG)?
        }
        Value::Group(_) | Value::Bytes(_) => return None,
        _ => return None,
    };
    Some(text)
}

/// Text from an input, fit for a terminal: control characters could move its cursor or worse.
pub(crate) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    } else {
        text.into()
    }
}

/// RFC 3339 in UTC, to the second: `2026-11-22T14:29:01Z`.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_date_says() {
        for (secs, expect) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (18_446_744_073, "2554-07-21T23:34:33Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_secs(secs)), expect);
        }
    }
}
