//! A host in a directory: `rasd` as a real process, over a `sysfs` of regular files.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ras_core::{Pfn, RetireState, RetiredPage};
use ras_lab::artifacts;
use rasd_api::{Client, Status};

/// Longest wait for anything in these stories.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A host's directory. Dropping it removes everything.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    /// Added to the configuration; begins with top-level keys' tables only.
    config: String,
    /// Further keys of the store, each after a comma.
    store_keys: String,
}

/// A daemon that was started and not yet waited for. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// How a daemon ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// A host whose configuration has these tables, beside its paths.
    pub(crate) fn with(config: &str) -> Self {
        // A short path, since sockets live in it.
        let dir = tempfile::Builder::new().prefix("walk").tempdir_in("/tmp").unwrap();
        let host = Self { dir, config: config.into(), store_keys: String::new() };
        fs::create_dir_all(host.path("sys/devices/system/memory")).unwrap();
        fs::create_dir_all(host.path("guests")).unwrap();
        host.reboot();
        host
    }

    /// Adds tables to the configuration.
    pub(crate) fn configure(&mut self, tables: &str) {
        self.config += tables;
    }

    /// A list with a mirror that is written as soon as something changed, or after `settle_s` seconds.
    pub(crate) fn mirror(&mut self, medium: &str, settle_s: u64) {
        self.store_keys = format!(
            ", mirror = {medium:?}, mirror_settle_s = {settle_s}, mirror_pause_s = {settle_s}"
        );
    }

    /// A memory map of this host's own: `/proc/iomem`, and the firmware's entries. There are no
    /// processes below that `/proc`.
    pub(crate) fn memory_map(&self, iomem: &str, firmware: &[(u64, u64, &str)]) {
        fs::create_dir_all(self.path("proc")).unwrap();
        fs::write(self.path("proc/iomem"), iomem).unwrap();
        let dir = self.path("sys/firmware/memmap");
        let _ = fs::remove_dir_all(&dir);
        for (index, (start, end, kind)) in firmware.iter().enumerate() {
            let entry = dir.join(index.to_string());
            fs::create_dir_all(&entry).unwrap();
            fs::write(entry.join("start"), format!("{start:#x}\n")).unwrap();
            fs::write(entry.join("end"), format!("{end:#x}\n")).unwrap();
            fs::write(entry.join("type"), format!("{kind}\n")).unwrap();
        }
    }

    /// The kernel forgets which pages are offline; nothing else changes.
    pub(crate) fn reboot(&self) {
        for how in ["soft", "hard"] {
            fs::write(self.offline_file(how), "").unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a capture.
    pub(crate) fn capture(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("capture");
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn offline_file(&self, how: &str) -> PathBuf {
        self.path(&format!("sys/devices/system/memory/{how}_offline_page"))
    }

    /// The addresses the kernel was asked to offline since the boot, in order.
    pub(crate) fn asked(&self, how: &str) -> Vec<String> {
        let text = fs::read_to_string(self.offline_file(how)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The list on disk, whether rasd runs or not.
    pub(crate) fn stored(&self) -> persist_store::State {
        persist_store::read(&self.store()).unwrap().0
    }

    /// Number of stored pages in each state: pending, retired, failed.
    pub(crate) fn states(&self) -> [usize; 3] {
        let state = self.stored();
        [RetireState::Pending, RetireState::Retired, RetireState::Failed]
            .map(|wanted| state.pages.values().filter(|page| page.state == wanted).count())
    }

    /// The stored page.
    pub(crate) fn page(&self, pfn: Pfn) -> Option<RetiredPage> {
        self.stored().pages.remove(&pfn).map(|page| *page)
    }

    /// `rasd` with this host's configuration.
    pub(crate) fn command(&self) -> Command {
        let path = |name: &str| self.path(name).display().to_string();
        let own = self.path("proc").exists();
        let proc = if own { path("proc") } else { "/proc".into() };
        let text = format!(
            "store = {{ dir = {:?}{} }}\ncontrol = {:?}\n\
             [paths]\nproc = {proc:?}\nsysfs = {:?}\ntracefs = {:?}\ndev = {:?}\n\
             [guests]\ndir = {:?}\nretire_ms = 2000\n[offline]\nbackoff_ms = 1\n{}{}",
            path("store"),
            self.store_keys,
            path("rasd.sock"),
            path("sys"),
            path("tracing"),
            path("dev"),
            path("guests"),
            // Never the list of the machine the story is told on.
            if self.config.contains("[boot]") { "" } else { "[boot]\nlist = \"off\"\n" },
            self.config
        );
        let config = self.path("rasd.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(artifacts::program("rasd").unwrap());
        command.arg("--config").arg(config).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Replays a capture and waits for the end.
    pub(crate) fn replay(&self, capture: &Path) -> Ended {
        self.replay_killed_at(capture, None)
    }

    /// The same, with `RASD_KILL_AT`.
    pub(crate) fn replay_killed_at(&self, capture: &Path, step: Option<&str>) -> Ended {
        let mut command = self.command();
        command.arg("--replay").arg(capture).arg("--exit-after-replay");
        if let Some(step) = step {
            command.env("RASD_KILL_AT", step);
        }
        self.spawn(&mut command).wait()
    }

    /// Starts rasd and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        self.start_with(&mut self.command())
    }

    /// The same, with further arguments.
    pub(crate) fn start_with(&self, command: &mut Command) -> Daemon {
        let mut daemon = self.spawn(command);
        daemon.wait_status("ready", |status| status.ready);
        daemon
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> Daemon {
        let log = self.path("log");
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Daemon { child, socket: self.path("rasd.sock"), log }
    }

    /// A daemon that was started otherwise, with its log in `log`.
    pub(crate) fn adopt(&self, child: Child) -> Daemon {
        Daemon { child, socket: self.path("rasd.sock"), log: self.path("log") }
    }

    /// `rasctl` against this host's daemon: exit code, output, errors.
    pub(crate) fn rasctl(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(artifacts::program("rasctl").unwrap())
            .arg("--socket")
            .arg(self.path("rasd.sock"))
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// What the service manager is told, as it is told it.
    pub(crate) fn service_manager(&self) -> (UnixDatagram, PathBuf) {
        let path = self.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        (socket, path)
    }
}

impl Daemon {
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket, SOON).unwrap()
    }

    /// Asks for the status until `reached`.
    pub(crate) fn wait_status(&mut self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + SOON;
        loop {
            let status = Client::connect(&self.socket, SOON).and_then(|mut client| client.status());
            match status {
                Ok(status) if reached(&status) => return status,
                status => assert!(
                    Instant::now() < deadline && self.child.try_wait().unwrap().is_none(),
                    "waiting for {what}: {status:?}\n{}",
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, log: self.log() };
            }
            assert!(Instant::now() < deadline, "rasd does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub(crate) fn assert_success(&self) -> &Self {
        assert!(self.status.success(), "{}:\n{}", self.status, self.log);
        self
    }
}
