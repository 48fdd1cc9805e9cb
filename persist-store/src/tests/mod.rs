//! The crash suite: one script of appends, and everything that can go wrong around it.
//!
//! The medium is simulated ([`crate::backend::simulated`]), so that power can go at every call and
//! leave any subset of the unsynced sectors, every byte can be flipped, and every call can fail.

use std::path::Path;
use std::sync::Arc;

use ras_core::{
    Dimm, DimmIdentity, DimmLocation, ErrorSource, Evacuation, Health, Location, MapEpoch,
    NodeState, PciAddress, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};
use ras_store_format::{Change, ChangeKind, Entry, Geometry, State};

use crate::StoreError;
use crate::backend::simulated::Simulated;
use crate::journal::{Journal, Limits};
use crate::recovery::{self, Recovery};

mod backends;
mod crash;
mod damage;
mod errors;
mod files;
mod growth;
mod reconcile;
pub(crate) mod suite;
mod versions;

/// Segments of four blocks and early compaction: a short script meets every rule.
const SMALL: Limits =
    Limits { geometry: Geometry::new(4).unwrap(), compact_blocks_min: 6, size_max: 1 << 20 };

fn dir() -> &'static Path {
    Path::new("/simulated")
}

fn open(disk: &Simulated) -> Result<(Journal<Simulated>, Recovery), StoreError> {
    recovery::open(disk.clone(), dir(), SMALL, Timestamp(7))
}

pub(crate) fn time(number: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + number)
}

pub(crate) fn page(number: u64, state: RetireState) -> Entry {
    Entry::Page(Box::new(RetiredPage {
        pfn: Pfn(0x12_3000 + number),
        reason: RetireReason::Uncorrected,
        state,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: time(number),
        updated: time(number + 1),
        attempts: 2,
        location: Location {
            socket: Some(1),
            channel: Some(3),
            dimm: DimmLocation { rank: Some(0), row: Some(0x1_2345), ..DimmLocation::default() },
            fru: Some("DIMM_B2".into()),
            ..Location::default()
        },
        dimm: None,
        epoch: None,
        diagnosis: "uncorrected error found by the patrol scrubber".into(),
        outcome: "offline; vm1 gave the block up".into(),
    }))
}

/// A page of which everything is known.
fn placed(number: u64, state: RetireState) -> Entry {
    let Entry::Page(mut page) = page(number, state) else { unreachable!() };
    page.location.imc = Some(2);
    page.location.dimm.chip = Some(1);
    page.location.pci = Some(PciAddress { segment: 0, bus: 0x7f, device: 10, function: 1 });
    page.epoch = Some(MapEpoch(0x1234));
    page.dimm = Some(Arc::new(Dimm {
        identity: DimmIdentity::new("Maker", "PART-1", "03A1B2C3"),
        locator: "DIMM_B2".into(),
        bank_locator: "NODE 1".into(),
        size: 32 << 30,
    }));
    Entry::Page(page)
}

fn change(number: u64, kind: ChangeKind) -> Entry {
    Entry::Changed(Change {
        pfn: Pfn(0x12_3000 + number),
        since: time(number),
        time: time(number + 5),
        kind,
        logged: true,
        who: "rule".into(),
        note: "why".into(),
    })
}

pub(crate) fn unretired(number: u64) -> Entry {
    Entry::Unretired {
        pfn: Pfn(0x12_3000 + number),
        time: time(number),
        who: "operator".into(),
        note: "the module was replaced".into(),
    }
}

fn observed(number: u64) -> Entry {
    Entry::Observed { pfn: Pfn(0x12_3100 + number % 3), time: time(number) }
}

fn node(number: u64) -> Entry {
    Entry::Node(NodeState {
        health: Health::Yellow,
        evacuation: Evacuation::Pending { guest: Some("vm1".into()) },
        reason: "a page was lost".into(),
        since: time(number),
    })
}

/// Every kind of entry; single blocks, a commit of several blocks over a segment's end, growth and
/// compaction.
fn script() -> Vec<Vec<Entry>> {
    let mut script = vec![
        vec![page(1, RetireState::Pending)],
        vec![page(1, RetireState::Retired), node(1)],
        vec![observed(1)],
        (10..40).map(|number| page(number, RetireState::Pending)).collect(),
        vec![unretired(10)],
        vec![observed(2), observed(3)],
    ];
    script.extend((10..24).map(|number| vec![page(number, RetireState::Retired)]));
    script.push(vec![unretired(11), page(2, RetireState::Failed)]);
    script.push(vec![placed(3, RetireState::Pending), placed(4, RetireState::Retired)]);
    script.push(vec![change(3, ChangeKind::Expired), change(4, ChangeKind::Probation)]);
    script.push(vec![change(3, ChangeKind::Reinstated), change(4, ChangeKind::Stale)]);
    script
}

/// `state` after `entries`, as the disk would hold them.
pub(crate) fn applied(state: &State, entries: &[Entry]) -> State {
    let mut state = state.clone();
    entries.iter().cloned().for_each(|entry| state.apply(entry));
    state
}
