//! Where bytes come from: a stream one can look ahead in, decompressed on the way, with bounded memory.

mod compressed;

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ras_core::{Problem, ProblemKind};

/// Bytes asked for at a time: large enough that the calls do not show. The first are fewer, since most
/// inputs are short and memory that is touched for nothing takes longer than they do.
const CHUNK: usize = 128 << 10;
const CHUNK_MIN: usize = 8 << 10;

/// Longest line that is handed out whole. The longest real one is a status block of 64 KiB in hex.
pub const LINE_MAX: usize = 1 << 20;

/// Compressions inside of one another that are undone: one is usual, a rotated archive may have two.
const LAYERS_MAX: usize = 3;

/// A stream of bytes. Holds at most what [`Input::peek`] was asked for, and one chunk.
pub struct Input {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    chunk: usize,
    start: usize,
    /// Where the stream stands: bytes taken so far.
    offset: u64,
    lines: u64,
    /// A line that was too long was handed out; what is left of it comes first.
    skipping: bool,
    ended: bool,
    compression: Option<Compression>,
    damage: Option<Problem>,
    progress: Arc<AtomicU64>,
    /// Bytes of the file, as they lie there; 0 where nobody knows.
    size: u64,
}

/// A layer of compression that is being undone.
struct Compression {
    name: &'static str,
    /// What the system said about the compressed bytes; all other errors are the compressor's.
    failed: Arc<Mutex<Option<io::Error>>>,
}

/// One line, without its line feed.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Its bytes, a carriage return at the end included.
    pub bytes: &'a [u8],
    /// Where it begins.
    pub offset: u64,
    /// Its number, from 1.
    pub number: u64,
    /// It is longer than [`LINE_MAX`]; these are its first bytes.
    pub cut: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Input {
    /// The file at `path`, decompressed.
    ///
    /// # Errors
    /// It can't be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { size, ..Self::new(Box::new(file))? })
    }

    /// Everything that comes out of `reader`, decompressed.
    ///
    /// # Errors
    /// It can't be read.
    pub fn new(reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let mut input = Self::plain(reader);
        let progress = Arc::clone(&input.progress);
        for _ in 0..LAYERS_MAX {
            let Some(layer) = compressed::Layer::of(input.peek(compressed::MAGIC_MAX)?) else {
                break;
            };
            let failed = Arc::default();
            let compression = Compression { name: layer.name, failed: Arc::clone(&failed) };
            input = Self::plain((layer.open)(Watched { input, failed }));
            input.compression = Some(compression);
        }
        input.progress = progress;
        Ok(input)
    }

    /// These bytes as they are.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Self::plain(Box::new(io::Cursor::new(bytes)))
    }

    /// Everything that comes out of `reader`, as it is.
    #[must_use]
    pub fn plain(reader: Box<dyn Read + Send>) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            chunk: CHUNK_MIN,
            start: 0,
            offset: 0,
            lines: 0,
            skipping: false,
            ended: false,
            compression: None,
            damage: None,
            progress: Arc::default(),
            size: 0,
        }
    }

    /// Bytes of the file it comes from, as they lie there; 0 where nobody knows.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes read from the file so far, compressed as they are there.
    #[must_use]
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    /// Where the stream stands, in bytes from its start.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether compression hides the file's own bytes.
    #[must_use]
    pub const fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// The damage of the compressed stream, once everything before it has been taken.
    pub const fn take_damage(&mut self) -> Option<Problem> {
        self.damage.take()
    }

    /// What comes next: at least `count` bytes, fewer only at the end of the input.
    ///
    /// # Errors
    /// The input can't be read on.
    pub fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.start < count && !self.ended {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..])
    }

    /// Takes bytes that were seen by [`Self::peek`].
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.buffer.len() - self.start);
        self.start += count;
        self.offset += count as u64;
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// The input can't be read on.
    pub fn line(&mut self) -> io::Result<Option<Line<'_>>> {
        while std::mem::take(&mut self.skipping) {
            let available = self.peek(1)?;
            let feed = memchr::memchr(b'\n', available);
            let count = feed.map_or(available.len(), |feed| feed + 1);
            self.skipping = feed.is_none() && count > 0;
            self.consume(count);
        }
        let (mut seen, mut feed) = (0, None);
        while feed.is_none() && seen <= LINE_MAX {
            let available = self.peek(seen + 1)?;
            if available.len() == seen {
                break;
            }
            feed = memchr::memchr(b'\n', &available[seen..]).map(|at| seen + at);
            seen = available.len();
        }
        let length = feed.unwrap_or(seen);
        if length == 0 && feed.is_none() {
            return Ok(None);
        }
        let cut = length > LINE_MAX;
        let (from, offset) = (self.start, self.offset);
        let length = length.min(LINE_MAX);
        self.skipping = cut;
        self.lines += 1;
        self.consume(if cut { length } else { length + usize::from(feed.is_some()) });
        let bytes = &self.buffer[from..from + length];
        Ok(Some(Line { bytes, offset, number: self.lines, cut }))
    }

    /// Takes bytes while they are `filler`. Returns their number.
    ///
    /// # Errors
    /// The input can't be read on.
    pub fn skip_while(&mut self, filler: impl Fn(u8) -> bool) -> io::Result<u64> {
        let from = self.offset;
        loop {
            let available = self.peek(1)?;
            let end = available.iter().position(|byte| !filler(*byte));
            let (count, done) =
                (end.unwrap_or(available.len()), end.is_some() || available.is_empty());
            self.consume(count);
            if done {
                return Ok(self.offset - from);
            }
        }
    }

    /// Takes bytes up to the next `signature` at or after the place where the stream stands, or the
    /// end. Returns their number.
    ///
    /// # Errors
    /// The input can't be read on.
    pub fn skip_to(&mut self, signature: &[u8]) -> io::Result<u64> {
        let from = self.offset;
        loop {
            let available = self.peek(signature.len())?;
            if let Some(at) = memchr::memmem::find(available, signature) {
                self.consume(at);
                return Ok(self.offset - from);
            }
            if available.len() < signature.len() {
                let rest = available.len();
                self.consume(rest);
                return Ok(self.offset - from);
            }
            // The next chunk may hold the rest of a signature that begins at the end of this.
            let count = available.len() - signature.len() + 1;
            self.consume(count);
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..std::mem::take(&mut self.start));
        let end = self.buffer.len();
        self.buffer.resize(end + self.chunk, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = *read.as_ref().unwrap_or(&0);
        if count == self.chunk {
            self.chunk = CHUNK.min(2 * self.chunk);
        }
        self.buffer.truncate(end + count);
        self.ended = count == 0;
        if self.compression.is_none() {
            self.progress.fetch_add(count as u64, Ordering::Relaxed);
        }
        let Err(error) = read else { return Ok(()) };
        let Some(compression) = &self.compression else { return Err(error) };
        let mut failed = compression.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed.take() {
            return Err(error);
        }
        let kind = match error.kind() {
            io::ErrorKind::UnexpectedEof => ProblemKind::Truncated,
            io::ErrorKind::OutOfMemory => ProblemKind::Limit,
            _ => ProblemKind::Malformed,
        };
        let offset = self.offset + (end as u64);
        let detail = format!("{} stream is damaged, the rest is lost: {error}", compression.name);
        self.damage = Some(Problem { offset, kind, detail });
        Ok(())
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.peek(1)?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, count: usize) {
        Self::consume(self, count);
    }
}

