//! What the story needs before it starts: firmware, the driver, a boot loader, two kernels, and variables.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ras_store_format::exclusion::{List, Outcome, place};
use tempfile::TempDir;

use super::installed;
use crate::image;
use crate::kernel::{ModuleFile, Series, StockKernel};
use crate::machine::Machine;
use crate::qemu::{self, Hardware, Processor, Uefi};
use crate::{artifacts, packages};

const PROGRAMS: [(&str, &str); 2] = [("lab-agent", "init"), ("memory-hog", "bin/memory-hog")];

/// Programs of a machine that the driver is installed on.
const INSTALLABLE: [(&str, &str); 5] = [
    ("lab-agent", "init"),
    ("memory-hog", "bin/memory-hog"),
    ("page-holder", "bin/page-holder"),
    ("rasd", "bin/rasd"),
    ("rasctl", "bin/rasctl"),
];

/// Its modules: variables, FAT as Debian mounts it, and a disk.
const INSTALLABLE_MODULES: [&str; 7] =
    ["efivarfs", "nls_cp437", "nls_ascii", "vfat", "crc32c_generic", "ext4", "virtio_blk"];

/// Where Linux shows variables.
pub(super) const VARIABLES: &str = "/sys/firmware/efi/efivars";

/// A kernel with what it boots.
struct Bootable {
    kernel: StockKernel,
    modules: Vec<ModuleFile>,
    initramfs: PathBuf,
}

/// Everything that outlives one machine.
pub(super) struct Lab {
    dir: TempDir,
    usual: Bootable,
    older: Option<Bootable>,
    /// The usual kernel with everything that installing takes.
    installable: Option<Bootable>,
    code: PathBuf,
    fresh_variables: PathBuf,
    driver: Vec<u8>,
    boot_loader: PathBuf,
}

/// One machine, before it is switched on.
pub(super) struct Setup {
    /// Its name, and that of its directory of logs.
    pub(super) name: String,
    /// The firmware's variables to start from.
    pub(super) variables: PathBuf,
    /// The list as files on the partition, the first and the second copy.
    pub(super) files: [Option<Vec<u8>>; 2],
    pub(super) memory_mib: u32,
    pub(super) command_line: &'static str,
    pub(super) how: How,
}

/// How the driver and the kernel are loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// The driver by the firmware, if its variables say so; then the kernel, directly.
    Firmware,
    /// The same with the older kernel.
    FirmwareOlderKernel,
    /// Both by systemd-boot.
    BootLoader,
}

/// A machine whose user space runs, and what it took to get there.
pub(super) struct Booted {
    pub(super) machine: Machine,
    /// Processor time of its QEMU, firmware included.
    pub(super) processor: Duration,
    /// From QEMU's start.
    pub(super) elapsed: Duration,
    /// Its directory.
    pub(super) dir: PathBuf,
}

impl Lab {
    /// Fetches and builds everything; the older kernel and what installing takes only for the whole story.
    pub(super) fn prepare(whole: bool) -> Result<Self> {
        let ovmf = packages::download_unpack("ovmf")?.join("usr/share/OVMF");
        let boot_loader = packages::download_unpack("systemd-boot-efi")?;
        let driver = artifacts::uefi_driver()?;
        let driver = fs::read(&driver).with_context(|| format!("reading {}", driver.display()))?;
        // A short path, since sockets live in it.
        let dir = TempDir::with_prefix("ras-uefi-").context("creating the lab's directory")?;
        let bootable = |series, programs: &[_], modules: &[_], files: &[_]| -> Result<Bootable> {
            let kernel = StockKernel::fetch_series(series)?;
            let modules = kernel.modules(modules)?;
            let name = format!("initramfs-{}-{}.cpio", kernel.release, programs.len());
            let initramfs = dir.path().join(name);
            image::initramfs(&initramfs, programs, &modules, files)?;
            Ok(Bootable { kernel, modules, initramfs })
        };
        let plain = |series| bootable(series, &PROGRAMS, &["efivarfs"], &[]);
        let packaged = format!("usr/lib/rampart/{}", place::DRIVER_FILE);
        let installable = || {
            let files =
                [("etc/rasd.toml", installed::CONFIG.as_bytes()), (&packaged, driver.as_slice())];
            bootable(Series::V6_12, &INSTALLABLE, &INSTALLABLE_MODULES, &files)
        };
        Ok(Self {
            usual: plain(Series::V6_12)?,
            older: whole.then(|| plain(Series::V6_1)).transpose()?,
            installable: whole.then(installable).transpose()?,
            code: ovmf.join("OVMF_CODE_4M.fd"),
            fresh_variables: ovmf.join("OVMF_VARS_4M.fd"),
            driver,
            boot_loader: boot_loader.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
            dir,
        })
    }

