//! What rasd and rasctl say to each other: JSON lines on a unix socket, and the capture format.
//!
//! One request a line, one response a line, in order. A request is `{"command": NAME, …}`
//! ([`Request`]), a response `{"return": …}` or `{"error": {"kind": …, "message": …}}`
//! ([`Response`]). Lists are handed out in pages, so that no line grows without bound.
//! Addresses, page frames and times are JSON numbers; times are nanoseconds since the Unix epoch.

#![forbid(unsafe_code)]

pub mod message;

pub mod capture;
pub mod client;

pub use client::{ApiError, Client};
pub use message::{
    BootStatus, Counts, EngineStatus, ErrorKind, Failure, Gap, HealthStatus, MirrorStatus, Ordered,
    PageCounts, PageDetail, PageList, QueueStatus, Request, Response, SourceStatus, Status,
    StoreStatus, Unretired, Unretirement,
};