/// An input below a decompressor, which would make an error of its own out of the system's.
pub(crate) struct Watched {
    input: Input,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Watched {
    fn watch<T>(failed: &Mutex<Option<io::Error>>, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let copy = io::Error::from(error.kind());
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            copy
        })
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::watch(&self.failed, self.input.read(buffer))
    }
}

impl BufRead for Watched {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Self::watch(&self.failed, self.input.peek(1))
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time, so that everything is cut everywhere.
    struct Slow(io::Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    fn slow(bytes: &[u8]) -> Input {
        Input::new(Box::new(Slow(io::Cursor::new(bytes.to_vec())))).unwrap()
    }

    fn lines(input: &mut Input) -> Vec<(u64, u64, usize, bool)> {
        let mut lines = Vec::new();
        while let Some(line) = input.line().unwrap() {
            lines.push((line.number, line.offset, line.bytes.len(), line.cut));
        }
        lines
    }

    #[test]
    fn lines_have_places() {
        for mut input in [slow(b"a\n\nbc"), Input::of_bytes(b"a\n\nbc".to_vec())] {
            let found = lines(&mut input);
            assert_eq!(found, [(1, 0, 1, false), (2, 2, 0, false), (3, 3, 2, false)]);
        }
        assert_eq!(lines(&mut Input::of_bytes(b"\n".to_vec())), [(1, 0, 0, false)]);
        assert_eq!(lines(&mut Input::of_bytes(Vec::new())), []);
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        for feed in [b"\nafter".as_slice(), b""] {
            let long = [vec![b'x'; 5 * LINE_MAX], feed.to_vec()].concat();
            let after = long.len() as u64 - 5;
            let mut input = Input::of_bytes(long);
            let mut found = lines(&mut input);
            assert_eq!(found.remove(0), (1, 0, LINE_MAX, true));
            assert_eq!(found, if feed.is_empty() { vec![] } else { vec![(2, after, 5, false)] });
            assert!(input.buffer.capacity() <= 4 * LINE_MAX, "{}", input.buffer.capacity());
        }
        let exact = [vec![b'x'; LINE_MAX], b"\ny".to_vec()].concat();
        let found = lines(&mut Input::of_bytes(exact));
        assert_eq!(found, [(1, 0, LINE_MAX, false), (2, LINE_MAX as u64 + 1, 1, false)]);
    }

    #[test]
    fn a_signature_is_found_even_in_pieces() {
        for bytes in [b"CPEx..CPER!".as_slice(), b"CPECPER!", b"xCPER!", b"CPER!"] {
            let mut input = slow(bytes);
            assert_eq!(input.skip_to(b"CPER").unwrap(), bytes.len() as u64 - 5);
            assert_eq!(input.peek(9).unwrap(), b"CPER!");
        }
        let mut input = slow(b"none here, CPE");
        assert_eq!(input.skip_to(b"CPER").unwrap(), 14);
        assert_eq!(slow(b"\0\0\0x").skip_while(|byte| byte == 0).unwrap(), 3);
    }

    #[test]
    fn progress_counts_the_file_s_bytes() {
        let mut packed =
            flate2::read::GzEncoder::new(io::repeat(7).take(1 << 20), Default::default());
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes).unwrap();
        let length = bytes.len() as u64;
        let mut input = Input::new(Box::new(io::Cursor::new(bytes))).unwrap();
        let progress = input.progress();
        assert_eq!(input.skip_while(|byte| byte == 7).unwrap(), 1 << 20);
        assert_eq!(progress.load(Ordering::Relaxed), length);
    }

    #[test]
    fn what_the_system_says_is_an_error_even_below_a_compressor() {
        struct Broken(bool);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                let start = [0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x09];
                buffer[..start.len()].copy_from_slice(&start);
                Ok(start.len())
            }
        }
        let read =
            Input::new(Box::new(Broken(false))).and_then(|mut input| input.peek(1).map(drop));
        assert_eq!(read.unwrap_err().raw_os_error(), Some(5));
    }
}
