//! Distribution packages, installed or only unpacked, through `apt-get`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure as require};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{cache, capability};

/// The browser that reports are looked at with: the package, and its program.
pub const BROWSER: &str = "chromium";

/// Every package a story may install, and what for. A package that is not here is installed as well;
/// the announcement then gives only its own description.
const PURPOSES: &[(&str, &str)] = &[
    ("qemu-system-x86", "boots stock kernels and injects machine checks"),
    ("ovmf", "UEFI firmware for the machines that have pages excluded before they boot"),
    ("systemd-boot-efi", "a boot loader that loads drivers from a directory"),
    ("e2fsprogs", "makes the file system of the lab's disks"),
    ("fdisk", "makes the partition table of the lab's disks (sfdisk)"),
    ("dosfstools", "makes the EFI system partition of the lab's disks"),
    ("mtools", "puts files onto the EFI system partition of the lab's disks"),
    ("grub-common", "makes GRUB's images (grub-mkimage)"),
    ("grub-pc-bin", "GRUB for the machine that boots by its BIOS"),
    ("libdevmapper1.02.1", "grub-mkimage needs it"),
    ("kmod", "orders the stock kernel's modules (depmod)"),
    ("musl-tools", "compiles SQLite for the static programs inside the lab's machines"),
    ("corosync", "cluster membership"),
    ("pacemaker", "the cluster's resource manager"),
    ("pacemaker-cli-utils", "crm_mon and friends, to ask the cluster"),
    ("crmsh", "the cluster's shell"),
    ("fence-agents", "fencing between the cluster's nodes"),
    ("iproute2", "network namespaces between the cluster's nodes"),
    ("gcc", "compiles a module for the lab's stock kernel"),
    ("make", "builds a module for the lab's stock kernel"),
    (BROWSER, "shows reports as a person sees them"),
];

/// Makes sure that `packages` are installed. Says what it installs and why, and shows progress.
/// Does nothing, and needs neither root nor a network, where all of them are there.
///
/// # Errors
/// No `apt-get` here, not root (the message holds the command to run), or `apt-get` failed (the
/// message holds what it said).
pub fn ensure(packages: &[&str]) -> Result<()> {
    if missing(packages)?.is_empty() {
        return Ok(());
    }
    // Another process of the same test run may be installing just now.
    let _lock = cache::lock("apt")?;
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    capability::apt().map_err(anyhow::Error::msg)?;
    if capability::root().is_err() {
        bail!(
            "packages are missing ({}) and only root can install them; run:\n  \
             sudo apt-get install -y --no-install-recommends {}",
            missing.join(", "),
            missing.join(" ")
        );
    }
    println!("lab: installing {} with apt-get:", count(missing.len(), "package"));
    for package in &missing {
        println!("lab:   {package}: {}", purpose(package));
    }
    with_fresh_lists(&missing, || {
        let mut command = apt_get();
        command.args(["install", "-y", "--no-install-recommends"]).args(&missing);
        run_with_progress(command, "installing")
    })
}

/// Whether `program` of `package` is here, or [`ensure`] could bring it.
///
/// # Errors
/// The reason why not, in one line.
pub fn obtainable(package: &str, program: &str) -> Result<(), String> {
    let Err(missing) = capability::program(program) else { return Ok(()) };
    capability::apt()
        .and_then(|()| capability::root())
        .map_err(|why| format!("{missing} (package {package}): {why}"))
}

/// Downloads `package` and unpacks it into the cache without installing it; returns the directory
/// that stands for `/`. Unpacked once: later calls answer from the cache, whose file `.version`
/// names the version. Delete the directory to get a newer one.
///
/// # Errors
/// The package is unknown, or the download or the unpacking failed.
pub fn download_unpack(package: &str) -> Result<PathBuf> {
    let place = unpacked_dir()?.join(package);
    if place.is_dir() {
        return Ok(place);
    }
    let _lock = cache::lock("apt")?;
    cache::fill_once(&place, |work| {
        println!("lab: downloading {package}: {}", purpose(package));
        with_fresh_lists(&[package], || {
            let mut command = apt_get();
            command.args(["download", package]).current_dir(work);
            run_with_progress(command, "downloading")
        })?;
        let archive = fs::read_dir(work)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no archive for {package}"))?;
        println!("lab: unpacking {package}");
        run_quietly(Command::new("dpkg").arg("-x").arg(&archive).arg(work))?;
        let version = output(Command::new("dpkg-deb").args(["-f"]).arg(&archive).arg("Version"))?;
        fs::write(work.join(".version"), version)?;
        fs::remove_file(&archive)?;
        Ok(())
    })
    .with_context(|| format!("unpacking the package {package} into the cache"))?;
    Ok(place)
}

/// The names of all known packages that match `pattern` (a POSIX extended regular expression) and
/// `accept`, in no particular order. Package lists are fetched first where there are none.
///
/// # Errors
/// `apt-cache` can't be run, or nothing matches even with fresh lists.
pub fn search(pattern: &str, accept: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let ask = || -> Result<Vec<String>> {
        let mut command = Command::new("apt-cache");
        let text = output(command.args(["search", "--names-only", pattern]))?;
        let names = text.lines().filter_map(|line| line.split_once(" - ")).map(|(name, _)| name);
        Ok(names.filter(|name| accept(name)).map(str::to_owned).collect())
    };
    let mut found = ask()?;
    if found.is_empty() {
        let _lock = cache::lock("apt")?;
        update()?;
        found = ask()?;
    }
    require!(!found.is_empty(), "no package matches {pattern}: is its repository configured?");
    Ok(found)
}

