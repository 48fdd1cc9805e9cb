//! How the machine spreads addresses over its memory controllers, and how it did before: what tells where
//! the cells of an entry are after the map has changed.
//!
//! ```text
//!  page --the registers of its map--> controller's own addresses --today's registers--> page
//! ```
//! AMD's data fabric only, by a snapshot of its registers that somebody wrote down (`machine.address_map`;
//! the file is rasctl's, see its TRANSLATE.md). Nothing reads them here. rasd keeps a copy for each map it
//! met, in `maps/` below the store: an entry of an earlier map needs that one's.
//!
//! Unknown is unknown. A page whose cells are in several pages now has no place, nor has one whose module
//! moved, or whose machine has other modules than it had: those make other controllers' addresses. What
//! the registers do not tell is how a controller spreads its own addresses over ranks, banks and rows; that
//! it still does as it did is taken from there being the same modules.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ras_core::machine::Digest;
use ras_core::translate::amd::Station;
use ras_core::translate::{NormalizedAddr, Snapshot, SnapshotFault, StationId};
use ras_core::{
    Dimm, ErrorSource, Location, MachineMap, MapEpoch, PAGE_SIZE, Pfn, PhysAddr, RetiredPage,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::guests::chain;
use crate::timings::nanos;

/// Longest file read: those of the largest machines, with 128 channels, have some 100 KiB.
const SIZE_MAX: u64 = 4 << 20;

/// Maps kept; of more, those that were met first go. A machine meets another one with a firmware update or
/// a module, some times in its life.
const MAPS_MAX: usize = 32;

/// The shortest turn of a channel, in bytes.
const TURN: u64 = 256;

/// The maps that are known.
#[derive(Debug, Default)]
pub struct AddressMaps {
    /// Today's map, as far as the firmware's tables tell it.
    tables: Option<MapEpoch>,
    here: Option<Map>,
    earlier: BTreeMap<MapEpoch, Map>,
}

/// One of them, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    /// When it was met first.
    met: Timestamp,
    /// The map's epoch without the registers.
    tables: Option<MapEpoch>,
    /// Digest of the modules.
    modules: u64,
    snapshot: Snapshot,
}

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
enum MapError {
    #[error("it can't be read")]
    Read(#[from] io::Error),
    #[error("it is longer than {SIZE_MAX} bytes")]
    TooLong,
    #[error("as JSON (it begins with {{)")]
    Json(#[from] serde_json::Error),
    #[error("as TOML (it does not begin with {{)")]
    Toml(#[from] toml::de::Error),
    #[error("its registers are no machine's")]
    Registers(#[from] SnapshotFault),
    /// Whoever wrote it can't have known of the map there is now.
    #[error(
        "it is older than the last change of modules or firmware: make a new one, or `touch` it if the \
         registers are still the same"
    )]
    Outdated,
}

impl AddressMaps {
    /// Takes today's map from `file`, if there is one, and earlier ones from `dir`, where today's is added.
    /// Today's registers become part of `map`. What could not be done is a note.
    pub fn read(
        file: Option<&Path>,
        dir: &Path,
        map: &mut MachineMap,
        notes: &mut Vec<String>,
        now: Timestamp,
    ) -> Self {
        let tables = map.epoch();
        let earlier = read_all(dir, notes);
        let mut maps = Self { tables, here: None, earlier };
        let Some(file) = file else { return maps };
        match maps.take(file, map, now) {
            Ok(here) => {
                map.interleave = Some(digest(&here.snapshot));
                if let Some(epoch) = map.epoch()
                    && !maps.earlier.contains_key(&epoch)
                {
                    maps.earlier.insert(epoch, here.clone());
                    if let Err(error) = maps.keep(dir, epoch, &here) {
                        notes
                            .push(format!("keeping the address map in {}: {error}", dir.display()));
                    }
                }
                maps.here = Some(here);
            }
            Err(error) => notes.push(format!(
                "the address map {} is not used: {}",
                file.display(),
                chain(&error)
            )),
        }
        maps
    }

    /// Today's registers, where they are known.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.here.as_ref().map(|here| &here.snapshot)
    }

    /// Where the cells of `page` are now; `dimm` is its module as it sits now. See
    /// [`persist_store::Translate`].
    #[must_use]
    pub fn find(&self, page: &RetiredPage, dimm: Option<&Dimm>) -> Option<(Pfn, Location)> {
        if let (Some(then), Some(now)) = (page.dimm.as_deref(), dimm)
            && !now.is_in_slot_of(then)
        {
            return None;
        }
        let epoch = page.epoch?;
        let pfn = match (self.earlier.get(&epoch), &self.here) {
            (Some(then), Some(here)) if then.modules == here.modules => {
                moved(page, &then.snapshot, &here.snapshot)?
            }
            // The map is as it was, and only better known now ...
            (None, Some(_)) if self.tables == Some(epoch) => page.pfn,
            // ... or not as well as before.
            (Some(then), None) if then.tables.is_some() && then.tables == self.tables => page.pfn,
            _ => return None,
        };
        Some((pfn, page.location.clone()))
    }

    /// Today's map from `file`, if that can be of today.
    fn take(&self, file: &Path, map: &MachineMap, now: Timestamp) -> Result<Map, MapError> {
        let text = text_of(file)?;
        let snapshot: Snapshot = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(&text)?,
            false => toml::from_str(&text)?,
        };
        snapshot.check()?;
        let known = self
            .earlier
            .values()
            .any(|earlier| earlier.tables == self.tables && earlier.snapshot == snapshot);
        let others = self.earlier.values().filter(|earlier| earlier.tables != self.tables);
        if let (false, Some(last)) = (known, others.map(|earlier| earlier.met).max())
            && written(file)? <= last
        {
            return Err(MapError::Outdated);
        }
        Ok(Map { met: now, tables: self.tables, modules: modules(map), snapshot })
    }

