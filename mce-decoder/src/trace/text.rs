//! Trace events as text: lines of `trace_pipe`, `trace-cmd report` and `perf script`.
//!
//! All three put `EVENT: ` (or `SYSTEM:EVENT: `) before what the tracepoint's print format makes of its
//! fields. Linux `include/ras/ras_event.h` and `include/trace/events/mce.h` have those formats.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ras_core::{
    AddressMode, CpuVendor, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, McaRegisters,
    PAGE_SHIFT, Pfn, Raw, SmolStr, Timestamp,
};

use super::aer_event::AerEvent;
use super::firmware::{ArmEvent, NonStandard};
use super::mc_event::McEvent;
use super::{cxl, mce_record, memory_failure};
use crate::mca::{self, Context};
use crate::text::{Found, LineDecoder};

/// Bytes of a line kept as raw text. The longest event, with vendor data, takes a few thousand.
const LINE_MAX: usize = 16 * 1024;

/// Decodes trace text line by line.
#[derive(Debug, Default)]
pub struct TraceText(());

impl LineDecoder for TraceText {
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
        let line = String::from_utf8_lossy(line.get(..LINE_MAX).unwrap_or(line));
        found.extend(decode(&line).map(|record| Found::new(offset, record)));
    }

    fn finish(&mut self, _found: &mut Vec<Found>) {}
}

type Decode = fn(&str) -> Option<ErrorRecord>;

const EVENTS: &[(&str, Decode)] = &[
    ("mce_record", mce),
    ("mc_event", mc),
    ("aer_event", aer),
    ("memory_failure_event", memory_failure),
    ("non_standard_event", non_standard),
    ("arm_event", arm),
    ("extlog_mem_event", extlog),
];

/// The record in one line; `None` where it holds no event that is known, or one that can't be read.
#[must_use]
pub fn decode(line: &str) -> Option<ErrorRecord> {
    let (name, body) = split(line)?;
    let mut record = match EVENTS.iter().find(|(known, _)| *known == name) {
        Some((_, decode)) => decode(body)?,
        None if cxl::knows(name) => cxl::from_text(name, body),
        None => return None,
    };
    if matches!(record.raw, Raw::None) {
        record.raw = Raw::Text(line.trim().to_string());
    }
    let stamp = line.get(..line.len() - body.len()).and_then(stamp);
    if let Some(stamp) = stamp {
        record.details.add("trace_clock_ns", stamp);
    }
    Some(record)
}

/// Event name and what follows it: the first `NAME: ` that is an event's.
fn split(line: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(at) = line.get(from..)?.find(": ") {
        let (head, rest) = (line.get(..from + at)?, line.get(from + at + 2..)?);
        let name = head.rsplit([' ', ':']).next().unwrap_or_default();
        if EVENTS.iter().any(|(known, _)| *known == name) || cxl::knows(name) {
            return Some((name, rest.trim()));
        }
        from += at + 2;
    }
    None
}

/// The trace clock's time in nanoseconds: `   123.456789: ` at the end of what precedes the name.
fn stamp(head: &str) -> Option<u64> {
    let stamp = head.split_whitespace().rev().nth(1)?.strip_suffix(':')?;
    let (seconds, fraction) = stamp.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let nanos = fraction.parse::<u64>().ok()?.checked_mul(10_u64.pow(9 - digits))?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// `key=value` pairs; a value may be quoted by `'`. What is none is passed over.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    core::iter::from_fn(move || {
        loop {
            let (head, after) = rest.split_once('=')?;
            let key = head.rsplit(char::is_whitespace).next().unwrap_or_default();
            let (value, after) = match after.strip_prefix('\'') {
                Some(quoted) => quoted.split_once('\'').unwrap_or((quoted, "")),
                None => {
                    // A value ends where the next pair begins, so that `00 00 01` stays whole.
                    let end = after.find('=').map_or(after.len(), |next| {
                        let before = after.get(..next).unwrap_or_default();
                        before.rfind(char::is_whitespace).map_or(next, |space| space)
                    });
                    after.split_at_checked(end)?
                }
            };
            rest = after;
            if !key.is_empty() {
                return Some((key, value.trim().trim_end_matches([' ', ':'])));
            }
        }
    })
}

