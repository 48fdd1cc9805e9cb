//! The guest's life: tick after tick it writes, verifies, listens and reports.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;

use guest::cmdline::{End, Options};
use guest::frames::{Frames, Owner, Region};
use guest::mca::{BadMemory, BankRecord};
use guest::page::{Gpa, PAGE_SIZE};
use guest::policy::{self, RETRY_TICKS, Step};
use guest::ring::{Ring, Stop};
use guest::virtio_mem::{Request, Response};
use guest::working_set::{Event, WorkingSet, World};

use crate::machine::guarded::Physical;
use crate::machine::heap;
use crate::machine::machine_check::{self, LOG};
use crate::machine::paging::{self, Kind};
use crate::machine::ports;
use crate::machine::pvh::BootInfo;
use crate::memory_device::{Absent, DEFAULT_BASE, MemoryDevice};
use crate::say;

/// With `quiet`, one tick in so many is printed.
const QUIET_TICKS: u64 = 64;

/// Blocks that change hands per tick, so that a large resize doesn't silence the guest.
const BLOCKS_PER_TICK: u32 = 16;

/// Ticks since start. In memory like everything else the guest vouches for: if a migration lost a
/// page, this might be it.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// Makes everything that is needed, says `guest: ready`, then ticks for ever.
pub fn run(boot: &BootInfo, options: Options) -> ! {
    let mut guest = Guest::new(boot, options);
    guest.start();
    say!(
        "guest: ready ram={} vmem={} plugged={}",
        boot.ram_bytes,
        guest.region().block_size * guest.region().blocks as u64,
        guest.plugged()
    );
    if options.pvpanic.is_some() {
        say!("pvpanic events={:#x}", ports::panic_events());
    }
    loop {
        let tick = TICKS.load(Ordering::Relaxed) + 1;
        TICKS.store(tick, Ordering::Relaxed);
        guest.tick(tick);
    }
}

struct Guest {
    options: Options,
    device: Option<MemoryDevice>,
    frames: Frames,
    set: WorkingSet,
    ring: Ring,
    touch: Option<Gpa>,
    /// Pages found not to hold what was written, on this tick.
    mismatches: Vec<Gpa>,
    refused: Option<u64>,
    /// Machine-check records that were printed, but not acted on yet.
    heard: Vec<BankRecord>,
}

impl Guest {
    fn new(boot: &BootInfo, options: Options) -> Self {
        let device = match MemoryDevice::start(options.virtio_mmio.unwrap_or(DEFAULT_BASE)) {
            Ok(device) => Some(device),
            Err(Absent::NotThere) => None,
            Err(Absent::Unusable(reason)) => panic!("virtio-mem: {reason}"),
        };
        let region = device.as_ref().map_or(Region::NONE, MemoryDevice::region);
        let block_bytes = region.block_size * region.blocks as u64;
        assert!(region.start.0 + block_bytes <= paging::LIMIT.0, "memory beyond the page tables");
        paging::map(region.start, block_bytes, Kind::Memory);

        let ram_pages = usize_of(boot.ram_end.0 / PAGE_SIZE);
        let mut frames = Frames::new(Gpa(0), ram_pages, region);
        let all_pages = ram_pages + usize_of(block_bytes / PAGE_SIZE);
        let limit = match options {
            Options { idle: true, .. } => 0,
            Options { fill: true, .. } => all_pages,
            _ => usize_of(options.work_pages).min(all_pages),
        };
        let set = WorkingSet::new(limit, options.fill && !options.idle);
        frames.reserve_ram_below(heap::seal());
        let (first, pages) = frames.reserve_ring(usize_of(options.dirty_pages));
        let ring = Ring::new(first, pages as u64);
        Self {
            options,
            device,
            frames,
            set,
            ring,
            touch: options.touch.map(Gpa::page),
            mismatches: Vec::with_capacity(256),
            refused: None,
            heard: Vec::with_capacity(64),
        }
    }

    /// Plugs what the device wants from the start, then takes up the working set.
    fn start(&mut self) {
        while let Some(Step::Plug(block)) = self.next_step(0) {
            if self.ask(Request::Plug(self.region().block(block), 1)) == Response::ACK {
                self.frames.plugged(block);
            } else {
                self.nack(block, 0);
            }
        }
        self.with_set(WorkingSet::populate);
        if self.ring.pages() < self.options.dirty_pages {
            say!("guest: dirty ring cut to {} pages", self.ring.pages());
        }
    }

    fn tick(&mut self, tick: u64) {
        machine_check::poll();
        self.heed_machine_checks();
        self.with_set(WorkingSet::tick);
        self.dirty();
        self.touch();
        self.follow(tick);
        self.heed_machine_checks();
        self.report(tick);
        self.misbehave(tick);
    }

    /// Feeds the watchdog, and does at the tick named by `at=` what other kernels do by mistake.
    fn misbehave(&self, tick: u64) {
        let due = tick == self.options.at;
        if let Some(code) = self.options.watchdog.filter(|_| tick < self.options.at) {
            ports::feed(code);
        }
        if due && self.options.disarm {
            ports::chain_up();
        }
        if let Some(events) = self.options.pvpanic.filter(|_| due) {
            ports::tell_panic(events);
        }
        match self.options.end.filter(|_| due) {
            Some(End::Reset) => ports::reset(),
            Some(End::TripleFault) => ports::triple_fault(),
            None => {}
        }
    }

    /// Prints what the handler and the poll found, and retires the memory that it names.
    fn heed_machine_checks(&mut self) {
        hear(&mut self.heard);
        while let Some(record) = self.heard.pop() {
            if let Some(bad) = record.memory() {
                self.note_bad(bad);
            }
            hear(&mut self.heard);
        }
        let dropped = LOG.take_dropped();
        if dropped != 0 {
            say!("guest: {dropped} machine check records dropped");
        }
    }

