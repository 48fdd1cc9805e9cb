//! A `rasvmm` machine with the test guest inside: started, listened to, driven over QMP, killed.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use ras_lab::vm::{Vm, VmOptions};
//! # fn story() -> anyhow::Result<()> {
//! let source = Vm::start(VmOptions { fault_injection: true, ..VmOptions::named("vm1") })?;
//! source.wait_tick(10, Duration::from_secs(10))?;
//!
//! let uri = format!("unix:{}", source.dir().join("migration").display());
//! let destination = Vm::start(source.options().incoming(&uri))?;
//! source.qmp()?.migrate(&uri)?;
//! destination.wait_line(|line| line.tick().is_some(), Duration::from_secs(10))?;
//! destination.assert_counter_continues(&source)?;
//! # Ok(())
//! # }
//! ```

mod serial;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ras_qmp::Client;
use tempfile::TempDir;

pub use serial::{Line, Ready, Tick};

use crate::{artifacts, mortal};

/// How long a machine may take to answer on its QMP socket after its start.
const QMP_READY: Duration = Duration::from_secs(10);

/// Lines of the monitor's own log that an error quotes.
const QUOTED_LINES: usize = 12;

/// What machine to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmOptions {
    /// The guest's name; also that of its socket and its log.
    pub name: String,
    /// Words for the guest, see tests/guest/README.md.
    pub cmdline: String,
    /// Boot memory in MiB.
    pub memory_mib: u64,
    /// The virtio-mem device, if there is to be one.
    pub virtio_mem: Option<VirtioMem>,
    /// Wait for a migration at this URI instead of booting.
    pub incoming: Option<String>,
    /// Allow `x-ras-inject-poison`.
    pub fault_injection: bool,
    /// Directory of the QMP socket (`NAME.qmp`) and the log (`NAME.log`), shared by machines that
    /// `rasd` is to find; unless set, each machine has a temporary one.
    pub dir: Option<PathBuf>,
    /// Another program than the test guest: a PVH ELF file.
    pub kernel: Option<PathBuf>,
    /// Further arguments of `rasvmm`.
    pub arguments: Vec<String>,
}

/// Size of a virtio-mem device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtioMem {
    /// Its region in MiB.
    pub region_mib: u64,
    /// What the guest is asked to plug at first, in MiB.
    pub requested_mib: u64,
}

impl VmOptions {
    /// A machine of 64 MiB with 32 of 64 MiB plugged.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cmdline: String::new(),
            memory_mib: 64,
            virtio_mem: Some(VirtioMem { region_mib: 64, requested_mib: 32 }),
            incoming: None,
            fault_injection: false,
            dir: None,
            kernel: None,
            arguments: Vec::new(),
        }
    }

    /// The same machine, waiting at `uri` for this one to migrate to it. It gets a directory of its
    /// own: on another host, it would have one too.
    #[must_use]
    pub fn incoming(&self, uri: &str) -> Self {
        Self { incoming: Some(uri.to_owned()), dir: None, ..self.clone() }
    }

    /// The arguments of `rasvmm`.
    fn arguments(&self, kernel: &Path, qmp: &Path) -> Vec<String> {
        let mut arguments = vec![
            format!("--name={}", self.name),
            format!("--memory={}M", self.memory_mib),
            format!("--qmp=unix:{}", qmp.display()),
            "--serial=stdio".to_owned(),
        ];
        if let Some(VirtioMem { region_mib, requested_mib }) = self.virtio_mem {
            arguments.push(format!("--virtio-mem={region_mib}M,requested={requested_mib}M"));
        }
        match &self.incoming {
            Some(uri) => arguments.push(format!("--incoming={uri}")),
            None => {
                arguments.push(format!("--kernel={}", kernel.display()));
                arguments.push(format!("--cmdline={}", self.cmdline));
            }
        }
        if self.fault_injection {
            arguments.push("--allow-fault-injection".to_owned());
        }
        arguments.extend_from_slice(&self.arguments);
        arguments
    }
}