/// `KEY: value, KEY: value` as `mce_record` prints them, slashes between keys that share a list.
fn mce(text: &str) -> Option<ErrorRecord> {
    let mut registers =
        McaRegisters { vendor: CpuVendor::Unknown(0xff), ..McaRegisters::default() };
    let mut context = Context::default();
    let mut seen_status = false;
    for part in text.split(", ") {
        let (key, value) = part.split_once(": ")?;
        let hex = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
        let word = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
        let (key, value) = (key.trim(), value.trim());
        match key {
            "CPU" => context.cpu = value.parse().ok(),
            "MCGc/s" => {
                let (cap, status) = value.split_once('/')?;
                (registers.mcg_cap, registers.mcg_status) = (hex(cap)?, hex(status)?);
            }
            "IPID" => registers.ipid = hex(value)?,
            "ADDR" => registers.addr = hex(value)?,
            "MISC" => registers.misc = hex(value)?,
            "SYND" => registers.synd = hex(value)?,
            "ADDR/MISC/SYND" | "ADDR/MISC" => {
                let mut values = value.split('/');
                registers.addr = values.next().and_then(hex)?;
                registers.misc = values.next().and_then(hex)?;
                registers.synd = values.next().and_then(hex).unwrap_or(0);
            }
            "RIP" => {
                let (cs, ip) = value.split_once(":<")?;
                registers.cs = u8::from_str_radix(cs, 16).ok()?;
                registers.ip = hex(ip.trim_end_matches('>'))?;
            }
            "TSC" => registers.tsc = hex(value)?,
            "PPIN" => registers.ppin = hex(value)?,
            "vendor" => registers.vendor = mce_record::vendor(value.parse().ok()?),
            "CPUID" => registers.cpuid = word(hex(value))?,
            "PROCESSOR" => {
                let (vendor, cpuid) = value.split_once(':')?;
                registers.vendor = mce_record::vendor(vendor.parse().ok()?);
                registers.cpuid = word(hex(cpuid))?;
            }
            "time" | "TIME" => {
                let secs = value.parse().ok()?;
                context.time = (secs != 0).then(|| Timestamp::from_secs(secs));
            }
            "socket" | "SOCKET" => context.socket = value.parse().ok(),
            "APIC" => registers.apic_id = word(hex(value))?,
            "microcode" | "MICROCODE" => registers.microcode = word(hex(value))?,
            _ => {
                let bank = key.strip_prefix("MC").and_then(|bank| bank.parse().ok());
                if let Some(bank) = bank {
                    (registers.bank, registers.status) = (bank, hex(value)?);
                    seen_status = true;
                }
            }
        }
    }
    seen_status.then(|| mca::decode(&registers, context))
}

/// `2 Corrected errors: memory read error on LABEL (mc:0 location:0:1:-1 address:0x… grain:32 …)`.
fn mc(text: &str) -> Option<ErrorRecord> {
    let (count, rest) = text.split_once(' ')?;
    let (kind, rest) = rest.split_once(" error")?;
    let rest = rest.trim_start_matches('s').strip_prefix(':')?;
    let (what, inside) = rest.split_once(" (mc:")?;
    let (message, label) = what.rsplit_once("on ").unwrap_or(("", what));
    let inside = inside.strip_suffix(')').unwrap_or(inside);
    let mut event = McEvent::of_words(count, kind, message, label)?;
    let (mc, mut rest) = inside.split_once(' ').unwrap_or((inside, ""));
    event.mc_index = mc.parse().ok()?;
    // The fixed part ends with the syndrome; all that follows is the driver's.
    while let Some((key, after)) = rest.split_once(':') {
        let (value, next) = after.split_once(' ').unwrap_or((after, ""));
        let hex = || u64::from_str_radix(value.trim_start_matches("0x"), 16).ok();
        match key {
            "location" => {
                for (layer, value) in event.layers.iter_mut().zip(value.split(':')) {
                    *layer = value.parse().ok()?;
                }
            }
            "address" => event.address = hex()?,
            "grain" => {
                let grain: u64 = value.parse().ok()?;
                event.grain_bits = grain.checked_ilog2().unwrap_or(0).to_le_bytes()[0];
            }
            "syndrome" => {
                event.syndrome = hex()?;
                event.driver_detail = next.to_string();
                break;
            }
            _ => break,
        }
        rest = next;
    }
    Some(event.into())
}

