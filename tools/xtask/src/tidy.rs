//! House rules no compiler knows. The picture of who may name whom is in `ARCHITECTURE.md`; this is
//! the same picture as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand};
use ras_lab::artifacts::workspace_root;

use crate::cargo;

/// What each crate may depend on within the workspace. Development dependencies count too: a part
/// that needs another part to be tested is not a part.
const EDGES: &[(&str, &[&str])] = &[
    ("ras-core", &[]),
    // Parts never name each other.
    ("mce-decoder", &["ras-core"]),
    ("ras-store-format", &["ras-core"]),
    ("persist-store", &["ras-core", "ras-store-format"]),
    ("ras-qmp", &["ras-core"]),
    ("cluster-glue", &["ras-core"]),
    // Programs. Only rasd knows every part.
    ("rasvmm", &["ras-core", "ras-qmp"]),
    ("ras-ocf", &["cluster-glue", "ras-qmp"]),
    ("rasd-api", &["ras-core"]),
    ("rasd", &["cluster-glue", "mce-decoder", "persist-store", "ras-core", "ras-qmp", "rasd-api"]),
    ("rasctl", &["mce-decoder", "persist-store", "ras-core", "ras-qmp", "rasd-api"]),
    // What runs without an operating system: firmware, and the test guest, which shares nothing.
    ("retire-efi", &["ras-core", "ras-store-format"]),
    ("guest", &[]),
];

/// Crates that see everything: tests and tasks.
const SEE_ALL: &[&str] = &["ras-fuzz", "ras-lab", "ras-tests", "xtask"];

/// Directories of the workspaces, from the first one's.
const WORKSPACES: &[&str] = &["", "persist-store/retire-efi", "tests/guest", "tests/fuzz"];

/// Crates that also serve in firmware and on management controllers.
const NO_STD: &[&str] = &["ras-core", "mce-decoder", "ras-store-format"];

/// Crates that may hold unsafe code, in files that say why.
const UNSAFE: &[&str] = &[
    "vmm/src",
    "vmm/tests",
    "tests/guest",
    "tests/lab/src/bin",
    "persist-store/retire-efi/src/firmware.rs",
];

/// The directories of the top level, fixed.
const TOP_LEVEL: &[&str] =
    &["ras-core", "mce-decoder", "persist-store", "vmm", "cluster-glue", "tools", "tests"];

/// Longest source file, in lines: beyond it, a file is two rooms.
const LINES_MAX: usize = 800;

pub(crate) fn run() -> Result<()> {
    let mut complaints = edges()?;
    complaints.extend(top_level()?);
    for file in sources(workspace_root())? {
        complaints.extend(source(&file)?);
    }
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    ensure!(
        complaints.is_empty(),
        "tidy found {} violation(s) of the house rules",
        complaints.len()
    );
    for name in NO_STD {
        cargo::run(&["build", "--quiet", "--package", name, "--target", "x86_64-unknown-none"])?;
    }
    println!("tidy: crate edges, top level, unsafe fences and no_std builds are in order");
    Ok(())
}

fn edges() -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for workspace in WORKSPACES {
        let metadata = MetadataCommand::new()
            .current_dir(workspace_root().join(workspace))
            .no_deps()
            .exec()
            .with_context(|| format!("asking cargo for the crate graph of {workspace:?}"))?;
        packages.extend(metadata.packages);
    }
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut found = BTreeMap::new();
    for package in &packages {
        let within = |name: &&str| ours.contains(name);
        let dependencies: BTreeSet<&str> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Unknown)
            .map(|dependency| dependency.name.as_str())
            .filter(within)
            .collect();
        found.insert(package.name.as_str(), dependencies);
    }
    let mut complaints = forbidden(&found);
    complaints.extend(forgotten(&ours));
    Ok(complaints)
}

/// Crates of the picture that are in none of [`WORKSPACES`]: nobody looked at their edges.
fn forgotten(ours: &BTreeSet<&str>) -> Vec<String> {
    let known = EDGES.iter().map(|(name, _)| name).chain(SEE_ALL);
    known
        .filter(|name| !ours.contains(*name))
        .map(|name| format!("{name} is in the picture (tidy.rs), and in no workspace"))
        .collect()
}

