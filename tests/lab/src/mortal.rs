//! Processes that go when we go, even when we are killed and no destructor runs.

use std::ffi::OsStr;
use std::process::Command;

use crate::capability;

/// A command for `program` that gets SIGKILL when the thread that spawns it ends. Where `setpriv` of
/// util-linux is missing, it is an ordinary one.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    match capability::program("setpriv") {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        Err(_) => Command::new(program),
    }
}
