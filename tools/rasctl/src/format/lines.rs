//! Text that a [`LineDecoder`] takes line by line.

use std::collections::VecDeque;

use mce_decoder::text::bgl::BlueGene;
use mce_decoder::text::edac_sysfs::EdacTools;
use mce_decoder::text::kernel_log::{self, KernelLog};
use mce_decoder::text::mcelog::Mcelog;
use mce_decoder::text::{Found, LineDecoder};
use mce_decoder::trace::text::{self as trace_text, TraceText};
use ras_core::{Problem, ProblemKind};

use crate::input::{Input, LINE_MAX};
use crate::read::{Options, Output, Stop};
use crate::scan::{self, Needles};

/// Lines whose numbers are remembered: an error's first line is at most so far back.
const LINES_BACK: usize = 1024;

pub(super) fn is_trace(text: &str) -> bool {
    text.lines().any(|line| trace_text::decode(line).is_some())
}

pub(super) fn trace(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    read(input, &mut TraceText::default(), output)
}

/// Longer logs are searched by all cores for lines that matter, and records have no line numbers.
const LONG: u64 = 16 << 20;

/// Words of which every line has one that begins something the kernel log's decoder knows, or goes on
/// with it after a pause. The lines right after such a line need none.
const KERNEL_WORDS: &[&str] = &[
    "ardware Error",
    "EDAC ",
    "achine check",
    "achine Check",
    "Bank ",
    "BERT: ",
    "emory failure",
    "memory error",
    "MCE 0x",
    "MCE: ",
    "offline: ",
    "offlining",
    "Unpoison: ",
    "accessed poison",
    "Bus Error: ",
    "AER: ",
    "aer_",
    "DPC: ",
    "Error of this Agent",
    "panic - not syncing",
    "NMI: ",
    "NMI received",
    "above threshold",
    "power limit",
    "Hardware event",
    "HARDWARE ERROR",
    "mcelog",
    "rasdaemon",
    "mce_record",
    "_event 2",
    "_event: 2",
    "_event [",
];

/// Words that begin with one of [`KERNEL_WORDS`] and are of no error: drivers and modes that come up.
const KERNEL_CHATTER: &[&str] = &["EDAC MC: "];

/// What a log without times before its lines begins with, when errors are all there is.
const KERNEL_BEGINNINGS: &[&str] = &[
    "[Hardware Error]:",
    ": Machine Check",
    "EDAC MC",
    "EDAC PCI",
    "EDAC DEVICE",
    "Memory failure: 0x",
    "PCIe Bus Error: severity=",
    "AER: ",
    "kernel: ",
    "rasdaemon[",
    "Kernel panic - not syncing",
    "mce: ",
];

/// Lines with the kernel's clock or syslog's date before them, or with words that only it says.
pub(super) fn is_kernel_log(text: &str) -> bool {
    let clocked = |line: &str| {
        let line = line.trim_start();
        // syslog's priority, as /dev/kmsg and serial consoles have it.
        let line =
            line.strip_prefix('<').and_then(|line| line.split_once('>')).map_or(line, |l| l.1);
        line.strip_prefix('[').and_then(|line| line.split_once(']')).is_some_and(|(clock, _)| {
            let clock = clock.trim();
            let (seconds, fraction) = clock.split_once('.').unwrap_or(("", ""));
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits(seconds) && digits(fraction)
        })
    };
    text.lines().any(clocked) || KERNEL_BEGINNINGS.iter().any(|words| text.contains(words))
}

pub(super) fn kernel_log(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut decoder = KernelLog::new(log_options(options));
    if input.size() < LONG {
        return read(input, &mut decoder, output);
    }
    let needles = Needles::new(KERNEL_WORDS).map(|needles| needles.but_for(KERNEL_CHATTER));
    let mut sink = |found: Found| output.record(found.offset, None, found.record);
    let scanned = scan::lines(&mut *input, &mut decoder, needles.as_ref(), &|_| {}, &mut sink)?;
    scanned.problems.into_iter().try_for_each(|problem| output.damage(None, problem))
}

pub(super) fn log_options(options: &Options) -> kernel_log::Options {
    kernel_log::Options {
        year: options.year,
        vendor: options.cpu.map(|cpu| cpu.vendor),
        cpuid: options.cpu.map(|cpu| cpu.cpuid),
        ..kernel_log::Options::default()
    }
}

