//! What the device does with a request.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ras_core::Gpa;
use serde::{Deserialize, Serialize};

use super::request::{self, REQUEST_SIZE, Request, Response, State};
use super::state::{BLOCK_SIZE, Blocks};
use crate::devices::virtio::mmio::Device;
use crate::devices::virtio::queue::{Chain, QueueError};
use crate::memory::mapping::GuestRam;

/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver promises not to touch unplugged memory.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// The memory behind the blocks.
pub trait Backing: fmt::Debug + Send + Sync {
    /// The guest gave these bytes up: return them to the host, except for bad pages, which are held.
    fn release(&self, gpa: Gpa, len: u64);

    /// Whether any of these bytes is held and must not be given to the guest again.
    fn is_held(&self, gpa: Gpa, len: u64) -> bool;
}

/// A virtio-mem device.
#[derive(Debug)]
pub struct VirtioMem {
    saved: Saved,
    backing: Arc<dyn Backing>,
    /// Requests that change something are answered with "busy": a migration is under way.
    frozen: bool,
}

/// The device's state: what a migration carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    blocks: Blocks,
    requested_size: u64,
}

/// Why a requested size is not possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SizeError {
    /// Not whole blocks.
    #[error("requested-size {0} is not a multiple of the block size, 2097152")]
    Unaligned(u64),
    /// More than the region.
    #[error("requested-size {requested} exceeds the size of the region, {region}")]
    TooLarge {
        /// What was asked for, in bytes.
        requested: u64,
        /// What the device has, in bytes.
        region: u64,
    },
}

impl VirtioMem {
    /// A device over `size` bytes from `start`, all unplugged, that asks its driver to plug
    /// `requested_size` bytes.
    ///
    /// # Errors
    /// A requested size that is not possible.
    pub fn new(
        start: Gpa,
        size: u64,
        requested_size: u64,
        backing: Arc<dyn Backing>,
    ) -> Result<Self, SizeError> {
        let saved = Saved { blocks: Blocks::new(start, size), requested_size: 0 };
        let mut device = Self { saved, backing, frozen: false };
        device.request_size(requested_size)?;
        Ok(device)
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &Blocks {
        &self.saved.blocks
    }

    /// Bytes the driver is asked to have plugged.
    #[must_use]
    pub fn requested_size(&self) -> u64 {
        self.saved.requested_size
    }

    /// Asks for another size. True if it changed: the driver has to be told.
    ///
    /// # Errors
    /// A size that is not possible; nothing changed.
    pub fn request_size(&mut self, requested: u64) -> Result<bool, SizeError> {
        let region = self.saved.blocks.size();
        if !requested.is_multiple_of(BLOCK_SIZE) {
            return Err(SizeError::Unaligned(requested));
        }
        if requested > region {
            return Err(SizeError::TooLarge { requested, region });
        }
        Ok(std::mem::replace(&mut self.saved.requested_size, requested) != requested)
    }

    /// Bytes in blocks without held pages: the most the guest can ever have.
    #[must_use]
    pub fn healthy_size(&self) -> u64 {
        let blocks = &self.saved.blocks;
        let held = (0..blocks.size() / BLOCK_SIZE)
            .filter(|number| self.backing.is_held(blocks.gpa(*number), BLOCK_SIZE));
        blocks.size() - held.map(|_| BLOCK_SIZE).sum::<u64>()
    }

    /// Whether changes are refused for now.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Refuses changes (with "busy"), or allows them again.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// The state for a migration.
    #[must_use]
    pub fn save(&self) -> Saved {
        self.saved.clone()
    }

    /// Takes over a migrated device's state. False, and nothing changed, if it is of another shape, or
    /// one that no device has.
    pub fn restore(&mut self, saved: Saved) -> bool {
        let same = saved.blocks.fits(&self.saved.blocks)
            && saved.requested_size <= self.saved.blocks.size()
            && saved.requested_size.is_multiple_of(BLOCK_SIZE);
        if same {
            self.saved = saved;
        }
        same
    }

    /// Carries out one request.
    pub fn request(&mut self, request: Request) -> Response {
        match request {
            Request::Plug(_) | Request::Unplug(_) | Request::UnplugAll if self.frozen => {
                Response::Busy
            }
            Request::Plug(range) => self.numbers(range).map_or(Response::Error, |n| self.plug(n)),
            Request::Unplug(range) => {
                self.numbers(range).map_or(Response::Error, |n| self.unplug(n))
            }
            Request::UnplugAll => {
                self.unplug_all();
                Response::Ack
            }
            Request::State(range) => self
                .numbers(range)
                .map_or(Response::Error, |numbers| Response::State(self.state(numbers))),
            Request::Unknown(_) => Response::Error,
        }
    }

    /// Takes all blocks from the guest, as a reset of the machine does.
    pub fn unplug_all(&mut self) {
        for (gpa, len) in self.saved.blocks.plugged() {
            self.backing.release(gpa, len);
        }
        let all = 0..self.saved.blocks.size() / BLOCK_SIZE;
        self.saved.blocks.set(all, false);
    }

    fn plug(&mut self, numbers: Range<u64>) -> Response {
        let (gpa, len) = self.extent(&numbers);
        if self.state(numbers.clone()) != State::Unplugged {
            return Response::Error;
        }
        let after = self.saved.blocks.plugged_size() + len;
        if after > self.saved.requested_size || self.backing.is_held(gpa, len) {
            return Response::Nack;
        }
        self.saved.blocks.set(numbers, true);
        Response::Ack
    }

    fn unplug(&mut self, numbers: Range<u64>) -> Response {
        let (gpa, len) = self.extent(&numbers);
        if self.state(numbers.clone()) != State::Plugged {
            return Response::Error;
        }
        self.saved.blocks.set(numbers, false);
        self.backing.release(gpa, len);
        Response::Ack
    }

    fn state(&self, numbers: Range<u64>) -> State {
        let count = numbers.end - numbers.start;
        let plugged = numbers.filter(|number| self.saved.blocks.is_plugged(*number)).count() as u64;
        match plugged {
            0 => State::Unplugged,
            _ if plugged == count => State::Plugged,
            _ => State::Mixed,
        }
    }

    /// The blocks of a request; `None` unless they are whole blocks of the region, at least one.
    fn numbers(&self, range: request::Range) -> Option<Range<u64>> {
        let aligned = range.gpa.0.is_multiple_of(BLOCK_SIZE);
        let len = u64::from(range.blocks) * BLOCK_SIZE;
        self.saved.blocks.touched(range.gpa, len).filter(|_| aligned)
    }

    fn extent(&self, numbers: &Range<u64>) -> (Gpa, u64) {
        (self.saved.blocks.gpa(numbers.start), (numbers.end - numbers.start) * BLOCK_SIZE)
    }
}

impl Device for VirtioMem {
    const ID: u32 = 24;

