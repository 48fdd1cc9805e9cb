//! The durable list of retired pages.
//!
//! ```text
//! append --encode--> blocks --two copies, one fdatasync--> acknowledged --> State
//!                                                              \--> witness (not synced)
//! open   --lock--> read --> mend what has a good copy | set aside and salvage --> Store, Recovery
//! ```
//! What is promised, byte by byte, is in `FORMAT.md`: an acknowledged entry survives power loss; any
//! damage is mended or reported, never read as an empty list; a damaged file is set aside, never
//! deleted.
//!
//! **Invariant:** nothing is applied to [`State`] before it is durable, and nothing is deleted but a
//! journal whose successor is durable. Absent: policy, clocks in the format, a second writer.

pub mod boot;

mod backend;
mod error;
mod fmpm;
mod fresh;
mod image;
mod journal;
mod list;
mod mirror;
mod reconcile;
mod recovery;
mod sound;
mod store;
mod verify;

#[cfg(test)]
mod tests;

pub use backend::efi_var::{EfiVarList, EfiVariables};
pub use backend::efivarfs;
pub use backend::erst::{ErrorRecords, ErstDevice, ErstList, RecordStore};
pub use error::StoreError;
pub use fmpm::{Crossing, CrossingReport, Package};
pub use image::{Boot, ImageList, Medium};
pub use list::{Capacity, FileList, MemoryList, PageList};
pub use mirror::{Mirror, brought_back};
pub use ras_store_format::exclusion;
pub use ras_store_format::fmpm::{Fru, FruRecord, Overflow, Poison, Rejected};
pub use ras_store_format::{
    AuditEvent, AuditKind, Change, ChangeKind, Damage, Entry, Fault, Observations, State,
    Suspended, UnknownRecord,
};
pub use reconcile::{Present, Repair, Translate, reconcile};
pub use recovery::Recovery;
pub use store::{Store, read};
pub use verify::{DamagedBlock, Part, Verdict, Verification, verify};
