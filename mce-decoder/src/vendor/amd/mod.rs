//! AMD and Hygon: scalable MCA from family 17h on, a fixed set of banks before.

mod banks;
mod codes;
mod legacy;
mod smca;

use core::iter;

use ras_core::{CpuVendor, McaRegisters, SmolStr};

use self::banks::bank_type;
use crate::mca::findings::{Fact, Findings};
use crate::mca::status::{AmdMisc, AmdStatus, CpuSignature, McaConfig, McaIpid};

/// Adds what AMD's manuals say about a bank.
pub(super) fn decode(registers: &McaRegisters, findings: &mut Findings) {
    let cpu = CpuSignature::from_bits(registers.cpuid);
    findings.generation = generation(registers.vendor, cpu.family(), cpu.model());
    if is_scalable(registers) {
        smca::decode(registers, findings);
    } else if cpu.family() >= 0x0f {
        legacy::decode(registers, findings);
    }
    threshold_counter(registers, findings);
    if registers.ppin != 0 {
        findings.add("ppin", Fact::Hex(registers.ppin));
    }
}

/// What a bank belongs to, as far as the meaning of its address depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BankKind {
    /// A memory controller of family 17h and later.
    Umc,
    /// Before family 17h: a DRAM error in the northbridge bank.
    NorthbridgeDram,
    /// Before family 17h: any other error in the northbridge bank.
    Northbridge,
    /// Anything else.
    Other,
}

/// The kind of bank that `registers` of an AMD or Hygon processor are.
pub(crate) fn bank_kind(registers: &McaRegisters) -> BankKind {
    let cpu = CpuSignature::from_bits(registers.cpuid);
    if is_scalable(registers) {
        match bank_type(McaIpid::from_bits(registers.ipid), cpu) {
            Some(bank) if bank.memory.is_some() => BankKind::Umc,
            _ => BankKind::Other,
        }
    } else if cpu.family() >= 0x0f && registers.bank == legacy::NORTHBRIDGE {
        match legacy::is_dram_error(registers) {
            true => BankKind::NorthbridgeDram,
            false => BankKind::Northbridge,
        }
    } else {
        BankKind::Other
    }
}

/// Whether it is an AMD or Hygon processor, and one with scalable MCA.
fn has_scalable_mca(registers: &McaRegisters) -> bool {
    matches!(registers.vendor, CpuVendor::Amd | CpuVendor::Hygon) && is_scalable(registers)
}

/// Whether an AMD or Hygon processor has scalable MCA: family 17h and later, or, where the source left the
/// processor out, one that has an IPID register.
pub(crate) fn is_scalable(registers: &McaRegisters) -> bool {
    match CpuSignature::from_bits(registers.cpuid).family() {
        0 => registers.ipid != 0,
        family => family >= 0x17,
    }
}

/// The deferred error of a bank that holds no other: the bank as if the error were logged in
/// `MCA_STATUS`. With `MCA_CONFIG[LogDeferredInMcaStat]` clear, it is in `MCA_DESTAT` only, which
/// has the same layout.
pub(crate) fn deferred_alone(registers: &McaRegisters) -> Option<McaRegisters> {
    let alone = has_scalable_mca(registers)
        && !AmdStatus::from_bits(registers.status).val()
        && AmdStatus::from_bits(registers.destat).val();
    alone.then(|| McaRegisters {
        status: AmdStatus::from_bits(registers.destat).with_deferred(true).into_bits(),
        addr: registers.deaddr,
        destat: 0,
        deaddr: 0,
        ..registers.clone()
    })
}

/// The field-replaceable unit that firmware wrote into `MCA_SYND1` and `MCA_SYND2`, where
/// `MCA_CONFIG[McaFruTextInMca]` says so.
pub(crate) fn fru_text(registers: &McaRegisters) -> Option<SmolStr> {
    let config = McaConfig::from_bits(registers.config);
    if !has_scalable_mca(registers) || !config.fru_text_in_mca() {
        return None;
    }
    let bytes = iter::chain(registers.synd1.to_le_bytes(), registers.synd2.to_le_bytes());
    let text: SmolStr = bytes.take_while(|byte| *byte != 0).map(char::from).collect();
    let text = text.trim();
    let is_text = text.chars().all(|char| char.is_ascii_graphic() || char == ' ');
    (!text.is_empty() && is_text).then(|| SmolStr::new(text))
}

