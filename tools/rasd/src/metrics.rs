//! Figures for monitoring, as a text file: Prometheus' exposition format 0.0.4, as node_exporter's
//! textfile collector reads it. `METRICS.md` lists them.
//!
//! The file is replaced as a whole, and only when something changed: a reader never sees half of it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use rasd_api::Status;

/// The file, and what was last written to it.
#[derive(Debug, Default)]
pub struct Metrics {
    path: Option<PathBuf>,
    written: String,
    failing: bool,
}

impl Metrics {
    /// Writes to `path`; nothing at all without one.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// Writes what `status` says. What fails is said once, and tried again the next time.
    pub fn update(&mut self, status: impl FnOnce() -> Status) {
        let Some(path) = &self.path else { return };
        let text = render(&status());
        if text == self.written && !self.failing {
            return;
        }
        match replace(path, &text) {
            Ok(()) => (self.written, self.failing) = (text, false),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = path.display();
                    tracing::warn!(%error, "metrics can't be written to {path} (metrics.file)");
                }
            }
        }
    }
}

/// Beside the file, then over it. Not synced: after a power loss these figures are history.
fn replace(path: &std::path::Path, text: &str) -> io::Result<()> {
    // The collector takes files that end in `.prom` only.
    let fresh = path.with_extension("prom.new");
    fs::File::create(&fresh)?.write_all(text.as_bytes())?;
    fs::rename(&fresh, path)
}

/// The figures of `status`.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
        // Writing to a String can't fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let Status { gap, pages, counts, queue, store, health, .. } = status;
    let mut gauge = |name, help, value| family(name, "gauge", help, &[("", value)]);
    gauge("ras_ready", "Whether every stored page was dealt with, so that guests may start.", status.ready.into());
    gauge("ras_start_gap_pages", "Stored pages that this boot's kernel had in use until rasd offlined them.", gap.pages);
    gauge("ras_start_gap_seconds", "Seconds from the kernel's boot until the last of them was offline.", gap.seconds);
    gauge("ras_start_excluded_pages", "Stored pages that were excluded before the kernel started.", gap.excluded);
    gauge("ras_start_absent_pages", "Stored pages where the machine has no memory.", gap.absent);
    gauge("ras_start_in_use_pages", "Stored pages that the kernel did not give up.", gap.in_use);
    gauge("ras_start_offlining_milliseconds", "Time it took to offline the stored pages.", gap.offlining_ms);
    let states = [
        ("{state=\"pending\"}", pages.pending),
        ("{state=\"retired\"}", pages.retired),
        ("{state=\"failed\"}", pages.failed),
    ];
    family("ras_pages", "gauge", "Stored pages by state.", &states);
    let mut gauge = |name, help, value| family(name, "gauge", help, &[("", value)]);
    gauge("ras_health", "Worth of this node: 0 green, 1 yellow, 2 red.", health.health as u64);
    gauge("ras_store_unsaved", "Entries the store did not take yet.", store.unsaved);
    gauge("ras_store_damaged", "Damage of the list that nobody accepted: it may be incomplete.", store.damage.len() as u64);
    let counters = [
        ("ras_events_total", "Reports taken from the queue since rasd started.", counts.events),
        ("ras_events_lost_total", "Reports that came when the queue was full.", queue.lost),
        ("ras_events_missed_total", "Reports the kernel's buffer overwrote before they were read.", counts.missed),
        ("ras_faults_total", "Faults diagnosed.", counts.faults),
        ("ras_pages_offlined_total", "Pages the kernel took out of use.", counts.offlined),
        ("ras_pages_offline_failed_total", "Pages it did not.", counts.offline_failed),
        ("ras_evacuations_total", "Evacuations asked of the cluster engine.", counts.evacuations),
        ("ras_store_errors_total", "Times the store did not take what it was given.", counts.store_errors),
        ("ras_engine_errors_total", "Calls to the cluster engine that failed.", counts.engine_errors),
    ];
    for (name, help, value) in counters {
        family(name, "counter", help, &[("", value)]);
    }
    out
}
