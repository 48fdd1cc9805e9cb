//! The kernel's words for a section back into the section. UEFI Specification, Appendix N.

use alloc::vec::Vec;

use ras_core::Guid;

use super::{field, guid};
use crate::text::bytes::{self, decimal, find, hex, narrow, split, whole_hex, whole_number};

/// Bytes taken from hexadecimal dumps of one section: as many as the decoder keeps of one.
const DUMP_MAX: usize = 4096;

/// Structures within one section; processors have at most a few.
const PARTS_MAX: usize = 64;

const MEMORY: Guid =
    Guid::new(0xa5bc_1114, 0x6f64, 0x4ede, [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1]);
const PCIE: Guid =
    Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35]);
const PROCESSOR: Guid =
    Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]);
const IA32: Guid =
    Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]);
const ARM: Guid =
    Guid::new(0xe19e_3d16, 0xbc11, 0x11e4, [0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0]);
const FIRMWARE: Guid =
    Guid::new(0x8121_2a96, 0x09ed, 0x4996, [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed]);

/// The section's type and body; `None` where its kind is not printed in full.
pub(super) fn section(name: &[u8], text: &[u8]) -> Option<(Guid, Vec<u8>)> {
    let fields = Fields(text);
    Some(match name {
        b"memory error" => (MEMORY, memory(fields)),
        b"PCIe error" => (PCIE, pcie(fields)),
        b"general processor error" => (PROCESSOR, processor(fields)),
        b"IA32/X64 processor error" => (IA32, ia32(fields)),
        b"ARM processor error" => (ARM, arm(fields)),
        b"Firmware Error Record Reference" => (FIRMWARE, firmware(fields)?),
        _ => return None,
    })
}

/// A section's lines.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn lines(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
    }

    /// What follows `key:`, at the start of a line or after a space.
    fn text(self, key: &str) -> Option<&'a [u8]> {
        self.lines().find_map(|line| {
            let mut from = 0;
            loop {
                let at = from + find(line.get(from..)?, key.as_bytes())?;
                let starts = at == 0 || matches!(line.get(at - 1), Some(b' '));
                let rest = line.get(at + key.len()..)?;
                if let Some(rest) = rest.strip_prefix(b":").filter(|_| starts) {
                    return Some(rest.trim_ascii_start());
                }
                from = at + 1;
            }
        })
    }

    /// The number that follows `key:`.
    fn number(self, key: &str) -> Option<u64> {
        field(self.text(key)?)
    }
}

/// A structure with validity bits that is filled field by field.
struct Body {
    bytes: Vec<u8>,
    valid: u64,
}

impl Body {
    fn new(length: usize) -> Self {
        Self { bytes: alloc::vec![0; length], valid: 0 }
    }

    /// Writes the low bytes of a value that the text gave, and marks it valid by `bit`.
    fn set(&mut self, bit: u32, at: usize, length: usize, value: Option<u64>) {
        let Some(value) = value else { return };
        self.put(at, length, value);
        self.valid |= 1 << bit;
    }

