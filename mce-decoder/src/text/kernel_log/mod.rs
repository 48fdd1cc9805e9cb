//! The kernel's log: `dmesg`, the journal, syslog's files, a serial console's.
//!
//! ```text
//!  line --prefix--> stamp, caller, the kernel's words
//!                      |-- machine_check, amd   registers          -> mca
//!                      |-- apei                 firmware's records -> cper
//!                      |-- edac, aer, memory_failure, other
//! ```
//! What mcelog and rasdaemon wrote to the same log is handed to their own decoders.
//!
//! An error takes several lines, those of several processors may be mixed, and some may be missing:
//! whatever is there becomes a record, and what is missing a [`Problem`](ras_core::Problem).
//! Nothing that a log does not say is made up: a stamp that counts from the kernel's start gives no
//! date, and a date without a year none either, unless [`Options`] supply it.

mod aer;
mod amd;
mod apei;
mod edac;
mod machine_check;
mod memory_failure;
mod other;
pub(super) mod prefix;

use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{CpuVendor, ErrorRecord, Raw, Timestamp};

use self::aer::Aer;
use self::amd::AmdText;
pub(super) use self::amd::cpuid;
use self::apei::Apei;
use self::machine_check::MachineChecks;
use self::memory_failure::Failures;
use self::other::Other;
pub(crate) use self::prefix::Stamp;
use super::bytes::{self, decimal};
use super::mcelog::{self, Mcelog};
use super::rasdaemon::{self, Rasdaemon};
use super::{Found, LineDecoder};
use crate::trace;

/// Bytes looked at of one line; kernels write at most 1 KiB at once, and prefixes are short.
const LINE_MAX: usize = 4096;

/// Bytes of text kept in one record: the longest reports, with dumps, take about a hundred lines.
const RAW_MAX: usize = 16 * 1024;

/// What a log itself does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// The year of dates that have none, as syslog's.
    pub year: Option<u16>,
    /// Zone of dates that state none, in minutes east of Greenwich.
    pub utc_offset_minutes: i16,
    /// Maker of the processor, where a machine check does not tell.
    pub vendor: Option<CpuVendor>,
    /// CPUID leaf 1, EAX, where a machine check does not tell.
    pub cpuid: Option<u32>,
}

/// Decodes a kernel log line by line.
#[derive(Debug, Default)]
pub struct KernelLog {
    options: Options,
    /// Lines so far.
    number: u64,
    machine_checks: MachineChecks,
    amd: AmdText,
    apei: Apei,
    aer: Aer,
    failures: Failures,
    other: Other,
    /// What mcelog wrote between the kernel's lines.
    mcelog: Mcelog,
    /// What rasdaemon wrote there.
    rasdaemon: Rasdaemon,
    /// A line that was broken in two, as mail programs do, and waits for its other half.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Broken {
    text: Vec<u8>,
    offset: u64,
    stamp: Stamp,
    caller: Option<(u8, u32)>,
}

/// One line, without what its log put before it.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    /// The kernel's words.
    text: &'a [u8],
    offset: u64,
    /// Counted from 1.
    number: u64,
    stamp: Stamp,
    caller: Option<(u8, u32)>,
    /// The kernel marked it as a hardware error.
    marked: bool,
}

const MARK: &[u8] = b"[Hardware Error]:";

