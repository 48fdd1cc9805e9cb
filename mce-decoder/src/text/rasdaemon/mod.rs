//! rasdaemon's own lines, as a journal has them where the daemon runs in the foreground.
//!
//! ```text
//!  <...>-42552 [001] ....  0.007845: mce_record: 2022-02-11 22:34:40 +0100 Unified Memory Controller (bank=18),
//!      status= 9c2040000000011b, ..., cpu= 1, socketid= 0, misc= d01a0c7b01000000, ..., apicid= 1
//!   kworker/0:1-77 [000] ....  0.000123 mc_event [ERROR] 2024-01-31 10:00:00 +0000 2 Corrected errors: ...
//! ```
//! Each is a kernel event: its fields are read and decoded as the event's, and what rasdaemon made of
//! them is kept as text only. Some events take several lines. rasdaemon 0.6 to 0.8, `ras-*-handler.c`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use ras_core::{
    CpuVendor, Details, ErrorClass, ErrorRecord, ErrorSource, Guid, McaRegisters, Pfn, Problem,
    ProblemKind, Raw, SmolStr, Timestamp,
};

use super::Found;
use super::bytes;
use super::kernel_log::{Options, Stamp, cpuid};
use crate::date::civil;
use crate::mca::{self, Context};
use crate::trace::aer_event::AerEvent;
use crate::trace::firmware::{ArmEvent, NonStandard};
use crate::trace::mc_event::McEvent;
use crate::trace::{memory_failure, text as trace_text};

/// Bytes of an event's text: with dumps of a vendor's data, a few thousand.
const TEXT_MAX: usize = 16 * 1024;

/// Lines of an event; its dumps put sixteen bytes on each.
const LINES_MAX: u32 = 256;

/// Lines after which an event that got none of them is taken for complete.
const PATIENCE: u64 = 64;

/// An event's fields, and the date before them.
#[derive(Clone, Copy, Debug)]
struct Body<'a> {
    text: &'a str,
    time: Option<Timestamp>,
    options: &'a Options,
}

