//! `ras:aer_event`: a PCI Express advanced error report. Linux `include/ras/ras_event.h`.

use alloc::format;
use alloc::string::String;

use ras_core::{Details, ErrorClass, ErrorRecord, ErrorSource, Severity, Value};

use super::{EventFormat, TraceError, little_endian};
use crate::pci;

/// The event's own fields, from a payload, a line of text or a database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AerEvent {
    /// The device, as Linux names it: `0000:3b:00.0`.
    pub device: String,
    /// The correctable or the uncorrectable error status register, by `severity`. `None` where only
    /// its names were recorded.
    pub status: Option<u32>,
    /// What was recorded in place of the register.
    pub status_text: String,
    /// 0 uncorrected and not fatal, 1 fatal, 2 corrected.
    pub severity: u8,
    /// The header of the packet that met the error.
    pub tlp_header: Option<[u32; 4]>,
}

/// Decodes one payload, the common fields included.
///
/// # Errors
/// [`TraceError`] where an essential field is missing or the payload ends before it.
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let valid = format.optional_integer(payload, "tlp_header_valid")?.unwrap_or(0) != 0;
    let header = format.bytes(payload, "tlp_header")?.filter(|_| valid).map(|bytes| {
        [0, 4, 8, 12].map(|at| {
            let word = little_endian(bytes, at, 4).unwrap_or(0);
            u32::try_from(word).unwrap_or(0)
        })
    });
    Ok(AerEvent {
        device: format.string(payload, "dev_name")?.unwrap_or_default(),
        status: u32::try_from(format.integer(payload, "status")?).ok(),
        status_text: String::new(),
        severity: format.integer(payload, "severity")?.to_le_bytes()[0],
        tlp_header: header,
    }
    .into())
}

impl From<AerEvent> for ErrorRecord {
    fn from(event: AerEvent) -> Self {
        let corrected = event.severity == 2;
        let (severity, reason) = match event.severity {
            0 => (pci::NON_FATAL.0, "AER: uncorrected, not fatal to the link"),
            1 => (Severity::Fatal, "AER: fatal to the link"),
            2 => (Severity::Corrected, "AER: corrected"),
            _ => (Severity::Unknown, "AER gives a severity that is not defined"),
        };
        let table = if corrected { pci::AER_CORRECTABLE } else { pci::AER_UNCORRECTABLE };
        let names = event
            .status
            .map_or_else(|| event.status_text.clone(), |status| pci::named(status, table));
        let mut record = Self {
            class: ErrorClass::Pcie,
            severity,
            severity_reason: format!("{reason} ({})", event.severity),
            ..Self::new(ErrorSource::AerEvent)
        };
        record.location.pci = pci::address(&event.device);
        let what = match severity {
            Severity::Corrected => "corrected",
            Severity::Fatal => "fatal",
            Severity::Ucna => "uncorrected, not fatal",
            _ => "severity unknown",
        };
        let names = if names.is_empty() { "error without a status bit" } else { &names };
        record.summary = format!("PCIe {}: {names}, {what}", event.device);
        let details = &mut record.details;
        details.add("device", event.device);
        match event.status {
            Some(status) => {
                details.add_hex("status", status);
                details.add("errors", Value::flags(status.into(), table));
            }
            None => details.add("errors", event.status_text),
        }
        details.add_some(
            "tlp_header",
            event.tlp_header.map(|words| {
                Value::List(words.into_iter().map(|word| Value::Hex(word.into())).collect())
            }),
        );
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_severity_chooses_the_register() {
        let event = |severity, status| {
            let device = "0000:3b:00.0".into();
            let event = AerEvent { device, status: Some(status), severity, ..AerEvent::default() };
            ErrorRecord::from(event)
        };
        let record = event(2, 1 << 6);
        assert_eq!(record.summary, "PCIe 0000:3b:00.0: bad TLP, corrected");
        assert_eq!(record.location.pci.map(|pci| pci.bus), Some(0x3b));
        assert_eq!(event(1, 1 << 18).summary, "PCIe 0000:3b:00.0: malformed TLP, fatal");
        assert_eq!(event(0, 1 << 12).severity, Severity::Ucna);
        assert_eq!(event(7, 0).severity, Severity::Unknown);
    }
}
