//! `cargo xtask lab uefi`: retired pages are gone before a stock kernel runs.
//!
//! ```text
//!  a list, in variables or files --> OVMF --> our driver --> memory map --> stock kernel --> /proc/iomem
//!                                               |                              ^                  |
//!                                               +-- outcome, a variable -------+-- memory-hog ----+
//! ```
//! A first machine writes the firmware's variables, as an installation would. The others start from copies of
//! them, two at a time.

mod checks;
mod curve;
mod disk;
mod fallback;
mod installed;
mod lab;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use ras_core::{Pfn, PfnRange};
use ras_store_format::exclusion::{
    BadRange, Badness, CopyState, Fate, Limits, List, Outcome, plan, total,
};

pub use checks::Hogged;
pub use curve::{Boot, Load, measure};

use crate::capability;
use crate::image;
use crate::machine::Machine;
use crate::story::{Story, Summary};
use checks::{Scattered, expect, firmware_regions, hog, iomem, is_reserved};
use lab::{Booted, How, Lab, Setup, encoded};

/// Pages that are ordinary memory in a machine with 1 GiB, most of them: 288 MiB up to 880 MiB. Below there is
/// room for a kernel.
const SCATTERED: Scattered = Scattered { first: 0x1_2007, step: 1700, count: 90 };

/// Too many to exclude them all.
const MANY: Scattered = Scattered { first: 0x1000, step: 24, count: 10_000 };

/// As many as there are ranges, from the same memory.
const AT_THE_CAP: Scattered = Scattered { first: 0x1800, step: 24 * 20, count: 200 };

/// Above 4 GiB, in a machine with 6 GiB.
const HIGH: Scattered = Scattered { first: 0x10_0003, step: 4001, count: 100 };

/// Pages no memory is behind: between the end of low memory and 4 GiB.
const NO_MEMORY: Pfn = Pfn(0xe_0000);

/// What a hog leaves to the kernel, in MiB.
const KEEP_MIB: u64 = 32;

/// The driver's own time for a list at the cap, in microseconds.
const DRIVER_US_MAX: f64 = 20_000.0;

/// A boot with a long list, beside one with a list at the cap.
const BOOT_RATIO_MAX: f64 = 1.2;

/// Whether this machine can run the story.
///
/// # Errors
/// The reason why not, in one line.
pub fn possible() -> Result<(), String> {
    image::requirements()?;
    disk::requirements()?;
    // Firmware and boot loader are downloaded and only unpacked.
    capability::apt()?;
    // Two machines at a time, filled to the brim. The largest one is judged apart.
    capability::memory(3 * 1024)
}

/// Runs the story and prints it.
///
/// # Errors
/// Something the story needs can't be had: a package, a kernel, a program. Once it is being told,
/// whatever fails counts as a failed step; the directory with all logs is then kept and printed.
pub fn run() -> Result<Summary> {
    possible().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    disk::ensure_packages()?;
    let lab = Lab::prepare(true)?;
    let mut story = Story::begin("Retired pages are gone before a stock kernel runs");
    if let Err(error) = tell(&mut story, &lab) {
        story.fail(&format!("the story can't go on: {error:#}"));
    }
    let summary = story.end();
    lab.close(summary.is_success());
    Ok(summary)
}

/// Steps of one machine's tale, to be told when it is over: others go on beside it.
#[derive(Default)]
struct Tale(Vec<(String, Option<Result<(), String>>)>);

impl Tale {
    fn note(&mut self, text: String) {
        self.0.push((text, None));
    }

    fn check(&mut self, text: &str, verdict: Result<(), String>) {
        self.0.push((text.to_owned(), Some(verdict)));
    }
}

type Chapter<'a> = (&'a str, Box<dyn Fn(&mut Tale) -> Result<()> + Sync + 'a>);

