//! The guests of this host, by their QMP sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ras_qmp::ras::MemoryMap;
use ras_qmp::{Client, ErrorClass, QmpError, RunState};

use super::chain;

/// A guest that answers.
#[derive(Debug)]
pub struct Guest {
    /// Its QMP socket.
    pub socket: PathBuf,
    /// The connection.
    pub client: Client,
    /// Its VMM's process.
    pub pid: u32,
    /// Its memory.
    pub map: MemoryMap,
}

/// A guest that does not.
#[derive(Debug)]
pub struct Unreachable {
    /// The socket's name without its extension, which is the guest's by convention.
    pub name: String,
    /// The error.
    pub detail: String,
}

/// Every guest that runs here now, in the order of the sockets' names.
///
/// Not among them: sockets nobody listens on any more, guests that left or have not arrived yet,
/// and VMMs without `x-ras-memory-map` (QEMU), which is logged.
pub fn guests(
    dir: &Path,
    timeout: Duration,
) -> impl Iterator<Item = Result<Guest, Unreachable>> + use<> {
    sockets(dir).into_iter().filter_map(move |socket| {
        let name = || socket.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match connect(&socket, timeout) {
            Ok(guest) => guest.map(Ok),
            Err(error) if is_abandoned(&error) => None,
            Err(error) => Some(Err(Unreachable { name: name(), detail: chain(&error) })),
        }
    })
}

/// The names of those guests. A VMM that does not answer has its socket's name: it is a guest, too.
#[must_use]
pub fn names(dir: &Path, timeout: Duration) -> Vec<String> {
    guests(dir, timeout)
        .map(|guest| match guest {
            Ok(guest) => guest.map.name,
            Err(unreachable) => unreachable.name,
        })
        .collect()
}

/// The guest behind one socket; `None` if it does not run here, or can't say where its memory is.
///
/// # Errors
/// As [`Client::connect`] and [`Client::execute`].
pub fn connect(socket: &Path, timeout: Duration) -> Result<Option<Guest>, QmpError> {
    let mut client = Client::connect(socket, timeout)?;
    if matches!(client.query_status()?, RunState::Inmigrate | RunState::Postmigrate) {
        return Ok(None);
    }
    let map = match client.memory_map() {
        Ok(map) => map,
        Err(QmpError::Command { source, .. }) if source.class == ErrorClass::CommandNotFound => {
            tracing::warn!(
                socket = %socket.display(),
                "this VMM can't say where its memory is; bad pages are not searched there"
            );
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The kernel's word, not the guest's: a VMM may live in a process namespace of its own.
    let pid = client.peer_pid().unwrap_or(map.pid);
    Ok(Some(Guest { socket: socket.to_owned(), client, pid, map }))
}

fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // No directory means that no guest was ever started.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "guests can't be listed");
            return Vec::new();
        }
    };
    let mut sockets: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "qmp"))
        .collect();
    sockets.sort();
    sockets
}

fn is_abandoned(error: &QmpError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, QmpError::Io { source, .. }
        if matches!(source.kind(), ConnectionRefused | NotFound))
}
