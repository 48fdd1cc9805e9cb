//! Inputs to records: files, directories, standard input, whatever is in them.
//!
//! ```text
//!  path --Input--> bytes --FORMATS--> reader --Output--> Sink
//!        decompressed     detected     streaming          Found, Damage
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ras_core::{ErrorRecord, Problem, ProblemKind};

use crate::cpu::Cpu;
use crate::format::{self, Format, Reader};
use crate::input::Input;

/// What decoding may be told beyond the bytes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The format of every input; else each is looked at.
    pub format: Option<&'static Format>,
    /// The processor, where a source does not name it.
    pub cpu: Option<Cpu>,
    /// The year of dates that have none, as syslog's.
    pub year: Option<u16>,
}

/// A record, and where it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The input, as it was named; `-` is standard input.
    pub file: Arc<str>,
    /// Bytes from the start of the input, decompressed, to where the record begins. A database
    /// has its event's id instead.
    pub offset: u64,
    /// The line it begins in, from 1, where the input has lines.
    pub line: Option<u64>,
    /// The record. It is large, and passes through many hands.
    pub record: Box<ErrorRecord>,
}

/// Damage that belongs to no record. Its offset counts as that of [`Found`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The input, as it was named.
    pub file: Arc<str>,
    /// The line it is in, from 1, where the input has lines.
    pub line: Option<u64>,
    /// What is wrong.
    pub problem: Problem,
}

/// Takes what is found, in the order of the inputs and within each of its bytes.
pub trait Sink {
    /// A record.
    ///
    /// # Errors
    /// Nothing more is wanted, or can be taken.
    fn record(&mut self, found: Found) -> io::Result<()>;

    /// Damage.
    ///
    /// # Errors
    /// As [`Self::record`].
    fn damage(&mut self, damage: Damage) -> io::Result<()>;

    /// Something to know about an input that is neither: it is empty, it was passed over.
    ///
    /// # Errors
    /// As [`Self::record`].
    fn note(&mut self, _file: &str, _note: &str) -> io::Result<()> {
        Ok(())
    }

    /// An input is about to be read, of so many bytes if that is known.
    fn begin(&mut self, _file: &str, _input: Option<(&Input, u64)>) {}

    /// All that comes will be of one source.
    fn one_source(&mut self) {}

    /// The inputs have ended.
    ///
    /// # Errors
    /// As [`Self::record`].
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// An input can't be read; the next one may be.
    #[error("{what}")]
    Input {
        /// What was being done.
        what: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The sink takes no more.
    #[error("writing what was found")]
    Sink(#[source] io::Error),
}

/// An error of the input itself.
impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Input { what: "reading".into(), error }
    }
}

/// How a reader hands on what it finds in one input.
pub struct Output<'a> {
    file: Arc<str>,
    sink: &'a mut dyn Sink,
}

impl Output<'_> {
    /// The input's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// A record that begins at `offset`.
    ///
    /// # Errors
    /// [`Stop::Sink`].
    pub fn record(
        &mut self,
        offset: u64,
        line: Option<u64>,
        record: impl Into<Box<ErrorRecord>>,
    ) -> Result<(), Stop> {
        let found = Found { file: Arc::clone(&self.file), offset, line, record: record.into() };
        self.sink.record(found).map_err(Stop::Sink)
    }

    /// Damage outside of any record.
    ///
    /// # Errors
    /// [`Stop::Sink`].
    pub fn damage(&mut self, line: Option<u64>, problem: Problem) -> Result<(), Stop> {
        let damage = Damage { file: Arc::clone(&self.file), line, problem };
        self.sink.damage(damage).map_err(Stop::Sink)
    }
}

/// Directories inside of one another that are looked into: deeper than any tree of the kernel's.
const DEPTH_MAX: usize = 16;

/// Reads all of `paths`, one after the other; `-` is standard input. Inputs that can't be read are
/// handed to `unreadable` and do not keep the next ones from being read.
///
/// # Errors
/// What `sink` says.
pub fn paths(
    paths: &[PathBuf],
    options: &Options,
    sink: &mut dyn Sink,
    unreadable: &mut dyn FnMut(&str, &io::Error),
) -> io::Result<()> {
    let alone = paths.len() == 1 || are_of_one_source(paths, options);
    let mut walk = Walk { options, sink, unreadable, alone };
    for path in paths {
        walk.named(path)?;
    }
    walk.sink.finish()
}

