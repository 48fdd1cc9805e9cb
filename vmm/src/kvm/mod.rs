//! What kvm-ioctls leaves to its users: machine checks, CPUID, and a vCPU's state as one value.

pub mod cpuid;
pub mod mce;
pub mod slots;
pub mod state;
