//! `/init` of the lab's machines: mounts what every Linux has, then does what the lab asks over the
//! second serial port (`ras_lab::agent`). Linked statically; there is nothing else in the machine but
//! the programs under test.

#![allow(unsafe_code)]
// UNSAFETY: one ioctl on an open file, for which nix has the number and no name.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use ras_lab::agent::{Answer, Event, Message, Ran, Request};

nix::ioctl_write_ptr!(
    /// `FS_IOC_SETFLAGS` of `linux/fs.h`.
    set_inode_flags,
    b'f',
    2,
    libc::c_long
);

/// Where programs find their service manager.
const NOTIFY_SOCKET: &str = "/run/notify";

/// What programs are started with. Those of this project that start others find them by it.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/bin"),
    ("NOTIFY_SOCKET", NOTIFY_SOCKET),
    ("RAS_BIN_DIR", "/bin"),
    ("RAS_GUEST", "/lib/guest"),
    ("RAS_CACHE", "/var/cache"),
];

/// A lab that said nothing for this long is gone: switch off.
const ABANDONED: Duration = Duration::from_secs(180);

fn main() {
    if let Err(error) = serve() {
        eprintln!("lab-agent: {error:#}");
    }
    // The kernel panics when /init returns.
    power_off();
}

fn serve() -> Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        mount_at(kind, kind, target)?;
    }
    let port = OpenOptions::new().read(true).write(true).open("/dev/ttyS1");
    let port = port.context("opening the lab's serial port")?;
    let mut settings = tcgetattr(&port).context("reading the serial port's settings")?;
    // Raw: no echo, no translation, no limit on the length of a line.
    cfmakeraw(&mut settings);
    tcsetattr(&port, SetArg::TCSANOW, &settings).context("making the serial port raw")?;

    let agent = Arc::new(Agent {
        port: Mutex::new(port.try_clone().context("sharing the serial port")?),
        started: Instant::now(),
        last_request_ms: AtomicU64::new(0),
        running: Mutex::default(),
    });
    listen_for_notifications(&agent)?;
    switch_off_when_abandoned(&agent);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading osrelease")?;
    agent.say(&Message::Event(Event::Up { release: release.trim().to_owned() }));

    for line in BufReader::new(port).lines() {
        let line = line.context("reading the serial port")?;
        let Ok(request) = serde_json::from_str::<Request>(&line) else {
            eprintln!("lab-agent: not a request: {line}");
            continue;
        };
        agent.touch();
        let answer = agent.carry_out(request).map_err(|error| format!("{error:#}"));
        agent.touch();
        agent.say(&Message::Answer(answer));
    }
    bail!("the serial port was closed")
}

struct Agent {
    port: Mutex<File>,
    started: Instant,
    last_request_ms: AtomicU64,
    /// Programs that were started and have not ended.
    running: Mutex<HashMap<String, Pid>>,
}

impl Agent {
    fn carry_out(self: &Arc<Self>, request: Request) -> Result<Answer> {
        match request {
            Request::LoadModule { path } => load_module(&path)?,
            Request::Mount { source, kind, target } => mount_at(&source, &kind, &target)?,
            Request::Read { path } => {
                let bytes = fs::read(&path).with_context(|| format!("reading {path}"))?;
                return Ok(Answer::Text(String::from_utf8_lossy(&bytes).into_owned()));
            }
            Request::ReadBytes { path } => {
                return fs::read(&path)
                    .map(Answer::Bytes)
                    .with_context(|| format!("reading {path}"));
            }
            Request::WriteVariable { name, attributes, data } => {
                write_variable(&name, attributes, &data)
                    .with_context(|| format!("writing the EFI variable {name}"))?;
            }
            Request::Write { path, text } => {
                let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
                file.and_then(|mut file| file.write_all(text.as_bytes()))
                    .with_context(|| format!("writing {text:?} to {path}"))?;
            }
            Request::PageFlags { pfn } => return page_flags(pfn).map(Answer::PageFlags),
            Request::MakeDirectory { path } => {
                fs::create_dir_all(&path).with_context(|| format!("creating {path}"))?;
            }
            Request::Run { command, timeout_ms } => {
                return run(&command, Duration::from_millis(timeout_ms)).map(Answer::Ran);
            }
            Request::Start { name, command } => self.start(&name, &command)?,
            Request::Kill { name } => {
                let running = lock(&self.running);
                let pid = running.get(&name).with_context(|| format!("{name} is not running"))?;
                kill(*pid, Signal::SIGKILL).with_context(|| format!("killing {name}"))?;
            }
        }
        Ok(Answer::Done)
    }

