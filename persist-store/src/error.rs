//! What can go wrong, said with the step and the path.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused a step. After a failed append the entries are not acknowledged;
    /// they may or may not be found by the next [`Store::open`](crate::Store::open).
    #[error("cannot {step} in {}", dir.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// The store's directory.
        dir: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open for writing.
    #[error("the store {} is in use by {}", dir.display(), holder(*pid))]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// The holder, where it could be told.
        pid: Option<u32>,
    },
    /// There is no store in this directory.
    #[error("there is no store in {}", dir.display())]
    NotFound {
        /// The directory.
        dir: PathBuf,
    },
    /// A newer program wrote the journal. It was left untouched.
    #[error("cannot read the journal in {}", dir.display())]
    UnsupportedVersion {
        /// The store's directory.
        dir: PathBuf,
        /// The versions.
        #[source]
        source: ras_store_format::UnsupportedVersion,
    },
    /// What lies in the journal's place can't be one and was left untouched.
    #[error("the journal in {} is unusable: {detail}", dir.display())]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// Why.
        detail: String,
    },
    /// An earlier write failed in a way that leaves open what is on the medium. Only opening the
    /// store again finds out; until then nothing is acknowledged.
    #[error("the store {} failed earlier and has to be opened again", dir.display())]
    Poisoned {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The list reached the largest size that its format or its medium allows.
    #[error("the store {} is full: the list may not exceed {size_max} bytes", dir.display())]
    Full {
        /// The store's directory.
        dir: PathBuf,
        /// The limit in bytes.
        size_max: u64,
    },
    /// The medium took as many bytes as it may in one boot: firmware gets room back only then, and
    /// its flash wears out. What was acknowledged is there.
    #[error(
        "the store {} took {written} of the {budget} bytes it may take between two boots; \
         {needed} more have to wait for the next",
        dir.display()
    )]
    Worn {
        /// The store's place.
        dir: PathBuf,
        /// Bytes it took since boot.
        written: u64,
        /// Bytes that were to be written now.
        needed: u64,
        /// The limit.
        budget: u64,
    },
    /// The entry holds a value the format has no code for.
    #[error("cannot write the entry to {}", dir.display())]
    Encode {
        /// The store's directory.
        dir: PathBuf,
        /// The value.
        #[source]
        source: ras_store_format::EncodeError,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// Wraps the system's answer to one step.
pub(crate) fn io_error(dir: &Path, step: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { step, dir: dir.into(), source }
}
