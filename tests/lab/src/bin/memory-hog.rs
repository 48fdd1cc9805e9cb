//! Takes all memory there is, and tells which of some page frames it was given: `memory-hog KEEP_MIB
//! FIRST:STEP:COUNT…`, numbers in decimal. Prints a `ras_lab::uefi::Hogged` as JSON.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};
use ras_lab::capability::meminfo_kib;
use ras_lab::uefi::Hogged;

/// What is asked for at a time: at first as much that the kernel may use huge pages, in the end little.
const CHUNKS: [usize; 2] = [64 << 20, 1 << 20];

const PAGE_SIZE: usize = 4096;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let keep_mib: u64 = arguments.next().context("how much to keep free")?.parse()?;
    let mut looked_for = BTreeSet::new();
    for argument in arguments {
        let numbers: Vec<u64> = argument
            .split(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context(argument.clone())?;
        let [first, step, count] = numbers[..] else { bail!("not FIRST:STEP:COUNT: {argument}") };
        looked_for.extend((0..count).map(|number| first + number * step));
    }

    let mut chunks: Vec<Vec<u8>> = Vec::new();
    for size in CHUNKS {
        let more = u64::try_from(size >> 10)?;
        while available_kib()? > keep_mib * 1024 + more {
            let mut chunk = vec![0; size];
            // Every page is written to, so that there is a frame behind it.
            for page in chunk.chunks_mut(PAGE_SIZE) {
                page[0] = 1;
            }
            chunks.push(black_box(chunk));
        }
    }
    let pagemap = File::open("/proc/self/pagemap").context("opening pagemap")?;
    let (mut pages, mut given) = (0, Vec::new());
    for chunk in &chunks {
        let first = chunk.as_ptr().addr() / PAGE_SIZE;
        let last = (chunk.as_ptr().addr() + chunk.len() - 1) / PAGE_SIZE;
        let mut entries = vec![0; (last - first + 1) * 8];
        pagemap
            .read_exact_at(&mut entries, u64::try_from(first * 8)?)
            .context("reading pagemap")?;
        for entry in entries.chunks_exact(8) {
            // Linux `Documentation/admin-guide/mm/pagemap.rst`: bit 63 is "present", bits 54:0 the frame.
            let entry = u64::from_ne_bytes(entry.try_into()?);
            if entry >> 63 == 1 {
                let frame = entry & ((1 << 55) - 1);
                pages += 1;
                given.extend(looked_for.contains(&frame).then_some(frame));
            }
        }
    }
    given.sort_unstable();
    given.dedup();
    println!("{}", serde_json::to_string(&Hogged { pages, given, left_kib: available_kib()? })?);
    Ok(())
}

fn available_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading meminfo")?;
    meminfo_kib(&text, "MemAvailable").context("no MemAvailable")
}
