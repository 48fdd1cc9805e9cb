//! Devices of the device mapper. Linux `include/uapi/linux/dm-ioctl.h`.

#![allow(unsafe_code)]
// UNSAFETY: one ioctl on an open file, which nix has no name for.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::libc;

/// A device of one target. It stays until it is [removed](Self::remove).
pub(crate) struct Mapped {
    control: File,
    name: &'static str,
    path: String,
}

/// `struct dm_ioctl`, and where some of its fields are.
const HEAD: usize = 312;
const DEVICE_AT: usize = 40;
const NAME_AT: usize = 48;

/// Commands.
const CREATE: u8 = 3;
const REMOVE: u8 = 4;
const RESUME: u8 = 6;
const LOAD: u8 = 9;
const MESSAGE: u8 = 14;

impl Mapped {
    /// Makes it, all of it one target with these arguments.
    pub(crate) fn new(
        name: &'static str,
        target: &str,
        sectors: u64,
        arguments: &str,
    ) -> Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control");
        let control = control.context("opening the device mapper")?;
        let mut mapped = Self { control, name, path: String::new() };
        let device = mapped.command(CREATE, 0, &[]).context("creating a device")?;
        mapped.path = format!("/dev/dm-{}", libc::minor(device));
        // `struct dm_target_spec`: start, length, status and next; the target's name; its arguments.
        let mut table = [0u64.to_le_bytes(), sectors.to_le_bytes(), [0; 8]].concat();
        table.extend(target.as_bytes());
        table.resize(40, 0);
        table.extend(arguments.as_bytes());
        table.push(0);
        table.resize(table.len().next_multiple_of(8), 0);
        mapped.command(LOAD, 1, &table).with_context(|| format!("making {target} {arguments}"))?;
        mapped.command(RESUME, 0, &[]).context("activating a device")?;
        Ok(mapped)
    }

    /// The kernel's name for it.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// For `log-writes`: a note in the log, after everything that was written before.
    pub(crate) fn mark(&self, text: &str) -> Result<()> {
        let mut message = 0u64.to_le_bytes().to_vec();
        message.extend(format!("mark {}\0", text.replace(' ', "\\ ")).bytes());
        self.command(MESSAGE, 0, &message).context("marking the log").map(drop)
    }

    /// Takes it away.
    pub(crate) fn remove(&self) -> Result<()> {
        self.command(REMOVE, 0, &[]).context("removing a device").map(drop)
    }

    /// The device's number, as far as the command has one.
    fn command(&self, number: u8, targets: u32, data: &[u8]) -> Result<u64> {
        let mut bytes = vec![0; HEAD];
        let size = u32::try_from(HEAD + data.len())?;
        // Version 4; the size of all, and where the data is.
        for (at, value) in [(0, 4), (12, size), (16, u32::try_from(HEAD)?), (20, targets)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[NAME_AT..NAME_AT + self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes.extend(data);
        let code = nix::request_code_readwrite!(0xfd, number, HEAD);
        #[allow(clippy::cast_possible_truncation, reason = "musl's ioctl takes an int")]
        // SAFETY: the kernel reads and writes as many bytes as the second field says, which is the
        // vector's length, and keeps no pointer to them.
        let result =
            unsafe { libc::ioctl(self.control.as_raw_fd(), code as _, bytes.as_mut_ptr()) };
        nix::errno::Errno::result(result)?;
        let mut device = [0; 8];
        device.copy_from_slice(&bytes[DEVICE_AT..DEVICE_AT + 8]);
        Ok(u64::from_le_bytes(device))
    }
}
