//! `power-images DISK LOG OPTIONS IMAGES FROM COUNT SEED`: makes disks out of a log, as they could be when
//! power comes back, and looks for the list on each. DISK is what the log began with. The disks are
//! IMAGES in all, spread over the log; the numbers FROM to FROM + COUNT - 1 of them are made. Prints a
//! `ras_lab::power::Report` as JSON. Runs inside a lab's machine.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount, umount};
use persist_store::{Store, StoreError, Verdict};
use ras_lab::power::crash::{Expected, Moment, Promises, Rng, Survivors, image, moments};
use ras_lab::power::log::Log;
use ras_lab::power::{Report, sectors_of};

/// A disk in memory.
const SCRATCH: &str = "/dev/ram0";

const PLACE: &str = "/tmp/image";

/// Of so many disks one is looked at by rasctl, too.
const LOOKED_AT_BY_RASCTL: u64 = 8;

/// Losses told one by one.
const TOLD: usize = 20;

/// Bytes compared and written at once.
const CHUNK: usize = 64 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, log, options, images, from, count, seed] = arguments.as_slice() else {
        bail!("usage: power-images DISK LOG OPTIONS IMAGES FROM COUNT SEED");
    };
    let (images, from, count): (u64, u64, u64) = (images.parse()?, from.parse()?, count.parse()?);
    let seed: u64 = seed.parse()?;
    let mut fresh = Vec::new();
    File::open(disk)?.read_to_end(&mut fresh).with_context(|| format!("reading {disk}"))?;
    let log = File::open(log).with_context(|| format!("opening {log}"))?;
    let sectors = sectors_of(disk)?;

    // Once to learn how many moments there are and which change the file system itself, which are
    // few and have the most to say.
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
    let mut number = 0;
    let mut found = BTreeSet::new();
    moments(fresh, Log::open(&log, sectors)?, |moment| {
        let share = shares.get(usize::try_from(moment.number)?).copied().unwrap_or(0);
        for _ in 0..share {
            let wanted = (from..from + count).contains(&number);
            number += 1;
            if !wanted {
                continue;
            }
            let survivors = Survivors::nth(number);
            let mut rng = Rng(seed ^ number.wrapping_mul(0x9e37_79b9));
            put(&image(moment, survivors, &mut rng))?;
            report.images += 1;
            let by_rasctl = number % LOOKED_AT_BY_RASCTL == 0;
            let verdict = look(moment, options, by_rasctl, &mut report);
            if let Err(why) = verdict {
                report.losses += 1;
                if report.told.len() < TOLD {
                    let at = describe(moment, number, survivors);
                    report.told.push(format!("{at}: {why:#}"));
                }
            }
            found.insert(moment.number);
        }
        Ok(())
    })?;
    report.moments_seen = found.len() as u64;
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

/// Writes the image to the scratch disk: only what differs, which is little.
fn put(image: &[u8]) -> Result<()> {
    let scratch = OpenOptions::new().read(true).write(true).open(SCRATCH)?;
    let mut there = vec![0; CHUNK];
    for (index, wanted) in image.chunks(CHUNK).enumerate() {
        let offset = (index * CHUNK) as u64;
        let there = &mut there[..wanted.len()];
        scratch.read_exact_at(there, offset).context("reading the scratch disk")?;
        if there != wanted {
            scratch.write_all_at(wanted, offset).context("writing the scratch disk")?;
        }
    }
    scratch.sync_all().context("flushing the scratch disk")
}

/// Mounts it, as a boot would, and looks.
fn look(moment: &Moment<'_>, options: &str, by_rasctl: bool, report: &mut Report) -> Result<()> {
    mount(Some(SCRATCH), PLACE, Some("ext4"), MsFlags::empty(), Some(options))
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
        // Before the first acknowledgement there need not be a list.
        Err(StoreError::NotFound { .. }) => {
            let owed = promises.iter().find(|(_, expected)| **expected == Expected::On);
            ensure!(owed.is_none(), "there is no list, and page {owed:?} was acknowledged");
            report.without_list += 1;
            return Ok(());
        }
        other => other.context("verifying the list")?,
    };
    match found.verdict {
        Verdict::Sound => {}
        Verdict::Mendable => report.mendable += 1,
        Verdict::Damaged => bail!("the list is called damaged: {}", found.recovery),
    }
    if by_rasctl {
        rasctl(dir, "repair", 0)?;
        rasctl(dir, "verify", 0)?;
        report.by_rasctl += 1;
    }
    let (store, recovery) = Store::open(dir).context("opening the list")?;
    ensure!(recovery.damage.is_none(), "a false alarm: {recovery}");
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
    report.sound += 1;
    Ok(())
}

/// The program that a person would run.
fn rasctl(dir: &Path, verb: &str, expected: i32) -> Result<()> {
    let ran = Command::new("/bin/rasctl")
        .arg("--store")
        .arg(dir)
        .args(["pages", verb])
        .stdin(Stdio::null())
        .output()
        .context("starting rasctl")?;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.code() == Some(expected), "rasctl pages {verb}: {}: {out}{err}", ran.status);
    Ok(())
}
