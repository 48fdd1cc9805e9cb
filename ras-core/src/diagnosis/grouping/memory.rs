//! Memory: cells to banks ([`super::bank`]), banks to devices, ranks and modules; pages where the
//! records name no cells.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    Confidence, DEVICE_BANKS, DEVICE_WEAK_BANKS, Group, Grouping, MODULE_BLIND, MODULE_PAGES,
    MODULE_RANKS, Part, PartErrors, Place, RANK_DEVICES, Spread, Tally, Why, bank, line,
};
use crate::{DimmLocation, ErrorRecord, FaultMode, Location, PfnRange};

/// A place in a memory module, as exactly as a record names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of `DimmLocation`")]
pub struct Cell {
    pub rank: Option<u16>,
    pub chip: Option<u8>,
    pub device: Option<u16>,
    pub bank_group: Option<u8>,
    pub bank: Option<u16>,
    pub row: Option<u32>,
    pub column: Option<u32>,
    /// In the memory's own counting, 64 bytes each, where the record names no row.
    pub line: Option<u64>,
}

impl Cell {
    /// `None` if the record says nothing about where in the module.
    pub(super) fn of(record: &ErrorRecord) -> Option<Self> {
        let mut cell = Self::at(&record.location);
        cell.line = if cell.row.is_none() { line(record) } else { None };
        (cell != Self::default()).then_some(cell)
    }

    /// Whether it is one cell, not a region. A row without its bank is none: every bank has it.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        let coordinates = self.bank.is_some() && self.row.is_some() && self.column.is_some();
        coordinates || self.line.is_some()
    }

    /// The row that it is in: all but its column.
    pub(super) fn row(self) -> Option<Self> {
        self.row.map(|_| Self { column: None, ..self })
    }

    /// The place that `location` names.
    #[must_use]
    pub fn at(location: &Location) -> Self {
        let DimmLocation { rank, chip, device, bank_group, bank, row, column, .. } = location.dimm;
        Self { rank, chip, device, bank_group, bank, row, column, line: None }
    }

    const fn of_device(&self) -> (Option<u16>, Option<u8>, Option<u16>) {
        (self.rank, self.chip, self.device)
    }

    const fn of_bank(&self) -> (Option<u8>, Option<u16>) {
        (self.bank_group, self.bank)
    }

    pub(super) fn locate(&self, location: &mut Location) {
        let Self { rank, chip, device, bank_group, bank, row, column, line: _ } = *self;
        location.dimm =
            DimmLocation { rank, chip, device, bank_group, bank, row, column, ..location.dimm };
    }

    /// The coordinates that all of `cells` share.
    fn shared(cells: &[Counted<'_>]) -> Self {
        let mut cells = cells.iter().map(|(cell, _)| *cell);
        let Some(mut shared) = cells.next().copied() else { return Self::default() };
        for cell in cells {
            fn same<T: PartialEq>(shared: &mut Option<T>, other: &Option<T>) {
                if shared != other {
                    *shared = None;
                }
            }
            same(&mut shared.rank, &cell.rank);
            same(&mut shared.chip, &cell.chip);
            same(&mut shared.device, &cell.device);
            same(&mut shared.bank_group, &cell.bank_group);
            same(&mut shared.bank, &cell.bank);
            same(&mut shared.row, &cell.row);
            same(&mut shared.column, &cell.column);
            same(&mut shared.line, &cell.line);
        }
        shared
    }
}

/// A cell and its errors.
pub(super) type Counted<'a> = (&'a Cell, &'a Tally);

/// A fault inside of a module.
pub(super) struct Found {
    mode: FaultMode,
    cell: Cell,
    tally: Tally,
    spread: Spread,
    confidence: Confidence,
    reason: String,
}

impl Found {
    /// `what` says which rule fired; the figures are added.
    pub(super) fn new(
        mode: FaultMode,
        cells: &[Counted<'_>],
        confidence: Confidence,
        what: &str,
    ) -> Self {
        let spread = spread(cells);
        let mut tally = cells.first().map_or_else(
            || Tally::new(crate::ErrorSource::Operator),
            |(_, first)| Tally::new(first.source),
        );
        cells.iter().for_each(|(_, cell)| tally.join(cell));
        let figures = figures(&tally);
        let reason = format!("{what}: {figures}");
        Self { mode, cell: Cell::shared(cells), tally, spread, confidence, reason }
    }

    fn is_large(&self) -> bool {
        self.mode != FaultMode::Cell
    }
}

/// What is broken among the cells of one device.
struct Device<'a> {
    cells: &'a [Counted<'a>],
    found: Vec<Found>,
}

