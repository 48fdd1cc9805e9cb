//! The nouns of memory RAS, and the thinking about them.
//!
//! An *error* is observed ([`ErrorRecord`]); a *fault* is diagnosed ([`Fault`]); an [`Action`] is
//! planned. Three pure functions lead from one to the next:
//!
//! ```text
//! ErrorRecord --analyze--> Verdict::Fault --plan--> [Action] --(rasd acts)--> WalkOutcome --escalate--> [Action]
//! ```
//!
//! No I/O, no clock (time is an argument), no unsafe, no panic on input: the same code runs in the
//! daemon, in the offline tools, in firmware and on a management controller.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod addr;
pub mod severity;
pub mod time;

pub mod detail;
pub mod location;
pub mod machine;
pub mod record;

pub mod dedupe;
pub mod join;
pub mod serd;

pub mod diagnosis;
pub mod fault;

pub mod order;
pub mod plan;
pub mod retire;

pub mod translate;

pub use addr::{Gpa, PAGE_SHIFT, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
pub use detail::{Detail, Details, Value};
pub use diagnosis::{Diagnosis, Policy, Verdict, analyze};
pub use fault::{Fault, FaultMode};
pub use join::{Join, Joined};
pub use location::{CpuVendor, DimmLocation, Location, PciAddress};
pub use machine::{Dimm, DimmIdentity, MachineMap, MapEpoch, MapRange, Slot};
pub use plan::{
    Action, GuestOutcome, GuestResult, Health, HostOutcome, HostView, OfflineMode, WalkOutcome,
    escalate, plan,
};
pub use record::{
    AddressMode, ErrorAddress, ErrorClass, ErrorRecord, ErrorSource, Guid, McaRegisters, Problem,
    ProblemKind, Raw, RecordFlags,
};
pub use retire::{Evacuation, NodeState, RetireReason, RetireState, RetiredPage};
pub use severity::Severity;
pub use smol_str::{SmolStr, format_smolstr};
pub use time::Timestamp;
