//! Long text to records: only the lines that matter reach a decoder.
//!
//! ```text
//!  reader --(one thread at a time)--> chunk --(all threads)--> lines with a needle --+
//!  LineDecoder <--in order, with true offsets: those lines and the few after each <--+
//! ```
//! A kernel log of gigabytes holds a handful of errors. Reading and searching are shared by all
//! cores, decoding is left to the caller's thread; memory stays bounded whatever the input.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use aho_corasick::{AhoCorasick, packed};
use mce_decoder::text::{Found, LineDecoder};
use memchr::{memchr, memrchr};
use ras_core::{Problem, ProblemKind};

/// Bytes read at once: large enough to make a system call and a hand-over between threads cheap,
/// small enough to be searched while still in the processor's cache.
const CHUNK: usize = 512 * 1024;

/// Threads that search. More than this many only wait for the one that reads.
const THREADS_MAX: usize = 8;

/// Bytes of a line passed to the decoder; what follows is left out and reported. The longest lines
/// that kernels write take 1 KiB, those of trace events a few.
pub const LINE_MAX: usize = 64 * 1024;

/// Lines after one with a needle that are passed on too: wrapped lines, and details of an error that
/// have nothing in them that is worth a search.
const FOLLOWING: usize = 8;

/// Hits close to one another after which the rest of a chunk is not searched: all of it is passed on.
/// Where errors are all there is, to look for them costs more than to decode what is none.
const DENSE: usize = 256;

/// Problems kept of one input. An input that has more is not a log.
const PROBLEMS_MAX: usize = 64;

/// Words of which a line must have one to be looked at.
#[derive(Debug)]
pub struct Needles {
    searcher: Searcher,
    /// Words that begin with a needle and are none.
    idle: &'static [&'static str],
}

#[derive(Debug)]
enum Searcher {
    /// Vector instructions.
    Packed(packed::Searcher),
    /// Any machine, any number of words.
    Automaton(AhoCorasick),
}

impl Needles {
    /// Looks for any of `words`; `None` where they are more or longer than can be searched for.
    #[must_use]
    pub fn new(words: &[&str]) -> Option<Self> {
        let packed = packed::Config::new().builder().extend(words).build();
        let searcher = match packed {
            Some(searcher) => Searcher::Packed(searcher),
            None => Searcher::Automaton(AhoCorasick::new(words).ok()?),
        };
        Some(Self { searcher, idle: &[] })
    }

    /// Passes over `words`, which begin with a needle: what every healthy machine says again and again.
    #[must_use]
    pub fn but_for(self, words: &'static [&'static str]) -> Self {
        Self { idle: words, ..self }
    }

    /// Where the first needle of `text` begins.
    fn find(&self, text: &[u8]) -> Option<usize> {
        let mut from = 0;
        loop {
            let rest = text.get(from..)?;
            let (start, end) = match &self.searcher {
                Searcher::Packed(searcher) => searcher.find(rest).map(|at| (at.start(), at.end())),
                Searcher::Automaton(searcher) => {
                    searcher.find(rest).map(|at| (at.start(), at.end()))
                }
            }?;
            let there = &rest[start..];
            if !self.idle.iter().any(|words| there.starts_with(words.as_bytes())) {
                return Some(from + start);
            }
            from += end;
        }
    }
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Bytes of the input.
    pub bytes: u64,
    /// Lines that were too long, by their offsets.
    pub problems: Vec<Problem>,
}

/// Feeds `decoder` the lines of `reader` that hold one of `needles`, and those that follow them; all
/// lines where `needles` is `None`, or where hardly any line has none. Every record goes to `sink` as soon as it is complete, and what
/// was read so far to `progress`.
///
/// # Errors
/// What `reader` or `sink` answers; nothing is read or decoded after that.
pub fn lines<E: From<io::Error>>(
    reader: impl Read + Send,
    decoder: &mut dyn LineDecoder,
    needles: Option<&Needles>,
    progress: &dyn Fn(u64),
    sink: &mut dyn FnMut(Found) -> Result<(), E>,
) -> Result<Scanned, E> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    Scan { chunk: CHUNK, threads }.run(reader, decoder, needles, progress, sink)
}

