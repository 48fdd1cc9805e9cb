//! EDAC's lines: what a driver of the memory controller (or of another part) saw.
//!
//! ```text
//!  EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0 (channel:1 slot:0
//!      page:0x12345 offset:0x40 grain:32 syndrome:0x0 -  err_code:0x0001:0x0091 ...)
//! ```
//! Linux `drivers/edac/edac_mc.c`, `edac_device.c`, `edac_pci.c` and the drivers beside them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{Details, ErrorClass, ErrorRecord, ErrorSource, PAGE_SHIFT, Severity, Value};

use super::machine_check::MachineChecks;
use super::{Line, Options, RawLines};
use crate::text::bytes::{self, decimal, find, hex, narrow, number, rsplit, split, word};
use crate::text::{Found, edac_detail};
use crate::trace::mc_event::McEvent;

/// `HW_EVENT_ERR_CORRECTED` and `HW_EVENT_ERR_UNCORRECTED`: the only two that a line tells apart.
const CORRECTED: u64 = 0;
const UNCORRECTED: u64 = 1;

/// Whether `text`, which follows `EDAC `, is an error.
pub(super) fn line(
    text: &[u8],
    line: &Line<'_>,
    options: &Options,
    checks: &mut MachineChecks,
    found: &mut Vec<Found>,
) -> bool {
    // `MC0: `, or a driver's name before it: `skx MC0: `.
    let (first, rest) = word(text);
    let (controller, driver, rest) = match controller(first) {
        Some(mc) => (Some(mc), None, rest),
        None => {
            let (second, after) = word(rest);
            match controller(second) {
                Some(mc) => (Some(mc), Some(first), after),
                None => (None, Some(first), rest),
            }
        }
    };
    if let Some(mc) = controller {
        if checks.line(rest, Some(mc), line, options, found) {
            return true;
        }
        let record = modern(rest, mc).or_else(|| old(rest, mc)).or_else(|| without(rest, mc));
        let known = record.is_some();
        found.extend(record.map(|mut record| {
            if let Some(driver) = driver {
                record.details.add("driver", bytes::text(driver));
            }
            complete(record, line)
        }));
        return known;
    }
    let record = device(text).or_else(|| pci(text));
    let known = record.is_some();
    found.extend(record.map(|record| complete(record, line)));
    known
}

/// `MC12:`.
fn controller(word: &[u8]) -> Option<u32> {
    let (number, rest) = decimal(word.strip_prefix(b"MC")?)?;
    (rest == b":").then(|| narrow(number))?
}

fn kind(text: &[u8]) -> Option<(u64, &[u8])> {
    match text.split_at_checked(2)? {
        (b"CE", rest) => Some((CORRECTED, rest)),
        (b"UE", rest) => Some((UNCORRECTED, rest)),
        _ => None,
    }
}

/// `1 CE memory read error on LABEL (channel:1 slot:0 page:0x1 offset:0x0 grain:32 - …)`, since
/// Linux 3.5.
fn modern(text: &[u8], mc: u32) -> Option<ErrorRecord> {
    let (count, rest) = decimal(text)?;
    let (error_type, rest) = kind(rest.strip_prefix(b" ")?)?;
    // The parenthesis that holds the page: labels and messages may have others.
    let page = find(rest, b"page:0x").unwrap_or(rest.len());
    let before = rest.get(..page)?;
    let open = before.iter().rposition(|byte| *byte == b'(')?;
    let (said, inside) = (rest.get(..open)?, rest.get(open + 1..)?);
    let inside = inside.trim_ascii_end().strip_suffix(b")").unwrap_or(inside);
    let (message, label) = match rsplit(said, b" on ") {
        Some((message, label)) => (message, label),
        None => (&b""[..], said.trim_ascii().strip_prefix(b"on ").unwrap_or(said)),
    };
    let (fixed, detail) = split(inside, b" - ").unwrap_or((inside, b""));
    // Words between the pairs: SMBIOS's name of the place.
    let smbios = split(fixed, b"DIMM location:").and_then(|(before, rest)| {
        let at = find(rest, b"page:0x")?;
        Some((before, rest.get(..at)?, rest.get(at..)?))
    });
    let (before, dimm_location, fixed) = smbios.unwrap_or((b"", b"", fixed));
    let grouped = find(before, b"bank_group:").is_some();
    let mut event = McEvent {
        error_type,
        count: narrow(count).unwrap_or(u32::MAX),
        message: bytes::text(message),
        label: bytes::text(label),
        mc_index: narrow(mc.into()).unwrap_or(u16::MAX),
        layers: [-1; 3],
        driver_detail: bytes::text(detail),
        ..McEvent::default()
    };
    let mut place = String::new();
    let mut layers = event.layers.iter_mut();
    let (mut page, mut offset) = (0, 0);
    for (key, value) in pairs(before).chain(pairs(fixed)) {
        match key {
            // The same bits as bank group and address, which say more.
            b"bank" if grouped => {}
            b"page" => page = hex(value).map_or(0, |(page, _)| page),
            b"offset" => offset = hex(value).map_or(0, |(offset, _)| offset),
            b"grain" => event.grain_bits = grain_bits(value),
            b"syndrome" => event.syndrome = hex(value).map_or(0, |(syndrome, _)| syndrome),
            _ => {
                let layer = decimal(value).and_then(|(layer, _)| i64::try_from(layer).ok());
                if let (Some(layer), Some(to)) = (layer, layers.next()) {
                    *to = layer;
                }
                place.push_str(&format!("{}:{} ", bytes::text(key), bytes::text(value)));
            }
        }
    }
    event.address = address(page, offset);
    let mut record: ErrorRecord = event.into();
    edac_detail::take(&place, &mut record);
    if !dimm_location.is_empty() {
        record.details.add("dimm_location", bytes::text(dimm_location));
    }
    Some(record)
}

