//! mcelog's text: what it prints, and what `mcelog --ascii` takes.
//!
//! ```text
//!  Hardware event. This is not a software error.          CPU 0 2
//!  MCE 0                                                  PROCESSOR 0:0x106a0
//!  CPU 1 BANK 8 TSC 1193fd60c6699                         MCGCAP 0x400
//!  MISC 8f44960800095840 ADDR 4a9f3b1c0                   STATUS 0x880000c0000000b2
//!  STATUS cc0004800001009f MCGSTATUS 0                    MISC 0x00080000
//!  CPUID Vendor Intel Family 6 Model 26 Step 5
//! ```
//! The registers are decoded anew; of what mcelog made of them, only a count is looked at.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{
    CpuVendor, Details, ErrorRecord, ErrorSource, McaRegisters, Problem, ProblemKind, Timestamp,
};

use super::bytes::{self, decimal, hex, narrow, word};
use super::kernel_log::{Options, Stamp, cpuid, prefix};
use super::{Found, LineDecoder};
use crate::mca::{self, Context};
use crate::trace::mce_record::vendor;

/// Lines an event may take: mcelog's longest explanations stay below half of it.
const LINES_MAX: u32 = 64;

/// Problems kept of one event.
const PROBLEMS_MAX: usize = 8;

/// mcelog's number for an event that has no bank: the processor's own heat.
const THERMAL_BANK: u8 = 128;

/// Old versions of mcelog name no processor, so that nothing tells which bits of the status are a count: here
/// its decoder of Intel's Nehalem (`nehalem.c`) says so. Neither model nor SER_P follow from it.
const COUNT: &[u8] = b"Memory corrected error count (CORE_ERR_CNT):";

/// Decodes mcelog's text line by line.
#[derive(Debug, Default)]
pub struct Mcelog {
    options: Options,
    event: Option<Event>,
}

#[derive(Debug, Default)]
struct Event {
    offset: u64,
    stamp: Stamp,
    registers: McaRegisters,
    context: Context,
    has_cpu: bool,
    has_bank: bool,
    has_status: bool,
    ip_inexact: bool,
    /// What mcelog printed as [`COUNT`].
    count: Option<u32>,
    problems: Vec<Problem>,
    lines: u32,
}

impl Mcelog {
    /// A decoder of text about which `options` are known.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, event: None }
    }

    /// Whether an event has begun.
    pub(super) fn is_open(&self) -> bool {
        self.event.is_some()
    }

    /// Takes a line that a log's prefix was already taken off.
    pub(super) fn text(&mut self, text: &[u8], stamp: Stamp, offset: u64, found: &mut Vec<Found>) {
        let text = text.trim_ascii();
        // Comments of mcelog's own test inputs.
        if text.starts_with(b"#") {
            return;
        }
        let begins = is_opening(text);
        let named = text.starts_with(b"CPU ")
            && self.event.as_ref().is_none_or(|event| event.has_cpu || event.lines > LINES_MAX);
        let between = text.is_empty() && self.event.as_ref().is_some_and(|event| event.has_status);
        if begins && self.event.as_ref().is_some_and(|event| event.has_cpu) || named || between {
            self.end(found);
        }
        if begins || text.is_empty() {
            if begins {
                self.event.get_or_insert_with(|| Event { offset, stamp, ..Event::default() });
            }
            return;
        }
        let options = &self.options;
        if named {
            self.event = Some(Event {
                offset,
                stamp,
                registers: McaRegisters {
                    vendor: options.vendor.unwrap_or_default(),
                    cpuid: options.cpuid.unwrap_or(0),
                    ..McaRegisters::default()
                },
                ..Event::default()
            });
        }
        if let Some(event) = &mut self.event {
            event.lines = event.lines.saturating_add(1);
            if event.lines <= LINES_MAX {
                event.take(text, offset);
            }
        }
    }

    fn end(&mut self, found: &mut Vec<Found>) {
        found.extend(self.event.take().and_then(Event::finish));
    }
}

impl LineDecoder for Mcelog {
    fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
        let line = line.get(..4096).unwrap_or(line);
        let prefix = prefix::parse(line, &self.options);
        self.text(prefix.text, prefix.stamp, offset, found);
    }

    fn finish(&mut self, found: &mut Vec<Found>) {
        self.end(found);
    }
}

