//! Which modules a machine has, and whether its addresses still mean the cells they once meant.
//!
//! A retired page is a place in a module. Its address leads there only as long as the module sits
//! where it sat and the firmware spreads addresses as it did: the [`MachineMap`], of which an entry
//! keeps the [`Dimm`] and the [`MapEpoch`].

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{Location, PhysAddr};

/// What tells one module from all others. Each field as SMBIOS spells it, without the blanks around
/// it; `None` where the firmware has nothing to say. Source: SMBIOS Specification (DSP0134), "Memory
/// Device (Type 17)".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DimmIdentity {
    /// Manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Part number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Serial number: the only field that a module does not share with its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// What firmware writes where it knows nothing, in lower case. Digits alone are handled apart.
const PLACEHOLDERS: [&str; 14] = [
    "unknown",
    "not specified",
    "not available",
    "not provided",
    "n/a",
    "none",
    "undefined",
    "no dimm",
    "no module",
    "empty",
    "to be filled by o.e.m.",
    "serial number",
    "sernum",
    "partnum",
];

impl DimmIdentity {
    /// From the strings of type 17. Blanks and what firmware writes for "nothing" become `None`: a
    /// placeholder would make strangers look alike.
    #[must_use]
    pub fn new(manufacturer: &str, part: &str, serial: &str) -> Self {
        Self { manufacturer: known(manufacturer), part: known(part), serial: known(serial) }
    }

    /// Whether these are one module. `None` where that is not certain: without both serial numbers,
    /// and where the serial numbers are equal but the part numbers are not.
    ///
    /// The manufacturer is not asked: firmware updates change how they spell it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> Option<bool> {
        let same = self.serial.as_ref()? == other.serial.as_ref()?;
        let parts = self.part.as_ref().zip(other.part.as_ref());
        match same && parts.is_some_and(|(mine, others)| mine != others) {
            true => None,
            false => Some(same),
        }
    }
}

fn known(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    let hex = text.strip_prefix("0x").unwrap_or(text);
    // All zeros and all ones are unprogrammed SPD bytes.
    let blank = |digit: char| hex.chars().all(|c| c.eq_ignore_ascii_case(&digit));
    let placeholder = PLACEHOLDERS.iter().any(|name| text.eq_ignore_ascii_case(name));
    (!text.is_empty() && !placeholder && !blank('0') && !blank('F')).then(|| text.into())
}

impl fmt::Display for DimmIdentity {
    /// `MANUFACTURER PART serial SERIAL`, as far as known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.manufacturer, &self.part].into_iter().flatten() {
            write!(f, "{part} ")?;
        }
        match &self.serial {
            Some(serial) => write!(f, "serial {serial}"),
            None => f.write_str("of unknown serial"),
        }
    }
}

/// A module in its slot. Source: SMBIOS, "Memory Device (Type 17)".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dimm {
    /// Which module.
    pub identity: DimmIdentity,
    /// Device Locator: the label on the board, `DIMM_A1`.
    pub locator: String,
    /// Bank Locator: what tells equal labels apart, `NODE 1`. Often empty.
    pub bank_locator: String,
    /// Size in bytes; 0 where the slot is empty.
    pub size: u64,
}

impl Dimm {
    /// Whether both sit (or sat) in one slot. A slot without a name is none.
    #[must_use]
    pub fn is_in_slot_of(&self, other: &Self) -> bool {
        !self.locator.is_empty()
            && (&self.locator, &self.bank_locator) == (&other.locator, &other.bank_locator)
    }

    /// A stable number for all that is said here, different for different modules and slots.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let Self { identity: DimmIdentity { manufacturer, part, serial }, .. } = self;
        let mut digest = Digest::new("dimm");
        for text in [manufacturer, part, serial] {
            digest.text(name(text.as_deref().unwrap_or_default()));
        }
        digest.text(name(&self.locator)).text(name(&self.bank_locator)).number(self.size);
        digest.0
    }
}

/// As much of a name as a list keeps: 255 bytes.
fn name(text: &str) -> &str {
    &text[..text.floor_char_boundary(255)]
}

impl fmt::Display for Dimm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, locator, bank_locator, .. } = self;
        write!(f, "{identity} in slot {locator:?}")?;
        if bank_locator.is_empty() { Ok(()) } else { write!(f, " of {bank_locator:?}") }
    }
}

/// A memory slot of the board, with what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Slot {
    /// The type 17 structure's handle, by which error records name a module. Of this boot only.
    pub handle: u16,
    /// Ranks of the module, type 17's Attributes bits 3:0; 0 where unknown.
    pub ranks: u8,
    /// The module; its size is 0 where there is none.
    #[serde(with = "shared")]
    pub dimm: Arc<Dimm>,
}

