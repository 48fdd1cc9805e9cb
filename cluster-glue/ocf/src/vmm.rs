//! One VM's monitor process on this node: finding, starting and ending it.
//!
//! The QMP socket is the VM's identity: who listens there is the VM, and the kernel says who that
//! is (`SO_PEERCRED` on a connection names the process that listens, even when it hangs). The PID
//! file only covers the moments in which a monitor has no socket yet.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
    sockopt::PeerCredentials,
};
use nix::unistd::Pid;

/// A process that can't be mistaken for another one that got its number later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot. proc(5).
    start_time: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name is in parentheses and may hold anything, so count from its end: there
        // begins field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        // While exit(2) is under way the first thread may be a zombie and the vCPUs still run: dead
        // is a zombie without other threads.
        if matches!(field(3)?, "Z" | "X") && field(20)?.parse::<u32>().ok()? <= 1 {
            return None;
        }
        let start_time = field(22)?.parse().ok()?;
        Some(Self { pid: Pid::from_raw(pid), start_time })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid.as_raw()) == Some(self)
    }

    /// Kills it. Success when it is gone already.
    pub(crate) fn kill(self) -> Result<(), Errno> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(self.pid, Signal::SIGKILL) {
            Err(Errno::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Whether it ended before the deadline.
    pub(crate) fn wait_gone(self, deadline: Instant) -> bool {
        loop {
            if !self.is_alive() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
    }
}

/// Pause between two looks at something that is about to change.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Somebody listens on the VM's socket but no longer takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hung;

/// Files of one VM on this node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) socket: PathBuf,
    pid_file: PathBuf,
    log: PathBuf,
}

impl Place {
    pub(crate) fn new(run_dir: &Path, log_dir: &Path, name: &str) -> Self {
        Self {
            socket: run_dir.join(format!("{name}.qmp")),
            pid_file: run_dir.join(format!("{name}.pid")),
            log: log_dir.join(format!("{name}.log")),
        }
    }

    /// The VM's monitor, if it lives.
    pub(crate) fn process(&self) -> Option<Process> {
        self.listener().ok().flatten().or_else(|| self.recorded())
    }

    /// Whoever listens on the socket, answering or not.
    ///
    /// # Errors
    /// The socket takes no more connections: somebody listens, and hangs.
    pub(crate) fn listener(&self) -> Result<Option<Process>, Hung> {
        // Non-blocking: connect(2) on a socket with a full backlog would wait for the listener.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let Ok(socket) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
            return Ok(None);
        };
        let Ok(address) = UnixAddr::new(&self.socket) else { return Ok(None) };
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => Ok(getsockopt(&socket, PeerCredentials)
                .ok()
                .and_then(|peer| Process::of(peer.pid()))),
            Err(Errno::EAGAIN) => Err(Hung),
            Err(_) => Ok(None),
        }
    }

    fn recorded(&self) -> Option<Process> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let (pid, start_time) = text.trim().split_once(' ')?;
        let process = Process::of(pid.parse().ok()?)?;
        (Ok(process.start_time) == start_time.parse::<u64>()).then_some(process)
    }

    /// Starts a monitor that outlives us: its own process group (Pacemaker kills the agent's group
    /// on timeout), its own log, nothing inherited but `stdin`.
    pub(crate) fn spawn(&self, command: &mut Command, stdin: Option<OwnedFd>) -> Result<Child> {
        for file in [&self.socket, &self.log] {
            let dir = file.parent().context("a file name without a directory")?;
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        let child = command
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let record = i32::try_from(child.id()).ok().and_then(Process::of);
        if let Some(Process { pid, start_time }) = record {
            File::create(&self.pid_file)
                .and_then(|mut file| writeln!(file, "{pid} {start_time}"))
                .with_context(|| format!("writing {}", self.pid_file.display()))?;
        }
        Ok(child)
    }

    /// Removes what a dead monitor leaves behind.
    pub(crate) fn tidy(&self) {
        for file in [&self.socket, &self.pid_file] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    eprintln!("{}: {error}", file.display());
                }
                _ => {}
            }
        }
    }

    /// The end of the log in one line, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(400)..]).into_owned();
        tail.lines().last().unwrap_or("nothing in its log").trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_number_and_its_start() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id().try_into().unwrap()).unwrap();
        assert!(process.is_alive());
        let other = Process { start_time: process.start_time + 1, ..process };
        assert!(!other.is_alive());
        other.kill().unwrap();
        assert!(process.is_alive(), "somebody else's number is not killed");
        process.kill().unwrap();
        assert!(process.wait_gone(Instant::now() + Duration::from_secs(5)), "a zombie is gone");
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
