//! Zhaoxin: Intel's architecture, and model-specific codes on the KH-50000.
//!
//! Zhaoxin publishes no manual of them; the fields are those of its own patch to rasdaemon
//! (`mce-zhaoxin-kh50000.c`). Earlier models have architectural codes only.

use ras_core::{ErrorClass, McaRegisters, PciAddress};

use crate::mca::findings::{Fact, Findings, meaning};
use crate::mca::status::{CpuSignature, MciStatus};

pub(super) fn decode(registers: &McaRegisters, findings: &mut Findings) {
    let cpu = CpuSignature::from_bits(registers.cpuid);
    findings.generation = generation(cpu.family(), cpu.model());
    if (cpu.family(), cpu.model()) == KH_50000 {
        kh50000(registers, findings);
    }
    if registers.ppin != 0 {
        findings.add("ppin", Fact::Hex(registers.ppin));
    }
}

/// The name of a generation, for a Zhaoxin family and model.
pub(crate) fn generation(family: u16, model: u8) -> Option<&'static str> {
    Some(match (family, model) {
        (7, 0x1b) => "WuDaoKou",
        (7, 0x3b) => "LuJiaZui",
        (7, 0x5b) => "YongFeng",
        (7, 0x6b) => "ShiJiDaDao",
        KH_50000 => "KH-50000",
        _ => return None,
    })
}

const KH_50000: (u16, u8) = (7, 0x7b);

/// Banks of the KH-50000, and where in the status their codes are.
fn kh50000(registers: &McaRegisters, findings: &mut Findings) {
    let misc = Bits(match MciStatus::from_bits(registers.status).miscv() {
        true => registers.misc,
        false => 0,
    });
    let status = Bits(registers.status);
    let [internal, cache, bus, platform] =
        [ErrorClass::Internal, ErrorClass::Cache, ErrorClass::Bus, ErrorClass::Platform];
    let (unit, class, code, table) = match registers.bank {
        0x00 => ("core", internal, status.field(25, 29), CORE),
        0x01 => ("L2 cache (PL2)", cache, status.field(24, 25), CACHE),
        0x02 => ("PCI Express complex 0", ErrorClass::Pcie, status.field(16, 23), PCI_EXPRESS),
        0x03 => ("I/O die link (ZDI), complex 0", bus, status.field(16, 31), LINK),
        0x04 => ("voltage regulator interface (SVID) 0", platform, status.field(24, 31), SVID),
        0x05 => ("I/O die link (ZDI), complex 1", bus, status.field(16, 31), LINK),
        0x06 => ("PCI Express complex 1", ErrorClass::Pcie, status.field(16, 23), PCI_EXPRESS),
        0x07 => ("core die link (ZDI)", bus, status.field(25, 29), CORE_DIE_LINK),
        0x09..=0x10 | 0x12..=0x15 => {
            ("memory controller", ErrorClass::Memory, status.field(16, 31), MEMORY)
        }
        0x11 => ("last-level cache", cache, status.field(25, 26), CACHE),
        0x16 => ("voltage regulator interface (SVID) 2", platform, status.field(24, 31), SVID),
        0x1a => ("processor interconnect (ZPI)", bus, status.field(16, 31), LINK),
        0x1b => ("voltage regulator interface (SVID) 1", platform, status.field(24, 31), SVID),
        0x1c => ("host interface (HIF) 0", bus, status.field(16, 23), HOST_INTERFACE),
        0x1d => ("host interface (HIF) 1", bus, status.field(16, 23), HOST_INTERFACE),
        0x1e => ("host interface (HIF) 2", bus, status.field(16, 23), HOST_INTERFACE),
        0x1f => ("host interface (HIF) 3", bus, status.field(16, 23), HOST_INTERFACE),
        _ => return,
    };
    findings.unit = Some(unit);
    findings.class = Some(class);
    findings.error = meaning(table, code);
    findings.code("model_code", code, table);
    match registers.bank {
        0x00 | 0x07 | 0x11 => {
            findings.add("siod_id", Fact::Number(status.field(23, 24)));
            findings.add("ccd_id", Fact::Number(status.field(19, 22)));
            findings.add("core_id", Fact::Number(status.field(16, 18)));
        }
        _ if misc.0 == 0 && class != ErrorClass::Memory => {}
        0x02 | 0x06 => findings.pci = Some(function(misc)),
        0x03 | 0x05 => link(misc.field(25, 30), findings),
        0x1a => link(misc.field(25, 27), findings),
        0x04 | 0x16 | 0x1b => findings.add("regulator", Fact::Number(misc.field(24, 25))),
        _ if class == ErrorClass::Memory => memory(status, misc, findings),
        _ => {}
    }
}

