//! Live migration between two `rasvmm` processes: pre-copy, over a Unix socket, TCP or an inherited
//! descriptor. Poisoned pages travel as marks and are never read.
//!
//! ```text
//!   source                                                 destination (started with --incoming)
//!   running                                                memory mapped, vCPUs never ran
//!      | preface, Hello (name, memory layout) ----------------> checks both
//!      | <------------------------------------- Accept | Failed
//!      |  Pages, Zero, Poison ... Sync ----------------------->      round 0: all memory
//!      | <----------------------------------------------- Synced
//!      |  ... rounds: what became dirty meanwhile, until the rest fits into the downtime limit
//!   paused
//!      |  the rest, State ..., End ------------------------------> loads the state
//!      | <----------------------------------------------- Loaded     paused, ready to run
//!      |  Go ---------------------------------------------------> runs
//!   postmigrate <--------------------------------------- Running
//! ```
//!
//! **Never two.** The source may resume its guest at any failure before `Go` left it; once the
//! socket took `Go` it never does so on its own. The destination runs only after `Go` arrived whole.
//! So at no time do both run. The price is the window every such protocol has (two generals): if the
//! connection breaks after `Go` and before `Running`, the source can't know whether the guest runs
//! over there. It stays paused ([`Outcome::Unconfirmed`], run state `postmigrate`); only an operator
//! who knows that the destination is dead (fenced, or its process gone) may say `cont`. With `Failed`
//! in place of `Running` the destination says that its guest never ran, and the source resumes.
//!
//! **Not converging.** Leaving a host whose memory fails is worth a longer gap, so after
//! [`Parameters::rounds_max`] rounds the source stops the guest and sends what is left, whatever the
//! gap ([`WhenStuck::StopAndCopy`]; it is bounded by what the guest dirtied in one round).
//! [`WhenStuck::Fail`] leaves the guest where it is instead. vCPUs are not throttled.

pub mod destination;
pub mod format;
pub mod source;
pub mod stats;
pub mod transport;

mod page_set;
mod precopy;

#[cfg(test)]
mod tests;

use std::time::Duration;

use ras_core::Gpa;

use crate::memory::mapping::{DirtyBitmap, GuestRam, MappingError};

pub use destination::{Incoming, Received};
pub use format::FormatError;
pub use source::{Migration, Outcome};
pub use stats::{Stats, Status};
pub use transport::Uri;

/// What the VM answers when migration asks something of it.
pub type VmResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A VM that can leave. Called from the thread in [`Migration::run`].
pub trait Source: Sync {
    /// Its memory.
    fn ram(&self) -> &GuestRam;

    /// The parts of its memory that the guest may use now: all RAM, and the plugged blocks of
    /// virtio-mem devices. Whole pages; any order. Asked once per round.
    fn populated(&self) -> Vec<(Gpa, u64)>;

    /// The pages known to be poisoned now. Those outside [`Self::populated`] are left behind: the
    /// guest can't reach them, and the destination's frames are healthy.
    fn poisoned(&self) -> Vec<Gpa>;

    /// A page turned out to be unreadable that [`Self::poisoned`] did not list. It travels as a mark
    /// whatever this does; the VM may want to remember it. May be called again for the same page.
    fn found_poisoned(&self, _page: Gpa) {}

    /// Starts KVM's dirty log on every slot. The migration itself starts [`GuestRam`]'s.
    ///
    /// # Errors
    /// The VM's; the migration fails, the guest goes on.
    fn dirty_log_start(&self) -> VmResult<()>;

    /// Stops KVM's dirty log. Also called after a failed start.
    ///
    /// # Errors
    /// The VM's; reported, no more.
    fn dirty_log_stop(&self) -> VmResult<()>;

    /// Returns and clears what the guest wrote since the last call: per slot its first guest
    /// physical address and one bit per page, as `KVM_GET_DIRTY_LOG` gives it.
    ///
    /// # Errors
    /// The VM's; the migration fails, the guest goes on.
    fn take_dirty(&self) -> VmResult<Vec<DirtyBitmap>>;

    /// Stops every vCPU and every device thread that writes guest memory, and returns when they
    /// stand still. A VM that is paused already stays so.
    ///
    /// # Errors
    /// The VM's; the migration fails, and [`Self::resume`] is called.
    fn pause(&self) -> VmResult<()>;

