//! One sub-buffer of the kernel's ring buffer, as `per_cpu/cpuN/trace_pipe_raw` returns it.
//!
//! ```text
//!  0            8          16                         16 + commit
//!  | timestamp  |  commit   | event | event | padding |  lost count, or unused
//!                 31: events were lost before this page
//!                 30: ... and their number is stored after the data
//! ```
//! An event begins with a 32-bit header: `type_len` in bits 4:0, `time_delta` in bits 31:5. Linux
//! `include/linux/ring_buffer.h`, and `events/header_page` and `events/header_event` of tracefs.

use super::format::{FormatError, parse_fields};
use super::{TraceError, little_endian};

/// Where the parts of a sub-buffer are, from `events/header_page`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderPage {
    timestamp: Span,
    commit: Span,
    data: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    offset: usize,
    size: usize,
}

impl HeaderPage {
    /// Parses the text of `events/header_page`.
    ///
    /// The text has to be read with one `read` into a large buffer: the kernel answers a second one
    /// with end of file, wherever the first one stopped (Linux `show_header`).
    ///
    /// # Errors
    /// [`FormatError`] where a line is broken or one of the parts is missing.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > super::format::TEXT_MAX {
            return Err(FormatError::TooLong { len: text.len() });
        }
        let fields = parse_fields(text)?;
        let span = |name, what| {
            let field = fields.iter().find(|field| field.name == name);
            field
                .map(|field| Span { offset: field.offset, size: field.size })
                .ok_or(FormatError::Missing { what })
        };
        Ok(Self {
            timestamp: span("timestamp", "field timestamp")?,
            commit: span("commit", "field commit")?,
            data: span("data", "field data")?,
        })
    }

    /// Bytes to read from `trace_pipe_raw` at a time: one whole sub-buffer.
    #[must_use]
    pub const fn sub_buffer_size(&self) -> usize {
        self.data.offset + self.data.size
    }

    /// Opens one sub-buffer.
    ///
    /// # Errors
    /// [`TraceError::Truncated`] where `page` ends inside its header. A page that ends inside its data
    /// is opened; its events end with the same error.
    pub fn open<'a>(&self, page: &'a [u8]) -> Result<SubBuffer<'a>, TraceError> {
        // Bits 30 and 31 of `commit` are flags; the kernel's sub-buffers are far below 2^27 bytes.
        const LENGTH_MASK: u64 = (1 << 27) - 1;
        const MISSED_STORED: u64 = 1 << 30;
        const MISSED_EVENTS: u64 = 1 << 31;
        let read = |span: Span, what: &str| {
            little_endian(page, span.offset, span.size).ok_or_else(|| TraceError::Truncated {
                what: what.into(),
                offset: span.offset,
                needed: span.size,
                available: page.len().saturating_sub(span.offset),
            })
        };
        let timestamp = read(self.timestamp, "page timestamp")?;
        let commit = read(self.commit, "page commit")?;
        // Masked to 27 bits: fits on every target.
        let committed = usize::try_from(commit & LENGTH_MASK).unwrap_or(usize::MAX);
        let end = self.data.offset.saturating_add(committed);
        let missed = match (commit & MISSED_EVENTS != 0, commit & MISSED_STORED != 0) {
            (false, _) => Missed::None,
            (true, false) => Missed::Unknown,
            // The kernel stores its `unsigned long`, of the size of `commit`.
            (true, true) => {
                little_endian(page, end, self.commit.size).map_or(Missed::Unknown, Missed::Count)
            }
        };
        Ok(SubBuffer { page, start: self.data.offset, end, timestamp, missed })
    }
}

/// Events lost before a sub-buffer, because nobody read them in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missed {
    /// None were lost.
    None,
    /// This many.
    Count(u64),
    /// Some; the kernel had no room to say how many.
    Unknown,
}

/// One sub-buffer, read but not yet trusted.
#[derive(Clone, Copy, Debug)]
pub struct SubBuffer<'a> {
    page: &'a [u8],
    start: usize,
    end: usize,
    timestamp: u64,
    missed: Missed,
}

impl<'a> SubBuffer<'a> {
    /// Events lost before this sub-buffer.
    #[must_use]
    pub const fn missed(&self) -> Missed {
        self.missed
    }

    /// The events, oldest first. After an error there are no more.
    #[must_use]
    pub const fn events(&self) -> Events<'a> {
        Events { page: self.page, offset: self.start, end: self.end, timestamp: self.timestamp }
    }
}

/// One event of a sub-buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// When, in units of the trace clock: nanoseconds since boot with the default `local` clock.
    pub timestamp: u64,
    /// Which event: [`super::EventFormat::id`].
    pub id: u16,
    /// Its fields, the common ones first. Up to seven bytes longer than the event: lengths are rounded.
    pub payload: &'a [u8],
}

