//! What an operator sees when something is missing or wrong.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const RASVMM: &str = env!("CARGO_BIN_EXE_rasvmm");

fn fails(arguments: &[&str], expected: &str) {
    let mut command = Command::new(RASVMM);
    command.args(arguments);
    fails_as(&mut command, expected);
}

fn fails_as(command: &mut Command, expected: &str) {
    let output = command.output().expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(said.contains(expected), "{command:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

fn to_boot(kernel: &str) -> [&str; 6] {
    ["--kernel", kernel, "--qmp", "unix:/dev/null/x", "--serial", "null"]
}

/// A private `/dev` or another user needs root; without it, the machine itself has to lack something.
fn is_root() -> bool {
    OpenOptions::new().write(true).open("/proc/1/oom_score_adj").is_ok()
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    fails(&[], "kernel: name the ELF file to boot, or use --incoming");
    fails(&["--memory", "lots"], "'lots' is not a size such as 4096, 64M or 2G");
    fails(&["--config", "/does/not/exist"], "reading the configuration /does/not/exist");
    fails(&["--no-such-option"], "unexpected argument '--no-such-option'");
}

#[test]
fn a_file_that_is_no_kernel_is_named() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: /dev/kvm is missing, and that is what rasvmm says first");
        return;
    }
    fails(&to_boot("/does/not/exist"), "reading the kernel /does/not/exist");
    fails(&to_boot("/dev/null"), "it ends too early");
    fails(&to_boot(RASVMM), "rasvmm is no kernel this VMM can start");
}

#[test]
fn a_missing_kvm_is_named() {
    if !Path::new("/dev/kvm").exists() {
        return fails(&to_boot("/dev/null"), "/dev/kvm can't be opened");
    }
    if !is_root() {
        println!("skipped: /dev/kvm is here, and only root can hide it");
        return;
    }
    let mut hidden = Command::new("unshare");
    let script = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    hidden.args(["--mount", "--", "sh", "-c", script, RASVMM]).args(to_boot("/proc/version"));
    fails_as(&mut hidden, "/dev/kvm can't be opened");
}

#[test]
fn a_kvm_one_may_not_use_is_named() {
    let for_all = |meta: std::fs::Metadata| meta.permissions().mode() & 0o006 != 0;
    if !is_root() || std::fs::metadata("/dev/kvm").map_or(true, for_all) {
        println!(
            "skipped: needs a /dev/kvm that not everybody may use, and root to be somebody else"
        );
        return;
    }
    // A copy where anybody may run it, whatever the permissions above the build directory.
    let dir = tempfile::tempdir().expect("a directory can be made");
    let program = dir.path().join("rasvmm");
    std::fs::copy(RASVMM, &program).expect("rasvmm can be copied");
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("the directory is ours");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
    nobody.arg(&program).args(to_boot("/dev/null")).current_dir("/");
    fails_as(&mut nobody, "Permission denied");
}