    fn put(&mut self, at: usize, length: usize, value: u64) {
        if let Some(to) = self.bytes.get_mut(at..at.saturating_add(length)) {
            to.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
    }

    fn finish(mut self, length: usize) -> Vec<u8> {
        self.put(0, length, self.valid);
        self.bytes
    }
}

fn memory(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(80);
    let number = |key| fields.number(key);
    // `error_status: 0x…`, or words and the number in parentheses.
    let status = fields.text("error_status").and_then(|text| {
        let at = find(text, b"0x")?;
        hex(text.get(at..)?).map(|(value, _)| value)
    });
    body.set(0, 8, 8, status);
    body.set(1, 16, 8, number("physical_address"));
    body.set(2, 24, 8, number("physical_address_mask"));
    for (bit, at, key) in [
        (3, 32, "node"),
        (4, 34, "card"),
        (5, 36, "module"),
        (6, 38, "bank"),
        (7, 40, "device"),
        (9, 44, "column"),
        (10, 46, "bit_position"),
        (15, 74, "rank"),
    ] {
        body.set(bit, at, 2, number(key));
    }
    let (group, address) = (number("bank_group"), number("bank_address"));
    if let (Some(group), Some(address)) = (group, address) {
        // The same field as the bank, if that is given too.
        body.set(19, 38, 2, Some((group & 0xff) << 8 | address & 0xff));
        body.valid |= 1 << 20;
    }
    let row = number("row");
    body.set(8, 42, 2, row);
    let mut extended = 0;
    if let Some(high) = row.map(|row| row >> 16 & 3).filter(|high| *high != 0) {
        extended |= high;
        body.valid |= 1 << 18;
    }
    if let Some(chip) = number("chip_id") {
        extended |= (chip & 7) << 5;
        body.valid |= 1 << 21;
    }
    body.put(73, 1, extended);
    body.set(11, 48, 8, number("requestor_id"));
    body.set(12, 56, 8, number("responder_id"));
    body.set(13, 64, 8, number("target_id"));
    body.set(14, 72, 1, number("error_type"));
    let handle = fields.text("DMI handle").and_then(hex).map(|(handle, _)| handle);
    body.set(17, 78, 2, handle);
    body.finish(8)
}

fn pcie(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(208);
    let number = |key| fields.number(key);
    body.set(0, 8, 4, number("port_type"));
    let version = fields.text("version").and_then(|text| {
        let (major, rest) = decimal(text)?;
        let (minor, _) = decimal(rest.strip_prefix(b".")?)?;
        Some((major & 0xff) << 8 | minor & 0xff)
    });
    body.set(1, 12, 2, version);
    body.set(2, 16, 2, number("command"));
    body.put(18, 2, number("status").unwrap_or(0));
    let address = fields.text("device_id").and_then(super::pci);
    if let Some(address) = address {
        body.valid |= 1 << 3;
        body.put(31, 1, address.function.into());
        body.put(32, 1, address.device.into());
        body.put(33, 2, address.segment.into());
        body.put(35, 1, address.bus.into());
        body.put(36, 1, number("secondary_bus").unwrap_or(0));
        body.put(37, 2, number("slot").unwrap_or(0) << 3);
        let vendor = fields.lines().find(|line| line.starts_with(b"vendor_id:"));
        if let Some(vendor) = vendor {
            let ids = Fields(vendor);
            body.put(24, 2, ids.number("vendor_id").unwrap_or(0));
            body.put(26, 2, ids.number("device_id").unwrap_or(0));
        }
        let class = fields.text("class_code").and_then(whole_hex);
        body.put(28, 3, class.unwrap_or(0));
    }
    let serial = fields.text("serial number").and_then(|text| {
        let (lower, upper) = split(text, b", ")?;
        Some((whole_number(upper)? & 0xffff_ffff) << 32 | whole_number(lower)? & 0xffff_ffff)
    });
    body.set(4, 40, 8, serial);
    body.set(5, 48, 2, number("secondary_status"));
    body.put(50, 2, number("control").unwrap_or(0));
    // The capability's registers, from its offset 4 on.
    const AER: usize = 112;
    const AER_VALID: u32 = 7;
    for (at, key) in [
        (4, "aer_uncor_status"),
        (8, "aer_uncor_mask"),
        (12, "aer_uncor_severity"),
        (16, "aer_cor_status"),
        (20, "aer_cor_mask"),
    ] {
        body.set(AER_VALID, AER + at, 4, number(key));
    }
    if let Some(words) = fields.text("TLP Header") {
        let words = words.split(|byte| *byte == b' ').filter_map(whole_hex).take(4);
        for (index, word) in words.enumerate() {
            body.set(AER_VALID, AER + 28 + 4 * index, 4, Some(word));
        }
    }
    body.finish(8)
}

fn processor(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(192);
    for (bit, at, length, key) in [
        (0, 8, 1, "processor_type"),
        (1, 9, 1, "processor_isa"),
        (2, 10, 1, "error_type"),
        (3, 11, 1, "operation"),
        (4, 12, 1, "flags"),
        (5, 13, 1, "level"),
        (6, 16, 8, "version_info"),
        (8, 152, 8, "processor_id"),
        (9, 160, 8, "target_address"),
        (10, 168, 8, "requestor_id"),
        (11, 176, 8, "responder_id"),
        (12, 184, 8, "IP"),
    ] {
        body.set(bit, at, length, fields.number(key));
    }
    body.finish(8)
}

/// Kinds of check information. UEFI Specification, Appendix N, "IA32/X64 Processor Error
/// Information Structure".
const IA32_CHECKS: &[(&[u8], Guid)] = &[
    (
        b"cache",
        Guid::new(0xa557_01f5, 0xe3ef, 0x43de, [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c]),
    ),
    (
        b"TLB",
        Guid::new(0xfc06_b535, 0x5e1f, 0x4562, [0x9f, 0x25, 0x0a, 0x3b, 0x9a, 0xdb, 0x63, 0xc3]),
    ),
    (
        b"bus",
        Guid::new(0x1cf3_f8b3, 0xc5b1, 0x49a2, [0xaa, 0x59, 0x5e, 0xef, 0x92, 0xff, 0xa6, 0x3c]),
    ),
    (
        b"micro",
        Guid::new(0x48ab_7f57, 0xdc34, 0x4f6c, [0xa7, 0xd3, 0xb0, 0xb5, 0xb0, 0xa7, 0x43, 0x14]),
    ),
];

/// How the kernel's names of register contexts begin, in the order of their numbers.
const IA32_CONTEXTS: &[&[u8]] = &[
    b"Unclassified",
    b"MSR",
    b"32-bit Mode Execution",
    b"64-bit Mode Execution",
    b"FXSAVE",
    b"32-bit Mode Debug",
    b"64-bit Mode Debug",
    b"Memory Mapped",
];

fn ia32(fields: Fields<'_>) -> Vec<u8> {
    let (head, rest) = parts(fields, &[b"Error Information Structure", b"Context Information"]);
    let mut body = Body::new(64);
    body.set(0, 8, 8, head.number("Local APIC_ID"));
    let cpuid = dump(head.0);
    if !cpuid.is_empty() {
        body.valid |= 1 << 1;
        cpuid
            .iter()
            .take(48)
            .enumerate()
            .for_each(|(at, byte)| body.put(16 + at, 1, (*byte).into()));
    }
    let (mut errors, mut contexts) = (0u64, 0u64);
    let mut tail = Vec::new();
    for part in rest {
        if part.0.starts_with(b"Error") {
            errors += 1;
            tail.extend(ia32_error(part));
        } else {
            contexts += 1;
            tail.extend(ia32_context(part));
        }
    }
    body.valid |= (errors & 0x3f) << 2 | (contexts & 0x3f) << 8;
    let mut bytes = body.finish(8);
    bytes.extend(tail);
    bytes
}

fn ia32_error(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(64);
    if let Some(kind) = fields.text("Error Structure Type") {
        let known = IA32_CHECKS.iter().find(|(name, _)| kind.starts_with(name));
        if let Some(kind) = known.map(|(_, guid)| *guid).or_else(|| guid(kind)) {
            kind.0.iter().enumerate().for_each(|(at, byte)| body.put(at, 1, (*byte).into()));
        }
    }
    for (bit, at, key) in [
        (0, 24, "Check Information"),
        (1, 32, "Target Identifier"),
        (2, 40, "Requestor Identifier"),
        (3, 48, "Responder Identifier"),
        (4, 56, "Instruction Pointer"),
    ] {
        body.set(bit, at, 8, fields.number(key));
    }
    body.put(16, 8, body.valid);
    body.bytes
}

fn ia32_context(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(16);
    let registers = dump(fields.0);
    let kind = fields.text("Register Context Type").unwrap_or_default();
    let kind = IA32_CONTEXTS.iter().position(|name| kind.starts_with(name));
    body.put(0, 2, kind.map_or(u64::from(u16::MAX), |kind| kind as u64));
    body.put(2, 2, registers.len() as u64);
    body.put(4, 4, fields.number("MSR Address").unwrap_or(0));
    body.put(8, 8, fields.number("MM Register Address").unwrap_or(0));
    body.bytes.extend(registers);
    body.bytes
}

/// How the kernel's names of register contexts begin, in the order of their numbers.
const ARM_CONTEXTS: &[&[u8]] = &[
    b"AArch32 general",
    b"AArch32 EL1",
    b"AArch32 EL2",
    b"AArch32 secure",
    b"AArch64 general",
    b"AArch64 EL1",
    b"AArch64 EL2",
    b"AArch64 EL3",
    b"Misc",
];

fn arm(fields: Fields<'_>) -> Vec<u8> {
    let starts: [&[u8]; 3] =
        [b"Error info structure", b"Context info structure", b"Vendor specific"];
    let (head, rest) = parts(fields, &starts);
    let mut body = Body::new(40);
    let mpidr = head.text("Multiprocessor Affinity Register (MPIDR)").and_then(hex);
    body.set(0, 16, 8, mpidr.map(|(value, _)| value));
    body.set(1, 12, 1, head.number("error affinity level"));
    body.put(24, 8, head.number("MIDR").unwrap_or(0));
    body.set(2, 32, 4, head.number("running state"));
    body.put(36, 4, head.number("Power State Coordination Interface state").unwrap_or(0));
    let (mut errors, mut contexts) = (0, 0);
    let mut tail = Vec::new();
    for part in rest {
        if part.0.starts_with(b"Error") {
            errors += 1;
            tail.extend(arm_error(part));
        } else if part.0.starts_with(b"Context") {
            contexts += 1;
            tail.extend(arm_context(part));
        } else {
            body.valid |= 1 << 3;
            tail.extend(dump(part.0));
        }
    }
    body.put(4, 2, errors);
    body.put(6, 2, contexts);
    body.put(8, 4, 40 + tail.len() as u64);
    let mut bytes = body.finish(4);
    bytes.extend(tail);
    bytes
}

fn arm_error(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(32);
    body.put(1, 1, 32);
    body.put(4, 1, fields.number("error_type").unwrap_or(0));
    body.set(0, 5, 2, fields.number("num errors").map(|errors| errors.saturating_sub(1)));
    let flags = [&b"first error"[..], b"last error", b"propagated", b"overflow"];
    let flags = flags
        .iter()
        .enumerate()
        .filter(|(_, flag)| fields.lines().any(|line| line.starts_with(flag)));
    let flags = flags.fold(0, |bits, (bit, _)| bits | 1 << bit);
    body.set(1, 7, 1, Some(flags).filter(|flags| *flags != 0));
    body.set(2, 8, 8, fields.number("error_info"));
    body.set(3, 16, 8, fields.number("virtual fault address"));
    body.set(4, 24, 8, fields.number("physical fault address"));
    body.put(2, 2, body.valid);
    body.bytes
}

fn arm_context(fields: Fields<'_>) -> Vec<u8> {
    let mut body = Body::new(8);
    let registers = dump(fields.0);
    let kind = fields.text("register context type").unwrap_or_default();
    let kind = ARM_CONTEXTS.iter().position(|name| kind.starts_with(name));
    body.put(2, 2, kind.map_or(u64::from(u16::MAX), |kind| kind as u64));
    body.put(4, 4, registers.len() as u64);
    body.bytes.extend(registers);
    body.bytes
}

/// How the kernel's names of firmware's records begin, in the order of their numbers.
const FIRMWARE_RECORDS: &[&[u8]] =
    &[b"IPF SAL", b"SOC Firmware Error Record Type1", b"SOC Firmware Error Record Type2"];

/// `None` where the kernel could not name the record: its number is not printed then.
fn firmware(fields: Fields<'_>) -> Option<Vec<u8>> {
    let name = fields.text("Firmware Error Record Type")?;
    let kind = FIRMWARE_RECORDS.iter().position(|known| name.starts_with(known))?;
    let revision = fields.number("Revision")?;
    let mut body = Body::new(8);
    body.put(0, 1, narrow(u64::try_from(kind).ok()?)?);
    body.put(1, 1, revision);
    let mut bytes = body.bytes;
    // What follows depends on the revision, and so does where the dump of the rest begins.
    let id = fields.text("Record Identifier");
    if revision != 1 {
        bytes.extend(id.and_then(whole_hex).unwrap_or(0).to_le_bytes());
    }
    if revision >= 2 {
        bytes.extend(id.and_then(guid).map_or([0; 16], |guid| guid.0));
    }
    bytes.extend(dump(fields.0));
    Some(bytes)
}

/// Splits lines before those that begin with one of `starts`: what is before the first, and the parts.
fn parts<'a>(fields: Fields<'a>, starts: &[&[u8]]) -> (Fields<'a>, Vec<Fields<'a>>) {
    let mut cuts = Vec::new();
    let mut at = 0;
    for line in fields.0.split(|byte| *byte == b'\n') {
        if cuts.len() < PARTS_MAX && starts.iter().any(|start| line.starts_with(start)) {
            cuts.push(at);
        }
        at += line.len() + 1;
    }
    let ends = cuts.iter().skip(1).copied().chain([fields.0.len()]);
    let cut = |from: usize, to: usize| Fields(fields.0.get(from..to).unwrap_or_default());
    let all: Vec<_> = cuts.iter().zip(ends).map(|(from, to)| cut(*from, to)).collect();
    (cut(0, cuts.first().copied().unwrap_or(fields.0.len())), all)
}

