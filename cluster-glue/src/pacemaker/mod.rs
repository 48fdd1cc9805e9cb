//! A Pacemaker cluster: we report health, Pacemaker moves, fences and restarts.
//!
//! ```text
//! rasd --report_health(red)--> attrd_updater #health-memory=red --> Pacemaker's health strategy
//!                                     lowers this node's score --> ocf:ras:vm migrate_to
//! rasd --evacuate(vm1)-------> one location rule (once) + node attribute ras-leave-vm1=1
//! ```
//!
//! No score in here is final: a node attribute only makes other nodes better. Where every node is
//! bad, guests stay and run. (`crm_resource --move` and `--ban` work with minus infinity, which
//! *stops* a guest that has nowhere to go, so they are not used.)
//!
//! The CIB has to play along; `README.md` of this crate has a sample and says why.

pub mod command;
pub mod follow;
pub mod status;

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use ras_core::Health;
use serde::{Deserialize, Serialize};

use self::command::{Runner, SystemRunner};
use self::follow::Follower;
use crate::engine::{chain, check_guest_name};
use crate::{Capabilities, EngineError, Evacuated, HaEngine, Member, Scope};

/// The node attribute that carries our verdict. Pacemaker's health strategies sum every attribute
/// whose name starts with `#health`, so this one can't hide what others report.
pub const HEALTH_ATTRIBUTE: &str = "#health-memory";

/// The agent of our VMs, as `crm_mon` names it.
pub const VM_AGENT: &str = "ocf:ras:vm";

/// Configuration of [`Pacemaker`], `[cluster] engine = "pacemaker"` in rasd's file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PacemakerConfig {
    /// This machine's name in the cluster; asked from `crm_node -n` where absent.
    pub node: Option<String>,
    /// The longest a command line program of the cluster may take, in milliseconds.
    pub command_timeout_ms: u64,
    /// How often a command is tried before we give up.
    pub attempts: u32,
    /// Score of a single guest's leave mark. Has to outweigh `resource-stickiness` and must not,
    /// together with every health score, bring a node below zero.
    pub leave_score: i32,
    /// How long an evacuation is watched for failed migrations, in seconds.
    pub follow_secs: u64,
    /// Pause between two looks at it, in milliseconds.
    pub follow_pause_ms: u64,
    /// How often failed migrations are cleaned up, so that Pacemaker tries again.
    pub cleanups_max: u32,
    /// Pause before the first cleanup, in milliseconds; doubles each time.
    pub cleanup_pause_ms: u64,
}

impl Default for PacemakerConfig {
    fn default() -> Self {
        Self {
            node: None,
            command_timeout_ms: 5000,
            attempts: 3,
            leave_score: -150,
            follow_secs: 1800,
            follow_pause_ms: 2000,
            cleanups_max: 5,
            cleanup_pause_ms: 5000,
        }
    }
}

impl PacemakerConfig {
    fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }

    fn follow_pause(&self) -> Duration {
        Duration::from_millis(self.follow_pause_ms)
    }

    fn cleanup_pause(&self) -> Duration {
        Duration::from_millis(self.cleanup_pause_ms)
    }
}

/// Pause before the second attempt at a command; doubles each time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Pacemaker {
    config: PacemakerConfig,
    runner: Arc<dyn Runner>,
    node: OnceLock<String>,
    /// At most one: a new evacuation replaces the watch over the one before, since an evacuation
    /// of the host covers each guest, and a guest's own mark is noticed by the host's watch.
    follower: Option<(Scope, Follower)>,
}

impl Pacemaker {
    /// An engine over the programs of this machine.
    #[must_use]
    pub fn new(config: PacemakerConfig) -> Self {
        Self::with_runner(config, Arc::new(SystemRunner))
    }

    /// An engine whose commands go to `runner`.
    #[must_use]
    pub fn with_runner(config: PacemakerConfig, runner: Arc<dyn Runner>) -> Self {
        let node = config.node.clone().map_or_else(OnceLock::new, OnceLock::from);
        Self { config, runner, node, follower: None }
    }

    /// The whole state of the cluster, beyond what [`HaEngine::membership`] tells.
    ///
    /// # Errors
    /// See [`HaEngine::membership`].
    pub fn status(&self) -> Result<status::ClusterStatus, EngineError> {
        let args = ["-1", "--output-as=xml"];
        let xml = self.run("crm_mon", &args)?;
        let command = command::describe("crm_mon", &args);
        status::parse(&xml).map_err(|what| EngineError::Output { command, what })
    }

