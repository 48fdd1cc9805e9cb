//! Scalable MCA: family 17h and later, Hygon family 18h.
//!
//! APM vol. 2, "Scalable MCA"; PPRs, "MCA Registers".

use ras_core::McaRegisters;

use super::INTERRUPT_TYPES;
use super::banks::{Memory, bank_type};
use crate::mca::findings::{Fact, Findings};
use crate::mca::status::{AmdStatus, CpuSignature, McaConfig, McaIpid, McaSynd};

pub(super) fn decode(registers: &McaRegisters, findings: &mut Findings) {
    let status = AmdStatus::from_bits(registers.status);
    let ipid = McaIpid::from_bits(registers.ipid);
    let cpu = CpuSignature::from_bits(registers.cpuid);
    let bank = bank_type(ipid, cpu);
    let code = status.error_code_ext();
    findings.add("extended_error_code", Fact::Number(code.into()));
    if let Some(bank) = bank {
        findings.unit = Some(bank.unit);
        findings.class = bank.class;
        findings.error = bank.error(code);
    }
    // Zero is a reserved type, and what sources that leave the register out give.
    if registers.ipid != 0 {
        findings.add("hardware_id", Fact::Hex(ipid.hardware_id().into()));
        findings.add("mca_type", Fact::Code(ipid.mca_type().into(), bank.map(|bank| bank.name)));
        findings.add("instance_id", Fact::Hex(ipid.instance_id().into()));
        findings.add("instance_id_hi", Fact::Number(ipid.instance_id_hi().into()));
    }
    if let Some(memory) = bank.and_then(|bank| bank.memory) {
        channel(memory, ipid, findings);
    }
    let tells_address = McaConfig::from_bits(registers.config).physical_address_supported();
    let flags = match tells_address {
        true => status.flags(),
        false => status.with_physical_address(false).flags(),
    };
    findings.add("status_flags", Fact::Flags(flags, STATUS_FLAGS));
    if status.error_core_id_val() {
        findings.add("error_core_id", Fact::Number(status.error_core_id().into()));
    }
    // A syndrome that is valid has a priority: zero means that the source left the register out.
    if status.syndv() && registers.synd != 0 {
        syndrome(McaSynd::from_bits(registers.synd), findings);
        if code == DRAM_ECC && bank.is_some_and(|bank| bank.memory == Some(Memory::Ddr)) {
            dram_ecc(McaSynd::from_bits(registers.synd), status, cpu, findings);
        }
    }
    for (name, synd) in [("synd1", registers.synd1), ("synd2", registers.synd2)] {
        if synd != 0 {
            findings.add(name, Fact::Hex(synd));
        }
    }
    config(McaConfig::from_bits(registers.config), findings);
    let deferred = AmdStatus::from_bits(registers.destat);
    if deferred.val() && !status.deferred() {
        findings.add("destat", Fact::Hex(registers.destat));
        if let Some(error) = bank.and_then(|bank| bank.error(deferred.error_code_ext())) {
            findings.add("deferred_error", Fact::Text(error));
        }
        if deferred.addrv() {
            findings.add("deaddr", Fact::Hex(registers.deaddr));
        }
    }
}

/// Which memory channel a controller's instance serves.
fn channel(memory: Memory, ipid: McaIpid, findings: &mut Findings) {
    let instance = ipid.instance_id();
    match memory {
        // Bits 31:20 number the controllers of a node.
        Memory::Ddr => findings.channel = u8::try_from(instance >> 20).ok(),
        // Two numbers in bits 31:20 go to one controller, with four channels each in bits 15:12.
        Memory::Mi200 => {
            let [half, low] = [instance >> 20, instance >> 12 & 0xf];
            findings.imc = u16::try_from(half / 2).ok();
            findings.channel = u8::try_from(low + 4 * (half % 2)).ok();
        }
        // Linux numbers these channels as the data fabric does its coherent stations.
        Memory::Mi300 => {
            let id = instance >> 12 & 0xfff;
            let [stack, middle, lane] = [id >> 8, id >> 4 & 0xf, id & 0xf];
            findings.add("umc_id", Fact::Hex(id.into()));
            findings.add("die", Fact::Number((ipid.instance_id_hi() >> 2).into()));
            if stack < 8 && middle == 9 && lane < 4 {
                let station = stack / 4 * 16 + (3 - lane) * 4 + (3 - stack % 4);
                findings.channel = u8::try_from(station).ok();
            }
        }
    }
}

