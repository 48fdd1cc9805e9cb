//! The fuzzer: one program for all targets; `RAS_FUZZ_TARGET` names the one it runs.
//! `cargo xtask fuzz` builds it, gives it its inputs and runs it.

#![no_main]

mod input;
mod migration;
mod qmp;
mod start;
mod store;
mod targets;
mod virtio;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// The target that was asked for.
static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("RAS_FUZZ_TARGET").unwrap_or_default();
    targets::find(&name).unwrap_or_else(|| {
        eprintln!("RAS_FUZZ_TARGET={name:?} is none of: {}", targets::names());
        std::process::exit(2);
    })
});

fuzz_target!(|data: &[u8]| (TARGET)(data));
