//! The list for the next boot: whenever the list of bad pages changes, firmware's is brought up to date,
//! so that the pages are gone from the memory map before the next kernel starts.
//!
//! Firmware's flash wears out and gives little room back before a reboot, so changes are collected: a
//! list is written once nothing changed for a while, not too often, and at the end. A list that is a
//! little behind costs nothing but the gap: whatever firmware did not exclude is offlined at the start.

use std::path::Path;
use std::time::{Duration, Instant};

use persist_store::boot::{BootList, Wanted, Written, find_esp, ranges_of};
use persist_store::exclusion::{Fate, Outcome};
use ras_core::{MapEpoch, Pfn};

use crate::config::{Config, Switch};
use crate::followers::Follower;
use crate::guests::chain;
use crate::pace::Pace;
use crate::shared::Shared;

/// What firmware did before this boot.
#[derive(Debug, Default)]
pub struct Account {
    outcome: Option<Outcome>,
}

/// Keeps firmware's list in step with ours.
pub struct BootLists {
    mode: Switch,
    list: BootList,
    epoch: Option<MapEpoch>,
    pace: Pace,
}

impl Account {
    /// Whether firmware used the page itself and had the kernel reserve it. The kernel's own word is
    /// needed as well: this is only what it was asked to do.
    #[must_use]
    pub fn was_handed_over(&self, pfn: Pfn) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| {
            outcome.details.iter().any(|detail| {
                let first = detail.pages.start.0;
                detail.fate == Fate::HandedOver
                    && (first..first.saturating_add(detail.pages.count)).contains(&pfn.0)
            })
        })
    }
}

impl BootLists {
    /// The places the configuration names, and what firmware did before this boot.
    #[must_use]
    pub fn new(config: &Config, epoch: Option<MapEpoch>) -> (Self, Account) {
        let efivars = config.efivars();
        // Without firmware of this kind nobody reads the partition.
        let found = || find_esp(Path::new("/")).filter(|_| efivars.is_dir());
        let esp = config.boot.esp.clone().or_else(found);
        let list = BootList::new(&efivars, esp.as_deref());
        let outcome = list.outcome().unwrap_or_else(|error| {
            tracing::warn!("what firmware excluded before this boot: {}", chain(&error));
            None
        });
        if let Some(outcome) = &outcome {
            log(outcome);
        }
        let [settle, pause] = [config.boot.settle_s, config.boot.pause_s].map(Duration::from_secs);
        let pace = Pace::new(settle, pause, Instant::now());
        (Self { mode: config.boot.list, list, epoch, pace }, Account { outcome })
    }

    fn write(&mut self, shared: &Shared) {
        // The ledger is free again before firmware is asked: that can take a second.
        let (pages, changes) = {
            let ledger = shared.ledger();
            (ledger.pages(None, usize::MAX), ledger.changes())
        };
        self.pace.has(changes);
        if self.mode == Switch::Auto && !self.list.is_installed() {
            shared.set_boot("off", "no list for firmware is installed: see rasctl boot install");
            return;
        }
        let wanted = Wanted {
            ranges: ranges_of(&pages),
            map_epoch: self.epoch.map_or(0, |epoch| epoch.0),
            ..Wanted::default()
        };
        match self.list.write(&wanted) {
            Ok(Written::Unchanged) => {
                shared.set_boot("in step", &format!("{} pages", pages.len()));
            }
            Ok(Written::Stored { place, ranges, bytes, left_over_pages, note }) => {
                self.pace.wrote(Instant::now());
                tracing::info!(
                    pages = pages.len(),
                    ranges,
                    bytes,
                    left_over_pages,
                    place,
                    note,
                    "firmware has the list for the next boot"
                );
                let note = note.map_or_else(String::new, |note| format!("; {note}"));
                let detail = format!("{} pages in {ranges} ranges, {place}{note}", pages.len());
                shared.set_boot("in step", &detail);
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "FIRMWARE'S LIST IS NOT UP TO DATE");
                shared.set_boot("failing", &error);
                self.pace.failed(Instant::now());
            }
        }
    }
}

impl Follower for BootLists {
    fn name(&self) -> &'static str {
        "firmware's list for the next boot"
    }

    fn look(&mut self, shared: &Shared) {
        if self.mode != Switch::Off && self.pace.is_due(shared.ledger().changes(), Instant::now()) {
            self.write(shared);
        }
    }

    fn finish(&mut self, shared: &Shared) {
        if self.mode != Switch::Off && self.pace.is_behind(shared.ledger().changes()) {
            self.write(shared);
        }
    }
}

/// Says in the log what firmware did before this boot.
fn log(outcome: &Outcome) {
    tracing::info!(
        listed = outcome.listed_pages,
        excluded = outcome.excluded_pages - outcome.filler_pages.min(outcome.excluded_pages),
        handed_over = outcome.handed_over_pages,
        kept = outcome.kept_pages,
        absent = outcome.absent_pages,
        refused = outcome.refused_pages,
        left_over = outcome.left_over.pages,
        took_us = outcome.times.total_us,
        "firmware excluded pages before this boot"
    );
    if outcome.found_damage() {
        tracing::warn!(copies = ?outcome.copies, "firmware found a damaged copy of its list");
    }
    if outcome.out_of_time || outcome.limited {
        tracing::warn!(
            outcome.out_of_time,
            outcome.limited,
            "firmware did not do all that its list asks for"
        );
    }
}
