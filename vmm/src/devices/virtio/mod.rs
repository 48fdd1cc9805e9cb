//! virtio devices. Virtual I/O Device (VIRTIO) Version 1.2.

pub mod mem;

pub mod mmio;
pub mod queue;

pub use mem::VirtioMem;
pub use mmio::MmioTransport;
