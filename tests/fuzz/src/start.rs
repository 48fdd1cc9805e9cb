//! What the monitor is started with: its configuration, and a kernel's file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::Parser;
use ras_core::{Gpa, PAGE_SIZE};
use rasvmm::config::{Config, Options};
use rasvmm::devices::virtio::mem::BLOCK_SIZE;
use rasvmm::memory::layout;
use rasvmm::memory::mapping::{GuestRam, RegionConfig, RegionKind};
use rasvmm::{boot, migrate};

/// The bytes as a file, as words (one a line), and as where a guest may come from.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(options) = toml::from_str::<Options>(text) {
            resolved(options);
        }
        if let Ok(uri) = text.parse::<migrate::Uri>() {
            assert_eq!(uri.to_string().parse::<migrate::Uri>().ok(), Some(uri));
        }
    }
    let words = bytes.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    if let Ok(mut options) =
        Options::try_parse_from([OsStr::new("rasvmm")].into_iter().chain(words))
    {
        // Not whatever file of this machine the fuzzer comes upon.
        options.config = None;
        resolved(options);
    }
}

fn resolved(options: Options) {
    let Ok(config) = options.resolve() else { return };
    let Config { name, start, memory, virtio_mem, .. } = config;
    assert!((1..=64).contains(&name.len()) && !name.contains('/'));
    assert!(memory >= 1 << 20 && memory.is_multiple_of(PAGE_SIZE));
    let runs = layout::ram(memory);
    assert_eq!(runs.iter().map(|(_, len)| len).sum::<u64>(), memory);
    let (last, len) = runs[runs.len() - 1];
    let region = layout::virtio_mem(memory);
    assert!(region.0 >= last.0 + len && region >= layout::HIGH_RAM);
    if let Some(size) = virtio_mem {
        assert!(size.region > 0 && size.region.is_multiple_of(BLOCK_SIZE));
        assert!(size.requested <= size.region && size.requested.is_multiple_of(BLOCK_SIZE));
        assert!(region.0 + size.region <= layout::ADDRESS_MAX);
    }
    if let Some(kernel) = start.kernel() {
        assert_eq!(virtio_mem.is_some(), kernel.cmdline.contains("virtio_mmio.device=0x200@"));
    }
}

/// A file without a name, for one kernel after the other.
static KERNEL: LazyLock<(File, PathBuf)> = LazyLock::new(|| {
    let file = crate::input::file();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
});

/// RAM of the guest that is to boot.
const RAM: u64 = 2 << 20;

/// The file as it is, and with what every such kernel begins with.
pub(crate) fn kernel_image(bytes: &[u8]) {
    loaded(bytes);
    let mut image = bytes.to_vec();
    image.resize(image.len().max(64), 0);
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[18..20].copy_from_slice(&62u16.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[54..56].copy_from_slice(&56u16.to_le_bytes());
    loaded(&image);
}

fn loaded(image: &[u8]) {
    let (file, path) = &*KERNEL;
    file.set_len(0).and_then(|()| file.write_all_at(image, 0)).expect("room for a kernel");
    let region = |gpa, size, kind| RegionConfig { gpa, size, kind };
    let device = layout::virtio_mem(RAM);
    let ram = GuestRam::new(&[
        region(Gpa(0), RAM, RegionKind::Ram),
        region(device, BLOCK_SIZE, RegionKind::VirtioMem),
    ])
    .expect("guest memory");
    let booted = boot::load(&ram, path, "console=ttyS0");
    assert!(ram.allocated(device, BLOCK_SIZE).is_empty(), "nothing was plugged yet");
    if let Ok(entry) = booted {
        let word = |gpa: Gpa| {
            let mut word = [0; 4];
            ram.read(gpa, &mut word).expect("memory");
            word
        };
        assert_eq!(word(layout::START_INFO), 0x336e_c578u32.to_le_bytes(), "entry {entry:#x}");
        assert_eq!(word(layout::CMDLINE), *b"cons");
        assert_eq!(word(Gpa(layout::MEMORY_MAP.0 + 8)), 0x20_0000u32.to_le_bytes());
    }
}