/// The bytes of all dump lines: `00000010: 00020002 0000001f 00000320 00000000  ........ .......`.
///
/// Groups are numbers of the machine's own order, which is little endian wherever APEI is.
pub(super) fn dump(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some((offset, groups)) = split(line, b": ") else { continue };
        if offset.trim_ascii().len() != 8 || whole_hex(offset).is_none() {
            continue;
        }
        let mut row = Vec::with_capacity(16);
        for group in groups.trim_ascii_start().split(|byte| *byte == b' ') {
            // Two spaces, and what the row looks like as text.
            let Some(value) = hex_group(group) else { break };
            let length = group.len() / 2;
            if row.len() + length > 16 {
                break;
            }
            row.extend(value.to_le_bytes().into_iter().take(length));
        }
        bytes.extend(row);
        if bytes.len() >= DUMP_MAX {
            bytes.truncate(DUMP_MAX);
            break;
        }
    }
    bytes
}

fn hex_group(group: &[u8]) -> Option<u64> {
    let sized = matches!(group.len(), 2 | 4 | 8 | 16) && group.iter().all(u8::is_ascii_hexdigit);
    sized.then(|| bytes::hex(group)).flatten().map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_of_every_group_size() {
        let text = b"00000000: 00000001 00020002  ........\n00000008: 0102 03\nCPUID Info: x\n\
                     00000010: 0000000100000002 ff  junk";
        let expected = [1, 0, 0, 0, 2, 0, 2, 0, 2, 1, 3, 2, 0, 0, 0, 1, 0, 0, 0, 0xff];
        assert_eq!(dump(text), expected);
    }

    #[test]
    fn keys_are_whole_words() {
        let fields = Fields(b"node: 0 card:1 bank_group: 5\n  bank: 3");
        assert_eq!(fields.number("bank"), Some(3));
        assert_eq!(fields.number("card"), Some(1));
        assert_eq!(fields.number("group"), None);
    }

    #[test]
    fn a_processor_s_structures_are_put_together() {
        let text =
            b"Local APIC_ID: 0x10\nCPUID Info:\n00000000: 00050654 00000000 00100800 00000000\n\
            Error Information Structure 0:\nError Structure Type: cache error\n\
            Check Information: 0x0000000000a300ff\nContext Information Structure 0:\n\
            Register Context Type: MSR Registers (Machine Check and other MSRs)\n\
            Register Array Size: 0x0010\nMSR Address: 0x00000401\nRegister Array:\n\
            00000000: 00000091 8c000040 00001000 00000000";
        let (section_type, body) = section(b"IA32/X64 processor error", text).unwrap();
        assert_eq!(section_type, IA32);
        assert_eq!(body.len(), 64 + 64 + 16 + 16);
        assert_eq!(body[..8], [0b111, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body[64..68], [0xf5, 0x01, 0x57, 0xa5]);
        assert_eq!(body[128..136], [1, 0, 16, 0, 1, 4, 0, 0]);
        assert_eq!(body[144..152], [0x91, 0, 0, 0, 0x40, 0, 0, 0x8c]);
    }
}
