//! The inner loop. Also the first chapter of `cargo xtask test`.

use anyhow::Result;
use ras_lab::artifacts;

use crate::{cargo, tidy};

pub(crate) fn run() -> Result<()> {
    lints()?;
    cargo::run(&["test", "--workspace", "--exclude", "ras-tests", "--quiet"])?;
    guest(&["test", "--lib", "--quiet"])
}

/// Everything that is judged without running our code.
pub(crate) fn lints() -> Result<()> {
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    guest(&["fmt", "--check"])?;
    guest(&[
        "clippy",
        "--release",
        "--target",
        "x86_64-unknown-none",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ])?;
    tidy::run()
}

/// The bare-metal guest is a workspace of its own. Its thinking half is tested on the host.
pub(crate) fn guest(arguments: &[&str]) -> Result<()> {
    let mut command = cargo::command(arguments);
    command
        .current_dir(artifacts::workspace_root().join("tests/guest"))
        .env("CARGO_TARGET_DIR", artifacts::target_dir().join("guest"));
    print!("tests/guest: ");
    cargo::run_command(&mut command, arguments)
}