/// The name of a generation, for an AMD or Hygon family and model.
pub(crate) fn generation(vendor: CpuVendor, family: u16, model: u8) -> Option<&'static str> {
    if vendor == CpuVendor::Hygon {
        return (family == 0x18).then_some("Dhyana");
    }
    // Models: the PPRs' and revision guides' titles; see also Linux' `bsp_init_amd`.
    Some(match (family, model) {
        (0x06, _) => "K7",
        (0x0f, _) => "K8",
        (0x10, _) => "K10",
        (0x11, _) => "Griffin",
        (0x12, _) => "Llano",
        (0x14, _) => "Bobcat",
        (0x15, 0x00..=0x01) => "Bulldozer",
        (0x15, 0x02..=0x1f) => "Piledriver",
        (0x15, 0x30..=0x3f) => "Steamroller",
        (0x15, 0x60..=0x7f) => "Excavator",
        (0x16, 0x00..=0x0f) => "Jaguar",
        (0x16, 0x30..=0x3f) => "Puma",
        (0x17, 0x08 | 0x18) => "Zen+",
        (0x17, 0x00..=0x2f) => "Zen",
        (0x17, 0x30..=0x4f | 0x60..=0x7f | 0x84..=0x87 | 0x90..=0x9f | 0xa0..=0xaf) => "Zen 2",
        (0x19, 0x00..=0x0f | 0x20..=0x5f) => "Zen 3",
        (0x19, 0x10..=0x1f | 0x60..=0x7f) => "Zen 4",
        (0x19, 0x90..=0x9f) => "MI300A",
        (0x19, 0xa0..=0xaf) => "Zen 4c",
        (0x1a, 0x10..=0x1f) => "Zen 5c",
        (0x1a, 0x00..=0x0f | 0x20..=0x2f | 0x40..=0x4f | 0x60..=0x7f) => "Zen 5",
        (0x1a, 0x50..=0x5f | 0x80..=0xaf | 0xc0..=0xcf) => "Zen 6",
        _ => return None,
    })
}

/// `MCA_MISC0`, the error counter: it counts up to 0xFFF, from a start value that software chose and
/// nobody records, and is not reset by reading the bank. So it is no number of errors of this record.
fn threshold_counter(registers: &McaRegisters, findings: &mut Findings) {
    let misc = AmdMisc::from_bits(registers.misc);
    let miscv = AmdStatus::from_bits(registers.status).miscv();
    if !miscv || !misc.valid() || !misc.counter_present() {
        return;
    }
    findings.add("error_counter", Fact::Number(misc.error_count().into()));
    findings.code("threshold_interrupt", misc.interrupt_type().into(), INTERRUPT_TYPES);
    findings.add("counter_flags", Fact::Flags(misc.flags(), COUNTER_FLAGS));
}

/// `MCA_MISC0[ThresholdIntType]`, `MCA_CONFIG[DeferredIntType]`.
const INTERRUPT_TYPES: &[(u64, &str)] = &[(0, "none"), (1, "APIC"), (2, "SMI")];

