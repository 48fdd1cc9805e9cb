//! `efi_list [COUNT]`: adds COUNT pages, one commit each, to the list in this machine's EFI variables,
//! and says what is there after a new load. Writes to the firmware: for emulated machines.

use std::error::Error;
use std::time::Instant;

use persist_store::efivarfs::Efivarfs;
use persist_store::{Boot, EfiVarList, Entry, PageList as _};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, SmolStr,
    Timestamp,
};

fn main() -> Result<(), Box<dyn Error>> {
    let count: u64 = std::env::args().nth(1).map_or(Ok(0), |count| count.parse())?;
    let open =
        || Ok::<_, Box<dyn Error>>(EfiVarList::in_variables(Efivarfs::default(), Boot::current()?));
    let mut list = open()?;
    let (state, recovery) = list.load()?;
    println!("{} pages: {recovery}", state.pages.len());
    let first = state.pages.keys().next_back().map_or(0x1000, |last| last.0 + 3);
    let start = Instant::now();
    for number in 0..count {
        let entry = Entry::Page(Box::new(page(
            Pfn(first + 3 * number),
            Timestamp::from_secs(1_700_000_000 + number),
        )));
        if let Err(error) = list.commit(&[entry]) {
            println!("refused after {number} commits: {error}");
            break;
        }
    }
    let wear = list.wear();
    println!(
        "{} ms; {} of {} bytes written in this boot",
        start.elapsed().as_millis(),
        wear.0,
        wear.1
    );
    let (state, recovery) = open()?.load()?;
    println!("{} pages: {recovery}", state.pages.len());
    Ok(())
}

fn page(pfn: Pfn, since: Timestamp) -> RetiredPage {
    RetiredPage {
        pfn,
        reason: RetireReason::Uncorrected,
        state: RetireState::Pending,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since,
        updated: since,
        attempts: 0,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: SmolStr::default(),
        outcome: SmolStr::default(),
    }
}
