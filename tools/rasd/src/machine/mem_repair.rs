//! What could replace failing cells of this machine's memory: the repair functions of the kernel's EDAC
//! drivers, `/sys/bus/edac/devices/DEVICE/mem_repairN/` (Linux 6.15 and later). Source: Linux
//! `Documentation/ABI/testing/sysfs-edac-memory-repair`.
//!
//! Read are `repair_type`, `persist_mode` and `repair_safe_when_in_use`, and of what a repair is to be done
//! to: `hpa`, `dpa`, `nibble_mask`, `rank`, `bank_group`, `bank`, `row`, `column`, `channel` and
//! `sub_channel`. `repair` can only be written, and nothing here is ever written.
//!
//! **None of this says that anything was repaired.** The attributes hold what was last asked for, whether or
//! not somebody then wrote `repair`, and whether or not the device could; they have no time and no history,
//! and a driver that is loaded anew has forgotten them. To let go of a bad page on that would be a guess. So
//! they are for people, in the log: a row counts as repaired where a record says so, see
//! [`crate::repair`].

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Functions read, at most: a device has one for each kind of repair, a machine has some devices.
const FUNCTIONS_MAX: usize = 256;

/// Bytes of an attribute that are read.
const VALUE_MAX: u64 = 64;

/// What a repair is done to.
const PLACES: [&str; 10] = [
    "hpa",
    "dpa",
    "nibble_mask",
    "channel",
    "sub_channel",
    "rank",
    "bank_group",
    "bank",
    "row",
    "column",
];

/// A way to repair memory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Function {
    /// Its directory, `cxl_mem0/mem_repair0`.
    pub name: String,
    /// `ppr`, `row-sparing` …; empty where the driver does not say.
    pub kind: String,
    /// Whether a repair as it is set up now outlives a power cycle.
    pub permanent: Option<bool>,
    /// Whether memory can stay in use while it is repaired.
    pub in_use: Option<bool>,
    /// What was last asked for, not what was done: attribute and value.
    pub asked: Vec<(&'static str, String)>,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, permanent, in_use, asked } = self;
        write!(f, "{name}: {}", if kind.is_empty() { "unknown" } else { kind })?;
        match permanent {
            Some(true) => f.write_str(", permanent")?,
            Some(false) => f.write_str(", until power is off")?,
            None => {}
        }
        match in_use {
            Some(true) => f.write_str(", with memory in use")?,
            Some(false) => f.write_str(", with memory offline")?,
            None => {}
        }
        for (nth, (name, value)) in asked.iter().enumerate() {
            write!(f, "{}{name} {value}", if nth == 0 { "; last asked for " } else { ", " })?;
        }
        Ok(())
    }
}

/// All functions below `dir`, by name; none where no driver has any.
#[must_use]
pub fn read(dir: &Path) -> Vec<Function> {
    let mut functions = Vec::new();
    for device in names(dir) {
        let dir = dir.join(&device);
        let own = names(&dir).into_iter().filter(|name| {
            name.strip_prefix("mem_repair").is_some_and(|number| number.parse::<u32>().is_ok())
        });
        for name in own {
            let text = |attribute: &str| value(&dir.join(&name).join(attribute));
            let flag = |attribute: &str| match text(attribute)?.as_str() {
                "1" => Some(true),
                "0" => Some(false),
                _ => None,
            };
            functions.push(Function {
                kind: text("repair_type").unwrap_or_default(),
                permanent: flag("persist_mode"),
                in_use: flag("repair_safe_when_in_use"),
                asked: PLACES.iter().filter_map(|place| Some((*place, text(place)?))).collect(),
                name: format!("{device}/{name}"),
            });
        }
    }
    functions.sort();
    functions.truncate(FUNCTIONS_MAX);
    functions
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(4 * FUNCTIONS_MAX);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// An attribute; `None` where it is not there, or the driver does not answer.
fn value(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(VALUE_MAX).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_as_far_as_they_say() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cxl_mem0/mem_repair0/repair_type", "ppr\n");
        put("cxl_mem0/mem_repair0/persist_mode", "0\n");
        put("cxl_mem0/mem_repair0/dpa", "0x0\n");
        put("cxl_mem0/mem_repair1/repair_type", "row-sparing\n");
        put("cxl_mem0/mem_repair1/persist_mode", "1\n");
        put("cxl_mem0/mem_repair1/repair_safe_when_in_use", "1\n");
        put("cxl_mem0/mem_repair1/row", "1911\n");
        put("cxl_mem0/mem_repair1/bank", "1\n");
        put("cxl_mem0/mem_repair1/repair", "");
        put("cxl_mem0/mem_repair2/persist_mode", "7\n");
        put("cxl_mem0/mem_repairs/repair_type", "ppr\n");
        put("cxl_mem0/scrub0/current_cycle_duration", "12\n");
        put("mc/ue_count", "0\n");
        let lines: Vec<String> = read(root.path()).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "cxl_mem0/mem_repair0: ppr, until power is off; last asked for dpa 0x0",
                "cxl_mem0/mem_repair1: row-sparing, permanent, with memory in use; last asked for \
                 bank 1, row 1911",
                "cxl_mem0/mem_repair2: unknown",
            ]
        );
        assert_eq!(read(&root.path().join("nothing")), []);
    }
}
