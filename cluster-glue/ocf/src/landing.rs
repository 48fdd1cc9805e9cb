//! Takes arriving guests in: one listening socket per node, one new monitor per guest.
//!
//! A migration stream names its guest at its start. The service peeks at that start (the bytes stay
//! in the socket), checks the name, and starts a monitor that inherits the connection and reads the
//! stream from its first byte. From then on the service has no part in it.
//!
//! **Known limit:** the stream is plain TCP. Whoever reaches the address can start a guest that is
//! defined here and not running, with memory of their making. Listen on the cluster's own network.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::header;
use crate::vmm::Place;

/// How long an arriving connection has for its first bytes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections whose header we wait for at the same time; more are closed at once.
const WAITING_MAX: usize = 16;

/// A source that vanished without a word (power, cable) is noticed after about this long, so that
/// the half-arrived guest goes away and can arrive again.
const KEEPALIVE_IDLE_SECS: u32 = 5;
const KEEPALIVE_INTERVAL_SECS: u32 = 2;
const KEEPALIVE_PROBES: u32 = 5;

/// Where to listen, and how to start a monitor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The address of this node on the cluster's network.
    pub listen: SocketAddr,
    /// Directory of the VM definitions, `NAME.toml` each.
    pub config_dir: PathBuf,
    /// Directory of the QMP sockets.
    pub run_dir: PathBuf,
    /// Directory of the monitors' logs.
    pub log_dir: PathBuf,
    /// The monitor program.
    pub rasvmm: PathBuf,
}

/// A listening service.
#[derive(Debug)]
pub struct Landing {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Guests whose monitor is being started just now.
    starting: Mutex<BTreeSet<String>>,
    waiting: AtomicUsize,
}

impl Landing {
    /// Listens.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn bind(config: Config) -> Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .with_context(|| format!("listening on {}", config.listen))?;
        let starting = Mutex::default();
        let waiting = AtomicUsize::new(0);
        Ok(Self { listener, shared: Arc::new(Shared { config, starting, waiting }) })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes guests in for ever.
    pub fn serve(&self) -> ! {
        loop {
            let (stream, peer) = match self.listener.accept() {
                Ok(arrival) => arrival,
                Err(error) => {
                    // Out of file descriptors or memory: try again, but not in a busy loop.
                    eprintln!("accepting: {error}");
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.shared.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
                self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                eprintln!("{peer}: too many connections, closed");
                continue;
            }
            let shared = Arc::clone(&self.shared);
            let served = thread::Builder::new().spawn(move || {
                let taken_in = shared.take_in(stream);
                shared.waiting.fetch_sub(1, Ordering::AcqRel);
                match taken_in {
                    Ok(guest) => guest.see_off(peer),
                    Err(error) => eprintln!("{peer}: refused: {error:#}"),
                }
            });
            if let Err(error) = served {
                self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
                eprintln!("{peer}: no thread for it: {error}");
            }
        }
    }
}

impl Shared {
    /// Finds out who arrives, and starts the monitor that takes over the connection.
    fn take_in(&self, stream: TcpStream) -> Result<Guest> {
        let name = peek_name(&stream, Instant::now() + HEADER_TIMEOUT)?;
        let _alone = Starting::begin(self, &name)
            .with_context(|| format!("{name} arrives on another connection as well"))?;
        let config = &self.config;
        let place = Place::new(&config.run_dir, &config.log_dir, &name);
        ensure!(
            place.listener().is_ok_and(|found| found.is_none()) && place.process().is_none(),
            "a monitor of {name} already runs here"
        );
        let definition = config.config_dir.join(format!("{name}.toml"));
        ensure!(definition.is_file(), "{name} is not defined here: no {}", definition.display());
        keep_alive(&stream).context("setting the connection up")?;
        place.tidy();
        // A child gets a socket safely as one of the standard streams only, and the monitor wants it
        // as another descriptor, so that it can't be taken for one of those: the shell moves it.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"exec 3<&0 </dev/null; exec "$@""#, "sh"]).arg(&config.rasvmm);
        command.arg("--config").arg(&definition).args(["--name", &name]);
        command.arg("--qmp").arg(format!("unix:{}", place.socket.display()));
        command.args(["--incoming", "fd:3"]);
        let monitor = place.spawn(&mut command, Some(OwnedFd::from(stream)))?;
        Ok(Guest { name, place, monitor })
    }
}

/// A guest whose monitor was started.
struct Guest {
    name: String,
    place: Place,
    monitor: std::process::Child,
}

impl Guest {
    /// Waits for the monitor's end, which may be years away, so that no zombie is left.
    fn see_off(self, peer: SocketAddr) {
        let Self { name, place, mut monitor } = self;
        eprintln!("{peer}: {name} arrives, monitor {}", monitor.id());
        match monitor.wait() {
            Ok(status) if status.success() => eprintln!("{name}: its monitor ended"),
            Ok(status) => eprintln!("{name}: {status}: {}", place.last_words()),
            Err(error) => eprintln!("{name}: waiting for its monitor: {error}"),
        }
    }
}

/// Holds a guest's name while its monitor is started; afterwards the PID file does.
struct Starting<'a> {
    shared: &'a Shared,
    name: String,
}

impl<'a> Starting<'a> {
    fn begin(shared: &'a Shared, name: &str) -> Option<Self> {
        let mut starting = shared.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting.insert(name.to_owned()).then(|| Self { shared, name: name.to_owned() })
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let starting = self.shared.starting.lock();
        starting.unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Reads the guest's name without taking a byte out of the stream.
fn peek_name(stream: &TcpStream, deadline: Instant) -> Result<String> {
    let mut start = [0; header::LEN_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no stream header within {HEADER_TIMEOUT:?}");
        stream.set_read_timeout(Some(left)).context("setting a deadline")?;
        let len = match stream.peek(&mut start) {
            Ok(0) => bail!("closed before the end of its header"),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("reading the stream header"),
        };
        if let Some(name) = header::guest_name(&start[..len])? {
            stream.set_read_timeout(None).context("clearing the deadline")?;
            return Ok(name);
        }
        // Peeking returns at once while there is anything; the rest is on its way.
        thread::sleep(Duration::from_millis(2));
    }
}

fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)
}