impl Grouping {
    /// The faults of one module. `pages` are its pages with errors that name no cell.
    pub(super) fn memory(
        &self,
        part: &Part,
        errors: &PartErrors,
        pages: &[(PfnRange, Tally)],
        groups: &mut Vec<Group>,
    ) {
        let others = groups.len();
        let cells: Vec<Counted<'_>> = self.cells(part).collect();
        for Found { mode, cell, tally, spread, confidence, reason } in of_module(&cells) {
            let why = Why { mode, confidence, reason, spread };
            groups.push(self.group(part, Place::Cell(&cell), tally, why));
        }
        self.pages_of(part, pages, groups);
        self.blind(part, errors, groups);
        let told = groups.iter().skip(others).any(|group| group.tally.risky > 0);
        if errors.tally.risky > 0 && !told {
            groups.push(self.risky(part, errors));
        }
    }

    /// A corrected error with risky bits foretells more than its place does: where no other fault of
    /// the part has it, it is one.
    fn risky(&self, part: &Part, errors: &PartErrors) -> Group {
        let figures = figures(&errors.tally);
        let reason = format!("{figures}: the next one may be more than the ECC corrects");
        let (mode, confidence) = (FaultMode::Module, Confidence::Medium);
        let why = Why { mode, confidence, reason, spread: Spread::default() };
        self.group(part, Place::Part, errors.tally, why)
    }

    /// Pages stand in for cells where those are not known.
    fn pages_of(&self, part: &Part, pages: &[(PfnRange, Tally)], groups: &mut Vec<Group>) {
        // Several pages that one corrected error may be in are no reason to lose them all.
        let condemned = |(pages, tally): &&(PfnRange, Tally)| {
            tally.uncorrected > 0 || (pages.count == 1 && tally.condemns_page())
        };
        let condemned: Vec<_> = pages.iter().filter(condemned).collect();
        let why = |mode, confidence, reason| {
            let spread = Spread::default();
            Why { mode, confidence, reason, spread }
        };
        if condemned.len() >= MODULE_PAGES {
            let mut tally = Tally::new(crate::ErrorSource::Operator);
            condemned.iter().for_each(|(_, page)| tally.join(page));
            let reason = format!(
                "{} pages to retire (limit {MODULE_PAGES}): {}; no record names a cell",
                condemned.len(),
                figures(&tally)
            );
            let why = why(FaultMode::Module, Confidence::Medium, reason);
            groups.push(self.group(part, Place::Part, tally, why));
            return;
        }
        for (pages, tally) in condemned {
            let which = match pages.count {
                1 => format!("page {}", pages.start),
                count => format!("{count} pages from {}", pages.start),
            };
            let reason = format!("{which}: {}; no record names a cell", figures(tally));
            let confidence =
                if tally.uncorrected > 0 { Confidence::High } else { Confidence::Medium };
            let why = why(FaultMode::Pages(*pages), confidence, reason);
            groups.push(self.group(part, Place::Part, *tally, why));
        }
    }

    /// Errors of which nothing is known but the part.
    fn blind(&self, part: &Part, errors: &PartErrors, groups: &mut Vec<Group>) {
        let spread = Spread::default();
        if let Some(lost) = errors.lost_blind {
            let reason = format!("{}; no record says where in the module", figures(&lost));
            let confidence = Confidence::Medium;
            let why = Why { mode: FaultMode::Unlocated, confidence, reason, spread };
            groups.push(self.group(part, Place::Part, lost, why));
        }
        if let Some(timed) = errors.fired {
            let limit = MODULE_BLIND.count;
            let within = if timed { " within 24 h" } else { "" };
            let reason = format!(
                "{limit} or more corrected errors{within}, {} in all; no record says where in the module",
                errors.blind
            );
            let why = Why { mode: FaultMode::Module, confidence: Confidence::Low, reason, spread };
            groups.push(self.group(part, Place::Part, errors.tally, why));
        }
    }
}

