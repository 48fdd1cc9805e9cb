//! Taking up where the last process stopped: before rasd says that it is ready, every page on the list
//! is out of use again; afterwards, interrupted walks are finished.
//!
//! ```text
//!  the list --memory map--> excluded before the boot            nothing left to do
//!              |--> no memory there                             nothing to do
//!              '--> in use, worst first --host_page--> offline | in use: said loudly
//! ```

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use persist_store::exclusion::Badness;
use ras_core::{
    ErrorSource, Fault, FaultMode, HostOutcome, OfflineMode, Pfn, PfnRange, RetireReason,
    RetireState, RetiredPage, Timestamp,
};
use rasd_api::Gap;

use crate::host_page::{Offlined, Progress};
use crate::machine::Standing;
use crate::outcome;
use crate::pipeline::Pipeline;
use crate::service::Starting;
use crate::source::wall_clock;

/// A page on the list, and what the kernel said about it at this start.
#[derive(Debug)]
pub struct Unfinished {
    page: RetiredPage,
    answer: Offlined,
}

/// Pages in use that are named in the log, one line each.
const SAID_MAX: usize = 20;

impl Pipeline {
    /// Takes every stored page out of use again, retired ones too: after a reboot the kernel knows
    /// nothing of them, unless they were excluded before it started. Returns those whose walk has to be
    /// finished, and reports the gap; `None` where a shutdown came first.
    ///
    /// In rounds over the whole list, so that busy pages cost one backoff together, not one each.
    #[must_use]
    pub fn offline_again(&mut self) -> Option<Vec<Unfinished>> {
        let pages = self.shared.ledger().pages(None, usize::MAX);
        for RetiredPage { pfn, state, .. } in self.shared.ledger().suspended() {
            if let Standing::Excluded { by } = self.machine.memory.standing(*pfn) {
                tracing::info!(%pfn, %state, by, "not bad any more, but out of use until the next boot");
            }
        }
        let booted = boot_time();
        let (answers, gap) = self.take_out(&pages, booted);
        if answers.iter().any(|answer| answer.attempts == 0 && is_busy(&answer.outcome)) {
            tracing::warn!("stopped before every stored page was out of use");
            return None;
        }
        tracing::info!(
            stored = pages.len(),
            excluded = gap.excluded,
            absent = gap.absent,
            gap_pages = gap.pages,
            gap_seconds = gap.seconds,
            in_use = gap.in_use,
            offlining_ms = gap.offlining_ms,
            pages_per_second = gap.pages_per_second(),
            "stored pages are out of use again; gap_pages of them had been usable since the boot"
        );

        let mut unfinished = Vec::new();
        let mut changed = Vec::new();
        let mut said = 0;
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
                continue;
            }
            let in_use = is_in_use(&answer.outcome);
            if in_use {
                said += 1;
                if said <= SAID_MAX {
                    tracing::error!(pfn = %page.pfn, outcome = %answer.outcome, "BAD PAGE IN USE");
                }
                page.state = RetireState::Failed;
            }
            // What guests said is history after a boot; who has the page now is what counts.
            let excluded = matches!(answer.outcome, HostOutcome::Excluded { .. });
            let text = outcome::describe(&answer.outcome, &[]);
            if in_use || (excluded || outcome::was_excluded(&page.outcome)) && page.outcome != text
            {
                page.outcome = text.into();
                page.attempts = page.attempts.saturating_add(answer.attempts);
                page.updated = wall_clock();
                changed.push(page);
            }
        }
        if said > SAID_MAX {
            let more = said - SAID_MAX;
            tracing::error!(more, "BAD PAGES IN USE: rasctl pages list has them all");
        }
        if !changed.is_empty() && !self.shared.ledger().remember(None, changed) {
            self.shared.count(|counts| counts.store_errors += 1);
        }
        self.shared.set_ready(gap);
        Some(unfinished)
    }

    /// Looks where the pages are, and has the kernel give up those it has, the worst first. The
    /// answers are in the order of `pages`.
    fn take_out(&self, pages: &[RetiredPage], booted: Timestamp) -> (Vec<Offlined>, Gap) {
        let mut gap = Gap::default();
        let mut answers: Vec<Option<Offlined>> = pages
            .iter()
            .map(|page| {
                let outcome = match self.machine.memory.standing(page.pfn) {
                    Standing::Excluded { by } => {
                        gap.excluded += 1;
                        HostOutcome::Excluded { by }
                    }
                    Standing::NoMemory => HostOutcome::NoSuchPage,
                    Standing::InUse
                        if self.firmware.was_handed_over(page.pfn)
                            && self.host.is_reserved(page.pfn) =>
                    {
                        gap.excluded += 1;
                        HostOutcome::Excluded { by: "reserved, by way of the firmware".into() }
                    }
                    // Where the map is not known, the kernel's answer tells.
                    Standing::InUse | Standing::Unknown => return None,
                };
                Some(Offlined { outcome, attempts: 0 })
            })
            .collect();

        let mut open: Vec<usize> = (0..pages.len()).filter(|&at| answers[at].is_none()).collect();
        open.sort_by_key(|&at| (Reverse(Badness::of(&pages[at])), pages[at].pfn));
        let wanted: Vec<(Pfn, OfflineMode)> =
            open.iter().map(|&at| (pages[at].pfn, how(&pages[at], booted))).collect();

        let mut starting = Starting::default();
        let started = Instant::now();
        let (mut offlined, mut closed) = (0, Duration::ZERO);
        let asked = self.host.offline_telling(&wanted, &mut |progress: Progress| {
            if progress.offlined > offlined {
                (offlined, closed) = (progress.offlined, since_boot());
            }
            starting.tell(&progress);
        });
        gap.pages = offlined as u64;
        // Rounded up: a gap that was there is never zero.
        gap.seconds = closed.as_secs() + u64::from(closed.subsec_nanos() > 0);
        gap.offlining_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (at, answer) in open.into_iter().zip(asked) {
            answers[at] = Some(answer);
        }
        let answers: Vec<Offlined> = answers.into_iter().flatten().collect();
        let count = |of: fn(&HostOutcome) -> bool| {
            answers.iter().filter(|answer| of(&answer.outcome)).count() as u64
        };
        gap.absent = count(|outcome| *outcome == HostOutcome::NoSuchPage);
        gap.in_use = count(is_in_use);
        (answers, gap)
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
                reason: page.diagnosis.into(),
                // Its evacuation, if one was decided, is stored by itself.
                host_risk: None,
            };
            self.conclude(&fault, pages, &[answer], page.reason);
        }
    }
}

/// Whether somebody may still get the page.
fn is_in_use(outcome: &HostOutcome) -> bool {
    !outcome.is_offline() && *outcome != HostOutcome::NoSuchPage
}

fn is_busy(outcome: &HostOutcome) -> bool {
    matches!(outcome, HostOutcome::Busy { .. })
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
