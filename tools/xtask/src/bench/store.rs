//! The price of remembering: a durable commit beside a bare write of a page and its fdatasync.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::figure::Figure;
use crate::cargo;

/// What `persist-store`'s example `commit_bench` prints: it interleaves both in one run.
#[derive(Deserialize)]
struct Commits {
    store_median_us: f64,
    store_p99_us: f64,
    bare_median_us: f64,
    bare_p99_us: f64,
}

pub(super) fn run() -> Result<Vec<Figure>> {
    let dir = tempfile::Builder::new()
        .prefix("ras-bench-")
        .tempdir_in(ras_lab::cache_dir()?)
        .context("a directory on a real file system for the store")?;
    let output = cargo::command(&["run", "--release", "--quiet", "-p", "persist-store"])
        .args(["--example", "commit_bench", "--"])
        .arg(dir.path())
        .output()
        .context("starting commit_bench")?;
    anyhow::ensure!(
        output.status.success(),
        "commit_bench failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let commits: Commits =
        serde_json::from_slice(&output.stdout).context("commit_bench's figures")?;
    Ok(vec![
        Figure::new("store: durable commit, median", commits.store_median_us, "µs")
            .against("bare 4 KiB write + fdatasync", commits.bare_median_us)
            .ratio_at_most(2.0),
        Figure::new("store: durable commit, p99", commits.store_p99_us, "µs")
            .against("bare 4 KiB write + fdatasync", commits.bare_p99_us),
    ])
}