fn of_module(cells: &[Counted<'_>]) -> Vec<Found> {
    let mut ranks: Vec<(Option<u16>, &[Counted<'_>], Vec<Found>)> = Vec::new();
    for cells in cells.chunk_by(|(a, _), (b, _)| a.rank == b.rank) {
        let rank = cells.first().and_then(|(cell, _)| cell.rank);
        ranks.push((rank, cells, of_rank(rank, cells)));
    }
    let whole = |found: &Found| matches!(found.mode, FaultMode::Rank | FaultMode::Device);
    let broken = ranks.iter().filter(|(rank, _, found)| rank.is_some() && found.iter().any(whole));
    let broken = broken.count();
    if broken >= MODULE_RANKS {
        let what = format!("faults of devices in {broken} ranks (limit {MODULE_RANKS})");
        return Vec::from([Found::new(FaultMode::Module, cells, Confidence::High, &what)]);
    }
    ranks.into_iter().flat_map(|(_, _, found)| found).collect()
}

fn of_rank(rank: Option<u16>, cells: &[Counted<'_>]) -> Vec<Found> {
    let devices = cells.chunk_by(|(a, _), (b, _)| a.of_device() == b.of_device());
    let devices: Vec<_> = devices.map(of_device).collect();
    let named = |device: &&Device<'_>| {
        device.cells.iter().any(|(cell, _)| cell.device.is_some())
            && device.found.iter().any(Found::is_large)
    };
    let broken = devices.iter().filter(named).count();
    if rank.is_some() && broken >= RANK_DEVICES {
        let what = format!("faults larger than a cell in {broken} devices (limit {RANK_DEVICES})");
        return Vec::from([Found::new(FaultMode::Rank, cells, Confidence::High, &what)]);
    }
    devices.into_iter().flat_map(|device| device.found).collect()
}

fn of_device<'a>(cells: &'a [Counted<'a>]) -> Device<'a> {
    let mut found: Vec<Found> = Vec::new();
    let (mut broken, mut weak) = (0, 0);
    for cells in cells.chunk_by(|(a, _), (b, _)| a.of_bank() == b.of_bank()) {
        let bank = bank::faults(cells);
        let known = cells.first().is_some_and(|(cell, _)| cell.bank.is_some());
        broken += usize::from(known && bank.iter().any(Found::is_large));
        weak += usize::from(known && !bank.is_empty());
        found.extend(bank);
    }
    if broken < DEVICE_BANKS && weak < DEVICE_WEAK_BANKS {
        return Device { cells, found };
    }
    let first = cells.first().map(|(cell, _)| **cell).unwrap_or_default();
    let (mode, unnamed) = match (first.device, first.rank) {
        (Some(_), _) => (FaultMode::Device, ""),
        (None, Some(_)) => (FaultMode::Rank, "; no record names the device"),
        (None, None) => (FaultMode::Module, "; no record names rank or device"),
    };
    let what = if broken >= DEVICE_BANKS {
        format!("faults larger than a cell in {broken} banks (limit {DEVICE_BANKS}){unnamed}")
    } else {
        format!("faults in {weak} banks (limit {DEVICE_WEAK_BANKS}){unnamed}")
    };
    let confidence = if unnamed.is_empty() && weak > DEVICE_BANKS {
        Confidence::High
    } else {
        Confidence::Medium
    };
    found = Vec::from([Found::new(mode, cells, confidence, &what)]);
    Device { cells, found }
}

fn spread(cells: &[Counted<'_>]) -> Spread {
    fn count<T: Ord>(values: impl Iterator<Item = Option<T>>) -> usize {
        values.flatten().collect::<BTreeSet<T>>().len()
    }
    let each = || cells.iter().map(|(cell, _)| *cell);
    let bank = |cell: &Cell| cell.bank.map(|_| (cell.of_device(), cell.of_bank()));
    let row = |cell: &Cell| cell.row.map(|row| (bank(cell), row));
    Spread {
        cells: each().filter(|cell| cell.is_exact()).count(),
        rows: count(each().map(row)),
        columns: count(each().map(|cell| cell.column.map(|column| (bank(cell), column)))),
        banks: count(each().map(bank)),
        devices: count(each().map(|cell| cell.device.map(|_| cell.of_device()))),
        ranks: count(each().map(|cell| cell.rank)),
    }
}

/// The errors in words: `1 uncorrected and 12 corrected errors, 3 of them risky`.
pub(super) fn figures(tally: &Tally) -> String {
    let Tally { corrected, uncorrected, unknown, risky, .. } = *tally;
    let named = [(uncorrected, "uncorrected"), (corrected, "corrected"), (unknown, "unclassified")];
    let mut text = String::new();
    let mut last = 0;
    for (count, name) in named.into_iter().filter(|(count, _)| *count > 0) {
        if !text.is_empty() {
            text.push_str(" and ");
        }
        text.push_str(&format!("{count} {name}"));
        last = count;
    }
    text.push_str(if last == 1 { " error" } else { " errors" });
    if risky > 0 {
        text.push_str(&format!(", {risky} with risky error bits"));
    }
    text
}
