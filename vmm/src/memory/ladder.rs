//! The ladder: the one way in for memory that has to leave a guest's use (`x-ras-retire-range`). The
//! gentlest step that works is taken:
//!
//! ```text
//! data is good  -> another frame behind each page, while the guest stands still for microseconds
//! otherwise, or where that fails or is too much
//!   boot memory -> the guest is told, and keeps it
//!   virtio-mem  -> the block leaves
//! ```
//! (The step before these, the host kernel's own soft offline, is `rasd`'s.)
//!
//! Which block a virtio-mem device gives up is the *guest's* choice. So a chosen one is evicted like this:
//!
//! ```text
//! 1 tell     a machine check names the bad range; the guest's driver gives up such blocks first
//! 2 lower    requested_size goes down by the blocks concerned
//! 3 wait     until the guest unplugged just those, until the deadline at most; for a guest that gave
//!            up another block, requested_size goes down further, a few times
//! 4 hold     the bad pages stay in this process, of no use to anybody; the rest goes to the host
//! 5 raise    requested_size goes up again, so that healthy blocks take their place
//! ```
//!
//! Each step can run twice: a range that is out already is an answer, not work.

use std::ops::Range;
use std::time::{Duration, Instant};

use ras_core::Gpa;
use ras_qmp::RunState;
use ras_qmp::ras::{RetireAnswer, RetireCause, RetireOutcome};

use super::mapping::{RegionKind, Replaced};
use crate::devices::virtio::VirtioMem;
use crate::devices::virtio::mem::BLOCK_SIZE;
use crate::machine::{Machine, MemoryFailure};
use crate::migrate::chain;
use crate::poison::{Kind, list, vmce};
use crate::vm::Vm;

/// Longest range in one request, in bytes. A row of a memory module is less.
pub const SIZE_MAX: u64 = 64 << 20;

/// Pages of one request that get other frames. Where more of a block fails, its rest is not worth
/// much, and it leaves as a whole.
pub const REPLACED_MAX: u64 = 256;

/// Blocks asked for beyond those concerned, from a guest that gives up others.
const EXTRA_BLOCKS_MAX: u64 = 8;

/// How long the guest may take to read what it was told before it is asked for the block anyway.
const TELL_MAX: Duration = Duration::from_secs(1);

const MIGRATING: &str = "a migration is under way; blocks can't change hands now";
const NO_DEVICE: &str = "no memory device has this range";

/// A request to take memory out of the guest's use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// First byte.
    pub gpa: Gpa,
    /// Bytes, at least 1, at most [`SIZE_MAX`].
    pub size: u64,
    /// Why.
    pub cause: RetireCause,
    /// How long the guest may take.
    pub timeout: Duration,
}

/// The range is not one this guest could be asked for. That is the caller's mistake, not a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{size} bytes at {gpa} are not inside one region of guest memory, or more than 64 MiB")]
pub struct NoSuchRange {
    /// First byte.
    pub gpa: Gpa,
    /// Bytes.
    pub size: u64,
}