/// `0000:3b:00.0 PCIe Bus Error: severity=Corrected, Bad TLP|Bad DLLP, TLP Header=Not available`.
fn aer(text: &str) -> Option<ErrorRecord> {
    let (device, rest) = text.split_once(" PCIe Bus Error: severity=")?;
    let (rest, header) = rest.split_once(", TLP Header=").unwrap_or((rest, ""));
    let (severity, names) = match rest.strip_prefix("Uncorrected, non-fatal") {
        Some(names) => (0, names),
        None => match rest.split_once(',').unwrap_or((rest, "")) {
            ("Fatal", names) => (1, names),
            ("Corrected", names) => (2, names),
            (_, names) => (u8::MAX, names),
        },
    };
    let words: Vec<u32> = header
        .trim_matches(|c: char| c == '{' || c == '}' || c.is_whitespace())
        .split([',', ' '])
        .filter(|word| !word.is_empty())
        .map_while(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    Some(
        AerEvent {
            device: device.trim().to_string(),
            status: None,
            status_text: names.trim_matches([' ', ',']).replace('|', ", "),
            severity,
            tlp_header: words.try_into().ok(),
        }
        .into(),
    )
}

/// `pfn 0x1234: recovery action for dirty LRU page: Recovered`; older kernels leave the `x` out.
fn memory_failure(text: &str) -> Option<ErrorRecord> {
    let (pfn, rest) = text.strip_prefix("pfn ")?.split_once(": recovery action for ")?;
    let (page_type, result) = rest.rsplit_once(": ")?;
    let pfn = Pfn(u64::from_str_radix(pfn.trim_start_matches("0x"), 16).ok()?);
    let failure = memory_failure::MemoryFailure {
        pfn,
        page_type: page_type.to_string(),
        result: result.trim().to_string(),
    };
    Some(memory_failure::record(failure, 0))
}

/// `severity: 1; sec type:GUID; FRU: GUID TEXT; data len:N; raw data:00 01 …`.
fn non_standard(text: &str) -> Option<ErrorRecord> {
    let mut event = NonStandard {
        section_type: Guid([0; 16]),
        fru_id: [0; 16],
        fru_text: String::new(),
        sev: u64::MAX,
        body: Vec::new(),
    };
    for part in text.split("; ") {
        let (key, value) = part.split_once(':')?;
        match key.trim() {
            "severity" => event.sev = value.trim().parse().ok()?,
            "sec type" => event.section_type = as_stored(value.trim())?,
            "FRU" => {
                let (id, text) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
                event.fru_id = as_stored(id)?.0;
                event.fru_text = text.to_string();
            }
            "raw data" => event.body = bytes(value),
            _ => {}
        }
    }
    // rasdaemon's lines have the same names before other words.
    text.contains("sec type:").then(|| event.into())
}

/// The kernel prints the bytes of a GUID one after the other, not in its canonical form.
fn as_stored(text: &str) -> Option<Guid> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let bytes = bytes(&digits);
    bytes.try_into().ok().map(Guid)
}

/// Hexadecimal bytes, blanks between them or not; up to the first thing that is none.
fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map_while(|c| c.to_digit(16).map(|digit| digit.to_le_bytes()[0]))
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `cpu: 3; error: 1; affinity level: 1; MPIDR: …; MIDR: …; running state: 1; PSCI state: 0; …`.
fn arm(text: &str) -> Option<ErrorRecord> {
    let mut event = ArmEvent {
        running_state: u32::MAX,
        psci_state: u32::MAX,
        affinity: u8::MAX,
        ..ArmEvent::default()
    };
    let word = |text: &str| text.parse::<i64>().ok().map(i64::to_le_bytes);
    for part in text.split("; ") {
        let (key, value) = part.split_once(": ")?;
        let hex = || u64::from_str_radix(value.trim(), 16).ok();
        match key.trim() {
            "cpu" => event.cpu = value.parse().ok(),
            "error" => event.sev = value.parse().ok(),
            "affinity level" => event.affinity = word(value)?[0],
            "MPIDR" => event.mpidr = hex()?,
            "MIDR" => event.midr = hex()?,
            "running state" => {
                let [a, b, c, d, ..] = word(value)?;
                event.running_state = u32::from_le_bytes([a, b, c, d]);
            }
            "PSCI state" => {
                let [a, b, c, d, ..] = word(value)?;
                event.psci_state = u32::from_le_bytes([a, b, c, d]);
            }
            "ARM Processor Err Info raw data" => event.pei = bytes(value),
            "ARM Processor Err Context Info raw data" => event.ctx = bytes(value),
            "Vendor Specific Err Info raw data" => event.oem = bytes(value),
            _ => {}
        }
    }
    text.contains("affinity level: ").then(|| event.into())
}

