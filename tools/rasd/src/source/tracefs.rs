//! The running kernel's machine checks, through a trace instance of our own.
//!
//! `instances/rasd` has its own buffers, so nobody's tracing is disturbed and nobody disturbs ours. It
//! outlives us: what happens while rasd restarts is still in its buffers and is read at the start.
//! Each CPU's `trace_pipe_raw` hands out whole sub-buffers; a full buffer overwrites its oldest, and
//! the kernel says how many events that cost. Linux, `Documentation/trace/ftrace.rst`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mce_decoder::trace::EventFormat;
use mce_decoder::trace::ring_buffer::{HeaderPage, Missed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Body, Report, Tracepoint, wall_clock};
use crate::guests::chain;
use crate::shared::Handle;
use crate::stop::Stop;

/// The name of our trace instance.
const INSTANCE: &str = "rasd";

/// Longest sleep in poll(2), in milliseconds: how fast a shutdown is noticed.
const POLL_MS: u16 = 500;

/// Sub-buffers read from one CPU before the others get their turn.
const TURN: usize = 64;

/// The events of this machine, open for reading.
#[derive(Debug)]
pub struct Tracefs {
    header: HeaderPage,
    formats: HashMap<u16, (Tracepoint, Arc<EventFormat>)>,
    pipes: Vec<File>,
    names: String,
}

/// Why this machine's events can't be read, and what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TracefsError {
    #[error(
        "no tracefs at {}: mount it (`mount -t tracefs nodev /sys/kernel/tracing`), \
         or set paths.tracefs",
        path.display()
    )]
    NotMounted { path: PathBuf },
    #[error("no permission for {}: run as root, and check for lockdown", path.display())]
    Permission { path: PathBuf },
    #[error(
        "the kernel has neither mce:mce_record (it needs CONFIG_X86_MCE) nor \
         ras:memory_failure_event (CONFIG_MEMORY_FAILURE, CONFIG_RAS): it reports no memory errors"
    )]
    NoEvents,
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not understood", path.display())]
    Format { path: PathBuf, source: mce_decoder::trace::FormatError },
}

impl Tracefs {
    /// Makes the instance, if need be, and switches the events on. From here on nothing is missed.
    ///
    /// # Errors
    /// See [`TracefsError`].
    pub fn open(root: &Path) -> Result<Self, TracefsError> {
        if !root.join("events/header_page").exists() {
            return Err(match std::fs::read_dir(root) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    TracefsError::Permission { path: root.to_owned() }
                }
                _ => TracefsError::NotMounted { path: root.to_owned() },
            });
        }
        let instance = root.join("instances").join(INSTANCE);
        match std::fs::create_dir(&instance) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("making the trace instance", &instance, error));
            }
            _ => {}
        }
        let header = parse(&root.join("events/header_page"), HeaderPage::parse)?;
        let mut formats = HashMap::new();
        let mut names = Vec::new();
        for tracepoint in Tracepoint::ALL {
            let (system, event) = tracepoint.name();
            let dir = instance.join("events").join(system).join(event);
            if !dir.exists() {
                tracing::warn!("the kernel has no trace event {system}:{event}");
                continue;
            }
            let format = parse(&dir.join("format"), EventFormat::parse)?;
            write(&dir.join("enable"), "1")?;
            formats.insert(format.id, (tracepoint, Arc::new(format)));
            names.push(format!("{system}:{event}"));
        }
        if formats.is_empty() {
            return Err(TracefsError::NoEvents);
        }
        // Wake a reader at the first event, not when the buffer is half full. Kernels before 5.0
        // have no such file, and wake at once.
        let percent = instance.join("buffer_percent");
        if percent.exists() {
            write(&percent, "0")?;
        }
        write(&instance.join("tracing_on"), "1")?;
        Ok(Self { header, formats, pipes: pipes(&instance)?, names: names.join(", ") })
    }

    /// Puts every event into the queue until it is time to stop.
    pub fn run(mut self, shared: &Handle, stop: &Stop) {
        shared.source("tracefs", "running", &self.names);
        let mut page = vec![0; self.header.sub_buffer_size()];
        while !stop.is_set() {
            let ready = {
                let mut fds: Vec<PollFd<'_>> = self
                    .pipes
                    .iter()
                    .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
                    .collect();
                poll(&mut fds, PollTimeout::from(POLL_MS))
            };
            if let Err(error) = ready
                && error != nix::errno::Errno::EINTR
            {
                tracing::error!(%error, "tracefs can't be waited for");
                shared.source("tracefs", "failed", &error.to_string());
                return;
            }
            // After a time-out, too: whatever a poll may have missed is read half a second later.
            let formats = &self.formats;
            let header = self.header;
            self.pipes.retain_mut(|pipe| drain(pipe, header, formats, &mut page, shared));
            if self.pipes.is_empty() {
                shared.source("tracefs", "failed", "every per-CPU file failed; see the log");
                return;
            }
        }
        shared.source("tracefs", "off", "stopped");
    }
}