    fn features(&self) -> u64 {
        F_UNPLUGGED_INACCESSIBLE
    }

    /// `struct virtio_mem_config`. The usable region always is the whole region.
    fn config(&self) -> Vec<u8> {
        let blocks = &self.saved.blocks;
        let node_id_and_padding = 0;
        [
            BLOCK_SIZE,
            node_id_and_padding,
            blocks.start().0,
            blocks.size(),
            blocks.size(),
            blocks.plugged_size(),
            self.saved.requested_size,
        ]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
    }

    fn handle(&mut self, chain: &Chain, ram: &GuestRam) -> Result<u32, QueueError> {
        let mut bytes = [0; REQUEST_SIZE];
        // UNPLUG_ALL has no operands, and a driver may leave them out.
        let complete = chain.read(ram, &mut bytes)?;
        let request = match Request::from_bytes(&bytes) {
            Request::UnplugAll => Request::UnplugAll,
            request if complete => request,
            _ => return Err(QueueError::Driver("a request shorter than virtio_mem_req")),
        };
        let response = self.request(request);
        tracing::debug!("virtio-mem: {request:?} -> {response:?}");
        chain
            .write(ram, &response.to_bytes())?
            .ok_or(QueueError::Driver("no room for virtio_mem_resp"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::mem::request::Range;
    use proptest::prelude::*;
    use std::sync::Mutex;

    const START: Gpa = Gpa(4 << 30);
    const BLOCKS: u64 = 16;

    /// Remembers what was released, and holds one block.
    #[derive(Debug, Default)]
    struct Host {
        released: Mutex<Vec<(Gpa, u64)>>,
        held: Option<Gpa>,
    }

    impl Backing for Host {
        fn release(&self, gpa: Gpa, len: u64) {
            self.released.lock().unwrap().push((gpa, len));
        }
        fn is_held(&self, gpa: Gpa, len: u64) -> bool {
            self.held.is_some_and(|held| held >= gpa && held.0 < gpa.0 + len)
        }
    }

    fn device(held: Option<u64>, requested: u64) -> (VirtioMem, Arc<Host>) {
        let held = held.map(|number| Gpa(START.0 + number * BLOCK_SIZE));
        let host = Arc::new(Host { held, ..Host::default() });
        let size = BLOCKS * BLOCK_SIZE;
        let device =
            VirtioMem::new(START, size, requested * BLOCK_SIZE, Arc::clone(&host) as _).unwrap();
        (device, host)
    }

    fn range(number: u64, blocks: u16) -> Range {
        Range { gpa: Gpa(START.0 + number * BLOCK_SIZE), blocks }
    }

    #[test]
    fn blocks_come_and_go() {
        let (mut device, host) = device(None, 4);
        assert_eq!(device.request(Request::Plug(range(2, 3))), Response::Ack);
        assert_eq!(device.request(Request::Plug(range(4, 1))), Response::Error, "plugged twice");
        assert_eq!(device.request(Request::Plug(range(8, 2))), Response::Nack, "over the request");
        assert_eq!(device.request(Request::Plug(range(8, 1))), Response::Ack);
        let state =
            |device: &mut VirtioMem, at, count| device.request(Request::State(range(at, count)));
        assert_eq!(state(&mut device, 2, 3), Response::State(State::Plugged));
        assert_eq!(state(&mut device, 1, 3), Response::State(State::Mixed));
        assert_eq!(state(&mut device, 9, 7), Response::State(State::Unplugged));
        assert_eq!(device.request(Request::Unplug(range(2, 4))), Response::Error, "one is not");
        assert_eq!(device.request(Request::Unplug(range(3, 1))), Response::Ack);
        assert_eq!(*host.released.lock().unwrap(), [(range(3, 1).gpa, BLOCK_SIZE)]);
        assert_eq!(device.request(Request::UnplugAll), Response::Ack);
        assert_eq!(device.blocks().plugged_size(), 0);
        assert_eq!(host.released.lock().unwrap().len(), 4);
    }

    #[test]
    fn a_held_block_never_comes_back() {
        let (mut device, _) = device(Some(5), 16);
        assert_eq!(device.request(Request::Plug(range(4, 2))), Response::Nack);
        assert_eq!(device.request(Request::Plug(range(4, 1))), Response::Ack);
        assert_eq!(device.healthy_size(), (BLOCKS - 1) * BLOCK_SIZE);
    }

    #[test]
    fn a_frozen_device_asks_for_patience() {
        let (mut device, _) = device(None, 16);
        device.freeze(true);
        for change in [Request::Plug(range(0, 1)), Request::Unplug(range(0, 1)), Request::UnplugAll]
        {
            assert_eq!(device.request(change), Response::Busy);
        }
        let state = device.request(Request::State(range(0, 1)));
        assert_eq!(state, Response::State(State::Unplugged));
    }

    /// What a migration's source may say, in the words of the stream.
    #[test]
    fn a_state_no_device_has_is_refused() {
        let arrives = |count: u64, plugged: &[u64], requested: u64| {
            let (mut device, _) = device(None, 4);
            let saved = serde_json::json!({
                "blocks": { "start": START, "count": count, "plugged": plugged },
                "requested_size": requested,
            });
            let taken = device.restore(serde_json::from_value(saved).unwrap());
            assert!(device.blocks().plugged_size() <= device.blocks().size());
            assert_eq!(device.config().len(), 56);
            taken
        };
        assert!(arrives(BLOCKS, &[0b101], 8 * BLOCK_SIZE));
        assert!(!arrives(u64::MAX, &[0], 0), "its size in bytes overflows");
        assert!(!arrives(BLOCKS, &[], 0), "blocks without bits");
        assert!(!arrives(BLOCKS, &[0, 0], 0), "bits without blocks");
        assert!(!arrives(BLOCKS, &[1 << BLOCKS], 0), "a block behind the region");
        assert!(!arrives(BLOCKS, &[0], 1), "half a block is asked for");
        assert!(!arrives(BLOCKS, &[0], 17 * BLOCK_SIZE), "more than there is");
        assert!(!arrives(BLOCKS - 1, &[0], 0));
    }

    #[test]
    fn sizes_are_whole_blocks_inside_the_region() {
        let (mut device, _) = device(None, 4);
        assert_eq!(device.request_size(4 * BLOCK_SIZE), Ok(false));
        assert_eq!(device.request_size(0), Ok(true));
        assert!(matches!(device.request_size(1), Err(SizeError::Unaligned(1))));
        assert!(device.request_size((BLOCKS + 1) * BLOCK_SIZE).is_err());
        assert_eq!(device.requested_size(), 0);
        assert_eq!(device.config().len(), 56);
    }

    proptest! {
        #[test]
        fn any_request_keeps_the_books(requests in prop::collection::vec((0u16..6, any::<u64>(), any::<u16>(), any::<bool>()), 1..100)) {
            let (mut device, _) = device(Some(7), 8);
            for (kind, gpa, blocks, sane) in requests {
                let mut bytes = [0; REQUEST_SIZE];
                let (gpa, blocks) = if sane {
                    (START.0 + gpa % (BLOCKS + 1) * BLOCK_SIZE, blocks % 5)
                } else {
                    (gpa, blocks)
                };
                bytes[..2].copy_from_slice(&kind.to_le_bytes());
                bytes[8..16].copy_from_slice(&gpa.to_le_bytes());
                bytes[16..18].copy_from_slice(&blocks.to_le_bytes());
                let before = device.blocks().clone();
                let response = device.request(Request::from_bytes(&bytes));
                if response != Response::Ack {
                    prop_assert_eq!(device.blocks(), &before);
                }
                prop_assert!(device.blocks().plugged_size() <= device.requested_size());
                prop_assert!(!device.blocks().is_plugged(7));
            }
        }
    }
}
