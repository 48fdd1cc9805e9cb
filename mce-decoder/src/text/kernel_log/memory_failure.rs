//! What the kernel did about pages with lost or failing data.
//!
//! ```text
//!  Memory failure: 0x12345: Sending SIGBUS to qemu:1234 due to hardware memory corruption
//!  Memory failure: 0x12345: recovery action for dirty LRU page: Recovered
//! ```
//! Linux `mm/memory-failure.c`, `drivers/ras/cec.c`, `arch/x86/kernel/cpu/mce/core.c`,
//! `arch/x86/mm/fault.c`. What is said of one page on the way is kept in the record of its outcome.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, PAGE_SHIFT, Pfn,
    PhysAddr, Problem, ProblemKind, Severity, Value,
};

use super::{Line, RawLines, Stamp};
use crate::text::Found;
use crate::text::bytes::{self, hex, number, rsplit, split};
use crate::trace::memory_failure::{self, MemoryFailure};

/// Pages whose outcome is awaited at once.
const OPEN_MAX: usize = 32;

/// Lines after which a page's outcome is no longer awaited.
const PATIENCE: u64 = 64;

/// Words kept of one page: a process more or less each.
const SAID_MAX: usize = 16;

/// Pages the kernel is working on.
#[derive(Debug, Default)]
pub(super) struct Failures {
    open: Vec<Page>,
}

#[derive(Debug)]
struct Page {
    pfn: u64,
    offset: u64,
    stamp: Stamp,
    said: Vec<String>,
    lines: RawLines,
    /// Of its last line.
    last: u64,
}

impl Failures {
    /// Whether the line is about a page.
    pub(super) fn line(&mut self, text: &[u8], line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        match failure(text) {
            Some((pfn, said)) => {
                self.page(pfn, said, line, found);
                true
            }
            None => {
                let record = single(text);
                let known = record.is_some();
                found.extend(record.map(|record| complete(record, line)));
                known
            }
        }
    }

    fn page(&mut self, pfn: u64, said: &[u8], line: &Line<'_>, found: &mut Vec<Found>) {
        let at = self.open.iter().position(|page| page.pfn == pfn);
        let mut page = match at {
            Some(at) => self.open.remove(at),
            None => Page {
                pfn,
                offset: line.offset,
                stamp: line.stamp,
                said: Vec::new(),
                lines: RawLines::default(),
                last: 0,
            },
        };
        page.lines.push(line.text);
        page.last = line.number;
        if let Some((page_type, result)) = outcome(said) {
            found.push(page.finish(Some((page_type, result))));
            return;
        }
        if page.said.len() < SAID_MAX {
            page.said.push(bytes::text(said));
        }
        if self.open.len() >= OPEN_MAX {
            let oldest = self.open.remove(0);
            found.push(oldest.finish(None));
        }
        self.open.push(page);
    }

