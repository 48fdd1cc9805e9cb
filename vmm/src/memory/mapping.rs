//! Guest RAM as this process maps it, and the only way to touch it: calls that fail where a page is
//! poisoned instead of killing the process.
//!
//! Each region is a memfd of 4 KiB pages, mapped shared. Reads and writes go through
//! `process_vm_readv` and `process_vm_writev` on ourselves: the kernel does the copy, and answers
//! `EFAULT` for a poisoned page without raising a signal. A plain load would raise SIGBUS, and a
//! `pread` of the memfd would not notice a page that is poisoned in this process only
//! (`UFFDIO_POISON` lives in the page table, not in the file).
//!
//! **Invariant:** no reference or slice into guest memory ever exists. The guest and the kernel
//! change it at any time.

// UNSAFETY: maps and unmaps guest memory, and gives its pages back to the kernel.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc::{self, c_void};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{Pid, Whence, ftruncate, lseek};
use ras_core::{Gpa, PAGE_SIZE, Pfn};

use super::replace::Spares;
use super::userfaultfd::Userfaultfd;
use crate::lock;

/// What to map: one range of guest physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionConfig {
    /// First byte, 4 KiB aligned.
    pub gpa: Gpa,
    /// Length in bytes, a multiple of 4 KiB, not 0.
    pub size: u64,
    /// What the guest sees there.
    pub kind: RegionKind,
}

/// What the guest sees in a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RegionKind {
    /// Memory that is there from the start and stays.
    Ram,
    /// The range of a virtio-mem device: plugged and unplugged in blocks.
    VirtioMem,
}

/// Why guest memory could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// A region is empty, not page aligned, or runs past the end of the address space.
    #[error("region {gpa} of {size} bytes is empty, not 4 KiB aligned or too large")]
    Shape {
        /// Its first byte.
        gpa: Gpa,
        /// Its length.
        size: u64,
    },
    /// Two regions share addresses.
    #[error("regions at {0} and {1} overlap")]
    Overlap(Gpa, Gpa),
    /// The address range is not wholly inside one region, or not page aligned.
    #[error("{len} bytes at {gpa} are not whole pages of one region of guest memory")]
    OutOfRange {
        /// First byte.
        gpa: Gpa,
        /// Length.
        len: u64,
    },
    /// The kernel refused.
    #[error("{doing} {gpa}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// Where.
        gpa: Gpa,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// This process can't mark pages as poisoned.
    #[error("pages can't be marked as poisoned here: {0}")]
    PoisonUnsupported(String),
}

/// Why guest memory could not be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RamError {
    /// Part of the range is not guest memory. Nothing was transferred.
    #[error("the range is not guest memory")]
    OutOfRange,
    /// The page at this address (4 KiB aligned) is poisoned; bytes before it may have been
    /// transferred. Also the answer where the kernel had no memory left for the page.
    #[error("guest page {0} is poisoned")]
    Poisoned(Gpa),
}

/// The frames before and after [`GuestRam::replace`], where this process may know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replaced {
    pub(crate) before: Option<Pfn>,
    pub(crate) after: Option<Pfn>,
}

