//! From a host page frame to a virtual address of a process, through `/proc/PID/pagemap`.
//!
//! Linux, `Documentation/admin-guide/mm/pagemap.rst`: one 64-bit entry a page. Bit 63 present, bits
//! 54:0 the frame; bit 62 swapped, bits 4:0 the swap type and bits 54:5 the swap offset.
//!
//! A page the kernel poisoned is no longer present: its entry is a swap entry of a type above those
//! of real swap areas, with the frame as its offset. `include/linux/swap.h` counts the special types
//! down from 32, and how many there are depends on the kernel's configuration: with all of them, real
//! areas have types 0 to 22. `SWP_HWPOISON` is the first special one (23 to 29), followed by the
//! migration and device types, whose offsets are frames as well. Type 31 is never used: on kernels
//! since 5.19 it is the marker type, whose offset is a set of flags.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ras_core::{PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange};

/// Entries read at once: 64 KiB, 32 MiB of the process.
const BATCH: usize = 8192;

/// Swap types whose offset is a page frame.
const FRAME_TYPES: RangeInclusive<u64> = 23..=30;

/// The page tables of one process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    path: PathBuf,
}

/// Why a process could not be searched.
#[derive(Debug, thiserror::Error)]
pub enum PagemapError {
    /// No such process, or no permission.
    #[error("reading {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The kernel shows page frames only to `CAP_SYS_ADMIN`.
    #[error("{} hides page frames: rasd needs CAP_SYS_ADMIN", path.display())]
    Hidden {
        /// The file.
        path: PathBuf,
    },
    /// The search took too long.
    #[error("{} was not searched to the end in time (guests.scan_ms)", path.display())]
    Deadline {
        /// The file.
        path: PathBuf,
    },
}

/// What one entry says about the frame behind a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    /// None, or one that says nothing about bad pages (real swap, a marker).
    None,
    /// This frame.
    At(Pfn),
    /// Present, but the kernel does not tell us where.
    Hidden,
}

impl Pagemap {
    /// Opens the page tables of process `pid`.
    ///
    /// # Errors
    /// No such process, or no permission.
    pub fn open(proc: &Path, pid: u32) -> Result<Self, PagemapError> {
        let path = proc.join(pid.to_string()).join("pagemap");
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(PagemapError::Io { path, source }),
        }
    }

    /// Calls `found` with the offset from `start`, in bytes, of every page in `start..start + size`
    /// that lies on one of `pages`. `start` is page aligned. Memory used: 64 KiB.
    ///
    /// # Errors
    /// See [`PagemapError`]; what was found before was reported.
    pub fn find(
        &self,
        start: u64,
        size: u64,
        pages: PfnRange,
        deadline: Instant,
        mut found: impl FnMut(u64),
    ) -> Result<(), PagemapError> {
        let (first, total) = (start >> PAGE_SHIFT, size >> PAGE_SHIFT);
        let mut bytes = vec![0; BATCH * 8];
        let mut done = 0;
        while done < total {
            if Instant::now() >= deadline {
                return Err(PagemapError::Deadline { path: self.path.clone() });
            }
            let wanted = usize::try_from(total - done).map_or(BATCH, |left| left.min(BATCH)) * 8;
            let count = self
                .file
                .read_at(&mut bytes[..wanted], (first + done) * 8)
                .map_err(|source| PagemapError::Io { path: self.path.clone(), source })?;
            // Beyond the end of the address space, or the process is gone.
            if count < 8 {
                return Ok(());
            }
            for entry in bytes[..count].as_chunks().0 {
                match frame(u64::from_ne_bytes(*entry)) {
                    Frame::At(pfn) if pages.contains(pfn) => found(done * PAGE_SIZE),
                    Frame::Hidden => return Err(PagemapError::Hidden { path: self.path.clone() }),
                    Frame::At(_) | Frame::None => {}
                }
                done += 1;
            }
        }
        Ok(())
    }
}

