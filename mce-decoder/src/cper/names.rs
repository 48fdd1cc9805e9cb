//! Identifiers and codes that records and status blocks share, by name.

use alloc::borrow::Cow;
use alloc::format;

use ras_core::{Guid, Value};

pub(super) use crate::digits::{push_hex, push_number};

/// UEFI Specification, Appendix N, "Error Severity". The status block has the same numbers.
pub(crate) const SEVERITIES: &[(u64, &str)] =
    &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "informational")];

/// UEFI Specification, Appendix N, "Error Record Header Flags".
pub(super) const RECORD_FLAGS: &[(u32, &str)] =
    &[(0, "already recovered"), (1, "of a previous boot"), (2, "simulated")];

/// UEFI Specification, Appendix N, "Section Descriptor", Flags.
pub(super) const SECTION_FLAGS: &[(u32, &str)] = &[
    (0, "primary"),
    (1, "not contained"),
    (2, "component was reset"),
    (3, "threshold exceeded"),
    (4, "resource not accessible"),
    (5, "latent"),
    (6, "propagated"),
    (7, "overflow"),
];

/// UEFI Specification, Appendix N, "Error record header", Notification Type; the last six are
/// Windows' own, from `ntddk.h` of its driver kit.
const NOTIFICATION_TYPES: &[(Guid, &str)] = &[
    (
        Guid::new(0x2dce_8bb1, 0xbdd7, 0x450e, [0xb9, 0xad, 0x9c, 0xf4, 0xeb, 0xd4, 0xf8, 0x90]),
        "CMC: corrected machine check",
    ),
    (
        Guid::new(0x4e29_2f96, 0xd843, 0x4a55, [0xa8, 0xc2, 0xd4, 0x81, 0xf2, 0x7e, 0xbe, 0xee]),
        "CPE: corrected platform error",
    ),
    (
        Guid::new(0xe8f5_6ffe, 0x919c, 0x4cc5, [0xba, 0x88, 0x65, 0xab, 0xe1, 0x49, 0x13, 0xbb]),
        "MCE: machine check exception",
    ),
    (
        Guid::new(0xcf93_c01f, 0x1a16, 0x4dfc, [0xb8, 0xbc, 0x9c, 0x4d, 0xaf, 0x67, 0xc1, 0x04]),
        "PCIe: PCI Express",
    ),
    (
        Guid::new(0xcc52_63e8, 0x9308, 0x454a, [0x89, 0xd0, 0x34, 0x0b, 0xd3, 0x9b, 0xc9, 0x8e]),
        "INIT",
    ),
    (
        Guid::new(0x5bad_89ff, 0xb7e6, 0x42c9, [0x81, 0x4a, 0xcf, 0x24, 0x85, 0xd6, 0xe9, 0x8a]),
        "NMI: non-maskable interrupt",
    ),
    (
        Guid::new(0x3d61_a466, 0xab40, 0x409a, [0xa6, 0x98, 0xf3, 0x62, 0xd4, 0x64, 0xb3, 0x8f]),
        "boot error record",
    ),
    (
        Guid::new(0x667d_d791, 0xc6b3, 0x4c27, [0x8a, 0x6b, 0x0f, 0x8e, 0x72, 0x2d, 0xeb, 0x41]),
        "DMAr: DMA remapping",
    ),
    (
        Guid::new(0x9a78_788a, 0xbbe8, 0x11e4, [0x80, 0x9e, 0x67, 0x61, 0x1e, 0x5d, 0x46, 0xb0]),
        "SEA: synchronous external abort",
    ),
    (
        Guid::new(0x5c28_4c81, 0xb0ae, 0x4e87, [0xa3, 0x22, 0xb0, 0x4c, 0x85, 0x62, 0x43, 0x23]),
        "SEI: SError interrupt",
    ),
    (
        Guid::new(0x09a9_d5ac, 0x5204, 0x4214, [0x96, 0xe5, 0x94, 0x99, 0x2e, 0x75, 0x2b, 0xcd]),
        "PEI: platform error interrupt",
    ),
    (
        Guid::new(0x6929_3bc9, 0x41df, 0x49a3, [0xb4, 0xbd, 0x4f, 0xb0, 0xdb, 0x30, 0x41, 0xf6]),
        "CXL component",
    ),
    (
        Guid::new(0x9194_48b2, 0x3739, 0x4b7f, [0xa8, 0xf1, 0xe0, 0x06, 0x28, 0x05, 0xc2, 0xa3]),
        "CMCI: corrected machine check interrupt",
    ),
    (
        Guid::new(0x4875_65ba, 0x6494, 0x4367, [0x95, 0xca, 0x4e, 0xff, 0x89, 0x35, 0x22, 0xf6]),
        "BMC",
    ),
    (
        Guid::new(0xe9d5_9197, 0x94ee, 0x4a4f, [0x8a, 0xd8, 0x9b, 0x7d, 0x8b, 0xd9, 0x3d, 0x2e]),
        "SCI: ACPI interrupt",
    ),
    (
        Guid::new(0xfe84_086e, 0xb557, 0x43cf, [0xac, 0x1b, 0x17, 0x98, 0x2e, 0x07, 0x84, 0x70]),
        "external interrupt",
    ),
    (
        Guid::new(0x3e62_a467, 0xab40, 0x409a, [0xa6, 0x98, 0xf3, 0x62, 0xd4, 0x64, 0xb3, 0x8f]),
        "generic",
    ),
    (
        Guid::new(0x0033_f803, 0x2e70, 0x4e88, [0x99, 0x2c, 0x6f, 0x26, 0xda, 0xf3, 0xdb, 0x7a]),
        "device driver",
    ),
];

/// Writers of records that have a well-known id: Linux, `drivers/acpi/apei/erst.c` and
/// `arch/x86/kernel/cpu/mce/apei.c` (both use the one id); Windows, `cper.h` of its driver kit.
const CREATORS: &[(Guid, &str)] = &[
    (
        Guid::new(0x75a5_74e3, 0x5052, 0x4b29, [0x8a, 0x8e, 0xbe, 0x2c, 0x64, 0x90, 0xb8, 0x9d]),
        "Linux",
    ),
    (
        Guid::new(0xcf07_c4bd, 0xb789, 0x4e18, [0xb3, 0xc4, 0x1f, 0x73, 0x2c, 0xb5, 0x71, 0x31]),
        "Windows",
    ),
    (
        Guid::new(0x5721_7c8d, 0x5e66, 0x44fb, [0x80, 0x33, 0x9b, 0x74, 0xca, 0xce, 0xdf, 0x5b]),
        "Windows, default driver",
    ),
];

pub(super) fn notification_type(guid: Guid) -> Option<&'static str> {
    name(guid, NOTIFICATION_TYPES)
}

pub(super) fn creator(guid: Guid) -> Option<&'static str> {
    name(guid, CREATORS)
}

fn name(guid: Guid, table: &[(Guid, &'static str)]) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// Major in the high byte, minor in the low one. Those in use need no memory.
pub(super) fn revision(revision: u16) -> Value {
    let [minor, major] = revision.to_le_bytes();
    Value::Text(Cow::Borrowed(match (major, minor) {
        (0, 0) => "0.0",
        (1, 0) => "1.0",
        (1, 1) => "1.1",
        (2, 0) => "2.0",
        (2, 1) => "2.1",
        (3, 0) => "3.0",
        _ => return Value::from(format!("{major}.{minor}")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn revisions() {
        assert_eq!(revision(0x0201), Value::from("2.1"));
        assert_eq!(revision(0x2110), Value::from(String::from("33.16")));
    }
}
