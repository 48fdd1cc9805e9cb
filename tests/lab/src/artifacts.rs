//! Our own programs, built for where a story runs them: this host, a bare machine, an initramfs.
//!
//! All are release builds, made once per process by the same `cargo` that built the caller. Where
//! they were built before, these variables say so: `RAS_BIN_DIR` (a directory of host programs),
//! `RAS_STATIC_DIR` (of static ones), `RAS_GUEST` (the test guest's ELF file).

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::packages::output;

/// Programs for a Linux without a C library: an initramfs, any distribution.
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// Programs without an operating system: the test guest.
const BARE_TARGET: &str = "x86_64-unknown-none";

/// A program of this workspace, built for this host.
///
/// # Errors
/// No such program here, or the build failed.
pub fn program(name: &str) -> Result<PathBuf> {
    built_before("RAS_BIN_DIR", name).map_or_else(|| build(&Build::workspace(name, None)?), Ok)
}

/// A program of this workspace, linked statically against musl.
///
/// # Errors
/// No such program here, or the build failed.
pub fn static_program(name: &str) -> Result<PathBuf> {
    built_before("RAS_STATIC_DIR", name)
        .map_or_else(|| build(&Build::workspace(name, Some(STATIC_TARGET))?), Ok)
}

/// The bare-metal test guest: a PVH ELF file.
///
/// # Errors
/// The build failed.
pub fn guest() -> Result<PathBuf> {
    if let Some(file) = env::var_os("RAS_GUEST").map(PathBuf::from) {
        ensure!(file.is_file(), "RAS_GUEST names {}, which is no file", file.display());
        return Ok(file);
    }
    let dir = workspace_root().join("tests/guest");
    build(&Build {
        program: None,
        arguments: vec!["--manifest-path".to_owned(), dir.join("Cargo.toml").display().to_string()],
        target: Some(BARE_TARGET),
        // Cargo reads `.cargo/config.toml` of where it runs: the guest's link arguments are there.
        dir,
        // A workspace of its own also locks a target directory of its own.
        target_dir: Some(target_dir().join("guest")),
    })
}

/// The root of this workspace.
#[must_use]
pub fn workspace_root() -> &'static Path {
    // tests/lab, two levels down.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The workspace's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    let set = env::var_os("CARGO_TARGET_DIR").or_else(|| env::var_os("CARGO_BUILD_TARGET_DIR"));
    set.map_or_else(|| workspace_root().join("target"), |dir| workspace_root().join(dir))
}

/// The package that has the program `name`.
fn package_of(name: &str) -> Result<&'static str> {
    Ok(match name {
        "rasd" => "rasd",
        "rasctl" => "rasctl",
        "rasvmm" => "rasvmm",
        "vm" | "ras-landing" => "ras-ocf",
        "lab-agent" | "page-holder" => "ras-lab",
        _ => bail!("this workspace has no program `{name}` for the lab"),
    })
}

/// A program someone built before us. A directory that lacks it is not an error: xtask may have
/// built only some.
fn built_before(variable: &str, name: &str) -> Option<PathBuf> {
    let file = PathBuf::from(env::var_os(variable)?).join(name);
    file.is_file().then_some(file)
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Build {
    /// The program to return; the only one where it is `None`.
    program: Option<String>,
    arguments: Vec<String>,
    target: Option<&'static str>,
    dir: PathBuf,
    target_dir: Option<PathBuf>,
}

impl Build {
    fn workspace(name: &str, target: Option<&'static str>) -> Result<Self> {
        let arguments = ["-p", package_of(name)?, "--bin", name].map(str::to_owned).to_vec();
        let dir = workspace_root().to_owned();
        Ok(Self { program: Some(name.to_owned()), arguments, target, dir, target_dir: None })
    }
}

/// What was built in this process. Held while building: cargo would wait for its own lock anyway.
static BUILT: Mutex<BTreeMap<Build, PathBuf>> = Mutex::new(BTreeMap::new());

fn build(wanted: &Build) -> Result<PathBuf> {
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(file) = built.get(wanted) {
        return Ok(file.clone());
    }
    if let Some(target) = wanted.target {
        ensure_target(target, &wanted.dir)?;
    }
    let file = run_cargo(wanted)?;
    built.insert(wanted.clone(), file.clone());
    Ok(file)
}

fn run_cargo(wanted: &Build) -> Result<PathBuf> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(&wanted.arguments)
        .current_dir(&wanted.dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if let Some(target) = wanted.target {
        command.args(["--target", target]);
    }
    if let Some(dir) = &wanted.target_dir {
        command.arg("--target-dir").arg(dir);
    }
    let what = wanted.program.as_deref().unwrap_or("the test guest");
    let started = Instant::now();
    let done = command.output().with_context(|| format!("starting cargo to build {what}"))?;
    ensure!(done.status.success(), "building {what} failed: {command:?}");
    if started.elapsed().as_secs() >= 2 {
        println!("lab: built {what} in {:.1} s", started.elapsed().as_secs_f64());
    }
    executable(&String::from_utf8_lossy(&done.stdout), wanted.program.as_deref())
        .with_context(|| format!("cargo built no executable for {what}: {command:?}"))
}

/// The program's file in cargo's own account of what it built.
fn executable(messages: &str, program: Option<&str>) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok()).find_map(
        |message| {
            let name = message.target?.name;
            message.executable.filter(|_| program.is_none_or(|program| program == name))
        },
    )
}

/// Adds the target's standard library to the toolchain where it is missing.
fn ensure_target(target: &str, dir: &Path) -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(dir))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(());
    }
    println!("lab: adding the Rust target {target} to the toolchain (rustup target add)");
    output(Command::new("rustup").args(["target", "add", target]).current_dir(dir))
        .map(drop)
        .with_context(|| format!("the Rust target {target} is missing and rustup can't add it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found() {
        assert!(workspace_root().join("ras-core/Cargo.toml").is_file());
        assert!(target_dir().is_absolute());
    }

    #[test]
    fn the_executable_is_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"ras_core"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"rasctl"},"executable":"/t/rasctl"}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"rasd"},"executable":"/t/rasd"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, Some("rasd")), Some("/t/rasd".into()));
        assert_eq!(executable(messages, None), Some("/t/rasctl".into()));
        assert_eq!(executable(messages, Some("rasvmm")), None);
    }

    #[test]
    fn unknown_programs_are_refused_before_cargo_is_asked() {
        assert!(program("emacs").unwrap_err().to_string().contains("`emacs`"));
    }
}
