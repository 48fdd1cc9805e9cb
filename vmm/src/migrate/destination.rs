//! The arriving end: fills a VM that never ran, and runs it only when the source let go.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ras_core::{Gpa, PAGE_SIZE};
use tracing::{info, warn};

use super::format::{
    BATCH_PAGES_MAX, End, FormatError, Hello, Kind, Run, STATE_MAX, decode_batch, decode_runs,
    decode_sync,
};
use super::transport::{Channel, Listener, Uri};
use super::{Destination, MigrateError, chain, vm};
use crate::memory::mapping::{GuestRam, bytes};

/// More lost pages than that are not a guest worth moving: 256 MiB.
const POISONED_MAX: usize = 1 << 16;

/// A place where a migration may arrive.
#[derive(Debug)]
pub struct Incoming {
    name: String,
    listener: Listener,
    peer_timeout: Duration,
}

/// What arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// Pages received with contents; a page sent in two rounds counts twice.
    pub pages: u64,
    /// Pages whose contents were lost on the way here, ascending.
    pub poisoned: Vec<Gpa>,
    /// Length of the state in bytes.
    pub state_length: u64,
    /// From the connection to the guest's first instruction.
    pub took: Duration,
}

impl Incoming {
    /// Starts listening for the VM called `name`. The peer may make no progress for `peer_timeout`
    /// once it is connected.
    ///
    /// # Errors
    /// [`MigrateError::Io`].
    pub fn listen(name: &str, uri: &Uri, peer_timeout: Duration) -> Result<Self, MigrateError> {
        Ok(Self { name: name.to_owned(), listener: Listener::bind(uri)?, peer_timeout })
    }

    /// The port a `tcp:` URI listens at: what port 0 became.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.listener.port()
    }

    /// Waits for the first connection, however long it takes, and receives the VM from it. There is
    /// no second one: after an error, memory and devices are in no state to be used. The process
    /// should report it and exit.
    ///
    /// # Errors
    /// Why it failed. The guest does not run here, and the source knows or will conclude that.
    pub fn receive(self, vm: &dyn Destination) -> Result<Received, MigrateError> {
        let channel = self.listener.accept(self.peer_timeout)?;
        let started = Instant::now();
        let mut arrival = Arrival::new(vm, &channel);
        let result = arrival.take(&self.name).inspect_err(|error| {
            // A stranger would not understand, and the others are not listening.
            let hopeless = matches!(
                error,
                MigrateError::Format(FormatError::Magic)
                    | MigrateError::PeerFailed(_)
                    | MigrateError::Closed(_)
            );
            if !hopeless {
                channel.give_up(&chain(error));
            }
        });
        result?;
        let took = started.elapsed();
        info!(pages = arrival.pages, poisoned = arrival.poisoned.len(), ?took, "guest arrived");
        Ok(Received {
            pages: arrival.pages,
            poisoned: arrival.poisoned.into_iter().collect(),
            state_length: arrival.state.len() as u64,
            took,
        })
    }
}

struct Arrival<'a> {
    vm: &'a dyn Destination,
    channel: &'a Channel,
    /// One batch of pages. Small enough to stay in the cache between the socket and guest memory.
    buffer: Vec<u8>,
    pages: u64,
    poisoned: BTreeSet<Gpa>,
    state: Vec<u8>,
}

impl<'a> Arrival<'a> {
    fn new(vm: &'a dyn Destination, channel: &'a Channel) -> Self {
        let buffer = vec![0; BATCH_PAGES_MAX * bytes(PAGE_SIZE)];
        Self { vm, channel, buffer, pages: 0, poisoned: BTreeSet::new(), state: Vec::new() }
    }

    fn take(&mut self, name: &str) -> Result<(), MigrateError> {
        let ram = self.vm.ram();
        self.channel.receive_preface()?;
        let hello = self.channel.expect(Kind::Hello, "waiting for the VM's description")?;
        check_fit(&Hello::decode(&hello)?, &Hello::of(name, ram))?;
        for region in ram.regions() {
            ram.discard(region.gpa(), region.size())?;
        }
        self.channel.send(Kind::Accept, &[], "accepting the VM")?;

        self.take_memory_and_state()?;
        if !self.poisoned.is_empty() {
            let pages: Vec<Gpa> = self.poisoned.iter().copied().collect();
            vm("marking poisoned pages", self.vm.mark_poisoned(&pages))?;
        }
        vm("loading the state", self.vm.load(&self.state))?;
        self.channel.send(Kind::Loaded, &[], "reporting that the VM is ready")?;

        self.channel.expect(Kind::Go, "waiting for the source to let go")?;
        vm("running the guest", self.vm.resume())?;
        if let Err(error) = self.channel.send(Kind::Running, &[], "reporting that the guest runs") {
            // It does run here, and the source will not: it let go.
            warn!("the source may not know that the guest arrived: {}", chain(&error));
        }
        Ok(())
    }

