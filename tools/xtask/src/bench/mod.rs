//! Figures, each beside a peer or a physical limit that was measured in the same run.

mod figure;
mod migration;
mod store;
mod vmm;
mod walk;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The walk: commit, event to remembered, start and memory of the monitor, migration, cluster.
    Walk,
}

/// Measures, prints a table and writes the list; false if a figure misses its target.
pub(crate) fn run(names: &[Name], json: Option<&Path>, runs: u32) -> Result<bool> {
    let names = if names.is_empty() { &[Name::Walk] } else { names };
    println!("bench: {}", figure::machine());
    let mut figures = Vec::new();
    for name in names {
        figures.extend(match name {
            Name::Walk => walk::run(runs)?,
        });
    }
    figure::print(&figures);
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&figures).context("figures as JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        println!("bench: figures written to {}", file.display());
    }
    Ok(figures.iter().all(|figure| figure.met != Some(false)))
}
