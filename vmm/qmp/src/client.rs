//! The asking side, with a deadline on every wait.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::{Value, json};

use crate::frames::Frames;
use crate::{CommandError, Event};

/// Longest message taken from a server, in bytes: a memory map with tens of thousands of pages.
const MESSAGE_MAX: usize = 4 << 20;

/// Events kept for [`Client::next_event`]; of more, the oldest are dropped.
const EVENTS_MAX: usize = 1024;

/// A connection to one virtual machine.
///
/// After any error but [`QmpError::Command`] the stream's state is unknown: connect again.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    frames: Frames,
    events: VecDeque<Event>,
    last_id: u64,
}

/// Why a machine could not be asked, or did not do as asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum QmpError {
    #[error("{doing} at {path}")]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("no answer to {doing} from {path} within {after:?}")]
    Timeout { doing: String, path: PathBuf, after: Duration },
    #[error("{path} hung up during {doing}")]
    Closed { doing: String, path: PathBuf },
    #[error("{path} does not speak QMP: {detail}")]
    Protocol { path: PathBuf, detail: String },
    #[error("{command} was refused")]
    Command { command: String, source: CommandError },
}

impl Client {
    /// Connects, reads the greeting and leaves negotiation mode, all within `timeout`.
    ///
    /// # Errors
    /// No socket or no permission, no greeting in time, or something that is not QMP.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let deadline = Instant::now() + timeout;
        let stream = UnixStream::connect(path).map_err(|source| QmpError::Io {
            doing: "connecting to the QMP socket",
            path: path.to_owned(),
            source,
        })?;
        Self::introduced(stream, path, timeout, deadline)
    }

    /// Reads the greeting and leaves negotiation mode.
    pub(crate) fn introduced(
        stream: UnixStream,
        path: &Path,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<Self, QmpError> {
        let mut client = Self {
            stream,
            path: path.to_owned(),
            frames: Frames::new(MESSAGE_MAX),
            events: VecDeque::new(),
            last_id: 0,
        };
        let mut greeting = client.receive("greeting", timeout, deadline)?;
        if let Some(error) = greeting.get_mut("error") {
            return Err(client.refusal("connecting", error.take()));
        }
        if greeting.get("QMP").is_none() {
            return Err(client.protocol("the greeting has no member 'QMP'"));
        }
        client.execute("qmp_capabilities", Value::Null, remaining(deadline))?;
        Ok(client)
    }

    /// Carries out one command. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// [`QmpError::Command`] if the machine refused; anything else means that it did not answer.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        let deadline = Instant::now() + timeout;
        self.last_id += 1;
        let id = json!(self.last_id);
        let mut request = json!({ "execute": command, "id": id });
        if let (false, Some(fields)) = (arguments.is_null(), request.as_object_mut()) {
            fields.insert("arguments".to_owned(), arguments);
        }
        self.send(&request, timeout)?;
        loop {
            let mut message = self.receive(command, timeout, deadline)?;
            // An answer to an earlier command that timed out is of no use to anybody any more.
            if message.get("id").is_some_and(|found| *found != id) {
                continue;
            }
            if let Some(error) = message.get_mut("error") {
                return Err(self.refusal(command, error.take()));
            }
            match message.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => return Err(self.protocol("neither 'return' nor 'error' nor 'event'")),
            }
        }
    }

    /// The next event in order of arrival, waiting at most `timeout`; `None` if there was none.
    ///
    /// # Errors
    /// The machine hung up, or sent something that is not QMP.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, QmpError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        match self.receive_any("an event", timeout, Instant::now() + timeout) {
            Ok(message) => Ok(event_of(&message)),
            Err(QmpError::Timeout { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Process ID of the virtual machine monitor, as the kernel knows it (`SO_PEERCRED`).
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let credentials = getsockopt(&self.stream, PeerCredentials).ok()?;
        u32::try_from(credentials.pid()).ok()
    }

    pub(crate) fn timed_out(&self, doing: &str, after: Duration) -> QmpError {
        QmpError::Timeout { doing: doing.to_owned(), path: self.path.clone(), after }
    }

    pub(crate) fn unexpected(&self, command: &str, error: &serde_json::Error) -> QmpError {
        self.protocol(&format!("unexpected answer to {command}: {error}"))
    }

    fn send(&mut self, request: &Value, timeout: Duration) -> Result<(), QmpError> {
        let line = format!("{request}\n");
        self.stream
            .set_write_timeout(Some(timeout.max(Duration::from_millis(1))))
            .and_then(|()| self.stream.write_all(line.as_bytes()))
            .map_err(|source| self.io("sending a command", source))
    }

    /// The next message that is not an event; events are kept.
    fn receive(
        &mut self,
        doing: &str,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<Value, QmpError> {
        loop {
            let message = self.receive_any(doing, timeout, deadline)?;
            let Some(event) = event_of(&message) else { return Ok(message) };
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(event);
        }
    }

    fn receive_any(
        &mut self,
        doing: &str,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<Value, QmpError> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.frames.next() {
                return frame.map_err(|error| self.protocol(&error.to_string()));
            }
            let wait = remaining(deadline);
            let read = if wait.is_zero() {
                Err(ErrorKind::WouldBlock.into())
            } else {
                self.stream.set_read_timeout(Some(wait)).and_then(|()| self.stream.read(&mut bytes))
            };
            match read {
                Ok(0) => {
                    let (doing, path) = (doing.to_owned(), self.path.clone());
                    return Err(QmpError::Closed { doing, path });
                }
                Ok(count) => self.frames.push(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(self.timed_out(doing, timeout));
                }
                Err(error) => return Err(self.io("waiting for an answer", error)),
            }
        }
    }

    fn io(&self, doing: &'static str, source: std::io::Error) -> QmpError {
        QmpError::Io { doing, path: self.path.clone(), source }
    }

    fn refusal(&self, command: &str, error: Value) -> QmpError {
        match serde_json::from_value(error) {
            Ok(source) => QmpError::Command { command: command.to_owned(), source },
            Err(error) => self.protocol(&format!("malformed error: {error}")),
        }
    }

    fn protocol(&self, detail: &str) -> QmpError {
        QmpError::Protocol { path: self.path.clone(), detail: detail.to_owned() }
    }
}

fn event_of(message: &Value) -> Option<Event> {
    message.get("event")?;
    serde_json::from_value(message.clone()).ok()
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