/// Where the firmware's static tables say that memory lies. Not the memory map the kernel gets: its
/// borders move from boot to boot, and what is excluded there is our own doing.
///
/// Sources: SMBIOS, "Memory Array Mapped Address (Type 19)" and "Memory Device Mapped Address (Type
/// 20)"; ACPI Specification, "System Resource Affinity Table (SRAT)", "Memory Affinity Structure".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MapRange {
    /// First byte.
    pub start: PhysAddr,
    /// Last byte.
    pub end: PhysAddr,
    /// What of: the proximity domain of SRAT; partition width, row, interleave position and depth of
    /// types 19 and 20, as one number in which each has its bits.
    pub unit: u32,
}

/// What decides which cell an address means, as far as the firmware says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineMap {
    /// All slots, empty ones too, in any order. None at all means that SMBIOS was not to be had, not
    /// that the machine has no memory.
    pub slots: Vec<Slot>,
    /// In any order.
    pub ranges: Vec<MapRange>,
    /// Vendor, version and date of the firmware (SMBIOS, "BIOS Information (Type 0)"), in one line:
    /// another version may spread addresses otherwise. Empty where unknown.
    pub firmware: String,
    /// Digest of the registers that spread addresses over modules, where those can be read
    /// ([`Digest`] of [`translate::Snapshot`](crate::translate::Snapshot)'s maps). They settle what
    /// the firmware's version only hints at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interleave: Option<u64>,
}

impl MachineMap {
    /// The map in one number; `None` where nothing is known that could tell one from another.
    ///
    /// Serial numbers are not in it: a module that is replaced by its like leaves the addresses of all
    /// others as they were.
    #[must_use]
    pub fn epoch(&self) -> Option<MapEpoch> {
        let mut slots: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.dimm.size > 0)
            .map(|slot| (&slot.dimm.bank_locator, &slot.dimm.locator, slot.dimm.size, slot.ranks))
            .collect();
        let mut ranges = self.ranges.clone();
        if slots.is_empty() && ranges.is_empty() && self.interleave.is_none() {
            return None;
        }
        slots.sort_unstable();
        ranges.sort_unstable();
        let mut digest = Digest::new("map");
        digest.number(slots.len() as u64);
        for (bank, locator, size, ranks) in slots {
            digest.text(bank).text(locator).number(size).number(ranks.into());
        }
        digest.number(ranges.len() as u64);
        for MapRange { start, end, unit } in ranges {
            digest.number(start.0).number(end.0).number(unit.into());
        }
        match self.interleave {
            Some(registers) => digest.text("registers").number(registers),
            None => digest.text("firmware").text(&self.firmware),
        };
        Some(MapEpoch(digest.0))
    }

    /// The module a report speaks of: by handle, by label, or because there is only one. `None` where
    /// that is not certain.
    #[must_use]
    pub fn dimm_at(&self, location: &Location) -> Option<&Arc<Dimm>> {
        let handle = location.dimm.module_handle;
        let label = location.fru.as_deref();
        self.only(|slot| handle == Some(slot.handle))
            .or_else(|| self.only(|slot| label == Some(slot.dimm.locator.as_str())))
            .or_else(|| self.only(|_| handle.is_none() && label.is_none()))
    }

    /// The module of the one populated slot that fits.
    fn only(&self, fits: impl Fn(&Slot) -> bool) -> Option<&Arc<Dimm>> {
        let mut found = self.slots.iter().filter(|slot| slot.dimm.size > 0 && fits(slot));
        let first = found.next()?;
        found.next().is_none().then_some(&first.dimm)
    }
}

/// One state of the machine's map: as long as it is the same, an address means the same cells of the
/// same slot. See [`MachineMap::epoch`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapEpoch(pub u64);

impl fmt::Display for MapEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A stable 64-bit digest: FNV-1a over what is put in, each text with its length. It is stored, so it
/// never changes.
#[derive(Clone, Copy, Debug)]
pub struct Digest(pub u64);

impl Digest {
    /// Begins one. Different `domain`s give different digests of the same contents.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let mut digest = Self(0xcbf2_9ce4_8422_2325);
        digest.text(domain);
        digest
    }

    /// Puts a number in.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Puts a text in.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).bytes(text.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self
    }
}

/// How a shared [`Dimm`] is serialized: as itself.
pub(crate) mod shared {
    use alloc::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Dimm;

