//! `cargo xtask lab walk`: one real memory error goes all the way, on a stock kernel.
//!
//! ```text
//!  this process            QEMU (TCG), stock Debian kernel
//!  -------------           -------------------------------------------------------------
//!  story  ---- serial ---> lab-agent (/init) --starts--> rasd, rasctl, page-holder
//!     |                                                    ^
//!     +-------- QMP -----> `mce` --> #MC --> kernel --> mce_record trace event
//!                                                          +--> store on a disk
//! ```
//! The disk outlives the machine, which is never shut down: its plug is pulled.

pub(crate) mod checks;
mod holder;
mod lab;

use std::time::Duration;

use anyhow::Result;
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};

pub use holder::{Report, WATCHED};

use crate::image;
use crate::machine::Machine;
use crate::story::{Story, Summary};
use checks::{
    expect, hardware_corrupted_kib, is_recent, kernel_says_poisoned, listed, retired, status,
    traced,
};
use lab::Lab;

/// An uncorrected error found by the patrol scrubber: SRAO, on bank 8. SDM vol. 3B, "Architecturally
/// Defined SRAO Errors": VAL UC EN MISCV ADDRV S, MCACOD 00c0; in MCG_STATUS, RIPV and MCIP.
const SRAO: &str = "0xbd000000000000c0 5";

/// A corrected read error of a memory controller, count 1: VAL MISCV ADDRV, MCACOD 0090.
const CORRECTED: &str = "0x8c00004000010090 0";

/// What takes a moment on an idle machine takes a while on a busy one that emulates another.
const SOON: Duration = Duration::from_secs(30);

/// For ten thousand pages.
const LONG: Duration = Duration::from_secs(170);

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
/// Something the story needs can't be had: a package, the kernel, a program. Once it is being told,
/// whatever fails counts as a failed step; the directory with all logs is then kept and printed.
pub fn run() -> Result<Summary> {
    possible().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    let lab = Lab::prepare()?;
    let mut story = Story::begin("The walk: one real memory error goes all the way");
    if let Err(error) = tell(&mut story, &lab) {
        story.fail(&format!("the story can't go on: {error:#}"));
    }
    let summary = story.end();
    lab.close(summary.is_success());
    Ok(summary)
}

fn tell(story: &mut Story, lab: &Lab) -> Result<()> {
    story.chapter("First boot");
    let mut machine = boot(story, lab, 1)?;
    start_rasd(story, &mut machine)?;
    let [doomed, weak, unseen] = start_holder(story, &mut machine)?;

    story.chapter("An uncorrected error, found by the patrol scrubber (SRAO)");
    let doomed = uncorrected(story, &mut machine, doomed)?;

    story.chapter("Two corrected errors on one page");
    let weak = corrected(story, &mut machine, weak)?;

    story.chapter("rasd is killed, and misses two corrected errors on another page");
    let unseen = while_rasd_is_dead(story, &mut machine, unseen)?;
    for line in listed(&mut machine)? {
        story.note(&line);
    }

    story.chapter("The plug is pulled, and the machine boots again with the same disk");
    machine.pull_the_plug()?;
    let mut machine = boot(story, lab, 2)?;
    after_the_reboot(story, &mut machine, &[doomed, weak, unseen])?;

    story.chapter("An uncorrected error in memory the kernel itself uses");
    kept_by_the_kernel(story, &mut machine)?;
    machine.pull_the_plug()?;

    story.chapter("A boot with a list of 10,000 pages, one of them excluded by the command line");
    long_list(story, lab)
}

fn boot(story: &mut Story, lab: &Lab, number: u32) -> Result<Machine> {
    let mut machine = lab.boot(number)?;
    // Corrected errors raise no interrupt here: the kernel finds them when it looks, once a second.
    machine.write("/sys/devices/system/machinecheck/machinecheck0/check_interval", "1")?;
    traced::watch(&mut machine)?;
    story.pass(&format!("{} runs, with the disk at /var/lib/rasd", lab.release()));
    Ok(machine)
}