/// `{3} corrected error: single-bit ECC physical addr: 0000… (mask lsb: c) …FRU: GUID TEXT`.
fn extlog(text: &str) -> Option<ErrorRecord> {
    let (sequence, rest) = text.strip_prefix('{')?.split_once("} ")?;
    let (severity, rest) = rest.split_once(" error: ")?;
    let (kind, rest) = rest.split_once(" physical addr: ")?;
    let (addr, rest) = rest.split_once(" (mask lsb: ")?;
    let (lsb, rest) = rest.split_once(") ")?;
    let (place, fru) = rest.split_once("FRU: ").unwrap_or((rest, ""));
    let (fru_id, fru_text) = fru.trim().split_once(' ').unwrap_or((fru.trim(), ""));
    Some(extlog_record(&Extlog {
        sequence: sequence.parse().ok(),
        severity,
        kind,
        addr: u64::from_str_radix(addr, 16).ok()?,
        lsb: u8::from_str_radix(lsb, 16).ok(),
        place,
        fru_id,
        fru_text,
    }))
}

/// What a line of `extlog_mem_event` says, the kernel's or rasdaemon's.
pub(crate) struct Extlog<'a> {
    pub(crate) sequence: Option<u64>,
    /// In words, as the type of the error is.
    pub(crate) severity: &'a str,
    pub(crate) kind: &'a str,
    /// All ones where there is none.
    pub(crate) addr: u64,
    /// Lowest valid bit of the address.
    pub(crate) lsb: Option<u8>,
    /// `node: 0 card: 1`.
    pub(crate) place: &'a str,
    pub(crate) fru_id: &'a str,
    pub(crate) fru_text: &'a str,
}

/// The words for severity and type are kept, the address is read.
pub(crate) fn extlog_record(said: &Extlog<'_>) -> ErrorRecord {
    let lsb = said.lsb.filter(|lsb| *lsb < 64).unwrap_or(PAGE_SHIFT.to_le_bytes()[0]);
    let number = match said.severity {
        "recoverable" => 0,
        "fatal" => 1,
        "corrected" => 2,
        "info" | "informational" => 3,
        _ => u32::MAX,
    };
    let (severity, reason) = crate::cper::severity(number);
    let mut record = ErrorRecord {
        class: ErrorClass::Memory,
        severity,
        severity_reason: reason.into(),
        ..ErrorRecord::new(ras_core::ErrorSource::ExtlogMem)
    };
    if said.addr != u64::MAX {
        record.address = Some(ErrorAddress {
            addr: ras_core::PhysAddr(said.addr >> lsb << lsb),
            lsb,
            mode: AddressMode::Physical,
        });
    }
    record.details.add_some("err_seq", said.sequence);
    record.details.add("error_type", said.kind.to_string());
    edac_pairs(said.place, &mut record);
    if !said.fru_id.is_empty() {
        record.details.add("fru_id", said.fru_id.to_string());
    }
    let fru = said.fru_text.trim();
    record.location.fru = (!fru.is_empty()).then(|| SmolStr::new(fru));
    let phrase = mca::phrase(severity);
    let at = record.address.map_or_else(String::new, |at| alloc::format!(", at {}", at.addr));
    record.summary = alloc::format!("memory error ({}), {phrase}{at}", said.kind);
    record
}

