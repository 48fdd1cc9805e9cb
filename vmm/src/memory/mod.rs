//! Guest memory.

pub mod mapping;
mod userfaultfd;
