//! What the story needs before it starts: a kernel, an initial RAM file system, a disk.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use persist_store::{Entry, Store};
use ras_core::RetiredPage;
use tempfile::TempDir;

use crate::image;
use crate::kernel::{ModuleFile, StockKernel};
use crate::machine::Machine;
use crate::qemu::{Hardware, Processor};

/// 1 GiB would do as well; less memory boots faster.
const MEMORY_MIB: u32 = 512;

const DISK_MIB: u64 = 64;

const MODULES: &[&str] = &image::DISK_MODULES;

/// The machine's programs, and where they go.
const PROGRAMS: [(&str, &str); 4] = [
    ("lab-agent", "init"),
    ("page-holder", "bin/page-holder"),
    ("rasd", "bin/rasd"),
    ("rasctl", "bin/rasctl"),
];

/// - `nokaslr`: what is free after one boot is free after the next, so that both can offline it.
/// - `ras=cec_disable`: the kernel's own collector of corrected errors acts before any daemon could.
const COMMAND_LINE: &str = "nokaslr ras=cec_disable";

/// The daemon as it would be installed, except that without trace events it must not start.
const CONFIG: &str = "[sources]\ntracefs = \"on\"\n[metrics]\nfile = \"/run/rasd.prom\"\n";

/// Everything that outlives one boot.
pub(super) struct Lab {
    dir: TempDir,
    kernel: StockKernel,
    modules: Vec<ModuleFile>,
}

impl Lab {
    /// Fetches the kernel, builds the programs, writes the initial RAM file system and the disk.
    pub(super) fn prepare() -> Result<Self> {
        let kernel = StockKernel::fetch()?;
        let modules = kernel.modules(MODULES)?;
        // A short path, since sockets live in it.
        let dir = TempDir::with_prefix("ras-walk-").context("creating the lab's directory")?;
        let lab = Self { dir, kernel, modules };
        let files = [("etc/rasd.toml", CONFIG.as_bytes())];
        image::initramfs(&lab.initramfs(), &PROGRAMS, &lab.modules, &files)?;
        image::ext4(&lab.disk(), DISK_MIB)?;
        Ok(lab)
    }

    /// Boots with the disk mounted at `/var/lib/rasd`. Logs go to `boot-NUMBER`.
    pub(super) fn boot(&self, number: u32) -> Result<Machine> {
        self.boot_with(number, self.disk(), "")
    }

    /// The same with another disk, whose list has these pages, and further words for the kernel.
    pub(super) fn boot_with_list(
        &self,
        number: u32,
        pages: impl IntoIterator<Item = RetiredPage>,
        command_line: &str,
    ) -> Result<Machine> {
        let content = self.dir.path().join(format!("list-{number}"));
        let entries: Vec<Entry> = pages.into_iter().map(Entry::from).collect();
        let (mut store, _) = Store::open(&content).context("making a list")?;
        store.append_all(&entries).context("making a list")?;
        drop(store);
        let disk = self.dir.path().join(format!("disk-{number}.img"));
        image::ext4_of(&disk, DISK_MIB, &content)?;
        self.boot_with(number, disk, command_line)
    }

    fn boot_with(&self, number: u32, disk: PathBuf, command_line: &str) -> Result<Machine> {
        let dir = self.dir.path().join(format!("boot-{number}"));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut machine = Machine::boot(&Hardware {
            kernel: self.kernel.image.clone(),
            initramfs: self.initramfs(),
            command_line: format!("{COMMAND_LINE} {command_line}"),
            processor: Processor::Intel,
            error_records: None,
            memory_mib: MEMORY_MIB,
            disks: vec![disk],
            boots_disk: false,
            uefi: None,
            dir,
        })?;
        // From now on the log can't slow the boot down: let the kernel say everything.
        machine.write("/proc/sys/kernel/printk", "8")?;
        image::load_modules(&mut machine, &self.modules)?;
        machine.mount("/dev/vda", "ext4", "/var/lib/rasd")?;
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
                "lab: console.log and agent.log of each boot are in {}",
                self.dir.keep().display()
            );
        }
    }

    fn initramfs(&self) -> PathBuf {
        self.dir.path().join("initramfs.cpio")
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }
}
