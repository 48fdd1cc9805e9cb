//! Figures, each beside a peer or a physical limit that was measured in the same run.

mod boot;
mod decode;
mod figure;
mod ladder;
mod migration;
mod store;
mod vmm;
mod walk;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::figure::Figure;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The walk: commit, event to remembered, start and memory of the monitor, migration, cluster.
    Walk,
    /// The list of retired pages: commit, load of 100,000 entries, compaction, bytes.
    Store,
    /// Decoding: CPER and machine checks to JSON, registers alone, a long log, one record.
    Decode,
    /// The monitor: start and memory beside QEMU's, and the steps of the memory ladder.
    Vmm,
    /// Booting with pages excluded by firmware: a curve of boot time against ranges.
    Boot,
}

impl Name {
    /// Whether a figure that misses its target is a failure. Speed beside a peer depends on the machine
    /// and on how the peer was built: it is stated, not judged.
    const fn is_judged(self) -> bool {
        matches!(self, Self::Walk | Self::Store | Self::Vmm | Self::Boot)
    }
}

/// For `--help`, after the options.
pub(crate) const HELP: &str = decode::PEERS;

/// Measures, prints a table and writes the list; false if a judged figure misses its target.
pub(crate) fn run(names: &[Name], json: Option<&Path>, runs: u32) -> Result<bool> {
    let names = if names.is_empty() {
        &[Name::Walk, Name::Store, Name::Vmm, Name::Decode, Name::Boot]
    } else {
        names
    };
    println!("bench: {}", figure::machine());
    let (mut figures, mut missed) = (Vec::new(), false);
    for name in names {
        let measured = match name {
            Name::Walk => walk::run(runs)?,
            Name::Store => store::run()?,
            Name::Decode => decode::run(runs)?,
            Name::Vmm => monitor(runs)?,
            Name::Boot => boot::run(runs)?,
        };
        missed |= name.is_judged() && measured.iter().any(|figure| figure.met == Some(false));
        figures.extend(measured);
    }
    figure::print(&figures);
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&figures).context("figures as JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        println!("bench: figures written to {}", file.display());
    }
    Ok(!missed)
}

fn monitor(runs: u32) -> Result<Vec<Figure>> {
    if let Err(why) = ras_lab::capability::kvm() {
        println!("bench: rasvmm skipped: {why}");
        return Ok(Vec::new());
    }
    println!("bench: rasvmm beside QEMU, {runs} starts each");
    let mut figures = vmm::run(runs)?;
    println!("bench: the memory ladder");
    figures.extend(ladder::run(runs)?);
    Ok(figures)
}
