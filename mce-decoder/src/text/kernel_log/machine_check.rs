//! Machine checks as the kernel prints registers, one bank in several lines.
//!
//! ```text
//!  CPU 18: Machine Check Exception: 5 Bank 7: be00000001010091     MCG_STATUS, STATUS
//!  RIP !INEXACT! 10:<ffffffffac58472a> {function+0x4a/0x60}        EIPV is not set
//!  TSC ae4b410af0b8 ADDR 314d193000 MISC 200400c008002086          and PPIN, SYND, IPID
//!  PROCESSOR 0:50657 TIME 1605843017 SOCKET 1 APIC 40 microcode 5000021
//! ```
//! Linux `arch/x86/kernel/cpu/mce/core.c`, and `skx_common.c`, `sb_edac.c`, `i7core_edac.c` under
//! `drivers/edac`, which put each register on a line of its own.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::mem::take;

use ras_core::{
    Detail, Details, ErrorRecord, ErrorSource, McaRegisters, Problem, ProblemKind, Timestamp, Value,
};

use super::{Line, Options};
use crate::mca::status::MciStatus;
use crate::mca::{self, Context};
use crate::text::Found;
use crate::text::bytes::{self, decimal, hex, narrow, word};
use crate::trace::mce_record::vendor;

/// Groups open at once: processors whose lines are mixed. Kernels print them under a lock, so that
/// even two are rare.
const OPEN_MAX: usize = 32;

/// Lines without a word of a group after which nothing more is expected of it.
const PATIENCE: u64 = 64;

/// Kinds of lines a group has at most one of, by their first word.
const STATUS: u16 = 1;
const RIP: u16 = 1 << 1;
const TSC: u16 = 1 << 2;
const PROCESSOR: u16 = 1 << 3;
const ADDR: u16 = 1 << 4;

const fn part(key: &[u8]) -> Option<u16> {
    Some(match key {
        b"TSC" => TSC,
        b"PROCESSOR" => PROCESSOR,
        b"RIP" => RIP,
        b"ADDR" => ADDR,
        b"MISC" => 1 << 5,
        b"PPIN" => 1 << 6,
        b"SYND" => 1 << 7,
        b"IPID" => 1 << 8,
        b"SYND1" => 1 << 9,
        b"SYND2" => 1 << 10,
        b"TIME" => 1 << 11,
        b"SOCKET" => 1 << 12,
        b"APIC" => 1 << 13,
        b"microcode" => 1 << 14,
        _ => return None,
    })
}

/// Machine checks that have begun.
#[derive(Debug, Default)]
pub(super) struct MachineChecks {
    open: Vec<Group>,
    /// Of the last line that belonged to one of them.
    last: u64,
}

#[derive(Debug)]
struct Group {
    offset: u64,
    stamp: super::Stamp,
    owner: Owner,
    /// Which lines were there.
    parts: u16,
    registers: McaRegisters,
    context: Context,
    details: Vec<Detail>,
    problems: Vec<Problem>,
    /// Banks of an old kernel's list were already made records.
    listed: bool,
}

/// Who printed a line, as far as it says: lines of one owner belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Unknown,
    Caller(u8, u32),
    /// An EDAC driver's memory controller.
    Edac(u32),
}

impl MachineChecks {
    /// Whether `text` was of a machine check. `edac` is the memory controller whose driver prints it.
    #[inline]
    pub(super) fn line(
        &mut self,
        text: &[u8],
        edac: Option<u32>,
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        let owner = match (edac, line.caller) {
            (Some(mc), _) => Owner::Edac(mc),
            (None, Some((kind, number))) => Owner::Caller(kind, number),
            (None, None) => Owner::Unknown,
        };
        let ours = match text.first() {
            Some(b'C') => self.header(text, owner, line, options, found),
            Some(b'B') => self.listed(text, owner, line, found),
            _ => self.registers(text, owner, line, options, found),
        };
        if ours {
            self.last = line.number;
        }
        ours
    }

