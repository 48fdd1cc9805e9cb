//! `cargo xtask demo`: one memory error, end to end, on the machine it is run on, or on one that is
//! emulated for it ([`nested`]).
//!
//! ```text
//!   page of a running guest poisoned (UFFDIO_POISON)      vm1: rasvmm + test guest
//!   matching machine check --stdin--> rasd --QMP--> vm1   block unplugged while it runs
//!   a second one ----------stdin--> rasd --QMP--> vm1 ==unix socket==> vm1' (the peer)
//!       (lost for real, by the kernel, where it can)
//!   SIGKILL, restart ------------------> rasd              nothing forgotten
//! ```
//!
//! Every line told is read from what the programs did: rasd's answers and log, the guest's serial
//! line, QMP. Nothing is assumed to have worked.

pub mod nested;

mod daemon;
mod page;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ras_core::{Evacuation, Gpa, Pfn, RetiredPage};
use ras_qmp::ras::{MemoryMap, RegionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::vm::{VirtioMem, Vm, VmOptions};
use crate::{Story, Summary, artifacts, cache, capability};
use daemon::Daemon;

/// What the story waits for takes milliseconds; a machine that needs longer than this is stuck.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The story as data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// What `rasd` made of the machine check.
    pub decoded: Value,
    /// What it concluded.
    pub diagnosis: Value,
    /// What it remembered, and the host kernel's answer.
    pub retired: Value,
    /// What became of the page in the guest.
    pub guest: Value,
    /// The second error: the guest moved.
    pub migration: Value,
    /// `rasd` killed and started again.
    pub restart: Value,
}

/// Whether this machine can tell the story itself.
///
/// # Errors
/// What is missing, in one line.
pub fn requirements() -> Result<(), String> {
    capability::kvm()?;
    capability::root()
}

/// Tells the story. Builds what it needs first. `patience` is how long each step may take.
///
/// # Errors
/// A program can't be built or started. What the programs did wrong is a failed step instead.
pub fn run(verbose: bool, patience: Duration) -> Result<(Summary, Told)> {
    requirements().map_err(anyhow::Error::msg)?;
    artifacts::programs(&["rasd", "rasctl", "rasvmm"])?;
    artifacts::guest()?;
    // On a real file system, and always the same place: what a killed demo left is swept away.
    let _alone = cache::lock("demo")?;
    let dir = crate::cache_dir()?.join("demo");
    sweep(&dir)?;
    fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut story = Story::begin("One memory error goes all the way");
    let mut told = Told::default();
    let mut tale = Tale { story: &mut story, told: &mut told, dir: &dir, verbose, patience };
    if let Err(error) = tale.tell() {
        story.fail(&format!("the story can't go on: {error:#}"));
    }
    let summary = story.end();
    if summary.is_success() {
        sweep(&dir)?;
    } else {
        println!("logs of the programs: {}", dir.display());
    }
    Ok((summary, told))
}

fn sweep(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

struct Tale<'a> {
    story: &'a mut Story,
    told: &'a mut Told,
    dir: &'a Path,
    verbose: bool,
    patience: Duration,
}

/// A page of the guest on its way to ruin.
struct Victim {
    gpa: Gpa,
    pfn: Pfn,
}

