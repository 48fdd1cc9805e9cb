//! Many errors to few faults, afterwards: which cell, row, column, bank, device, rank or module, and
//! which cache, processor or link, as far as the records locate them.
//!
//! Where [`super::analyze`] has to answer each error at once, this looks at all of them: [`Grouping`]
//! counts, and [`Grouping::groups`] concludes. The rules are those of published field studies; each is
//! a constant here. Everything is counted by [`ErrorRecord::count`]; witnesses inside of a record are
//! the same error and don't count.
//!
//! ```text
//!   >= 2 errors                cell
//!   >= 2 columns in one row    row          what a column fault explains is no row fault
//!   >= 4 rows in one column    column
//!   >= 4 rows, >= 4 columns    bank         beside what one row and the column faults explain
//!   several banks              device       rank, where no source names the device
//!   several devices            rank
//!   several ranks              module
//! ```
//!
//! A larger fault swallows the smaller ones it is made of. An uncorrected error is a fault by itself, and
//! so is a corrected one whose bits are risky.

mod bank;
mod memory;
mod names;
mod part;
#[cfg(test)]
mod tests;
mod units;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::serd::{Rate, SerdEngine};
use crate::{
    AddressMode, ErrorClass, ErrorRecord, ErrorSource, Fault, FaultMode, Location, PfnRange,
    Severity, Timestamp, Value,
};

pub use self::memory::Cell;
pub use self::part::{LABEL_MAX, Part, PartKind};

/// Errors on one cell that make it a fault: the first may have been a particle.
pub const CELL_ERRORS: u64 = 2;
/// Columns with errors in one row that make the row a fault.
pub const ROW_COLUMNS: usize = 2;
/// Rows with errors in one column that make the column a fault: two are still chance.
pub const COLUMN_ROWS: usize = 4;
/// Rows with errors in one bank, together with [`BANK_COLUMNS`], that make the bank a fault.
pub const BANK_ROWS: usize = 4;
/// Columns with errors in one bank, together with [`BANK_ROWS`], that make the bank a fault.
pub const BANK_COLUMNS: usize = 4;
/// Banks of a device with faults larger than a cell that make the device a fault.
pub const DEVICE_BANKS: usize = 2;
/// Banks of a device with faults of any size that make the device a fault: that many weak cells in as
/// many banks are no chance any more.
pub const DEVICE_WEAK_BANKS: usize = 3;
/// Devices of a rank with faults larger than a cell that make the rank a fault.
pub const RANK_DEVICES: usize = 2;
/// Faulty ranks that make the module a fault.
pub const MODULE_RANKS: usize = 2;
/// Corrected errors on one page that condemn it, where its records name no cell.
pub const PAGE_ERRORS: u64 = 2;
/// Condemned pages of a module that make the module a fault: illumos' count.
pub const MODULE_PAGES: usize = 64;
/// Corrected errors of a module that name neither a cell nor a page, and make it a fault: mcelog's
/// rate for a module.
pub const MODULE_BLIND: Rate = Rate { count: 10, window_s: 86_400 };
/// Corrected errors of one cache that make it a fault: illumos' count.
pub const CACHE_ERRORS: u64 = 3;
/// Corrected errors of a processor outside of its caches that make it a fault: as for a cache.
pub const PROCESSOR_ERRORS: u64 = 3;
/// Corrected errors of a link that make it a fault. Links retry now and then by design; so many are
/// a dirty contact or a bad signal.
pub const LINK_ERRORS: u64 = 10;

/// Data lines of a device, together with [`RISKY_BEATS`], that make a single corrected error a warning:
/// most devices that lost data later had shown it, and hardly any other ("risky" corrected errors, SC 2022).
pub const RISKY_LINES: u64 = 2;
/// Beats of a burst; see [`RISKY_LINES`].
pub const RISKY_BEATS: u64 = 2;

/// Parts told apart. A large host has 64 modules, 8 sockets and some hundred PCI functions.
pub const PARTS_MAX: usize = 4096;
/// Places in memory modules told apart: 16 MiB of counters, the size of a broken bank seen for a year.
pub const CELLS_MAX: usize = 65_536;
/// Pages told apart; as many as [`super::Diagnosis`] watches.
pub const PAGES_MAX: usize = 65_536;
/// Caches, processors and links told apart.
pub const UNITS_MAX: usize = 4096;