struct Scan {
    chunk: usize,
    threads: usize,
}

/// Whole lines of the input, but for one that is longer than a chunk.
#[derive(Default)]
struct Chunk {
    /// Counted from 0, in the order of the input.
    number: u64,
    offset: u64,
    /// Zeroed once and used again.
    buffer: Vec<u8>,
    length: usize,
    /// The first line began in the chunk before, which passed on what it had of it.
    continued: bool,
    /// Where the lines with a needle begin and end.
    hits: Vec<(usize, usize)>,
    /// From here on all lines are passed on, unsearched.
    dense_from: usize,
    /// Reading failed after these bytes.
    error: Option<io::Error>,
}

/// The reader, and what belongs to the next chunk already.
struct Source<R> {
    reader: R,
    number: u64,
    offset: u64,
    /// The last line of the chunk before, as far as it was read.
    begun: Vec<u8>,
    continued: bool,
    ended: bool,
}

impl Scan {
    fn run<E: From<io::Error>>(
        &self,
        reader: impl Read + Send,
        decoder: &mut dyn LineDecoder,
        needles: Option<&Needles>,
        progress: &dyn Fn(u64),
        sink: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<Scanned, E> {
        let source = Mutex::new(Source {
            reader,
            number: 0,
            offset: 0,
            begun: Vec::new(),
            continued: false,
            ended: false,
        });
        let mut feed =
            Feed { decoder, found: Vec::new(), following: 0, scanned: Scanned::default() };
        // The first chunk is done here: most inputs have no second one, and need no threads.
        let mut first = Chunk { buffer: vec![0; self.chunk], ..Chunk::default() };
        let more = next(&source, &mut first);
        search(&mut first, needles);
        feed.chunk(&mut first, sink)?;
        progress(feed.scanned.bytes);
        if more {
            self.rest(&source, first, &mut feed, needles, progress, sink)?;
        }
        feed.decoder.finish(&mut feed.found);
        feed.found.drain(..).try_for_each(sink)?;
        Ok(feed.scanned)
    }

    fn rest<E: From<io::Error>>(
        &self,
        source: &Mutex<Source<impl Read + Send>>,
        first: Chunk,
        feed: &mut Feed<'_>,
        needles: Option<&Needles>,
        progress: &dyn Fn(u64),
        sink: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.threads == 1 {
            return alone(source, first, feed, needles, progress, sink);
        }
        let (give_back, idle) = channel();
        let (done, searched) = channel();
        // One for each thread, one for each that waits for its turn to be decoded.
        let _ = give_back.send(first);
        for _ in 1..2 * self.threads {
            let _ = give_back.send(Chunk { buffer: vec![0; self.chunk], ..Chunk::default() });
        }
        let (idle, threads) = (&Mutex::new(idle), self.threads);
        // Takes its ends of the channels along: when it returns early, the threads end too.
        thread::scope(move |scope| {
            for _ in 0..threads {
                let done = done.clone();
                scope.spawn(move || work(source, needles, idle, &done));
            }
            drop(done);
            let mut waiting = BTreeMap::new();
            let mut turn = 1;
            for chunk in searched {
                waiting.insert(chunk.number, chunk);
                while let Some(mut chunk) = waiting.remove(&turn) {
                    turn += 1;
                    feed.chunk(&mut chunk, sink)?;
                    progress(feed.scanned.bytes);
                    let _ = give_back.send(chunk);
                }
            }
            Ok(())
        })
    }
}

/// With one processor, other threads would only take turns with this one.
fn alone<E: From<io::Error>>(
    source: &Mutex<Source<impl Read>>,
    mut chunk: Chunk,
    feed: &mut Feed<'_>,
    needles: Option<&Needles>,
    progress: &dyn Fn(u64),
    sink: &mut dyn FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        let more = next(source, &mut chunk);
        search(&mut chunk, needles);
        feed.chunk(&mut chunk, sink)?;
        progress(feed.scanned.bytes);
        if !more {
            return Ok(());
        }
    }
}

