//! A KVM virtual machine monitor whose guests survive memory errors.

pub mod memory;
