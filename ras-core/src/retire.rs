//! What is remembered: retired pages and the state of the node.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::machine::shared;
use crate::{Dimm, ErrorSource, Health, Location, MapEpoch, Pfn, Severity, Timestamp};

/// A page that must not be used, and how far we got with that.
///
/// ```text
///            remembered            host offline (and guest) done
///   (fault) ------------> Pending ------------------------------> Retired
///                            |  ^                                    |
///          attempts used up  v  |  restart, operator, next boot      |  next boot: offlined again,
///                          Failed ------------------------------     +-> stays Retired
///
///   any of these --repaired--> Probation --one error--> Pending, as a new fault
///   any of these --module gone--> Expired --module back--> Pending
///   any of these --map changed, cells not found again--> Stale --map back--> Pending
/// ```
/// Whatever its state, an entry leaves the list only by an audited word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetiredPage {
    /// The page.
    pub pfn: Pfn,
    /// Why.
    pub reason: RetireReason,
    /// How far.
    pub state: RetireState,
    /// The severity of the fault.
    pub severity: Severity,
    /// Who reported the error that completed the diagnosis.
    pub source: ErrorSource,
    /// When the page was first condemned.
    pub since: Timestamp,
    /// When this entry last changed.
    pub updated: Timestamp,
    /// Host offline attempts so far.
    pub attempts: u32,
    /// Where, as far as the source knew.
    pub location: Location,
    /// The module that holds (or held) it; `None` where nobody could say.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared::optional")]
    pub dimm: Option<Arc<Dimm>>,
    /// The map under which `pfn` means these cells; `None` where none was known. Under another one the
    /// address may be anybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<MapEpoch>,
    /// The diagnosis in one line. Shared, as most pages of a list say the same.
    pub diagnosis: SmolStr,
    /// The last outcome in one line: what the kernel and the guest answered.
    pub outcome: SmolStr,
}

/// Why a page is retired.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetireReason {
    /// Data at it was lost.
    Uncorrected,
    /// Its corrected errors passed the rate of the policy.
    CorrectedThreshold,
    /// A person asked for it.
    Operator,
}

impl RetireReason {
    /// The stable name used in JSON and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncorrected => "uncorrected",
            Self::CorrectedThreshold => "corrected_threshold",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How far the retirement of a page got.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetireState {
    /// Remembered; acting is under way or was interrupted. A restart takes it up again.
    Pending,
    /// Out of use on this boot.
    Retired,
    /// Every attempt failed, or the kernel can't do it; tried again at the next start.
    Failed,
    /// Its module was repaired (post-package repair): the page is in use again, and one more error
    /// retires it at once.
    Probation,
    /// Its module is no longer in the machine: nothing here is bad. Kept for the day it comes back.
    Expired,
    /// The machine's map changed, and nothing says where the bad cells are now: the address no longer
    /// means them.
    Stale,
}

impl RetireState {
    /// The stable name used in JSON and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Retired => "retired",
            Self::Failed => "failed",
            Self::Probation => "probation",
            Self::Expired => "expired",
            Self::Stale => "stale",
        }
    }

    /// Whether the entry keeps no page out of use: it is remembered, and no more.
    #[must_use]
    pub const fn is_suspended(self) -> bool {
        matches!(self, Self::Probation | Self::Expired | Self::Stale)
    }
}

impl fmt::Display for RetireState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the node is worth, and whether its guests are on their way out. One per store; remembered so
/// that an evacuation that was decided is finished after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Health as last reported to the cluster.
    pub health: Health,
    /// The evacuation, if one was decided.
    pub evacuation: Evacuation,
    /// Why, in one line.
    pub reason: String,
    /// When this was decided.
    pub since: Timestamp,
}

/// How far an evacuation got.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evacuation {
    /// Nobody has to leave.
    None,
    /// Decided, not yet carried out. A restart takes it up again.
    Pending {
        /// The one guest that has to leave; all of them where it is `None`.
        guest: Option<String>,
    },
    /// The cluster engine accepted it, or every guest left.
    Done,
}