/// `key:value` pairs; a space may stand before the value.
fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (key, after) = split(rest, b":")?;
        let (value, next) = word(after);
        rest = next;
        Some((key.rsplit(u8::is_ascii_whitespace).next().unwrap_or_default(), value))
    })
}

/// Address of a byte in a page. Drivers without one give page 0.
fn address(page: u64, offset: u64) -> u64 {
    page.checked_mul(1 << PAGE_SHIFT).and_then(|page| page.checked_add(offset)).unwrap_or(0)
}

/// log2 of the bytes an address is good for, rounded up as the kernel does for its trace event.
fn grain_bits(text: &[u8]) -> u8 {
    let grain = decimal(text).map_or(1, |(grain, _)| grain);
    let bits = u64::BITS - grain.saturating_sub(1).leading_zeros();
    bits.to_le_bytes()[0]
}

/// `CE page 0xf075b2, offset 0x410, grain 0, syndrome 0xa082, row 6, channel 0, label "": driver` and
/// `CE row 0, channel 0, label "…": 1 errors: …`, before Linux 3.5.
fn old(text: &[u8], mc: u32) -> Option<ErrorRecord> {
    let (error_type, rest) = kind(text)?;
    let rest = rest.trim_ascii_start();
    if !rest.starts_with(b"page ") && !rest.starts_with(b"row ") {
        return None;
    }
    let (fields, said) = match split(rest, b"\": ") {
        Some((fields, said)) => (fields, said),
        None => (rest, &b""[..]),
    };
    let value = |key: &[u8]| {
        let at = find(fields, key)?.checked_add(key.len())?;
        let rest = fields.get(at..)?.trim_ascii_start();
        number(rest).map(|(value, _)| value)
    };
    let label = split(fields, b"label").and_then(|(_, label)| split(label, b"\""));
    let row = value(b"row ");
    let mut event = McEvent {
        error_type,
        count: 1,
        label: label.map(|(_, label)| bytes::text(label)).unwrap_or_default(),
        mc_index: narrow(mc.into()).unwrap_or(u16::MAX),
        layers: [-1; 3],
        address: address(value(b"page ").unwrap_or(0), value(b"offset ").unwrap_or(0)),
        // A driver without a granularity gives 0: the page is what it knows.
        grain_bits: value(b"grain ")
            .filter(|grain| *grain > 0)
            .map_or(0, |grain| (u64::BITS - (grain - 1).leading_zeros()).to_le_bytes()[0]),
        syndrome: value(b"syndrome ").unwrap_or(0),
        ..McEvent::default()
    };
    let channel = value(b"channel ").or_else(|| value(b"channel-a="));
    let layer =
        |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1);
    event.layers = [layer(row), layer(channel), -1];
    // `1 Unknown error(s): …`; otherwise the driver's name.
    let counted = decimal(said).filter(|(_, rest)| rest.starts_with(b" "));
    let driver = match counted {
        Some((count, rest)) => {
            event.count = narrow(count).unwrap_or(u32::MAX);
            let rest = rest.trim_ascii();
            event.message = bytes::text(rest.strip_suffix(b",").unwrap_or(rest));
            None
        }
        None => Some(bytes::text(said)).filter(|driver| !driver.is_empty()),
    };
    let mut record: ErrorRecord = event.into();
    record.location.channel = channel.and_then(narrow);
    record.details.add_some("csrow", row);
    // Intel's drivers of that time: `… : cpu=0 Err=0000:009f (ch=15)`, MSCOD and MCACOD.
    let after = |key: &[u8]| split(said, key).map(|(_, value)| value);
    record.location.cpu = after(b" cpu=").and_then(decimal).and_then(|(cpu, _)| narrow(cpu));
    record.details.add_some("err_code", after(b" Err=").map(|code| bytes::text(word(code).0)));
    record.details.add_some("ch", after(b"(ch=").and_then(decimal).map(|(ch, _)| ch));
    record.details.add_some("channel_b", value(b"channel-b="));
    record.details.add_some("driver", driver);
    Some(record)
}