    /// Completes what waits in vain for more lines.
    #[inline]
    pub(super) fn expire(&mut self, now: u64, found: &mut Vec<Found>) {
        if !self.open.is_empty() && now.saturating_sub(self.last) > PATIENCE {
            self.finish(found);
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        self.open.drain(..).for_each(|mut group| group.finish(found));
    }

    /// `CPU 18: Machine Check Exception: 5 Bank 7: be00000001010091`.
    fn header(
        &mut self,
        text: &[u8],
        owner: Owner,
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        let Some(header) = header(text) else { return self.listed(text, owner, line, found) };
        // The same processor begins anew: nothing more comes of what it had begun.
        let same = |group: &Group| group.owner == owner && group.context.cpu == Some(header.cpu);
        while let Some(at) = self.open.iter().position(same) {
            self.close(at, found);
        }
        let mut group = Group::new(owner, line, options);
        group.context.cpu = Some(header.cpu);
        group.registers.mcg_status = header.mcg_status;
        if let Some((bank, status)) = header.bank {
            (group.registers.bank, group.registers.status) = (bank, status);
            group.parts |= STATUS;
        }
        self.push(group, found);
        true
    }

    /// `Bank 4: b200000000070f0f[misc] at address`, perhaps after `CPU 0: `: kernels before 2.6.20 and
    /// all 32-bit ones before 2.6.31 print their banks so, after a header without one.
    fn listed(
        &mut self,
        text: &[u8],
        owner: Owner,
        line: &Line<'_>,
        found: &mut Vec<Found>,
    ) -> bool {
        let Some((cpu, bank)) = listed(text) else { return false };
        let begun = self.open.iter_mut().find(|group| {
            group.owner == owner
                && group.parts & STATUS == 0
                && (cpu.is_none() || cpu == group.context.cpu)
        });
        let Some(begun) = begun else { return false };
        begun.listed = true;
        let registers = McaRegisters {
            bank: bank.bank,
            status: bank.status,
            misc: bank.misc.unwrap_or(0),
            addr: bank.addr.unwrap_or(0),
            ..begun.registers.clone()
        };
        let mut group = Group {
            offset: line.offset,
            stamp: line.stamp,
            owner,
            parts: STATUS | TSC,
            registers,
            context: begun.context,
            details: Vec::new(),
            problems: Vec::new(),
            listed: false,
        };
        group.finish(found);
        true
    }

    /// A line of registers: `KEY value KEY value`.
    fn registers(
        &mut self,
        text: &[u8],
        owner: Owner,
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        let (first, rest) = word(text);
        // As little as a word in capitals is a line of this kind: it has to look like one.
        let Some(part) = part(first) else { return false };
        if !rest.first().is_some_and(|byte| byte.is_ascii_hexdigit() || *byte == b'!') {
            return false;
        }
        let at = match self.belongs(part, owner, rest) {
            Some(at) => at,
            None if !line.marked && edac_is_none(owner) => return false,
            None => {
                self.push(Group::new(owner, line, options), found);
                self.open.len().saturating_sub(1)
            }
        };
        let Some(group) = self.open.get_mut(at) else { return true };
        group.parts |= part;
        group.take(text, line.offset);
        if part == PROCESSOR {
            self.close(at, found);
        }
        true
    }

    /// The open group that a line belongs to.
    fn belongs(&mut self, part: u16, owner: Owner, rest: &[u8]) -> Option<usize> {
        let lacks = |group: &Group| group.owner == owner && group.parts & part == 0;
        let first = self.open.iter().position(lacks)?;
        if self.open.len() == 1 {
            return Some(first);
        }
        // Several processors were printing at once. What a status says about its registers tells
        // them apart at best; else it goes by their order, and the records say so.
        let has_addr = bytes::find(rest, b"ADDR").is_some();
        let fits = |group: &Group| {
            lacks(group) && MciStatus::from_bits(group.registers.status).addrv() == has_addr
        };
        let chosen = match part {
            TSC => self.open.iter().position(fits).unwrap_or(first),
            _ => first,
        };
        let mixed = self.open.iter().filter(|group| lacks(group)).count();
        if mixed > 1 {
            for group in self.open.iter_mut().filter(|group| lacks(group)) {
                group.mixed(mixed);
            }
        }
        Some(chosen)
    }

    /// Completes a group where it stands.
    fn close(&mut self, at: usize, found: &mut Vec<Found>) {
        if let Some(group) = self.open.get_mut(at) {
            group.finish(found);
            self.open.remove(at);
        }
    }

    fn push(&mut self, group: Group, found: &mut Vec<Found>) {
        if self.open.len() >= OPEN_MAX {
            self.close(0, found);
        }
        self.open.push(group);
    }
}

const fn edac_is_none(owner: Owner) -> bool {
    !matches!(owner, Owner::Edac(_))
}

struct Header {
    cpu: u32,
    mcg_status: u64,
    bank: Option<(u8, u64)>,
}

fn header(text: &[u8]) -> Option<Header> {
    let (cpu, rest) = decimal(text.strip_prefix(b"CPU ")?)?;
    let rest = rest.strip_prefix(b": Machine Check")?;
    let rest = [&b" Exception"[..], b" Event"]
        .iter()
        .find_map(|kind| rest.strip_prefix(*kind))
        .unwrap_or(rest);
    let (mcg_status, rest) = hex(rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())?;
    let rest = rest.trim_ascii_start();
    let bank = match rest.strip_prefix(b"Bank ") {
        Some(rest) => {
            let (bank, rest) = decimal(rest)?;
            let (status, _) = hex(rest.strip_prefix(b":")?.trim_ascii_start())?;
            Some((narrow(bank)?, status))
        }
        None if rest.is_empty() => None,
        None => return None,
    };
    Some(Header { cpu: narrow(cpu)?, mcg_status, bank })
}

struct Listed {
    bank: u8,
    status: u64,
    misc: Option<u64>,
    addr: Option<u64>,
}

fn listed(text: &[u8]) -> Option<(Option<u32>, Listed)> {
    let (cpu, rest) = match text.strip_prefix(b"CPU ") {
        Some(rest) => {
            let (cpu, rest) = decimal(rest)?;
            (Some(narrow(cpu)?), rest.strip_prefix(b": ")?)
        }
        None => (None, text),
    };
    let (bank, rest) = decimal(rest.strip_prefix(b"Bank ")?)?;
    let (status, rest) = hex(rest.strip_prefix(b":")?.trim_ascii_start())?;
    let (misc, rest) = match rest.strip_prefix(b"[").and_then(hex) {
        Some((misc, rest)) => (Some(misc), rest.strip_prefix(b"]").unwrap_or(rest)),
        None => (None, rest),
    };
    let addr = rest.trim_ascii_start().strip_prefix(b"at ").and_then(hex).map(|(addr, _)| addr);
    Some((cpu, Listed { bank: narrow(bank)?, status, misc, addr }))
}

impl Group {
    fn new(owner: Owner, line: &Line<'_>, options: &Options) -> Self {
        Self {
            offset: line.offset,
            stamp: line.stamp,
            owner,
            parts: 0,
            registers: McaRegisters {
                vendor: options.vendor.unwrap_or_default(),
                cpuid: options.cpuid.unwrap_or(0),
                ..McaRegisters::default()
            },
            context: Context { time: line.stamp.time, cpu: None, socket: None },
            details: Vec::new(),
            problems: Vec::new(),
            listed: false,
        }
    }

