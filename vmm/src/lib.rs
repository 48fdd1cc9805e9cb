//! A KVM virtual machine monitor whose guests survive memory errors.
//!
//! ```text
//! main --config--> builder --> Vm { Machine, vCPU }      one process per guest
//!                                |
//!   control (QMP threads) -------+--> memory::ladder     the one way to retire guest memory
//!   vcpu (a thread) -------------+--> machine            RAM, devices, what is known of bad memory
//!   serve (the main thread) -----+--> poison             early notice of bad memory, signals
//! ```
//!
//! **Invariant:** guest memory is only ever touched by system calls that can fail
//! ([`memory::mapping::GuestRam`]), never by a load or a store: bad memory is an error value here.

pub mod config;
pub mod policy;

pub mod builder;
pub mod vm;

pub mod machine;
pub mod vcpu;

pub mod memory;
pub mod poison;

pub mod boot;
pub mod devices;
pub mod kvm;

pub mod control;
pub mod migrate;

/// Locks a mutex. A thread that panicked while holding it has already been reported; what it guarded
/// is changed in single steps, so the others go on.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
