//! `rasctl analyze`: what many errors have in common, and what to do about it.
//!
//! [`Analysis`] takes records as a [`Sink`], one by one, in bounded memory; [`Analysis::finish`]
//! makes [`Findings`] of them, which [`text`] and [`json`] render, and `report` draws.

pub mod advice;
pub mod counter;
#[cfg(test)]
pub(crate) mod data;
pub mod json;
pub mod storms;
#[cfg(test)]
mod tests;
pub mod text;
pub mod timeline;

use std::io;
use std::sync::Arc;

use ras_core::diagnosis::grouping::{
    CELLS_MAX, Cell, Group, Grouping, LeftOut, Part, PartKind, Tally,
};
use ras_core::{
    ErrorClass, ErrorRecord, ErrorSource, Location, McaRegisters, PciAddress, PfnRange, Raw,
    Severity, Timestamp,
};

use self::advice::{Advice, Retire};
use self::counter::{Counter, Total};
use self::storms::{Storm, Storms};
use self::timeline::{Level, Timeline};
use crate::read::{Damage, Found, Sink};

/// Banks of processors told apart: 1,024 CPUs with 64 banks.
pub const BANKS_MAX: usize = 65_536;
/// Notes about inputs that are kept.
pub const NOTES_MAX: usize = 100;
/// Characters of a file's name that are kept.
const NAME_MAX: usize = 512;

/// What is counted while records come in.
#[derive(Debug, Default)]
pub struct Analysis {
    reports: u64,
    witnesses: u64,
    informational: u64,
    simulated: u64,
    previous_boot: u64,
    counted: Levels,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    severities: Counter<Severity>,
    sources: Counter<ErrorSource>,
    classes: Counter<ErrorClass>,
    files: Counter<Arc<str>>,
    sockets: Counter<u32>,
    cpus: Counter<u32>,
    devices: Counter<PciAddress>,
    banks: Counter<(u32, u8), BANKS_MAX>,
    timeline: Timeline,
    storms: Storms,
    grouping: Grouping,
    damages: u64,
    notes: Vec<String>,
    notes_left_out: u64,
}

/// Errors by how bad they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Levels(pub [u64; Level::ALL.len()]);

impl Levels {
    /// Counts `errors` more.
    pub fn add(&mut self, level: Level, errors: u64) {
        let sum = &mut self.0[level as usize];
        *sum = sum.saturating_add(errors);
    }

    /// Adds all of `other`.
    pub fn join(&mut self, other: &Self) {
        for level in Level::ALL {
            self.add(level, other.get(level));
        }
    }

    /// Those of one level.
    #[must_use]
    pub const fn get(&self, level: Level) -> u64 {
        self.0[level as usize]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, errors| sum.saturating_add(*errors))
    }
}

impl Analysis {
    /// Counts one record. Its witnesses are the same error.
    pub fn add(&mut self, place: &Arc<str>, record: &ErrorRecord) {
        self.reports += 1;
        self.witnesses += record.witnesses.len() as u64;
        self.severities.add(record.severity, record);
        self.sources.add(record.source, record);
        self.first = [self.first, record.time].into_iter().flatten().min();
        self.last = self.last.max(record.time);
        self.damages += damages(record);
        let Some(level) = Level::of(record.severity) else {
            self.informational += 1;
            return;
        };
        if record.flags.simulated {
            self.simulated += 1;
            return;
        }
        self.previous_boot += u64::from(record.is_of_previous_boot());
        let errors = u64::from(record.count.max(1));
        self.counted.add(level, errors);
        self.classes.add(record.class, record);
        self.files.add(shortened(place), record);
        if let Some(socket) = record.location.socket {
            self.sockets.add(socket, record);
        }
        if let Some(cpu) = record.location.cpu {
            self.cpus.add(cpu, record);
        }
        if let Some(pci) = record.location.pci {
            self.devices.add(pci, record);
        }
        if let Some((cpu, bank)) = bank(record) {
            self.banks.add((cpu, bank), record);
        }
        self.timeline.add(record.time, level, errors);
        let part = self.grouping.add(record);
        if let (Some(part), Some(time), Severity::Corrected) = (part, record.time, record.severity)
        {
            self.storms.add(part, time, errors);
        }
    }

