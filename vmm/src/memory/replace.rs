//! Frames that took the place of failing ones: where they are, and how many there may be.
//!
//! ```text
//!   region's memfd   | page | page | FAILING, kept | page |        no frame of it is freed
//!   mapping          |   same      |   spare       | same |        what KVM and devices use
//!   spares' memfd                  | content copied |
//! ```
//! The failing frame is not given back: the host would hand it to somebody else before it is offlined.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use ras_core::{Gpa, PAGE_SIZE};

/// Pages of a guest that may be replaced. Each splits a mapping twice, and the kernel allows a process
/// 65,530 mappings by default (`vm.max_map_count`).
pub(super) const PAGES_MAX: u64 = 16_384;

/// See the module's picture.
#[derive(Debug, Default)]
pub(super) struct Spares {
    file: Option<File>,
    /// Offset of the spare page that a guest page has now.
    taken: BTreeMap<Gpa, u64>,
    /// Pages of the file.
    count: u64,
}

impl Spares {
    /// Puts `content` into a frame of its own: in which file, at which offset.
    pub(super) fn fill(&mut self, content: &[u8]) -> io::Result<(&File, u64)> {
        if self.count >= PAGES_MAX {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(memfd_create(c"guest-spares", MFdFlags::MFD_CLOEXEC)?.into()),
        };
        let offset = self.count * PAGE_SIZE;
        file.write_all_at(content, offset)?;
        self.count += 1;
        Ok((file, offset))
    }

    /// The page has this spare now. One that it had before holds a failing frame, and is kept too.
    pub(super) fn took(&mut self, gpa: Gpa, offset: u64) {
        self.taken.insert(gpa, offset);
    }

    /// Replaced pages of `len` bytes at `gpa`, ascending.
    pub(super) fn within(&self, gpa: Gpa, len: u64) -> impl Iterator<Item = Gpa> {
        self.taken.range(gpa..Gpa(gpa.0.saturating_add(len))).map(|(gpa, _)| *gpa)
    }

    /// Gives the frame of a page's spare back to the host.
    pub(super) fn empty(&self, gpa: Gpa) -> nix::Result<()> {
        let (Some(file), Some(offset)) = (&self.file, self.taken.get(&gpa)) else { return Ok(()) };
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let [offset, len] = [*offset, PAGE_SIZE].map(i64::try_from);
        let [offset, len] = [offset, len].map(|number| number.map_err(|_| Errno::EFBIG));
        fallocate(file, mode, offset?, len?)
    }
}