fn frame(entry: u64) -> Frame {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    let low = entry & ((1 << 55) - 1);
    if entry & PRESENT != 0 {
        // Frame 0 is the firmware's; a present page with frame 0 is one the kernel won't tell.
        return if low == 0 { Frame::Hidden } else { Frame::At(Pfn(low)) };
    }
    if entry & SWAPPED != 0 && FRAME_TYPES.contains(&(low & 0x1f)) {
        return Frame::At(Pfn(low >> 5));
    }
    Frame::None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn entries_mean_what_the_kernel_says() {
        assert_eq!(frame(0), Frame::None);
        assert_eq!(frame((1 << 63) | (1 << 61) | (1 << 55) | 0x1234), Frame::At(Pfn(0x1234)));
        assert_eq!(frame(1 << 63), Frame::Hidden);
        assert_eq!(frame((1 << 62) | (0x1234 << 5) | 23), Frame::At(Pfn(0x1234)), "poisoned");
        assert_eq!(frame((1 << 62) | (0x1234 << 5) | 29), Frame::At(Pfn(0x1234)), "older kernel");
        assert_eq!(frame((1 << 62) | (0x1234 << 5)), Frame::None, "the first real swap area");
        assert_eq!(frame((1 << 62) | (1 << 5) | 31), Frame::None, "a marker");
        assert_eq!(frame((1 << 61) | 0x1234), Frame::None, "neither present nor swapped");
    }

    /// A map of our own process would move under the test; a file in its place does not.
    fn fake(entries: &[u64]) -> (tempfile::TempDir, Pagemap) {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir(proc.path().join("7")).unwrap();
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
        std::fs::write(proc.path().join("7/pagemap"), bytes).unwrap();
        let pagemap = Pagemap::open(proc.path(), 7).unwrap();
        (proc, pagemap)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn pages_are_found_across_batches_and_outside_ones_are_not() {
        let mut entries = vec![(1 << 63) | 1; BATCH * 2 + 10];
        for page in [0, 3, BATCH, BATCH * 2 + 9] {
            entries[page] = (1 << 63) | 0x777;
        }
        let (_proc, pagemap) = fake(&entries);
        let find = |start: u64, count: u64| {
            let mut offsets = Vec::new();
            let pages = PfnRange { start: Pfn(0x770), count: 16 };
            pagemap
                .find(start * PAGE_SIZE, count * PAGE_SIZE, pages, soon(), |offset| {
                    offsets.push(offset / PAGE_SIZE);
                })
                .unwrap();
            offsets
        };
        let batch = BATCH as u64;
        assert_eq!(find(0, batch * 2 + 10), [0, 3, batch, batch * 2 + 9]);
        assert_eq!(find(1, batch), [2, batch - 1]);
        assert_eq!(find(4, 100), [0; 0]);
        assert_eq!(
            find(0, u64::MAX >> 16),
            [0, 3, batch, batch * 2 + 9],
            "ends where the map ends"
        );
    }

    #[test]
    fn a_search_that_takes_too_long_or_sees_nothing_says_so() {
        let (_proc, pagemap) = fake(&[1 << 63]);
        let pages = PfnRange::single(Pfn(1));
        let hidden = pagemap.find(0, PAGE_SIZE, pages, soon(), |_| {}).unwrap_err();
        assert!(hidden.to_string().contains("CAP_SYS_ADMIN"));
        let late = pagemap.find(0, PAGE_SIZE, pages, Instant::now(), |_| {}).unwrap_err();
        assert!(late.to_string().contains("scan_ms"));
        let error = Pagemap::open(Path::new("/proc"), u32::MAX).unwrap_err();
        assert!(error.to_string().contains("/proc/4294967295/pagemap"));
    }

    /// The real thing, on our own memory: each frame the kernel names is found where it is.
    #[test]
    fn our_own_memory_is_found() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to see page frames");
            return;
        }
        let memory: Vec<u8> = vec![0xa5; 64 * 4096];
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
        let pagemap = Pagemap::open(Path::new("/proc"), std::process::id()).unwrap();
        let mut entry = [0; 8];
        pagemap.file.read_exact_at(&mut entry, (start >> PAGE_SHIFT) * 8 + 17 * 8).unwrap();
        let Frame::At(pfn) = frame(u64::from_ne_bytes(entry)) else {
            panic!("a page that was just written is present");
        };
        let mut offsets = Vec::new();
        pagemap
            .find(start, 63 * PAGE_SIZE, PfnRange::single(pfn), soon(), |offset| {
                offsets.push(offset);
            })
            .unwrap();
        assert_eq!(offsets, [17 * PAGE_SIZE]);
        drop(memory);
    }
}
