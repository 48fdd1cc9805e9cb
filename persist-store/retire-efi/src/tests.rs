use alloc::collections::BTreeSet;
use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;

use ras_core::{Pfn, PfnRange};
use ras_store_format::exclusion::{
    BadRange, Badness, Clock, CopyState, Detail, Fate, LeftOver, Limits, List, Outcome, Times,
};

use super::{
    ATTEMPTS_MAX, DEADLINE_US, Firmware, Found, HAND_OVER_MAX, Kind, Map, Region, Summary, run,
};

/// A firmware with a map, a mind of its own and a clock.
struct Fake {
    copies: [Found; 4],
    map: Option<Vec<Region>>,
    /// What the map becomes at the first refusal.
    later: Option<Vec<Region>>,
    /// Pages it refuses, whatever its map says.
    refuses: BTreeSet<u64>,
    excluded: BTreeSet<u64>,
    /// Ranges as they were asked for.
    asked: Vec<PfnRange>,
    handed_over: Vec<PfnRange>,
    takes_hand_over: bool,
    now: u64,
    us_per_call: u64,
    has_clock: bool,
}

fn region(start: u64, count: u64, kind: Kind) -> Region {
    Region { pages: PfnRange { start: Pfn(start), count }, kind }
}

/// 1 GiB: a page table of the firmware's at 0x80, its own data at 0x100-0x1ff, a hole at 0xa0-0xff.
fn machine() -> Vec<Region> {
    vec![
        region(0x200, 0x3_fe00, Kind::Free),
        region(0, 0x80, Kind::Free),
        region(0x80, 0x20, Kind::Kept),
        region(0x100, 0x100, Kind::Transient),
    ]
}

impl Fake {
    fn with(list: &List) -> Self {
        let copy = Found::Bytes(list.encode().expect("a short list"));
        Self {
            copies: [copy, Found::Absent, Found::Absent, Found::Absent],
            map: Some(machine()),
            later: None,
            refuses: BTreeSet::new(),
            excluded: BTreeSet::new(),
            asked: Vec::new(),
            handed_over: Vec::new(),
            takes_hand_over: true,
            now: 0,
            us_per_call: 10,
            has_clock: true,
        }
    }
}

impl Firmware for Fake {
    fn read_copy(&mut self, place: usize) -> Found {
        self.now += self.us_per_call;
        self.copies[place].clone()
    }

    fn memory_map(&mut self) -> Option<Map> {
        self.map.clone().map(Map::new)
    }

    fn exclude(&mut self, pages: PfnRange) -> bool {
        self.now += self.us_per_call;
        self.asked.push(pages);
        let free = |pfn: Pfn| {
            let regions = self.map.iter().flatten();
            !self.refuses.contains(&pfn.0)
                && !self.excluded.contains(&pfn.0)
                && regions.into_iter().any(|r| r.kind == Kind::Free && r.pages.contains(pfn))
        };
        let free = pages.iter().all(free);
        if free {
            self.excluded.extend(pages.iter().map(|pfn| pfn.0));
        } else if let Some(later) = self.later.take() {
            self.map = Some(later);
        }
        free
    }

    fn hand_over(&mut self, pages: &[PfnRange]) -> bool {
        assert!(pages.len() <= HAND_OVER_MAX as usize && self.handed_over.is_empty());
        self.handed_over.extend_from_slice(pages);
        self.takes_hand_over
    }

    fn now_us(&mut self) -> Option<u64> {
        self.has_clock.then_some(self.now)
    }

    fn clock(&self) -> Clock {
        Clock::Tsc
    }
}

fn bad(start: u64, count: u64, badness: Badness) -> BadRange {
    BadRange { pages: PfnRange { start: Pfn(start), count }, badness }
}

fn list(ranges: impl IntoIterator<Item = BadRange>) -> List {
    List { generation: 7, map_epoch: 9, ranges: ranges.into_iter().collect(), ..List::default() }
}

fn pages(start: u64, step: u64, count: u64) -> List {
    list((0..count).map(|n| bad(start + n * step, 1, Badness::CORRECTED)))
}

/// Every listed page is counted once.
fn assert_adds_up(outcome: &Outcome, writers: u64) {
    let fates = outcome.excluded_pages - outcome.filler_pages
        + outcome.handed_over_pages
        + outcome.kept_pages
        + outcome.absent_pages
        + outcome.refused_pages
        + outcome.left_over.pages
        - writers;
    assert_eq!(fates, outcome.listed_pages, "{outcome:?}");
}

