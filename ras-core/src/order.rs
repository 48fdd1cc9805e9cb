//! Pages that a person, or another list, condemns: what is remembered of them. Pure.

use smol_str::format_smolstr;

use crate::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, SmolStr,
    Timestamp,
};

/// The entry to store when a person wants `pfn` retired; `known` is what the list has. `None` where that
/// is done already, or under way.
///
/// Of an entry whose walk failed, or that keeps no page out of use, all that is known stays: only its
/// walk begins again. So does `updated`, see [`import`].
#[must_use]
pub fn retire(
    known: Option<&RetiredPage>,
    pfn: Pfn,
    now: Timestamp,
    who: &str,
    note: &str,
) -> Option<RetiredPage> {
    let order = format_smolstr!("asked for by {who}: {note}");
    match known {
        Some(RetiredPage { state: RetireState::Pending | RetireState::Retired, .. }) => None,
        Some(page) => {
            let diagnosis = match page.diagnosis.ends_with(order.as_str()) {
                true => page.diagnosis.clone(),
                false => format_smolstr!("{}; {order}", page.diagnosis),
            };
            Some(RetiredPage { state: RetireState::Pending, diagnosis, ..page.clone() })
        }
        None => Some(RetiredPage {
            pfn,
            reason: RetireReason::Operator,
            state: RetireState::Pending,
            severity: Severity::Unknown,
            source: ErrorSource::Operator,
            since: now,
            updated: now,
            attempts: 0,
            location: Location::default(),
            dimm: None,
            epoch: None,
            diagnosis: order,
            outcome: SmolStr::default(),
        }),
    }
}

/// The entry to store for a page of another list, which this one does not have.
///
/// `updated` stays what it was there: it tells that no data was lost on this boot, so that nothing is
/// thrown away.
#[must_use]
pub fn import(page: RetiredPage, who: &str, note: &str) -> RetiredPage {
    let diagnosis = format_smolstr!("{}; imported by {who}: {note}", page.diagnosis);
    RetiredPage {
        state: RetireState::Pending,
        attempts: 0,
        diagnosis,
        outcome: SmolStr::default(),
        ..page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_page_outlives_an_order() {
        let now = Timestamp(7);
        let page = retire(None, Pfn(5), now, "root", "memtest").unwrap();
        assert_eq!(page.diagnosis, "asked for by root: memtest");
        assert_eq!(retire(Some(&page), Pfn(5), now, "root", "again"), None);

        let failed = RetiredPage { state: RetireState::Failed, attempts: 5, ..page.clone() };
        let again = retire(Some(&failed), Pfn(5), Timestamp(9), "root", "again").unwrap();
        let diagnosis = "asked for by root: memtest; asked for by root: again".into();
        let expect = RetiredPage { state: RetireState::Pending, diagnosis, ..failed.clone() };
        assert_eq!(again, expect);
        let failed_again = RetiredPage { state: RetireState::Failed, ..again.clone() };
        let twice = retire(Some(&failed_again), Pfn(5), Timestamp(9), "root", "again");
        assert_eq!(twice, Some(again), "a script that tries for ever adds nothing");

        let imported = import(failed, "root", "old host");
        assert_eq!((imported.state, imported.updated), (RetireState::Pending, now));
        assert_eq!(imported.diagnosis, "asked for by root: memtest; imported by root: old host");
    }
}