    /// A machine with 1 GiB that has everything but a list.
    pub(super) fn setup(&self, name: &str, variables: &Path) -> Setup {
        Setup {
            name: name.to_owned(),
            variables: variables.to_owned(),
            files: [None, None],
            memory_mib: 1024,
            // An emulated processor clears pages eight bytes at a time faster than byte by byte.
            command_line: "clearcpuid=erms",
            how: How::Firmware,
        }
    }

    /// The variables of a machine nobody has used.
    pub(super) fn fresh_variables(&self) -> &Path {
        &self.fresh_variables
    }

    /// A new directory.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The firmware's program.
    pub(super) fn code(&self) -> &Path {
        &self.code
    }

    /// systemd-boot.
    pub(super) fn boot_loader(&self) -> Result<Vec<u8>> {
        fs::read(&self.boot_loader).context("reading systemd-boot")
    }

    /// The usual kernel.
    pub(super) fn kernel(&self) -> &Path {
        &self.usual.kernel.image
    }

    /// An initial RAM file system with just the agent and the hog.
    pub(super) fn initramfs(&self) -> &Path {
        &self.usual.initramfs
    }

    /// An initial RAM file system with everything that installing takes, and its modules.
    pub(super) fn installable(&self) -> Result<(&Path, &[ModuleFile])> {
        let Bootable { initramfs, modules, .. } =
            self.installable.as_ref().context("the whole story")?;
        Ok((initramfs, modules))
    }

    /// Switches it on and waits for user space.
    pub(super) fn boot(&self, setup: &Setup) -> Result<Booted> {
        let dir = self.dir(&setup.name)?;
        let variables = dir.join("variables.fd");
        fs::copy(&setup.variables, &variables).context("copying the firmware's variables")?;
        let partition = dir.join("partition");
        let put = |place: &str, bytes: &[u8]| -> Result<()> {
            let file = partition.join(place);
            fs::create_dir_all(file.parent().unwrap_or(&partition))?;
            fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
        };
        for (name, copy) in place::LIST_FILES.iter().zip(&setup.files) {
            if let Some(copy) = copy {
                put(&format!("{}/{name}", place::DIRECTORY), copy)?;
            }
        }
        let bootable = match setup.how {
            How::FirmwareOlderKernel => self.older.as_ref().context("the older kernel")?,
            How::Firmware | How::BootLoader => &self.usual,
        };
        if setup.how == How::BootLoader {
            put("EFI/BOOT/BOOTX64.EFI", &self.boot_loader()?)?;
            put(&format!("EFI/systemd/drivers/{}", place::DRIVER_FILE), &self.driver)?;
            put("loader/loader.conf", b"timeout 0\ndefault lab.conf\n")?;
            let entry = format!(
                "title Lab\nlinux /vmlinuz\ninitrd /initramfs.cpio\noptions {} {}\n",
                qemu::command_line(),
                setup.command_line
            );
            put("loader/entries/lab.conf", entry.as_bytes())?;
            put("vmlinuz", &fs::read(&bootable.kernel.image)?)?;
            put("initramfs.cpio", &fs::read(&bootable.initramfs)?)?;
        } else {
            put(&format!("{}/{}", place::DIRECTORY, place::DRIVER_FILE), &self.driver)?;
        }
        let started = Instant::now();
        let mut machine = Machine::boot(&Hardware {
            kernel: bootable.kernel.image.clone(),
            initramfs: bootable.initramfs.clone(),
            command_line: setup.command_line.to_owned(),
            processor: Processor::Intel,
            error_records: None,
            memory_mib: setup.memory_mib,
            disks: Vec::new(),
            boots_disk: setup.how == How::BootLoader,
            uefi: Some(Uefi { code: self.code.clone(), variables, partition: Some(partition) }),
            dir: dir.clone(),
        })?;
        let elapsed = started.elapsed();
        let processor = machine.qemu().processor_time()?;
        image::load_modules(&mut machine, &bootable.modules)?;
        machine.mount("efivarfs", "efivarfs", VARIABLES)?;
        Ok(Booted { machine, processor, elapsed, dir })
    }

