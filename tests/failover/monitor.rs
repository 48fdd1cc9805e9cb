//! A process that answers QMP as a VM's monitor would, well or badly.
//!
//! It has to be a process of its own: the agent finds out who listens on a VM's socket, and ends
//! that process. It is this test binary again, running only [`process`].

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ras_qmp::{CommandError, Events, Handler, Server};
use serde_json::{Map, Value, json};

/// How a monitor behaves: a state of `query-status`, or one of the words below.
const HUNG: &str = "hung";
const GARBAGE: &str = "garbage";
const DEAF: &str = "deaf-to-quit";
const MIGRATION_FAILS: &str = "migration-fails";
const MIGRATION_HANGS: &str = "migration-hangs";

const VARIABLE: &str = "RAS_TEST_MONITOR";

/// Nothing that a test forgot stays longer.
const LIFE: Duration = Duration::from_secs(60);

/// A running monitor of `vm1`; ends when dropped.
pub(super) struct Monitor {
    child: Child,
}

impl Monitor {
    pub(super) fn start(run_dir: &Path, behaviour: &str) -> Self {
        let socket = socket(run_dir);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "failover::monitor::process", "--ignored", "--nocapture"])
            .env(VARIABLE, format!("{behaviour} {}", socket.display()))
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

#[test]
#[ignore = "a monitor's process, started by other tests"]
fn process() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let (behaviour, socket) = order.split_once(' ').unwrap();
    let socket = Path::new(socket);
    match behaviour {
        HUNG => {
            let _listener = UnixListener::bind(socket).unwrap();
            thread::sleep(LIFE);
        }
        GARBAGE => {
            let listener = UnixListener::bind(socket).unwrap();
            thread::spawn(|| {
                thread::sleep(LIFE);
                std::process::exit(1);
            });
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\xfe{{{\n");
                let _ = stream.read(&mut [0; 64]);
            }
        }
        _ => {
            let script = Script { behaviour: behaviour.to_owned(), cancelled: Mutex::new(false) };
            let _server = Server::bind(socket, Events::default(), Arc::new(script)).unwrap();
            thread::sleep(LIFE);
        }
    }
}

struct Script {
    behaviour: String,
    cancelled: Mutex<bool>,
}

impl Handler for Script {
    fn execute(&self, command: &str, _: &Map<String, Value>) -> Result<Value, CommandError> {
        let state = match self.behaviour.as_str() {
            DEAF | MIGRATION_FAILS | MIGRATION_HANGS => "running",
            state => state,
        };
        match command {
            "query-status" => Ok(json!({ "status": state, "running": state == "running" })),
            "quit" if self.behaviour == DEAF => Ok(json!({})),
            "quit" => {
                thread::spawn(|| {
                    thread::sleep(Duration::from_millis(20));
                    std::process::exit(0);
                });
                Ok(json!({}))
            }
            "migrate" => Ok(json!({})),
            "migrate_cancel" => {
                *self.cancelled.lock().unwrap() = true;
                Ok(json!({}))
            }
            "query-migrate" => Ok(match self.behaviour.as_str() {
                MIGRATION_FAILS => json!({ "status": "failed", "error-desc": "no such host" }),
                MIGRATION_HANGS if !*self.cancelled.lock().unwrap() => json!({"status": "active"}),
                MIGRATION_HANGS => json!({ "status": "cancelled" }),
                _ => json!({ "status": "completed", "total-time": 120, "downtime": 7 }),
            }),
            other => Err(CommandError::not_found(other)),
        }
    }
}
