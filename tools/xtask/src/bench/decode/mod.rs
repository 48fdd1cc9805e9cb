//! `bench decode`: how fast errors are read, beside the programs that read them today.
//!
//! Inputs are made here, the same ones at every run. Ours and a peer's runs take turns, pinned to one
//! core (both may use all of them for the scan of a log), and medians are reported. Peers are built
//! outside of this repository and named by variables; [`PEERS`] says what is expected of them.

mod cper;
mod kernel_log;
mod process;
mod random;
mod registers;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ras_lab::artifacts;
use tempfile::TempDir;

use self::process::{OneCore, Peer};
use self::registers::Maker;
use super::figure::{Figure, Sample};
use crate::cargo;

/// For `--help`: what the peers' variables name.
pub(super) const PEERS: &str = "\
Peers of `bench decode`, each left out where its variable is not set:
  RAS_PEER_LIBCPER       DRIVER FILE PASSES: converts each CPER record of FILE
                         (one after another) to a JSON string by libcper
  RAS_PEER_CPER_CONVERT  libcper's cper-convert, run as `cper-convert to-json FILE`
  RAS_PEER_MCELOG        mcelog, run as `mcelog --ascii --file FILE`
  RAS_PEER_RASDAEMON     DRIVER FILE PASSES: decodes each register set of FILE by
                         rasdaemon's decoders, printing and storing nothing
A driver goes PASSES times through FILE in one process and prints `ITEMS SECONDS`:
what it went through and how long it took, reading the file not counted.
Register sets are lines of ten hexadecimal words, without 0x:
  vendor cpuid bank mcg_cap mcg_status status addr misc synd ipid
where vendor is the kernel's number (0 Intel, 2 AMD). Our own driver is the example
decode_bench of mce-decoder.";

/// Records in a CPER file, groups in a kernel's text, register sets: enough for the start of a process
/// to weigh nothing.
const RECORDS: usize = 20_000;
const GROUPS: usize = 100_000;
const SETS: usize = 20_000;

/// Times the drivers go through the register sets.
const PASSES: u32 = 20;

/// The size of the log that is scanned.
const LOG_BYTES: u64 = 2 << 30;

/// Scans of the log take a second or more each: not more of them than this.
const SCANS_MAX: u32 = 5;

/// Whole processes for each of the runs of the others: one is over in a millisecond.
const STARTS_PER_RUN: u32 = 20;

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    let bench = Bench::prepare(runs)?;
    let mut figures = bench.cper()?;
    figures.extend(bench.mca_text()?);
    figures.extend(bench.decode_alone()?);
    figures.extend(bench.kernel_log()?);
    figures.push(bench.one_record()?);
    Ok(figures)
}

struct Bench {
    rasctl: PathBuf,
    /// `mce-decoder`'s example: the drivers' protocol around our decoder.
    decode_bench: PathBuf,
    /// For the inputs; gone when the bench is over.
    dir: TempDir,
    runs: u32,
}

impl Bench {
    fn prepare(runs: u32) -> Result<Self> {
        let rasctl = match std::env::var_os("RAS_BIN_DIR") {
            Some(_) => artifacts::program("rasctl")?,
            None => crate::dist::rasctl()?,
        };
        cargo::run(&[
            "build",
            "--quiet",
            "--release",
            "-p",
            "mce-decoder",
            "--example",
            "decode_bench",
        ])?;
        let target = artifacts::target_dir();
        let dir = tempfile::Builder::new()
            .prefix("bench-decode-")
            .tempdir_in(&target)
            .context("a directory for the bench's inputs")?;
        let decode_bench = target.join("release/examples/decode_bench");
        Ok(Self { rasctl, decode_bench, dir, runs })
    }

