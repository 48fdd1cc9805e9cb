//! CPER records for the bench, made here from the specification's layouts: nobody's examples.
//! UEFI Specification, Appendix N.

use ras_core::Guid;

use super::random::Random;

const PROCESSOR_GENERIC: Guid =
    Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]);
const IA32_X64: Guid =
    Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]);
const ARM: Guid =
    Guid::new(0xe19e_3d16, 0xbc11, 0x11e4, [0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0]);
const MEMORY: Guid =
    Guid::new(0xa5bc_1114, 0x6f64, 0x4ede, [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1]);
const MEMORY_2: Guid =
    Guid::new(0x61ec_04fc, 0x48e6, 0xd813, [0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12]);
const PCIE: Guid =
    Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35]);
const PCI_BUS: Guid =
    Guid::new(0xc575_3963, 0x3b84, 0x4095, [0xbf, 0x78, 0xed, 0xda, 0xd3, 0xf9, 0xc9, 0xdd]);
const FIRMWARE: Guid =
    Guid::new(0x8121_2a96, 0x09ed, 0x4996, [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed]);
const DMAR_GENERIC: Guid =
    Guid::new(0x5b51_fef7, 0xc79d, 0x4434, [0x8f, 0x1b, 0xaa, 0x62, 0xde, 0x3e, 0x2c, 0x64]);

/// In an IA32/X64 error information structure: a cache check.
const CACHE_CHECK: Guid =
    Guid::new(0xa557_01f5, 0xe3ef, 0x43de, [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c]);

/// What told the operating system: corrected machine check.
const NOTIFICATION_CMC: Guid =
    Guid::new(0x2dce_8bb1, 0xbdd7, 0x450e, [0xb9, 0xad, 0x9c, 0xf4, 0xeb, 0xd4, 0xf8, 0x90]);

/// `count` records one after another, the section types in turn and two sections in every ninth.
pub(super) fn mix(count: usize) -> Vec<u8> {
    let makers: [fn(&mut Random) -> Section; 9] =
        [memory, processor_generic, ia32_x64, pcie, memory_2, arm, pci_bus, dmar_generic, firmware];
    let mut random = Random::new(0x6370_6572);
    let mut stream = Vec::new();
    for (number, maker) in makers.iter().cycle().take(count).enumerate() {
        let mut sections = vec![maker(&mut random)];
        if number % 9 == 3 {
            sections.push(memory(&mut random));
        }
        record(number as u64, &sections, &mut stream);
    }
    stream
}

/// `count` records with one memory section each.
pub(super) fn memory_only(count: usize) -> Vec<u8> {
    let mut random = Random::new(0x6d65_6d20);
    let mut stream = Vec::new();
    for number in 0..count as u64 {
        let section = memory(&mut random);
        record(number, &[section], &mut stream);
    }
    stream
}

struct Section {
    of: Guid,
    body: Bytes,
}

