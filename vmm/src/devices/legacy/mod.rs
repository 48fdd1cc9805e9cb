//! Devices at fixed ports, as PCs have had them since the eighties.

pub mod serial;

pub use serial::Serial;
