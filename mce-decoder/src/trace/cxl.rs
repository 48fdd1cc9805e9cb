//! The kernel's `cxl` trace events: media errors, poison, module health, protocol errors.
//!
//! Linux `drivers/cxl/core/trace.h`; meanings: CXL Specification, "Event Records". The events have
//! many fields and later kernels add more, so all of them become details under their own names, and
//! what is understood is looked up among those.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Detail, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, Guid, PhysAddr, Raw,
    Severity, Timestamp, Value,
};

use super::{EventFormat, Field, FieldKind, TraceError};

/// Bytes of an array kept. The longest today is the header log, 512.
const ARRAY_MAX: usize = 1024;

/// Fields that are addresses, handles, masks or identities.
const HEXADECIMAL: &[&str] = &[
    "dpa",
    "hpa",
    "dpa_length",
    "serial",
    "handle",
    "related_handle",
    "nibble_mask",
    "device",
    "status",
];

/// Whether events of this name are decoded here.
#[must_use]
pub fn knows(event: &str) -> bool {
    KINDS.iter().any(|(name, _)| *name == event)
}

/// Decodes one payload, the common fields included.
///
/// # Errors
/// [`TraceError`] where the payload ends before one of its fields.
pub fn decode(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let mut details = Vec::with_capacity(format.fields.len());
    for field in format.fields.iter().filter(|field| !field.name.starts_with("common_")) {
        let value = value(format, field, payload)?;
        let name = field.name.strip_prefix("hdr_").unwrap_or(&field.name).to_string();
        details.push(Detail { name: name.into(), value });
    }
    let raw = Raw::Bytes(payload.get(..ARRAY_MAX).unwrap_or(payload).into());
    Ok(ErrorRecord { raw, ..record(&format.name, details) })
}

fn value(format: &EventFormat, field: &Field, payload: &[u8]) -> Result<Value, TraceError> {
    let name = field.name.as_str();
    let uuid = field.type_name == "uuid_t" || (name == "uuid" && field.size == 16);
    if !uuid && field.kind == FieldKind::Scalar && matches!(field.size, 1 | 2 | 4 | 8) {
        let number = format.integer(payload, name)?;
        if let Some(names) = format.flags(name, number) {
            return Ok(Value::List(names.into_iter().map(Value::from).collect()));
        }
        let meaning = format.symbol(name, number.cast_signed()).map(str::to_string);
        return Ok(match meaning.map(Cow::Owned).or_else(|| unresolved(name, number)) {
            Some(meaning) => Value::Code { code: number, meaning: Some(meaning) },
            None if HEXADECIMAL.contains(&name.strip_prefix("hdr_").unwrap_or(name)) => {
                Value::Hex(number)
            }
            None if field.signed => Value::Signed(number.cast_signed()),
            None => Value::Number(number),
        });
    }
    let bytes = format.bytes(payload, name)?.unwrap_or_default();
    if uuid && let Ok(bytes) = bytes.try_into() {
        return Ok(Value::Guid(network_order(bytes)));
    }
    if field.type_name.contains("char") && name != "uuid" {
        return Ok(format.string(payload, name)?.unwrap_or_default().into());
    }
    Ok(Value::Bytes(bytes.get(..ARRAY_MAX).unwrap_or(bytes).into()))
}

/// Names that the print format gives by the kernel's own constants, whose numbers it does not tell.
fn unresolved(name: &str, number: u64) -> Option<Cow<'static, str>> {
    let names: &[&str] = match name {
        "log" => &["Informational", "Warning", "Failure", "Fatal"],
        "trace_type" => &["List", "Inject", "Clear"],
        _ => return None,
    };
    let name = usize::try_from(number).ok().and_then(|index| names.get(index))?;
    Some(Cow::Borrowed(name))
}

