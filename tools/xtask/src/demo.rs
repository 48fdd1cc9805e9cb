//! The main job, end to end. The story itself is `ras_lab::demo`'s.

use std::path::Path;

use anyhow::{Context as _, Result};
use ras_lab::demo;

/// Tells the story, here if this machine can and nobody asked for the emulated one; false if a step of
/// it did not hold.
pub(crate) fn run(json: Option<&Path>, verbose: bool, nested: bool) -> Result<bool> {
    let here = if nested { Err("--nested was given".to_owned()) } else { demo::requirements() };
    let (summary, told) = match here {
        Ok(()) => demo::run(verbose, demo::PATIENCE)?,
        Err(why) => demo::nested::run(&why, verbose)?,
    };
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&told).context("the story as JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        println!("the story as JSON: {}", file.display());
    }
    Ok(summary.is_success())
}