    /// Writes a map to be found again, and forgets the oldest of too many.
    fn keep(&mut self, dir: &Path, epoch: MapEpoch, map: &Map) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let fresh = dir.join("fresh");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(map)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path_of(dir, epoch))?;
        while self.earlier.len() > MAPS_MAX {
            let oldest = self.earlier.iter().min_by_key(|(_, map)| map.met);
            let Some((&oldest, _)) = oldest else { break };
            self.earlier.remove(&oldest);
            fs::remove_file(path_of(dir, oldest))?;
        }
        File::open(dir)?.sync_all()
    }
}

/// The page that the cells of another one are in now, all of them.
fn moved(page: &RetiredPage, then: &Snapshot, here: &Snapshot) -> Option<Pfn> {
    let start = page.pfn.0.checked_mul(PAGE_SIZE)?;
    let mut found = None;
    for turn in 0..PAGE_SIZE / TURN {
        let (station, normalized) =
            then.normalized_address(PhysAddr(start.checked_add(turn * TURN)?)).ok()?;
        if !is_bad(page, station) {
            continue;
        }
        let now = here.system_address(station, NormalizedAddr(normalized.0)).ok()?;
        let now = Pfn(now.0 / PAGE_SIZE);
        if *found.get_or_insert(now) != now {
            return None;
        }
    }
    found
}

/// Whether the bad cells of a page may be behind this station. Where a machine check named the channel, only
/// there: scalable MCA numbers one for each controller, and so for each station. Others count otherwise.
fn is_bad(page: &RetiredPage, station: StationId) -> bool {
    let Location { socket, imc: None, channel, .. } = page.location else { return true };
    if page.source != ErrorSource::MceRecord {
        return true;
    }
    let fits =
        |known: Option<u32>, number: u8| known.is_none_or(|known| known == u32::from(number));
    let channel = channel.map(u32::from).filter(|_| socket.is_some());
    fits(socket, station.socket) && fits(channel, station.instance)
}

fn digest(snapshot: &Snapshot) -> u64 {
    let mut snapshot = snapshot.clone();
    snapshot.stations.sort_by_key(Station::id);
    // A snapshot was read from text, so it can be written as one.
    let text = serde_json::to_string(&snapshot).unwrap_or_default();
    Digest::new("registers").text(&text).0
}

/// What sits where, whichever module of its kind it is.
fn modules(map: &MachineMap) -> u64 {
    let populated = map.slots.iter().filter(|slot| slot.dimm.size > 0);
    let mut slots: Vec<_> = populated
        .map(|slot| (&slot.dimm.bank_locator, &slot.dimm.locator, slot.dimm.size, slot.ranks))
        .collect();
    slots.sort_unstable();
    let mut digest = Digest::new("modules");
    for (bank, locator, size, ranks) in slots {
        digest.text(bank).text(locator).number(size).number(ranks.into());
    }
    digest.0
}

fn path_of(dir: &Path, epoch: MapEpoch) -> PathBuf {
    dir.join(format!("{epoch}.json"))
}