type Decode = fn(&Body<'_>) -> Option<ErrorRecord>;

/// An event, what it ends with if that can be told, and who reads it.
#[derive(Debug)]
struct Event {
    name: &'static str,
    end: End,
    decode: Decode,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// With its line.
    Line,
    /// With the line that has this in it.
    Field(&'static str),
    /// Where another one begins.
    Open,
}

const EVENTS: &[Event] = &[
    Event { name: "mce_record", end: End::Field(", apicid= "), decode: mce },
    Event { name: "mc_event", end: End::Line, decode: mc },
    Event { name: "aer_event", end: End::Line, decode: aer },
    Event { name: "memory_failure_event", end: End::Line, decode: failure },
    Event { name: "extlog_mem_event", end: End::Line, decode: extlog },
    Event { name: "non_standard_event", end: End::Open, decode: non_standard },
    Event { name: "arm_event", end: End::Open, decode: arm },
];

/// CXL's events have a dozen forms, none of which is read: they are told, not passed over.
const UNREAD: Event = Event { name: "cxl_", end: End::Open, decode: |_| None };

/// Puts rasdaemon's lines together.
#[derive(Debug, Default)]
pub(super) struct Rasdaemon {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    event: &'static Event,
    /// Its lines; what is before `body` is its name and its date.
    text: String,
    body: usize,
    time: Option<Timestamp>,
    offset: u64,
    stamp: Stamp,
    /// A log's prefix named the program.
    tagged: bool,
    /// Text for which there was no room.
    cut: bool,
    lines: u32,
    /// Number of its last line.
    last: u64,
}

/// A line, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) offset: u64,
    pub(super) number: u64,
    pub(super) stamp: Stamp,
    /// A log's prefix named rasdaemon.
    pub(super) tagged: bool,
}

impl Rasdaemon {
    /// Whether the line was rasdaemon's: one that begins an event, or goes on with one.
    pub(super) fn line(
        &mut self,
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        if let Some((event, time, body)) = head(line.text) {
            self.finish(options, found);
            let before = line.text.get(..line.text.len() - body.len()).unwrap_or_default();
            let text = bytes::text(before);
            self.open = Some(Open {
                event,
                body: text.len(),
                text,
                time,
                offset: line.offset,
                stamp: line.stamp,
                tagged: line.tagged,
                cut: false,
                lines: 0,
                last: line.number,
            });
            self.add(body, line, options, found);
        } else if self.open.as_ref().is_some_and(|open| open.tagged == line.tagged) {
            self.add(line.text, line, options, found);
        } else {
            // What else the daemon says is of no error.
            return line.tagged;
        }
        true
    }

    /// Whether a line without a prefix is worth a look: it has a processor in brackets, or goes on with
    /// an event that had no prefix either.
    #[inline]
    pub(super) fn may_take(&self, text: &[u8]) -> bool {
        let own =
            matches!(text, [b'[' | b'{', ..] | [b'm', b'c', b'e', b':', ..] | [b'E', b'D', ..]);
        let open = self.open.as_ref().is_some_and(|open| !open.tagged);
        !own && (open || memchr::memchr(b'[', text).is_some())
    }

    fn add(&mut self, text: &[u8], line: &Line<'_>, options: &Options, found: &mut Vec<Found>) {
        let Some(open) = &mut self.open else { return };
        open.last = line.number;
        open.lines = open.lines.saturating_add(1);
        if open.text.len().saturating_add(text.len()) > TEXT_MAX {
            open.cut = true;
        } else {
            if !open.text.is_empty() {
                open.text.push(' ');
            }
            open.text.push_str(&bytes::text(text));
        }
        let ends = match open.event.end {
            End::Line => true,
            End::Field(field) => bytes::find(text, field.as_bytes()).is_some(),
            End::Open => false,
        };
        if ends || open.lines >= LINES_MAX {
            self.finish(options, found);
        }
    }

    pub(super) fn expire(&mut self, now: u64, options: &Options, found: &mut Vec<Found>) {
        if self.open.as_ref().is_some_and(|open| now.saturating_sub(open.last) > PATIENCE) {
            self.finish(options, found);
        }
    }

    pub(super) fn finish(&mut self, options: &Options, found: &mut Vec<Found>) {
        found.extend(self.open.take().map(|open| open.record(options)));
    }
}

impl Open {
    fn record(self, options: &Options) -> Found {
        let Self { event, text, body, time, offset, stamp, cut, .. } = self;
        let body = Body { text: text.get(body..).unwrap_or_default().trim(), time, options };
        let mut record = (event.decode)(&body).unwrap_or_else(|| unread(event, offset));
        for problem in &mut record.problems {
            problem.offset = offset;
        }
        if cut {
            let detail = format!("an event of more than {TEXT_MAX} bytes of text is cut");
            record.problems.push(Problem { offset, kind: ProblemKind::Limit, detail });
        }
        record.time = record.time.or(time).or(stamp.time);
        record.details.add("logged_by", "rasdaemon");
        // The daemon's own date is complete.
        match time {
            Some(_) => Stamp::known(time, stamp.monotonic_ns).add_to(&mut record.details),
            None => stamp.add_to(&mut record.details),
        }
        if matches!(record.raw, Raw::None) {
            record.raw = Raw::Text(text);
        }
        Found { offset, record: record.into() }
    }
}

fn unread(event: &Event, offset: u64) -> ErrorRecord {
    let name = event.name.trim_end_matches('_');
    ErrorRecord {
        class: if name == "cxl" { ErrorClass::Cxl } else { ErrorClass::Unknown },
        severity_reason: "the event's fields could not be read".into(),
        summary: format!("rasdaemon's {name} event, in a form that is not known"),
        problems: vec![Problem {
            offset,
            kind: ProblemKind::Unknown,
            detail: format!("text of rasdaemon's {name} event can't be read"),
        }],
        ..ErrorRecord::new(ErrorSource::Rasdaemon)
    }
}

/// The event that begins in this line, its date and its fields: an event's name, with or without a
/// colon, then rasdaemon's own date, a level before or after it. Nobody else writes the two together.
fn head(text: &[u8]) -> Option<(&'static Event, Option<Timestamp>, &[u8])> {
    let mut rest = text;
    // Task and processor, flags, the clock: a task's name may have blanks in it.
    for _ in 0..12 {
        let (word, after) = bytes::word(rest);
        if word.is_empty() {
            return None;
        }
        rest = after;
        let name = word.strip_suffix(b":").unwrap_or(word);
        let known = EVENTS.iter().find(|event| event.name.as_bytes() == name);
        let known = known.or_else(|| name.starts_with(UNREAD.name.as_bytes()).then_some(&UNREAD));
        if let Some(event) = known {
            let (time, body) = date(level(after))?;
            return Some((event, time, level(body)));
        }
    }
    None
}

/// Without `[ERROR]` and the like.
fn level(text: &[u8]) -> &[u8] {
    let (word, rest) = bytes::word(text);
    let upper = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    let inside = word.strip_prefix(b"[").and_then(|word| word.strip_suffix(b"]"));
    if inside.is_some_and(upper) { rest } else { text }
}

/// `2022-02-11 22:34:40 +0100`, and what follows it; no time where there is no such date.
fn date(text: &[u8]) -> Option<(Option<Timestamp>, &[u8])> {
    let (day, rest) = bytes::word(text);
    let (clock, rest) = bytes::word(rest);
    let (zone, rest) = bytes::word(rest);
    let [year, month, day] = three(day, b"-")?;
    let time = three(clock, b":")?;
    let sign = match zone.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (minutes, _) = bytes::decimal(zone.get(1..5)?).filter(|(_, rest)| rest.is_empty())?;
    let minutes = i64::try_from(minutes / 100 * 60 + minutes % 100).ok()?;
    let utc = civil(year, month, day, time)
        .and_then(|local| local.0.checked_add_signed(-sign * minutes * 60_000_000_000));
    Some((utc.map(Timestamp), rest))
}

fn three(text: &[u8], separator: &[u8]) -> Option<[u64; 3]> {
    let (first, rest) = bytes::split(text, separator)?;
    let (second, third) = bytes::split(rest, separator)?;
    Some([bytes::whole_number(first)?, bytes::whole_number(second)?, bytes::whole_number(third)?])
}

/// What stands between `key` and the next comma.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(key)?;
    Some(rest.split(", ").next().unwrap_or(rest).trim())
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// A number at the front of `text`, in hexadecimal.
fn leading_hex(text: &str) -> Option<u64> {
    bytes::hex(text.as_bytes()).map(|(value, _)| value)
}

/// Bank, status and the registers behind them. The status decides; rasdaemon's words for it do not.
fn mce(body: &Body<'_>) -> Option<ErrorRecord> {
    let text = body.text;
    let (bank, _) = text.split_once(", status= ")?;
    let register = |key| field(text, key).and_then(leading_hex);
    let word = |key| register(key).and_then(|value| u32::try_from(value).ok());
    let status = register(", status= ")?;
    let cpu_type = field(text, ", cpu_type= ").unwrap_or_default();
    let (maker, signature) = processor(cpu_type);
    let (vendor, signature) = match (maker, body.options) {
        (Some(maker), options) if options.vendor.is_none_or(|vendor| vendor == maker) => {
            (maker, signature.or(options.cpuid))
        }
        (Some(maker), _) => (maker, signature),
        (None, options) => (options.vendor.unwrap_or(CpuVendor::Unknown(0xff)), options.cpuid),
    };
    let number = bank_number(bank);
    let registers = McaRegisters {
        vendor,
        cpuid: signature.unwrap_or(0),
        bank: number.unwrap_or(0),
        status,
        misc: register(", misc= ").unwrap_or(0),
        addr: register(", addr= ").unwrap_or(0),
        synd: register(", synd= ").unwrap_or(0),
        ipid: register(", ipid= ").unwrap_or(0),
        ip: register(", ip= ").unwrap_or(0),
        cs: register(", cs= ").map_or(0, |cs| cs.to_le_bytes()[0]),
        // Where rasdaemon has words for its bits, the number before them is in decimal.
        mcg_status: register(", mcgstatus= ")
            .or_else(|| {
                let value = field(text, ", mcgstatus=")?;
                bytes::decimal(value.as_bytes()).map(|(value, _)| value)
            })
            .unwrap_or(0),
        mcg_cap: register(", mcgcap= ").unwrap_or(0),
        apic_id: word(", apicid= ").unwrap_or(0),
        ppin: register(", ppin= ").unwrap_or(0),
        microcode: word(", microcode= ").unwrap_or(0),
        ..McaRegisters::default()
    };
    let decimal = |key| field(text, key).and_then(|value| value.parse().ok());
    let context =
        Context { time: body.time, cpu: decimal(", cpu= "), socket: decimal(", socketid= ") };
    let mut record = mca::decode(&registers, context);
    if number.is_none() {
        record.problems.push(Problem {
            offset: 0,
            kind: ProblemKind::Unknown,
            detail: format!("bank {bank:?} has no number"),
        });
    }
    if let Some(fru) = field(text, ", FRU Text= ").filter(|fru| !fru.is_empty()) {
        record.location.fru.get_or_insert_with(|| SmolStr::new(fru));
    }
    if !cpu_type.is_empty() {
        record.details.add("cpu_type", cpu_type.to_string());
    }
    Some(record)
}

/// `bank=1f`, in hexadecimal, or `Unified Memory Controller (bank=18)`, in decimal.
fn bank_number(text: &str) -> Option<u8> {
    if let Some(digits) = text.trim().strip_prefix("bank=") {
        return u8::from_str_radix(digits, 16).ok();
    }
    if let Some((_, rest)) = text.split_once("(bank=") {
        return rest.split_once(')')?.0.parse().ok();
    }
    // mcelog's number for an event of the processor's own heat.
    text.contains("THERMAL EVENT").then_some(128)
}

/// Processors that rasdaemon has a name of their own for, where the name stands for one model.
const PROCESSORS: &[(&str, CpuVendor, u64, u64)] = &[
    ("Intel Xeon 7400 series", CpuVendor::Intel, 6, 0x1d),
    ("Intel Xeon 7100 series", CpuVendor::Intel, 15, 6),
    ("Sandy Bridge", CpuVendor::Intel, 6, 0x2a),
    ("Sandy Bridge EP", CpuVendor::Intel, 6, 0x2d),
    ("Ivy Bridge", CpuVendor::Intel, 6, 0x3a),
    ("Ivy Bridge EP/EX", CpuVendor::Intel, 6, 0x3e),
    ("Intel Xeon v3 (Haswell) EP/EX", CpuVendor::Intel, 6, 0x3f),
    ("Broadwell", CpuVendor::Intel, 6, 0x3d),
    ("Broadwell EP/EX", CpuVendor::Intel, 6, 0x4f),
    ("Broadwell DE", CpuVendor::Intel, 6, 0x56),
    ("Knights Landing", CpuVendor::Intel, 6, 0x57),
    ("Knights Mill", CpuVendor::Intel, 6, 0x85),
    ("Skylake server", CpuVendor::Intel, 6, 0x55),
    ("Icelake server", CpuVendor::Intel, 6, 0x6a),
    ("Icelake server D Family", CpuVendor::Intel, 6, 0x6c),
    ("Tremont microserver", CpuVendor::Intel, 6, 0x86),
    ("Sapphirerapids server", CpuVendor::Intel, 6, 0x8f),
    ("Emeraldrapids server", CpuVendor::Intel, 6, 0xcf),
    ("Graniterapids server", CpuVendor::Intel, 6, 0xad),
    ("Graniterapids server D Family", CpuVendor::Intel, 6, 0xae),
    ("Sierraforest server", CpuVendor::Intel, 6, 0xaf),
    ("Clearwaterforest server", CpuVendor::Intel, 6, 0xdd),
    ("Diamondrapids server", CpuVendor::Intel, 19, 1),
];

/// The maker in the name of a processor's kind, and CPUID leaf 1 EAX where the kind is one model. The
/// stepping is never said.
fn processor(name: &str) -> (Option<CpuVendor>, Option<u32>) {
    if let Some((_, maker, family, model)) = PROCESSORS.iter().find(|known| known.0 == name) {
        return (Some(*maker), cpuid(*family, *model, 0));
    }
    let maker = match name.split(' ').next().unwrap_or_default() {
        "Intel" | "Haswell" => Some(CpuVendor::Intel),
        "AMD" => Some(CpuVendor::Amd),
        "Hygon" => Some(CpuVendor::Hygon),
        "Zhaoxin" => Some(CpuVendor::Zhaoxin),
        _ => None,
    };
    (maker, None)
}

/// `2 Corrected errors: memory read error on LABEL (mc: 0 location: 0:1 address: 0x… grain: 5 …)`.
fn mc(body: &Body<'_>) -> Option<ErrorRecord> {
    let (count, rest) = body.text.split_once(' ')?;
    let (kind, rest) = rest.split_once(" error")?;
    let rest = rest.trim_start_matches('s').strip_prefix(':')?;
    let (said, inside) = rest.rsplit_once(" (mc: ")?;
    let (message, label) = said.rsplit_once(" on ").unwrap_or((said, ""));
    let mut event = McEvent::of_words(count, kind, message, label)?;
    let inside = inside.strip_suffix(')').unwrap_or(inside);
    let (mc, mut rest) = inside.split_once(' ').unwrap_or((inside, ""));
    event.mc_index = mc.parse().ok()?;
    // Each of them in this order, or not at all; what follows is the driver's.
    for key in ["location: ", "address: ", "grain: ", "syndrome: "] {
        let Some(after) = rest.trim_start().strip_prefix(key) else { continue };
        let (value, next) = after.split_once(' ').unwrap_or((after, ""));
        match key {
            "location: " => {
                for (layer, value) in event.layers.iter_mut().zip(value.split(':')) {
                    *layer = value.parse().ok()?;
                }
            }
            "address: " => event.address = hex(value)?,
            "grain: " => event.grain_bits = McEvent::grain_bits_of(value.parse().ok()?),
            _ => event.syndrome = hex(value)?,
        }
        rest = next;
    }
    event.driver_detail = rest.trim().to_string();
    Some(event.into())
}

/// `0000:3b:00.0 (NAME - vendor_id: 0x8086 device_id: 0x1) NAMES TLP Header: … Corrected`; older
/// versions leave the brackets out.
fn aer(body: &Body<'_>) -> Option<ErrorRecord> {
    const SEVERITIES: &[(&str, u8)] = &[
        ("Uncorrected (Non-Fatal)", 0),
        ("Uncorrected (Fatal)", 1),
        ("Corrected", 2),
        ("Unknown severity", u8::MAX),
    ];
    let (device, rest) = body.text.split_once(' ')?;
    let (name, severity) = SEVERITIES.iter().find(|(name, _)| rest.ends_with(name))?;
    let rest = rest.strip_suffix(name)?;
    let ids = rest.split_once("vendor_id: ").and_then(|(_, after)| after.split_once(") "));
    let (ids, rest) = ids.map_or((None, rest), |(ids, rest)| (Some(ids), rest));
    let (names, header) = match rest.split_once("TLP Header: ") {
        Some((names, header)) => (names, header),
        None => (rest, ""),
    };
    let words: Vec<u32> =
        header.split_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
    let event = AerEvent {
        device: device.to_string(),
        status: None,
        status_text: names.trim().to_string(),
        severity: *severity,
        tlp_header: words.try_into().ok(),
    };
    let mut record: ErrorRecord = event.into();
    // Zero where rasdaemon did not find the device.
    if let Some((vendor, device)) = ids.and_then(|ids| ids.split_once(" device_id: ")) {
        for (name, value) in [("vendor_id", vendor), ("device_id", device)] {
            if let Some(id) = hex(value).filter(|id| *id != 0) {
                record.details.add_hex(name, id);
            }
        }
    }
    Some(record)
}

/// `pfn=0x1234 page_type=dirty LRU page action_result=Recovered`.
fn failure(body: &Body<'_>) -> Option<ErrorRecord> {
    let (pfn, rest) = body.text.strip_prefix("pfn=")?.split_once(" page_type=")?;
    let (page_type, result) = rest.split_once(" action_result=")?;
    let failure = memory_failure::MemoryFailure {
        pfn: Pfn(hex(pfn)?),
        page_type: page_type.to_string(),
        result: result.trim().to_string(),
    };
    Some(memory_failure::record(failure, 0))
}

/// `3 corrected error: single-bit ECC physical addr: 0x… mask: 0x… (node: 1 …) TEXT GUID`.
fn extlog(body: &Body<'_>) -> Option<ErrorRecord> {
    let (sequence, rest) = body.text.split_once(' ')?;
    let (severity, rest) = rest.split_once(" error: ")?;
    let (kind, rest) = rest.split_once(" physical addr: ")?;
    let (addr, rest) = rest.split_once(" mask: ")?;
    let (mask, rest) = rest.split_once(' ')?;
    let (place, fru) = match rest.trim_start().strip_prefix('(') {
        Some(rest) => rest.split_once(')')?,
        None => ("", rest),
    };
    let (fru_text, fru_id) = fru.trim().rsplit_once(' ').unwrap_or(("", fru.trim()));
    Some(trace_text::extlog_record(&trace_text::Extlog {
        sequence: sequence.parse().ok(),
        severity: severity.trim_start_matches("unknown-"),
        kind,
        addr: hex(addr)?,
        // All ones where the section has no mask.
        lsb: u8::try_from(hex(mask)?.trailing_zeros()).ok().filter(|lsb| *lsb > 0),
        place,
        fru_id,
        fru_text,
    }))
}

/// `Corrected section type: GUID fru text: TEXT fru id: GUID length: 40 error: 00000000: 00010203 …`.
fn non_standard(body: &Body<'_>) -> Option<ErrorRecord> {
    let (severity, rest) = body.text.split_once("section type: ")?;
    let (section_type, rest) = rest.split_once(" fru text:")?;
    let (fru_text, rest) = rest.split_once(" fru id: ")?;
    let (fru_id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let section_type = match section_type.trim() {
        // The one type that rasdaemon has a name for.
        "Ampere Specific Error" => AMPERE,
        text => guid(text)?,
    };
    let dump = rest.split_once(" error:").map_or("", |(_, dump)| dump);
    let event = NonStandard {
        section_type,
        fru_id: guid(fru_id).map_or([0; 16], |id| id.0),
        fru_text: fru_text.trim().to_string(),
        sev: match severity.trim() {
            "Informational" => 0,
            "Corrected" => 1,
            "Recoverable" => 2,
            "Fatal" => 3,
            _ => u64::MAX,
        },
        body: dumped(dump),
    };
    Some(event.into())
}

/// Section type of Ampere's own errors, as rasdaemon's decoder registers it.
const AMPERE: Guid =
    Guid::new(0xe8ed_898d, 0xdf16, 0x43cc, [0x8e, 0xcc, 0x54, 0xf0, 0x60, 0xef, 0x15, 0x7f]);

fn guid(text: &str) -> Option<Guid> {
    Guid::try_from(text.trim().to_string()).ok()
}

/// Bytes of a dump in little-endian words of four; offsets end in a colon.
fn dumped(text: &str) -> Vec<u8> {
    let words = text.split_whitespace().filter(|word| !word.ends_with(':'));
    let words = words.map_while(|word| {
        let value = u32::from_str_radix(word, 16).ok()?;
        (word.len() == 8).then(|| value.to_le_bytes())
    });
    words.flatten().collect()
}

/// `affinity: 0 MPIDR: 0x… MIDR: 0x… running_state: 1 psci_state: 0 …`, and dumps in later versions.
fn arm(body: &Body<'_>) -> Option<ErrorRecord> {
    let value = |key| {
        let (_, rest) = body.text.split_once(key)?;
        rest.split_whitespace().next()
    };
    // Printed as signed numbers.
    let word = |key| {
        let number: i64 = value(key)?.parse().ok()?;
        let [a, b, c, d, ..] = number.to_le_bytes();
        Some(u32::from_le_bytes([a, b, c, d]))
    };
    // The length stands before the dump; "Vendor Specific Err Info" ends as "Processor Err Info" does.
    let dump = |key: &str| {
        let mut parts = body.text.match_indices(key).filter(|(at, _)| {
            let before = body.text.get(..*at).unwrap_or_default();
            key.starts_with("Vendor") || before.ends_with("ARM Processor ")
        });
        let after = parts.next().and_then(|(at, key)| body.text.get(at + key.len()..));
        after
            .and_then(|after| after.split_once(' '))
            .map_or_else(Vec::new, |(_, dump)| dumped(dump))
    };
    let event = ArmEvent {
        sev: None,
        mpidr: hex(value("MPIDR: ")?)?,
        midr: hex(value("MIDR: ")?)?,
        running_state: word("running_state: ").unwrap_or(u32::MAX),
        psci_state: word("psci_state: ").unwrap_or(u32::MAX),
        affinity: word("affinity: ").map_or(u8::MAX, |affinity| affinity.to_le_bytes()[0]),
        cpu: value(" cpu: ").and_then(|cpu| cpu.parse().ok()),
        pei: dump("Err Info data len: "),
        ctx: dump("Err Context Info data len: "),
        oem: dump("Vendor Specific Err Info data len: "),
    };
    Some(event.into())
}

#[cfg(test)]
mod tests;
