//! Every test: lints, the workspace's tests with the real programs, a round of fuzzing, the labs.

use anyhow::{Context as _, Result};
use ras_lab::artifacts::Apart;
use ras_lab::{Summary, artifacts, packages};

use crate::{cargo, check, fuzz, lab};

/// Runs everything; false if a lab step did not hold or a fuzz target found something.
pub(crate) fn run(labs: bool) -> Result<bool> {
    check::lints()?;

    println!("xtask: building the programs the stories run");
    let programs = artifacts::programs(&["rasd", "rasctl", "rasvmm", "vm", "ras-landing"])?;
    let directory = programs.first().and_then(|program| program.parent());
    let directory = directory.context("cargo puts programs into a directory")?;
    let guest = artifacts::guest()?;

    // The stories that want it say so and are skipped where it can't be had.
    match packages::obtainable(packages::BROWSER, packages::BROWSER) {
        Ok(()) => packages::ensure(&[packages::BROWSER])?,
        Err(why) => println!("xtask: no browser to look at reports with: {why}"),
    }

    let arguments = ["test", "--workspace"];
    let mut tests = cargo::command(&arguments);
    tests.env("RAS_BIN_DIR", directory).env("RAS_GUEST", &guest);
    cargo::run_command(&mut tests, &arguments)?;
    check::apart(Apart::Guest, &["test", "--lib"])?;
    check::apart(Apart::RetireEfi, &["test", "--lib"])?;

    println!("\nxtask: a short round of every fuzz target");
    let sound = fuzz::run(&[], fuzz::SECONDS_IN_TESTS)?;

    let (mut total, mut skipped) = (Summary::default(), 0);
    for name in lab::ALL.into_iter().filter(|_| labs) {
        match lab::run_or_skip(name)? {
            Some(summary) => {
                total.passed += summary.passed;
                total.failed += summary.failed;
            }
            None => skipped += 1,
        }
    }
    if labs {
        println!("\nlabs: {} passed, {} failed, {skipped} skipped", total.passed, total.failed);
    }
    Ok(total.failed == 0 && sound)
}
