//! SMBIOS tables, as far as they say what memory a machine has. DMTF DSP0134, "System Management
//! BIOS (SMBIOS) Reference Specification"; the sections are named at each structure.
//!
//! Written by firmware, hence untrusted: nothing here panics, every step goes forward, and what can't
//! be read is a problem beside what could. (The crates for this panic on damaged tables.)

use std::borrow::Cow;

use ras_core::{Dimm, DimmIdentity, MapRange, PhysAddr, Slot};

/// Longest table that is looked at, in bytes. Large servers have some 64 KiB.
pub const TABLE_MAX: usize = 1 << 20;

/// Type 127, "End-of-Table".
const END_OF_TABLE: u8 = 127;

/// A structure's header: type, length, handle. "Structure header format".
const HEADER: usize = 4;

/// Use of a memory array that serves as the system's memory. "Memory Array — Use".
const SYSTEM_MEMORY: u8 = 3;

/// What the tables say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Smbios {
    /// Vendor, version and date of the firmware, in one line. "BIOS Information (Type 0)".
    pub firmware: String,
    /// Slots of system memory, in the table's order. "Memory Device (Type 17)".
    pub slots: Vec<Slot>,
    /// Where it is mapped. "Memory Array Mapped Address (Type 19)" and "Memory Device Mapped Address
    /// (Type 20)".
    pub ranges: Vec<MapRange>,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// Reads the table `/sys/firmware/dmi/tables/DMI` holds.
#[must_use]
pub fn parse(table: &[u8]) -> Smbios {
    let mut found = Smbios::default();
    let table = match table.get(..TABLE_MAX) {
        Some(head) => {
            found.problems.push(format!("only the first {TABLE_MAX} bytes were read"));
            head
        }
        None => table,
    };
    let mut structures = Structures { rest: table, offset: 0, problem: None };
    let all: Vec<Structure<'_>> = structures.by_ref().collect();
    found.problems.extend(structures.problem);

    // Flash chips and caches are memory devices, too: of other arrays.
    let others: Vec<u16> = all
        .iter()
        .filter(|array| array.kind == 16 && array.u8(5).is_some_and(|word| word != SYSTEM_MEMORY))
        .map(|array| array.handle)
        .collect();
    for structure in &all {
        match structure.kind {
            0 if found.firmware.is_empty() => found.firmware = structure.firmware(),
            17 if !structure.u16(4).is_some_and(|array| others.contains(&array)) => {
                match structure.slot() {
                    Some(slot) => found.slots.push(slot),
                    None => found.problems.push(format!(
                        "the memory device with handle {:#06x} has no readable size",
                        structure.handle
                    )),
                }
            }
            19 | 20 => found.ranges.extend(structure.mapped()),
            _ => {}
        }
    }
    found
}

/// Checks `/sys/firmware/dmi/tables/smbios_entry_point`; the version of the specification it names.
///
/// # Errors
/// What is wrong with it, in words.
pub fn version(entry_point: &[u8]) -> Result<(u8, u8), &'static str> {
    // "SMBIOS 2.1 (32-bit) Entry Point" and "SMBIOS 3.0 (64-bit) Entry Point": length, version.
    let (length_at, major_at) = match entry_point {
        [b'_', b'S', b'M', b'3', b'_', ..] => (6, 7),
        [b'_', b'S', b'M', b'_', ..] => (5, 6),
        _ => return Err("no entry point is there"),
    };
    let byte = |at: usize| entry_point.get(at).copied().ok_or("it ends too early");
    let whole = entry_point.get(..byte(length_at)?.into()).ok_or("it ends too early")?;
    if whole.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return Err("its checksum is wrong");
    }
    Ok((byte(major_at)?, byte(major_at + 1)?))
}

/// One structure: its formatted area, header included, and its strings.
#[derive(Clone, Copy, Debug)]
struct Structure<'a> {
    kind: u8,
    handle: u16,
    formatted: &'a [u8],
    strings: &'a [u8],
}

