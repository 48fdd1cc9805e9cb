//! Text for people: tables, times, errors in one line.

use std::io::Write;

use anstyle::Style;
use serde::Serialize;

use crate::Failure;

/// The colour of a cell.
type Paint = fn(&str) -> Style;

/// Columns as wide as they have to be; the last one as wide as it is.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// A column, and the colour of each of its cells.
    paint: Option<(usize, Paint)>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)], paint: None }
    }

    /// Gives the cells of a column colours, where output is to have any.
    pub(crate) fn paint(&mut self, column: usize, style: Paint) {
        if anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never {
            self.paint = Some((column, style));
        }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let paint = self.paint.filter(|(painted, _)| *painted == column);
                let style = paint.map_or(Style::new(), |(_, style)| style(cell));
                line += &format!("{style}{cell:width$}{style:#}  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// One object, one line.
pub(crate) fn json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "LONG", "END"]);
        table.row(["wide".into(), "x".into(), String::new()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A     LONG  END\nwide  x\n");
    }
}
