//! Where errors are: maps of modules, and a matrix of machine-check banks.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};
use ras_core::diagnosis::grouping::{Cell, Tally};

use super::timeline::{at, count};
use crate::analyze::text::{cell_name, plural};
use crate::analyze::{Findings, Module};

/// Fields of a map sideways; where there are more places, neighbours share one.
const ACROSS: u32 = 48;
/// Fields of a map from top to bottom, likewise.
const DOWN: u32 = 32;
/// Fields of an axis at least, so that a single row is seen among its neighbours.
const FIELDS_MIN: u32 = 12;
/// Banks drawn in one map: those with the most errors.
const BANKS: usize = 32;
/// CPUs in the matrix: those with the most errors.
const CPUS: usize = 64;
/// Banks in the matrix.
const MCA_BANKS: usize = 64;

/// Errors of one field of a map.
#[derive(Clone, Copy, Default)]
struct Field {
    errors: u64,
    uncorrected: u64,
}

impl Field {
    fn add(&mut self, tally: &Tally) {
        self.errors = self.errors.saturating_add(tally.errors());
        self.uncorrected = self.uncorrected.saturating_add(tally.uncorrected);
    }

    fn words(self) -> String {
        let errors = plural(self.errors, "error");
        match self.uncorrected {
            0 => errors,
            lost => format!("{errors}, {lost} uncorrected"),
        }
    }

    /// One of five shades, by powers of four.
    fn shade(self) -> u32 {
        self.errors.max(1).ilog(4).min(4) + 1
    }
}

/// An axis of numbers, in steps that are powers of two.
struct Axis {
    start: u32,
    shift: u32,
    fields: u32,
}

impl Axis {
    fn over(numbers: impl Iterator<Item = u32> + Clone, max: u32) -> Self {
        let (low, high) = (numbers.clone().min().unwrap_or(0), numbers.max().unwrap_or(0));
        let spans = |shift: u32| ((high >> shift) - (low >> shift)).saturating_add(1);
        let shift = (0..32).find(|shift| spans(*shift) <= max).unwrap_or(31);
        let fields = spans(shift).max(FIELDS_MIN);
        let before = (fields - spans(shift)) / 2;
        Self { start: (low >> shift).saturating_sub(before), shift, fields }
    }

    fn field(&self, number: u32) -> u32 {
        (number >> self.shift).saturating_sub(self.start).min(self.fields - 1)
    }

    fn first(&self, field: u32) -> u64 {
        u64::from(self.start + field) << self.shift
    }

    /// What a field stands for: one number, or a range of them.
    fn name(&self, field: u32) -> String {
        let first = self.first(field);
        match self.shift {
            0 => format!("{first:#x}"),
            shift => format!("{first:#x} to {:#x}", first + (1 << shift) - 1),
        }
    }
}

/// One map.
struct Map<'a> {
    title: String,
    across: &'a str,
    columns: Vec<String>,
    /// A label every so many columns.
    every: usize,
    down: &'a str,
    rows: Vec<String>,
    /// By row and column.
    fields: BTreeMap<(usize, usize), Field>,
    /// What its fields are called.
    name: &'a dyn Fn(usize, usize) -> String,
}

const SIDE: f64 = 14.0;
const LEFT: f64 = 112.0;
const TOP: f64 = 24.0;

impl Map<'_> {
    fn draw(&self) -> Markup {
        let width = LEFT + SIDE * count(self.columns.len()) + 30.0;
        let height = TOP + SIDE * count(self.rows.len()) + 8.0;
        let (plot_width, plot_height) =
            (SIDE * count(self.columns.len()), SIDE * count(self.rows.len()));
        let row_every = if self.rows.len() > 16 { 4 } else { 1 };
        html! {
            figure.map {
                figcaption { (self.title) }
                div.scroll tabindex="0" role="region" aria-label="map, scrolls sideways" {
                    svg.heat viewBox=(format!("0 0 {} {}", at(width), at(height))) role="img"
                        width=(at(width)) height=(at(height))
                        aria-label=(format!("{}: {} by {}", self.title, self.down, self.across)) {
                        rect.plot x=(at(LEFT)) y=(at(TOP)) width=(at(plot_width))
                            height=(at(plot_height)) {}
                        @for (column, label) in self.columns.iter().enumerate().step_by(self.every) {
                            text.axis x=(at(LEFT + SIDE * count(column))) y=(at(TOP - 6.0)) { (label) }
                        }
                        @for (row, label) in self.rows.iter().enumerate().step_by(row_every) {
                            text.axis x=(at(LEFT - 6.0)) y=(at(TOP + SIDE * count(row) + 11.0))
                                text-anchor="end" { (label) }
                        }
                        @for ((row, column), field) in &self.fields {
                            @let (x, y) = (LEFT + SIDE * count(*column), TOP + SIDE * count(*row));
                            rect.cell.{ "h" (field.shade()) } x=(at(x + 0.5))
                                y=(at(y + 0.5)) width="13" height="13" {
                                title { ((self.name)(*row, *column)) ": " (field.words()) }
                            }
                            @if field.uncorrected > 0 {
                                @let cross = format!("M{} {}l7 7m0-7l-7 7", at(x + 3.5), at(y + 3.5));
                                path.halo d=(cross) {}
                                path.lost d=(cross) {}
                            }
                        }
                    }
                }
                p.muted { "down: " (self.down) "; across: " (self.across) }
            }
        }
    }
}

