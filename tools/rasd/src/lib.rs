//! The host daemon: one error, one walk. Start reading at [`pipeline`].
//!
//! This library exists for the program `rasd` and its tests; it promises no stable interface.

#![forbid(unsafe_code)]

pub mod pipeline;
pub mod restart;

mod order;

pub mod boot_list;
pub mod followers;
pub mod mirror;
pub mod pace;

pub mod decode;
pub mod evacuate;
pub mod guests;
pub mod host_page;
pub mod ledger;
pub mod machine;
pub mod outcome;
pub mod repair;

pub mod source;

pub mod cluster;
pub mod config;
pub mod control;
pub mod metrics;
pub mod service;
pub mod shared;
pub mod stop;

pub mod kill_point;
pub mod timings;
