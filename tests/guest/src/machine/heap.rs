//! The heap: the RAM behind the guest's image, handed out upwards and never taken back. All tables
//! are made at start; what is left when [`seal`] is called becomes the memory under test.
// UNSAFETY: an allocator hands out memory that nothing else uses.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use guest::page::{Gpa, PAGE_SIZE};

/// Kept for short-lived vectors after the seal: the working set collects the pages of a block.
const RESERVE: usize = 1 << 20;

struct Bump {
    /// Next free byte; 0 before [`open`].
    next: AtomicUsize,
    end: AtomicUsize,
}

#[global_allocator]
static HEAP: Bump = Bump { next: AtomicUsize::new(0), end: AtomicUsize::new(0) };

/// Opens the heap from the end of the image to `end`.
pub fn open(end: Gpa) {
    unsafe extern "C" {
        static guest_end: u8;
    }
    HEAP.next.store((&raw const guest_end).addr(), Ordering::Relaxed);
    HEAP.end.store(usize::try_from(end.0).unwrap_or(0), Ordering::Relaxed);
}

/// Ends the heap a little above what is in use, and returns where it ends.
pub fn seal() -> Gpa {
    let page = usize::try_from(PAGE_SIZE).unwrap_or(0);
    let end = (HEAP.next.load(Ordering::Relaxed) + RESERVE).next_multiple_of(page);
    HEAP.end.fetch_min(end, Ordering::Relaxed);
    Gpa(HEAP.end.load(Ordering::Relaxed) as u64)
}

// SAFETY: every call returns a range above all earlier ones and inside the RAM that `open` was
// given. One processor, and the machine-check handler doesn't allocate, so that load and store
// need not be one step.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.next.load(Ordering::Relaxed).next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if start != 0 && end <= self.end.load(Ordering::Relaxed) => {
                self.next.store(end, Ordering::Relaxed);
                ptr::with_exposed_provenance_mut(start)
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // The newest block can be taken back, which makes short-lived vectors free.
        let end = block.addr() + layout.size();
        let _ = self.next.compare_exchange(end, block.addr(), Ordering::Relaxed, Ordering::Relaxed);
    }
}
