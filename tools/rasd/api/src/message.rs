//! The requests, and what answers them.

use ras_core::{Evacuation, Health, Pfn, PfnRange, RetireState, RetiredPage, Timestamp};
use serde::{Deserialize, Serialize};

/// Longest request line, in bytes. The longest real one is a note of an operator.
pub const REQUEST_MAX: usize = 64 << 10;

/// Pages in one [`PageList`] at most.
pub const PAGES_MAX: usize = 1000;

/// Pages in one [`Request::Retire`] or [`Request::Import`] at most: they are stored with one sync.
pub const ORDER_MAX: u64 = 4096;

/// Longest note of an operator, in bytes: it is kept for good.
pub const NOTE_MAX: usize = 512;

/// Something asked of rasd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything about the daemon at a glance. Answered by [`Status`].
    Status {},
    /// The stored pages, ascending. Answered by [`PageList`].
    Pages {
        /// Only pages above this one; `None` starts at the first.
        #[serde(default)]
        after: Option<Pfn>,
    },
    /// One stored page. Answered by [`PageDetail`].
    Page {
        /// The page.
        pfn: Pfn,
    },
    /// Puts pages on the list because a person says so: when this is answered they are remembered;
    /// then they walk like any bad page, between errors. A page whose walk had failed is tried again.
    /// Answered by [`Ordered`]. Who asked is kept with the note.
    Retire {
        /// The pages, at most [`ORDER_MAX`].
        pages: Vec<PfnRange>,
        /// Why, 1 to [`NOTE_MAX`] bytes.
        note: String,
    },
    /// The same with what another list knew of the pages. Those that are on this list already stay
    /// what they are. Answered by [`Ordered`].
    Import {
        /// The pages, at most [`ORDER_MAX`]. Their states do not matter: each walks.
        pages: Vec<RetiredPage>,
        /// Why, 1 to [`NOTE_MAX`] bytes.
        note: String,
    },
    /// Takes a page off the list: it will not be offlined at the next boot. Answered by
    /// [`Unretired`]. Who asked is taken from the socket's credentials and kept with the note.
    Unretire {
        /// The page.
        pfn: Pfn,
        /// Why, 1 to [`NOTE_MAX`] bytes.
        note: String,
    },
    /// Accepts the list as it is after damage was found. Answered by [`StoreStatus`].
    AcceptDamage {
        /// Why, 1 to [`NOTE_MAX`] bytes.
        note: String,
    },
    /// What the node is worth. Answered by [`HealthStatus`].
    Health {},
    /// Sets health back to green and closes an evacuation, after a repair. Answered by
    /// [`HealthStatus`].
    ClearHealth {
        /// Why, 1 to [`NOTE_MAX`] bytes.
        note: String,
    },
}

/// The answer to any [`Request`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done: the type named at the request.
    Return(serde_json::Value),
    /// Not done.
    Error(Failure),
}

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: ErrorKind,
    /// For people, one line.
    pub message: String,
}

/// Classes of [`Failure`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is not one of ours, or an argument is out of range.
    BadRequest,
    /// No such page is stored.
    NotFound,
    /// The page is being worked on; ask again.
    Busy,
    /// The store did not take it.
    Store,
}

/// The daemon at a glance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// rasd's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Whether every stored page was offlined again, so that guests may start.
    pub ready: bool,
    /// What the node is worth.
    pub health: HealthStatus,
    /// The stored pages.
    pub pages: PageCounts,
    /// What was found at start: stored pages that had been in use again.
    pub gap: Gap,
    /// How firmware's list for the next boot is doing.
    #[serde(default)]
    pub boot: BootStatus,
    /// How the mirror of the list is doing.
    #[serde(default)]
    pub mirror: MirrorStatus,
    /// Where errors come from.
    pub sources: Vec<SourceStatus>,
    /// The queue between the sources and the walk.
    pub queue: QueueStatus,
    /// What happened since the start.
    pub counts: Counts,
    /// The list that survives.
    pub store: StoreStatus,
    /// Who moves guests.
    pub engine: EngineStatus,
}

/// Number of stored pages by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the states of ras_core::RetireState")]
pub struct PageCounts {
    pub pending: u64,
    pub retired: u64,
    pub failed: u64,
    #[serde(default)]
    pub probation: u64,
    #[serde(default)]
    pub expired: u64,
    #[serde(default)]
    pub stale: u64,
}

impl PageCounts {
    /// Counts one page.
    pub fn add(&mut self, state: RetireState) {
        *match state {
            RetireState::Pending => &mut self.pending,
            RetireState::Retired => &mut self.retired,
            RetireState::Failed => &mut self.failed,
            RetireState::Probation => &mut self.probation,
            RetireState::Expired => &mut self.expired,
            RetireState::Stale => &mut self.stale,
        } += 1;
    }
}

/// What the start had to do so that no stored page is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// Pages that this kernel had in use and that were offlined again, as after a reboot.
    pub pages: u64,
    /// Seconds since the boot at which the last of them was offline; 0 where there was none.
    pub seconds: u64,
    /// Pages that were taken out of the memory map before this kernel started.
    pub excluded: u64,
    /// Pages where this machine has no memory.
    pub absent: u64,
    /// Pages that the kernel would not give up: they are in use.
    pub in_use: u64,
    /// Milliseconds it took to ask the kernel for all pages that were not excluded.
    pub offlining_ms: u64,
}

