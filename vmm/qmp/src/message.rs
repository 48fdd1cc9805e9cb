//! The messages of the protocol. QEMU, "QEMU Machine Protocol Specification", section 2.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What a client asks: `{"execute": …, "arguments": …, "id": …}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The command's name.
    pub execute: String,
    /// Its arguments, by name.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// Anything; returned with the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// Something that happened in the machine, sent to every client without being asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Its name, in capitals.
    pub event: String,
    /// Its details.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// When.
    pub timestamp: EventTime,
}

impl Event {
    /// An event that happens now.
    #[must_use]
    pub fn now(name: &str, data: Value) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = EventTime {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            microseconds: i64::from(since.subsec_micros()),
        };
        Self { event: name.to_owned(), data, timestamp }
    }
}

/// Time of an event: since the Unix epoch; both -1 where the host could not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub struct EventTime {
    pub seconds: i64,
    pub microseconds: i64,
}

/// The protocol's classes of errors (QEMU, `qapi/error.json`, `QapiErrorClass`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Anything that has no class of its own.
    GenericError,
    /// No such command, or not now.
    CommandNotFound,
    /// No such device.
    DeviceNotFound,
    /// The device is not active.
    DeviceNotActive,
    /// The needed kernel feature is missing.
    KVMMissingCap,
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct CommandError {
    /// For programs.
    pub class: ErrorClass,
    /// For people.
    pub desc: String,
}

impl CommandError {
    /// An error of the generic class.
    #[must_use]
    pub fn generic(desc: impl fmt::Display) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.to_string() }
    }

    /// The answer to a name nobody knows.
    #[must_use]
    pub fn not_found(command: &str) -> Self {
        let desc = format!("The command {command} has not been found");
        Self { class: ErrorClass::CommandNotFound, desc }
    }

    /// The answer to a missing or ill-typed argument.
    #[must_use]
    pub fn argument(name: &str, wanted: &str) -> Self {
        Self::generic(format_args!("Parameter '{name}' expects {wanted}"))
    }
}

/// States of the machine this project uses, out of QEMU's `RunState`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// The vCPUs run.
    Running,
    /// Stopped by `stop`.
    Paused,
    /// Waiting for an incoming migration.
    Inmigrate,
    /// Stopped to finish an outgoing migration.
    FinishMigrate,
    /// Migrated away; the guest now lives elsewhere.
    Postmigrate,
    /// The guest panicked.
    GuestPanicked,
    /// The VMM met an error it can't run on with.
    InternalError,
    /// The guest shut down.
    Shutdown,
    /// The guest hung, and its watchdog stopped it.
    Watchdog,
}

pub(crate) fn response(result: Result<Value, CommandError>, id: Option<Value>) -> Value {
    let mut message = match result {
        Ok(value) => json!({ "return": value }),
        Err(error) => json!({ "error": error }),
    };
    if let (Some(id), Some(fields)) = (id, message.as_object_mut()) {
        fields.insert("id".to_owned(), id);
    }
    message
}