    pub(crate) fn serialize<S: Serializer>(dimm: &Arc<Dimm>, to: S) -> Result<S::Ok, S::Error> {
        dimm.as_ref().serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Dimm>, D::Error> {
        Dimm::deserialize(from).map(Arc::new)
    }

    /// The same where there may be none.
    pub(crate) mod optional {
        use super::{Arc, Deserialize, Deserializer, Dimm, Serialize, Serializer};

        #[allow(clippy::ref_option, reason = "serde asks for it")]
        pub(crate) fn serialize<S: Serializer>(
            dimm: &Option<Arc<Dimm>>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            dimm.as_deref().serialize(to)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Arc<Dimm>>, D::Error> {
            Ok(Option::<Dimm>::deserialize(from)?.map(Arc::new))
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;

    fn slot(handle: u16, locator: &str, serial: &str) -> Slot {
        let dimm = Dimm {
            identity: DimmIdentity::new("Maker", "PART-1", serial),
            locator: locator.into(),
            bank_locator: "NODE 0".into(),
            size: 32 << 30,
        };
        Slot { handle, ranks: 2, dimm: Arc::new(dimm) }
    }

    fn machine() -> MachineMap {
        let range =
            |start, end, unit| MapRange { start: PhysAddr(start), end: PhysAddr(end), unit };
        MachineMap {
            slots: vec![slot(0x1100, "A1", "0001"), slot(0x1101, "A2", "0002")],
            ranges: vec![range(0, 0x7fff_ffff, 0), range(1 << 32, (17 << 32) - 1, 0)],
            firmware: "Maker 1.2 01/02/2025".into(),
            interleave: None,
        }
    }

    #[test]
    fn placeholders_are_nobodys_serial() {
        for serial in ["", "  ", "Unknown", "Not Specified", "00000000", "0xFFFFFFFF", "NO DIMM"] {
            assert_eq!(DimmIdentity::new("M", "P", serial).serial, None, "{serial:?}");
        }
        let dimm = DimmIdentity::new(" Samsung ", "M393A4K40DB3-CWE    ", "03A1B2C3");
        assert_eq!(dimm.part.as_deref(), Some("M393A4K40DB3-CWE"));
        assert_eq!(format!("{dimm}"), "Samsung M393A4K40DB3-CWE serial 03A1B2C3");
    }

    #[test]
    fn an_unknown_serial_is_no_match_and_no_swap() {
        let [one, two] = ["1", "2"].map(|serial| DimmIdentity::new("M", "P", serial));
        let none = DimmIdentity::new("M", "P", "");
        assert_eq!(one.is_same(&one), Some(true));
        assert_eq!(one.is_same(&two), Some(false));
        assert_eq!(
            (one.is_same(&none), none.is_same(&one), none.is_same(&none)),
            (None, None, None)
        );
        let other_part = DimmIdentity::new("M", "Q", "1");
        assert_eq!(one.is_same(&other_part), None, "equal serials of different parts");
        assert_eq!(one.is_same(&DimmIdentity::new("00CE", "P", "1")), Some(true));
    }

    #[test]
    fn the_epoch_is_the_map_and_nothing_else() {
        let epoch = machine().epoch().unwrap();
        let same = |change: &dyn Fn(&mut MachineMap)| {
            let mut changed = machine();
            change(&mut changed);
            changed.epoch() == Some(epoch)
        };
        // What does not move an address.
        assert!(same(&|map| map.slots.reverse()));
        assert!(same(&|map| map.ranges.reverse()));
        assert!(same(&|map| map.slots[0] = slot(0x4000, "A1", "9999")), "a like module");
        assert!(same(&|map| map.slots.push(Slot::default())), "an empty slot");
        // What may.
        assert!(!same(&|map| map.slots[0].ranks = 1));
        assert!(!same(&|map| map.slots[0] = slot(0x1100, "B1", "0001")));
        assert!(!same(&|map| map.slots.truncate(1)));
        assert!(!same(&|map| map.ranges[1].end.0 += 1 << 30));
        assert!(!same(&|map| map.firmware.push('b')));
        assert!(!same(&|map| map.interleave = Some(1)));
        // With the registers at hand the firmware's version does not matter.
        let registers = |firmware: &str| {
            MachineMap { firmware: firmware.into(), interleave: Some(1), ..machine() }.epoch()
        };
        assert_eq!(registers("1"), registers("2"));
        assert_eq!(MachineMap { firmware: "1".into(), ..MachineMap::default() }.epoch(), None);
        // Stored in lists out there: never another number for the same map.
        assert_eq!(format!("{epoch}"), "1c2c78a28621f86c");
    }

    #[test]
    fn a_module_is_named_only_where_that_is_certain() {
        let map = machine();
        let found = |location: &Location| {
            map.dimm_at(location).map(|dimm| dimm.identity.serial.as_deref().unwrap())
        };
        let mut location = Location::default();
        assert_eq!(found(&location), None);
        location.fru = Some("A2".into());
        assert_eq!(found(&location), Some("0002"));
        location.dimm.module_handle = Some(0x1100);
        assert_eq!(found(&location), Some("0001"), "the handle is the firmware's own word");
        location.dimm.module_handle = Some(7);
        location.fru = Some("A3".into());
        assert_eq!(found(&location), None);

        let single = MachineMap { slots: vec![slot(1, "A1", "0001"), Slot::default()], ..map };
        assert!(single.dimm_at(&Location::default()).is_some());
        assert!(single.dimm_at(&location).is_none(), "it names another one");
        let twins = MachineMap { slots: vec![slot(1, "A1", "1"), slot(2, "A1", "2")], ..single };
        let location = Location { fru: Some("A1".into()), ..Location::default() };
        assert!(twins.dimm_at(&location).is_none());
    }
}