/// `CE - no information available: amd64_edac`.
fn without(text: &[u8], mc: u32) -> Option<ErrorRecord> {
    let (error_type, rest) = kind(text)?;
    let rest = rest.trim_ascii_start();
    let rest = rest
        .strip_prefix(b"- no information available")
        .or_else(|| rest.strip_prefix(b"no information available"))?;
    let mut record: ErrorRecord = McEvent {
        error_type,
        count: 1,
        mc_index: narrow(mc.into()).unwrap_or(u16::MAX),
        layers: [-1; 3],
        ..McEvent::default()
    }
    .into();
    let said = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii();
    if !said.is_empty() {
        record.details.add("driver", bytes::text(said));
    }
    Some(record)
}

/// `DEVICE0: CE: xgene instance: l3c0 block: l3c0 count: 1 'l3c0 error'`.
fn device(text: &[u8]) -> Option<ErrorRecord> {
    let (device, rest) = decimal(text.strip_prefix(b"DEVICE")?)?;
    let (error_type, rest) = kind(rest.strip_prefix(b": ")?)?;
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    let (severity, reason) = if error_type == CORRECTED {
        (Severity::Corrected, "EDAC reports it as corrected")
    } else {
        (Severity::Srao, "EDAC reports it as uncorrected, but not whether it was consumed")
    };
    let said = split(rest, b"'").map(|(_, said)| said.strip_suffix(b"'").unwrap_or(said));
    let count = split(rest, b"count: ").and_then(|(_, count)| decimal(count));
    let mut record = ErrorRecord {
        severity,
        severity_reason: reason.into(),
        count: count.and_then(|(count, _)| narrow::<u32>(count)).unwrap_or(1).max(1),
        summary: format!("error in EDAC device {device}: {}", bytes::text(said.unwrap_or(rest))),
        ..ErrorRecord::new(ErrorSource::KernelEdac)
    };
    record.details.add("device", device);
    for key in ["instance", "block"] {
        let value = split(rest, format!("{key}: ").as_bytes()).map(|(_, value)| word(value).0);
        record.details.add_some(key, value.map(bytes::text));
    }
    Some(record)
}

/// `PCI: Bridge Signaled System Error on 0000:00:1f.0`, `PCI: Master Data Parity Error on …`, and what
/// drivers report as `PCI0: …`. Linux `drivers/edac/edac_pci_sysfs.c`.
fn pci(text: &[u8]) -> Option<ErrorRecord> {
    let rest = text.strip_prefix(b"PCI")?;
    let rest = decimal(rest).map_or(rest, |(_, rest)| rest);
    let said = rest.strip_prefix(b":")?.trim_ascii();
    find(said, b"rror")?;
    let address = rsplit(said, b" on ").and_then(|(_, address)| {
        crate::pci::address(core::str::from_utf8(address.trim_ascii()).ok()?)
    });
    // Parity and system errors are told as such; nothing says what was lost.
    let mut record = ErrorRecord {
        class: ErrorClass::Pcie,
        severity: Severity::Unknown,
        severity_reason: "EDAC does not say how bad errors on PCI are".into(),
        summary: format!("PCI: {}", bytes::text(said)),
        ..ErrorRecord::new(ErrorSource::KernelEdac)
    };
    record.location.pci = address;
    record.details.add("message", Value::from(bytes::text(said)));
    Some(record)
}

fn complete(mut record: ErrorRecord, line: &Line<'_>) -> Found {
    let mut lines = RawLines::default();
    lines.push(line.text);
    record.raw = lines.raw();
    record.source = ErrorSource::KernelEdac;
    record.time = line.stamp.time;
    line.stamp.add_to(&mut record.details);
    Found::new(line.offset, record)
}
