//! Windows' hardware error events as XML: what `wevtutil qe`, `Get-WinEvent` and the Event Viewer
//! save, alone or as a list.
//!
//! Every `<Event>` is cut out of the text and parsed by itself: memory is bounded by the longest
//! event instead of the file, and damage costs one event. Events of other providers are passed over.

use std::borrow::Cow;

use mce_decoder::mca::{self, Context};
use mce_decoder::{Decoded, whea};
use ras_core::{
    AddressMode, Detail, Details, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, Guid,
    McaRegisters, PciAddress, PhysAddr, Problem, ProblemKind, Raw, Severity, Timestamp, Value,
};
use roxmltree::{Document, Node};

/// Longest event, in bytes of text: the raw data of the largest record is some 100 KiB in hexadecimal.
const EVENT_MAX: usize = 1 << 20;

/// Fields taken from one event, and bytes of each. The events have about thirty.
const FIELDS_MAX: usize = 256;
const FIELD_MAX: usize = 4096;

/// Problems told of one file. A file with more is no log of events.
const PROBLEMS_MAX: usize = 1024;

/// Bytes of raw data kept in the event's own record; its sections have theirs.
const RAW_MAX: usize = 16 * 1024;

/// The providers of hardware error events.
const PROVIDERS: [&str; 2] = ["Microsoft-Windows-WHEA-Logger", "Microsoft-Windows-Kernel-WHEA"];

/// What the events of `Microsoft-Windows-WHEA-Logger` say about themselves, by their identifiers.
const FATAL: &[u64] = &[1, 4, 6, 8, 10, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 29, 30, 46];
const CORRECTED: &[u64] = &[2, 5, 7, 9, 11, 17, 19, 21, 23, 25, 27, 28, 47];

/// Whether `input` begins like XML, in any encoding that [`decode`] reads.
#[must_use]
pub fn looks_like(input: &[u8]) -> bool {
    let start = text(input.get(..512).unwrap_or(input));
    let start = start.trim_start_matches('\u{feff}').trim_start();
    start.starts_with("<?xml") || start.starts_with("<Event")
}

/// Decodes all events in `input`: UTF-8, or UTF-16 with a byte order mark. One record an event, with
/// the record in its raw data as witnesses; offsets of problems are those of `input`.
#[must_use]
pub fn decode(input: &[u8]) -> Decoded {
    let text = text(input);
    let mut decoded = Decoded { consumed: input.len(), ..Decoded::default() };
    let mut place = Place::new(input);
    let mut at = 0;
    while let Some(start) = next_event(&text, at) {
        let rest = &text[start..];
        place.advance(&text, start);
        if decoded.problems.len() >= PROBLEMS_MAX {
            let detail = format!("more than {PROBLEMS_MAX} problems, the rest is left out");
            let kind = ProblemKind::Limit;
            decoded.problems.push(Problem { offset: place.input, kind, detail });
            break;
        }
        let mut problem = |kind, detail: String| {
            decoded.problems.push(Problem { offset: place.input, kind, detail });
        };
        // An event ends where it closes, or where the next one begins: then its end is lost. Looking
        // no further than that keeps the time linear where no event ever ends.
        let next = next_event(rest, "<Event".len()).unwrap_or(rest.len());
        let close = rest[..next].find("</Event>").map(|end| end + "</Event>".len());
        match close {
            None => problem(ProblemKind::Truncated, "event without an end".into()),
            Some(close) if close > EVENT_MAX => {
                problem(ProblemKind::Limit, format!("event of {close} bytes is passed over"));
            }
            Some(close) => match Document::parse(&rest[..close]) {
                Ok(document) => {
                    if let Some(record) = event(document.root_element(), place.input) {
                        decoded.problems.extend(record.problems.iter().cloned());
                        decoded.records.push(record);
                    }
                }
                Err(error) => problem(ProblemKind::Malformed, format!("event: {error}")),
            },
        }
        at = start + next;
    }
    decoded
}

/// The input as text; what is no character is replaced.
fn text(input: &[u8]) -> Cow<'_, str> {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| -> String {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match input {
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes).into(),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes).into(),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        _ => utf8(input),
    }
}

/// UTF-8 in which each byte that is none is a question mark, so that places stay what they are.
fn utf8(input: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(input) {
        return text.into();
    }
    let mut text = String::with_capacity(input.len());
    for chunk in input.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text.into()
}