impl KernelLog {
    /// A decoder for a log about which `options` are known.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, mcelog: Mcelog::new(options), ..Self::default() }
    }

    /// Takes one line that something else than its text gives a time for, such as a journal:
    /// the date, and the nanoseconds since the kernel's start. Otherwise as [`LineDecoder::line`].
    pub fn line_at(
        &mut self,
        line: &[u8],
        offset: u64,
        time: Option<Timestamp>,
        monotonic_ns: Option<u64>,
        found: &mut Vec<Found>,
    ) {
        self.take(line, offset, Some(Stamp::known(time, monotonic_ns)), found);
    }

    fn take(&mut self, line: &[u8], offset: u64, known: Option<Stamp>, found: &mut Vec<Found>) {
        self.number = self.number.saturating_add(1);
        let prefix = prefix::parse(line.get(..LINE_MAX).unwrap_or(line), &self.options);
        if let Some(broken) = self.broken.take() {
            let mut text = broken.text;
            let joined = !prefix.any && !begins_anew(prefix.text);
            if joined {
                text.push(b' ');
                text.extend_from_slice(prefix.text);
            }
            let Broken { offset, stamp, caller, .. } = broken;
            self.whole(&mut self.line_of(&text, offset, stamp, caller), found);
            if joined {
                return;
            }
        }
        let stamp = known.unwrap_or(prefix.stamp);
        let untagged = !prefix.any && self.mcelog.is_open() && !begins_anew(prefix.text);
        let tagged = prefix.program == Some(b"mcelog");
        if tagged || untagged || mcelog::is_opening(prefix.text) {
            self.mcelog.text(prefix.text, stamp, offset, found);
            return;
        }
        let tagged = prefix.program == Some(b"rasdaemon");
        if tagged || !prefix.any && self.rasdaemon.may_take(prefix.text) {
            let (text, number) = (prefix.text, self.number);
            let line = rasdaemon::Line { text, offset, number, stamp, tagged };
            if self.rasdaemon.line(&line, &self.options, found) {
                return;
            }
        }
        if is_broken(prefix.text) {
            let text = prefix.text.to_vec();
            self.broken = Some(Broken { text, offset, stamp, caller: prefix.caller });
            return;
        }
        self.whole(&mut self.line_of(prefix.text, offset, stamp, prefix.caller), found);
    }

    #[inline]
    const fn line_of<'a>(
        &self,
        text: &'a [u8],
        offset: u64,
        stamp: Stamp,
        caller: Option<(u8, u32)>,
    ) -> Line<'a> {
        Line { text, offset, number: self.number, stamp, caller, marked: false }
    }

    #[inline]
    fn whole(&mut self, line: &mut Line<'_>, found: &mut Vec<Found>) {
        let (text, offset, number) = (line.text, line.offset, line.number);
        let before = found.len();
        if !self.dispatch(line, found) {
            if let Some(inner) = inner(text) {
                line.text = inner;
                self.dispatch(line, found);
            } else if let Some(record) = traced(text) {
                // Booted with `tp_printk`, the kernel prints its trace events too.
                found.push(Found::new(offset, record));
            }
        }
        self.machine_checks.expire(number, found);
        self.amd.expire(number, found);
        self.apei.expire(number, found);
        self.aer.expire(number, found);
        self.failures.expire(number, found);
        self.other.expire(number, found.len() > before, found);
        self.rasdaemon.expire(number, &self.options, found);
    }

    /// Whether somebody understood the line.
    fn dispatch(&mut self, line: &mut Line<'_>, found: &mut Vec<Found>) -> bool {
        let text = line.text.strip_prefix(b"mce: ").unwrap_or(line.text);
        if let Some(rest) = text.strip_prefix(MARK) {
            line.marked = true;
            line.text = rest.trim_ascii_start();
            return self.marked(line, found);
        }
        if let Some((sequence, rest)) = sequence(text)
            && let Some(rest) = rest.strip_prefix(MARK)
        {
            line.marked = true;
            line.text = rest.trim_ascii_start();
            return self.apei.line(line.text, Some(sequence), line, found)
                || self.marked(line, found);
        }
        match text {
            [b'E', b'D', b'A', b'C', b' ', rest @ ..] => {
                edac::line(rest, line, &self.options, &mut self.machine_checks, found)
            }
            [b'C' | b'B' | b'T' | b'R' | b'P', ..]
                if self.machine_checks.line(text, None, line, &self.options, found) =>
            {
                true
            }
            [b'B', b'E', b'R', b'T', b':', ..] => self.apei.bert(text, found),
            _ => {
                self.failures.line(text, line, found)
                    || self.other.line(text, line, found)
                    || self.aer.line(text, line, found)
            }
        }
    }

    /// A line marked as a hardware error.
    #[inline]
    fn marked(&mut self, line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        let text = line.text;
        self.machine_checks.line(text, None, line, &self.options, found)
            || self.amd.line(text, line, &self.options, found)
            || !Other::claims(text) && self.apei.line(text, None, line, found)
            || self.other.marked(text, line, found)
    }
}

impl LineDecoder for KernelLog {
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
        self.take(line, offset, None, found);
    }

    fn finish(&mut self, found: &mut Vec<Found>) {
        if let Some(Broken { text, offset, stamp, caller }) = self.broken.take() {
            self.whole(&mut self.line_of(&text, offset, stamp, caller), found);
        }
        self.machine_checks.finish(found);
        self.amd.finish(found);
        self.apei.finish(found);
        self.aer.finish(found);
        self.failures.finish(found);
        self.other.finish(found);
        self.mcelog.finish(found);
        self.rasdaemon.finish(&self.options, found);
    }
}

/// Whether a line that a log begins with it is the first half of one: nothing else ends so.
fn is_broken(text: &[u8]) -> bool {
    let Some(last) = text.last() else { return false };
    if !matches!(last, b')' | b':' | b'c') {
        return false;
    }
    let marked = bytes::find(text, MARK).is_some();
    let status = bytes::find(text, b"] CPU:").is_none() && bytes::find(text, b": CPU:").is_some();
    let ends = |end: &[u8]| text.ends_with(end);
    marked && (ends(b"Syndrome:") || ends(b"]:") || ends(b" Generic") || status && ends(b")"))
}

/// Whether a line has marks of its own, and so is not the second half of another.
fn begins_anew(text: &[u8]) -> bool {
    text.is_empty() || text.starts_with(b"mce: ") || text.starts_with(b"EDAC") || {
        bytes::find(text, MARK).is_some()
    }
}

/// The kernel's words in a line whose beginning nobody understands.
fn inner(text: &[u8]) -> Option<&[u8]> {
    const MARKS: &[&[u8]] = &[MARK, b"EDAC MC", b"Memory failure: 0x"];
    let at = MARKS.iter().find_map(|mark| bytes::find(text, mark)).filter(|at| *at > 0)?;
    // The sequence number of a firmware record belongs to its mark.
    let before = text.get(..at)?;
    let digits = before.strip_suffix(b"}").and_then(|before| {
        let number = before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let open = before.len().checked_sub(number + 1)?;
        (number > 0 && before.get(open) == Some(&b'{')).then_some(open)
    });
    text.get(digits.unwrap_or(at)..).filter(|inner| inner.len() < text.len())
}

/// A trace event's text.
fn traced(text: &[u8]) -> Option<ErrorRecord> {
    const EVENTS: &[&[u8]] = &[b"mce_record: ", b"_event: ", b"cxl_"];
    EVENTS.iter().find(|event| bytes::find(text, event).is_some())?;
    trace::text::decode(&String::from_utf8_lossy(text))
}

/// `{12}`, and what follows it.
fn sequence(text: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = decimal(text.strip_prefix(b"{")?)?;
    Some((number, rest.strip_prefix(b"}")?))
}

/// Text of several lines, bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct RawLines(String);

impl RawLines {
    /// Adds a line; whether there was room for it.
    fn push(&mut self, line: &[u8]) -> bool {
        if self.0.len().saturating_add(line.len()) > RAW_MAX {
            return false;
        }
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&bytes::text(line));
        true
    }

    fn raw(self) -> Raw {
        Raw::Text(self.0)
    }
}

#[cfg(test)]
mod tests;
