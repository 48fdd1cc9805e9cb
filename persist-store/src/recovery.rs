//! Opening: what is there, what is wrong with it, and back to a sound journal.

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ras_core::Timestamp;
use ras_store_format::layout::{BLOCK_SIZE, COPIES, VERSION};
use ras_store_format::reading::Repair;
use ras_store_format::{Damage, Entry, Fault, Header, Part, Reading, State, Witness};
use tracing::warn;

use crate::StoreError;
use crate::backend::{Backend, Content, File};
use crate::error::io_error;
use crate::fresh::{Image, write_copy};
use crate::journal::{Journal, Limits};
use crate::sound::{self, SoundJournal};

/// What was found when a store was opened or read. Anything but [`Self::is_clean`] is worth a line in
/// the log; [`Self::damage`] is worth waking somebody.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// There was no store; an empty one was made.
    pub created: bool,
    /// Records read.
    pub records: u64,
    /// Bytes of a commit that was never finished, hence never acknowledged; cut off by an open.
    pub torn_tail: Option<u64>,
    /// Damaged copies of blocks (4 KiB each) whose other copy was good. Nothing was lost; the medium
    /// should be looked at.
    pub damaged_copies: u64,
    /// Damage that no second copy mended: `records` are what could be salvaged. It is also in
    /// [`State::damage`], durably after an open, until a person accepts it.
    pub damage: Option<Fault>,
    /// Where the damaged journal or the torn bytes were set aside.
    pub quarantined: Option<PathBuf>,
    /// Records that only a newer version can read; kept as they are.
    pub unknown_records: u64,
    /// The witness file was damaged. No entry is in it; it was written anew.
    pub witness_damaged: bool,
}

impl Recovery {
    /// Whether the store was found exactly as a writer leaves it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.torn_tail.is_none()
            && self.damaged_copies == 0
            && self.damage.is_none()
            && !self.witness_damaged
    }
}

impl fmt::Display for Recovery {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.created {
            f.write_str("created an empty list")?;
        } else if let Some(fault) = &self.damage {
            write!(f, "DAMAGED: {fault}; salvaged {} records, others may be lost", self.records)?;
        } else {
            write!(f, "read {} records", self.records)?;
        }
        if let Some(bytes) = self.torn_tail {
            write!(f, "; {bytes} bytes of an unfinished commit")?;
        }
        if self.damaged_copies > 0 {
            write!(f, "; {} damaged blocks had a good second copy", self.damaged_copies)?;
        }
        if self.witness_damaged {
            f.write_str("; the witness file was damaged")?;
        }
        if self.unknown_records > 0 {
            write!(f, "; kept {} records of a newer version", self.unknown_records)?;
        }
        if let Some(path) = &self.quarantined {
            write!(f, "; set aside in {}", path.display())?;
        }
        Ok(())
    }
}

/// Reads the store and says what is wrong with it. `NotFound` where there is none.
pub(crate) fn inspect<B: Backend>(
    backend: &B,
    dir: &Path,
    now: Timestamp,
) -> Result<(State, Recovery), StoreError> {
    let files = Files::load(backend, dir, Limits::DEFAULT)?;
    if files.journal.is_none() && files.witness.is_none() {
        return Err(StoreError::NotFound { dir: dir.into() });
    }
    let Examined { mut state, recovery, .. } = files.examine(dir)?;
    if let Some(fault) = recovery.damage {
        state.apply(damaged(fault, now, String::new()));
    }
    Ok((state, recovery))
}

