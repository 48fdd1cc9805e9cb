//! Blue Gene/L's reliability log: one event a line.
//!
//! ```text
//!  - 1131019038 2005.11.03 R27-M1-N8-C:J16-U11 2005-11-03-03.57.18.815377 R27-M1-N8-C:J16-U11
//!      RAS KERNEL INFO CE sym 30, at 0x1bd2b700, mask 0x04
//! ```
//! The machine is long gone; its log is still what researchers measure analysis by.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, PhysAddr, Raw,
    Severity, Timestamp,
};

use super::bytes::{self, decimal, find, hex, narrow, split, word};
use super::{Found, LineDecoder};

/// Decodes Blue Gene/L's log line by line.
#[derive(Debug, Default)]
pub struct BlueGene(());

impl LineDecoder for BlueGene {
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
        let line = line.get(..4096).unwrap_or(line);
        found.extend(decode(line).map(|record| Found::new(offset, record)));
    }

    fn finish(&mut self, _found: &mut Vec<Found>) {}
}

/// The record in one line; `None` where it is none of an error in hardware.
fn decode(line: &[u8]) -> Option<ErrorRecord> {
    let (label, rest) = word(line);
    let (epoch, rest) = word(rest);
    let (_date, rest) = word(rest);
    let (place, rest) = word(rest);
    let (_time, rest) = word(rest);
    let (_place, rest) = word(rest);
    let rest = rest.strip_prefix(b"RAS ")?;
    let (facility, rest) = word(rest);
    let (level, message) = word(rest);
    let (epoch, _) = decimal(epoch).filter(|(_, rest)| rest.is_empty())?;
    let mut record = ErrorRecord {
        time: Some(Timestamp::from_secs(epoch)),
        raw: Raw::Text(bytes::text(line)),
        ..ErrorRecord::new(ErrorSource::KernelLog)
    };
    read(message, &mut record)?;
    if level == b"FATAL" {
        record.severity = Severity::Fatal;
        record.severity_reason = "the log's severity is FATAL".into();
    }
    record.location.fru = Some(bytes::text(place).into());
    let details = &mut record.details;
    details.add("facility", bytes::text(facility));
    details.add("level", bytes::text(level));
    if label != b"-" {
        details.add("alert", bytes::text(label));
    }
    details.add("message", bytes::text(message));
    Some(record)
}

/// What the message says; `None` where it is not about hardware.
fn read(message: &[u8], record: &mut ErrorRecord) -> Option<()> {
    let after = |key: &[u8]| {
        let at = find(message, key)?.checked_add(key.len())?;
        message.get(at..)
    };
    let number = |key: &[u8]| after(key).and_then(decimal).map(|(value, _)| value);
    let corrected = |record: &mut ErrorRecord| {
        record.severity = Severity::Corrected;
        record.severity_reason = "the message says that it was corrected".into();
    };
    if message.starts_with(b"CE sym ") {
        record.class = ErrorClass::Memory;
        corrected(record);
        record.severity_reason = "the message calls it a correctable error (CE)".into();
        record.details.add_some("symbol", number(b"CE sym "));
        let address = after(b"at ").and_then(hex).map(|(address, _)| address);
        let mode = AddressMode::Physical;
        record.address = address.map(|addr| ErrorAddress { addr: PhysAddr(addr), lsb: 0, mode });
        if let Some((mask, _)) = after(b"mask ").and_then(hex) {
            record.details.add_hex("mask", mask);
        }
        let at = address.map_or_else(Default::default, |at| format!(", at {at:#x}"));
        record.summary = format!("memory error, corrected{at}");
    } else if let Some((count, total)) = ddr(message) {
        record.class = ErrorClass::Memory;
        corrected(record);
        record.count = narrow::<u32>(count).unwrap_or(u32::MAX).max(1);
        record.location.dimm.rank = number(b"on rank ").and_then(narrow);
        record.details.add_some("symbol", number(b"symbol "));
        record.details.add_some("bit", number(b"bit "));
        record.details.add_some("seconds", number(b"over "));
        record.details.add("total", total);
        record.summary = if total {
            format!("{count} memory errors in all, corrected")
        } else {
            format!("{count} memory errors, corrected")
        };
    } else if message.ends_with(b"cache parity error corrected") {
        record.class = ErrorClass::Cache;
        corrected(record);
        record.summary = bytes::text(message);
    } else if message.ends_with(b"TLB error interrupt") {
        record.class = ErrorClass::Tlb;
        record.severity_reason = "the message does not say how bad it is".into();
        record.summary = bytes::text(message);
    } else {
        return None;
    }
    Some(())
}

/// `5 ddr error(s) detected and corrected on rank 0, symbol 28`, `total of 20 ddr error(s) …`: how
/// many, and whether they are a sum of others.
fn ddr(message: &[u8]) -> Option<(u64, bool)> {
    let total = message.strip_prefix(b"total of ");
    let (count, rest) = decimal(total.unwrap_or(message))?;
    let (_, rest) = split(rest, b" ddr error")?;
    find(rest, b"detected and corrected").map(|_| (count, total.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(level: &str, message: &str) -> alloc::string::String {
        format!(
            "- 1131019038 2005.11.03 R27-M1-N8-C:J16-U11 2005-11-03-03.57.18.815377 \
             R27-M1-N8-C:J16-U11 RAS KERNEL {level} {message}"
        )
    }

    #[test]
    fn events_of_every_kind() {
        let read = |level: &str, message: &str| decode(line(level, message).as_bytes());
        let record = read("INFO", "CE sym 30, at 0x1bd2b700, mask 0x04").unwrap();
        assert_eq!(record.address.map(|at| at.addr.0), Some(0x1bd2_b700));
        assert_eq!(record.location.fru.as_deref(), Some("R27-M1-N8-C:J16-U11"));
        assert_eq!((record.severity, record.class), (Severity::Corrected, ErrorClass::Memory));
        let message =
            "5 ddr error(s) detected and corrected on rank 0, symbol 28 over 2946 seconds";
        let record = read("INFO", message).unwrap();
        assert_eq!((record.count, record.location.dimm.rank), (5, Some(0)));
        let record = read("INFO", "total of 20 ddr error(s) detected and corrected").unwrap();
        assert_eq!(record.count, 20);
        let record = read("INFO", "instruction cache parity error corrected").unwrap();
        assert_eq!(record.class, ErrorClass::Cache);
        let record = read("FATAL", "data TLB error interrupt").unwrap();
        assert_eq!((record.severity, record.class), (Severity::Fatal, ErrorClass::Tlb));
        assert_eq!(read("INFO", "generating core.2275"), None);
    }

    proptest! {
        #[test]
        fn any_message_is_decoded_or_passed_over(message in "(CE sym|total of|[0-9]* ddr error)?[ a-z0-9,]{0,60}") {
            let _ = decode(line("INFO", &message).as_bytes());
            let _ = decode(message.as_bytes());
        }
    }
}
