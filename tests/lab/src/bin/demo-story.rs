//! Tells the story of `cargo xtask demo` inside the machine of `ras_lab::demo::nested`. The programs
//! are where `RAS_BIN_DIR`, `RAS_GUEST` and `RAS_CACHE` say: there is no compiler in there.
//!
//! `demo-story FILE [--verbose]` prints the story and writes it as data (`nested::Outcome`, JSON) to FILE.
//! It exits with 0 if every step held, otherwise with 1.

use std::env;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use ras_lab::demo;
use ras_lab::demo::nested::{Outcome, PATIENCE};

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (file, verbose) = match &arguments[..] {
        [file] => (file, false),
        [file, option] if option == "--verbose" => (file, true),
        _ => bail!("usage: demo-story FILE [--verbose]"),
    };
    let (summary, told) = demo::run(verbose, PATIENCE)?;
    let outcome = serde_json::to_string(&Outcome { summary, told }).context("the story as JSON")?;
    fs::write(file, outcome).with_context(|| format!("writing {file}"))?;
    Ok(if summary.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
