//! The list survives: a writer killed at any moment, a second writer, a reader beside a writer.
//! Power loss, damage and failing disks are simulated in `persist-store`'s own tests.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is the failed test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use persist_store::{Entry, Store, StoreError, Verdict, read, verify};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};
use tempfile::TempDir;

/// Tells [`writer_process`] where to write; without it that test has nothing to do.
const WRITER_DIR: &str = "RAS_TEST_WRITER_DIR";

/// Pages the writer goes round: few, so that it compacts again and again.
const PAGES: u32 = 64;

/// Write number `number`, recognisable by `attempts`.
fn write_number(number: u32) -> Entry {
    Entry::Page(Box::new(RetiredPage {
        pfn: Pfn(u64::from(number % PAGES)),
        reason: RetireReason::Uncorrected,
        state: RetireState::Pending,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp::from_secs(1_700_000_000),
        updated: Timestamp::from_secs(1_700_000_000 + u64::from(number)),
        attempts: number,
        location: Location { socket: Some(0), ..Location::default() },
        dimm: None,
        epoch: None,
        diagnosis: "uncorrected error found by the patrol scrubber".into(),
        outcome: "".into(),
    }))
}

/// The highest number written.
fn last_number(store: &Path) -> Option<u32> {
    let (state, recovery) = read(store).unwrap();
    assert_eq!(recovery.damage, None);
    state.pages.values().map(|page| page.attempts).max()
}

/// Not a test of its own: the process the others start and kill. Says `ack N` once N is durable.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else { return };
    let (mut store, recovery) = Store::open(Path::new(&dir)).unwrap();
    println!("\nopened {recovery}");
    let first = store.state().pages.values().map(|page| page.attempts + 1).max().unwrap_or(0);
    // Nobody needs more; a forgotten writer ends by itself.
    for number in first..first + 20_000 {
        store.append(write_number(number)).unwrap();
        println!("ack {number}");
    }
}

/// A real process that writes until it is killed.
struct Writer {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Writer {
    fn start(store: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "persist::writer_process", "--nocapture"])
            .env(WRITER_DIR, store)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line that begins with `prefix`; `None` at the end of the output.
    fn next(&mut self, prefix: &str) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            // A line without its end was cut by the kill: it acknowledges nothing.
            if self.output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Some(rest) = line.trim_end().strip_prefix(prefix) {
                return Some(rest.into());
            }
        }
    }

    fn next_ack(&mut self) -> Option<u32> {
        self.next("ack ").map(|number| number.parse().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigkill_forgets_nothing_acknowledged() {
    const KILLS: u32 = 60;
    let temp = TempDir::new().unwrap();
    let store = temp.path().join("store");
    let mut acknowledged = None;
    let (mut writes, mut unacknowledged) = (0, 0);
    // Deterministic, and spread over starts, single commits and compactions (one per 256 blocks).
    let mut choice = 0x2545_f491_u32;
    for kill in 0..KILLS {
        let mut writer = Writer::start(&store);
        choice = choice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wanted = if kill % 8 == 0 { 0 } else { (choice >> 16) % 300 };
        for _ in 0..wanted {
            acknowledged = Some(writer.next_ack().expect("the writer died by itself"));
            writes += 1;
        }
        std::thread::sleep(Duration::from_micros(u64::from((choice >> 8) % 3000)));
        writer.child.kill().unwrap();
        while let Some(number) = writer.next_ack() {
            acknowledged = Some(number);
            writes += 1;
        }
        drop(writer);

        match (read(&store), acknowledged) {
            // Killed before there was a journal.
            (Err(StoreError::NotFound { .. }), None) => continue,
            (Err(error), _) => panic!("kill {kill}: {error}"),
            (Ok((state, recovery)), acknowledged) => {
                assert_eq!(recovery.damage, None, "kill {kill}: {recovery}");
                assert_eq!(recovery.damaged_copies, 0, "kill {kill}: {recovery}");
                let Some(acknowledged) = acknowledged else { continue };
                for number in acknowledged.saturating_sub(PAGES - 1)..=acknowledged {
                    let page = &state.pages[&Pfn(u64::from(number % PAGES))];
                    let next = page.attempts == number + PAGES && page.attempts == acknowledged + 1;
                    assert!(page.attempts == number || next, "kill {kill}: {number} is lost");
                }
            }
        }
        // At most the one commit under way is there beside them.
        let last = last_number(&store);
        assert!(
            last == acknowledged || last == acknowledged.map_or(Some(0), |last| Some(last + 1))
        );
        unacknowledged += u32::from(last != acknowledged);
        acknowledged = last;
    }
    println!("{KILLS} kills, {writes} acknowledged writes, {unacknowledged} found unacknowledged");
    assert!(writes > KILLS * 20, "the writer hardly wrote: {writes}");
}

#[test]
fn a_second_writer_is_turned_away() {
    let temp = TempDir::new().unwrap();
    let mut writer = Writer::start(temp.path());
    writer.next_ack().unwrap();
    match Store::open(temp.path()) {
        Err(StoreError::Locked { pid, .. }) => assert_eq!(pid, Some(writer.child.id())),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two writers"),
    }
    // The first one was not disturbed, and its death ends the lock.
    writer.next_ack().unwrap();
    let writes = last_number(temp.path());
    drop(writer);
    let (store, recovery) = Store::open(temp.path()).unwrap();
    assert_eq!(recovery.damage, None);
    assert!(store.state().pages.values().map(|page| page.attempts).max() >= writes);
}

#[test]
fn a_reader_beside_a_busy_writer_sees_a_growing_list() {
    let temp = TempDir::new().unwrap();
    let mut writer = Writer::start(temp.path());
    let mut before = writer.next_ack().unwrap();
    let mut reads = 0;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let (state, recovery) = read(temp.path()).unwrap();
        assert_eq!(recovery.damage, None, "{recovery}");
        assert_eq!(recovery.damaged_copies, 0, "{recovery}");
        let last = state.pages.values().map(|page| page.attempts).max().unwrap();
        assert!(last >= before, "{last} after {before}");
        before = last;
        reads += 1;
        let looked = verify(temp.path()).unwrap();
        assert_eq!(looked.verdict, Verdict::Sound, "{:?} {}", looked.damaged, looked.recovery);
        // Keeps the pipe from filling up.
        while writer.next_ack().unwrap() < last {}
    }
    println!("{reads} reads, up to write {before}");
    assert!(before > 300, "the writer never compacted: {before}");
}
