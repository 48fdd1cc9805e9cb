//! The page rules: one uncorrected error condemns a page, corrected ones at the policy's rate or at
//! firmware's.

use alloc::format;

use super::{Diagnosis, Policy, Verdict};
use crate::{ErrorClass, ErrorRecord, FaultMode, Timestamp};

pub(super) fn uncorrected(
    state: &mut Diagnosis,
    policy: &Policy,
    record: &ErrorRecord,
    time: Timestamp,
) -> Verdict {
    let when = if record.is_of_previous_boot() { ", on a previous boot" } else { "" };
    let Some(pages) = record.pages() else {
        let reason = format!("{} error without a usable physical address{when}", record.severity);
        return Verdict::Fault(state.fault(policy, record, time, FaultMode::Unlocated, reason));
    };
    if pages.iter().all(|pfn| state.retired.contains(&pfn)) {
        return Verdict::AlreadyRetired { pfn: pages.start };
    }
    let lost = if when.is_empty() { "is" } else { "was" };
    let reason = format!("{} error: data at the page {lost} lost{when}", record.severity);
    Verdict::Fault(state.fault(policy, record, time, FaultMode::Pages(pages), reason))
}

/// Only memory errors count: a cache that corrects is no reason to lose a page (Linux' CEC agrees).
pub(super) fn corrected(
    state: &mut Diagnosis,
    policy: &Policy,
    record: &ErrorRecord,
    time: Timestamp,
) -> Verdict {
    if record.class != ErrorClass::Memory {
        return Verdict::Noted("corrected, not in memory".into());
    }
    let Some(pages) = record.pages() else {
        return Verdict::Noted("corrected, without a usable physical address".into());
    };
    if pages.count != 1 {
        return Verdict::Noted(format!("corrected, somewhere in {} pages", pages.count));
    }
    let pfn = pages.start;
    if state.retired.contains(&pfn) {
        return Verdict::AlreadyRetired { pfn };
    }
    if state.probation.contains(&pfn) {
        let reason = "corrected error on a page on probation after a repair".into();
        return Verdict::Fault(state.fault(policy, record, time, FaultMode::Pages(pages), reason));
    }
    if record.flags.threshold_exceeded {
        let reason = "firmware says that corrected errors went over its threshold".into();
        return Verdict::Fault(state.fault(policy, record, time, FaultMode::Pages(pages), reason));
    }
    let rate = policy.corrected_per_page;
    let (fired, count) = state.count_corrected(policy, pfn, time, record.count);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if !fired {
        return Verdict::Counted { pfn, count, limit: rate.count };
    }
    let reason = format!("{count} corrected errors on the page within {} s", rate.window_s);
    Verdict::Fault(state.fault(policy, record, time, FaultMode::Pages(pages), reason))
}
