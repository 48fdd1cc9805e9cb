//! What a guest says on its serial line, as it arrives. tests/guest/README.md lists the lines.

use std::io::{ErrorKind, Read};
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// A complete line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When its end arrived.
    pub at: Instant,
    /// The line without its end.
    pub text: String,
}

/// `guest: ready …`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Boot memory in bytes.
    pub ram: u64,
    /// Size of the virtio-mem region in bytes.
    pub vmem: u64,
    /// Bytes of it that are plugged.
    pub plugged: u64,
}

/// `tick N …`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick {
    /// When it arrived.
    pub at: Instant,
    /// The guest's counter.
    pub number: u64,
    /// The page that did not hold what the guest had written to it: `sum=BAD`.
    pub bad: Option<u64>,
    /// Plugged bytes of the virtio-mem region.
    pub plugged: u64,
    /// Machine checks taken since the guest booted.
    pub mce: u64,
}

impl Line {
    /// The value of the word `key=VALUE`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let values = self.text.split(' ').filter_map(|word| word.split_once('='));
        values.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
    }

    /// The number in the word `key=NUMBER`, decimal or hexadecimal with `0x`.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        parse(self.value(key)?)
    }

    /// The line as the guest's first report.
    #[must_use]
    pub fn ready(&self) -> Option<Ready> {
        self.text.starts_with("guest: ready ").then_some(())?;
        let [ram, vmem, plugged] = ["ram", "vmem", "plugged"].map(|key| self.number(key));
        Some(Ready { ram: ram?, vmem: vmem?, plugged: plugged? })
    }

    /// The line as a tick.
    #[must_use]
    pub fn tick(&self) -> Option<Tick> {
        let number = parse(self.text.strip_prefix("tick ")?.split(' ').next()?)?;
        let bad = match self.value("sum")? {
            "ok" => None,
            _ => Some(self.number("page")?),
        };
        let (plugged, mce) = (self.number("plugged")?, self.number("mce")?);
        Some(Tick { at: self.at, number, bad, plugged, mce })
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Everything the guest said so far.
#[derive(Default)]
pub(super) struct Log {
    pub(super) first_byte: Option<Instant>,
    pub(super) last_byte: Option<Instant>,
    pub(super) lines: Vec<Line>,
    pub(super) closed: bool,
    partial: Vec<u8>,
}

impl Log {
    fn push(&mut self, bytes: &[u8], at: Instant) {
        self.first_byte.get_or_insert(at);
        self.last_byte = Some(at);
        for byte in bytes {
            match byte {
                b'\n' => {
                    let text = String::from_utf8_lossy(&self.partial).into_owned();
                    self.partial.clear();
                    self.lines.push(Line { at, text });
                }
                b'\r' => {}
                _ => self.partial.push(*byte),
            }
        }
    }
}

/// The log, and who waits for it.
#[derive(Default)]
pub(super) struct Shared {
    log: Mutex<Log>,
    grown: Condvar,
}

impl Shared {
    /// Reads `output` on a thread of its own until it ends.
    pub(super) fn collect(mut output: ChildStdout) -> Arc<Self> {
        let shared = Arc::new(Self::default());
        let collector = Arc::clone(&shared);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = output.read(&mut bytes);
                let at = Instant::now();
                let mut log = collector.lock();
                match read {
                    Ok(count) if count > 0 => log.push(&bytes[..count], at),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => log.closed = true,
                }
                let closed = log.closed;
                drop(log);
                collector.grown.notify_all();
                if closed {
                    return;
                }
            }
        });
        shared
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first result that `find` has for the log as it grows; `None` at the deadline, or once the
    /// log has ended without one.
    pub(super) fn wait<T>(
        &self,
        deadline: Instant,
        mut find: impl FnMut(&Log) -> Option<T>,
    ) -> Option<T> {
        let mut log = self.lock();
        loop {
            if let Some(found) = find(&log) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || log.closed {
                return None;
            }
            let waited = self.grown.wait_timeout(log, left);
            log = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { at: Instant::now(), text: text.to_owned() }
    }

    #[test]
    fn the_guests_lines_are_understood() {
        let ready = line("guest: ready ram=67108864 vmem=268435456 plugged=0").ready();
        assert_eq!(ready, Some(Ready { ram: 64 << 20, vmem: 256 << 20, plugged: 0 }));

        let tick = line("tick 17 sum=ok plugged=2097152 mce=1").tick().unwrap();
        assert_eq!((tick.number, tick.bad, tick.plugged, tick.mce), (17, None, 2 << 20, 1));
        let tick = line("tick 18 sum=BAD page=0x100001000 plugged=0 mce=0").tick().unwrap();
        assert_eq!(tick.bad, Some(0x1_0000_1000));

        let check = line("#MC bank=9 status=0xbd800000001000c0 addr=0x1000 misc=0x8c mcg=0x5");
        assert_eq!(check.number("addr"), Some(0x1000));
        assert_eq!(check.value("pages"), None);
    }

    #[test]
    fn a_line_cut_by_a_migration_is_no_tick() {
        for text in
            ["", "tick", "tick 1", "tick 12 sum=ok plugged=0", "tick 12 sum=BAD plugged=0 mce=0"]
        {
            assert_eq!(line(text).tick(), None, "{text:?}");
        }
        assert_eq!(line("2 sum=ok plugged=0 mce=0").tick(), None);
    }

    #[test]
    fn bytes_become_lines_whatever_the_pieces() {
        let mut log = Log::default();
        for piece in ["@", "\nguest: re", "ady\r\ntick", " 1"] {
            log.push(piece.as_bytes(), Instant::now());
        }
        let texts: Vec<_> = log.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["@", "guest: ready"]);
        assert!(log.first_byte < log.last_byte);
    }
}
