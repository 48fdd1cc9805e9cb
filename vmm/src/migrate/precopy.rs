//! Sending memory while the guest changes it: rounds over what is dirty, until the rest is small.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use ras_core::{Gpa, PAGE_SIZE};

use super::format::{BATCH_PAGES_MAX, Kind, RUNS_MAX, Run, decode_sync, encode_runs};
use super::page_set::PageSet;
use super::source::Progress;
use super::transport::Channel;
use super::{MigrateError, Parameters, Source, WhenStuck, vm};
use crate::memory::transfer::PageLook;

/// Below this many pages another round isn't worth its round trip.
const FEW_PAGES: u64 = 256;

/// The sender's view of memory on both ends.
pub(super) struct Precopy<'a> {
    source: &'a dyn Source,
    channel: &'a Channel,
    progress: &'a Progress,
    parameters: Parameters,
    /// Pages whose contents the destination does not have yet.
    pending: PageSet,
    /// Pages the guest may use, as of this round.
    populated: PageSet,
    /// Pages that hold something other than zeroes at the destination.
    filled: PageSet,
    /// Pages that are marked as lost at the destination.
    marked: PageSet,
    /// Bytes per second, from the last round that was long enough to tell.
    bandwidth: Option<f64>,
    round: u32,
}

impl<'a> Precopy<'a> {
    pub(super) fn new(
        source: &'a dyn Source,
        channel: &'a Channel,
        progress: &'a Progress,
        parameters: Parameters,
    ) -> Self {
        let nothing = PageSet::empty(source.ram());
        Self {
            source,
            channel,
            progress,
            parameters,
            pending: nothing.clone(),
            populated: nothing.clone(),
            filled: nothing.clone(),
            marked: nothing,
            bandwidth: None,
            round: 0,
        }
    }

    /// Sends memory while the guest runs. Dirty logging is on. Returns when the guest should stop.
    pub(super) fn run_live(&mut self) -> Result<(), MigrateError> {
        loop {
            let before = self.pending.count();
            self.send_round(self.parameters.bandwidth_max)?;
            self.note_dirty()?;
            let left = self.pending.count();
            let gap = self.expected_gap(left);
            self.progress.update(|stats| {
                stats.expected_downtime = gap.map(millis);
                stats.ram.remaining = left * PAGE_SIZE;
            });
            let fits = gap.is_some_and(|gap| gap <= self.parameters.downtime_limit);
            // The limit is the gap a guest may have, not the one it should have: go on while each
            // round at least halves the rest.
            let worth_another = left > FEW_PAGES && (self.round == 1 || left < before / 2);
            if fits && !worth_another {
                return Ok(());
            }
            if self.round >= self.parameters.rounds_max {
                return match self.parameters.when_stuck {
                    _ if fits => Ok(()),
                    WhenStuck::StopAndCopy => Ok(()),
                    WhenStuck::Fail => Err(MigrateError::NoConvergence {
                        rounds: self.round,
                        remaining: left * PAGE_SIZE,
                    }),
                };
            }
        }
    }

    /// Sends the rest, with the guest paused.
    pub(super) fn finish(&mut self) -> Result<(), MigrateError> {
        self.note_dirty()?;
        self.send_round(None)
    }

    /// Adds what the guest and the VMM wrote to what has to be sent.
    fn note_dirty(&mut self) -> Result<(), MigrateError> {
        let by_guest = vm("reading the dirty log", self.source.take_dirty())?;
        for bitmap in by_guest.iter().chain(&self.source.ram().take_dirty()) {
            self.pending.merge(bitmap);
        }
        Ok(())
    }

    fn send_round(&mut self, bandwidth_max: Option<u64>) -> Result<(), MigrateError> {
        let mut pace = Pace::new(bandwidth_max, self.channel);
        let first = self.round == 0;
        self.survey(first)?;
        let pending = std::mem::replace(&mut self.pending, PageSet::empty(self.source.ram()));
        self.progress.update(|stats| {
            stats.ram.total = self.populated.count() * PAGE_SIZE;
            stats.ram.remaining = pending.count() * PAGE_SIZE;
        });

        let mut zero = Vec::new();
        let mut pages = pending.iter();
        loop {
            let batch: Vec<Gpa> = pages.by_ref().take(BATCH_PAGES_MAX).collect();
            if batch.is_empty() {
                break;
            }
            self.progress.check()?;
            self.listen()?;
            self.send_batch(&batch, &mut zero)?;
            if zero.len() >= RUNS_MAX {
                self.mark(Kind::Zero, std::mem::take(&mut zero))?;
            }
            pace.keep();
        }
        self.mark(Kind::Zero, zero)?;

        self.round += 1;
        self.channel.send(Kind::Sync, &self.round.to_le_bytes(), "ending a round")?;
        let doing = "waiting for the end of a round";
        if decode_sync(&self.channel.expect(Kind::Synced, doing)?)? != self.round {
            return Err(MigrateError::Unexpected { got: Kind::Synced, doing });
        }
        self.measure(&pace);
        Ok(())
    }

