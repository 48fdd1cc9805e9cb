//! Linux' own sections: what the kernel writes into the error record store for its next boot.
//!
//! Linux `arch/x86/kernel/cpu/mce/apei.c` and `drivers/acpi/apei/erst.c`.

use alloc::string::String;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Location, McaRegisters, Raw, Timestamp};

use super::{cut, summarize};
use crate::cper::section::Section;
use crate::layout::number_at;
use crate::mca::{self, Context, phrase};
use crate::trace::mce_record::vendor;

/// A fatal machine check, as the kernel's `struct mce`.
pub(super) const MACHINE_CHECK: Guid =
    Guid::new(0xfe08_ffbe, 0x95e4, 0x4be7, [0xbc, 0x73, 0x40, 0x96, 0x04, 0x4a, 0x38, 0xfc]);
/// The end of the kernel log, as text.
pub(super) const KERNEL_LOG: Guid =
    Guid::new(0xc197_e04e, 0xd545, 0x4a70, [0x9c, 0x17, 0xa5, 0x54, 0x94, 0x19, 0xeb, 0x12]);
/// The same, deflated.
pub(super) const KERNEL_LOG_COMPRESSED: Guid =
    Guid::new(0x4f11_8707, 0x04dd, 0x4055, [0xb5, 0xdd, 0x95, 0x6d, 0x34, 0xdd, 0xfa, 0xc6]);

/// `struct mce` before SYND and IPID came (4.10), the shortest in use.
const MCE_MIN: usize = 88;

/// The registers in a `struct mce`. It only grows: 88 bytes, 104 with `synd` and `ipid`, 112 with
/// `ppin`, 120 with `microcode`, 128 with the kernel's flags (5.8 to 6.12 and later). Fields that are
/// not there yet read as zero. `None` where not even the first form is there.
pub(crate) fn mce(bytes: &[u8]) -> Option<(McaRegisters, Context)> {
    if bytes.len() < MCE_MIN {
        return None;
    }
    let wide = |at| number_at(bytes, at, 8).unwrap_or(0);
    let word = |at| number_at(bytes, at, 4).and_then(|word| u32::try_from(word).ok()).unwrap_or(0);
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let registers = McaRegisters {
        status: wide(0),
        misc: wide(8),
        addr: wide(16),
        mcg_status: wide(24),
        ip: wide(32),
        tsc: wide(40),
        vendor: vendor(byte(56)),
        cpuid: word(60),
        cs: byte(64),
        bank: byte(65),
        apic_id: word(76),
        mcg_cap: wide(80),
        synd: wide(88),
        ipid: wide(96),
        ppin: wide(104),
        microcode: word(112),
        ..McaRegisters::default()
    };
    let context = Context {
        time: Some(wide(48)).filter(|secs| *secs != 0).map(Timestamp::from_secs),
        cpu: Some(word(68)),
        socket: Some(word(72)),
    };
    Some((registers, context))
}

pub(super) fn machine_check(section: &Section<'_>, record: &mut ErrorRecord) {
    let Some((registers, context)) = mce(section.body) else {
        return cut(section, record, "the kernel's machine check is cut");
    };
    let mut bank = mca::decode(&registers, context);
    bank.source = record.source;
    adopt(&bank, record);
    record.witnesses.push(bank);
}

/// What a machine-check bank inside of a section says, said of the section itself.
pub(super) fn adopt(bank: &ErrorRecord, record: &mut ErrorRecord) {
    record.time = bank.time.or(record.time);
    record.class = bank.class;
    record.address = bank.address;
    record.count = bank.count;
    let fru = record.location.fru.take();
    record.location = Location { fru, ..bank.location.clone() };
    // The firmware's word is the record's severity, and the summary names it once.
    record.summary = bank.summary.replacen(phrase(bank.severity), phrase(record.severity), 1);
}

pub(super) fn kernel_log(section: &Section<'_>, record: &mut ErrorRecord) {
    record.details.add("bytes", u64::try_from(section.length).unwrap_or(u64::MAX));
    record.raw = Raw::Text(String::from_utf8_lossy(section.body).into_owned());
    summarize(record, ErrorClass::Unknown, "kernel log kept at a crash".into());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec::Vec;
    use ras_core::CpuVendor;

    /// A `struct mce` of a 6.12 kernel: an Intel memory controller's fatal error.
    pub(crate) fn struct_mce() -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [0xbe00_0000_0080_0090u64, 0x8c, 0x1_2345_6000, 5, 0, 7, 1_700_000_000] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(0x606a6u32.to_le_bytes());
        bytes.extend([0x10, 9, 3, 1]);
        for word in [3u32, 1, 6] {
            bytes.extend(word.to_le_bytes());
        }
        for word in [0x0f00_0c14u64, 0, 0, 0x55, 0x0d00_03a5, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn every_length_the_structure_ever_had() {
        let bytes = struct_mce();
        assert_eq!(bytes.len(), 128);
        for length in [88, 104, 112, 120, 128] {
            let (registers, context) = mce(&bytes[..length]).unwrap();
            assert_eq!((registers.vendor, registers.cpuid), (CpuVendor::Intel, 0x606a6));
            assert_eq!((registers.bank, registers.apic_id, registers.cs), (9, 6, 0x10));
            assert_eq!(registers.mcg_cap, 0x0f00_0c14);
            assert_eq!(registers.ppin, if length >= 112 { 0x55 } else { 0 });
            assert_eq!(registers.microcode, if length >= 120 { 0x0d00_03a5 } else { 0 });
            assert_eq!((context.cpu, context.socket), (Some(3), Some(1)));
            assert_eq!(context.time, Some(Timestamp::from_secs(1_700_000_000)));
        }
        assert_eq!(mce(&bytes[..87]), None);
    }
}
