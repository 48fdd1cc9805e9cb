//! `cargo xtask lab power`: rasd is killed at work, again and again, with its list on a real file system,
//! and power goes at every moment that made a difference to the disk.
//!
//! ```text
//!  boot 1   rasd --> ext4 --> dm-log-writes --> disk     killed and started again; every write and flush,
//!             |                     \---------> log      and every answer of rasd, go into the log
//!             +-- "on 7": page 7 is remembered -->
//!           then QEMU's plug is pulled
//!  boot 2   the disk as QEMU left it: everything that was answered is there
//!           log --> disk as it was at any flush, with any of the unflushed sectors --> ext4 --> the list
//! ```
//! SIGKILL to QEMU takes what the machine's kernel had not written. What a disk's own cache would lose it
//! does not take; the log tells that, and more: which sectors could have been lost in which mixture.
//!
//! A check that can't fail proves nothing: the last recording's file system was told that the disk has no
//! cache (`barrier=0`), so that `fsync` flushes nothing. There pages are lost, and have to be.

pub mod crash;
mod lab;
pub mod log;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ras_core::RetiredPage;
use serde::{Deserialize, Serialize};

use crate::agent::Event;
use crate::image;
use crate::machine::Machine;
use crate::story::{Story, Summary};
use crash::{END, Expected, Promises};
use lab::Lab;

/// Where the machine's list is.
pub const STORE: &str = "/var/lib/rasd";

/// What `power images` prints.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Moments in the log at which power could go: one before each flush.
    pub moments: u64,
    /// Pages that the log speaks of.
    pub promises: u64,
    /// Disks that were made and mounted.
    pub images: u64,
    /// Moments they were of.
    pub moments_seen: u64,
    /// Disks with a list that was, or was made, sound, and holds what it has to.
    pub sound: u64,
    /// Disks with a list that had to be mended: a commit was under way.
    pub mended: u64,
    /// Disks from before there was a list.
    pub without_list: u64,
    /// Disks that rasctl repaired and verified as well.
    pub by_rasctl: u64,
    /// Disks that failed.
    pub losses: u64,
    /// Which, and how; the first few.
    pub told: Vec<String>,
}

impl Report {
    fn add(&mut self, other: Self) {
        (self.moments, self.promises) = (other.moments, other.promises);
        self.images += other.images;
        self.moments_seen += other.moments_seen;
        self.sound += other.sound;
        self.mended += other.mended;
        self.without_list += other.without_list;
        self.by_rasctl += other.by_rasctl;
        self.losses += other.losses;
        self.told.extend(other.told);
    }
}

/// How long to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Times that rasd is killed in each recording.
    pub kills: u64,
    /// Disks made of each recording.
    pub images: u64,
    /// Other choices, other times to die.
    pub seed: u64,
}

impl Extent {
    /// What every test run does.
    pub const BRIEF: Self = Self { kills: 15, images: 250, seed: 1 };
}

/// A way to mount ext4.
struct Recording {
    options: &'static str,
    title: &'static str,
    flushes: bool,
}

const RECORDINGS: [Recording; 3] = [
    Recording { options: "data=ordered", title: "ext4 as distributions mount it", flushes: true },
    // Metadata may be on the disk before the data it is about: a file has its new length, or its name,
    // and holds what was in these blocks before.
    Recording { options: "data=writeback", title: "ext4 without order", flushes: true },
    Recording { options: "barrier=0", title: "ext4 that does not flush", flushes: false },
];

/// Disks made by one call: the agent in the machine takes a longer silence for the end of the story.
const BATCH: u64 = 100;

/// For a batch on a busy machine.
const LONG: Duration = Duration::from_secs(170);

/// Answers that have to follow the log's end before the plug is pulled.
const MORE: usize = 20;

/// Sectors of a block device inside a machine.
///
/// # Errors
/// There is none of that name.
pub fn sectors_of(device: &str) -> Result<u64> {
    let name = Path::new(device).file_name().with_context(|| format!("{device} has no name"))?;
    let path = Path::new("/sys/class/block").join(name).join("size");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path:?}"))?;
    text.trim().parse().with_context(|| format!("{path:?} says {text}"))
}

