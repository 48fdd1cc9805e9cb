//! Other programs, timed: pinned to one core, with their peak of memory, and the drivers' protocol.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread, and what it starts, on one core for as long as this lives.
pub(super) struct OneCore {
    before: CpuSet,
}

impl OneCore {
    /// The last core this thread may use: the first one also takes the machine's interrupts.
    pub(super) fn take() -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).context("asking for the allowed cores")?;
        let allowed = |core: &usize| before.is_set(*core).unwrap_or(false);
        let last = (0..CpuSet::count()).rev().find(allowed).context("no core is allowed")?;
        let mut one = CpuSet::new();
        one.set(last).context("naming one core")?;
        sched_setaffinity(this, &one).context("pinning to one core")?;
        Ok(Self { before })
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// A program to be measured beside ours. It is built outside of this repository.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
}

impl Peer {
    /// The one `variable` names, if it is set.
    pub(super) fn given(name: &'static str, variable: &str) -> Result<Option<Self>> {
        Self::at(name, variable, env::var_os(variable).as_deref())
    }

    fn at(name: &'static str, variable: &str, value: Option<&OsStr>) -> Result<Option<Self>> {
        let Some(program) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else {
            return Ok(None);
        };
        ensure!(program.is_file(), "{variable} names {}, which is no file", program.display());
        Ok(Some(Self { name, program }))
    }
}

/// Seconds from before the start of `command` to its end; what it prints is thrown away.
pub(super) fn seconds(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    let elapsed = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(elapsed)
}

/// The standard output of `command`, which has to succeed.
pub(super) fn output(mut command: Command) -> Result<Vec<u8>> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(output.stdout)
}

/// How many lines `command` prints, which has to succeed; they are not kept. What it complains about
/// is shown.
pub(super) fn lines(mut command: Command) -> Result<u64> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let mut out = child.stdout.take().context("standard output is piped")?;
    let (mut piece, mut lines) = (vec![0; 1 << 16], 0);
    loop {
        let read = out.read(&mut piece).with_context(|| format!("reading from {command:?}"))?;
        if read == 0 {
            break;
        }
        lines += piece[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(lines)
}

/// Items per second by a driver's own account.
pub(super) fn driver_rate(driver: &Path, file: &Path, passes: u32) -> Result<f64> {
    let mut command = Command::new(driver);
    command.arg(file).arg(passes.to_string());
    let said = output(command)?;
    let said = String::from_utf8_lossy(&said);
    rate(&said).with_context(|| format!("{} said {said:?}", driver.display()))
}

/// `ITEMS SECONDS`, on the last line.
fn rate(said: &str) -> Result<f64> {
    let line = said.lines().last().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[items, seconds] = words.as_slice() else { bail!("expected: ITEMS SECONDS") };
    let items: u64 = items.parse().context("the number of items")?;
    let seconds: f64 = seconds.parse().context("the seconds")?;
    ensure!(items > 0 && seconds > 0.0, "nothing was measured");
    Ok(items as f64 / seconds)
}

/// How often the peak is looked at. What is taken and given back within less can be missed.
const PEAK_EVERY: Duration = Duration::from_millis(2);

/// The highest resident memory of `command` in MiB, as the kernel keeps it while it runs.
pub(super) fn peak_mib(mut command: Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // A process that has ended has no memory left to be asked for: the last answer stays.
        peak = fs::read_to_string(&status).ok().as_deref().and_then(peak_kib).unwrap_or(peak);
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        thread::sleep(PEAK_EVERY);
    };
    ensure!(ended.success(), "{command:?} ended with {ended}");
    ensure!(peak > 0, "{command:?} ended before its memory was seen");
    Ok(peak as f64 / 1024.0)
}

fn peak_kib(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_says_items_and_seconds() {
        assert!((rate("12000 0.5\n").unwrap() - 24_000.0).abs() < 1e-9);
        assert!((rate("warming up\n10 2.0\n").unwrap() - 5.0).abs() < 1e-9);
        for wrong in ["", "12\n", "0 1.0\n", "5 0\n", "a 1.0\n", "1 2 3\n"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_peak_is_the_kernels() {
        assert_eq!(peak_kib("VmPeak:\t 9000 kB\nVmHWM:\t   4321 kB\n"), Some(4321));
        assert_eq!(peak_kib("Name:\tzombie\n"), None);
        let mut sleep = Command::new("sleep");
        sleep.arg("0.05");
        assert!(peak_mib(sleep).unwrap() > 0.1);
    }

    #[test]
    fn a_peer_is_given_or_not_or_wrong() {
        let at = |value: Option<&str>| Peer::at("peer", "RAS_PEER_X", value.map(OsStr::new));
        assert!(at(None).unwrap().is_none());
        assert!(at(Some("")).unwrap().is_none());
        assert!(at(Some("/nowhere")).is_err());
        assert_eq!(at(Some("/bin/sh")).unwrap().unwrap().program, Path::new("/bin/sh"));
    }

    #[test]
    fn one_core_is_given_back() {
        let allowed = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap()).count()
        };
        let before = allowed();
        let pinned = OneCore::take().unwrap();
        assert_eq!(allowed(), 1);
        drop(pinned);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn failures_are_not_figures() {
        assert!(seconds(Command::new("false")).is_err());
        assert!(output(Command::new("false")).is_err());
        assert!(lines(Command::new("false")).is_err());
    }

    #[test]
    fn lines_are_counted() {
        let mut printf = Command::new("printf");
        printf.arg("a\\nb\\n");
        assert_eq!(lines(printf).unwrap(), 2);
    }
}