fn tell(story: &mut Story, lab: &Lab) -> Result<()> {
    story.chapter("A machine without the driver; it prepares the variables of all others");
    let prepared = prepare(story, lab)?;
    // The first two are compared, and run side by side: what else the host does slows both down.
    let chapters: [Chapter<'_>; 11] = [
        ("A list at the cap", Box::new(|tale| at_the_cap(tale, lab, &prepared))),
        (
            "10,000 scattered pages, in a file, the worst of them everywhere",
            Box::new(|tale| many(tale, lab, &prepared)),
        ),
        (
            "Installed by rasctl: an error, rasd, three boots",
            Box::new(|tale| installed::driver_entry(tale, lab)),
        ),
        (
            "Installed by rasctl for systemd-boot",
            Box::new(|tale| installed::driver_directory(tale, lab)),
        ),
        (
            "Without UEFI: the kernel's command line, and GRUB",
            Box::new(|tale| fallback::without_uefi(tale, lab)),
        ),
        (
            "Driver####: listed pages are unusable, and nobody gets them",
            Box::new(|tale| listed(tale, lab, &prepared)),
        ),
        (
            "Pages above 4 GiB, in a machine with 6 GiB",
            Box::new(|tale| above_4g(tale, lab, &prepared)),
        ),
        ("Every copy is damaged", Box::new(|tale| damaged(tale, lab, &prepared))),
        ("One file is sound", Box::new(|tale| one_sound(tale, lab, &prepared))),
        (
            "systemd-boot loads the driver from its directory",
            Box::new(|tale| boot_loader(tale, lab, &prepared)),
        ),
        ("An older kernel", Box::new(|tale| older_kernel(tale, lab, &prepared))),
    ];
    two_at_a_time(story, &chapters);
    let measured = prepared.measured.lock().map(|measured| measured.clone()).unwrap_or_default();
    story.chapter("Times");
    let Measured { at_the_cap, many, driver } = measured;
    story.check(
        &format!(
            "10,000 pages take {:.2} times the processor time of a list at the cap ({many:.1} and \
             {at_the_cap:.1} s)",
            many / at_the_cap
        ),
        expect(many > 0.0 && many <= at_the_cap * BOOT_RATIO_MAX, || {
            format!("at most {BOOT_RATIO_MAX} times was expected")
        }),
    );
    // The driver has a clock, not a meter: whatever interrupts QEMU counts as its time. The least of several
    // machines is the nearest to its own.
    let least = |pick: fn(&(f64, f64)) -> f64| driver.iter().map(pick).fold(f64::MAX, f64::min);
    let own_us =
        least(|(read, _)| *read) + least(|(_, each)| *each) * f64::from(Limits::RANGES_DEFAULT);
    story.check(
        &format!(
            "200 ranges take {own_us:.0} us of the driver's time, at the rate of the least \
             interrupted of {} machines",
            driver.len()
        ),
        expect(own_us <= DRIVER_US_MAX, || format!("{DRIVER_US_MAX} us was expected; {driver:?}")),
    );
    Ok(())
}

