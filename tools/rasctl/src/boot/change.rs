//! Single durable changes: each is done wholly or not at all, and can be done again.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use persist_store::boot::{BootList, Wanted, Written};
use persist_store::efivarfs::{self, Efivarfs};
use rasctl::chain;

use super::host::Host;
use crate::Failure;

/// See the module.
pub(super) enum Change {
    Directory(PathBuf),
    File {
        path: PathBuf,
        bytes: Vec<u8>,
        mode: u32,
    },
    Variable {
        name: String,
        attributes: u32,
        data: Vec<u8>,
        what: String,
    },
    List(Wanted),
    RemoveVariable {
        name: String,
    },
    RemoveList,
    RemoveFile(PathBuf),
    /// If nobody has put anything into it.
    RemoveDirectory(PathBuf),
}

/// A change that was not made. Those before it were.
pub(super) struct Unmade {
    /// The firmware did not take a variable.
    pub(super) by_firmware: bool,
    /// What was not done, and why.
    pub(super) message: String,
}

impl From<Unmade> for Failure {
    fn from(unmade: Unmade) -> Self {
        Self::NotDone(format!(
            "{}; what was done before stays: run the same again, or `rasctl boot remove`",
            unmade.message
        ))
    }
}

/// Where a file is written before it takes its name. GRUB, systemd-boot and firmware ignore such a name.
pub(super) fn fresh(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

impl Change {
    /// In words, as an order.
    pub(super) fn describe(&self, host: &Host) -> String {
        let short = |name: &str| name.split('-').next().unwrap_or(name).to_owned();
        match self {
            Self::Directory(path) => format!("make the directory {}", host.shown(path)),
            Self::File { path, bytes, .. } => {
                format!("write {} ({} bytes)", host.shown(path), bytes.len())
            }
            Self::Variable { what, .. } => format!("set the firmware's variable {what}"),
            Self::List(wanted) => {
                let pages: u64 = wanted.ranges.iter().map(|range| range.pages.count).sum();
                format!("write the list for firmware: {pages} pages")
            }
            Self::RemoveVariable { name } => {
                format!("delete the firmware's variable {}", short(name))
            }
            Self::RemoveList => "delete the list for firmware".into(),
            Self::RemoveFile(path) => format!("delete {}", host.shown(path)),
            Self::RemoveDirectory(path) => {
                format!("delete the directory {}, if it is empty", host.shown(path))
            }
        }
    }

    fn make(
        &self,
        variables: Option<&Efivarfs>,
        list: &mut BootList,
    ) -> Result<Option<Written>, (io::Error, Option<String>)> {
        let plain = |error| (error, None);
        let missing = || plain(ErrorKind::NotFound.into());
        match self {
            Self::Directory(path) => make_directory(path).map_err(plain)?,
            Self::File { path, bytes, mode } => write_file(path, bytes, *mode).map_err(plain)?,
            Self::Variable { name, attributes, data, .. } => {
                let variables = variables.ok_or_else(missing)?;
                variables.write(name, *attributes, data).map_err(plain)?;
            }
            Self::RemoveVariable { name } => {
                variables.ok_or_else(missing)?.remove(name).map_err(plain)?;
            }
            Self::RemoveFile(path) => remove_file(path).map_err(plain)?,
            Self::RemoveDirectory(path) => remove_directory(path).map_err(plain)?,
            Self::List(wanted) => {
                let written = list.write(wanted);
                return written
                    .map(Some)
                    .map_err(|error| (io::Error::other("list"), Some(chain(&error))));
            }
            Self::RemoveList => {
                list.remove().map_err(|error| (io::Error::other("list"), Some(chain(&error))))?;
            }
        }
        Ok(None)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_parent(path)
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fresh = fresh(path);
    let write = || -> io::Result<()> {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        // FAT keeps a file's size and place beside its name, and Linux writes a new name without them at
        // first: until they are written as well, a power loss leaves an empty file.
        file.sync_all()
    };
    if let Err(error) = write() {
        // The room it took may be what is missing.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    sync_parent(path)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_parent(path)),
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
        {
            Ok(())
        }
        removed => removed.and_then(|()| sync_parent(path)),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Makes changes one after the other.
pub(super) struct Maker {
    /// For tests only: what happens instead of, or right before, a change of this number.
    fault: Option<(u32, Fault)>,
    made: u32,
}

#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Error(Errno),
}

/// For tests only: `N:kill`, `N:enospc`, `N:eio`; changes are counted from 0.
const FAULT: &str = "RASCTL_BOOT_FAULT";

impl Maker {
    pub(super) fn new() -> Result<Self, Failure> {
        let Some(wanted) = std::env::var_os(FAULT) else {
            return Ok(Self { fault: None, made: 0 });
        };
        let fault =
            wanted.to_str().and_then(|wanted| wanted.split_once(':')).and_then(|(at, fault)| {
                let fault = match fault {
                    "kill" => Fault::Kill,
                    "enospc" => Fault::Error(Errno::ENOSPC),
                    "eio" => Fault::Error(Errno::EIO),
                    _ => return None,
                };
                Some((at.parse().ok()?, fault))
            });
        let fault = fault.ok_or_else(|| {
            Failure::NotReached(format!("{FAULT} is for tests, and names no fault"))
        })?;
        Ok(Self { fault: Some(fault), made: 0 })
    }

    /// Makes one change. What came of a list is returned.
    pub(super) fn make(
        &mut self,
        change: &Change,
        host: &Host,
        variables: Option<&Efivarfs>,
        list: &mut BootList,
    ) -> Result<Option<Written>, Unmade> {
        let number = self.made;
        self.made += 1;
        let failed = match self.fault {
            Some((at, Fault::Kill)) if at == number => {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
                std::process::abort();
            }
            Some((at, Fault::Error(errno))) if at == number => {
                Err((io::Error::from_raw_os_error(errno as i32), None))
            }
            _ => change.make(variables, list),
        };
        failed.map_err(|(error, message)| {
            let of_variable =
                matches!(change, Change::Variable { .. } | Change::RemoveVariable { .. });
            let message =
                message.unwrap_or_else(|| format!("{error}{}", advice(&error, of_variable)));
            Unmade {
                by_firmware: of_variable,
                message: format!("could not {}: {message}", change.describe(host)),
            }
        })
    }
}

fn advice(error: &io::Error, of_variable: bool) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => " (this takes root)",
        ErrorKind::ReadOnlyFilesystem if of_variable => {
            " (the firmware's variables are mounted read-only, or locked)"
        }
        ErrorKind::ReadOnlyFilesystem => " (it is mounted read-only)",
        _ if of_variable && efivarfs::is_full(error) => {
            " (the firmware has no room for it; it gets that of deleted variables back at the next reboot. \
             Where systemd-boot is the boot loader, --method systemd-boot needs no such variable)"
        }
        _ => "",
    }
}