fn start_rasd(story: &mut Story, machine: &mut Machine) -> Result<u64> {
    machine.forget_events();
    machine.start("rasd", &["/bin/rasd", "--config", "/etc/rasd.toml"])?;
    let corrupted_kib = checks::ready(machine, SOON)?;
    let status = status(machine)?;
    let tracefs = status.sources.iter().find(|source| source.name == "tracefs");
    story.check(
        "rasd is ready and reads the kernel's trace events",
        expect(tracefs.is_some_and(|source| source.state == "running"), || {
            format!("its sources are {:?}", status.sources)
        }),
    );
    Ok(corrupted_kib)
}

fn start_holder(story: &mut Story, machine: &mut Machine) -> Result<[Pfn; WATCHED]> {
    machine.start("holder", &["/bin/page-holder"])?;
    let (pages, watched) = checks::report(machine, "its first report", |report| match report {
        Report::Holding { pages, watched } => Some((*pages, watched.map(Pfn))),
        _ => None,
    })?;
    let places = watched.map(|pfn| pfn.addr().to_string()).join(", ");
    story.pass(&format!("a program uses {pages} pages, among them {places}"));
    Ok(watched)
}

fn uncorrected(story: &mut Story, machine: &mut Machine, doomed: Pfn) -> Result<RetiredPage> {
    let before = hardware_corrupted_kib(machine)?;
    inject(story, machine, SRAO, doomed)?;

    let (code, frame, lsb) = checks::report(machine, "the SIGBUS", |report| match report {
        Report::Sigbus { code, frame, lsb } => Some((*code, *frame, *lsb)),
        _ => None,
    })?;
    story.check(
        "the program got SIGBUS, BUS_MCEERR_AO, for that page, and lives",
        expect((code, frame, lsb) == (5, Some(doomed.0), 12), || {
            format!("si_code {code}, in page frame {frame:x?}, si_addr_lsb {lsb}")
        }),
    );
    let seen = traced::count(machine, doomed)?;
    story.check("the kernel traced it", expect(seen == 1, || format!("{seen} mce_record events")));

    let page = retired(machine, doomed)?;
    story.check(
        &format!("rasd remembered it: {}", describe(&page)),
        expect(page.reason == RetireReason::Uncorrected && page.severity == Severity::Srao, || {
            format!("{page:?}")
        }),
    );
    story.check("the time it remembers is right", is_recent(page.since));
    story.check("the kernel marks the page as poisoned", kernel_says_poisoned(machine, doomed)?);
    corrupted_by_one_page(story, machine, before)?;
    Ok(page)
}

fn corrected(story: &mut Story, machine: &mut Machine, weak: Pfn) -> Result<RetiredPage> {
    let before = hardware_corrupted_kib(machine)?;
    inject(story, machine, CORRECTED, weak)?;
    traced::wait(machine, weak, 1)?;
    checks::wait_status(machine, "the first error to be counted", |status| {
        status.counts.counted == 1
    })?;
    let pages = checks::pages(machine)?;
    story.check(
        "rasd counted it, and left the page alone",
        expect(pages.iter().all(|page| page.pfn != weak), || format!("{pages:?}")),
    );

    inject(story, machine, CORRECTED, weak)?;
    condemned(story, machine, weak, before)
}

fn while_rasd_is_dead(
    story: &mut Story,
    machine: &mut Machine,
    unseen: Pfn,
) -> Result<RetiredPage> {
    let before = hardware_corrupted_kib(machine)?;
    machine.kill("rasd")?;
    story.note("rasd got SIGKILL");
    for number in 1..=2 {
        inject(story, machine, CORRECTED, unseen)?;
        traced::wait(machine, unseen, number)?;
    }
    start_rasd(story, machine)?;
    let gap = status(machine)?.gap.pages;
    story.check(
        "it sees that the pages retired before are still out of use",
        expect(gap == 0, || format!("it counts {gap} that were not")),
    );
    condemned(story, machine, unseen, before)
}

