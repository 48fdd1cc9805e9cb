//! The four `userfaultfd(2)` calls that poisoning a page needs.
//!
//! `UFFDIO_POISON` (Linux 6.6) leaves a marker in this process's page table: every later access
//! through the mapping behaves as if the hardware had lost the page. The frame itself stays healthy,
//! which is what makes it both a mark for pages whose contents did not survive and a harmless injector.

// UNSAFETY: ioctls and a raw system call that neither std nor nix wrap.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use ras_core::PAGE_SIZE;

/// `struct uffdio_range`, include/uapi/linux/userfaultfd.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct UffdioRange {
    start: u64,
    len: u64,
}

/// `struct uffdio_api`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_poison`.
#[repr(C)]
struct UffdioPoison {
    range: UffdioRange,
    mode: u64,
    updated: i64,
}

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_POISON: u64 = 1 << 14;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_POISON_NR: u64 = 0x08;

nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, UffdioApi);
nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, UffdioRegister);
nix::ioctl_read!(uffdio_unregister, 0xaa, 0x01, UffdioRange);
nix::ioctl_readwrite!(uffdio_poison, 0xaa, UFFDIO_POISON_NR, UffdioPoison);

/// A userfaultfd whose kernel offers `UFFDIO_POISON`.
#[derive(Debug)]
pub(super) struct Userfaultfd(OwnedFd);

impl Userfaultfd {
    /// Opens one: through `/dev/userfaultfd`, else by the system call in its unprivileged form.
    ///
    /// # Errors
    /// The kernel's, with [`io::ErrorKind::Unsupported`] where it is older than 6.6.
    pub(super) fn open() -> io::Result<Self> {
        let fd = Self::from_device().or_else(|_| Self::from_syscall())?;
        let mut api = UffdioApi { api: UFFD_API, features: UFFD_FEATURE_POISON, ioctls: 0 };
        // SAFETY: `api` is the structure this ioctl reads and writes, and outlives the call.
        match unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) } {
            Ok(_) => Ok(Self(fd)),
            Err(Errno::EINVAL) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no UFFDIO_POISON (Linux 6.6 or later is needed)",
            )),
            Err(errno) => Err(errno.into()),
        }
    }

    fn from_device() -> io::Result<OwnedFd> {
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
        // The argument is the new descriptor's flags, so the macro for "no argument" does not fit.
        // SAFETY: no pointer is passed; the result is a descriptor nobody else owns.
        unsafe {
            let request = nix::request_code_none!(0xaa, 0x00);
            owned(libc::ioctl(device.as_raw_fd(), request, libc::O_CLOEXEC | libc::O_NONBLOCK))
        }
    }

    fn from_syscall() -> io::Result<OwnedFd> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: no pointer is passed; the result is a descriptor nobody else owns. It fits an int.
        unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, flags);
            owned(i32::try_from(fd).unwrap_or(-1))
        }
    }

    /// Makes the page at `hva` (4 KiB aligned, mapped by this process) unreadable.
    ///
    /// The page's current translation has to be dropped first, and a vCPU that is writing the page
    /// may bring it back before the marker is in place: `drop_translation` is called again then.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` if the page came back [`Self::ATTEMPTS`] times.
    pub(super) fn poison(
        &self,
        hva: usize,
        drop_translation: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let range = UffdioRange { start: hva as u64, len: PAGE_SIZE };
        let mut register = UffdioRegister { range, mode: UFFDIO_REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: the structure is the one this ioctl reads and writes. Registering only changes
        // what the kernel does at a missing page; the caller promised the range is its own mapping.
        unsafe { uffdio_register(self.0.as_raw_fd(), &raw mut register) }?;
        let result = if register.ioctls & (1 << UFFDIO_POISON_NR) == 0 {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel cannot poison pages of this mapping",
            ))
        } else {
            self.mark(range, drop_translation)
        };
        // The marker outlives the registration. Keeping the range registered would split the
        // mapping in two for ever and hand its missing faults to a reader that does not exist.
        let mut range = range;
        // SAFETY: as above.
        unsafe { uffdio_unregister(self.0.as_raw_fd(), &raw mut range) }?;
        result
    }

    /// How often a page that comes back is dropped again.
    const ATTEMPTS: usize = 1000;

    fn mark(
        &self,
        range: UffdioRange,
        drop_translation: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        for _ in 0..Self::ATTEMPTS {
            drop_translation()?;
            let mut poison = UffdioPoison { range, mode: 0, updated: 0 };
            // SAFETY: the structure is the one this ioctl reads and writes; it touches no memory of
            // this process beyond the page table entry of `range`.
            match unsafe { uffdio_poison(self.0.as_raw_fd(), &raw mut poison) } {
                Ok(_) => return Ok(()),
                Err(Errno::EEXIST | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }
}

/// # Safety
/// `fd` is negative after an error, or a descriptor nobody else owns.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