/// The shades, with the counts they stand for.
pub(super) fn legend() -> Markup {
    let ranges = ["1 to 3", "4 to 15", "16 to 63", "64 to 255", "256 or more"];
    html! {
        ul.legend {
            li { "errors in a field:" }
            @for (index, range) in ranges.iter().enumerate() {
                li { span.swatch.{ "h" (index + 1) } {} (range) }
            }
            li { span.cross aria-hidden="true" { "×" } "data was lost" }
        }
    }
}

/// The maps of one module; nothing where its errors name no bank.
pub(super) fn module(findings: &Findings, module: &Module) -> Option<Markup> {
    let cells: Vec<(&Cell, &Tally)> = findings
        .grouping
        .cells(&module.part)
        .filter(|(cell, _)| cell.bank.is_some() && cell.row.is_some())
        .collect();
    let worst = cells.iter().map(|(cell, _)| bank_of(cell)).collect::<BTreeSet<_>>();
    let mut banks: Vec<(Cell, Field, usize)> = worst
        .into_iter()
        .map(|bank| {
            let mut field = Field::default();
            let inside = cells.iter().filter(|(cell, _)| bank_of(cell) == bank);
            let distinct = inside.map(|(_, tally)| field.add(tally)).count();
            (bank, field, distinct)
        })
        .collect();
    banks.sort_by_key(|(_, field, distinct)| {
        std::cmp::Reverse((field.uncorrected > 0, *distinct, field.errors))
    });
    let (worst, ..) = *banks.first()?;
    let left_out = banks.len().saturating_sub(BANKS);
    banks.truncate(BANKS);
    banks.sort_by_key(|(bank, ..)| *bank);
    let inside: Vec<_> = cells
        .iter()
        .filter(|(cell, _)| bank_of(cell) == worst && cell.column.is_some())
        .copied()
        .collect();
    Some(html! {
        (by_bank(&banks, &cells))
        @if left_out > 0 { p.muted { (plural(left_out as u64, "further bank")) " not drawn" } }
        @if !inside.is_empty() { (by_cell(&worst, &inside)) }
    })
}

fn by_bank(banks: &[(Cell, Field, usize)], cells: &[(&Cell, &Tally)]) -> Markup {
    let rows = cells.iter().filter_map(|(cell, _)| cell.row);
    let axis = Axis::over(rows, ACROSS);
    let index: BTreeMap<Cell, usize> =
        banks.iter().enumerate().map(|(index, (bank, ..))| (*bank, index)).collect();
    let mut fields: BTreeMap<(usize, usize), Field> = BTreeMap::new();
    for (cell, tally) in cells {
        if let (Some(bank), Some(row)) = (index.get(&bank_of(cell)), cell.row) {
            fields.entry((*bank, axis.field(row) as usize)).or_default().add(tally);
        }
    }
    let labels: Vec<String> = banks.iter().map(|(bank, ..)| short(bank)).collect();
    let name = |bank: usize, field: usize| {
        let bank = banks.get(bank).map_or_else(String::new, |(bank, ..)| cell_name(bank));
        format!("{bank}, row {}", axis.name(u32::try_from(field).unwrap_or(0)))
    };
    let across = wide("row", &axis);
    let map = Map {
        title: "Banks and rows".into(),
        across: &across,
        columns: labels_of(&axis),
        every: 6,
        down: "rank, device, bank group and bank, as far as they are known",
        rows: labels,
        fields,
        name: &name,
    };
    map.draw()
}

fn by_cell(bank: &Cell, cells: &[(&Cell, &Tally)]) -> Markup {
    let rows = Axis::over(cells.iter().filter_map(|(cell, _)| cell.row), DOWN);
    let columns = Axis::over(cells.iter().filter_map(|(cell, _)| cell.column), ACROSS);
    let mut fields: BTreeMap<(usize, usize), Field> = BTreeMap::new();
    for (cell, tally) in cells {
        if let (Some(row), Some(column)) = (cell.row, cell.column) {
            let field = (rows.field(row) as usize, columns.field(column) as usize);
            fields.entry(field).or_default().add(tally);
        }
    }
    let name = |row: usize, column: usize| {
        let narrow = |index: usize| u32::try_from(index).unwrap_or(0);
        format!("row {}, column {}", rows.name(narrow(row)), columns.name(narrow(column)))
    };
    let (across, down) = (wide("column", &columns), wide("row", &rows));
    let map = Map {
        title: format!("Rows and columns of {}, the worst bank", cell_name(bank)),
        across: &across,
        columns: labels_of(&columns),
        every: 6,
        down: &down,
        rows: labels_of(&rows),
        fields,
        name: &name,
    };
    map.draw()
}

