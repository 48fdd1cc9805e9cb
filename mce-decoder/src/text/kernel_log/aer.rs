//! PCI Express errors: advanced error reports (AER) and downstream port containment (DPC).
//!
//! ```text
//!  pcieport 0000:00:1c.0: AER: Corrected error message received from 0000:02:00.0
//!  nvme 0000:02:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)
//!  nvme 0000:02:00.0:   device [144d:a808] error status/mask=00000001/0000e000
//!  nvme 0000:02:00.0:    [ 0] RxErr                  (First)
//! ```
//! Linux `drivers/pci/pcie/aer.c` and `dpc.c`. Reports are told apart by their device.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    Details, ErrorClass, ErrorRecord, ErrorSource, PciAddress, Problem, ProblemKind, Severity,
};

use super::{Line, RawLines, Stamp};
use crate::text::Found;
use crate::text::bytes::{self, decimal, hex, narrow, split, whole_hex, word};
use crate::trace::aer_event::AerEvent;

/// Devices whose reports are open at once.
const OPEN_MAX: usize = 16;

/// Lines after which a report that got none is taken for complete. Nothing ends one.
const PATIENCE: u64 = 32;

/// As the kernel numbers them, and `aer_event` with it.
const NONFATAL: u8 = 0;
const FATAL: u8 = 1;
const CORRECTED: u8 = 2;

/// Reports that have begun.
#[derive(Debug, Default)]
pub(super) struct Aer {
    open: Vec<Report>,
    announced: Vec<Announced>,
}

/// What a root port says before its kernel has looked at the device.
#[derive(Debug)]
struct Announced {
    port: PciAddress,
    device: PciAddress,
    severity: u8,
    multiple: bool,
    offset: u64,
    stamp: Stamp,
    lines: RawLines,
    number: u64,
}

#[derive(Debug, Default)]
struct Report {
    device: PciDevice,
    driver: String,
    offset: u64,
    stamp: Stamp,
    severity: Option<u8>,
    layer: Option<String>,
    agent: Option<String>,
    ids: Option<(u64, u64)>,
    status: Option<(u64, u64)>,
    uncorrectable_severity: Option<u64>,
    first_error: Option<u64>,
    tlp_header: Option<[u32; 4]>,
    announced: Option<(PciAddress, bool)>,
    lines: RawLines,
    /// Of its last line.
    last: u64,
}

/// No address of its own: there is always one when a report begins.
type PciDevice = Option<PciAddress>;

impl Aer {
    /// Whether the line is of such a report: `driver device: …`.
    pub(super) fn line(&mut self, text: &[u8], line: &Line<'_>, found: &mut Vec<Found>) -> bool {
        let Some((driver, device, said)) = device(text) else { return false };
        if let Some(said) = said.strip_prefix(b"DPC: ") {
            return dpc(device, said, line).is_some_and(|record| {
                found.push(record);
                true
            });
        }
        let said = said.strip_prefix(b"AER: ").unwrap_or(said).trim_ascii_start();
        if let Some(announced) = announced(device, said, line) {
            if self.announced.len() >= OPEN_MAX {
                found.push(self.announced.remove(0).finish());
            }
            self.announced.push(announced);
            return true;
        }
        let begins = said.starts_with(b"PCIe Bus Error:") || said.starts_with(b"aer_status:");
        if begins {
            self.begin(driver, device, line, found);
        }
        let open = self.open.iter_mut().find(|report| report.device == Some(device));
        let ours = open.is_some_and(|report| report.line(said, begins, line));
        // The kernel's own words for a device that is not there any more, and nothing else.
        ours || said.starts_with(b"can't find device of ID")
            || said.starts_with(b"found no error details for")
    }