/// The function that a PCI Express error is about.
fn function(misc: Bits) -> PciAddress {
    PciAddress {
        segment: misc.byte(32).into(),
        bus: misc.byte(24),
        device: misc.byte(19) & 0x1f,
        function: misc.byte(16) & 7,
    }
}

/// Links are told by one bit each.
fn link(links: u64, findings: &mut Findings) {
    match links.count_ones() {
        0 => {}
        1 => findings.add("link", Fact::Number(links.trailing_zeros().into())),
        _ => findings.add("links", Fact::Hex(links)),
    }
}

/// A memory controller's architectural code names the channel, and here a few more operations.
fn memory(status: Bits, misc: Bits, findings: &mut Findings) {
    match status.field(0, 15) {
        1 => findings.add("mca_error", Fact::Text("address decoding (DVAD)")),
        5 => findings.add("mca_error", Fact::Text("parity")),
        code if code & 1 << 7 != 0 => {
            let operation = code >> 4 & 7;
            findings.code("operation", operation, OPERATIONS);
            findings.code("channel_name", code & 15, CHANNELS);
            if operation > 4 {
                findings.error = findings.error.or(meaning(OPERATIONS, operation));
            }
        }
        _ => {}
    }
    if misc.0 != 0 {
        findings.dimm.rank = u16::try_from(misc.field(25, 26)).ok();
        findings.add("single_bit_syndrome", Fact::Hex(misc.field(9, 16)));
        findings.add("crc_parity_log", Fact::Hex(misc.field(31, 63)));
    }
}

/// A register whose fields are named by their first and last bits.
#[derive(Clone, Copy)]
struct Bits(u64);

impl Bits {
    const fn field(self, first: u32, last: u32) -> u64 {
        self.0 << (63 - last) >> (63 - last + first)
    }

    /// Eight bits from `first` on.
    const fn byte(self, first: u32) -> u8 {
        self.field(first, first + 7).to_le_bytes()[0]
    }
}

const CORE: &[(u64, &str)] = &[(2, "machine hangs"), (3, "undefined microcode address")];

const CACHE: &[(u64, &str)] = &[
    (1, "single-bit ECC errors in one line"),
    (2, "single-bit ECC errors in different lines"),
    (3, "multi-bit ECC error"),
];

const PCI_EXPRESS: &[(u64, &str)] = &[
    (0, "fatal PCI Express error"),
    (1, "non-fatal PCI Express error"),
    (2, "correctable PCI Express error"),
];

const LINK: &[(u64, &str)] = &[
    (1, "receiver overflow (transaction layer)"),
    (2, "flow control protocol error (transaction layer)"),
    (3, "link went down by surprise"),
    (4, "protocol error (data link layer)"),
    (5, "replay timed out (data link layer)"),
    (6, "replay number rolled over (data link layer)"),
    (7, "bad data link layer packet"),
    (8, "bad transaction layer packet (data link layer)"),
    (9, "receiver error (physical layer)"),
    (10, "training error (physical layer)"),
    (11, "link unreliable, width reduced"),
    (14, "link unreliable, speed reduced"),
    (16, "link unreliable, width reduced: x32 or x24"),
    (17, "link unreliable, width reduced: x16 or x12"),
    (18, "link unreliable, width reduced: x8"),
    (19, "link unreliable, width reduced: x4"),
    (20, "link unreliable, width reduced: x2"),
    (21, "link unreliable, speed reduced: generation 4"),
    (22, "link unreliable, speed reduced: generation 3"),
    (23, "link unreliable, speed reduced: generation 2"),
];

