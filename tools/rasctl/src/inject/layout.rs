//! Bodies of sections as tables: where each member lies and which bit says that it is valid.

use ras_core::Guid;
use serde_json::Value;

use super::InjectError;
use super::describe::{Mce, Members};

/// One kind of section. UEFI Specification, Appendix N.
pub(super) struct Body {
    pub(super) name: &'static str,
    pub(super) section_type: Guid,
    size: usize,
    /// Numbers that are always there.
    fixed: &'static [(usize, usize, u64)],
    slots: &'static [Slot],
}

/// One member.
struct Slot {
    name: &'static str,
    at: usize,
    size: usize,
    what: What,
    /// Offset of the validation bits, and the bit.
    valid: Option<(usize, u32)>,
}

#[derive(Clone, Copy)]
enum What {
    Number,
    /// From this bit on, so many.
    Bits(u32, u32),
    Text,
    Bytes,
    Guid,
}

const fn number(name: &'static str, at: usize, size: usize) -> Slot {
    Slot { name, at, size, what: What::Number, valid: None }
}

const fn bits(name: &'static str, at: usize, shift: u32, width: u32) -> Slot {
    Slot { name, at, size: 1, what: What::Bits(shift, width), valid: None }
}

impl Slot {
    /// With a bit in the validation bits at the start of the body.
    const fn valid(self, bit: u32) -> Self {
        self.valid_at(0, bit)
    }

    const fn valid_at(self, at: usize, bit: u32) -> Self {
        Self { valid: Some((at, bit)), ..self }
    }

    const fn of(self, what: What) -> Self {
        Self { what, ..self }
    }
}

