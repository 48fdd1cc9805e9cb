//! The few things a journal needs from its medium.

use std::io::{self, ErrorKind};

mod directory;
pub(crate) mod efi_var;
pub mod efivarfs;
pub(crate) mod erst;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
pub(crate) mod simulated_device;

pub(crate) use directory::{Directory, Lock, LockError};

/// The store's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum File {
    /// The journal in use.
    Journal,
    /// The next journal while it is being written; never read.
    Fresh,
    /// What was acknowledged, see [`ras_store_format::Witness`].
    Witness,
}

/// A file's bytes, for several threads to read.
pub(crate) trait Content: Sync {
    /// In bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fails with `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// All of it. Fails with `FileTooLarge` beyond `max` bytes instead of reading it.
    fn load(&self, max: u64) -> io::Result<Vec<u8>> {
        let size = self.size()?;
        if size > max {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| ErrorKind::FileTooLarge)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// A directory with the store's files. Between two syncs the medium may hold any mixture of old and
/// new sectors of what was written, and any prefix of the changes to the directory.
pub(crate) trait Backend {
    /// The file as it is, whatever takes its place later; `None` if it does not exist.
    fn open(&self, file: File) -> io::Result<Option<impl Content>>;

    /// The whole file; `None` if it does not exist. Fails with `FileTooLarge` beyond `max` bytes
    /// instead of reading it.
    fn load(&self, file: File, max: u64) -> io::Result<Option<Vec<u8>>> {
        self.open(file)?.map(|content| content.load(max)).transpose()
    }

    /// Makes the file exist and be empty. Its name is durable after [`Self::sync_directory`].
    fn create(&mut self, file: File) -> io::Result<()>;

    /// Writes at a byte offset, extending the file where needed. The file exists. An error may leave
    /// any part written.
    fn write(&mut self, file: File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns after everything written to the file, and its size, is durable. After an error nobody
    /// knows what is.
    fn sync(&mut self, file: File) -> io::Result<()>;

    /// Lets `Fresh` take the place of the journal, atomically.
    fn rename_fresh(&mut self) -> io::Result<()>;

    /// Gives the journal a second, durable name in quarantine; returns that file's name.
    fn set_aside(&mut self, generation: u64) -> io::Result<String>;

    /// Keeps `bytes` in quarantine as evidence of a torn commit; returns the file's name. The oldest
    /// such evidence may go, journals that were set aside never.
    fn keep_tail(&mut self, generation: u64, bytes: &[u8]) -> io::Result<String>;

    /// Returns after creations and renames are durable.
    fn sync_directory(&mut self) -> io::Result<()>;
}
