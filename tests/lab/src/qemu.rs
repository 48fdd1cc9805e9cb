//! One QEMU process, emulating (TCG): machine checks can be injected there and nowhere else.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ras_qmp::Client;
use serde_json::json;

use crate::mortal;

/// What to boot, and with what.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// The kernel's bzImage.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// The kernel's command line, beyond what every machine needs.
    pub command_line: String,
    /// The processor to emulate.
    pub processor: Processor,
    /// An image file that becomes ACPI's error record store.
    pub error_records: Option<PathBuf>,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Image files that become the disks `/dev/vda`, `/dev/vdb` and so on. Each has a cache that only a
    /// flush empties, as far as the kernel in the machine can tell.
    pub disks: Vec<PathBuf>,
    /// Boot from the first disk, instead of the kernel directly.
    pub boots_disk: bool,
    /// UEFI firmware instead of the BIOS.
    pub uefi: Option<Uefi>,
    /// Where the sockets and the console's log go. The path must be short: a socket's name has at
    /// most 107 bytes.
    pub dir: PathBuf,
}

/// UEFI firmware, and a file system it finds programs in.
#[derive(Clone, Debug)]
pub struct Uefi {
    /// The firmware's program.
    pub code: PathBuf,
    /// Its variables, which it writes to.
    pub variables: PathBuf,
    /// A directory that it sees as the EFI system partition, read-only: FAT16 on a disk with an MBR. Without one,
    /// the partition is on the machine's own disk.
    pub partition: Option<PathBuf>,
}

/// A processor that TCG emulates. None does everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Processor {
    /// Machine checks of Intel's kind: SRAO is Intel's, and on AMD's a stock kernel would panic, since
    /// TCG lacks the SUCCOR feature. It can't virtualise.
    Intel,
    /// AMD's virtualisation (SVM) with nested paging, so that there is a `/dev/kvm`.
    Amd,
    /// A model that the kernel's FRU Memory Poison Manager takes for one of its own (family 19h, model
    /// 90h), as far as an emulated processor can be one: without scalable MCA.
    AmdServer,
}

/// A running QEMU. It is killed when this is dropped, and dies with the thread that started it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    monitor: Client,
    dir: PathBuf,
}

/// What every kernel here is told.
///
/// - `panic=-1` with `-no-reboot`: a panic ends the machine at once.
/// - `no_timer_check`: on a busy host, an emulated timer can be late enough for the kernel to conclude
///   that its interrupts don't arrive, and to panic.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 no_timer_check";

/// [`COMMAND_LINE`], for a boot loader's configuration.
#[must_use]
pub const fn command_line() -> &'static str {
    COMMAND_LINE
}

/// Deadline for QEMU to start and to answer a monitor command.
const MONITOR: Duration = Duration::from_secs(20);

impl Qemu {
    /// Starts QEMU and connects to its monitor. The stream is the machine's second serial port; the
    /// first is the kernel's console and goes to `console.log`.
    ///
    /// # Errors
    /// QEMU is missing, refuses its arguments, or does not answer in time.
    pub fn start(hardware: &Hardware) -> Result<(Self, UnixStream)> {
        let dir = &hardware.dir;
        let serial = UnixListener::bind(dir.join("serial"))
            .with_context(|| format!("making the serial port's socket in {}", dir.display()))?;
        let errors = File::create(dir.join("qemu.log")).context("creating qemu.log")?;
        let mut command = command(hardware);
        if let Some(image) = &hardware.error_records {
            let size = image.metadata().context("looking at the error record store")?.len();
            let image = image.display().to_string().replace(',', ",,");
            let memory =
                format!("memory-backend-file,id=erst,size={size},mem-path={image},share=on");
            command.args(["-object", &memory, "-device", "acpi-erst,memdev=erst"]);
        }
        let child = command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        // From here on the guard kills the process, whatever fails.
        let mut guard = Killed(Some(child));
        let deadline = Instant::now() + MONITOR;
        let stream = retry(&mut guard, dir, deadline, || {
            serial.set_nonblocking(true)?;
            let (stream, _) = serial.accept()?;
            stream.set_nonblocking(false)?;
            Ok(stream)
        })?;
        let socket = dir.join("qmp");
        retry(&mut guard, dir, deadline, || UnixStream::connect(&socket).map(drop))?;
        let monitor = Client::connect(&socket, MONITOR).context("greeting QEMU's monitor")?;
        let child = guard.0.take().context("the guard holds the process")?;
        Ok((Self { child, monitor, dir: dir.clone() }, stream))
    }

