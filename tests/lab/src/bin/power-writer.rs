//! `power-writer DISK LOG OPTIONS KILLS SEED`: rasd with its list on an ext4 file system on DISK, asked for
//! pages and killed, again and again; every write to the disk is logged on LOG, and with it what rasd
//! acknowledged (`ras_lab::power`). Prints each acknowledgement, then `end`, and goes on until the
//! machine's plug is pulled; with `stop` as a last argument it ends instead. Runs inside a lab's machine.

#![allow(unsafe_code)]
// UNSAFETY: one ioctl of the device mapper, which nix has no name for.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::mount::{MsFlags, mount, umount};
use ras_core::{Pfn, PfnRange};
use ras_lab::power::crash::{END, Expected, Rng, mark};
use ras_lab::power::{STORE, sectors_of};
use rasd_api::{ApiError, Client, ErrorKind, Failure};

/// In the middle of the machine's memory: mostly free.
const FIRST: u64 = 0x1_0000;

/// For a start of rasd, or an answer, on a busy machine that emulates another.
const SOON: Duration = Duration::from_secs(60);

const SOCKET: &str = "/run/rasd/rasd.sock";

/// What rasd says goes here, for when it does not start.
const SAID: &str = "/tmp/rasd.log";

/// The device that logs, by the device mapper's name and the kernel's.
const NAME: &str = "logged";
const LOGGED: &str = "/dev/dm-0";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, log, options, kills, seed, rest @ ..] = arguments.as_slice() else {
        bail!("usage: power-writer DISK LOG OPTIONS KILLS SEED [stop]");
    };
    let mapper = Mapper::log(disk, log)?;
    fs::create_dir_all(STORE).context("making the mount point")?;
    mount(Some(LOGGED), STORE, Some("ext4"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mounting {LOGGED} with {options}"))?;
    let mut orders = Orders { mapper, rng: Rng(seed.parse()?), next: FIRST, on: Vec::new() };
    for round in 0..kills.parse()? {
        orders.until_killed(round)?;
    }
    // Whatever the file system was told about flushes, the log gets its end.
    File::open(LOGGED).and_then(|device| device.sync_all()).context("flushing the disk")?;
    orders.mapper.mark(END)?;
    println!("{END}");
    if rest.iter().any(|word| word == "stop") {
        umount(STORE).context("unmounting")?;
        return orders.mapper.remove();
    }
    let (_rasd, mut client) = Daemon::start()?.answering()?;
    loop {
        orders.one(&mut client)?;
    }
}

struct Orders {
    mapper: Mapper,
    rng: Rng,
    /// The page to retire next.
    next: u64,
    /// Pages that were acknowledged.
    on: Vec<u64>,
}

impl Orders {
    /// Starts rasd, orders pages, and kills rasd meanwhile: mostly at work, sometimes while it starts.
    fn until_killed(&mut self, round: u64) -> Result<()> {
        let daemon = Daemon::start()?;
        let early = round % 4 == 3;
        let patience = Duration::from_millis(self.rng.below(700));
        if early {
            thread::sleep(patience);
            return daemon.kill();
        }
        let (daemon, mut client) = daemon.answering()?;
        let shared = Arc::new(Mutex::new(daemon));
        let killer = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                thread::sleep(patience);
                shared.lock().unwrap_or_else(PoisonError::into_inner).kill_now()
            }
        });
        while !killer.is_finished() {
            if self.one(&mut client).is_err() {
                break;
            }
        }
        killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))?
    }

    /// One order, and what was promised by its answer. An error if there was none.
    fn one(&mut self, client: &mut Client) -> Result<()> {
        let known = self.on.len() as u64;
        if known > 4 && self.rng.below(8) == 0 {
            let index = usize::try_from(self.rng.below(known))?;
            let pfn = self.on[index];
            self.promise(Expected::Either, pfn)?;
            match client.unretire(Pfn(pfn), "it was healthy") {
                Ok(_) => {
                    self.on.swap_remove(index);
                    return self.promise(Expected::Off, pfn);
                }
                // An earlier order, whose answer was never heard, had done it.
                Err(ApiError::Failed(Failure { kind: ErrorKind::NotFound, .. })) => {
                    self.on.swap_remove(index);
                    return self.promise(Expected::Off, pfn);
                }
                // It is still walking: whatever was true before still is.
                Err(ApiError::Failed(Failure { kind: ErrorKind::Busy, .. })) => return Ok(()),
                Err(error) => return Err(error).context("un-retiring a page"),
            }
        }
        let pfn = self.next;
        self.promise(Expected::Either, pfn)?;
        let range = PfnRange { start: Pfn(pfn), count: 1 };
        client.retire(&[range], "the lab's order").context("retiring a page")?;
        self.next += 3;
        self.on.push(pfn);
        self.promise(Expected::On, pfn)
    }

    fn promise(&self, expected: Expected, pfn: u64) -> Result<()> {
        let text = mark(expected, pfn);
        self.mapper.mark(&text)?;
        println!("{text}");
        Ok(())
    }
}

