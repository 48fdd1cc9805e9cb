//! What we conclude from errors, and why.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::{ErrorSource, Location, PfnRange, Severity, Timestamp};

/// A diagnosed fault: something is broken, and this is the evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What is broken.
    pub mode: FaultMode,
    /// The worst severity among the errors that led here.
    pub severity: Severity,
    /// The source of the error that completed the diagnosis.
    pub source: ErrorSource,
    /// When that error happened, or was seen where its source does not say.
    pub time: Timestamp,
    /// Where, as far as that error's source knew.
    pub location: Location,
    /// The error that completed the diagnosis is of a previous boot: the hardware is still broken, but
    /// whatever lies there now is whole.
    #[serde(default)]
    pub previous_boot: bool,
    /// The rule that fired and the figures it saw, in one line.
    pub reason: String,
    /// Set when this fault brings the host's risk over a limit of the policy: which, and the figures.
    pub host_risk: Option<String>,
}

impl Fault {
    /// Whether data that is in use on this boot was lost.
    #[must_use]
    pub const fn loses_data(&self) -> bool {
        self.severity.is_uncorrected() && !self.previous_boot
    }
}

/// What is broken, as far as the evidence goes. The modes without pages are told apart by
/// [`crate::diagnosis::grouping`]; the fault's `location` says which cell, row or module it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultMode {
    /// These pages, and as far as we know no others.
    Pages(PfnRange),
    /// Data was lost at a place that can't be named as pages (no, coarse or untranslatable address).
    Unlocated,
    /// The processor or the whole host can't be trusted.
    Host {
        /// Pages to remember for the next boot, where the error named any.
        pages: Option<PfnRange>,
    },
    /// One place where a row and a column of a DRAM bank cross.
    Cell,
    /// A row of a DRAM bank: several columns of it.
    Row,
    /// A column of a DRAM bank: several rows of it.
    Column,
    /// A DRAM bank: several rows and several columns of it.
    Bank,
    /// A DRAM device (chip): several of its banks.
    Device,
    /// A rank: several devices, or several banks where no source names the device.
    Rank,
    /// A memory module: several ranks, or more than its parts explain.
    Module,
    /// A cache or translation buffer of a processor.
    Cache,
    /// A processor beyond its caches.
    Processor,
    /// A PCI Express or CXL link, or the device at its end.
    Link,
    /// Firmware, or the platform that it speaks for.
    Firmware,
}

impl FaultMode {
    /// The pages to take out of use, if the fault names any.
    #[must_use]
    pub const fn pages(&self) -> Option<PfnRange> {
        match self {
            Self::Pages(pages) => Some(*pages),
            Self::Host { pages } => *pages,
            _ => None,
        }
    }

    /// The stable name used in JSON and text.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pages(_) => "pages",
            Self::Unlocated => "unlocated",
            Self::Host { .. } => "host",
            Self::Cell => "cell",
            Self::Row => "row",
            Self::Column => "column",
            Self::Bank => "bank",
            Self::Device => "device",
            Self::Rank => "rank",
            Self::Module => "module",
            Self::Cache => "cache",
            Self::Processor => "processor",
            Self::Link => "link",
            Self::Firmware => "firmware",
        }
    }
}
