//! Without UEFI: what `rasctl` writes for the kernel's command line and for GRUB, booted by a BIOS.
//!
//! ```text
//!  store --rasctl pages export--> memmap= -------------------------> kernel --> /proc/iomem
//!        --rasctl boot install--> files of GRUB's --sh--> grub.cfg --GRUB--^
//! ```
//! `rasctl boot` works on a directory here that has what it reads of the machine, copied from the machine.
//! `sh` and this file are what `grub-mkconfig` would be: it sources the drop-in, and runs the script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use persist_store::{Entry, Store};
use ras_core::{PAGE_SIZE, Pfn, PfnRange, PhysAddr, RetireReason};
use ras_store_format::exclusion::total;

use super::checks::{Scattered, expect, iomem, is_reserved};
use super::disk::Disk;
use super::installed::retired_before;
use super::lab::Lab;
use super::{Tale, hog_gets_none};
use crate::artifacts;
use crate::machine::Machine;
use crate::packages::{self, output};
use crate::qemu::{self, Hardware, Processor};

/// Spread over all memory: with these, nothing larger than 5 MiB is left in one piece.
const SPREAD: Scattered = Scattered { first: 0x1000, step: 1200, count: 200 };

/// Every fiftieth of them is worse than the others: as many as go with a random place of the kernel.
const WORSE_STEP: usize = 50;

const COMMAND_LINE: &str = "clearcpuid=erms";

const MEMORY_MIB: u32 = 1024;

/// What has to stay in one piece: a quarter of 1 GiB, less what the BIOS has of it.
const ROOM: u64 = (255 << 20) / PAGE_SIZE;

pub(super) fn without_uefi(tale: &mut Tale, lab: &Lab) -> Result<()> {
    let dir = lab.dir("bios")?;
    let store = dir.join("root/var/lib/rasd");
    let root = Root { dir: dir.join("root"), rasctl: rasctl_program()? };
    make_list(&store)?;
    let grub = Grub::fetch()?;

    let store = store.display().to_string();
    let exported =
        root.rasctl(&["--store", &store, "pages", "export", "--as", "memmap", "--ranges", "4"])?;
    let parameter = exported.trim();
    tale.note(format!("rasctl pages export: {parameter}"));
    let hardware = hardware(lab, dir.join("direct"), &format!("{COMMAND_LINE} {parameter}"), None);
    let mut machine = boot(hardware)?;
    let worst: Vec<PfnRange> = SPREAD.frames().step_by(WORSE_STEP).map(PfnRange::single).collect();
    reserved(tale, &mut machine, "the kernel", "Reserved", &worst)?;
    let usual_line = machine.read("/proc/cmdline")?.replace(parameter, "");
    root.copy_from(&mut machine, &usual_line)?;
    drop(machine);

    root.put("usr/sbin/grub-mkconfig", &grub.mkconfig()?)?;
    let said = root.rasctl(&["boot", "install"])?;
    tale.check(
        "rasctl boot install writes /etc/default/grub.d/rampart.cfg",
        expect(said.contains("etc/default/grub.d/rampart.cfg"), || said.clone()),
    );
    let words = root.shell(". ./etc/default/grub.d/rampart.cfg; echo \"$GRUB_CMDLINE_LINUX\"")?;
    let config = grub.config("", words.trim());
    let mut machine = boot(grub.hardware(lab, &dir.join("memmap"), &config)?)?;
    reserved(tale, &mut machine, "GRUB passes memmap= on, and the kernel", "Reserved", &worst)?;
    let command_line = machine.read("/proc/cmdline")?;
    drop(machine);
    root.put("boot/grub/grub.cfg", config.as_bytes())?;
    root.put("proc/cmdline", command_line.as_bytes())?;
    let said = root.rasctl(&["boot", "status"])?;
    tale.check(
        "rasctl boot status: all in step",
        expect(said.contains("next       nothing: all in step"), || said.clone()),
    );

    root.put("proc/cmdline", usual_line.as_bytes())?;
    root.rasctl(&["boot", "install", "--method", "grub"])?;
    let commands = root.shell("./etc/grub.d/01_rampart")?;
    let cut = cut(&commands)?;
    tale.check(
        &format!("rasctl boot install --method grub: cutmem for {} pages", total(&cut)),
        expect(cut.len() > 100 && in_one_piece(&cut) >= ROOM, || {
            format!("the largest piece has {} pages", in_one_piece(&cut))
        }),
    );
    let config = grub.config(&commands, "");
    let dir = dir.join("cutmem");
    let mut machine = boot(grub.hardware(lab, &dir, &config)?)?;
    // What a kernel says that runs where memory was cut out.
    let console = fs::read(dir.join("console.log")).context("reading console.log")?;
    let is_misplaced = String::from_utf8_lossy(&console).contains("not marked as E820_TYPE_RAM");
    tale.check(
        "GRUB found a place for the kernel where nothing is cut out",
        expect(!is_misplaced, || "the kernel misses its own memory".to_owned()),
    );
    // GRUB leaves holes, and this is the kernel's name for a hole next to memory.
    reserved(tale, &mut machine, "GRUB", "RAM buffer", &cut)?;
    root.copy_from(&mut machine, &usual_line)?;
    let said = root.rasctl(&["boot", "refresh"])?;
    tale.check(
        "rasctl boot refresh plans the same on the machine as it is now",
        expect(said.contains("nothing was changed"), || said.clone()),
    );
    Ok(())
}

