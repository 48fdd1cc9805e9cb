//! systemd's journal, as `journalctl -o json` and `journalctl -o export` write it.
//!
//! Only what the kernel said is looked at, mcelog and rasdaemon: other programs may say anything. Each message
//! has its time beside it, so the kernel log's decoder need not read one out of the text.

use mce_decoder::text::kernel_log::KernelLog;
use ras_core::{Problem, ProblemKind, Timestamp};
use serde_json::{Map, Value};

use super::lines;
use crate::input::{Input, LINE_MAX};
use crate::read::{Options, Output, Stop};

/// What of an entry matters. systemd.journal-fields(7).
#[derive(Default)]
struct Entry {
    message: Vec<u8>,
    transport: Vec<u8>,
    identifier: Vec<u8>,
    realtime_us: Option<u64>,
    source_realtime_us: Option<u64>,
    monotonic_us: Option<u64>,
}

impl Entry {
    fn set(&mut self, field: &[u8], value: &[u8]) {
        let number = || std::str::from_utf8(value).ok()?.trim().parse().ok();
        match field {
            b"MESSAGE" => self.message = value.into(),
            b"_TRANSPORT" => self.transport = value.into(),
            b"SYSLOG_IDENTIFIER" => self.identifier = value.into(),
            b"__REALTIME_TIMESTAMP" => self.realtime_us = number(),
            b"_SOURCE_REALTIME_TIMESTAMP" => self.source_realtime_us = number(),
            b"_SOURCE_MONOTONIC_TIMESTAMP" => self.monotonic_us = number(),
            _ => {}
        }
    }

    fn is_wanted(&self) -> bool {
        let kernel = matches!(self.transport.as_slice(), b"kernel" | b"");
        kernel || matches!(self.identifier.as_slice(), b"kernel" | b"mcelog" | b"rasdaemon")
    }
}

/// Feeds entries to the kernel log's decoder.
struct Journal {
    decoder: KernelLog,
    found: Vec<mce_decoder::text::Found>,
}

impl Journal {
    fn new(options: &Options) -> Self {
        Self { decoder: KernelLog::new(lines::log_options(options)), found: Vec::new() }
    }

    fn entry(&mut self, entry: &Entry, offset: u64) {
        if !entry.is_wanted() {
            return;
        }
        let nanos = |us: u64| us.checked_mul(1000);
        let time = entry.source_realtime_us.or(entry.realtime_us).and_then(nanos).map(Timestamp);
        let monotonic = entry.monotonic_us.and_then(nanos);
        // Its lines are told by their prefix, as in text.
        let tag = match entry.identifier.as_slice() {
            b"rasdaemon" => &b"rasdaemon: "[..],
            _ => b"",
        };
        for line in entry.message.split(|byte| *byte == b'\n') {
            let line = &[tag, line].concat();
            self.decoder.line_at(line, offset, time, monotonic, &mut self.found);
        }
    }

    fn hand_on(&mut self, output: &mut Output<'_>) -> Result<(), Stop> {
        self.found.drain(..).try_for_each(|found| output.record(found.offset, None, found.record))
    }

    fn finish(mut self, output: &mut Output<'_>) -> Result<(), Stop> {
        use mce_decoder::text::LineDecoder as _;
        self.decoder.finish(&mut self.found);
        self.hand_on(output)
    }
}

pub(super) fn is_json(text: &str) -> bool {
    let first = text.lines().map(str::trim_start).find(|line| !line.is_empty());
    first.is_some_and(|line| line.starts_with('{') && line.contains("\"__REALTIME_TIMESTAMP\""))
}

pub(super) fn json(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut journal = Journal::new(options);
    while let Some(line) = input.line()? {
        let (number, offset) = (Some(line.number), line.offset);
        if line.bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if line.cut {
            output.damage(number, lines::too_long(offset))?;
            continue;
        }
        match serde_json::from_slice::<Map<String, Value>>(line.bytes) {
            Ok(object) => {
                let mut entry = Entry::default();
                for (name, value) in &object {
                    entry.set(name.as_bytes(), &bytes(value));
                }
                journal.entry(&entry, offset);
                journal.hand_on(output)?;
            }
            Err(error) => {
                let (kind, detail) = (ProblemKind::Malformed, format!("journal entry: {error}"));
                output.damage(number, Problem { offset, kind, detail })?;
            }
        }
    }
    journal.finish(output)
}

/// A value: text, or an array of bytes where it is none; the last one of several.
fn bytes(value: &Value) -> Vec<u8> {
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    match value {
        Value::String(text) => text.as_bytes().into(),
        Value::Array(items) => match items.iter().map(byte).collect() {
            Some(bytes) => bytes,
            None => items.last().map(bytes).unwrap_or_default(),
        },
        _ => Vec::new(),
    }
}

pub(super) fn is_export(start: &[u8]) -> bool {
    let start = &start[..start.len().min(4096)];
    start.starts_with(b"__CURSOR=")
        && start.windows(22).any(|window| window == b"\n__REALTIME_TIMESTAMP=")
}

