//! What machine this is: its memory modules and their map, by SMBIOS and ACPI, and the memory map the
//! kernel works with.
//!
//! Everything may be missing (virtual machines, containers, firmware that has nothing to say): what is
//! missing is a note, and what is known is used.

pub mod address_map;
pub mod edac;
pub mod mem_repair;
pub mod memory_map;
pub mod smbios;
pub mod srat;

use std::fs;
use std::io::Read;
use std::path::Path;

use ras_core::{MachineMap, RetiredPage};

use crate::config::Paths;
pub use address_map::AddressMaps;
pub use memory_map::{MemoryMap, Standing};

/// The machine as it was found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Machine {
    /// Its modules, and where the firmware says they are mapped.
    pub map: MachineMap,
    /// What the kernel may hand out.
    pub memory: MemoryMap,
    /// Modules as the kernel's EDAC drivers name them. For people: drivers come and go, and labels are
    /// set by hand.
    pub edac: Vec<edac::Module>,
    /// What could repair them. For people, too.
    pub repair: Vec<mem_repair::Function>,
    /// What could not be read, and why, one line each.
    pub notes: Vec<String>,
}

impl Machine {
    /// Reads everything there is.
    #[must_use]
    pub fn read(paths: &Paths) -> Self {
        let mut notes = Vec::new();
        let memory = MemoryMap::read(&paths.sysfs, &paths.proc, &mut notes);
        let firmware = paths.sysfs.join("firmware");
        let tables = firmware.join("dmi/tables");
        let mut map = MachineMap::default();
        match bytes(&tables.join("DMI")) {
            Ok(table) => {
                let found = smbios::parse(&table);
                notes.extend(found.problems.iter().map(|problem| format!("SMBIOS: {problem}")));
                map = MachineMap {
                    slots: found.slots,
                    ranges: found.ranges,
                    firmware: found.firmware,
                    ..map
                };
                // The kernel found the tables by it: damage is worth a word, and no more.
                if let Err(why) = bytes(&tables.join("smbios_entry_point"))
                    .and_then(|entry| smbios::version(&entry).map_err(str::to_owned))
                {
                    notes.push(format!("SMBIOS: entry point: {why}"));
                }
            }
            Err(why) => notes.push(format!(
                "no SMBIOS tables, so modules can't be told apart and a swapped one is not noticed: \
                 {why}"
            )),
        }
        // Only machines with several nodes have one: none is nothing to complain about.
        if let Ok(table) = bytes(&firmware.join("acpi/tables/SRAT")) {
            map.ranges.extend(srat::parse(&table));
        }
        let edac = edac::read(&paths.sysfs.join("devices/system/edac/mc"));
        let repair = mem_repair::read(&paths.sysfs.join("bus/edac/devices"));
        Self { map, memory, edac, repair, notes }
    }

    /// Says in the log what was found.
    pub fn log(&self) {
        let populated = self.map.slots.iter().filter(|slot| slot.dimm.size > 0);
        tracing::info!(
            firmware = self.map.firmware,
            modules = populated.clone().count(),
            gib = populated.map(|slot| slot.dimm.size >> 30).sum::<u64>(),
            epoch = self.map.epoch().map(|epoch| epoch.to_string()),
            "machine"
        );
        for module in &self.edac {
            tracing::debug!(%module, "EDAC");
        }
        for function in &self.repair {
            tracing::info!(%function, "rows could be repaired");
        }
        for note in &self.notes {
            tracing::warn!("machine: {note}");
        }
    }
}

/// Says of a page which module holds it and under which map it was condemned, as far as that is known, and
/// where nobody has said so before.
#[must_use]
pub fn place(page: RetiredPage, map: &MachineMap) -> RetiredPage {
    if page.dimm.is_some() || page.epoch.is_some() {
        return page;
    }
    // Memory behind a PCI function (CXL) is in no slot.
    let slot = page.location.pci.is_none().then(|| map.dimm_at(&page.location)).flatten();
    RetiredPage { dimm: slot.cloned(), epoch: map.epoch(), ..page }
}