/// Reads one stream that is no file, called `name`.
///
/// # Errors
/// [`Stop`].
pub fn stream(
    name: &str,
    mut input: Input,
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<(), Stop> {
    let mut output = Output { file: Arc::from(name), sink };
    let stream =
        Stream { input: &mut input, path: None, named: true, unpacked: false, alone: true };
    let known = stream.read(options, &mut output);
    if let Some(problem) = input.take_damage() {
        output.damage(None, problem)?;
    }
    known.map(drop)
}

/// Whether several files are all of one format that has a single source. They are looked at twice
/// then, which is cheap beside holding back each of their records for others to join.
fn are_of_one_source(paths: &[PathBuf], options: &Options) -> bool {
    let format = |path: &PathBuf| {
        if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return None;
        }
        let mut input = Input::open(path).ok()?;
        options.format.or_else(|| {
            format::detect(input.peek(format::START_MAX).ok()?, &path.to_string_lossy())
        })
    };
    let mut formats = paths.iter().map(format);
    let first = formats.next().flatten();
    first.is_some_and(|first| {
        matches!(first.reader, Reader::OneSource(_))
            && formats.all(|format| format.is_some_and(|format| std::ptr::eq(format, first)))
    })
}

struct Walk<'a> {
    options: &'a Options,
    sink: &'a mut dyn Sink,
    unreadable: &'a mut dyn FnMut(&str, &io::Error),
    /// There is one input only, and no directory; or all are of one source.
    alone: bool,
}

impl Walk<'_> {
    /// A path that somebody named: what it is, it has to be.
    fn named(&mut self, path: &Path) -> io::Result<()> {
        let name = path.to_string_lossy();
        if path == Path::new("-") {
            let input = Input::new(Box::new(io::stdin()));
            return self.finish(&name, |walk| walk.stream(&name, input?, None, true)).map(drop);
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                (self.unreadable)(&name, &error);
                return Ok(());
            }
        };
        if !metadata.is_dir() {
            return self.file(path, metadata.len(), true).map(drop);
        }
        self.alone = false;
        if let Some(whole) = format::of_directory(path, self.options.format) {
            let mut output = Output { file: Arc::from(&*name), sink: self.sink };
            let read = whole(path, self.options, &mut output);
            return self.finish(&name, |_| read.map(|()| true)).map(drop);
        }
        let mut seen = Seen::default();
        self.directory(path, 0, &mut seen)?;
        match seen {
            Seen { files: 0, .. } => self.sink.note(&name, "nothing is in it"),
            Seen { known: 0, files } => {
                let problem = unknown(format!("none of its {files} files is of a known format"));
                self.sink.damage(Damage { file: Arc::from(&*name), line: None, problem })
            }
            Seen { known, files } if known < files => {
                let note = format!("{} of {files} files are of no known format", files - known);
                self.sink.note(&name, &note)
            }
            Seen { .. } => Ok(()),
        }
    }

    /// All files below `path`, in the order of their names. Links are not followed: they lead out,
    /// or around in circles.
    fn directory(&mut self, path: &Path, depth: usize, seen: &mut Seen) -> io::Result<()> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                (self.unreadable)(&path.to_string_lossy(), &error);
                return Ok(());
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => {
                    if let Some(whole) = format::of_directory(&path, self.options.format) {
                        let name = path.to_string_lossy();
                        let mut output = Output { file: Arc::from(&*name), sink: self.sink };
                        let read = whole(&path, self.options, &mut output);
                        self.finish(&name, |_| read.map(|()| true))?;
                        seen.files += 1;
                        seen.known += 1;
                    } else {
                        self.directory(&path, depth + 1, seen)?;
                    }
                }
                Ok(kind) if kind.is_file() => {
                    seen.files += 1;
                    let size = entry.metadata().map_or(0, |metadata| metadata.len());
                    seen.known += u64::from(self.file(&path, size, false)?);
                }
                Ok(_) => {}
                Err(error) => (self.unreadable)(&path.to_string_lossy(), &error),
            }
        }
        Ok(())
    }

    /// Whether the file's format is known.
    fn file(&mut self, path: &Path, size: u64, named: bool) -> io::Result<bool> {
        let name = path.to_string_lossy();
        let input = Input::open(path);
        self.finish(&name, |walk| {
            let input = input?;
            walk.sink.begin(&name, Some((&input, size)));
            walk.stream(&name, input, Some(path), named)
        })
    }

    fn stream(
        &mut self,
        name: &str,
        mut input: Input,
        path: Option<&Path>,
        named: bool,
    ) -> Result<bool, Stop> {
        let mut output = Output { file: Arc::from(name), sink: self.sink };
        let alone = self.alone;
        let stream = Stream { input: &mut input, path, named, unpacked: false, alone };
        let known = stream.read(self.options, &mut output);
        if let Some(problem) = input.take_damage() {
            output.damage(None, problem)?;
        }
        known
    }

    /// Sorts out who is to blame.
    fn finish(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self) -> Result<bool, Stop>,
    ) -> io::Result<bool> {
        match read(self) {
            Ok(known) => Ok(known),
            Err(Stop::Sink(error)) => Err(error),
            Err(Stop::Input { error, .. }) => {
                (self.unreadable)(name, &error);
                Ok(true)
            }
        }
    }
}

