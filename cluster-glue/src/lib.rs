//! Node health and evacuation: what `rasd` may ask of whatever keeps guests available.
//!
//! [`HaEngine`] is the boundary. Behind it:
//!
//! | Engine | What it can do |
//! |---|---|
//! | [`standalone`] | one machine and one configured peer: moves guests live, **no failover** |
//! | [`pacemaker`] | sets `#health-memory`; Pacemaker moves, fences and restarts |
//! | [`sim`] | records what it was asked; for tests |
//!
//! Nothing here knows QMP or machine checks: guests are moved through [`Mover`], which `rasd`
//! implements, or by the cluster's own resource agent (`ocf:ras:vm`, crate `ras-ocf`).

#![forbid(unsafe_code)]

pub mod engine;

pub mod pacemaker;
pub mod sim;
pub mod standalone;

pub use engine::{
    Capabilities, EngineError, Evacuated, HaEngine, Member, MigrationReport, Moved, Mover,
    MoverError, Scope, Stayed,
};
pub use pacemaker::{Pacemaker, PacemakerConfig};
pub use sim::SimEngine;
pub use standalone::{Standalone, StandaloneConfig};