/// The edges of `found` that [`EDGES`] does not allow.
fn forbidden(found: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, dependencies) in found {
        if SEE_ALL.contains(name) {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| known == name) else {
            complaints.push(format!(
                "crate {name} is not in the picture: add it to ARCHITECTURE.md and tidy.rs"
            ));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| !allowed.contains(dependency)) {
            complaints
                .push(format!("{name} must not depend on {dependency} (see ARCHITECTURE.md)"));
        }
    }
    complaints
}

fn top_level() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for entry in fs::read_dir(workspace_root())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let expected =
            TOP_LEVEL.contains(&name.as_str()) || name == "target" || name.starts_with('.');
        if entry.file_type()?.is_dir() && !expected {
            complaints.push(format!("{name}/ does not belong to the top level"));
        }
    }
    Ok(complaints)
}

fn source(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let shown = file.strip_prefix(workspace_root()).unwrap_or(file);
    Ok(judge(shown, &text))
}

/// Complaints about one source file, judged by its text.
fn judge(file: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    // Spelled in two halves so that this file does not find itself.
    let opts_in = text.contains(concat!("allow(", "unsafe_code"));
    if opts_in && !UNSAFE.iter().any(|fence| file.starts_with(fence)) {
        complaints.push(format!("{}: unsafe code outside of {UNSAFE:?}", file.display()));
    }
    if opts_in && !text.contains(concat!("// UNSAFE", "TY:")) {
        complaints.push(format!("{}: unsafe code without a `// UNSAFETY:` reason", file.display()));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complaints.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.display()));
    }
    complaints
}

fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                found.extend(sources(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_names_another_part_is_caught() {
        let found = BTreeMap::from([
            ("mce-decoder", BTreeSet::from(["ras-core", "persist-store"])),
            ("rasd", BTreeSet::from(["mce-decoder"])),
            ("stranger", BTreeSet::new()),
            ("xtask", BTreeSet::from(["rasvmm"])),
        ]);
        let complaints = forbidden(&found);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("must not depend on persist-store"));
        assert!(complaints[1].contains("stranger"));
    }

    /// Workspaces of their own are no way around the picture.
    #[test]
    fn every_workspace_is_looked_at() {
        let root = workspace_root();
        let mut workspaces = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(dir) = left.pop() {
            let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
            if manifest.lines().any(|line| line == "[workspace]") {
                workspaces.push(dir.strip_prefix(root).unwrap().display().to_string());
            }
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type().unwrap().is_dir() && name != "target" && !name.starts_with('.')
                {
                    left.push(entry.path());
                }
            }
        }
        workspaces.sort_unstable();
        let mut known = WORKSPACES.to_vec();
        known.sort_unstable();
        assert_eq!(workspaces, known);
    }

    #[test]
    fn firmware_is_part_of_the_picture() {
        let found = BTreeMap::from([("retire-efi", BTreeSet::from(["persist-store"]))]);
        assert_eq!(
            forbidden(&found),
            ["retire-efi must not depend on persist-store (see ARCHITECTURE.md)"]
        );
        let ours: BTreeSet<&str> =
            EDGES.iter().map(|(name, _)| *name).chain(SEE_ALL.iter().copied()).collect();
        assert!(forgotten(&ours).is_empty());
        let mut fewer = ours;
        fewer.remove("retire-efi");
        assert_eq!(forgotten(&fewer).len(), 1);
    }

    #[test]
    fn unsafe_code_is_fenced_and_explained() {
        let opt_in = concat!("#![allow(", "unsafe_code)]");
        assert_eq!(judge(Path::new("ras-core/src/addr.rs"), opt_in).len(), 2);
        assert_eq!(judge(Path::new("vmm/src/kvm.rs"), opt_in).len(), 1);
        let explained = format!("{}: ioctls\n{opt_in}", concat!("// UNSAFE", "TY"));
        assert!(judge(Path::new("vmm/src/kvm.rs"), &explained).is_empty());
    }

    #[test]
    fn long_files_are_two_rooms() {
        assert_eq!(judge(Path::new("a.rs"), &"\n".repeat(LINES_MAX + 1)).len(), 1);
    }
}
