//! `cargo xtask dist`: `rasctl` as it is handed out, and the UEFI driver it installs beside it.
//!
//! `rasctl` is linked statically against glibc: it runs on any Linux of this processor, and starts in
//! two thirds of the time, since nothing has to be loaded and relocated. (musl's would start faster
//! still, but its allocator and its copying halve the speed of decoding.) It stays position independent.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ras_lab::artifacts::{target_dir, uefi_driver};

use crate::cargo;

/// Builds it; the file is below the target directory, in `dist`.
pub(crate) fn rasctl() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let directory = target_dir().join("dist");
    // With a target named, the flags do not reach what runs while building.
    let arguments = ["build", "--quiet", "--release", "-p", "rasctl", "--target", TARGET];
    let mut command = cargo::command(&arguments);
    command
        .env("CARGO_TARGET_DIR", directory.join("build"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo::run_command(&mut command, &arguments)?;
    let built = directory.join("build").join(TARGET).join("release/rasctl");
    let file = directory.join("rasctl");
    fs::copy(&built, &file)
        .with_context(|| format!("copying {} to {}", built.display(), file.display()))?;
    Ok(file)
}

/// Builds the driver; the file is beside the other, under the name that `rasctl boot install` looks for.
pub(crate) fn driver() -> Result<PathBuf> {
    let built = uefi_driver()?;
    let directory = target_dir().join("dist");
    let file = directory.join("rampart-x64.efi");
    fs::create_dir_all(&directory)
        .and_then(|()| fs::copy(&built, &file))
        .with_context(|| format!("copying {} to {}", built.display(), file.display()))?;
    Ok(file)
}
