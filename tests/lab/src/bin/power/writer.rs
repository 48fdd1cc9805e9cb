//! `power record`: rasd is asked for pages and killed, and all of it is logged.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount, umount};
use ras_core::{Pfn, PfnRange};
use ras_lab::power::crash::{END, Expected, Rng, mark};
use ras_lab::power::{STORE, sectors_of};
use rasd_api::{ApiError, Client, ErrorKind, Failure};

use crate::mapper::Mapped;

/// In the middle of the machine's memory: mostly free.
const FIRST: u64 = 0x1_0000;

/// For a start of rasd, or an answer, on a busy machine that emulates another.
const SOON: Duration = Duration::from_secs(60);

const SOCKET: &str = "/run/rasd/rasd.sock";

/// What rasd says goes here, for when it does not start.
const SAID: &str = "/tmp/rasd.log";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [disk, log, options, kills, seed, rest @ ..] = arguments else {
        bail!("{}", crate::USAGE);
    };
    let table = format!("{disk} {log}");
    let logged = Mapped::new("logged", "log-writes", sectors_of(disk)?, &table)?;
    fs::create_dir_all(STORE).context("making the mount point")?;
    mount(Some(logged.path()), STORE, Some("ext4"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("mounting the disk with {options}"))?;
    let mut orders = Orders { logged, rng: Rng(seed.parse()?), next: FIRST, on: Vec::new() };
    for round in 0..kills.parse()? {
        orders.until_killed(round)?;
    }
    // Whatever the file system was told about flushes, the log gets its end.
    File::open(orders.logged.path())
        .and_then(|device| device.sync_all())
        .context("flushing the disk")?;
    orders.logged.mark(END)?;
    println!("{END}");
    if rest.iter().any(|word| word == "stop") {
        umount(STORE).context("unmounting")?;
        return orders.logged.remove();
    }
    let (_rasd, mut client) = Daemon::start()?.answering()?;
    loop {
        orders.one(&mut client)?;
    }
}

struct Orders {
    logged: Mapped,
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
        // Mostly one page, which takes a sector; sometimes as many as take several blocks.
        let count = if self.rng.below(6) == 0 { 2 + self.rng.below(60) } else { 1 };
        let pages = self.next..self.next + count;
        for pfn in pages.clone() {
            self.promise(Expected::Either, pfn)?;
        }
        let range = PfnRange { start: Pfn(pages.start), count };
        client.retire(&[range], "the lab's order").context("retiring pages")?;
        self.next = pages.end + 2;
        for pfn in pages {
            self.on.push(pfn);
            self.promise(Expected::On, pfn)?;
        }
        Ok(())
    }

    fn promise(&self, expected: Expected, pfn: u64) -> Result<()> {
        let text = mark(expected, pfn);
        self.logged.mark(&text)?;
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
