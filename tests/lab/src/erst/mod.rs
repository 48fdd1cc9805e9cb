//! `cargo xtask lab erst`: an error record store keeps the list over QEMU processes, and the kernel's
//! own list of it crosses in both directions.
//!
//! ```text
//!  process 1   erst-list --/dev/erst_dbg--> our records, and one in FMPM's layout
//!  process 2   the kernel's fmpm reads that one and retires; a machine check: it adds an entry
//!  (host)      a byte of our first copy is flipped in the image
//!  process 3   erst-list reads all of it
//! ```
//! Stock kernels have no `/dev/erst_dbg`, and QEMU's processors neither a PPIN nor a data fabric: a
//! module built here (`modules/erst_lab.c`) stands in for these. The store, the driver and the way
//! between them are the real ones.

mod lab;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ras_core::Pfn;
use ras_core::translate::Snapshot;
use ras_core::translate::amd::{DramMap, Register, Revision, Station};
use serde::{Deserialize, Serialize};

use crate::image;
use crate::machine::Machine;
use crate::packages;
use crate::story::{Story, Summary};
use lab::Lab;

/// The PPIN that the module gives every processor.
pub const PPIN: u64 = 0x1122_3344_5566_7788;

/// What `erst-list` prints: what its first load mended, and what the second one found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the store's own reports")]
pub struct Report {
    pub pages: Vec<Pfn>,
    pub is_clean: bool,
    pub mended_copies: u64,
    pub exported: usize,
    pub fmpm_records: usize,
    pub fmpm_entries: usize,
    pub untranslated: usize,
}

/// MCA_IPID of the second UMC, MCA_ADDR there, and the page that [`snapshot`] makes of it.
const KNOWN: [(u64, u64, Pfn); 2] =
    [(IPID, 0x0234_0000, Pfn(0x4680)), (IPID, 0x0235_0000, Pfn(0x46a0))];
const SEEN_BY_THE_KERNEL: (u64, u64, Pfn) = (IPID, 0x0236_0000, Pfn(0x46c0));
const IPID: u64 = 0x96_0010_0f00;

/// A page of which only the address is known.
const UNPLACED: Pfn = Pfn(0x5000);

/// A log line, a file in debugfs, on a busy machine that emulates another.
const SOON: Duration = Duration::from_secs(30);

const ENTRIES: &str = "/sys/kernel/debug/ras/fmpm/entries";

/// An address map to translate by, for want of a data fabric: two channels in turns of 256 bytes.
#[must_use]
pub fn snapshot() -> Snapshot {
    let map = DramMap {
        base: Register(0x11),
        limit: Register(0xff_f000),
        ctl: None,
        intlv: None,
        offset: None,
    };
    let stations = [0, 1].map(|instance| Station {
        socket: 0,
        die: 0,
        instance,
        block_instance_information: Some(Register(u32::from(instance) << 8)),
        maps: vec![map],
        target_remap: Vec::new(),
        np2_channel_config: None,
    });
    Snapshot {
        revision: Revision::Df2,
        device_vendor_id: Register(0),
        fabric_id_mask: vec![Register(0x7580_6000)],
        dram_hole_control: Register(0),
        apic: None,
        umc: None,
        stations: stations.into(),
    }
}

/// Whether this machine can run the story.
///
/// # Errors
/// The reason why not, in one line.
pub fn possible() -> Result<(), String> {
    image::requirements()?;
    lab::TOOLS.iter().try_for_each(|(package, program)| packages::obtainable(package, program))
}

/// Runs the story and prints it.
///
/// # Errors
/// Something the story needs can't be had. Once it is being told, whatever fails counts as a failed
/// step; the directory with all logs is then kept and printed.
pub fn run() -> Result<Summary> {
    possible().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    let lab = Lab::prepare()?;
    let mut story =
        Story::begin("Error records: the list survives in firmware, and the kernel's crosses");
    if let Err(error) = tell(&mut story, &lab) {
        story.fail(&format!("the story can't go on: {error:#}"));
    }
    let summary = story.end();
    lab.close(summary.is_success());
    Ok(summary)
}

