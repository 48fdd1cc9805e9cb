//! What the guest is told about its processor: what KVM supports, with machine checks made usable.

use kvm_bindings::CpuId;
use ras_core::CpuVendor;

/// Leaf 1, EDX: machine check exception and machine check architecture.
const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;

/// Leaf 0x80000007, EBX: overflow recovery and software uncorrectable error containment. Without
/// them Linux panics on any uncorrected error, and KVM reports 0 where its own host is emulated.
const OVERFLOW_RECOV_AND_SUCCOR: u32 = 1 << 0 | 1 << 1;

/// Adapts what KVM supports to the one vCPU of a guest; returns the vendor the guest sees.
pub fn filter(cpuid: &mut CpuId) -> CpuVendor {
    let vendor = vendor(cpuid);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                // Bits 31:24 are the initial APIC ID; bits 23:16 the logical processors.
                entry.ebx = entry.ebx & 0xffff | 1 << 16;
                entry.edx |= MCE_AND_MCA;
            }
            // x2APIC ID of this processor.
            0xb | 0x1f => entry.edx = 0,
            0x8000_0007 if matches!(vendor, CpuVendor::Amd | CpuVendor::Hygon) => {
                entry.ebx |= OVERFLOW_RECOV_AND_SUCCOR;
            }
            _ => {}
        }
    }
    vendor
}

/// The vendor of leaf 0.
#[must_use]
pub fn vendor(cpuid: &CpuId) -> CpuVendor {
    let Some(leaf) = cpuid.as_slice().iter().find(|entry| entry.function == 0) else {
        return CpuVendor::Unknown(0);
    };
    let mut name = [0; 12];
    for (bytes, register) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    match &name {
        b"GenuineIntel" => CpuVendor::Intel,
        b"AuthenticAMD" => CpuVendor::Amd,
        b"HygonGenuine" => CpuVendor::Hygon,
        b"CentaurHauls" | b"  Shanghai  " => CpuVendor::Zhaoxin,
        _ => CpuVendor::Unknown(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::kvm_cpuid_entry2;

    #[test]
    fn amd_guests_can_recover() {
        let mut cpuid = CpuId::from_entries(&[
            kvm_cpuid_entry2 {
                ebx: u32::from_le_bytes(*b"Auth"),
                edx: u32::from_le_bytes(*b"enti"),
                ecx: u32::from_le_bytes(*b"cAMD"),
                ..Default::default()
            },
            kvm_cpuid_entry2 { function: 1, ebx: 0x0704_0800, ..Default::default() },
            kvm_cpuid_entry2 { function: 0x8000_0007, ..Default::default() },
        ])
        .expect("three entries fit");
        assert_eq!(filter(&mut cpuid), CpuVendor::Amd);
        let leaves = cpuid.as_slice();
        assert_eq!(leaves[1].ebx, 0x0001_0800, "APIC ID 0, one processor");
        assert_eq!(leaves[1].edx & 1 << 7, 1 << 7);
        assert_eq!(leaves[2].ebx, 3);
    }
}
