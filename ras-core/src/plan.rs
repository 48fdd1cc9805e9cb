//! What to do about a fault, and what to do when that was not enough. Both are pure.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{Fault, FaultMode, Gpa, PfnRange, RetireReason};

/// Something `rasd` has to carry out. In a list, the order is the order of doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Remember these pages, take them out of use on the host, and tell the guests that have them.
    RetirePages {
        /// The pages.
        pages: PfnRange,
        /// How the host kernel is asked.
        how: OfflineMode,
        /// Why.
        reason: RetireReason,
    },
    /// Tell the cluster what this node is worth.
    ReportHealth(Health),
    /// One guest has to leave this host, live if possible.
    EvacuateGuest {
        /// The guest's name.
        guest: String,
        /// Why, in one line.
        reason: String,
    },
    /// Every guest has to leave this host. Implies [`Health::Red`].
    EvacuateHost {
        /// Why, in one line.
        reason: String,
    },
}

/// How the kernel is asked to give up a page. Linux `Documentation/ABI/testing/sysfs-memory-page-offline`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfflineMode {
    /// Move the contents away first (`soft_offline_page`): nobody notices.
    Soft,
    /// The contents are lost (`hard_offline_page`): owners are told by SIGBUS.
    Hard,
}

/// What a node is worth to the cluster. Pacemaker's words for the `#health-*` attributes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing known against it.
    #[default]
    Green,
    /// Usable, but others are better.
    Yellow,
    /// Guests should leave.
    Red,
}

impl Health {
    /// The value Pacemaker expects.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What [`plan`] needs to know of the host beyond the fault.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostView {
    /// Health as last reported.
    pub health: Health,
}

/// Decides what to do about `fault`.
#[must_use]
pub fn plan(fault: &Fault, host: &HostView) -> Vec<Action> {
    let mut actions = Vec::new();
    let lost = fault.severity.is_uncorrected();
    if let Some(pages) = fault.mode.pages() {
        let reason =
            if lost { RetireReason::Uncorrected } else { RetireReason::CorrectedThreshold };
        // What lies in a page that lost data before this boot is whole: it is moved, not thrown away.
        let how = if fault.loses_data() { OfflineMode::Hard } else { OfflineMode::Soft };
        actions.push(Action::RetirePages { pages, how, reason });
    }
    let evacuate = match (&fault.mode, &fault.host_risk) {
        (FaultMode::Host { .. }, _) => Some(fault.reason.clone()),
        (_, Some(risk)) => Some(risk.clone()),
        _ => None,
    };
    match evacuate {
        Some(reason) => actions.push(Action::EvacuateHost { reason }),
        // One lost page makes a node second choice, no more; and health never improves by an error.
        None if lost && host.health < Health::Yellow => {
            actions.push(Action::ReportHealth(Health::Yellow));
        }
        None => {}
    }
    actions
}

/// What came of [`Action::RetirePages`] for one page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalkOutcome {
    /// The host kernel's answer.
    pub host: HostOutcome,
    /// The answer of each guest that has the page. Empty where none does.
    pub guests: Vec<GuestOutcome>,
}

/// The host kernel's answer to an offline request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostOutcome {
    /// Out of use now.
    Offlined,
    /// Was out of use before (`EHWPOISON`).
    AlreadyOffline,
    /// Was taken out of the memory map before this kernel started: it never had it.
    Excluded {
        /// As what the map lists it, or who took it out.
        by: String,
    },
    /// Every attempt was refused (`EBUSY`: a kernel or pinned page).
    Busy {
        /// Attempts made.
        attempts: u32,
    },
    /// No RAM at this address (`ENXIO`).
    NoSuchPage,
    /// This kernel can't offline pages, or is told not to.
    Unsupported {
        /// Which file or setting is missing, and what to do.
        detail: String,
    },
    /// Any other answer.
    Failed {
        /// The error.
        detail: String,
    },
}

impl HostOutcome {
    /// Whether the page is out of use on this boot.
    #[must_use]
    pub const fn is_offline(&self) -> bool {
        matches!(self, Self::Offlined | Self::AlreadyOffline | Self::Excluded { .. })
    }
}

impl fmt::Display for HostOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offlined => f.write_str("offline"),
            Self::AlreadyOffline => f.write_str("already offline"),
            Self::Excluded { by } => write!(f, "excluded before the boot ({by})"),
            Self::Busy { attempts } => write!(f, "busy after {attempts} attempts"),
            Self::NoSuchPage => f.write_str("no RAM at this address"),
            Self::Unsupported { detail } => write!(f, "not supported here: {detail}"),
            Self::Failed { detail } => write!(f, "failed: {detail}"),
        }
    }
}

/// What became of a page in one guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestOutcome {
    /// The guest's name.
    pub guest: String,
    /// The page in the guest.
    pub gpa: Gpa,
    /// What happened.
    pub result: GuestResult,
}

/// See [`GuestOutcome`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestResult {
    /// The guest's data is in another frame now; the VMM keeps the old one out of use.
    Replaced,
    /// The guest gave the block up; the VMM keeps the bad page out of use.
    Unplugged,
    /// The page lies in memory that can't be unplugged, or the guest kept it past the deadline.
    Refused {
        /// Why, as far as known.
        detail: String,
    },
    /// The VMM did not answer.
    Unreachable {
        /// The error.
        detail: String,
    },
}

/// Decides what to do when retiring a page did not free its guests of it.
#[must_use]
pub fn escalate(fault: &Fault, outcome: &WalkOutcome) -> Vec<Action> {
    // After a successful soft offline the guest sits on a healthy page and never noticed.
    let moved_away = !fault.loses_data() && outcome.host.is_offline();
    if moved_away {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for GuestOutcome { guest, gpa, result } in &outcome.guests {
        let reason = match result {
            GuestResult::Replaced | GuestResult::Unplugged => continue,
            GuestResult::Refused { detail } => {
                format!("guest kept the bad page at {gpa}: {detail}")
            }
            GuestResult::Unreachable { detail } => {
                format!("VMM did not answer about {gpa}: {detail}")
            }
        };
        actions.push(Action::EvacuateGuest { guest: guest.clone(), reason });
    }
    actions
}