/// Where the next element `Event` begins, from byte `from` on: not `EventData`, not `Events`.
fn next_event(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += text.get(at..)?.find("<Event")?;
        match text.as_bytes().get(at + "<Event".len()) {
            Some(b'>' | b' ' | b'\t' | b'\r' | b'\n') => return Some(at),
            _ => at += "<Event".len(),
        }
    }
}

/// A place in the text, and the same one in the input. Only ever moves on.
struct Place {
    text: usize,
    input: u64,
    wide: bool,
}

impl Place {
    fn new(input: &[u8]) -> Self {
        let (mark, wide) = match input {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => (2, true),
            [0xef, 0xbb, 0xbf, ..] => (3, false),
            _ => (0, false),
        };
        Self { text: 0, input: mark, wide }
    }

    fn advance(&mut self, text: &str, to: usize) {
        let passed = text.get(self.text..to).unwrap_or_default();
        let units = if self.wide { 2 * passed.encode_utf16().count() } else { passed.len() };
        self.input += units as u64;
        self.text = to;
    }
}

/// One event; `None` if it is none of hardware's.
fn event(root: Node<'_, '_>, offset: u64) -> Option<ErrorRecord> {
    let child = |of: Node<'_, '_>, name: &str| {
        of.children().find(|node| node.tag_name().name() == name).map(|node| node.id())
    };
    let node = |id| root.document().get_node(id);
    let system = child(root, "System").and_then(node);
    let of_system = |name: &str| system.and_then(|system| child(system, name)).and_then(node);
    if let Some(provider) = of_system("Provider")
        && !provider.attribute("Name").is_some_and(|name| PROVIDERS.contains(&name))
    {
        return None;
    }
    let mut record = ErrorRecord::new(ErrorSource::Whea);
    let number = |name| of_system(name)?.text()?.trim().parse::<u64>().ok();
    let id = number("EventID");
    record.details.add_some("event_id", id);
    record.details.add_some("level", number("Level"));
    record.details.add_some("event_record_id", number("EventRecordID"));
    let computer = of_system("Computer").and_then(|node| node.text().map(String::from));
    record.details.add_some("computer", computer);
    record.time =
        of_system("TimeCreated").and_then(|created| created.attribute("SystemTime")).and_then(time);

    let mut raw = None;
    let data = root
        .descendants()
        .filter(|node| matches!(node.tag_name().name(), "Data" | "Binary" | "ComplexData"));
    for (index, node) in data.enumerate() {
        let text = node.text().unwrap_or_default().trim();
        let name = node.attribute("Name").unwrap_or(node.tag_name().name());
        if matches!(name, "RawData" | "Binary") {
            raw = Some(text);
        } else if index < FIELDS_MAX {
            let value = value(&text[..text.floor_char_boundary(FIELD_MAX)]);
            record.details.push(Detail { name: snake(name).into(), value });
        } else {
            let detail = format!("more than {FIELDS_MAX} fields, the others are left out");
            record.problems.push(Problem { offset, kind: ProblemKind::Limit, detail });
            break;
        }
    }
    let (severity, reason) = severity(id, number("Level"));
    (record.severity, record.severity_reason) = (severity, reason.into());
    if let Some(raw) = raw.filter(|raw| !raw.is_empty()) {
        contents(raw, offset, &mut record);
    }
    match best(&record.witnesses).cloned() {
        Some(best) => adopt(&best, &mut record),
        None => from_fields(&mut record),
    }
    if record.summary.is_empty() {
        record.summary = match id {
            Some(id) => format!("Windows hardware error event {id}"),
            None => "Windows hardware error event".into(),
        };
    }
    Some(record)
}

/// The record in the raw data.
fn contents(hex: &str, offset: u64, record: &mut ErrorRecord) {
    let Some(bytes) = from_hex(hex) else {
        let detail = "raw data of the event is not hexadecimal".into();
        return record.problems.push(Problem { offset, kind: ProblemKind::Malformed, detail });
    };
    let decoded = whea::decode_raw(&bytes);
    // Places in the raw data are not places in the file: the event's own is told, and the other.
    record.problems.extend(decoded.problems.into_iter().map(|problem| {
        let Problem { offset: within, kind, detail } = problem;
        Problem { offset, kind, detail: format!("raw data, byte {within}: {detail}") }
    }));
    record.witnesses = decoded.records;
    record.raw = Raw::Bytes(bytes.get(..RAW_MAX).unwrap_or(&bytes).into());
}

