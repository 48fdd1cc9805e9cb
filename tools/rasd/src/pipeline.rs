//! One error, one walk.
//!
//! ```text
//!  source (tracefs, replay)
//!    v  Report: bytes                                     queue, bounded
//!  decode     mce_decoder         -> ErrorRecord          nothing decided yet
//!    v
//!  diagnose   ras_core::analyze   -> Fault                duplicates and counts end here
//!    v
//!  plan       ras_core::plan      -> [Action]             pure
//!    v
//!  remember   persist_store       -> Pending              durable before anything is done
//!    v
//!  offline    host_page           -> HostOutcome          soft or hard, with retries
//!    v
//!  guests     pagemap, ras_qmp    -> [GuestOutcome]       who has the page gives it up
//!    v
//!  record     persist_store       -> Retired | Failed     and the evacuation, if one is decided
//!    v
//!  escalate   cluster_glue        -> Evacuated            guests leave this host
//! ```
//!
//! Values go down, outcomes come back. Every step may run twice: after a crash, [`crate::restart`]
//! walks every page that is not `Retired` again, and every evacuation that is not `Done`.

use std::time::{Duration, Instant};

use persist_store::{Present, Translate};
use ras_core::{
    Action, Details as _, ErrorRecord, Fault, HostOutcome, HostView, NodeState, OfflineMode,
    PfnRange, RetireReason, RetireState, RetiredPage, SmolStr, Verdict, WalkOutcome, escalate,
    format_smolstr, plan, translate,
};
use ras_qmp::ras::RetireCause;

use crate::boot_list::Account;
use crate::decode::{decode, left_in_use};
use crate::evacuate::Evacuations;
use crate::guests::{Guests, chain};
use crate::host_page::{HostPages, Offlined};
use crate::kill_point::{KillPoint, Step};
use crate::ledger::Ledger;
use crate::machine::{AddressMaps, Machine, place};
use crate::metrics::Metrics;
use crate::outcome;
use crate::repair;
use crate::shared::Handle;
use crate::source::{Popped, Report, wall_clock};
use crate::timings::{Timings, Walk, Watch, nanos};

/// How often the walk looks after what is left over when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// Everything the walk needs.
pub struct Pipeline {
    /// What is known and counted.
    pub shared: Handle,
    /// The host kernel.
    pub host: HostPages,
    /// The guests.
    pub guests: Guests,
    /// The cluster engine, and what it still has to do.
    pub evacuations: Evacuations,
    /// Where to die; for tests.
    pub kill: KillPoint,
    /// How long each step took; on request.
    pub timings: Timings,
    /// Figures for monitoring; on request.
    pub metrics: Metrics,
    /// What firmware did before this boot.
    pub firmware: Account,
    /// The machine as it was at the start.
    pub machine: Machine,
    /// Where its memory controllers' own addresses are.
    pub maps: AddressMaps,
}

impl Pipeline {
    /// Walks every report until the queue is closed.
    pub fn run(&mut self) {
        let mut looked = Instant::now();
        loop {
            match self.shared.queue.pop(TICK) {
                Popped::Report(report) => self.walk(&report),
                Popped::Idle => {}
                Popped::Closed => break,
            }
            self.walk_ordered();
            if looked.elapsed() >= TICK {
                self.look_after_leftovers();
                looked = Instant::now();
            }
        }
        self.shared.ledger().flush();
    }

    /// The walk of one report. It may hold several records, or none.
    fn walk(&mut self, report: &Report) {
        let queued_ns = nanos(report.taken.elapsed());
        let mut watch = Watch::start();
        self.shared.count(|counts| counts.events += 1);
        self.heed_kernel(report);
        let records = self.decode(report);
        self.kill.passed(Step::Decoded);
        let decode_ns = watch.lap();

        for record in records {
            self.heed_repair(&record, report);
            let fault = self.diagnose(&record, report);
            self.kill.passed(Step::Diagnosed);
            let analyze_ns = watch.lap();
            let Some(fault) = fault else { continue };

            let actions = plan(&fault, &HostView { health: self.shared.ledger().health() });
            self.kill.passed(Step::Planned);
            let plan_ns = watch.lap();

            self.remember(&fault, &actions);
            self.kill.passed(Step::Remembered);
            let remember_ns = watch.lap();
            let event_to_remembered_ns = watch.total();

            for action in actions {
                self.act(&fault, action);
            }
            let act_ns = watch.lap();
            self.timings.put(&Walk {
                queued_ns,
                decode_ns,
                analyze_ns,
                plan_ns,
                remember_ns,
                event_to_remembered_ns,
                act_ns,
            });
        }
    }

    /// The kernel's account of its own attempt may come after we took the mark it left for a success.
    fn heed_kernel(&mut self, report: &Report) {
        let Some((pfn, why)) = left_in_use(&report.body) else { return };
        let outcome = self.host.left_in_use(pfn, &why);
        tracing::error!(%pfn, why, "the kernel marked a page but still uses it");
        let mut ledger = self.shared.ledger();
        let page = ledger.page(pfn).filter(|page| page.state == RetireState::Retired).cloned();
        if let Some(mut page) = page {
            let text = outcome::describe(&outcome, &[]);
            (page.state, page.outcome, page.updated) =
                (RetireState::Failed, text.into(), wall_clock());
            self.store(&mut ledger, None, vec![page]);
        }
    }

