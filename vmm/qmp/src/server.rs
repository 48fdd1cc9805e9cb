//! The answering side: accepting, negotiating, limits and events. What the commands mean is the
//! [`Handler`]'s business.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::frames::{FrameError, Frames};
use crate::message::{CommandError, Event, Request, response};

/// Longest request, in bytes. The longest real one is a few hundred.
pub const REQUEST_MAX: usize = 64 << 10;

/// Clients at the same time; each costs a thread.
pub const CLIENTS_MAX: usize = 16;

/// A client that does not read for this long is cut off, so that it can't hold up events for others.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Thread stacks are touched lazily, but their size counts against address-space limits.
const STACK: usize = 256 << 10;

/// Carries out commands.
pub trait Handler: Send + Sync + 'static {
    /// Carries out one command. Called on the client's own thread, so it may wait; commands of
    /// different clients run at the same time. `qmp_capabilities` never gets here.
    ///
    /// # Errors
    /// Whatever the client is to be told.
    fn execute(&self, command: &str, arguments: &Map<String, Value>)
    -> Result<Value, CommandError>;
}

/// A listening QMP socket. Dropping it hangs up on every client and removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    events: Events,
}

/// Sends events to every client that finished negotiation. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Events {
    clients: Arc<Mutex<Vec<Arc<Connection>>>>,
    closed: Arc<AtomicBool>,
}

impl Events {
    /// Sends one event. Never blocks for long: a client that does not read is cut off.
    pub fn emit(&self, name: &str, data: Value) {
        let Ok(message) = serde_json::to_value(Event::now(name, data)) else { return };
        // The list is copied so that a slow client does not keep others from connecting.
        let clients = lock(&self.clients).clone();
        for client in clients.iter().filter(|client| client.negotiated.load(Ordering::Acquire)) {
            client.send(&message);
        }
    }
}

impl Server {
    /// Listens at `path`, readable and writable by the owner only, and answers on threads of its own.
    /// A socket file that nobody listens on any more is replaced. `events` may already be in use.
    ///
    /// # Errors
    /// The path can't be bound, or somebody else listens there.
    pub fn bind(path: &Path, events: Events, handler: Arc<dyn Handler>) -> std::io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(ErrorKind::AddrInUse, "another process listens here"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let shared = events.clone();
        thread::Builder::new()
            .name("qmp".to_owned())
            .stack_size(STACK)
            .spawn(move || accept(&listener, &shared, &handler))?;
        Ok(Self { path: path.to_owned(), events })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.events.closed.store(true, Ordering::Release);
        // The accepting thread sleeps in accept(2): a connection wakes it up to see the flag.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        for client in lock(&self.events.clients).drain(..) {
            client.hang_up();
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    writing: Mutex<()>,
    negotiated: AtomicBool,
}

impl Connection {
    fn send(&self, message: &Value) {
        let line = format!("{message}\r\n");
        let _turn = lock(&self.writing);
        if (&self.stream).write_all(line.as_bytes()).is_err() {
            self.hang_up();
        }
    }

    fn hang_up(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn accept(listener: &UnixListener, events: &Events, handler: &Arc<dyn Handler>) {
    for stream in listener.incoming() {
        if events.closed.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of file descriptors or memory: try again, but not in a busy loop.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if stream.set_write_timeout(Some(WRITE_TIMEOUT)).is_err() {
            continue;
        }
        let (writing, negotiated) = (Mutex::new(()), AtomicBool::new(false));
        let client = Arc::new(Connection { stream, writing, negotiated });
        {
            let mut clients = lock(&events.clients);
            if clients.len() >= CLIENTS_MAX {
                drop(clients);
                client.send(&response(Err(CommandError::generic("too many clients")), None));
                continue;
            }
            clients.push(Arc::clone(&client));
        }
        let (shared, handler) = (events.clone(), Arc::clone(handler));
        let served = Arc::clone(&client);
        let spawned = thread::Builder::new().name("qmp-client".to_owned()).stack_size(STACK).spawn(
            move || {
                serve(&served, handler.as_ref());
                lock(&shared.clients).retain(|other| !Arc::ptr_eq(other, &served));
            },
        );
        if spawned.is_err() {
            lock(&events.clients).retain(|other| !Arc::ptr_eq(other, &client));
        }
    }
}

/// Serves one client until it hangs up or is hung up on.
fn serve(client: &Connection, handler: &dyn Handler) {
    client.send(&greeting());
    let mut frames = Frames::new(REQUEST_MAX);
    let mut bytes = [0; 4096];
    loop {
        while let Some(frame) = frames.next() {
            client.send(&respond(&client.negotiated, handler, frame));
        }
        match (&client.stream).read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => frames.push(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The response to whatever a client sent. `negotiated` is the client's.
pub(crate) fn respond(
    negotiated: &AtomicBool,
    handler: &dyn Handler,
    frame: Result<Value, FrameError>,
) -> Value {
    let (result, id) = match frame {
        Ok(message) => answer(negotiated, handler, message),
        Err(error) => (Err(CommandError::generic(error)), None),
    };
    response(result, id)
}

type Answer = (Result<Value, CommandError>, Option<Value>);

fn answer(negotiated: &AtomicBool, handler: &dyn Handler, message: Value) -> Answer {
    let id = message.get("id").cloned();
    let request: Request = match serde_json::from_value(message) {
        Ok(request) => request,
        Err(error) => {
            let error = format!("QMP input must be {{\"execute\": COMMAND, …}}: {error}");
            return (Err(CommandError::generic(error)), id);
        }
    };
    let negotiating = !negotiated.load(Ordering::Acquire);
    let result = match (request.execute.as_str(), negotiating) {
        ("qmp_capabilities", true) => {
            negotiated.store(true, Ordering::Release);
            Ok(json!({}))
        }
        ("qmp_capabilities", false) => Err(CommandError {
            desc: "Capabilities negotiation is already complete, command ignored".to_owned(),
            ..CommandError::not_found("qmp_capabilities")
        }),
        (_, true) => Err(CommandError {
            desc: "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned(),
            ..CommandError::not_found(&request.execute)
        }),
        (command, false) => handler.execute(command, &request.arguments),
    };
    (result, id)
}

/// QEMU's greeting. The version is that of the protocol's dialect: the first with virtio-mem.
fn greeting() -> Value {
    let version = json!({
        "qemu": { "major": 5, "minor": 1, "micro": 0 },
        "package": concat!("rasvmm-", env!("CARGO_PKG_VERSION")),
    });
    json!({ "QMP": { "version": version, "capabilities": [] } })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while sending leaves nothing half-done that another could trip over.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
