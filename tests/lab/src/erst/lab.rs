//! What the story needs before it starts: a kernel, its headers and a module built with them, a store.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::artifacts;
use crate::image;
use crate::kernel::{ModuleFile, StockKernel};
use crate::machine::Machine;
use crate::packages::{self, output};
use crate::qemu::{Hardware, Processor};

/// Packages that build the module, and a program of each.
pub(super) const TOOLS: [(&str, &str); 2] = [("gcc", "gcc"), ("make", "make")];

const MEMORY_MIB: u32 = 512;

/// QEMU's default: seven records of at most 8 KiB.
const STORE_SIZE: u64 = 64 << 10;

const PROGRAMS: [(&str, &str); 2] = [("lab-agent", "init"), ("erst-list", "bin/erst-list")];

/// The kernel's collector of corrected errors would take the machine check before FMPM sees it.
const COMMAND_LINE: &str = "ras=cec_disable loglevel=7";

/// Everything that outlives one boot.
pub(super) struct Lab {
    dir: TempDir,
    kernel: StockKernel,
    fmpm: ModuleFile,
}

impl Lab {
    /// Fetches the kernel and its headers, builds module and programs.
    pub(super) fn prepare() -> Result<Self> {
        let kernel = StockKernel::fetch()?;
        let fmpm = kernel
            .modules(&["fmpm"])?
            .into_iter()
            .find(|module| module.name == "fmpm")
            .context("the kernel has FMPM built in")?;
        // A short path, since sockets live in it.
        let dir = TempDir::with_prefix("ras-erst-").context("creating the lab's directory")?;
        let module = build_module(&kernel.release, dir.path())?;
        let lab = Self { dir, kernel, fmpm };
        let module = fs::read(&module).context("reading the lab's module")?;
        image::initramfs(
            &lab.initramfs(),
            &PROGRAMS,
            std::slice::from_ref(&lab.fmpm),
            &[("lib/modules/erst_lab.ko", &module)],
        )?;
        let store = fs::File::create_new(lab.store()).context("creating the store")?;
        store.set_len(STORE_SIZE).context("sizing the store")?;
        Ok(lab)
    }

    /// Boots with the store and the module. Logs go to `boot-NUMBER`.
    pub(super) fn boot(&self, number: u32) -> Result<Machine> {
        let dir = self.dir.path().join(format!("boot-{number}"));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut machine = Machine::boot(&Hardware {
            kernel: self.kernel.image.clone(),
            initramfs: self.initramfs(),
            command_line: COMMAND_LINE.to_owned(),
            processor: Processor::AmdServer,
            error_records: Some(self.store()),
            memory_mib: MEMORY_MIB,
            disks: Vec::new(),
            boots_disk: false,
            uefi: None,
            dir,
        })?;
        machine.mount("debugfs", "debugfs", "/sys/kernel/debug")?;
        machine.load_module("/lib/modules/erst_lab.ko")?;
        Ok(machine)
    }

    /// Loads the kernel's FRU Memory Poison Manager.
    pub(super) fn load_fmpm(&self, machine: &mut Machine) -> Result<()> {
        image::load_modules(machine, std::slice::from_ref(&self.fmpm))
    }

    /// Flips a byte of the list's first copy in the store's image.
    pub(super) fn flip_a_byte(&self) -> Result<()> {
        let mut bytes = fs::read(self.store()).context("reading the store")?;
        let list = bytes.windows(8).position(|magic| magic == b"RASIMAGE");
        let at = list.context("the store holds no list of ours")? + 60;
        bytes[at] ^= 0x10;
        fs::write(self.store(), bytes).context("writing the store")
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

    fn store(&self) -> PathBuf {
        self.dir.path().join("erst.img")
    }
}

/// Builds `modules/erst_lab.c` for the kernel, in a directory below `dir`.
fn build_module(release: &str, dir: &Path) -> Result<PathBuf> {
    packages::ensure(&TOOLS.map(|(package, _)| package))?;
    // 6.12.117+deb12-amd64: the flavour is the last part.
    let version = release.rsplit_once('-').map_or(release, |(version, _)| version);
    let [headers, common, tools] = [
        format!("linux-headers-{release}"),
        format!("linux-headers-{version}-common"),
        format!("linux-kbuild-{version}"),
    ];
    let root = |package: &str| packages::download_unpack(package);
    let (headers_root, common_root, tools_root) = (root(&headers)?, root(&common)?, root(&tools)?);
    // Installed, the three share a root, and the first two find the third by relative links.
    for root in [&headers_root, &common_root] {
        let link = root.join("usr/lib").join(&tools);
        if !link.exists() {
            fs::create_dir_all(root.join("usr/lib")).context("linking the kernel's build tools")?;
            symlink(tools_root.join("usr/lib").join(&tools), &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
    }
    let place = dir.join("module");
    fs::create_dir(&place).context("creating the module's directory")?;
    let source = artifacts::workspace_root().join("tests/lab/modules/erst_lab.c");
    fs::copy(&source, place.join("erst_lab.c"))
        .with_context(|| format!("copying {}", source.display()))?;
    fs::write(place.join("Makefile"), "obj-m := erst_lab.o\n").context("writing a Makefile")?;
    let source_dir = |root: &Path, package: &str| root.join("usr/src").join(package);
    output(
        Command::new("make")
            .arg("-s")
            .arg("-C")
            .arg(source_dir(&common_root, &common))
            .arg(format!("O={}", source_dir(&headers_root, &headers).display()))
            .arg(format!("M={}", place.display()))
            // No type information: that would take a further package.
            .args(["CC=gcc", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]),
    )
    .context("building the lab's module")?;
    let module = place.join("erst_lab.ko");
    ensure!(module.is_file(), "make left no {}", module.display());
    Ok(module)
}
