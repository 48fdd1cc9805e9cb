//! The actions. Each is a function of the parameters and of what the VM's monitor says.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use ras_qmp::ras::MigrateStatus;
use ras_qmp::{Client, QmpError, RunState};
use serde_json::Value;

use crate::vmm::{Hung, POLL, Place};
use crate::{Code, Failure, Params, metadata};

/// Carries out one action of the agent, as `main` does: `get` reads the environment.
pub fn run(action: Option<&str>, get: impl Fn(&str) -> Option<String>) -> Code {
    let act = match action {
        Some("meta-data") => return print(&metadata::xml()),
        Some("usage" | "help" | "--help") => return print(USAGE),
        Some("start") => start,
        Some("stop") => stop,
        Some("monitor" | "status") => monitor,
        Some("migrate_to") => migrate_to,
        Some("migrate_from") => migrate_from,
        Some("validate-all") => validate_all,
        Some(other) => {
            eprintln!("no action `{}`\n{USAGE}", other.escape_debug());
            return Code::Unimplemented;
        }
        None => {
            eprintln!("{USAGE}");
            return Code::Args;
        }
    };
    let done = Params::read(get).and_then(|params| act(&Call::new(params)));
    match done {
        Ok(()) => Code::Success,
        Err(Failure { code, reason }) => {
            // The prefix is Pacemaker's: what follows is shown by crm_mon.
            if code != Code::NotRunning {
                eprintln!("ocf-exit-reason:{reason}");
            }
            code
        }
    }
}

const USAGE: &str = "usage: vm start|stop|monitor|migrate_to|migrate_from|meta-data|validate-all\n";

fn print(text: &str) -> Code {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Code::Success,
        Err(_) => Code::Generic,
    }
}

/// One call: the parameters, what follows from them, and the moment by which it has to be over.
struct Call {
    params: Params,
    place: Place,
    deadline: Instant,
}

impl Call {
    fn new(params: Params) -> Self {
        let place = Place::new(&params.run_dir, &params.log_dir, &params.name);
        let deadline = Instant::now() + params.timeout;
        Self { params, place, deadline }
    }

    fn connect(&self) -> Result<Client, QmpError> {
        Client::connect(&self.place.socket, self.params.qmp_timeout)
    }

    /// A moment before the deadline, `share` of the time that is left.
    fn part(&self, share: f64) -> Instant {
        Instant::now() + self.deadline.saturating_duration_since(Instant::now()).mul_f64(share)
    }

    fn time_is_up(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// What runs here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// No process.
    Nothing,
    /// A monitor whose guest is, or may be, alive in it. A paused guest is alive.
    Guest(RunState),
    /// A monitor without a guest: not arrived yet, left, or ended.
    Shell(RunState),
    /// A monitor whose guest is broken.
    Broken(RunState),
}

fn find(call: &Call) -> Result<Found, Failure> {
    match call.place.listener() {
        Ok(Some(_)) => {}
        Ok(None) if call.place.process().is_some() => {
            return Err(Failure::generic("the monitor runs without a QMP socket"));
        }
        Ok(None) => return Ok(Found::Nothing),
        Err(Hung) => return Err(Failure::generic("the monitor takes no QMP connections")),
    }
    let state = call.connect().and_then(|mut client| client.query_status());
    match state {
        Ok(state @ (RunState::Running | RunState::Paused | RunState::FinishMigrate)) => {
            Ok(Found::Guest(state))
        }
        Ok(state @ (RunState::Inmigrate | RunState::Postmigrate | RunState::Shutdown)) => {
            Ok(Found::Shell(state))
        }
        Ok(state @ (RunState::GuestPanicked | RunState::InternalError | RunState::Watchdog)) => {
            Ok(Found::Broken(state))
        }
        // It may have ended between our two looks at it; that is not a failure.
        Err(_) if call.place.process().is_none() => Ok(Found::Nothing),
        Err(error) => Err(Failure::generic(Chain(&error))),
    }
}

fn monitor(call: &Call) -> Result<(), Failure> {
    match find(call)? {
        Found::Guest(_) => Ok(()),
        Found::Nothing | Found::Shell(_) => Err(Failure::new(Code::NotRunning, "not running")),
        Found::Broken(state) => Err(Failure::generic(format_args!("the guest is in {state:?}"))),
    }
}

fn start(call: &Call) -> Result<(), Failure> {
    match find(call) {
        Ok(Found::Guest(_)) => return Ok(()),
        Ok(Found::Nothing) => {}
        // Pacemaker wants it to run, so whatever sits in its place has to go.
        Ok(Found::Shell(_) | Found::Broken(_)) | Err(_) => stop(call)?,
    }
    validate_all(call)?;
    call.place.tidy();
    let mut command = Command::new(&call.params.rasvmm);
    command.arg("--config").arg(&call.params.config).args(["--name", &call.params.name]);
    command.arg("--qmp").arg(format!("unix:{}", call.place.socket.display()));
    let mut child = call
        .place
        .spawn(&mut command, None)
        .map_err(|error| Failure::generic(format_args!("{error:#}")))?;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            call.place.tidy();
            let words = call.place.last_words();
            return Err(Failure::generic(format_args!("the monitor ended with {status}: {words}")));
        }
        if let Ok(Found::Guest(RunState::Running)) = find(call) {
            return Ok(());
        }
        if call.time_is_up() {
            return Err(Failure::generic("the guest does not run in time"));
        }
        thread::sleep(POLL);
    }
}