struct Daemon(Child);

impl Daemon {
    fn start() -> Result<Self> {
        let said = OpenOptions::new().create(true).append(true).open(SAID)?;
        let child = Command::new("/bin/rasd")
            .args(["--config", "/etc/rasd.toml"])
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("starting rasd")?;
        Ok(Self(child))
    }

    /// Waits until it takes orders.
    fn answering(mut self) -> Result<(Self, Client)> {
        let deadline = Instant::now() + SOON;
        loop {
            let asked = Client::connect(Path::new(SOCKET), SOON)
                .and_then(|mut client| client.status().map(|status| (client, status)));
            match asked {
                Ok((client, status)) if status.ready && status.pid == self.0.id() => {
                    return Ok((self, client));
                }
                _ if self.0.try_wait()?.is_some() || Instant::now() >= deadline => {
                    let said = fs::read_to_string(SAID).unwrap_or_default();
                    let tail: Vec<&str> = said.lines().rev().take(12).collect();
                    bail!("rasd is not ready, and said last:\n{}", tail.join("\n"));
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn kill(mut self) -> Result<()> {
        self.kill_now()
    }

    fn kill_now(&mut self) -> Result<()> {
        self.0.kill().and_then(|()| self.0.wait()).context("killing rasd").map(drop)
    }
}

/// The device mapper. Linux `include/uapi/linux/dm-ioctl.h`.
struct Mapper(File);

/// `struct dm_ioctl`, and what its fields are at.
const HEAD: usize = 312;
const NAME_AT: usize = 48;

/// Commands.
const CREATE: u8 = 3;
const REMOVE: u8 = 4;
const RESUME: u8 = 6;
const LOAD: u8 = 9;
const MESSAGE: u8 = 14;

impl Mapper {
    /// Makes [`LOGGED`]: DISK, with all writes logged.
    fn log(disk: &str, log: &str) -> Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control");
        let mapper = Self(control.context("opening the device mapper")?);
        mapper.command(CREATE, 0, &[]).context("creating the device")?;
        // `struct dm_target_spec`: start, length, status, next; the target's name; its arguments.
        let mut table = [0u64.to_le_bytes(), sectors_of(disk)?.to_le_bytes(), [0; 8]].concat();
        let mut target = [0; 16];
        target[..10].copy_from_slice(b"log-writes");
        table.extend(target);
        table.extend(format!("{disk} {log}\0").bytes());
        table.resize(table.len().next_multiple_of(8), 0);
        mapper.command(LOAD, 1, &table).context("loading the device's table")?;
        mapper.command(RESUME, 0, &[]).context("activating the device")?;
        ensure!(Path::new(LOGGED).exists(), "there is no {LOGGED}");
        Ok(mapper)
    }

    /// A note in the log, after everything that was written before.
    fn mark(&self, text: &str) -> Result<()> {
        let mut message = 0u64.to_le_bytes().to_vec();
        message.extend(format!("mark {}\0", text.replace(' ', "\\ ")).bytes());
        self.command(MESSAGE, 0, &message).context("marking the log")
    }

    /// Writes the rest of the log.
    fn remove(&self) -> Result<()> {
        self.command(REMOVE, 0, &[]).context("removing the device")
    }

    fn command(&self, number: u8, targets: u32, data: &[u8]) -> Result<()> {
        let mut bytes = vec![0; HEAD];
        let size = u32::try_from(HEAD + data.len())?;
        for (at, value) in [(0, 4), (12, size), (16, u32::try_from(HEAD)?), (20, targets)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[NAME_AT..NAME_AT + NAME.len()].copy_from_slice(NAME.as_bytes());
        bytes.extend(data);
        let code = nix::request_code_readwrite!(0xfd, number, HEAD);
        #[allow(clippy::cast_possible_truncation, reason = "musl's ioctl takes an int")]
        // SAFETY: the kernel reads and writes as many bytes as the second field says, which is the
        // vector's length, and keeps no pointer to them.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), code as _, bytes.as_mut_ptr()) };
        nix::errno::Errno::result(result)?;
        Ok(())
    }
}
