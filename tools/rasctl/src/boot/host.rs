//! What a machine has to boot from, all of it below one root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use persist_store::efivarfs::Efivarfs;
use persist_store::exclusion::{BadRange, Badness, union};
use ras_core::{PAGE_SIZE, Pfn, PfnRange, RetiredPage};
use rasctl::efi::load_option::{GLOBAL, Partition, Signature};

use crate::Failure;

/// Where an EFI system partition is mounted by custom, in the order in which rasd looks.
const CUSTOMARY: [&str; 3] = ["/efi", "/boot/efi", "/boot"];

/// Longest small file that is read: mount tables, udev's entries, scripts.
const SMALL_MAX: u64 = 4 << 20;

/// Blocks of a GPT: its header is the second. UEFI 2.10, section 5.3.2.
const GPT_MAGIC: &[u8] = b"EFI PART";

/// A system.
pub(super) struct Host {
    root: PathBuf,
}

/// A mounted EFI system partition.
#[derive(Debug)]
pub(super) struct Esp {
    /// Where it is, the root included.
    pub(super) dir: PathBuf,
    /// Where it is to whoever runs on the system.
    pub(super) mounted: String,
    /// Its block device, as `MAJOR:MINOR`.
    device: String,
    pub(super) read_only: bool,
}

struct Mount {
    device: String,
    point: String,
    kind: String,
    read_only: bool,
}