    fn take_memory_and_state(&mut self) -> Result<(), MigrateError> {
        let doing = "receiving the VM";
        loop {
            let (kind, body) = self.channel.receive(doing)?;
            match kind {
                Kind::Pages => self.take_pages(&decode_batch(&body)?)?,
                Kind::Zero => self.take_zero(&decode_runs(&body)?)?,
                Kind::Poison => self.take_poison(&decode_runs(&body)?)?,
                Kind::Sync => {
                    let round = decode_sync(&body)?;
                    self.channel.send(Kind::Synced, &round.to_le_bytes(), "ending a round")?;
                }
                Kind::State => {
                    let value = (self.state.len() + body.len()) as u64;
                    if value > STATE_MAX {
                        let what = "state";
                        return Err(FormatError::TooLarge { what, value, max: STATE_MAX }.into());
                    }
                    self.state.extend_from_slice(&body);
                }
                Kind::End if End::decode(&body)? == End::of(&self.state) => return Ok(()),
                Kind::End => return Err(FormatError::Checksum("state").into()),
                got => return Err(MigrateError::Unexpected { got, doing }),
            }
        }
    }

    fn take_pages(&mut self, runs: &[Run]) -> Result<(), MigrateError> {
        check_inside(self.vm.ram(), runs)?;
        let length = runs.iter().map(|run| run.byte_len()).sum();
        let (payload, _) = self.buffer.split_at_mut(bytes(length));
        self.channel.receive_bytes(payload, "receiving memory")?;
        let mut rest = &*payload;
        for run in runs {
            let (data, after) = rest.split_at(bytes(run.byte_len()));
            rest = after;
            self.vm.ram().restore(run.gpa, data).map_err(|source| MigrateError::Io {
                doing: format!("writing guest memory at {}", run.gpa),
                source,
            })?;
        }
        for run in runs {
            self.lift_marks(*run);
            self.pages += u64::from(run.pages);
        }
        Ok(())
    }

    fn take_zero(&mut self, runs: &[Run]) -> Result<(), MigrateError> {
        let ram = self.vm.ram();
        check_inside(ram, runs)?;
        for run in runs {
            // Untouched memory is zero already; looking costs less than punching.
            for (gpa, len) in ram.allocated(run.gpa, run.byte_len()) {
                ram.discard(gpa, len)?;
            }
            self.lift_marks(*run);
        }
        Ok(())
    }

    fn take_poison(&mut self, runs: &[Run]) -> Result<(), MigrateError> {
        let ram = self.vm.ram();
        check_inside(ram, runs)?;
        let check = |value: u64| {
            let (what, max) = ("number of poisoned pages", POISONED_MAX as u64);
            if value > max { Err(FormatError::TooLarge { what, value, max }) } else { Ok(()) }
        };
        // Runs may repeat: 64 KiB of them can name half a billion pages, each of which takes its time.
        check(runs.iter().map(|run| u64::from(run.pages)).sum())?;
        // Better to know now than after the rest of the memory.
        ram.poison_support()?;
        self.poisoned.extend(runs.iter().copied().flat_map(Run::iter));
        Ok(check(self.poisoned.len() as u64)?)
    }

    /// The latest word on a page counts.
    fn lift_marks(&mut self, run: Run) {
        let end = Gpa(run.gpa.0 + run.byte_len());
        while let Some(page) = self.poisoned.range(run.gpa..end).next().copied() {
            self.poisoned.remove(&page);
        }
    }
}

fn check_fit(theirs: &Hello, ours: &Hello) -> Result<(), MigrateError> {
    if theirs.name != ours.name {
        let why = format!("it is called {:?}, {:?} is expected here", theirs.name, ours.name);
        return Err(MigrateError::Mismatch(why));
    }
    if theirs.regions != ours.regions {
        let layout = |hello: &Hello| {
            let regions = hello.regions.iter();
            let texts = regions.map(|(gpa, size, kind)| format!("{size} bytes {kind:?} at {gpa}"));
            texts.collect::<Vec<_>>().join(", ")
        };
        let why = format!("its memory is {}; here it is {}", layout(theirs), layout(ours));
        return Err(MigrateError::Mismatch(why));
    }
    Ok(())
}

fn check_inside(ram: &GuestRam, runs: &[Run]) -> Result<(), FormatError> {
    let inside = |run: &Run| ram.hva_of(run.gpa, run.byte_len()).is_some();
    runs.iter().all(inside).then_some(()).ok_or(FormatError::Malformed("run: not guest memory"))
}