/// The ranges are what `/proc/iomem` says of them, and nobody gets them.
fn reserved(
    tale: &mut Tale,
    machine: &mut Machine,
    who: &str,
    name: &str,
    ranges: &[PfnRange],
) -> Result<()> {
    let found = iomem(machine, name)?;
    let missing: Vec<_> = ranges.iter().filter(|range| !found.contains(range)).take(5).collect();
    tale.check(
        &format!("{who} takes {} ranges out of the memory map ({name})", ranges.len()),
        expect(missing.is_empty(), || format!("not {missing:x?}")),
    );
    for range in ranges.iter().step_by(ranges.len().div_ceil(8)) {
        if !is_reserved(machine, range.start)? {
            tale.check("the kernel keeps them from everybody", Err(format!("not {}", range.start)));
        }
    }
    let frames: Vec<Scattered> = ranges
        .iter()
        .map(|range| Scattered { first: range.start.0, step: 1, count: range.count })
        .collect();
    hog_gets_none(tale, machine, MEMORY_MIB, &frames)
}

/// The ranges of `cutmem` commands.
fn cut(commands: &str) -> Result<Vec<PfnRange>> {
    let lines = commands.lines().filter_map(|line| line.strip_prefix("cutmem "));
    lines
        .map(|line| {
            let (from, to) = line.split_once(' ').context("two addresses")?;
            let address = |text: &str| -> Result<Pfn> {
                let digits = text.strip_prefix("0x").context("an address")?;
                Ok(PhysAddr(u64::from_str_radix(digits, 16)?).pfn())
            };
            let (start, end) = (address(from)?, address(to)?);
            Ok(PfnRange { start, count: end.0 - start.0 })
        })
        .collect()
}

/// Pages between two of the ranges, or above the last of them, at most. They are in ascending order.
fn in_one_piece(ranges: &[PfnRange]) -> u64 {
    let end = Pfn(u64::from(MEMORY_MIB) * (1 << 20) / PAGE_SIZE);
    let ranges: Vec<PfnRange> = ranges.iter().copied().chain([PfnRange::single(end)]).collect();
    let gaps = ranges.windows(2).filter_map(|pair| match pair {
        [before, after] => Some(after.start.0 - before.start.0 - before.count),
        _ => None,
    });
    gaps.max().unwrap_or(0)
}

fn make_list(store: &Path) -> Result<()> {
    let pages = SPREAD.frames().enumerate().map(|(number, pfn)| {
        let mut page = retired_before(pfn);
        if number % WORSE_STEP != 0 {
            page.reason = RetireReason::CorrectedThreshold;
        }
        Entry::Page(Box::new(page))
    });
    fs::create_dir_all(store.parent().unwrap_or(store))?;
    let (mut store, _) = Store::open(store).context("making a list")?;
    store.append_all(&pages.collect::<Vec<_>>()).context("making a list")
}

fn rasctl_program() -> Result<PathBuf> {
    artifacts::static_programs(&["rasctl"])?.into_iter().next().context("rasctl")
}

fn hardware(lab: &Lab, dir: PathBuf, command_line: &str, disk: Option<&Disk>) -> Hardware {
    Hardware {
        kernel: lab.kernel().to_owned(),
        initramfs: lab.initramfs().to_owned(),
        command_line: command_line.to_owned(),
        processor: Processor::Intel,
        error_records: None,
        memory_mib: MEMORY_MIB,
        disks: disk.map(|disk| disk.path().to_owned()).into_iter().collect(),
        boots_disk: disk.is_some(),
        uefi: None,
        dir,
    }
}

fn boot(hardware: Hardware) -> Result<Machine> {
    let dir = &hardware.dir;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    Machine::boot(&hardware)
}

/// The machine as `rasctl boot` sees it.
struct Root {
    dir: PathBuf,
    rasctl: PathBuf,
}

impl Root {
    fn put(&self, place: &str, bytes: &[u8]) -> Result<()> {
        let file = self.dir.join(place);
        fs::create_dir_all(file.parent().unwrap_or(&self.dir))?;
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
    }

