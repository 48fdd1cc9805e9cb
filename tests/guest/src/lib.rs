//! The thinking half of the test guest: what a page holds, which pages are whose, which block to
//! give up, how a virtqueue goes round. No hardware and no unsafe code, so that the same lines run
//! in the guest and in host-side tests. The other half, `src/machine`, is the hardware.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod cmdline;
pub mod frames;
pub mod mca;
pub mod page;
pub mod policy;
pub mod ring;
pub mod virtio_mem;
pub mod virtqueue;
pub mod working_set;