/// Errors counted at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Reports, each of one error or more.
    pub reports: u64,
    /// Errors that were corrected.
    pub corrected: u64,
    /// Errors with loss of data.
    pub uncorrected: u64,
    /// Errors of a severity that their source did not tell.
    pub unknown: u64,
    /// Corrected errors that firmware reported as over its own threshold.
    pub over_threshold: u64,
    /// Corrected errors whose bits lie so that the next one may not be correctable.
    pub risky: u64,
    /// The worst severity.
    pub severity: Severity,
    /// Who reported the last of the worst.
    pub source: ErrorSource,
    /// The earliest time that a report gave.
    pub first: Option<Timestamp>,
    /// The latest.
    pub last: Option<Timestamp>,
}

impl Tally {
    /// Nothing counted yet; `source` stands in until something is.
    #[must_use]
    pub const fn new(source: ErrorSource) -> Self {
        Self {
            reports: 0,
            corrected: 0,
            uncorrected: 0,
            unknown: 0,
            over_threshold: 0,
            risky: 0,
            severity: Severity::Unknown,
            source,
            first: None,
            last: None,
        }
    }

    /// Whether a page with these errors has to be taken out of use: data at it was lost, or it corrects
    /// too often, by [`PAGE_ERRORS`] or by firmware's own threshold.
    #[must_use]
    pub const fn condemns_page(&self) -> bool {
        self.uncorrected > 0 || self.corrected >= PAGE_ERRORS || self.over_threshold > 0
    }

    /// All errors.
    #[must_use]
    pub const fn errors(&self) -> u64 {
        self.corrected.saturating_add(self.uncorrected).saturating_add(self.unknown)
    }

    /// Adds one report.
    pub fn add(&mut self, record: &ErrorRecord) {
        let count = u64::from(record.count.max(1));
        self.reports = self.reports.saturating_add(1);
        match record.severity {
            severity if severity.is_uncorrected() => add(&mut self.uncorrected, count),
            Severity::Corrected => add(&mut self.corrected, count),
            _ => add(&mut self.unknown, count),
        }
        if record.flags.threshold_exceeded && record.severity == Severity::Corrected {
            add(&mut self.over_threshold, count);
        }
        if is_risky(record) {
            add(&mut self.risky, count);
        }
        self.saw(record.severity, record.source, record.time, record.time);
    }

    /// Adds what was counted elsewhere.
    pub fn join(&mut self, other: &Self) {
        add(&mut self.reports, other.reports);
        add(&mut self.corrected, other.corrected);
        add(&mut self.uncorrected, other.uncorrected);
        add(&mut self.unknown, other.unknown);
        add(&mut self.over_threshold, other.over_threshold);
        add(&mut self.risky, other.risky);
        self.saw(other.severity, other.source, other.first, other.last);
    }

    fn saw(
        &mut self,
        severity: Severity,
        source: ErrorSource,
        first: Option<Timestamp>,
        last: Option<Timestamp>,
    ) {
        if severity >= self.severity {
            self.severity = severity;
            self.source = source;
        }
        self.first = [self.first, first].into_iter().flatten().min();
        self.last = self.last.max(last);
    }
}

fn add(to: &mut u64, count: u64) {
    *to = to.saturating_add(count);
}

/// How sure a conclusion is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Confidence {
    /// The figures allow another explanation that is no less likely.
    Low,
    /// The most likely explanation.
    Medium,
    /// Hardly anything else explains it.
    High,
}

impl Confidence {
    /// The stable name used in JSON and text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Errors that have a fault in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The part that has the fault.
    pub part: Part,
    /// The fault. Its location is that of the part with the coordinates that all its errors share.
    pub fault: Fault,
    /// How sure that is.
    pub confidence: Confidence,
    /// Its errors.
    pub tally: Tally,
    /// Distinct places among them, where they name any.
    pub spread: Spread,
}

/// Distinct coordinates among the errors of a fault; 0 where the records name none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "a count of each")]
pub struct Spread {
    pub cells: usize,
    pub rows: usize,
    pub columns: usize,
    pub banks: usize,
    pub devices: usize,
    pub ranks: usize,
}

/// Errors that limits kept from being told apart. They are in no group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Of parts beyond [`PARTS_MAX`].
    pub parts: u64,
    /// At places beyond [`CELLS_MAX`]; the counts of their parts have them.
    pub cells: u64,
    /// On pages beyond [`PAGES_MAX`]; the counts of their parts have them.
    pub pages: u64,
    /// Of caches, processors and links beyond [`UNITS_MAX`]; the counts of their parts have them.
    pub units: u64,
}