/// CXL's UUIDs lie in network order; ours print in the mixed order of UEFI.
fn network_order(bytes: [u8; 16]) -> Guid {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    Guid::new(
        u32::from_be_bytes([a, b, c, d]),
        u16::from_be_bytes([e, f]),
        u16::from_be_bytes([g, h]),
        rest,
    )
}

/// Decodes the text that the kernel prints for the event `name`, behind the name and its colon.
#[must_use]
pub fn from_text(name: &str, text: &str) -> ErrorRecord {
    let mut details = Vec::new();
    for (key, value) in super::text::pairs(text) {
        let key = match key {
            "time" => "timestamp",
            "len" => "length",
            "region" if name != "cxl_poison" => "region_name",
            other => other,
        };
        details.push(Detail { name: key.to_string().into(), value: text_value(key, value) });
    }
    let raw = Raw::Text(format!("{name}: {text}"));
    ErrorRecord { raw, ..record(name, details) }
}

fn text_value(key: &str, text: &str) -> Value {
    /// Printed in hexadecimal without `0x`.
    const BARE: &[&str] = &["dpa", "hpa", "handle", "related_handle", "nibble_mask", "device"];
    const FLAGS: &[&str] = &[
        "flags",
        "dpa_flags",
        "descriptor",
        "validity_flags",
        "health_status",
        "status",
        "first_error",
    ];
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    if FLAGS.contains(&key) {
        let names = text.split('|').map(str::trim).filter(|name| !name.is_empty());
        return Value::List(names.map(|name| Value::from(name.to_string())).collect());
    }
    if let Some(bits) = text.strip_prefix("0x").and_then(number) {
        return Value::Hex(bits);
    }
    if BARE.contains(&key)
        && let Some(bits) = number(text)
    {
        return Value::Hex(bits);
    }
    match (text.parse::<u64>(), text.parse::<i64>()) {
        // A serial number is printed as a signed one.
        (_, Ok(serial)) if key == "serial" => Value::Hex(serial.cast_unsigned()),
        (Ok(number), _) => Value::Number(number),
        (_, Ok(number)) => Value::Signed(number),
        _ => text.to_string().into(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Correctable,
    Uncorrectable,
    /// Media errors, with an address.
    Media,
    Poison,
    /// Health, and whatever a device logs without a meaning known here.
    Module,
    Overflow,
}

const KINDS: &[(&str, Kind)] = &[
    ("cxl_aer_correctable_error", Kind::Correctable),
    ("cxl_aer_uncorrectable_error", Kind::Uncorrectable),
    ("cxl_general_media", Kind::Media),
    ("cxl_dram", Kind::Media),
    ("cxl_poison", Kind::Poison),
    ("cxl_memory_module", Kind::Module),
    ("cxl_memory_sparing", Kind::Module),
    ("cxl_generic_event", Kind::Module),
    ("cxl_overflow", Kind::Overflow),
];

/// The record of an event whose fields came from elsewhere: names as in the kernel's event without
/// `hdr_`, flags as lists of the kernel's names, codes as words.
#[must_use]
pub fn record(event: &str, details: Vec<Detail>) -> ErrorRecord {
    let kind = KINDS.iter().find(|(name, _)| *name == event).map(|(_, kind)| *kind);
    let seen = Seen { details: &details };
    let (severity, reason) = severity(kind, &seen);
    let mut record = ErrorRecord {
        class: ErrorClass::Cxl,
        severity,
        severity_reason: reason.into(),
        ..ErrorRecord::new(ErrorSource::CxlEvent)
    };
    place(&seen, &mut record);
    // CXL Specification, "Common Event Record": nanoseconds since 1970, 0 where nobody set the clock.
    record.time = seen.number("timestamp").filter(|nanos| *nanos != 0).map(Timestamp);
    record.summary = summary(event, kind, &seen, &record);
    if let (Some(Kind::Overflow), Some(count)) = (kind, seen.number("count")) {
        record.count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    }
    record.details = details;
    record
}

fn severity(kind: Option<Kind>, seen: &Seen<'_>) -> (Severity, &'static str) {
    match kind {
        Some(Kind::Correctable) => (Severity::Corrected, "CXL protocol error, correctable"),
        Some(Kind::Uncorrectable) => (
            Severity::Ucna,
            "CXL protocol error, uncorrectable; the event names no data that was lost",
        ),
        Some(Kind::Media) if seen.has_flag("descriptor", "UNCORRECTABLE") => (
            Severity::Srao,
            "the device could not correct it; it does not say whether it was consumed",
        ),
        Some(Kind::Media) => (Severity::Corrected, "the device corrected it"),
        Some(Kind::Poison) => match seen.word("trace_type") {
            Some("Clear") => (Severity::Informational, "poison was cleared"),
            _ => (Severity::Srao, "the device holds poison there"),
        },
        Some(Kind::Overflow) => (Severity::Informational, "the device's event log overflowed"),
        _ => match seen.word("log") {
            Some("Fatal") => (Severity::Fatal, "logged by the device as fatal"),
            Some("Failure") => (
                Severity::Unknown,
                "logged by the device as a failure, with nothing said about data",
            ),
            Some("Warning") => (Severity::Informational, "logged by the device as a warning"),
            Some("Informational") => {
                (Severity::Informational, "logged by the device as information")
            }
            _ => (Severity::Unknown, "the device's severity is not known"),
        },
    }
}

fn place(seen: &Seen<'_>, record: &mut ErrorRecord) {
    // A database that left the validity out stores what the kernel printed: all of it.
    let all = seen.get("validity_flags").is_none();
    let valid = |flag: &str, name: &str| {
        seen.number(name).filter(|_| all || seen.has_flag("validity_flags", flag))
    };
    let narrow = |value: Option<u64>| value.and_then(|value| u16::try_from(value).ok());
    let byte = |value: Option<u64>| value.and_then(|value| u8::try_from(value).ok());
    let word = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
    let location = &mut record.location;
    location.channel = byte(valid("CHANNEL", "channel"));
    location.dimm.rank = narrow(valid("RANK", "rank"));
    location.dimm.bank_group = byte(valid("BANK GROUP", "bank_group"));
    location.dimm.bank = narrow(valid("BANK", "bank"));
    location.dimm.row = word(valid("ROW", "row"));
    location.dimm.column = word(valid("COLUMN", "column"));
    location.dimm.device = narrow(valid("DEVICE", "device"));
    location.pci = seen.text("host").and_then(crate::pci::address);
    // All ones: no host address is mapped there.
    record.address = seen.number("hpa").filter(|hpa| *hpa != u64::MAX && *hpa != 0).map(|hpa| {
        ErrorAddress { addr: PhysAddr(hpa >> 6 << 6), lsb: 6, mode: AddressMode::Physical }
    });
}

fn summary(event: &str, kind: Option<Kind>, seen: &Seen<'_>, record: &ErrorRecord) -> String {
    let device = seen.text("memdev").unwrap_or("CXL device");
    let what = match kind {
        Some(Kind::Correctable | Kind::Uncorrectable) => {
            format!("CXL protocol error ({})", seen.names("status"))
        }
        Some(Kind::Media) => {
            let kind = seen.word("type").unwrap_or("media error").to_string();
            let by = seen
                .word("transaction_type")
                .map_or_else(String::new, |by| format!(" met by {by}"));
            format!("CXL {kind}{by}")
        }
        Some(Kind::Poison) => {
            let what = seen.word("trace_type").unwrap_or("report");
            format!("CXL poison ({what}, source {})", seen.word("source").unwrap_or("unknown"))
        }
        Some(Kind::Overflow) => {
            format!("CXL event log lost {} records", seen.number("count").unwrap_or(0))
        }
        _ => format!("CXL {} event", seen.word("event_type").unwrap_or(event)),
    };
    let device_address =
        seen.number("dpa").map_or_else(String::new, |dpa| format!(", device address {dpa:#x}"));
    let at = record.address.map_or_else(String::new, |at| format!(", at {}", at.addr));
    format!("{what} on {device}, {}{device_address}{at}", crate::mca::phrase(record.severity))
}

/// What an event said, by name.
struct Seen<'a> {
    details: &'a [Detail],
}

impl<'a> Seen<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.details.iter().find(|detail| detail.name == name).map(|detail| &detail.value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Value::Number(number) | Value::Hex(number) => Some(*number),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        match self.get(name)? {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The meaning of a code, or plain text.
    fn word(&self, name: &str) -> Option<&'a str> {
        match self.get(name)? {
            Value::Code { meaning, .. } => meaning.as_deref(),
            _ => self.text(name),
        }
    }

    fn flags(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let list = match self.get(name) {
            Some(Value::List(list)) => list.as_slice(),
            _ => &[],
        };
        list.iter().filter_map(|value| match value {
            Value::Text(text) => Some(text.as_ref()),
            _ => None,
        })
    }

    /// Whether a flag is set whose name is, or begins with, `flag` and an underscore.
    fn has_flag(&self, name: &str, flag: &str) -> bool {
        self.flags(name).any(|set| {
            set.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
    }

    fn names(&self, name: &str) -> String {
        let names: Vec<&str> = self.flags(name).collect();
        if names.is_empty() { "no status bit".into() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAM: &str = "memdev=mem0 host=0000:0d:00.0 serial=4660 log=Warning : time=1700 \
        uuid=601dcbb3-9c06-4eab-b8af-4e9bfb5c9624 len=128 flags='MAINTENANCE_NEEDED' handle=1 \
        related_handle=0 maint_op_class=0 : dpa=1000 dpa_flags='VOLATILE' \
        descriptor='UNCORRECTABLE_EVENT|THRESHOLD_EVENT' type='Scrub Media ECC Error' \
        transaction_type='Internal Media Scrub' channel=3 rank=1 nibble_mask=3b00b \
        bank_group=7 bank=2 row=93 column=12 cor_mask=00 00 \
        validity_flags='CHANNEL|RANK|BANK GROUP|ROW' hpa=240001000 region=region0 region_uuid=0";

    #[test]
    fn a_line_of_text_becomes_a_place() {
        let record = from_text("cxl_dram", DRAM);
        assert_eq!(record.severity, Severity::Srao);
        let dimm = &record.location.dimm;
        assert_eq!((record.location.channel, dimm.rank, dimm.row), (Some(3), Some(1), Some(93)));
        assert_eq!((dimm.bank_group, dimm.bank, dimm.column), (Some(7), None, None), "not valid");
        assert_eq!(record.address.map(|at| at.addr.0), Some(0x2_4000_1000));
        assert_eq!(
            record.summary,
            "CXL Scrub Media ECC Error met by Internal Media Scrub on mem0, uncorrected, action \
             optional, device address 0x1000, at 0x240001000"
        );
        assert_eq!(record.location.pci.map(|pci| pci.bus), Some(0x0d));
    }

    #[test]
    fn what_is_missing_stays_unknown() {
        let record = from_text("cxl_generic_event", "");
        assert_eq!((record.severity, record.address), (Severity::Unknown, None));
        let record =
            from_text("cxl_poison", "memdev=mem1 trace_type=Clear hpa=0xffffffffffffffff dpa=0x40");
        assert_eq!((record.severity, record.address), (Severity::Informational, None));
    }

    #[test]
    fn uuids_lie_in_network_order() {
        let bytes = [
            0x60, 0x1d, 0xcb, 0xb3, 0x9c, 6, 0x4e, 0xab, 0xb8, 0xaf, 0x4e, 0x9b, 0xfb, 0x5c, 0x96,
            0x24,
        ];
        assert_eq!(network_order(bytes).to_string(), "601dcbb3-9c06-4eab-b8af-4e9bfb5c9624");
    }
}
