//! Findings as text for people.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use ras_core::Timestamp;
use ras_core::diagnosis::grouping::{Cell, Tally};

use super::advice::Deed;
use super::counter::Totals;
use super::timeline::View;
use super::{Findings, Level, Module};
use crate::human::{printable, rfc3339};

/// Lines of each table; `--json` has the rest.
const LINES: usize = 12;
/// Lines of the tables that say what to do.
const LINES_TO_ACT: usize = 30;
/// Modules of which ranks, banks and rows are shown.
const MODULES: usize = 6;
/// Characters of the timeline.
const STEPS: usize = 72;
/// Characters of a line of words, where they have to be broken.
const WORDS_A_LINE: usize = 96;

/// Writes everything, with colours if `color`.
///
/// # Errors
/// `out` takes no more.
pub fn write(findings: &Findings, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Text { color, out };
    text.head(findings)?;
    if findings.errors.total() > 0 {
        text.advice(findings)?;
        text.timeline(findings)?;
        text.storms(findings)?;
        text.faults(findings)?;
        text.retire(findings)?;
        text.totals(findings)?;
        for module in findings.modules.iter().take(MODULES) {
            text.module(module)?;
        }
        text.left(findings.modules.len(), MODULES, "module")?;
    }
    text.inputs(findings)
}

struct Text<'a> {
    color: bool,
    out: &'a mut dyn Write,
}