impl Host {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The machine's own, not one that a test made.
    pub(super) fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// An absolute path of the system.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The same path as the system has it.
    pub(super) fn shown(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.root);
        below.map_or_else(|_| path.display().to_string(), |below| format!("/{}", below.display()))
    }

    pub(super) fn read_small(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        fs::File::open(self.at(path))?.take(SMALL_MAX).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether the running kernel was started by UEFI.
    pub(super) fn has_uefi(&self) -> bool {
        self.at("/sys/firmware/efi").is_dir()
    }

    /// The firmware's variables. Without UEFI there are none.
    pub(super) fn variables(&self) -> Result<Option<Efivarfs>, Failure> {
        if !self.has_uefi() {
            return Ok(None);
        }
        const MOUNTED: &str = "/sys/firmware/efi/efivars";
        let dir = self.at(MOUNTED);
        // Firmware always has some; an empty directory has nothing mounted on it.
        let first = fs::read_dir(&dir).and_then(|mut dir| dir.next().transpose());
        match first {
            Ok(Some(_)) => Ok(Some(Efivarfs::new(&dir))),
            Ok(None) => Err(Failure::NotReached(format!(
                "the firmware's variables are not there: mount -t efivarfs efivarfs {MOUNTED}"
            ))),
            Err(error) => Err(Failure::NotReached(format!("reading {MOUNTED}: {error}"))),
        }
    }

    /// Whether firmware loads signed programs only.
    pub(super) fn secure_boot(&self) -> Result<bool, Failure> {
        let Some(variables) = self.variables()? else { return Ok(false) };
        let state = variables.read(&format!("SecureBoot-{GLOBAL}"), 16);
        let state = state.map_err(|error| {
            Failure::NotReached(format!("reading the variable SecureBoot: {error}"))
        })?;
        Ok(state.is_some_and(|variable| variable.data.first() == Some(&1)))
    }

    /// What tells this boot from all others; `None` where the kernel does not say.
    pub(super) fn boot_id(&self) -> Option<String> {
        let id = self.read_small("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().into())
    }

    /// The EFI system partition: as asked for, or where it is by custom.
    pub(super) fn find_esp(&self, asked: Option<&Path>) -> Result<Esp, String> {
        // Looked into first: that is what makes an automount mount it.
        let is_there = |dir: &Path| self.at(dir).join("EFI").is_dir();
        let customary = CUSTOMARY.map(Path::new);
        let candidates: Vec<&Path> = match asked {
            Some(asked) => {
                is_there(asked);
                vec![asked]
            }
            None => customary.into_iter().filter(|dir| is_there(dir)).collect(),
        };
        let mounts = self.mounts()?;
        if let Some(asked) = asked {
            return self.esp(asked, &mounts);
        }
        let tried: Vec<_> = candidates.iter().map(|dir| self.esp(dir, &mounts)).collect();
        let mut reasons = String::new();
        for esp in tried {
            match esp {
                Ok(esp) => return Ok(esp),
                Err(reason) => reasons = format!("{reasons}; {reason}"),
            }
        }
        Err(format!(
            "no EFI system partition is mounted at {}{reasons}: mount it, or say where it is with --esp",
            CUSTOMARY.join(", ")
        ))
    }

    /// The partition mounted there, if firmware can read it.
    fn esp(&self, dir: &Path, mounts: &[Mount]) -> Result<Esp, String> {
        let shown = dir.to_string_lossy();
        let mounted = shown.trim_end_matches('/');
        // Of several mounts at one place the last one is seen.
        let Some(mount) = mounts.iter().rfind(|mount| mount.point == mounted) else {
            return Err(format!("nothing is mounted at {mounted}"));
        };
        if !matches!(mount.kind.as_str(), "vfat" | "msdos") {
            return Err(format!("{mounted} is {}, which firmware can't read", mount.kind));
        }
        Ok(Esp {
            dir: self.at(dir),
            mounted: mounted.into(),
            device: mount.device.clone(),
            read_only: mount.read_only,
        })
    }

    fn mounts(&self) -> Result<Vec<Mount>, String> {
        const TABLE: &str = "/proc/self/mountinfo";
        let table = self.read_small(TABLE);
        let table = table.map_err(|error| format!("reading {TABLE}: {error}"))?;
        Ok(table.lines().filter_map(mount).collect())
    }

    /// What a device path has to say of the partition.
    pub(super) fn partition(&self, esp: &Esp) -> Result<Partition, String> {
        let device = &esp.device;
        let link = self.at(format!("/sys/dev/block/{device}"));
        let dir = fs::canonicalize(&link)
            .map_err(|error| format!("block device {device}: {}: {error}", self.shown(&link)))?;
        let number_in = |path: PathBuf| -> Result<u64, String> {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            text.trim().parse().map_err(|_| format!("{}: no number", path.display()))
        };
        let number = number_in(dir.join("partition"));
        let number = number.map_err(|error| {
            format!("{} is on no partition of a disk (RAID, LVM?): {error}", esp.mounted)
        })?;
        // sysfs counts in 512 bytes whatever the disk does; firmware in the disk's own blocks.
        let disk = dir.parent().unwrap_or(&dir);
        let block = number_in(disk.join("queue/logical_block_size")).unwrap_or(512);
        let sectors = (block / 512).max(1);
        let start = number_in(dir.join("start"))? / sectors;
        let size = number_in(dir.join("size"))? / sectors;
        let number = u32::try_from(number).map_err(|_| "a number of no partition".to_owned())?;
        let signature = self
            .partuuid(device, &dir)
            .and_then(|text| Signature::of_partuuid(&text))
            .or_else(|| self.gpt_signature(disk, block, number, start));
        let signature = signature.ok_or_else(|| {
            format!(
                "the identity (PARTUUID) of block device {device} is unknown: the kernel and udev \
                 don't say, and its disk has no GPT"
            )
        })?;
        Ok(Partition { number, start, size, signature })
    }

    /// By the kernel's word, or udev's.
    fn partuuid(&self, device: &str, dir: &Path) -> Option<String> {
        let value = |text: String, key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)).map(str::to_owned)
        };
        let kernel = fs::read_to_string(dir.join("uevent")).ok();
        kernel.and_then(|text| value(text, "PARTUUID=")).or_else(|| {
            let udev = self.read_small(&format!("/run/udev/data/b{device}")).ok()?;
            value(udev, "E:ID_PART_ENTRY_UUID=")
        })
    }

    /// By the disk's own partition table.
    fn gpt_signature(&self, disk: &Path, block: u64, number: u32, start: u64) -> Option<Signature> {
        let name = disk.file_name()?.to_str()?;
        let mut file = fs::File::open(self.at(format!("/dev/{name}"))).ok()?;
        let mut read = |at: u64| -> Option<[u8; 128]> {
            let mut bytes = [0; 128];
            file.seek(SeekFrom::Start(at)).ok()?;
            file.read_exact(&mut bytes).ok()?;
            Some(bytes)
        };
        let header = read(block)?;
        if !header.starts_with(GPT_MAGIC) {
            return None;
        }
        let u64_at = |bytes: &[u8], at: usize| -> Option<u64> {
            bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
        };
        let entries = u64_at(&header, 72)?.checked_mul(block)?;
        let size = u64::from(u32::from_le_bytes(*header.get(84..)?.first_chunk()?));
        let entry = read(entries.checked_add(u64::from(number.checked_sub(1)?) * size)?)?;
        // The kernel's view of the disk and the table on it have to be of one opinion.
        let same = u64_at(&entry, 32)? == start;
        same.then_some(Signature::Gpt(*entry.get(16..)?.first_chunk()?))
    }

    /// The machine's memory, as the kernel was told of it; empty where it does not say. What was taken out of
    /// it for `pages` is memory, or there would seem to be less room at every boot.
    pub(super) fn memory(&self, pages: &[RetiredPage]) -> Vec<PfnRange> {
        // Linux Documentation/ABI/testing/sysfs-firmware-memmap: a directory for each range, its end included.
        const MAP: &str = "/sys/firmware/memmap";
        let Ok(entries) = fs::read_dir(self.at(MAP)) else { return Vec::new() };
        let region = |entry: io::Result<fs::DirEntry>| -> Option<(String, u64, u64)> {
            let dir = entry.ok()?.path();
            let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
            let number = |name: &str| {
                u64::from_str_radix(text(name)?.trim().trim_start_matches("0x"), 16).ok()
            };
            Some((text("type")?.trim().into(), number("start")?, number("end")?.checked_add(1)?))
        };
        let regions: Vec<_> = entries.filter_map(region).collect();
        let ram = regions.iter().filter(|(kind, ..)| kind == "System RAM");
        let whole_pages = ram.filter_map(|(_, start, end)| {
            let (start, end) = (start.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
            Some(PfnRange { start: Pfn(start), count: end.checked_sub(start)? })
        });
        let of = |pages| BadRange { pages, badness: Badness::default() };
        let mut memory: Vec<BadRange> = whole_pages.map(of).collect();
        let seen = union(&memory);
        let listed: BTreeSet<u64> = pages.iter().map(|page| page.pfn.0).collect();
        memory.extend(seen.windows(2).filter_map(|pair| {
            let [before, after] = pair else { return None };
            let (first, end) = (before.start.0.checked_add(before.count)?, after.start.0);
            // GRUB leaves a hole (BIOS) or unusable memory (UEFI). What is taken out begins and ends with
            // listed pages.
            let is_ours = listed.contains(&first) && listed.contains(&end.checked_sub(1)?);
            let is_others = regions.iter().any(|(kind, start, stop)| {
                !matches!(kind.as_str(), "System RAM" | "Unusable memory")
                    && *start < end.saturating_mul(PAGE_SIZE)
                    && *stop > first.saturating_mul(PAGE_SIZE)
            });
            let pages = PfnRange { start: Pfn(first), count: end - first };
            (is_ours && !is_others).then_some(of(pages))
        }));
        union(&memory)
    }

    /// Parameters the running kernel was started with.
    pub(super) fn kernel_line(&self) -> String {
        self.read_small("/proc/cmdline").unwrap_or_default().trim().into()
    }
}

