//! `rasvmm` beside QEMU's microvm: both boot the same guest on the same `/dev/kvm`.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ras_lab::{artifacts, packages};

use super::figure::{Figure, Sample, milliseconds};

/// Guest memory of both, in MiB.
const MEMORY_MIB: u64 = 256;

/// Time for a monitor to settle before its memory is counted.
const SETTLE: Duration = Duration::from_secs(1);

/// A monitor that was given up after this long without a byte is broken, not slow.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    packages::ensure(&["qemu-system-x86"])?;
    let guest = artifacts::guest()?;
    let ours = artifacts::program("rasvmm")?;
    let rasvmm = || {
        let mut command = Command::new(&ours);
        command.args(["--name", "bench", "--serial", "stdio", "--cmdline", "idle"]);
        command.args(["--memory", &format!("{MEMORY_MIB}M"), "--kernel"]).arg(&guest);
        command
    };
    let qemu = || {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm", "-accel", "kvm", "-cpu", "qemu64,-pni", "-nodefaults"]);
        command.args([
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-append",
            "idle",
        ]);
        command.args(["-m", &MEMORY_MIB.to_string(), "-kernel"]).arg(&guest);
        command
    };

    // Alternating, so that both meet the same moods of the machine.
    let (mut our_starts, mut their_starts) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        our_starts.push(milliseconds(first_byte(rasvmm())?));
        their_starts.push(milliseconds(first_byte(qemu())?));
    }
    let (our_starts, their_starts) = (Sample::new(our_starts), Sample::new(their_starts));
    let start = "rasvmm: process start to the guest's first instruction";
    let mut figures = vec![
        Figure::new(&format!("{start}, median"), our_starts.median(), "ms")
            .against("QEMU microvm", their_starts.median()),
        Figure::new(&format!("{start}, p99"), our_starts.percentile(99), "ms")
            .against("QEMU microvm", their_starts.percentile(99)),
    ];

    let (mut our_memory, mut their_memory) = (Vec::new(), Vec::new());
    for _ in 0..runs.min(3) {
        our_memory.push(own_memory_mib(rasvmm())?);
        their_memory.push(own_memory_mib(qemu())?);
    }
    let (our_memory, their_memory) = (Sample::new(our_memory), Sample::new(their_memory));
    let memory = Figure::new("rasvmm: PSS beyond guest RAM", our_memory.median(), "MiB");
    figures.push(memory.against("QEMU microvm", their_memory.median()));
    Ok(figures)
}

/// A monitor that is gone when it is dropped.
struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Time from before `fork` to the first byte on the guest's serial line.
fn first_byte(command: Command) -> Result<Duration> {
    started(command).map(|(_, elapsed)| elapsed)
}

fn started(mut command: Command) -> Result<(Monitor, Duration)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let mut serial = child.stdout.take().context("the serial line is piped")?;
    let monitor = Monitor(child);
    let (first, arrived) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut byte = [0];
        let read = serial.read(&mut byte);
        let _ = first.send((Instant::now(), read.is_ok_and(|count| count == 1)));
        // Keep reading: a full pipe would stop the guest.
        let _ = std::io::copy(&mut serial, &mut std::io::sink());
    });
    match arrived.recv_timeout(PATIENCE) {
        Ok((at, true)) => Ok((monitor, at - begin)),
        Ok((_, false)) => bail!("{command:?} ended before the guest said anything"),
        Err(_) => bail!("{command:?}: no byte from the guest within {PATIENCE:?}"),
    }
}

fn own_memory_mib(command: Command) -> Result<f64> {
    let (monitor, _) = started(command)?;
    thread::sleep(SETTLE);
    let smaps = Path::new("/proc").join(monitor.0.id().to_string()).join("smaps");
    let text =
        fs::read_to_string(&smaps).with_context(|| format!("reading {}", smaps.display()))?;
    Ok(pss_beyond_kib(&text, MEMORY_MIB * 1024) as f64 / 1024.0)
}

/// The sum of `Pss` over all mappings but guest RAM: the one that is almost as large as the guest.
fn pss_beyond_kib(smaps: &str, guest_kib: u64) -> u64 {
    let (mut sum, mut is_guest) = (0, false);
    let field = |line: &str, name: &str| -> Option<u64> {
        line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
    };
    for line in smaps.lines() {
        if let Some(size) = field(line, "Size:") {
            is_guest = size * 4 >= guest_kib * 3;
        } else if let Some(pss) = field(line, "Pss:").filter(|_| !is_guest) {
            sum += pss;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_not_the_monitors() {
        let smaps = "7f-80 rw-p 0 0:0 0 /memfd:ram\nSize: 262144 kB\nPss: 5000 kB\n\
                     55-56 r-xp 0 0:0 0 /bin/x\nSize: 2048 kB\nPss: 700 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(pss_beyond_kib(smaps, 262_144), 700);
    }
}
