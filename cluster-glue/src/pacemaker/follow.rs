//! Sees an evacuation through.
//!
//! A failed `migrate_to` leaves the VM running and *blocked* (our CIB says `on-fail=block`; without
//! it Pacemaker would stop the VM and start it anew elsewhere). A blocked resource stays where it
//! is until somebody cleans the failure up. That somebody is this thread: it cleans up a bounded
//! number of times, each time later than before, and then leaves it to a person.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::command::Runner;
use super::status::{self, ClusterStatus, Failure};
use super::{PacemakerConfig, VM_AGENT};
use crate::Scope;
use crate::engine::chain;

/// What the state of the cluster asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nobody in scope runs here any more.
    Left,
    /// Pacemaker is at it.
    Wait,
    /// These migrations failed here and block their resource.
    CleanUp(Vec<String>),
}

/// Decides from `status` what the evacuation of `scope` from `node` needs next.
#[must_use]
pub fn next(status: &ClusterStatus, node: &str, scope: &Scope) -> Next {
    let mut blocked = Vec::new();
    let mut anybody = false;
    for resource in &status.resources {
        let ours = match scope {
            Scope::Host => resource.agent == VM_AGENT,
            Scope::Guest(name) => resource.id == *name,
        };
        if !ours || !resource.nodes.iter().any(|name| name == node) {
            continue;
        }
        anybody = true;
        let failed = |failure: &Failure| {
            failure.resource == resource.id && failure.task == "migrate_to" && failure.node == node
        };
        if resource.blocked && status.failures.iter().any(failed) {
            blocked.push(resource.id.clone());
        }
    }
    match (anybody, blocked.is_empty()) {
        (false, _) => Next::Left,
        (true, true) => Next::Wait,
        (true, false) => Next::CleanUp(blocked),
    }
}

/// A running follower. Dropping it ends it within one command timeout.
pub(super) struct Follower {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(super) fn start(
        runner: Arc<dyn Runner>,
        config: &PacemakerConfig,
        node: String,
        scope: Scope,
    ) -> Self {
        let (stop, stopped) = mpsc::channel();
        let config = config.clone();
        let thread = thread::spawn(move || {
            let wait = |pause| stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
            follow(runner.as_ref(), &config, &node, &scope, wait);
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It panicked or it ended: both are over, and the engine goes on.
            let _ = thread.join();
        }
    }
}

/// Looks in a row that have to find nobody here. A cleanup makes Pacemaker forget where a resource
/// runs until it has asked the nodes again, so one look may miss a guest.
const LEFT_LOOKS: u32 = 3;

/// The loop. `wait` sleeps and says whether to go on.
fn follow(
    runner: &dyn Runner,
    config: &PacemakerConfig,
    node: &str,
    scope: &Scope,
    mut wait: impl FnMut(Duration) -> bool,
) {
    let limit = config.command_timeout();
    let deadline = Instant::now() + Duration::from_secs(config.follow_secs);
    let mut cleanups = 0;
    let mut pause = config.cleanup_pause();
    let mut left_looks = 0;
    while wait(config.follow_pause()) {
        if Instant::now() >= deadline {
            tracing::warn!(%scope, "evacuation is not over, and is not watched any longer");
            return;
        }
        let status = runner
            .run("crm_mon", &["-1", "--output-as=xml"], limit)
            .map_err(|error| chain(&error))
            .and_then(|xml| status::parse(&xml));
        let blocked = match status.map(|status| next(&status, node, scope)) {
            Ok(Next::Left) => {
                left_looks += 1;
                if left_looks == LEFT_LOOKS {
                    tracing::info!(%scope, "left this node");
                    return;
                }
                continue;
            }
            Ok(Next::Wait) => {
                left_looks = 0;
                continue;
            }
            Ok(Next::CleanUp(blocked)) => {
                left_looks = 0;
                blocked
            }
            Err(error) => {
                tracing::warn!(error, "cluster status is not available");
                continue;
            }
        };
        if cleanups == config.cleanups_max {
            let guests = blocked.join(", ");
            tracing::error!(guests, "live migration keeps failing; left running, blocked");
            return;
        }
        // The cause of the failure gets time to pass, and a second failure more of it.
        if !wait(pause) {
            return;
        }
        pause *= 2;
        cleanups += 1;
        for guest in blocked {
            let args = ["--cleanup", "--resource", &guest, "--node", node];
            match runner.run("crm_resource", &args, limit) {
                Ok(_) => tracing::warn!(guest, cleanups, "failed migration cleaned up, retried"),
                Err(error) => tracing::error!(guest, error = chain(&error), "cleanup failed"),
            }
        }
    }
}