/// Walks a table.
struct Structures<'a> {
    rest: &'a [u8],
    offset: usize,
    problem: Option<String>,
}

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let [kind, length, low, high, ..] = *self.rest else {
            if !self.rest.is_empty() {
                self.give_up("ends within a header");
            }
            return None;
        };
        let split = self.rest.split_at_checked(length.into());
        let Some((formatted, tail)) = split.filter(|_| usize::from(length) >= HEADER) else {
            self.give_up("has a structure of impossible length");
            return None;
        };
        // Strings end with an empty one; where there are none, two zero bytes stand for that.
        let Some(end) = tail.windows(2).position(|pair| pair == [0, 0]) else {
            if kind != END_OF_TABLE {
                self.give_up("has a structure whose strings do not end");
            }
            self.rest = &[];
            return None;
        };
        let (strings, rest) = tail.split_at_checked(end.saturating_add(2))?;
        self.offset = self.offset.saturating_add(self.rest.len() - rest.len());
        self.rest = if kind == END_OF_TABLE { &[] } else { rest };
        let handle = u16::from_le_bytes([low, high]);
        Some(Structure { kind, handle, formatted, strings })
    }
}

impl Structures<'_> {
    fn give_up(&mut self, what: &str) {
        self.problem = Some(format!("the table {what} at byte {}", self.offset));
        self.rest = &[];
    }
}

impl Structure<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.formatted.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.array(at).map(u8::from_le_bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The text whose number is at `at`; empty where there is none. "Text strings".
    fn text(&self, at: usize) -> Cow<'_, str> {
        let number = usize::from(self.u8(at).unwrap_or_default());
        let Some(index) = number.checked_sub(1) else { return Cow::Borrowed("") };
        let text = self.strings.split(|byte| *byte == 0).nth(index).unwrap_or_default();
        String::from_utf8_lossy(text.trim_ascii())
    }

    fn firmware(&self) -> String {
        let words = [self.text(4), self.text(5), self.text(8)];
        let known: Vec<&str> = words.iter().map(AsRef::as_ref).filter(|w| !w.is_empty()).collect();
        known.join(" ")
    }

    /// `None` where its size is not there or unknown: whether a module is in the slot is unknown then.
    fn slot(&self) -> Option<Slot> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let size = match self.u16(0x0c)? {
            0xffff => return None,
            // "Extended Size": bits 30:0, in MiB.
            0x7fff => u64::from(self.u32(0x1c)? & 0x7fff_ffff) * MIB,
            word if word & 0x8000 != 0 => u64::from(word & 0x7fff) * KIB,
            word => u64::from(word) * MIB,
        };
        let identity = DimmIdentity::new(&self.text(0x17), &self.text(0x1a), &self.text(0x18));
        let dimm = Dimm {
            identity,
            locator: self.text(0x10).into_owned(),
            bank_locator: self.text(0x11).into_owned(),
            size,
        };
        // "Attributes": rank in bits 3:0.
        let ranks = self.u8(0x1b).unwrap_or_default() & 0xf;
        Some(Slot { handle: self.handle, ranks, dimm: dimm.into() })
    }

    /// The range of a type 19 or 20; `None` where it is cut short or empty.
    fn mapped(&self) -> Option<MapRange> {
        let byte = |at| u32::from(self.u8(at).unwrap_or_default());
        let (extended_at, unit) = match self.kind {
            // Partition width.
            19 => (0x0f, 1 << 24 | byte(0x0e)),
            // Row, interleave position, interleaved data depth.
            _ => (0x13, 2 << 24 | byte(0x10) << 16 | byte(0x11) << 8 | byte(0x12)),
        };
        let (start, end) = match (self.u32(4)?, self.u32(8)?) {
            // Addresses beyond 4 TiB, in bytes.
            (u32::MAX, _) => (self.u64(extended_at)?, self.u64(extended_at + 8)?),
            // In KiB; the last one belongs to it.
            (start, end) => (u64::from(start) << 10, u64::from(end) << 10 | 0x3ff),
        };
        (start < end).then_some(MapRange { start: PhysAddr(start), end: PhysAddr(end), unit })
    }
}

