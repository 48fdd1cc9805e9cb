//! The inner loop. Also the first chapter of `cargo xtask test`.

use anyhow::Result;

use crate::{cargo, tidy};

pub(crate) fn run() -> Result<()> {
    lints()?;
    cargo::run(&["test", "--workspace", "--exclude", "ras-tests", "--quiet"])
}

/// Everything that is judged without running our code.
pub(crate) fn lints() -> Result<()> {
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    tidy::run()
}
