//! `rasctl boot status`: what is installed, whether it is in step, what it did, and what to do next.

use std::io::{ErrorKind, Write};

use persist_store::exclusion::{CopyState, Outcome, place, total, union};
use rasctl::chain;
use rasctl::efi::image::Driver;
use rasctl::efi::load_option::{ACTIVE, LoadOption};
use serde::Serialize;

use super::fallback::{self, Fallback};
use super::host::Host;
use super::{Found, Method, SYSTEMD_DRIVERS, State, is_in_step, pages, read_driver, wanted_list};
use crate::Failure;
use crate::options::Global;
use crate::text;

#[derive(Serialize)]
struct Status {
    uefi: bool,
    secure_boot: bool,
    /// How pages are kept out; none where nothing is installed.
    method: Option<&'static str>,
    driver: Option<Installed>,
    /// In `Driver####` and `DriverOrder`.
    entry: Option<Entry>,
    list: Option<Listed>,
    /// What the driver did at this boot.
    boot: Option<Done>,
    /// What GRUB or Linux is told without the driver.
    fallback: Option<Told>,
    /// Pages of the store that are to be kept out of use.
    store_pages: u64,
    /// What to do; none where all is in step.
    next: Option<String>,
}

#[derive(Serialize)]
struct Installed {
    path: String,
    version: Option<String>,
    signed: bool,
    /// Whether it is the one that `install` would put there; none where there is no such one.
    newest: Option<bool>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    number: String,
    in_order: bool,
    active: bool,
    /// It names the partition the driver is on; none where that can't be told.
    right_partition: Option<bool>,
}

#[derive(Serialize)]
struct Listed {
    generation: u64,
    pages: u64,
    ranges: usize,
    left_over_pages: u64,
    in_step: bool,
    /// Copies that can't be used.
    damaged: Vec<String>,
}

/// See [`Outcome`].
#[derive(Serialize)]
struct Done {
    generation: u64,
    source: Option<&'static str>,
    damaged: Vec<&'static str>,
    listed_pages: u64,
    excluded_pages: u64,
    excluded_ranges: u32,
    filler_pages: u64,
    handed_over_pages: u64,
    kept_pages: u64,
    absent_pages: u64,
    refused_pages: u64,
    left_over_pages: u64,
    out_of_time: bool,
    limited: bool,
    total_us: u32,
}

#[derive(Serialize)]
struct Told {
    path: String,
    in_step: bool,
    left_over_pages: u64,
    /// GRUB's configuration was made from it; none where that can't be told.
    in_grub: Option<bool>,
    /// This boot's kernel was started with it; none where that can't be told.
    in_kernel: Option<bool>,
}

const PLACES: [&str; 4] = [
    place::LIST_VARIABLES[0],
    place::LIST_VARIABLES[1],
    place::LIST_FILES[0],
    place::LIST_FILES[1],
];

impl Done {
    fn of(outcome: &Outcome) -> Self {
        let unusable = |copy: &CopyState| !matches!(copy, CopyState::Absent | CopyState::Sound);
        let copies = PLACES.iter().zip(&outcome.copies);
        Self {
            generation: outcome.generation,
            source: outcome.source.and_then(|at| PLACES.get(usize::from(at)).copied()),
            damaged: copies.filter(|(_, copy)| unusable(copy)).map(|(name, _)| *name).collect(),
            listed_pages: outcome.listed_pages,
            excluded_pages: outcome.excluded_pages,
            excluded_ranges: outcome.excluded_ranges,
            filler_pages: outcome.filler_pages,
            handed_over_pages: outcome.handed_over_pages,
            kept_pages: outcome.kept_pages,
            absent_pages: outcome.absent_pages,
            refused_pages: outcome.refused_pages,
            left_over_pages: outcome.left_over.pages,
            out_of_time: outcome.out_of_time,
            limited: outcome.limited,
            total_us: outcome.times.total_us,
        }
    }
}

pub(super) fn run(host: &Host, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let status = look(host, global)?;
    if global.json {
        text::json(&status, out)?;
    } else {
        status.print(out)?;
    }
    if status.next.is_some() { Err(Failure::Code(1)) } else { Ok(()) }
}

fn look(host: &Host, global: &Global) -> Result<Status, Failure> {
    let found = Found::look(host, None)?;
    let listed = pages(host, global)?.unwrap_or_default();
    let wanted = wanted_list(&listed, &found)?;
    let there = found.list.read().map_err(|error| super::list_failure(&error))?;
    let list = there.list.as_ref().map(|list| Listed {
        generation: list.generation,
        pages: total(&union(&list.ranges)),
        ranges: list.ranges.len(),
        left_over_pages: list.left_over.pages,
        in_step: is_in_step(list, &wanted),
        damaged: there.damaged.iter().map(|(name, why)| format!("{name}: {why}")).collect(),
    });
    let outcome = found.list.outcome().map_err(|error| Failure::NotReached(chain(&error)))?;
    let state = found.state.clone();
    let method = state.as_ref().map(|state| state.method);
    let told = state.as_ref().filter(|state| !state.method.has_driver());
    let fallback = told.map(|state| fallback(host, state, &listed));
    let mut status = Status {
        uefi: host.has_uefi(),
        secure_boot: host.secure_boot()?,
        method: method.map(Method::name),
        driver: driver(host, &found, method)?,
        entry: entry(host, &found),
        list,
        boot: outcome.as_ref().map(Done::of),
        fallback,
        store_pages: total(&union(&wanted.ranges)),
        next: None,
    };
    status.next = status.advice(host, state.as_ref());
    Ok(status)
}