const CORE_DIE_LINK: &[(u64, &str)] = &[
    (1, "receiver overflow"),
    (2, "training error (physical layer)"),
    (3, "flow control protocol error"),
    (4, "link went down by surprise"),
    (5, "protocol error (data link layer)"),
    (6, "replay timed out (data link layer)"),
    (7, "replay number rolled over (data link layer)"),
    (8, "bad data link layer packet"),
    (9, "bad transaction layer packet"),
    (10, "link unreliable at generation 2"),
    (11, "link unreliable at generation 3"),
    (12, "link unreliable at generation 4"),
    (13, "link unreliable at x2"),
    (14, "link unreliable at x4"),
    (15, "link unreliable at x8"),
    (16, "link unreliable at x16 or x12"),
    (17, "link unreliable at x32 or x24"),
];

const SVID: &[(u64, &str)] = &[
    (1, "resending failed"),
    (2, "regulator over current"),
    (3, "regulator over temperature"),
    (4, "regulator parity error"),
];

const MEMORY: &[(u64, &str)] = &[
    (1, "single-bit ECC error"),
    (2, "multi-bit ECC error"),
    (3, "command parity error"),
    (4, "CRC error"),
    (5, "parity error, retry failed"),
    (6, "CRC error, retry failed"),
    (7, "CPU interface, channel A0: address decoding (DVAD) error"),
    (8, "CPU interface, channel B0: address decoding (DVAD) error"),
    (9, "CPU interface, channel A1: address decoding (DVAD) error"),
    (10, "CPU interface, channel B1: address decoding (DVAD) error"),
    (11, "MCUTRF: address decoding (DVAD) error"),
    (12, "GMINT, channel A0: address decoding (DVAD) error"),
    (13, "GMINT, channel B0: address decoding (DVAD) error"),
    (14, "GMINT, channel A1: address decoding (DVAD) error"),
    (15, "GMINT, channel B1: address decoding (DVAD) error"),
    (16, "encryption key missed"),
];

const HOST_INTERFACE: &[(u64, &str)] = &[
    (1, "address decoding (DVAD) error"),
    (2, "multi-bit ECC error in the SNT"),
    (3, "single-bit ECC error in the SNT"),
    (4, "CXL poison, uncorrected"),
    (5, "CXL poison, corrected"),
    (6, "CXL parity error"),
];

/// MMM of the architectural code; from 5 on Zhaoxin's own.
const OPERATIONS: &[(u64, &str)] = &[
    (0, "undefined"),
    (1, "read"),
    (2, "write"),
    (3, "address or command"),
    (4, "scrub"),
    (5, "poisoned data, found by a normal read"),
    (6, "poisoned data, found by a patrol read"),
    (7, "encryption key hit"),
];

