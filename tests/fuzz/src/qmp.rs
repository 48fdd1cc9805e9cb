//! What QMP promises, whatever the other end sends: no panic, one response a message, memory within the
//! limit, and work that the number of bytes bounds.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ras_core::Gpa;
use ras_qmp::fuzz::{Session, client};
use ras_qmp::ras::RetireCause;
use ras_qmp::server::REQUEST_MAX;
use ras_qmp::{CommandError, Handler};
use serde_json::{Map, Value, json};

/// How often a byte may be parsed at the worst: now and then while its value is not whole (four times in
/// all), and again for each bracket of 127 (`serde_json` allows no more) that begins a line of its own
/// before garbage.
const PARSES_MAX: u64 = 4 + 2 * 127;

/// Patience of the client. The stream has ended when it asks, so that it never waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Knows one command.
struct Echo;

impl Handler for Echo {
    fn execute(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Value, CommandError> {
        match command {
            "echo" => Ok(json!({ "arguments": arguments })),
            "fail" => Err(CommandError::argument("size", "a number of bytes")),
            _ => Err(CommandError::not_found(command)),
        }
    }
}

/// The first byte says how small the pieces are in which the rest arrives, and how long it may be.
pub(crate) fn requests(bytes: &[u8]) {
    let [first, bytes @ ..] = bytes else { return };
    let limit = if first & 0x80 == 0 { REQUEST_MAX } else { 256 };
    let pieces = 1 + usize::from(first & 0x7f);
    let in_pieces = served(bytes, pieces, limit);
    let whole = served(bytes, usize::MAX, limit);
    // Garbage may be noticed at another place, what is no garbage is not.
    if limit == REQUEST_MAX && whole.iter().all(|response| response.get("return").is_some()) {
        assert_eq!(in_pieces, whole);
    }
}

fn served(bytes: &[u8], size: usize, limit: usize) -> Vec<Value> {
    let mut session = Session::new(limit);
    let mut responses = Vec::new();
    for piece in bytes.chunks(size.min(bytes.len().max(1))) {
        responses.extend(session.push(piece, &Echo));
        assert!(session.held() <= limit + piece.len());
    }
    assert!(
        session.parsed() <= PARSES_MAX * bytes.len() as u64,
        "{} bytes were parsed for {}",
        session.parsed(),
        bytes.len()
    );
    assert!(responses.len() <= bytes.len());
    for response in &responses {
        assert!(response.get("return").is_some() != response.get("error").is_some());
        let line = response.to_string();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Value>(&line).ok().as_ref(), Some(response));
    }
    responses
}

/// A server that says all this, whatever it is asked, and hangs up.
pub(crate) fn answers(bytes: &[u8]) {
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
    far.write_all(bytes).expect("the input fits into a socket's buffer");
    far.shutdown(Shutdown::Write).expect("an end");
    let Ok(mut client) = client(near, TIMEOUT) else { return };
    let _ = client.query_status();
    let _ = client.memory_map();
    let _ = client.retire_range(Gpa(0x1000), 4096, RetireCause::Corrected, TIMEOUT);
    let _ = client.inject_poison(Gpa(0x1000));
    let _ = client.migrate("unix:/x");
    let _ = client.query_migrate().map(|status| status.is_over() || status.is_completed());
    for _ in 0..=bytes.len() {
        if client.next_event(TIMEOUT).is_err() {
            return;
        }
    }
    panic!("more events than bytes");
}
