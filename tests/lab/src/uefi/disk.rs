//! Disks as installers leave them: a partition table, FAT to boot from, ext4. Made of files, without root.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::capability;
use crate::packages::{self, output};

/// Packages that make disks, and a program of each.
const PACKAGES: [(&str, &str); 3] =
    [("fdisk", "sfdisk"), ("dosfstools", "mkfs.vfat"), ("mtools", "mcopy")];

/// Whether disks can be made here: what is missing, in one line.
pub(super) fn requirements() -> Result<(), String> {
    PACKAGES.iter().try_for_each(|(package, program)| packages::obtainable(package, program))
}

pub(super) fn ensure_packages() -> Result<()> {
    packages::ensure(&PACKAGES.map(|(package, _)| package))
}

const SECTOR: u64 = 512;

/// Where the first partition begins, on every disk of the last fifteen years.
const FIRST_SECTOR: u64 = 2048;

/// FAT32 with clusters of 4 KiB needs 65,525 of them.
const FAT_SECTORS: u64 = (272 << 20) / SECTOR;

const EXT4_SECTORS: u64 = (64 << 20) / SECTOR;

/// An image file.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// A GPT, an EFI system partition with what is in the directory `esp`, and an ext4 with what is in `other`.
    pub(super) fn gpt(file: &Path, esp: &Path, other: &Path) -> Result<Self> {
        let second = FIRST_SECTOR + FAT_SECTORS;
        let table = format!(
            "label: gpt\n\
             start={FIRST_SECTOR}, size={FAT_SECTORS}, type=uefi\n\
             start={second}, size={EXT4_SECTORS}, type=linux\n"
        );
        let disk = Self::new(file, second + EXT4_SECTORS + FIRST_SECTOR, &table)?;
        disk.fat(esp)?;
        let mut command = program("mke2fs")?;
        let offset = format!("offset={}", second * SECTOR);
        command.args(["-q", "-t", "ext4", "-F", "-E", &offset, "-d"]).arg(other).arg(&disk.0);
        output(command.arg(format!("{}k", EXT4_SECTORS * SECTOR / 1024)))?;
        Ok(disk)
    }

    /// An MBR whose code is `boot`, `core` in the sectors behind it, and a FAT partition with what is in `content`:
    /// how GRUB is installed for a BIOS. GNU GRUB Manual, "BIOS installation".
    pub(super) fn mbr(file: &Path, boot: &[u8], core: &[u8], content: &Path) -> Result<Self> {
        /// Before the disk's signature and its table of partitions.
        const CODE: usize = 440;
        ensure!(core.len() as u64 <= (FIRST_SECTOR - 1) * SECTOR, "GRUB's core is too long");
        let table =
            format!("label: dos\nstart={FIRST_SECTOR}, size={FAT_SECTORS}, type=c, bootable\n");
        let disk = Self::new(file, FIRST_SECTOR + FAT_SECTORS, &table)?;
        let sector = usize::try_from(SECTOR)?;
        let mut first = fs::read(&disk.0).context("reading the disk back")?;
        first.truncate(sector);
        let code = boot.get(..CODE).context("GRUB's boot sector is too short")?;
        first.splice(..CODE, code.iter().copied());
        let mut disk_file = File::options().write(true).open(&disk.0)?;
        disk_file.write_all(&[&first, core].concat()).context("installing GRUB")?;
        disk.fat(content)?;
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// All files and directories of the FAT partition.
    pub(super) fn listing(&self) -> Result<Vec<String>> {
        let text = output(mtools("mdir", &self.0)?.args(["-/", "-b", "::"]))?;
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn new(file: &Path, sectors: u64, table: &str) -> Result<Self> {
        let image = File::create_new(file).context("creating the disk")?;
        image.set_len(sectors * SECTOR).context("sizing the disk")?;
        let mut sfdisk =
            program("sfdisk")?.arg("--quiet").arg(file).stdin(Stdio::piped()).spawn()?;
        let input = sfdisk.stdin.take().context("sfdisk's input")?;
        { input }.write_all(table.as_bytes()).context("describing the partitions")?;
        let status = sfdisk.wait().context("waiting for sfdisk")?;
        ensure!(status.success(), "sfdisk ended with {status}");
        Ok(Self(file.to_owned()))
    }

    fn fat(&self, content: &Path) -> Result<()> {
        let mut command = program("mkfs.vfat")?;
        let offset = FIRST_SECTOR.to_string();
        command.args(["-F", "32", "-s", "8", "--offset", &offset]).arg(&self.0);
        output(command.arg((FAT_SECTORS * SECTOR / 1024).to_string()))?;
        let entries = fs::read_dir(content).context("what goes onto the partition")?;
        let entries: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        output(mtools("mcopy", &self.0)?.args(["-s", "-Q"]).args(entries).arg("::/")).map(drop)
    }
}

fn program(name: &str) -> Result<Command> {
    capability::program(name).map(Command::new).map_err(anyhow::Error::msg)
}

/// A command for the FAT partition of a disk.
fn mtools(name: &str, disk: &Path) -> Result<Command> {
    let mut command = program(name)?;
    command.arg("-i").arg(format!("{}@@{}", disk.display(), FIRST_SECTOR * SECTOR));
    Ok(command)
}