fn tell(story: &mut Story, lab: &Lab) -> Result<()> {
    story.chapter("A first QEMU process: three pages are remembered");
    let mut machine = lab.boot(1)?;
    let mut arguments: Vec<String> =
        KNOWN.iter().map(|(ipid, addr, pfn)| format!("{:x}={ipid:x},{addr:x}", pfn.0)).collect();
    arguments.push(format!("{:x}", UNPLACED.0));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let report = list(&mut machine, &arguments)?;
    let all = [KNOWN[0].2, KNOWN[1].2, UNPLACED];
    check(story, "all three are in the store", &report, |report| report.pages == all);
    check(story, "two of them went into a record for the kernel's FMPM", &report, |report| {
        (report.exported, report.fmpm_records, report.fmpm_entries) == (2, 1, 2)
    });
    machine.pull_the_plug()?;

    story.chapter("A second one, with the kernel's FMPM: it takes our record for its own");
    let mut machine = lab.boot(2)?;
    lab.load_fmpm(&mut machine)?;
    let entries = await_entries(&mut machine, KNOWN.len())?;
    entries.lines().take(4).for_each(|line| story.note(line.trim_end()));
    let shown = KNOWN.iter().all(|(ipid, addr, _)| has_entry(&entries, *ipid, *addr));
    story.check("FMPM shows both entries", shown.then_some(()).ok_or(entries));
    for (_, addr, _) in KNOWN {
        let said = logged(&mut machine, &format!("asked to retire the row of {addr:#x}"))?;
        story.check(&format!("FMPM retired the row of {addr:#x}"), said);
    }
    let report = list(&mut machine, &[])?;
    check(story, "our list is whole", &report, |report| {
        report.pages == all && report.is_clean && report.mended_copies == 0
    });

    story.chapter("A machine check: FMPM adds an entry of its own");
    let (ipid, addr, pfn) = SEEN_BY_THE_KERNEL;
    machine.write("/sys/module/erst_lab/parameters/poison", &format!("{ipid:x} {addr:x}"))?;
    let entries = await_entries(&mut machine, KNOWN.len() + 1)?;
    let there = has_entry(&entries, ipid, addr);
    story.check("FMPM shows it", there.then_some(()).ok_or(entries));
    machine.pull_the_plug()?;

    story.chapter("A byte of our first copy is flipped, and a third process reads the store");
    lab.flip_a_byte()?;
    let mut machine = lab.boot(3)?;
    let report = list(&mut machine, &[])?;
    let all = [KNOWN[0].2, KNOWN[1].2, pfn, UNPLACED];
    check(story, "the kernel's entry became a page, and nothing is lost", &report, |report| {
        report.pages == all && (report.fmpm_entries, report.untranslated) == (3, 0)
    });
    check(story, "the damaged copy was found and mended from the other", &report, |report| {
        report.mended_copies == 1 && report.is_clean
    });
    machine.pull_the_plug()
}

/// Runs `erst-list` in the machine.
fn list(machine: &mut Machine, arguments: &[&str]) -> Result<Report> {
    let command = [&["/bin/erst-list"], arguments].concat();
    let ran = machine.run(&command, SOON)?;
    ensure!(ran.code == Some(0), "erst-list failed: {}", ran.stderr.trim());
    serde_json::from_str(&ran.stdout).with_context(|| format!("erst-list said {}", ran.stdout))
}

fn check(story: &mut Story, text: &str, report: &Report, holds: impl Fn(&Report) -> bool) {
    story.check(text, holds(report).then_some(()).ok_or_else(|| format!("{report:?}")));
}

/// FMPM's table, once it has that many entries; or after a while, as it is.
fn await_entries(machine: &mut Machine, count: usize) -> Result<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let table = machine.read(ENTRIES)?;
        // Free places are stars.
        let used = table.lines().skip(1).filter(|line| line.matches('*').count() < 3).count();
        if used >= count || Instant::now() >= deadline {
            return Ok(table);
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn has_entry(table: &str, ipid: u64, addr: u64) -> bool {
    let fru = format!("{PPIN:#018x}");
    let (ipid, addr) = (format!("{ipid:#018x}"), format!("{addr:#018x}"));
    table.lines().any(|line| [&fru, &ipid, &addr].iter().all(|part| line.contains(part.as_str())))
}

/// Whether the kernel's log has a line with `text`.
fn logged(machine: &mut Machine, text: &str) -> Result<Result<(), String>> {
    let console = fs::read_to_string(machine.qemu().dir().join("console.log"))?;
    Ok(match console.contains(text) {
        true => Ok(()),
        false => Err(format!("the console lacks `{text}`")),
    })
}
