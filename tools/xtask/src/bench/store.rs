//! `bench store`: the price of remembering, beside a bare write of a page and its fdatasync, and of
//! taking up a long list.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::figure::Figure;
use crate::cargo;

/// What `persist-store`'s example `store_bench` prints: commits and bare writes are interleaved in one
/// run.
#[derive(Deserialize)]
struct Measured {
    store_median_us: f64,
    store_p99_us: f64,
    bare_median_us: f64,
    bare_p99_us: f64,
    load_ms: f64,
    file_read_ms: f64,
    compaction_ms: f64,
    file_bytes_per_entry: f64,
}

pub(super) fn run() -> Result<Vec<Figure>> {
    println!("bench: store, a list of 100,000 entries");
    let measured = measure()?;
    let mut figures = commit_figures(&measured);
    figures.extend([
        Figure::new("store: load 100,000 entries", measured.load_ms, "ms")
            .against("reading the file alone", measured.file_read_ms)
            .at_most(20.0),
        Figure::new("store: compact 100,000 entries", measured.compaction_ms, "ms"),
        Figure::new("store: both copies of an entry", measured.file_bytes_per_entry, "bytes"),
    ]);
    Ok(figures)
}

/// The commit alone, for the walk's table.
pub(super) fn commits() -> Result<Vec<Figure>> {
    measure().map(|measured| commit_figures(&measured))
}

fn commit_figures(measured: &Measured) -> Vec<Figure> {
    vec![
        Figure::new("store: durable commit, median", measured.store_median_us, "µs")
            .against("bare 4 KiB write + fdatasync", measured.bare_median_us)
            .ratio_at_most(1.5),
        Figure::new("store: durable commit, p99", measured.store_p99_us, "µs")
            .against("bare 4 KiB write + fdatasync", measured.bare_p99_us),
    ]
}

fn measure() -> Result<Measured> {
    let dir = tempfile::Builder::new()
        .prefix("ras-bench-")
        .tempdir_in(ras_lab::cache_dir()?)
        .context("a directory on a real file system for the store")?;
    let output = cargo::command(&["run", "--release", "--quiet", "-p", "persist-store"])
        .args(["--example", "store_bench", "--"])
        .arg(dir.path())
        .output()
        .context("starting store_bench")?;
    anyhow::ensure!(
        output.status.success(),
        "store_bench failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("store_bench's figures")
}