/// Whether this machine can run the story.
///
/// # Errors
/// The reason why not, in one line.
pub fn possible() -> Result<(), String> {
    image::requirements()
}

/// Runs the story and prints it.
///
/// # Errors
/// Something the story needs can't be had. Once it is being told, whatever fails counts as a failed
/// step; the directory with all logs and disks is then kept and printed.
pub fn run(extent: Extent) -> Result<Summary> {
    possible().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    let lab = Lab::prepare(RECORDINGS.len())?;
    let mut story = Story::begin("Power: what was acknowledged is on the disk, whatever goes when");
    if let Err(error) = tell(&mut story, &lab, extent) {
        story.fail(&format!("the story can't go on: {error:#}"));
    }
    let summary = story.end();
    lab.close(summary.is_success());
    Ok(summary)
}

fn tell(story: &mut Story, lab: &Lab, extent: Extent) -> Result<()> {
    story.note(&format!("kernel {}", lab.release()));
    let mut machine = lab.boot(0)?;
    for (number, recording) in RECORDINGS.iter().enumerate() {
        story.chapter(&format!(
            "{} ({}): {} kills",
            recording.title, recording.options, extent.kills
        ));
        let promises = record(story, &mut machine, number, extent)?;
        if recording.flushes {
            story.chapter("The plug is pulled, and the machine boots with the same disks");
            machine.pull_the_plug()?;
            machine = lab.boot(number + 1)?;
            after_the_plug(story, &mut machine, number, &promises)?;
        }
        story.chapter("Disks as they could have been, out of the log");
        replay(story, &mut machine, number, extent)?;
    }
    machine.pull_the_plug()
}

/// Lets rasd be killed at work; what it has promised by the time the plug may be pulled.
fn record(
    story: &mut Story,
    machine: &mut Machine,
    number: usize,
    extent: Extent,
) -> Result<Promises> {
    let recording = &RECORDINGS[number];
    let disks = Lab::disks(number);
    let kills = extent.kills.to_string();
    let seed = (extent.seed + number as u64).to_string();
    let mut command =
        vec!["/bin/power", "record", &disks.disk, &disks.log, recording.options, &kills, &seed];
    if !recording.flushes {
        command.push("stop");
    }
    machine.forget_events();
    machine.start("writer", &command)?;
    let mut over = None;
    // Each kill is one start of rasd, some seconds on a slow day.
    for _ in 0..=extent.kills {
        // The machine's agent wants to hear from us now and then.
        machine.read("/proc/uptime")?;
        let patience = LONG.min(Duration::from_secs(20));
        over =
            machine.wait("the writer", patience, |events| is_over(events, recording.flushes)).ok();
        if over.is_some() {
            break;
        }
    }
    let said = || machine.said("writer").last().unwrap_or("nothing").to_owned();
    match over {
        Some(true) => {}
        Some(false) => bail!("the writer ended; it said {}", said()),
        None => bail!("the writer does not come to an end; it said {}", said()),
    }
    let promises = promises(machine.events())?;
    let count = |wanted| promises.values().filter(|expected| **expected == wanted).count();
    let (on, off) = (count(Expected::On), count(Expected::Off));
    story.check(
        &format!("rasd answered for {on} pages, and for {off} that were given back"),
        if on > 20 { Ok(()) } else { Err("too few to mean anything".to_owned()) },
    );
    Ok(promises)
}

/// Whether the recording is over, and well; `None` while it goes on.
fn is_over(events: &[Event], goes_on: bool) -> Option<bool> {
    let lines = || crate::machine::lines_of(events, "writer");
    let ended = events.iter().find_map(|event| match event {
        Event::Ended { name, status } if name == "writer" => Some(status.as_str()),
        _ => None,
    });
    let more =
        lines().skip_while(|line| *line != END).filter(|line| line.starts_with("on ")).count();
    match ended {
        None => (goes_on && more >= MORE).then_some(true),
        Some(status) => Some(!goes_on && status == "exit status: 0"),
    }
}

