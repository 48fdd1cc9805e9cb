//! The kernel's memory map: what it may hand out, and what was taken out of its sight before.
//!
//! Two views. `/sys/firmware/memmap` is what the firmware (and whatever ran before the kernel) handed
//! over; Linux `Documentation/ABI/testing/sysfs-firmware-memmap`. `/proc/iomem` is what the kernel made
//! of it, the command line's `memmap=` included; without CAP_SYS_ADMIN its addresses are zeros.

use std::fs;
use std::path::Path;

use ras_core::Pfn;

/// What both views call memory that programs may get.
const SYSTEM_RAM: &str = "System RAM";

/// What they call memory of EFI's type `EfiUnusableMemory`; `/proc/iomem` says "Unusable memory".
const UNUSABLE: &str = "unusable memory";

/// Entries read of either view, at most. The kernel itself keeps 3,200 of the firmware's map.
const ENTRIES_MAX: usize = 65_536;

/// What is known of the map; `None` of a view that is not to be had.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryMap {
    firmware: Option<Vec<Region>>,
    kernel: Option<Vec<Region>>,
}

/// Whether programs can get a page on this boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The kernel has it and may hand it out.
    InUse,
    /// Memory was here once, but this kernel does not have it: by what.
    Excluded {
        /// In words: `unusable memory`, or `reserved` with who did it.
        by: String,
    },
    /// Neither view knows of memory at this address.
    NoMemory,
    /// No view is to be had.
    Unknown,
}

/// An entry of a map. Both ends belong to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Region {
    start: u64,
    end: u64,
    name: String,
}

impl MemoryMap {
    /// Reads both views; `notes` gets why one is missing.
    #[must_use]
    pub fn read(sysfs: &Path, proc: &Path, notes: &mut Vec<String>) -> Self {
        let mut keep = |view: Result<Vec<Region>, String>| view.map_err(|why| notes.push(why)).ok();
        Self {
            firmware: keep(firmware(&sysfs.join("firmware/memmap"))),
            kernel: keep(kernel(&proc.join("iomem"))),
        }
    }

    /// Where the page stands. The kernel's view counts; the firmware's says who took the page away.
    #[must_use]
    pub fn standing(&self, page: Pfn) -> Standing {
        let name_in = |view| names(view, page);
        let firmware = self.firmware.as_deref().map(name_in);
        let kernel = self.kernel.as_deref().map(name_in);
        let is_ram = |name: &Option<&str>| *name == Some(SYSTEM_RAM);
        let seen = match (&kernel, &firmware) {
            (Some(seen), _) | (None, Some(seen)) => seen,
            (None, None) => return Standing::Unknown,
        };
        if is_ram(seen) {
            return Standing::InUse;
        }
        let name = seen.map(str::to_lowercase);
        match (name, firmware.flatten()) {
            (Some(name), _) if name == UNUSABLE => Standing::Excluded { by: name },
            (_, Some(by)) if by.eq_ignore_ascii_case(UNUSABLE) => {
                Standing::Excluded { by: by.to_lowercase() }
            }
            (name, Some(SYSTEM_RAM)) => {
                let name = name.unwrap_or_else(|| "left out".into());
                Standing::Excluded { by: format!("{name}, by the kernel's command line") }
            }
            (_, Some(by)) => {
                Standing::Excluded { by: format!("{}, by the firmware", by.to_lowercase()) }
            }
            // The kernel names devices, too, where the firmware has no entry.
            (_, None) if self.firmware.is_some() => Standing::NoMemory,
            (Some(name), None) => Standing::Excluded { by: name },
            (None, None) => Standing::NoMemory,
        }
    }

    /// Whether at least one view is there.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.firmware.is_some() || self.kernel.is_some()
    }
}

/// The name of the entry all of the page lies in; of one it touches, where its parts have different
/// ones, but then not RAM: the kernel hands out whole pages only. `regions` are sorted and disjoint.
fn names(regions: &[Region], page: Pfn) -> Option<&str> {
    let (start, end) = (page.addr().0, page.addr().0 | 0xfff);
    let first = regions.partition_point(|region| region.end < start);
    let mut touched = regions.get(first..)?.iter().take_while(|region| region.start <= end);
    let region = touched.next()?;
    if region.start <= start && end <= region.end {
        return Some(&region.name);
    }
    [region]
        .into_iter()
        .chain(touched)
        .map(|region| region.name.as_str())
        .find(|n| *n != SYSTEM_RAM)
}

/// The firmware's view.
fn firmware(dir: &Path) -> Result<Vec<Region>, String> {
    let missing = |error: &dyn std::fmt::Display| {
        format!("the firmware's memory map {} can't be read: {error}", dir.display())
    };
    let mut regions = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| missing(&error))?.take(ENTRIES_MAX) {
        let entry = entry.map_err(|error| missing(&error))?.path();
        let text =
            |name: &str| fs::read_to_string(entry.join(name)).map_err(|error| missing(&error));
        let number = |name: &str| {
            let text = text(name)?;
            let digits = text.trim().trim_start_matches("0x");
            u64::from_str_radix(digits, 16).map_err(|error| missing(&error))
        };
        let (start, end, name) =
            (number("start")?, number("end")?, text("type")?.trim().to_owned());
        regions.push(Region { start, end, name });
    }
    if regions.is_empty() {
        return Err(missing(&"it is empty"));
    }
    regions.sort();
    Ok(regions)
}