/// `MCE 0` and the sentences around it.
pub(super) fn is_opening(text: &[u8]) -> bool {
    match text {
        [b'M', b'C', b'E', b' ', number @ ..] => {
            decimal(number).is_some_and(|(_, rest)| rest.is_empty())
        }
        [b'H', ..] => {
            text.starts_with(b"Hardware event. This is not a software error")
                || text.starts_with(b"HARDWARE ERROR. This is NOT a software problem")
        }
        _ => false,
    }
}

impl Event {
    /// Takes `KEY value` pairs. A line that begins with none is mcelog's explanation.
    fn take(&mut self, text: &[u8], offset: u64) {
        let mut rest = text;
        while !rest.is_empty() {
            let (key, after) = word(rest);
            match self.pair(key, after) {
                Pair::Taken(after) => rest = after.trim_ascii_start(),
                Pair::Other => {
                    let count = text.strip_prefix(COUNT).and_then(bytes::whole_number);
                    self.count = self.count.or(count.and_then(narrow));
                    return;
                }
                Pair::Wrong => {
                    if self.problems.len() < PROBLEMS_MAX {
                        let detail = format!(
                            "{} can't be read",
                            bytes::text(rest.get(..80).unwrap_or(rest))
                        );
                        let kind = ProblemKind::Malformed;
                        self.problems.push(Problem { offset, kind, detail });
                    }
                    return;
                }
            }
        }
    }

    fn pair<'a>(&mut self, key: &[u8], value: &'a [u8]) -> Pair<'a> {
        let registers = &mut self.registers;
        let to = match key {
            b"TSC" => &mut registers.tsc,
            b"ADDR" => &mut registers.addr,
            b"MISC" => &mut registers.misc,
            b"MCGCAP" => &mut registers.mcg_cap,
            b"MCGSTATUS" => &mut registers.mcg_status,
            b"PPIN" => &mut registers.ppin,
            b"SYND" => &mut registers.synd,
            b"IPID" => &mut registers.ipid,
            b"SYND1" => &mut registers.synd1,
            b"SYND2" => &mut registers.synd2,
            b"STATUS" => {
                self.has_status = true;
                &mut registers.status
            }
            _ => return self.other(key, value).unwrap_or(Pair::Wrong),
        };
        match hex(value) {
            Some((bits, rest)) => {
                *to = bits;
                Pair::Taken(rest)
            }
            None => Pair::Wrong,
        }
    }

    /// Pairs that are no plain register. `None` where the value can't be read.
    fn other<'a>(&mut self, key: &[u8], value: &'a [u8]) -> Option<Pair<'a>> {
        let registers = &mut self.registers;
        Some(Pair::Taken(match key {
            b"CPU" => {
                let (cpu, rest) = decimal(value)?;
                self.context.cpu = narrow(cpu);
                self.has_cpu = true;
                // `CPU 1 BANK 8`, `CPU 1 8`, `CPU 1 4 northbridge TSC …`, `CPU 0 THERMAL EVENT TSC …`.
                let rest = rest.trim_ascii_start();
                if let Some((bank, rest)) = decimal(rest) {
                    registers.bank = narrow(bank)?;
                    self.has_bank = true;
                    bytes::find(rest, b"TSC ").and_then(|at| rest.get(at..)).unwrap_or_default()
                } else if let Some(rest) = rest.strip_prefix(b"THERMAL EVENT") {
                    registers.bank = THERMAL_BANK;
                    self.has_bank = true;
                    rest
                } else {
                    rest
                }
            }
            b"BANK" => {
                let (bank, rest) = decimal(value)?;
                registers.bank = narrow(bank)?;
                self.has_bank = true;
                rest
            }
            b"TIME" => {
                let (seconds, _date) = decimal(value)?;
                if seconds != 0 {
                    self.context.time = Some(Timestamp::from_secs(seconds));
                }
                b""
            }
            b"SOCKETID" | b"SOCKET" => {
                let (socket, rest) = bytes::number(value)?;
                self.context.socket = Some(narrow(socket)?);
                rest
            }
            b"APICID" | b"APIC" => {
                let (apic_id, rest) = hex(value)?;
                registers.apic_id = narrow(apic_id)?;
                rest
            }
            b"MICROCODE" | b"microcode" => {
                let (microcode, rest) = hex(value)?;
                registers.microcode = narrow(microcode)?;
                rest
            }
            b"PROCESSOR" => {
                let (maker, rest) = decimal(value)?;
                let (signature, rest) = hex(rest.strip_prefix(b":")?)?;
                registers.vendor = vendor(narrow(maker)?);
                registers.cpuid = narrow(signature)?;
                rest
            }
            b"RIP" => {
                let inexact = value.strip_prefix(b"!INEXACT!");
                self.ip_inexact |= inexact.is_some();
                let (cs, rest) = hex(inexact.unwrap_or(value).trim_ascii_start())?;
                let rest = rest.strip_prefix(b":")?;
                let (ip, _symbol) = hex(rest.strip_prefix(b"<").unwrap_or(rest))?;
                (registers.cs, registers.ip) = (narrow(cs)?, ip);
                b""
            }
            b"CPUID" => {
                let (maker, signature) = identity(value)?;
                registers.vendor = maker;
                // What `PROCESSOR` said is exact; this is what mcelog made of it.
                if registers.cpuid == 0 {
                    registers.cpuid = signature;
                }
                b""
            }
            _ => return Some(Pair::Other),
        }))
    }

    /// `None` where no event ever came after its opening.
    fn finish(mut self) -> Option<Found> {
        if !self.has_cpu && !self.has_status {
            return None;
        }
        let offset = self.offset;
        let mut lack = |lacking: &str| {
            self.problems.push(Problem {
                offset,
                kind: ProblemKind::Truncated,
                detail: format!("the event's {lacking} is missing"),
            });
        };
        if !self.has_bank {
            lack("bank");
        }
        let mut record = if self.has_status {
            let context = Context { time: self.context.time.or(self.stamp.time), ..self.context };
            mca::decode(&self.registers, context)
        } else {
            lack("status");
            let mut record = ErrorRecord::new(ErrorSource::Mcelog);
            record.time = self.context.time.or(self.stamp.time);
            record.location.cpu = self.context.cpu;
            record.location.socket = self.context.socket;
            record.summary = "machine check, without its status".into();
            record.severity_reason = "the status is missing".into();
            record.details.add("bank", self.registers.bank);
            for (name, bits) in [("addr", self.registers.addr), ("misc", self.registers.misc)] {
                if bits != 0 {
                    record.details.add_hex(name, bits);
                }
            }
            record
        };
        record.source = ErrorSource::Mcelog;
        if let Some(count) = self.count.filter(|_| self.registers.vendor == CpuVendor::default()) {
            record.count = count.max(1);
            record.details.add("corrected_count", count);
        }
        for problem in &mut record.problems {
            problem.offset = offset;
        }
        record.problems.append(&mut self.problems);
        self.stamp.add_to(&mut record.details);
        if self.ip_inexact {
            record.details.add("ip_inexact", true);
        }
        Some(Found::new(offset, record))
    }
}

