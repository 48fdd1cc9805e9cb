//! What virtio-mem puts on the wire. Virtio 1.2, section 5.15.

use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::page::Gpa;

/// Virtio device ID of a memory device.
pub const DEVICE_ID: u32 = 24;

/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: unplugged memory must not even be read.
pub const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;

/// Offsets into `struct virtio_mem_config`, all fields 64 bits wide.
pub mod config {
    /// `block_size`.
    pub const BLOCK_SIZE: u64 = 0;
    /// `addr`.
    pub const ADDR: u64 = 16;
    /// `region_size`.
    pub const REGION_SIZE: u64 = 24;
    /// `usable_region_size`.
    pub const USABLE_REGION_SIZE: u64 = 32;
    /// `plugged_size`.
    pub const PLUGGED_SIZE: u64 = 40;
    /// `requested_size`.
    pub const REQUESTED_SIZE: u64 = 48;
}

/// What the driver asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// VIRTIO_MEM_REQ_PLUG of blocks from an address.
    Plug(Gpa, u16),
    /// VIRTIO_MEM_REQ_UNPLUG of blocks from an address.
    Unplug(Gpa, u16),
    /// VIRTIO_MEM_REQ_UNPLUG_ALL.
    UnplugAll,
}

/// `type` of `struct virtio_mem_resp`. Open: a device may answer what no specification names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response(pub u16);

impl Response {
    /// VIRTIO_MEM_RESP_ACK.
    pub const ACK: Self = Self(0);
    /// VIRTIO_MEM_RESP_NACK: not allowed now.
    pub const NACK: Self = Self(1);
    /// VIRTIO_MEM_RESP_BUSY: try again later.
    pub const BUSY: Self = Self(2);
    /// VIRTIO_MEM_RESP_ERROR: the request made no sense.
    pub const ERROR: Self = Self(3);
}

/// `struct virtio_mem_req` and `struct virtio_mem_resp`, where the device finds them.
pub struct Buffers {
    request: [AtomicU64; 3],
    response: [AtomicU16; 5],
}

impl Buffers {
    /// Bytes of `struct virtio_mem_req`.
    pub const REQUEST_LEN: u32 = 24;
    /// Bytes of `struct virtio_mem_resp`.
    pub const RESPONSE_LEN: u32 = 10;

    /// Zeroes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            request: [const { AtomicU64::new(0) }; 3],
            response: [const { AtomicU16::new(0) }; 5],
        }
    }

    /// Writes the request and spoils the response, so that an unanswered request shows.
    pub fn write(&self, request: Request) {
        let words = match request {
            Request::Plug(addr, blocks) => [0, addr.0, u64::from(blocks)],
            Request::Unplug(addr, blocks) => [1, addr.0, u64::from(blocks)],
            Request::UnplugAll => [2, 0, 0],
        };
        for (slot, word) in self.request.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.response[0].store(u16::MAX, Ordering::Relaxed);
    }

    /// What the device answered.
    #[must_use]
    pub fn response(&self) -> Response {
        Response(self.response[0].load(Ordering::Relaxed))
    }

    /// Addresses and lengths of both, for the queue.
    #[must_use]
    pub fn descriptors(&self) -> [(u64, u32); 2] {
        use crate::virtqueue::addr;
        [(addr(&self.request), Self::REQUEST_LEN), (addr(&self.response), Self::RESPONSE_LEN)]
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_specified() {
        let buffers = Buffers::new();
        buffers.write(Request::Unplug(Gpa(0x1_0020_0000), 3));
        let bytes: Vec<u8> =
            buffers.request.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
        assert_eq!(bytes.len(), Buffers::REQUEST_LEN as usize);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 0, 0, 0, 0], "type, padding");
        assert_eq!(bytes[8..16], 0x1_0020_0000u64.to_le_bytes(), "addr");
        assert_eq!(bytes[16..18], [3, 0], "nb_blocks");
        assert_eq!(buffers.response(), Response(u16::MAX));
    }
}
