//! What a PCI function is, by its class code. PCI Code and ID Assignment Specification, "Class Codes".

use alloc::borrow::Cow;

use ras_core::Value;

/// Base class and subclass in the high and the low byte, the more common ones.
const SUBCLASSES: &[(u16, &str)] = &[
    (0x0100, "SCSI controller"),
    (0x0101, "IDE controller"),
    (0x0104, "RAID controller"),
    (0x0106, "SATA controller"),
    (0x0107, "SAS controller"),
    (0x0108, "non-volatile memory controller"),
    (0x0109, "UFS controller"),
    (0x0200, "Ethernet controller"),
    (0x0207, "InfiniBand controller"),
    (0x0208, "fabric controller"),
    (0x0300, "VGA controller"),
    (0x0302, "3D controller"),
    (0x0403, "audio device"),
    (0x0500, "RAM controller"),
    (0x0501, "flash controller"),
    (0x0502, "CXL memory device"),
    (0x0600, "host bridge"),
    (0x0601, "ISA bridge"),
    (0x0604, "PCI bridge"),
    (0x0605, "PCMCIA bridge"),
    (0x0607, "CardBus bridge"),
    (0x0609, "semi-transparent PCI bridge"),
    (0x060a, "InfiniBand host bridge"),
    (0x0700, "serial controller"),
    (0x0701, "parallel port"),
    (0x0703, "modem"),
    (0x0800, "interrupt controller"),
    (0x0801, "DMA controller"),
    (0x0802, "timer"),
    (0x0803, "real-time clock"),
    (0x0804, "hot-plug controller"),
    (0x0805, "SD host controller"),
    (0x0806, "IOMMU"),
    (0x0807, "root complex event collector"),
    (0x0c00, "FireWire controller"),
    (0x0c03, "USB controller"),
    (0x0c04, "Fibre Channel controller"),
    (0x0c05, "SMBus controller"),
    (0x0c07, "IPMI interface"),
    (0x0c0a, "I3C controller"),
    (0x0c0b, "CXL fabric management interface"),
    (0x1000, "network or computing encryption controller"),
    (0x1020, "trusted platform module"),
    (0x1101, "performance counters"),
    (0x1201, "SDXI controller"),
];

/// Base classes.
const BASE_CLASSES: &[(u8, &str)] = &[
    (0x00, "device of before class codes"),
    (0x01, "mass storage controller"),
    (0x02, "network controller"),
    (0x03, "display controller"),
    (0x04, "multimedia device"),
    (0x05, "memory controller"),
    (0x06, "bridge"),
    (0x07, "communication controller"),
    (0x08, "system peripheral"),
    (0x09, "input device"),
    (0x0a, "docking station"),
    (0x0b, "processor"),
    (0x0c, "serial bus controller"),
    (0x0d, "wireless controller"),
    (0x0e, "intelligent I/O controller"),
    (0x0f, "satellite controller"),
    (0x10, "encryption controller"),
    (0x11, "signal processing controller"),
    (0x12, "processing accelerator"),
    (0x13, "non-essential instrumentation"),
    (0x40, "co-processor"),
    (0xff, "device of no defined class"),
];

/// A class code as it lies in memory: programming interface, subclass, base class.
pub(super) fn code(bytes: [u8; 3]) -> Value {
    let [interface, subclass, base] = bytes;
    let code = u32::from_be_bytes([0, base, subclass, interface]);
    let known = u16::from_be_bytes([base, subclass]);
    let subclass = SUBCLASSES.iter().find(|(code, _)| *code == known).map(|(_, name)| *name);
    let base = BASE_CLASSES.iter().find(|(code, _)| *code == base).map(|(_, name)| *name);
    Value::Code { code: code.into(), meaning: subclass.or(base).map(Cow::Borrowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subclass_else_base_class_else_nothing() {
        let meaning = |bytes| match code(bytes) {
            Value::Code { meaning, .. } => meaning,
            _ => None,
        };
        assert_eq!(meaning([0x02, 0x08, 0x01]).as_deref(), Some("non-volatile memory controller"));
        assert_eq!(meaning([0, 0x80, 0x02]).as_deref(), Some("network controller"));
        assert_eq!(meaning([0, 0, 0x77]), None);
        assert!(matches!(code([1, 2, 3]), Value::Code { code: 0x03_02_01, .. }));
    }
}
