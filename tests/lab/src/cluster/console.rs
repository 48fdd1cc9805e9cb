//! What the guest says, wherever it runs: the serial logs of every node, read as they grow.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

/// A line of a guest, with where and when it appeared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) node: String,
    pub(super) text: String,
}

impl Line {
    /// The number in `tick N …`.
    pub(super) fn tick(&self) -> Option<u64> {
        self.text.strip_prefix("tick ")?.split(' ').next()?.parse().ok()
    }

    /// The guest started from its first instruction.
    pub(super) fn is_boot(&self) -> bool {
        self.text.starts_with("guest: ready")
    }
}

/// Reads along in a thread. Lines get the time at which they were seen, [`PERIOD`] late at most.
pub(super) struct Console {
    lines: Arc<Mutex<Vec<Line>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The precision of a line's time.
pub(super) const PERIOD: Duration = Duration::from_millis(1);

impl Console {
    /// Follows these nodes' logs, whether they exist yet or not.
    pub(super) fn follow(logs: Vec<(String, PathBuf)>) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (Arc::clone(&lines), Arc::clone(&stop));
        let mut tails: Vec<Tail> = logs.into_iter().map(Tail::new).collect();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                for tail in &mut tails {
                    let new = tail.read();
                    if !new.is_empty() {
                        sink.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
                    }
                }
                thread::sleep(PERIOD);
            }
        });
        Self { lines, stop, thread: Some(thread) }
    }

    /// Everything said so far, in the order in which it was seen.
    pub(super) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last tick, if there was one.
    pub(super) fn last_tick(&self) -> Option<(Line, u64)> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .rev()
            .find_map(|line| Some((line.clone(), line.tick()?)))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Tail {
    node: String,
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn new((node, path): (String, PathBuf)) -> Self {
        Self { node, path, file: None, offset: 0, partial: Vec::new() }
    }

    /// Whole lines that are new. A log that got shorter was begun anew.
    fn read(&mut self) -> Vec<Line> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Vec::new() };
        let length = file.metadata().map_or(0, |meta| meta.len());
        if length == self.offset {
            return Vec::new();
        }
        if length < self.offset {
            self.offset = 0;
            self.partial.clear();
        }
        let time = SystemTime::now();
        let read = file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_end(&mut self.partial))
            .unwrap_or(0);
        self.offset += read as u64;
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let text: Vec<u8> = self.partial.drain(..=end).collect();
            let text = String::from_utf8_lossy(&text).trim().trim_start_matches('@').to_owned();
            lines.push(Line { time, node: self.node.clone(), text });
        }
        lines
    }
}