/// Reads the store and makes it sound: every block in use has two good, durable copies, and the
/// rest is zero. Each step may be interrupted and is then taken again by the next open.
pub(crate) fn open<B: Backend>(
    mut backend: B,
    dir: &Path,
    limits: Limits,
    now: Timestamp,
) -> Result<(Journal<B>, Recovery), StoreError> {
    // The journal's name may be in the page cache only, after a rename whose sync failed.
    backend.sync_directory().map_err(io_error(dir, "sync the directory"))?;
    let files = Files::load(&backend, dir, limits)?;
    let witness = files.witness();
    let Examined { mut state, mut recovery, header, generation_max, journal, repairs, blocks } =
        files.examine(dir)?;
    let fault = recovery.damage;

    let (header, end, capacity) = match (header, &journal, fault) {
        (Some(header), Some(Bytes { size, bytes }), None) => {
            if recovery.torn_tail.is_some() {
                let kept = keep_tail(&mut backend, header, bytes, &repairs);
                recovery.quarantined = kept.map(|name| quarantine(dir, &name));
            }
            mend(&mut backend, bytes, &repairs)
                .and_then(|()| settle(&mut backend, header, &blocks))
                .map_err(io_error(dir, "mend the journal"))?;
            (header, blocks.end, header.geometry.capacity(*size))
        }
        (header, journal, fault) => {
            if let Some(fault) = fault {
                let name = match journal {
                    Some(_) => backend
                        .set_aside(generation_max)
                        .map_err(io_error(dir, "set the damaged journal aside"))?,
                    None => String::new(),
                };
                recovery.quarantined = (!name.is_empty()).then(|| quarantine(dir, &name));
                state.apply(damaged(fault, now, name));
            }
            // The clock keeps numbers apart even where every trace of the last journal is gone.
            let fresh = Header {
                minor: header.map_or(VERSION.1, |header| header.minor.max(VERSION.1)),
                generation: generation_max.saturating_add(1).max(now.0),
                geometry: limits.geometry,
            };
            state.forget_unused_dimms();
            let image = Image::of(fresh, &state, dir)?;
            image.write(&mut backend, dir)?;
            image.install(&mut backend, dir)?;
            (image.header, image.end, image.capacity)
        }
    };

    if witness.is_none() {
        let witness = Witness { generation: header.generation, blocks: end };
        // It only narrows what can be told of later damage: no reason to keep the list from use.
        if let Err(error) = make_witness(&mut backend, witness) {
            warn!(dir = %dir.display(), %error, "cannot create the store's witness");
        }
    }
    let mut journal = Journal::new(backend, dir, limits, (header, end, capacity), state);
    if header.minor < VERSION.1 {
        journal.upgrade()?;
    }
    Ok((journal, recovery))
}

/// The store's files as they were found.
struct Files {
    journal: Option<Found>,
    witness: Option<Vec<u8>>,
}

enum Found {
    Sound(SoundJournal),
    /// All of it.
    Other(Vec<u8>),
}

/// A journal of which `bytes` are in memory: all, or none where nothing has to be done about it.
struct Bytes {
    size: u64,
    bytes: Vec<u8>,
}

struct Examined {
    state: State,
    recovery: Recovery,
    header: Option<Header>,
    generation_max: u64,
    journal: Option<Bytes>,
    repairs: Vec<Repair>,
    /// Blocks in use that may not be durable yet.
    blocks: Range<u64>,
}

impl Files {
    /// The witness first: a writer at work moves on between the two, and an older witness claims
    /// less.
    fn load<B: Backend>(backend: &B, dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let witness = match backend.load(File::Witness, BLOCK_SIZE as u64) {
            // Anything that large is no witness; that is damage, not a reason to give up.
            Err(error) if error.kind() == ErrorKind::FileTooLarge => Some(vec![0]),
            other => other.map_err(io_error(dir, "read the witness"))?,
        };
        let mut files = Self { journal: None, witness };
        let journal = Found::load(backend, limits.size_max, files.witness());
        files.journal = journal.map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => StoreError::Corrupt {
                dir: dir.into(),
                detail: format!("it is larger than {} bytes", limits.size_max),
            },
            _ => io_error(dir, "read the journal")(error),
        })?;
        Ok(files)
    }

    fn witness(&self) -> Option<Witness> {
        self.witness.as_deref().and_then(Witness::decode)
    }

    fn examine(self, dir: &Path) -> Result<Examined, StoreError> {
        let witness = self.witness();
        // An empty file is what a crash while it was made leaves.
        let witness_there = self.witness.as_ref().is_some_and(|bytes| !bytes.is_empty());
        let mut examined = Examined {
            state: State::default(),
            recovery: Recovery {
                witness_damaged: witness_there && witness.is_none(),
                ..Recovery::default()
            },
            header: None,
            generation_max: witness.map_or(0, |witness| witness.generation),
            journal: None,
            repairs: Vec::new(),
            blocks: 0..0,
        };
        let recovery = &mut examined.recovery;
        let bytes = match self.journal {
            None => {
                // A journal is made before its witness: one without the other was lost.
                recovery.damage = self.witness.is_some().then_some(Fault::Missing);
                recovery.created = self.witness.is_none();
                return Ok(examined);
            }
            Some(Found::Sound(SoundJournal { sound, size, blocks, parts })) => {
                recovery.records = parts.iter().map(|part| part.records).sum();
                recovery.unknown_records = parts.iter().map(|part| part.unknown).sum();
                examined.generation_max = sound.header.generation;
                examined.header = Some(sound.header);
                examined.state = State::of(parts);
                examined.journal = Some(Bytes { size, bytes: Vec::new() });
                examined.blocks = blocks;
                return Ok(examined);
            }
            Some(Found::Other(bytes)) => bytes,
        };
        let reading = Reading::of(&bytes, witness)
            .map_err(|source| StoreError::UnsupportedVersion { dir: dir.into(), source })?;
        recovery.damage = reading.fault;
        recovery.damaged_copies = reading.damaged_copies;
        recovery.torn_tail = (reading.torn_bytes > 0).then_some(reading.torn_bytes);
        let mut part = Part::default();
        for records in &reading.blocks {
            if !part.read(records) {
                recovery.damage.get_or_insert(Fault::Malformed);
            }
        }
        (recovery.records, recovery.unknown_records) = (part.records, part.unknown);
        examined.state = State::of([part]);
        examined.header = reading.header;
        examined.generation_max = reading.generation_max;
        examined.repairs = reading.repairs;
        examined.blocks = reading.durable_blocks..reading.blocks.len() as u64;
        examined.journal = Some(Bytes { size: bytes.len() as u64, bytes });
        Ok(examined)
    }
}

