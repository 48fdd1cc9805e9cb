//! SIGBUS: how the kernel tells this process that memory it owns is bad.
//!
//! Two kinds arrive (Linux `mm/memory-failure.c`, `kill_proc`): "action optional" on the thread that
//! asked for early notice (`PR_MCE_KILL_EARLY`), and "action required" on the thread that touched the
//! page, here a vCPU's thread inside `KVM_RUN`. The handler stores what it was told and returns;
//! everything else is done by ordinary code. Where returning would mean touching the same page
//! again for ever (bad memory of this process itself), it says so and ends the process.

// UNSAFETY: a signal handler, and the raw structures it is handed.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::memory::mapping::GuestRam;

/// Exit code after bad memory of this process itself was touched. Nothing can be resumed then.
pub const EXIT_OWN_MEMORY: i32 = 70;

/// Hits that can wait to be read; the same page never waits twice.
const RING: usize = 64;

/// Guest memory has at most this many regions.
const REGIONS: usize = 4;

/// What the kernel reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// First byte, as this process sees it.
    pub hva: usize,
    /// log2 of the bytes concerned.
    pub lsb: u8,
}

/// The hits of one kind. Lock-free: filled by the handler, emptied by one thread.
struct Ring {
    slots: [Slot; RING],
    lost: AtomicU64,
}

struct Slot {
    state: AtomicU8,
    hva: AtomicUsize,
    lsb: AtomicU8,
}

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const FULL: u8 = 2;

/// Reported by early notice: read by the RAS thread.
static OPTIONAL: Ring = Ring::new();
/// Reported at a vCPU's touch: read by its thread as soon as `KVM_RUN` returned.
static REQUIRED: Ring = Ring::new();
/// Where guest memory lies: first address and one past the last.
static GUEST: [(AtomicUsize, AtomicUsize); REGIONS] =
    [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; REGIONS];
/// An eventfd that wakes the RAS thread.
static WAKE: AtomicI32 = AtomicI32::new(-1);

thread_local! {
    /// This thread is in `KVM_RUN`: a touch of guest memory is the guest's, not ours.
    static IN_GUEST: Cell<bool> = const { Cell::new(false) };
}

/// Installs the handler. `wake` is an eventfd that stays open for the life of the process.
///
/// # Errors
/// The kernel's refusal.
pub fn install(ram: &GuestRam, wake: i32) -> io::Result<()> {
    for (slot, region) in GUEST.iter().zip(ram.regions()) {
        let size = usize::try_from(region.size()).unwrap_or(0);
        slot.0.store(region.hva(), Ordering::SeqCst);
        slot.1.store(region.hva() + size, Ordering::SeqCst);
    }
    WAKE.store(wake, Ordering::SeqCst);
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(handler), flags, SigSet::empty());
    // SAFETY: the handler only does what is allowed in one: atomics, write, nanosleep, _exit.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