#[test]
fn every_page_meets_its_fate() {
    let mut firmware = Fake::with(&list([
        bad(0, 2, Badness::UNCORRECTED), // the page without an address, and its neighbour
        bad(0x7f, 2, Badness::ROW),      // free, kept
        bad(0xff, 2, Badness::HARD),     // absent, the firmware's
        bad(0x1fe, 4, Badness::CORRECTED), // the firmware's, free
        bad(0x3000, 1, Badness::CORRECTED), // free
        bad(0x10_0000, 1, Badness::OPERATOR), // beyond all memory
    ]));
    let outcome = run(&mut firmware);
    let detail = |start, count, fate| Detail { pages: PfnRange { start: Pfn(start), count }, fate };
    let expect = Outcome {
        source: Some(0),
        copies: [CopyState::Sound, CopyState::Absent, CopyState::Absent, CopyState::Absent],
        generation: 7,
        map_epoch: 9,
        listed_ranges: 6,
        listed_pages: 12,
        excluded_ranges: 4,
        excluded_pages: 5,
        handed_over_pages: 3,
        kept_pages: 1,
        absent_pages: 2,
        refused_pages: 1,
        times: Times { clock: Clock::Tsc, total_us: 80, read_us: 40, exclude_us: 40 },
        details: vec![
            detail(0, 1, Fate::Refused),
            detail(0x80, 1, Fate::Kept),
            detail(0xff, 1, Fate::Absent),
            detail(0x100, 1, Fate::HandedOver),
            detail(0x1fe, 2, Fate::HandedOver),
            detail(0x10_0000, 1, Fate::Absent),
        ],
        ..Outcome::default()
    };
    assert_eq!(outcome, expect);
    assert_adds_up(&outcome, 0);
    assert_eq!(firmware.excluded, BTreeSet::from([1, 0x7f, 0x200, 0x201, 0x3000]));
    assert_eq!(firmware.handed_over.len(), 2);
    assert_eq!(firmware.asked[0].start, Pfn(1), "the worst first");
    assert_eq!(
        Summary(&outcome).to_string(),
        "rampart: list 7 of RasExclusionA: 5 pages in 4 ranges are unusable now, 3 handed over to \
         the kernel, 1 kept by the firmware, 2 no memory, 1 refused (80 us)\r\n"
    );
}

#[test]
fn without_a_sound_list_nothing_is_excluded() {
    let mut firmware = Fake::with(&pages(0x1000, 1, 5));
    firmware.copies = [
        Found::Bytes(b"RASXLIST, or so".to_vec()),
        Found::Bytes(Vec::new()),
        Found::Unreadable,
        Found::Absent,
    ];
    let outcome = run(&mut firmware);
    assert_eq!(outcome.source, None);
    assert_eq!(
        outcome.copies,
        [CopyState::Damaged, CopyState::Damaged, CopyState::Unreadable, CopyState::Absent]
    );
    assert!(outcome.found_damage() && firmware.asked.is_empty());
    assert_eq!(
        Summary(&outcome).to_string(),
        "rampart: RasExclusionA is damaged\r\nrampart: RasExclusionB is damaged\r\n\
         rampart: exclude-a.bin can't be read\r\n\
         rampart: no sound list of bad pages: nothing is excluded\r\n"
    );

    firmware.copies = [Found::Absent, Found::Absent, Found::Absent, Found::Absent];
    let outcome = run(&mut firmware);
    assert!(!outcome.found_damage() && outcome.source.is_none());
    let silence = "rampart: no list of bad pages: nothing is excluded\r\n";
    assert_eq!(Summary(&outcome).to_string(), silence);
}

#[test]
fn the_other_copy_is_used_and_the_damage_told() {
    let good = pages(0x1000, 1, 5);
    let mut torn = good.encode().unwrap();
    torn.truncate(70);
    let mut firmware = Fake::with(&good);
    firmware.copies.swap(0, 3);
    firmware.copies[0] = Found::Bytes(torn);
    let outcome = run(&mut firmware);
    assert_eq!((outcome.source, outcome.excluded_pages), (Some(3), 5));
    assert_eq!(outcome.copies[0], CopyState::Damaged);
    let said = Summary(&outcome).to_string();
    assert!(
        said.starts_with("rampart: RasExclusionA is damaged\r\nrampart: list 7 of exclude-b.bin")
    );
}