/// One thread: reads a chunk when it is its turn, and searches it while others read theirs. Ends with
/// the input, or when nobody wants the chunks any more.
fn work(
    source: &Mutex<Source<impl Read>>,
    needles: Option<&Needles>,
    idle: &Mutex<Receiver<Chunk>>,
    done: &Sender<Chunk>,
) {
    loop {
        let chunk = idle.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut chunk) = chunk else { return };
        let more = next(source, &mut chunk);
        search(&mut chunk, needles);
        if done.send(chunk).is_err() || !more {
            return;
        }
    }
}

/// Fills `chunk`; whether there can be more.
fn next(source: &Mutex<Source<impl Read>>, chunk: &mut Chunk) -> bool {
    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
    source.fill(chunk);
    !source.ended
}

impl<R: Read> Source<R> {
    fn fill(&mut self, chunk: &mut Chunk) {
        chunk.number = self.number;
        chunk.offset = self.offset;
        chunk.continued = self.continued;
        chunk.error = None;
        chunk.length = self.begun.len();
        chunk.buffer[..self.begun.len()].copy_from_slice(&self.begun);
        self.begun.clear();
        self.number += 1;
        // A pipe gives what it has: whole lines of it need not wait for more.
        let mut line_end = None;
        while !self.ended && line_end.is_none() && chunk.length < chunk.buffer.len() {
            let from = chunk.length;
            match self.reader.read(&mut chunk.buffer[from..]) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    chunk.length += read;
                    line_end =
                        memrchr(b'\n', &chunk.buffer[from..chunk.length]).map(|at| from + at);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    chunk.error = Some(error);
                }
            }
        }
        self.continued = false;
        match line_end {
            Some(at) if !self.ended => {
                self.begun.extend_from_slice(&chunk.buffer[at + 1..chunk.length]);
                chunk.length = at + 1;
            }
            // A line longer than a chunk: its beginning is all that is looked at.
            None if !self.ended => self.continued = true,
            _ => {}
        }
        self.offset += chunk.length as u64;
    }
}

/// Finds the lines of `chunk` that hold a needle.
fn search(chunk: &mut Chunk, needles: Option<&Needles>) {
    chunk.hits.clear();
    let text = &chunk.buffer[..chunk.length];
    let mut from = if chunk.continued { line_end(text, 0) + 1 } else { 0 };
    chunk.dense_from = text.len();
    let Some(needles) = needles else {
        chunk.dense_from = from;
        return;
    };
    let mut dense = 0;
    while let Some(at) = text.get(from..).and_then(|rest| needles.find(rest)) {
        let at = from + at;
        let start = memrchr(b'\n', &text[from..at]).map_or(from, |line_feed| from + line_feed + 1);
        let end = line_end(text, at);
        chunk.hits.push((start, end));
        dense = if start == from { dense + 1 } else { 0 };
        from = end + 1;
        if dense == DENSE {
            chunk.dense_from = from;
            return;
        }
    }
}

/// Where the line that `from` is in ends: at a line feed, or at the end of `text`.
fn line_end(text: &[u8], from: usize) -> usize {
    memchr(b'\n', &text[from..]).map_or(text.len(), |line_feed| from + line_feed)
}

/// Feeds the decoder, chunk by chunk.
struct Feed<'a> {
    decoder: &'a mut dyn LineDecoder,
    found: Vec<Found>,
    /// Lines still to be passed on because of the last hit.
    following: usize,
    scanned: Scanned,
}