/// What is known of one part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartErrors {
    /// All its errors.
    pub tally: Tally,
    /// Those that name no cell.
    pub without_cell: u64,
    /// Those that name no page either.
    pub blind: u64,
    /// Corrected ones among the latter, in [`MODULE_BLIND`]'s window.
    window: SerdEngine,
    /// The rate was reached; and whether by reports that have times.
    fired: Option<bool>,
    /// Blind ones with loss of data.
    lost_blind: Option<Tally>,
    index: u32,
}

impl PartErrors {
    /// The part's number: what [`Grouping::add`] answers to its errors.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.index
    }
}

/// What is known of one page, or of a range of pages that one report named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageErrors {
    /// Its errors.
    pub tally: Tally,
    /// Those that name no cell.
    pub without_cell: Option<Tally>,
    /// The row of its first error that names one.
    pub row: Option<Cell>,
    holder: Holder,
}

impl PageErrors {
    /// The number of the part that has it; see [`PartErrors::number`].
    #[must_use]
    pub const fn part(&self) -> u32 {
        self.holder.part
    }

    /// Whether the page has to be taken out of use.
    #[must_use]
    pub const fn is_condemned(&self) -> bool {
        self.tally.condemns_page()
    }
}

/// Whose a page is: a module's, as soon as one was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    part: u32,
    memory: bool,
    located: bool,
}

/// Counts errors by where they are. Bounded, whatever arrives; see [`LeftOut`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grouping {
    parts: BTreeMap<Part, PartErrors>,
    cells: BTreeMap<(u32, Cell), Tally>,
    pages: BTreeMap<PfnRange, PageErrors>,
    units: BTreeMap<(u32, units::Unit), Tally>,
    names: names::Names,
    /// Parts that turned out to be others: from number to number.
    joined: BTreeMap<u32, u32>,
    left_out: LeftOut,
    seen: Timestamp,
}

impl Grouping {
    /// Counts `record` and answers with the number of its part, unless there are too many. Informational
    /// ones are no errors, simulated ones none of the hardware: both pass by.
    pub fn add(&mut self, record: &ErrorRecord) -> Option<u32> {
        if record.severity == Severity::Informational || record.flags.simulated {
            return None;
        }
        let count = u64::from(record.count.max(1));
        let pages = record.pages();
        let cell = match record.class {
            ErrorClass::Memory | ErrorClass::Cxl => Cell::of(record),
            _ => None,
        };
        // A CXL device's media are memory too; its links are not.
        let memory = match record.class {
            ErrorClass::Memory => true,
            ErrorClass::Cxl => cell.is_some() || pages.is_some(),
            _ => false,
        };
        self.names.add(record);
        let part = Part::of(record);
        let room = self.parts.len() < PARTS_MAX;
        let index = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        let errors = match self.parts.get_mut(&part) {
            Some(errors) => errors,
            None if room => self.parts.entry(part).or_insert_with(|| PartErrors {
                tally: Tally::new(record.source),
                without_cell: 0,
                blind: 0,
                window: SerdEngine::default(),
                fired: None,
                lost_blind: None,
                index,
            }),
            None => {
                add(&mut self.left_out.parts, count);
                return None;
            }
        };
        errors.tally.add(record);
        let index = errors.index;
        let located = cell.is_some_and(|cell| cell.is_exact());
        if memory && !located {
            add(&mut errors.without_cell, count);
            if pages.is_none() {
                errors.add_blind(record);
            }
        }
        if let Some(cell) = cell {
            let key = (index, cell);
            count_in(&mut self.cells, key, CELLS_MAX, record, &mut self.left_out.cells);
        }
        if let Some(unit) = units::Unit::of(record, memory) {
            let key = (index, unit);
            count_in(&mut self.units, key, UNITS_MAX, record, &mut self.left_out.units);
        }
        // A cache that corrects is no reason to lose a page; data that is lost is lost in any case.
        if let Some(pages) = pages.filter(|_| memory || record.severity.is_uncorrected()) {
            self.add_pages(pages, Holder { part: index, memory, located }, cell, record);
        }
        self.seen = self.seen.max(record.time.unwrap_or_default());
        Some(index)
    }