/// Why a page keeps its frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplaceError {
    /// Its contents can't be read.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// No memory for another frame, or none left that may be replaced.
    #[error("no other frame is to be had")]
    NoSpare(#[from] io::Error),
    /// The kernel would not map it.
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

/// A mapped region.
#[derive(Debug)]
pub struct Region {
    gpa: Gpa,
    size: u64,
    kind: RegionKind,
    base: NonNull<c_void>,
    memfd: File,
    /// Pages this process wrote while logging was on, one bit each.
    dirty: Box<[AtomicU64]>,
}

/// All of a guest's memory, ascending by address. Shared by every thread of the VMM.
#[derive(Debug)]
pub struct GuestRam {
    regions: Box<[Region]>,
    logging: AtomicBool,
    pagemap: Option<File>,
    /// Frames that took the place of failing ones.
    spares: Mutex<Spares>,
    userfaultfd: OnceLock<Result<Userfaultfd, String>>,
}

/// The dirty pages of one region: its first byte, and one bit per page from there, as
/// `KVM_GET_DIRTY_LOG` returns them.
pub type DirtyBitmap = (Gpa, Vec<u64>);

impl GuestRam {
    /// Creates and maps fresh, zeroed memory.
    ///
    /// # Errors
    /// A region that is misshapen or overlaps another; the kernel's refusal.
    pub fn new(configs: &[RegionConfig]) -> Result<Self, MappingError> {
        let mut configs = configs.to_vec();
        configs.sort_by_key(|config| config.gpa);
        for pair in configs.windows(2) {
            if pair[0].gpa.0.saturating_add(pair[0].size) > pair[1].gpa.0 {
                return Err(MappingError::Overlap(pair[0].gpa, pair[1].gpa));
            }
        }
        Ok(Self {
            regions: configs.iter().map(Region::new).collect::<Result<_, _>>()?,
            logging: AtomicBool::new(false),
            // Opened now: whether frame numbers are shown is decided by the privileges at open.
            pagemap: File::open("/proc/self/pagemap").ok(),
            spares: Mutex::default(),
            userfaultfd: OnceLock::new(),
        })
    }

    /// The regions, ascending by address.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The guest physical address mapped at `hva`. Async-signal-safe.
    #[must_use]
    pub fn gpa_of_hva(&self, hva: usize) -> Option<Gpa> {
        self.regions.iter().find_map(|region| {
            let offset = hva.checked_sub(region.hva())? as u64;
            (offset < region.size).then(|| Gpa(region.gpa.0 + offset))
        })
    }

    /// Where `len` bytes at `gpa` are mapped; `None` unless they lie in one region. The address is
    /// for system calls and KVM, never for loads and stores.
    #[must_use]
    pub fn hva_of(&self, gpa: Gpa, len: u64) -> Option<usize> {
        let (region, offset) = self.locate(gpa, len)?;
        Some(region.hva() + bytes(offset))
    }

    /// Copies guest memory to `buffer`. Not atomic, whatever the length: a guest that writes at the
    /// same time may be seen half way.
    ///
    /// # Errors
    /// [`RamError`]; on [`RamError::Poisoned`] the bytes before that page are in `buffer`.
    pub fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), RamError> {
        self.transfer(gpa, buffer.len(), |done, pages| {
            process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut buffer[done..])], pages)
        })
    }

    /// Copies `data` to guest memory, and notes the pages while dirty logging is on. Not atomic.
    ///
    /// # Errors
    /// [`RamError`]; on [`RamError::Poisoned`] the bytes before that page were written.
    pub fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), RamError> {
        let result = self.transfer(gpa, data.len(), |done, pages| {
            process_vm_writev(Pid::this(), &[IoSlice::new(&data[done..])], pages)
        });
        if result != Err(RamError::OutOfRange) {
            self.mark_dirty(gpa, data.len() as u64);
        }
        result
    }

    /// Whether the page that holds `gpa` can't be read. Addresses outside guest memory can't be
    /// poisoned. A page that was never touched is allocated by the probe.
    #[must_use]
    pub fn probe(&self, gpa: Gpa) -> bool {
        matches!(self.read(gpa, &mut [0]), Err(RamError::Poisoned(_)))
    }

    /// Gives whole pages back to the host: they read as zeroes afterwards. Poisoned pages become
    /// usable again, so the guest must have given them up first. Frames that [`Self::replace`] took
    /// out of use stay so.
    ///
    /// # Errors
    /// A range that is not whole pages of one region; the kernel's refusal.
    pub fn discard(&self, gpa: Gpa, len: u64) -> Result<(), MappingError> {
        let (region, _) = self.locate_pages(gpa, len)?;
        let spares = lock(&self.spares);
        let mut from = gpa;
        for page in spares.within(gpa, len) {
            self.punch(region, from, page.0 - from.0)?;
            let doing = kernel("punching a hole in the spare page of", page);
            spares.empty(page).map_err(doing)?;
            region
                .drop_translations(page.0 - region.gpa.0, PAGE_SIZE)
                .map_err(kernel("dropping the translation of", page))?;
            from = Gpa(page.0 + PAGE_SIZE);
        }
        self.punch(region, from, gpa.0 + len - from.0)?;
        self.mark_dirty(gpa, len);
        Ok(())
    }

    /// [`Self::discard`] from one page up to another; nothing if there is nothing between them.
    pub(crate) fn discard_run(&self, from: Gpa, to: Gpa) -> Result<(), MappingError> {
        if from < to { self.discard(from, to.0 - from.0) } else { Ok(()) }
    }

    fn punch(&self, region: &Region, gpa: Gpa, len: u64) -> Result<(), MappingError> {
        if len == 0 {
            return Ok(());
        }
        let offset = gpa.0 - region.gpa.0;
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Both are needed: punching frees the frames but leaves poison markers in the page table,
        // and dropping the translations leaves the frames in the file.
        fallocate(&region.memfd, mode, file_offset(offset), file_offset(len))
            .map_err(kernel("punching a hole at", gpa))?;
        region.drop_translations(offset, len).map_err(kernel("dropping the translation of", gpa))
    }

    /// Moves the contents of the page of `gpa` to another frame, which takes its place. Who uses the
    /// page notices nothing; the old frame stays allocated to the region's memfd, out of everybody's
    /// reach. Nobody may write the page meanwhile: the guest stands still.
    ///
    /// # Errors
    /// [`ReplaceError`]; the page is then as it was.
    pub(crate) fn replace(&self, gpa: Gpa) -> Result<Replaced, ReplaceError> {
        let gpa = gpa.page();
        self.locate_pages(gpa, PAGE_SIZE)?;
        let mut content = [0; bytes(PAGE_SIZE)];
        self.read(gpa, &mut content)?;
        let before = self.pfn_of(gpa);
        self.exchange(gpa, &content)?;
        Ok(Replaced { before, after: self.pfn_of(gpa) })
    }

    /// Gives the page of `gpa` a fresh frame, full of zeroes, whatever became of its own, which stays
    /// out of everybody's reach like that of a page that was replaced. Only for a guest that starts
    /// anew.
    ///
    /// # Errors
    /// [`ReplaceError`]; the page is then as it was.
    pub(crate) fn renew(&self, gpa: Gpa) -> Result<(), ReplaceError> {
        self.exchange(gpa.page(), &[0; bytes(PAGE_SIZE)])
    }

    /// Maps a frame with `content` over the page at `gpa`.
    fn exchange(&self, gpa: Gpa, content: &[u8]) -> Result<(), ReplaceError> {
        let (region, offset) = self.locate_pages(gpa, PAGE_SIZE)?;
        let mut spares = lock(&self.spares);
        let (file, spare) = spares.fill(content)?;
        region.cover(offset, file, spare).map_err(kernel("mapping another frame at", gpa))?;
        spares.took(gpa, spare);
        drop(spares);
        // Whoever reads the memfd and not the mapping for a migration has seen the old frame.
        self.mark_dirty(gpa, PAGE_SIZE);
        Ok(())
    }

    /// The host frame behind the page of `gpa`; `None` where it is not present, or where this
    /// process may not know (`CAP_SYS_ADMIN`; Linux Documentation/admin-guide/mm/pagemap.rst).
    #[must_use]
    pub fn pfn_of(&self, gpa: Gpa) -> Option<Pfn> {
        const PRESENT: u64 = 1 << 63;
        const PFN: u64 = (1 << 55) - 1;
        let hva = self.hva_of(gpa.page(), PAGE_SIZE)? as u64;
        let mut entry = [0; 8];
        self.pagemap.as_ref()?.read_exact_at(&mut entry, hva / PAGE_SIZE * 8).ok()?;
        let entry = u64::from_ne_bytes(entry);
        (entry & PRESENT != 0 && entry & PFN != 0).then_some(Pfn(entry & PFN))
    }

    /// Makes the page of `gpa` fail every access by the guest, the kernel and this process, as a
    /// frame with an uncorrectable error does. Returns the frame it had just before. The frame stays
    /// allocated to the region's memfd, out of everybody's reach, until [`Self::discard`].
    ///
    /// Poisoning a poisoned page is fine and returns `None`.
    ///
    /// # Errors
    /// Not guest memory; no `UFFDIO_POISON` here ([`Self::poison_support`]); the kernel's refusal.
    pub fn poison(&self, gpa: Gpa) -> Result<Option<Pfn>, MappingError> {
        let gpa = gpa.page();
        let (region, offset) = self.locate_pages(gpa, PAGE_SIZE)?;
        let userfaultfd = self.userfaultfd()?;
        if self.probe(gpa) {
            // Marking it again would lift the old marker for an instant.
            return Ok(None);
        }
        let pfn = self.pfn_of(gpa);
        userfaultfd
            .poison(region.hva() + bytes(offset), || {
                region.drop_translations(offset, PAGE_SIZE).map_err(io::Error::from)
            })
            .map_err(|source| MappingError::Kernel { doing: "poisoning page", gpa, source })?;
        Ok(pfn)
    }

    /// Whether [`Self::poison`] can work here.
    ///
    /// # Errors
    /// Why it can't: an older kernel, or no permission to use userfaultfd.
    pub fn poison_support(&self) -> Result<(), MappingError> {
        self.userfaultfd().map(|_| ())
    }

    /// Starts noting the pages this process writes. KVM's dirty log sees what the guest writes; it
    /// can't see what devices write from userspace.
    pub fn dirty_log_start(&self) {
        let _ = self.take_dirty();
        self.logging.store(true, Ordering::Relaxed);
        // Pairs with the fence in `mark_dirty`: either the writer sees that logging is on, or
        // whoever reads pages after this call sees what it wrote.
        fence(Ordering::SeqCst);
    }

    /// Stops noting writes.
    pub fn dirty_log_stop(&self) {
        self.logging.store(false, Ordering::Relaxed);
    }

    /// Returns and clears the notes. Take them before reading the pages, or a write may be missed.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<DirtyBitmap> {
        let take = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            0 => 0,
            _ => word.swap(0, Ordering::AcqRel),
        };
        self.regions
            .iter()
            .map(|region| (region.gpa, region.dirty.iter().map(take).collect()))
            .collect()
    }

    /// Notes `len` bytes at `gpa` as changed, for writers that don't come through [`Self::write`].
    /// Call it after the change. Anything outside guest memory is ignored.
    pub fn mark_dirty(&self, gpa: Gpa, len: u64) {
        fence(Ordering::SeqCst);
        if len == 0 || !self.logging.load(Ordering::Relaxed) {
            return;
        }
        if let Some((region, offset)) = self.locate(gpa, len) {
            for page in offset / PAGE_SIZE..=(offset + len - 1) / PAGE_SIZE {
                region.dirty[bytes(page / 64)].fetch_or(1 << (page % 64), Ordering::AcqRel);
            }
        }
    }

    /// The parts of `len` bytes at `gpa` that have frames, ascending. All else reads as zeroes, and
    /// reading it would allocate it. Empty if the range is not whole pages of one region.
    #[must_use]
    pub fn allocated(&self, gpa: Gpa, len: u64) -> Vec<(Gpa, u64)> {
        let Ok((region, start)) = self.locate_pages(gpa, len) else { return Vec::new() };
        let end = start + len;
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            // ENXIO: no data from here to the end of the file.
            let Ok(data) = lseek(&region.memfd, file_offset(at), Whence::SeekData) else { break };
            let data = u64::try_from(data).unwrap_or(end);
            if data >= end {
                break;
            }
            let hole = lseek(&region.memfd, file_offset(data), Whence::SeekHole)
                .ok()
                .and_then(|hole| u64::try_from(hole).ok())
                .map_or(end, |hole| hole.min(end));
            found.push((Gpa(region.gpa.0 + data), hole - data));
            at = hole;
        }
        found
    }

    /// The region that holds `len` bytes at `gpa`.
    pub(super) fn region_of(&self, gpa: Gpa, len: u64) -> Option<&Region> {
        self.locate(gpa, len).map(|(region, _)| region)
    }

    /// The region and offset of `len` bytes at `gpa`, if they lie in one region.
    fn locate(&self, gpa: Gpa, len: u64) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|region| {
            let offset = gpa.0.checked_sub(region.gpa.0)?;
            let end = offset.checked_add(len)?;
            (offset < region.size && end <= region.size).then_some((region, offset))
        })
    }

    fn locate_pages(&self, gpa: Gpa, len: u64) -> Result<(&Region, u64), MappingError> {
        self.locate(gpa, len)
            .filter(|_| gpa.0.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE) && len > 0)
            .ok_or(MappingError::OutOfRange { gpa, len })
    }

    /// Moves `len` bytes page by page, so that the answer names the page that failed.
    fn transfer(
        &self,
        gpa: Gpa,
        len: usize,
        mut copy: impl FnMut(usize, &[RemoteIoVec]) -> nix::Result<usize>,
    ) -> Result<(), RamError> {
        /// Pages per system call; the kernel's `UIO_MAXIOV` is 1024.
        const PAGES_MAX: usize = 64;
        let mut hva = self.hva_of(gpa, len as u64).ok_or(RamError::OutOfRange)?;
        let page_size = bytes(PAGE_SIZE);
        let end = hva + len;
        let mut done = 0;
        while hva < end {
            let mut pages = [RemoteIoVec { base: 0, len: 0 }; PAGES_MAX];
            let mut used = 0;
            let mut at = hva;
            while at < end && used < PAGES_MAX {
                let next = ((at / page_size + 1) * page_size).min(end);
                pages[used] = RemoteIoVec { base: at, len: next - at };
                used += 1;
                at = next;
            }
            // A short count ends at the page that failed; asking again from there gives EFAULT.
            let copied = copy(done, &pages[..used]).unwrap_or(0);
            if copied == 0 {
                return Err(RamError::Poisoned(Gpa(gpa.0 + done as u64).page()));
            }
            done += copied;
            hva += copied;
        }
        Ok(())
    }

    fn userfaultfd(&self) -> Result<&Userfaultfd, MappingError> {
        self.userfaultfd
            .get_or_init(|| Userfaultfd::open().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|why| MappingError::PoisonUnsupported(why.clone()))
    }
}