    pub(super) fn expire(&mut self, now: u64, found: &mut Vec<Found>) {
        let stale = |page: &Page| now.saturating_sub(page.last) > PATIENCE;
        while let Some(at) = self.open.iter().position(stale) {
            found.push(self.open.remove(at).finish(None));
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        found.extend(self.open.drain(..).map(|page| page.finish(None)));
    }
}

/// Page frame and what is said of it: `Memory failure: 0x12345: ...`, `MCE 0x12345: ...` before
/// Linux 4.13.
fn failure(text: &[u8]) -> Option<(u64, &[u8])> {
    let rest = text
        .strip_prefix(b"Memory failure: ")
        .or_else(|| text.strip_prefix(b"MCE "))
        .filter(|rest| rest.starts_with(b"0x"))?;
    let (pfn, rest) = hex(rest)?;
    Some((pfn, rest.strip_prefix(b":")?.trim_ascii_start()))
}

/// `recovery action for dirty LRU page: Recovered`, `dirty LRU page recovery: Recovered`.
fn outcome(said: &[u8]) -> Option<(String, String)> {
    let (page_type, result) = match said.strip_prefix(b"recovery action for ") {
        Some(rest) => rsplit(rest, b": ")?,
        None => split(said, b" recovery: ")?,
    };
    Some((bytes::text(page_type), bytes::text(result)))
}

impl Page {
    fn finish(self, outcome: Option<(String, String)>) -> Found {
        let pfn = Pfn(self.pfn);
        let awaited = outcome.is_none();
        let (page_type, result) = outcome.unwrap_or_default();
        let mut record =
            memory_failure::record(MemoryFailure { pfn, page_type, result }, self.offset);
        if awaited {
            record.details.clear();
            let said = self.said.first().map_or("", String::as_str);
            record.summary = format!("kernel handles lost page {pfn}: {said}");
            // A page that was lost before says nothing of another error.
            let again = ["already hardware poisoned", "already poisoned"];
            if !again.iter().any(|again| said.contains(again)) {
                record.problems.push(Problem {
                    offset: self.offset,
                    kind: ProblemKind::Truncated,
                    detail: "what became of the page is not there".into(),
                });
            }
        }
        record.time = self.stamp.time;
        self.stamp.add_to(&mut record.details);
        if !self.said.is_empty() {
            let said = self.said.into_iter().map(Value::from).collect();
            record.details.add("kernel_says", Value::List(said));
        }
        record.raw = self.lines.raw();
        Found::new(self.offset, record)
    }
}

/// A page or an address, with what is said about it.
struct Known {
    /// What the line begins with, up to the number.
    starts: &'static str,
    severity: Severity,
    /// Why the severity is what it is.
    reason: &'static str,
    summary: &'static str,
    /// The number counts pages.
    page: bool,
}

const SOFT: &str = "the page still works: the kernel takes it out of use ahead of time";
const NOT_LOST: &str = "it is a request, not an error";

const KNOWN: &[Known] = &[
    known("soft offline: ", Severity::Corrected, SOFT, "kernel takes page out of use", true),
    known("soft_offline: ", Severity::Corrected, SOFT, "kernel takes page out of use", true),
    known("Soft offlining pfn ", Severity::Corrected, SOFT, "kernel takes page out of use", true),
    known("Soft offlining page ", Severity::Corrected, SOFT, "kernel takes page out of use", true),
    known(
        "RAS: Soft-offlining pfn: ",
        Severity::Corrected,
        "corrected errors of the page have reached the kernel's threshold",
        "kernel takes page with many corrected errors out of use",
        true,
    ),
    known(
        "Injecting memory failure for pfn ",
        Severity::Informational,
        NOT_LOST,
        "somebody injects a memory failure into page",
        true,
    ),
    known(
        "Injecting memory failure for page ",
        Severity::Informational,
        NOT_LOST,
        "somebody injects a memory failure into page",
        true,
    ),
    known(
        "Injecting memory failure at pfn ",
        Severity::Informational,
        NOT_LOST,
        "somebody injects a memory failure into page",
        true,
    ),
    known(
        "Unpoison: ",
        Severity::Informational,
        NOT_LOST,
        "somebody puts a lost page back into use",
        true,
    ),
    known(
        "Uncorrected hardware memory error in user-access at ",
        Severity::Srar,
        "a process read the lost data",
        "process read lost memory",
        false,
    ),
    known(
        "Kernel accessed poison in user space at ",
        Severity::Srar,
        "the kernel read the lost data on behalf of a process",
        "kernel read a process's lost memory",
        false,
    ),
    known(
        "Uncorrected memory error in page ",
        Severity::Srao,
        "the kernel was built without a way to handle it",
        "kernel left lost page in use",
        true,
    ),
];

const fn known(
    starts: &'static str,
    severity: Severity,
    reason: &'static str,
    summary: &'static str,
    page: bool,
) -> Known {
    Known { starts, severity, reason, summary, page }
}

fn single(text: &[u8]) -> Option<ErrorRecord> {
    if let Some(record) = killed(text) {
        return Some(record);
    }
    let (known, rest) = KNOWN
        .iter()
        .find_map(|known| text.strip_prefix(known.starts.as_bytes()).map(|rest| (known, rest)))?;
    let (value, rest) = hex(rest)?;
    let mut record = ErrorRecord {
        class: ErrorClass::Memory,
        severity: known.severity,
        severity_reason: known.reason.into(),
        ..ErrorRecord::new(ErrorSource::MemoryFailure)
    };
    let addr = if known.page { value.checked_shl(PAGE_SHIFT) } else { Some(value) };
    let addr = addr.filter(|addr| *addr >> 52 == 0 && (!known.page || addr >> PAGE_SHIFT == value));
    let shown = match (addr, known.page) {
        (Some(addr), page) => {
            let lsb: u8 = if page { 12 } else { 0 };
            let mode = AddressMode::Physical;
            record.address = Some(ErrorAddress { addr: PhysAddr(addr), lsb, mode });
            if page { Pfn(value).to_string() } else { PhysAddr(value).to_string() }
        }
        (None, _) => {
            // Bits above the address, such as a key's of encrypted memory, are kept as they are.
            record.details.add_hex("address", value);
            format!("{value:#x}")
        }
    };
    record.summary = format!("{} {shown}", known.summary);
    let said = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii();
    if !said.is_empty() {
        record.details.add("kernel_says", bytes::text(said));
    }
    Some(record)
}

/// `MCE: Killing qemu:1234 due to hardware memory corruption fault at 7f12345000`.
fn killed(text: &[u8]) -> Option<ErrorRecord> {
    let rest = text.strip_prefix(b"MCE: Killing ")?;
    let (process, rest) = split(rest, b" due to hardware memory corruption")?;
    let (name, pid) = rsplit(process, b":")?;
    let mut record = ErrorRecord {
        class: ErrorClass::Memory,
        severity: Severity::Srar,
        severity_reason: "a process read the lost data".into(),
        summary: format!("process {} was killed: it read lost memory", bytes::text(process)),
        ..ErrorRecord::new(ErrorSource::MemoryFailure)
    };
    record.details.add("process", bytes::text(name));
    record.details.add_some("pid", number(pid).map(|(pid, _)| pid));
    let at = split(rest, b"fault at ").and_then(|(_, at)| hex(at));
    if let Some((at, _)) = at {
        // The process's own address: it names no memory.
        record.details.add_hex("virtual_address", at);
    }
    Some(record)
}

fn complete(mut record: ErrorRecord, line: &Line<'_>) -> Found {
    let mut lines = RawLines::default();
    lines.push(line.text);
    record.raw = lines.raw();
    record.time = line.stamp.time;
    line.stamp.add_to(&mut record.details);
    Found::new(line.offset, record)
}
