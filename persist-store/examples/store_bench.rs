//! What the store costs: a commit beside a bare 4 KiB write and fdatasync on the same file system,
//! interleaved in one run; a list of 100,000 entries loaded and compacted. Prints one JSON object.
//! Usage: `store_bench DIR [COMMITS]`. It starts itself as `store_bench --load STORE` for each load: a
//! process that did it before has memory at hand that a daemon at its start has not.

use std::error::Error;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use persist_store::{Entry, Store};
use ras_core::{
    Dimm, DimmIdentity, DimmLocation, ErrorSource, Location, MapEpoch, Pfn, RetireReason,
    RetireState, RetiredPage, Severity, Timestamp,
};

const BLOCK: usize = 4096;
const ENTRIES: u64 = 100_000;

/// Times the list is loaded and compacted; medians are reported.
const ROUNDS: usize = 11;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().map(PathBuf::from).ok_or("usage: store_bench DIR [COMMITS]")?;
    if dir.as_os_str() == "--load" {
        return load(
            &arguments.next().map(PathBuf::from).ok_or("usage: store_bench --load STORE")?,
        );
    }
    let commits: usize =
        arguments.next().map_or(Ok(1000), |commits| commits.to_string_lossy().parse())?;
    let scratch = dir.join(format!("store_bench.{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let result = measure_commits(&scratch, commits).and_then(|commits| {
        let list = measure_list(&scratch.join("list"))?;
        Ok((commits, list))
    });
    fs::remove_dir_all(&scratch)?;
    let ((mut store, mut bare), mut list) = result?;
    let bytes = |of: u64| of as f64 / ENTRIES as f64;
    let figures = [
        ("store_median_us", quantile(&mut store, 0.5)),
        ("store_p99_us", quantile(&mut store, 0.99)),
        ("bare_median_us", quantile(&mut bare, 0.5)),
        ("bare_p99_us", quantile(&mut bare, 0.99)),
        ("entries", ENTRIES as f64),
        ("load_ms", quantile(&mut list.load_ms, 0.5)),
        ("file_read_ms", quantile(&mut list.file_read_ms, 0.5)),
        ("compaction_ms", quantile(&mut list.compaction_ms, 0.5)),
        ("file_bytes_per_entry", bytes(list.file_bytes)),
    ];
    let figures = figures.map(|(name, value)| format!("\"{name}\":{value:.3}"));
    println!("{{{}}}", figures.join(","));
    Ok(())
}

/// Microseconds of each commit and of each bare write.
fn measure_commits(dir: &Path, rounds: usize) -> Result<(Vec<f64>, Vec<f64>), Box<dyn Error>> {
    // The strictest thing to be measured against: the file has its size and its blocks, so the sync
    // has nothing to do but the data.
    let bare = fs::File::create(dir.join("bare"))?;
    bare.write_all_at(&vec![0; BLOCK * rounds], 0)?;
    bare.sync_all()?;
    let (mut store, _) = Store::open(&dir.join("store"))?;
    let (mut store_us, mut bare_us) = (Vec::new(), Vec::new());
    let block = [0x5a; BLOCK];
    let dimms = dimms();
    let mut offset = 0;
    for round in 0..rounds {
        let entry = Entry::Page(Box::new(page(round as u64 % 512, round as u64, &dimms)));
        let begin = Instant::now();
        store.append(entry)?;
        store_us.push(micros(begin.elapsed()));

        let begin = Instant::now();
        bare.write_all_at(&block, offset)?;
        bare.sync_data()?;
        bare_us.push(micros(begin.elapsed()));
        offset += BLOCK as u64;
    }
    Ok((store_us, bare_us))
}

struct List {
    load_ms: Vec<f64>,
    /// The file alone, into memory: what loading can't be faster than.
    file_read_ms: Vec<f64>,
    compaction_ms: Vec<f64>,
    file_bytes: u64,
}

/// A list that was filled in no order of addresses, and is loaded as a restart does.
fn measure_list(dir: &Path) -> Result<List, Box<dyn Error>> {
    let (mut store, _) = Store::open(dir)?;
    let dimms = dimms();
    let numbers: Vec<u64> = (0..ENTRIES).map(|number| number * 61_681 % ENTRIES).collect();
    for numbers in numbers.chunks(1000) {
        let entries =
            numbers.iter().map(|&number| Entry::Page(Box::new(page(number, number, &dimms))));
        store.append_all(&entries.collect::<Vec<_>>())?;
    }
    let mut list =
        List { load_ms: vec![], file_read_ms: vec![], compaction_ms: vec![], file_bytes: 0 };
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        store.compact()?;
        list.compaction_ms.push(micros(begin.elapsed()) / 1e3);
    }
    list.file_bytes = fs::metadata(dir.join("journal"))?.len();
    drop(store);
    for _ in 0..ROUNDS {
        let output = Command::new(std::env::current_exe()?).arg("--load").arg(dir).output()?;
        let text = String::from_utf8(output.stdout)?;
        let (read, load) = text.trim().split_once(' ').ok_or("the load failed")?;
        list.file_read_ms.push(read.parse()?);
        list.load_ms.push(load.parse()?);
    }
    Ok(list)
}

/// Prints the milliseconds it takes to read the file alone, and to load the list.
fn load(dir: &Path) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let (store, recovery) = Store::open(dir)?;
    let load = begin.elapsed();
    if !recovery.is_clean() || store.state().pages.len() as u64 != ENTRIES {
        return Err(format!("the list is not what was written: {recovery}").into());
    }
    let begin = Instant::now();
    let file = fs::read(dir.join("journal"))?;
    let read = begin.elapsed();
    drop(file);
    println!("{} {}", micros(read) / 1e3, micros(load) / 1e3);
    Ok(())
}

fn dimms() -> Vec<Arc<Dimm>> {
    let dimm = |number| Dimm {
        identity: DimmIdentity::new("Samsung", "M393A4K40DB3-CWE", &format!("03A1B2{number:02X}")),
        locator: format!("DIMM_{}1", char::from(b'A' + number)),
        bank_locator: "NODE 0".into(),
        size: 32 << 30,
    };
    (0..8).map(dimm).map(Arc::new).collect()
}

/// A page of which all is known that a machine tells.
fn page(number: u64, time: u64, dimms: &[Arc<Dimm>]) -> RetiredPage {
    let dimm = &dimms[usize::try_from(number).unwrap_or(0) % dimms.len()];
    let low = |bits: u32| u32::try_from(number & ((1 << bits) - 1)).unwrap_or(0);
    RetiredPage {
        pfn: Pfn(0x10_0000 + number * 7),
        reason: RetireReason::Uncorrected,
        state: RetireState::Retired,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(1_700_000_000_000_000_000),
        updated: Timestamp(1_700_000_000_000_000_000 + time),
        attempts: 1,
        location: Location {
            socket: Some(0),
            imc: Some(1),
            channel: Some(3),
            dimm: DimmLocation {
                rank: Some(1),
                bank_group: Some(2),
                bank: Some(3),
                row: Some(low(16)),
                column: Some(low(9)),
                ..DimmLocation::default()
            },
            fru: Some(dimm.locator.as_str().into()),
            ..Location::default()
        },
        dimm: Some(dimm.clone()),
        epoch: Some(MapEpoch(0x1c2c_78a2_8621_f86c)),
        diagnosis: "uncorrected error found by the patrol scrubber".into(),
        outcome: "offline".into(),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn quantile(samples: &mut [f64], quantile: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the count")]
    let index = (samples.len() as f64 * quantile) as usize;
    samples.get(index.min(samples.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
