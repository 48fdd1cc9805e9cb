//! One bank: which of its cells, rows and columns are broken, or all of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use super::memory::{Counted, Found};
use super::{BANK_COLUMNS, BANK_ROWS, CELL_ERRORS, COLUMN_ROWS, Confidence, ROW_COLUMNS};
use crate::FaultMode;

/// A cell of which row and column are known.
#[derive(Clone, Copy)]
struct Exact<'a> {
    row: u32,
    column: u32,
    counted: Counted<'a>,
}

type Lines = BTreeMap<u32, BTreeSet<u32>>;

/// The faults among `cells`, which are those of one bank, or of none that is known.
pub(super) fn faults(cells: &[Counted<'_>]) -> Vec<Found> {
    let exact = cells.iter().filter_map(|counted| {
        match (counted.0.bank, counted.0.row, counted.0.column) {
            (Some(_), Some(row), Some(column)) => Some(Exact { row, column, counted: *counted }),
            _ => None,
        }
    });
    let mut found = of_exact(&exact.collect::<Vec<_>>());
    found.extend(of_rows(cells));
    let lines = cells.iter().filter(|(cell, _)| cell.line.is_some());
    found.extend(
        lines.filter_map(|counted| cell(*counted, "one line of the memory's own addresses")),
    );
    found
}

fn of_exact(cells: &[Exact<'_>]) -> Vec<Found> {
    let mut columns = by(cells, |cell| (cell.column, cell.row));
    columns.retain(|_, rows| rows.len() >= COLUMN_ROWS);
    // Two broken columns cross every row twice, which makes none of the rows broken.
    let (in_columns, others): (Vec<Exact<'_>>, _) =
        cells.iter().partition(|cell| columns.contains_key(&cell.column));
    let mut rows = by(&others, |cell| (cell.row, cell.column));
    rows.retain(|_, columns| columns.len() >= ROW_COLUMNS);

    if is_bank(&columns, &rows, &others) {
        let counted: Vec<Counted<'_>> = cells.iter().map(|cell| cell.counted).collect();
        let spans = |lines: Lines| lines.len();
        let all_rows = spans(by(cells, |cell| (cell.row, cell.column)));
        let all_columns = spans(by(cells, |cell| (cell.column, cell.row)));
        let what = format!(
            "{all_rows} rows and {all_columns} columns of one bank (limit {BANK_ROWS} and {BANK_COLUMNS})"
        );
        let sure = all_rows >= 2 * BANK_ROWS && all_columns >= 2 * BANK_COLUMNS;
        return Vec::from([Found::new(FaultMode::Bank, &counted, level(sure), &what)]);
    }

    let mut found = Vec::new();
    for (column, in_rows) in &columns {
        let these = in_columns.iter().filter(|cell| cell.column == *column);
        let what = format!("{} rows in column {column:#x} (limit {COLUMN_ROWS})", in_rows.len());
        let sure = in_rows.len() >= 2 * COLUMN_ROWS;
        found.push(Found::new(FaultMode::Column, &counted(these), level(sure), &what));
    }
    for (row, in_columns) in &rows {
        let these = others.iter().filter(|cell| cell.row == *row);
        let what = format!("{} columns in row {row:#x} (limit {ROW_COLUMNS})", in_columns.len());
        let sure = in_columns.len() >= 2 * ROW_COLUMNS;
        found.push(Found::new(FaultMode::Row, &counted(these), level(sure), &what));
    }
    let alone = others.iter().filter(|cell| !rows.contains_key(&cell.row));
    found.extend(alone.filter_map(|Exact { row, column, counted }| {
        cell(*counted, &format!("row {row:#x}, column {column:#x}"))
    }));
    found
}

/// Whether more is broken than one row and up to three columns. Rows of a bank that all have
/// several columns are no better: the largest one alone is taken for itself.
fn is_bank(columns: &Lines, rows: &Lines, others: &[Exact<'_>]) -> bool {
    let largest = rows.iter().max_by_key(|(_, columns)| columns.len()).map(|(row, _)| *row);
    let rest = others.iter().filter(|cell| Some(cell.row) != largest);
    let (mut in_rows, mut in_columns) = (BTreeSet::new(), BTreeSet::new());
    for cell in rest {
        in_rows.insert(cell.row);
        in_columns.insert(cell.column);
    }
    columns.len() >= BANK_COLUMNS
        || (in_rows.len() >= BANK_ROWS && in_columns.len() >= BANK_COLUMNS)
}

/// Rows of which the columns are not known: one broken column looks the same as a broken bank.
fn of_rows(cells: &[Counted<'_>]) -> Option<Found> {
    let rows_only = |(cell, _): &&Counted<'_>| {
        cell.bank.is_some() && cell.row.is_some() && cell.column.is_none()
    };
    let these: Vec<Counted<'_>> = cells.iter().filter(rows_only).copied().collect();
    let what = format!(
        "{} rows of one bank (limit {BANK_ROWS}); no record names the column, which may be one",
        these.len()
    );
    (these.len() >= BANK_ROWS).then(|| Found::new(FaultMode::Bank, &these, Confidence::Low, &what))
}

fn cell(counted: Counted<'_>, what: &str) -> Option<Found> {
    let (_, tally) = counted;
    let repeats = tally.corrected >= CELL_ERRORS;
    // One error shows that data was lost there, and not yet that nothing else is broken.
    (repeats || tally.uncorrected > 0).then(|| {
        let confidence = if repeats { Confidence::Medium } else { Confidence::Low };
        Found::new(FaultMode::Cell, &[counted], confidence, what)
    })
}

fn by(cells: &[Exact<'_>], key: impl Fn(&Exact<'_>) -> (u32, u32)) -> Lines {
    let mut lines = Lines::new();
    for (line, crossing) in cells.iter().map(key) {
        lines.entry(line).or_default().insert(crossing);
    }
    lines
}

fn counted<'a>(cells: impl Iterator<Item = &'a Exact<'a>>) -> Vec<Counted<'a>> {
    cells.map(|cell| cell.counted).collect()
}

const fn level(sure: bool) -> Confidence {
    if sure { Confidence::High } else { Confidence::Medium }
}
