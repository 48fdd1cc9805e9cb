//! Pages that a person put on the list walk here: from `Pending`, which they are since before the person
//! was answered, to the end of every other walk.

use ras_core::{Fault, FaultMode, OfflineMode, PfnRange, RetiredPage};

use crate::pipeline::Pipeline;
use crate::restart::boot_time;

/// Pages walked before the queue is looked at again: errors do not wait for a long order.
const BATCH: usize = 64;

impl Pipeline {
    /// Walks the next ordered pages, if there are any.
    pub(crate) fn walk_ordered(&mut self) {
        let pages = self.shared.ledger().take_ordered(BATCH);
        if pages.is_empty() {
            return;
        }
        // Whatever lies in them is healthy so far: it is moved away, never thrown away.
        let wanted: Vec<_> = pages.iter().map(|page| (page.pfn, OfflineMode::Soft)).collect();
        let answers = self.host.offline_all(&wanted);
        let mut answers = answers.as_slice();
        let booted = boot_time();
        for run in pages.chunk_by(is_continued) {
            let Some(((first, range), (these, rest))) =
                range_of(run).zip(answers.split_at_checked(run.len()))
            else {
                break;
            };
            answers = rest;
            tracing::info!(pfn = %first.pfn, pages = range.count, "walking what was ordered");
            let fault = Fault {
                mode: FaultMode::Pages(range),
                severity: first.severity,
                source: first.source,
                time: first.since,
                location: first.location.clone(),
                reason: first.diagnosis.to_string(),
                // What another list condemned was lost there, or before: what lies there now is whole.
                previous_boot: first.updated < booted,
                host_risk: None,
            };
            self.conclude(&fault, range, these, first.reason);
        }
        // The rest of a long order does not wait for a report either.
        self.shared.queue.nudge();
    }
}

/// Whether `next` is one more page of the same order, so that guests are asked for both at once.
fn is_continued(page: &RetiredPage, next: &RetiredPage) -> bool {
    page.pfn.0.checked_add(1) == Some(next.pfn.0)
        && (page.reason, page.severity) == (next.reason, next.severity)
        && (page.since, page.updated) == (next.since, next.updated)
        && (&page.diagnosis, &page.location) == (&next.diagnosis, &next.location)
}

fn range_of(run: &[RetiredPage]) -> Option<(&RetiredPage, PfnRange)> {
    let first = run.first()?;
    Some((first, PfnRange { start: first.pfn, count: run.len() as u64 }))
}