#[derive(Default)]
struct Seen {
    files: u64,
    known: u64,
}

/// One stream to read.
struct Stream<'a> {
    input: &'a mut Input,
    /// The file it comes from.
    path: Option<&'a Path>,
    /// Whether somebody named it: then that nothing is known in it is a problem.
    named: bool,
    /// Whether it was text before, and the options speak of that.
    unpacked: bool,
    /// Whether it is all there is to read.
    alone: bool,
}

impl Stream<'_> {
    /// Reads it to its end, in the format that the options say or that it looks like. False where it
    /// looks like none.
    fn read(self, options: &Options, output: &mut Output<'_>) -> Result<bool, Stop> {
        let Self { input, path, named, unpacked, alone } = self;
        // Where the format was said, a live pipe need not fill up first.
        let said = options.format.is_some() && !unpacked;
        let start = input.peek(if said { 1 } else { format::START_MAX })?;
        if start.is_empty() {
            output.sink.note(&Arc::clone(&output.file), "is empty").map_err(Stop::Sink)?;
            return Ok(true);
        }
        let found = match (unpacked, options.format) {
            (true, _) => format::detect_unpacked(start),
            (false, Some(asked)) => Some(asked),
            (false, None) => format::detect(start, &output.file),
        };
        let Some(found) = found else {
            if named {
                output.damage(None, unknown("nothing in it is of a known format".into()))?;
            }
            return Ok(false);
        };
        match found.reader {
            Reader::Stream(read) => read(input, options, output)?,
            Reader::OneSource(read) => {
                if alone {
                    output.sink.one_source();
                }
                read(input, options, output)?;
            }
            Reader::File(read) => match path.filter(|_| !input.is_compressed()) {
                Some(path) => read(path, options, output)?,
                None => {
                    // What can only be read by seeking is unpacked first.
                    let mut copy = tempfile::NamedTempFile::new()?;
                    io::copy(input, &mut copy)?;
                    copy.flush()?;
                    read(copy.path(), options, output)?;
                }
            },
            Reader::Directory(_) => {
                let detail = format!("{} is read from a directory, not from a file", found.name);
                output.damage(None, unknown(detail))?;
            }
        }
        Ok(true)
    }
}

fn unknown(detail: String) -> Problem {
    Problem { offset: 0, kind: ProblemKind::Unknown, detail }
}

/// Reads a stream that was unpacked from another one, in whatever format it looks like. Places are
/// those in the inner stream.
pub(crate) fn unpacked(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let stream = Stream { input, path: None, named: true, unpacked: true, alone: false };
    stream.read(options, output).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen {
        one_source: bool,
        records: usize,
    }

    impl Sink for Seen {
        fn record(&mut self, _: Found) -> io::Result<()> {
            self.records += 1;
            Ok(())
        }
        fn damage(&mut self, _: Damage) -> io::Result<()> {
            Ok(())
        }
        fn one_source(&mut self) {
            self.one_source = true;
        }
    }

    /// Records of several files are held back only where reports of one error may be among them.
    #[test]
    fn files_of_one_source_need_no_joining() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, example: &str| {
            let (_, text) =
                crate::inject::EXAMPLES.iter().find(|(known, _)| *known == example).unwrap();
            let bytes = crate::inject::build(&crate::inject::parse(text).unwrap()).unwrap();
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let (one, two) = (file("one", "memory"), file("two", "memory2"));
        let log = file("log", "edac");
        let empty = dir.path().join("empty");
        fs::write(&empty, "").unwrap();
        let absent = dir.path().join("absent");
        for (paths, expected) in [
            (vec![one.clone()], true),
            (vec![one.clone(), two.clone()], true),
            (vec![one.clone(), log.clone()], false),
            (vec![log.clone(), log], false),
            (vec![one.clone(), dir.path().to_owned()], false),
            (vec![one.clone(), empty], false),
            (vec![one, absent, two], false),
        ] {
            let mut seen = Seen::default();
            super::paths(&paths, &Options::default(), &mut seen, &mut |_, _| {}).unwrap();
            assert_eq!((seen.one_source, seen.records > 0), (expected, true), "{paths:?}");
        }
    }
}
