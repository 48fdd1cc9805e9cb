//! A machine whose guest is a few bytes of 32-bit code.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ras_qmp::Events;
use rasvmm::builder;
use rasvmm::config::{Config, Kernel, SerialTarget, Start, VirtioMemSize};
use rasvmm::policy::{Actions, RebootAction};
use rasvmm::vm::Vm;

/// Why there is no KVM here, if so.
pub(crate) fn no_kvm() -> Option<String> {
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    kvm.err().map(|error| format!("/dev/kvm: {error}"))
}

/// A machine of 4 MiB and 4 MiB of virtio-mem that runs `code`, loaded at 1 MiB. Paused.
pub(crate) fn machine(code: &[u8]) -> Arc<Vm> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&kernel(code)).expect("a kernel");
    let config = Config {
        name: "test".to_owned(),
        start: Start::Kernel(Kernel { path: file.path().to_owned(), cmdline: String::new() }),
        memory: 4 << 20,
        virtio_mem: Some(VirtioMemSize { region: 4 << 20, requested: 0 }),
        qmp: PathBuf::new(),
        serial: SerialTarget::Null,
        // The file is gone by then.
        actions: Actions { reboot: RebootAction::Shutdown, ..Actions::default() },
        allow_fault_injection: true,
    };
    Arc::new(builder::build(&config, Events::default()).expect("a machine"))
}

/// Waits for `happened`.
pub(crate) fn wait(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A PVH ELF file with one segment at 1 MiB, where it is entered.
fn kernel(code: &[u8]) -> Vec<u8> {
    const LOAD_AT: u32 = 0x10_0000;
    let mut note: Vec<u8> = [4u32, 4, 18].iter().flat_map(|field| field.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend(LOAD_AT.to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend([0u64, 64, 0].iter().flat_map(|field| field.to_le_bytes()));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let headers = 64 + 2 * 56;
    let segments =
        [(1u32, headers, code.len() as u64), (4, headers + code.len() as u64, note.len() as u64)];
    for (kind, offset, size) in segments {
        file.extend([kind, 7].iter().flat_map(|field| field.to_le_bytes()));
        let fields = [offset, u64::from(LOAD_AT), u64::from(LOAD_AT), size, size, 8];
        file.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    }
    file.extend(code);
    file.extend(note);
    file
}