    fn add_pages(
        &mut self,
        pages: PfnRange,
        holder: Holder,
        cell: Option<Cell>,
        record: &ErrorRecord,
    ) {
        let full = self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&pages);
        if full {
            add(&mut self.left_out.pages, u64::from(record.count.max(1)));
            return;
        }
        let empty = Tally::new(record.source);
        let new = PageErrors { tally: empty, without_cell: None, row: None, holder };
        let errors = self.pages.entry(pages).or_insert(new);
        errors.tally.add(record);
        if holder.memory && !errors.holder.memory {
            errors.holder = holder;
        }
        errors.row = errors.row.or(cell.filter(|_| holder.located).and_then(Cell::row));
        if holder.memory && !holder.located {
            errors.without_cell.get_or_insert(empty).add(record);
        }
    }

    /// Makes one part of those that records say are one module under several names. Answers with the
    /// parts that are gone, each with the one that has its errors now. Records that are added later are
    /// counted under their own names again.
    pub fn join_names(&mut self) -> Vec<(Part, Part)> {
        let same = self.names.same(self.parts.keys());
        let same: Vec<Vec<Part>> =
            same.into_iter().map(|parts| parts.into_iter().cloned().collect()).collect();
        let mut gone = Vec::new();
        for parts in same {
            let Some((best, others)) = parts.split_first() else { continue };
            for other in others {
                let Some(to) = self.parts.get(best).map(PartErrors::number) else { continue };
                let Some(errors) = self.parts.remove(other) else { continue };
                self.joined.insert(errors.index, to);
                if let Some(target) = self.parts.get_mut(best) {
                    target.join(errors);
                }
                gone.push((other.clone(), best.clone()));
            }
        }
        if !gone.is_empty() {
            let joined = &self.joined;
            let number = |number: u32| current(joined, number);
            move_all(&mut self.cells, number);
            move_all(&mut self.units, number);
            for page in self.pages.values_mut() {
                page.holder.part = number(page.holder.part);
            }
        }
        gone
    }

    /// The number that the part of that number has now: another one if it was joined to another.
    #[must_use]
    pub fn current_number(&self, number: u32) -> u32 {
        current(&self.joined, number)
    }

    /// The parts with errors.
    pub fn parts(&self) -> impl Iterator<Item = (&Part, &PartErrors)> {
        self.parts.iter()
    }

    /// The places in `part` that have errors, as exactly as the records name them.
    pub fn cells(&self, part: &Part) -> impl Iterator<Item = (&Cell, &Tally)> {
        let index = self.parts.get(part).map_or(u32::MAX, |errors| errors.index);
        let from = (index, Cell::default());
        self.cells
            .range(from..)
            .take_while(move |((part, _), _)| *part == index)
            .map(|((_, cell), tally)| (cell, tally))
    }

    /// The pages with errors, in order.
    pub fn pages(&self) -> impl Iterator<Item = (PfnRange, &PageErrors)> {
        self.pages.iter().map(|(pages, errors)| (*pages, errors))
    }

    /// What could not be told apart.
    #[must_use]
    pub const fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// The faults that explain the errors, the gravest first. Deterministic.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut pages: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (range, errors) in &self.pages {
            if let Some(tally) = errors.without_cell {
                pages.entry(errors.holder.part).or_default().push((*range, tally));
            }
        }
        for (part, errors) in &self.parts {
            let pages = pages.get(&errors.index).map_or(&[][..], Vec::as_slice);
            self.memory(part, errors, pages, &mut groups);
            self.units(part, errors, &mut groups);
        }
        groups.sort_by_key(|group| {
            let rank = (
                group.fault.severity.is_uncorrected(),
                group.confidence,
                group.tally.risky > 0,
                group.tally.errors(),
            );
            core::cmp::Reverse(rank)
        });
        groups
    }

    /// Concludes. A fault without a time is given that of the newest error anywhere.
    fn group(&self, part: &Part, place: Place<'_>, tally: Tally, why: Why) -> Group {
        let Why { mode, mut confidence, mut reason, spread } = why;
        if !part.is_single() {
            // The same coordinates may be those of two modules.
            confidence = confidence.min(Confidence::Low);
            reason.push_str("; the records do not say which part it is");
        }
        let fault = Fault {
            mode,
            severity: tally.severity,
            source: tally.source,
            time: tally.last.unwrap_or(self.seen),
            location: place.location(part),
            previous_boot: false,
            reason,
            host_risk: None,
        };
        Group { part: part.clone(), fault, confidence, tally, spread }
    }
}

