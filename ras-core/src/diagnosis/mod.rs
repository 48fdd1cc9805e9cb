//! Errors to faults. [`analyze`] asks each rule in turn; each rule is a small deterministic function.

pub mod grouping;
mod page;
mod previous_boot;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::dedupe::Dedupe;
use crate::serd::{Rate, SerdEngine};
use crate::{
    ErrorRecord, ErrorSource, Fault, FaultMode, Pfn, RetireReason, RetiredPage, Severity, Timestamp,
};

/// The limits that decide. Every field has a default, stated on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Corrected errors on one page that condemn it. Default 2 in 24 h: mcelog's rule since 2024,
    /// and the Linux CEC's on Intel.
    pub corrected_per_page: Rate,
    /// Uncorrected errors on different pages after which the host is evacuated. Default 2 in 24 h.
    pub uncorrected_per_host: Rate,
    /// Retired pages after which the host is evacuated: a list this long is a broken module.
    /// Default 512.
    pub retired_pages_max: u64,
    /// Reports of one page from different sources this close together, in milliseconds, are one
    /// event. Default 2000: APEI's polled sources are read once a second.
    pub dedupe_window_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        const DAY_S: u64 = 86_400;
        Self {
            corrected_per_page: Rate { count: 2, window_s: DAY_S },
            uncorrected_per_host: Rate { count: 2, window_s: DAY_S },
            retired_pages_max: 512,
            dedupe_window_ms: 2000,
        }
    }
}

/// What the engines remember between errors. Bounded, whatever arrives.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    dedupe: Dedupe,
    /// The same for errors of previous boots: those are told again by every store that kept them.
    dedupe_old: Dedupe,
    pages: BTreeMap<Pfn, SerdEngine>,
    uncorrected: SerdEngine,
    retired: BTreeSet<Pfn>,
    probation: BTreeSet<Pfn>,
}

impl Diagnosis {
    /// Pages whose corrected errors are counted at the same time; beyond it a sixteenth of them is
    /// forgotten, those with the oldest errors. Windows watches 64, Linux' CEC 512.
    pub const PAGES_MAX: usize = 65_536;

    /// Takes up where an earlier process stopped: its retired pages, and corrected errors it saw.
    pub fn restore<'a>(
        policy: &Policy,
        retired: impl IntoIterator<Item = &'a RetiredPage>,
        corrected: impl IntoIterator<Item = (Pfn, Timestamp)>,
    ) -> Self {
        let mut diagnosis = Self::default();
        for page in retired {
            diagnosis.retired.insert(page.pfn);
            if page.reason == RetireReason::Uncorrected {
                diagnosis.uncorrected.record(policy.uncorrected_per_host, page.since, 1);
            }
        }
        for (pfn, time) in corrected {
            diagnosis.count_corrected(policy, pfn, time, 1);
        }
        diagnosis
    }

    /// A page was condemned by other means (an operator): later errors on it are expected.
    pub fn mark_retired(&mut self, pfn: Pfn) {
        self.retired.insert(pfn);
        self.probation.remove(&pfn);
        self.pages.remove(&pfn);
    }

    /// A page was repaired and is in use again: one error, even a corrected one, condemns it.
    pub fn mark_probation(&mut self, pfn: Pfn) {
        if !self.retired.contains(&pfn) {
            self.probation.insert(pfn);
        }
    }

    /// A page was given back: its errors count again, from zero.
    pub fn mark_unretired(&mut self, pfn: Pfn) {
        self.retired.remove(&pfn);
        self.probation.remove(&pfn);
    }

    /// Number of condemned pages.
    #[must_use]
    pub fn retired_count(&self) -> u64 {
        self.retired.len() as u64
    }

    fn count_corrected(
        &mut self,
        policy: &Policy,
        pfn: Pfn,
        time: Timestamp,
        errors: u32,
    ) -> (bool, usize) {
        if self.pages.len() >= Self::PAGES_MAX && !self.pages.contains_key(&pfn) {
            self.forget_oldest();
        }
        let engine = self.pages.entry(pfn).or_default();
        let fired = engine.record(policy.corrected_per_page, time, errors);
        (fired, engine.count())
    }

    /// Makes room by a sixteenth. Finding the oldest page means looking at all of them, so one at a
    /// time would make an error storm over many pages quadratic.
    fn forget_oldest(&mut self) {
        let mut left = Self::PAGES_MAX / 16;
        let mut newest: Vec<_> = self.pages.values().map(SerdEngine::newest).collect();
        let (_, &mut limit, _) = newest.select_nth_unstable(left);
        self.pages.retain(|_, engine| {
            let forget = left > 0 && engine.newest() <= limit;
            left -= usize::from(forget);
            !forget
        });
    }
}

