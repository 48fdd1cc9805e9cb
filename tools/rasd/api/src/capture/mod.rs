//! Captures: what `rasd --replay` and `rasctl decode` read. The format is documented in `REPLAY.md`.

pub mod line;

mod input;

use std::fmt;
use std::io::{self, Read};

use input::{Input, LineEnd};
pub use line::{Body, CaptureError, Line, Mce};

/// Longest line of a capture, in bytes. The longest real one is a status block of 64 KiB in hex.
pub const LINE_MAX: usize = 1 << 20;

/// Longest record taken from a binary capture, in bytes. Real ones are below 64 KiB.
const RECORD_MAX: usize = 1 << 20;

/// Reads a capture of any kind as a stream, with bounded memory: about 1 MiB whatever the input.
///
/// What is not a report is an [`Entry`] too, with its place; it never ends the capture. Only an error
/// of the input itself does.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    kind: Option<Kind>,
    /// Lines, or bytes, taken so far.
    taken: u64,
    line: Vec<u8>,
}

/// What was found at one place of a capture.
#[derive(Debug)]
pub struct Entry {
    /// Where.
    pub place: Place,
    /// What.
    pub line: Result<Line, CaptureError>,
}

/// Where in a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Line number, from 1.
    Line(u64),
    /// Bytes from the start.
    Offset(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
        }
    }
}

/// What a capture is made of, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Lines,
    /// UEFI Specification, Appendix N: starts with `CPER`.
    Records,
    /// ACPI Specification, "Generic Error Status Block": no signature, so recognized by its lengths.
    StatusBlocks,
    Ended,
}

impl<R: Read> Reader<R> {
    /// At the start of a capture.
    pub fn new(input: R) -> Self {
        Self { input: Input::new(input), kind: None, taken: 0, line: Vec::new() }
    }

    fn entry(&mut self) -> io::Result<Option<Entry>> {
        let kind = match self.kind {
            Some(kind) => kind,
            None => *self.kind.insert(kind(self.input.peek(STATUS_BLOCK_HEADER)?)),
        };
        match kind {
            Kind::Lines => self.next_line(),
            Kind::Records => self.next_record(),
            Kind::StatusBlocks => self.next_status_block(),
            Kind::Ended => Ok(None),
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let end = self.input.read_line(&mut self.line)?;
            self.taken += 1;
            let line = match end {
                LineEnd::OfInput => return Ok(None),
                LineEnd::TooLong => Err(CaptureError::TooLong),
                LineEnd::Whole if self.line.iter().all(u8::is_ascii_whitespace) => continue,
                LineEnd::Whole => Line::parse(&self.line),
            };
            return Ok(Some(Entry { place: Place::Line(self.taken), line }));
        }
    }

    fn next_record(&mut self) -> io::Result<Option<Entry>> {
        // Appendix N, "Record Header": the length of the whole record is at offset 20.
        const LENGTH_AT: usize = 20;
        const HEADER: usize = 128;
        let header = self.input.peek(LENGTH_AT + 4)?;
        if header.is_empty() {
            return Ok(None);
        }
        let length = header
            .starts_with(b"CPER")
            .then(|| word(header, LENGTH_AT))
            .flatten()
            .filter(|length| (HEADER..=RECORD_MAX).contains(length));
        let place = Place::Offset(self.taken);
        let line = match length {
            Some(length) => Ok(self.binary(length, Body::Cper)?),
            None => {
                self.taken += self.input.skip_to(b"CPER")?;
                Err(CaptureError::NoRecord)
            }
        };
        Ok(Some(Entry { place, line }))
    }

    /// Status blocks have no signature to find the next one by: the first damaged length ends them.
    fn next_status_block(&mut self) -> io::Result<Option<Entry>> {
        let header = self.input.peek(STATUS_BLOCK_HEADER)?;
        if header.is_empty() {
            return Ok(None);
        }
        let length = status_block_length(header);
        let place = Place::Offset(self.taken);
        let line = match length {
            Some(length) => Ok(self.binary(length, Body::StatusBlock)?),
            None => {
                self.kind = Some(Kind::Ended);
                Err(CaptureError::NoStatusBlock)
            }
        };
        Ok(Some(Entry { place, line }))
    }