impl Text<'_> {
    fn style(&self, style: Style) -> Style {
        if self.color { style } else { Style::new() }
    }

    fn title(&mut self, title: &str) -> io::Result<()> {
        let bold = self.style(Style::new().bold());
        writeln!(self.out, "\n{bold}{title}{bold:#}")
    }

    fn head(&mut self, findings: &Findings) -> io::Result<()> {
        let style = match findings.advice.first() {
            _ if findings.errors.total() == 0 => AnsiColor::Green.on_default(),
            Some(advice) if advice.deed == Deed::Replace => AnsiColor::Red.on_default(),
            _ => AnsiColor::Yellow.on_default(),
        };
        let style = self.style(style.bold());
        writeln!(self.out, "{style}{}{style:#}", printable(&findings.verdict()))?;
        let files = findings.files.list.len();
        let mut read = format!(
            "{} with errors, {}, {} joined to them, {} informational",
            plural(files as u64, "input"),
            plural(findings.reports, "report"),
            plural(findings.witnesses, "witness"),
            findings.informational
        );
        if let (Some(first), Some(last)) = (findings.first, findings.last) {
            read += &format!("; {} to {}", rfc3339(first), rfc3339(last));
        }
        writeln!(self.out, "{read}")
    }

    fn advice(&mut self, findings: &Findings) -> io::Result<()> {
        if findings.advice.is_empty() {
            return Ok(());
        }
        self.title("WHAT TO DO")?;
        for (index, advice) in findings.advice.iter().take(LINES_TO_ACT).enumerate() {
            let style = self.style(deed(advice.deed));
            let Tally { uncorrected, .. } = advice.tally;
            writeln!(
                self.out,
                "{:>3}. {style}{} {}{style:#}  ({} confidence; {}, {uncorrected} uncorrected)",
                index + 1,
                advice.deed.words(),
                printable(&advice.part.to_string()),
                advice.confidence.name(),
                plural(advice.tally.errors(), "error"),
            )?;
            for line in wrapped(&printable(&advice.reason)) {
                writeln!(self.out, "     {line}")?;
            }
        }
        self.left(findings.advice.len(), LINES_TO_ACT, "part")
    }

    fn timeline(&mut self, findings: &Findings) -> io::Result<()> {
        let untimed = findings.timeline.untimed.total();
        let view = findings.timeline.view(STEPS);
        self.title("WHEN")?;
        if !view.steps.is_empty() {
            let highest = view.highest();
            writeln!(
                self.out,
                "  {} a character, at most {} in one; from {} to {}",
                view.step(),
                plural(highest, "error"),
                rfc3339(Timestamp::from_secs(view.start_s)),
                rfc3339(Timestamp::from_secs(view.end_s())),
            )?;
            for level in Level::ALL {
                let (total, bars) = sparkline(&view, level);
                if total > 0 {
                    let style = self.style(level_style(level));
                    writeln!(self.out, "  {:<12} {style}{bars}{style:#} {total}", level.name())?;
                }
            }
        }
        if untimed > 0 {
            writeln!(self.out, "  {} without a time", plural(untimed, "error"))?;
        }
        Ok(())
    }

    fn storms(&mut self, findings: &Findings) -> io::Result<()> {
        if findings.storms.is_empty() {
            return Ok(());
        }
        self.title("STORMS  (10 corrected errors or more, with gaps of 60 s at most)")?;
        let mut storms: Vec<_> = findings.storms.iter().collect();
        storms.sort_by_key(|(_, storm)| std::cmp::Reverse(storm.errors));
        let mut table = Table::new(["START", "LASTS", ">ERRORS", "PART"]);
        for (part, storm) in storms.iter().take(LINES) {
            let lasts = storm.end.nanos_since(storm.start) / 1_000_000_000;
            table.row([
                rfc3339(storm.start),
                format!("{lasts} s"),
                storm.errors.to_string(),
                part.clone(),
            ]);
        }
        table.print(self.out)?;
        self.left(storms.len(), LINES, "storm")
    }

    fn faults(&mut self, findings: &Findings) -> io::Result<()> {
        if findings.groups.is_empty() {
            return Ok(());
        }
        self.title("FAULTS")?;
        let mut table = Table::new(["MODE", "SEVERITY", "SURE", ">ERRORS", "PART", "WHY"]);
        for group in findings.groups.iter().take(LINES_TO_ACT) {
            table.row([
                group.fault.mode.name().into(),
                group.fault.severity.name().into(),
                group.confidence.name().into(),
                group.tally.errors().to_string(),
                group.part.to_string(),
                group.fault.reason.clone(),
            ]);
        }
        table.print(self.out)?;
        self.left(findings.groups.len(), LINES_TO_ACT, "fault")
    }

    fn retire(&mut self, findings: &Findings) -> io::Result<()> {
        if findings.retire.is_empty() {
            return Ok(());
        }
        self.title("PAGES TO RETIRE")?;
        let mut table = Table::new(["PFN", ">PAGES", ">ERRORS", "WHY", "PART"]);
        for page in findings.retire.iter().take(LINES) {
            table.row([
                page.pages.start.to_string(),
                page.pages.count.to_string(),
                page.tally.errors().to_string(),
                page.why.words().into(),
                page.part.to_string(),
            ]);
        }
        table.print(self.out)?;
        self.left(findings.retire.len(), LINES, "page")
    }

    fn totals(&mut self, findings: &Findings) -> io::Result<()> {
        self.total("BY SEVERITY", &findings.severities, |name| name.name().into())?;
        self.total("BY SOURCE", &findings.sources, |name| name.name().into())?;
        self.total("BY CLASS", &findings.classes, |name| name.name().into())?;
        self.total("BY SOCKET", &findings.sockets, ToString::to_string)?;
        self.total("BY CPU", &findings.cpus, ToString::to_string)?;
        self.total("BY MACHINE-CHECK BANK", &findings.banks, |(cpu, bank)| {
            format!("CPU {cpu}, bank {bank}")
        })?;
        self.total("BY PCI FUNCTION", &findings.devices, ToString::to_string)?;
        let (pages, all) = findings.pages(LINES);
        if all > 0 {
            self.title("BY PAGE")?;
            let mut table = Table::new(["PFN", ">PAGES", ">ERRORS", ">UNCORRECTED"]);
            for (pages, tally) in &pages {
                table.row([
                    pages.start.to_string(),
                    pages.count.to_string(),
                    tally.errors().to_string(),
                    tally.uncorrected.to_string(),
                ]);
            }
            table.print(self.out)?;
            self.left(all, LINES, "page")?;
        }
        if findings.modules.is_empty() {
            return Ok(());
        }
        self.title("BY MODULE")?;
        let mut table = Table::new(["MODULE", ">REPORTS", ">ERRORS", ">UNCORRECTED", "LAST"]);
        for module in findings.modules.iter().take(LINES_TO_ACT) {
            table.row([
                module.part.to_string(),
                module.tally.reports.to_string(),
                module.tally.errors().to_string(),
                module.tally.uncorrected.to_string(),
                module.tally.last.map_or_else(|| "unknown".into(), rfc3339),
            ]);
        }
        table.print(self.out)?;
        self.left(findings.modules.len(), LINES_TO_ACT, "module")
    }

    fn total<K>(
        &mut self,
        title: &str,
        totals: &Totals<K>,
        name: impl Fn(&K) -> String,
    ) -> io::Result<()> {
        if totals.list.is_empty() {
            return Ok(());
        }
        self.title(title)?;
        table(totals, LINES, name).print(self.out)?;
        self.left(totals.list.len(), LINES, "line")
    }

    fn module(&mut self, module: &Module) -> io::Result<()> {
        let Module { part, tally, without_cell, blind, ranks, banks, rows } = module;
        self.title(&printable(&part.to_string()))?;
        if *without_cell > 0 {
            writeln!(
                self.out,
                "  partial: of {}, {without_cell} name no cell, and {blind} of those no page either",
                plural(tally.errors(), "error")
            )?;
        }
        let of_cell = |cell: &Cell| cell_name(cell);
        if ranks.list.len() > 1 {
            table(ranks, LINES, |rank| format!("rank {rank}")).print(self.out)?;
        }
        for totals in [banks, rows] {
            if !totals.list.is_empty() {
                table(totals, LINES / 2, of_cell).print(self.out)?;
                self.left(totals.list.len(), LINES / 2, "line")?;
            }
        }
        Ok(())
    }

    fn inputs(&mut self, findings: &Findings) -> io::Result<()> {
        let limits = findings.limits();
        let damaged = (findings.damages > 0).then(|| {
            format!(
                "{} in the inputs; `rasctl decode` shows them",
                plural(findings.damages, "damaged place")
            )
        });
        let unreadable = findings.unreadable.iter().map(|why| format!("not read: {why}"));
        let lines: Vec<String> =
            unreadable.chain(damaged).chain(limits).chain(findings.notes.iter().cloned()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.title("TO KNOW")?;
        lines.iter().try_for_each(|line| writeln!(self.out, "  {}", printable(line)))
    }

    fn left(&mut self, all: usize, shown: usize, what: &str) -> io::Result<()> {
        if all > shown {
            let dim = self.style(Style::new().dimmed());
            let more = plural((all - shown) as u64, what);
            writeln!(self.out, "  {dim}and {more} more (--json has them){dim:#}")?;
        }
        Ok(())
    }
}