enum Pair<'a> {
    /// Taken; what follows it.
    Taken(&'a [u8]),
    /// Not a pair: words.
    Other,
    /// A pair whose value can't be read.
    Wrong,
}

/// `Vendor Intel Family 6 Model 85 Step 4`, in decimal.
fn identity(text: &[u8]) -> Option<(CpuVendor, u32)> {
    let rest = text.strip_prefix(b"Vendor ")?;
    let (maker, rest) = bytes::split(rest, b" Family ")?;
    let (family, rest) = decimal(rest)?;
    let (model, rest) = decimal(rest.strip_prefix(b" Model ")?)?;
    let stepping = rest.strip_prefix(b" Step ").and_then(decimal).map_or(0, |(step, _)| step);
    let maker = match maker.trim_ascii() {
        b"Intel" => CpuVendor::Intel,
        b"AMD" => CpuVendor::Amd,
        b"Hygon" => CpuVendor::Hygon,
        b"Centaur" | b"Zhaoxin" => CpuVendor::Zhaoxin,
        _ => CpuVendor::default(),
    };
    Some((maker, cpuid(family, model, stepping)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;
    use ras_core::Raw;

    fn decode(text: &str) -> Vec<Found> {
        let mut mcelog = Mcelog::default();
        let mut found = vec![];
        let mut offset = 0;
        for line in text.split('\n') {
            mcelog.line(line.as_bytes(), offset, &mut found);
            offset += line.len() as u64 + 1;
        }
        mcelog.finish(&mut found);
        found
    }

    fn registers(found: &Found) -> &McaRegisters {
        let Raw::Mca(registers) = &found.record.raw else { panic!("{found:?}") };
        registers
    }

    const OUTPUT: &str = "\
mcelog: Hardware event. This is not a software error.
mcelog: MCE 0
mcelog: CPU 19 BANK 14 TSC f3086e49d7de [at 2000 Mhz 1 days 18:56:49 uptime (unreliable)]
mcelog: RIP !INEXACT! 10:ffffffff816ab6a5
mcelog: MISC 900010080000086 ADDR 5f14903680
mcelog: TIME 1556364329 Sat Apr 27 19:25:29 2019
mcelog: MCG status:RIPV MCIP
mcelog: MCi status:
mcelog: Uncorrected error
mcelog: MCA: MEMORY CONTROLLER MS_CHANNEL1_ERR
mcelog: STATUS fd001dc0001000c1 MCGSTATUS 5
mcelog: MCGCAP f000814 APICID 60 SOCKETID 1
mcelog: PPIN fd003dc0001000c1
mcelog: CPUID Vendor Intel Family 6 Model 85 Step 4
";

    #[test]
    fn what_mcelog_prints() {
        let found = decode(&OUTPUT.repeat(2));
        assert_eq!(found.len(), 2);
        let expected = McaRegisters {
            vendor: CpuVendor::Intel,
            cpuid: 0x50654,
            bank: 14,
            mcg_cap: 0xf00_0814,
            mcg_status: 5,
            status: 0xfd00_1dc0_0010_00c1,
            addr: 0x5f_1490_3680,
            misc: 0x0900_0100_8000_0086,
            tsc: 0xf308_6e49_d7de,
            ip: 0xffff_ffff_816a_b6a5,
            cs: 0x10,
            ppin: 0xfd00_3dc0_0010_00c1,
            apic_id: 0x60,
            ..McaRegisters::default()
        };
        assert_eq!(registers(&found[1]), &expected);
        let record = &found[1].record;
        assert_eq!(found[1].offset, OUTPUT.len() as u64);
        assert_eq!((record.source, record.location.socket), (ErrorSource::Mcelog, Some(1)));
        assert_eq!(record.time, Some(Timestamp::from_secs(1_556_364_329)));
        assert_eq!(record.problems, []);
    }

    #[test]
    fn what_mcelog_takes() {
        let found = decode(
            "# memory error\nCPU 0 2\n# nehalem\nPROCESSOR 0:0x106a0\nMCGCAP 0x400\nSOCKETID 1\n\
             STATUS 0x880000c0000000b2\nMISC 0x00080000\n\n\nCPU 1 BANK 17\nSTATUS dc2040000000011b\n\
             SYND 1 IPID 9600050f00\nPROCESSOR 2:a20f10\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!((registers(&found[0]).misc, registers(&found[0]).bank), (0x80000, 2));
        assert_eq!((registers(&found[1]).ipid, registers(&found[1]).synd), (0x96_0005_0f00, 1));
        assert!(found.iter().all(|found| found.record.problems.is_empty()));
    }

    #[test]
    fn raw_form_and_missing_parts() {
        let found = decode(
            "CPU 3\nBANK 7\nTSC 0x1\nADDR 0x1000\nSTATUS 0x8c00004000010090\nPROCESSOR 0:0x50654\n",
        );
        assert_eq!((found.len(), registers(&found[0]).bank), (1, 7));
        assert_eq!(found[0].record.problems, []);
        let found = decode("MCE 0\nCPU 1 BANK 8 ADDR 1000\n");
        assert_eq!(found[0].record.problems[0].detail, "the event's status is missing");
        let found = decode("CPU 0 THERMAL EVENT TSC 0\nSTATUS 1 MCGSTATUS x\n");
        assert_eq!(registers(&found[0]).bank, 128);
        assert!(found[0].record.problems.iter().any(|p| p.kind == ProblemKind::Malformed));
        assert!(decode("Hardware event. This is not a software error.\nMCE 0\n").is_empty());
    }

    proptest! {
        #[test]
        fn any_lines_are_decoded_or_passed_over(
            lines in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(OUTPUT.lines().map(String::from).collect::<Vec<_>>()),
                    "(CPU|BANK|STATUS|RIP|TIME|CPUID Vendor) [0-9a-fx: ]{0,20}",
                    ".{0,40}",
                ], 0..40)
        ) {
            for Found { record, .. } in decode(&lines.join("\n")) {
                prop_assert_eq!(record.source, ErrorSource::Mcelog);
                prop_assert!(!record.summary.is_empty());
            }
        }
    }
}