    /// Its memory map and its command line.
    fn copy_from(&self, machine: &mut Machine, command_line: &str) -> Result<()> {
        const MAP: &str = "sys/firmware/memmap";
        let before = self.dir.join(MAP);
        if before.is_dir() {
            fs::remove_dir_all(&before).context("forgetting the memory map")?;
        }
        for number in 0.. {
            for name in ["start", "end", "type"] {
                let place = format!("{MAP}/{number}/{name}");
                let Ok(text) = machine.read(&format!("/{place}")) else {
                    ensure!(number > 2, "the kernel shows no memory map");
                    self.put("proc/cmdline", command_line.as_bytes())?;
                    return self.put("proc/self/mountinfo", b"");
                };
                self.put(&place, text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// What it says; with a code of 1, there is something left to do.
    fn rasctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.rasctl);
        command.args(arguments);
        if arguments.first() == Some(&"boot") {
            command.arg("--root").arg(&self.dir);
        }
        let done = command.output().with_context(|| format!("starting {command:?}"))?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let failed = !matches!(done.status.code(), Some(0 | 1)) || done.stdout.is_empty();
        ensure!(!failed, "{command:?} ({}): {}", done.status, said(&done.stderr));
        Ok(said(&done.stdout))
    }

    fn shell(&self, script: &str) -> Result<String> {
        output(Command::new("sh").args(["-ec", script]).current_dir(&self.dir))
    }
}

/// GRUB, unpacked.
struct Grub {
    common: PathBuf,
    images: PathBuf,
    core: Vec<u8>,
}

impl Grub {
    fn fetch() -> Result<Self> {
        let common = packages::download_unpack("grub-common")?;
        let images = packages::download_unpack("grub-pc-bin")?.join("usr/lib/grub/i386-pc");
        let libraries =
            packages::download_unpack("libdevmapper1.02.1")?.join("lib/x86_64-linux-gnu");
        let work = tempfile::tempdir().context("a directory for GRUB's core")?;
        let (early, core) = (work.path().join("early.cfg"), work.path().join("core.img"));
        fs::write(
            &early,
            "search --set=root --file /boot/grub/grub.cfg\nset prefix=($root)/boot/grub\n",
        )?;
        let mut mkimage = Command::new(common.join("usr/bin/grub-mkimage"));
        mkimage.env("LD_LIBRARY_PATH", libraries).arg("-d").arg(&images);
        mkimage.args(["-O", "i386-pc", "-p", "/boot/grub", "-c"]).arg(early).arg("-o").arg(&core);
        output(mkimage.args(["biosdisk", "part_msdos", "fat", "search", "search_fs_file"]))?;
        let core = fs::read(&core).context("reading GRUB's core")?;
        Ok(Self { common, images, core })
    }

    /// The real one: `rasctl` looks into it for what it reads.
    fn mkconfig(&self) -> Result<Vec<u8>> {
        fs::read(self.common.join("usr/sbin/grub-mkconfig")).context("reading grub-mkconfig")
    }

    /// `commands` come behind the header and before the kernels, as those of a script with a low number do.
    fn config(&self, commands: &str, words: &str) -> String {
        format!(
            "serial --unit=0 --speed=115200\nterminal_output serial\nset timeout=0\n{commands}\
             menuentry Lab {{\n  linux /vmlinuz {} {COMMAND_LINE} {words}\n  initrd /initramfs.cpio\n}}\n",
            qemu::command_line()
        )
    }

    /// A machine whose disk boots with this configuration.
    fn hardware(&self, lab: &Lab, dir: &Path, config: &str) -> Result<Hardware> {
        let content = dir.join("content");
        let modules = content.join("boot/grub/i386-pc");
        fs::create_dir_all(&modules).with_context(|| format!("creating {}", modules.display()))?;
        for entry in fs::read_dir(&self.images)? {
            let file = entry?.path();
            let wanted = file.extension().is_some_and(|kind| kind == "mod" || kind == "lst");
            if let Some(name) = file.file_name().filter(|_| wanted) {
                fs::copy(&file, modules.join(name)).context("copying GRUB's modules")?;
            }
        }
        fs::write(content.join("boot/grub/grub.cfg"), config)?;
        fs::copy(lab.kernel(), content.join("vmlinuz"))?;
        fs::copy(lab.initramfs(), content.join("initramfs.cpio"))?;
        let boot = fs::read(self.images.join("boot.img")).context("reading GRUB's boot sector")?;
        let disk = Disk::mbr(&dir.join("disk.img"), &boot, &self.core, &content)?;
        fs::remove_dir_all(&content)?;
        Ok(hardware(lab, dir.to_owned(), "", Some(&disk)))
    }
}
