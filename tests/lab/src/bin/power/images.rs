//! `power images`: disks out of a log, and the list on each.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount, umount};
use persist_store::{Store, StoreError, Verdict};
use ras_lab::power::crash::{Expected, Moment, Promises, Rng, Survivors, kept, moments};
use ras_lab::power::log::Log;
use ras_lab::power::{Report, sectors_of};

use crate::mapper::Mapped;

/// Disks in memory: what is durable, and what one crashed disk has else.
const DURABLE: &str = "/dev/ram0";
const CHANGES: &str = "/dev/ram1";

const PLACE: &str = "/tmp/image";

/// Of so many disks one is looked at by rasctl, too.
const LOOKED_AT_BY_RASCTL: u64 = 8;

/// Losses told one by one.
const TOLD: usize = 20;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [disk, log, options, numbers @ ..] = arguments else { bail!("{}", crate::USAGE) };
    let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<u64>, _>>()?;
    let [images, from, count, seed] = numbers[..] else { bail!("{}", crate::USAGE) };
    let fresh = fs::read(disk).with_context(|| format!("reading {disk}"))?;
    let log = File::open(log).with_context(|| format!("opening {log}"))?;
    let sectors = sectors_of(disk)?;

    // Once to learn how many moments there are and which change the file system itself: those are few
    // and have the most to say.
    let mut weights = Vec::new();
    let mut report = Report::default();
    moments(fresh.clone(), Log::open(&log, sectors)?, |moment| {
        let own = moment.unflushed.iter().any(|request| request.metadata);
        weights.push(if own { 6 } else { 1 });
        report.promises = moment.promises.len() as u64;
        Ok(())
    })?;
    report.moments = weights.len() as u64;
    let shares = shares(&weights, images);

    fs::create_dir_all(PLACE)?;
    File::options().write(true).open(DURABLE)?.write_all_at(&fresh, 0)?;
    let (mut number, mut changed) = (0, Vec::new());
    moments(fresh, Log::open(&log, sectors)?, |moment| {
        changed.extend_from_slice(moment.made_durable);
        let before = report.images;
        for _ in 0..shares.get(usize::try_from(moment.number)?).copied().unwrap_or(0) {
            let wanted = (from..from + count).contains(&number);
            number += 1;
            if !wanted {
                continue;
            }
            let changes = changed.drain(..).map(|range| (range.start, &moment.durable[range]));
            put(DURABLE, changes)?;
            let survivors = Survivors::nth(number);
            let mut rng = Rng(seed ^ number.wrapping_mul(0x9e37_79b9));
            let kept = kept(moment, survivors, &mut rng);
            let by_rasctl = number % LOOKED_AT_BY_RASCTL == 0;
            report.images += 1;
            // Each disk is a copy of what is durable that remembers what is written to it.
            let table = format!("{DURABLE} {CHANGES} N 8");
            let crashed = Mapped::new("crashed", "snapshot", sectors, &table)?;
            put(crashed.path(), kept)?;
            if let Err(why) = look(crashed.path(), moment, options, by_rasctl, &mut report) {
                report.losses += 1;
                if report.told.len() < TOLD {
                    let at = describe(moment, number, survivors);
                    report.told.push(format!("{at}: {why:#}"));
                }
            }
            crashed.remove()?;
        }
        report.moments_seen += u64::from(report.images > before);
        Ok(())
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// How many of `images` each moment gets, by its weight.
fn shares(weights: &[u64], images: u64) -> Vec<u64> {
    let total: u64 = weights.iter().sum::<u64>().max(1);
    let mut sum = 0;
    weights
        .iter()
        .map(|weight| {
            let before = sum * images / total;
            sum += weight;
            sum * images / total - before
        })
        .collect()
}

fn describe(moment: &Moment<'_>, number: u64, survivors: Survivors) -> String {
    let sectors: usize = moment.unflushed.iter().map(|request| request.data.len() / 512).sum();
    format!("disk {number}, moment {}, {survivors:?} of {sectors} sectors", moment.number)
}

/// Writes bytes to their places on a device.
fn put<'a>(device: &str, changes: impl IntoIterator<Item = (usize, &'a [u8])>) -> Result<()> {
    let file = File::options().write(true).open(device);
    let file = file.with_context(|| format!("opening {device}"))?;
    for (at, bytes) in changes {
        file.write_all_at(bytes, at as u64).with_context(|| format!("writing to {device}"))?;
    }
    file.sync_all().with_context(|| format!("flushing {device}"))
}

/// Mounts it, as a boot would, and looks.
fn look(
    device: &str,
    moment: &Moment<'_>,
    options: &str,
    by_rasctl: bool,
    report: &mut Report,
) -> Result<()> {
    mount(Some(device), PLACE, Some("ext4"), MsFlags::empty(), Some(options))
        .context("mounting it")?;
    let verdict = look_at_list(Path::new(PLACE), moment.promises, by_rasctl, report);
    umount(PLACE).context("unmounting it")?;
    verdict
}

fn look_at_list(
    dir: &Path,
    promises: &Promises,
    by_rasctl: bool,
    report: &mut Report,
) -> Result<()> {
    let found = match persist_store::verify(dir) {
        // Before the first acknowledgement there need not be a list; opening it makes one.
        Err(StoreError::NotFound { .. }) => None,
        other => Some(other.context("verifying the list")?),
    };
    match &found {
        Some(found) if found.verdict == Verdict::Damaged => {
            bail!("the list is called damaged: {}", found.recovery);
        }
        Some(found) => report.mended += u64::from(found.verdict == Verdict::Mendable),
        None => report.without_list += 1,
    }
    if by_rasctl && found.is_some() {
        rasctl(dir, "repair")?;
        rasctl(dir, "verify")?;
        report.by_rasctl += 1;
    }
    let (store, recovery) = Store::open(dir).context("opening the list")?;
    ensure!(recovery.damage.is_none(), "a false alarm: {recovery}");
    ensure!(recovery.created == found.is_none(), "a list was overlooked: {recovery}");
    let listed: BTreeSet<u64> = store.state().pages.keys().map(|pfn| pfn.0).collect();
    drop(store);
    for (pfn, expected) in promises {
        match (expected, listed.contains(pfn)) {
            (Expected::On, false) => bail!("page {pfn:#x} was acknowledged and is lost"),
            (Expected::Off, true) => bail!("page {pfn:#x} was un-retired and is back"),
            _ => {}
        }
    }
    let stranger = listed.iter().find(|pfn| !promises.contains_key(pfn));
    ensure!(stranger.is_none(), "page {stranger:x?} was never asked for");
    let after = persist_store::verify(dir).context("verifying the list again")?;
    ensure!(after.verdict == Verdict::Sound, "not mended: {}", after.recovery);
    ensure!(after.unaccepted.is_empty(), "a loss is noted: {:?}", after.unaccepted);
    report.sound += u64::from(found.is_some());
    Ok(())
}

/// The program that a person would run.
fn rasctl(dir: &Path, verb: &str) -> Result<()> {
    let ran = Command::new("/bin/rasctl")
        .arg("--store")
        .arg(dir)
        .args(["pages", verb])
        .stdin(Stdio::null())
        .output()
        .context("starting rasctl")?;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success(), "rasctl pages {verb}: {}: {out}{err}", ran.status);
    Ok(())
}
