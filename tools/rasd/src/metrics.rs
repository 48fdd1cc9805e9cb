//! Figures for monitoring, as a text file: Prometheus' exposition format 0.0.4, as node_exporter's
//! textfile collector reads it. `METRICS.md` lists them.
//!
//! The file is replaced as a whole, and only when something changed: a reader never sees half of it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ras_core::{Health, RetireState};
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
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // The collector takes files that end in `.prom` only.
    let fresh = path.with_extension("prom.new");
    fs::File::create(&fresh)?.write_all(text.as_bytes())?;
    fs::rename(&fresh, path)
}

/// The figures of `status`.
#[must_use]
pub fn render(status: &Status) -> String {
    let Status { gap, pages, counts, queue, store, mirror, health, .. } = status;
    let mut text = Text::default();
    text.gauge(
        "ras_ready",
        "Whether every stored page was dealt with, so that guests may start.",
        status.ready.into(),
    );
    text.gauge(
        "ras_start_gap_pages",
        "Stored pages that this boot's kernel had in use until rasd offlined them.",
        gap.pages,
    );
    text.gauge(
        "ras_start_gap_seconds",
        "Seconds from the kernel's boot until the last of them was offline.",
        gap.seconds,
    );
    text.gauge(
        "ras_start_excluded_pages",
        "Stored pages that were excluded before the kernel started.",
        gap.excluded,
    );
    text.gauge(
        "ras_start_absent_pages",
        "Stored pages where the machine has no memory.",
        gap.absent,
    );
    text.gauge(
        "ras_start_in_use_pages",
        "Stored pages that the kernel did not give up.",
        gap.in_use,
    );
    text.gauge(
        "ras_start_offlining_milliseconds",
        "Time it took to offline the stored pages.",
        gap.offlining_ms,
    );
    let states = [
        (RetireState::Pending, pages.pending),
        (RetireState::Retired, pages.retired),
        (RetireState::Failed, pages.failed),
        (RetireState::Probation, pages.probation),
        (RetireState::Expired, pages.expired),
        (RetireState::Stale, pages.stale),
    ];
    let samples = states.map(|(state, count)| (format!("{{state=\"{state}\"}}"), count));
    text.family("ras_pages", "gauge", "Stored pages by state.", &samples);
    text.gauge("ras_health", "Worth of this node: 0 green, 1 yellow, 2 red.", worth(health.health));
    text.gauge("ras_store_unsaved", "Entries the store did not take yet.", store.unsaved);
    text.gauge(
        "ras_store_damaged",
        "Damage of the list that nobody accepted: it may be incomplete.",
        store.damage.len() as u64,
    );
    text.gauge(
        "ras_mirror_failing",
        "Whether the mirror of the list is not what it should be.",
        (mirror.state == "failing").into(),
    );
    text.gauge(
        "ras_mirror_brought_back_entries",
        "Entries that the list lacked and its mirror had.",
        mirror.brought_back,
    );
    text.gauge(
        "ras_mirror_written_bytes",
        "Bytes written to the mirror in this boot.",
        mirror.written_bytes,
    );
    text.gauge(
        "ras_mirror_budget_bytes",
        "Bytes that may be written to the mirror in one boot.",
        mirror.budget_bytes,
    );
    text.counter("ras_mirror_damaged_total", "Times the mirror was damaged.", mirror.damaged);
    text.counter(
        "ras_mirror_errors_total",
        "Times the mirror could not be read or written.",
        mirror.errors,
    );
    text.counter("ras_events_total", "Reports taken from the queue.", counts.events);
    text.counter("ras_events_lost_total", "Reports that came when the queue was full.", queue.lost);
    text.counter(
        "ras_events_missed_total",
        "Reports the kernel's buffer overwrote before they were read.",
        counts.missed,
    );
    text.counter("ras_faults_total", "Faults diagnosed.", counts.faults);
    text.counter("ras_pages_offlined_total", "Pages the kernel gave up.", counts.offlined);
    text.counter("ras_pages_offline_failed_total", "Pages it did not.", counts.offline_failed);
    text.counter(
        "ras_evacuations_total",
        "Evacuations asked of the cluster engine.",
        counts.evacuations,
    );
    text.counter(
        "ras_store_errors_total",
        "Times the store did not take what it was given.",
        counts.store_errors,
    );
    text.counter(
        "ras_engine_errors_total",
        "Calls to the cluster engine that failed.",
        counts.engine_errors,
    );
    text.0
}

fn worth(health: Health) -> u64 {
    match health {
        Health::Green => 0,
        Health::Yellow => 1,
        Health::Red => 2,
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help, &[(String::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, &[(String::new(), value)]);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(String, u64)]) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let text = r#"{
            "version": "0", "pid": 1, "started": 0, "ready": true,
            "health": {"health": "yellow", "reason": "", "since": null, "evacuation": "none",
                       "reported": true},
            "pages": {"pending": 0, "retired": 3, "failed": 1},
            "gap": {"pages": 2, "seconds": 9, "excluded": 1},
            "sources": [], "queue": {"capacity": 1, "waiting": 0, "lost": 5}, "counts": {},
            "store": {"dir": "", "recovery": [], "damage": [], "unsaved": 0, "failing": null},
            "engine": {"name": "", "failover": false, "live_migration": false, "notes": ""}
        }"#;
        serde_json::from_str(text).unwrap()
    }

    /// The exposition format, "Comments, help text, and type information".
    #[test]
    fn every_sample_follows_its_help_and_type() {
        let text = render(&status());
        let mut family = "";
        let mut names = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, _, ..] => {
                    assert!(!names.contains(&name), "{name} is there twice");
                    names.push(name);
                    family = name;
                }
                ["#", "TYPE", name, "gauge"] => assert_eq!(name, family),
                ["#", "TYPE", name, "counter"] => {
                    assert!(name == family && name.ends_with("_total"), "{name}");
                }
                [sample, value] => {
                    assert_eq!(sample.split('{').next(), Some(family));
                    value.parse::<u64>().unwrap();
                }
                _ => panic!("{line}"),
            }
        }
        for line in [
            "ras_start_gap_pages 2",
            "ras_start_gap_seconds 9",
            "ras_start_excluded_pages 1",
            "ras_pages{state=\"retired\"} 3",
            "ras_health 1",
            "ras_events_lost_total 5",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        let documented = include_str!("../METRICS.md");
        for name in names {
            assert!(documented.contains(&format!("`{name}")), "{name} is not in METRICS.md");
        }
    }

    #[test]
    fn the_file_is_replaced_on_change_and_failures_heal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/rasd.prom");
        let mut metrics = Metrics::new(Some(path.clone()));
        metrics.update(status);
        assert!(!path.exists() && metrics.failing);
        fs::create_dir(path.parent().unwrap()).unwrap();
        metrics.update(status);
        assert_eq!(fs::read_to_string(&path).unwrap(), render(&status()));
        fs::remove_file(&path).unwrap();
        metrics.update(status);
        assert!(!path.exists(), "nothing changed, nothing is written");
        metrics.update(|| Status { ready: false, ..status() });
        assert!(fs::read_to_string(&path).unwrap().contains("ras_ready 0"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no left-overs");
        Metrics::default().update(|| unreachable!("nobody wants them"));
    }
}