/// A running machine. Dropping it kills it.
pub struct Vm {
    options: VmOptions,
    dir: PathBuf,
    /// Keeps the directory while it is ours.
    _temporary: Option<TempDir>,
    child: Mutex<Child>,
    pid: u32,
    started: Instant,
    serial: Arc<serial::Shared>,
}

impl Vm {
    /// Starts `rasvmm` (built if need be) and listens to its serial line. Does not wait for anything.
    ///
    /// # Errors
    /// It or the guest can't be built, or the process can't be started.
    pub fn start(options: VmOptions) -> Result<Self> {
        let program = artifacts::program("rasvmm")?;
        let kernel = match &options.kernel {
            Some(kernel) => kernel.clone(),
            None => artifacts::guest()?,
        };
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = TempDir::with_prefix("ras-vm-").context("making a directory")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let log_file = dir.join(format!("{}.log", options.name));
        let log = File::create(&log_file)
            .with_context(|| format!("creating the log {}", log_file.display()))?;
        let qmp = dir.join(format!("{}.qmp", options.name));
        let started = Instant::now();
        let mut child = mortal::command(&program)
            .args(options.arguments(&kernel, &qmp))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let output = child.stdout.take().context("the machine's serial line is a pipe")?;
        Ok(Self {
            pid: child.id(),
            child: Mutex::new(child),
            serial: serial::Shared::collect(output),
            options,
            dir,
            _temporary: temporary,
            started,
        })
    }

    /// What it was started with.
    #[must_use]
    pub fn options(&self) -> &VmOptions {
        &self.options
    }

    /// Process ID of the monitor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Directory of its socket and log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its QMP socket.
    #[must_use]
    pub fn qmp_path(&self) -> PathBuf {
        self.dir.join(format!("{}.qmp", self.options.name))
    }