fn table<K>(totals: &Totals<K>, lines: usize, name: impl Fn(&K) -> String) -> Table<4> {
    let mut table = Table::new(["", ">REPORTS", ">ERRORS", ">UNCORRECTED"]);
    for total in totals.list.iter().take(lines) {
        table.row([
            name(&total.name),
            total.tally.reports.to_string(),
            total.tally.errors().to_string(),
            total.tally.uncorrected.to_string(),
        ]);
    }
    table
}

/// A place in a module in words.
pub(crate) fn cell_name(cell: &Cell) -> String {
    let parts = [
        ("rank", cell.rank.map(u64::from)),
        ("die", cell.chip.map(u64::from)),
        ("device", cell.device.map(u64::from)),
        ("bank group", cell.bank_group.map(u64::from)),
        ("bank", cell.bank.map(u64::from)),
    ];
    let mut words: Vec<String> =
        parts.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?))).collect();
    words.extend(cell.row.map(|row| format!("row {row:#x}")));
    words.extend(cell.column.map(|column| format!("column {column:#x}")));
    words.join(", ")
}

/// `1 error`, `2 errors`.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    match (count, noun) {
        (1, noun) => format!("1 {noun}"),
        (count, "witness") => format!("{count} witnesses"),
        (count, noun) => format!("{count} {noun}s"),
    }
}

fn sparkline(view: &View, level: Level) -> (u64, String) {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = view.steps.iter().map(|step| step.get(level)).max().unwrap_or(0).max(1);
    let bar = |errors: u64| {
        // Rounded up: a single error among thousands is still to be seen.
        let height = (u128::from(errors) * 8).div_ceil(u128::from(highest));
        BARS[usize::try_from(height).unwrap_or(8).min(8)]
    };
    let errors = || view.steps.iter().map(|step| step.get(level));
    (errors().fold(0, u64::saturating_add), errors().map(bar).collect())
}

fn deed(deed: Deed) -> Style {
    match deed {
        Deed::Replace => AnsiColor::Red.on_default().bold(),
        Deed::PlanReplacement | Deed::Inspect => AnsiColor::Yellow.on_default().bold(),
        Deed::Watch => Style::new().bold(),
    }
}

const fn level_style(level: Level) -> Style {
    let color = match level {
        Level::Corrected => AnsiColor::Cyan,
        Level::Uncorrected | Level::Fatal => AnsiColor::Red,
        Level::Unclassified => AnsiColor::Yellow,
    };
    Style::new().fg_color(Some(anstyle::Color::Ansi(color)))
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < WORDS_A_LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// Columns as wide as they have to be. A head with `>` before it is that of a column of numbers.
struct Table<const N: usize> {
    right: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(heads: [&str; N]) -> Self {
        let right = heads.map(|head| head.starts_with('>'));
        Self { right, rows: vec![heads.map(|head| head.trim_start_matches('>').to_owned())] }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell).into_owned()));
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(" ");
            for ((cell, width), right) in row.iter().zip(&widths).zip(self.right) {
                line += " ";
                line += &if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                line += " ";
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