/// All kinds but IA32/X64's, whose body has a variable length.
pub(super) const BODIES: &[Body] = &[
    Body {
        name: "memory",
        section_type: Guid::new(
            0xa5bc_1114,
            0x6f64,
            0x4ede,
            [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1],
        ),
        size: 80,
        fixed: &[],
        slots: &[
            number("error_status", 8, 8).valid(0),
            number("physical_address", 16, 8).valid(1),
            number("physical_address_mask", 24, 8).valid(2),
            number("node", 32, 2).valid(3),
            number("card", 34, 2).valid(4),
            number("module", 36, 2).valid(5),
            number("bank", 38, 2).valid(6),
            number("bank_address", 38, 1).valid(20),
            number("bank_group", 39, 1).valid(19),
            number("device", 40, 2).valid(7),
            number("row", 42, 2).valid(8),
            number("column", 44, 2).valid(9),
            number("bit_position", 46, 2).valid(10),
            number("requestor_id", 48, 8).valid(11),
            number("responder_id", 56, 8).valid(12),
            number("target_id", 64, 8).valid(13),
            number("error_type", 72, 1).valid(14),
            bits("extended_row", 73, 0, 2).valid(18),
            bits("chip_identification", 73, 5, 3).valid(21),
            number("rank", 74, 2).valid(15),
            number("card_handle", 76, 2).valid(16),
            number("module_handle", 78, 2).valid(17),
        ],
    },
    Body {
        name: "memory2",
        section_type: Guid::new(
            0x61ec_04fc,
            0x48e6,
            0xd813,
            [0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12],
        ),
        size: 96,
        fixed: &[],
        slots: &[
            number("error_status", 8, 8).valid(0),
            number("physical_address", 16, 8).valid(1),
            number("physical_address_mask", 24, 8).valid(2),
            number("node", 32, 2).valid(3),
            number("card", 34, 2).valid(4),
            number("module", 36, 2).valid(5),
            number("bank", 38, 2).valid(6),
            number("bank_address", 38, 1).valid(21),
            number("bank_group", 39, 1).valid(20),
            number("device", 40, 4).valid(7),
            number("row", 44, 4).valid(8),
            number("column", 48, 4).valid(9),
            number("rank", 52, 4).valid(10),
            number("bit_position", 56, 4).valid(11),
            number("chip_identification", 60, 1).valid(12),
            number("error_type", 61, 1).valid(13),
            number("status", 62, 1).valid(14),
            number("requestor_id", 64, 8).valid(15),
            number("responder_id", 72, 8).valid(16),
            number("target_id", 80, 8).valid(17),
            number("card_handle", 88, 4).valid(18),
            number("module_handle", 92, 4).valid(19),
        ],
    },
    Body {
        name: "pcie",
        section_type: Guid::new(
            0xd995_e954,
            0xbbc1,
            0x430f,
            [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35],
        ),
        size: 208,
        fixed: &[],
        slots: &[
            number("port_type", 8, 4).valid(0),
            number("version_minor", 12, 1).valid(1),
            number("version_major", 13, 1).valid(1),
            number("command", 16, 2).valid(2),
            number("status", 18, 2).valid(2),
            number("vendor_id", 24, 2).valid(3),
            number("device_id", 26, 2).valid(3),
            number("class_code", 28, 3).valid(3),
            number("function", 31, 1).valid(3),
            number("device", 32, 1).valid(3),
            number("segment", 33, 2).valid(3),
            number("bus", 35, 1).valid(3),
            number("secondary_bus", 36, 1).valid(3),
            number("serial", 40, 8).valid(4),
            number("bridge_secondary_status", 48, 2).valid(5),
            number("bridge_control", 50, 2).valid(5),
            number("capability", 52, 60).of(What::Bytes).valid(6),
            number("aer_header", 112, 4).valid(7),
            number("aer_uncorrectable_status", 116, 4).valid(7),
            number("aer_uncorrectable_mask", 120, 4).valid(7),
            number("aer_uncorrectable_severity", 124, 4).valid(7),
            number("aer_correctable_status", 128, 4).valid(7),
            number("aer_correctable_mask", 132, 4).valid(7),
            number("aer_control", 136, 4).valid(7),
            number("aer_header_log", 140, 16).of(What::Bytes).valid(7),
            number("aer_root_status", 160, 4).valid(7),
        ],
    },
    Body {
        name: "processor",
        section_type: Guid::new(
            0x9876_ccad,
            0x47b4,
            0x4bdb,
            [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb],
        ),
        size: 192,
        fixed: &[],
        slots: &[
            number("processor_type", 8, 1).valid(0),
            number("isa", 9, 1).valid(1),
            number("error_type", 10, 1).valid(2),
            number("operation", 11, 1).valid(3),
            number("processor_flags", 12, 1).valid(4),
            number("level", 13, 1).valid(5),
            number("cpu_version", 16, 8).valid(6),
            number("brand", 24, 128).of(What::Text).valid(7),
            number("processor_id", 152, 8).valid(8),
            number("target_address", 160, 8).valid(9),
            number("requestor_id", 168, 8).valid(10),
            number("responder_id", 176, 8).valid(11),
            number("instruction_pointer", 184, 8).valid(12),
        ],
    },
    Body {
        name: "firmware",
        section_type: Guid::new(
            0x8121_2a96,
            0x09ed,
            0x4996,
            [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed],
        ),
        size: 32,
        fixed: &[],
        slots: &[
            number("error_record_type", 0, 1),
            number("revision", 1, 1),
            number("record_id", 8, 8),
            number("record_guid", 16, 16).of(What::Guid),
        ],
    },
    // The wrapper of CXL component events, and a DRAM event record without its identifier: Compute
    // Express Link Specification, "DRAM Event Record".
    Body {
        name: "cxl-dram",
        section_type: Guid::new(
            0x601d_cbb3,
            0x9c06,
            0x4eab,
            [0xb8, 0xaf, 0x4e, 0x9b, 0xfb, 0x5c, 0x96, 0x24],
        ),
        size: 144,
        fixed: &[(0, 4, 144), (4, 8, 1 << 2), (32, 1, 0x80)],
        slots: &[
            number("vendor_id", 12, 2).valid_at(4, 0),
            number("device_id", 14, 2).valid_at(4, 0),
            number("function", 16, 1).valid_at(4, 0),
            number("device", 17, 1).valid_at(4, 0),
            number("bus", 18, 1).valid_at(4, 0),
            number("segment", 19, 2).valid_at(4, 0),
            number("serial", 24, 8).valid_at(4, 1),
            number("event_flags", 33, 3),
            number("handle", 36, 2),
            number("related_handle", 38, 2),
            number("timestamp", 40, 8),
            number("dpa", 64, 8),
            number("descriptor", 72, 1),
            number("event_type", 73, 1),
            number("transaction_type", 74, 1),
            number("channel", 77, 1).valid_at(75, 0),
            number("rank", 78, 1).valid_at(75, 1),
            number("nibble_mask", 79, 3).valid_at(75, 2),
            number("bank_group", 82, 1).valid_at(75, 3),
            number("bank", 83, 1).valid_at(75, 4),
            number("row", 84, 3).valid_at(75, 5),
            number("column", 87, 2).valid_at(75, 6),
            number("correction_mask", 89, 32).of(What::Bytes).valid_at(75, 7),
            number("component_id", 121, 16).of(What::Bytes).valid_at(75, 8),
        ],
    },
];