    /// What the monitor itself wrote so far (standard error).
    #[must_use]
    pub fn log(&self) -> String {
        let file = self.dir.join(format!("{}.log", self.options.name));
        fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A new connection to its QMP socket; waits while the machine is still starting.
    ///
    /// # Errors
    /// No answer within ten seconds, or the machine ended.
    pub fn qmp(&self) -> Result<Client> {
        let deadline = Instant::now() + QMP_READY;
        loop {
            match Client::connect(&self.qmp_path(), QMP_READY) {
                Ok(client) => return Ok(client),
                Err(error) => {
                    if self.exit_status()?.is_some() || Instant::now() >= deadline {
                        return Err(anyhow!(error).context(self.state()));
                    }
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// When the process was started.
    #[must_use]
    pub fn started_at(&self) -> Instant {
        self.started
    }

    /// When the first byte came over the serial line: the test guest sends it with its very first
    /// instructions.
    #[must_use]
    pub fn first_byte_at(&self) -> Option<Instant> {
        self.serial.lock().first_byte
    }

    /// When the last byte so far came.
    #[must_use]
    pub fn last_byte_at(&self) -> Option<Instant> {
        self.serial.lock().last_byte
    }

    /// All complete lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.serial.lock().lines.clone()
    }

    /// Number of complete lines so far: where [`Self::wait_line_from`] begins for what comes next.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.serial.lock().lines.len()
    }

    /// All ticks so far.
    #[must_use]
    pub fn ticks(&self) -> Vec<Tick> {
        self.serial.lock().lines.iter().filter_map(Line::tick).collect()
    }

    /// The last tick.
    #[must_use]
    pub fn last_tick(&self) -> Option<Tick> {
        self.serial.lock().lines.iter().rev().find_map(Line::tick)
    }

    /// The ticks that found a page not to hold what had been written to it. None is right.
    #[must_use]
    pub fn bad_sums(&self) -> Vec<Tick> {
        self.ticks().into_iter().filter(|tick| tick.bad.is_some()).collect()
    }

    /// The first line, old or new, that `matches`.
    ///
    /// # Errors
    /// None came within `timeout`, or the machine ended.
    pub fn wait_line(&self, matches: impl Fn(&Line) -> bool, timeout: Duration) -> Result<Line> {
        self.wait_line_from(0, matches, timeout)
    }

    /// The first line from number `mark` on that `matches`.
    ///
    /// # Errors
    /// None came within `timeout`, or the machine ended.
    pub fn wait_line_from(
        &self,
        mark: usize,
        matches: impl Fn(&Line) -> bool,
        timeout: Duration,
    ) -> Result<Line> {
        let mut next = mark;
        let line = self.serial.wait(Instant::now() + timeout, |log| {
            let found = log.lines.iter().skip(next).find(|line| matches(line)).cloned();
            next = log.lines.len().max(mark);
            found
        });
        line.with_context(|| {
            format!("the line awaited for {timeout:?} did not come: {}", self.state())
        })
    }

    /// Waits for the guest to say that it is ready.
    ///
    /// # Errors
    /// Not within `timeout`, or the machine ended.
    pub fn wait_ready(&self, timeout: Duration) -> Result<Ready> {
        let line = self.wait_line(|line| line.ready().is_some(), timeout)?;
        line.ready().context("a line that was ready before")
    }

    /// Waits for the counter to reach `number`.
    ///
    /// # Errors
    /// Not within `timeout`, or the machine ended.
    pub fn wait_tick(&self, number: u64, timeout: Duration) -> Result<Tick> {
        let reached = |line: &Line| line.tick().is_some_and(|tick| tick.number >= number);
        let line = self
            .wait_line(reached, timeout)
            .with_context(|| format!("{} did not reach tick {number}", self.options.name))?;
        line.tick().context("a line that was a tick before")
    }

    /// Waits for `more` ticks from now on.
    ///
    /// # Errors
    /// Not within `timeout`, or the machine ended.
    pub fn wait_ticks(&self, more: u64, timeout: Duration) -> Result<Tick> {
        self.wait_tick(self.last_tick().map_or(0, |tick| tick.number) + more, timeout)
    }

    /// The guest's counter grew with every tick.
    ///
    /// # Errors
    /// Where it did not.
    pub fn assert_counter_monotonic(&self) -> Result<()> {
        monotonic(&self.options.name, &self.ticks())
    }

    /// The counter went on here where it was in `source`, before this guest migrated: no tick twice,
    /// none skipped but one whose line the migration cut in two.
    ///
    /// # Errors
    /// Where it did not.
    pub fn assert_counter_continues(&self, source: &Self) -> Result<()> {
        source.assert_counter_monotonic()?;
        self.assert_counter_monotonic()?;
        let last = source.last_tick().context("the source never ticked")?;
        let first = self.ticks().first().copied().context("the destination never ticked")?;
        let step = if self.options.cmdline_has("quiet") { 2 * 64 } else { 2 };
        ensure!(
            (1..=step).contains(&first.number.wrapping_sub(last.number)),
            "the source's last tick is {}, the destination's first is {}",
            last.number,
            first.number
        );
        Ok(())
    }

    /// The monitor's exit status, once it has one.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.child().try_wait().context("asking for the machine's exit status")
    }

    /// Waits for the monitor to end by itself.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {timeout:?}: {}", self.options.name, self.state());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the monitor, as a power cut would.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&self) -> io::Result<ExitStatus> {
        let mut child = self.child();
        child.kill()?;
        child.wait()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For errors: how the machine is, and the end of what was said.
    fn state(&self) -> String {
        let name = &self.options.name;
        let state = match self.exit_status() {
            Ok(Some(status)) => format!("{name} ended ({status})"),
            Ok(None) => format!("{name} (PID {}) runs", self.pid),
            Err(error) => format!("{name}: {error}"),
        };
        let lines = self.lines();
        let said = lines.last().map_or("nothing yet", |line| line.text.as_str());
        let log = self.log();
        let skipped = log.lines().count().saturating_sub(QUOTED_LINES);
        let quoted: Vec<&str> = log.lines().skip(skipped).collect();
        format!("{state}; its guest said last: {said}; its log ends:\n{}", quoted.join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

impl VmOptions {
    fn cmdline_has(&self, word: &str) -> bool {
        self.cmdline.split_ascii_whitespace().any(|found| found == word)
    }
}

/// The numbers grow. Ticks with a bad sum repeat theirs, one line per page.
fn monotonic(name: &str, ticks: &[Tick]) -> Result<()> {
    for pair in ticks.windows(2) {
        let [before, after] = pair else { continue };
        let same_tick = before.bad.is_some() && after.bad.is_some();
        ensure!(
            after.number > before.number || same_tick && after.number == before.number,
            "the counter of {name} went from {} to {}",
            before.number,
            after.number
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every test that trusts `sum=ok` rests on this one.
    #[test]
    fn the_guest_notices_what_is_written_behind_its_back() {
        use std::os::unix::fs::FileExt as _;
        const PATIENCE: Duration = Duration::from_secs(60);
        if let Err(reason) = crate::capability::kvm() {
            println!("skipped: {reason}");
            return;
        }
        let vm = Vm::start(VmOptions::named("vm1")).unwrap();
        let ready = vm.wait_ready(PATIENCE).unwrap();
        assert_eq!((ready.vmem, ready.plugged), (64 << 20, 32 << 20));
        vm.wait_tick(5, PATIENCE).unwrap();
        assert_eq!(vm.bad_sums(), []);

        // The first page of every plugged block is in the working set.
        let map = vm.qmp().unwrap().memory_map().unwrap();
        let region = map.regions.iter().find(|region| region.gpa.0 >= 4 << 30).unwrap();
        let memory = File::options().write(true).open(format!("/proc/{}/mem", vm.pid())).unwrap();
        memory.write_all_at(&[0; 64], region.hva).unwrap();

        let bad = |line: &Line| line.tick().is_some_and(|tick| tick.bad.is_some());
        let line = vm.wait_line(bad, PATIENCE).unwrap();
        assert_eq!(line.number("page"), Some(region.gpa.0));
        vm.wait_ticks(20, PATIENCE).unwrap();
        assert_eq!(vm.bad_sums().len(), 1, "told once");
        vm.assert_counter_monotonic().unwrap();

        vm.kill().unwrap();
        assert!(vm.exit_status().unwrap().is_some());
        let never = vm.wait_line(|line| line.text == "never", PATIENCE).unwrap_err();
        assert!(never.to_string().contains("ended"), "{never:#}");
    }

    #[test]
    fn options_become_arguments() {
        let mut options = VmOptions { fault_injection: true, ..VmOptions::named("vm1") };
        options.cmdline = "refuse work=8".to_owned();
        let arguments = options.arguments(Path::new("/g"), Path::new("/run/vm1.qmp"));
        let expect = [
            "--name=vm1",
            "--memory=64M",
            "--qmp=unix:/run/vm1.qmp",
            "--serial=stdio",
            "--virtio-mem=64M,requested=32M",
            "--kernel=/g",
            "--cmdline=refuse work=8",
            "--allow-fault-injection",
        ];
        assert_eq!(arguments, expect);

        let incoming = options.incoming("unix:/m").arguments(Path::new("/g"), Path::new("/q"));
        assert!(incoming.contains(&"--incoming=unix:/m".to_owned()));
        assert!(!incoming.iter().any(|argument| argument.starts_with("--kernel")));
    }

    #[test]
    fn a_counter_that_goes_back_or_stands_still_is_found() {
        let tick = |number, bad| Tick { at: Instant::now(), number, bad, plugged: 0, mce: 0 };
        assert!(monotonic("vm", &[tick(1, None), tick(2, None), tick(9, None)]).is_ok());
        assert!(monotonic("vm", &[tick(1, Some(1)), tick(1, Some(2)), tick(2, None)]).is_ok());
        assert!(monotonic("vm", &[tick(2, None), tick(2, None)]).is_err());
        let error = monotonic("vm", &[tick(5, None), tick(4, None)]).unwrap_err();
        assert_eq!(error.to_string(), "the counter of vm went from 5 to 4");
    }
}