/// A page had its second corrected error: everything that has to come of that.
fn condemned(
    story: &mut Story,
    machine: &mut Machine,
    pfn: Pfn,
    corrupted_before_kib: u64,
) -> Result<RetiredPage> {
    let (to, intact) = checks::report(machine, "the page to move", |report| match report {
        Report::Moved { from, to, intact } if *from == pfn.0 => Some((Pfn(*to), *intact)),
        _ => None,
    })?;
    story.check(
        &format!("the page moved from {} to {}, contents intact", pfn.addr(), to.addr()),
        expect(to != pfn && intact, || "its contents are damaged".to_owned()),
    );
    let (pages, damaged) = checks::verification_after_move(machine, pfn)?;
    story.check(
        &format!("all {pages} pages the program has left hold what it wrote"),
        expect(damaged == 0, || format!("{damaged} do not")),
    );
    let page = retired(machine, pfn)?;
    story.check(
        &format!("rasd remembered it: {}", describe(&page)),
        expect(page.reason == RetireReason::CorrectedThreshold, || format!("{page:?}")),
    );
    story.check("the kernel marks the page as poisoned", kernel_says_poisoned(machine, pfn)?);
    corrupted_by_one_page(story, machine, corrupted_before_kib)?;
    Ok(page)
}

fn after_the_reboot(
    story: &mut Story,
    machine: &mut Machine,
    remembered: &[RetiredPage],
) -> Result<()> {
    let expected = remembered.len() as u64;
    let fresh = hardware_corrupted_kib(machine)?;
    story.check(
        "the new kernel knows nothing of the bad pages",
        expect(fresh == 0, || format!("HardwareCorrupted is {fresh} KiB")),
    );
    let stored = checks::stored_pages(machine)?;
    story.check(
        &format!("the disk remembers {} pages, each as it was", stored.len()),
        expect(stored == remembered, || format!("{remembered:?} became {stored:?}")),
    );
    let at_ready = start_rasd(story, machine)?;
    story.check(
        &format!("before it said so, {at_ready} KiB were out of use again"),
        expect(at_ready == 4 * expected, || format!("{expected} pages were expected")),
    );
    let gap = status(machine)?.gap;
    story.check(
        &format!("it knows the gap: {} pages, closed {} s after the boot", gap.pages, gap.seconds),
        expect(gap.pages == expected, || format!("{expected} were expected")),
    );
    let exported = checks::figure(machine, "ras_start_gap_pages")?;
    let seconds = checks::figure(machine, "ras_start_gap_seconds")?;
    story.check(
        &format!("and exports it: ras_start_gap_pages {exported}, ras_start_gap_seconds {seconds}"),
        expect((exported, seconds) == (gap.pages, gap.seconds), || format!("it is {gap:?}")),
    );
    for before in remembered {
        let page = retired(machine, before.pfn)?;
        let same = (page.reason, page.severity, page.source, page.since)
            == (before.reason, before.severity, before.source, before.since);
        story.check(
            &format!("still listed: {}", describe(&page)),
            expect(same, || format!("it was {before:?} and is {page:?}")),
        );
        let marked = kernel_says_poisoned(machine, page.pfn)?;
        story.check("the new kernel marks it as poisoned", marked);
    }
    for line in listed(machine)? {
        story.note(&line);
    }
    Ok(())
}

/// The kernel marks such a page like any other; only its trace event tells that nothing was freed.
fn kept_by_the_kernel(story: &mut Story, machine: &mut Machine) -> Result<()> {
    let pfn = checks::kernel_code(machine)?;
    inject(story, machine, SRAO, pfn)?;
    let page = checks::listed_as(machine, pfn, RetireState::Failed)?;
    story.check("the kernel marks it as poisoned", kernel_says_poisoned(machine, pfn)?);
    story.check(
        &format!("rasd does not take the mark for a success: {}", describe(&page)),
        expect(page.outcome.contains("still uses it"), || format!("{page:?}")),
    );
    Ok(())
}