/// The record that tells most: the worst, then one with an address, then one that knows its hardware.
fn best(records: &[ErrorRecord]) -> Option<&ErrorRecord> {
    records.iter().rev().max_by_key(|record| {
        let known = record.class != ErrorClass::Unknown;
        (record.severity, record.address.is_some(), !record.witnesses.is_empty(), known)
    })
}

fn adopt(from: &ErrorRecord, record: &mut ErrorRecord) {
    // The event's own time is when Windows wrote it.
    record.time = from.time.or(record.time);
    record.class = from.class;
    record.severity = from.severity;
    record.severity_reason = from.severity_reason.clone();
    record.address = from.address;
    record.count = from.count;
    record.location = from.location.clone();
    record.summary = from.summary.clone();
}

/// What the fields say by themselves, where there is no record with the event.
fn from_fields(record: &mut ErrorRecord) {
    let number = |name: &str| match &record.details.iter().find(|detail| detail.name == name)?.value
    {
        Value::Number(number) | Value::Hex(number) => Some(*number),
        _ => None,
    };
    if let Some(status) = number("mci_stat") {
        let registers = McaRegisters {
            bank: number("mca_bank").and_then(|bank| u8::try_from(bank).ok()).unwrap_or(u8::MAX),
            status,
            addr: number("mci_addr").unwrap_or(0),
            misc: number("mci_misc").unwrap_or(0),
            apic_id: number("apic_id").and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            ..McaRegisters::default()
        };
        let mut bank = mca::decode(&registers, Context { time: record.time, ..Context::default() });
        bank.source = ErrorSource::Whea;
        record.class = bank.class;
        record.address = bank.address;
        record.location = bank.location.clone();
        record.summary = bank.summary.clone();
        record.witnesses.push(bank);
        return;
    }
    let byte = |name| number(name).and_then(|number| u8::try_from(number).ok());
    if let (Some(bus), Some(device @ ..32), Some(function @ ..8)) =
        (byte("bus"), byte("device"), byte("function"))
    {
        let segment = number("segment").and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let pci = PciAddress { segment, bus, device, function };
        record.class = ErrorClass::Pcie;
        record.summary = format!("PCIe error at {pci}");
        record.location.pci = Some(pci);
    } else if let Some(address) = number("physical_address") {
        record.class = ErrorClass::Memory;
        record.summary = format!("memory error at {address:#x}");
        record.address = Some(ErrorAddress {
            addr: PhysAddr(address >> 12 << 12),
            lsb: 12,
            mode: AddressMode::Physical,
        });
    }
}

fn severity(id: Option<u64>, level: Option<u64>) -> (Severity, &'static str) {
    match (id, level) {
        (Some(id), _) if FATAL.contains(&id) => (Severity::Fatal, "Windows calls the event fatal"),
        (Some(id), _) if CORRECTED.contains(&id) => {
            (Severity::Corrected, "Windows calls the event corrected")
        }
        (_, Some(4 | 5)) => (Severity::Informational, "Windows logged it as information"),
        _ => (Severity::Unknown, "the event does not say how bad it is"),
    }
}

/// A field as Windows renders it: a number, an address, a GUID, or words.
fn value(text: &str) -> Value {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    if let Some(bits) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        return Value::Hex(bits);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Value::Number(number);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Signed(number);
    }
    match text {
        "true" => Value::Flag(true),
        "false" => Value::Flag(false),
        _ => {
            let bare = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            match bare.and_then(|bare| Guid::try_from(bare.to_string()).ok()) {
                Some(guid) => Value::Guid(guid),
                None => text.to_string().into(),
            }
        }
    }
}

/// `MciStat` to `mci_stat`, `MCABank` to `mca_bank`, `FRUId` to `fru_id`.
fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().take(64).collect();
    let mut snake = String::with_capacity(letters.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| letters.get(before));
        let after = letters.get(index + 1);
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase() || after.is_some_and(char::is_ascii_lowercase)
            });
        if begins && !snake.ends_with('_') {
            snake.push('_');
        }
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' => snake.push(letter.to_ascii_lowercase()),
            _ => snake.push('_'),
        }
    }
    snake
}

/// `2024-02-29T23:59:58.123456700Z`.
fn time(text: &str) -> Option<Timestamp> {
    let time = humantime::parse_rfc3339_weak(text.trim()).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok().map(Timestamp)
}

/// Hexadecimal digits, with blanks anywhere between bytes.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut digits = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(high) = digits.next() {
        bytes.push(digit(high)? << 4 | digit(digits.next()?)?);
    }
    Some(bytes)
}

#[cfg(test)]
#[path = "whea_xml/tests.rs"]
mod tests;
