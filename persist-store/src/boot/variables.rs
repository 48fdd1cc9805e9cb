//! Copies as EFI variables.

use std::io;
use std::path::Path;

use ras_store_format::exclusion::{LIST_SIZE_MAX, place};

use super::Medium;
use crate::efivarfs::Efivarfs;

/// A mounted efivarfs.
pub(super) struct Variables {
    efivarfs: Efivarfs,
}

impl Variables {
    pub(super) fn new(dir: &Path) -> Self {
        Self { efivarfs: Efivarfs::new(dir) }
    }
}

fn file(name: &str) -> String {
    format!("{name}-{}", place::VENDOR)
}

impl Medium for Variables {
    fn describe(&self) -> String {
        format!("EFI variables ({})", self.efivarfs.root().display())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let variable = self.efivarfs.read(&file(name), LIST_SIZE_MAX)?;
        Ok(variable.map(|variable| variable.data))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.efivarfs.write(&file(name), place::LIST_ATTRIBUTES, bytes)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.efivarfs.remove(&file(name))
    }
}
