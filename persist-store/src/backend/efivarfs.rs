//! EFI variables as Linux shows them: one file each, `NAME-GUID`, four bytes of attributes before the
//! data. What is peculiar about efivarfs is here and nowhere else:
//!
//! - One `write(2)` sets the whole variable: there is no half of one, as far as the firmware keeps its
//!   word.
//! - Variables the kernel does not know have the immutable inode flag, from their creation and again
//!   after each boot. It goes before a write and comes back after it.
//! - Where the firmware refuses to make a variable, its file stays behind, empty. Such a file is no
//!   variable to the firmware; it is taken away, and read as none.
//! - What the firmware says arrives as an error code: no room is `ENOSPC`, or `EINVAL` where the
//!   variable is larger than any may be; a broken store `EIO`, a locked one `EROFS` or `EACCES`.
//!
//! Sources: Linux `fs/efivarfs` and its documentation; UEFI Specification, "Variable Services".

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// `NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS`: kept, and seen by firmware and by us.
pub const KEPT: u32 = 7;

/// Attributes before the data.
const PREFIX: usize = 4;

/// Where Linux mounts efivarfs.
const MOUNTED: &str = "/sys/firmware/efi/efivars";

/// A mounted efivarfs. Variables are named `NAME-GUID`, the GUID in lower case.
#[derive(Clone, Debug)]
pub struct Efivarfs {
    root: PathBuf,
}

/// A variable that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// The attributes it was made with. They can't be changed, only deleted with it.
    pub attributes: u32,
    /// Its contents.
    pub data: Vec<u8>,
}

impl Default for Efivarfs {
    /// The machine's own.
    fn default() -> Self {
        Self::new(Path::new(MOUNTED))
    }
}

impl Efivarfs {
    /// The efivarfs mounted at `root`. Touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A variable; `None` where there is none.
    ///
    /// # Errors
    /// `FileTooLarge` where it has more than `max` bytes of data; whatever the firmware said.
    pub fn read(&self, name: &str, max: usize) -> io::Result<Option<Variable>> {
        let file = match File::open(self.root.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let limit = PREFIX.saturating_add(max);
        let mut bytes = Vec::new();
        // One read for the attributes would set the variable's rate limit off twice: all in one.
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let Some((&attributes, data)) = bytes.split_first_chunk::<PREFIX>() else {
            return Err(ErrorKind::InvalidData.into());
        };
        Ok(Some(Variable { attributes: u32::from_le_bytes(attributes), data: data.into() }))
    }

    /// Sets a variable, making it where there is none. It is durable when this returns `Ok`; after an
    /// error a firmware that keeps its word has the variable as it was.
    ///
    /// # Errors
    /// Whatever the firmware said; [`is_full`] tells whether that was lack of room.
    pub fn write(&self, name: &str, attributes: u32, data: &[u8]) -> io::Result<()> {
        let path = self.root.join(name);
        let mut bytes = Vec::with_capacity(PREFIX + data.len());
        bytes.extend(attributes.to_le_bytes());
        bytes.extend(data);
        let unlocked = Unlocked::new(&path)?;
        let outcome = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .and_then(|mut file| {
                if file.write(&bytes)? != bytes.len() {
                    return Err(ErrorKind::WriteZero.into());
                }
                // efivarfs has set the length by now; only an ordinary file keeps an old tail.
                if file.metadata()?.len() > bytes.len() as u64 {
                    file.set_len(bytes.len() as u64)?;
                }
                Ok(())
            });
        drop(unlocked);
        if outcome.is_err() && fs::metadata(&path).is_ok_and(|left| left.len() == 0) {
            // What was refused is the news; that the empty file can't be removed is none.
            let _ = fs::remove_file(&path);
        }
        outcome
    }

    /// Deletes a variable. One that is not there is deleted already.
    ///
    /// # Errors
    /// Whatever the firmware said.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        let unlocked = Unlocked::new(&path)?;
        let outcome = fs::remove_file(&path);
        drop(unlocked);
        match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Whether an error of [`Efivarfs::write`] means that the firmware has no room, for variables of this
/// size or at all.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::StorageFull
        || [Errno::INVAL, Errno::TOOBIG, Errno::FBIG]
            .iter()
            .any(|full| error.raw_os_error() == Some(full.raw_os_error()))
}

/// A file without its immutable flag, for as long as this lives.
struct Unlocked {
    file: Option<File>,
}

impl Unlocked {
    fn new(path: &Path) -> io::Result<Self> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { file: None }),
            other => other?,
        };
        let flags = match ioctl_getflags(&file) {
            // A file system without such flags has none in the way.
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => IFlags::empty(),
            other => other?,
        };
        if !flags.contains(IFlags::IMMUTABLE) {
            return Ok(Self { file: None });
        }
        ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        // It guards against a careless `rm`, which is no reason to call a write failed. The file may
        // be gone by now, too.
        if let Some(file) = &self.file
            && let Ok(flags) = ioctl_getflags(file)
        {
            let _ = ioctl_setflags(file, flags | IFlags::IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "RasTest-def1345f-e988-423b-ac3b-68ad5dc6f43e";

    #[test]
    fn a_variable_is_attributes_and_data() {
        let dir = tempfile::tempdir().unwrap();
        let vars = Efivarfs::new(dir.path());
        assert_eq!(vars.read(NAME, 64).unwrap(), None);
        vars.write(NAME, KEPT, b"list").unwrap();
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), b"\x07\0\0\0list");
        let variable = Variable { attributes: KEPT, data: b"list".to_vec() };
        assert_eq!(vars.read(NAME, 4).unwrap(), Some(variable));
        assert_eq!(vars.read(NAME, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
        vars.remove(NAME).unwrap();
        vars.remove(NAME).unwrap();
        assert_eq!(vars.read(NAME, 64).unwrap(), None);
    }

    #[test]
    fn what_a_refused_create_leaves_is_no_variable() {
        let dir = tempfile::tempdir().unwrap();
        let vars = Efivarfs::new(dir.path());
        fs::write(dir.path().join(NAME), b"").unwrap();
        assert_eq!(vars.read(NAME, 64).unwrap(), None);
        fs::write(dir.path().join(NAME), b"\x07\0").unwrap();
        assert_eq!(vars.read(NAME, 64).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    /// Needs root and a file system with inode flags; says so where it can't run.
    #[test]
    fn the_immutable_flag_gives_way_and_comes_back() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join(NAME);
        // Of one length: an ordinary file keeps what a shorter write does not cover.
        fs::write(&path, b"\x07\0\0\0old!").unwrap();
        let file = File::open(&path).unwrap();
        let locked = ioctl_getflags(&file)
            .and_then(|flags| ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
        if let Err(error) = locked {
            println!("skipped: can't set the immutable flag here: {error}");
            return;
        }
        assert!(fs::write(&path, b"").is_err(), "the flag does nothing here");
        let vars = Efivarfs::new(dir.path());
        vars.write(NAME, KEPT, b"new!").unwrap();
        assert_eq!(vars.read(NAME, 64).unwrap().unwrap().data, b"new!");
        assert!(ioctl_getflags(&file).unwrap().contains(IFlags::IMMUTABLE), "it did not come back");
        vars.remove(NAME).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn too_large_is_full() {
        for errno in [Errno::NOSPC, Errno::INVAL] {
            assert!(is_full(&io::Error::from(errno)));
        }
        assert!(!is_full(&io::Error::from(Errno::IO)));
    }
}
