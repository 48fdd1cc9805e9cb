//! What `query-migrate` answers, in QEMU's names.

use serde::Serialize;

/// How far a migration got. QEMU's `MigrationStatus`, the values that occur here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Connecting.
    Setup,
    /// Memory is on its way; the guest runs here, or stands still for the last round.
    Active,
    /// The guest runs at the destination.
    Completed,
    /// It did not work; see `error-desc`. The guest goes on here, unless `x-ras-unconfirmed`.
    Failed,
    /// An operator stopped it; the guest goes on here.
    Cancelled,
}

impl Status {
    /// The name in QMP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The body of `query-migrate`'s answer. QEMU's `MigrationInfo`, plus `x-ras-*`.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Stats {
    /// How far.
    pub status: Status,
    /// Milliseconds since `migrate`, until the end where it has ended.
    pub total_time: u64,
    /// Milliseconds to connect and to agree.
    pub setup_time: u64,
    /// Milliseconds between the guest's stop here and the word that it runs there, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    /// Milliseconds the gap would take if it began now, by the measured bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime: Option<u64>,
    /// Memory.
    pub ram: RamStats,
    /// Pages that travel as marks because their contents are lost.
    pub x_ras_poisoned_pages: u64,
    /// The source does not know whether the guest runs at the destination, and stays paused.
    pub x_ras_unconfirmed: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
}

/// QEMU's `MigrationRAMStats`.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamStats {
    /// Bytes of memory the guest may use.
    pub total: u64,
    /// Bytes sent, everything counted.
    pub transferred: u64,
    /// Bytes that still have to be sent.
    pub remaining: u64,
    /// Pages that needed no contents because they are zero.
    pub duplicate: u64,
    /// Pages sent with contents.
    pub normal: u64,
    /// The same in bytes.
    pub normal_bytes: u64,
    /// Always 4096.
    pub page_size: u64,
    /// Rounds, the first included.
    pub dirty_sync_count: u32,
    /// Megabits per second in the last round that was long enough to tell.
    pub mbps: f64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            status: Status::Setup,
            total_time: 0,
            setup_time: 0,
            downtime: None,
            expected_downtime: None,
            ram: RamStats {
                total: 0,
                transferred: 0,
                remaining: 0,
                duplicate: 0,
                normal: 0,
                normal_bytes: 0,
                page_size: ras_core::PAGE_SIZE,
                dirty_sync_count: 0,
                mbps: 0.0,
            },
            x_ras_poisoned_pages: 0,
            x_ras_unconfirmed: false,
            error_desc: None,
        }
    }
}
