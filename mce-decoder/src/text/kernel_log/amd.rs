//! Machine checks as the kernel explains them on AMD's and Hygon's processors.
//!
//! ```text
//!  Deferred error, no action required.
//!  CPU:65 (19:11:1) MC21_STATUS[-|-|-|AddrV|-|-|SyndV|UECC|Deferred|-|Scrub]: 0x942031000400011b
//!  Error Addr: 0x0000000006350a00
//!  PPIN: 0x02b69e294c148024
//!  IPID: 0x0000109600250f00, Syndrome: 0x9a4a00000b800000
//!  Unified Memory Controller Ext. Error Code: 0, DRAM ECC error.
//!  cache level: L3/GEN, tx: GEN, mem-tx: RD
//! ```
//! Linux `drivers/edac/mce_amd.c`. The registers are decoded anew; what the kernel made of them is
//! kept beside that.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;

use ras_core::{CpuVendor, Details, ErrorSource, McaRegisters, Problem, ProblemKind, Value};

use super::{Line, Options, Stamp};
use crate::mca::{self, Context};
use crate::text::Found;
use crate::text::bytes::{self, decimal, hex, narrow, whole_hex, whole_number};

/// Lines of explanation kept of one error. The kernel writes two to four.
const SAID_MAX: usize = 8;

/// Lines after which an error that nobody ended is taken for complete.
const PATIENCE: u64 = 16;

/// Family of Hygon's processors: AMD has none of that number.
const HYGON_FAMILY: u64 = 0x18;

/// The error that is being explained.
#[derive(Debug, Default)]
pub(super) struct AmdText {
    open: Option<Open>,
    /// Explanations that came before the registers, and the first one's line.
    before: Vec<String>,
    begun: Option<(u64, Stamp)>,
    /// Of the last line that was taken.
    last: u64,
}

#[derive(Debug)]
struct Open {
    offset: u64,
    stamp: Stamp,
    registers: McaRegisters,
    cpu: Option<u32>,
    said: Vec<String>,
    problems: Vec<Problem>,
}

/// How the kernel begins to explain an error: the words that say how bad it is, or where.
const OPENINGS: &[&[u8]] = &[
    b"Corrected error, no action required",
    b"Deferred error",
    b"System Fatal error",
    b"Uncorrected, software ",
    b"Uncorrected error",
    b"Machine Check: ",
    b"Error Status: ",
    b"Northbridge Error",
];

impl AmdText {
    /// Whether `text` was of such an explanation.
    pub(super) fn line(
        &mut self,
        text: &[u8],
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        let ours = self.take(text, line, options, found);
        if ours {
            self.last = line.number;
        }
        ours
    }

    fn take(
        &mut self,
        text: &[u8],
        line: &Line<'_>,
        options: &Options,
        found: &mut Vec<Found>,
    ) -> bool {
        if let Some(registers) = status(text) {
            self.end(found);
            let (offset, stamp) = self.begun.take().unwrap_or((line.offset, line.stamp));
            let (cpu, mut registers) = registers;
            if registers.cpuid == 0 {
                registers.cpuid = options.cpuid.unwrap_or(0);
                registers.vendor = options.vendor.unwrap_or(CpuVendor::Amd);
            }
            let said = take(&mut self.before);
            self.open = Some(Open { offset, stamp, registers, cpu, said, problems: Vec::new() });
            return true;
        }
        if OPENINGS.iter().any(|opening| text.starts_with(opening)) || bank_error(text) {
            let again = self.open.is_some();
            // `Error Status` follows the explanation of the bank on older kernels.
            if again {
                self.end(found);
            }
            self.begun.get_or_insert((line.offset, line.stamp));
            keep(&mut self.before, text);
            return true;
        }
        let Some(open) = &mut self.open else { return false };
        if open.register(text, line.offset) {
            return true;
        }
        let last = [&b"cache level:"[..], b"internal:", b"Transaction: "];
        let explains = bytes::find(text, b"Ext. Error Code").is_some()
            || last.iter().any(|word| text.starts_with(word))
            || [&b"MC"[..], b"Bus", b"Memory Error"].iter().any(|word| text.starts_with(word));
        if !explains {
            return false;
        }
        keep(&mut open.said, text);
        if last.iter().any(|word| text.starts_with(word)) {
            self.end(found);
        }
        true
    }

    pub(super) fn expire(&mut self, now: u64, found: &mut Vec<Found>) {
        if self.begun.is_none() && self.open.is_none() {
            return;
        }
        if now.saturating_sub(self.last) > PATIENCE {
            self.finish(found);
        }
    }

