//! The project's own tasks: `cargo xtask check | tidy | test | demo | lab | crash | fuzz | corpus | bench | dist`.

mod bench;
mod cargo;
mod check;
mod corpus;
mod crash;
mod demo;
mod dist;
mod fuzz;
mod lab;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ras_lab::power::Extent;

/// Tasks of the Rampart project. Run them as `cargo xtask TASK`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The fast inner loop: format, lints, tidy, unit tests. Nothing is installed or booted.
    Check,
    /// House rules: who may depend on whom, no_std builds, fenced unsafe, the fixed top level.
    Tidy,
    /// Every test there is, the labs included. Installs what they need, and says what.
    Test {
        /// Leave out the labs (stock kernel in QEMU, cluster in namespaces).
        #[arg(long)]
        no_labs: bool,
    },
    /// One memory error, end to end, told as a story. Under a minute after the build. Without a
    /// usable /dev/kvm it is told in an emulated machine.
    Demo {
        /// Write the story as one JSON object as well.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Show every log line of the programs.
        #[arg(long)]
        verbose: bool,
        /// Tell it in an emulated machine even if this one has a usable /dev/kvm.
        #[arg(long)]
        nested: bool,
    },
    /// One lab by name.
    Lab {
        /// `walk`: a stock kernel in QEMU with injected machine checks. `cluster`: Corosync and
        /// Pacemaker, three nodes, a live migration and a fenced node. `erst`: a list in error records,
        /// and the kernel's own. `uefi`: retired pages are gone before a stock kernel runs. `power`:
        /// rasd is killed at work, and power goes at every moment that matters to the disk below its list.
        #[arg(value_enum)]
        name: lab::Name,
        /// `power`: times that rasd is killed on each file system.
        #[arg(long, default_value_t = Extent::BRIEF.kills)]
        kills: u64,
        /// `power`: disks after a power loss that are made of each file system.
        #[arg(long, default_value_t = Extent::BRIEF.images)]
        images: u64,
        /// `power`: another seed, other times to die and other sectors lost.
        #[arg(long, default_value_t = Extent::BRIEF.seed)]
        seed: u64,
    },
    /// What we decode, beside what other programs print for the same input. Not part of the
    /// tests: the corpus is no part of the project.
    Corpus {
        /// Where its `*.jsonl` are.
        directory: PathBuf,
        /// Print every fact not agreed on, of the categories whose name contains this.
        #[arg(long, value_name = "CATEGORY")]
        show: Option<String>,
    },
    /// Build `rasctl` as it is handed out, one static file, and the UEFI driver it installs, below the
    /// target directory.
    Dist,
    /// The store's crash suite over every backend, with as many crash points as wanted: power lost
    /// during any call, any mixture of unsynced sectors on the medium. A million take some minutes.
    Crash {
        /// Crash points of each backend.
        #[arg(long, default_value_t = 1_000_000)]
        points: usize,
    },
    /// libFuzzer on every parser, and every way into `rasvmm`. Findings and what was learned stay below the target directory.
    Fuzz {
        /// Which targets (the names in tests/fuzz/src/targets.rs); all of them by default.
        names: Vec<String>,
        /// How long each of them runs.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
    /// Measure, with a peer or a physical limit in the same run.
    #[command(after_long_help = bench::HELP)]
    Bench {
        /// Which benches; all of them by default.
        #[arg(value_enum)]
        names: Vec<bench::Name>,
        /// Write the figures as JSON: a list of {figure, value, unit, against, ratio, target, met}.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Repetitions of each figure; medians are reported.
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
    },
}

fn main() -> ExitCode {
    let run = || -> Result<bool> {
        match Arguments::parse().task {
            Task::Check => check::run().map(|()| true),
            Task::Tidy => tidy::run().map(|()| true),
            Task::Test { no_labs } => test::run(!no_labs),
            Task::Demo { json, verbose, nested } => demo::run(json.as_deref(), verbose, nested),
            Task::Lab { name, kills, images, seed } => {
                lab::run(name, Extent { kills, images, seed })
            }
            Task::Corpus { directory, show } => corpus::run(&directory, show.as_deref()),
            Task::Dist => {
                for file in [dist::rasctl()?, dist::driver()?] {
                    println!("xtask: {}", file.display());
                }
                Ok(true)
            }
            Task::Crash { points } => crash::run(points).map(|()| true),
            Task::Fuzz { names, seconds } => fuzz::run(&names, seconds),
            Task::Bench { names, json, runs } => bench::run(&names, json.as_deref(), runs),
        }
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
