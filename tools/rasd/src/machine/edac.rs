//! Modules as EDAC names them. Linux `Documentation/ABI/testing/sysfs-devices-edac`.

use std::fmt;
use std::fs;
use std::path::Path;

/// Modules read, at most: more than any machine has.
const MODULES_MAX: usize = 4096;

/// A module that an EDAC driver knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Module {
    /// Its directory, `mc0/dimm3`.
    pub name: String,
    /// The label, as the driver or an administrator set it.
    pub label: String,
    /// Its place in the driver's words, `channel 0 slot 1`.
    pub location: String,
    /// Its size in MiB; `None` where the driver does not say.
    pub mib: Option<u64>,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.label)?;
        if !self.location.is_empty() {
            write!(f, " ({})", self.location)?;
        }
        self.mib.map_or(Ok(()), |mib| write!(f, ", {mib} MiB"))
    }
}

/// All modules below `dir`, by name; none where no driver is loaded.
#[must_use]
pub fn read(dir: &Path) -> Vec<Module> {
    let mut modules = Vec::new();
    for controller in names(dir, "mc") {
        let dir = dir.join(&controller);
        for module in names(&dir, "dimm").into_iter().chain(names(&dir, "rank")) {
            let text = |name: &str| {
                let text = fs::read_to_string(dir.join(&module).join(name)).unwrap_or_default();
                text.trim().to_owned()
            };
            modules.push(Module {
                name: format!("{controller}/{module}"),
                label: text("dimm_label"),
                location: text("dimm_location"),
                mib: text("size").parse().ok(),
            });
        }
    }
    modules.sort();
    modules.truncate(MODULES_MAX);
    modules
}

/// Names in `dir` of `prefix` and a number.
fn names(dir: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(MODULES_MAX);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix(prefix).is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .collect()
}
