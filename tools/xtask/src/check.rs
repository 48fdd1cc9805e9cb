//! The inner loop. Also the first chapter of `cargo xtask test`.

use anyhow::Result;
use ras_lab::artifacts::Apart;

use crate::{cargo, tidy};

pub(crate) fn run() -> Result<()> {
    lints()?;
    cargo::run(&["test", "--workspace", "--exclude", "ras-tests", "--quiet"])?;
    apart(Apart::Guest, &["test", "--lib", "--quiet"])?;
    apart(Apart::RetireEfi, &["test", "--lib", "--quiet"])
}

/// Everything that is judged without running our code.
pub(crate) fn lints() -> Result<()> {
    cargo::run(&["fmt", "--all", "--check"])?;
    cargo::run(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    for package in [Apart::Guest, Apart::RetireEfi] {
        apart(package, &["fmt", "--check"])?;
        let target = package.target();
        let clippy = ["clippy", "--release", "--target", target, "--quiet", "--", "-D", "warnings"];
        apart(package, &clippy)?;
    }
    tidy::run()
}

/// A package without an operating system is a workspace of its own. Its thinking half is tested on the
/// host.
pub(crate) fn apart(package: Apart, arguments: &[&str]) -> Result<()> {
    package.ensure_target()?;
    let mut command = cargo::command(arguments);
    command.current_dir(package.dir()).env("CARGO_TARGET_DIR", package.target_dir());
    print!("{}: ", package.path());
    cargo::run_command(&mut command, arguments)
}