#[test]
fn a_refused_range_is_taken_page_by_page() {
    let mut firmware = Fake::with(&list([bad(0x1000, 64, Badness::ROW)]));
    firmware.refuses.extend([0x1005, 0x1030]);
    let outcome = run(&mut firmware);
    assert_eq!((outcome.excluded_pages, outcome.refused_pages), (62, 2));
    assert_eq!(outcome.excluded_ranges, 3);
    assert!(firmware.asked.len() < 30, "halves, not pages: {}", firmware.asked.len());
    assert_adds_up(&outcome, 0);
}

/// What is refused because our own heap took it meanwhile is handed over.
#[test]
fn what_the_firmware_put_to_use_meanwhile_is_handed_over() {
    let mut firmware = Fake::with(&list([bad(0x1000, 8, Badness::ROW)]));
    firmware.refuses.insert(0x1003);
    let mut later = machine();
    later.push(region(0x1003, 1, Kind::Transient));
    later[0].pages.count = 0xe03;
    later.push(region(0x1004, 0x3000, Kind::Free));
    firmware.later = Some(later);
    let outcome = run(&mut firmware);
    assert_eq!((outcome.excluded_pages, outcome.handed_over_pages), (7, 1));
    assert_eq!(firmware.handed_over, [PfnRange::single(Pfn(0x1003))]);
    assert_adds_up(&outcome, 0);
}

#[test]
fn a_firmware_that_refuses_everything_costs_bounded_time() {
    let mut firmware = Fake::with(&list([bad(0x1000, 0x3000, Badness::ROW)]));
    firmware.refuses.extend(0x1000..0x4000);
    firmware.has_clock = false;
    let outcome = run(&mut firmware);
    assert_eq!(firmware.asked.len(), ATTEMPTS_MAX as usize);
    assert!(outcome.out_of_time);
    assert_eq!((outcome.excluded_pages, outcome.refused_pages), (0, 0x3000));
    assert_eq!(outcome.times, Times::default(), "without a clock no time is told");

    let mut firmware = Fake::with(&pages(0x1000, 2, 100));
    firmware.us_per_call = DEADLINE_US / 10;
    let outcome = run(&mut firmware);
    assert!(outcome.out_of_time && firmware.asked.len() < 10);
    assert_eq!(outcome.excluded_pages + outcome.refused_pages, 100);
    assert!(Summary(&outcome).to_string().contains("out of time"));
    assert_adds_up(&outcome, 0);
}

#[test]
fn no_list_can_ask_for_more_than_the_bounds() {
    let asked = Limits { ranges_max: u32::MAX, bytes_max: u64::MAX };
    let many = List { limits: asked, ..pages(0x1000, 20, 10_000) };
    let mut firmware = Fake::with(&many);
    let outcome = run(&mut firmware);
    assert_eq!(outcome.excluded_ranges, Limits::RANGES_MAX);
    assert!(outcome.limited);
    assert_eq!(outcome.left_over.pages, 10_000 - u64::from(Limits::RANGES_MAX));
    assert_adds_up(&outcome, 0);

    // A sixteenth of 1 GiB, whatever is listed.
    let all = List { limits: asked, ..list([bad(0x200, 0x3_fe00, Badness::UNCORRECTED)]) };
    let outcome = run(&mut Fake::with(&all));
    assert!(outcome.excluded_pages <= 0x4_0000 / 16 && outcome.excluded_pages > 0x3f00);
    assert_adds_up(&outcome, 0);
}

#[test]
fn ten_thousand_pages_are_planned_here_and_the_writers_rest_is_added() {
    let left_over = LeftOver { ranges: 3, pages: 4 };
    let many = List { left_over, ..pages(0x1000, 20, 10_000) };
    let outcome = run(&mut Fake::with(&many));
    assert_eq!((outcome.excluded_ranges, outcome.excluded_pages), (200, 200));
    assert_eq!(outcome.left_over, LeftOver { ranges: 9_803, pages: 9_804 });
    assert!(!outcome.limited);
    assert_adds_up(&outcome, 4);
}

/// A gap that is given away may hold something of the firmware's: then it is two ranges, and still
/// no more than allowed.
#[test]
fn what_is_given_away_need_not_be_free() {
    let two = List {
        limits: Limits { ranges_max: 1, bytes_max: 0 },
        ..list([bad(0x1000, 1, Badness::UNCORRECTED), bad(0x1004, 1, Badness::CORRECTED)])
    };
    let mut firmware = Fake::with(&two);
    let mut map = machine();
    map[0].pages.count = 0xe02;
    map.extend([region(0x1002, 1, Kind::Kept), region(0x1003, 0x3_cffd, Kind::Free)]);
    firmware.map = Some(map);
    let outcome = run(&mut firmware);
    assert_eq!(outcome.excluded_ranges, 1);
    assert!(firmware.excluded.contains(&0x1000), "the worse one");
    assert_eq!((outcome.excluded_pages, outcome.filler_pages, outcome.refused_pages), (2, 1, 1));
    assert_adds_up(&outcome, 0);
}

