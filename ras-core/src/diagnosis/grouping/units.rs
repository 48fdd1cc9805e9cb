//! Whatever is not memory: caches and processors, links, firmware.

use alloc::format;
use alloc::vec::Vec;

use super::{
    CACHE_ERRORS, Confidence, Group, Grouping, LINK_ERRORS, PROCESSOR_ERRORS, Part, PartErrors,
    Place, Spread, Why, memory,
};
use crate::{ErrorClass, ErrorRecord, FaultMode, Severity};

/// What of a part is told apart from the rest of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Unit {
    mode: FaultMode,
    /// The CPU that reported it: for a cache that is shared, one of those that share it.
    cpu: Option<u32>,
}

impl Unit {
    pub(super) fn of(record: &ErrorRecord, memory: bool) -> Option<Self> {
        let mode = match record.class {
            _ if memory => return None,
            ErrorClass::Cache | ErrorClass::Tlb => FaultMode::Cache,
            ErrorClass::Bus | ErrorClass::Internal | ErrorClass::Processor => FaultMode::Processor,
            ErrorClass::Pcie | ErrorClass::Cxl => FaultMode::Link,
            ErrorClass::Iommu | ErrorClass::Firmware | ErrorClass::Platform => FaultMode::Firmware,
            ErrorClass::Memory | ErrorClass::Unknown => FaultMode::Unlocated,
        };
        let on_cpu = matches!(mode, FaultMode::Cache | FaultMode::Processor);
        Some(Self { mode, cpu: record.location.cpu.filter(|_| on_cpu) })
    }

    /// Corrected errors that make it a fault; `None` where only loss does.
    const fn limit(self) -> Option<u64> {
        match self.mode {
            FaultMode::Cache => Some(CACHE_ERRORS),
            FaultMode::Processor => Some(PROCESSOR_ERRORS),
            FaultMode::Link => Some(LINK_ERRORS),
            _ => None,
        }
    }
}

impl Grouping {
    /// The faults of one part beyond its memory.
    pub(super) fn units(&self, part: &Part, errors: &PartErrors, groups: &mut Vec<Group>) {
        let (index, spread) = (errors.index, Spread::default());
        let first =
            Unit { mode: FaultMode::Pages(crate::PfnRange::single(crate::Pfn(0))), cpu: None };
        let units = self.units.range((index, first)..).take_while(|((part, _), _)| *part == index);
        for ((_, unit), tally) in units {
            let limit = unit.limit();
            let often = limit.is_some_and(|limit| tally.corrected >= limit);
            if !often && tally.uncorrected == 0 {
                continue;
            }
            let what = match unit.mode {
                FaultMode::Cache => "cache or translation buffer",
                FaultMode::Processor => "processor beyond its caches",
                FaultMode::Link => "link, or the device behind it",
                FaultMode::Firmware => "as firmware reports it",
                _ => "not classified",
            };
            let cpu = unit.cpu.map_or_else(Default::default, |cpu| format!(", seen by CPU {cpu}"));
            let limit = match limit.filter(|_| tally.uncorrected == 0) {
                Some(limit) => format!(" (limit {limit})"),
                None => Default::default(),
            };
            let mut reason = format!("{what}{cpu}: {}{limit}", memory::figures(tally));
            let confidence = match (unit.mode, tally.uncorrected > 0, often) {
                (_, true, true) => Confidence::High,
                (FaultMode::Cache, true, false) if tally.severity < Severity::Fatal => {
                    reason.push_str("; a load that meets poison from memory looks the same");
                    Confidence::Low
                }
                (FaultMode::Processor | FaultMode::Link, true, false) | (_, false, _) => {
                    Confidence::Medium
                }
                (_, true, false) => Confidence::Low,
            };
            let why = Why { mode: unit.mode, confidence, reason, spread };
            groups.push(self.group(part, Place::Cpu(unit.cpu), *tally, why));
        }
    }
}
