//! The rules as stories, and the promises that hold for any sequence of errors.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{
    Action, AddressMode, ErrorAddress, ErrorClass, Health, HostView, OfflineMode, PfnRange,
    PhysAddr, RecordFlags, plan,
};

fn record(severity: Severity, source: ErrorSource, addr: Option<u64>) -> ErrorRecord {
    ErrorRecord {
        class: ErrorClass::Memory,
        severity,
        address: addr.map(|addr| ErrorAddress {
            addr: PhysAddr(addr),
            lsb: 12,
            mode: AddressMode::Physical,
        }),
        ..ErrorRecord::new(source)
    }
}

/// A daemon without I/O: feeds records, collects what it would do.
#[derive(Default)]
struct Desk {
    state: Diagnosis,
    policy: Policy,
}

impl Desk {
    fn see(&mut self, second: u64, record: &ErrorRecord) -> Verdict {
        analyze(&mut self.state, &self.policy, record, Timestamp::from_secs(second))
    }

    fn acts(&mut self, second: u64, record: &ErrorRecord) -> Vec<Action> {
        match self.see(second, record) {
            Verdict::Fault(fault) => plan(&fault, &HostView::default()),
            _ => Vec::new(),
        }
    }
}

fn mce(severity: Severity, addr: u64) -> ErrorRecord {
    record(severity, ErrorSource::MceRecord, Some(addr))
}

fn retire(pfn: u64, how: OfflineMode, reason: RetireReason) -> Action {
    Action::RetirePages { pages: PfnRange::single(Pfn(pfn)), how, reason }
}

#[test]
fn an_uncorrected_error_retires_its_page_at_once() {
    for severity in [Severity::Deferred, Severity::Ucna, Severity::Srao, Severity::Srar] {
        let actions = Desk::default().acts(0, &mce(severity, 0x7000));
        assert_eq!(
            actions,
            [
                retire(7, OfflineMode::Hard, RetireReason::Uncorrected),
                Action::ReportHealth(Health::Yellow)
            ],
            "{severity}"
        );
    }
}

#[test]
fn the_second_corrected_error_in_a_day_retires_softly() {
    let mut desk = Desk::default();
    let error = mce(Severity::Corrected, 0x7000);
    assert_eq!(desk.see(0, &error), Verdict::Counted { pfn: Pfn(7), count: 1, limit: 2 });
    assert_eq!(
        desk.acts(3600, &error),
        [retire(7, OfflineMode::Soft, RetireReason::CorrectedThreshold)]
    );
    assert_eq!(desk.see(3601, &error), Verdict::AlreadyRetired { pfn: Pfn(7) });
}

#[test]
fn one_error_condemns_a_page_on_probation() {
    let mut desk = Desk::default();
    desk.state.mark_probation(Pfn(7));
    let error = mce(Severity::Corrected, 0x7000);
    let retired = retire(7, OfflineMode::Soft, RetireReason::CorrectedThreshold);
    assert_eq!(desk.acts(0, &error), [retired]);
    // Given back after that, it is a page like any other.
    desk.state.mark_unretired(Pfn(7));
    assert_eq!(desk.see(9, &error), Verdict::Counted { pfn: Pfn(7), count: 1, limit: 2 });
}

#[test]
fn one_event_told_by_two_sources_is_acted_on_once() {
    for severity in [Severity::Corrected, Severity::Srao] {
        let mut desk = Desk::default();
        desk.see(0, &mce(severity, 0x7000));
        for source in [ErrorSource::ApeiStatusBlock, ErrorSource::MemoryFailure] {
            let again = desk.see(1, &record(severity, source, Some(0x7000)));
            assert_eq!(again, Verdict::Duplicate { of: ErrorSource::MceRecord });
        }
    }
}

#[test]
fn no_witness_swallows_a_fatal_error() {
    let mut desk = Desk::default();
    desk.see(0, &mce(Severity::Srao, 0x7000));
    let fatal = record(Severity::Fatal, ErrorSource::Cper, Some(0x7000));
    assert!(matches!(desk.acts(0, &fatal).last(), Some(Action::EvacuateHost { .. })));
}

#[test]
fn the_second_lost_page_in_a_day_empties_the_host() {
    let mut desk = Desk::default();
    desk.acts(0, &mce(Severity::Srao, 0x7000));
    let second = desk.acts(60, &mce(Severity::Srao, 0x9000));
    assert!(
        matches!(&second[1], Action::EvacuateHost { reason } if reason.contains("2 uncorrected"))
    );
    let mut patient = Desk::default();
    patient.acts(0, &mce(Severity::Srao, 0x7000));
    let much_later = patient.acts(86_400, &mce(Severity::Srao, 0x9000));
    assert!(!much_later.iter().any(|action| matches!(action, Action::EvacuateHost { .. })));
}

