//! [`HaEngine`]: the one thing `rasd` knows about high availability.

use std::fmt;
use std::time::Duration;

use ras_core::Health;
use serde::{Deserialize, Serialize};

/// Whatever keeps the guests of this host available.
///
/// `rasd` owns exactly one engine and calls it from one thread, after the decision is stored:
/// every method may therefore be called again with the same arguments after a restart, and a
/// repeated call must do no harm.
///
/// Every method returns in bounded time. None of them decides: which health a fault deserves and
/// who has to leave is `ras_core`'s business.
pub trait HaEngine: Send {
    /// The engine's name in configuration, logs and `rasctl status`.
    fn name(&self) -> &'static str;

    /// What this engine can and can't do, for the operator's eyes. Must not promise what the
    /// configuration does not hold: `rasd` prints it at start.
    fn capabilities(&self) -> Capabilities;

    /// Tells the cluster what this node is worth from now on.
    ///
    /// On `Ok` the value is with the cluster, which may act on it at once. `reason` is one line for
    /// the log. Health may get better as well as worse; the engine keeps no opinion.
    ///
    /// # Errors
    /// The cluster could not be told, within the engine's own bounded retries. The caller keeps the
    /// decision in its store and tries again later.
    fn report_health(&mut self, health: Health, reason: &str) -> Result<(), EngineError>;

    /// Gets guests off this host, live.
    ///
    /// On `Ok` look at [`Evacuated`]: an engine that moves guests itself says which left and which
    /// stayed; one that leaves it to the cluster says [`Evacuated::ClusterWillMove`]. No engine
    /// stops a guest to get rid of it: where no target can take it, it stays and runs.
    ///
    /// # Errors
    /// Nothing was asked of anybody: the guests are where they were.
    fn evacuate(&mut self, scope: &Scope, reason: &str) -> Result<Evacuated, EngineError>;

    /// The machines of the cluster as this node sees them now, this node among them.
    ///
    /// # Errors
    /// The cluster did not answer, or not in a form that is understood.
    fn membership(&self) -> Result<Vec<Member>, EngineError>;
}

/// What an engine can do, honestly.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// Guests of a dead node are started elsewhere, after fencing.
    pub failover: bool,
    /// Guests of a living node can move without stopping.
    pub live_migration: bool,
    /// What an operator has to know, in a sentence or two.
    pub notes: String,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |yes| if yes { "yes" } else { "no" };
        write!(
            f,
            "live migration: {}, failover: {}; {}",
            word(self.live_migration),
            word(self.failover),
            self.notes
        )
    }
}

/// Who has to leave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every guest of this host.
    Host,
    /// The guest of this name.
    Guest(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("every guest"),
            Self::Guest(name) => write!(f, "guest {name}"),
        }
    }
}

/// What came of [`HaEngine::evacuate`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evacuated {
    /// The cluster knows and moves the guests itself; nothing more to do here.
    ClusterWillMove,
    /// The engine tried every guest in scope. `stayed` empty means all of them left; both empty
    /// means that there was no guest.
    Moved {
        /// Guests that run elsewhere now.
        moved: Vec<Moved>,
        /// Guests that still run here, and why.
        stayed: Vec<Stayed>,
    },
    /// There is nowhere to go: a person has to move these guests.
    MoveNeeded {
        /// The guests.
        guests: Vec<String>,
        /// What is missing, and what to do.
        why: String,
    },
}

impl Evacuated {
    /// Whether nobody has to do anything more, so that the decision can be closed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self {
            Self::ClusterWillMove => true,
            Self::Moved { stayed, .. } => stayed.is_empty(),
            Self::MoveNeeded { guests, .. } => guests.is_empty(),
        }
    }
}

impl fmt::Display for Evacuated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterWillMove => f.write_str("the cluster moves the guests"),
            Self::Moved { moved, stayed } if moved.is_empty() && stayed.is_empty() => {
                f.write_str("no guest was here")
            }
            Self::Moved { moved, stayed } => {
                write!(f, "{} moved", moved.len())?;
                for Moved { guest, to, .. } in moved {
                    write!(f, ", {guest} to {to}")?;
                }
                for Stayed { guest, why } in stayed {
                    write!(f, "; {guest} stayed: {why}")?;
                }
                Ok(())
            }
            Self::MoveNeeded { guests, why } => {
                write!(f, "{} still here: {why}", guests.join(", "))
            }
        }
    }
}

