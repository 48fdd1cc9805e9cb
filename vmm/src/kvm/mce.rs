//! Machine checks: the registers, and the ioctls that kvm-ioctls does not wrap.
//!
//! KVM API documentation, 4.104 `KVM_X86_GET_MCE_CAP_SUPPORTED` to 4.106 `KVM_X86_SET_MCE`.

// UNSAFETY: three ioctls with a pointer argument.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use bitfield_struct::bitfield;
use kvm_bindings::kvm_x86_mce;
use kvm_ioctls::{Kvm, VcpuFd};

/// `IA32_MCG_STATUS`.
pub const MSR_MCG_STATUS: u32 = 0x17a;
/// `IA32_MCG_CTL`.
pub const MSR_MCG_CTL: u32 = 0x17b;
/// `IA32_MC0_CTL`; each bank has CTL, STATUS, ADDR and MISC, in this order.
const MSR_MC0_CTL: u32 = 0x400;

/// Banks given to a guest. Ten, as QEMU does, so that bank 9 exists.
pub const BANKS: u8 = 10;

/// The bank in which memory errors are reported, as QEMU does.
pub const MEMORY_BANK: u8 = 9;

/// `IA32_MCi_CTL` of `bank`.
#[must_use]
pub fn msr_ctl(bank: u8) -> u32 {
    MSR_MC0_CTL + 4 * u32::from(bank)
}

/// `IA32_MCi_STATUS` of `bank`.
#[must_use]
pub fn msr_status(bank: u8) -> u32 {
    msr_ctl(bank) + 1
}

/// `IA32_MCG_CAP`. SDM vol. 3B, "IA32_MCG_CAP MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgCap {
    /// Number of banks.
    pub count: u8,
    /// `IA32_MCG_CTL` exists.
    pub ctl_p: bool,
    #[bits(15)]
    __: u16,
    /// Software error recovery: S and AR bits, action-optional errors.
    pub ser_p: bool,
    #[bits(39)]
    __: u64,
}

/// `IA32_MCG_STATUS`. SDM vol. 3B, "IA32_MCG_STATUS MSR".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct McgStatus {
    /// Execution can be restarted at the saved instruction pointer.
    pub ripv: bool,
    /// The saved instruction pointer is associated with the error.
    pub eipv: bool,
    /// A machine check is being handled; another one now means shutdown.
    pub mcip: bool,
    #[bits(61)]
    __: u64,
}

/// `IA32_MCi_STATUS`. SDM vol. 3B, "IA32_MCi_STATUS MSRs"; APM vol. 2, "MCi_STATUS", for the bits
/// only AMD defines, which Intel counts among its own.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct MciStatus {
    /// MCACOD, architectural error code.
    pub mcacod: u16,
    /// MSCOD, model-specific error code.
    pub mscod: u16,
    #[bits(6)]
    __: u8,
    /// Corrected error count (Intel).
    #[bits(5)]
    pub corrected_count: u8,
    /// The data is poisoned (AMD).
    pub poison: bool,
    /// Uncorrected, but nobody has used the data yet (AMD).
    pub deferred: bool,
    #[bits(1)]
    __: u8,
    /// Corrected by ECC (AMD).
    pub cecc: bool,
    #[bits(8)]
    __: u8,
    /// Action required (Intel).
    pub ar: bool,
    /// Signalled by a machine check (Intel).
    pub s: bool,
    /// Processor context corrupt.
    pub pcc: bool,
    /// ADDR is valid.
    pub addrv: bool,
    /// MISC is valid.
    pub miscv: bool,
    /// Reporting was enabled.
    pub en: bool,
    /// Uncorrected.
    pub uc: bool,
    /// An earlier error was overwritten.
    pub over: bool,
    /// The register holds an error.
    pub val: bool,
}

mod ioctl {
    use kvm_bindings::{KVMIO, kvm_x86_mce};
    #[allow(clippy::cast_possible_truncation, reason = "KVMIO is 0xae")]
    const TYPE: u8 = KVMIO as u8;
    nix::ioctl_read!(get_mce_cap_supported, TYPE, 0x9d, u64);
    nix::ioctl_write_ptr!(setup_mce, TYPE, 0x9c, u64);
    nix::ioctl_write_ptr!(set_mce, TYPE, 0x9e, kvm_x86_mce);
}

/// The machine-check capabilities KVM can give to a guest.
///
/// # Errors
/// KVM does not virtualise machine checks.
pub fn supported(kvm: &Kvm) -> io::Result<McgCap> {
    let mut cap = 0;
    // SAFETY: the ioctl writes one u64 through a pointer to one.
    unsafe { ioctl::get_mce_cap_supported(kvm.as_raw_fd(), &raw mut cap) }?;
    Ok(McgCap::from(cap))
}

/// Gives the vCPU its banks. Bits KVM does not support fail with `EINVAL`.
///
/// # Errors
/// As the ioctl.
pub fn setup(vcpu: &VcpuFd, cap: McgCap) -> io::Result<()> {
    // SAFETY: the ioctl reads one u64 through a pointer to one.
    unsafe { ioctl::setup_mce(vcpu.as_raw_fd(), &raw const cap.0) }?;
    Ok(())
}

/// Puts an error into a bank and, if it is uncorrected, raises #MC.
///
/// KVM also answers 0 when it drops the error (the bank's CTL is not all ones) and when it shuts the
/// vCPU down (MCIP is set, or CR4.MCE is clear): the caller looks first.
///
/// # Errors
/// As the ioctl: a bank the vCPU does not have, or a status without VAL.
pub fn set(vcpu: &VcpuFd, mce: &kvm_x86_mce) -> io::Result<()> {
    // SAFETY: the ioctl reads one kvm_x86_mce through a pointer to one.
    unsafe { ioctl::set_mce(vcpu.as_raw_fd(), &raw const *mce) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_manuals_put_them() {
        let bit = |status: MciStatus| status.0.trailing_zeros();
        assert_eq!(bit(MciStatus::new().with_val(true)), 63);
        assert_eq!(bit(MciStatus::new().with_pcc(true)), 57);
        assert_eq!(bit(MciStatus::new().with_ar(true)), 55);
        assert_eq!(bit(MciStatus::new().with_cecc(true)), 46);
        assert_eq!(bit(MciStatus::new().with_deferred(true)), 44);
        assert_eq!(bit(MciStatus::new().with_poison(true)), 43);
        assert_eq!(bit(MciStatus::new().with_corrected_count(1)), 38);
        assert_eq!(McgCap::new().with_ser_p(true).0, 1 << 24);
        assert_eq!(McgStatus::new().with_mcip(true).0, 4);
    }
}