    /// Carries out a command of the human monitor, which has some that QMP lacks (`mce`).
    ///
    /// # Errors
    /// QEMU does not answer, or has an objection: on success these commands print nothing.
    pub fn human_monitor(&mut self, command: &str) -> Result<()> {
        let answer = self
            .monitor
            .execute("human-monitor-command", json!({ "command-line": command }), MONITOR)
            .with_context(|| format!("asking QEMU for `{command}`"))?;
        match answer.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(objection) => bail!("QEMU on `{command}`: {objection}"),
        }
    }

    /// Pulls the plug: nothing is flushed, nothing unmounted.
    ///
    /// # Errors
    /// The process can't be killed.
    pub fn pull_the_plug(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).context("killing QEMU").map(drop)
    }

    /// Processor time used so far, on the host: on a busy machine a better measure of work than a clock.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn processor_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // proc_pid_stat(5): the name, in parentheses, may hold anything; utime and stime are the 14th
        // and 15th field, in hundredths of a second.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<u64, _>>().context("processor times")?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The directory given at the start, with the logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn command(hardware: &Hardware) -> Command {
    let mut command = mortal::command("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35", "-accel", "tcg", "-cpu", hardware.processor.model()])
        .args(["-smp", "1", "-m", &format!("{}M", hardware.memory_mib)])
        .args(["-chardev", "file,id=console,path=console.log", "-serial", "chardev:console"])
        .args(["-chardev", "socket,id=agent,path=serial", "-serial", "chardev:agent"])
        .args(["-qmp", "unix:qmp,server=on,wait=off"]);
    let mut drive = |kind: &str, path: &Path| {
        // A comma in a file name is written twice.
        let path = path.display().to_string().replace(',', ",,");
        command.args(["-drive", &format!("{kind}{path}")]);
    };
    for disk in &hardware.disks {
        drive("if=virtio,format=raw,file=", disk);
    }
    if let Some(uefi) = &hardware.uefi {
        drive("if=pflash,unit=0,format=raw,readonly=on,file=", &uefi.code);
        drive("if=pflash,unit=1,format=raw,file=", &uefi.variables);
        if let Some(partition) = &uefi.partition {
            drive("if=virtio,format=raw,readonly=on,file=fat:", partition);
        }
    }
    if !hardware.boots_disk {
        command.arg("-kernel").arg(&hardware.kernel).arg("-initrd").arg(&hardware.initramfs);
        command.args(["-append", &format!("{COMMAND_LINE} {}", hardware.command_line)]);
    }
    command
}

impl Processor {
    /// The argument of `-cpu`.
    const fn model(self) -> &'static str {
        match self {
            Self::Intel => "max,vendor=GenuineIntel",
            Self::Amd => "EPYC-Milan",
            Self::AmdServer => "max,vendor=AuthenticAMD,family=25,model=144,stepping=0,-hypervisor",
        }
    }
}

/// Repeats `attempt` until it works; gives up when the process is gone or the time is over.
fn retry<T>(
    guard: &mut Killed,
    dir: &Path,
    deadline: Instant,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Result<T> {
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(error).context("connecting to QEMU");
            }
            Err(_) => {}
        }
        if let Some(child) = &mut guard.0
            && let Some(status) = child.try_wait().context("watching QEMU")?
        {
            let said = std::fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
            bail!("QEMU ended at once ({status}): {}", said.trim());
        }
        if Instant::now() >= deadline {
            bail!("QEMU did not come up within {MONITOR:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is killed unless it was taken out in time.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

/// Kills and reaps; both fail only where the process is gone already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