/// mcelog's own output, and what it takes: registers by their names, a CPU before them.
pub(super) fn is_mcelog(text: &str) -> bool {
    let begins = |line: &str| {
        line.strip_prefix("CPU ")
            .and_then(|line| line.split(' ').next())
            .is_some_and(|cpu| !cpu.is_empty() && cpu.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut lines = text.lines().map(str::trim);
    text.contains("Hardware event. This is not a software error")
        || lines.clone().any(begins) && lines.any(|line| line.starts_with("STATUS "))
}

pub(super) fn mcelog(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    read(input, &mut Mcelog::new(log_options(options)), output)
}

pub(super) fn is_edac_text(text: &str) -> bool {
    let mut decoder = EdacTools::default();
    let mut found = Vec::new();
    text.lines().any(|line| {
        decoder.line(line.as_bytes(), 0, &mut found);
        !found.is_empty() || line.starts_with("Label") && line.contains("CE\tUE")
    })
}

pub(super) fn edac_text(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    read(input, &mut EdacTools::default(), output)
}

pub(super) fn is_blue_gene(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    lines.next().is_some_and(|line| line.contains(" RAS KERNEL ") || line.contains(" RAS APP "))
}

pub(super) fn blue_gene(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    read(input, &mut BlueGene::default(), output)
}

/// Feeds `decoder` all lines and hands on what it finds.
pub(super) fn read(
    input: &mut Input,
    decoder: &mut impl LineDecoder,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut found = Vec::new();
    let mut places = Places::default();
    while let Some(line) = input.line()? {
        let number = line.number;
        let cut = line.cut.then_some(line.offset);
        places.add(line.offset, number);
        let bytes = line.bytes.strip_suffix(b"\r").unwrap_or(line.bytes);
        decoder.line(bytes, line.offset, &mut found);
        hand_on(&mut found, &places, output)?;
        if let Some(offset) = cut {
            output.damage(Some(number), too_long(offset))?;
        }
    }
    decoder.finish(&mut found);
    hand_on(&mut found, &places, output)
}

pub(super) fn too_long(offset: u64) -> Problem {
    let detail = format!("line is longer than {LINE_MAX} bytes, the rest of it is not read");
    Problem { offset, kind: ProblemKind::Limit, detail }
}

fn hand_on(found: &mut Vec<Found>, places: &Places, output: &mut Output<'_>) -> Result<(), Stop> {
    for Found { offset, record } in found.drain(..) {
        output.record(offset, places.line(offset), record)?;
    }
    Ok(())
}

/// Where the last lines began.
#[derive(Default)]
struct Places(VecDeque<(u64, u64)>);

impl Places {
    fn add(&mut self, offset: u64, number: u64) {
        if self.0.len() == LINES_BACK {
            self.0.pop_front();
        }
        self.0.push_back((offset, number));
    }

    fn line(&self, offset: u64) -> Option<u64> {
        let at = self.0.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        self.0.get(at).map(|(_, number)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of line that the decoder knows, between lines that mean nothing: what a long log is
    /// searched for must not be less than what a short one is read for.
    #[test]
    fn a_search_finds_what_reading_finds() {
        const SAMPLES: &str =
            include_str!("../../../../mce-decoder/src/text/kernel_log/samples.txt");
        let noise = "[   12.345678] usb 1-1: new high-speed USB device number 2\n".repeat(40);
        let mut text = String::new();
        for line in SAMPLES.lines() {
            text += line;
            text.push('\n');
            // Each error begins its own stretch; lines of one stay together.
            if line.is_empty() {
                text += &noise;
            }
        }
        text += &noise;
        let all = |needles: Option<&Needles>| {
            let mut records = Vec::new();
            let mut sink = |found: Found| {
                records.push((found.offset, found.record.summary));
                Ok::<_, std::io::Error>(())
            };
            let mut decoder = KernelLog::default();
            scan::lines(text.as_bytes(), &mut decoder, needles, &|_| {}, &mut sink).unwrap();
            // Which of two reports is complete first depends on the lines between.
            records.sort_unstable();
            records
        };
        let needles = Needles::new(KERNEL_WORDS).unwrap();
        let (read, searched) = (all(None), all(Some(&needles)));
        assert!(read.len() > 10, "{read:?}");
        assert_eq!(searched, read);
    }

    /// Each line by itself, far from all others.
    #[test]
    fn no_line_is_only_found_by_reading() {
        const SAMPLES: &str =
            include_str!("../../../../mce-decoder/src/text/kernel_log/samples.txt");
        let one = |line: &str| {
            let (mut decoder, mut found) = (KernelLog::default(), Vec::new());
            decoder.line(line.as_bytes(), 0, &mut found);
            decoder.finish(&mut found);
            !found.is_empty()
        };
        let missed: Vec<&str> = SAMPLES
            .lines()
            .filter(|line| one(line) && !KERNEL_WORDS.iter().any(|word| line.contains(word)))
            .collect();
        assert_eq!(missed, [""; 0]);
    }

    #[test]
    fn texts_are_told_apart() {
        for (text, name) in [
            (
                "[    1.000000] mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: 8c\n",
                "kernel-log",
            ),
            ("[    0.000000] Linux version 6.12.0\n", "kernel-log"),
            ("Nov 14 22:13:20 host kernel: EDAC MC0: Giving out device\n", "kernel-log"),
            ("CPU 0 2\nSTATUS 0x880000c0000000b2\n", "mcelog"),
            ("Hardware event. This is not a software error.\nMCE 0\nCPU 1 BANK 8\n", "mcelog"),
            ("Label\tCE\tUE\nDIMM_A1\t3\t0\n", "edac-text"),
            (
                "- 1131019038 2005.11.03 R2 2005-11-03-03.57 R2 RAS KERNEL INFO CE sym 30, at 0x1bd2b700\n",
                "blue-gene",
            ),
        ] {
            let found = crate::format::detect(text.as_bytes(), "-");
            assert_eq!(found.map(|format| format.name), Some(name), "{text}");
        }
        for text in ["CPU time is money.\n", "[1] A reference.\n", "STATUS OK\n"] {
            assert!(crate::format::detect(text.as_bytes(), "-").is_none(), "{text}");
        }
    }
}