    fn begin(
        &mut self,
        driver: &[u8],
        device: PciAddress,
        line: &Line<'_>,
        found: &mut Vec<Found>,
    ) {
        let same = self.open.iter().position(|report| report.device == Some(device));
        let full = (self.open.len() >= OPEN_MAX).then_some(0);
        if let Some(at) = same.or(full) {
            found.push(self.open.remove(at).finish());
        }
        let mut report = Report {
            device: Some(device),
            driver: bytes::text(driver),
            offset: line.offset,
            stamp: line.stamp,
            ..Report::default()
        };
        let concerns = |announced: &Announced| announced.device == device;
        if let Some(at) = self.announced.iter().position(concerns) {
            let announced = self.announced.remove(at);
            report.announced = Some((announced.port, announced.multiple));
            (report.offset, report.stamp) = (announced.offset, announced.stamp);
            report.lines = announced.lines;
        }
        self.open.push(report);
    }

    pub(super) fn expire(&mut self, now: u64, found: &mut Vec<Found>) {
        let stale = |report: &Report| now.saturating_sub(report.last) > PATIENCE;
        while let Some(at) = self.open.iter().position(stale) {
            found.push(self.open.remove(at).finish());
        }
        let stale = |announced: &Announced| now.saturating_sub(announced.number) > PATIENCE;
        while let Some(at) = self.announced.iter().position(stale) {
            found.push(self.announced.remove(at).finish());
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        found.extend(self.open.drain(..).map(Report::finish));
        found.extend(self.announced.drain(..).map(Announced::finish));
    }
}

/// Driver, device, and what is said of it. A device without a driver has no word before it.
fn device(text: &[u8]) -> Option<(&[u8], PciAddress, &[u8])> {
    let (first, rest) = word(text);
    if let Some(address) = address(first) {
        return Some((b"", address, rest));
    }
    let (second, rest) = word(rest);
    Some((first, address(second)?, rest))
}

/// `0000:02:00.0:`.
fn address(word: &[u8]) -> Option<PciAddress> {
    let word = word.strip_suffix(b":").filter(|word| word.len() >= 7)?;
    crate::pci::address(core::str::from_utf8(word).ok()?)
}

/// `Corrected`, `Uncorrected (Non-Fatal)`, `Uncorrectable (Fatal)`: Linux has changed the words.
fn severity(name: &[u8]) -> Option<u8> {
    let name = name.trim_ascii();
    if name.starts_with(b"Correct") {
        Some(CORRECTED)
    } else if name.ends_with(b"(Fatal)") || name == b"Fatal" {
        Some(FATAL)
    } else if name.ends_with(b"(Non-Fatal)") || name.ends_with(b"Non-Fatal") {
        Some(NONFATAL)
    } else {
        None
    }
}

/// `Multiple Corrected error message received from 0000:02:00.0`, `Corrected error received:
/// 0000:02:00.0`, `Corrected error received: id=00e0`.
fn announced(port: PciAddress, said: &[u8], line: &Line<'_>) -> Option<Announced> {
    let many = said.strip_prefix(b"Multiple ");
    let (name, rest) = split(many.unwrap_or(said), b" error ")?;
    let rest = rest
        .strip_prefix(b"message received from ")
        .or_else(|| rest.strip_prefix(b"received: "))?
        .trim_ascii();
    let device = match rest.strip_prefix(b"id=") {
        Some(id) => {
            let id: u16 = narrow(hex(id)?.0)?;
            let [low, bus] = id.to_le_bytes();
            PciAddress { segment: port.segment, bus, device: low >> 3, function: low & 7 }
        }
        None => crate::pci::address(core::str::from_utf8(word(rest).0).ok()?)?,
    };
    let mut lines = RawLines::default();
    lines.push(line.text);
    Some(Announced {
        port,
        device,
        severity: severity(name)?,
        multiple: many.is_some(),
        offset: line.offset,
        stamp: line.stamp,
        lines,
        number: line.number,
    })
}

impl Report {
    /// Whether the line is of this report; the one that begins it is, even where it is cut.
    fn line(&mut self, said: &[u8], begins: bool, line: &Line<'_>) -> bool {
        let ours = self.take(said).is_some() || begins;
        if ours {
            self.lines.push(line.text);
            self.last = line.number;
        }
        ours
    }

