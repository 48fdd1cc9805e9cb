//! What `rasctl` is made of: reading and rendering error records of every kind.

#![forbid(unsafe_code)]

pub mod json;
pub mod rasdaemon_db;
