//! `erst-list [PFN[=IPID,ADDR]]...`: a list in the machine's error record store, told of pages, some with
//! the machine address they came with; then read again, from the store alone, and printed as JSON
//! (`ras_lab::erst::Report`). Runs inside a lab's machine.

use anyhow::{Context as _, Result};
use persist_store::{Boot, Crossing, Entry, ErstDevice, ErstList, Package, PageList as _, Poison};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};
use ras_lab::erst::{self, Report};

fn main() -> Result<()> {
    let mut list = open()?;
    let (_, first) = list.load()?;
    for argument in std::env::args().skip(1) {
        let (page, place) = match argument.split_once('=') {
            Some((page, place)) => (page, Some(place)),
            None => (argument.as_str(), None),
        };
        let pfn = Pfn(number(page)?);
        if let (Some(place), Some(crossing)) = (place, list.crossing_mut()) {
            let (ipid, addr) = place.split_once(',').context("a place is IPID,ADDR")?;
            let poison = Poison { time: SINCE, ipid: number(ipid)?, addr: number(addr)? };
            crossing.place(pfn, erst::PPIN, poison);
        }
        list.commit(&[Entry::Page(Box::new(page_at(pfn)))])?;
    }
    let written = list.crossing_mut().map(|crossing| crossing.report().exported);

    let mut list = open()?;
    let (state, recovery) = list.load()?;
    let crossing = list.crossing_mut().context("it was given one")?.report().clone();
    let report = Report {
        pages: state.pages.keys().copied().collect(),
        is_clean: recovery.is_clean(),
        mended_copies: first.damaged_copies,
        exported: written.unwrap_or(0),
        fmpm_records: crossing.records,
        fmpm_entries: crossing.entries,
        untranslated: crossing.untranslated.len(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// 2023-11-14.
const SINCE: u64 = 1_700_000_000;

fn open() -> Result<ErstList> {
    let cpuid = raw_cpuid_eax();
    let fru = persist_store::Fru { cpuid, ppin: erst::PPIN };
    let mut crossing =
        Crossing::new(vec![Package { fru, socket: 0 }]).translating(erst::snapshot());
    // The kernel's driver writes its own idea of a record over ours.
    if !std::path::Path::new("/sys/module/fmpm").exists() {
        crossing = crossing.writing(0);
    }
    let boot = Boot::current().context("reading the boot's identifier")?;
    Ok(ErstList::new(ErstDevice::default(), boot).crossing(crossing))
}

/// CPUID leaf 1.
fn raw_cpuid_eax() -> u32 {
    let leaf = raw_cpuid::cpuid!(1);
    leaf.eax
}

fn page_at(pfn: Pfn) -> RetiredPage {
    RetiredPage {
        pfn,
        reason: RetireReason::Uncorrected,
        state: RetireState::Pending,
        severity: Severity::Deferred,
        source: ErrorSource::MceRecord,
        since: Timestamp::from_secs(SINCE),
        updated: Timestamp::from_secs(SINCE),
        attempts: 0,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: "told by the lab".into(),
        outcome: "".into(),
    }
}

fn number(text: &str) -> Result<u64> {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).with_context(|| format!("{text} is no hexadecimal number"))
}
