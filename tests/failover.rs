//! Node health and the engines that act on it; the resource agent and the landing service.
//!
//! Here each part is held against a scripted other side. The whole, with a real Corosync and
//! Pacemaker, is `cargo xtask lab cluster`.

mod agent;
mod engines;
mod landing;
mod monitor;
mod pacemaker;
