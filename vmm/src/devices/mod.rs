//! The devices of a machine.

pub mod legacy;
pub mod virtio;
