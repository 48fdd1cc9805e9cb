//! Guest memory: where it lies, how it is reached, and how parts of it are taken out of use.

pub mod layout;
pub mod mapping;

pub mod ladder;
pub mod unplug;

mod replace;
pub(crate) mod transfer;
mod userfaultfd;