/// The same of a page that another list, or a person, named: a handle there is of another boot.
#[must_use]
pub fn place_ordered(page: RetiredPage, map: &MachineMap) -> RetiredPage {
    let mut location = page.location.clone();
    location.dimm.module_handle = None;
    let placed = place(RetiredPage { location, ..page.clone() }, map);
    RetiredPage { location: page.location, ..placed }
}

/// A file of firmware's, up to the longest that is read.
fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(smbios::TABLE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::{MapEpoch, PciAddress, Pfn, Timestamp};

    #[test]
    fn a_machine_that_says_nothing_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let paths =
            Paths { sysfs: root.path().into(), proc: root.path().into(), ..Paths::default() };
        let machine = Machine::read(&paths);
        assert_eq!(machine.map, MachineMap::default());
        assert_eq!(machine.map.epoch(), None);
        assert_eq!(machine.notes.len(), 3, "{:?}", machine.notes);
        assert!(machine.notes.iter().any(|note| note.contains("no SMBIOS tables")));
    }

    #[test]
    fn a_page_gets_its_module_and_its_map_once() {
        let map = MachineMap {
            slots: smbios::parse(&smbios::build::table()).slots,
            ..MachineMap::default()
        };
        let populated: Vec<_> = map.slots.iter().filter(|slot| slot.dimm.size > 0).collect();
        let label = populated[0].dimm.locator.clone();
        let order = ras_core::order::retire(None, Pfn(1), Timestamp(7), "root", "x").unwrap();
        let placed = place(order.clone(), &map);
        assert_eq!((placed.epoch, &placed.dimm), (map.epoch(), &None), "one of several modules");

        let mut labelled = order;
        labelled.location.fru = Some(label.into());
        labelled.location.dimm.module_handle = Some(0x7777);
        assert_eq!(place(labelled.clone(), &map).dimm.as_ref(), Some(&populated[0].dimm));
        let placed = place_ordered(labelled.clone(), &map);
        assert_eq!(placed.dimm.as_ref(), Some(&populated[0].dimm));
        assert_eq!(placed.location, labelled.location, "what was said stays");
        labelled.location.dimm.module_handle = Some(populated[1].handle);
        assert_eq!(place(labelled.clone(), &map).dimm.as_ref(), Some(&populated[1].dimm));
        assert_eq!(place_ordered(labelled, &map).dimm.as_ref(), Some(&populated[0].dimm));

        let elsewhere = RetiredPage { epoch: Some(MapEpoch(1)), ..placed };
        assert_eq!(place(elsewhere.clone(), &MachineMap::default()), elsewhere);
        let mut cxl = RetiredPage { epoch: None, dimm: None, ..elsewhere };
        cxl.location.pci = Some(PciAddress { segment: 0, bus: 0x0d, device: 0, function: 0 });
        assert_eq!(place(cxl, &map).dimm, None);
    }

    #[test]
    fn a_machine_with_modules_is_read_below_its_root() {
        let root = tempfile::tempdir().unwrap();
        let paths =
            Paths { sysfs: root.path().into(), proc: root.path().into(), ..Paths::default() };
        let tables = root.path().join("firmware/dmi/tables");
        fs::create_dir_all(&tables).unwrap();
        fs::write(tables.join("DMI"), smbios::build::table()).unwrap();
        fs::write(tables.join("smbios_entry_point"), "_SM3_").unwrap();
        let label = root.path().join("devices/system/edac/mc/mc0/dimm3");
        fs::create_dir_all(&label).unwrap();
        fs::write(label.join("dimm_label"), "CPU0_A1\n").unwrap();
        fs::write(label.join("size"), "16384\n").unwrap();
        let machine = Machine::read(&paths);
        assert_eq!(machine.map.slots.len(), 3);
        assert_eq!(machine.map.firmware, "Maker 1.2 01/02/2025");
        assert!(machine.map.epoch().is_some());
        assert_eq!(machine.edac[0].to_string(), "mc0/dimm3 \"CPU0_A1\", 16384 MiB");
        assert!(machine.notes.iter().any(|note| note.contains("entry point")));
    }
}
