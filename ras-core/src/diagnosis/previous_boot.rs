//! Errors that happened before this boot, told by firmware or by a store that outlived it (BERT, ERST).
//!
//! The cells they hit are as broken as before, so their pages go; but nothing was lost *now*. Acting on
//! such an error as on a new one would empty a healthy host after every boot, for as long as the record
//! lies in its store.

use super::{Diagnosis, Policy, Verdict, page};
use crate::{ErrorRecord, Severity, Timestamp};

pub(super) fn analyze(
    state: &mut Diagnosis,
    policy: &Policy,
    record: &ErrorRecord,
    now: Timestamp,
) -> Verdict {
    // A clock that runs ahead must not push newer errors out of the windows.
    let time = record.time.map(|time| time.min(now));
    // All of them arrive at once: only their own times tell two errors of one page apart.
    let window_ns = policy.dedupe_window_ms.saturating_mul(1_000_000);
    let seen = time.unwrap_or(now);
    if let Some(pages) = record.pages()
        && let Some(of) =
            state.dedupe_old.witness(pages.start, record.severity, record.source, seen, window_ns)
    {
        return Verdict::Duplicate { of };
    }
    match (record.severity, time) {
        // A fatal one too: the host that it ended is up again.
        (severity, _) if severity.is_uncorrected() => {
            page::uncorrected(state, policy, record, seen)
        }
        (Severity::Corrected, None) if !record.flags.threshold_exceeded => {
            Verdict::Noted("corrected on a previous boot, and no record of when".into())
        }
        (Severity::Corrected, _) => page::corrected(state, policy, record, seen),
        (Severity::Informational, _) => Verdict::Noted("informational".into()),
        _ => Verdict::Noted("severity unknown: raw bits kept".into()),
    }
}
