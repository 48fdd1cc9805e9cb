//! What firmware reads and writes: fixed bytes of version 1, bytes from anywhere, and the plan.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ras_core::{
    ErrorSource, Location, Pfn, PfnRange, RetireReason, RetireState, RetiredPage, Severity,
    Timestamp,
};
use ras_store_format::exclusion::{
    BadRange, Badness, Clock, CopyState, DETAILS_MAX, Detail, ENTRIES_MAX, ENTRY_PAGES_MAX,
    FILLER_PAGES_MAX, Fate, GAP_PAGES_MAX, HEADER_SIZE, LIST_SIZE_MAX, LeftOver, Limits, List,
    ListDamage, OUTCOME_SIZE_MAX, Outcome, OutcomeDamage, Plan, Times, choose, flatten, place,
    plan, plan_with_room, total, union,
};

fn range(start: u64, count: u64, badness: Badness) -> BadRange {
    BadRange { pages: PfnRange { start: Pfn(start), count }, badness }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one order of pages, and that no reason's worst reaches the next reason.
#[test]
fn the_reason_counts_before_being_stuck_and_that_before_the_severity() {
    let worth = |reason, state, severity| {
        Badness::of(&RetiredPage {
            pfn: Pfn(1),
            reason,
            state,
            severity,
            source: ErrorSource::MceRecord,
            since: Timestamp(0),
            updated: Timestamp(0),
            attempts: 0,
            location: Location::default(),
            dimm: None,
            epoch: None,
            diagnosis: String::new().into(),
            outcome: String::new().into(),
        })
    };
    use RetireReason::{CorrectedThreshold, Operator, Uncorrected};
    use RetireState::{Failed, Pending, Retired};
    let rising = [
        worth(CorrectedThreshold, Retired, Severity::Corrected),
        worth(CorrectedThreshold, Failed, Severity::Corrected),
        worth(CorrectedThreshold, Failed, Severity::Fatal),
        worth(Operator, Retired, Severity::Unknown),
        worth(Operator, Failed, Severity::Fatal),
        worth(Uncorrected, Retired, Severity::Deferred),
        worth(Uncorrected, Retired, Severity::Srao),
        worth(Uncorrected, Pending, Severity::Srar),
        worth(Uncorrected, Failed, Severity::Ucna),
        worth(Uncorrected, Failed, Severity::Fatal),
    ];
    assert!(rising.is_sorted_by(|low, high| low < high), "{rising:?}");
    assert_eq!(rising[0], Badness::CORRECTED);
    assert_eq!(worth(Uncorrected, Pending, Severity::Unknown), Badness::UNCORRECTED);
}

fn small_list() -> List {
    List {
        generation: 7,
        map_epoch: 0x1122_3344_5566_7788,
        limits: Limits { ranges_max: 150, bytes_max: 1 << 20 },
        left_over: LeftOver { ranges: 2, pages: 3 },
        ranges: vec![
            range(0x12_3456, 1, Badness::UNCORRECTED),
            range(0xff_ffff_0000, 0x1_0000, Badness::ROW),
        ],
    }
}

fn small_outcome() -> Outcome {
    Outcome {
        source: Some(3),
        copies: [CopyState::Damaged, CopyState::Absent, CopyState::OtherVersion, CopyState::Sound],
        generation: 7,
        map_epoch: 8,
        listed_ranges: 9,
        listed_pages: 10,
        excluded_ranges: 11,
        excluded_pages: 12,
        filler_pages: 13,
        handed_over_pages: 14,
        kept_pages: 15,
        absent_pages: 16,
        refused_pages: 17,
        left_over: LeftOver { ranges: 18, pages: 19 },
        out_of_time: false,
        limited: true,
        times: Times { clock: Clock::Tsc, total_us: 20, read_us: 21, exclude_us: 22 },
        details: vec![Detail {
            pages: PfnRange { start: Pfn(0x9f), count: 2 },
            fate: Fate::HandedOver,
        }],
    }
}

/// Version 1 for good: a driver in some machine's firmware is older than the list it reads, and an
/// outcome is older than the `rasd` that reads it.
#[test]
fn bytes_of_version_1() {
    let expect = [
        "524153584c495354", // "RASXLIST"
        "SUM.....",
        "0100",
        "0000",
        "50000000", // 80 bytes
        "4000",     // entries from byte 64
        "0000",
        "0700000000000000", // generation
        "8877665544332211", // map epoch
        "96000000",         // 150 ranges
        "02000000",         // left over by the writer: ranges
        "0000100000000000", // 1 MiB
        "0300000000000000", // left over by the writer: pages
        "56341200000000e0", // one page, uncorrected
        "0000ffffffffffa0", // 65536 pages up to the last, a row
    ]
    .concat();
    let bytes = small_list().encode().unwrap();
    assert_eq!(hex(&bytes).replace(&hex(&bytes[8..12]), "SUM....."), expect);
    assert_eq!(hex(&bytes[8..12]), "9dfe065d");

    let expect = [
        "52415358444f4e45", // "RASXDONE"
        "SUM.....",
        "0100",
        "0000",
        "90000000", // 144 bytes
        "8800",     // details from byte 136
        "0200",     // limited
        "04",       // place 3
        "02",       // TSC
        "0000",
        "02000301",
        "0700000000000000",
        "0800000000000000",
        "0a00000000000000",
        "0c00000000000000",
        "0d00000000000000",
        "0e00000000000000",
        "0f00000000000000",
        "1000000000000000",
        "1100000000000000",
        "1300000000000000",
        "09000000",
        "0b000000",
        "12000000",
        "14000000",
        "15000000",
        "16000000",
        "9f00000000010001", // two pages, handed over
    ]
    .concat();
    let bytes = small_outcome().encode();
    assert_eq!(hex(&bytes).replace(&hex(&bytes[8..12]), "SUM....."), expect);
    assert_eq!(hex(&bytes[8..12]), "017e8fd5");
}

#[test]
fn the_newest_sound_copy_is_the_list() {
    let copy = |generation| List { generation, ..small_list() }.encode().unwrap();
    let (old, new) = (copy(6), copy(7));
    let place = |copies: [Option<&[u8]>; 3]| choose(copies).chosen.map(|(place, _)| place);
    assert_eq!(place([Some(&old), Some(&new), None]), Some(1));
    assert_eq!(place([Some(&new), Some(&old), None]), Some(0));
    assert_eq!(place([Some(&new), None, Some(&new)]), Some(0), "the first of equally new ones");
    assert_eq!(place([None, None, None]), None);

    let mut torn = new.clone();
    torn[70] ^= 1;
    let choice = choose([Some(&torn[..]), Some(&old), Some(&[])]);
    assert_eq!(choice.chosen.map(|(place, list)| (place, list.generation)), Some((1, 6)));
    assert_eq!(choice.damaged, [(0, ListDamage::Checksum), (2, ListDamage::NoList)]);
}

/// Puts a right checksum over changed bytes: what a newer writer, or a mistaken one, would leave.
fn resealed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    let length = u32::try_from(bytes.len()).expect("a short list");
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    let checksum = ras_store_format::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn newer_versions_are_told_from_damage() {
    let bytes = small_list().encode().unwrap();
    let major = resealed(bytes.clone(), |bytes| bytes[12] = 2);
    assert_eq!(List::decode(&major), Err(ListDamage::Version(2)));
    // A newer minor version may have a longer header; what this one knows stays where it is.
    let minor = resealed(bytes.clone(), |bytes| {
        bytes[14] = 9;
        bytes[20] = 72;
        for _ in 0..8 {
            bytes.insert(64, 0xaa);
        }
    });
    assert_eq!(List::decode(&minor), Ok(small_list()));
    for (header_size, what) in [(63, "less than this version's"), (81, "beyond the end")] {
        let wrong = resealed(bytes.clone(), |bytes| bytes[20] = header_size);
        assert_eq!(List::decode(&wrong), Err(ListDamage::Checksum), "{what}");
    }
    let odd = resealed(bytes, |bytes| bytes.push(0));
    assert_eq!(List::decode(&odd), Err(ListDamage::Checksum), "not whole entries");

    let outcome = small_outcome().encode();
    let major = resealed(outcome.clone(), |bytes| bytes[12] = 2);
    assert_eq!(Outcome::decode(&major), Err(OutcomeDamage::Version(2)));
    let minor = resealed(outcome, |bytes| {
        bytes[20] = 137;
        bytes.insert(136, 0xaa);
        bytes[25] = 77;
    });
    let read = Outcome::decode(&minor).unwrap();
    assert_eq!(read.times.clock, Clock::Other(77));
    assert_eq!(read.details, small_outcome().details);
}

#[test]
fn every_flipped_bit_is_found() {
    let (list, outcome) = (small_list().encode().unwrap(), small_outcome().encode());
    for bit in 0..list.len() * 8 {
        let mut damaged = list.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(List::decode(&damaged).is_err(), "bit {bit}");
    }
    for bit in 0..outcome.len() * 8 {
        let mut damaged = outcome.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Outcome::decode(&damaged), Err(OutcomeDamage::Damaged), "bit {bit}");
    }
    for length in 0..list.len() {
        assert!(List::decode(&list[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn long_ranges_become_entries_and_long_lists_are_refused() {
    let long = List {
        ranges: vec![range(0x1000, 2 * ENTRY_PAGES_MAX + 5, Badness::ROW)],
        ..List::default()
    };
    let bytes = long.encode().unwrap();
    assert_eq!(bytes.len(), HEADER_SIZE + 3 * 8);
    let read = List::decode(&bytes).unwrap();
    assert_eq!(
        plan(&read.ranges, Limits { bytes_max: u64::MAX, ranges_max: 0 }).ranges,
        long.ranges
    );

    let pages = |count: u64| List {
        ranges: (0..count).map(|n| range(2 * n, 1, Badness::ROW)).collect(),
        ..List::default()
    };
    let most = pages(ENTRIES_MAX as u64);
    assert_eq!(most.encode().unwrap().len(), LIST_SIZE_MAX);
    assert_eq!(List::decode(&most.encode().unwrap()), Ok(most));
    assert!(pages(ENTRIES_MAX as u64 + 1).encode().is_err());
    for beyond in [range(1 << 40, 1, Badness::ROW), range(u64::MAX, u64::MAX, Badness::ROW)] {
        assert!(List { ranges: vec![beyond], ..List::default() }.encode().is_err());
    }
}

#[test]
fn an_outcome_is_bounded() {
    let detail = Detail { pages: PfnRange { start: Pfn(1), count: 1 }, fate: Fate::Kept };
    let outcome = Outcome { details: vec![detail; DETAILS_MAX + 1], ..Outcome::default() };
    let bytes = outcome.encode();
    assert_eq!(bytes.len(), OUTCOME_SIZE_MAX);
    assert_eq!(Outcome::decode(&bytes).unwrap().details.len(), DETAILS_MAX);
}

#[test]
fn names_fit_where_they_go() {
    let parts: Vec<&str> = place::VENDOR.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert!(place::DRIVER_FILE.ends_with("x64.efi"), "systemd-boot looks for that");
    // The list of a plan at the default limit fits into a variable.
    const { assert!(HEADER_SIZE + Limits::RANGES_DEFAULT as usize * 8 <= place::VARIABLE_SIZE_MAX) };
}

const UE: Badness = Badness::UNCORRECTED;
const CE: Badness = Badness::CORRECTED;

fn limits(ranges_max: u32) -> Limits {
    Limits { ranges_max, bytes_max: 0 }
}

/// The frames of a plan, first and last.
fn spans(plan: &Plan) -> Vec<(u64, u64)> {
    plan.ranges.iter().map(|range| (range.pages.start.0, range.end() - 1)).collect()
}

fn left(plan: &Plan) -> Vec<u64> {
    plan.left_over.iter().flat_map(|run| run.iter()).map(|pfn| pfn.0).collect()
}

#[test]
fn neighbours_are_one_range_and_nothing_is_given_away_below_the_limit() {
    let listed: Vec<_> = [9, 4, 5, 7, 4].map(|pfn| range(pfn, 1, CE)).into();
    let plan = plan(&listed, limits(3));
    assert_eq!(spans(&plan), [(4, 5), (7, 7), (9, 9)]);
    assert_eq!((plan.bad_pages, plan.filler_pages, plan.left_over().pages), (4, 0, 0));
}

#[test]
fn at_the_limit_the_smallest_gaps_are_given_away() {
    let listed: Vec<_> = [10, 12, 20, 100, 1000].map(|pfn| range(pfn, 1, CE)).into();
    let four = plan(&listed, limits(4));
    assert_eq!(spans(&four), [(10, 12), (20, 20), (100, 100), (1000, 1000)]);
    assert_eq!((four.bad_pages, four.filler_pages), (5, 1));
    let three = plan(&listed, limits(3));
    assert_eq!(spans(&three), [(10, 20), (100, 100), (1000, 1000)]);
    assert_eq!((three.bad_pages, three.filler_pages), (5, 8));
    // 100 and 1000 are further away than anybody gives away.
    let two = plan(&listed, limits(2));
    assert_eq!((spans(&two), left(&two)), (vec![(10, 20), (100, 100)], vec![1000]));
    assert_eq!(two.left_over(), LeftOver { ranges: 1, pages: 1 });
}

#[test]
fn the_worst_come_first_and_their_neighbours_come_for_free() {
    let listed = [
        range(100, 1, CE),
        range(200, 34, Badness::ROW),
        range(234, 1, CE), // touches the row
        range(300, 1, UE),
        range(310, 1, CE), // near the uncorrected one
        range(900, 1, Badness::HARD),
    ];
    let plan = plan(&listed, limits(3));
    assert_eq!(spans(&plan), [(200, 234), (300, 310), (900, 900)]);
    assert_eq!(plan.ranges[0].badness, Badness::ROW);
    assert_eq!(plan.ranges[1].badness, UE);
    assert_eq!(left(&plan), [100]);
    assert_eq!((plan.bad_pages, plan.filler_pages), (38, 9));
}

/// Three bad pages of one row take three ranges first; the rest of the row joins them, and what is
/// freed goes to the worst page that had none.
#[test]
fn ranges_that_are_freed_are_used_again() {
    let mut listed = vec![range(0x500, 1, Badness::HARD), range(0x600, 1, CE)];
    listed.extend([0x100, 0x110, 0x120].map(|pfn| range(pfn, 1, UE)));
    listed.push(range(0x100, 0x21, Badness::ROW));
    let plan = plan(&listed, limits(3));
    assert_eq!(spans(&plan), [(0x100, 0x120), (0x500, 0x500), (0x600, 0x600)]);
    assert_eq!((plan.bad_pages, plan.filler_pages), (0x23, 0));
}

#[test]
fn memory_is_limited_too() {
    let listed = [range(0, 100, CE), range(1000, 1, UE), range(2000, 50, Badness::ROW)];
    let plan = plan(&listed, Limits { ranges_max: 0, bytes_max: 60 * 4096 });
    assert_eq!(spans(&plan), [(0, 8), (1000, 1000), (2000, 2049)]);
    assert_eq!(plan.left_over, [PfnRange { start: Pfn(9), count: 91 }]);
}

#[test]
fn limits_have_bounds_of_their_own() {
    let asked = Limits { ranges_max: u32::MAX, bytes_max: u64::MAX };
    assert_eq!(asked.bounded().ranges_max, Limits::RANGES_MAX);
    assert_eq!(Limits::default().bounded().ranges_max, 200);
    assert_eq!(asked.bounded_by_memory(1 << 30).bytes_max, 64 << 20);
    assert_eq!(Limits::default().bounded_by_memory(1 << 40).bytes_max, 256 << 20);
    let scattered: Vec<_> = (0..10_000).map(|n| range(n * 100, 1, CE)).collect();
    assert_eq!(plan(&scattered, asked).ranges.len(), Limits::RANGES_MAX as usize);
}

/// Some pages a boot would be given: 10,000 scattered ones, 10 of them with lost data.
#[test]
fn ten_thousand_scattered_pages() {
    let mut listed: Vec<_> = (0..10_000).map(|n| range(0x1000 + n * 37, 1, CE)).collect();
    for place in (0..10_000).step_by(1000) {
        listed[place].badness = UE;
    }
    let plan = plan(&listed, Limits::default());
    assert_eq!(plan.ranges.len(), 200);
    assert_eq!((plan.bad_pages, plan.filler_pages), (200, 0), "gaps of 36 pages are kept");
    assert_eq!(plan.left_over(), LeftOver { ranges: 9_800, pages: 9_800 });
    assert_eq!(plan.ranges.iter().filter(|range| range.badness == UE).count(), 10);
}

fn any_range() -> impl Strategy<Value = BadRange> {
    let badness = prop_oneof![Just(UE), Just(Badness::ROW), Just(CE), Just(Badness(1))];
    let start = prop_oneof![0..300u64, 0..5000u64];
    (start, prop_oneof![Just(1u64), 0..20u64], badness)
        .prop_map(|(start, count, badness)| range(start, count, badness))
}

fn frames<'a>(ranges: impl IntoIterator<Item = &'a PfnRange>) -> BTreeSet<u64> {
    ranges.into_iter().flat_map(|range| range.iter()).map(|pfn| pfn.0).collect()
}

proptest! {
    #[test]
    fn lists_and_outcomes_there_and_back(
        ranges in proptest::collection::vec(any_range(), 0..50),
        numbers in any::<[u64; 8]>(),
        small in any::<[u32; 6]>(),
        codes in any::<[u8; 4]>(),
    ) {
        let ranges: Vec<_> = ranges.into_iter().filter(|range| range.pages.count > 0).collect();
        let limits = Limits { ranges_max: small[0], bytes_max: numbers[2] };
        let left_over = LeftOver { ranges: small[1], pages: numbers[3] };
        let list = List { generation: numbers[0], map_epoch: numbers[1], limits, left_over, ranges };
        prop_assert_eq!(List::decode(&list.encode().unwrap()), Ok(list));

        let outcome = Outcome {
            source: (codes[0] != 0).then(|| codes[0] - 1),
            generation: numbers[0],
            excluded_pages: numbers[1],
            refused_pages: numbers[2],
            left_over,
            out_of_time: codes[1] & 1 != 0,
            limited: codes[1] & 2 != 0,
            excluded_ranges: small[2],
            ..small_outcome()
        };
        prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
    }

    /// Whatever is listed: a kernel finds room where there is any, and every page is accounted for.
    #[test]
    fn there_is_always_room(
        listed in proptest::collection::vec((0..0x8000_u64, 1..40_u64, any::<u8>()), 0..300),
        pieces in proptest::collection::vec((1..200_u64, 1..4000_u64), 0..6),
    ) {
        let listed: Vec<_> =
            listed.into_iter().map(|(at, count, bad)| range(at, count, Badness(bad))).collect();
        let mut at = 0;
        let free: Vec<PfnRange> = pieces
            .into_iter()
            .map(|(gap, count)| {
                let start = Pfn(at + gap);
                at = start.0 + count;
                PfnRange { start, count }
            })
            .collect();
        let made = plan_with_room(&listed, Limits::default(), &free);
        let taken: Vec<PfnRange> = made.ranges.iter().map(|range| range.pages).collect();
        let all: BTreeSet<u64> = union(&listed).iter().flat_map(|run| run.iter()).map(|p| p.0).collect();
        let planned: BTreeSet<u64> = taken.iter().flat_map(|run| run.iter()).map(|p| p.0).collect();
        let left: BTreeSet<u64> = made.left_over.iter().flat_map(|run| run.iter()).map(|p| p.0).collect();
        prop_assert_eq!(&all - &planned, left);
        prop_assert_eq!(made.bad_pages + total(&made.left_over), all.len() as u64);
        prop_assert_eq!(made.bad_pages + made.filler_pages, planned.len() as u64);
        let longest = |region: &PfnRange| {
            let (mut longest, mut run) = (0, 0);
            for pfn in region.iter() {
                run = if planned.contains(&pfn.0) { 0 } else { run + 1 };
                longest = longest.max(run);
            }
            longest
        };
        if let Some(largest) = free.iter().map(|region| region.count).max() {
            prop_assert!(free.iter().map(longest).max() >= Some((largest / 4).max(1)));
        } else {
            prop_assert_eq!(made, plan(&listed, Limits::default()));
        }
    }

    #[test]
    fn bytes_from_anywhere_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        magic in 0..3,
    ) {
        let mut bytes = bytes;
        if let (Some(start), 1..) = (bytes.get_mut(..8), magic) {
            start.copy_from_slice(if magic == 1 { b"RASXLIST" } else { b"RASXDONE" });
        }
        let _ = List::decode(&bytes);
        let _ = Outcome::decode(&bytes);
        if bytes.len() >= 20 {
            let bytes = resealed(bytes, |_| ());
            if let Ok(list) = List::decode(&bytes) {
                let _ = plan(&list.ranges, list.limits);
            }
            let _ = Outcome::decode(&bytes);
        }
    }

    #[test]
    fn flat_ranges_hold_every_page_once_at_its_worst(
        listed in proptest::collection::vec(any_range(), 0..60),
    ) {
        let worst = |ranges: &[BadRange]| {
            let mut pages = std::collections::BTreeMap::new();
            for range in ranges {
                for pfn in range.pages.iter() {
                    let known = pages.entry(pfn).or_insert(range.badness);
                    *known = range.badness.max(*known);
                }
            }
            pages
        };
        let flat = flatten(&listed);
        prop_assert_eq!(worst(&flat), worst(&listed));
        prop_assert!(flat.len() <= 2 * listed.len());
        for pair in flat.windows(2) {
            let next = pair[1].pages.start.0;
            prop_assert!(pair[0].end() < next || pair[0].end() == next && pair[0].badness != pair[1].badness);
        }
        for pair in union(&listed).windows(2) {
            prop_assert!(pair[0].start.0 + pair[0].count < pair[1].start.0);
        }
        prop_assert_eq!(frames(&union(&listed)), frames(listed.iter().map(|range| &range.pages)));
    }

    #[test]
    fn a_plan_keeps_its_promises(
        mut listed in proptest::collection::vec(any_range(), 0..120),
        ranges_max in 1..40u32,
        pages_max in prop_oneof![Just(1u64 << 40), 1..400u64],
        seed in any::<u64>(),
    ) {
        let limits = Limits { ranges_max, bytes_max: pages_max * 4096 };
        let plan = plan(&listed, limits);
        let taken = frames(plan.ranges.iter().map(|range| &range.pages));
        let bad = frames(listed.iter().map(|range| &range.pages));

        // Nothing is lost, nothing counted twice.
        let left = frames(&plan.left_over);
        prop_assert_eq!(&left, &bad.difference(&taken).copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(plan.bad_pages, bad.intersection(&taken).count() as u64);
        prop_assert_eq!(plan.filler_pages, taken.difference(&bad).count() as u64);
        prop_assert_eq!(taken.len() as u64, plan.bad_pages + plan.filler_pages);

        // The limits, all of them.
        prop_assert!(plan.ranges.len() <= ranges_max as usize);
        prop_assert!(taken.len() as u64 <= pages_max);
        prop_assert!(plan.filler_pages <= FILLER_PAGES_MAX);
        for pair in plan.ranges.windows(2) {
            prop_assert!(pair[0].end() < pair[1].pages.start.0, "apart and ascending");
        }
        // What was given away lies in gaps between listed pages, none of them long.
        let filler: Vec<u64> = taken.difference(&bad).copied().collect();
        let longest = filler.chunk_by(|a, b| a + 1 == *b).map(<[u64]>::len).max().unwrap_or(0);
        prop_assert!(longest as u64 <= GAP_PAGES_MAX, "{longest}");
        // Below the limit nothing is given away.
        let runs = bad.iter().filter(|pfn| **pfn == 0 || !bad.contains(&(**pfn - 1))).count();
        if runs <= ranges_max as usize && bad.len() as u64 <= pages_max {
            prop_assert_eq!((plan.filler_pages, left.len()), (0, 0));
        }
        // Worst first: where memory is not the limit, no page is left that is worse than a range.
        if pages_max == 1 << 40 {
            let worst_left = listed
                .iter()
                .filter(|range| range.pages.iter().any(|pfn| left.contains(&pfn.0)))
                .map(|range| range.badness)
                .max();
            let mildest = plan.ranges.iter().map(|range| range.badness).min();
            if let (Some(left), Some(taken)) = (worst_left, mildest) {
                prop_assert!(left <= taken, "{left:?} is left, {taken:?} taken");
            }
        }
        // The order of the list does not matter.
        let length = listed.len().max(1);
        listed.rotate_left(usize::try_from(seed % length as u64).unwrap());
        prop_assert_eq!(ras_store_format::exclusion::plan(&listed, limits), plan);
    }
}
