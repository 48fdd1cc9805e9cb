//! The landing service on a real TCP connection.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ras_ocf::landing::{Config, Landing};
use tempfile::TempDir;

use super::monitor::Monitor;

/// The start of a migration stream of version 1, `vmm/src/migrate/format.rs`, and what follows it.
fn stream(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"RASVMMIG".to_vec();
    for field in [1, 0, 1, 4 + u32::try_from(name.len()).unwrap(), 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(name.as_bytes());
    bytes.extend(rest);
    bytes
}

/// A node whose monitor program writes down how it was called and what it was sent.
fn node() -> (TempDir, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = format!(
        "#!/bin/sh\necho \"$*\" >{0}/called.new\ncat <&3 >{0}/stream\nmv {0}/called.new {0}/called\n",
        dir.path().display()
    );
    fs::write(at("rasvmm"), script).unwrap();
    fs::set_permissions(at("rasvmm"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("vm1.toml"), "").unwrap();
    let landing = Landing::bind(Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        config_dir: dir.path().to_owned(),
        run_dir: dir.path().to_owned(),
        log_dir: dir.path().to_owned(),
        rasvmm: at("rasvmm"),
    })
    .unwrap();
    let address = landing.local_addr().unwrap();
    // Ends with the test's process: a service has no other end.
    thread::spawn(move || landing.serve());
    (dir, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The other side hung up, with or without having read everything.
fn is_closed(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn wait_for(path: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(5));
    }
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_guest_is_taken_in_with_its_stream_untouched() {
    let (dir, address) = node();
    let sent = stream("vm1", b"pages, state, end");
    let mut source = connect(address);
    // In pieces: the name arrives in the middle of a wait.
    for piece in sent.chunks(7) {
        source.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    source.shutdown(std::net::Shutdown::Write).unwrap();
    let called = wait_for(&dir.path().join("called"));
    let expected = format!(
        "--config {0}/vm1.toml --name vm1 --qmp unix:{0}/vm1.qmp --incoming fd:3\n",
        dir.path().display()
    );
    assert_eq!(called, expected);
    assert_eq!(fs::read(dir.path().join("stream")).unwrap(), sent);
}

#[test]
fn strangers_are_sent_away_and_start_nothing() {
    let (dir, address) = node();
    let mut old = stream("vm1", b"");
    old[8] = 9;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(),
        stream("../vm1", b""),
        stream("vm2", b""),
        stream(&"x".repeat(65), b""),
        old,
        b"RASV".to_vec(),
    ] {
        let mut source = connect(address);
        source.write_all(&bytes).unwrap();
        // Fails where the service was faster.
        let _ = source.shutdown(std::net::Shutdown::Write);
        assert!(is_closed(source), "{:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(!dir.path().join("called.new").exists() && !dir.path().join("called").exists());
}

#[test]
fn a_guest_that_runs_here_is_not_taken_in_again() {
    let (dir, address) = node();
    let mut monitor = Monitor::start(dir.path(), "running");
    let mut source = connect(address);
    source.write_all(&stream("vm1", b"")).unwrap();
    assert!(is_closed(source));
    assert!(monitor.is_alive());
    assert!(!dir.path().join("called.new").exists());
}

#[test]
fn a_silent_connection_does_not_wait_for_ever() {
    let (_dir, address) = node();
    let began = Instant::now();
    assert!(is_closed(connect(address)));
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_crowd_of_silent_connections_does_not_keep_out_the_rest_for_long() {
    let (dir, address) = node();
    let crowd: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
    drop(crowd);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dir.path().join("called").exists() {
        assert!(Instant::now() < deadline, "the guest is not taken in");
        let mut source = connect(address);
        if source.write_all(&stream("vm1", b"")).is_ok() {
            let _ = source.shutdown(std::net::Shutdown::Write);
            thread::sleep(Duration::from_millis(50));
        }
    }
}