#[test]
fn a_list_that_grows_too_long_empties_the_host() {
    let policy = Policy { retired_pages_max: 3, ..Policy::default() };
    let mut desk = Desk { policy, ..Desk::default() };
    for page in 0..3 {
        for _ in 0..2 {
            let actions = desk.acts(page * 10, &mce(Severity::Corrected, page << 12));
            assert!(!actions.iter().any(|action| matches!(action, Action::EvacuateHost { .. })));
        }
    }
    desk.see(100, &mce(Severity::Corrected, 3 << 12));
    let actions = desk.acts(101, &mce(Severity::Corrected, 3 << 12));
    assert!(matches!(&actions[1], Action::EvacuateHost { reason } if reason.contains("limit 3")));
}

#[test]
fn lost_data_without_an_address_still_counts_against_the_host() {
    let mut desk = Desk::default();
    let nowhere = record(Severity::Ucna, ErrorSource::MceRecord, None);
    assert_eq!(desk.acts(0, &nowhere), [Action::ReportHealth(Health::Yellow)]);
    assert!(matches!(desk.acts(1, &nowhere)[..], [Action::EvacuateHost { .. }]));
}

#[test]
fn a_corrected_cache_error_costs_no_page() {
    let mut desk = Desk::default();
    let cache = ErrorRecord { class: ErrorClass::Cache, ..mce(Severity::Corrected, 0x7000) };
    for second in 0..10 {
        assert!(matches!(desk.see(second * 10, &cache), Verdict::Noted(_)));
    }
}

#[test]
fn a_restart_forgets_neither_counts_nor_pages() {
    let mut desk = Desk::default();
    desk.see(0, &mce(Severity::Corrected, 0x7000));
    let policy = Policy::default();
    let seen = [(Pfn(7), Timestamp::from_secs(0))];
    let mut restarted = Desk { state: Diagnosis::restore(&policy, [], seen), policy };
    assert_eq!(restarted.acts(60, &mce(Severity::Corrected, 0x7000)).len(), 1);
}

fn flagged(flags: RecordFlags, error: ErrorRecord) -> ErrorRecord {
    ErrorRecord { flags, source: ErrorSource::Cper, ..error }
}

const PREVIOUS_BOOT: RecordFlags = RecordFlags { previous_boot: true, ..RecordFlags::NONE };

/// A store that outlives the boot tells an old error again at every boot: its page goes, softly, since
/// what lies there now is whole; the host stays in use.
#[test]
fn an_old_error_retires_its_page_and_does_not_empty_the_host() {
    let old = retire(7, OfflineMode::Soft, RetireReason::Uncorrected);
    for severity in [Severity::Deferred, Severity::Srao, Severity::Srar, Severity::Fatal] {
        let mut desk = Desk::default();
        let error = flagged(PREVIOUS_BOOT, mce(severity, 0x7000));
        let actions = desk.acts(0, &error);
        assert_eq!(actions, [old.clone(), Action::ReportHealth(Health::Yellow)], "{severity}");
        assert_eq!(desk.see(60, &error), Verdict::AlreadyRetired { pfn: Pfn(7) });
    }
    // By where they come from, where nothing else says so.
    let bert = record(Severity::Fatal, ErrorSource::Bert, Some(0x7000));
    assert_eq!(Desk::default().acts(0, &bert)[0], old);
    let erst = record(Severity::Fatal, ErrorSource::Erst, Some(0x7000));
    assert_eq!(Desk::default().acts(0, &erst)[0], old);
    // Without a page there is nothing to take out of use.
    let nowhere = record(Severity::Fatal, ErrorSource::Bert, None);
    let mut desk = Desk::default();
    for second in 0..5 {
        assert_eq!(desk.acts(second, &nowhere), [Action::ReportHealth(Health::Yellow)]);
    }
}

#[test]
fn old_errors_weigh_at_their_own_time_and_never_decide() {
    const HOUR: u64 = 3600;
    let evacuates = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::EvacuateHost { .. }))
    };
    let old = |page: u64, hour: Option<u64>| ErrorRecord {
        time: hour.map(|hour| Timestamp::from_secs(hour * HOUR)),
        ..flagged(PREVIOUS_BOOT, mce(Severity::Srao, page << 12))
    };
    for (times, empties) in
        [([Some(99), Some(99)], true), ([Some(1), Some(2)], false), ([None, None], false)]
    {
        let mut desk = Desk::default();
        for (page, time) in (1..).zip(times) {
            assert!(!evacuates(&desk.acts(100 * HOUR, &old(page, time))), "{times:?}");
        }
        let new = desk.acts(100 * HOUR, &mce(Severity::Srao, 0x9000));
        assert_eq!(evacuates(&new), empties, "{times:?}");
        assert!(new.contains(&retire(9, OfflineMode::Hard, RetireReason::Uncorrected)));
    }
    // A clock that ran ahead does not make room for more errors of this boot.
    let mut desk = Desk::default();
    desk.acts(100 * HOUR, &mce(Severity::Srao, 0x9000));
    desk.acts(100 * HOUR, &old(1, Some(1_000_000)));
    assert!(evacuates(&desk.acts(101 * HOUR, &mce(Severity::Srao, 0xa000))));
}

