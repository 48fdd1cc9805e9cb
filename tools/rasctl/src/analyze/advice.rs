//! What to do: which part to replace, which pages to retire, and all of it in one sentence.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ras_core::diagnosis::grouping::{
    Cell, Confidence, Group, Grouping, PAGE_ERRORS, Part, PartKind, Tally,
};
use ras_core::{FaultMode, PfnRange};

use super::{Findings, Level};

/// Weak cells of one module that are taken for the beginning of more.
const WEAK_CELLS: usize = 8;

/// What to do with a part, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deed {
    /// Replace it now.
    Replace,
    /// Replace it when the machine is next open.
    PlanReplacement,
    /// Look at it first: contacts, cables, firmware, other causes.
    Inspect,
    /// Leave it, retire its pages, and look again.
    Watch,
}

impl Deed {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::PlanReplacement => "plan_replacement",
            Self::Inspect => "inspect",
            Self::Watch => "watch",
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::PlanReplacement => "plan to replace",
            Self::Inspect => "inspect",
            Self::Watch => "watch",
        }
    }
}

/// What to do with one part, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advice {
    /// What.
    pub deed: Deed,
    /// With which part.
    pub part: Part,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why: the gravest faults of the part, in words.
    pub reason: String,
    /// Its faults.
    pub faults: usize,
    /// All errors of the part.
    pub tally: Tally,
}

/// Advice on every part that has a fault, the most urgent first.
#[must_use]
pub fn advice(grouping: &Grouping, groups: &[Group]) -> Vec<Advice> {
    let mut of_part: BTreeMap<&Part, Vec<&Group>> = BTreeMap::new();
    for group in groups {
        of_part.entry(&group.part).or_default().push(group);
    }
    let lost_in_memory = groups
        .iter()
        .any(|group| group.part.kind == PartKind::Module && group.tally.uncorrected > 0);
    let mut all: Vec<Advice> = grouping
        .parts()
        .filter_map(|(part, errors)| {
            let groups = of_part.get(part)?;
            Some(on_part(part, &errors.tally, groups, lost_in_memory))
        })
        .collect();
    all.sort_by_key(|advice| {
        let Tally { uncorrected, risky, .. } = advice.tally;
        // Lost data comes before what may be lost some day, even where nobody knows yet what to replace.
        let later = advice.deed > Deed::Replace && (uncorrected == 0 || advice.deed == Deed::Watch);
        let unknown_loss = !later && advice.deed != Deed::Replace;
        (
            later,
            unknown_loss,
            advice.deed,
            Reverse((advice.confidence, uncorrected, risky, advice.tally.errors())),
        )
    });
    all
}

/// `groups` are the part's faults, the gravest first; there is at least one.
fn on_part(part: &Part, tally: &Tally, groups: &[&Group], lost_in_memory: bool) -> Advice {
    let lost = groups.iter().any(|group| group.tally.uncorrected > 0);
    let any = |modes: fn(&FaultMode) -> bool| groups.iter().any(|group| modes(&group.fault.mode));
    let (deed, note) = match part.kind {
        _ if is_memory(groups) => {
            let cells = groups.iter().filter(|group| group.fault.mode == FaultMode::Cell).count();
            let large =
                any(|mode| matches!(mode, FaultMode::Bank | FaultMode::Device | FaultMode::Rank));
            let blind = groups.iter().all(|group| {
                group.fault.mode == FaultMode::Module && group.confidence == Confidence::Low
            });
            let line =
                any(|mode| matches!(mode, FaultMode::Row | FaultMode::Column | FaultMode::Module));
            if !part.is_single() {
                (Deed::Inspect, "find out which module it is first")
            } else if tally.risky > 0 && !lost {
                (
                    Deed::Replace,
                    "risky bits, if its devices are x4: move what runs there elsewhere first",
                )
            } else if lost || large {
                (Deed::Replace, "")
            } else if blind {
                (Deed::Inspect, "counts alone foretell little")
            } else if line || cells >= WEAK_CELLS {
                (Deed::PlanReplacement, "")
            } else {
                (Deed::Watch, "weak cells that stay alone seldom grow; retire their pages")
            }
        }
        PartKind::Processor if lost => {
            let blames_others = groups.iter().all(|group| group.confidence == Confidence::Low);
            match (blames_others, lost_in_memory) {
                (true, true) => {
                    (Deed::Watch, "memory lost data as well, which is the likelier cause")
                }
                (true, false) => (Deed::Inspect, "rule out memory first"),
                (false, _) => (Deed::Replace, ""),
            }
        }
        PartKind::Processor => {
            (Deed::Watch, "caches correct by design; replace it if this goes on")
        }
        PartKind::Pci | PartKind::Cxl => {
            (Deed::Inspect, "reseat card and cables, then try another slot, then replace it")
        }
        PartKind::Firmware => (Deed::Inspect, "read the platform's own event log; update firmware"),
        _ => (Deed::Inspect, "no record says what it is; the raw bits may"),
    };
    let mut reasons: Vec<String> = groups
        .iter()
        .take(2)
        .map(|group| format!("{} fault: {}", group.fault.mode.name(), group.fault.reason))
        .collect();
    if groups.len() > 2 {
        reasons.push(format!("{} more faults", groups.len() - 2));
    }
    if !note.is_empty() {
        reasons.push(note.into());
    }
    // What is sure of the fault that decides is sure of the advice.
    let confidence = groups.iter().map(|group| group.confidence).max().unwrap_or(Confidence::Low);
    let reason = reasons.join("; ");
    Advice { deed, part: part.clone(), confidence, reason, faults: groups.len(), tally: *tally }
}

