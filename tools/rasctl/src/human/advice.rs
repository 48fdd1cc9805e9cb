//! What an error means for whoever runs the machine, and what to do about it.

use ras_core::diagnosis::grouping::is_risky;
use ras_core::{ErrorClass as Class, ErrorRecord, ErrorSource, Raw, Severity};

/// What happened to data and programs.
pub(super) fn meaning(record: &ErrorRecord) -> &'static str {
    match worst(record) {
        _ if record.source == ErrorSource::ErrorSourceTable => {
            "how the platform reports errors; no error in itself"
        }
        Severity::Informational => "a report, not an error: nothing was lost",
        Severity::Corrected => "the hardware corrected it: no data was lost, programs run on",
        Severity::Deferred => {
            "data was found lost before anybody used it; who reads it later will be stopped"
        }
        Severity::Ucna => "data is lost, but nothing used it: software need not act at once",
        // Firmware's grades don't tell whether somebody read it.
        Severity::Srao if !matches!(record.raw, Raw::Mca(_)) => {
            "data is lost; whether a program used it already is not said"
        }
        Severity::Srao => "data is lost, found before a program needed it: the system can run on",
        Severity::Srar => "a program or the kernel used data that is lost: it can't go on",
        Severity::Fatal => "the system can't go on safely: it stopped, or should be stopped",
        _ => "how bad it is was not said, or not in a way that is defined",
    }
}

/// The worst that the record or one of its witnesses knows.
fn worst(record: &ErrorRecord) -> Severity {
    record.witnesses.iter().map(worst).fold(record.severity, Severity::max)
}

/// What to do.
pub(super) fn advice(record: &ErrorRecord) -> &'static str {
    use Severity::{Corrected, Fatal, Informational, Unknown};
    match (record.class, worst(record)) {
        _ if record.source == ErrorSource::ErrorSourceTable => "none is needed",
        _ if record.flags.simulated => "none is needed: nothing of it is real",
        (_, Informational) => "none is needed",
        (_, Unknown) => "read the details below, and the log of the platform's firmware",
        (Class::Memory, Corrected) if is_risky(record) => {
            "move the work elsewhere and replace the module: on x4 devices such error bits precede \
             loss of data"
        }
        (Class::Memory, Corrected) => {
            "none for a single one; where they repeat, take the page out of use and plan to \
             replace the module"
        }
        (Class::Memory, Fatal) => {
            "move the work elsewhere and replace the module before the machine is used again"
        }
        (Class::Memory, _) => {
            "take the page out of use, restart what lost data, replace the module at the next chance"
        }
        (Class::Cache | Class::Tlb | Class::Internal | Class::Processor, Corrected) => {
            "none for a single one; where one processor repeats them, plan to replace it"
        }
        (Class::Cache | Class::Tlb | Class::Internal | Class::Processor, Fatal) => {
            "bring microcode and firmware up to date; if it returns on the same socket, replace the \
             processor"
        }
        (Class::Cache | Class::Tlb | Class::Internal | Class::Processor, _) => {
            "restart what was hit; if it returns on the same processor, replace the processor"
        }
        (Class::Bus, Corrected) => {
            "none for a single one; where they repeat, check sockets, risers and the link's other end"
        }
        (Class::Bus, _) => {
            "check both ends of the link: an access that got no answer may be a device's fault"
        }
        (Class::Pcie, Corrected) => {
            "none for a few; at a rate, reseat the card or cable and check the link's speed and width"
        }
        (Class::Pcie, _) => {
            "see whether the driver recovered the device; reseat it, update its firmware, or replace it"
        }
        (Class::Cxl, Corrected) => {
            "none for a few; where they repeat at one place, let the device spare or retire it"
        }
        (Class::Cxl, _) => {
            "take the address range out of use and ask the device for its health before trusting it"
        }
        (Class::Iommu, _) => {
            "find the device that made the access: its driver or firmware is the usual cause"
        }
        (Class::Firmware | Class::Platform, _) => {
            "read the management controller's event log, which knows more, and update the firmware"
        }
        (_, Corrected) => "none for a single one; watch whether it repeats",
        _ => "keep the raw data below for the maker, and watch whether it repeats",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_gets_a_line_that_fits_a_screen() {
        let classes = [
            Class::Memory,
            Class::Cache,
            Class::Tlb,
            Class::Bus,
            Class::Internal,
            Class::Processor,
            Class::Pcie,
            Class::Cxl,
            Class::Iommu,
            Class::Firmware,
            Class::Platform,
            Class::Unknown,
        ];
        let severities = [
            Severity::Unknown,
            Severity::Informational,
            Severity::Corrected,
            Severity::Deferred,
            Severity::Ucna,
            Severity::Srao,
            Severity::Srar,
            Severity::Fatal,
        ];
        let simulated = ras_core::RecordFlags { simulated: true, ..ras_core::RecordFlags::NONE };
        let record = ErrorRecord { flags: simulated, ..ErrorRecord::new(ErrorSource::Cper) };
        assert!(advice(&record).starts_with("none is needed"));
        for class in classes {
            for severity in severities {
                let record =
                    ErrorRecord { class, severity, ..ErrorRecord::new(ErrorSource::MceRecord) };
                for line in [meaning(&record), advice(&record)] {
                    assert!(!line.contains('\n') && line.len() <= 100, "{line}");
                }
                // Nobody is told to do nothing about lost data.
                assert!(!(severity.is_uncorrected() && advice(&record).starts_with("none")));
            }
        }
    }
}
