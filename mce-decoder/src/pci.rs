//! What PCI Express calls its errors. PCI Express Base Specification, "Advanced Error Reporting
//! Extended Capability".

use ras_core::Severity;

/// How bad an uncorrectable error is that is not fatal, and the rule that says so.
///
/// "Non-Fatal Errors": one transaction is unreliable, the link is not. Firmware calls it *recoverable*
/// (UEFI Specification, Appendix N, "Error Severity"). No data in memory is said to be lost, so nothing is
/// there to act on before its requester does: not action optional, as it is for memory.
pub(crate) const NON_FATAL: (Severity, &str) =
    (Severity::Ucna, "firmware says recoverable: a transaction failed, the link goes on");

/// Bits of the correctable error status, mask and severity registers.
pub(crate) const AER_CORRECTABLE: &[(u32, &str)] = &[
    (0, "receiver error"),
    (6, "bad TLP"),
    (7, "bad DLLP"),
    (8, "replay number rollover"),
    (12, "replay timer timeout"),
    (13, "advisory non-fatal error"),
    (14, "corrected internal error"),
    (15, "header log overflow"),
];

/// Bits of the uncorrectable error status, mask and severity registers, and values of the first error
/// pointer. Bit 0 is undefined.
pub(crate) const AER_UNCORRECTABLE: &[(u32, &str)] = &[
    (4, "data link protocol error"),
    (5, "surprise down"),
    (12, "poisoned TLP received"),
    (13, "flow control protocol error"),
    (14, "completion timeout"),
    (15, "completer abort"),
    (16, "unexpected completion"),
    (17, "receiver overflow"),
    (18, "malformed TLP"),
    (19, "ECRC error"),
    (20, "unsupported request"),
    (21, "ACS violation"),
    (22, "uncorrectable internal error"),
    (23, "multicast blocked TLP"),
    (24, "AtomicOp egress blocked"),
    (25, "TLP prefix blocked"),
    (26, "poisoned TLP egress blocked"),
    (27, "DMWr request egress blocked"),
    (28, "IDE check failed"),
    (29, "misrouted IDE TLP"),
    (30, "PCRC check failed"),
    (31, "TLP translation egress blocked"),
];

/// The names of the bits that are set, in one line.
pub(crate) fn named(bits: u32, table: &[(u32, &str)]) -> alloc::string::String {
    let mut text = alloc::string::String::new();
    for bit in (0..32).filter(|bit| bits >> bit & 1 == 1) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        match table.iter().find(|(known, _)| *known == bit) {
            Some((_, name)) => text.push_str(name),
            None => text.push_str(&alloc::format!("bit {bit}")),
        }
    }
    text
}

/// `0000:3b:00.0`, as Linux writes it; the segment may be left out.
pub(crate) fn address(text: &str) -> Option<ras_core::PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let hex =
        |text: &str, max: u32| u32::from_str_radix(text, 16).ok().filter(|value| *value <= max);
    let device = hex(parts.next()?, 31)?;
    let bus = hex(parts.next()?, 255)?;
    let segment = parts.next().map_or(Some(0), |text| hex(text, u32::MAX))?;
    let byte = |value: u32| value.to_le_bytes()[0];
    parts.next().is_none().then_some(())?;
    Some(ras_core::PciAddress {
        segment,
        bus: byte(bus),
        device: byte(device),
        function: byte(hex(function, 7)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_as_linux_writes_them() {
        let read = |text| address(text).map(|address| address.to_string());
        assert_eq!(read("0000:3b:00.0").as_deref(), Some("0000:3b:00.0"));
        assert_eq!(read("10000:e0:1f.7").as_deref(), Some("10000:e0:1f.7"));
        assert_eq!(read("3b:00.1").as_deref(), Some("0000:3b:00.1"));
        for wrong in ["", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "a:b:c:d.e", "mem0"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bits_without_a_name_keep_their_number() {
        assert_eq!(named(1 << 6 | 1 << 1, AER_CORRECTABLE), "bit 1, bad TLP");
    }
}
