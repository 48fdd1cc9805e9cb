//! Which pages of a guest are really there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use ras_core::{Gpa, PAGE_SIZE};
use ras_qmp::ras::Region;

/// Block size of the virtio-mem device.
const BLOCK: u64 = 2 << 20;

/// Bit 63 of a `/proc/PID/pagemap` entry: the page is present. Linux, "pagemap".
const PRESENT: u64 = 1 << 63;

/// The first page of each block of `region` that has been touched.
pub(super) fn present_blocks(pid: u32, region: &Region) -> Result<Vec<Gpa>> {
    let path = format!("/proc/{pid}/pagemap");
    let pagemap = File::open(&path).with_context(|| format!("opening {path}"))?;
    let mut found = Vec::new();
    for offset in (0..region.size).step_by(usize::try_from(BLOCK)?) {
        let mut entry = [0; 8];
        let at = (region.hva + offset) / PAGE_SIZE * 8;
        pagemap.read_exact_at(&mut entry, at).with_context(|| format!("reading {path}"))?;
        if u64::from_le_bytes(entry) & PRESENT != 0 {
            found.push(Gpa(region.gpa.0 + offset));
        }
    }
    Ok(found)
}
