//! The on-disk format of the retired-page list. Firmware reads the same bytes: no_std, no I/O, no
//! clock, no panic on input. `persist-store/FORMAT.md` draws what the modules here declare.
//!
//! ```text
//! journal bytes --Reading::of--> records --Record::decode--> Entry --State::apply--> State
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cper;
pub mod entry;
pub mod fmpm;
pub mod image;
pub mod origin;
pub mod part;
pub mod state;

pub mod exclusion;

pub mod layout;
pub mod reading;
pub mod sound;
pub mod survey;

mod crc;
mod wire;

pub use crc::crc32c;
pub use entry::{Change, ChangeKind, Damage, EncodeError, Encoder, Entry, Record, UnknownRecord};
pub use image::{Image, ImageFault};
pub use layout::{BLOCK_SIZE, Geometry, Header, Witness};
pub use origin::Origin;
pub use part::Part;
pub use reading::{Fault, Reading, UnsupportedVersion};
pub use sound::Sound;
pub use state::{AuditEvent, AuditKind, Observations, State, Suspended};