/// Little-endian fields, one after another.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn guid(mut self, value: Guid) -> Self {
        self.0.extend(value.0);
        self
    }

    /// `text` in a field of `size` bytes.
    fn text(mut self, text: &str, size: usize) -> Self {
        let end = self.0.len() + size;
        self.0.extend(text.bytes().take(size));
        self.0.resize(end, 0);
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

const HEADER: usize = 128;
const DESCRIPTOR: usize = 72;

fn record(id: u64, sections: &[Section], stream: &mut Vec<u8>) {
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let bodies: usize = sections.iter().map(|section| section.body.0.len()).sum();
    let mut offset = HEADER + DESCRIPTOR * sections.len();
    let mut head = Bytes::default()
        .u32(u32::from_le_bytes(*b"CPER"))
        .u16(0x0101)
        .u32(u32::MAX)
        .u16(u16::try_from(sections.len()).unwrap_or(u16::MAX))
        // Corrected; platform id and time are valid.
        .u32(2)
        .u32(3)
        .u32(size(offset + bodies))
        // 2024-02-29 23:59:58, precise, in BCD.
        .u64(0x2024_0229_0123_5958)
        .guid(Guid::new(0x5241_4d50, 0, 1, [8; 8]))
        .zeros(16)
        .guid(Guid::new(0x5241_4d50, 0, 2, [9; 8]))
        .guid(NOTIFICATION_CMC)
        .u64(id)
        .zeros(4 + 8 + 12);
    for section in sections {
        head = head
            .u32(size(offset))
            .u32(size(section.body.0.len()))
            .u16(0x0300)
            // The unit's text is valid; the section is the primary one.
            .u8(2)
            .u8(0)
            .u32(1)
            .guid(section.of)
            .zeros(16)
            .u32(2)
            .text("DIMM_A1", 20);
        offset += section.body.0.len();
    }
    stream.extend(head.0);
    for section in sections {
        stream.extend(&section.body.0);
    }
}

fn address(random: &mut Random) -> u64 {
    0x1_0000_0000 + (random.below(1 << 20) << 12)
}

fn small(random: &mut Random, limit: u16) -> u16 {
    u16::try_from(random.below(limit.into())).unwrap_or(0)
}

fn word(random: &mut Random) -> u32 {
    u32::try_from(random.below(1 << 32)).unwrap_or(0)
}

/// N.2.5, with every field but the bit position and the ids valid.
fn memory(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u64(0x3_c0ff)
        // Error status: an error in a memory array, in the data.
        .u64(4 << 8 | 1 << 18)
        .u64(address(random))
        .u64(!0xfff)
        .u16(small(random, 4))
        .u16(small(random, 8))
        .u16(small(random, 4))
        .u16(small(random, 16))
        .u16(small(random, 16))
        .u16(small(random, 0xffff))
        .u16(small(random, 1024))
        .u16(0)
        .zeros(24)
        .u8(2)
        .u8(0)
        .u16(small(random, 4))
        .u16(0x1100)
        .u16(0x1101);
    Section { of: MEMORY, body }
}

/// N.2.6, the wider fields of its second form.
fn memory_2(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u64(0x7_c0ff)
        .u64(4 << 8 | 1 << 18)
        .u64(address(random))
        .u64(!0xfff)
        .u16(small(random, 4))
        .u16(small(random, 8))
        .u16(small(random, 4))
        .u16(small(random, 16))
        .u32(word(random) & 0xf)
        .u32(word(random) & 0x1_ffff)
        .u32(word(random) & 0x3ff)
        .u32(word(random) & 3)
        .u32(0)
        .u8(1)
        .u8(2)
        .u8(0)
        .u8(0)
        .zeros(24)
        .u32(0x1100)
        .u32(0x1101);
    Section { of: MEMORY_2, body }
}

/// N.2.4.1, all fields valid.
fn processor_generic(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u64(0x1fff)
        // x64 hardware and code; a cache error at a data read, restartable, level 2.
        .u8(0)
        .u8(2)
        .u8(1)
        .u8(1)
        .u8(1)
        .u8(2)
        .u16(0)
        .u64(0x606a6)
        .text("Processor of the bench @ 2.40GHz", 128)
        .u64(random.below(128))
        .u64(address(random))
        .u64(0)
        .u64(0)
        .u64(0xffff_ffff_8100_0000 + random.below(1 << 20));
    Section { of: PROCESSOR_GENERIC, body }
}

/// N.2.4.2: one cache check and one context with the four registers of a machine-check bank.
fn ia32_x64(random: &mut Random) -> Section {
    let bank = 9;
    let body = Bytes::default()
        // Local APIC id and CPUID are valid; one error, one context.
        .u64(1 << 8 | 1 << 2 | 3)
        .u64(random.below(128))
        .u64(0x606a6)
        .u64(0x7ffe_fbff)
        .zeros(32)
        .guid(CACHE_CHECK)
        .u64(0x1f)
        // Valid bits, a data read at level 2, corrected.
        .u64(0x00ff | 1 << 16 | 3 << 18 | 2 << 22)
        .u64(address(random))
        .u64(0)
        .u64(0)
        .u64(0xffff_ffff_8100_0000)
        // MSRs from IA32_MC9_CTL on.
        .u16(1)
        .u16(32)
        .u32(0x400 + 4 * bank)
        .u64(0)
        .u64(0xff)
        .u64(0x8c00_0040_0001_0090 | random.below(8))
        .u64(address(random))
        .u64(0x8c);
    Section { of: IA32_X64, body }
}

/// N.2.4.4: one error information structure, no context.
fn arm(random: &mut Random) -> Section {
    let length = 40 + 32;
    let body = Bytes::default()
        .u32(0xf)
        .u16(1)
        .u16(0)
        .u32(length)
        .u8(1)
        .zeros(3)
        .u64(0x8000_0000 | random.below(0x100) << 8)
        .u64(0x410f_d0c0)
        .u32(1)
        .u32(0)
        // Version, length, valid bits; a cache error, met once, first of its kind.
        .u8(0)
        .u8(32)
        .u16(0x1f)
        .u8(1 << 1)
        .u16(0)
        .u8(1)
        // Cache: valid bits, data, a read, level 1, corrected.
        .u64(0x0007 | 1 << 16 | 1 << 18 | 1 << 22)
        .u64(0xffff_0000_1234_0000)
        .u64(address(random));
    Section { of: ARM, body }
}

/// N.2.7, with a capability structure and an AER header log.
fn pcie(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u64(0xff)
        // Root port, PCIe 1.16, command and status.
        .u32(4)
        .u32(0x0101)
        .u32(0x0010_0547)
        .zeros(4)
        .u16(0x8086)
        .u16(0x347a)
        .u8(0)
        .u8(4)
        .u8(6)
        .u8(0)
        .u8(2)
        .u16(0)
        .u8(u8::try_from(random.below(256)).unwrap_or(0))
        .u8(1)
        .u16(8)
        .u8(0)
        .u64(random.next())
        .u32(0x0000_0013)
        // Capability: a root port of version 2.
        .u32(0x0142_0010)
        .u64(random.next())
        .zeros(60 - 12)
        // AER: header, uncorrectable status, mask, severity, correctable status, mask, control.
        .u32(0x1482_0001)
        .u32(0)
        .u32(0)
        .u32(0x0046_2030)
        .u32(1 << random.pick(&[0_u32, 6, 7, 8, 12, 13]))
        .u32(0x2000)
        .u32(0xa0)
        .u64(random.next())
        .u64(random.next())
        .zeros(96 - 44);
    Section { of: PCIE, body }
}

/// N.2.8, all fields valid.
fn pci_bus(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u64(0x1ff)
        .u64(16 << 8 | 1 << 16)
        .u16(1)
        .u16(small(random, 256))
        .u32(0)
        .u64(address(random))
        .u64(random.next())
        .u64(0)
        .u64(random.below(0x1_0000))
        .u64(random.below(0x1_0000))
        .u64(0);
    Section { of: PCI_BUS, body }
}

/// N.2.10, revision 2: an error named by a GUID.
fn firmware(random: &mut Random) -> Section {
    let body =
        Bytes::default().u8(2).u8(2).zeros(6).u64(0).u64(random.next()).u64(0x0123_4567_89ab_cdef);
    Section { of: FIRMWARE, body }
}

/// N.2.11.1.
fn dmar_generic(random: &mut Random) -> Section {
    let body = Bytes::default()
        .u16(small(random, 0xffff))
        .u16(0)
        .u8(u8::try_from(1 + random.below(10)).unwrap_or(1))
        .u8(1)
        .u8(1)
        .u8(1)
        .u64(address(random))
        .zeros(16);
    Section { of: DMAR_GENERIC, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths of the records in a stream, by their headers.
    fn lengths(mut stream: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !stream.is_empty() {
            assert_eq!(&stream[..4], b"CPER");
            let length = u32::from_le_bytes(stream[20..24].try_into().unwrap()) as usize;
            lengths.push(length);
            stream = &stream[length..];
        }
        lengths
    }

    #[test]
    fn records_follow_one_another() {
        assert_eq!(lengths(&mix(100)).len(), 100);
        assert_eq!(lengths(&memory_only(10)), [HEADER + DESCRIPTOR + 80; 10]);
        assert_eq!(mix(50), mix(50), "the same at every run");
    }

    #[test]
    fn sections_have_the_specifications_sizes() {
        let mut random = Random::new(1);
        let sizes: Vec<usize> = [
            memory,
            memory_2,
            processor_generic,
            ia32_x64,
            arm,
            pcie,
            pci_bus,
            firmware,
            dmar_generic,
        ]
        .iter()
        .map(|maker| maker(&mut random).body.0.len())
        .collect();
        assert_eq!(sizes, [80, 96, 192, 64 + 64 + 16 + 32, 72, 208, 72, 32, 32]);
    }
}
