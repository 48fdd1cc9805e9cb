//! Our own programs, built for where a story runs them: this host, a bare machine, an initramfs.
//!
//! All are release builds, made once per process by the same `cargo` that built the caller. Where
//! they were built before, these variables say so: `RAS_BIN_DIR` (a directory of host programs),
//! `RAS_STATIC_DIR` (of static ones), `RAS_GUEST` (the test guest's ELF file).

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::packages::output;

/// Programs for a Linux without a C library: an initramfs, any distribution.
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// A package that runs without an operating system: a workspace of its own, with a lock file and a target
/// directory of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Apart {
    /// The bare-metal test guest.
    Guest,
    /// The UEFI driver.
    RetireEfi,
}

impl Apart {
    /// Its directory, from the workspace's root.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Guest => "tests/guest",
            Self::RetireEfi => "persist-store/retire-efi",
        }
    }

    /// What it is built for.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::Guest => "x86_64-unknown-none",
            Self::RetireEfi => "x86_64-unknown-uefi",
        }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(self) -> PathBuf {
        workspace_root().join(self.path())
    }

    /// Where it is built: a workspace of its own also locks a target directory of its own.
    #[must_use]
    pub fn target_dir(self) -> PathBuf {
        target_dir().join(match self {
            Self::Guest => "guest",
            Self::RetireEfi => "retire-efi",
        })
    }

    /// Adds its target to the toolchain where it is missing.
    ///
    /// # Errors
    /// `rustup` can't.
    pub fn ensure_target(self) -> Result<()> {
        ensure_target(self.target(), &self.dir())
    }

    fn build(self, what: &str) -> Result<PathBuf> {
        let dir = self.dir();
        let manifest = dir.join("Cargo.toml").display().to_string();
        let built = build(&Build {
            what: what.to_owned(),
            arguments: vec!["--manifest-path".to_owned(), manifest],
            target: Some(self.target()),
            dir,
            target_dir: Some(self.target_dir()),
        })?;
        built.into_values().next().with_context(|| format!("{} has no program", self.path()))
    }
}

/// A program of this workspace, built for this host.
///
/// # Errors
/// No such program here, or the build failed.
pub fn program(name: &str) -> Result<PathBuf> {
    only(programs(&[name])?)
}

/// Programs of this workspace, built for this host; the files are in the order of `names`.
///
/// # Errors
/// No such program here, or the build failed.
pub fn programs(names: &[&str]) -> Result<Vec<PathBuf>> {
    of_workspace(names, "RAS_BIN_DIR", None)
}

/// As [`programs`], linked statically against musl.
///
/// # Errors
/// No such program here, or the build failed.
pub fn static_programs(names: &[&str]) -> Result<Vec<PathBuf>> {
    // rasctl reads databases with SQLite, which is C.
    crate::packages::ensure(&["musl-tools"])?;
    of_workspace(names, "RAS_STATIC_DIR", Some(STATIC_TARGET))
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
    Apart::Guest.build("the test guest")
}

/// The UEFI driver that excludes retired pages: a PE image.
///
/// # Errors
/// The build failed.
pub fn uefi_driver() -> Result<PathBuf> {
    Apart::RetireEfi.build("the UEFI driver")
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

/// Programs a story may want on this host, each with its package.
const PROGRAMS: [(&str, &str); 5] = [
    ("rasd", "rasd"),
    ("rasctl", "rasctl"),
    ("rasvmm", "rasvmm"),
    ("vm", "ras-ocf"),
    ("ras-landing", "ras-ocf"),
];

/// Programs that only run inside a lab's machine.
const INSIDE: [(&str, &str); 6] = [
    ("lab-agent", "ras-lab"),
    ("page-holder", "ras-lab"),
    ("erst-list", "ras-lab"),
    ("memory-hog", "ras-lab"),
    ("demo-story", "ras-lab"),
    ("power", "ras-lab"),
];

fn of_workspace(
    names: &[&str],
    built_before: &str,
    target: Option<&'static str>,
) -> Result<Vec<PathBuf>> {
    // A directory that lacks a program is no error: who filled it may have needed only some.
    let dir = env::var_os(built_before).map(PathBuf::from);
    let there = |name: &str| dir.as_ref().map(|dir| dir.join(name)).filter(|file| file.is_file());
    let inside = if target.is_some() { &INSIDE[..] } else { &[] };
    let all: Vec<(&str, &str)> = PROGRAMS.iter().chain(inside).copied().collect();
    for name in names {
        let known = all.iter().any(|(program, _)| program == name);
        ensure!(known, "this workspace has no program `{name}` for the lab");
    }
    let built = if names.iter().all(|name| there(name).is_some()) {
        BTreeMap::new()
    } else {
        // All of them, whichever are wanted: another set of packages would have other features, and
        // cargo would build everything below them once more.
        let arguments = all.iter().flat_map(|(name, package)| ["-p", package, "--bin", name]);
        let arguments = arguments.map(str::to_owned).collect();
        let what = all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let dir = workspace_root().to_owned();
        build(&Build { what, arguments, target, dir, target_dir: None })?
    };
    let file = |name: &&str| {
        there(name)
            .or_else(|| built.get(*name).cloned())
            .with_context(|| format!("cargo built no program {name}"))
    };
    names.iter().map(file).collect()
}

fn only(files: Vec<PathBuf>) -> Result<PathBuf> {
    files.into_iter().next().context("one program was asked for")
}

/// One call of cargo.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Build {
    /// For people.
    what: String,
    arguments: Vec<String>,
    target: Option<&'static str>,
    dir: PathBuf,
    target_dir: Option<PathBuf>,
}

/// Executables by program name.
type Executables = BTreeMap<String, PathBuf>;

/// What was built in this process. Held while building: cargo would wait for its own lock anyway.
static BUILT: Mutex<BTreeMap<Build, Executables>> = Mutex::new(BTreeMap::new());

fn build(wanted: &Build) -> Result<Executables> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(executables) = built.get(wanted) {
        return Ok(executables.clone());
    }
    if let Some(target) = wanted.target {
        ensure_target(target, &wanted.dir)?;
    }
    let executables = run_cargo(wanted)?;
    built.insert(wanted.clone(), executables.clone());
    Ok(executables)
}

fn run_cargo(wanted: &Build) -> Result<Executables> {
    let what = &wanted.what;
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
    let started = Instant::now();
    let done = command.output().with_context(|| format!("starting cargo to build {what}"))?;
    ensure!(done.status.success(), "building {what} failed: {command:?}");
    if started.elapsed().as_secs() >= 2 {
        println!("lab: built {what} in {:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(executables(&String::from_utf8_lossy(&done.stdout)))
}

/// The programs in cargo's own account of what it built.
fn executables(messages: &str) -> Executables {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter_map(|message| Some((message.target?.name, message.executable?)))
        .collect()
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
    fn executables_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"ras_core"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"rasctl"},"executable":"/t/rasctl"}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let expect = BTreeMap::from([("rasctl".to_owned(), PathBuf::from("/t/rasctl"))]);
        assert_eq!(executables(messages), expect);
    }

    #[test]
    fn unknown_programs_are_refused_before_cargo_is_asked() {
        assert!(program("emacs").unwrap_err().to_string().contains("`emacs`"));
    }
}