    fn note_bad(&mut self, bad: BadMemory) {
        if bad.lost {
            for n in 0..bad.pages {
                self.ring.lose(Gpa(bad.page.0 + n * PAGE_SIZE));
            }
        }
        self.with_set(|set, world| set.note_bad(bad, world));
    }

    fn dirty(&mut self) {
        let (mut lost, mismatches) = (Vec::new(), &mut self.mismatches);
        self.ring.tick(&mut Physical, &mut |page, stop| match stop {
            Stop::Poisoned => lost.push(page),
            Stop::Mismatch => mismatches.push(page),
            Stop::End => {}
        });
        // Before the records are heeded: they would tell of these pages a second time.
        for page in &lost {
            self.frames.set(*page, Owner::Retired);
        }
        self.heed_machine_checks();
        for page in lost {
            say!("lost page={page}");
        }
    }

    /// Reads the page that `touch=` names, until it turns out to be poisoned.
    fn touch(&mut self) {
        let Some(page) = self.touch else {
            return;
        };
        // Unplugged memory must not be read.
        if self.frames.owner(page).is_none() || Physical.touch(page).is_ok() {
            return;
        }
        self.touch = None;
        // Losing a page that is in use prints the line.
        let in_use = matches!(self.frames.owner(page), Some(Owner::Entry(_) | Owner::Ring));
        self.heed_machine_checks();
        self.note_bad(BadMemory { page, pages: 1, lost: true });
        if !in_use {
            say!("lost page={page}");
        }
    }

    /// Does what the device asks for, some blocks at a time.
    fn follow(&mut self, tick: u64) {
        for _ in 0..BLOCKS_PER_TICK {
            match self.next_step(tick) {
                Some(Step::Unplug(_)) if self.options.refuse => return self.refuse(),
                Some(Step::Unplug(block)) => self.unplug(block, tick),
                Some(Step::Plug(block)) => self.plug(block, tick),
                Some(Step::Rest) | None => return,
            }
        }
    }

    fn unplug(&mut self, block: usize, tick: u64) {
        let (address, size) = (self.region().block(block), self.region().block_size);
        self.with_set(|set, world| set.evacuate(block, world));
        if self.ask(Request::Unplug(address, 1)) == Response::ACK {
            self.frames.unplugged(block);
            say!("unplug gpa={address} size={size:#x}");
        } else {
            self.nack(block, tick);
        }
    }

    fn plug(&mut self, block: usize, tick: u64) {
        let address = self.region().block(block);
        if self.ask(Request::Plug(address, 1)) == Response::ACK {
            self.frames.plugged(block);
            say!("plug gpa={address}");
            self.with_set(|set, world| set.settle(block, world));
        } else {
            self.nack(block, tick);
        }
    }

    fn nack(&mut self, block: usize, tick: u64) {
        self.frames.postpone(block, tick + RETRY_TICKS);
        say!("nack gpa={}", self.region().block(block));
    }

    fn refuse(&mut self) {
        let requested = self.device.as_mut().map(|device| device.sizes().requested);
        if requested != self.refused {
            self.refused = requested;
            say!("refuse requested={}", requested.unwrap_or(0));
        }
    }

    fn report(&mut self, tick: u64) {
        let (plugged, mce) = (self.plugged(), machine_check::count());
        for page in &self.mismatches {
            say!("tick {tick} sum=BAD page={page} plugged={plugged} mce={mce}");
        }
        if self.mismatches.is_empty() && (!self.options.quiet || tick.is_multiple_of(QUIET_TICKS)) {
            say!("tick {tick} sum=ok plugged={plugged} mce={mce}");
        }
        self.mismatches.clear();
    }

    /// Runs a step of the working set; its events become lines.
    fn with_set(&mut self, step: impl FnOnce(&mut WorkingSet, &mut World<'_, Physical>)) {
        let (mismatches, heard) = (&mut self.mismatches, &mut self.heard);
        // Counted only: with full memory a block drops 512 pages, and a line costs milliseconds.
        let mut dropped = 0;
        let mut emit = |event| {
            // The cause comes before the effect.
            hear(heard);
            match event {
                Event::Lost(page) => say!("lost page={page}"),
                Event::Dropped(_) => dropped += 1,
                Event::Mismatch(page) => mismatches.push(page),
            }
        };
        let (frames, memory) = (&mut self.frames, &mut Physical);
        step(&mut self.set, &mut World { frames, memory, emit: &mut emit });
        if dropped != 0 {
            say!("dropped pages={dropped}");
        }
    }

    fn next_step(&mut self, tick: u64) -> Option<Step> {
        let sizes = self.device.as_mut()?.sizes();
        // After the sizes, not before: the host lowers them once a machine check was read, and
        // expects us to know of it by then.
        self.heed_machine_checks();
        Some(policy::next_step(&self.frames, sizes, tick))
    }

    fn ask(&mut self, request: Request) -> Response {
        match self.device.as_mut().map(|device| device.request(request)) {
            Some(Ok(response)) => response,
            Some(Err(reason)) => panic!("{reason}"),
            None => Response::ERROR,
        }
    }

    fn region(&self) -> Region {
        self.frames.region()
    }

    fn plugged(&self) -> u64 {
        let blocks = self.frames.blocks().iter().filter(|block| block.plugged).count();
        blocks as u64 * self.region().block_size
    }
}

/// Prints what the handler and the poll found, and keeps it for [`Guest::heed_machine_checks`].
fn hear(heard: &mut Vec<BankRecord>) {
    while let Some(record) = LOG.pop() {
        machine_check::print(&record);
        heard.push(record);
    }
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
