//! Taking up where the last process stopped: before rasd says that it is ready, every page on the list
//! is out of use again; afterwards, interrupted walks are finished.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use ras_core::{
    ErrorSource, Fault, FaultMode, HostOutcome, OfflineMode, PfnRange, RetireReason, RetireState,
    RetiredPage, Timestamp,
};
use rasd_api::Gap;

use crate::host_page::Offlined;
use crate::outcome;
use crate::pipeline::Pipeline;
use crate::source::wall_clock;

/// A page on the list, and what the kernel said about it at this start.
#[derive(Debug)]
pub struct Unfinished {
    page: RetiredPage,
    answer: Offlined,
}

impl Pipeline {
    /// Offlines every stored page again, retired ones too: after a reboot the kernel knows nothing of
    /// them. Returns those whose walk has to be finished, and reports the gap.
    ///
    /// In rounds over the whole list, so that busy pages cost one backoff together, not one each.
    #[must_use]
    pub fn offline_again(&mut self) -> Vec<Unfinished> {
        let pages = self.shared.ledger().pages(None, usize::MAX);
        let booted = boot_time();
        let wanted: Vec<_> = pages.iter().map(|page| (page.pfn, how(page, booted))).collect();
        let answers = self.host.offline_all(&wanted);

        let in_use = answers.iter().filter(|answer| answer.outcome == HostOutcome::Offlined);
        let mut gap = Gap { pages: in_use.count() as u64, seconds: 0 };
        if gap.pages > 0 {
            gap.seconds = since_boot().as_secs();
        }
        tracing::info!(
            stored = pages.len(),
            gap_pages = gap.pages,
            gap_seconds = gap.seconds,
            "stored pages are offline again; gap_pages of them had been usable since the boot"
        );

        let mut unfinished = Vec::new();
        let mut changed = Vec::new();
        for (mut page, mut answer) in pages.into_iter().zip(answers) {
            // On the boot on which the kernel refused, "already poisoned" is only the trace of that
            // attempt: see `host_page`.
            if answer.outcome == HostOutcome::AlreadyOffline
                && page.state == RetireState::Failed
                && page.updated >= booted
                && outcome::was_busy(&page.outcome)
            {
                answer.outcome = HostOutcome::Busy { attempts: page.attempts };
            }
            if page.state != RetireState::Retired {
                unfinished.push(Unfinished { page, answer });
            } else if !answer.outcome.is_offline() {
                tracing::error!(pfn = %page.pfn, outcome = %answer.outcome, "BAD PAGE IN USE");
                page.state = RetireState::Failed;
                page.outcome = outcome::describe(&answer.outcome, &[]);
                page.attempts = page.attempts.saturating_add(answer.attempts);
                page.updated = wall_clock();
                changed.push(page);
            }
        }
        if !changed.is_empty() && !self.shared.ledger().remember(None, changed) {
            self.shared.count(|counts| counts.store_errors += 1);
        }
        self.shared.set_ready(gap);
        unfinished
    }

    /// Finishes the walks and the evacuation that a crash or a refusal left open.
    pub fn finish(&mut self, unfinished: Vec<Unfinished>) {
        self.evacuations.resume();
        for Unfinished { page, answer } in unfinished {
            tracing::info!(pfn = %page.pfn, state = %page.state, "taking up the walk of a page");
            let pages = PfnRange::single(page.pfn);
            let previous_boot = page.source == ErrorSource::Bert;
            let fault = Fault {
                mode: FaultMode::Pages(pages),
                severity: page.severity,
                source: page.source,
                time: page.since,
                previous_boot,
                location: page.location,
                reason: page.diagnosis,
                // Its evacuation, if one was decided, is stored by itself.
                host_risk: None,
            };
            self.conclude(&fault, pages, &[answer], page.reason);
        }
    }
}

/// How a stored page is offlined again. Lost data is gone for good only on the boot that lost it:
/// whatever lies in the page after a reboot is healthy so far, so it is moved away, not thrown away.
fn how(page: &RetiredPage, booted: Timestamp) -> OfflineMode {
    let lost = page.reason == RetireReason::Uncorrected && page.source != ErrorSource::Bert;
    if lost && page.updated >= booted { OfflineMode::Hard } else { OfflineMode::Soft }
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

pub(crate) fn boot_time() -> Timestamp {
    Timestamp(wall_clock().0.saturating_sub(crate::timings::nanos(since_boot())))
}
