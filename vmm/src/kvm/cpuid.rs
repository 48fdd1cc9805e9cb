//! What the guest is told about its processor: what KVM supports, with machine checks made usable.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use ras_core::CpuVendor;

/// Leaf 1, EDX: machine check exception and machine check architecture.
const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;

/// Leaf 0x80000007, EBX: overflow recovery and software uncorrectable error containment. Without
/// them Linux panics on any uncorrected error, and KVM reports 0 where its own host is emulated.
const OVERFLOW_RECOV_AND_SUCCOR: u32 = 1 << 0 | 1 << 1;

/// Adapts what KVM supports to the one vCPU of a guest.
pub fn filter(cpuid: &mut CpuId) {
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

/// Leaves of feature bits, as (leaf, subleaf, registers whose bits are features). SDM vol. 2A, CPUID;
/// APM vol. 3, appendix E.
const FEATURES: &[(u32, u32, &[Register])] = &[
    (1, 0, &[Register::Ecx, Register::Edx]),
    (7, 0, &[Register::Ebx, Register::Ecx, Register::Edx]),
    (7, 1, &[Register::Eax]),
    (0xd, 0, &[Register::Eax, Register::Edx]),
    (0xd, 1, &[Register::Eax]),
    (0x8000_0001, 0, &[Register::Ecx, Register::Edx]),
    (0x8000_0007, 0, &[Register::Ebx, Register::Edx]),
    (0x8000_0008, 0, &[Register::Ebx]),
];

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }
}

/// Leaves in which a guest that was told `wanted` would miss features where it is told `offered`.
#[must_use]
pub fn missing(wanted: &[kvm_cpuid_entry2], offered: &[kvm_cpuid_entry2]) -> Vec<u32> {
    let bits = |entries: &[kvm_cpuid_entry2], leaf, subleaf, register: Register| {
        let found = entries.iter().find(|entry| entry.function == leaf && entry.index == subleaf);
        found.map_or(0, |entry| register.of(entry))
    };
    let lacks = |&&(leaf, subleaf, registers): &&(u32, u32, &[Register])| {
        let registers: &[Register] = registers;
        registers.iter().any(|register| {
            bits(wanted, leaf, subleaf, *register) & !bits(offered, leaf, subleaf, *register) != 0
        })
    };
    FEATURES.iter().filter(lacks).map(|(leaf, ..)| *leaf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        filter(&mut cpuid);
        assert_eq!(vendor(&cpuid), CpuVendor::Amd);
        let leaves = cpuid.as_slice();
        assert_eq!(leaves[1].ebx, 0x0001_0800, "APIC ID 0, one processor");
        assert_eq!(leaves[1].edx & 1 << 7, 1 << 7);
        assert_eq!(leaves[2].ebx, 3);
    }

    #[test]
    fn a_guest_misses_what_it_was_told_and_no_more() {
        let leaf = |function, ecx| kvm_cpuid_entry2 { function, ecx, ..Default::default() };
        let small = [leaf(1, 0b01), leaf(0x8000_0001, 0b11)];
        let large = [leaf(1, 0b11), leaf(0x8000_0001, 0b11)];
        assert_eq!(missing(&small, &large), [] as [u32; 0]);
        assert_eq!(missing(&large, &small), [1]);
        assert_eq!(missing(&large, &[]), [1, 0x8000_0001]);
    }
}
