//! Reading a journal that is as a writer left it: segment by segment through a small buffer, by
//! several threads where it is long.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use ras_store_format::sound::Segment;
use ras_store_format::{Part, Sound, Witness};

use crate::backend::Content;

/// Threads for one journal. It has to be read once, at start, when a host has better things to do.
const READERS_MAX: u64 = 4;

/// Segments that pay for a thread.
const SEGMENTS_MIN: u64 = 4;

/// A journal about which there is nothing to say.
pub(crate) struct SoundJournal {
    pub(crate) sound: Sound,
    /// Size of the file in bytes.
    pub(crate) size: u64,
    /// Blocks in use that may not be durable yet.
    pub(crate) blocks: Range<u64>,
    /// Its records, in order.
    pub(crate) parts: Vec<Part>,
}

/// `None` for a journal that has to be looked at as a whole. Fails with `FileTooLarge` beyond
/// `size_max` bytes.
pub(crate) fn read(
    content: &impl Content,
    size_max: u64,
    witness: Option<Witness>,
) -> io::Result<Option<SoundJournal>> {
    let size = content.size()?;
    if size > size_max {
        return Err(ErrorKind::FileTooLarge.into());
    }
    if size < Sound::HEADERS_SIZE as u64 {
        return Ok(None);
    }
    let mut headers = vec![0; Sound::HEADERS_SIZE];
    content.read_exact_at(&mut headers, 0)?;
    let Some(sound) = Sound::begin(&headers, size, witness) else { return Ok(None) };

    let shares = shares(sound.segments());
    let found: Vec<_> = thread::scope(|scope| {
        let start = |share: Range<u64>| scope.spawn(move || read_share(content, &sound, share));
        let (first, others) = shares.split_first()?;
        let others: Vec<_> = others.iter().cloned().map(start).collect();
        let first = read_share(content, &sound, first.clone());
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panicked| resume_unwind(panicked)));
        Some([first].into_iter().chain(others).collect())
    })
    .unwrap_or_default();

    let mut segments = Vec::new();
    let mut parts = Vec::new();
    for share in found {
        let Some((share, part)) = share? else { return Ok(None) };
        segments.extend(share);
        parts.push(part);
    }
    let blocks = sound.finish(segments);
    Ok(blocks.map(|blocks| SoundJournal { sound, size, blocks, parts }))
}

fn read_share(
    content: &impl Content,
    sound: &Sound,
    share: Range<u64>,
) -> io::Result<Option<(Vec<Segment>, Part)>> {
    let mut part = Part::default();
    let mut segments = Vec::new();
    let mut bytes = vec![0; sound.segment_size()];
    for number in share {
        content.read_exact_at(&mut bytes, sound.offset(number))?;
        let Some(segment) = sound.segment(number, &bytes, |records| part.read(records)) else {
            return Ok(None);
        };
        segments.push(segment);
    }
    Ok(Some((segments, part)))
}

/// Consecutive segments for each reader.
fn shares(segments: u64) -> Vec<Range<u64>> {
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let readers = processors.min(READERS_MAX).min(segments / SEGMENTS_MIN).max(1);
    let share = segments.div_ceil(readers);
    (0..readers).map(|reader| reader * share..segments.min((reader + 1) * share)).collect()
}