/// The kernel's view: its outermost entries.
fn kernel(path: &Path) -> Result<Vec<Region>, String> {
    let missing = |why: &dyn std::fmt::Display| {
        format!("the kernel's memory map {} can't be read: {why}", path.display())
    };
    let text = fs::read_to_string(path).map_err(|error| missing(&error))?;
    let outermost = text.lines().filter(|line| !line.starts_with(' ')).take(ENTRIES_MAX);
    let mut regions: Vec<Region> = outermost.filter_map(region).collect();
    if regions.iter().all(|region| region.end == 0) {
        return Err(missing(&"it shows no addresses, as to anybody without CAP_SYS_ADMIN"));
    }
    regions.sort();
    Ok(regions)
}

/// `START-END : NAME`, in hexadecimal digits.
fn region(line: &str) -> Option<Region> {
    let (range, name) = line.split_once(" : ")?;
    let (start, end) = range.trim().split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Region { start: number(start)?, end: number(end)?, name: name.trim().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
  000f0000-000fffff : System ROM
00100000-12344fff : System RAM
  01000000-01ffffff : Kernel code
12345000-12345fff : Unusable memory
12346000-3fff6fff : System RAM
3fff7000-3fff7fff : Reserved
3fff8000-3fffffff : System RAM
80000000-bfffffff : PCI Bus 0000:00
100000000-13fffffff : System RAM
";

    const FIRMWARE: [(&str, &str, &str); 6] = [
        ("0x0", "0x9fbff", "System RAM"),
        ("0x9fc00", "0xfffff", "Reserved"),
        ("0x100000", "0x12344fff", "System RAM"),
        ("0x12345000", "0x12345fff", "Unusable memory"),
        ("0x12346000", "0x3fffffff", "System RAM"),
        ("0x100000000", "0x13fffffff", "System RAM"),
    ];

    fn host(iomem: Option<&str>, firmware: bool) -> (MemoryMap, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let (sysfs, proc) = (root.path().join("sys"), root.path().join("proc"));
        fs::create_dir_all(&proc).unwrap();
        if let Some(text) = iomem {
            fs::write(proc.join("iomem"), text).unwrap();
        }
        for (index, (start, end, kind)) in FIRMWARE.iter().enumerate().filter(|_| firmware) {
            let dir = sysfs.join(format!("firmware/memmap/{index}"));
            fs::create_dir_all(&dir).unwrap();
            for (name, text) in [("start", start), ("end", end), ("type", kind)] {
                fs::write(dir.join(name), format!("{text}\n")).unwrap();
            }
        }
        let mut notes = Vec::new();
        let map = MemoryMap::read(&sysfs, &proc, &mut notes);
        (map, notes)
    }

    fn excluded(by: &str) -> Standing {
        Standing::Excluded { by: by.into() }
    }

    #[test]
    fn a_page_is_in_use_excluded_or_not_there() {
        let (map, notes) = host(Some(IOMEM), true);
        assert_eq!(notes, [""; 0]);
        let standing = |address: u64| map.standing(Pfn(address >> 12));
        assert_eq!(standing(0x12344000), Standing::InUse);
        assert_eq!(standing(0x12345000), excluded("unusable memory"));
        assert_eq!(standing(0x12346000), Standing::InUse);
        assert_eq!(standing(0x3fff7000), excluded("reserved, by the kernel's command line"));
        assert_eq!(standing(0xf0000), excluded("reserved, by the firmware"));
        assert_eq!(standing(0x9f000), excluded("reserved, by the firmware"), "not a whole page");
        assert_eq!(standing(0x13ffff000), Standing::InUse, "the last page");
        assert_eq!(standing(0x140000000), Standing::NoMemory);
        assert_eq!(standing(0x80000000), Standing::NoMemory, "a device");
        assert_eq!(map.standing(Pfn(u64::MAX >> 12)), Standing::NoMemory);
    }

    #[test]
    fn one_view_is_enough_and_none_is_unknown() {
        let (map, notes) = host(None, true);
        assert!(notes.len() == 1 && notes[0].contains("iomem"), "{notes:?}");
        assert_eq!(map.standing(Pfn(0x12345)), excluded("unusable memory"));
        assert_eq!(map.standing(Pfn(0x3fff7)), Standing::InUse);

        let (map, notes) = host(Some(IOMEM), false);
        assert!(notes.len() == 1 && notes[0].contains("firmware/memmap"), "{notes:?}");
        assert_eq!(map.standing(Pfn(0x12345)), excluded("unusable memory"));
        assert_eq!(map.standing(Pfn(0x3fff7)), excluded("reserved"));
        assert_eq!(map.standing(Pfn(0x140000)), Standing::NoMemory);

        let hidden = "00000000-00000000 : System RAM\n00000000-00000000 : Reserved\n";
        let (map, notes) = host(Some(hidden), false);
        assert!(notes.iter().any(|note| note.contains("CAP_SYS_ADMIN")), "{notes:?}");
        assert!(!map.is_known());
        assert_eq!(map.standing(Pfn(0x12345)), Standing::Unknown);
    }

    #[test]
    fn garbage_is_no_map() {
        for text in ["", "zz-yy : x\n", "1-2\n", "\0\0\0", " : \n-: : \n"] {
            let (map, _) = host(Some(text), false);
            assert_eq!(map.standing(Pfn(1)), Standing::Unknown, "{text:?}");
        }
    }
}
