//! `cargo xtask crash`: the store's crash suite at length. `cargo xtask test` runs it briefly.

use anyhow::{Context as _, Result, ensure};

use crate::cargo;

pub(crate) fn run(points: usize) -> Result<()> {
    let status = cargo::command(&["test", "--quiet", "-p", "persist-store", "--lib"])
        .args(["--", "crash::", "backends::", "--nocapture"])
        .env("RAS_CRASH_POINTS", points.to_string())
        .status()
        .context("starting the crash suite")?;
    ensure!(status.success(), "the crash suite failed");
    Ok(())
}