/// What the writer was told so far.
fn promises(events: &[Event]) -> Result<Promises> {
    let mut promises = Promises::new();
    let lines = crate::machine::lines_of(events, "writer").filter(|line| *line != END);
    for line in lines {
        crash::promise(&mut promises, line)?;
    }
    Ok(promises)
}

/// The disk as QEMU left it.
fn after_the_plug(
    story: &mut Story,
    machine: &mut Machine,
    number: usize,
    promises: &Promises,
) -> Result<()> {
    let place = format!("/tmp/disk-{number}");
    machine.mount(&Lab::disks(number).disk, "ext4", &place)?;
    let ask = |machine: &mut Machine, words: &[&str]| {
        machine.run(&[&["/bin/rasctl", "--json", "--store", &place, "pages"], words].concat(), LONG)
    };
    let repaired = ask(machine, &["repair"])?;
    let verified = ask(machine, &["verify"])?;
    let sound = repaired.code == Some(0) && verified.code == Some(0);
    story.check(
        "rasctl calls the list sound",
        if sound { Ok(()) } else { Err(repaired.stderr + &verified.stderr) },
    );
    let listed = ask(machine, &["list"])?;
    let listed: BTreeSet<u64> = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).map(|page: RetiredPage| page.pfn.0))
        .collect::<Result<_, _>>()
        .context("reading rasctl's list")?;
    let wrong: Vec<String> = promises
        .iter()
        .filter(|(pfn, expected)| match expected {
            Expected::On => !listed.contains(pfn),
            Expected::Off => listed.contains(pfn),
            Expected::Either => false,
        })
        .map(|(pfn, expected)| format!("{pfn:#x} should be {expected:?}"))
        .collect();
    let verdict = if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) };
    story.check(&format!("the list has {} pages: all that it has to", listed.len()), verdict);
    Ok(())
}

/// Disks out of the log.
fn replay(story: &mut Story, machine: &mut Machine, number: usize, extent: Extent) -> Result<()> {
    let recording = &RECORDINGS[number];
    let log = Lab::disks(number).log;
    // Losses are to be shown, not counted.
    let images = if recording.flushes { extent.images } else { extent.images.min(24) };
    let mut report = Report::default();
    for from in (0..images).step_by(usize::try_from(BATCH)?) {
        let count = BATCH.min(images - from);
        let numbers = [images, from, count, extent.seed].map(|number| number.to_string());
        let [images, from, count, seed] = numbers.each_ref().map(String::as_str);
        let words = [Lab::FRESH, &log, recording.options, images, from, count, seed];
        let command = [&["/bin/power", "images"], &words[..]].concat();
        let ran = machine.run(&command, LONG)?;
        ensure!(ran.code == Some(0), "making disks: {}", ran.stderr.trim());
        report.add(
            serde_json::from_str(&ran.stdout)
                .with_context(|| format!("the disks: {}", ran.stdout))?,
        );
    }
    let Report { moments, moments_seen, sound, mended, without_list, by_rasctl, losses, .. } =
        report;
    story.note(&format!(
        "{} disks of {moments_seen} moments of {moments}; {without_list} before there was a list, \
         {mended} with a commit under way, {by_rasctl} repaired and verified by rasctl",
        report.images
    ));
    if recording.flushes {
        report.told.iter().for_each(|told| story.note(told));
        let whole = losses == 0 && sound > 0 && sound + without_list == report.images;
        let verdict = if whole { Ok(()) } else { Err(format!("{losses} are not")) };
        story.check(&format!("{sound} lists hold every page that was acknowledged"), verdict);
        let some = if mended > 0 { Ok(()) } else { Err("no commit was caught".to_owned()) };
        story.check("some of them had a commit under way, and were mended", some);
    } else {
        report.told.iter().take(3).for_each(|told| story.note(told));
        let seen = if losses > 0 { Ok(()) } else { Err("nothing was lost".to_owned()) };
        story.check(&format!("{losses} disks lack what was acknowledged, and it is seen"), seen);
    }
    Ok(())
}
