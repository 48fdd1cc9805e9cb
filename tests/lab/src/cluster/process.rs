//! Processes that end with the lab, and are never mistaken for others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command whose process the kernel kills when the calling thread ends, however that happens.
/// So it has to be started by a thread that lives as long as it is needed.
pub(super) fn dies_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]).stdin(Stdio::null());
    command
}

/// A process: a number, and when it began, since numbers are used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    pid: i32,
    start_time: u64,
}

impl Process {
    pub(super) fn pid(self) -> i32 {
        self.pid
    }

    /// From `PID STARTTIME` in a file.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start_time) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }

    pub(super) fn is_alive(self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // Fields 3 (state) and 22 (start time) of proc(5), counted from the end of the name.
        let mut fields =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let state = fields.next().unwrap_or("X");
        let start_time = fields.nth(18).and_then(|field| field.parse().ok());
        !matches!(state, "Z" | "X") && start_time == Some(self.start_time)
    }

    /// Kills it and waits until it is gone. Success when it was.
    pub(super) fn kill(self) -> Result<()> {
        if self.is_alive() {
            match kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno).context("SIGKILL"),
            }
        }
        let gone = wait_until(Duration::from_secs(10), || (!self.is_alive()).then_some(()));
        ensure!(gone.is_some(), "process {} survives SIGKILL", self.pid);
        Ok(())
    }
}

/// Asks until there is an answer, at most for `limit`.
pub(super) fn wait_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