    /// Undoes [`Self::pause`]: a guest that ran before runs again.
    ///
    /// # Errors
    /// The VM's; reported.
    fn resume(&self) -> VmResult<()>;

    /// The state of vCPUs and devices as bytes, at most [`format::STATE_MAX`]. Only called while paused.
    ///
    /// # Errors
    /// The VM's; the migration fails, the guest goes on.
    fn save(&self) -> VmResult<Vec<u8>>;
}

/// A VM that waits to be filled. Called from the thread in [`Incoming::receive`].
pub trait Destination: Sync {
    /// Its memory, emptied by the migration before anything is put there.
    fn ram(&self) -> &GuestRam;

    /// These pages were lost on the way here: mark them ([`GuestRam::poison`]) and list them. Called
    /// once, after all memory arrived and before [`Self::load`], if there are any.
    ///
    /// # Errors
    /// The VM's; the migration fails and this VM must not run.
    fn mark_poisoned(&self, pages: &[Gpa]) -> VmResult<()>;

    /// Loads what [`Source::save`] produced. Still paused afterwards.
    ///
    /// # Errors
    /// The VM's; the migration fails and this VM must not run.
    fn load(&self, state: &[u8]) -> VmResult<()>;

    /// Runs the guest, if it ran at the source.
    ///
    /// # Errors
    /// Only where no vCPU has run a single instruction: the source resumes its guest then.
    fn resume(&self) -> VmResult<()>;
}

/// Why a migration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A URI of no known form.
    #[error("{0:?} is not unix:PATH, tcp:HOST:PORT or fd:N")]
    Uri(String),
    /// The network, or whatever plays it.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The other end went away.
    #[error("the peer closed the connection while {0}")]
    Closed(&'static str),
    /// The other end was silent for too long.
    #[error("the peer made no progress for {} s while {doing}", limit.as_secs_f32())]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// The limit it passed.
        limit: Duration,
    },
    /// The other end sent something that can't be right.
    #[error("the peer sent damaged or foreign data")]
    Format(#[from] FormatError),
    /// The other end sent the wrong message for this moment.
    #[error("the peer sent {got:?} while {doing}")]
    Unexpected {
        /// What arrived.
        got: format::Kind,
        /// What was being done.
        doing: &'static str,
    },
    /// The other end gave up and said why.
    #[error("the peer gave up: {0}")]
    PeerFailed(String),
    /// The stream belongs to another VM, or one with other memory.
    #[error("the incoming VM does not fit: {0}")]
    Mismatch(String),
    /// The VM at this end failed.
    #[error("{doing}: {why}")]
    Vm {
        /// What it was asked to do.
        doing: &'static str,
        /// Its answer.
        why: String,
    },
    /// Guest memory at this end failed.
    #[error("guest memory")]
    Ram(#[from] MappingError),
    /// The guest writes faster than the connection carries, and the policy is [`WhenStuck::Fail`].
    #[error("no convergence: {remaining} bytes are left after {rounds} rounds")]
    NoConvergence {
        /// Rounds made.
        rounds: u32,
        /// Bytes still dirty.
        remaining: u64,
    },
    /// [`Migration::cancel`].
    #[error("cancelled")]
    Cancelled,
}

/// What the operator may choose (`migrate-set-parameters`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// The gap the guest may have, as estimated from the measured bandwidth. QEMU's `downtime-limit`.
    pub downtime_limit: Duration,
    /// Bytes per second while the guest runs; `None` for no limit. Values below 1 MiB/s count as
    /// that. QEMU's `max-bandwidth`.
    pub bandwidth_max: Option<u64>,
    /// Rounds before the guest counts as not converging.
    pub rounds_max: u32,
    /// What to do then.
    pub when_stuck: WhenStuck,
    /// How long the peer may make no progress.
    pub peer_timeout: Duration,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            downtime_limit: Duration::from_millis(300),
            bandwidth_max: None,
            rounds_max: 30,
            when_stuck: WhenStuck::StopAndCopy,
            peer_timeout: Duration::from_secs(10),
        }
    }
}

/// What to do with a guest that dirties memory faster than it can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenStuck {
    /// Stop it and send the rest.
    StopAndCopy,
    /// Give up; it goes on here.
    Fail,
}

fn vm<T>(doing: &'static str, result: VmResult<T>) -> Result<T, MigrateError> {
    // The chain becomes text here: it also has to cross the wire and QMP.
    result.map_err(|error| MigrateError::Vm { doing, why: chain(error.as_ref()) })
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
