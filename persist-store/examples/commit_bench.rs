//! What a commit costs beside a bare 4 KiB write and fdatasync on the same file system, interleaved
//! in one run. Prints one JSON object. Usage: `commit_bench DIR [ROUNDS]`.

use std::error::Error;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use persist_store::{Entry, Store};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};

const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().map(PathBuf::from).ok_or("usage: commit_bench DIR [ROUNDS]")?;
    let rounds: usize =
        arguments.next().map_or(Ok(1000), |rounds| rounds.to_string_lossy().parse())?;
    let scratch = dir.join(format!("commit_bench.{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let result = measure(&scratch, rounds);
    fs::remove_dir_all(&scratch)?;
    let (mut store, mut bare) = result?;
    let (store_median, store_p99) = (quantile(&mut store, 0.5), quantile(&mut store, 0.99));
    let (bare_median, bare_p99) = (quantile(&mut bare, 0.5), quantile(&mut bare, 0.99));
    println!(
        "{{\"rounds\":{rounds},\"store_median_us\":{store_median:.1},\"store_p99_us\":{store_p99:.1},\
         \"bare_median_us\":{bare_median:.1},\"bare_p99_us\":{bare_p99:.1},\"ratio\":{:.3}}}",
        store_median / bare_median
    );
    Ok(())
}

/// Microseconds of each commit and of each bare write.
fn measure(dir: &Path, rounds: usize) -> Result<(Vec<f64>, Vec<f64>), Box<dyn Error>> {
    // The strictest thing to be measured against: the file has its size and its blocks, so the sync
    // has nothing to do but the data.
    let bare = fs::File::create(dir.join("bare"))?;
    bare.write_all_at(&vec![0; BLOCK * rounds], 0)?;
    bare.sync_all()?;
    let (mut store, _) = Store::open(&dir.join("store"))?;
    let (mut store_us, mut bare_us) = (Vec::new(), Vec::new());
    let block = [0x5a; BLOCK];
    let mut offset = 0;
    for round in 0..rounds {
        let entry = Entry::Page(page(round as u64));
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

fn page(number: u64) -> RetiredPage {
    RetiredPage {
        pfn: Pfn(0x10_0000 + number % 512),
        reason: RetireReason::Uncorrected,
        state: RetireState::Pending,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(1_700_000_000_000_000_000),
        updated: Timestamp(1_700_000_000_000_000_000 + number),
        attempts: 1,
        location: Location { socket: Some(0), channel: Some(3), ..Location::default() },
        dimm: None,
        epoch: None,
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