/// Tables for tests: structures as firmware would write them.
#[cfg(test)]
pub(crate) mod build {
    pub(crate) fn structure(kind: u8, handle: u16, body: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(body.len() + 4).unwrap()];
        bytes.extend(handle.to_le_bytes());
        bytes.extend(body);
        for text in strings {
            bytes.extend(text.bytes());
            bytes.push(0);
        }
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    /// A module of `mib` MiB and two ranks, in system memory's array 0x1000.
    pub(crate) fn module(handle: u16, mib: u32, strings: [&str; 5]) -> Vec<u8> {
        let mut body = vec![0; 0x5c - 4];
        body[0..2].copy_from_slice(&0x1000_u16.to_le_bytes());
        let (short, extended) =
            u16::try_from(mib).ok().filter(|mib| *mib < 0x7fff).map_or((0x7fff, mib), |m| (m, 0));
        body[0x08..0x0a].copy_from_slice(&short.to_le_bytes());
        body[0x18..0x1c].copy_from_slice(&extended.to_le_bytes());
        // Locator, bank locator, manufacturer, serial number, part number. A string can't be empty:
        // there is none then, and its number is 0.
        let mut texts = Vec::new();
        for (at, text) in [0x0c, 0x0d, 0x13, 0x14, 0x16].into_iter().zip(strings) {
            if !text.is_empty() {
                texts.push(text);
                body[at] = u8::try_from(texts.len()).unwrap();
            }
        }
        body[0x17] = 2;
        structure(17, handle, &body, &texts)
    }

