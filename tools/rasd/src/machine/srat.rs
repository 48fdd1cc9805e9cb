//! ACPI's SRAT: which addresses belong to which proximity domain. ACPI Specification, "System Resource
//! Affinity Table (SRAT)".

use ras_core::{MapRange, PhysAddr};

/// Header of any table, and SRAT's own reserved words. "System Description Table Header".
const ENTRIES_AT: usize = 48;

/// "Memory Affinity Structure".
const MEMORY: u8 = 1;

/// Flags bit 0: the entry counts.
const ENABLED: u32 = 1;

/// The ranges of enabled memory. Whatever can't be read ends the walk.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MapRange> {
    let mut ranges = Vec::new();
    if !table.starts_with(b"SRAT") {
        return ranges;
    }
    let mut rest = table.get(ENTRIES_AT..).unwrap_or_default();
    while let [kind, length, ..] = *rest {
        let Some((entry, tail)) = rest.split_at_checked(usize::from(length).max(2)) else { break };
        rest = tail;
        if kind == MEMORY {
            ranges.extend(memory(entry));
        }
    }
    ranges
}

fn memory(entry: &[u8]) -> Option<MapRange> {
    let domain = u32_at(entry, 2)?;
    let start = u64::from(u32_at(entry, 8)?) | u64::from(u32_at(entry, 12)?) << 32;
    let length = u64::from(u32_at(entry, 16)?) | u64::from(u32_at(entry, 20)?) << 32;
    let end = start.checked_add(length.checked_sub(1)?)?;
    let enabled = u32_at(entry, 28)? & ENABLED != 0;
    enabled.then_some(MapRange { start: PhysAddr(start), end: PhysAddr(end), unit: domain })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Vec<u8> {
        let entry = |domain: u32, start: u64, length: u64, flags: u32| {
            let mut bytes = vec![1, 40];
            bytes.extend(domain.to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(start.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(flags.to_le_bytes());
            bytes.resize(40, 0);
            bytes
        };
        let mut table = b"SRAT".to_vec();
        table.resize(ENTRIES_AT, 0);
        table.extend([0, 16]);
        table.resize(ENTRIES_AT + 16, 0);
        table.extend(entry(0, 0, 2 << 30, 1));
        table.extend(entry(1, 4 << 30, 8 << 30, 3));
        table.extend(entry(2, 1 << 40, 1 << 30, 0));
        table
    }

    #[test]
    fn enabled_memory_is_found() {
        let found: Vec<_> =
            parse(&table()).iter().map(|range| (range.start.0, range.end.0, range.unit)).collect();
        assert_eq!(found, [(0, (2 << 30) - 1, 0), (4 << 30, (12 << 30) - 1, 1)]);
        assert!(parse(b"SLIT").is_empty());
    }

    proptest! {
        #[test]
        fn nothing_panics(noise in proptest::collection::vec(any::<u8>(), 0..500), keep in 0..200_usize) {
            let mut table = table();
            table.truncate(keep);
            table.extend(noise);
            prop_assert!(parse(&table).len() <= table.len() / 2);
        }
    }
}
