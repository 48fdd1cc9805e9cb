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
    /// Nothing new arrived since the last attempt that could complete a value.
    stale: bool,
    /// Inside garbage: everything up to the next line break is dropped.
    skipping: bool,
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
        Self { buffer: Vec::new(), limit, stale: true, skipping: false }
    }

    /// Adds bytes as they arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Parsing again only when a value may have ended keeps byte-by-byte senders linear: a value
        // that matters here is an object. Garbage is noticed at the line break at the latest.
        self.stale &= !bytes.iter().any(|byte| matches!(byte, b'}' | b'\n'));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value, `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Option<Result<Value, FrameError>> {
        if self.skipping {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                self.buffer.clear();
                return None;
            };
            self.buffer.drain(..=end);
            self.skipping = false;
            self.stale = false;
        }
        let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.buffer.drain(..blank);
        if self.stale && self.buffer.len() <= self.limit || self.buffer.is_empty() {
            return None;
        }
        let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) if values.byte_offset() <= self.limit => {
                let end = values.byte_offset();
                self.buffer.drain(..end);
                Some(Ok(value))
            }
            Some(Err(error)) if error.is_eof() && self.buffer.len() <= self.limit => {
                self.stale = true;
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