    fn problem(&mut self, offset: u64, kind: ProblemKind, detail: &str) {
        self.problems.push(Problem { offset, kind, detail: detail.to_string() });
    }

    fn mixed(&mut self, groups: usize) {
        if self.problems.iter().any(|problem| problem.kind == ProblemKind::Inconsistent) {
            return;
        }
        let detail = alloc::format!(
            "the lines of {groups} machine checks are mixed, and were told apart by their order"
        );
        self.problem(self.offset, ProblemKind::Inconsistent, &detail);
    }

    /// Takes `KEY value` pairs.
    fn take(&mut self, text: &[u8], offset: u64) {
        let mut rest = text.trim_ascii();
        while !rest.is_empty() {
            let (key, after) = word(rest);
            let Some(after) = self.pair(key, after) else {
                let shown = bytes::text(rest.get(..80).unwrap_or(rest));
                let detail =
                    alloc::format!("a machine check's line can't be read from {shown:?} on");
                self.problem(offset, ProblemKind::Malformed, &detail);
                return;
            };
            rest = after;
        }
    }

    /// Takes one pair; what follows it.
    fn pair<'a>(&mut self, key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
        let registers = &mut self.registers;
        let to = match key {
            b"TSC" => &mut registers.tsc,
            b"ADDR" => &mut registers.addr,
            b"MISC" => &mut registers.misc,
            b"PPIN" => &mut registers.ppin,
            b"SYND" => &mut registers.synd,
            b"SYND1" => &mut registers.synd1,
            b"SYND2" => &mut registers.synd2,
            b"IPID" => &mut registers.ipid,
            b"RIP" => return self.rip(value),
            b"PROCESSOR" => {
                let (maker, rest) = decimal(value)?;
                let (cpuid, rest) = hex(rest.strip_prefix(b":")?)?;
                registers.vendor = vendor(narrow(maker)?);
                registers.cpuid = narrow(cpuid)?;
                return Some(rest);
            }
            b"TIME" => {
                let (seconds, rest) = decimal(value)?;
                // Zero where the kernel found the error left over from before it booted.
                if seconds != 0 {
                    self.context.time = Some(Timestamp::from_secs(seconds));
                }
                return Some(rest);
            }
            b"SOCKET" => {
                let (socket, rest) = decimal(value)?;
                self.context.socket = Some(narrow(socket)?);
                return Some(rest);
            }
            b"APIC" => {
                let (apic_id, rest) = hex(value)?;
                registers.apic_id = narrow(apic_id)?;
                return Some(rest);
            }
            b"microcode" => {
                let (microcode, rest) = hex(value)?;
                registers.microcode = narrow(microcode)?;
                return Some(rest);
            }
            _ => return None,
        };
        let (bits, rest) = hex(value)?;
        *to = bits;
        Some(rest)
    }

