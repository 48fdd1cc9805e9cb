//! Moving whole guest pages between memory and a socket, for migration.
//!
//! Sending: the kernel copies from the mapping into the socket, so a poisoned page is an `EFAULT` like
//! everywhere else. Receiving: through a small buffer that stays in the cache into the memfd. Filling
//! fresh pages through the file is about 1.8 times as fast as receiving straight into the mapping,
//! because a page that is written whole is neither zeroed nor faulted in first.

// UNSAFETY: hands addresses of guest memory to sendmsg(2).
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use ras_core::{Gpa, PAGE_SIZE};

use super::mapping::{GuestRam, bytes};

/// What a look at a page found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PageLook {
    /// Every byte is zero.
    Zero,
    /// Anything else.
    Data,
    /// It can't be read.
    Poisoned,
}

/// Bytes of each page that are read first. Few pages with data begin with a line of zeroes.
const SAMPLE: usize = 64;

impl GuestRam {
    /// Most ranges or pages one call takes: the kernel's `UIO_MAXIOV`.
    pub(crate) const RANGES_MAX: usize = 1024;

    /// Looks at whole pages of guest memory, at most [`Self::RANGES_MAX`]. A page costs one short
    /// read, and a full one only if it seems to be zero. A page outside guest memory counts as
    /// poisoned: it can't be read either.
    pub(crate) fn look(&self, pages: &[Gpa]) -> Vec<PageLook> {
        debug_assert!(pages.len() <= Self::RANGES_MAX);
        let mut looks = vec![PageLook::Poisoned; pages.len()];
        let mut samples = vec![0; pages.len() * SAMPLE];
        let mut remote = Vec::with_capacity(pages.len());
        for page in pages {
            // Address 0 is never mapped: the read ends there, as it does at a poisoned page.
            let base = self.hva_of(*page, PAGE_SIZE).unwrap_or(0);
            remote.push(RemoteIoVec { base, len: SAMPLE });
        }
        let mut next = 0;
        while next < pages.len() {
            let mut local = [IoSliceMut::new(&mut samples[next * SAMPLE..])];
            let read = process_vm_readv(Pid::this(), &mut local, &remote[next..]).unwrap_or(0);
            let good = next + read / SAMPLE;
            looks[next..good].fill(PageLook::Data);
            // The page at `good` failed, or there is none.
            next = good + 1;
        }
        let mut whole = vec![0; bytes(PAGE_SIZE)];
        for (index, page) in pages.iter().enumerate() {
            let sample = &samples[index * SAMPLE..(index + 1) * SAMPLE];
            if looks[index] == PageLook::Data && sample.iter().all(|byte| *byte == 0) {
                looks[index] = match self.read(*page, &mut whole) {
                    Err(_) => PageLook::Poisoned,
                    Ok(()) if whole.iter().all(|byte| *byte == 0) => PageLook::Zero,
                    Ok(()) => PageLook::Data,
                };
            }
        }
        looks
    }

    /// Sends ranges of guest memory, at most [`Self::RANGES_MAX`], straight from where they are.
    /// Returns how many bytes the socket took.
    ///
    /// # Errors
    /// The socket's; `EFAULT` where a page among the next bytes is poisoned or not guest memory, with
    /// none of the bytes taken.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>, ranges: &[(Gpa, u64)]) -> io::Result<usize> {
        debug_assert!(ranges.len() <= Self::RANGES_MAX);
        let mut parts = Vec::with_capacity(ranges.len());
        for (gpa, len) in ranges {
            let base = self.hva_of(*gpa, *len).ok_or(io::Error::from_raw_os_error(libc::EFAULT))?;
            parts.push(libc::iovec { iov_base: base as *mut libc::c_void, iov_len: bytes(*len) });
        }
        // SAFETY: an all-zero msghdr is a valid one that names nothing.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        // At most RANGES_MAX; glibc and musl disagree about the field's type.
        message.msg_iovlen = parts.len() as _;
        // SAFETY: `parts` outlives the call and is as long as said. Its addresses lie inside the
        // mappings of `self`; the kernel only reads there, and reports what it can't read.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Puts received bytes into memory that no guest runs in yet. Goes through the memfd, so marks
    /// of [`Self::poison`] neither stop it nor are lifted by it.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::InvalidInput`] outside guest memory.
    pub(crate) fn restore(&self, gpa: Gpa, data: &[u8]) -> io::Result<()> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let len = data.len() as u64;
        let region = self.region_of(gpa, len).ok_or_else(outside)?;
        region.file().write_all_at(data, gpa.0 - region.gpa().0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::memory::mapping::{RegionConfig, RegionKind};

    fn ram() -> GuestRam {
        let config = RegionConfig { gpa: Gpa(0x10_0000), size: 1 << 20, kind: RegionKind::Ram };
        GuestRam::new(&[config]).unwrap()
    }

    fn page(index: u64) -> Gpa {
        Gpa(0x10_0000 + index * PAGE_SIZE)
    }

    #[test]
    fn a_look_tells_zero_from_data_from_poison() {
        let ram = ram();
        ram.write(page(1), &[1]).unwrap();
        ram.write(Gpa(page(2).0 + 4095), &[1]).unwrap();
        ram.write(page(4), &[1]).unwrap();
        let mut expected = vec![PageLook::Zero; 7];
        expected[1] = PageLook::Data;
        expected[2] = PageLook::Data;
        expected[4] = PageLook::Data;
        if ram.poison_support().is_ok() {
            for bad in [3, 4, 6] {
                ram.poison(page(bad)).unwrap();
                expected[usize::try_from(bad).unwrap()] = PageLook::Poisoned;
            }
        }
        assert_eq!(ram.look(&(0..7).map(page).collect::<Vec<_>>()), expected);
        assert_eq!(ram.look(&[Gpa(0), page(1)]), [PageLook::Poisoned, PageLook::Data]);
        assert_eq!(ram.look(&[]), []);
    }

    #[test]
    fn pages_leave_and_arrive_unchanged() {
        let (ram, other) = (ram(), ram());
        let (left, mut right) = UnixStream::pair().unwrap();
        ram.write(page(3), &[3; 8192]).unwrap();
        ram.write(page(9), &[9; 4096]).unwrap();
        let sent = ram.send(left.as_fd(), &[(page(9), 4096), (page(3), 8192)]).unwrap();
        assert_eq!(sent, 3 * 4096);
        let mut buffer = vec![0; sent];
        right.read_exact(&mut buffer).unwrap();
        other.restore(page(9), &buffer[..4096]).unwrap();
        other.restore(page(3), &buffer[4096..]).unwrap();
        let mut back = [0; 4096];
        other.read(page(4), &mut back).unwrap();
        assert_eq!(back, [3; 4096]);
        assert!(other.restore(Gpa(0), &[1]).is_err());
        assert!(other.restore(page(255), &[1; 4097]).is_err());
    }

    #[test]
    fn a_poisoned_page_is_not_sent() {
        let ram = ram();
        if let Err(why) = ram.poison_support() {
            eprintln!("skipped: {why}");
            return;
        }
        ram.write(page(0), &[1; 4 * 4096]).unwrap();
        ram.poison(page(2)).unwrap();
        let (left, _right) = UnixStream::pair().unwrap();
        let error = ram.send(left.as_fd(), &[(page(2), 4096)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        let sent = ram.send(left.as_fd(), &[(page(0), 4 * 4096)]);
        assert!(sent.as_ref().map_or(true, |sent| *sent <= 2 * 4096), "{sent:?}");
    }
}