impl Region {
    fn new(config: &RegionConfig) -> Result<Self, MappingError> {
        let &RegionConfig { gpa, size, kind } = config;
        let whole = gpa.0.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        let fits = gpa.0.checked_add(size).is_some() && i64::try_from(size).is_ok();
        let length = NonZeroUsize::new(bytes(size))
            .filter(|_| whole && fits)
            .ok_or(MappingError::Shape { gpa, size })?;

        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memfd = memfd_create(c"guest-ram", flags)
            .map(File::from)
            .map_err(kernel("creating memory for", gpa))?;
        ftruncate(&memfd, file_offset(size)).map_err(kernel("sizing memory for", gpa))?;
        // Whoever is handed the descriptor can't pull pages from under the mapping by truncation.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).map_err(kernel("sealing memory for", gpa))?;

        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { mmap(None, length, prot, flags, &memfd, 0) }
            .map_err(kernel("mapping memory for", gpa))?;
        let words = bytes((size / PAGE_SIZE).div_ceil(64));
        let dirty = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { gpa, size, kind, base, memfd, dirty })
    }

    /// First byte, as the guest sees it.
    #[must_use]
    pub const fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Length in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What the guest sees here.
    #[must_use]
    pub const fn kind(&self) -> RegionKind {
        self.kind
    }

    /// Where this process maps it. For system calls and KVM, never for loads and stores.
    #[must_use]
    pub fn hva(&self) -> usize {
        self.base.addr().get()
    }

    /// The memory itself. Accesses through it don't notice pages poisoned by [`GuestRam::poison`].
    #[must_use]
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Maps a page of another file over the one at `offset`.
    fn cover(&self, offset: u64, file: &File, at: u64) -> nix::Result<()> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_POPULATE;
        let length = const { NonZeroUsize::new(bytes(PAGE_SIZE)).unwrap() };
        let address = NonZeroUsize::new(self.hva() + bytes(offset)).ok_or(Errno::EFAULT)?;
        // SAFETY: the page is inside this mapping, and no reference into guest memory exists. KVM
        // learns of the change from the kernel.
        let covered = unsafe { mmap(Some(address), length, prot, flags, file, file_offset(at)) };
        if covered.is_err() {
            // The kernel may have unmapped the page before it found that it can't do the rest.
            // SAFETY: as above; it restores what was there.
            unsafe {
                mmap(Some(address), length, prot, flags, &self.memfd, file_offset(offset))?;
            }
        }
        covered.map(drop)
    }

    pub(super) const fn file(&self) -> &File {
        &self.memfd
    }

    /// `offset` and `len` are whole pages inside the region.
    fn drop_translations(&self, offset: u64, len: u64) -> nix::Result<()> {
        // SAFETY: the range is inside this mapping, which is shared with a file: the contents stay
        // where they are, and no reference into guest memory exists that could notice.
        unsafe {
            let start = self.base.byte_add(bytes(offset));
            madvise(start, bytes(len), MmapAdvise::MADV_DONTNEED)
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody can hold a pointer into it beyond
        // the region: the address is only handed out as a number.
        // Unmapping a whole mapping can't fail; if it did, only address space would be lost.
        let _ = unsafe { munmap(self.base, bytes(self.size)) };
    }
}

// SAFETY: the pointer is an address of process-wide memory that is only used in system calls, which
// any thread may make; everything else in a region is Send and Sync on its own.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

fn kernel(doing: &'static str, gpa: Gpa) -> impl FnOnce(Errno) -> MappingError {
    move |errno| MappingError::Kernel { doing, gpa, source: errno.into() }
}

/// A length or offset as the size type. KVM hosts that run this are 64-bit.
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, asserted here")]
pub(crate) const fn bytes(value: u64) -> usize {
    const { assert!(usize::BITS == 64) };
    value as usize
}

/// An offset that was checked against a region's size, which fits `off_t`.
fn file_offset(value: u64) -> libc::off_t {
    libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX)
}

#[cfg(test)]
mod tests;