    /// Concludes.
    #[must_use]
    pub fn finish(self) -> Findings {
        let Self { timeline, storms, mut grouping, mut notes, .. } = self;
        let joined = grouping.join_names();
        let groups = grouping.groups();
        let retire = advice::retire(&grouping, &groups);
        let advice = advice::advice(&grouping, &groups);
        let modules = modules(&grouping);
        let (storms, storms_forgotten) = storms.finish();
        let part_name = |number: u32| {
            let number = grouping.current_number(number);
            let mut parts = grouping.parts().filter(|(_, errors)| errors.number() == number);
            parts.next().map_or_else(String::new, |(part, _)| part.to_string())
        };
        let storms = storms.into_iter().map(|storm| (part_name(storm.part), storm)).collect();
        let sources = self.sources.finish();
        let counters = |total: &Total<ErrorSource>| total.name == ErrorSource::EdacCounter;
        if sources.list.iter().any(counters) && !sources.list.iter().all(counters) {
            notes.push(
                "EDAC's counters may count errors that other inputs report one by one: \
                 those are counted twice"
                    .into(),
            );
        }
        notes.extend(names(&grouping, &joined));
        let flagged = [
            (self.simulated, "reports are of simulated errors: no error count has them"),
            (
                self.previous_boot,
                "reports are of an earlier boot, and may have been logged then too",
            ),
        ];
        let flagged = flagged.into_iter().filter(|(count, _)| *count > 0);
        notes.extend(flagged.map(|(count, what)| format!("{count} {what}")));
        Findings {
            reports: self.reports,
            witnesses: self.witnesses,
            informational: self.informational,
            simulated: self.simulated,
            previous_boot: self.previous_boot,
            errors: self.counted,
            first: self.first,
            last: self.last,
            severities: self.severities.finish(),
            sources,
            classes: self.classes.finish(),
            files: self.files.finish(),
            sockets: self.sockets.finish(),
            cpus: self.cpus.finish(),
            devices: self.devices.finish(),
            banks: self.banks.finish(),
            timeline,
            storms,
            storms_forgotten,
            groups,
            modules,
            advice,
            retire,
            left_out: grouping.left_out(),
            grouping,
            damages: self.damages,
            unreadable: Vec::new(),
            notes,
            notes_left_out: self.notes_left_out,
        }
    }

    fn keep_note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        } else {
            self.notes_left_out += 1;
        }
    }
}

impl Sink for Analysis {
    fn record(&mut self, found: Found) -> io::Result<()> {
        self.add(&found.file, &found.record);
        Ok(())
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        self.damages += 1;
        let place = damage.line.map_or_else(
            || format!("byte {}", damage.problem.offset),
            |line| format!("line {line}"),
        );
        self.keep_note(format!("{}, {place}: {}", damage.file, damage.problem.detail));
        Ok(())
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        self.keep_note(format!("{file}: {note}"));
        Ok(())
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Findings {
    /// Records read; each is one report.
    pub reports: u64,
    /// Further reports of the same errors, joined to those.
    pub witnesses: u64,
    /// Reports that are no errors.
    pub informational: u64,
    /// Reports of simulated errors, which are in no other count of errors.
    pub simulated: u64,
    /// Reports of errors that happened before the boot that reported them.
    pub previous_boot: u64,
    /// Errors.
    pub errors: Levels,
    /// The earliest time that any report has.
    pub first: Option<Timestamp>,
    /// The latest.
    pub last: Option<Timestamp>,
    /// Reports by severity, informational ones too.
    pub severities: counter::Totals<Severity>,
    /// Reports by source, informational ones too.
    pub sources: counter::Totals<ErrorSource>,
    /// Errors by class.
    pub classes: counter::Totals<ErrorClass>,
    /// Errors by input.
    pub files: counter::Totals<Arc<str>>,
    /// Errors by processor package, where it is known.
    pub sockets: counter::Totals<u32>,
    /// Errors by CPU, where it is known.
    pub cpus: counter::Totals<u32>,
    /// Errors by PCI function: PCIe and CXL devices.
    pub devices: counter::Totals<PciAddress>,
    /// Errors by CPU and machine-check bank.
    pub banks: counter::Totals<(u32, u8)>,
    /// Errors over time.
    pub timeline: Timeline,
    /// Storms with the part that stormed, the first first.
    pub storms: Vec<(String, Storm)>,
    /// Runs of errors that were forgotten to bound memory: a storm may be missing or cut in two.
    pub storms_forgotten: u64,
    /// Faults, the gravest first.
    pub groups: Vec<Group>,
    /// Memory modules, those with the most errors first.
    pub modules: Vec<Module>,
    /// What to do, the most urgent first.
    pub advice: Vec<Advice>,
    /// Pages to retire.
    pub retire: Vec<Retire>,
    /// Errors that limits kept from being told apart.
    pub left_out: LeftOut,
    /// All places.
    pub grouping: Grouping,
    /// Places in inputs that are damaged.
    pub damages: u64,
    /// Inputs that could not be read, and why; whoever reads them adds them.
    pub unreadable: Vec<String>,
    /// What there is to know about inputs.
    pub notes: Vec<String>,
    /// Notes beyond [`NOTES_MAX`].
    pub notes_left_out: u64,
}

/// What the errors of one module are spread over.
#[derive(Debug)]
pub struct Module {
    /// The module.
    pub part: Part,
    /// All its errors.
    pub tally: Tally,
    /// Errors that name no cell.
    pub without_cell: u64,
    /// Errors that name neither a cell nor a page.
    pub blind: u64,
    /// By rank.
    pub ranks: counter::Totals<u16>,
    /// By bank, as far as it is known.
    pub banks: counter::Totals<Cell>,
    /// By row, as far as it is known.
    pub rows: counter::Totals<Cell>,
}

impl Findings {
    /// 0 where nothing was wrong, 1 where there are errors, 2 where an input could not be read, or was
    /// damaged and had no error that could be.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if !self.unreadable.is_empty() {
            2
        } else if self.errors.total() > 0 {
            1
        } else if self.damages > 0 {
            2
        } else {
            0
        }
    }