/// `MCA_SYND`, the parts that all banks have.
fn syndrome(synd: McaSynd, findings: &mut Findings) {
    findings.code("syndrome_priority", synd.error_priority().into(), PRIORITIES);
    findings.code("syndrome_type", synd.syndrome_type().into(), SYNDROME_TYPES);
    findings.add("syndrome_length", Fact::Number(synd.length().into()));
    if synd.length() != 0 {
        let mask = 1u64.checked_shl(synd.length().into()).map_or(u64::MAX, |bit| bit - 1);
        findings.add("syndrome", Fact::Hex(u64::from(synd.syndrome()) & mask));
    }
    findings.add("error_information", Fact::Hex(synd.error_information().into()));
}

/// `MCA_SYND_UMC[ErrorInformation]` of a DRAM ECC error. The chip select tells ranks apart, but is
/// not a rank's number: modules with more ranks than selects encode them.
///
/// Controllers for DDR5 use the bits above it otherwise; how is not published for all of them, so
/// for those no more than the chip select is told.
fn dram_ecc(synd: McaSynd, status: AmdStatus, cpu: CpuSignature, findings: &mut Findings) {
    let information = synd.error_information();
    findings.add("chip_select", Fact::Number((information & 7).into()));
    let ddr4 = match (cpu.family(), cpu.model()) {
        (0x17 | 0x18, _) => true,
        (0x19, model) => matches!(model, 0x00..=0x0f | 0x20..=0x3f | 0x50..=0x5f),
        _ => false,
    };
    if ddr4 {
        findings.add("cid", Fact::Number((information >> 4 & 7).into()));
    }
    // A symbol is known of what could be corrected only.
    if ddr4 && !status.uc() && !status.deferred() {
        findings.add("ecc_symbol", Fact::Number((information >> 8 & 0x3f).into()));
        findings.add("symbol_flags", Fact::Flags((information & 0xc000).into(), SYMBOL_FLAGS));
    }
}

fn config(config: McaConfig, findings: &mut Findings) {
    if !config.is_known() {
        return;
    }
    findings.add("config_flags", Fact::Flags(config.flags(), CONFIG_FLAGS));
    if config.deferred_int_type_supported() {
        findings.code("deferred_interrupt", config.deferred_int_type().into(), INTERRUPT_TYPES);
    }
}

/// `ErrorCodeExt` of a DRAM ECC error in every memory controller.
const DRAM_ECC: u8 = 0;

/// Bits of `MCA_STATUS` that only AMD has.
const STATUS_FLAGS: &[(u32, &str)] = &[
    (40, "scrub"),
    (43, "poison"),
    (44, "deferred"),
    (45, "uecc"),
    (46, "cecc"),
    (52, "transparent"),
    (53, "syndv"),
    (54, "physical_address"),
    (55, "tcc"),
];

/// `MCA_SYND[ErrorPriority]`.
const PRIORITIES: &[(u64, &str)] =
    &[(0, "no error"), (2, "corrected"), (3, "deferred"), (4, "uncorrected"), (5, "fatal")];

/// `MCA_SYND[Type]`.
const SYNDROME_TYPES: &[(u64, &str)] = &[(0, "DRAM"), (1, "cache"), (2, "internal")];

/// `MCA_SYND_UMC[ErrorInformation]`, its upper bits.
const SYMBOL_FLAGS: &[(u32, &str)] = &[(14, "hardware_history"), (15, "bad_symbol_id")];