    fn input(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let file = self.dir.path().join(name);
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    fn decode(&self, format: &str, file: &Path) -> Command {
        let mut command = Command::new(&self.rasctl);
        command.args(["decode", "--format", format, "--json"]).arg(file);
        command
    }

    /// Thousands of items per second of a whole process that decodes `file`.
    fn rate(&self, format: &str, file: &Path, items: usize) -> Result<f64> {
        Ok(items as f64 / process::seconds(self.decode(format, file))? / 1e3)
    }

    /// A figure of a program that reads nothing means nothing: at least one line for each item.
    fn ensure_decoded(&self, format: &str, file: &Path, items: u64) -> Result<()> {
        let lines = process::lines(self.decode(format, file))?;
        ensure!(
            lines >= items,
            "rasctl decode --format {format} gave {lines} lines for {items} errors"
        );
        Ok(())
    }

    fn cper(&self) -> Result<Vec<Figure>> {
        let peer = Peer::given("libcper", "RAS_PEER_LIBCPER")?;
        let _pinned = OneCore::take()?;
        let mut figures = Vec::new();
        for (what, stream) in [
            ("nine section types", cper::mix(RECORDS)),
            ("memory sections", cper::memory_only(RECORDS)),
        ] {
            println!("bench: CPER to JSON, {what}");
            let file = self.input("records.cper", &stream)?;
            self.ensure_decoded("cper", &file, RECORDS as u64)?;
            let (ours, theirs) = in_turn(
                self.runs,
                || self.rate("cper", &file, RECORDS),
                peer.as_ref(),
                |peer| Ok(process::driver_rate(&peer.program, &file, 1)? / 1e3),
            )?;
            let figure = Figure::new(&format!("CPER to JSON, {what}"), ours, "k records/s");
            figures.push(against(figure, theirs, "RAS_PEER_LIBCPER").ratio_at_least(10.0));
        }
        Ok(figures)
    }

    fn mca_text(&self) -> Result<Vec<Figure>> {
        let peer = Peer::given("mcelog --ascii", "RAS_PEER_MCELOG")?;
        let _pinned = OneCore::take()?;
        let mut figures = Vec::new();
        for maker in Maker::ALL {
            println!("bench: MCA text to JSON, {}", maker.name());
            let mut text = String::new();
            for (number, set) in (0..).zip(registers::sets(maker, GROUPS)) {
                set.print(number % 64, number, &mut text);
            }
            let file = self.input(&format!("{}.log", maker.file_stem()), text.as_bytes())?;
            self.ensure_decoded("kernel-log", &file, GROUPS as u64)?;
            let (ours, theirs) = in_turn(
                self.runs,
                || self.rate("kernel-log", &file, GROUPS),
                peer.as_ref(),
                |peer| {
                    let mut command = Command::new(&peer.program);
                    command.args(["--ascii", "--file"]).arg(&file);
                    Ok(GROUPS as f64 / process::seconds(command)? / 1e3)
                },
            )?;
            let name = format!("MCA text to JSON, {}", maker.name());
            let figure = Figure::new(&name, ours, "k events/s");
            figures.push(against(figure, theirs, "RAS_PEER_MCELOG").ratio_at_least(5.0));
        }
        Ok(figures)
    }

    fn decode_alone(&self) -> Result<Vec<Figure>> {
        let peer = Peer::given("rasdaemon's decoders", "RAS_PEER_RASDAEMON")?;
        let _pinned = OneCore::take()?;
        let mut figures = Vec::new();
        for maker in Maker::ALL {
            println!("bench: decode alone, {}", maker.name());
            let lines: String =
                registers::sets(maker, SETS).iter().map(registers::Registers::line).collect();
            let file = self.input(&format!("{}.sets", maker.file_stem()), lines.as_bytes())?;
            let rate = |driver: &Path| Ok(process::driver_rate(driver, &file, PASSES)? / 1e3);
            let (ours, theirs) = in_turn(
                self.runs,
                || rate(&self.decode_bench),
                peer.as_ref(),
                |peer| rate(&peer.program),
            )?;
            let name = format!("decode alone, {}", maker.name());
            let figure = Figure::new(&name, ours, "k events/s");
            figures.push(against(figure, theirs, "RAS_PEER_RASDAEMON").ratio_at_least(3.0));
        }
        Ok(figures)
    }

    fn kernel_log(&self) -> Result<Vec<Figure>> {
        println!("bench: scan of a kernel log of {} GiB", LOG_BYTES >> 30);
        let file = self.dir.path().join("kernel.log");
        let mut out = BufWriter::new(File::create(&file).context("creating the log")?);
        let contents = kernel_log::write(LOG_BYTES, &mut out).context("writing the log")?;
        out.flush().context("writing the log")?;

        // Both first runs warm the page cache, and see that both programs do find what is in there.
        let found = process::output(grep(&file))?;
        let found = String::from_utf8_lossy(&found);
        ensure!(
            found.trim() == contents.hardware_error_lines.to_string(),
            "grep counts {}, {} lines were written",
            found.trim(),
            contents.hardware_error_lines
        );
        self.ensure_decoded("kernel-log", &file, contents.errors)?;

        let scan = || process::seconds(self.decode("kernel-log", &file));
        let grep_seconds = || {
            let begin = std::time::Instant::now();
            process::output(grep(&file)).map(|_| begin.elapsed().as_secs_f64())
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.runs.min(SCANS_MAX) {
            ours.push(scan()?);
            theirs.push(grep_seconds()?);
        }
        let peak = process::peak_mib(self.decode("kernel-log", &file))?;
        fs::remove_file(&file).context("removing the log")?;
        let name =
            format!("kernel log of {} GiB, {} errors: scan", LOG_BYTES >> 30, contents.errors);
        Ok(vec![
            Figure::new(&name, Sample::new(ours).median(), "s")
                .against("grep -c", Sample::new(theirs).median())
                .ratio_at_most(1.5),
            Figure::new("kernel log: peak resident memory", peak, "MiB").at_most(64.0),
        ])
    }

    fn one_record(&self) -> Result<Figure> {
        println!("bench: one record, one process");
        let peer = Peer::given("cper-convert", "RAS_PEER_CPER_CONVERT")?;
        let _pinned = OneCore::take()?;
        let file = self.input("one.cper", &cper::memory_only(1))?;
        self.ensure_decoded("cper", &file, 1)?;
        let (ours, theirs) = in_turn(
            self.runs.saturating_mul(STARTS_PER_RUN),
            || Ok(process::seconds(self.decode("cper", &file))? * 1e3),
            peer.as_ref(),
            |peer| {
                let mut command = Command::new(&peer.program);
                command.arg("to-json").arg(&file);
                Ok(process::seconds(command)? * 1e3)
            },
        )?;
        let figure = Figure::new("one CPER record, whole process, median", ours, "ms");
        Ok(against(figure, theirs, "RAS_PEER_CPER_CONVERT").at_most(1.5))
    }
}

/// GNU grep stops at the first match where it writes to /dev/null: its output has to be read.
fn grep(file: &Path) -> Command {
    let mut command = Command::new("grep");
    // Bytes, not characters: the fastest it can do.
    command.args(["-c", "Hardware Error"]).arg(file).env("LC_ALL", "C");
    command
}

/// Medians of ours and of the peer's, taken in turn so that both meet the same moods of the machine.
fn in_turn<'a>(
    runs: u32,
    ours: impl Fn() -> Result<f64>,
    peer: Option<&'a Peer>,
    theirs: impl Fn(&'a Peer) -> Result<f64>,
) -> Result<(f64, Option<(&'static str, f64)>)> {
    let (mut our_values, mut their_values) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        our_values.push(ours()?);
        if let Some(peer) = peer {
            their_values.push(theirs(peer)?);
        }
    }
    let theirs = peer.map(|peer| (peer.name, Sample::new(their_values).median()));
    Ok((Sample::new(our_values).median(), theirs))
}

fn against(figure: Figure, peer: Option<(&str, f64)>, variable: &str) -> Figure {
    match peer {
        Some((name, value)) => figure.against(name, value),
        None => figure.not_given(variable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_given_is_said_to_be_so() {
        let figure = || Figure::new("rate", 30.0, "k/s");
        let alone = against(figure(), None, "RAS_PEER_X").ratio_at_least(10.0);
        assert_eq!((alone.against.as_str(), alone.met), ("RAS_PEER_X not given", None));
        let beside = against(figure(), Some(("x", 2.0)), "RAS_PEER_X").ratio_at_least(10.0);
        assert_eq!((beside.ratio, beside.met), (Some(15.0), Some(true)));
    }

    #[test]
    fn runs_take_turns() {
        let turns = std::cell::RefCell::new(String::new());
        let peer = Peer { name: "peer", program: PathBuf::new() };
        let turn = |who: char, value| {
            turns.borrow_mut().push(who);
            Ok(value)
        };
        let medians = in_turn(3, || turn('o', 1.0), Some(&peer), |_| turn('t', 2.0)).unwrap();
        assert_eq!(turns.borrow().as_str(), "ototot");
        assert_eq!(medians, (1.0, Some(("peer", 2.0))));
        let alone = in_turn(3, || Ok(1.0), None, |_| Ok(2.0)).unwrap();
        assert_eq!(alone, (1.0, None));
    }

    #[test]
    fn every_peer_is_explained() {
        for variable in
            ["RAS_PEER_LIBCPER", "RAS_PEER_CPER_CONVERT", "RAS_PEER_MCELOG", "RAS_PEER_RASDAEMON"]
        {
            assert!(PEERS.contains(variable), "{variable}");
        }
    }
}