#[test]
fn an_old_record_swallows_no_new_error() {
    let mut desk = Desk::default();
    let old = flagged(PREVIOUS_BOOT, mce(Severity::Corrected, 0x7000));
    desk.see(0, &old);
    let new = desk.see(1, &mce(Severity::Corrected, 0x7000));
    assert_eq!(new, Verdict::Counted { pfn: Pfn(7), count: 1, limit: 2 });
    // One old error, kept by two stores.
    let at = |source| ErrorRecord { time: Some(Timestamp::from_secs(5)), source, ..old.clone() };
    desk.see(60, &at(ErrorSource::Bert));
    let again = desk.see(90, &at(ErrorSource::Erst));
    assert_eq!(again, Verdict::Duplicate { of: ErrorSource::Bert });
}

#[test]
fn simulated_errors_cost_no_memory() {
    let simulated = RecordFlags { simulated: true, ..RecordFlags::NONE };
    let mut desk = Desk::default();
    for severity in [Severity::Corrected, Severity::Srar, Severity::Fatal] {
        let error = flagged(simulated, mce(severity, 0x7000));
        assert_eq!(desk.see(0, &error), Verdict::Simulated);
        let old = flagged(RecordFlags { previous_boot: true, ..simulated }, error);
        assert_eq!(desk.see(0, &old), Verdict::Simulated);
    }
    // A real error on the same page is neither a witness of them nor expected.
    let real = desk.acts(0, &mce(Severity::Srar, 0x7000));
    assert_eq!(real[0], retire(7, OfflineMode::Hard, RetireReason::Uncorrected));
}

#[test]
fn firmware_that_counted_itself_is_believed() {
    let over = RecordFlags { threshold_exceeded: true, ..RecordFlags::NONE };
    let soft = [retire(7, OfflineMode::Soft, RetireReason::CorrectedThreshold)];
    let error = flagged(over, mce(Severity::Corrected, 0x7000));
    assert_eq!(Desk::default().acts(0, &error), soft);
    let old = flagged(RecordFlags { previous_boot: true, ..over }, error.clone());
    assert_eq!(Desk::default().acts(0, &old), soft);
    // A cache over its threshold, or a place that is no page, costs none.
    let cache = ErrorRecord { class: ErrorClass::Cache, ..error.clone() };
    assert!(matches!(Desk::default().see(0, &cache), Verdict::Noted(_)));
    let nowhere = ErrorRecord { address: None, ..error };
    assert!(matches!(Desk::default().see(0, &nowhere), Verdict::Noted(_)));
}

fn any_record() -> impl Strategy<Value = ErrorRecord> {
    let severity = prop_oneof![
        Just(Severity::Corrected),
        Just(Severity::Srao),
        Just(Severity::Fatal),
        Just(Severity::Unknown),
        Just(Severity::Informational)
    ];
    let source = prop_oneof![Just(ErrorSource::MceRecord), Just(ErrorSource::Cper)];
    let addr = prop_oneof![
        Just(None),
        (0u64..8).prop_map(|page| Some(page << 12)),
        any::<u64>().prop_map(Some)
    ];
    (severity, source, addr, 0u8..64, any::<u32>()).prop_map(
        |(severity, source, addr, lsb, count)| {
            let mut record = record(severity, source, addr);
            record.count = count;
            if let Some(address) = &mut record.address {
                address.lsb = lsb;
            }
            record
        },
    )
}

/// A module that fails everywhere: memory stays bounded, each error stays cheap (at one search through
/// all pages for each, this would take minutes), and the newest pages are still counted.
#[test]
fn a_storm_over_many_pages_is_bounded() {
    const PAGES: u64 = 2 * Diagnosis::PAGES_MAX as u64;
    let mut desk = Desk::default();
    for page in 0..PAGES {
        let error = record(Severity::Corrected, ErrorSource::MceRecord, Some(page << 12));
        desk.see(page / 1000, &error);
        assert!(desk.state.pages.len() <= Diagnosis::PAGES_MAX);
    }
    assert!(desk.state.pages.len() > Diagnosis::PAGES_MAX / 2);
    let newest = record(Severity::Corrected, ErrorSource::MceRecord, Some((PAGES - 1) << 12));
    assert!(matches!(desk.see(PAGES / 1000, &newest), Verdict::Fault(_)));
}

proptest! {
    /// Whatever arrives in whatever order: no panic, no page condemned twice, and the same input
    /// gives the same verdicts.
    #[test]
    fn any_sequence_is_safe_and_deterministic(
        errors in prop::collection::vec((any_record(), any::<u64>()), 0..60)
    ) {
        let run = || {
            let mut desk = Desk::default();
            errors
                .iter()
                .map(|(error, time)| analyze(&mut desk.state, &desk.policy, error, Timestamp(*time)))
                .collect::<Vec<_>>()
        };
        let verdicts = run();
        prop_assert_eq!(&verdicts, &run());
        let mut condemned = alloc::collections::BTreeSet::new();
        for verdict in &verdicts {
            if let Verdict::Fault(Fault { mode: FaultMode::Pages(pages), .. }) = verdict {
                let fresh = pages.iter().filter(|pfn| condemned.insert(*pfn)).count();
                prop_assert!(fresh > 0, "a fault that condemns nothing new");
            }
        }
    }
}