/// What one error turned out to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Another source already reported this very event.
    Duplicate {
        /// That source.
        of: ErrorSource,
    },
    /// A corrected error on a page, below the rate: remembered and counted.
    Counted {
        /// The page.
        pfn: Pfn,
        /// Errors in the window now.
        count: u32,
        /// Errors in the window that condemn the page.
        limit: u32,
    },
    /// An error on a page that is already retired: expected until everybody has let go of it.
    AlreadyRetired {
        /// The page.
        pfn: Pfn,
    },
    /// The source says that the error is not real. No memory is given up for it.
    Simulated,
    /// Nothing to act on: why, in one line.
    Noted(String),
    /// Something is broken.
    Fault(Fault),
}

/// Joins `record` to what is known. Deterministic: the same state, policy, record and time give the
/// same verdict. `now` is when the record arrived; it stands in for a missing time of the error.
///
/// What a source says about its report goes before the rules (UEFI Specification, Appendix N, "Error
/// Record Header Flags" and "Section Descriptor"):
///
/// - *simulated* (`HW_ERROR_FLAGS_SIMULATED`): [`Verdict::Simulated`], whatever else it says. It is
///   not counted and swallows no witness.
/// - *previous boot* ([`ErrorRecord::is_of_previous_boot`]): a page that lost data is condemned, and
///   what lies in it now is moved away; a fatal error is no more than that. Such a record never asks
///   for an evacuation. It weighs on the host's rate at its own time, if it has one, so that an error
///   of this boot may be the one too many.
/// - *error threshold exceeded* (section flag): firmware has counted for us, and "the OS may choose to
///   discontinue use of this resource"; a corrected error on one page of memory condemns it at once.
pub fn analyze(
    state: &mut Diagnosis,
    policy: &Policy,
    record: &ErrorRecord,
    now: Timestamp,
) -> Verdict {
    if record.flags.simulated {
        return Verdict::Simulated;
    }
    if record.is_of_previous_boot() {
        return previous_boot::analyze(state, policy, record, now);
    }
    let time = record.time.unwrap_or(now);
    let pages = record.pages();

    // Arrival time, not the source's own: different sources have clocks of different resolution.
    let window_ns = policy.dedupe_window_ms.saturating_mul(1_000_000);
    if let Some(first) = pages
        && let Some(of) =
            state.dedupe.witness(first.start, record.severity, record.source, now, window_ns)
    {
        return Verdict::Duplicate { of };
    }

    match record.severity {
        Severity::Fatal => {
            let reason = format!("fatal: {}", record.severity_reason);
            Verdict::Fault(state.fault(policy, record, time, FaultMode::Host { pages }, reason))
        }
        severity if severity.is_uncorrected() => page::uncorrected(state, policy, record, time),
        Severity::Corrected => page::corrected(state, policy, record, time),
        Severity::Informational => Verdict::Noted("informational".into()),
        _ => Verdict::Noted("severity unknown: raw bits kept".into()),
    }
}

impl Diagnosis {
    /// Concludes: condemns the fault's pages and weighs the host's risk.
    fn fault(
        &mut self,
        policy: &Policy,
        record: &ErrorRecord,
        time: Timestamp,
        mode: FaultMode,
        reason: String,
    ) -> Fault {
        for pfn in mode.pages().into_iter().flat_map(crate::PfnRange::iter) {
            self.mark_retired(pfn);
        }
        let rate = policy.uncorrected_per_host;
        let previous_boot = record.is_of_previous_boot();
        // Nobody knows how long ago an old error without a time was.
        let counts = record.severity.is_uncorrected() && (!previous_boot || record.time.is_some());
        let too_many_errors = counts && self.uncorrected.record(rate, time, 1);
        let host_risk = if previous_boot {
            None
        } else if too_many_errors {
            Some(format!(
                "{} uncorrected errors within {} s",
                self.uncorrected.count(),
                rate.window_s
            ))
        } else if self.retired_count() > policy.retired_pages_max {
            Some(format!(
                "{} retired pages, limit {}",
                self.retired_count(),
                policy.retired_pages_max
            ))
        } else {
            None
        };
        Fault {
            mode,
            severity: record.severity,
            source: record.source,
            time,
            location: record.location.clone(),
            previous_boot,
            reason,
            host_risk,
        }
    }
}
