//! One machine without a cluster: guests can leave live for a configured peer, and that is all.
//!
//! Nobody watches this machine: when it dies, its guests are gone until a person starts them. The
//! engine says so in its [`Capabilities`].

use ras_core::Health;
use serde::{Deserialize, Serialize};

use crate::engine::{chain, check_guest_name};
use crate::{Capabilities, EngineError, Evacuated, HaEngine, Member, Moved, Mover, Scope, Stayed};

/// Configuration of [`Standalone`], `[cluster] engine = "standalone"` in rasd's file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandaloneConfig {
    /// Where guests are sent: `tcp:HOST:PORT` or `unix:PATH`. Every `{guest}` in it becomes the
    /// guest's name. Without a peer nobody can be moved.
    pub peer: Option<String>,
}

/// See the module.
pub struct Standalone {
    config: StandaloneConfig,
    host: String,
    mover: Box<dyn Mover>,
    health: Health,
}

impl Standalone {
    /// An engine that moves guests through `mover`.
    #[must_use]
    pub fn new(config: StandaloneConfig, mover: Box<dyn Mover>) -> Self {
        let host = nix::sys::utsname::uname()
            .ok()
            .and_then(|names| names.nodename().to_str().map(str::to_owned))
            .unwrap_or_else(|| "localhost".into());
        Self { config, host, mover, health: Health::Green }
    }

    fn in_scope(&self, scope: &Scope) -> Result<Vec<String>, EngineError> {
        match scope {
            Scope::Guest(name) => {
                check_guest_name(name)?;
                Ok(vec![name.clone()])
            }
            Scope::Host => self.mover.guests().map_err(|source| EngineError::Guests { source }),
        }
    }
}

impl HaEngine for Standalone {
    fn name(&self) -> &'static str {
        "standalone"
    }

    fn capabilities(&self) -> Capabilities {
        let notes = match &self.config.peer {
            Some(peer) => format!(
                "one machine: guests can leave for {peer}, but if this machine dies nobody \
                 restarts them"
            ),
            None => "one machine, no peer configured: guests can't leave, and if this machine \
                     dies nobody restarts them"
                .into(),
        };
        Capabilities { failover: false, live_migration: self.config.peer.is_some(), notes }
    }

    fn report_health(&mut self, health: Health, reason: &str) -> Result<(), EngineError> {
        if health != self.health {
            tracing::warn!(%health, reason, "node health changed; no cluster to tell");
        }
        self.health = health;
        Ok(())
    }

    fn evacuate(&mut self, scope: &Scope, reason: &str) -> Result<Evacuated, EngineError> {
        let guests = self.in_scope(scope)?;
        let Some(peer) = &self.config.peer else {
            let why = format!("no peer is configured ({reason}); move them by hand, or set `peer`");
            return Ok(Evacuated::MoveNeeded { guests, why });
        };
        let (mut moved, mut stayed) = (Vec::new(), Vec::new());
        // One after the other: two at once would only share the link and double both blackouts.
        for guest in guests {
            if let Err(error) = check_guest_name(&guest) {
                stayed.push(Stayed { guest, why: error.to_string() });
                continue;
            }
            let to = peer.replace("{guest}", &guest);
            match self.mover.migrate(&guest, &to) {
                Ok(report) => moved.push(Moved { guest, to, report }),
                Err(error) => {
                    tracing::error!(guest, to, error = chain(error.as_ref()), "guest stayed");
                    stayed.push(Stayed { guest, why: chain(error.as_ref()) });
                }
            }
        }
        Ok(Evacuated::Moved { moved, stayed })
    }

    /// This machine only: a peer is an address to us, nobody whose state we know.
    fn membership(&self) -> Result<Vec<Member>, EngineError> {
        Ok(vec![Member {
            name: self.host.clone(),
            online: true,
            this_node: true,
            health: Some(self.health),
        }])
    }
}