/// CPUs and machine-check banks.
pub(super) fn machine_checks(findings: &Findings) -> Option<Markup> {
    let mut of_cpu: BTreeMap<u32, Field> = BTreeMap::new();
    for total in &findings.banks.list {
        of_cpu.entry(total.name.0).or_default().add(&total.tally);
    }
    if of_cpu.is_empty() {
        return None;
    }
    let mut cpus: Vec<(u32, Field)> = of_cpu.into_iter().collect();
    cpus.sort_by_key(|(_, field)| std::cmp::Reverse((field.uncorrected, field.errors)));
    let left_out = cpus.len().saturating_sub(CPUS);
    cpus.truncate(CPUS);
    let mut cpus: Vec<u32> = cpus.into_iter().map(|(cpu, _)| cpu).collect();
    cpus.sort_unstable();
    let row_of = |cpu: u32| cpus.binary_search(&cpu).ok();
    // Neighbours too where the numbers are small; else, such as for the kernel's bank 255 for firmware
    // records, those that have errors.
    let mut banks: BTreeSet<u8> = findings.banks.list.iter().map(|total| total.name.1).collect();
    if let Some(highest) = banks.last().copied().filter(|highest| *highest < 32) {
        banks.extend(0..=highest.max(7));
    }
    let banks: Vec<u8> = banks.into_iter().take(MCA_BANKS).collect();
    let mut fields: BTreeMap<(usize, usize), Field> = BTreeMap::new();
    for total in &findings.banks.list {
        let (cpu, bank) = total.name;
        if let (Some(row), Ok(column)) = (row_of(cpu), banks.binary_search(&bank)) {
            fields.entry((row, column)).or_default().add(&total.tally);
        }
    }
    let name = |row: usize, column: usize| {
        let (cpu, bank) = (cpus.get(row), banks.get(column));
        format!("CPU {}, bank {}", cpu.unwrap_or(&0), bank.unwrap_or(&0))
    };
    let map = Map {
        title: "Errors by CPU and bank".into(),
        across: "machine-check bank",
        columns: banks.iter().map(ToString::to_string).collect(),
        every: 2,
        down: "CPU that reported it, or its APIC id where no CPU is named",
        rows: cpus.iter().map(|cpu| format!("CPU {cpu}")).collect(),
        fields,
        name: &name,
    };
    Some(html! {
        (map.draw())
        @if left_out > 0 { p.muted { (plural(left_out as u64, "further CPU")) " not drawn" } }
    })
}

const fn bank_of(cell: &Cell) -> Cell {
    Cell { row: None, column: None, line: None, ..*cell }
}

/// A bank as an axis has room for it: `r0 d3 g1 b1`.
fn short(bank: &Cell) -> String {
    let parts = [
        ("r", bank.rank.map(u64::from)),
        ("die", bank.chip.map(u64::from)),
        ("d", bank.device.map(u64::from)),
        ("g", bank.bank_group.map(u64::from)),
        ("b", bank.bank.map(u64::from)),
    ];
    let known = parts.iter().filter_map(|(name, value)| Some(format!("{name}{}", (*value)?)));
    known.collect::<Vec<_>>().join(" ")
}

fn labels_of(axis: &Axis) -> Vec<String> {
    (0..axis.fields).map(|field| format!("{:#x}", axis.first(field))).collect()
}

fn wide(what: &str, axis: &Axis) -> String {
    match axis.shift {
        0 => what.into(),
        shift => format!("{what}, {} in a field", 1_u64 << shift),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_numbers_and_no_more_fields_than_fit() {
        for numbers in [
            vec![0],
            vec![u32::MAX],
            vec![0, u32::MAX],
            vec![0x1a2b],
            vec![100, 147],
            vec![100, 148],
        ] {
            let axis = Axis::over(numbers.iter().copied(), ACROSS);
            assert!((FIELDS_MIN..=ACROSS).contains(&axis.fields), "{numbers:?}");
            for number in numbers {
                let first = axis.first(axis.field(number));
                let range = first..first + (1 << axis.shift);
                assert!(range.contains(&u64::from(number)), "{number:#x} in {range:?}");
            }
        }
    }

    #[test]
    fn shades_are_powers_of_four() {
        let shade = |errors| Field { errors, uncorrected: 0 }.shade();
        assert_eq!([1, 3, 4, 15, 16, 63, 64, 255, 256].map(shade), [1, 1, 2, 2, 3, 3, 4, 4, 5]);
        assert_eq!(shade(u64::MAX), 5);
    }
}