    /// Everything in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        advice::verdict(self)
    }

    /// The pages with errors, the worst first, at most `max`; and how many there are.
    #[must_use]
    pub fn pages(&self, max: usize) -> (Vec<(PfnRange, Tally)>, usize) {
        let mut pages: Vec<_> =
            self.grouping.pages().map(|(pages, errors)| (pages, errors.tally)).collect();
        pages.sort_by_key(|(_, tally)| std::cmp::Reverse((tally.uncorrected, tally.errors())));
        let all = pages.len();
        pages.truncate(max);
        (pages, all)
    }

    /// What could not be told apart or kept, in words; none where limits did not matter.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let LeftOut { parts, cells, pages, units } = self.left_out;
        let named = [
            (parts, "errors of further parts are counted, and in no fault"),
            (cells, "errors at further places in modules are counted, and in no fault"),
            (pages, "errors on further pages are counted, and in no list of pages"),
            (units, "errors of further caches, processors and links are counted, and in no fault"),
            (self.storms_forgotten, "runs of errors were forgotten: storms may be missing"),
            (self.notes_left_out, "notes about inputs are left out"),
            (self.files.others.errors(), "errors of further inputs are counted together"),
            (self.cpus.others.errors(), "errors of further CPUs are counted together"),
            (self.devices.others.errors(), "errors of further PCI functions are counted together"),
            (self.banks.others.errors(), "errors of further banks are counted together"),
        ];
        let met = named.into_iter().filter(|(count, _)| *count > 0);
        met.map(|(count, what)| format!("{count} {what}")).collect()
    }
}

/// Modules listed by name in one note; the rest is a number.
const NAMES_MAX: usize = 8;

/// What there is to know about the names of modules: which are of one module, and where that can't be
/// told.
fn names(grouping: &Grouping, joined: &[(Part, Part)]) -> Vec<String> {
    let mut notes: Vec<String> = joined
        .iter()
        .take(NAMES_MAX)
        .map(|(name, part)| format!("{part} is also the {name} of other reports: counted as one"))
        .collect();
    if joined.len() > NAMES_MAX {
        notes.push(format!("{} more modules have two names", joined.len() - NAMES_MAX));
    }
    let modules = || grouping.parts().filter(|(part, _)| part.kind == PartKind::Module);
    let known = |part: &Part| part.place != Location::default();
    let by_label = modules().filter(|(part, _)| part.place.fru.is_some()).count();
    let by_place = modules().filter(|(part, _)| part.place.fru.is_none() && known(part)).count();
    if by_label > 0 && by_place > 0 {
        notes.push(format!(
            "{by_label} modules are named by label and {by_place} by place, and no report has both \
             names: the same module may be counted under each"
        ));
    }
    notes
}

/// The processor and machine-check bank of a record, or of the bank that firmware put into it.
fn bank(record: &ErrorRecord) -> Option<(u32, u8)> {
    let own = |record: &ErrorRecord| match &record.raw {
        Raw::Mca(McaRegisters { bank, apic_id, .. }) => {
            Some((record.location.cpu.unwrap_or(*apic_id), *bank))
        }
        _ => None,
    };
    own(record).or_else(|| record.witnesses.iter().find_map(own))
}

fn damages(record: &ErrorRecord) -> u64 {
    record.problems.len() as u64 + record.witnesses.iter().map(damages).sum::<u64>()
}

fn shortened(name: &Arc<str>) -> Arc<str> {
    match name.char_indices().nth(NAME_MAX) {
        None => Arc::clone(name),
        Some((end, _)) => Arc::from(&name[..end]),
    }
}

fn modules(grouping: &Grouping) -> Vec<Module> {
    let with_cells = |part: &Part| grouping.cells(part).next().is_some();
    let is_memory = |part: &Part| part.kind == PartKind::Module || with_cells(part);
    let parts = grouping.parts().filter(|(part, _)| is_memory(part));
    let mut modules: Vec<Module> = parts
        .map(|(part, errors)| {
            // There are no more than a grouping has places.
            let mut ranks = Counter::<_, CELLS_MAX>::default();
            let mut banks = Counter::<_, CELLS_MAX>::default();
            let mut rows = Counter::<_, CELLS_MAX>::default();
            for (cell, tally) in grouping.cells(part) {
                if let Some(rank) = cell.rank {
                    ranks.join(rank, tally);
                }
                let bank = Cell { row: None, column: None, line: None, ..*cell };
                if cell.bank.is_some() {
                    banks.join(bank, tally);
                }
                if cell.row.is_some() {
                    rows.join(Cell { column: None, ..*cell }, tally);
                }
            }
            Module {
                part: part.clone(),
                tally: errors.tally,
                without_cell: errors.without_cell,
                blind: errors.blind,
                ranks: ranks.finish(),
                banks: banks.finish(),
                rows: rows.finish(),
            }
        })
        .collect();
    modules
        .sort_by_key(|module| std::cmp::Reverse((module.tally.uncorrected, module.tally.errors())));
    modules
}