fn is_memory(groups: &[&Group]) -> bool {
    groups.iter().any(|Group { part, fault, .. }| match part.kind {
        PartKind::Module => true,
        PartKind::Cxl => fault.mode != FaultMode::Link,
        _ => false,
    })
}

/// Pages to take out of use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retire {
    /// The pages.
    pub pages: PfnRange,
    /// The part they are in.
    pub part: Part,
    /// Their errors.
    pub tally: Tally,
    /// Why.
    pub why: Why,
}

/// Why pages are retired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// Data at them was lost.
    Lost,
    /// They corrected more than once.
    Repeated,
    /// Firmware says that they went over its threshold.
    OverThreshold,
    /// They lie in a row that is broken. Only those that had errors are known: where the rest of the
    /// row is, the platform's address map says.
    BrokenRow,
}

impl Why {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "data_lost",
            Self::Repeated => "corrected_repeatedly",
            Self::OverThreshold => "over_firmware_threshold",
            Self::BrokenRow => "in_broken_row",
        }
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Lost => "data was lost",
            Self::Repeated => "corrected more than once",
            Self::OverThreshold => "over firmware's threshold",
            Self::BrokenRow => "in a broken row",
        }
    }
}

/// The pages to retire, the most urgent first.
#[must_use]
pub fn retire(grouping: &Grouping, groups: &[Group]) -> Vec<Retire> {
    let parts: BTreeMap<u32, &Part> =
        grouping.parts().map(|(part, errors)| (errors.number(), part)).collect();
    let broken: BTreeSet<(&Part, Cell)> = groups
        .iter()
        .filter(|group| group.fault.mode == FaultMode::Row)
        .map(|group| (&group.part, Cell::at(&group.fault.location)))
        .collect();
    let mut retire: Vec<Retire> = grouping
        .pages()
        .filter_map(|(pages, errors)| {
            let part = *parts.get(&errors.part())?;
            let why = if errors.tally.uncorrected > 0 {
                Why::Lost
            } else if pages.count > 1 {
                // A corrected error somewhere in them.
                return None;
            } else if errors.tally.corrected >= PAGE_ERRORS {
                Why::Repeated
            } else if errors.tally.over_threshold > 0 {
                Why::OverThreshold
            } else if errors.row.is_some_and(|row| broken.contains(&(part, row))) {
                Why::BrokenRow
            } else {
                return None;
            };
            Some(Retire { pages, part: part.clone(), tally: errors.tally, why })
        })
        .collect();
    retire.sort_by_key(|page| (page.why, Reverse(page.tally.errors())));
    retire
}

/// Everything in one sentence, or two.
pub(super) fn verdict(findings: &Findings) -> String {
    let errors = findings.errors.total();
    if errors == 0 {
        if findings.simulated > 0 {
            return "There are reports of simulated errors, and of no real one.".into();
        }
        return match (findings.reports, findings.damages + findings.unreadable.len() as u64) {
            (0, 0) if findings.notes.is_empty() => "There is no report of any error.".into(),
            (0, 0) => "There is no report of any error in what could be read.".into(),
            (0, _) => "Nothing could be read; whether there are errors is unknown.".into(),
            (_, 0) => "There are reports, and none of them is an error.".into(),
            (..) => "No errors in what could be read; parts of the input are damaged.".into(),
        };
    }
    let lost = findings.errors.get(Level::Uncorrected) + findings.errors.get(Level::Fatal);
    let figures = match (lost, errors) {
        (0, 1) => "1 error, no data lost".into(),
        (0, errors) => format!("{errors} errors, no data lost"),
        (1, 1) => "1 error, and it lost data".into(),
        (lost, errors) => format!("{errors} errors, {lost} of them with loss of data"),
    };
    let of = |deed| findings.advice.iter().filter(move |advice| advice.deed == deed);
    let first = findings.advice.first();
    match first {
        None if lost == 0 => format!("{figures}; nothing is broken as far as they show."),
        None => format!("{figures}; what is broken can't be told from them."),
        Some(Advice { deed, part, .. }) => {
            let same = of(*deed).count();
            let others = match same {
                1 => String::new(),
                2 => " and 1 more part".into(),
                same => format!(" and {} more parts", same - 1),
            };
            let what = match deed {
                Deed::Replace => format!("Replace {part}{others}"),
                Deed::PlanReplacement => format!("Plan to replace {part}{others}"),
                Deed::Inspect => format!("Inspect {part}{others}"),
                Deed::Watch => format!("Nothing to replace yet; watch {part}{others}"),
            };
            format!("{what}: {figures}.")
        }
    }
}