/// Takes the range out of the guest's use, and answers when that is decided: within the timeout and
/// the time another request takes.
///
/// # Errors
/// [`NoSuchRange`]; a guest that keeps the range is an answer.
pub fn retire(vm: &Vm, request: Request) -> Result<RetireAnswer, NoSuchRange> {
    let started = Instant::now();
    let Request { gpa, size, .. } = request;
    let region = vm
        .machine()
        .ram()
        .regions()
        .iter()
        .find(|region| gpa.0.checked_sub(region.gpa().0).is_some_and(|at| at < region.size()))
        .filter(|_| (1..=SIZE_MAX).contains(&size))
        .filter(|_| vm.machine().ram().hva_of(gpa, size).is_some())
        .ok_or(NoSuchRange { gpa, size })?;
    let replaced = match request.cause {
        RetireCause::Corrected => replace(vm, request),
        RetireCause::Uncorrected => None,
    };
    let (outcome, detail, blocks) = match (&replaced, region.kind()) {
        (Some(_), _) => (RetireOutcome::Replaced, String::new(), Vec::new()),
        (None, RegionKind::Ram) => {
            note(vm.machine(), request);
            tell(vm, request);
            refused("boot memory can't be unplugged; only that of the virtio-mem device can")
        }
        (None, RegionKind::VirtioMem) => {
            note(vm.machine(), request);
            evict(vm, request, started + request.timeout)
        }
    };
    let elapsed_us = micros(started.elapsed());
    let paused_us = replaced.map_or(0, micros);
    tracing::info!("retiring {size} bytes at {gpa}: {outcome:?} after {elapsed_us} us {detail}");
    Ok(RetireAnswer { outcome, detail, blocks, paused_us, elapsed_us })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Gives all pages of the request other frames: the longest time the guest stood still, or `None` where
/// another step has to be taken. Some pages may have other frames even then.
fn replace(vm: &Vm, request: Request) -> Option<Duration> {
    let pages: Vec<Gpa> = list::pages(request.gpa, request.size).collect();
    let possible = matches!(vm.state(), RunState::Running | RunState::Paused)
        && pages.len() as u64 <= REPLACED_MAX
        && pages.iter().all(|page| vm.machine().is_populated(*page));
    if !possible {
        return None;
    }
    let _turn = vm.ladder();
    let mut longest = Duration::ZERO;
    // One by one: the guest runs on between them.
    for page in pages {
        let (answer, paused) = vm.vcpu().with(move |vcpu| {
            let started = Instant::now();
            let answer = vcpu.machine().ram().replace(page);
            (answer, started.elapsed())
        })?;
        longest = longest.max(paused);
        match answer {
            Ok(Replaced { before: Some(before), after }) if after == Some(before) => {
                tracing::warn!("guest page {page} still has host frame {before}");
                return None;
            }
            Ok(Replaced { before, after }) => {
                tracing::debug!("guest page {page}: frame {before:?} replaced by {after:?}");
            }
            Err(error) => {
                tracing::warn!("guest page {page} keeps its frame: {}", chain(&error));
                return None;
            }
        }
    }
    Some(longest)
}

type Decision = (RetireOutcome, String, Vec<Gpa>);

fn refused(detail: impl Into<String>) -> Decision {
    (RetireOutcome::Refused, detail.into(), Vec::new())
}

/// Notes the pages first: from here on, they are held if the guest gives them up.
fn note(machine: &Machine, request: Request) {
    let lost = request.cause == RetireCause::Uncorrected;
    for page in list::pages(request.gpa, request.size) {
        let frame = machine.frame(page);
        machine.poison().list().note(page, frame, lost);
    }
}

/// Tells the guest of those pages it was not told of yet.
fn tell(vm: &Vm, request: Request) {
    let machine = vm.machine();
    let kind = match request.cause {
        RetireCause::Uncorrected => Kind::ActionOptional,
        RetireCause::Corrected => Kind::Corrected,
    };
    let mut checks = vmce::cover(kind, request.gpa, request.size, vm.vcpu().vendor());
    checks.retain(|check| {
        let mut list = machine.poison().list();
        let pages = list::pages(check.gpa, 1 << check.lsb);
        // Not `any`: each page has to be marked as told.
        pages.filter(|page| list.tell(*page)).count() > 0
    });
    for check in checks {
        machine.poison().tell(check);
        if kind == Kind::ActionOptional {
            machine.emit_failure(MemoryFailure {
                guest: true,
                action: "inject",
                action_required: false,
                recursive: false,
                gpa: Some(check.gpa),
            });
        }
    }
    machine.lifecycle().notify();
}

fn evict(vm: &Vm, request: Request, deadline: Instant) -> Decision {
    let _turn = vm.ladder();
    let machine = vm.machine();
    let wanted = match find(vm, request) {
        Ok(wanted) => wanted,
        Err(decision) => return decision,
    };
    tell(vm, request);
    let told = vm.wait_told(deadline.min(Instant::now() + TELL_MAX));
    let Some(mut transport) = machine.virtio_mem() else { return refused(NO_DEVICE) };
    let before = transport.device().requested_size();
    let mut lowered = None;
    let mut extra = 0;
    while !wanted.is_unplugged(transport.device()) {
        let plugged = transport.device().blocks().plugged_size();
        let complied = lowered.is_some_and(|size| plugged <= size);
        // A guest that gave up other blocks is asked for more.
        if lowered.is_none() || complied && extra < EXTRA_BLOCKS_MAX {
            extra += u64::from(complied);
            let size = plugged.saturating_sub(wanted.plugged_size(transport.device()));
            if let Err(error) = machine.resize(&mut transport, size) {
                return refused(error.to_string());
            }
            lowered = Some(size);
        }
        let resetting = machine.lifecycle().reset_pending().is_some();
        let frozen = transport.device().is_frozen();
        let stopped = frozen || resetting || vm.state() != RunState::Running;
        if stopped || Instant::now() >= deadline {
            break;
        }
        transport = machine.wait_virtio_mem(transport, deadline);
    }

    let unplugged = wanted.is_unplugged(transport.device());
    let frozen = transport.device().is_frozen();
    // Not beyond what there is without bad blocks: the guest could never reach it.
    let again = before.min(transport.device().healthy_size());
    // Somebody may have asked for another size meanwhile; that stays.
    if lowered == Some(transport.device().requested_size())
        && let Err(error) = machine.resize(&mut transport, again)
    {
        tracing::warn!("the guest gets no healthy memory in exchange: {error}");
    }
    drop(transport);
    if !unplugged && frozen {
        return refused(MIGRATING);
    }
    if !unplugged && machine.lifecycle().reset_pending().is_some() {
        return refused("the guest resets");
    }
    if !unplugged {
        let unread = if told { "" } else { ", nor read the machine check" };
        let within = request.timeout.as_millis();
        return refused(format!("the guest did not give the block up within {within} ms{unread}"));
    }
    let detail = match before - again {
        0 => String::new(),
        missing => format!("no spare block took its place: the guest is {missing} bytes smaller"),
    };
    (RetireOutcome::Unplugged, detail, wanted.gpas)
}

/// The blocks a request is about.
struct Wanted {
    numbers: Range<u64>,
    gpas: Vec<Gpa>,
}

impl Wanted {
    fn plugged_size(&self, device: &VirtioMem) -> u64 {
        let plugged = self.numbers.clone().filter(|number| device.blocks().is_plugged(*number));
        plugged.count() as u64 * BLOCK_SIZE
    }

    fn is_unplugged(&self, device: &VirtioMem) -> bool {
        self.plugged_size(device) == 0
    }
}

/// The blocks to evict, or the decision where there is nothing to do, or nothing to be done.
fn find(vm: &Vm, request: Request) -> Result<Wanted, Decision> {
    let machine = vm.machine();
    let transport = machine.virtio_mem().ok_or_else(|| refused(NO_DEVICE))?;
    if vm.state() == RunState::Inmigrate {
        return Err(refused("the guest has not arrived yet"));
    }
    let blocks = transport.device().blocks();
    let numbers = blocks.touched(request.gpa, request.size).ok_or_else(|| refused(NO_DEVICE))?;
    let gpas = numbers.clone().map(|number| blocks.gpa(number)).collect();
    let wanted = Wanted { numbers, gpas };
    if wanted.is_unplugged(transport.device()) {
        // Perhaps before anybody knew of these pages.
        machine.poison().list().hold(request.gpa.page(), request.size);
        let detail = "it was unplugged before".to_owned();
        return Err((RetireOutcome::Unplugged, detail, wanted.gpas));
    }
    if transport.device().is_frozen() {
        return Err(refused(MIGRATING));
    }
    if !transport.is_driven() {
        return Err(refused("the guest has no driver for its memory device"));
    }
    if vm.state() != RunState::Running {
        return Err(refused("the guest is not running"));
    }
    Ok(wanted)
}