    /// This node's name in the cluster.
    fn node(&self) -> Result<&str, EngineError> {
        if let Some(node) = self.node.get() {
            return Ok(node);
        }
        let name = self.run("crm_node", &["-n"])?.trim().to_owned();
        Ok(self.node.get_or_init(|| name))
    }

    /// Marks this node with an attribute, live at once: no dampening, and gone when the node
    /// leaves the cluster, as a verdict on a boot should be.
    fn mark(&self, attribute: &str, value: &str) -> Result<(), EngineError> {
        self.run("attrd_updater", &["-n", attribute, "-U", value, "-d", "0"]).map(drop)
    }

    /// Every command here can be repeated: they set, they don't add.
    fn run(&self, program: &str, args: &[&str]) -> Result<String, EngineError> {
        let mut pause = RETRY_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match self.runner.run(program, args, self.config.command_timeout()) {
                Ok(stdout) => return Ok(stdout),
                Err(error) => error,
            };
            if attempt >= self.config.attempts || matches!(error, EngineError::Start { .. }) {
                return Err(error);
            }
            tracing::warn!(attempt, error = chain(&error), "cluster command failed");
            thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    fn follow(&mut self, scope: &Scope) -> Result<(), EngineError> {
        let watched = self.follower.as_ref().map(|(watched, _)| watched);
        if watched == Some(&Scope::Host) && *scope != Scope::Host {
            return Ok(());
        }
        let node = self.node()?.to_owned();
        // The old one ends first, so that two never clean up the same failure.
        self.follower = None;
        let runner = Arc::clone(&self.runner);
        let follower = Follower::start(runner, &self.config, node, scope.clone());
        self.follower = Some((scope.clone(), follower));
        Ok(())
    }
}

impl HaEngine for Pacemaker {
    fn name(&self) -> &'static str {
        "pacemaker"
    }

    fn capabilities(&self) -> Capabilities {
        let notes = format!(
            "Pacemaker decides: needs a node-health-strategy, a working fence device, and \
             allow-migrate with on-fail=block on {VM_AGENT} resources named like their VM"
        );
        Capabilities { failover: true, live_migration: true, notes }
    }

    fn report_health(&mut self, health: Health, reason: &str) -> Result<(), EngineError> {
        self.mark(HEALTH_ATTRIBUTE, health.name())?;
        tracing::warn!(%health, reason, "{HEALTH_ATTRIBUTE} is set");
        Ok(())
    }

    /// `Scope::Host` implies red health, `Scope::Guest` marks the node as one that this guest
    /// should leave. Both only lower a score.
    fn evacuate(&mut self, scope: &Scope, reason: &str) -> Result<Evacuated, EngineError> {
        match scope {
            Scope::Host => self.report_health(Health::Red, reason)?,
            Scope::Guest(guest) => {
                check_guest_name(guest)?;
                let rule = leave_rule(guest, self.config.leave_score);
                let scope = ["--scope", "constraints", "--xml-text", &rule];
                let args = [&["--modify", "--allow-create"], &scope[..]].concat();
                self.run("cibadmin", &args)?;
                self.mark(&leave_attribute(guest), "1")?;
                tracing::warn!(guest, reason, "asked the cluster to move a guest away");
            }
        }
        // The cluster was told and acts; if nobody can watch it, that is worth a line, no more.
        if let Err(error) = self.follow(scope) {
            tracing::warn!(error = chain(&error), "the evacuation is not watched");
        }
        Ok(Evacuated::ClusterWillMove)
    }

    fn membership(&self) -> Result<Vec<Member>, EngineError> {
        let this = self.node()?;
        let members = self.status()?.nodes.into_iter().map(|node| Member {
            online: node.online && !node.unclean,
            this_node: node.name == this,
            health: node.health,
            name: node.name,
        });
        Ok(members.collect())
    }
}

fn leave_attribute(guest: &str) -> String {
    format!("ras-leave-{guest}")
}

/// "A node with the leave mark of `guest` is worth `score` less to it." One per guest, for all
/// nodes; written again it stays the same.
fn leave_rule(guest: &str, score: i32) -> String {
    let id = leave_attribute(guest);
    format!(
        "<rsc_location id=\"{id}\" rsc=\"{guest}\"><rule id=\"{id}-rule\" score=\"{score}\">\
         <expression id=\"{id}-mark\" attribute=\"{id}\" operation=\"eq\" value=\"1\"/>\
         </rule></rsc_location>"
    )
}