/// Asks for early notice on the calling thread, and says so to the kernel once per process.
///
/// # Errors
/// The kernel's refusal, which leaves the process with late notice only.
pub fn want_early_notice() -> io::Result<()> {
    // SAFETY: this prctl takes numbers only.
    let result = unsafe {
        libc::prctl(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY, 0, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `enter`, during which touching bad guest memory is the guest's doing.
pub fn in_guest<T>(enter: impl FnOnce() -> T) -> T {
    IN_GUEST.set(true);
    let result = enter();
    IN_GUEST.set(false);
    result
}

/// Takes the hits that required action.
#[must_use]
pub fn take_required() -> Vec<Hit> {
    REQUIRED.take()
}

/// Whether any hit that required action waits.
#[must_use]
pub fn required_pending() -> bool {
    REQUIRED.slots.iter().any(|slot| slot.state.load(Ordering::Acquire) == FULL)
}

/// Takes the hits of early notice.
#[must_use]
pub fn take_optional() -> Vec<Hit> {
    OPTIONAL.take()
}

/// Hits that found no room, since the start.
#[must_use]
pub fn lost() -> u64 {
    OPTIONAL.lost.load(Ordering::Relaxed) + REQUIRED.lost.load(Ordering::Relaxed)
}

impl Ring {
    const fn new() -> Self {
        let slots = [const {
            Slot { state: AtomicU8::new(EMPTY), hva: AtomicUsize::new(0), lsb: AtomicU8::new(0) }
        }; RING];
        Self { slots, lost: AtomicU64::new(0) }
    }

    fn put(&self, hit: Hit) {
        let waits = |slot: &Slot| {
            slot.state.load(Ordering::Acquire) == FULL
                && slot.hva.load(Ordering::Relaxed) == hit.hva
        };
        if self.slots.iter().any(waits) {
            return;
        }
        for slot in &self.slots {
            let claim =
                slot.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed);
            if claim.is_ok() {
                slot.hva.store(hit.hva, Ordering::Relaxed);
                slot.lsb.store(hit.lsb, Ordering::Relaxed);
                slot.state.store(FULL, Ordering::Release);
                return;
            }
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Vec<Hit> {
        let mut hits = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.state.load(Ordering::Acquire) == FULL) {
            let hva = slot.hva.load(Ordering::Relaxed);
            hits.push(Hit { hva, lsb: slot.lsb.load(Ordering::Relaxed) });
            slot.state.store(EMPTY, Ordering::Release);
        }
        hits
    }
}

extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to a handler with SA_SIGINFO. For the two codes
    // read below, si_addr and the si_addr_lsb behind it (offset 24 on x86-64) are filled in.
    let (code, hva, lsb) = unsafe {
        let lsb = info.cast::<u8>().add(24).cast::<i16>().read();
        ((*info).si_code, (*info).si_addr() as usize, lsb)
    };
    let hit = Hit { hva, lsb: u8::try_from(lsb).unwrap_or(12) };
    let guests = GUEST.iter().any(|(start, end)| {
        (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&hva)
    });
    match code {
        libc::BUS_MCEERR_AO => {
            OPTIONAL.put(hit);
            wake();
        }
        libc::BUS_MCEERR_AR if guests && IN_GUEST.get() => REQUIRED.put(hit),
        libc::BUS_MCEERR_AR => {
            // The RAS thread tells whoever listens; then there is nothing left to do.
            OPTIONAL.put(hit);
            wake();
            say(b"rasvmm: bad memory of rasvmm itself was touched; it can't go on\n");
            let moment = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            // SAFETY: nanosleep and _exit are async-signal-safe; the timespec is valid.
            unsafe {
                libc::nanosleep(&raw const moment, std::ptr::null_mut());
                libc::_exit(EXIT_OWN_MEMORY);
            }
        }
        _ => {
            say(b"rasvmm: SIGBUS that is no memory error\n");
            // SAFETY: restoring the default action and returning raises the fault, or lets the
            // raised signal kill the process, as if there had been no handler.
            unsafe {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::raise(libc::SIGBUS);
            }
        }
    }
}

fn wake() {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) is async-signal-safe and reads 8 bytes of a local array. If the eventfd is
    // not there yet, the call fails and the hit is read later.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
}

fn say(text: &[u8]) {
    // SAFETY: write(2) is async-signal-safe and reads the bytes of a valid slice.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_bounded_and_counted() {
        static STORM: Ring = Ring::new();
        for page in 0..1000 {
            STORM.put(Hit { hva: page % 100 * 4096, lsb: 12 });
        }
        let hits = STORM.take();
        assert_eq!(hits.len(), RING);
        assert!(STORM.lost.load(Ordering::Relaxed) > 0);
        assert!(STORM.take().is_empty());
        STORM.put(Hit { hva: 1, lsb: 21 });
        STORM.put(Hit { hva: 1, lsb: 21 });
        assert_eq!(STORM.take(), [Hit { hva: 1, lsb: 21 }]);
    }
}