    /// A row that was replaced for good: what it condemned goes on probation.
    fn heed_repair(&self, record: &ErrorRecord, report: &Report) {
        let Some(repair) = repair::of(record, report.arrived) else { return };
        tracing::warn!(place = %repair.place, "a row was repaired");
        let translate: &Translate<'_> = &|page, dimm| self.maps.find(page, dimm);
        let repairs = [repair];
        let present =
            Present { map: &self.shared.map, translate: Some(translate), repairs: &repairs };
        if let Err(error) = self.shared.ledger().reconcile(&present, wall_clock()) {
            tracing::error!(error = chain(&error), "the list does not know of the repair");
            self.shared.count(|counts| counts.store_errors += 1);
        }
    }

    fn decode(&self, report: &Report) -> Vec<ErrorRecord> {
        let mut decoded = decode(&report.body);
        for record in &mut decoded.records {
            self.translate(record);
        }
        for problem in &decoded.problems {
            tracing::warn!(offset = problem.offset, detail = problem.detail, "damaged report");
        }
        self.shared.count(|counts| {
            counts.records += decoded.records.len() as u64;
            counts.damaged += decoded.problems.len() as u64;
        });
        decoded.records
    }

    /// Gives a memory controller's error its page, where today's map is known.
    fn translate(&self, record: &mut ErrorRecord) {
        let Some(snapshot) = self.maps.snapshot() else { return };
        if let Err(error) = translate::apply(record, snapshot) {
            tracing::warn!(error = record.summary, why = %error, "an address is not translated");
            record.details.add("not_translated", error.to_string());
        }
        // Banks inside of a firmware record have addresses of their own. They are not nested deeper.
        let mut witnesses = std::mem::take(&mut record.witnesses);
        witnesses.iter_mut().for_each(|witness| self.translate(witness));
        record.witnesses = witnesses;
    }

    /// Every verdict but a fault ends here.
    fn diagnose(&self, record: &ErrorRecord, report: &Report) -> Option<Fault> {
        let verdict = self.shared.ledger().analyze(record, report.arrived);
        tracing::debug!(summary = record.summary, ?verdict, "analyzed");
        self.shared.count(|counts| match &verdict {
            Verdict::Duplicate { .. } => counts.duplicates += 1,
            Verdict::Counted { .. } => counts.counted += 1,
            Verdict::AlreadyRetired { .. } => counts.already_retired += 1,
            Verdict::Simulated | Verdict::Noted(_) => counts.noted += 1,
            Verdict::Fault(_) => counts.faults += 1,
        });
        match verdict {
            Verdict::Simulated => {
                tracing::info!(error = record.summary, "simulated, so nothing is done about it");
                None
            }
            Verdict::Fault(fault) => {
                tracing::warn!(
                    mode = ?fault.mode, severity = %fault.severity, source = %fault.source,
                    location = %fault.location, reason = fault.reason, error = record.summary,
                    "fault diagnosed"
                );
                Some(fault)
            }
            _ => None,
        }
    }

    /// Makes the decisions durable before anything is done about them.
    fn remember(&self, fault: &Fault, actions: &[Action]) {
        let mut node = None;
        let mut pages = Vec::new();
        for action in actions {
            match action {
                Action::RetirePages { pages: range, reason, .. } => {
                    let condemned = range.iter().map(|pfn| RetiredPage {
                        pfn,
                        reason: *reason,
                        state: RetireState::Pending,
                        severity: fault.severity,
                        source: fault.source,
                        since: fault.time,
                        updated: wall_clock(),
                        attempts: 0,
                        location: fault.location.clone(),
                        dimm: None,
                        epoch: None,
                        diagnosis: fault.reason.as_str().into(),
                        outcome: SmolStr::default(),
                    });
                    pages.extend(condemned.map(|page| place(page, &self.shared.map)));
                }
                Action::ReportHealth(_)
                | Action::EvacuateGuest { .. }
                | Action::EvacuateHost { .. } => {
                    node = self.evacuations.decide(action, &fault.reason).or(node);
                }
                // A newer core's action: whoever adds it decides what has to be remembered.
                _ => {}
            }
        }
        self.store(&mut self.shared.ledger(), node, pages);
    }

    fn act(&mut self, fault: &Fault, action: Action) {
        match action {
            Action::RetirePages { pages, how, reason } => self.retire(fault, pages, how, reason),
            Action::ReportHealth(_) => self.evacuations.report_health(),
            Action::EvacuateGuest { .. } | Action::EvacuateHost { .. } => {
                self.evacuations.carry_out(&action);
            }
            other => tracing::error!(?other, "this version can't carry that out"),
        }
    }

