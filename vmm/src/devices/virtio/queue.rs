//! A split virtqueue, read with care. VIRTIO 1.2, section 2.7 "Split Virtqueues".
//!
//! The driver is not trusted: every index and length is checked, a chain is never followed for more
//! steps than the queue has entries, and all of it is read through [`GuestRam`], which answers with
//! an error where a page is poisoned.

use ras_core::Gpa;
use serde::{Deserialize, Serialize};

use crate::memory::mapping::{GuestRam, RamError};

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;

/// Why a queue can't be used any more, until the driver resets the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QueueError {
    /// The driver broke a rule of the specification.
    #[error("the driver broke the virtqueue: {0}")]
    Driver(&'static str),
    /// The queue, or a buffer, lies in memory that can't be accessed.
    #[error("virtqueue memory")]
    Ram(#[from] RamError),
}

/// A virtqueue: where the driver put it, and how far the device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Queue {
    /// Entries; a power of two.
    pub size: u16,
    /// The driver has set it up.
    pub ready: bool,
    /// Descriptor area, 16-byte aligned.
    pub desc: u64,
    /// Driver area (available ring), 2-byte aligned.
    pub driver: u64,
    /// Device area (used ring), 4-byte aligned.
    pub device: u64,
    next_avail: u16,
    next_used: u16,
}

/// A piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Buffer {
    gpa: Gpa,
    len: u32,
}