/// A guest that left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Its name.
    pub guest: String,
    /// The URI it was sent to.
    pub to: String,
    /// How the move went.
    pub report: MigrationReport,
}

/// A guest that did not leave. It still runs here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stayed {
    /// Its name.
    pub guest: String,
    /// The error, with its causes, in one line.
    pub why: String,
}

/// A machine of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the cluster.
    pub name: String,
    /// Whether it is a working member now.
    pub online: bool,
    /// Whether it is the machine we run on.
    pub this_node: bool,
    /// What it is worth, where the engine knows.
    pub health: Option<Health>,
}

/// Moves guests of this host. Implemented by `rasd` over QMP.
pub trait Mover: Send + Sync {
    /// The names of the guests that run here now.
    ///
    /// # Errors
    /// The guests could not be enumerated.
    fn guests(&self) -> Result<Vec<String>, MoverError>;

    /// Migrates `guest` live to `uri` (`tcp:HOST:PORT` or `unix:PATH`) and returns when it runs
    /// there. Bounded: the implementation has its own deadline.
    ///
    /// # Errors
    /// The guest did not leave, and still runs here.
    fn migrate(&self, guest: &str, uri: &str) -> Result<MigrationReport, MoverError>;
}

/// Any error of a [`Mover`]; its chain is printed, never matched on.
pub type MoverError = Box<dyn std::error::Error + Send + Sync>;

/// How a live migration went, as the source saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MigrationReport {
    /// From the request to completion.
    pub total: Duration,
    /// How long the guest stood still, where the VMM reports it.
    pub downtime: Option<Duration>,
    /// Bytes sent, where the VMM reports it.
    pub transferred: Option<u64>,
}

/// Why an engine could not do what it was asked. See [`HaEngine`] for what holds then.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// A program of the cluster could not be started.
    #[error("could not start `{command}`")]
    Start {
        /// Program and arguments.
        command: String,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program of the cluster did not end in time and was killed.
    #[error("`{command}` did not end within {after:?}")]
    Timeout {
        /// Program and arguments.
        command: String,
        /// The limit.
        after: Duration,
    },
    /// A program of the cluster failed.
    #[error("`{command}` failed with {status}: {stderr}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// Exit code or signal, in words.
        status: String,
        /// The start of what it wrote to standard error.
        stderr: String,
    },
    /// A program of the cluster answered in a form we don't understand.
    #[error("the output of `{command}` is not understood: {what}")]
    Output {
        /// Program and arguments.
        command: String,
        /// What is wrong with it.
        what: String,
    },
    /// The name can't be a guest of this engine.
    #[error("`{name}` is not a guest name: 1 to 64 of A-Z a-z 0-9 . _ -, no dot or dash in front")]
    GuestName {
        /// The name as given.
        name: String,
    },
    /// The guests of this host could not be enumerated.
    #[error("could not list the guests of this host")]
    Guests {
        /// The [`Mover`]'s error.
        #[source]
        source: MoverError,
    },
}

/// Checks that `name` can safely be a file name, a resource id and a command line argument.
///
/// # Errors
/// [`EngineError::GuestName`]
pub fn check_guest_name(name: &str) -> Result<(), EngineError> {
    let fits = (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits {
        Ok(())
    } else {
        Err(EngineError::GuestName { name: name.chars().take(80).collect() })
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_names_are_file_names_and_nothing_else() {
        for good in ["vm1", "a", "Web_01.example-x", &"x".repeat(64)] {
            assert!(check_guest_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".vm", "-rf", "a/b", "a b", "ü", "a\n", "a\0", &"x".repeat(65)]
        {
            assert!(check_guest_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn settled_means_that_nobody_is_left() {
        assert!(Evacuated::ClusterWillMove.is_settled());
        assert!(Evacuated::Moved { moved: vec![], stayed: vec![] }.is_settled());
        let stayed = vec![Stayed { guest: "vm1".into(), why: "no".into() }];
        assert!(!Evacuated::Moved { moved: vec![], stayed }.is_settled());
        assert!(!Evacuated::MoveNeeded { guests: vec!["vm1".into()], why: "".into() }.is_settled());
    }
}
