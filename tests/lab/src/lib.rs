//! Stock kernels in QEMU, clusters in namespaces, and the machines' packages.
//!
//! A lab story needs more than a compiler: distribution packages, a stock kernel, our own programs
//! built for several targets, sometimes root or `/dev/kvm`. The first modules provide these, each
//! saying what it fetches and why; the later ones are the stories told with them.

mod cache;
mod mortal;

pub mod agent;
pub mod artifacts;
pub mod capability;
pub mod cluster;
pub mod demo;
pub mod erst;
mod image;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod packages;
pub mod power;
pub mod qemu;
pub mod story;
pub mod uefi;
pub mod vm;
pub mod walk;

pub use cache::cache_dir;
pub use story::{Story, Summary};
