//! Which pages of a guest are really there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use ras_core::{Gpa, PAGE_SIZE, Pfn};
use ras_qmp::ras::Region;

/// Bytes of a `/proc/PID/pagemap` entry, and its bit 63: the page is present. Linux, "pagemap".
const ENTRY: u64 = 8;
const PRESENT: u64 = 1 << 63;

/// Bits 54:0, of a page that is present: its frame, or 0 for those who may not know.
const FRAME: u64 = (1 << 55) - 1;

/// The first page of `region` from `offset` bytes on that has been touched, and its frame.
pub(super) fn first_present(pid: u32, region: &Region, offset: u64) -> Result<(Gpa, Pfn)> {
    let path = format!("/proc/{pid}/pagemap");
    let pagemap = File::open(&path).with_context(|| format!("opening {path}"))?;
    let mut entries = vec![0; usize::try_from((region.size - offset) / PAGE_SIZE * ENTRY)?];
    pagemap
        .read_exact_at(&mut entries, (region.hva + offset) / PAGE_SIZE * ENTRY)
        .with_context(|| format!("reading {path}"))?;
    let (entries, _) = entries.as_chunks();
    let mut entries = (0..).zip(entries).map(|(index, entry)| (index, u64::from_le_bytes(*entry)));
    let present = entries.find(|(_, entry)| entry & PRESENT != 0);
    let (index, entry) =
        present.with_context(|| format!("no page is in use from {offset:#x} on"))?;
    Ok((Gpa(region.gpa.0 + offset + index * PAGE_SIZE), Pfn(entry & FRAME)))
}