    /// Takes one line; `None` where it is none of a report.
    fn take(&mut self, said: &[u8]) -> Option<()> {
        if let Some(rest) = said.strip_prefix(b"PCIe Bus Error: severity=") {
            let (name, rest) = split(rest, b", type=")?;
            self.severity = severity(name);
            let (layer, agent) = split(rest, b", ").unwrap_or((rest, b""));
            self.layer = Some(bytes::text(layer));
            let agent = split(agent, b"(").map_or(agent, |(_, agent)| agent);
            let agent = agent.strip_suffix(b")").unwrap_or(agent);
            self.agent = Some(bytes::text(agent)).filter(|agent| !agent.is_empty());
        } else if let Some(rest) = said.strip_prefix(b"device [") {
            let (vendor, rest) = hex(rest)?;
            let (device, rest) = hex(rest.strip_prefix(b":")?)?;
            self.ids = Some((vendor, device));
            let (status, mask) = split(split(rest, b"status/mask=")?.1, b"/")?;
            self.status = Some((whole_hex(status)?, whole_hex(mask)?));
        } else if let Some(rest) = said.strip_prefix(b"aer_status: ") {
            let (status, mask) = split(rest, b", aer_mask: ")?;
            self.status = Some((whole_hex(status)?, whole_hex(mask)?));
        } else if let Some(rest) = said.strip_prefix(b"aer_uncor_severity: ") {
            self.uncorrectable_severity = Some(whole_hex(rest)?);
        } else if let Some(rest) = said.strip_prefix(b"aer_layer=") {
            let (layer, agent) = split(rest, b", aer_agent=")?;
            self.layer = Some(bytes::text(layer));
            self.agent = Some(bytes::text(agent));
        } else if let Some(rest) = said.strip_prefix(b"TLP Header:") {
            let mut words = rest.split(|byte| *byte == b' ').filter_map(whole_hex);
            let mut next = || words.next().and_then(narrow::<u32>);
            self.tlp_header = Some([next()?, next()?, next()?, next()?]);
        } else if let Some(rest) = said.strip_prefix(b"[") {
            let (bit, rest) = decimal(rest.trim_ascii_start())?;
            let rest = rest.strip_prefix(b"]")?;
            if rest.ends_with(b"(First)") {
                self.first_error = Some(bit);
            }
        } else if !said.starts_with(b"Error of this Agent") {
            return None;
        }
        Some(())
    }

