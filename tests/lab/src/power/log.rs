//! The log of Linux' `dm-log-writes`: every write to a disk in the order in which the disk could have
//! forgotten it.
//!
//! Format: Linux `drivers/md/dm-log-writes.c`, `struct log_write_super` and `struct log_write_entry`;
//! what it means, `Documentation/admin-guide/device-mapper/log-writes.rst`: a write is logged when a
//! flush has made it durable, just before that flush, and at once where it bypasses the cache (FUA).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail, ensure};

/// Bytes of a sector, on the disk and in its log.
pub const SECTOR: usize = 512;

/// The first sector: magic, version, number of entries, bytes of a sector.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

/// `LOG_*_FLAG`.
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const METADATA: u64 = 1 << 4;

/// Bytes of an entry before the text of a mark.
const ENTRY: usize = 32;

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Something the disk was asked for.
    Request(Request),
    /// A note of who recorded, at its place among the requests.
    Mark(String),
}

/// A write, a flush, or both: the flush comes first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Everything before it is durable.
    pub flush: bool,
    /// It is durable itself when it is done.
    pub fua: bool,
    /// The file system calls it metadata.
    pub metadata: bool,
    /// First sector on the disk.
    pub sector: u64,
    /// What was written; whole sectors, none of a mere flush.
    pub data: Vec<u8>,
}

impl Request {
    /// The bytes of the disk that it writes.
    #[must_use]
    pub fn place(&self) -> Range<usize> {
        // Beyond the address space is beyond any disk that fits into it.
        let start = usize::try_from(self.sector).unwrap_or(usize::MAX).saturating_mul(SECTOR);
        start..start.saturating_add(self.data.len())
    }
}

/// A log, read from its start.
pub struct Log<'a> {
    file: &'a File,
    /// Where the next entry is, in bytes.
    offset: u64,
    left: u64,
    /// Sectors of the disk: nothing can have been written beyond.
    disk_sectors: u64,
}

impl<'a> Log<'a> {
    /// Looks at the first sector.
    ///
    /// # Errors
    /// It can't be read, or is no log of this kind.
    pub fn open(file: &'a File, disk_sectors: u64) -> Result<Self> {
        let first = read(file, 0, SECTOR)?;
        let (magic, version, entries) = (u64_at(&first, 0), u64_at(&first, 8), u64_at(&first, 16));
        ensure!((magic, version) == (MAGIC, VERSION), "no log: {magic:#x}, version {version}");
        let size = &first[24..28];
        ensure!(size == 512u32.to_le_bytes(), "sectors of {size:x?} bytes");
        Ok(Self { file, offset: SECTOR as u64, left: entries, disk_sectors })
    }

    fn next_event(&mut self) -> Result<Event> {
        let head = read(self.file, self.offset, SECTOR)?;
        let [sector, sectors, flags, length] = [0, 8, 16, 24].map(|at| u64_at(&head, at));
        self.offset += SECTOR as u64;
        if flags & MARK != 0 {
            let end = usize::try_from(length).ok().and_then(|length| length.checked_add(ENTRY));
            let text =
                end.and_then(|end| head.get(ENTRY..end)).context("a mark beyond its sector")?;
            return Ok(Event::Mark(String::from_utf8_lossy(text).into_owned()));
        }
        let known = FLUSH | FUA | DISCARD | METADATA;
        ensure!(flags & !known == 0, "an entry with flags {flags:#x} at byte {}", self.offset);
        let end = sector.checked_add(sectors).filter(|end| *end <= self.disk_sectors);
        ensure!(end.is_some(), "a write of {sectors} sectors at {sector} of {}", self.disk_sectors);
        if flags & DISCARD != 0 {
            bail!("the file system discards, and what a disk then returns is anybody's guess");
        }
        let data = read(self.file, self.offset, usize::try_from(sectors)? * SECTOR)?;
        self.offset += data.len() as u64;
        Ok(Event::Request(Request {
            flush: flags & FLUSH != 0,
            fua: flags & FUA != 0,
            metadata: flags & METADATA != 0,
            sector,
            data,
        }))
    }
}

impl Iterator for Log<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.next_event())
    }
}

fn read(file: &File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)
        .with_context(|| format!("reading {length} bytes of the log at {offset}"))?;
    Ok(bytes)
}

/// # Panics
/// Fewer bytes: callers have a whole sector.
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn sector(words: [u64; 4], text: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend_from_slice(text);
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn file(parts: &[Vec<u8>]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&parts.concat(), 0).unwrap();
        file
    }

    #[test]
    fn a_log_is_read_in_order() {
        let log = file(&[
            sector([MAGIC, VERSION, 4, 512], &[]),
            sector([8, 2, METADATA, 0], &[]),
            vec![7; 2 * SECTOR],
            sector([0, 0, FLUSH, 0], &[]),
            sector([0, 0, MARK, 4], b"on 1"),
            sector([3, 1, FLUSH | FUA, 0], &[]),
            vec![9; SECTOR],
            sector([1, 1, 0, 0], &[]),
        ]);
        let events: Vec<Event> = Log::open(&log, 10).unwrap().map(Result::unwrap).collect();
        let request = Request::default();
        assert_eq!(
            events,
            [
                Event::Request(Request {
                    metadata: true,
                    sector: 8,
                    data: vec![7; 2 * SECTOR],
                    ..request.clone()
                }),
                Event::Request(Request { flush: true, ..request.clone() }),
                Event::Mark("on 1".to_owned()),
                Event::Request(Request {
                    flush: true,
                    fua: true,
                    sector: 3,
                    data: vec![9; SECTOR],
                    ..request
                }),
            ]
        );
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let bad = |parts: &[Vec<u8>]| {
            let log = file(parts);
            Log::open(&log, 10).and_then(|mut log| log.next().unwrap()).unwrap_err().to_string()
        };
        let head = sector([MAGIC, VERSION, 1, 512], &[]);
        assert!(bad(&[vec![0; SECTOR]]).contains("no log"));
        assert!(bad(&[sector([MAGIC, VERSION, 1, 4096], &[])]).contains("bytes"));
        assert!(bad(&[head.clone(), sector([9, 2, 0, 0], &[])]).contains("2 sectors at 9"));
        assert!(bad(&[head.clone(), sector([0, 1, 64, 0], &[])]).contains("flags"));
        assert!(bad(&[head.clone(), sector([0, 0, MARK, 500], &[])]).contains("mark"));
        assert!(bad(&[head.clone(), sector([0, 1, DISCARD, 0], &[])]).contains("discards"));
        assert!(bad(&[head, sector([0, 1, 0, 0], &[])]).contains("reading"));
    }
}
