//! For tests only: dying by SIGKILL right after a chosen step of the walk.
//!
//! `RASD_KILL_AT=remembered rasd …` kills the process the first time that step is done. Nothing is
//! cleaned up, exactly as after a power loss with a warm disk cache. The tests then start rasd again
//! and expect it to finish the walk.

use std::fmt;

/// The steps of a walk, in order, and of the mirror that follows the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see `pipeline`")]
pub enum Step {
    Decoded,
    Diagnosed,
    Planned,
    Remembered,
    Offlined,
    GuestRetired,
    Recorded,
    Escalated,
    /// The mirror is about to be written.
    Mirroring,
    Mirrored,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Decoded,
        Self::Diagnosed,
        Self::Planned,
        Self::Remembered,
        Self::Offlined,
        Self::GuestRetired,
        Self::Recorded,
        Self::Escalated,
        Self::Mirroring,
        Self::Mirrored,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decoded => "decoded",
            Self::Diagnosed => "diagnosed",
            Self::Planned => "planned",
            Self::Remembered => "remembered",
            Self::Offlined => "offlined",
            Self::GuestRetired => "guest_retired",
            Self::Recorded => "recorded",
            Self::Escalated => "escalated",
            Self::Mirroring => "mirroring",
            Self::Mirrored => "mirrored",
        })
    }
}

/// Where to die, if anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct KillPoint(Option<Step>);

impl KillPoint {
    /// The environment variable.
    pub const VARIABLE: &str = "RASD_KILL_AT";

    /// What the environment asks for.
    ///
    /// # Errors
    /// A step that does not exist: the test would prove nothing.
    pub fn from_environment() -> anyhow::Result<Self> {
        let Some(name) = std::env::var_os(Self::VARIABLE) else { return Ok(Self(None)) };
        let step = Step::ALL.into_iter().find(|step| name.to_str() == Some(&step.to_string()));
        match step {
            Some(step) => Ok(Self(Some(step))),
            None => anyhow::bail!("{} names no step: {}", Self::VARIABLE, name.display()),
        }
    }

    /// `step` is done.
    pub fn passed(self, step: Step) {
        if self.0 != Some(step) {
            return;
        }
        tracing::warn!(%step, "killing myself, as {} asks", Self::VARIABLE);
        // A process may always signal itself, and no signal handler can catch this one.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
        std::process::abort();
    }
}