    /// `!INEXACT! 10:<ffffffffac58472a> {function+0x4a/0x60}`.
    fn rip<'a>(&mut self, value: &'a [u8]) -> Option<&'a [u8]> {
        let exact = value.strip_prefix(b"!INEXACT!");
        if exact.is_some() {
            self.details.add("ip_inexact", true);
        }
        let (cs, rest) = hex(exact.unwrap_or(value).trim_ascii_start())?;
        let (ip, rest) = hex(rest.strip_prefix(b":<")?)?;
        (self.registers.cs, self.registers.ip) = (narrow(cs)?, ip);
        let rest = rest.strip_prefix(b">")?.trim_ascii_start();
        match rest.strip_prefix(b"{") {
            Some(symbol) => {
                let (symbol, rest) = bytes::split(symbol, b"}").unwrap_or((symbol, b""));
                self.details.add("ip_symbol", bytes::text(symbol));
                Some(rest)
            }
            None => Some(rest),
        }
    }

    /// Makes a record of it, unless all there was has become records already.
    fn finish(&mut self, found: &mut Vec<Found>) {
        let offset = self.offset;
        if self.parts & STATUS == 0 {
            if !self.listed {
                let record = self.headless();
                found.push(Found::new(offset, record));
            }
            return;
        }
        for (part, lacking) in [
            (
                TSC | ADDR,
                "the line with a machine check's address and further registers is missing",
            ),
            (PROCESSOR, "the line that names a machine check's processor is missing"),
        ] {
            if self.parts & part == 0 {
                self.problem(offset, ProblemKind::Truncated, lacking);
            }
        }
        let mut record = Box::new(mca::decode(&self.registers, self.context));
        record.source = ErrorSource::KernelMce;
        self.add_to(&mut record);
        found.push(Found { offset, record });
    }

    /// Only the later lines are there: no status, and so nothing to decode.
    fn headless(&mut self) -> ErrorRecord {
        let lacking = "the line with a machine check's bank and status is missing";
        self.problem(self.offset, ProblemKind::Truncated, lacking);
        let mut record = ErrorRecord {
            time: self.context.time,
            severity_reason: lacking.into(),
            summary: "machine check, without its status".into(),
            ..ErrorRecord::new(ErrorSource::KernelMce)
        };
        record.location.cpu = self.context.cpu;
        record.location.socket = self.context.socket;
        let registers = &self.registers;
        for (name, bits) in [
            ("mcg_status", registers.mcg_status),
            ("addr", registers.addr),
            ("misc", registers.misc),
            ("tsc", registers.tsc),
            ("cpuid", registers.cpuid.into()),
        ] {
            if bits != 0 {
                record.details.add(name, Value::Hex(bits));
            }
        }
        self.add_to(&mut record);
        record
    }

    fn add_to(&mut self, record: &mut ErrorRecord) {
        for problem in &mut record.problems {
            problem.offset = self.offset;
        }
        record.problems.append(&mut self.problems);
        self.stamp.add_to(&mut record.details);
        record.details.append(&mut take(&mut self.details));
    }
}
