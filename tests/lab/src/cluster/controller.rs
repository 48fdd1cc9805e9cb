//! The nodes' management controller: what fencing talks to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::process::Process;

/// A request that was carried out.
#[derive(Clone, Debug)]
pub(super) struct PowerEvent {
    pub(super) time: SystemTime,
    pub(super) action: String,
    pub(super) node: String,
}

/// A running controller.
pub(super) struct Controller {
    stop: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<PowerEvent>>>,
    thread: Option<JoinHandle<()>>,
}

impl Controller {
    /// Answers on `listener`. `power_dir` holds the identity of each node's init.
    pub(super) fn start(listener: TcpListener, power_dir: PathBuf) -> Result<Self> {
        listener.set_nonblocking(true).context("setting up the management controller")?;
        let stop = Arc::new(AtomicBool::new(false));
        let events = Arc::new(Mutex::new(Vec::new()));
        let (stopped, log) = (Arc::clone(&stop), Arc::clone(&events));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        if let Err(error) = serve(stream, &power_dir, &log) {
                            eprintln!("lab: management controller: {error:#}");
                        }
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(Self { stop, events, thread: Some(thread) })
    }

    /// What it did so far.
    pub(super) fn events(&self) -> Vec<PowerEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request, `ACTION NODE`, and its answer: the exit code of the fence agent.
fn serve(stream: TcpStream, power_dir: &Path, log: &Mutex<Vec<PowerEvent>>) -> Result<()> {
    stream.set_nonblocking(false).context("setting up a connection")?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).context("setting a deadline")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("reading a request")?;
    let (action, node) = line.trim().split_once(' ').context("a request of two words")?;
    let code = carry_out(action, node, power_dir)?;
    if action == "off" {
        let (time, action, node) = (SystemTime::now(), action.to_owned(), node.to_owned());
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(PowerEvent { time, action, node });
    }
    writeln!(&stream, "{code}").context("answering")
}

fn carry_out(action: &str, node: &str, power_dir: &Path) -> Result<u8> {
    if action == "monitor" {
        return Ok(0);
    }
    if !node.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("no node {node:?}");
    }
    let init = Process::read(&power_dir.join(node));
    match action {
        "off" => init.map_or(Ok(()), Process::kill).map(|()| 0),
        // 0 is on, 2 is off: the fence agent API.
        "status" => Ok(if init.is_some_and(Process::is_alive) { 0 } else { 2 }),
        _ => bail!("no action {action:?}"),
    }
}
