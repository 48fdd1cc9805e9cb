//! Copies as EFI variables, through efivarfs. Linux `Documentation/filesystems/efivarfs.rst`.
//!
//! A file is a variable: four bytes of attributes, then the value; each `write(2)` sets all of it, and
//! is through when it returns. The kernel makes variables it does not know immutable, so that nobody
//! bricks a machine by `rm -r`: the flag is cleared for a write and set again. A failed creation
//! leaves an empty file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ras_store_format::exclusion::place;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::Medium;

/// Bytes read of a variable at most: firmware takes some 64 KiB.
const READ_MAX: u64 = 1 << 20;

const ATTRIBUTES_SIZE: usize = 4;

/// The directory efivarfs is mounted at.
pub(super) struct Variables<E = Efivarfs> {
    dir: PathBuf,
    files: E,
}

/// What efivarfs does with one file. Behind a trait so that tests can be as nasty as firmware.
pub(super) trait VariableFiles: Send {
    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// One `write(2)`; makes the file where there is none.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Deletes it.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Whether it is immutable; `None` where this file system has no such flag.
    fn is_immutable(&self, path: &Path) -> io::Result<Option<bool>>;
    /// Sets or clears the flag.
    fn set_immutable(&mut self, path: &Path, immutable: bool) -> io::Result<()>;
}

/// Real files.
pub(super) struct Efivarfs;

impl Variables {
    pub(super) fn new(dir: &Path) -> Self {
        Self::over(dir, Efivarfs)
    }
}

impl<E> Variables<E> {
    pub(super) fn over(dir: &Path, files: E) -> Self {
        Self { dir: dir.into(), files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", place::VENDOR))
    }
}

impl<E: VariableFiles> Variables<E> {
    /// Runs `change` on a variable that may be immutable; afterwards it is as before, where it still
    /// exists.
    fn changing(
        &mut self,
        path: &Path,
        change: impl FnOnce(&mut E) -> io::Result<()>,
    ) -> io::Result<()> {
        let immutable = match self.files.is_immutable(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            flag => flag?,
        };
        if immutable == Some(true) {
            self.files.set_immutable(path, false)?;
        }
        let changed = change(&mut self.files);
        if immutable == Some(true) {
            // A guard against accidents only, and the kernel puts it back at the next boot.
            let _ = self.files.set_immutable(path, true);
        }
        changed
    }
}

impl<E: VariableFiles> Medium for Variables<E> {
    fn describe(&self) -> String {
        format!("EFI variables ({})", self.dir.display())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match self.files.read(&self.path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => {
                // An empty file is no variable.
                let mut file = file?;
                Ok((file.len() > ATTRIBUTES_SIZE).then(|| file.split_off(ATTRIBUTES_SIZE)))
            }
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let before = self.read(name)?;
        let mut value = place::LIST_ATTRIBUTES.to_le_bytes().to_vec();
        value.extend_from_slice(bytes);
        let written = self.changing(&path, |files| files.write(&path, &value));
        if written.is_err() && before.is_none() {
            // Nothing was there, and nothing is to be left there.
            let _ = self.changing(&path, |files| files.remove(&path));
        }
        written?;
        // There is firmware that says yes and does nothing.
        if self.read(name)?.as_deref() == Some(bytes) {
            Ok(())
        } else {
            Err(io::Error::other("firmware took the variable, and does not give it back as it was"))
        }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        match self.changing(&path, |files| files.remove(&path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

impl VariableFiles for Efivarfs {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(READ_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
        let count = file.write(bytes)?;
        if count != bytes.len() {
            return Err(io::Error::other("the variable was written in part"));
        }
        // What is longer than its content now is an ordinary file: efivarfs has set the length.
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn is_immutable(&self, path: &Path) -> io::Result<Option<bool>> {
        match ioctl_getflags(File::open(path)?) {
            Ok(flags) => Ok(Some(flags.contains(IFlags::IMMUTABLE))),
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_immutable(&mut self, path: &Path, immutable: bool) -> io::Result<()> {
        let file = File::open(path)?;
        let mut flags = ioctl_getflags(&file)?;
        flags.set(IFlags::IMMUTABLE, immutable);
        Ok(ioctl_setflags(&file, flags)?)
    }
}