/// Where [`download_unpack`] puts packages: one directory each, by name.
///
/// # Errors
/// As [`crate::cache_dir`].
pub(crate) fn unpacked_dir() -> Result<PathBuf> {
    Ok(cache::cache_dir()?.join("packages"))
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // dpkg-query fails where one of the packages is unknown, yet lists the others.
    let answer = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package}\n"])
        .args(packages)
        .stdin(Stdio::null())
        .output()
        .context("asking dpkg-query which packages are installed (the lab needs a Debian host)")?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let installed: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn purpose(package: &str) -> String {
    let known = PURPOSES.iter().find(|(name, _)| *name == package).map(|(_, why)| *why);
    known.map_or_else(|| description(package), str::to_owned)
}

/// The first line of the package's own description.
fn description(package: &str) -> String {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", package]));
    let line = shown.ok().and_then(|text| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix("Description-en: ").or(line.strip_prefix("Description: "))
            })
            .map(str::to_owned)
    });
    line.unwrap_or_else(|| "a package a story asked for".to_owned())
}

/// Runs `attempt`; fetches the package lists before it where they do not know `packages`, or after it
/// where it failed (lists that are too old name archives that are gone), and then once again.
fn with_fresh_lists(packages: &[&str], attempt: impl Fn() -> Result<()>) -> Result<()> {
    let known = |package: &&str| {
        Command::new("apt-cache")
            .args(["show", "--no-all-versions", package])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|answer| answer.status.success())
    };
    if packages.iter().all(known) {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => println!("lab: {error}\nlab: trying again with fresh package lists"),
        }
    }
    update()?;
    attempt()
}

fn update() -> Result<()> {
    if capability::root().is_err() {
        bail!("the package lists are missing or too old; run:\n  sudo apt-get update");
    }
    println!("lab: fetching the package lists (apt-get update)");
    let mut command = apt_get();
    command.arg("update");
    run_with_progress(command, "fetching")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        // Downloads into our own cache directory, which apt's unprivileged user can't enter.
        .args(["-o", "APT::Sandbox::User=root"])
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "APT::Status-Fd=1"]);
    command
}

/// Runs `apt-get` and shows its status lines as a bar on a terminal, otherwise as a plain line every
/// few seconds. What it said beside them goes into the error.
fn run_with_progress(mut command: Command, doing: &str) -> Result<()> {
    const PLAIN_LINE_EVERY: Duration = Duration::from_secs(5);
    let describe = words(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {describe}"))?;
    let complaints = child
        .stderr
        .take()
        .map(|stream| thread::spawn(move || std::io::read_to_string(stream).unwrap_or_default()));
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("lab: {msg} {wide_bar} {percent}%")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(100).with_style(style).with_message(doing.to_owned())
    });
    let mut said = String::new();
    let mut last_line = Instant::now();
    let stdout = child.stdout.take().context("apt-get's output is piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("reading from {describe}"))?;
        let Some(status) = Status::parse(&line) else {
            writeln!(said, "{line}").unwrap_or_default();
            continue;
        };
        if let Some(bar) = &bar {
            bar.set_position(status.percent);
        } else if last_line.elapsed() >= PLAIN_LINE_EVERY {
            last_line = Instant::now();
            println!("lab: {doing}: {}% {}", status.percent, status.text);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let status = child.wait().with_context(|| format!("waiting for {describe}"))?;
    let complaints = complaints.and_then(|reader| reader.join().ok()).unwrap_or_default();
    require!(
        status.success(),
        "{describe} failed ({status}):\n{}",
        format!("{}\n{}", said.trim_end(), complaints.trim_end()).trim()
    );
    Ok(())
}

/// The command as people would type it, without the options that only serve this program.
fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        if argument == "-o" {
            arguments.next();
        } else {
            words.push(argument.to_string_lossy().into_owned());
        }
    }
    words.join(" ")
}

/// A line of `APT::Status-Fd`: `dlstatus:N:PERCENT:text` or `pmstatus:PACKAGE:PERCENT:text`.
#[derive(PartialEq, Eq, Debug)]
struct Status<'a> {
    percent: u64,
    text: &'a str,
}

impl<'a> Status<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(4, ':');
        let kind = parts.next()?;
        let (_, percent, text) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = percent.split('.').next()?;
        matches!(kind, "dlstatus" | "pmstatus")
            .then(|| whole.parse().ok())
            .flatten()
            .map(|percent| Self { percent, text })
    }
}

pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    require!(
        done.status.success(),
        "{command:?} failed ({}): {}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_status_lines_are_told_from_chatter() {
        assert_eq!(
            Status::parse("pmstatus:qemu-system-x86:42.8571:Unpacking qemu-system-x86 (amd64)"),
            Some(Status { percent: 42, text: "Unpacking qemu-system-x86 (amd64)" })
        );
        assert_eq!(
            Status::parse("dlstatus:1:0:Retrieving file 1 of 2"),
            Some(Status { percent: 0, text: "Retrieving file 1 of 2" })
        );
        for chatter in ["", "Get:1 http://host/file amd64", "pmstatus:x", "pmstatus:x:y:z"] {
            assert_eq!(Status::parse(chatter), None, "{chatter}");
        }
    }

    #[test]
    fn what_dpkg_itself_needs_is_installed_and_nonsense_is_not() {
        if capability::apt().is_err() {
            println!("skipped: not a Debian host");
            return;
        }
        assert_eq!(missing(&["dpkg", "no-such-package-x"]).unwrap(), ["no-such-package-x"]);
    }
}