impl Feed<'_> {
    fn chunk<E: From<io::Error>>(
        &mut self,
        chunk: &mut Chunk,
        sink: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let text = &chunk.buffer[..chunk.length];
        let mut at = if chunk.continued { line_end(text, 0) + 1 } else { 0 };
        let hits = chunk.hits.iter().copied();
        for (start, end) in hits.chain([(chunk.dense_from, chunk.dense_from)]) {
            while at < start && self.following > 0 {
                let end = line_end(text, at);
                self.following -= 1;
                self.line(text, at, end, chunk.offset, sink)?;
                at = end + 1;
            }
            if start < end {
                self.line(text, start, end, chunk.offset, sink)?;
                self.following = FOLLOWING;
            }
            at = end + 1;
        }
        at = chunk.dense_from;
        while at < text.len() {
            let end = line_end(text, at);
            self.line(text, at, end, chunk.offset, sink)?;
            self.following = FOLLOWING;
            at = end + 1;
        }
        self.scanned.bytes = chunk.offset + text.len() as u64;
        chunk.error.take().map_or(Ok(()), |error| Err(error.into()))
    }

    fn line<E>(
        &mut self,
        text: &[u8],
        start: usize,
        end: usize,
        offset: u64,
        sink: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let offset = offset + start as u64;
        let mut line = &text[start..end];
        // The rest of a line that fills a whole chunk is in the next one.
        let whole = end < text.len() || line.len() < text.len();
        if line.len() > LINE_MAX || !whole && line.len() > CHUNK / 2 {
            line = &line[..line.len().min(LINE_MAX)];
            if self.scanned.problems.len() < PROBLEMS_MAX {
                let detail = format!("line is longer than {LINE_MAX} bytes, the rest is left out");
                let kind = ProblemKind::Limit;
                self.scanned.problems.push(Problem { offset, kind, detail });
            }
        }
        self.decoder.line(line, offset, &mut self.found);
        self.found.drain(..).try_for_each(sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mce_decoder::text::Found;
    use proptest::prelude::*;
    use ras_core::{ErrorRecord, ErrorSource};

    /// Makes a record of every line it is given.
    #[derive(Default)]
    struct Echo;

    impl LineDecoder for Echo {
        fn line(&mut self, line: &[u8], offset: u64, found: &mut Vec<Found>) {
            let mut record = ErrorRecord::new(ErrorSource::KernelLog);
            record.summary = String::from_utf8_lossy(line).into_owned();
            found.push(Found { offset, record: Box::new(record) });
        }

        fn finish(&mut self, found: &mut Vec<Found>) {
            self.line(b"end", u64::MAX, found);
        }
    }

    /// Gives at most so many bytes at once.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    fn scanned(
        text: &[u8],
        words: Option<&[&str]>,
        scan: &Scan,
        read: usize,
    ) -> (Vec<(u64, String)>, Scanned) {
        let needles = words.map(|words| Needles::new(words).unwrap());
        let mut lines = Vec::new();
        let mut sink = |found: Found| {
            lines.push((found.offset, found.record.summary));
            Ok::<(), io::Error>(())
        };
        let scanned =
            scan.run(Slow(text, read), &mut Echo, needles.as_ref(), &|_| {}, &mut sink).unwrap();
        assert_eq!(lines.pop().map(|line| line.1).as_deref(), Some("end"));
        (lines, scanned)
    }

    /// The same by hand.
    fn expected(text: &str, words: Option<&[&str]>) -> Vec<(u64, String)> {
        let (mut offset, mut following) = (0, 0);
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            let bare = line.trim_end_matches('\n');
            if words.is_none_or(|words| words.iter().any(|word| bare.contains(word))) {
                following = FOLLOWING + 1;
            }
            if following > 0 {
                following -= 1;
                lines.push((offset, bare.to_string()));
            }
            offset += line.len() as u64;
        }
        lines
    }

    #[test]
    fn only_lines_that_matter_and_those_after_them() {
        let mut text = "nothing\n".repeat(100) + "here: error\n";
        text += &"after\n".repeat(20);
        let (lines, scanned) =
            scanned(text.as_bytes(), Some(&["error"]), &Scan { chunk: 64, threads: 2 }, usize::MAX);
        assert_eq!(lines.len(), 1 + FOLLOWING);
        assert_eq!(lines[0], (800, "here: error".into()));
        assert_eq!(scanned, Scanned { bytes: text.len() as u64, problems: vec![] });
    }

    #[test]
    fn what_is_idle_is_no_needle() {
        let needles = Needles::new(&["error", "warning"]).unwrap().but_for(&["error-free"]);
        assert_eq!(needles.find(b"error-free, error-free"), None);
        assert_eq!(needles.find(b"error-free, no errors"), Some(15));
        assert_eq!(needles.find(b"error-free and a warning"), Some(17));
    }

    #[test]
    fn where_all_lines_matter_those_between_come_along() {
        let dense = "an error\n".repeat(DENSE + 1);
        let text = format!("before\n{dense}{}error\n", "nothing\n".repeat(100));
        let scan = Scan { chunk: CHUNK, threads: 1 };
        let (lines, _) = scanned(text.as_bytes(), Some(&["error"]), &scan, usize::MAX);
        assert_eq!(lines.len(), text.lines().count() - 1, "all but the first one");
        // The next chunk is searched again.
        let text = format!("{dense}{}", "nothing\n".repeat(100));
        let scan = Scan { chunk: dense.len() + 100, threads: 1 };
        let (lines, _) = scanned(text.as_bytes(), Some(&["error"]), &scan, usize::MAX);
        assert!((DENSE + 1..DENSE + 30).contains(&lines.len()), "{}", lines.len());
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_reported() {
        let text = format!("a\nerror{}\nb error\n", "x".repeat(3 * CHUNK));
        let scan = Scan { chunk: CHUNK, threads: 2 };
        let (lines, scanned) = scanned(text.as_bytes(), Some(&["error"]), &scan, usize::MAX);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].0, lines[0].1.len()), (2, LINE_MAX));
        assert_eq!(lines[1], (text.len() as u64 - 8, "b error".into()));
        assert_eq!(scanned.problems.len(), 1);
        assert_eq!(scanned.problems[0].offset, 2);
    }

    #[test]
    fn what_the_sink_refuses_ends_it() {
        let text = "error\n".repeat(100_000);
        let needles = Needles::new(&["error"]).unwrap();
        let mut seen = 0;
        let mut sink = |_| {
            seen += 1;
            if seen == 3 { Err(io::Error::other("enough")) } else { Ok(()) }
        };
        let scan = Scan { chunk: 4096, threads: 2 };
        let result = scan.run(text.as_bytes(), &mut Echo, Some(&needles), &|_| {}, &mut sink);
        assert_eq!(result.unwrap_err().to_string(), "enough");
        assert_eq!(seen, 3);
    }

    #[test]
    fn a_failing_reader_is_an_error_after_what_it_gave() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::Error::other("broken disk"));
                }
                self.0 -= 1;
                (&b"an error\n"[..]).read(buffer)
            }
        }
        let mut seen = 0;
        let mut sink = |_| {
            seen += 1;
            Ok::<(), io::Error>(())
        };
        let needles = Needles::new(&["error"]).unwrap();
        let result = lines(Failing(5), &mut Echo, Some(&needles), &|_| {}, &mut sink);
        assert_eq!(result.unwrap_err().to_string(), "broken disk");
        assert_eq!(seen, 5);
    }

    proptest! {
        #[test]
        fn any_chunks_give_the_same_lines(
            text in proptest::collection::vec("[ab\n]{0,30}|error|\n\n", 0..60),
            chunk in 40usize..200, threads in 1usize..4, read in 1usize..100, all: bool,
        ) {
            let text = text.concat();
            // Lines as long as a chunk are cut, which the other test looks at.
            prop_assume!(text.split('\n').all(|line| line.len() < chunk));
            let words: Option<&[&str]> = if all { None } else { Some(&["error"]) };
            let (lines, scanned) =
                scanned(text.as_bytes(), words, &Scan { chunk, threads }, read);
            prop_assert_eq!(lines, expected(&text, words));
            prop_assert_eq!(scanned.bytes, text.len() as u64);
        }
    }
}
