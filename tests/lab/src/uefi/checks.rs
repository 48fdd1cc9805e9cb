//! What the story looks at inside a machine, each as one question.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ras_core::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use ras_store_format::exclusion::{BadRange, Badness};
use serde::{Deserialize, Serialize};

use crate::agent::Event;
use crate::machine::Machine;

/// To fill the largest machine takes half a minute of an idle host, and hosts are not idle.
const FILLED: Duration = Duration::from_secs(400);

const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// What `memory-hog` reports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hogged {
    /// Pages it was given.
    pub pages: u64,
    /// Page frames it was given, of those it looked for.
    pub given: Vec<u64>,
    /// Memory still available then, in KiB.
    pub left_kib: u64,
}

/// Page frames at regular distances.
#[derive(Clone, Copy)]
pub(super) struct Scattered {
    pub(super) first: u64,
    pub(super) step: u64,
    pub(super) count: u64,
}

impl Scattered {
    pub(super) fn frames(self) -> impl Iterator<Item = Pfn> {
        (0..self.count).map(move |number| Pfn(self.first + number * self.step))
    }

    pub(super) fn ranges(self, badness: Badness) -> Vec<BadRange> {
        self.frames().map(|pfn| BadRange::single(pfn, badness)).collect()
    }

    /// As an argument of `memory-hog`.
    fn words(self) -> String {
        format!("{}:{}:{}", self.first, self.step, self.count)
    }
}

/// `holds`, or the reason why not.
pub(super) fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Lets a program take all memory there is, but for `keep_mib`.
pub(super) fn hog(machine: &mut Machine, keep_mib: u64, frames: &[Scattered]) -> Result<Hogged> {
    let mut command = vec!["/bin/memory-hog".to_owned(), keep_mib.to_string()];
    command.extend(frames.iter().map(|frames| frames.words()));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    machine.start("hog", &command)?;
    let deadline = Instant::now() + FILLED;
    let status = loop {
        let ended = machine.wait("memory-hog to end", SIGN_OF_LIFE, |events| {
            events.iter().find_map(|event| match event {
                Event::Ended { name, status } if name == "hog" => Some(status.clone()),
                _ => None,
            })
        });
        match ended {
            Ok(status) => break status,
            // A machine that is asked nothing for long switches itself off.
            Err(_) if Instant::now() < deadline => machine.read("/proc/uptime").map(drop)?,
            Err(late) => return Err(late),
        }
    };
    let said: Vec<&str> = machine.said("hog").collect();
    ensure!(status == "exit status: 0", "memory-hog ended with {status}: {}", said.join("\n"));
    serde_json::from_str(said.last().context("memory-hog said nothing")?).context("its report")
}

/// Page frames of the lines of `/proc/iomem` with this name.
pub(super) fn iomem(machine: &mut Machine, name: &str) -> Result<Vec<PfnRange>> {
    let text = machine.read("/proc/iomem")?;
    let lines = text.lines().filter_map(|line| line.split_once(" : "));
    lines
        .filter(|(_, found)| *found == name)
        .map(|(addresses, _)| {
            let address = |text: &str| u64::from_str_radix(text, 16).context("an address");
            let (first, last) = addresses.trim().split_once('-').context("a range")?;
            let start = PhysAddr(address(first)?).pfn();
            Ok(PfnRange { start, count: (address(last)? + 1) / PAGE_SIZE - start.0 })
        })
        .collect()
}

/// Whether the kernel itself says that it will never give a page to anybody.
pub(super) fn is_reserved(machine: &mut Machine, pfn: Pfn) -> Result<bool> {
    // KPF_RESERVED of linux/kernel-page-flags.h; KPF_NOPAGE where there is no such page at all.
    const NEVER: u64 = 1 << 32 | 1 << 20;
    Ok(machine.page_flags(pfn)? & NEVER != 0)
}

/// Regions of the firmware's memory map, of the types whose name `pick` takes, as the kernel prints them
/// when it is booted with `efi=debug`.
pub(super) fn firmware_regions(console: &str, pick: &str) -> Vec<PfnRange> {
    // efi: mem12: [Boot Data   |   |  | …] range=[0x000000003e000000-0x000000003e1fffff] (2MB)
    let regions = console.lines().filter_map(|line| {
        let (_, line) = line.split_once("efi: mem")?;
        let (kind, rest) = line.split_once('[')?.1.split_once('|')?;
        let (_, range) = rest.split_once("range=[0x")?;
        let (first, last) = range.split_once(']')?.0.split_once("-0x")?;
        let [first, last] = [first, last].map(|text| u64::from_str_radix(text, 16).ok());
        let start = PhysAddr(first?).pfn();
        let count = (last? + 1) / PAGE_SIZE - start.0;
        (kind.trim() == pick).then_some(PfnRange { start, count })
    });
    regions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_of_the_firmwares_map_is_read() {
        let line = "[    0.000000] efi: mem07: [Boot Data   |   |  |  |  |  |  |  |  |   |WB|WT|WC|UC] \
                    range=[0x0000000000900000-0x00000000014fffff] (12MB)\n";
        let expect = PfnRange { start: Pfn(0x900), count: 0xc00 };
        assert_eq!(firmware_regions(line, "Boot Data"), [expect]);
        assert_eq!(firmware_regions(line, "Boot"), []);
    }
}
