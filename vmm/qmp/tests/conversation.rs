//! Client and server over a real socket, polite and impolite.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ras_qmp::{Client, CommandError, Events, Handler, QmpError, Server};
use serde_json::{Map, Value, json};

const SOON: Duration = Duration::from_secs(5);

struct Echo;

impl Handler for Echo {
    fn execute(
        &self,
        command: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Value, CommandError> {
        match command {
            "echo" => Ok(json!(arguments)),
            "slow" => {
                std::thread::sleep(Duration::from_millis(300));
                Ok(json!({ "slow": true }))
            }
            other => Err(CommandError::not_found(other)),
        }
    }
}

struct Stage {
    _server: Server,
    events: Events,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm1.qmp");
    let events = Events::default();
    let server = Server::bind(&path, events.clone(), Arc::new(Echo)).unwrap();
    Stage { _server: server, events, path, _dir: dir }
}

fn raw(stage: &Stage) -> (UnixStream, impl FnMut() -> Value) {
    let stream = UnixStream::connect(&stage.path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    (stream, move || serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap())
}

/// A connection the server has room for.
fn welcome(stage: &Stage) -> (UnixStream, impl FnMut() -> Value) {
    let deadline = Instant::now() + SOON;
    loop {
        let (stream, mut next) = raw(stage);
        if next().get("QMP").is_some() {
            return (stream, next);
        }
        assert!(Instant::now() < deadline, "the server never had room again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_client_too_many_is_told_so() {
    let stage = stage();
    let clients: Vec<_> = (0..16).map(|_| Client::connect(&stage.path, SOON).unwrap()).collect();
    let refused = Client::connect(&stage.path, SOON).unwrap_err();
    assert!(
        matches!(&refused, QmpError::Command { source, .. } if source.desc == "too many clients")
    );
    drop(clients);
    let _room = welcome(&stage);
}

#[test]
fn a_command_gets_its_answer() {
    let stage = stage();
    let mut client = Client::connect(&stage.path, SOON).unwrap();
    assert_eq!(client.execute("echo", json!({ "a": 1 }), SOON).unwrap(), json!({ "a": 1 }));
    assert_eq!(client.peer_pid(), Some(std::process::id()));
    let refused = client.execute("dance", Value::Null, SOON).unwrap_err();
    assert!(matches!(refused, QmpError::Command { .. }), "{refused:?}");
}

#[test]
fn events_arrive_between_answers_in_order() {
    let stage = stage();
    let mut client = Client::connect(&stage.path, SOON).unwrap();
    stage.events.emit("STOP", Value::Null);
    stage.events.emit("RESUME", json!({ "why": "test" }));
    client.execute("echo", Value::Null, SOON).unwrap();
    assert_eq!(client.next_event(SOON).unwrap().unwrap().event, "STOP");
    assert_eq!(client.next_event(SOON).unwrap().unwrap().data["why"], "test");
    assert_eq!(client.next_event(Duration::from_millis(10)).unwrap(), None);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let stage = stage();
    let mut client = Client::connect(&stage.path, SOON).unwrap();
    let late = client.execute("slow", Value::Null, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(late, QmpError::Timeout { .. }), "{late:?}");
    assert_eq!(client.execute("echo", json!({ "b": 2 }), SOON).unwrap(), json!({ "b": 2 }));
}

#[test]
fn negotiation_comes_first_and_once() {
    let stage = stage();
    let (mut stream, mut next) = raw(&stage);
    assert!(next()["QMP"]["version"]["qemu"]["major"].is_u64());
    writeln!(stream, r#"{{"execute":"echo","id":7}}"#).unwrap();
    let early = next();
    assert_eq!((&early["error"]["class"], &early["id"]), (&json!("CommandNotFound"), &json!(7)));
    stage.events.emit("STOP", Value::Null);
    writeln!(stream, r#"{{"execute":"qmp_capabilities"}}"#).unwrap();
    assert_eq!(next(), json!({ "return": {} }), "no event before negotiation");
    writeln!(stream, r#"{{"execute":"qmp_capabilities"}}"#).unwrap();
    assert_eq!(next()["error"]["class"], "CommandNotFound");
}

#[test]
fn garbage_is_answered_and_the_next_line_understood() {
    let stage = stage();
    let (mut stream, mut next) = raw(&stage);
    next();
    for wrong in
        [&b"\xff\xfe{{{\n"[..], b"[1,2]\n", b"{\"execute\":5}\n", b"{\"do\":\"x\"}\n", b"\"s\"\n"]
    {
        stream.write_all(wrong).unwrap();
        assert_eq!(next()["error"]["class"], "GenericError", "{wrong:?}");
    }
    let long = vec![b'x'; 200_000];
    stream.write_all(b"{\"execute\":\"").unwrap();
    stream.write_all(&long).unwrap();
    stream.write_all(b"\"}\n").unwrap();
    assert!(next()["error"]["desc"].as_str().unwrap().contains("longer than"));
    writeln!(stream, r#"{{"execute":"qmp_capabilities"}}"#).unwrap();
    assert_eq!(next(), json!({ "return": {} }));
}

#[test]
fn a_client_that_disappears_or_never_reads_hurts_nobody() {
    let stage = stage();
    for _ in 0..50 {
        let (mut stream, _next) = raw(&stage);
        // The server may have hung up: fifty at once are too many.
        let _ = stream.write_all(b"{\"execute\":\"qmp_capa");
    }
    let (mut deaf, mut next) = welcome(&stage);
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}").unwrap();
    next();
    let began = Instant::now();
    for _ in 0..2000 {
        stage.events.emit("NOISE", json!({ "text": "x".repeat(1000) }));
    }
    assert!(began.elapsed() < Duration::from_secs(30), "the deaf client was not cut off");
    let mut client = Client::connect(&stage.path, SOON).unwrap();
    client.execute("echo", Value::Null, SOON).unwrap();
}

#[test]
fn a_socket_in_use_is_not_taken_over_and_a_stale_one_is() {
    let first = stage();
    let taken = Server::bind(&first.path, Events::default(), Arc::new(Echo)).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stale.qmp");
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::bind(&path, Events::default(), Arc::new(Echo)).unwrap();
    Client::connect(&path, SOON).unwrap();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_server_that_says_nothing_sensible_is_an_error_in_time() {
    for (greeting, expect) in [
        (&b""[..], "no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak QMP"),
        (b"{\"hello\":1}\n", "does not speak QMP"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd.qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            std::thread::sleep(Duration::from_millis(400));
        });
        let error = Client::connect(&path, Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        server.join().unwrap();
    }
    let missing = Client::connect(&PathBuf::from("/nonexistent/vm.qmp"), SOON).unwrap_err();
    assert!(matches!(missing, QmpError::Io { .. }), "{missing:?}");
}
