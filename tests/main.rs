//! One binary for every story: it links once, and the stories share their props.

mod decode;
mod failover;
mod migrate;
mod persist;
mod unplug;
mod walk;