/// One request: buffers to read, then buffers to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    head: u16,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl Queue {
    /// Whether size and addresses are ones the specification allows.
    #[must_use]
    pub fn is_valid(&self, size_max: u16) -> bool {
        self.size.is_power_of_two()
            && self.size <= size_max
            && self.desc.is_multiple_of(16)
            && self.driver.is_multiple_of(2)
            && self.device.is_multiple_of(4)
    }

    /// The next request the driver made available, if there is one.
    ///
    /// # Errors
    /// A broken or inaccessible queue.
    pub fn pop(&mut self, ram: &GuestRam) -> Result<Option<Chain>, QueueError> {
        if !self.ready {
            return Ok(None);
        }
        let available = read_u16(ram, self.driver, 2)?.wrapping_sub(self.next_avail);
        if available == 0 {
            return Ok(None);
        }
        if available > self.size {
            return Err(QueueError::Driver("more requests than entries"));
        }
        let slot = u64::from(self.next_avail % self.size);
        let head = read_u16(ram, self.driver, 4 + 2 * slot)?;
        let chain = self.chain(ram, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Returns a request to the driver with `written` bytes in its writable buffers.
    ///
    /// # Errors
    /// An inaccessible queue.
    pub fn push(&mut self, ram: &GuestRam, chain: &Chain, written: u32) -> Result<(), QueueError> {
        let slot = u64::from(self.next_used % self.size);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        ram.write(at(self.device, 4 + 8 * slot)?, &element)?;
        self.next_used = self.next_used.wrapping_add(1);
        // The index is written after the element, by a system call of its own: the driver never
        // sees an index whose element is not there.
        ram.write(at(self.device, 2)?, &self.next_used.to_le_bytes())?;
        Ok(())
    }

    /// Whether the driver wants to hear of used buffers (`VIRTQ_AVAIL_F_NO_INTERRUPT` is clear).
    ///
    /// # Errors
    /// An inaccessible queue.
    pub fn wants_interrupt(&self, ram: &GuestRam) -> Result<bool, QueueError> {
        Ok(read_u16(ram, self.driver, 0)? & 1 == 0)
    }

    fn chain(&self, ram: &GuestRam, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut index = head;
        for _ in 0..self.size {
            if index >= self.size {
                return Err(QueueError::Driver("descriptor index beyond the table"));
            }
            let mut bytes = [0; 16];
            ram.read(at(self.desc, 16 * u64::from(index))?, &mut bytes)?;
            let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
            let buffer = Buffer {
                gpa: Gpa(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
                len: u32::from_le_bytes([l0, l1, l2, l3]),
            };
            let flags = u16::from_le_bytes([f0, f1]);
            if flags & DESC_INDIRECT != 0 {
                return Err(QueueError::Driver("indirect descriptors were not negotiated"));
            }
            if flags & DESC_WRITE != 0 {
                chain.writable.push(buffer);
            } else if chain.writable.is_empty() {
                chain.readable.push(buffer);
            } else {
                return Err(QueueError::Driver("a readable buffer behind a writable one"));
            }
            if flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            index = u16::from_le_bytes([n0, n1]);
        }
        Err(QueueError::Driver("a chain longer than the table"))
    }
}

impl Chain {
    /// Reads the first bytes of the request into `bytes`; false if it is shorter than that.
    ///
    /// # Errors
    /// Inaccessible buffers.
    pub fn read(&self, ram: &GuestRam, bytes: &mut [u8]) -> Result<bool, QueueError> {
        let mut rest = bytes;
        for buffer in &self.readable {
            let (part, tail) = rest.split_at_mut(buffer.take(rest.len()));
            ram.read(buffer.gpa, part)?;
            rest = tail;
        }
        Ok(rest.is_empty())
    }

    /// Writes `bytes` as the answer; `None` if the buffers are too small for it.
    ///
    /// # Errors
    /// Inaccessible buffers.
    pub fn write(&self, ram: &GuestRam, bytes: &[u8]) -> Result<Option<u32>, QueueError> {
        let mut rest = bytes;
        for buffer in &self.writable {
            let (part, tail) = rest.split_at(buffer.take(rest.len()));
            ram.write(buffer.gpa, part)?;
            rest = tail;
        }
        Ok(rest.is_empty().then(|| u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    }
}

impl Buffer {
    /// How many of `wanted` bytes this buffer has.
    fn take(self, wanted: usize) -> usize {
        usize::try_from(self.len).map_or(wanted, |len| len.min(wanted))
    }
}

fn read_u16(ram: &GuestRam, base: u64, offset: u64) -> Result<u16, QueueError> {
    let mut bytes = [0; 2];
    ram.read(at(base, offset)?, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn at(base: u64, offset: u64) -> Result<Gpa, QueueError> {
    base.checked_add(offset).map(Gpa).ok_or(QueueError::Ram(RamError::OutOfRange))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::mapping::{RegionConfig, RegionKind};
    use proptest::prelude::*;

    /// A driver's side of one queue of 8 entries, in the first pages of RAM.
    pub(crate) struct Driver {
        pub(crate) ram: GuestRam,
        available: u16,
    }

    pub(crate) const DESC: u64 = 0x1000;
    pub(crate) const AVAIL: u64 = 0x2000;
    pub(crate) const USED: u64 = 0x3000;
    pub(crate) const SIZE: u16 = 8;

    impl Driver {
        pub(crate) fn new(more: &[RegionConfig]) -> Self {
            let mut regions =
                vec![RegionConfig { gpa: Gpa(0), size: 1 << 20, kind: RegionKind::Ram }];
            regions.extend_from_slice(more);
            Self { ram: GuestRam::new(&regions).expect("a megabyte"), available: 0 }
        }

        pub(crate) fn queue() -> Queue {
            let (desc, driver, device) = (DESC, AVAIL, USED);
            Queue { size: SIZE, ready: true, desc, driver, device, ..Queue::default() }
        }

        pub(crate) fn descriptor(&self, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
            let mut bytes = gpa.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            self.ram.write(Gpa(DESC + 16 * u64::from(index)), &bytes).expect("table");
        }

        pub(crate) fn offer(&mut self, head: u16) {
            let slot = AVAIL + 4 + 2 * u64::from(self.available % SIZE);
            self.ram.write(Gpa(slot), &head.to_le_bytes()).expect("ring");
            self.available = self.available.wrapping_add(1);
            self.ram.write(Gpa(AVAIL + 2), &self.available.to_le_bytes()).expect("index");
        }

        pub(crate) fn used(&self) -> u16 {
            read_u16(&self.ram, USED, 2).expect("index")
        }
    }

    #[test]
    fn a_request_goes_there_and_back() {
        let mut driver = Driver::new(&[]);
        let mut queue = Driver::queue();
        assert_eq!(queue.pop(&driver.ram), Ok(None));
        driver.ram.write(Gpa(0x8000), b"hello!").expect("buffer");
        driver.descriptor(3, 0x8000, 4, DESC_NEXT, 1);
        driver.descriptor(1, 0x8004, 2, DESC_NEXT, 0);
        driver.descriptor(0, 0x9000, 16, DESC_WRITE, 0);
        for round in 1..=20 {
            driver.offer(3);
            let chain = queue.pop(&driver.ram).expect("valid").expect("a request");
            let mut bytes = [0; 6];
            assert_eq!(chain.read(&driver.ram, &mut bytes), Ok(true));
            assert_eq!(&bytes, b"hello!");
            assert_eq!(chain.read(&driver.ram, &mut [0; 7]), Ok(false), "too short");
            assert_eq!(chain.write(&driver.ram, &[7; 17]), Ok(None), "too long");
            assert_eq!(chain.write(&driver.ram, &[7; 16]), Ok(Some(16)));
            queue.push(&driver.ram, &chain, 16).expect("used");
            assert_eq!(driver.used(), round);
        }
    }

    #[test]
    fn broken_rules_are_named() {
        let check = |arrange: &dyn Fn(&mut Driver), expected: &str| {
            let mut driver = Driver::new(&[]);
            arrange(&mut driver);
            let error = Driver::queue().pop(&driver.ram).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        };
        check(&|d| d.offer(SIZE), "beyond the table");
        check(&|d| (d.descriptor(0, 0, 1, DESC_NEXT, 0), d.offer(0)).1, "longer than the table");
        check(&|d| (d.descriptor(0, 0, 1, DESC_INDIRECT, 0), d.offer(0)).1, "indirect");
        check(&|d| d.ram.write(Gpa(AVAIL + 2), &[9, 0]).expect("ring"), "more requests");
        let mixed = |d: &mut Driver| {
            d.descriptor(0, 0, 1, DESC_WRITE | DESC_NEXT, 1);
            d.descriptor(1, 0, 1, 0, 0);
            d.offer(0);
        };
        check(&mixed, "behind a writable");
    }

    #[test]
    fn queues_outside_memory_or_in_poison_are_errors() {
        let mut driver = Driver::new(&[]);
        driver.offer(0);
        for wrong in [u64::MAX, u64::MAX - 16, 1 << 20, 1 << 52] {
            let mut queue = Queue { driver: wrong, ..Driver::queue() };
            assert_eq!(queue.pop(&driver.ram), Err(QueueError::Ram(RamError::OutOfRange)));
        }
        if driver.ram.poison(Gpa(DESC)).is_ok() {
            let poisoned = Err(QueueError::Ram(RamError::Poisoned(Gpa(DESC))));
            assert_eq!(Driver::queue().pop(&driver.ram), poisoned);
        }
    }

    proptest! {
        /// Whatever a driver puts into memory, the device answers in bounded time.
        #[test]
        fn any_memory_is_survived(memory in prop::collection::vec(any::<u8>(), 0x2100)) {
            let driver = Driver::new(&[]);
            driver.ram.write(Gpa(DESC), &memory).expect("inside");
            let mut queue = Driver::queue();
            for _ in 0..usize::from(SIZE) + 1 {
                let Ok(Some(chain)) = queue.pop(&driver.ram) else { break };
                let _ = chain.read(&driver.ram, &mut [0; 24]);
                let _ = chain.write(&driver.ram, &[0; 10]);
                let _ = queue.push(&driver.ram, &chain, 10);
            }
        }
    }
}