    /// The older kernel's release.
    pub(super) fn older_release(&self) -> &str {
        self.older.as_ref().map_or("", |older| &older.kernel.release)
    }

    /// Removes everything after a success; otherwise keeps it and says where.
    pub(super) fn close(self, success: bool) {
        if !success {
            println!(
                "lab: console.log and agent.log of each machine are in {}",
                self.dir.keep().display()
            );
        }
    }
}

impl Booted {
    /// Makes the firmware load the driver from the partition at the next boot.
    pub(super) fn install_driver(&mut self) -> Result<()> {
        let path = format!("/{}/{}", place::DIRECTORY, place::DRIVER_FILE).replace('/', "\\");
        let option = load_option("Rampart", &path);
        for (name, data) in [("Driver0001", &option[..]), ("DriverOrder", &[1, 0])] {
            let name = format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
            self.machine.write_variable(&name, place::LIST_ATTRIBUTES, data)?;
        }
        Ok(())
    }

    /// Writes a copy of the list into a variable; without bytes, deletes it.
    pub(super) fn write_list(&mut self, copy: usize, bytes: &[u8]) -> Result<()> {
        let name = format!("{}-{}", place::LIST_VARIABLES[copy], place::VENDOR);
        self.machine.write_variable(&name, place::LIST_ATTRIBUTES, bytes)
    }

    /// The firmware's variables as they are now, under another name. QEMU writes them through at once.
    pub(super) fn keep_variables(&self, name: &str) -> Result<PathBuf> {
        let kept = self.dir.join(name);
        fs::copy(self.dir.join("variables.fd"), &kept).context("keeping the variables")?;
        Ok(kept)
    }

    /// What the driver left; `None` where it did not run.
    pub(super) fn outcome(&mut self) -> Result<Option<Outcome>> {
        outcome(&mut self.machine)
    }

    /// Everything firmware and kernel said.
    pub(super) fn console(&self) -> Result<String> {
        let bytes = fs::read(self.dir.join("console.log")).context("reading console.log")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What the driver left; `None` where it did not run.
pub(super) fn outcome(machine: &mut Machine) -> Result<Option<Outcome>> {
    let path = format!("{VARIABLES}/{}-{}", place::OUTCOME_VARIABLE, place::VENDOR);
    let Ok(bytes) = machine.read_bytes(&path) else { return Ok(None) };
    let (attributes, record) = bytes.split_at_checked(4).context("attributes come first")?;
    anyhow::ensure!(
        attributes == place::OUTCOME_ATTRIBUTES.to_le_bytes(),
        "the outcome's attributes are {attributes:x?}"
    );
    Outcome::decode(record).context("reading the outcome").map(Some)
}

/// One copy of a list.
pub(super) fn encoded(list: &List) -> Result<Vec<u8>> {
    list.encode().context("writing a list")
}

/// `EFI_LOAD_OPTION` of a file on the partition of QEMU's virtual FAT. UEFI 2.10, sections 3.1.3 and 10.3.5.
fn load_option(description: &str, path: &str) -> Vec<u8> {
    let text = |text: &str| -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    };
    let node = |kind: [u8; 2], data: &[u8]| -> Vec<u8> {
        let length = u16::try_from(data.len() + 4).unwrap_or(u16::MAX);
        [&kind[..], &length.to_le_bytes(), data].concat()
    };
    // QEMU's block/vvfat.c: an MBR with this signature, one partition from sector 63. Firmware compares
    // only the signature.
    let mut signature = [0; 16];
    signature[..4].copy_from_slice(&0xbe1a_fdfa_u32.to_le_bytes());
    let disk = [
        &1u32.to_le_bytes()[..],
        &63u64.to_le_bytes(),
        &0x000f_bfc1_u64.to_le_bytes(),
        &signature,
        &[1, 1], // MBR, and a signature of 32 bits
    ]
    .concat();
    let device_path =
        [node([4, 1], &disk), node([4, 4], &text(path)), node([0x7f, 0xff], &[])].concat();
    let length = u16::try_from(device_path.len()).unwrap_or(u16::MAX);
    [&1u32.to_le_bytes()[..], &length.to_le_bytes(), &text(description), &device_path].concat()
}
