//! One binary for every story: it links once, and the stories share their props.

#![allow(clippy::unwrap_used, reason = "in a story, what can't go on fails")]

mod boot;
mod decode;
mod failover;
mod migrate;
mod panic;
mod persist;
mod report;
mod unplug;
mod walk;