    pub(super) fn finish(&mut self, found: &mut Vec<Found>) {
        self.end(found);
        self.begun = None;
        self.before.clear();
    }

    fn end(&mut self, found: &mut Vec<Found>) {
        found.extend(self.open.take().map(Open::finish));
    }
}

/// `MC4 Error (node 1): DRAM ECC error detected on the NB.`, `MC0 Error: ...`.
fn bank_error(text: &[u8]) -> bool {
    let bank = text.strip_prefix(b"MC").and_then(decimal);
    bank.is_some_and(|(_, rest)| rest.starts_with(b" Error"))
}

fn keep(said: &mut Vec<String>, text: &[u8]) {
    if said.len() < SAID_MAX {
        said.push(bytes::text(text));
    }
}

/// `CPU:65 (19:11:1) MC21_STATUS[...]: 0x942031000400011b`; older kernels leave the processor's
/// family, or all of it out.
fn status(text: &[u8]) -> Option<(Option<u32>, McaRegisters)> {
    let mut registers = McaRegisters::default();
    let mut rest = text;
    let mut cpu = None;
    if let Some(after) = text.strip_prefix(b"CPU:") {
        let (number, after) = decimal(after)?;
        cpu = narrow(number);
        rest = after.trim_ascii_start();
        if let Some(signature) = rest.strip_prefix(b"(") {
            let (family, after) = hex(signature)?;
            let (model, after) = hex(after.strip_prefix(b":")?)?;
            let (stepping, after) = hex(after.strip_prefix(b":")?)?;
            registers.cpuid = cpuid(family, model, stepping)?;
            registers.vendor =
                if family == HYGON_FAMILY { CpuVendor::Hygon } else { CpuVendor::Amd };
            rest = after.strip_prefix(b")")?.trim_ascii_start();
        }
    }
    let (bank, rest) = decimal(rest.strip_prefix(b"MC")?)?;
    let rest = rest.strip_prefix(b"_STATUS")?;
    let (_flags, status) = bytes::rsplit(rest, b":")?;
    registers.bank = narrow(bank)?;
    registers.status = whole_hex(status)?;
    Some((cpu, registers))
}

/// CPUID leaf 1, EAX, of a family, a model and a stepping as Linux counts them, the extended ones
/// added. AMD's APM vol. 3, "CPUID Fn0000_0001_EAX"; Intel's SDM vol. 2A, "CPUID".
pub(crate) fn cpuid(family: u64, model: u64, stepping: u64) -> Option<u32> {
    let (family, extended_family) = if family > 0x0f { (0x0f, family - 0x0f) } else { (family, 0) };
    if extended_family > 0xff || model > 0xff || stepping > 0x0f {
        return None;
    }
    narrow(extended_family << 20 | model >> 4 << 16 | family << 8 | (model & 0x0f) << 4 | stepping)
}

impl Open {
    /// Whether `text` was a register's line.
    fn register(&mut self, text: &[u8], offset: u64) -> bool {
        let mut ours = false;
        for pair in text.split(|byte| *byte == b',') {
            let Some((key, value)) = bytes::split(pair, b":") else { continue };
            let registers = &mut self.registers;
            let to = match key.trim_ascii() {
                b"Error Addr" => &mut registers.addr,
                b"PPIN" => &mut registers.ppin,
                b"IPID" => &mut registers.ipid,
                b"Syndrome" => &mut registers.synd,
                b"Syndrome1" => &mut registers.synd1,
                b"Syndrome2" => &mut registers.synd2,
                b"TSC" => &mut registers.tsc,
                key if key.starts_with(b"MC") && key.ends_with(b"_ADDR") => &mut registers.addr,
                key if key.starts_with(b"MC") && key.ends_with(b"_MISC") => &mut registers.misc,
                _ => continue,
            };
            ours = true;
            match whole_number(value) {
                Some(value) => *to = value,
                None => self.problems.push(Problem {
                    offset,
                    kind: ProblemKind::Malformed,
                    detail: alloc::format!("{} is not a number", bytes::text(pair)),
                }),
            }
        }
        ours
    }

    fn finish(self) -> Found {
        let context = Context { time: self.stamp.time, cpu: self.cpu, socket: None };
        let mut record = mca::decode(&self.registers, context);
        record.source = ErrorSource::KernelMce;
        for problem in &mut record.problems {
            problem.offset = self.offset;
        }
        record.problems.extend(self.problems);
        self.stamp.add_to(&mut record.details);
        if !self.said.is_empty() {
            let said = self.said.into_iter().map(Value::from).collect();
            record.details.add("kernel_says", Value::List(said));
        }
        Found::new(self.offset, record)
    }
}
