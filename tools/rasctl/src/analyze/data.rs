//! A made-up machine for tests: always the same errors, of the kinds that real ones have.

use std::sync::Arc;

use ras_core::{
    AddressMode, DimmLocation, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, Location,
    McaRegisters, PciAddress, PhysAddr, Raw, Severity, Timestamp,
};

use super::{Analysis, Findings};

/// When its log begins: 2023-11-14T22:13:20Z.
pub(crate) const START_S: u64 = 1_700_000_000;

/// A label that wants to be more than text.
pub(crate) const HOSTILE: &str = "<script>alert(1)</script>\"'&";

/// A corrected error of a cell in a module; its page follows from the row.
pub(crate) fn cell(label: &str, bank: u16, row: u32, column: u32, second: u64) -> ErrorRecord {
    let dimm = DimmLocation {
        rank: Some(0),
        device: Some(3),
        bank_group: Some(u8::try_from(bank / 4).unwrap()),
        bank: Some(bank % 4),
        row: Some(row),
        column: Some(column),
        ..DimmLocation::default()
    };
    let addr = PhysAddr(0x12_0000_0000 + (u64::from(row) << 17) + (u64::from(column) << 6));
    ErrorRecord {
        time: Some(Timestamp::from_secs(START_S + second)),
        class: ErrorClass::Memory,
        severity: Severity::Corrected,
        address: Some(ErrorAddress { addr, lsb: 6, mode: AddressMode::Physical }),
        location: Location { dimm, fru: Some(label.into()), ..Location::default() },
        summary: "single-bit ECC memory error, corrected".into(),
        ..ErrorRecord::new(ErrorSource::Cper)
    }
}

fn processor(cpu: u32, second: u64) -> ErrorRecord {
    ErrorRecord {
        time: Some(Timestamp::from_secs(START_S + second)),
        class: ErrorClass::Cache,
        severity: Severity::Corrected,
        location: Location { cpu: Some(cpu), socket: Some(cpu / 32), ..Location::default() },
        summary: "L2 data read error, corrected".into(),
        raw: Raw::Mca(McaRegisters {
            bank: 3,
            status: 0x9c20_0000_0000_0136,
            ..Default::default()
        }),
        ..ErrorRecord::new(ErrorSource::MceRecord)
    }
}

fn link(bus: u8, second: u64) -> ErrorRecord {
    let pci = PciAddress { segment: 0, bus, device: 0, function: 0 };
    ErrorRecord {
        time: Some(Timestamp::from_secs(START_S + second)),
        class: ErrorClass::Pcie,
        severity: Severity::Corrected,
        location: Location { pci: Some(pci), ..Location::default() },
        summary: "receiver error, corrected".into(),
        ..ErrorRecord::new(ErrorSource::AerEvent)
    }
}

/// Its errors, in order of time within each kind.
pub(crate) fn records() -> Vec<ErrorRecord> {
    const HOUR: u64 = 3600;
    let mut records = Vec::new();
    // DIMM_A1: a broken row, a storm of it, then data lost in it.
    records.extend((0..40).map(|n| {
        let n = u32::try_from(n).unwrap();
        cell("DIMM_A1", 5, 0x1a2b, n * 37 % 128 * 8, u64::from(n) * 2 * HOUR)
    }));
    records.extend((0..60).map(|n| cell("DIMM_A1", 5, 0x1a2b, 0x88, 100 * HOUR + n * 7)));
    let lost = cell("DIMM_A1", 5, 0x1a2b, 0x88, 101 * HOUR);
    records.push(ErrorRecord { severity: Severity::Srao, ..lost });
    // DIMM_B2: a broken column.
    records.extend((0..12).map(|n| {
        let row = u32::try_from(n * 911 % 4096).unwrap();
        cell("DIMM_B2", 9, row, 0x1c0, 10 * HOUR + n * 5 * HOUR)
    }));
    // DIMM_C1: one weak cell, very loud. DIMM_C2: a single error.
    records.extend((0..300).map(|n| cell("DIMM_C1", 0, 0x77, 0x10, n * HOUR / 3)));
    records.push(cell("DIMM_C2", 0, 0x99, 0x18, 50 * HOUR));
    // Links and caches as they are in any fleet.
    records.extend((0..14).map(|n| link(0x3b, n * 6 * HOUR)));
    records.push(link(0x5e, 30 * HOUR));
    records.extend((0..4).map(|n| processor(17, n * 20 * HOUR)));
    records.push(processor(40, 60 * HOUR));
    // One without a time, one notice, one report of many.
    records.push(ErrorRecord { time: None, count: 25, ..processor(2, 0) });
    records.push(ErrorRecord { severity: Severity::Informational, ..link(0x3b, HOUR) });
    records
}

/// What `analyze` makes of `records`.
pub(crate) fn findings(records: &[ErrorRecord]) -> Findings {
    let mut analysis = Analysis::default();
    let place: Arc<str> = Arc::from("made-up.log");
    for record in records {
        analysis.add(&place, record);
    }
    analysis.finish()
}
