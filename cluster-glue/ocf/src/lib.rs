//! `ocf:ras:vm`, the Pacemaker resource agent of a `rasvmm` guest, and the landing service that
//! takes arriving guests in.
//!
//! ```text
//!   node A (source)                                    node B (target)
//!   Pacemaker: vm migrate_to                           ras-landing listens on the cluster network
//!     QMP migrate tcp:B:PORT  ---- stream header --->  peeks at the name, starts
//!     polls query-migrate     ==== guest memory ====>    rasvmm --incoming fd:3 (the socket)
//!     completed: QMP quit                              guest runs
//!                                                      Pacemaker: vm migrate_from waits for that
//! ```
//!
//! Contract of the agent: Open Cluster Framework Resource Agent API 1.1. The binaries are thin;
//! everything is here, so that tests can call it.

#![forbid(unsafe_code)]

pub mod agent;
pub mod code;
pub mod params;

pub mod metadata;

pub mod landing;

mod header;
mod vmm;

pub use code::{Code, Failure};
pub use params::Params;