/// CCCC of the architectural code.
const CHANNELS: &[(u64, &str)] = &[
    (0, "A0"),
    (1, "B0"),
    (2, "A1"),
    (3, "B1"),
    (4, "C0"),
    (5, "C1"),
    (6, "A2"),
    (7, "B2"),
    (8, "C2"),
    (9, "A3"),
    (10, "B3"),
    (11, "C3"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mca::tests::intel;
    use ras_core::CpuVendor;

    fn found(bank: u8, status: u64, misc: u64) -> Findings {
        let mut findings = Findings::default();
        let cpuid = 0x7_07b0;
        let vendor = CpuVendor::Zhaoxin;
        decode(&McaRegisters { vendor, cpuid, bank, misc, ..intel(status) }, &mut findings);
        findings
    }

    fn fact(findings: &Findings, name: &str) -> Option<Fact> {
        findings.facts().iter().find(|(known, _)| *known == name).map(|(_, fact)| *fact)
    }

    #[test]
    fn fields() {
        assert_eq!(Bits(0xff).field(4, 5), 3);
        assert_eq!(Bits(u64::MAX).field(0, 63), u64::MAX);
        assert_eq!(Bits(0xa5 << 56).byte(56), 0xa5);
    }

    #[test]
    fn a_core_names_its_die() {
        let findings = found(0, 0x8c00_0040_051a_0005, 0);
        assert_eq!(findings.generation, Some("KH-50000"));
        assert_eq!((findings.unit, findings.error), (Some("core"), Some("machine hangs")));
        assert_eq!(fact(&findings, "siod_id"), Some(Fact::Number(2)));
        assert_eq!(fact(&findings, "ccd_id"), Some(Fact::Number(3)));
        assert_eq!(fact(&findings, "core_id"), Some(Fact::Number(2)));
    }

    #[test]
    fn caches_differ_in_where_their_code_is() {
        assert_eq!(found(1, 0x8c00_0040_0300_0145, 0).error, Some("multi-bit ECC error"));
        let llc = found(0x11, 0x8c00_0040_0300_0145, 0);
        assert_eq!(llc.error, Some("single-bit ECC errors in one line"));
        assert_eq!(llc.class, Some(ErrorClass::Cache));
    }

    #[test]
    fn a_pci_express_error_names_its_function() {
        let findings = found(2, 0x8c00_0040_0001_0005, 0x01_3b_2a_00_00);
        assert_eq!(findings.error, Some("non-fatal PCI Express error"));
        let pci = PciAddress { segment: 1, bus: 0x3b, device: 5, function: 2 };
        assert_eq!(findings.pci, Some(pci));
        assert_eq!(found(6, 0x8400_0040_0001_0005, 0x01_3b_2a_00_00).pci, None, "MISCV=0");
    }

    #[test]
    fn links() {
        let findings = found(3, 0x8c00_0040_0003_0005, 1 << 28);
        assert_eq!(findings.error, Some("link went down by surprise"));
        assert_eq!(fact(&findings, "link"), Some(Fact::Number(3)));
        let two = found(0x1a, 0x8c00_0040_0003_0005, 5 << 25);
        assert_eq!(fact(&two, "links"), Some(Fact::Hex(5)));
        let core_die = found(7, 0x8c00_0040_0203_0005, 0);
        assert_eq!(core_die.error, Some("receiver overflow"));
    }

    #[test]
    fn a_memory_controller() {
        let misc = 7 << 31 | 2 << 25 | 0x5a << 9 | 0x8c;
        let findings = found(9, 0x8c00_0040_0001_0096, misc);
        assert_eq!(findings.error, Some("single-bit ECC error"));
        assert_eq!(findings.dimm.rank, Some(2));
        assert_eq!(fact(&findings, "operation"), Some(Fact::Code(1, Some("read"))));
        assert_eq!(fact(&findings, "channel_name"), Some(Fact::Code(6, Some("A2"))));
        assert_eq!(fact(&findings, "single_bit_syndrome"), Some(Fact::Hex(0x5a)));
        assert_eq!(fact(&findings, "crc_parity_log"), Some(Fact::Hex(7)));
        let poison = found(0x15, 0x8400_0040_0000_00e1, misc);
        assert_eq!(poison.error, Some("poisoned data, found by a patrol read"));
        assert_eq!(poison.dimm.rank, None, "MISCV=0");
    }

    #[test]
    fn what_is_not_known_stays_unknown() {
        let reserved = found(8, 0x8c00_0040_0001_0005, 0);
        assert_eq!((reserved.unit, reserved.error), (None, None));
        let code = found(0, 0x8c00_0040_3e00_0005, 0);
        assert_eq!((code.unit, code.error), (Some("core"), None));
        assert_eq!(fact(&code, "model_code"), Some(Fact::Code(31, None)));
        let mut findings = Findings::default();
        decode(&McaRegisters { cpuid: 0x5_07b0, ..intel(0x8c00_0040_0001_0005) }, &mut findings);
        assert_eq!((findings.generation, findings.unit), (Some("YongFeng"), None));
    }
}
