//! `bench walk`: what each step of the walk costs.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ras_lab::{artifacts, capability};
use serde::Deserialize;
use serde_json::json;

use super::figure::{Figure, Sample};
use super::{migration, store, vmm};

/// Uncorrected errors on different pages, fed to a real daemon. Enough for a p99 of some weight.
const EVENTS: u64 = 2000;

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    println!("bench: store");
    let mut figures = store::commits()?;
    println!("bench: event in to page remembered, {EVENTS} events");
    let bare = figures.first().map(|commit| commit.value);
    figures.extend(remembered(bare)?);
    match capability::kvm() {
        Ok(()) => {
            println!("bench: rasvmm beside QEMU, {runs} starts each");
            figures.extend(vmm::run(runs)?);
            println!("bench: live migration, {runs} times");
            figures.extend(migration::run(runs)?);
        }
        Err(why) => println!("bench: rasvmm skipped: {why}"),
    }
    println!("bench: cluster (the story of `cargo xtask lab cluster`)");
    figures.extend(cluster()?);
    Ok(figures)
}

/// One line of `rasd --timings`: nanoseconds of one event's steps.
#[derive(Deserialize)]
struct Walk {
    decode_ns: u64,
    analyze_ns: u64,
    event_to_remembered_ns: u64,
}

fn remembered(commit_us: Option<f64>) -> Result<Vec<Figure>> {
    let dir = tempfile::Builder::new()
        .prefix("ras-bench-")
        .tempdir_in(ras_lab::cache_dir()?)
        .context("a directory on a real file system for the store")?;
    let at = |name: &str| dir.path().join(name);
    for name in ["sys", "guests", "tracing"] {
        fs::create_dir_all(at(name))?;
    }
    let mut capture = String::new();
    for page in 0..EVENTS {
        let mce = json!({
            "vendor": "intel", "cpuid": "0x606a6", "bank": 9, "mcg_cap": "0x1000c1b",
            "mcg_status": "0x5", "status": "0xbd000000000000c0", "misc": "0x8c",
            "addr": format!("{:#x}", 0x1_0000_0000_u64 + page * 4096),
        });
        writeln!(capture, "{}", json!({ "mce": mce }))?;
    }
    fs::write(at("capture"), capture)?;
    // A policy that never empties the host: the cost of one page is the figure, not of a disaster.
    let config = format!(
        "store = {:?}\ncontrol = {:?}\n[paths]\nsysfs = {:?}\n[sources]\ntracefs = \"off\"\n\
         queue = {EVENTS}\n[policy]\nuncorrected_per_host = {{ count = 1000000, window_s = 1 }}\n\
         retired_pages_max = 1000000\n[guests]\ndir = {:?}\n",
        at("store"),
        at("rasd.sock"),
        at("sys"),
        at("guests"),
    );
    fs::write(at("rasd.toml"), config)?;
    let rasd = artifacts::program("rasd")?;
    let status = Command::new(rasd)
        .arg("--config")
        .arg(at("rasd.toml"))
        .arg("--replay")
        .arg(at("capture"))
        .arg("--timings")
        .arg(at("timings"))
        .arg("--exit-after-replay")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("starting rasd")?;
    ensure!(status.success(), "rasd ended with {status}");
    let walks = fs::read_to_string(at("timings"))?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Walk>, _>>()
        .context("rasd's timings")?;
    ensure!(walks.len() as u64 == EVENTS, "{} of {EVENTS} events were walked", walks.len());
    let sample = |pick: fn(&Walk) -> u64| -> Sample {
        walks.iter().map(|walk| pick(walk) as f64 / 1e3).collect()
    };
    let remembered = sample(|walk| walk.event_to_remembered_ns);
    let thinking = sample(|walk| walk.decode_ns + walk.analyze_ns);
    let median = Figure::new("event in to page remembered, median", remembered.median(), "µs");
    Ok(vec![
        match commit_us {
            Some(commit) => median.against("durable commit alone", commit),
            None => median,
        },
        Figure::new("event in to page remembered, p99", remembered.percentile(99), "µs"),
        Figure::new("of which decoding and diagnosis, median", thinking.median(), "µs"),
    ])
}

fn cluster() -> Result<Vec<Figure>> {
    if let Err(why) = ras_lab::cluster::requirements() {
        println!("bench: cluster skipped: {why}");
        return Ok(Vec::new());
    }
    let (summary, figures) = ras_lab::cluster::run_measured()?;
    ensure!(summary.is_success(), "the cluster's story did not hold; its figures mean nothing");
    let gap = Figure::new("cluster: the guest's gap while it migrates", figures.gap_ms, "ms");
    Ok(vec![
        Figure::new("cluster: health red to migrate_to begins", figures.red_to_migrate_ms, "ms")
            .at_most(200.0),
        match figures.downtime_ms {
            Some(downtime) => gap.against("the monitor's own account", downtime),
            None => gap,
        },
        Figure::new("cluster: node killed to fenced", figures.death_to_fenced_ms, "ms"),
        Figure::new("cluster: node killed to guest elsewhere", figures.death_to_started_ms, "ms"),
    ])
}