/// Iterator over the events of a sub-buffer. Each step takes at least four bytes.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    page: &'a [u8],
    offset: usize,
    end: usize,
    timestamp: u64,
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.offset < self.end {
            match self.step() {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => {
                    self.offset = self.end;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl<'a> Events<'a> {
    /// Takes one ring-buffer entry: an event, or one that only carries time or nothing.
    fn step(&mut self) -> Result<Option<Event<'a>>, TraceError> {
        const TIME_BITS: u32 = 27;
        let start = self.offset;
        let header = self.word("event header")?;
        let time_delta = u64::from(header >> 5);
        let payload_size = match header & 0x1f {
            // Nothing more on this page.
            29 if time_delta == 0 => {
                self.offset = self.end;
                return Ok(None);
            }
            // Discarded after it was written; its time still counts for those that follow.
            29 => {
                self.timestamp = self.timestamp.wrapping_add(time_delta);
                let size = self.stored_size(start)?;
                self.take(size, "discarded event")?;
                return Ok(None);
            }
            // Time extend: 27 low bits in the header, the others in the word that follows.
            30 => {
                let high = u64::from(self.word("time extend")?) << TIME_BITS;
                self.timestamp = self.timestamp.wrapping_add(high + time_delta);
                return Ok(None);
            }
            // Absolute time stamp of 59 bits: the top five are those of the time before, unless
            // that would run backwards, which means that the 59 bits have wrapped.
            31 => {
                const LOW_BITS: u32 = 59;
                let low = u64::from(self.word("time stamp")?) << TIME_BITS | time_delta;
                let top = self.timestamp >> LOW_BITS << LOW_BITS;
                let stamp = top | low;
                self.timestamp = match stamp < self.timestamp && top != 0 {
                    true => stamp.wrapping_add(1 << LOW_BITS),
                    false => stamp,
                };
                return Ok(None);
            }
            0 => self.stored_size(start)?,
            words => words as usize * 4,
        };
        self.timestamp = self.timestamp.wrapping_add(time_delta);
        let payload = self.take(payload_size, "event")?;
        let Some(id) = payload.first_chunk() else {
            return Err(TraceError::Malformed { offset: start, detail: "no room for its number" });
        };
        Ok(Some(Event { timestamp: self.timestamp, id: u16::from_le_bytes(*id), payload }))
    }

    /// The size in the word after the header, which that word is part of.
    fn stored_size(&mut self, start: usize) -> Result<usize, TraceError> {
        let size = self.word("event size")? as usize;
        size.checked_sub(4).ok_or(TraceError::Malformed {
            offset: start,
            detail: "shorter than its own size field",
        })
    }

    fn word(&mut self, what: &str) -> Result<u32, TraceError> {
        let bytes = self.take(4, what)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn take(&mut self, size: usize, what: &str) -> Result<&'a [u8], TraceError> {
        let limit = self.end.min(self.page.len());
        let end = self.offset.saturating_add(size);
        match self.page.get(self.offset..end) {
            Some(bytes) if end <= limit => {
                self.offset = end;
                Ok(bytes)
            }
            _ => Err(TraceError::Truncated {
                what: what.into(),
                offset: self.offset,
                needed: size,
                available: limit.saturating_sub(self.offset),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const TEXT: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";

    fn header() -> HeaderPage {
        HeaderPage::parse(TEXT).unwrap()
    }

    fn page(timestamp: u64, flags: u64, data: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut page = timestamp.to_le_bytes().to_vec();
        page.extend((flags | data.len() as u64).to_le_bytes());
        page.extend(data);
        page.extend(tail);
        page
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn entry(type_len: u32, time_delta: u32) -> u32 {
        time_delta << 5 | type_len
    }

    #[test]
    fn the_header_text() {
        assert_eq!(header().sub_buffer_size(), 4096);
        let error = HeaderPage::parse("field: u64 timestamp; offset:0; size:8;").unwrap_err();
        assert_eq!(error, FormatError::Missing { what: "field commit" });
    }

    #[test]
    fn every_kind_of_entry() {
        let data = words(&[
            entry(1, 5),
            7, // two bytes of number, two of padding
            entry(30, 1),
            1, // time extend: + 2^27 + 1
            entry(2, 10),
            8,
            0xdead_beef,
            entry(29, 3),
            8,
            0, // discarded, with eight bytes of its own
            entry(0, 1),
            12,
            9,
            0x1111_1111, // size in the word: 12, of it 4 its own
            entry(31, 0x10),
            0x100, // absolute
            entry(1, 0),
            10,
            entry(29, 0),
            0xffff_ffff, // nothing more
        ]);
        let page = page(1000, 0, &data, &[0; 8]);
        let sub_buffer = header().open(&page).unwrap();
        assert_eq!(sub_buffer.missed(), Missed::None);
        let events: Vec<_> = sub_buffer
            .events()
            .map(|event| event.map(|e| (e.timestamp, e.id, e.payload.len())).unwrap())
            .collect();
        let extended = 1005 + (1 << 27) + 1;
        assert_eq!(
            events,
            [
                (1005, 7, 4),
                (extended + 10, 8, 8),
                (extended + 14, 9, 8),
                ((0x100 << 27) + 0x10, 10, 4)
            ]
        );
    }

    #[test]
    fn absolute_time_keeps_the_bits_it_lacks() {
        let stamp = |before: u64, low: u64| {
            let data = words(&[
                entry(31, u32::try_from(low & 0x7ff_ffff).unwrap()),
                u32::try_from(low >> 27).unwrap(),
                entry(1, 0),
                1,
            ]);
            let page = page(before, 0, &data, &[]);
            header().open(&page).unwrap().events().next().unwrap().unwrap().timestamp
        };
        let top = 3 << 59;
        assert_eq!(stamp(100, 50), 50, "without top bits the stamp is taken as it is");
        assert_eq!(stamp(top + 100, 200), top + 200);
        assert_eq!(stamp(top + 100, 50), (4 << 59) + 50, "wrapped");
    }

    #[test]
    fn lost_events_are_counted() {
        let data = words(&[entry(1, 0), 7]);
        let missed = |flags, tail: &[u8]| {
            let page = page(0, flags, &data, tail);
            let sub_buffer = header().open(&page).unwrap();
            assert_eq!(sub_buffer.events().count(), 1);
            sub_buffer.missed()
        };
        assert_eq!(missed(0, &[9; 8]), Missed::None);
        assert_eq!(missed(1 << 31, &[9; 8]), Missed::Unknown);
        assert_eq!(missed(3 << 30, &77u64.to_le_bytes()), Missed::Count(77));
        assert_eq!(missed(3 << 30, &[]), Missed::Unknown);
    }

    #[test]
    fn damage_is_an_error_with_an_offset_and_ends_the_page() {
        let check = |data: &[u32], expected: &str| {
            let page = page(0, 0, &words(data), &[]);
            let results: Vec<_> = header().open(&page).unwrap().events().collect();
            let [Err(error)] = results.as_slice() else { panic!("{results:?}") };
            assert_eq!(alloc::format!("{error}"), expected);
        };
        check(&[entry(28, 0), 7], "event at offset 20 needs 112 bytes, 4 are there");
        check(&[entry(0, 0)], "event size at offset 20 needs 4 bytes, 0 are there");
        check(
            &[entry(0, 0), 3],
            "malformed ring-buffer event at offset 16: shorter than its own size field",
        );
        check(
            &[entry(0, 0), 4],
            "malformed ring-buffer event at offset 16: no room for its number",
        );
        check(&[entry(0, 0), u32::MAX], "event at offset 24 needs 4294967291 bytes, 0 are there");
        check(
            &[entry(29, 1), 0],
            "malformed ring-buffer event at offset 16: shorter than its own size field",
        );
        check(&[entry(30, 1)], "time extend at offset 20 needs 4 bytes, 0 are there");
    }

    #[test]
    fn every_truncation_is_noticed() {
        let whole = page(0, 0, &words(&[entry(1, 0), 7, entry(2, 0), 8, 0]), &[]);
        for len in 0..whole.len() {
            match header().open(&whole[..len]) {
                Err(TraceError::Truncated { .. }) => assert!(len < 16),
                Err(other) => panic!("{other}"),
                Ok(sub_buffer) => {
                    let last = sub_buffer.events().last();
                    assert!(
                        matches!(last, Some(Err(TraceError::Truncated { .. }))),
                        "{len}: {last:?}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_page_ends(bytes in proptest::collection::vec(any::<u8>(), 0..600), commit in 0u64..700) {
            let mut bytes = bytes;
            if bytes.len() >= 16 {
                bytes[8..16].copy_from_slice(&commit.to_le_bytes());
            }
            if let Ok(sub_buffer) = header().open(&bytes) {
                prop_assert!(sub_buffer.events().count() <= bytes.len() / 4 + 1);
            }
        }

        #[test]
        fn events_written_are_events_read(
            events in proptest::collection::vec((0u32..1 << 27, any::<u16>(), 0usize..40), 0..20),
        ) {
            let mut data = vec![];
            let mut expected = vec![];
            let mut time = 500u64;
            for (delta, id, extra) in events {
                let mut payload = id.to_le_bytes().to_vec();
                payload.extend(vec![0xa5; extra * 4 + 2]);
                match u32::try_from(payload.len() / 4) {
                    Ok(words @ 1..=28) => data.extend(entry(words, delta).to_le_bytes()),
                    _ => {
                        data.extend(entry(0, delta).to_le_bytes());
                        data.extend(u32::try_from(payload.len() + 4).unwrap().to_le_bytes());
                    }
                }
                data.extend(&payload);
                time += u64::from(delta);
                expected.push((time, id, payload));
            }
            let page = page(500, 0, &data, &[]);
            let read: Vec<_> = header().open(&page).unwrap().events()
                .map(|event| event.map(|e| (e.timestamp, e.id, e.payload.to_vec())).unwrap())
                .collect();
            prop_assert_eq!(read, expected);
        }
    }
}