fn two_at_a_time(story: &mut Story, chapters: &[Chapter<'_>]) {
    let next = AtomicUsize::new(0);
    let (sender, tales) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..2 {
            let (sender, next) = (sender.clone(), &next);
            // A machine dies with the thread that started it: one thread per tale's whole length.
            scope.spawn(move || {
                while let Some((title, chapter)) =
                    chapters.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let mut tale = Tale::default();
                    if let Err(error) = chapter(&mut tale) {
                        tale.check("the tale goes on to its end", Err(format!("{error:#}")));
                    }
                    if sender.send((*title, tale)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (title, Tale(steps)) in tales {
            story.chapter(title);
            for (text, verdict) in steps {
                match verdict {
                    Some(verdict) => story.check(&text, verdict),
                    None => story.note(&text),
                }
            }
        }
    });
}

/// Variables for the machines to come, and what the first one learned.
struct Prepared {
    /// The driver, and no list.
    no_list: PathBuf,
    listed: PathBuf,
    at_the_cap: PathBuf,
    above_4g: PathBuf,
    damaged: PathBuf,
    /// Pages the firmware uses until the kernel starts.
    transient: Vec<Pfn>,
    /// A page the firmware keeps for good.
    kept: Pfn,
    measured: Mutex<Measured>,
}

#[derive(Clone, Default)]
struct Measured {
    /// Processor time of a boot, in seconds.
    at_the_cap: f64,
    /// The same.
    many: f64,
    /// The driver's own time in microseconds: to read, and for each range it excluded.
    driver: Vec<(f64, f64)>,
}

fn prepare(story: &mut Story, lab: &Lab) -> Result<Prepared> {
    let setup = Setup {
        command_line: "clearcpuid=erms loglevel=7 efi=debug",
        ..lab.setup("first", lab.fresh_variables())
    };
    let mut first = lab.boot(&setup)?;
    story.check(
        "there is no outcome",
        expect(first.outcome()?.is_none(), || "there is one".to_owned()),
    );
    let unusable = iomem(&mut first.machine, "Unusable memory")?;
    story.check("no memory is unusable", expect(unusable.is_empty(), || format!("{unusable:?}")));
    let hogged = hog(&mut first.machine, KEEP_MIB, &[SCATTERED])?;
    story.check(
        &format!(
            "a hog is given {} of {} pages that others will list",
            hogged.given.len(),
            SCATTERED.count
        ),
        expect(hogged.given.len() as u64 * 4 >= SCATTERED.count * 3, || {
            "most of them are ordinary memory".to_owned()
        }),
    );

    let console = first.console()?;
    let largest = |kind: &str| {
        let regions = firmware_regions(&console, kind);
        let largest = regions.into_iter().max_by_key(|region| region.count);
        largest.with_context(|| format!("the firmware's map has no {kind}"))
    };
    // From their middle: what begins and ends there moves a little from boot to boot.
    let middle = |region: PfnRange| Pfn(region.start.0 + region.count / 2);
    let transient = vec![middle(largest("Boot Data")?), middle(largest("Boot Code")?)];
    let kept = middle(largest("Runtime Data")?);

    first.install_driver()?;
    let no_list = first.keep_variables("no-list.fd")?;
    let mut keep = |name: &str, list: &List| -> Result<PathBuf> {
        first.write_list(0, &encoded(list)?)?;
        first.keep_variables(name)
    };
    let listed = keep("listed.fd", &the_list(&transient, kept))?;
    let at_the_cap = keep("at-the-cap.fd", &list(AT_THE_CAP.ranges(Badness::CORRECTED)))?;
    let above_4g = keep("above-4g.fd", &list(HIGH.ranges(Badness::CORRECTED)))?;
    let mut torn = encoded(&the_list(&transient, kept))?;
    let last = torn.len() - 1;
    torn[last] ^= 0x10;
    first.write_list(0, &torn)?;
    first.write_list(1, &torn[..torn.len() / 2])?;
    let damaged = first.keep_variables("damaged.fd")?;
    story.pass("the driver and lists are in the firmware's variables, written by Linux");
    Ok(Prepared {
        no_list,
        listed,
        at_the_cap,
        above_4g,
        damaged,
        transient,
        kept,
        measured: Mutex::default(),
    })
}

fn list(ranges: Vec<BadRange>) -> List {
    List { generation: 5, map_epoch: 0xe90c, ranges, ..List::default() }
}

/// Some of everything: scattered pages, a row, two pages with one between them, pages the firmware
/// holds, and one that is not there.
fn the_list(transient: &[Pfn], kept: Pfn) -> List {
    let mut ranges = SCATTERED.ranges(Badness::CORRECTED);
    let row = PfnRange { start: Pfn(0x1_4001), count: 34 };
    ranges.push(BadRange { pages: row, badness: Badness::ROW });
    let single = |pfn| BadRange::single(pfn, Badness::UNCORRECTED);
    ranges.extend([0x1_8000, 0x1_8002].map(|pfn| single(Pfn(pfn))));
    ranges.extend(transient.iter().copied().chain([kept, NO_MEMORY]).map(single));
    list(ranges)
}

fn listed(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let mut booted = lab.boot(&lab.setup("listed", &prepared.listed))?;
    everything_is_as_listed(tale, &mut booted, prepared)
}

fn older_kernel(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let setup = Setup { how: How::FirmwareOlderKernel, ..lab.setup("older", &prepared.listed) };
    let mut booted = lab.boot(&setup)?;
    tale.note(lab.older_release().to_owned());
    everything_is_as_listed(tale, &mut booted, prepared)
}

fn everything_is_as_listed(
    tale: &mut Tale,
    booted: &mut Booted,
    prepared: &Prepared,
) -> Result<()> {
    let outcome = driver_ran(tale, booted, prepared)?;
    let the_list = the_list(&prepared.transient, prepared.kept);
    let fate = |pfn: Pfn| {
        outcome.details.iter().find(|detail| detail.pages.contains(pfn)).map(|detail| detail.fate)
    };
    let transient: Vec<_> = prepared.transient.iter().map(|pfn| fate(*pfn)).collect();
    tale.check(
        "pages the firmware uses until the kernel starts are handed over",
        expect(transient == [Some(Fate::HandedOver); 2], || format!("{outcome:?}")),
    );
    let others = [prepared.kept, NO_MEMORY].map(fate);
    tale.check(
        "one the firmware keeps, and one that is not there, are told apart",
        expect(others == [Some(Fate::Kept), Some(Fate::Absent)], || format!("{outcome:?}")),
    );
    // All that are left are free memory, and below every limit.
    let special: Vec<Pfn> =
        prepared.transient.iter().copied().chain([prepared.kept, NO_MEMORY]).collect();
    let free: Vec<BadRange> = the_list
        .ranges
        .iter()
        .filter(|range| !special.contains(&range.pages.start))
        .copied()
        .collect();
    unusable_as_planned(tale, booted, &free, &outcome)?;
    for &pfn in &prepared.transient {
        let reserved = is_reserved(&mut booted.machine, pfn)?;
        tale.check(
            &format!("the kernel reserves {}, which was handed over", pfn.addr()),
            expect(reserved, || "its flags do not say so".to_owned()),
        );
    }
    nobody_gets(tale, booted, &[SCATTERED, Scattered { first: 0x1_4001, step: 1, count: 34 }])
}

/// The outcome, which has to be there.
fn driver_ran(tale: &mut Tale, booted: &mut Booted, prepared: &Prepared) -> Result<Outcome> {
    let outcome = booted.outcome()?.context("the driver left no outcome")?;
    let times = outcome.times;
    if outcome.excluded_ranges > 0
        && let Ok(mut measured) = prepared.measured.lock()
    {
        let each_us = f64::from(times.exclude_us) / f64::from(outcome.excluded_ranges);
        measured.driver.push((f64::from(times.read_us), each_us));
    }
    tale.note(format!(
        "the driver took {} us by its {:?}, {} of them to read and {} to exclude; the boot {:.1} s",
        times.total_us,
        times.clock,
        times.read_us,
        times.exclude_us,
        booted.elapsed.as_secs_f64()
    ));
    Ok(outcome)
}

/// The kernel shows exactly what the plan for `free` pages says as unusable memory.
fn unusable_as_planned(
    tale: &mut Tale,
    booted: &mut Booted,
    free: &[BadRange],
    outcome: &Outcome,
) -> Result<()> {
    let plan = plan(free, Limits::default());
    let expected: Vec<PfnRange> = plan.ranges.iter().map(|range| range.pages).collect();
    let unusable = iomem(&mut booted.machine, "Unusable memory")?;
    tale.check(
        &format!(
            "{} pages in {} ranges are unusable memory, the planned ones and no others",
            total(&unusable),
            unusable.len()
        ),
        expect(unusable == expected, || {
            let others = unusable.iter().filter(|range| !expected.contains(range)).count();
            let missing: Vec<_> =
                expected.iter().filter(|range| !unusable.contains(range)).collect();
            let some = &missing[..missing.len().min(5)];
            format!("{} are missing ({some:x?}), {others} are others", missing.len())
        }),
    );
    let told = (outcome.excluded_pages, outcome.excluded_ranges, outcome.left_over);
    let planned = (total(&expected), u32::try_from(expected.len())?, plan.left_over());
    tale.check(
        &format!("the outcome says so, and that {} pages are left over", outcome.left_over.pages),
        expect(told == planned && outcome.refused_pages == 0, || format!("{outcome:?}")),
    );
    for range in expected.iter().step_by(expected.len().div_ceil(8).max(1)) {
        let reserved = is_reserved(&mut booted.machine, range.start)?;
        if !reserved {
            tale.check("the kernel keeps them from everybody", Err(format!("not {}", range.start)));
        }
    }
    Ok(())
}

/// A program takes all of a machine's `memory_mib` that it can get, and none of `frames`.
fn hog_gets_none(
    tale: &mut Tale,
    machine: &mut Machine,
    memory_mib: u32,
    frames: &[Scattered],
) -> Result<()> {
    let hogged = hog(machine, KEEP_MIB, frames)?;
    let share = hogged.pages * 4 / 1024 * 100 / u64::from(memory_mib);
    tale.check(
        &format!("a hog takes {share} % of all memory and is given none of them"),
        expect(hogged.given.is_empty() && share > 70, || format!("{hogged:x?}")),
    );
    Ok(())
}

fn nobody_gets(tale: &mut Tale, booted: &mut Booted, frames: &[Scattered]) -> Result<()> {
    let hogged = hog(&mut booted.machine, KEEP_MIB, frames)?;
    let total_kib = capability::meminfo_kib(&booted.machine.read("/proc/meminfo")?, "MemTotal");
    let share = hogged.pages as f64 * 4.0 / total_kib.context("MemTotal")? as f64;
    tale.check(
        &format!("a hog takes {:.0} % of all memory and is given none of them", share * 100.0),
        expect(hogged.given.is_empty() && share > 0.7, || format!("{hogged:x?}")),
    );
    Ok(())
}

fn at_the_cap(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let mut booted = lab.boot(&lab.setup("at-the-cap", &prepared.at_the_cap))?;
    if let Ok(mut measured) = prepared.measured.lock() {
        measured.at_the_cap = booted.processor.as_secs_f64();
    }
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    unusable_as_planned(tale, &mut booted, &AT_THE_CAP.ranges(Badness::CORRECTED), &outcome)
}

fn many(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    // The worst 200 are spread over all memory: with these alone, a kernel would find no room.
    let mut ranges = MANY.ranges(Badness::CORRECTED);
    for range in ranges.iter_mut().step_by(50) {
        range.badness = Badness::UNCORRECTED;
    }
    let copy = encoded(&list(ranges))?;
    let setup = Setup { files: [None, Some(copy)], ..lab.setup("many", &prepared.no_list) };
    let mut booted = lab.boot(&setup)?;
    if let Ok(mut measured) = prepared.measured.lock() {
        measured.many = booted.processor.as_secs_f64();
    }
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    let fates = outcome.excluded_pages
        + outcome.handed_over_pages
        + outcome.kept_pages
        + outcome.left_over.pages;
    tale.check(
        &format!(
            "{} pages are excluded, in {} ranges; {} are left over",
            outcome.excluded_pages, outcome.excluded_ranges, outcome.left_over.pages
        ),
        expect(
            outcome.excluded_ranges == Limits::RANGES_DEFAULT
                && outcome.source == Some(3)
                && fates - outcome.filler_pages == MANY.count,
            || format!("{outcome:?}"),
        ),
    );
    let unusable = iomem(&mut booted.machine, "Unusable memory")?;
    tale.check(
        "the kernel says so, too",
        expect(total(&unusable) == outcome.excluded_pages, || format!("{unusable:x?}")),
    );
    Ok(())
}

fn above_4g(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    if let Err(why) = capability::memory(8 * 1024) {
        tale.note(format!("SKIPPED: {why}"));
        return Ok(());
    }
    let setup = Setup { memory_mib: 6 * 1024, ..lab.setup("above-4g", &prepared.above_4g) };
    let mut booted = lab.boot(&setup)?;
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    unusable_as_planned(tale, &mut booted, &HIGH.ranges(Badness::CORRECTED), &outcome)?;
    nobody_gets(tale, &mut booted, &[HIGH])
}

fn damaged(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let mut torn = encoded(&list(SCATTERED.ranges(Badness::CORRECTED)))?;
    torn.truncate(torn.len() - 8);
    let nonsense = vec![0xff; 4096];
    let setup =
        Setup { files: [Some(torn), Some(nonsense)], ..lab.setup("damaged", &prepared.damaged) };
    let mut booted = lab.boot(&setup)?;
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    let nothing = outcome.source.is_none() && outcome.excluded_pages == 0;
    tale.check(
        "the machine boots, and the outcome names every damaged copy",
        expect(nothing && outcome.copies == [CopyState::Damaged; 4], || format!("{outcome:?}")),
    );
    let unusable = iomem(&mut booted.machine, "Unusable memory")?;
    tale.check("nothing is excluded", expect(unusable.is_empty(), || format!("{unusable:?}")));
    said(tale, &booted, "no sound list of bad pages: nothing is excluded")
}

/// The driver's line is on the console.
fn said(tale: &mut Tale, booted: &Booted, line: &str) -> Result<()> {
    let console = booted.console()?;
    tale.check(
        &format!("the console says: {line}"),
        expect(console.contains(line), || {
            let lines: Vec<&str> =
                console.lines().filter(|line| line.contains("rampart")).collect();
            format!("it says {lines:?}")
        }),
    );
    Ok(())
}

fn one_sound(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let sound = list(SCATTERED.ranges(Badness::CORRECTED));
    let setup = Setup {
        files: [Some(b"RASXLIST".to_vec()), Some(encoded(&sound)?)],
        ..lab.setup("one-sound", &prepared.damaged)
    };
    let mut booted = lab.boot(&setup)?;
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    let [damage @ .., found] = outcome.copies;
    tale.check(
        "it is used, and the damage told",
        expect(
            outcome.source == Some(3)
                && damage == [CopyState::Damaged; 3]
                && found == CopyState::Sound,
            || format!("{outcome:?}"),
        ),
    );
    unusable_as_planned(tale, &mut booted, &sound.ranges, &outcome)?;
    said(tale, &booted, "rampart: RasExclusionA is damaged")
}

fn boot_loader(tale: &mut Tale, lab: &Lab, prepared: &Prepared) -> Result<()> {
    let sound = list(SCATTERED.ranges(Badness::CORRECTED));
    let setup = Setup {
        how: How::BootLoader,
        files: [Some(encoded(&sound)?), None],
        ..lab.setup("boot-loader", lab.fresh_variables())
    };
    let mut booted = lab.boot(&setup)?;
    let outcome = driver_ran(tale, &mut booted, prepared)?;
    unusable_as_planned(tale, &mut booted, &sound.ranges, &outcome)?;
    nobody_gets(tale, &mut booted, &[SCATTERED])
}
