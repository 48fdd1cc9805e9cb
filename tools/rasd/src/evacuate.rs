//! Health and evacuation: deciding is `ras_core`'s, asking is the cluster engine's; in between lies
//! keeping at it until it is done.
//!
//! A decision is stored as `Pending` by the pipeline before [`Evacuations::carry_out`] is called, and
//! as `Done` when the engine says that nobody has to do anything more. What fails is tried again, at
//! growing intervals.

use std::time::{Duration, Instant};

use cluster_glue::{HaEngine, Scope};
use ras_core::{Action, Evacuation, Health, NodeState};

use crate::guests::{Guests, chain};
use crate::kill_point::{KillPoint, Step};
use crate::shared::Handle;
use crate::source::wall_clock;

/// The pause between attempts doubles up to this many times the configured one.
const PAUSE_MAX_FACTOR: u32 = 64;

/// See the module.
pub struct Evacuations {
    engine: Box<dyn HaEngine>,
    shared: Handle,
    guests: Guests,
    kill: KillPoint,
    /// Decided and not settled, in the order of decision.
    open: Vec<Open>,
    retry_pause: Duration,
    pause: Duration,
    next_try: Instant,
    /// When every guest was last seen off; another fault shortly after needs no second attempt.
    host_settled: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Open {
    scope: Scope,
    reason: String,
}

impl Evacuations {
    /// Nothing decided yet.
    #[must_use]
    pub fn new(
        engine: Box<dyn HaEngine>,
        shared: Handle,
        guests: Guests,
        kill: KillPoint,
        retry_pause: Duration,
    ) -> Self {
        Self {
            engine,
            shared,
            guests,
            kill,
            open: Vec::new(),
            retry_pause,
            pause: retry_pause,
            next_try: Instant::now(),
            host_settled: None,
        }
    }

    /// What has to be stored before `action` is carried out; `None` if that is not ours to carry out,
    /// or already decided.
    #[must_use]
    pub fn decide(&self, action: &Action, why: &str) -> Option<NodeState> {
        let ledger = self.shared.ledger();
        let (health, evacuation) = (ledger.health(), ledger.evacuation());
        let (health, evacuation, reason) = match action {
            Action::ReportHealth(health) => (*health, evacuation, why),
            _ => match scope_of(action)? {
                (scope, _) if self.is_under_way(&scope) => return None,
                (Scope::Host, reason) => (Health::Red, Evacuation::Pending { guest: None }, reason),
                (Scope::Guest(guest), reason) => {
                    (health, Evacuation::Pending { guest: Some(guest) }, reason)
                }
            },
        };
        Some(NodeState { health, evacuation, reason: reason.into(), since: wall_clock() })
    }

    /// Tells the cluster the health as it is stored.
    pub fn report_health(&mut self) {
        let status = self.shared.health();
        let told = self.engine.report_health(status.health, &status.reason);
        self.shared.set_health_reported(told.is_ok());
        match told {
            Ok(()) => {
                tracing::info!(health = %status.health, engine = self.engine.name(), "health told");
            }
            Err(error) => {
                self.failed("health could not be told", &error);
                self.postpone();
            }
        }
    }

    /// Carries out a decision that is stored.
    pub fn carry_out(&mut self, action: &Action) {
        let Some((scope, reason)) = scope_of(action) else { return };
        if self.is_under_way(&scope) {
            tracing::info!(%scope, reason, "is on its way already");
            return;
        }
        // Of several decisions at once only the first was stored with its cause.
        if !matches!(self.shared.ledger().evacuation(), Evacuation::Pending { .. }) {
            let node = self.decide(action, reason);
            self.store(node);
        }
        if scope == Scope::Host {
            self.report_health();
        }
        let open = Open { scope, reason: reason.into() };
        self.open.push(open.clone());
        if self.attempt(&open) {
            self.settle(&open);
        } else {
            self.postpone();
        }
    }

    /// Takes up what was decided before a restart: the stored health is told again, and a pending
    /// evacuation carried out.
    pub fn resume(&mut self) {
        self.report_health();
        let status = self.shared.health();
        let scope = match status.evacuation {
            Evacuation::Pending { guest: Some(guest) } => Scope::Guest(guest),
            Evacuation::Pending { guest: None } => Scope::Host,
            Evacuation::None | Evacuation::Done => return,
        };
        tracing::warn!(%scope, reason = status.reason, "taking up an interrupted evacuation");
        self.open.push(Open { scope, reason: status.reason });
        self.next_try = Instant::now();
        self.retry();
    }

    /// Tries again what failed, if it is time.
    pub fn retry(&mut self) {
        // An operator may have called it off.
        if !matches!(self.shared.ledger().evacuation(), Evacuation::Pending { .. }) {
            self.open.clear();
            self.host_settled = None;
        }
        let told = self.shared.is_health_reported();
        if (told && self.open.is_empty()) || Instant::now() < self.next_try {
            return;
        }
        if !told {
            self.report_health();
        }
        let mut failed = false;
        for open in self.open.clone() {
            if self.attempt(&open) {
                self.settle(&open);
            } else {
                failed = true;
            }
        }
        if failed {
            self.postpone();
        } else if self.shared.is_health_reported() {
            self.pause = self.retry_pause;
        }
    }

    /// Whether nobody is left in scope.
    fn attempt(&mut self, open: &Open) -> bool {
        if let Scope::Guest(guest) = &open.scope
            && !self.guests.names().contains(guest)
        {
            tracing::info!(guest, "is not here any more");
            return true;
        }
        self.shared.count(|counts| counts.evacuations += 1);
        tracing::warn!(scope = %open.scope, reason = open.reason, "evacuating");
        let evacuated = self.engine.evacuate(&open.scope, &open.reason);
        self.kill.passed(Step::Escalated);
        match evacuated {
            Ok(evacuated) if evacuated.is_settled() => {
                tracing::warn!(scope = %open.scope, outcome = %evacuated, "evacuated");
                true
            }
            Ok(evacuated) => {
                tracing::error!(scope = %open.scope, outcome = %evacuated, "not everybody left");
                false
            }
            Err(error) => {
                self.failed("evacuation failed", &error);
                false
            }
        }
    }

