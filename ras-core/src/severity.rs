//! How bad an error is, in the SDM's words.

use core::fmt;

use serde::{Deserialize, Serialize};

/// What an error means for the data and for the software that runs.
///
/// The uncorrected classes are those of SDM vol. 3B, "UCR Error Classification"; `Deferred` is AMD's
/// (APM vol. 2, "Deferred Errors"). The order is by urgency, so `max` of two witnesses is meaningful.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// The source said something this decoder has no meaning for; the raw bits are in the record.
    Unknown,
    /// Not an error: a notice, such as a threshold or a boot record.
    Informational,
    /// Corrected by hardware; no data was lost.
    Corrected,
    /// AMD: uncorrectable data found but not yet consumed; logged, no #MC.
    Deferred,
    /// Intel, uncorrected no action required: not signalled by #MC, data is lost but not consumed.
    Ucna,
    /// Intel, software recoverable action optional: found by the patrol scrubber or a write-back.
    Srao,
    /// Intel, software recoverable action required: the running context consumed the data.
    Srar,
    /// The processor's context is corrupt, or recovery is impossible.
    Fatal,
}

impl Severity {
    /// Whether data at the address is lost.
    #[must_use]
    pub const fn is_uncorrected(self) -> bool {
        matches!(self, Self::Deferred | Self::Ucna | Self::Srao | Self::Srar | Self::Fatal)
    }

    /// The stable, lower-case name used in JSON, logs and on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Informational => "informational",
            Self::Corrected => "corrected",
            Self::Deferred => "deferred",
            Self::Ucna => "ucna",
            Self::Srao => "srao",
            Self::Srar => "srar",
            Self::Fatal => "fatal",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
