//! A stream one can look ahead in, with bounded memory.

use std::io::{self, Read};

use super::LINE_MAX;

/// Bytes asked for at a time.
const CHUNK: usize = 64 << 10;

/// Holds at most what was asked for by [`Input::peek`], and one chunk.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
}

/// How a line ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineEnd {
    /// With a line feed, or the end of the input.
    Whole,
    /// It is longer than [`LINE_MAX`]; all of it was skipped.
    TooLong,
    /// There is no further line.
    OfInput,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, ended: false }
    }

    /// What comes next: at least `count` bytes, fewer only at the end of the input.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.start < count && !self.ended {
            self.buffer.drain(..std::mem::take(&mut self.start));
            let end = self.buffer.len();
            self.buffer.resize(end + CHUNK, 0);
            let read = loop {
                match self.reader.read(&mut self.buffer[end..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            self.buffer.truncate(end + *read.as_ref().unwrap_or(&0));
            self.ended = read? == 0;
        }
        Ok(&self.buffer[self.start..])
    }

    /// Takes bytes that were seen by `peek`.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.buffer.len());
    }

    /// The next `length` bytes, fewer only at the end of the input.
    pub(super) fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let available = self.peek(length)?;
        let bytes = available[..length.min(available.len())].to_vec();
        self.consume(bytes.len());
        Ok(bytes)
    }

    /// The next line, without its line feed, into `line`.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<LineEnd> {
        line.clear();
        let mut any = false;
        let mut too_long = false;
        loop {
            let available = self.peek(1)?;
            if available.is_empty() {
                break;
            }
            any = true;
            let feed = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..feed.unwrap_or(available.len())];
            too_long |= line.len() + part.len() > LINE_MAX;
            if !too_long {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(feed.is_some());
            self.consume(used);
            if feed.is_some() {
                break;
            }
        }
        Ok(match (any, too_long) {
            (false, _) => LineEnd::OfInput,
            (true, true) => LineEnd::TooLong,
            (true, false) => LineEnd::Whole,
        })
    }

    /// Skips at least one byte, up to the next `signature` or the end. Returns the bytes skipped.
    pub(super) fn skip_to(&mut self, signature: &[u8]) -> io::Result<u64> {
        let mut skipped: u64 = 0;
        loop {
            let available = self.peek(signature.len() + 1)?;
            let from = usize::from(skipped == 0).min(available.len());
            let found =
                available[from..].windows(signature.len()).position(|bytes| bytes == signature);
            let step = match found {
                Some(place) => place + from,
                // The next chunk may hold the rest of a signature that begins at the end of this.
                None if available.len() > signature.len() => available.len() - signature.len() + 1,
                None => available.len(),
            };
            self.consume(step);
            skipped += step as u64;
            if found.is_some() || step == 0 {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time, so that everything is cut everywhere.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = 1.min(self.0.len());
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn lines_end_where_they_should() {
        let long = [vec![b'x'; LINE_MAX + 1], b"\nafter".to_vec()].concat();
        let mut line = Vec::new();
        let mut input = Input::new(long.as_slice());
        assert_eq!(input.read_line(&mut line).unwrap(), LineEnd::TooLong);
        assert!(input.buffer.capacity() < 4 * CHUNK && line.capacity() <= 2 * LINE_MAX);
        assert_eq!(input.read_line(&mut line).unwrap(), LineEnd::Whole);
        assert_eq!(line, b"after");
        assert_eq!(input.read_line(&mut line).unwrap(), LineEnd::OfInput);

        let mut input = Input::new(Slow(b"a\n\nbc"));
        for expect in [b"a".as_slice(), b"", b"bc"] {
            assert_eq!(input.read_line(&mut line).unwrap(), LineEnd::Whole);
            assert_eq!(line, expect);
        }
        assert_eq!(input.read_line(&mut line).unwrap(), LineEnd::OfInput);
    }

    #[test]
    fn a_signature_is_found_even_in_pieces() {
        for bytes in [b"CPEx..CPER!".as_slice(), b"CPECPER!", b"xCPER!"] {
            let mut input = Input::new(Slow(bytes));
            assert_eq!(input.skip_to(b"CPER").unwrap(), bytes.len() as u64 - 5);
            assert_eq!(input.take(9).unwrap(), b"CPER!");
        }
        let mut input = Input::new(b"CPER and no other".as_slice());
        assert_eq!(input.skip_to(b"CPER").unwrap(), 17);
        assert_eq!(input.skip_to(b"CPER").unwrap(), 0);
    }
}