/// Whatever the firmware did not exclude is offline before any guest may start, however long the list.
fn long_list(story: &mut Story, lab: &Lab) -> Result<()> {
    const PAGES: u64 = 10_000;
    /// Above the kernel, below its page structures and the initial RAM disk: mostly free.
    const FIRST: u64 = 0x8000;
    const STRIDE: u64 = 6;
    let page = |number| RetiredPage {
        pfn: Pfn(FIRST + STRIDE * number),
        reason: RetireReason::CorrectedThreshold,
        state: RetireState::Retired,
        severity: Severity::Corrected,
        source: ErrorSource::MceRecord,
        since: Timestamp(1_700_000_000_000_000_000 + number),
        updated: Timestamp(1_700_000_000_000_000_000 + number),
        attempts: 1,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: "made for this story".into(),
        outcome: "host: offline".into(),
    };
    let excluded = Pfn(FIRST).addr();
    let mut machine =
        lab.boot_with_list(3, (0..PAGES).map(page), &format!("memmap=4K${excluded}"))?;
    machine.forget_events();
    machine.start("rasd", &["/bin/rasd", "--config", "/etc/rasd.toml"])?;
    let at_ready_kib = checks::ready(&mut machine, LONG)?;
    story.check("the service manager was told how it goes", checks::told_of_progress(&machine));
    let gap = status(&mut machine)?.gap;
    story.check(
        &format!(
            "before rasd was ready, {} pages were offlined in {} ms ({} pages/s, emulated), \
             {} were excluded before, {} could not be had",
            gap.pages,
            gap.offlining_ms,
            gap.pages_per_second(),
            gap.excluded,
            gap.in_use
        ),
        expect(
            gap.pages + gap.excluded + gap.in_use == PAGES
                && gap.excluded == 1
                && gap.pages > PAGES * 9 / 10,
            || format!("{gap:?}"),
        ),
    );
    story.check(
        &format!("the kernel counts {at_ready_kib} KiB as corrupted"),
        expect(at_ready_kib == 4 * gap.pages, || format!("{} pages were offlined", gap.pages)),
    );
    let outcome = checks::page(&mut machine, Pfn(FIRST))?.outcome;
    story.check(
        &format!("{excluded} is known to be out of use: {outcome}"),
        expect(outcome.contains("command line"), || "by another's word".into()),
    );
    let failed = status(&mut machine)?.pages.failed;
    let exported = checks::figure(&mut machine, "ras_start_gap_pages")?;
    story.check(
        &format!("the figures say the same: gap of {exported} pages, {failed} listed as failed"),
        expect((exported, failed) == (gap.pages, gap.in_use), || format!("{gap:?}")),
    );
    Ok(())
}

fn describe(page: &RetiredPage) -> String {
    let RetiredPage { pfn, reason, severity, source, state, outcome, .. } = page;
    format!("{}, {reason} ({severity} by {source}), {state}: {outcome}", pfn.addr())
}

/// Memory the kernel counts as corrupted grew by exactly the page in question.
fn corrupted_by_one_page(story: &mut Story, machine: &mut Machine, before_kib: u64) -> Result<()> {
    let after_kib = hardware_corrupted_kib(machine)?;
    story.check(
        &format!("HardwareCorrupted rose from {before_kib} to {after_kib} KiB"),
        expect(after_kib == before_kib + 4, || "one page was expected".to_owned()),
    );
    Ok(())
}

/// Injects into bank 8, with a MISC that says: physical address, valid down to bit 12.
fn inject(story: &Story, machine: &mut Machine, what: &str, pfn: Pfn) -> Result<()> {
    let command = format!("mce 0 8 {what} {} 0x8c", pfn.addr());
    machine.qemu().human_monitor(&command)?;
    story.note(&format!("QEMU injects: {command}"));
    Ok(())
}
