//! Bad guest memory: SIGBUS in, machine checks out, and the list of what is known in between.
//!
//! ```text
//! SIGBUS, early notice (RAS thread) ---\                          /--> MEMORY_FAILURE event
//! SIGBUS at a vCPU's touch -------------+--> Poison: list, queue ---+--> machine check, when the
//! MMIO exit at a RAM address, probed ---/                          \    guest can take one
//! x-ras-retire-range ------------------/
//! ```

pub mod list;

pub mod signal;
pub mod vmce;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use ras_core::{Gpa, Pfn};

pub use list::{Page, PoisonList};
pub use vmce::{Kind, MachineCheck};

use crate::lock;

/// What is known of a guest's bad memory, and what the guest has yet to be told.
#[derive(Debug, Default)]
pub struct Poison {
    list: Mutex<PoisonList>,
    queue: Mutex<vmce::Queue>,
    /// Length of the queue, readable on every entry to the guest at no cost.
    waiting: AtomicUsize,
}

impl Poison {
    /// The pages.
    pub fn list(&self) -> MutexGuard<'_, PoisonList> {
        lock(&self.list)
    }

    /// Notes a page whose data is lost. True if that is news.
    pub fn note_lost(&self, gpa: Gpa, pfn: Option<Pfn>) -> bool {
        self.list().note(gpa, pfn, true)
    }

    /// Lets a machine check wait for the guest.
    pub fn tell(&self, check: MachineCheck) {
        self.change(|queue| queue.push(check));
    }

    /// The machine check to deliver next.
    #[must_use]
    pub fn next(&self) -> Option<MachineCheck> {
        if self.waiting() == 0 { None } else { lock(&self.queue).front() }
    }

    /// `check` was delivered, or is pointless now.
    pub fn done(&self, check: MachineCheck) {
        self.change(|queue| queue.remove(check));
    }

    /// Machine checks that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// The queue, for a migration.
    #[must_use]
    pub fn queue(&self) -> vmce::Queue {
        lock(&self.queue).clone()
    }

    /// Takes over a migrated queue.
    pub fn restore_queue(&self, queue: vmce::Queue) {
        self.change(|own| *own = queue.bounded());
    }

    fn change(&self, change: impl FnOnce(&mut vmce::Queue)) {
        let mut queue = lock(&self.queue);
        change(&mut queue);
        self.waiting.store(queue.len(), Ordering::Release);
    }
}