    pub(crate) fn table() -> Vec<u8> {
        let mut bios = vec![1, 2, 0, 0xf0, 3];
        bios.resize(20, 0);
        let mut flash = module(0x1180, 16, ["ROM", "", "M", "1", "P"]);
        flash[4..6].copy_from_slice(&0x1001_u16.to_le_bytes());
        let mut above = vec![0xff; 8];
        above.extend([0x00, 0x10, 1]);
        above.extend((1_u64 << 42).to_le_bytes());
        above.extend(((1_u64 << 43) - 1).to_le_bytes());
        [
            structure(0, 0, &bios, &["Maker", "1.2", "01/02/2025"]),
            structure(16, 0x1000, &[3, 3, 6, 0, 0, 0, 0x80, 0, 0, 2, 0], &[]),
            structure(16, 0x1001, &[3, 5, 2, 0, 0, 0, 0x80, 0, 0, 1, 0], &[]),
            module(
                0x1100,
                16384,
                ["A1", "P0 CHANNEL A", "Samsung", "03A1B2C3", "M393A4K40DB3-CWE  "],
            ),
            module(0x1101, 131_072, ["A2", "P0 CHANNEL A", "Samsung", "Unknown", "M386"]),
            module(0x1102, 0, ["B1", "P0 CHANNEL B", "NO DIMM", "NO DIMM", "NO DIMM"]),
            flash,
            structure(19, 0x1300, &[0, 0, 0, 0, 0xff, 0xff, 0x1f, 0, 0x00, 0x10, 2], &[]),
            structure(19, 0x1301, &above, &[]),
            structure(
                20,
                0x1400,
                &[0, 0, 0, 0, 0xff, 0xff, 0x0f, 0, 0, 0x11, 0, 0x13, 1, 2, 3],
                &[],
            ),
            structure(127, 0xfeff, &[], &[]),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modules_slots_and_ranges_are_found() {
        let found = parse(&build::table());
        assert_eq!(found.problems, [""; 0]);
        assert_eq!(found.firmware, "Maker 1.2 01/02/2025");
        let slots: Vec<String> = found
            .slots
            .iter()
            .map(|Slot { handle, ranks, dimm }| {
                format!("{handle:x} {ranks} {} {dimm}", dimm.size >> 30)
            })
            .collect();
        let expected = [
            "1100 2 16 Samsung M393A4K40DB3-CWE serial 03A1B2C3 in slot \"A1\" of \"P0 CHANNEL A\"",
            "1101 2 128 Samsung M386 of unknown serial in slot \"A2\" of \"P0 CHANNEL A\"",
            "1102 2 0 of unknown serial in slot \"B1\" of \"P0 CHANNEL B\"",
        ];
        assert_eq!(slots, expected, "the flash chip is no module");
        let ranges: Vec<_> =
            found.ranges.iter().map(|range| (range.start.0, range.end.0, range.unit)).collect();
        let expected = [
            (0, 0x7fff_ffff, 0x100_0002),
            (1 << 42, (1 << 43) - 1, 0x100_0001),
            (0, 0x3fff_ffff, 0x201_0203),
        ];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn sizes_in_every_unit() {
        let size = |word: u16, extended: u32| {
            let mut table = build::module(1, 1, [""; 5]);
            table[0x0c..0x0e].copy_from_slice(&word.to_le_bytes());
            table[0x1c..0x20].copy_from_slice(&extended.to_le_bytes());
            let found = parse(&table);
            assert_eq!(found.slots.is_empty(), !found.problems.is_empty());
            found.slots.first().map(|slot| slot.dimm.size)
        };
        assert_eq!(size(0, 9), Some(0));
        assert_eq!(size(512, 9), Some(512 << 20));
        assert_eq!(size(0x8200, 9), Some(512 << 10));
        assert_eq!(size(0x7fff, 0x8000_0000 | 65536), Some(64 << 30));
        assert_eq!(size(0xffff, 9), None, "unknown is not empty");
    }

    #[test]
    fn entry_points_are_checked() {
        let seal = |mut bytes: Vec<u8>, at: usize| {
            let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            bytes[at] = 0_u8.wrapping_sub(sum);
            bytes
        };
        let mut third = b"_SM3_\0\x18\x03\x06".to_vec();
        third.resize(24, 0);
        let third = seal(third, 5);
        assert_eq!(version(&third), Ok((3, 6)));
        let mut second = b"_SM_\0\x1f\x02\x08".to_vec();
        second.resize(31, 0);
        assert_eq!(version(&seal(second, 4)), Ok((2, 8)));
        let mut wrong = third.clone();
        wrong[10] ^= 1;
        assert_eq!(version(&wrong), Err("its checksum is wrong"));
        assert_eq!(version(&third[..20]), Err("it ends too early"));
        assert_eq!(version(b""), Err("no entry point is there"));
    }

    #[test]
    fn what_is_cut_off_says_so_and_keeps_the_rest() {
        let table = build::table();
        let whole = parse(&table).slots.len();
        for length in 0..table.len() {
            let found = parse(&table[..length]);
            assert!(found.slots.len() <= whole);
        }
        let found = parse(&table[..200]);
        assert!(!found.firmware.is_empty() && found.problems.len() == 1, "{found:?}");
        let endless = build::structure(17, 1, &[0; 16], &[]).repeat(TABLE_MAX / 16);
        assert!(parse(&endless).problems.iter().any(|problem| problem.contains("only the first")));
    }

    proptest! {
        #[test]
        fn nothing_panics(
            mut table in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..2000),
                Just(build::table()),
            ],
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            for (at, byte) in damage {
                if !table.is_empty() {
                    let at = at.index(table.len());
                    table[at] = byte;
                }
            }
            let found = parse(&table);
            prop_assert!(found.slots.len() <= table.len() / 6);
            prop_assert!(found.ranges.len() <= table.len() / 6);
            let _ = parse(&table[..cut.index(table.len() + 1)]);
            let _ = version(&table);
        }
    }
}
