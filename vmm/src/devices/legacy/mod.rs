//! Devices at fixed ports, as PCs have had them since the eighties.

pub mod pvpanic;
pub mod serial;
pub mod watchdog;

pub use serial::Serial;
pub use watchdog::Watchdog;