impl Gap {
    /// Pages offlined a second, rounded down; 0 where there was none.
    #[must_use]
    pub fn pages_per_second(&self) -> u64 {
        self.pages.saturating_mul(1000) / self.offlining_ms.max(1)
    }
}

/// The list that firmware reads at the next boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BootStatus {
    /// `off`, `in step`, or `failing`; empty where nobody has looked yet.
    pub state: String,
    /// What is in it and where, or why not.
    pub detail: String,
}

/// The list on a second medium.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorStatus {
    /// `in step` or `failing`; empty where there is none, or nobody has looked yet.
    pub state: String,
    /// What is in it and where, or why not.
    pub detail: String,
    /// Entries that the list lacked since this process started, and that came back from it.
    pub brought_back: u64,
    /// Times it was found damaged since then.
    pub damaged: u64,
    /// Times it could not be read or written since then.
    pub errors: u64,
    /// Bytes written to it in this boot.
    pub written_bytes: u64,
    /// Bytes that may be written to it in one boot.
    pub budget_bytes: u64,
}

/// One source of errors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `tracefs` or `replay`.
    pub name: String,
    /// `running`, `done`, `off`, or `failed`.
    pub state: String,
    /// Why, where there is something to say.
    pub detail: String,
}

/// The bounded queue between the sources and the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Events that fit.
    pub capacity: u64,
    /// Events waiting now.
    pub waiting: u64,
    /// Events that came when it was full, and are gone.
    pub lost: u64,
}

/// What happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Reports taken from the queue.
    pub events: u64,
    /// Error records decoded from them.
    pub records: u64,
    /// Damage in what the sources delivered: undecodable reports and damaged parts of records.
    pub damaged: u64,
    /// Lines or bytes of a replay that are not a report.
    pub garbage: u64,
    /// Events the kernel's ring buffer overwrote before they were read.
    pub missed: u64,
    /// Second reports of one event by another source.
    pub duplicates: u64,
    /// Corrected errors counted below the rate.
    pub counted: u64,
    /// Errors on pages that were already retired.
    pub already_retired: u64,
    /// Records that call for nothing, simulated errors among them.
    pub noted: u64,
    /// Faults diagnosed.
    pub faults: u64,
    /// Pages the host kernel took out of use.
    pub offlined: u64,
    /// Pages it did not.
    pub offline_failed: u64,
    /// Ranges guests gave up.
    pub guest_unplugged: u64,
    /// Ranges guests kept, or whose VMM did not answer.
    pub guest_refused: u64,
    /// Evacuations asked of the cluster engine.
    pub evacuations: u64,
    /// Calls to the cluster engine that failed.
    pub engine_errors: u64,
    /// Entries the store did not take.
    pub store_errors: u64,
}

/// The list that survives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its directory.
    pub dir: String,
    /// What was found when it was opened, one line each; empty where there is nothing to say.
    pub recovery: Vec<String>,
    /// Damage that was found, now or at an earlier start, and that no person has accepted yet: the
    /// list may be incomplete.
    pub damage: Vec<String>,
    /// Entries that could not be stored and wait for room; 0 when all is well.
    pub unsaved: u64,
    /// The error that keeps them from being stored.
    pub failing: Option<String>,
}

/// What the node is worth.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthStatus {
    /// Its health.
    pub health: Health,
    /// Why, in one line; empty where nothing is known against it.
    pub reason: String,
    /// When that was decided; `None` where nothing ever was.
    pub since: Option<Timestamp>,
    /// Whether its guests are on their way out.
    pub evacuation: Evacuation,
    /// Whether the cluster engine has taken the value. It is told again until it has.
    pub reported: bool,
}

/// Who moves guests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineStatus {
    /// `standalone` or `pacemaker`.
    pub name: String,
    /// Guests of a dead node are started elsewhere.
    pub failover: bool,
    /// Guests of a living node can move without stopping.
    pub live_migration: bool,
    /// What an operator has to know.
    pub notes: String,
}

/// Some of the stored pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageList {
    /// The pages, ascending, at most [`PAGES_MAX`].
    pub pages: Vec<RetiredPage>,
    /// Whether there are more, after the last of these.
    pub more: bool,
}

/// One stored page and its history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageDetail {
    /// The page as it is; `None` if it was given back.
    pub page: Option<RetiredPage>,
    /// Every time it was given back, oldest first.
    pub unretired: Vec<Unretirement>,
    /// Corrected errors remembered on it, oldest first.
    pub observed: Vec<Timestamp>,
}

/// A page was given back by a person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unretirement {
    /// When.
    pub time: Timestamp,
    /// Who.
    pub who: String,
    /// Why.
    pub note: String,
}

/// Answer to [`Request::Retire`] and [`Request::Import`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ordered {
    /// Pages that are on the list now, durably, and walk next.
    pub ordered: Vec<Pfn>,
    /// Pages that were on it before: nothing was done about them.
    pub known: Vec<Pfn>,
    /// Who ordered it, as it was stored.
    pub who: String,
}

/// Answer to [`Request::Unretire`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unretired {
    /// The page as it was.
    pub page: RetiredPage,
    /// Who gave it back, as it was stored.
    pub who: String,
    /// What the operator should know: the kernel keeps the page offline until the next boot.
    pub advice: String,
}