    /// Brings the sets up to date with the VM: what is populated, what is poisoned, what is repaired.
    fn survey(&mut self, first: bool) -> Result<(), MigrateError> {
        let ram = self.source.ram();
        let ranges = self.source.populated();
        self.populated = PageSet::of(ram, &ranges);
        if first {
            // The destination starts empty: pages without a frame are equal already.
            let allocated: Vec<_> =
                ranges.iter().flat_map(|(gpa, len)| ram.allocated(*gpa, *len)).collect();
            self.pending = PageSet::of(ram, &allocated);
            let untouched = self.populated.count().saturating_sub(self.pending.count());
            self.progress.update(|stats| stats.ram.duplicate += untouched);
        }

        let mut bad = PageSet::empty(ram);
        for page in self.source.poisoned() {
            bad.insert_range(page.page(), PAGE_SIZE);
        }
        // Pages that were found bad on the way, and are not listed by the VM, may have been repaired.
        for page in self.marked.iter().filter(|page| ram.probe(*page)) {
            bad.insert_range(page, PAGE_SIZE);
        }
        bad.intersect(&self.populated);

        let mut repaired = self.marked.clone();
        repaired.subtract(&bad);
        self.pending.unite(&repaired);
        self.pending.intersect(&self.populated);
        self.pending.subtract(&bad);

        // What the guest gave up meanwhile should not use memory over there.
        let mut gone = self.filled.clone();
        gone.unite(&self.marked);
        gone.subtract(&self.populated);
        self.filled.subtract(&gone);
        self.mark(Kind::Zero, gone.iter().collect())?;

        let mut fresh = bad.clone();
        fresh.subtract(&self.marked);
        self.mark(Kind::Poison, fresh.iter().collect())?;
        self.marked = bad;
        self.count_marked();
        Ok(())
    }

    /// Sends up to [`BATCH_PAGES_MAX`] pages. Zero pages are collected for later.
    fn send_batch(&mut self, batch: &[Gpa], zero: &mut Vec<Gpa>) -> Result<(), MigrateError> {
        let looks = self.source.ram().look(batch);
        let of = |look| {
            let pages = batch.iter().zip(&looks).filter(move |(_, found)| **found == look);
            pages.map(|(page, _)| *page)
        };
        let data = Run::collect(of(PageLook::Data));
        let mut bad: Vec<Gpa> = of(PageLook::Poisoned).collect();
        if !data.is_empty() {
            self.channel.send(Kind::Pages, &encode_runs(&data), "sending memory")?;
            bad.extend(self.send_payload(&data)?);
        }
        for page in of(PageLook::Zero) {
            self.filled.remove(page);
            zero.push(page);
        }
        for run in &data {
            self.filled.insert_range(run.gpa, run.byte_len());
        }
        let normal = data.iter().map(|run| u64::from(run.pages)).sum::<u64>();
        let zeroes = of(PageLook::Zero).count() as u64;
        self.progress.update(|stats| {
            stats.ram.normal += normal;
            stats.ram.normal_bytes += normal * PAGE_SIZE;
            stats.ram.duplicate += zeroes;
            stats.ram.remaining =
                stats.ram.remaining.saturating_sub(batch.len() as u64 * PAGE_SIZE);
            stats.ram.transferred = self.channel.sent();
        });
        self.report_bad(bad)
    }

