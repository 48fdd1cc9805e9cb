//! What the story needs before it starts: a kernel, programs, and for each recording a disk and its log.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::image;
use crate::kernel::{ModuleFile, StockKernel};
use crate::machine::Machine;
use crate::qemu::{Hardware, Processor};

const MEMORY_MIB: u32 = 512;

/// As large as a disk in memory of the kernel (`brd`) is, unless it is told otherwise.
const DISK_MIB: u64 = 16;

/// Far more than a recording takes; what is not written takes no room.
const LOG_MIB: u64 = 256;

const MODULES: [&str; 7] =
    ["crc32c_generic", "ext4", "virtio_blk", "dm_mod", "dm_log_writes", "dm_snapshot", "brd"];

const PROGRAMS: [(&str, &str); 4] =
    [("lab-agent", "init"), ("rasd", "bin/rasd"), ("rasctl", "bin/rasctl"), ("power", "bin/power")];

/// As installed, but that pages come by order only, and as many as it takes.
const CONFIG: &str = "[sources]\ntracefs = \"off\"\n[boot]\nlist = \"off\"\n\
                      [policy]\nretired_pages_max = 100000\n";

/// - `ras=cec_disable`: nobody but rasd takes pages out of use.
/// - `clearcpuid`: an emulated processor copies eight bytes at a time faster than byte by byte.
const COMMAND_LINE: &str = "ras=cec_disable clearcpuid=erms,fsrm";

/// Everything that outlives one boot.
pub(super) struct Lab {
    dir: TempDir,
    kernel: StockKernel,
    modules: Vec<ModuleFile>,
    recordings: usize,
}

/// Names of the machine's disks.
pub(super) struct Disks {
    /// Written to.
    pub(super) disk: String,
    /// Every write to it.
    pub(super) log: String,
}

impl Lab {
    /// Fetches the kernel, builds the programs, makes the disks of so many recordings.
    pub(super) fn prepare(recordings: usize) -> Result<Self> {
        let kernel = StockKernel::fetch()?;
        let modules = kernel.modules(&MODULES)?;
        // A short path, since sockets live in it.
        let dir = TempDir::with_prefix("ras-power-").context("creating the lab's directory")?;
        let lab = Self { dir, kernel, modules, recordings };
        let files = [("etc/rasd.toml", CONFIG.as_bytes())];
        image::initramfs(&lab.file("initramfs.cpio"), &PROGRAMS, &lab.modules, &files)?;
        image::ext4_settled(&lab.file("fresh.img"), DISK_MIB)?;
        for number in 0..recordings {
            fs::copy(lab.file("fresh.img"), lab.file(&format!("disk-{number}.img")))
                .context("copying the fresh disk")?;
            let log = fs::File::create_new(lab.file(&format!("log-{number}.img")));
            log.and_then(|log| log.set_len(LOG_MIB << 20)).context("making a log's disk")?;
        }
        Ok(lab)
    }

    /// The disk that every recording begins with.
    pub(super) const FRESH: &str = "/dev/vda";

    /// The disks of a recording.
    pub(super) fn disks(number: usize) -> Disks {
        let name = |index: usize| {
            let letter = ('b'..='z').nth(index).unwrap_or('z');
            format!("/dev/vd{letter}")
        };
        Disks { disk: name(2 * number), log: name(2 * number + 1) }
    }

    /// Boots with all disks. Logs go to `boot-NUMBER`.
    pub(super) fn boot(&self, number: usize) -> Result<Machine> {
        let dir = self.file(&format!("boot-{number}"));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let recordings = (0..self.recordings)
            .flat_map(|number| [format!("disk-{number}.img"), format!("log-{number}.img")]);
        let mut machine = Machine::boot(&Hardware {
            kernel: self.kernel.image.clone(),
            initramfs: self.file("initramfs.cpio"),
            command_line: COMMAND_LINE.to_owned(),
            processor: Processor::Intel,
            error_records: None,
            memory_mib: MEMORY_MIB,
            disks: std::iter::once("fresh.img".to_owned())
                .chain(recordings)
                .map(|name| self.file(&name))
                .collect(),
            boots_disk: false,
            uefi: None,
            dir,
        })?;
        image::load_modules(&mut machine, &self.modules)?;
        Ok(machine)
    }

    /// The kernel's release.
    pub(super) fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Removes everything after a success; otherwise keeps it and says where.
    pub(super) fn close(self, success: bool) {
        if !success {
            println!(
                "lab: the disks, their logs, and console.log and agent.log of each boot are in {}",
                self.dir.keep().display()
            );
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
