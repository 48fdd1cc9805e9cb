//! The root file system that every node lays its own memory over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{cache, cache_dir, packages};

/// The release. A change of it or of [`PACKAGES`] needs another [`VERSION`].
const SUITE: &str = "bookworm";
const PACKAGES: &str = "corosync,pacemaker,pacemaker-cli-utils,iproute2,mount";
const VERSION: u32 = 1;

/// The directory, made first if it is not there: about 250 MB, and a minute.
///
/// # Errors
/// Packages can't be had, or `mmdebstrap` failed (the message holds what it said).
pub(super) fn ensure() -> Result<PathBuf> {
    let place = cache_dir()?.join(format!("cluster-{SUITE}-{VERSION}"));
    if place.is_dir() {
        return Ok(place);
    }
    packages::ensure(&["mmdebstrap", "debian-archive-keyring"])?;
    let _lock = cache::lock("cluster-rootfs")?;
    cache::fill_once(&place, |work| {
        println!("lab: making the nodes' root file system ({PACKAGES}; about a minute, once)");
        let started = Instant::now();
        make(work)?;
        println!("lab: made {} in {:.0} s", place.display(), started.elapsed().as_secs_f64());
        Ok(())
    })?;
    Ok(place)
}

fn make(dir: &Path) -> Result<()> {
    let log = dir.with_extension("log");
    let file = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let done = Command::new("setpriv")
        // In a mount namespace of its own: whatever mmdebstrap mounts inside is gone with it, even
        // when it is killed, so that removing a half-made tree never reaches into the host.
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--", "mmdebstrap"])
        .args(["--mode=root", "--variant=apt", "--format=directory", "--components=main"])
        .arg(format!("--include={PACKAGES}"))
        .arg(r#"--aptopt=APT::Install-Recommends "false""#)
        .args(
            ["man", "doc", "locale"]
                .map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")),
        )
        .arg(SUITE)
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("sharing the log")?)
        .stderr(file)
        .status()
        .context("starting mmdebstrap")?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    // A log nobody needs any more; if it stays, the next run overwrites it.
    let _ = fs::remove_file(&log);
    if !done.success() {
        let tail: Vec<&str> = said.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("mmdebstrap failed with {done}:\n{}", tail.join("\n"));
    }
    Ok(())
}