impl Found {
    fn load<B: Backend>(
        backend: &B,
        size_max: u64,
        witness: Option<Witness>,
    ) -> io::Result<Option<Self>> {
        let Some(content) = backend.open(File::Journal)? else { return Ok(None) };
        if let Some(journal) = sound::read(&content, size_max, witness)? {
            return Ok(Some(Self::Sound(journal)));
        }
        content.load(size_max).map(Self::Other).map(Some)
    }
}

fn make_witness<B: Backend>(backend: &mut B, witness: Witness) -> io::Result<()> {
    backend.create(File::Witness)?;
    backend.write(File::Witness, 0, &witness.encode())?;
    backend.sync(File::Witness)?;
    backend.sync_directory()
}

/// Evidence, not data: failing to keep it must not keep the list from being used.
fn keep_tail<B: Backend>(
    backend: &mut B,
    header: Header,
    bytes: &[u8],
    repairs: &[Repair],
) -> Option<String> {
    let torn = repairs.iter().filter(|repair| repair.twin.is_none());
    let tail: Vec<u8> = torn.flat_map(|repair| block(bytes, repair.offset)).copied().collect();
    backend
        .keep_tail(header.generation, &tail)
        .inspect_err(|error| warn!(%error, "cannot keep the torn tail"))
        .ok()
}

/// Writes the missing copies from their twins and zeros over a torn tail, in place: that needs no
/// room on a full disk, and never touches a block's only good copy.
fn mend<B: Backend>(backend: &mut B, bytes: &[u8], repairs: &[Repair]) -> io::Result<()> {
    for &Repair { offset, twin } in repairs {
        let content = twin.map_or(&[0; BLOCK_SIZE][..], |twin| block(bytes, twin));
        backend.write(File::Journal, offset, content)?;
    }
    if repairs.is_empty() { Ok(()) } else { backend.sync(File::Journal) }
}

/// Makes durable what was read but never acknowledged: it may be in the page cache only, after a
/// sync that failed. One copy at a time, so that a crash here finds the other whole.
fn settle<B: Backend>(backend: &mut B, header: Header, blocks: &Range<u64>) -> io::Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let content = read_copy(backend, header, blocks)?;
    for copy in 0..COPIES {
        write_copy(backend, header.geometry, blocks.start, copy, &content)?;
        backend.sync(File::Journal)?;
    }
    Ok(())
}

/// The first copies; the second ones are the same.
fn read_copy<B: Backend>(backend: &B, header: Header, blocks: &Range<u64>) -> io::Result<Vec<u8>> {
    let journal = backend.open(File::Journal)?.ok_or(ErrorKind::NotFound)?;
    let count = usize::try_from(blocks.end - blocks.start).map_err(|_| ErrorKind::FileTooLarge)?;
    let mut content = vec![0; count * BLOCK_SIZE];
    for (number, block) in blocks.clone().zip(content.chunks_exact_mut(BLOCK_SIZE)) {
        journal.read_exact_at(block, header.geometry.offset(number, 0))?;
    }
    Ok(content)
}

fn block(bytes: &[u8], offset: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    bytes.get(start..start.saturating_add(BLOCK_SIZE)).unwrap_or_default()
}

fn quarantine(dir: &Path, name: &str) -> PathBuf {
    dir.join("quarantine").join(name)
}

fn damaged(fault: Fault, time: Timestamp, quarantined: String) -> Entry {
    Entry::Damaged(Damage { time, detail: fault.to_string(), quarantined })
}
