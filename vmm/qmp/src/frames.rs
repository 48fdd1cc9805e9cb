//! JSON values out of a byte stream, with a limit.
//!
//! The protocol has no framing of its own: QEMU reads a stream of JSON values, and old clients send
//! them without a line break. So values end where their JSON ends; a line break only serves to find
//! back after garbage.

use serde_json::Value;

/// Collects bytes and hands out whole values.
#[derive(Debug)]
pub(crate) struct Frames {
    buffer: Vec<u8>,
    limit: usize,
    /// How far the first value was looked through for its end.
    scan: Scan,
    /// What is there does not need to be parsed before this many bytes are.
    patience: usize,
    /// Inside garbage: everything up to the next line break is dropped.
    skipping: bool,
    /// Bytes that a parser was given so far.
    #[cfg(any(test, fuzzing))]
    pub(crate) parsed: u64,
}

/// Why the next bytes are not a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// Not JSON. The rest of the line is dropped.
    #[error("invalid JSON: {0}")]
    Syntax(String),
    /// More than the limit without an end. The rest of the line is dropped.
    #[error("message longer than {0} bytes")]
    TooLong(usize),
}

impl Frames {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            limit,
            scan: Scan::default(),
            patience: 0,
            skipping: false,
            #[cfg(any(test, fuzzing))]
            parsed: 0,
        }
    }

    /// Bytes that wait for the rest of their value.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Adds bytes as they arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value, `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Option<Result<Value, FrameError>> {
        if self.skipping {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                self.buffer.clear();
                return None;
            };
            self.drop_first(end + 1);
            self.skipping = false;
        }
        let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if blank > 0 {
            self.drop_first(blank);
        }
        let due = match self.scan.go_on(&self.buffer) {
            Sight::Nothing => false,
            Sight::End => true,
            // Garbage shows at a line break. A value of many lines is parsed when it has doubled, so
            // that all of these attempts together cost no more than two of the last one.
            Sight::Line => self.buffer.len() >= self.patience,
        };
        if self.buffer.is_empty() || !due && self.buffer.len() <= self.limit {
            return None;
        }
        let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
        let first = values.next();
        #[cfg(any(test, fuzzing))]
        {
            self.parsed += match &first {
                Some(Err(error)) => {
                    let lines = self.buffer.split_inclusive(|byte| *byte == b'\n');
                    let before: usize =
                        lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
                    (before + error.column()) as u64
                }
                _ => values.byte_offset() as u64,
            };
        }
        match first {
            Some(Ok(value)) if values.byte_offset() <= self.limit => {
                let end = values.byte_offset();
                self.drop_first(end);
                Some(Ok(value))
            }
            Some(Err(error)) if error.is_eof() && self.buffer.len() <= self.limit => {
                self.patience = 2 * self.buffer.len();
                None
            }
            Some(Err(error)) if !error.is_eof() => {
                self.skipping = true;
                Some(Err(FrameError::Syntax(error.to_string())))
            }
            _ => {
                self.skipping = true;
                Some(Err(FrameError::TooLong(self.limit)))
            }
        }
    }

    /// Drops bytes from the front: another value begins.
    fn drop_first(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.scan = Scan::default();
        self.patience = 0;
    }
}

/// Finds where a value may end by its brackets alone, looking at each byte once: a parser that tried
/// again with every piece that arrives would take time that grows with the square of a value's length.
#[derive(Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// What [`Scan::go_on`] came upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sight {
    /// More bytes are needed.
    Nothing,
    /// A line break within brackets, and nothing else.
    Line,
    /// All brackets are closed: here a value ends, or it is none.
    End,
}