    fn finish(self) -> Found {
        // Firmware's reports, which the kernel prints without a severity, have this register where
        // the error is uncorrected.
        let graded = self.severity.or_else(|| {
            let status = self.status?.0;
            Some(match self.uncorrectable_severity {
                None => CORRECTED,
                Some(fatal) if fatal & status != 0 => FATAL,
                Some(_) => NONFATAL,
            })
        });
        let masked = self.status.map(|(status, mask)| match status & !mask {
            0 => status,
            shown => shown,
        });
        let device = self.device.map(|device| format!("{device}")).unwrap_or_default();
        let mut record: ErrorRecord = AerEvent {
            device,
            status: masked.and_then(narrow),
            status_text: String::new(),
            severity: graded.unwrap_or(u8::MAX),
            tlp_header: self.tlp_header,
        }
        .into();
        record.source = ErrorSource::KernelAer;
        record.time = self.stamp.time;
        let details = &mut record.details;
        if let Some((status, mask)) = self.status {
            details.add_hex("status_register", status);
            details.add_hex("mask_register", mask);
        } else {
            record.problems.push(Problem {
                offset: self.offset,
                kind: ProblemKind::Truncated,
                detail: "the line with the status register is missing".into(),
            });
        }
        if let Some(bits) = self.uncorrectable_severity {
            details.add_hex("uncorrectable_severity", bits);
        }
        details.add_some("layer", self.layer);
        details.add_some("agent", self.agent);
        details.add_some("first_error", self.first_error);
        if let Some((vendor, device)) = self.ids {
            details.add_hex("vendor_id", vendor);
            details.add_hex("device_id", device);
        }
        if !self.driver.is_empty() {
            details.add("driver", self.driver);
        }
        if let Some((port, multiple)) = self.announced {
            details.add("reported_by", format!("{port}"));
            details.add("multiple", multiple);
        }
        self.stamp.add_to(details);
        record.raw = self.lines.raw();
        Found::new(self.offset, record)
    }
}

impl Announced {
    /// Nothing followed: the kernel found no error at the device, or its lines are lost.
    fn finish(self) -> Found {
        let mut record: ErrorRecord = AerEvent {
            device: format!("{}", self.device),
            severity: self.severity,
            ..AerEvent::default()
        }
        .into();
        record.source = ErrorSource::KernelAer;
        record.time = self.stamp.time;
        record.details.add("reported_by", format!("{}", self.port));
        record.details.add("multiple", self.multiple);
        self.stamp.add_to(&mut record.details);
        record.raw = self.lines.raw();
        record.problems.push(Problem {
            offset: self.offset,
            kind: ProblemKind::Truncated,
            detail: "a root port was told of an error, and nothing more is there".into(),
        });
        Found::new(self.offset, record)
    }
}

/// What set a containment off. PCI Express Base Specification, "DPC Status Register", bits 2:1.
const DPC_REASONS: &[(u64, &str)] = &[
    (0, "unmasked uncorrectable error"),
    (1, "ERR_NONFATAL received"),
    (2, "ERR_FATAL received"),
    (3, "extended reason"),
];

/// The same register's bits 6:5, where the reason is the extended one.
const DPC_EXTENDED: &[(u64, &str)] = &[(0, "RP PIO error"), (1, "software trigger")];

/// `containment event, status:0x1f05 source:0x0200`, `containment event, status:0x1f05, ERR_FATAL
/// received from 0000:02:00.0`.
fn dpc(port: PciAddress, said: &[u8], line: &Line<'_>) -> Option<Found> {
    let rest = said.strip_prefix(b"containment event, status:")?;
    let (status, rest) = hex(rest)?;
    let (reason, extended) = (status >> 1 & 3, status >> 5 & 3);
    let severity = match reason {
        2 => Severity::Fatal,
        3 => Severity::Unknown,
        _ => Severity::Ucna,
    };
    let name = match reason {
        3 => DPC_EXTENDED.iter().find(|(code, _)| *code == extended),
        _ => DPC_REASONS.iter().find(|(code, _)| *code == reason),
    };
    let name = name.map_or("undefined reason", |(_, name)| *name);
    let mut record = ErrorRecord {
        time: line.stamp.time,
        class: ErrorClass::Pcie,
        severity,
        severity_reason: format!("DPC: {name} (reason {reason})"),
        summary: format!("PCIe {port}: link cut off to contain an error: {name}"),
        ..ErrorRecord::new(ErrorSource::KernelAer)
    };
    record.location.pci = Some(port);
    let details = &mut record.details;
    details.add_hex("dpc_status", status);
    details.add("dpc_reason", ras_core::Value::code(reason, DPC_REASONS));
    if reason == 3 {
        details.add("dpc_extended_reason", ras_core::Value::code(extended, DPC_EXTENDED));
    }
    let source = split(rest, b"source:").and_then(|(_, source)| hex(source));
    if let Some((source, _)) = source {
        details.add_hex("dpc_source", source);
    }
    if let Some((_, from)) = split(rest, b"received from ") {
        details.add("dpc_source_device", bytes::text(from));
    }
    line.stamp.add_to(details);
    let mut lines = RawLines::default();
    lines.push(line.text);
    record.raw = lines.raw();
    Some(Found::new(line.offset, record))
}
