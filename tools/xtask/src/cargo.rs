//! Running cargo, visibly.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ras_lab::artifacts::workspace_root;

/// The cargo that runs us, in the workspace's root.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(workspace_root());
    command
}

/// Runs `cargo ARGUMENTS`, saying so; its output goes where ours goes.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    run_command(&mut command(arguments), arguments)
}

/// As [`run`], with a command that was prepared further.
pub(crate) fn run_command(command: &mut Command, arguments: &[&str]) -> Result<()> {
    println!("xtask: cargo {}", arguments.join(" "));
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}