impl Body {
    /// Takes the members it knows.
    pub(super) fn build(&self, members: &mut Members<'_>) -> Result<Vec<u8>, InjectError> {
        let mut body = vec![0; self.size];
        for (at, size, value) in self.fixed {
            put(&mut body, *at, *size, *value);
        }
        // What is not checked against its limits would silently be another value.
        let place = members.place;
        for Slot { name, at, size, what, valid } in self.slots {
            let wrong = |detail: &str| InjectError::member(format!("{place}, {name}"), detail);
            let too_long = || wrong("is too long");
            let slot = *at..at + size;
            match what {
                _ if !members.object.contains_key(*name) => continue,
                What::Number => {
                    let value = members.number(name)?.unwrap_or(0);
                    if *size < 8 && value >> (8 * size) != 0 {
                        return Err(wrong("is too large"));
                    }
                    put(&mut body, *at, *size, value);
                }
                What::Bits(shift, width) => {
                    let value = members.number(name)?.unwrap_or(0);
                    if value >> width != 0 {
                        return Err(wrong("is too large"));
                    }
                    put(&mut body, *at, 1, value << shift);
                }
                What::Text => {
                    let text = members.text(name)?.unwrap_or_default();
                    let bytes = text.as_bytes();
                    body[slot].get_mut(..bytes.len()).ok_or_else(too_long)?.copy_from_slice(bytes);
                }
                What::Bytes => {
                    let bytes = members.bytes(name)?.unwrap_or_default();
                    body[slot].get_mut(..bytes.len()).ok_or_else(too_long)?.copy_from_slice(&bytes);
                }
                What::Guid => {
                    let guid = members.guid(name)?;
                    body[slot].copy_from_slice(&guid.unwrap_or(Guid([0; 16])).0);
                }
            }
            if let Some((at, bit)) = valid {
                put(&mut body, at + bit_byte(*bit), 1, 1 << (bit % 8));
            }
        }
        Ok(body)
    }
}

const fn bit_byte(bit: u32) -> usize {
    (bit / 8) as usize
}

/// Sets bits of a little-endian number, beside those that are set.
fn put(body: &mut [u8], at: usize, size: usize, value: u64) {
    for (byte, value) in body[at..at + size].iter_mut().zip(value.to_le_bytes()) {
        *byte |= value;
    }
}

/// "IA32/X64 Processor Error Section", without the parts of variable number.
pub(super) const IA32_X64: Body = Body {
    name: "ia32-x64",
    section_type: Guid::new(
        0xdc3e_a0b0,
        0xa144,
        0x4797,
        [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d],
    ),
    size: 64,
    fixed: &[],
    slots: &[number("apic_id", 8, 8).valid(0), number("cpuid", 16, 4).valid(1)],
};

/// "IA32/X64 Processor Error Information Structure", "Error Type".
const CHECKS: [(&str, Guid); 4] = [
    (
        "cache",
        Guid::new(0xa557_01f5, 0xe3ef, 0x43de, [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c]),
    ),
    (
        "tlb",
        Guid::new(0xfc06_b535, 0x5e1f, 0x4562, [0x9f, 0x25, 0x0a, 0x3b, 0x9a, 0xdb, 0x63, 0xc3]),
    ),
    (
        "bus",
        Guid::new(0x1cf3_f8b3, 0xc5b1, 0x49a2, [0xaa, 0x59, 0x5e, 0xef, 0x92, 0xff, 0xa6, 0x3c]),
    ),
    (
        "ms",
        Guid::new(0x48ab_7f57, 0xdc34, 0x4f6c, [0xa7, 0xd3, 0xb0, 0xb5, 0xb0, 0xa7, 0x43, 0x14]),
    ),
];

