//! An engine for tests: records what it was asked, and fails when told to.

use std::sync::{Arc, Mutex, MutexGuard};

use ras_core::Health;

use crate::{Capabilities, EngineError, Evacuated, HaEngine, Member, Scope};

/// Clones share one record, so that a test keeps a clone and gives the other away.
#[derive(Clone, Default, Debug)]
pub struct SimEngine {
    state: Arc<Mutex<State>>,
}

#[derive(Default, Debug)]
struct State {
    calls: Vec<String>,
    failures_left: u32,
    evacuated: Option<Evacuated>,
    health: Health,
}

impl SimEngine {
    /// An engine without history whose every call succeeds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was asked so far, failed calls included: `node-health red`, `move vm1`, `move all`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// The next `count` calls of `report_health` and `evacuate` fail as a hanging cluster does.
    pub fn fail_next(&self, count: u32) {
        self.state().failures_left = count;
    }

    /// What `evacuate` answers from now on; [`Evacuated::ClusterWillMove`] unless set.
    pub fn answer(&self, evacuated: Evacuated) {
        self.state().evacuated = Some(evacuated);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock still wants to print the record.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record(&self, call: String) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.state();
        state.calls.push(call.clone());
        match state.failures_left.checked_sub(1) {
            None => Ok(state),
            Some(left) => {
                state.failures_left = left;
                let after = std::time::Duration::ZERO;
                Err(EngineError::Timeout { command: format!("sim {call}"), after })
            }
        }
    }
}

impl HaEngine for SimEngine {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        let notes = "a simulation: nothing moves".into();
        Capabilities { failover: false, live_migration: false, notes }
    }

    fn report_health(&mut self, health: Health, _reason: &str) -> Result<(), EngineError> {
        self.record(format!("node-health {health}"))?.health = health;
        Ok(())
    }

    fn evacuate(&mut self, scope: &Scope, _reason: &str) -> Result<Evacuated, EngineError> {
        let state = self.record(match scope {
            Scope::Host => "move all".into(),
            Scope::Guest(name) => format!("move {name}"),
        })?;
        Ok(state.evacuated.clone().unwrap_or(Evacuated::ClusterWillMove))
    }

    fn membership(&self) -> Result<Vec<Member>, EngineError> {
        let health = Some(self.state().health);
        Ok(vec![Member { name: "sim".into(), online: true, this_node: true, health }])
    }
}
