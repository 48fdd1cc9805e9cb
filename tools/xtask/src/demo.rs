//! The main job, end to end. The story itself is `ras_lab::demo`'s.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Tells the story; false if a step of it did not hold.
pub(crate) fn run(json: Option<&Path>, verbose: bool) -> Result<bool> {
    let (summary, told) = ras_lab::demo::run(verbose)?;
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&told).context("the story as JSON")?;
        std::fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
        println!("the story as JSON: {}", file.display());
    }
    Ok(summary.is_success())
}