/// Copies that can't be read are as if they were not there.
fn read_all(dir: &Path, notes: &mut Vec<String>) -> BTreeMap<MapEpoch, Map> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(2 * MAPS_MAX);
    let mut maps = BTreeMap::new();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let epoch = name
            .and_then(|name| name.strip_suffix(".json"))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let Some(epoch) = epoch.map(MapEpoch) else { continue };
        let map = text_of(&path).and_then(|text| Ok(serde_json::from_str::<Map>(&text)?));
        match map {
            Ok(map) => {
                maps.insert(epoch, map);
            }
            Err(error) => {
                notes.push(format!(
                    "an earlier address map, {}: {}",
                    path.display(),
                    chain(&error)
                ));
            }
        }
    }
    maps
}

fn text_of(path: &Path) -> Result<String, MapError> {
    let mut text = String::new();
    let read = File::open(path)?.take(SIZE_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > SIZE_MAX { Err(MapError::TooLong) } else { Ok(text) }
}

/// When a file was written.
fn written(path: &Path) -> io::Result<Timestamp> {
    let written = fs::metadata(path)?.modified()?;
    Ok(Timestamp(written.duration_since(UNIX_EPOCH).map_or(0, nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use ras_core::Slot;

    /// Two channels of a Zen 1 server that take turns, from `base` times 256 MiB on.
    fn turns(base: u32) -> String {
        station_pair([(base << 12 | 0x11, 0xff_f000), (base << 12 | 0x11, 0xff_f000)])
    }

    /// The same channels one after the other.
    fn halves() -> String {
        station_pair([(0x1, 0x7f_f000), (0x80_0001, 0xff_f001)])
    }

    fn station_pair(registers: [(u32, u32); 2]) -> String {
        let mut text = "revision = \"df2\"\nfabric_id_mask = [\"0x75806000\"]\n".to_owned();
        for (instance, (base, limit)) in registers.into_iter().enumerate() {
            text += &format!(
                "[[stations]]\ninstance = {instance}\nblock_instance_information = {}\n\
                 maps = [{{ base = {base}, limit = {limit} }}]\n",
                instance << 8
            );
        }
        text
    }

    fn machine(firmware: &str) -> MachineMap {
        let slots = ["A1", "A2"].map(|locator| Slot {
            dimm: Arc::new(Dimm { locator: locator.into(), size: 1 << 34, ..Dimm::default() }),
            ..Slot::default()
        });
        MachineMap { slots: slots.into(), firmware: firmware.into(), ..MachineMap::default() }
    }

    /// A machine's disk over several starts.
    struct Disk {
        root: tempfile::TempDir,
        now: u64,
    }

    struct Start {
        maps: AddressMaps,
        map: MachineMap,
        notes: Vec<String>,
    }

    impl Disk {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap(), now: 1_000_000 }
        }

        fn file(&self) -> PathBuf {
            self.root.path().join("map.toml")
        }

        /// Somebody writes the file, an hour later.
        fn write(&mut self, text: &str) {
            self.now += 3600;
            fs::write(self.file(), text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.now);
            File::options().write(true).open(self.file()).unwrap().set_modified(time).unwrap();
        }

        fn start(&mut self, map: MachineMap) -> Start {
            self.now += 3600;
            let file = self.file();
            let (mut map, mut notes) = (map, Vec::new());
            let now = Timestamp(self.now * 1_000_000_000);
            let file = file.exists().then_some(file.as_path());
            let maps =
                AddressMaps::read(file, &self.root.path().join("maps"), &mut map, &mut notes, now);
            Start { maps, map, notes }
        }
    }

    fn page(pfn: u64, start: &Start) -> RetiredPage {
        let page = ras_core::order::retire(None, Pfn(pfn), Timestamp(1), "root", "x").unwrap();
        RetiredPage { epoch: start.map.epoch(), ..page }
    }

    fn found(start: &Start, page: &RetiredPage) -> Option<u64> {
        start.maps.find(page, None).map(|(pfn, _)| pfn.0)
    }

    #[test]
    fn cells_are_found_under_another_map() {
        let mut disk = Disk::new();
        disk.write(&turns(0));
        let before = disk.start(machine("1"));
        assert_eq!(before.notes, <[String; 0]>::default());
        let page = page(0x12345, &before);
        let again = disk.start(machine("1"));
        assert_eq!(again.map.epoch(), page.epoch, "nothing changed");

        // All of memory begins 256 MiB higher; the firmware does not tell.
        disk.write(&turns(1));
        let after = disk.start(machine("1"));
        assert_ne!(after.map.epoch(), page.epoch);
        assert_eq!(found(&after, &page), Some(0x22345));
        let station = StationId { socket: 0, die: 0, instance: 1 };
        let of = |start: &Start, pfn: u64| {
            let snapshot = start.maps.snapshot().unwrap();
            snapshot.normalized_address(PhysAddr(pfn * PAGE_SIZE + TURN)).unwrap()
        };
        assert_eq!(of(&before, 0x12345), of(&after, 0x22345), "the same cells");
        assert_eq!(of(&before, 0x12345).0, station);

        // One page's cells in two: unless somebody knows whose are bad.
        disk.write(&halves());
        let halves = disk.start(machine("1"));
        assert_eq!(found(&halves, &page), None);
        let mut known = page.clone();
        known.source = ErrorSource::MceRecord;
        (known.location.socket, known.location.channel) = (Some(0), Some(0));
        assert_eq!(found(&halves, &known), Some(0x12345 / 2));
        known.location.channel = Some(1);
        assert_eq!(found(&halves, &known), Some((0x800 << 16) + 0x12345 / 2));
        known.source = ErrorSource::McEvent;
        assert_eq!(found(&halves, &known), None, "EDAC counts channels otherwise");

        // A module more, or one that moved.
        let mut more = machine("1");
        more.slots.push(Slot {
            dimm: Arc::new(Dimm { locator: "B1".into(), size: 1 << 34, ..Dimm::default() }),
            ..Slot::default()
        });
        disk.write(&turns(1));
        assert_eq!(found(&disk.start(more), &page), None);
        let [a1, a2] = [0, 1].map(|slot| before.map.slots[slot].dimm.clone());
        let of_a1 = RetiredPage { dimm: Some(a1.clone()), ..page };
        assert!(after.maps.find(&of_a1, Some(&a1)).is_some());
        assert_eq!(after.maps.find(&of_a1, Some(&a2)), None);
    }

    #[test]
    fn a_file_that_is_older_than_the_firmware_is_not_believed() {
        let mut disk = Disk::new();
        disk.write(&turns(0));
        let before = disk.start(machine("1"));
        let page = page(0x12345, &before);
        let updated = disk.start(machine("2"));
        assert!(updated.maps.snapshot().is_none());
        assert!(updated.notes[0].contains("older than the last change"), "{:?}", updated.notes);
        assert_ne!(updated.map.epoch(), page.epoch);
        assert_eq!(found(&updated, &page), None);
        // The registers are what they were, somebody says.
        disk.write(&turns(0));
        let said = disk.start(machine("2"));
        assert_eq!((said.map.epoch(), said.notes.len()), (page.epoch, 0));
        // The old firmware is back.
        assert!(disk.start(machine("1")).maps.snapshot().is_some(), "known to be right there");
    }

    #[test]
    fn knowing_more_or_less_of_a_map_moves_nothing() {
        let mut disk = Disk::new();
        let plain = disk.start(machine("1"));
        let first = page(0x12345, &plain);
        disk.write(&turns(0));
        let better = disk.start(machine("1"));
        assert_eq!(found(&better, &first), Some(0x12345));
        let second = page(0x777, &better);
        fs::remove_file(disk.file()).unwrap();
        let worse = disk.start(machine("1"));
        assert_eq!(found(&worse, &second), Some(0x777));
        assert_eq!(found(&disk.start(machine("2")), &second), None);
    }

    #[test]
    fn damage_is_a_note() {
        let mut disk = Disk::new();
        for (text, says) in [
            ("{", "as JSON"),
            ("revision = 7", "as TOML"),
            (
                &turns(0).replace("instance = 1", "instance = 0"),
                "no machine's: it has two stations",
            ),
        ] {
            disk.write(text);
            let start = disk.start(machine("1"));
            assert!(start.notes[0].contains(says), "{says}: {:?}", start.notes);
            assert!(start.maps.snapshot().is_none() && start.map.interleave.is_none());
        }
        disk.write(&turns(0));
        let before = disk.start(machine("1"));
        let page = page(0x12345, &before);
        let kept = path_of(&disk.root.path().join("maps"), page.epoch.unwrap());
        fs::write(&kept, "{}").unwrap();
        disk.write(&turns(1));
        let after = disk.start(machine("1"));
        assert!(after.notes[0].contains("an earlier address map"), "{:?}", after.notes);
        assert_eq!(found(&after, &page), None);
    }

    #[test]
    fn maps_are_bounded() {
        let mut disk = Disk::new();
        for base in 0..40 {
            disk.write(&turns(base));
            disk.start(machine("1"));
        }
        let kept = fs::read_dir(disk.root.path().join("maps")).unwrap().count();
        assert_eq!(kept, MAPS_MAX);
    }
}
