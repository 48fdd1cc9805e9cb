//! What a machine boots from: an initial RAM file system with our programs, and a disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::initramfs::Initramfs;
use crate::kernel::ModuleFile;
use crate::machine::Machine;
use crate::packages::{self, output};
use crate::{artifacts, capability};

/// Packages a machine needs, and a program of each.
const PACKAGES: [(&str, &str); 3] =
    [("qemu-system-x86", "qemu-system-x86_64"), ("e2fsprogs", "mke2fs"), ("kmod", "depmod")];

/// Modules of a machine with a disk. ext4 asks for its checksum by name while mounting, and there is
/// no modprobe to bring it.
pub(crate) const DISK_MODULES: [&str; 3] = ["crc32c_generic", "ext4", "virtio_blk"];

const DIRECTORIES: [&str; 13] = [
    "bin",
    "etc",
    "lib",
    "lib/modules",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/lib",
    "usr/lib/rampart",
    "var",
    "var/lib",
];

/// Whether machines can be made and run here: what is missing, in one line.
pub(crate) fn requirements() -> Result<(), String> {
    // Machines have 512 MiB; the builds before them need more than QEMU does.
    capability::memory(1024)?;
    PACKAGES.iter().try_for_each(|(package, program)| packages::obtainable(package, program))
}

/// Installs what machines need where it is missing.
pub(crate) fn ensure_packages() -> Result<()> {
    packages::ensure(&PACKAGES.map(|(package, _)| package))
}

/// Writes an initial RAM file system: static programs by name and place, modules for
/// [`load_modules`], further files by place.
pub(crate) fn initramfs(
    file: &Path,
    programs: &[(&str, &str)],
    modules: &[ModuleFile],
    files: &[(&str, &[u8])],
) -> Result<()> {
    let mut archive = Initramfs::new();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    for (program, (_, place)) in artifacts::static_programs(&names)?.iter().zip(programs) {
        archive.program(place, &read(program)?);
    }
    for module in modules {
        archive.file(&place(module), &read(&module.path)?);
    }
    for (place, content) in files {
        archive.file(place, content);
    }
    fs::write(file, archive.finish()).context("writing the initial RAM file system")
}

/// Loads them, in order, into a machine that booted from an [`initramfs`] with them.
pub(crate) fn load_modules(machine: &mut Machine, modules: &[ModuleFile]) -> Result<()> {
    modules.iter().try_for_each(|module| machine.load_module(&format!("/{}", place(module))))
}

/// Makes an empty ext4 file system in a new file.
pub(crate) fn ext4(disk: &Path, size_mib: u64) -> Result<()> {
    make_ext4(disk, size_mib, &[])
}

/// The same, with the content of a directory in it.
pub(crate) fn ext4_of(disk: &Path, size_mib: u64, content: &Path) -> Result<()> {
    make_ext4(disk, size_mib, &[Path::new("-d"), content])
}

/// An ext4 file system as large ones are, and done: nothing is left for the kernel to do behind a test's
/// back after it is mounted.
pub(crate) fn ext4_settled(disk: &Path, size_mib: u64) -> Result<()> {
    let settled = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    make_ext4(disk, size_mib, &["-b", "4096", "-E", settled].map(Path::new))
}

fn make_ext4(disk: &Path, size_mib: u64, options: &[&Path]) -> Result<()> {
    let file = fs::File::create_new(disk).context("creating the disk")?;
    file.set_len(size_mib << 20).context("sizing the disk")?;
    let mke2fs = capability::program("mke2fs").map_err(anyhow::Error::msg)?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-t", "ext4", "-F"]).args(options).arg(disk);
    output(&mut command).map(drop)
}

fn place(module: &ModuleFile) -> String {
    let packed = module.path.extension().is_some_and(|extension| extension == "xz");
    format!("lib/modules/{}.ko{}", module.name, if packed { ".xz" } else { "" })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
