//! A split virtqueue, driver side, one two-buffer request at a time. Virtio 1.2, section 2.7.
//!
//! The rings are atomics: the device writes them behind our back, and needs to see our writes in
//! order. The address of a thing is its physical address, as the guest runs identity mapped.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Descriptors in the queue; a power of two.
pub const SIZE: u16 = 8;

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;

/// `virtq_desc`.
#[repr(C)]
struct Descriptor {
    addr: AtomicU64,
    len: AtomicU32,
    flags: AtomicU16,
    next: AtomicU16,
}
const _: () = assert!(size_of::<Descriptor>() == 16);

/// `virtq_avail`.
#[repr(C)]
struct Available {
    flags: AtomicU16,
    idx: AtomicU16,
    ring: [AtomicU16; SIZE as usize],
    used_event: AtomicU16,
}

/// `virtq_used`.
#[repr(C)]
struct Used {
    flags: AtomicU16,
    idx: AtomicU16,
    ring: [[AtomicU32; 2]; SIZE as usize],
    avail_event: AtomicU16,
}

/// The three areas of a queue, aligned as the specification wants them (16, 2 and 4 bytes).
#[repr(C, align(64))]
pub struct Rings {
    descriptors: [Descriptor; SIZE as usize],
    available: Available,
    used: Used,
}
const _: () = assert!(core::mem::offset_of!(Rings, used) % 4 == 0);

impl Rings {
    /// Empty rings.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            descriptors: [const {
                Descriptor {
                    addr: AtomicU64::new(0),
                    len: AtomicU32::new(0),
                    flags: AtomicU16::new(0),
                    next: AtomicU16::new(0),
                }
            }; SIZE as usize],
            available: Available {
                // VIRTQ_AVAIL_F_NO_INTERRUPT: the used ring is polled.
                flags: AtomicU16::new(1),
                idx: AtomicU16::new(0),
                ring: [const { AtomicU16::new(0) }; SIZE as usize],
                used_event: AtomicU16::new(0),
            },
            used: Used {
                flags: AtomicU16::new(0),
                idx: AtomicU16::new(0),
                ring: [const { [const { AtomicU32::new(0) }; 2] }; SIZE as usize],
                avail_event: AtomicU16::new(0),
            },
        }
    }

    /// Physical addresses of the descriptor table, the available ring and the used ring.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        [addr(&self.descriptors), addr(&self.available), addr(&self.used)]
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self::new()
    }
}

/// The physical address of something the device reads or writes.
#[must_use]
pub fn addr<T>(thing: &T) -> u64 {
    core::ptr::from_ref(thing).addr() as u64
}

/// The driver's end of a queue.
pub struct Queue {
    rings: &'static Rings,
    next: u16,
}

impl Queue {
    /// A queue over rings that are as new.
    #[must_use]
    pub const fn new(rings: &'static Rings) -> Self {
        Self { rings, next: 0 }
    }

    /// Makes a request available: a buffer for the device to read, one for it to write. The caller
    /// notifies the device and polls [`Queue::completed`] before it submits another.
    pub fn submit(&mut self, read: (u64, u32), write: (u64, u32)) {
        // The two descriptors of a request follow each other; requests go round the table.
        let head = self.next.wrapping_mul(2) % SIZE;
        self.describe(head, read, DESC_F_NEXT, head + 1);
        self.describe(head + 1, write, DESC_F_WRITE, 0);
        let available = &self.rings.available;
        available.ring[usize::from(self.next % SIZE)].store(head, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        available.idx.store(self.next, Ordering::Release);
        // The notification is a plain MMIO store: the ring must be visible before it.
        fence(Ordering::SeqCst);
    }

    /// Bytes that the device wrote, once it is done with the request.
    #[must_use]
    pub fn completed(&self) -> Option<u32> {
        let used = &self.rings.used;
        if used.idx.load(Ordering::Acquire) != self.next {
            return None;
        }
        Some(used.ring[usize::from(self.next.wrapping_sub(1) % SIZE)][1].load(Ordering::Relaxed))
    }

    fn describe(&self, index: u16, (addr, len): (u64, u32), flags: u16, next: u16) {
        let descriptor = &self.rings.descriptors[usize::from(index)];
        descriptor.addr.store(addr, Ordering::Relaxed);
        descriptor.len.store(len, Ordering::Relaxed);
        descriptor.flags.store(flags, Ordering::Relaxed);
        descriptor.next.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_round_and_wrap() {
        let rings: &'static Rings = Box::leak(Box::new(Rings::new()));
        let mut queue = Queue::new(rings);
        queue.next = u16::MAX - 20;
        rings.available.idx.store(queue.next, Ordering::Relaxed);
        rings.used.idx.store(queue.next, Ordering::Relaxed);
        for n in 0..100u32 {
            let before = rings.available.idx.load(Ordering::Relaxed);
            queue.submit((u64::from(n), 24), (0x1000, 10));
            assert_eq!(queue.completed(), None);

            // The device, by the letter of the specification.
            let avail = rings.available.idx.load(Ordering::Acquire);
            assert_eq!(avail, before.wrapping_add(1));
            let head = rings.available.ring[usize::from(before % SIZE)].load(Ordering::Relaxed);
            let first = &rings.descriptors[usize::from(head)];
            assert_eq!(first.addr.load(Ordering::Relaxed), u64::from(n));
            assert_eq!(first.flags.load(Ordering::Relaxed), DESC_F_NEXT);
            let second = &rings.descriptors[usize::from(first.next.load(Ordering::Relaxed))];
            assert_eq!(second.len.load(Ordering::Relaxed), 10);
            assert_eq!(second.flags.load(Ordering::Relaxed), DESC_F_WRITE);
            let slot = &rings.used.ring[usize::from(before % SIZE)];
            slot[0].store(u32::from(head), Ordering::Relaxed);
            slot[1].store(n, Ordering::Relaxed);
            rings.used.idx.store(avail, Ordering::Release);

            assert_eq!(queue.completed(), Some(n));
        }
    }
}