    /// Starts a program; one thread each passes on its two streams, a third its end.
    fn start(self: &Arc<Self>, name: &str, command: &[String]) -> Result<()> {
        let mut child = spawn(command)?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        lock(&self.running).insert(name.to_owned(), pid);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        let readers: Vec<_> = streams
            .into_iter()
            .flatten()
            .map(|stream| {
                let (agent, name) = (Arc::clone(self), name.to_owned());
                thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        agent.say(&Message::Event(Event::Said { name: name.clone(), line }));
                    }
                })
            })
            .collect();
        let (agent, name) = (Arc::clone(self), name.to_owned());
        thread::spawn(move || {
            let status = child.wait().map_or_else(|error| error.to_string(), |s| s.to_string());
            lock(&agent.running).remove(&name);
            for reader in readers {
                // A reader that panicked has nothing more to say.
                let _ = reader.join();
            }
            agent.say(&Message::Event(Event::Ended { name, status }));
        });
        Ok(())
    }

    fn say(&self, message: &Message) {
        let mut port = lock(&self.port);
        let written = serde_json::to_string(message)
            .map_err(std::io::Error::from)
            .and_then(|line| writeln!(port, "{line}"));
        if let Err(error) = written {
            eprintln!("lab-agent: talking to the lab: {error}");
        }
    }

    fn touch(&self) {
        self.last_request_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Receives what programs tell their service manager (`sd_notify(3)`), in the order they said it.
fn listen_for_notifications(agent: &Arc<Agent>) -> Result<()> {
    let socket = UnixDatagram::bind(NOTIFY_SOCKET).context("making the notification socket")?;
    let agent = Arc::clone(agent);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            // First of all, since the lab wants to know what was done *before* a READY=1.
            let corrupted_kib = hardware_corrupted_kib();
            let state = String::from_utf8_lossy(&buffer[..length]).into_owned();
            agent.say(&Message::Event(Event::Notified { state, corrupted_kib }));
        }
    });
    Ok(())
}

fn switch_off_when_abandoned(agent: &Arc<Agent>) {
    let agent = Arc::clone(agent);
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(5));
            let silent =
                agent.now_ms().saturating_sub(agent.last_request_ms.load(Ordering::Relaxed));
            if Duration::from_millis(silent) > ABANDONED {
                eprintln!("lab-agent: no request for {ABANDONED:?}");
                power_off();
            }
        }
    });
}

fn load_module(path: &str) -> Result<()> {
    // MODULE_INIT_COMPRESSED_FILE of linux/module.h, which nix has no name for: the kernel
    // decompresses the file itself (CONFIG_MODULE_DECOMPRESS).
    let compressed = match path.ends_with(".xz") {
        true => ModuleInitFlags::from_bits_retain(4),
        false => ModuleInitFlags::empty(),
    };
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    finit_module(&file, &CString::default(), compressed).with_context(|| format!("loading {path}"))
}

/// Linux `Documentation/filesystems/efivarfs.rst`: a file is the attributes and the data, and comes in one
/// write; most are immutable, so that nobody deletes by accident what a machine boots with.
fn write_variable(name: &str, attributes: u32, data: &[u8]) -> Result<()> {
    let path = format!("/sys/firmware/efi/efivars/{name}");
    if let Ok(file) = File::open(&path) {
        let none: libc::c_long = 0;
        // SAFETY: the kernel reads a number that outlives the call.
        unsafe { set_inode_flags(file.as_raw_fd(), &raw const none) }
            .context("making it mutable")?;
        if data.is_empty() {
            return fs::remove_file(&path).context("deleting it");
        }
    }
    let content = [&attributes.to_le_bytes()[..], data].concat();
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    file.write_all(&content).context("the firmware")
}

/// One 64-bit word a frame. Linux `Documentation/admin-guide/mm/pagemap.rst`.
fn page_flags(pfn: u64) -> Result<u64> {
    let mut word = [0; 8];
    let offset = pfn.checked_mul(8).context("no such page frame")?;
    let file = File::open("/proc/kpageflags").context("opening kpageflags")?;
    file.read_exact_at(&mut word, offset)
        .with_context(|| format!("reading the flags of page frame {pfn:#x}"))?;
    Ok(u64::from_ne_bytes(word))
}

fn mount_at(source: &str, kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("creating {target}"))?;
    mount(Some(source), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting {source} ({kind}) at {target}"))
}

fn spawn(command: &[String]) -> Result<Child> {
    let (program, arguments) = command.split_first().context("a command needs a program")?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))
}

fn run(command: &[String], timeout: Duration) -> Result<Ran> {
    let mut child = spawn(command)?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let status = wait_or_kill(&mut child, timeout)?;
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

fn wait_or_kill(child: &mut Child, timeout: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the program")? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill().context("killing a program that takes too long")?;
            child.wait().context("reaping a program that took too long")?;
            bail!("it took longer than {timeout:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hardware_corrupted_kib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    ras_lab::capability::meminfo_kib(&text, "HardwareCorrupted").unwrap_or(0)
}

fn power_off() -> ! {
    // Returns only where this is not allowed, and then there is nothing left to try.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(1);
}