impl Tale<'_> {
    fn tell(&mut self) -> Result<()> {
        let (source, destination) = self.start_guests()?;
        let mut rasd = self.start_rasd()?;
        let first = self.first_error(&source, &mut rasd)?;
        let second = self.second_error(&source, &destination, &mut rasd)?;
        self.killed_and_restarted(rasd, &[first, second])
    }

    fn start_guests(&mut self) -> Result<(Vm, Vm)> {
        self.story.chapter("A guest, and a place for it to go");
        for name in ["guests", "peer"] {
            fs::create_dir(self.dir.join(name))?;
        }
        let source = Vm::start(VmOptions {
            fault_injection: true,
            dir: Some(self.dir.join("guests")),
            virtio_mem: Some(VirtioMem { region_mib: 128, requested_mib: 64 }),
            ..VmOptions::named("vm1")
        })?;
        let first_byte = |vm: &Vm| vm.first_byte_at().map(|at| at - vm.started_at());
        let ready = source.wait_ready(self.patience)?;
        self.story.pass(&format!(
            "vm1 runs under rasvmm (PID {}): {} MiB, of which {} MiB can be unplugged; \
             first instruction after {}",
            source.pid(),
            (ready.ram + ready.plugged) >> 20,
            ready.plugged >> 20,
            first_byte(&source).map_or("?".to_owned(), milliseconds),
        ));
        let destination = Vm::start(VmOptions {
            dir: Some(self.dir.join("peer")),
            ..source.options().incoming(&self.peer())
        })?;
        destination.qmp()?;
        self.story.pass(&format!(
            "a second rasvmm (PID {}) stands for the other host: it waits for arrivals",
            destination.pid()
        ));
        let tick = source.wait_tick(5, self.patience)?;
        self.story.note(&format!("the guest counts and verifies its memory: tick {}", tick.number));
        Ok((source, destination))
    }

    fn start_rasd(&mut self) -> Result<Daemon> {
        self.story.chapter("The daemon");
        fs::write(self.dir.join("rasd.toml"), self.config())?;
        let rasd = Daemon::start(self.dir, self.verbose)?;
        let status = rasd.wait_ready(self.patience)?;
        self.story.pass(&format!(
            "rasd is ready (PID {}), with an empty list; cluster engine: {}, {}",
            rasd.pid(),
            status.engine.name,
            if status.engine.failover { "with failover" } else { "without failover" },
        ));
        for source in status.sources.iter().filter(|source| source.state == "failed") {
            self.story.note(&format!("{}: {}", source.name, source.detail));
        }
        self.story.note("the machine checks of this story come in by hand, as a replayed capture");
        Ok(rasd)
    }

    fn first_error(&mut self, source: &Vm, rasd: &mut Daemon) -> Result<RetiredPage> {
        self.story.chapter("A page of the running guest goes bad");
        let mark = source.mark();
        let plugged = source.last_tick().context("the guest ticked before")?.plugged;
        let victim = self.poison(source, RegionKind::VirtioMem)?;
        let began = Instant::now();
        rasd.feed(&machine_check(victim.pfn))?;

        let page = rasd.wait_page(victim.pfn, self.patience)?;
        let concluded = began.elapsed();
        let fault = rasd.log_line(&["fault diagnosed", &hexadecimal(victim.pfn)], self.patience)?;
        let times = rasd.timings(1, self.patience)?;
        self.story.check(
            &format!("decoded in {}: {}", microseconds(&times, "decode_ns"), said(&fault, "error")),
            holds(page.severity.name() == "srao", || format!("severity is {}", page.severity)),
        );
        self.told.decoded = json!({
            "severity": page.severity, "source": page.source, "summary": said(&fault, "error"),
            "pfn": victim.pfn, "decode_us": as_microseconds(&times, "decode_ns"),
        });
        self.story.pass(&format!(
            "diagnosed in {}: {}",
            microseconds(&times, "analyze_ns"),
            page.diagnosis
        ));
        self.told.diagnosis = json!({
            "reason": page.diagnosis, "analyze_us": as_microseconds(&times, "analyze_ns"),
        });
        self.story.pass(&format!(
            "remembered on disk, fsynced, {} after it came in, before anything was done",
            microseconds(&times, "event_to_remembered_ns")
        ));
        self.tell_host_answer(&page);
        self.told.retired = json!({
            "page": page,
            "event_to_remembered_us": as_microseconds(&times, "event_to_remembered_ns"),
            "event_to_concluded_ms": concluded.as_secs_f64() * 1e3,
        });
        self.guest_let_go(source, &victim, mark, plugged, began)?;
        Ok(page)
    }

    /// The kernel's answer is a fact of this machine, not a verdict on the program.
    fn tell_host_answer(&self, page: &RetiredPage) {
        let answer = page.outcome.split(';').next().unwrap_or(&page.outcome);
        self.story.note(&format!("asked the host kernel for the page: {answer}"));
    }

    fn guest_let_go(
        &mut self,
        source: &Vm,
        victim: &Victim,
        mark: usize,
        plugged: u64,
        began: Instant,
    ) -> Result<()> {
        let block = victim.gpa.0 & !((2 << 20) - 1);
        let unplug = source.wait_line_from(
            mark,
            |line| line.text.starts_with("unplug ") && line.number("gpa") == Some(block),
            self.patience,
        )?;
        self.story.pass(&format!(
            "unplugged from the guest while it runs, {} after the error: {}",
            milliseconds(unplug.at.saturating_duration_since(began)),
            unplug.text
        ));
        for line in source.lines().iter().skip(mark) {
            if line.text.starts_with("#MC") || line.text.starts_with("lost") {
                self.story.note(&format!("the guest said: {}", line.text));
            }
        }
        let healthy = source.wait_line_from(
            mark,
            |line| line.at > unplug.at && line.tick().is_some_and(|tick| tick.plugged == plugged),
            self.patience,
        )?;
        let tick = healthy.tick().context("a line that was a tick before")?;
        let bad = source.bad_sums();
        self.story.check(
            &format!(
                "healthy memory took its place: {} MiB plugged as before, tick {}, no write lost",
                tick.plugged >> 20,
                tick.number
            ),
            holds(bad.is_empty(), || format!("{} ticks found lost writes", bad.len())),
        );
        let map = source.qmp()?.memory_map()?;
        let held = map.poisoned.iter().any(|page| page.gpa == victim.gpa && page.held);
        self.story.check(
            "the bad page is held by rasvmm: neither guest nor host will use it again",
            holds(held, || format!("poisoned pages: {:?}", map.poisoned)),
        );
        self.told.guest = json!({
            "gpa": victim.gpa, "block": Gpa(block), "held": held, "lost_writes": bad.len(),
            "unplugged_after_ms":
                unplug.at.saturating_duration_since(began).as_secs_f64() * 1e3,
        });
        Ok(())
    }

    fn second_error(
        &mut self,
        source: &Vm,
        destination: &Vm,
        rasd: &mut Daemon,
    ) -> Result<RetiredPage> {
        self.story.chapter("A second page goes bad, in memory that can't be unplugged");
        // Where the kernel can lose memory for real, that is left to it, and to rasd asking for it.
        let victim = match capability::hard_offline() {
            Ok(()) => self.choose(source, RegionKind::Ram)?,
            Err(_) => self.poison(source, RegionKind::Ram)?,
        };
        let began = Instant::now();
        rasd.feed(&machine_check(victim.pfn))?;
        let page = rasd.wait_page(victim.pfn, self.patience)?;
        self.story.note(&format!("rasd: {}", page.outcome));
        let arrived = destination.wait_line(|line| line.tick().is_some(), self.patience)?;
        let status = rasd.wait_status("the evacuation to be done", self.patience, |status| {
            status.health.evacuation == Evacuation::Done
        })?;
        self.story.pass(&format!(
            "health is {}: {}; the guest left",
            status.health.health, status.health.reason
        ));
        if page.outcome.starts_with("host: offline") {
            let lost = format!("guest page {} is lost", victim.gpa);
            self.story.check(
                "the kernel poisoned it and told rasvmm (SIGBUS), which lives",
                holds(source.log().contains(&lost), || format!("its log: {}", source.log())),
            );
        }
        let migration = source.qmp()?.query_migrate()?;
        let last = source.last_tick().context("the source ticked before")?;
        let first = arrived.tick().context("a line that was a tick before")?;
        let gap = first.at.saturating_duration_since(last.at);
        self.story.check(
            &format!(
                "migrated live: tick {} was the last here, {} the first there; \
                 {} after the error, silent for {}, stopped for {} ms",
                last.number,
                first.number,
                milliseconds(arrived.at.saturating_duration_since(began)),
                milliseconds(gap),
                migration.downtime.unwrap_or(0),
            ),
            destination.assert_counter_continues(source).map_err(|error| format!("{error:#}")),
        );
        let there = destination.qmp()?.memory_map()?;
        self.story.check(
            &format!(
                "{} poisoned page(s) travelled as marks, unread",
                migration.x_ras_poisoned_pages.unwrap_or(0)
            ),
            holds(there.poisoned.iter().any(|bad| bad.gpa == victim.gpa), || {
                format!("poisoned over there: {:?}", there.poisoned)
            }),
        );
        let tick = destination.wait_ticks(20, self.patience)?;
        let bad = destination.bad_sums();
        self.story.check(
            &format!("it runs on: tick {}, no write lost", tick.number),
            holds(bad.is_empty(), || format!("{} ticks found lost writes", bad.len())),
        );
        self.told.migration = json!({
            "reason": status.health.reason, "last_tick_here": last.number,
            "first_tick_there": first.number, "gap_ms": gap.as_secs_f64() * 1e3,
            "downtime_ms": migration.downtime, "poisoned_pages": migration.x_ras_poisoned_pages,
            "lost_writes": bad.len(),
        });
        Ok(page)
    }

    fn killed_and_restarted(&mut self, rasd: Daemon, pages: &[RetiredPage]) -> Result<()> {
        self.story.chapter("The daemon is killed, and started again");
        let before = rasd.status()?.health;
        let killed = rasd.kill()?;
        self.story.note(&format!("rasd is gone ({killed})"));
        let began = Instant::now();
        let rasd = Daemon::start(self.dir, self.verbose)?;
        let status = rasd.wait_ready(self.patience)?;
        let ready = began.elapsed();
        let listed = rasd.pages()?;
        let missing =
            pages.iter().filter(|page| !listed.iter().any(|found| found.pfn == page.pfn)).count();
        self.story.check(
            &format!("ready again after {}, nothing forgotten:", milliseconds(ready)),
            holds(missing == 0, || format!("{missing} page(s) are missing")),
        );
        for line in rasd.list()?.lines() {
            self.story.note(line);
        }
        self.story.check(
            &format!("health is still {}, the evacuation done", status.health.health),
            holds(
                (status.health.health, &status.health.evacuation)
                    == (before.health, &before.evacuation),
                || format!("before it was {before:?}, now {:?}", status.health),
            ),
        );
        self.told.restart = json!({
            "ready_after_ms": ready.as_secs_f64() * 1e3, "pages": listed,
            "health": status.health.health, "forgotten": missing,
        });
        rasd.stop().map(drop)
    }

    /// Poisons a page the guest uses.
    fn poison(&mut self, vm: &Vm, kind: RegionKind) -> Result<Victim> {
        let Victim { gpa, .. } = self.choose(vm, kind)?;
        // The kernel may have moved the page meanwhile.
        let pfn = vm.qmp()?.inject_poison(gpa)?.context("rasvmm learned the page's host frame")?;
        self.story.note("poisoned it in there (UFFDIO_POISON)");
        Ok(Victim { gpa, pfn })
    }

    /// Picks a page the guest uses.
    fn choose(&mut self, vm: &Vm, kind: RegionKind) -> Result<Victim> {
        let map: MemoryMap = vm.qmp()?.memory_map()?;
        let region = map.regions.iter().find(|region| region.kind == kind);
        let region = region.with_context(|| format!("the guest has no {kind:?}"))?;
        // The guest's own program lies low in its boot memory: losing that would be its end.
        let offset = if kind == RegionKind::Ram { region.size / 2 } else { 0 };
        let (gpa, pfn) = page::first_present(map.pid, region, offset)?;
        ensure!(pfn.0 != 0, "the host hides page frame numbers from us");
        self.story.note(&format!("it is the guest's page {gpa}, host page {}", pfn.addr()));
        Ok(Victim { gpa, pfn })
    }

    fn peer(&self) -> String {
        format!("unix:{}", self.dir.join("peer/arrivals.sock").display())
    }

    fn config(&self) -> String {
        let at = |name: &str| self.dir.join(name);
        format!(
            "# The demo's configuration; every key not named here has its default.\n\
             store = {:?}\ncontrol = {:?}\n\n[guests]\ndir = {:?}\n\n\
             [boot]\nlist = \"off\"\n\n\
             [cluster]\nengine = \"standalone\"\n\n[cluster.standalone]\npeer = {:?}\n",
            at("store"),
            at("rasd.sock"),
            at("guests"),
            self.peer()
        )
    }
}

/// An uncorrected error found by the patrol scrubber, as an Ice Lake server reports it: SRAO. SDM
/// vol. 3B, "Architecturally Defined SRAO Errors".
fn machine_check(pfn: Pfn) -> Value {
    json!({ "mce": {
        "vendor": "intel", "cpuid": "0x606a6", "cpu": 0, "bank": 13, "mcg_cap": "0x1000c1b",
        "mcg_status": "0x5", "status": "0xbd000000000000c0", "misc": "0x8c",
        "addr": format!("{:#x}", pfn.addr().0),
    }})
}

fn holds(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn hexadecimal(pfn: Pfn) -> String {
    format!("{:#x}", pfn.0)
}

/// The value of `key="…"` in a line of rasd's log.
fn said(line: &str, key: &str) -> String {
    let value = line.split_once(&format!("{key}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    value.map_or_else(|| line.to_owned(), |(value, _)| value.to_owned())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn as_microseconds(times: &Value, key: &str) -> f64 {
    times[key].as_f64().unwrap_or(f64::NAN) / 1e3
}

fn microseconds(times: &Value, key: &str) -> String {
    format!("{:.0} µs", as_microseconds(times, key))
}
