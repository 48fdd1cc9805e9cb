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
        // Looked for before anything is made: a kernel without them is left as it is.
        let (there, missing): (Vec<_>, Vec<_>) = Tracepoint::ALL.into_iter().partition(|event| {
            let (system, name) = event.name();
            root.join("events").join(system).join(name).exists()
        });
        if there.is_empty() {
            return Err(TracefsError::NoEvents);
        }
        for (system, name) in missing.into_iter().map(Tracepoint::name) {
            tracing::warn!("the kernel has no trace event {system}:{name}");
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
        for tracepoint in there {
            let (system, event) = tracepoint.name();
            let dir = instance.join("events").join(system).join(event);
            let format = parse(&dir.join("format"), EventFormat::parse)?;
            write(&dir.join("enable"), "1")?;
            formats.insert(format.id, (tracepoint, Arc::new(format)));
            names.push(format!("{system}:{event}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::ledger::Ledger;
    use crate::shared::Shared;
    use crate::source::{Popped, Queue};
    use rasd_api::EngineStatus;
    use std::io::Write;
    use std::time::Duration;

    const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";

    /// An event of one field is enough: decoding is not done here.
    const FORMAT: &str = "name: memory_failure_event\nID: 77\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:unsigned long pfn;\toffset:8;\tsize:8;\tsigned:0;\n\nprint fmt: \"\"\n";

    /// A tracefs of regular files and one FIFO, which can be waited for like the real thing.
    fn fake() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("events/header_page", HEADER_PAGE);
        put("events/ras/memory_failure_event/format", FORMAT);
        put("instances/rasd/events/ras/memory_failure_event/format", FORMAT);
        put("instances/rasd/events/ras/memory_failure_event/enable", "0");
        put("instances/rasd/buffer_percent", "50");
        put("instances/rasd/tracing_on", "0");
        let cpu = root.path().join("instances/rasd/per_cpu/cpu0");
        std::fs::create_dir_all(&cpu).unwrap();
        nix::unistd::mkfifo(&cpu.join("trace_pipe_raw"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        root
    }

    fn page(commit_flags: u64, pfn: u64) -> Vec<u8> {
        const EVENT_WORDS: u32 = 4;
        let mut data = EVENT_WORDS.to_le_bytes().to_vec();
        data.extend([77, 0, 0, 0, 0, 0, 0, 0]);
        data.extend(pfn.to_le_bytes());
        let mut page = 0u64.to_le_bytes().to_vec();
        page.extend((commit_flags | data.len() as u64).to_le_bytes());
        page.extend(&data);
        page.extend(5u64.to_le_bytes());
        page.resize(4096, 0);
        page
    }

    #[test]
    fn events_reach_the_queue_and_losses_are_counted() {
        let root = fake();
        let tracefs = Tracefs::open(root.path()).unwrap();
        let text = |name: &str| {
            std::fs::read_to_string(root.path().join("instances/rasd").join(name)).unwrap()
        };
        assert_eq!(text("events/ras/memory_failure_event/enable"), "1");
        assert_eq!((text("buffer_percent"), text("tracing_on")), ("0".into(), "1".into()));

        let store = tempfile::tempdir().unwrap();
        let config = Config::default();
        let ledger = Ledger::open(store.path(), &config.policy).unwrap();
        let engine = EngineStatus {
            name: String::new(),
            failover: false,
            live_migration: false,
            notes: String::new(),
        };
        let shared = Shared::new(
            ledger,
            ras_core::MachineMap::default(),
            Queue::new(config.sources.queue),
            engine,
        );
        let pipe = root.path().join("instances/rasd/per_cpu/cpu0/trace_pipe_raw");
        let mut writer = OpenOptions::new().write(true).open(pipe).unwrap();
        writer.write_all(&page(0, 0x1234)).unwrap();
        let stop = Stop::default();
        spawn(tracefs, &shared, &stop).unwrap();
        let pfn = || match shared.queue.pop(Duration::from_secs(10)) {
            Popped::Report(report) => match report.body {
                Body::Trace { event: Tracepoint::MemoryFailure, payload, .. } => {
                    u64::from_le_bytes(*payload[8..].first_chunk().unwrap())
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(pfn(), 0x1234);
        assert_eq!(shared.status().counts.missed, 0);
        writer.write_all(&page(3 << 30, 0x5678)).unwrap();
        assert_eq!(pfn(), 0x5678);
        assert_eq!(shared.status().counts.missed, 5);
        stop.set();
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let error = Tracefs::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("mount -t tracefs"), "{error}");
        std::fs::create_dir_all(root.path().join("events/sched")).unwrap();
        std::fs::write(root.path().join("events/header_page"), HEADER_PAGE).unwrap();
        let error = Tracefs::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("CONFIG_X86_MCE"), "{error}");
        assert!(!root.path().join("instances").exists());
    }
}
