//! `scripted-monitor BEHAVIOUR SOCKET`: answers QMP as the monitor of a VM would, well or badly. The
//! other side of the agent in `tests/failover`.
#![allow(clippy::unwrap_used, reason = "a prop of a test: what can't go on fails")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ras_qmp::{CommandError, Events, Handler, Server};
use serde_json::{Map, Value, json};

/// How a monitor behaves: a state of `query-status`, or one of the words below.
const HUNG: &str = "hung";
const GARBAGE: &str = "garbage";
const DEAF: &str = "deaf-to-quit";
const MIGRATION_FAILS: &str = "migration-fails";
const MIGRATION_HANGS: &str = "migration-hangs";

/// Nothing that a test forgot stays longer.
const LIFE: Duration = Duration::from_secs(60);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(behaviour), Some(socket)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: scripted-monitor BEHAVIOUR SOCKET");
        std::process::exit(2);
    };
    let socket = Path::new(&socket);
    match behaviour.as_str() {
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
            let script = Script { behaviour, cancelled: Mutex::new(false) };
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