impl PartErrors {
    /// Adds what was counted under another name.
    fn join(&mut self, other: Self) {
        self.tally.join(&other.tally);
        add(&mut self.without_cell, other.without_cell);
        add(&mut self.blind, other.blind);
        if self.window.join(MODULE_BLIND, &other.window) {
            let timed = self.window.newest().is_some_and(|newest| newest != Timestamp::default());
            self.fired = Some(timed || self.fired == Some(true));
        }
        self.fired = self.fired.max(other.fired);
        if let Some(lost) = other.lost_blind {
            self.lost_blind.get_or_insert(Tally::new(lost.source)).join(&lost);
        }
    }

    /// An error that names neither a cell nor a page.
    fn add_blind(&mut self, record: &ErrorRecord) {
        add(&mut self.blind, u64::from(record.count.max(1)));
        if record.severity.is_uncorrected() {
            self.lost_blind.get_or_insert(Tally::new(record.source)).add(record);
        }
        if record.severity == Severity::Corrected {
            let now = record.time.unwrap_or_default();
            if self.window.record(MODULE_BLIND, now, record.count) {
                let timed = record.time.is_some();
                self.fired = Some(timed || self.fired == Some(true));
            }
        }
    }
}

/// The coordinates that the errors of a group share.
enum Place<'a> {
    Part,
    Cell(&'a Cell),
    Cpu(Option<u32>),
}

impl Place<'_> {
    fn location(&self, part: &Part) -> Location {
        let mut location = part.place.clone();
        match self {
            Self::Part => {}
            Self::Cell(cell) => cell.locate(&mut location),
            Self::Cpu(cpu) => location.cpu = location.cpu.or(*cpu),
        }
        location
    }
}

/// A conclusion.
struct Why {
    mode: FaultMode,
    confidence: Confidence,
    reason: String,
    spread: Spread,
}

/// Each step leads to a part that was still there then, so there is an end.
fn current(joined: &BTreeMap<u32, u32>, mut number: u32) -> u32 {
    while let Some(next) = joined.get(&number) {
        number = *next;
    }
    number
}

/// Gives counts to the parts that they belong to now.
fn move_all<K: Ord + Copy>(map: &mut BTreeMap<(u32, K), Tally>, number: impl Fn(u32) -> u32) {
    for ((part, key), tally) in core::mem::take(map) {
        let empty = || Tally::new(tally.source);
        map.entry((number(part), key)).or_insert_with(empty).join(&tally);
    }
}

fn count_in<K: Ord>(
    map: &mut BTreeMap<K, Tally>,
    key: K,
    limit: usize,
    record: &ErrorRecord,
    left_out: &mut u64,
) {
    if map.len() >= limit && !map.contains_key(&key) {
        add(left_out, u64::from(record.count.max(1)));
        return;
    }
    map.entry(key).or_insert_with(|| Tally::new(record.source)).add(record);
}

/// Whether a corrected error's bits lie so that the ECC was near its end: over several symbols, by the
/// memory error type of a firmware record, or by a CXL device's mask of nibbles; or over several data
/// lines and several beats of one device ([`RISKY_LINES`], [`RISKY_BEATS`]), where a record locates them.
#[must_use]
pub fn is_risky(record: &ErrorRecord) -> bool {
    record.severity == Severity::Corrected
        && record.details.iter().any(|detail| match (detail.name.as_ref(), &detail.value) {
            ("error_type" | "memory_error_type", Value::Code { meaning: Some(meaning), .. }) => {
                record.class == ErrorClass::Memory && is_several(meaning)
            }
            ("error_bits", Value::Group(bits)) => {
                let least = |name: &str, least: u64| {
                    bits.iter().any(|bit| {
                        bit.name == name
                            && matches!(bit.value, Value::Number(number) if number >= least)
                    })
                };
                least("dqs", RISKY_LINES) && least("beats", RISKY_BEATS)
            }
            ("nibble_mask", Value::Hex(mask) | Value::Number(mask)) => mask.count_ones() >= 2,
            _ => false,
        })
}

/// UEFI Specification, Appendix N, "Memory Error Type": 3, multi-bit ECC, and 5, multi-symbol chipkill.
fn is_several(meaning: &str) -> bool {
    meaning.starts_with("multi-bit") || meaning.starts_with("multi-symbol")
}

/// Where an address of the memory's own counting points to, by line of 64 bytes: such an address names
/// no page, but twice the same is twice the same cells.
fn line(record: &ErrorRecord) -> Option<u64> {
    let address = record.address.as_ref()?;
    let fine = address.mode == AddressMode::Memory && address.lsb <= 6;
    fine.then_some(address.addr.0 >> 6)
}
