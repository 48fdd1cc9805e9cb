//! What an operator sees when something is missing or wrong.

use std::process::Command;

fn fails(arguments: &[&str], expected: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_rasvmm"))
        .args(arguments)
        .output()
        .expect("rasvmm was built for this test");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert!(said.contains(expected), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    fails(&[], "kernel: name the ELF file to boot, or use --incoming");
    fails(&["--memory", "lots"], "'lots' is not a size such as 4096, 64M or 2G");
    fails(&["--config", "/does/not/exist"], "reading the configuration /does/not/exist");
    fails(&["--no-such-option"], "unexpected argument '--no-such-option'");
}

#[test]
fn a_missing_kvm_or_kernel_is_named() {
    let arguments = |kernel| ["--kernel", kernel, "--qmp", "unix:/dev/null/x", "--serial", "null"];
    if std::path::Path::new("/dev/kvm").exists() {
        fails(&arguments("/does/not/exist"), "reading the kernel /does/not/exist");
        fails(&arguments("/dev/null"), "it ends too early");
        fails(&arguments(env!("CARGO_BIN_EXE_rasvmm")), "rasvmm is no kernel this VMM can start");
    } else {
        fails(&arguments("/does/not/exist"), "/dev/kvm can't be opened");
    }
}