fn driver(
    host: &Host,
    found: &Found,
    method: Option<Method>,
) -> Result<Option<Installed>, Failure> {
    let Ok(esp) = &found.esp else { return Ok(None) };
    let places = match method {
        Some(Method::SystemdBoot) => [SYSTEMD_DRIVERS, place::DIRECTORY],
        _ => [place::DIRECTORY, SYSTEMD_DRIVERS],
    };
    let mut there = None;
    for file in places.map(|dir| esp.dir.join(dir).join(place::DRIVER_FILE)) {
        match std::fs::read(&file) {
            Ok(bytes) => {
                there = Some((file, bytes));
                break;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let file = host.shown(&file);
                return Err(Failure::NotReached(format!("reading {file}: {error}")));
            }
        }
    }
    let Some((file, bytes)) = there else { return Ok(None) };
    let inspected = Driver::inspect(&bytes);
    let version = inspected.as_ref().ok().map(|driver| driver.version);
    let signed = inspected.as_ref().is_ok_and(|driver| driver.signed);
    Ok(Some(Installed {
        path: host.shown(&file),
        version: version.map(|(major, minor)| format!("{major}.{minor}")),
        signed,
        newest: read_driver(host, None).ok().map(|(_, newest)| {
            // A signed copy differs from what a package brings in its signature, at least.
            let version_at_hand = Driver::inspect(&newest).ok().map(|driver| driver.version);
            newest == bytes || (signed && version == version_at_hand)
        }),
        problem: inspected.err().map(|error| error.to_string()),
    }))
}

fn entry(host: &Host, found: &Found) -> Option<Entry> {
    let (number, (_, option)) = found.entries.ours.iter().next()?;
    let LoadOption { attributes, partition, .. } = option;
    let actual = found.esp.as_ref().ok().and_then(|esp| host.partition(esp).ok());
    Some(Entry {
        number: format!("Driver{number:04X}"),
        in_order: found.entries.is_in_order(*number),
        active: attributes & ACTIVE != 0,
        right_partition: actual.map(|actual| *partition == Some(actual)),
    })
}

fn fallback(host: &Host, state: &State, pages: &[ras_core::RetiredPage]) -> Told {
    let (path, fallback, text) = if state.method == Method::Grub {
        let fallback = Fallback::cutmem(host, pages, state.ranges);
        let text = fallback.text.clone();
        (fallback::SCRIPT, fallback, text)
    } else {
        let fallback = Fallback::memmap(host, pages, state.ranges);
        let text = fallback.drop_in();
        (fallback::DROP_IN, fallback, text)
    };
    Told {
        path: path.into(),
        in_step: host.read_small(path).is_ok_and(|there| there == text),
        left_over_pages: fallback.left_over,
        in_grub: fallback.is_in_grub(host),
        in_kernel: fallback.is_in_kernel(host),
    }
}