    fn retire(&mut self, fault: &Fault, pages: PfnRange, how: OfflineMode, reason: RetireReason) {
        let wanted: Vec<_> = pages.iter().map(|pfn| (pfn, how)).collect();
        let host = self.host.offline_all(&wanted);
        self.kill.passed(Step::Offlined);
        self.conclude(fault, pages, &host, reason);
    }

    /// The walk from the host's answers on: guests, record, escalate. `host` has one answer for each
    /// page.
    pub(crate) fn conclude(
        &mut self,
        fault: &Fault,
        pages: PfnRange,
        host: &[Offlined],
        reason: RetireReason,
    ) {
        let cause = match reason {
            RetireReason::Uncorrected if fault.loses_data() => RetireCause::Uncorrected,
            RetireReason::Uncorrected
            | RetireReason::CorrectedThreshold
            | RetireReason::Operator => RetireCause::Corrected,
        };
        let guests = self.guests.retire(pages, cause);
        self.kill.passed(Step::GuestRetired);

        // The range is as far as its worst page: guests are asked for all of it at once.
        let worst = host.iter().map(|answer| &answer.outcome).find(|outcome| !outcome.is_offline());
        let worst = worst.or(host.first().map(|answer| &answer.outcome));
        let outcome =
            WalkOutcome { host: worst.cloned().unwrap_or(HostOutcome::NoSuchPage), guests };
        let actions = escalate(fault, &outcome);
        self.record(fault, pages, host, &outcome, &actions);
        self.kill.passed(Step::Recorded);

        for action in actions {
            self.act(fault, action);
        }
        self.kill.passed(Step::Escalated);
        self.note_departures(pages, host, &outcome);
    }

    /// Once the guests that kept a page have left, nobody on this host has it any more.
    fn note_departures(&self, pages: PfnRange, host: &[Offlined], outcome: &WalkOutcome) {
        let mut kept = outcome.guests.iter().filter(|guest| !outcome::is_freed(guest)).peekable();
        if kept.peek().is_none() {
            return;
        }
        let here = self.guests.names();
        if kept.any(|kept| here.contains(&kept.guest)) {
            return;
        }
        let mut ledger = self.shared.ledger();
        let mut changed = Vec::new();
        for (pfn, _) in pages.iter().zip(host).filter(|(_, answer)| answer.outcome.is_offline()) {
            let Some(mut page) = ledger.page(pfn).cloned() else { continue };
            if page.state != RetireState::Retired {
                tracing::info!(%pfn, "its guests have left: retired");
                page.outcome = format_smolstr!("{}; its guests left this host", page.outcome);
                (page.state, page.updated) = (RetireState::Retired, wall_clock());
                changed.push(page);
            }
        }
        self.store(&mut ledger, None, changed);
    }

    /// Makes the outcome durable, together with the first evacuation it leads to. Should there be
    /// more than one and a crash in between, the page is `Failed` and so walked again at the start.
    fn record(
        &self,
        fault: &Fault,
        pages: PfnRange,
        host: &[Offlined],
        outcome: &WalkOutcome,
        actions: &[Action],
    ) {
        let freed = outcome::are_guests_freed(fault, outcome);
        let node = actions.iter().find_map(|action| self.evacuations.decide(action, &fault.reason));
        let mut changed = Vec::new();
        let mut ledger = self.shared.ledger();
        for (pfn, answer) in pages.iter().zip(host) {
            // A page that a person gave back meanwhile stays given back.
            let Some(mut page) = ledger.page(pfn).cloned() else { continue };
            let offline = answer.outcome.is_offline();
            let state = if offline && freed { RetireState::Retired } else { RetireState::Failed };
            let text = outcome::describe(&answer.outcome, &outcome.guests);
            self.shared.count(|counts| {
                *(if offline { &mut counts.offlined } else { &mut counts.offline_failed }) += 1;
            });
            tracing::info!(%pfn, state = %state, outcome = text, "page walked");
            // A walk that finds no guest any more has no news of those that were asked before.
            let no_news = outcome.guests.is_empty() && page.outcome.starts_with(&text);
            if page.state == state && (page.outcome == text || no_news) {
                continue;
            }
            page.attempts = page.attempts.saturating_add(answer.attempts);
            (page.state, page.outcome, page.updated) = (state, text.into(), wall_clock());
            changed.push(page);
        }
        let unplugged = outcome.guests.iter().filter(|guest| outcome::is_freed(guest)).count();
        self.shared.count(|counts| {
            counts.guest_unplugged += unplugged as u64;
            counts.guest_refused += (outcome.guests.len() - unplugged) as u64;
        });
        self.store(&mut ledger, node, changed);
    }

    fn store(&self, ledger: &mut Ledger, node: Option<NodeState>, pages: Vec<RetiredPage>) {
        let nothing = node.is_none() && pages.is_empty();
        if !nothing && !ledger.remember(node, pages) {
            self.shared.count(|counts| counts.store_errors += 1);
        }
    }

    /// What did not work the first time is tried again when there is time.
    fn look_after_leftovers(&mut self) {
        if !self.shared.ledger().flush() {
            self.shared.count(|counts| counts.store_errors += 1);
        }
        self.evacuations.retry();
        self.metrics.update(|| self.shared.status());
    }
}