/// A line of `mountinfo`: see proc(5).
fn mount(line: &str) -> Option<Mount> {
    let (mount, source) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (device, _root, point, options) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let mut source = source.split(' ');
    let (kind, options_of_all) = (source.next()?, source.nth(1).unwrap_or(""));
    let read_only =
        [options, options_of_all].iter().any(|options| options.split(',').any(|word| word == "ro"));
    let point = point.replace("\\040", " ");
    Some(Mount { device: device.into(), point, kind: kind.into(), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let line = "31 1 8:1 / /boot/a\\040b rw,relatime shared:5 - vfat /dev/sda1 ro,umask=0077";
        let Mount { device, point, kind, read_only } = mount(line).unwrap();
        assert_eq!((&*device, &*point, &*kind, read_only), ("8:1", "/boot/a b", "vfat", true));
        assert!(!mount("1 0 8:2 / / rw - ext4 /dev/sda2 rw,errors=remount-ro").unwrap().read_only);
        assert!(mount("").is_none() && mount("1 2 3 - ").is_none());
    }

    #[test]
    fn a_partition_is_known_by_its_disk_where_nobody_says_more() {
        let temp = tempfile::tempdir().unwrap();
        let host = Host::new(temp.path());
        let put = |path: &str, bytes: &[u8]| {
            let path = host.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        for (file, text) in [
            ("partition", "2\n"),
            ("start", "16384\n"),
            ("size", "80000\n"),
            ("uevent", "DEVTYPE=partition\n"),
            ("../queue/logical_block_size", "4096\n"),
        ] {
            fs::create_dir_all(host.at("/sys/devices/sda/sda2")).unwrap();
            fs::create_dir_all(host.at("/sys/devices/sda/queue")).unwrap();
            put(&format!("/sys/devices/sda/sda2/{file}"), text.as_bytes());
        }
        fs::create_dir_all(host.at("/sys/dev/block")).unwrap();
        std::os::unix::fs::symlink("../../devices/sda/sda2", host.at("/sys/dev/block/8:2"))
            .unwrap();
        let esp = Esp {
            dir: host.at("/efi"),
            mounted: "/efi".into(),
            device: "8:2".into(),
            read_only: false,
        };
        let mut disk = vec![0; 4096 * 4];
        disk[4096..4104].copy_from_slice(GPT_MAGIC);
        disk[4096 + 72] = 2;
        disk[4096 + 84] = 128;
        let entry = 8192 + 128;
        disk[entry + 16..entry + 32].copy_from_slice(&[9; 16]);
        disk[entry + 32..entry + 34].copy_from_slice(&2048_u16.to_le_bytes());
        put("/dev/sda", &disk);
        let known =
            Partition { number: 2, start: 2048, size: 10_000, signature: Signature::Gpt([9; 16]) };
        assert_eq!(host.partition(&esp), Ok(known));
        // Another start: the table is of another disk.
        disk[entry + 32] = 1;
        put("/dev/sda", &disk);
        assert!(host.partition(&esp).unwrap_err().contains("PARTUUID"));
        put("/run/udev/data/b8:2", b"E:ID_PART_ENTRY_UUID=be1afdfa-02\n");
        assert_eq!(host.partition(&esp).unwrap().signature, Signature::Mbr(0xbe1a_fdfa));
        fs::remove_file(host.at("/sys/devices/sda/sda2/partition")).unwrap();
        assert!(host.partition(&esp).unwrap_err().contains("no partition of a disk"));
    }
}