    fn settle(&mut self, settled: &Open) {
        self.open.retain(|open| open != settled);
        if settled.scope == Scope::Host {
            // Everybody left, so each one did.
            self.open.clear();
            self.host_settled = Some(Instant::now());
        }
        let Some(mut node) = self.shared.ledger().node().cloned() else { return };
        node.evacuation = match self.open.first() {
            Some(Open { scope: Scope::Guest(guest), .. }) => {
                Evacuation::Pending { guest: Some(guest.clone()) }
            }
            Some(Open { scope: Scope::Host, .. }) => Evacuation::Pending { guest: None },
            None => Evacuation::Done,
        };
        self.store(Some(node));
    }

    fn store(&self, node: Option<NodeState>) {
        if node.is_some() && !self.shared.ledger().remember(node, Vec::new()) {
            self.shared.count(|counts| counts.store_errors += 1);
        }
    }

    fn is_under_way(&self, scope: &Scope) -> bool {
        let settled = self.host_settled.is_some_and(|when| when.elapsed() < self.retry_pause);
        self.open.iter().any(|open| open.scope == *scope || open.scope == Scope::Host)
            || (*scope == Scope::Host && settled)
    }

    fn postpone(&mut self) {
        self.next_try = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(self.retry_pause * PAUSE_MAX_FACTOR);
    }

    fn failed(&self, what: &str, error: &cluster_glue::EngineError) {
        self.shared.count(|counts| counts.engine_errors += 1);
        tracing::error!(engine = self.engine.name(), error = chain(error), "{what}");
    }
}

fn scope_of(action: &Action) -> Option<(Scope, &str)> {
    match action {
        Action::EvacuateGuest { guest, reason } => Some((Scope::Guest(guest.clone()), reason)),
        Action::EvacuateHost { reason } => Some((Scope::Host, reason)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::ledger::Ledger;
    use crate::shared::Shared;
    use crate::source::Queue;
    use cluster_glue::SimEngine;

    struct World {
        engine: SimEngine,
        shared: Handle,
        evacuations: Evacuations,
        _store: tempfile::TempDir,
    }

    /// A host without guests.
    fn world() -> World {
        let store = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.guests.dir = store.path().join("guests");
        let ledger = Ledger::open(store.path(), &config.policy).unwrap();
        let engine = SimEngine::new();
        let status = crate::cluster::describe(&engine);
        let shared = Shared::new(
            ledger,
            ras_core::MachineMap::default(),
            Queue::new(config.sources.queue),
            status,
        );
        let evacuations = Evacuations::new(
            Box::new(engine.clone()),
            shared.clone(),
            Guests::new(&config),
            KillPoint::default(),
            Duration::from_millis(20),
        );
        World { engine, shared, evacuations, _store: store }
    }

    fn host() -> Action {
        Action::EvacuateHost { reason: "two errors".into() }
    }

    #[test]
    fn a_decision_is_carried_out_once_and_closed() {
        let World { engine, shared, mut evacuations, _store } = world();
        evacuations.carry_out(&host());
        assert_eq!(engine.calls(), ["node-health red", "move all"]);
        assert_eq!(shared.health().evacuation, Evacuation::Done);
        evacuations.carry_out(&host());
        assert_eq!(engine.calls().len(), 2, "the next fault a moment later changes nothing");
        assert!(evacuations.decide(&host(), "").is_none());
    }

    #[test]
    fn what_the_cluster_did_not_take_is_tried_until_it_does() {
        let World { engine, shared, mut evacuations, _store } = world();
        engine.fail_next(3);
        evacuations.carry_out(&host());
        assert_eq!(shared.health().evacuation, Evacuation::Pending { guest: None });
        assert!(!shared.health().reported);
        evacuations.retry();
        assert_eq!(engine.calls().len(), 2, "not before it is time");
        let deadline = Instant::now() + Duration::from_secs(10);
        let done = || shared.health().evacuation == Evacuation::Done && shared.health().reported;
        while !done() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            evacuations.retry();
        }
        assert!(done());
        assert_eq!(shared.status().counts.engine_errors, 3);
    }

    #[test]
    fn an_operator_can_call_it_off() {
        let World { engine, shared, mut evacuations, _store } = world();
        engine.fail_next(2);
        evacuations.carry_out(&host());
        let green = NodeState {
            health: Health::Green,
            evacuation: Evacuation::None,
            reason: "repaired".into(),
            since: wall_clock(),
        };
        assert!(shared.ledger().remember(Some(green), Vec::new()));
        shared.set_health_reported(false);
        std::thread::sleep(Duration::from_millis(100));
        evacuations.retry();
        assert_eq!(engine.calls(), ["node-health red", "move all", "node-health green"]);
    }

    #[test]
    fn a_guest_that_is_gone_needs_no_evacuation() {
        let World { engine, shared, mut evacuations, _store } = world();
        let action = Action::EvacuateGuest { guest: "vm1".into(), reason: "kept it".into() };
        let node = evacuations.decide(&action, "").unwrap();
        assert_eq!(node.health, Health::Green, "one guest's page says little about the node");
        shared.ledger().remember(Some(node), Vec::new());
        evacuations.carry_out(&action);
        assert_eq!(engine.calls(), [""; 0]);
        assert_eq!(shared.health().evacuation, Evacuation::Done);
    }
}