/// `node:0 card:1 row:4`, some of them with a blank after the colon.
fn edac_pairs(text: &str, record: &mut ErrorRecord) {
    crate::text::edac_detail::take(&text.replace(": ", ":"), record);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;
    use ras_core::{ErrorSource, Severity};

    const HEAD: &str = "          <idle>-0       [003] d.h1.  1234.567890: ";

    fn read(text: &str) -> ErrorRecord {
        decode(&format!("{HEAD}{text}")).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn machine_checks_of_two_kernels() {
        let newer = read(
            "mce_record: CPU: 3, MCGc/s: f000c1c/5, MC13: bd000000001000c3, IPID: 0000000000000000, \
             ADDR: 000000073f214000, MISC: 000000000000008c, SYND: 0000000000000000, \
             RIP: 10:<ffffffff81000000>, TSC: 1a, PPIN: 2b, vendor: 0, CPUID: 606a6, \
             time: 1700000000, socket: 1, APIC: c, microcode: d0003a5",
        );
        let older = read(
            "mce_record: CPU: 3, MCGc/s: f000c1c/5, MC13: bd000000001000c3, IPID: 0000000000000000, \
             ADDR/MISC/SYND: 000000073f214000/000000000000008c/0000000000000000, \
             RIP: 10:<ffffffff81000000>, TSC: 1a, PROCESSOR: 0:606a6, TIME: 1700000000, \
             SOCKET: 1, APIC: c",
        );
        for record in [&newer, &older] {
            assert_eq!(record.severity, Severity::Srao);
            assert_eq!(record.time, Some(Timestamp::from_secs(1_700_000_000)));
            assert_eq!((record.location.cpu, record.location.socket), (Some(3), Some(1)));
        }
        let Raw::Mca(registers) = &newer.raw else { panic!("{newer:?}") };
        assert_eq!((registers.bank, registers.cs, registers.microcode), (13, 0x10, 0x0d00_03a5));
        assert_eq!((registers.apic_id, registers.ppin), (0xc, 0x2b));
    }

    #[test]
    fn edac_s_sentence() {
        let record = read(
            "mc_event: 2 Corrected errors: memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (mc:0 \
             location:0:0:-1 address:0x123456780 grain:32 syndrome:0x00000000 err_code:0x0101:0x0090 \
             socket:0 imc:0 rank:1 row:0x2f)",
        );
        assert_eq!((record.count, record.severity), (2, Severity::Corrected));
        assert_eq!(record.location.fru.as_deref(), Some("CPU_SrcID#0_MC#0_Chan#0_DIMM#0"));
        assert_eq!((record.location.dimm.rank, record.location.dimm.row), (Some(1), Some(0x2f)));
        assert_eq!(record.address.map(|at| (at.addr.0, at.lsb)), Some((0x1_2345_6780, 5)));
        let clock = record.details.iter().find(|detail| detail.name == "trace_clock_ns").unwrap();
        assert_eq!(clock.value, ras_core::Value::Number(1_234_567_890_000));
    }

    #[test]
    fn the_other_events() {
        let aer = read(
            "aer_event: 0000:3b:00.0 PCIe Bus Error: severity=Uncorrected, non-fatal, Poisoned TLP, \
             TLP Header={0x1,0x2,0x3,0x4}",
        );
        assert_eq!((aer.source, aer.severity), (ErrorSource::AerEvent, Severity::Ucna));
        assert_eq!(aer.summary, "PCIe 0000:3b:00.0: Poisoned TLP, uncorrected, not fatal");
        let failure =
            read("memory_failure_event: pfn 0x1234: recovery action for dirty LRU page: Recovered");
        assert_eq!(failure.pages().map(|pages| pages.start), Some(Pfn(0x1234)));
        let section = read(
            "ras:non_standard_event: severity: 1; sec type:b4efb980-b552-e34d-a777-68784b771048; \
             FRU: 00000000-0000-0000-0000-000000000000 slot 3; data len:4; raw data:01 02 03 04",
        );
        assert_eq!(section.location.fru.as_deref(), Some("slot 3"));
        let Raw::Section { section_type, bytes } = &section.raw else { panic!("{section:?}") };
        assert_eq!(section_type.to_string(), "80b9efb4-52b5-4de3-a777-68784b771048");
        assert_eq!(bytes, &[1, 2, 3, 4]);
        let arm = read(
            "arm_event: cpu: 3; error: 1; affinity level: 255; MPIDR: 0000000081000300; \
             MIDR: 00000000411fd0c1; running state: 1; PSCI state: 0",
        );
        assert_eq!((arm.location.cpu, arm.severity), (Some(3), Severity::Corrected));
        let extlog = read(
            "extlog_mem_event: {7} corrected error: single-bit ECC physical addr: 0000000123456780 \
             (mask lsb: 6) node:1 card:0 module:0 row:4 FRU: 00000000-0000-0000-0000-000000000000 DIMM_A1",
        );
        assert_eq!((extlog.severity, extlog.location.dimm.row), (Severity::Corrected, Some(4)));
        assert_eq!(extlog.location.fru.as_deref(), Some("DIMM_A1"));
    }

    #[test]
    fn other_lines_are_passed_over() {
        for line in [
            "",
            "# tracer: nop",
            "sched_switch: prev_comm=x",
            "mc_event: nonsense",
            "mce_record: CPU: 3",
        ] {
            assert_eq!(decode(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_decoded_or_passed_over(text in ".{0,200}", event in 0usize..8) {
            let name = EVENTS.get(event).map_or("cxl_dram", |(name, _)| *name);
            let _ = decode(&format!("{HEAD}{name}: {text}"));
        }

        #[test]
        fn a_damaged_line_is_decoded_or_passed_over(at in 0usize..300, with in ".") {
            let mut line: Vec<char> = "mc_event: 2 Corrected errors: memory read error on X (mc:0 \
                location:0:0:-1 address:0x123 grain:32 syndrome:0x0 a:b)".chars().collect();
            let at = at % line.len();
            line[at] = with.chars().next().unwrap_or(' ');
            let _ = decode(&line.into_iter().collect::<String>());
        }
    }
}
