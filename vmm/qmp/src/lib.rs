//! QMP, QEMU's machine protocol: the one control protocol of this project.
//!
//! [`Client`] drives a `rasvmm` guest and a QEMU guest alike; [`Server`] is the plumbing with which
//! `rasvmm` answers. Both sides promise bounded memory, deadlines on every wait, and no panic on
//! whatever the other side sends. The messages are those of QEMU's "QEMU Machine Protocol
//! Specification"; the commands of our own start with `x-ras-` and live in [`ras`].

#![forbid(unsafe_code)]

pub mod client;
pub mod ras;
pub mod server;

pub mod message;

mod frames;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use client::{Client, QmpError};
pub use message::{CommandError, ErrorClass, Event, RunState};
pub use server::{Events, Handler, Server};