/// Reads what is there. False if this file can't be read any more.
fn drain(
    pipe: &mut File,
    header: HeaderPage,
    formats: &HashMap<u16, (Tracepoint, Arc<EventFormat>)>,
    page: &mut [u8],
    shared: &Handle,
) -> bool {
    for _ in 0..TURN {
        match pipe.read(page) {
            Ok(0) => return true,
            Ok(count) => take(&page[..count], header, formats, shared),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::error!(%error, "a CPU's trace events can't be read any more");
                return false;
            }
        }
    }
    true
}

/// Puts one sub-buffer's events into the queue.
fn take(
    page: &[u8],
    header: HeaderPage,
    formats: &HashMap<u16, (Tracepoint, Arc<EventFormat>)>,
    shared: &Handle,
) {
    let damaged = |error: &dyn std::error::Error| {
        tracing::warn!(error = %error, "damaged trace buffer");
        shared.count(|counts| counts.damaged += 1);
    };
    let buffer = match header.open(page) {
        Ok(buffer) => buffer,
        Err(error) => return damaged(&error),
    };
    let missed = match buffer.missed() {
        Missed::None => 0,
        Missed::Count(count) => count,
        // At least one; the kernel does not say.
        Missed::Unknown => 1,
    };
    if missed > 0 {
        tracing::error!(missed, "the kernel overwrote events before they were read");
        shared.count(|counts| counts.missed += missed);
    }
    for event in buffer.events() {
        match event {
            Ok(event) => {
                let Some((tracepoint, format)) = formats.get(&event.id) else { continue };
                let body = Body::Trace {
                    event: *tracepoint,
                    format: format.clone(),
                    payload: event.payload.to_vec(),
                };
                shared.queue.offer(Report::now(body, wall_clock()));
            }
            Err(error) => damaged(&error),
        }
    }
}

fn pipes(instance: &Path) -> Result<Vec<File>, TracefsError> {
    let per_cpu = instance.join("per_cpu");
    let entries =
        std::fs::read_dir(&per_cpu).map_err(|error| io_error("listing", &per_cpu, error))?;
    let mut pipes = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path().join("trace_pipe_raw");
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&path)
            .map_err(|error| io_error("opening", &path, error))?;
        pipes.push(pipe);
    }
    Ok(pipes)
}

fn parse<T>(
    path: &Path,
    parser: impl Fn(&str) -> Result<T, mce_decoder::trace::FormatError>,
) -> Result<T, TracefsError> {
    let text = read_at_once(path).map_err(|error| io_error("reading", path, error))?;
    parser(&text).map_err(|source| TracefsError::Format { path: path.to_owned(), source })
}

/// `events/header_page` answers the first read(2) only, with as much as fits, and then claims to be at
/// its end (Linux, `kernel/trace/trace_events.c`, `show_header`). `read_to_string` starts with a small
/// buffer and would believe it.
fn read_at_once(path: &Path) -> io::Result<String> {
    let mut bytes = vec![0; 64 << 10];
    let mut file = File::open(path)?;
    let mut length = file.read(&mut bytes)?;
    // Whatever else comes as in any file: `format` may be delivered page by page.
    loop {
        match file.read(&mut bytes[length..])? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn write(path: &Path, text: &str) -> Result<(), TracefsError> {
    std::fs::write(path, text).map_err(|error| io_error("writing", path, error))
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> TracefsError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => TracefsError::Permission { path },
        _ => TracefsError::Io { doing, path, source },
    }
}

/// Starts reading on a thread of its own.
///
/// # Errors
/// No thread can be started.
pub fn spawn(tracefs: Tracefs, shared: &Handle, stop: &Stop) -> io::Result<()> {
    let (shared, stop) = (shared.clone(), stop.clone());
    std::thread::Builder::new()
        .name("tracefs".into())
        .spawn(move || tracefs.run(&shared, &stop))
        .map(drop)
}

/// What an error means for the operator, with its causes.
#[must_use]
pub fn explain(error: &TracefsError) -> String {
    chain(error)
}
