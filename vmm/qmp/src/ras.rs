//! The commands this project adds (`x-ras-*`) and those of QEMU's it uses, typed.

use std::time::Duration;

use ras_core::{Gpa, Pfn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Client, QmpError, RunState};

/// Deadline of commands that only read state.
const QUERY: Duration = Duration::from_secs(2);

/// Answer to `x-ras-memory-map`: where guest memory lies in the monitor's address space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryMap {
    /// The guest's name.
    pub name: String,
    /// Process whose `/proc/PID/pagemap` `hva` refers to.
    pub pid: u32,
    /// All guest memory, ascending, without overlap.
    pub regions: Vec<Region>,
    /// Pages known to be bad.
    pub poisoned: Vec<PoisonedPage>,
}

/// A run of guest memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Region {
    /// First guest physical address.
    pub gpa: Gpa,
    /// Bytes.
    pub size: u64,
    /// First virtual address in the monitor.
    pub hva: u64,
    /// How the guest has it.
    pub kind: RegionKind,
}

/// How a guest has a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionKind {
    /// Boot memory: can't be given back.
    Ram,
    /// Behind a virtio-mem device: can be unplugged in blocks.
    VirtioMem,
}

/// A bad page of a guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoisonedPage {
    /// The guest's page.
    pub gpa: Gpa,
    /// The host frame behind it, if the monitor learned it.
    pub pfn: Option<Pfn>,
    /// Out of the guest's use, and kept from everybody else's by the monitor.
    pub held: bool,
}

/// Why a range is to be retired; decides what the guest is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetireCause {
    /// Its data is lost.
    Uncorrected,
    /// It may fail; its data is still good.
    Corrected,
}

/// Answer to `x-ras-retire-range`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RetireAnswer {
    /// What became of the range.
    pub outcome: RetireOutcome,
    /// Why, in one line; empty where there is nothing to say.
    #[serde(default)]
    pub detail: String,
    /// The blocks given up.
    #[serde(default)]
    pub blocks: Vec<Gpa>,
    /// Longest time for which the guest stood still, in microseconds.
    #[serde(default)]
    pub paused_us: u64,
    /// Time from request to decision, in microseconds.
    pub elapsed_us: u64,
}

/// See [`RetireAnswer`]. A guest that declines is an outcome, not an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetireOutcome {
    /// Its contents are in other frames now, and the guest noticed nothing. The monitor keeps the old
    /// frames out of everybody's use.
    Replaced,
    /// The guest gave the block up, now or before; the bad page is held.
    Unplugged,
    /// The memory can't be unplugged, or the guest kept it past the deadline.
    Refused,
}

/// Answer to `query-migrate`, with QEMU's names.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrateStatus {
    /// `setup`, `active`, `completed`, `failed` or `cancelled`; `None` if none was ever started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Milliseconds since the start, or from start to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<u64>,
    /// Milliseconds the guest did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// Poisoned pages that travelled as marks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_ras_poisoned_pages: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

impl MigrateStatus {
    /// Whether it is over, one way or another.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_deref(), Some("completed" | "failed" | "cancelled"))
    }

    /// Whether the guest lives at the destination now.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.status.as_deref() == Some("completed")
    }
}

impl Client {
    /// `query-status`.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn query_status(&mut self) -> Result<RunState, QmpError> {
        #[derive(Deserialize)]
        struct Status {
            status: RunState,
        }
        self.typed::<Status>("query-status", Value::Null, QUERY).map(|answer| answer.status)
    }

    /// `x-ras-memory-map`.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn memory_map(&mut self) -> Result<MemoryMap, QmpError> {
        self.typed("x-ras-memory-map", Value::Null, QUERY)
    }

    /// `x-ras-retire-range`: asks for `size` bytes at `gpa` to be taken out of the guest's use, and
    /// waits for the decision, which the monitor makes within `timeout`.
    ///
    /// # Errors
    /// As [`Client::execute`]; a refusal is not an error.
    pub fn retire_range(
        &mut self,
        gpa: Gpa,
        size: u64,
        cause: RetireCause,
        timeout: Duration,
    ) -> Result<RetireAnswer, QmpError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let arguments =
            json!({ "gpa": gpa, "size": size, "cause": cause, "timeout-ms": timeout_ms });
        // The monitor keeps the deadline; the extra time is for the way there and back.
        self.typed("x-ras-retire-range", arguments, timeout + QUERY)
    }

    /// `x-ras-inject-poison` (needs `--allow-fault-injection`): the page's host frame, if known.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn inject_poison(&mut self, gpa: Gpa) -> Result<Option<Pfn>, QmpError> {
        #[derive(Deserialize)]
        struct Answer {
            pfn: Option<Pfn>,
        }
        self.typed::<Answer>("x-ras-inject-poison", json!({ "gpa": gpa }), QUERY)
            .map(|answer| answer.pfn)
    }

    /// `migrate`: starts it and returns; follow it with [`Client::query_migrate`].
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn migrate(&mut self, uri: &str) -> Result<(), QmpError> {
        self.execute("migrate", json!({ "uri": uri }), Duration::from_secs(10)).map(drop)
    }

    /// `query-migrate`.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn query_migrate(&mut self) -> Result<MigrateStatus, QmpError> {
        self.typed("query-migrate", Value::Null, QUERY)
    }

    /// Waits for a migration to end.
    ///
    /// # Errors
    /// As [`Client::execute`]; [`QmpError::Timeout`] if it is still under way after `timeout`. A
    /// failed migration is an answer, not an error.
    pub fn wait_migrated(&mut self, timeout: Duration) -> Result<MigrateStatus, QmpError> {
        const POLL: Duration = Duration::from_millis(5);
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let status = self.query_migrate()?;
            if status.is_over() {
                return Ok(status);
            }
            if std::time::Instant::now() >= deadline {
                return Err(self.timed_out("migrate", timeout));
            }
            std::thread::sleep(POLL);
        }
    }

    fn typed<T: serde::de::DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<T, QmpError> {
        let answer = self.execute(command, arguments, timeout)?;
        serde_json::from_value(answer).map_err(|error| self.unexpected(command, &error))
    }
}