/// Ends the monitor, and with it the guest. Success is a promise: the guest does not run here, and
/// may be started elsewhere. A failure makes Pacemaker fence this node.
fn stop(call: &Call) -> Result<(), Failure> {
    let Some(process) = call.place.process() else {
        call.place.tidy();
        return Ok(());
    };
    if call.place.listener().is_ok() {
        // Whether it answers or not: what counts is that it ends.
        let _ = call.connect().and_then(|mut client| {
            client.execute("quit", Value::Null, call.params.qmp_timeout).map(drop)
        });
    }
    if !process.wait_gone(call.part(0.5)) {
        process.kill().map_err(|errno| Failure::generic(format_args!("killing it: {errno}")))?;
        if !process.wait_gone(call.deadline) {
            return Err(Failure::generic("the monitor survives SIGKILL; it may still run"));
        }
    }
    call.place.tidy();
    Ok(())
}

/// Sends the guest to the landing service of the target node, and returns when it has left.
fn migrate_to(call: &Call) -> Result<(), Failure> {
    let uri = call.params.uri()?;
    match find(call)? {
        Found::Guest(_) => {}
        Found::Nothing | Found::Shell(_) => {
            return Err(Failure::generic("there is no guest to migrate"));
        }
        Found::Broken(state) => {
            return Err(Failure::generic(format_args!("a guest in {state:?} can't migrate")));
        }
    }
    let refused = |error: QmpError| Failure::generic(Chain(&error));
    let mut client = call.connect().map_err(refused)?;
    client.migrate(&uri).map_err(refused)?;
    // Time is kept for the cancellation and for ending the source.
    let limit = call.part(0.9).saturating_duration_since(Instant::now());
    let status = client.wait_migrated(limit).or_else(|_| cancel(call)).map_err(refused)?;
    if !status.is_completed() {
        let state = status.status.as_deref().unwrap_or("not under way");
        let why = status.error_desc.as_deref().unwrap_or("no reason given");
        return Err(Failure::generic(format_args!("migration to {uri} is {state}: {why}")));
    }
    eprintln!(
        "{} is at {uri}: {} ms, guest stood still for {} ms",
        call.params.name,
        status.total_time.unwrap_or(0),
        status.downtime.unwrap_or(0)
    );
    // The guest lives elsewhere now: this shell must not be mistaken for it.
    stop(call)
}

/// Ends a migration that does not end by itself, and says how it ended: a cancellation may cross
/// with completion, so the last word is asked for. A new connection, since the old one may be what
/// broke.
fn cancel(call: &Call) -> Result<MigrateStatus, QmpError> {
    let mut client = call.connect()?;
    let _ = client.execute("migrate_cancel", Value::Null, call.params.qmp_timeout);
    client.wait_migrated(call.params.qmp_timeout)
}

/// Waits on the target until the guest that was sent here runs.
fn migrate_from(call: &Call) -> Result<(), Failure> {
    loop {
        let found = find(call);
        if matches!(found, Ok(Found::Guest(_))) {
            return Ok(());
        }
        if call.time_is_up() {
            return match found {
                Ok(found) => Err(Failure::generic(format_args!("it did not arrive: {found:?}"))),
                Err(failure) => Err(failure),
            };
        }
        thread::sleep(POLL);
    }
}

/// Checks what can be checked without starting anything.
fn validate_all(call: &Call) -> Result<(), Failure> {
    let params = &call.params;
    if let Err(error) = std::fs::File::open(&params.config) {
        let reason = format!("{}: {error}", params.config.display());
        return Err(Failure::new(Code::Installed, reason));
    }
    if !is_program(&params.rasvmm) {
        let reason = format!("no program {}", params.rasvmm.display());
        return Err(Failure::new(Code::Installed, reason));
    }
    Ok(())
}

/// Whether `program` would be found by exec(3): as a path, or through `PATH`.
fn is_program(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// An error and its causes in one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
