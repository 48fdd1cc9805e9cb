//! Ways in for the fuzzer (`tests/fuzz`): the two ends without their sockets' threads.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::frames::Frames;
use crate::server::respond;
use crate::{Client, Handler, QmpError};

/// What a server keeps of a client.
#[derive(Debug)]
pub struct Session {
    frames: Frames,
    negotiated: AtomicBool,
}

impl Session {
    /// A client that just connected, whose messages may have `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { frames: Frames::new(limit), negotiated: AtomicBool::new(false) }
    }

    /// The responses to bytes that arrived.
    pub fn push(&mut self, bytes: &[u8], handler: &dyn Handler) -> Vec<Value> {
        self.frames.push(bytes);
        let frames = &mut self.frames;
        let responses = std::iter::from_fn(|| frames.next());
        responses.map(|frame| respond(&self.negotiated, handler, frame)).collect()
    }

    /// Bytes that wait for more.
    #[must_use]
    pub fn held(&self) -> usize {
        self.frames.held()
    }

    /// Bytes that a parser was given so far, each as often as it was.
    #[must_use]
    pub fn parsed(&self) -> u64 {
        self.frames.parsed
    }
}

/// A client at the end of `stream`.
///
/// # Errors
/// As [`Client::connect`].
pub fn client(stream: UnixStream, timeout: Duration) -> Result<Client, QmpError> {
    Client::introduced(stream, Path::new("fuzz"), timeout, Instant::now() + timeout)
}