const CHECK_SLOTS: &[Slot] = &[
    number("check_info", 24, 8).valid_at(16, 0),
    number("target_id", 32, 8).valid_at(16, 1),
    number("requestor_id", 40, 8).valid_at(16, 2),
    number("responder_id", 48, 8).valid_at(16, 3),
    number("instruction_pointer", 56, 8).valid_at(16, 4),
];

/// The section with its `check` tables and, as contexts of machine-specific registers, its `bank`
/// tables.
pub(super) fn ia32_x64(members: &mut Members<'_>) -> Result<Vec<u8>, InjectError> {
    let (checks, banks) = (tables(members, "check", 63)?, tables(members, "bank", 63)?);
    let mut section = IA32_X64.build(members)?;
    let counts = (checks.len() as u64) << 2 | (banks.len() as u64) << 8;
    put(&mut section, 0, 8, counts);
    for mut object in checks {
        let place = format!("{}, check", members.place);
        let mut check = Members { object: &mut object, place: &place };
        let name = check.text("type")?.unwrap_or_default();
        let Some((_, guid)) = CHECKS.iter().find(|(known, _)| *known == name) else {
            return Err(InjectError::member(place, "type is cache, tlb, bus or ms"));
        };
        let layout = Body { size: 64, slots: CHECK_SLOTS, ..IA32_X64 };
        let mut body = layout.build(&mut check)?;
        body[..16].copy_from_slice(&guid.0);
        section.extend(body);
        nothing_left(&object, &place)?;
    }
    for mut object in banks {
        let place = format!("{}, bank", members.place);
        let bank = Members { object: &mut object, place: &place }.mce()?;
        nothing_left(&object, &place)?;
        section.extend(context(&bank));
    }
    Ok(section)
}

fn tables(
    members: &mut Members<'_>,
    name: &str,
    most: usize,
) -> Result<Vec<serde_json::Map<String, Value>>, InjectError> {
    let wrong = |detail| InjectError::member(format!("{}, {name}", members.place), detail);
    let tables = match members.object.remove(name) {
        None => vec![],
        Some(Value::Array(tables)) => tables,
        Some(_) => return Err(wrong("is no list of tables")),
    };
    if tables.len() > most {
        return Err(wrong("has more tables than the section can count"));
    }
    let object = |table| match table {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("is no list of tables")),
    };
    tables.into_iter().map(object).collect()
}

fn nothing_left(object: &serde_json::Map<String, Value>, place: &str) -> Result<(), InjectError> {
    object.keys().next().map_or(Ok(()), |name| {
        Err(InjectError::member(format!("{place}, {name}"), "is not known here"))
    })
}

/// A bank as "Processor Context Information": the registers from its first on. Four a bank from MSR
/// 0x400, or, for scalable banks, sixteen from 0xc0002000.
fn context(mce: &Mce) -> Vec<u8> {
    let registers = &mce.registers;
    let bank = u32::from(registers.bank);
    let (first, values) = if registers.ipid != 0 {
        let mut values = vec![0; 16];
        values[1] = registers.status;
        values[2] = registers.addr;
        values[3] = registers.misc;
        values[4] = registers.config;
        values[5] = registers.ipid;
        values[6] = registers.synd;
        values[8] = registers.destat;
        values[9] = registers.deaddr;
        values[14] = registers.synd1;
        values[15] = registers.synd2;
        (0xc000_2000 + 16 * bank, values)
    } else {
        (0x400 + 4 * bank, vec![0, registers.status, registers.addr, registers.misc])
    };
    let size = u16::try_from(8 * values.len()).unwrap_or(u16::MAX);
    let mut bytes = 1u16.to_le_bytes().to_vec();
    bytes.extend(size.to_le_bytes());
    bytes.extend(first.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(values.iter().flat_map(|value: &u64| value.to_le_bytes()));
    bytes
}
