//! A process that answers QMP as a VM's monitor would, well or badly.
//!
//! It has to be a process of its own: the agent finds out who listens on a VM's socket, and ends
//! that process. It is `src/bin/scripted-monitor.rs`, which lists the behaviours.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running monitor of `vm1`; ends when dropped.
pub(super) struct Monitor {
    child: Child,
}

impl Monitor {
    pub(super) fn start(run_dir: &Path, behaviour: &str) -> Self {
        let socket = socket(run_dir);
        let child = Command::new(env!("CARGO_BIN_EXE_scripted-monitor"))
            .arg(behaviour)
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the monitor does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Self { child }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("vm1.qmp")
}