    fn binary(&mut self, length: usize, body: impl Fn(Vec<u8>) -> Body) -> io::Result<Line> {
        let bytes = self.input.take(length)?;
        self.taken += bytes.len() as u64;
        Ok(Line::Report { time: None, body: body(bytes) })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entry();
        if entry.is_err() {
            self.kind = Some(Kind::Ended);
        }
        entry.transpose()
    }
}

fn kind(start: &[u8]) -> Kind {
    if start.starts_with(b"CPER") {
        Kind::Records
    } else if status_block_length(start).is_some() {
        Kind::StatusBlocks
    } else {
        Kind::Lines
    }
}

const STATUS_BLOCK_HEADER: usize = 20;

/// Length of the status block that starts here, if one plausibly does: block status, raw data
/// offset, raw data length, data length, and a severity of 0 to 3, each a u32.
fn status_block_length(start: &[u8]) -> Option<usize> {
    let (raw_offset, raw_length, data_length) =
        (word(start, 4)?, word(start, 8)?, word(start, 12)?);
    if word(start, 16)? > 3 {
        return None;
    }
    let raw_end = if raw_length > 0 { raw_offset.checked_add(raw_length)? } else { 0 };
    let length = raw_end.max(STATUS_BLOCK_HEADER.checked_add(data_length)?);
    (length <= RECORD_MAX).then_some(length)
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a capture holds, in short.
    fn read(bytes: &[u8]) -> Vec<String> {
        let short = |entry: Entry| match entry.line {
            Ok(Line::Format { tracepoint, .. }) => format!("{}: {tracepoint}", entry.place),
            Ok(Line::Report { body, .. }) => match body {
                Body::Cper(bytes) => format!("{}: cper of {}", entry.place, bytes.len()),
                Body::StatusBlock(bytes) => format!("{}: block of {}", entry.place, bytes.len()),
                other => format!("{}: {other:?}", entry.place),
            },
            Err(error) => format!("{}: {error}", entry.place),
        };
        Reader::new(bytes).map(|entry| short(entry.unwrap())).collect()
    }

    fn record(length: u32) -> Vec<u8> {
        let mut bytes = vec![0xee; length as usize];
        bytes[..4].copy_from_slice(b"CPER");
        bytes[20..24].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn block(data_length: u32) -> Vec<u8> {
        let words = [1, 0, 0, data_length, 2];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        bytes.resize(bytes.len() + data_length as usize, 0xee);
        bytes
    }

    #[test]
    fn lines_are_numbered_and_garbage_is_an_entry() {
        let text = "\n{\"cper\":\"00\"}\ngarbage\n\n{\"tracepoint\":\"a:b\",\"format\":\"\"}";
        assert_eq!(
            read(text.as_bytes()),
            ["line 2: cper of 1", "line 3: not a line of a capture", "line 5: a:b"]
        );
        assert_eq!(read(b""), [""; 0]);
        assert_eq!(read(b"\0\0\0"), ["line 1: not a line of a capture"]);
        let long = format!("{}\n{{\"cper\":\"\"}}", "x".repeat(LINE_MAX + 1));
        assert_eq!(read(long.as_bytes()), ["line 1: longer than 1 MiB", "line 2: cper of 0"]);
    }

    #[test]
    fn binary_streams_are_cut_into_records() {
        let bytes = [record(200), b"rubbish".to_vec(), record(128), record(60_000)].concat();
        assert_eq!(
            read(&bytes),
            [
                "offset 0: cper of 200",
                "offset 200: no CPER record; skipped up to the next",
                "offset 207: cper of 128",
                "offset 335: cper of 60000",
            ]
        );
        assert_eq!(read(&bytes[..150]), ["offset 0: cper of 150"], "the decoder sees the cut");
        assert_eq!(read(&bytes[..10]), ["offset 0: no CPER record; skipped up to the next"]);

        let bytes = [block(80), block(0), vec![0xff; 30]].concat();
        assert_eq!(
            read(&bytes),
            [
                "offset 0: block of 100",
                "offset 100: block of 20",
                "offset 120: no error status block; the rest is not read",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            proptest::prop_assert!(read(&bytes).len() <= bytes.len());
            let bytes = [b"CPER".as_slice(), &bytes].concat();
            proptest::prop_assert!(read(&bytes).len() <= bytes.len());
        }
    }
}