impl Scan {
    /// Looks on through `bytes`, which begin with the value and have only grown.
    fn go_on(&mut self, bytes: &[u8]) -> Sight {
        let mut sight = Sight::Nothing;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            if *byte == b'\n' && (self.in_string || self.depth == 0) {
                // A value without brackets ends here; a string can't go on.
                return Sight::End;
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'\n' => sight = Sight::Line,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Sight::End;
                    }
                }
                _ => {}
            }
        }
        sight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(frames: &mut Frames) -> Vec<Result<Value, FrameError>> {
        std::iter::from_fn(|| frames.next()).collect()
    }

    #[test]
    fn values_need_no_line_break() {
        let mut frames = Frames::new(100);
        frames.push(br#"{"a":1}{"b":2} {"c""#);
        assert_eq!(all(&mut frames), [Ok(json!({"a":1})), Ok(json!({"b":2}))]);
        frames.push(b":3}");
        assert_eq!(all(&mut frames), [Ok(json!({"c":3}))]);
    }

    #[test]
    fn garbage_costs_its_line_only() {
        let mut frames = Frames::new(100);
        frames.push(b"\xff\x00 what? }\n{\"a\":1}\n");
        let found = all(&mut frames);
        assert!(matches!(found[0], Err(FrameError::Syntax(_))), "{found:?}");
        assert_eq!(found[1..], [Ok(json!({"a":1}))]);
    }

    #[test]
    fn an_oversized_message_is_dropped_to_the_end_of_its_line() {
        let mut frames = Frames::new(16);
        frames.push(b"{\"a\":\"");
        for _ in 0..1000 {
            frames.push(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
            for message in all(&mut frames) {
                assert_eq!(message, Err(FrameError::TooLong(16)));
            }
            assert!(frames.buffer.len() <= 64, "memory is bounded");
        }
        frames.push(b"\"}\n{}\n");
        assert_eq!(all(&mut frames), [Ok(json!({}))]);
    }

    /// A map of a guest's memory with tens of thousands of bad pages, as it arrives from a socket; and
    /// the worst that a hostile sender can make of it.
    #[test]
    fn the_work_is_linear_in_the_bytes() {
        let page = r#"{"gpa":"0x100001000","pfn":null,"held":true},"#;
        let honest = format!("{{\"poisoned\":[{}0]}}\n", page.repeat(2_000));
        let lines = honest.replace(',', ",\n");
        let brackets = format!("{{\"a\":\"{}\"}}\n", "}".repeat(100_000));
        for (text, size) in [(&honest, 4096), (&honest, 1), (&lines, 1), (&brackets, 1)] {
            let mut frames = Frames::new(1 << 20);
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                frames.push(piece);
                found.extend(all(&mut frames));
            }
            assert!(matches!(found[..], [Ok(_)]), "{} values", found.len());
            let parsed = frames.parsed;
            assert!(parsed <= 4 * text.len() as u64, "{parsed} bytes parsed for {}", text.len());
        }
    }

    #[test]
    fn garbage_within_brackets_is_noticed_in_the_end() {
        let mut frames = Frames::new(1000);
        frames.push(b"{\"a\":[1,\n");
        assert_eq!(all(&mut frames), []);
        frames.push(b"what?\n");
        assert_eq!(all(&mut frames), [], "it may be told later");
        frames.push(b"{\"execute\":\"cont\"}\n");
        let found = all(&mut frames);
        let (last, garbage) = found.split_last().expect("something");
        assert_eq!(*last, Ok(json!({"execute":"cont"})));
        assert!(garbage.iter().all(Result::is_err) && !garbage.is_empty(), "{found:?}");
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let mut frames = Frames::new(1 << 20);
        frames.push("[".repeat(1 << 19).as_bytes());
        frames.push(b"\n");
        assert!(matches!(frames.next(), Some(Err(FrameError::Syntax(_)))));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..50)) {
            let mut frames = Frames::new(64);
            for piece in pieces {
                frames.push(&piece);
                prop_assert!(all(&mut frames).len() <= 51);
                prop_assert!(frames.buffer.len() <= 64 + 50);
            }
        }

        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(1usize..7, 1..40)) {
            let text = b"{\"execute\":\"stop\",\"id\":[1,{\"x\":\"}\"}]}\n{\"execute\":\"cont\"}{}\n";
            let mut frames = Frames::new(64);
            let (mut rest, mut found) = (&text[..], Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                frames.push(piece);
                found.extend(all(&mut frames));
                rest = tail;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(found.len(), 3);
            prop_assert!(found.iter().all(Result::is_ok));
        }
    }
}