/// Bits of `MCA_CONFIG`.
const CONFIG_FLAGS: &[(u32, &str)] = &[
    (0, "mca_x"),
    (1, "transparent_logging_supported"),
    (2, "deferred_logging_supported"),
    (5, "deferred_interrupt_supported"),
    (8, "lsb_in_status"),
    (9, "fru_text_in_mca"),
    (11, "physical_address_flag"),
    (32, "mca_x_enabled"),
    (33, "transparent_logging_enabled"),
    (34, "log_deferred_in_status"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::findings::FACTS_MAX;
    use crate::mca::tests::amd;
    use ras_core::ErrorClass;

    fn found(registers: &McaRegisters) -> Findings {
        let mut findings = Findings::default();
        decode(registers, &mut findings);
        findings
    }

    fn fact(findings: &Findings, name: &str) -> Option<Fact> {
        findings.facts().iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
    }

    fn umc() -> McaRegisters {
        McaRegisters { ipid: 0x96_0015_0f00, synd: 0x4000_0a80_5133, ..amd(0x9c20_4100_0000_011b) }
    }

    #[test]
    fn a_dram_ecc_error() {
        let findings = found(&umc());
        assert_eq!(findings.unit, Some("memory controller"));
        assert_eq!(findings.error, Some("DRAM ECC error"));
        assert_eq!(findings.class, Some(ErrorClass::Memory));
        assert_eq!((findings.imc, findings.channel), (None, Some(1)));
        let is = |name, expected| assert_eq!(fact(&findings, name), Some(expected), "{name}");
        is("extended_error_code", Fact::Number(0));
        is("hardware_id", Fact::Hex(0x96));
        is("mca_type", Fact::Code(0, Some("UMC")));
        is("instance_id", Fact::Hex(0x15_0f00));
        is("syndrome_priority", Fact::Code(2, Some("corrected")));
        is("syndrome_type", Fact::Code(0, Some("DRAM")));
        is("syndrome_length", Fact::Number(32));
        is("syndrome", Fact::Hex(0x4000));
        is("chip_select", Fact::Number(3));
        is("cid", Fact::Number(3));
        is("ecc_symbol", Fact::Number(0x11));
        is("symbol_flags", Fact::Flags(1 << 14, SYMBOL_FLAGS));
        is("status_flags", Fact::Flags(1 << 40 | 1 << 46 | 1 << 53, STATUS_FLAGS));
    }

    #[test]
    fn a_syndrome_that_is_not_valid_says_nothing() {
        let findings = found(&McaRegisters { status: 0x9c00_4000_0000_011b, ..umc() });
        assert_eq!(fact(&findings, "syndrome_length"), None);
        assert_eq!(fact(&findings, "chip_select"), None);
        assert_eq!(findings.channel, Some(1), "but IPID is always valid");
        let left_out = found(&McaRegisters { synd: 0, ..umc() });
        assert_eq!(fact(&left_out, "syndrome_length"), None);
        let deferred = found(&McaRegisters { status: 0x9420_1000_0000_011b, ..umc() });
        assert_eq!(fact(&deferred, "cid"), Some(Fact::Number(3)));
        assert_eq!(fact(&deferred, "ecc_symbol"), None);
        let empty = found(&McaRegisters { synd: 0x1234_0000_0200_0003, ..umc() });
        assert_eq!(fact(&empty, "syndrome"), None, "length 0");
        assert_eq!(fact(&empty, "chip_select"), Some(Fact::Number(3)));
    }

    #[test]
    fn only_the_error_in_dram_has_a_chip_select() {
        let crc = found(&McaRegisters { status: 0x9c20_4000_0005_011b, ..umc() });
        assert_eq!(crc.error, Some("write data CRC error"));
        assert_eq!(fact(&crc, "chip_select"), None);
        let genoa = found(&McaRegisters { cpuid: 0xa1_0f11, ..umc() });
        assert_eq!(fact(&genoa, "chip_select"), Some(Fact::Number(3)));
        assert_eq!(fact(&genoa, "cid"), None, "DDR5 has other bits there");
    }

    #[test]
    fn channels_of_hbm() {
        let at = |cpuid, ipid| {
            let findings = found(&McaRegisters { cpuid, ipid, ..umc() });
            (findings.imc, findings.channel)
        };
        let mi200 = 0x0001_8096_0000_0000;
        assert_eq!(at(0xa0_0f11, mi200 | 0x0005_3f00), (Some(0), Some(3)));
        assert_eq!(at(0xa0_0f11, mi200 | 0x0015_0f00), (Some(0), Some(4)));
        assert_eq!(at(0xa0_0f11, mi200 | 0x0035_3f00), (Some(1), Some(7)));
        let mi300 = 0x0000_4096_0000_0000;
        for (id, station) in [(0x393, 0), (0x093, 3), (0x392, 4), (0x793, 16), (0x490, 31)] {
            assert_eq!(at(0xa9_0f00, mi300 | id << 12), (None, Some(station)), "{id:#x}");
        }
        assert_eq!(at(0xa9_0f00, mi300 | 0x0005_0f00), (None, None), "no such controller");
        let die = found(&McaRegisters { cpuid: 0xa9_0f00, ipid: mi300, ..umc() });
        assert_eq!(fact(&die, "die"), Some(Fact::Number(1)));
    }

    #[test]
    fn an_unknown_unit_keeps_its_numbers() {
        let findings = found(&McaRegisters { ipid: 0xa7_0011_0f00, ..umc() });
        assert_eq!((findings.unit, findings.error, findings.class), (None, None, None));
        assert_eq!(findings.channel, None);
        assert_eq!(fact(&findings, "hardware_id"), Some(Fact::Hex(0xa7)));
        assert_eq!(fact(&findings, "mca_type"), Some(Fact::Code(0, None)));
        let none = found(&McaRegisters { ipid: 0, ..umc() });
        assert_eq!((none.unit, fact(&none, "hardware_id")), (None, None));
    }

    #[test]
    fn a_deferred_error_behind_another() {
        let both = McaRegisters {
            destat: 0x9420_1000_0000_011b,
            deaddr: 0x7000,
            ..amd(0xbc20_0000_0001_011b)
        };
        let both = McaRegisters { ipid: umc().ipid, ..both };
        let findings = found(&both);
        assert_eq!(fact(&findings, "destat"), Some(Fact::Hex(both.destat)));
        assert_eq!(fact(&findings, "deaddr"), Some(Fact::Hex(0x7000)));
        assert_eq!(fact(&findings, "deferred_error"), Some(Fact::Text("DRAM ECC error")));
        let same = found(&McaRegisters { status: 0x9420_1000_0000_011b, ..both });
        assert_eq!(fact(&same, "destat"), None, "it is the error that is told already");
    }

    #[test]
    fn the_bank_s_configuration() {
        let findings = found(&McaRegisters { config: 0x25_0000_0125, ..umc() });
        let flags = 1 << 0 | 1 << 2 | 1 << 5 | 1 << 8 | 1 << 32 | 1 << 34;
        assert_eq!(fact(&findings, "config_flags"), Some(Fact::Flags(flags, CONFIG_FLAGS)));
        assert_eq!(fact(&findings, "deferred_interrupt"), Some(Fact::Code(1, Some("APIC"))));
    }

    #[test]
    fn no_fact_is_ever_left_out() {
        let richest = McaRegisters {
            config: u64::MAX,
            synd: u64::MAX,
            synd1: u64::MAX,
            synd2: u64::MAX,
            misc: u64::MAX,
            ppin: u64::MAX,
            destat: !(1 << 44),
            deaddr: u64::MAX,
            ipid: 0xffff_f096_ffff_ffff & !(0xffff << 48),
            status: !(0x3f << 16 | 1 << 44 | 1 << 61),
            ..umc()
        };
        let mut findings = Findings::default();
        super::super::decode(&richest, &mut findings);
        assert!(findings.facts().len() <= FACTS_MAX, "{}", findings.facts().len());
        assert!(findings.facts().iter().any(|(name, _)| *name == "ppin"), "the last one is there");
    }
}