/// "Journal Export Formats": `FIELD=value` lines, or a field's name, its size as a little-endian number
/// of 64 bits, its bytes and a line feed; an empty line ends an entry.
pub(super) fn export(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let mut journal = Journal::new(options);
    let mut entry: Option<(Entry, u64)> = None;
    while let Some(line) = input.line()? {
        let (number, offset, cut) = (Some(line.number), line.offset, line.cut);
        if line.bytes.is_empty() {
            if let Some((entry, offset)) = entry.take() {
                journal.entry(&entry, offset);
                journal.hand_on(output)?;
            }
            continue;
        }
        let (current, _) = entry.get_or_insert_with(|| (Entry::default(), offset));
        if let Some(at) = memchr::memchr(b'=', line.bytes) {
            current.set(&line.bytes[..at], &line.bytes[at + 1..]);
            if cut {
                output.damage(number, lines::too_long(offset))?;
            }
            continue;
        }
        let field = line.bytes.to_vec();
        match binary(input)? {
            Some(value) => current.set(&field, &value),
            None => {
                let detail = "journal field ends before its size says".to_owned();
                let problem = Problem { offset, kind: ProblemKind::Truncated, detail };
                output.damage(number, problem)?;
            }
        }
    }
    if let Some((entry, offset)) = entry {
        journal.entry(&entry, offset);
    }
    journal.finish(output)
}

/// The value of a binary field, at most [`LINE_MAX`] bytes of it; `None` where the input ends in it.
fn binary(input: &mut Input) -> std::io::Result<Option<Vec<u8>>> {
    let Ok(size) = <[u8; 8]>::try_from(input.peek(8)?.get(..8).unwrap_or_default()) else {
        let rest = input.peek(8)?.len();
        input.consume(rest);
        return Ok(None);
    };
    input.consume(8);
    // The value, and the line feed behind it.
    let mut left = u64::from_le_bytes(size).saturating_add(1);
    let mut value = Vec::new();
    while left > 0 {
        let available = input.peek(1)?;
        if available.is_empty() {
            return Ok(None);
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
        let room = LINE_MAX.saturating_sub(value.len()).min(take);
        value.extend_from_slice(&available[..room]);
        input.consume(take);
        left -= take as u64;
    }
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Damage, Found, Sink, stream};

    #[derive(Default)]
    struct Kept(Vec<Found>, Vec<Damage>);

    impl Sink for Kept {
        fn record(&mut self, found: Found) -> std::io::Result<()> {
            self.0.push(found);
            Ok(())
        }

        fn damage(&mut self, damage: Damage) -> std::io::Result<()> {
            self.1.push(damage);
            Ok(())
        }
    }

    fn read(bytes: &[u8]) -> Kept {
        let mut kept = Kept::default();
        let input = Input::of_bytes(bytes.into());
        stream("journal", input, &Options::default(), &mut kept).unwrap();
        kept
    }

    const LINES: [&str; 3] = [
        "mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 7: 8c00004000010091",
        "mce: [Hardware Error]: TSC 0 ADDR 12345000 MISC 86 ",
        "mce: [Hardware Error]: PROCESSOR 0:50654 TIME 0 SOCKET 0 APIC 0 microcode 2006e05",
    ];

    fn checked(kept: &Kept) {
        assert_eq!(kept.1, []);
        let [found] = kept.0.as_slice() else { panic!("{:?}", kept.0) };
        assert_eq!(found.record.time, Some(Timestamp::from_secs(1_700_000_000)));
        assert_eq!(found.record.pages().map(|pages| pages.start.0), Some(0x12345));
        assert_eq!(found.offset, 0);
    }

    #[test]
    fn entries_as_json() {
        let mut text = String::new();
        for (index, line) in LINES.iter().enumerate() {
            // Text that is none is an array of its bytes.
            let message = match index {
                1 => serde_json::json!(line.as_bytes()),
                _ => serde_json::json!(line),
            };
            let entry = serde_json::json!({
                "__REALTIME_TIMESTAMP": "1700000000000000", "_TRANSPORT": "kernel",
                "_SOURCE_MONOTONIC_TIMESTAMP": "12345678", "MESSAGE": message,
            });
            text += &format!("{entry}\n");
        }
        checked(&read(text.as_bytes()));
        let other = text.replace("\"kernel\"", "\"stdout\"");
        assert!(read(other.as_bytes()).0.is_empty(), "a program may say anything");
        let kept = read(format!("{text}{{\"broken\n").as_bytes());
        assert_eq!((kept.0.len(), kept.1.len()), (1, 1));
    }

    #[test]
    fn entries_as_export() {
        let mut bytes = Vec::new();
        for (index, line) in LINES.iter().enumerate() {
            bytes.extend(
                b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1700000000000000\n_TRANSPORT=kernel\n",
            );
            if index == 1 {
                bytes.extend(b"MESSAGE\n");
                bytes.extend((line.len() as u64).to_le_bytes());
                bytes.extend(line.as_bytes());
                bytes.push(b'\n');
            } else {
                bytes.extend(format!("MESSAGE={line}\n").as_bytes());
            }
            bytes.push(b'\n');
        }
        checked(&read(&bytes));
        // Cut anywhere, and with a size that can't be.
        for len in 0..bytes.len() {
            let _ = read(&bytes[..len]);
        }
        let at = bytes.windows(8).position(|window| window == b"MESSAGE\n").unwrap() + 8;
        bytes[at..at + 8].fill(0xff);
        let kept = read(&bytes);
        assert_eq!(kept.1.len(), 1);
        assert_eq!(kept.1[0].problem.kind, ProblemKind::Truncated);
    }
}
