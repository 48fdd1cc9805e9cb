//! Copies as files on the EFI system partition.

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ras_store_format::exclusion::{LIST_SIZE_MAX, place};

use super::Medium;

/// Our directory on the partition.
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(esp: &Path) -> Self {
        Self { dir: esp.join(place::DIRECTORY) }
    }
}

impl Medium for Files {
    fn describe(&self) -> String {
        self.dir.display().to_string()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match fs::File::open(self.dir.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        // One byte more than a list can have tells that it is none.
        file.take(LIST_SIZE_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // A full partition is found out before the old copy is touched. FAT's rename is not atomic over
        // a power loss; the other copy is there for that.
        let fresh = self.dir.join(format!("{name}.new"));
        let written = fs::File::create(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, self.dir.join(name))?;
            // FAT keeps a file's size and place beside its name, and Linux writes a new name without them at
            // first: until they are written as well, a power loss leaves an empty file.
            file.sync_all()
        });
        if let Err(error) = written {
            // The room it took may be what is missing.
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        fs::File::open(&self.dir)?.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        fs::File::open(&self.dir)?.sync_all()
    }
}
