//! The memory device: a region of guest physical memory whose blocks are plugged and unplugged while
//! the guest runs. VIRTIO 1.2, section 5.15 "Memory Device".

pub mod device;

pub mod request;
pub mod state;

pub use device::{Backing, VirtioMem};
pub use state::{BLOCK_SIZE, Blocks};