    /// Sends the contents of `runs`, straight from guest memory. Pages that turn out to be poisoned
    /// are replaced by zeroes, so that the stream keeps its form, and returned.
    pub(super) fn send_payload(&self, runs: &[Run]) -> Result<Vec<Gpa>, MigrateError> {
        let doing = "sending memory";
        let ram = self.source.ram();
        let mut ranges: Vec<(Gpa, u64)> =
            runs.iter().map(|run| (run.gpa, run.byte_len())).collect();
        let mut bad = BTreeSet::new();
        // The first range that is not sent whole, and how much was tried at once.
        let mut next = 0;
        let mut one_page = false;
        while let Some((gpa, len)) = ranges.get(next).copied() {
            let to_page_end = (PAGE_SIZE - gpa.0 % PAGE_SIZE).min(len);
            let sent = match one_page {
                true => ram.send(self.channel.socket(), &[(gpa, to_page_end)]),
                false => ram.send(self.channel.socket(), &ranges[next..]),
            };
            let mut sent = match sent {
                Ok(sent) => {
                    self.channel.count(sent);
                    sent as u64
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => continue,
                    Some(Errno::EFAULT) if !one_page => {
                        // One of the next pages: feel the way.
                        one_page = true;
                        continue;
                    }
                    Some(Errno::EFAULT) => {
                        let filler = [0; 4096];
                        let rest = usize::try_from(to_page_end).unwrap_or(filler.len());
                        self.channel.send_bytes(&filler[..rest], doing)?;
                        bad.insert(gpa.page());
                        to_page_end
                    }
                    _ => return Err(self.channel.failure(error, doing)),
                },
            };
            if one_page && bad.contains(&gpa.page()) {
                // Past the bad page, in long strides again.
                one_page = false;
            }
            while let Some((gpa, len)) = ranges.get_mut(next).filter(|_| sent > 0) {
                let step = sent.min(*len);
                gpa.0 += step;
                *len -= step;
                sent -= step;
                if *len == 0 {
                    next += 1;
                }
            }
        }
        Ok(bad.into_iter().collect())
    }

    /// Marks pages that turned out to be poisoned, and tells the VM.
    fn report_bad(&mut self, bad: Vec<Gpa>) -> Result<(), MigrateError> {
        if bad.is_empty() {
            return Ok(());
        }
        for page in &bad {
            self.source.found_poisoned(*page);
            self.marked.insert_range(*page, PAGE_SIZE);
        }
        self.count_marked();
        self.mark(Kind::Poison, bad)
    }

    fn count_marked(&self) {
        let marked = self.marked.count();
        self.progress.update(|stats| stats.x_ras_poisoned_pages = marked);
    }

    /// Sends pages as runs without contents.
    fn mark(&self, kind: Kind, pages: Vec<Gpa>) -> Result<(), MigrateError> {
        for runs in Run::collect(pages).chunks(RUNS_MAX) {
            self.channel.send(kind, &encode_runs(runs), "sending marks")?;
        }
        Ok(())
    }

    /// The destination only speaks up before the end of a round if it gave up.
    fn listen(&self) -> Result<(), MigrateError> {
        if !self.channel.has_word(Duration::ZERO) {
            return Ok(());
        }
        let doing = "sending memory";
        let (got, _) = self.channel.receive(doing)?;
        Err(MigrateError::Unexpected { got, doing })
    }

    fn measure(&mut self, pace: &Pace<'_>) {
        /// A round of fewer bytes says more about latency than about bandwidth.
        const TELLING: u64 = 1 << 20;
        let (sent, took) = pace.sent_and_took();
        if sent >= TELLING || self.bandwidth.is_none() {
            self.bandwidth = Some(figure(sent) / took.as_secs_f64().max(1e-6));
        }
        let mbps = self.bandwidth.unwrap_or(0.0) * 8.0 / 1e6;
        self.progress.update(|stats| {
            stats.ram.dirty_sync_count = self.round;
            stats.ram.transferred = self.channel.sent();
            stats.ram.remaining = 0;
            stats.ram.mbps = mbps;
        });
    }

    fn expected_gap(&self, pages: u64) -> Option<Duration> {
        let seconds = figure(pages * PAGE_SIZE) / self.bandwidth?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Keeps a round within a bandwidth, and knows how long it would have taken without.
struct Pace<'a> {
    limit: Option<f64>,
    channel: &'a Channel,
    sent_before: u64,
    started: Instant,
    slept: Duration,
}

impl<'a> Pace<'a> {
    fn new(limit: Option<u64>, channel: &'a Channel) -> Self {
        /// Slower than that, the peer might take a batch for silence.
        const SLOWEST: u64 = 1 << 20;
        let limit = limit.map(|limit| figure(limit.max(SLOWEST)));
        let sent_before = channel.sent();
        Self { limit, channel, sent_before, started: Instant::now(), slept: Duration::ZERO }
    }

    /// Sleeps if the round is ahead of its limit. Never for long: a batch is small.
    fn keep(&mut self) {
        let Some(limit) = self.limit else { return };
        let due = figure(self.channel.sent() - self.sent_before) / limit;
        let due = Duration::try_from_secs_f64(due).unwrap_or(Duration::ZERO);
        let ahead = due.saturating_sub(self.started.elapsed());
        if ahead > Duration::from_millis(1) {
            let from = Instant::now();
            std::thread::sleep(ahead);
            self.slept += from.elapsed();
        }
    }

    fn sent_and_took(&self) -> (u64, Duration) {
        let sent = self.channel.sent() - self.sent_before;
        (sent, self.started.elapsed().saturating_sub(self.slept))
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn figure(value: u64) -> f64 {
    value as f64
}

/// Whole milliseconds, for QMP.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
