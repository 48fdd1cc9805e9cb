//! What machine this is: its memory modules and their map, by SMBIOS and ACPI, and the memory map the
//! kernel works with.
//!
//! Everything may be missing (virtual machines, containers, firmware that has nothing to say): what is
//! missing is a note, and what is known is used.

pub mod edac;
pub mod memory_map;
pub mod smbios;
pub mod srat;

use std::fs;
use std::io::Read;
use std::path::Path;

use ras_core::MachineMap;

use crate::config::Paths;
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
        Self { map, memory, edac, notes }
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
        for note in &self.notes {
            tracing::warn!("machine: {note}");
        }
    }
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
