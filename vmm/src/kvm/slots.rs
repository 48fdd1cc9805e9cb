//! Guest memory as KVM sees it: one slot per region, numbered in order of address.

// UNSAFETY: tells KVM where guest memory is mapped.
#![allow(unsafe_code)]

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::memory::mapping::{DirtyBitmap, GuestRam, Region, RegionKind, bytes};

/// Gives the regions of one kind to the guest. Each costs KVM a grace period: milliseconds.
///
/// # Errors
/// KVM's refusal.
pub fn map(vm: &VmFd, ram: &GuestRam, kind: RegionKind) -> Result<(), kvm_ioctls::Error> {
    set(vm, ram, |region| region.kind() == kind, 0)
}

/// Switches KVM's log of pages the guest writes on or off, in all regions.
///
/// # Errors
/// KVM's refusal.
pub fn log_dirty(vm: &VmFd, ram: &GuestRam, on: bool) -> Result<(), kvm_ioctls::Error> {
    set(vm, ram, |_| true, if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
}

/// Takes and clears KVM's log of pages the guest wrote.
///
/// # Errors
/// KVM's refusal: logging is off.
pub fn take_dirty(vm: &VmFd, ram: &GuestRam) -> Result<Vec<DirtyBitmap>, kvm_ioctls::Error> {
    (0..)
        .zip(ram.regions())
        .map(|(slot, region)| Ok((region.gpa(), vm.get_dirty_log(slot, bytes(region.size()))?)))
        .collect()
}

fn set(
    vm: &VmFd,
    ram: &GuestRam,
    which: impl Fn(&Region) -> bool,
    flags: u32,
) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0..).zip(ram.regions()).filter(|(_, region)| which(region)) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: region.gpa().0,
            memory_size: region.size(),
            userspace_addr: region.hva() as u64,
        };
        // SAFETY: the address range is a live mapping of this size that no reference points into.
        // The machine owns both `ram` and `vm` and drops `vm` first.
        unsafe { vm.set_user_memory_region(slot) }?;
    }
    Ok(())
}