/// Bits of `MCA_MISC0`.
const COUNTER_FLAGS: &[(u32, &str)] = &[
    (48, "overflow"),
    (51, "enabled"),
    (60, "interrupt_supported"),
    (61, "locked"),
    (62, "present"),
    (63, "valid"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::tests::amd;

    #[test]
    fn generations() {
        let name = |cpuid| {
            let cpu = CpuSignature::from_bits(cpuid);
            generation(CpuVendor::Amd, cpu.family(), cpu.model())
        };
        for (cpuid, expected) in [
            (0x0f51, "K8"),
            (0x60fb2, "K8"),
            (0x10_0f43, "K10"),
            (0x50_0f20, "Bobcat"),
            (0x60_0f12, "Bulldozer"),
            (0x60_0f20, "Piledriver"),
            (0x63_0f01, "Steamroller"),
            (0x66_0f51, "Excavator"),
            (0x70_0f01, "Jaguar"),
            (0x80_0f12, "Zen"),
            (0x80_0f82, "Zen+"),
            (0x83_0f10, "Zen 2"),
            (0x87_0f10, "Zen 2"),
            (0xa0_0f11, "Zen 3"),
            (0xa2_0f10, "Zen 3"),
            (0xa1_0f11, "Zen 4"),
            (0xa9_0f01, "MI300A"),
            (0xaa_0f02, "Zen 4c"),
            (0xb0_0f20, "Zen 5"),
            (0xb1_0f10, "Zen 5c"),
        ] {
            assert_eq!(name(cpuid), Some(expected), "{cpuid:#x}");
        }
        assert_eq!(name(0), None);
        assert_eq!(name(0x1a0_0f00), None, "a family of the future");
        assert_eq!(generation(CpuVendor::Hygon, 0x18, 1), Some("Dhyana"));
    }

    #[test]
    fn kinds_of_bank() {
        let kind = |cpuid, bank, ipid, status| {
            bank_kind(&McaRegisters { cpuid, bank, ipid, ..amd(status) })
        };
        let ecc = 0x9c20_4000_0000_011b;
        assert_eq!(kind(0xa0_0f11, 17, 0x96_0005_0f00, ecc), BankKind::Umc);
        assert_eq!(kind(0xb0_0f20, 17, 0x96_0005_0f00, ecc), BankKind::Umc);
        assert_eq!(kind(0xa9_0f01, 17, 0x2096_0005_0f00, ecc), BankKind::Umc);
        assert_eq!(kind(0xa0_0f11, 17, 0x1_9096_0005_0f00, ecc), BankKind::Umc);
        assert_eq!(kind(0, 17, 0x96_0005_0f00, ecc), BankKind::Umc, "IPID makes it scalable");
        assert_eq!(kind(0xa0_0f11, 4, 0, ecc), BankKind::Other);
        assert_eq!(kind(0xa0_0f11, 17, 0xa7_0011_0f00, ecc), BankKind::Other);
        let chipkill = 0x9c00_4000_0008_0a13;
        assert_eq!(kind(0x10_0f43, 4, 0, chipkill), BankKind::NorthbridgeDram);
        assert_eq!(kind(0x10_0f43, 4, 0, 0x9c00_4000_0001_0a13), BankKind::Northbridge);
        assert_eq!(kind(0x10_0f43, 2, 0, chipkill), BankKind::Other);
        assert_eq!(kind(0x20_0f31, 4, 0, chipkill), BankKind::Northbridge, "family 11h has no ECC");
        assert_eq!(kind(0x680, 4, 0, chipkill), BankKind::Other, "K7 has no northbridge bank");
    }

    #[test]
    fn the_counter_counts_what_nobody_knows() {
        let facts = |misc, status| {
            let mut findings = Findings::default();
            threshold_counter(&McaRegisters { misc, ..amd(status) }, &mut findings);
            findings.facts().to_vec()
        };
        let misc = 0xd01b_0fff_0100_0000;
        let found = facts(misc, 0x9c20_4000_0000_011b);
        assert_eq!(found.first(), Some(&("error_counter", Fact::Number(0xfff))));
        assert_eq!(found.get(1), Some(&("threshold_interrupt", Fact::Code(1, Some("APIC")))));
        assert!(found.iter().any(|(name, fact)| *name == "counter_flags"
            && matches!(fact, Fact::Flags(bits, _) if bits >> 48 & 1 == 1)));
        assert!(facts(misc, 0x9420_4000_0000_011b).is_empty(), "MISCV=0");
        assert!(facts(0x8c, 0x9c20_4000_0000_011b).is_empty(), "no counter in it");
    }

    #[test]
    fn a_deferred_error_alone_is_the_banks_error() {
        let destat = 0x9420_1000_0000_011b;
        let bank = McaRegisters { destat, deaddr: 0x1000, ..amd(0) };
        let alone = deferred_alone(&bank).unwrap();
        assert_eq!((alone.status, alone.addr), (destat, 0x1000));
        assert_eq!(deferred_alone(&McaRegisters { status: 1 << 63, ..bank.clone() }), None);
        assert_eq!(deferred_alone(&McaRegisters { cpuid: 0x10_0f43, ..bank.clone() }), None);
        assert_eq!(deferred_alone(&McaRegisters { vendor: CpuVendor::Intel, ..bank }), None);
    }

    #[test]
    fn firmware_may_name_the_module() {
        let bank = |config, synd1: &[u8; 8], synd2: &[u8; 8]| McaRegisters {
            config,
            synd1: u64::from_le_bytes(*synd1),
            synd2: u64::from_le_bytes(*synd2),
            ..amd(0)
        };
        assert_eq!(fru_text(&bank(1 << 9, b"P0_DIMM_", b"A1\0\0\0\0\0\0")).unwrap(), "P0_DIMM_A1");
        assert_eq!(fru_text(&bank(1 << 9, b"01234567", b"89abcdef")).unwrap(), "0123456789abcdef");
        assert_eq!(fru_text(&bank(0, b"P0_DIMM_", b"A1\0\0\0\0\0\0")), None);
        assert_eq!(fru_text(&bank(1 << 9, &[0; 8], &[0; 8])), None);
        assert_eq!(fru_text(&bank(1 << 9, &[0x80; 8], &[7; 8])), None, "no text");
    }
}
