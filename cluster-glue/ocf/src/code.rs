//! Exit codes of a resource agent. OCF Resource Agent API 1.1, "Exit status codes".

use std::fmt;
use std::process::{ExitCode, Termination};

/// What an action tells Pacemaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Code {
    /// Done, or running.
    Success = 0,
    /// Failed in a way that another attempt or another node may not.
    Generic = 1,
    /// Called wrongly.
    Args = 2,
    /// No such action.
    Unimplemented = 3,
    /// Not allowed to.
    Permission = 4,
    /// Something that belongs on this node is missing; another node may have it.
    Installed = 5,
    /// The resource's configuration is wrong everywhere.
    Configured = 6,
    /// Cleanly not running. Only for `monitor`.
    NotRunning = 7,
}

impl Termination for Code {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why an action failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For Pacemaker.
    pub code: Code,
    /// For people; Pacemaker shows it in `crm_mon` as the exit reason.
    pub reason: String,
}

impl Failure {
    pub(crate) fn new(code: Code, reason: impl fmt::Display) -> Self {
        Self { code, reason: reason.to_string() }
    }

    pub(crate) fn generic(reason: impl fmt::Display) -> Self {
        Self::new(Code::Generic, reason)
    }
}