#[test]
fn without_a_map_or_a_hand_over_pages_are_refused() {
    let mut firmware = Fake::with(&pages(0x1000, 1, 5));
    firmware.map = None;
    let outcome = run(&mut firmware);
    assert_eq!((outcome.refused_pages, firmware.asked.len()), (5, 0));

    let mut firmware = Fake::with(&pages(0x100, 1, 5));
    firmware.takes_hand_over = false;
    let outcome = run(&mut firmware);
    assert_eq!((outcome.refused_pages, outcome.handed_over_pages), (5, 0));
    assert_adds_up(&outcome, 0);
}

/// 200 pages spread evenly over 1 GiB: nothing larger than 5 MiB would be left in one piece, and no stock
/// kernel boots then.
#[test]
fn a_kernel_finds_room() {
    let room = 0x3_fe00 / 4;
    let mut spread = pages(0x1000, 1200, 200);
    let longest = |excluded: &BTreeSet<u64>| {
        let edges: Vec<u64> = [0x1ff].iter().chain(excluded).chain([&0x4_0000]).copied().collect();
        edges.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap()
    };
    let mut firmware = Fake::with(&spread);
    let outcome = run(&mut firmware);
    assert!(longest(&firmware.excluded) >= room);
    assert_eq!(outcome.excluded_pages + outcome.left_over.pages, 200);
    assert!(outcome.excluded_pages > 140, "{outcome:?}");
    assert_adds_up(&outcome, 0);

    // Where the pages are worse, they are taken; others use the ranges that became free.
    for range in &mut spread.ranges[..100] {
        range.badness = Badness::UNCORRECTED;
    }
    spread.ranges.extend((0..200).map(|n| bad(0x1010 + n * 500, 1, Badness(1))));
    let mut firmware = Fake::with(&spread);
    let outcome = run(&mut firmware);
    assert!(longest(&firmware.excluded) >= room);
    let lost = spread.ranges[..100].iter().map(|range| range.pages.start.0);
    assert_eq!(lost.filter(|pfn| !firmware.excluded.contains(pfn)).count(), 0);
    assert_eq!(outcome.excluded_ranges, 200);
    assert_adds_up(&outcome, 0);

    // With memory enough, nothing is spared.
    let mut firmware = Fake::with(&pages(0x1000, 1200, 200));
    firmware.map = Some(vec![region(0x100, 0x7_ff00, Kind::Free)]);
    assert_eq!(run(&mut firmware).excluded_pages, 200);
    // What is above 4 GiB is no room: a loader need not look there.
    let everywhere = pages(0x1000, 5000, 200);
    let mut firmware = Fake::with(&everywhere);
    firmware.map =
        Some(vec![region(0x100, 0x7_ff00, Kind::Free), region(0x10_0000, 0x40_0000, Kind::Free)]);
    let outcome = run(&mut firmware);
    assert!(outcome.left_over.pages > 0);
    assert_adds_up(&outcome, 0);
}

#[test]
fn maps_are_taken_as_they_come() {
    let map = Map::new(vec![
        region(0x10, 0x20, Kind::Free),
        region(0x20, 0x20, Kind::Kept), // overlaps
        region(0x15, 0x5, Kind::Kept),  // within
        region(0x50, 0, Kind::Free),
        region(u64::MAX, 5, Kind::Free),
    ]);
    let kinds: Vec<_> = map
        .pieces(&[bad(0, 0x60, Badness::ROW)])
        .into_iter()
        .map(|(piece, kind)| (piece.pages.start.0, piece.pages.count, kind))
        .collect();
    let (free, kept) = (Some(Kind::Free), Some(Kind::Kept));
    assert_eq!(
        kinds,
        [(0, 0x10, None), (0x10, 0x20, free), (0x30, 0x10, kept), (0x40, 0x20, None)]
    );
    assert_eq!(Kind::of(7), Kind::Free);
    assert_eq!([1, 4].map(Kind::of), [Kind::Transient; 2]);
    // Reserved, run time services, unusable, ACPI, memory-mapped I/O, persistent, unaccepted, unknown.
    assert!(
        [0, 5, 6, 8, 9, 10, 11, 14, 15, 0x8000_0001].iter().all(|&t| Kind::of(t) == Kind::Kept)
    );
}