impl Status {
    /// The first thing that is to be done; one leads to the next.
    fn advice(&self, host: &Host, state: Option<&State>) -> Option<String> {
        let again = "rasctl boot install";
        let Some(state) = state else {
            return Some(match (&self.driver, &self.entry, &self.list) {
                (None, None, None) => format!("nothing is installed: {again}"),
                _ => format!("an installation is incomplete: {again}, or rasctl boot remove"),
            });
        };
        if let Some(told) = &self.fallback {
            return match (told.in_step, told.in_grub, told.in_kernel) {
                (false, ..) => {
                    Some(format!("{} is out of step: rasctl boot refresh --update-grub", told.path))
                }
                (_, Some(false), _) => Some("GRUB does not know of it yet: update-grub".into()),
                (_, _, Some(false)) => Some("it takes effect at the next boot: reboot".into()),
                _ => None,
            };
        }
        let Some(driver) = &self.driver else {
            return Some(format!("the driver is missing: {again}"));
        };
        if let Some(problem) = &driver.problem {
            return Some(format!("the driver is damaged ({problem}): {again}"));
        }
        if self.secure_boot && !driver.signed {
            return Some(format!(
                "Secure Boot is on, and the driver is not signed: {again} says how"
            ));
        }
        if state.method == Method::DriverEntry {
            let complaint = match &self.entry {
                None => Some("the firmware does not know of the driver"),
                Some(entry) if !entry.in_order => Some("the firmware's DriverOrder leaves it out"),
                Some(entry) if !entry.active => Some("the firmware's entry is switched off"),
                Some(entry) if entry.right_partition == Some(false) => {
                    Some("the firmware's entry names another partition")
                }
                Some(_) => None,
            };
            if let Some(complaint) = complaint {
                return Some(format!("{complaint}: {again}"));
            }
        }
        let refresh = "rasctl boot refresh (rasd does it by itself after a while)";
        match &self.list {
            None => return Some(format!("there is no list for firmware: {refresh}")),
            Some(list) if !list.damaged.is_empty() => {
                return Some(format!("a copy of the list is damaged: {refresh}"));
            }
            Some(list) if !list.in_step => {
                return Some(format!("the list is out of step with the store: {refresh}"));
            }
            Some(_) => {}
        }
        if driver.newest == Some(false) {
            return Some(format!("another version of the driver is at hand: {again}"));
        }
        let Some(boot) = &self.boot else {
            let same = state.boot.is_some() && state.boot == host.boot_id();
            return Some(if same {
                "it takes effect at the next boot: reboot".into()
            } else {
                "the driver did not run at this boot: does the firmware load drivers (Secure Boot, a \
                 \"fast boot\" that skips them), and was it this machine that booted?"
                    .into()
            });
        };
        if boot.out_of_time || boot.source.is_none() {
            return Some(
                "the driver did not do its work: see above, and the firmware's console".into(),
            );
        }
        None
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let secure = if self.secure_boot { ", Secure Boot is on" } else { "" };
        writeln!(out, "firmware   {}{secure}", if self.uefi { "UEFI" } else { "not UEFI" })?;
        writeln!(out, "method     {}", self.method.unwrap_or("none"))?;
        if let Some(driver) = &self.driver {
            let version = driver.version.as_deref().unwrap_or("unknown");
            let signed = if driver.signed { ", signed" } else { "" };
            let newest = match driver.newest {
                Some(false) => ", not the one at hand",
                _ => "",
            };
            writeln!(out, "driver     {}, version {version}{signed}{newest}", driver.path)?;
        }
        if let Some(entry) = &self.entry {
            let partition = match entry.right_partition {
                Some(right) => yes(right),
                None => "unknown",
            };
            writeln!(
                out,
                "entry      {}: in DriverOrder: {}; active: {}; names the partition: {partition}",
                entry.number,
                yes(entry.in_order),
                yes(entry.active)
            )?;
        }
        if let Some(list) = &self.list {
            writeln!(
                out,
                "list       generation {}: {} pages in {} ranges, {} left over; {} with the store ({} pages)",
                list.generation,
                list.pages,
                list.ranges,
                list.left_over_pages,
                if list.in_step { "in step" } else { "out of step" },
                self.store_pages
            )?;
            if self.boot.as_ref().is_some_and(|boot| boot.generation < list.generation) {
                writeln!(
                    out,
                    "           newer than this boot's: it is used from the next one on"
                )?;
            }
            for damage in &list.damaged {
                writeln!(out, "           damaged: {damage}")?;
            }
        }
        match &self.boot {
            Some(boot) => boot.print(out)?,
            None if self.driver.is_some() => writeln!(out, "this boot  the driver did not run")?,
            None => {}
        }
        if let Some(told) = &self.fallback {
            let maybe = |is: Option<bool>| is.map_or("unknown", yes);
            writeln!(
                out,
                "fallback   {}: in step: {}; {} pages left over; in GRUB's configuration: {}; in this boot's \
                 kernel: {}",
                told.path,
                yes(told.in_step),
                told.left_over_pages,
                maybe(told.in_grub),
                maybe(told.in_kernel)
            )?;
        }
        Ok(writeln!(out, "next       {}", self.next.as_deref().unwrap_or("nothing: all in step"))?)
    }
}

impl Done {
    fn print(&self, out: &mut dyn Write) -> Result<(), Failure> {
        match self.source {
            Some(source) => write!(
                out,
                "this boot  generation {} from {source}: {} pages excluded in {} ranges",
                self.generation, self.excluded_pages, self.excluded_ranges
            )?,
            None => write!(out, "this boot  the driver found no list it could use")?,
        }
        for (pages, what) in [
            (self.filler_pages, "of them sound"),
            (self.handed_over_pages, "handed over to the kernel"),
            (self.kept_pages, "kept by the firmware"),
            (self.absent_pages, "no memory"),
            (self.refused_pages, "refused"),
            (self.left_over_pages, "left over"),
        ] {
            if pages > 0 {
                write!(out, ", {pages} {what}")?;
            }
        }
        if self.out_of_time {
            write!(out, "; out of time")?;
        }
        if self.limited {
            write!(out, "; the list asked for more than the driver allows")?;
        }
        writeln!(out, "; {} us", self.total_us)?;
        for name in &self.damaged {
            writeln!(out, "           it could not use {name}")?;
        }
        Ok(())
    }
}
