//! Machine-check banks among a context's machine-specific registers.
//!
//! SDM vol. 4, "Architectural MSRs": `IA32_MCG_*` from 0x179, four registers a bank from 0x400. AMD's
//! PPR, "MCA MSRs": sixteen registers a bank from 0xc0002000. Firmware names the first register and
//! gives as many as it likes, often beginning with a bank's status.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use ras_core::{CpuVendor, ErrorClass, ErrorRecord, McaRegisters};

use crate::cper::section::Section;
use crate::mca::status::{CpuSignature, MciStatus};
use crate::mca::{self, phrase};

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
/// Banks 0 to 31; from 0x480 on there are other registers.
const BANKS: core::ops::Range<u32> = 0x400..0x480;
/// Banks 0 to 255, more than any processor has.
const SMCA_BANKS: core::ops::Range<u32> = 0xc000_2000..0xc000_3000;

/// What was found: at most one entry a bank, so at most 288.
#[derive(Default)]
pub(super) struct Banks {
    banks: BTreeMap<u8, McaRegisters>,
    mcg_cap: u64,
    mcg_status: u64,
    is_smca: bool,
}

impl Banks {
    /// Takes a register that belongs to the machine-check architecture.
    pub(super) fn take(&mut self, msr: u32, value: u64) {
        if BANKS.contains(&msr) {
            let index = msr - BANKS.start;
            let registers = self.bank(index / 4);
            match index % 4 {
                1 => registers.status = value,
                2 => registers.addr = value,
                3 => registers.misc = value,
                _ => {}
            }
        } else if SMCA_BANKS.contains(&msr) {
            self.is_smca = true;
            let index = msr - SMCA_BANKS.start;
            let registers = self.bank(index / 16);
            match index % 16 {
                1 => registers.status = value,
                2 => registers.addr = value,
                3 => registers.misc = value,
                4 => registers.config = value,
                5 => registers.ipid = value,
                6 => registers.synd = value,
                8 => registers.destat = value,
                9 => registers.deaddr = value,
                14 => registers.synd1 = value,
                15 => registers.synd2 = value,
                _ => {}
            }
        } else if msr == MCG_CAP {
            self.mcg_cap = value;
        } else if msr == MCG_STATUS {
            self.mcg_status = value;
        }
    }

    fn bank(&mut self, bank: u32) -> &mut McaRegisters {
        let bank = bank.to_le_bytes()[0];
        let empty = || McaRegisters { bank, ..McaRegisters::default() };
        self.banks.entry(bank).or_insert_with(empty)
    }

    /// The banks that hold an error, decoded.
    pub(super) fn witnesses(
        self,
        section: &Section<'_>,
        cpuid: u32,
        apic_id: u32,
    ) -> Vec<ErrorRecord> {
        let Self { banks, mcg_cap, mcg_status, is_smca } = self;
        let vendor = vendor(cpuid, is_smca);
        let holds_error = |status| MciStatus::from_bits(status).val();
        let banks = banks.into_values();
        banks
            .filter(|bank| holds_error(bank.status) || holds_error(bank.destat))
            .map(|bank| McaRegisters { vendor, cpuid, mcg_cap, mcg_status, apic_id, ..bank })
            .map(|registers| {
                let context = mca::Context { time: section.time, ..mca::Context::default() };
                let mut record = mca::decode(&registers, context);
                record.source = section.source;
                for problem in &mut record.problems {
                    problem.offset = problem.offset.saturating_add(section.offset as u64);
                }
                record
            })
            .collect()
    }
}

/// The processor's maker, as far as the section tells. It has no name of it: CPUID leaf 1 only has
/// numbers, and makers have used the same ones.
fn vendor(cpuid: u32, is_smca: bool) -> CpuVendor {
    let signature = CpuSignature::from_bits(cpuid);
    match (signature.family(), signature.model()) {
        (0x18, _) => CpuVendor::Hygon,
        // Only they have scalable banks.
        _ if is_smca => CpuVendor::Amd,
        (0x10 | 0x11 | 0x14..=0x17 | 0x19 | 0x1a, _) => CpuVendor::Amd,
        // VIA's and Zhaoxin's family 6, and AMD's K7, are below 0x10 or one of these two.
        (6, 0x19 | 0x1f) => CpuVendor::default(),
        (6, 0x10..) | (0x13, _) => CpuVendor::Intel,
        (7, _) => CpuVendor::Zhaoxin,
        // 0x0f is Intel's NetBurst or AMD's K8, 0x12 is AMD's Llano or a later Intel.
        _ => CpuVendor::default(),
    }
}

/// What a bank says is more than what the section's own fields say: the worst one names the class,
/// the place and, where it has a better one, the address. The severity stays firmware's.
pub(super) fn improve(record: &mut ErrorRecord) {
    let Some(worst) = record
        .witnesses
        .iter()
        .reduce(|worst, other| if other.severity > worst.severity { other } else { worst })
    else {
        return;
    };
    if worst.class != ErrorClass::Unknown {
        record.class = worst.class;
    }
    record.address = worst.address.or(record.address);
    record.location.imc = worst.location.imc;
    record.location.channel = worst.location.channel;
    record.location.dimm = worst.location.dimm;
    record.summary = format!("{}; firmware calls it {}", worst.summary, phrase(record.severity));
}

/// Registers are widened to 64 bits.
pub(super) fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers() {
        assert_eq!(vendor(0x606a6, false), CpuVendor::Intel);
        assert_eq!(vendor(0xa0_0f11, false), CpuVendor::Amd);
        assert_eq!(vendor(0x90_0f22, true), CpuVendor::Hygon);
        assert_eq!(vendor(0, true), CpuVendor::Amd);
        assert_eq!(vendor(0x2_06f1, false), CpuVendor::Intel);
        assert_eq!(vendor(0x706b0, false), CpuVendor::Intel);
        assert_eq!(vendor(0x30_0f10, false), CpuVendor::default(), "Llano or a later Intel");
        assert_eq!(vendor(0xf41, false), CpuVendor::default(), "NetBurst or K8");
        assert_eq!(vendor(0, false), CpuVendor::default());
    }
}
