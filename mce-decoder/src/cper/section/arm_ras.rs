//! ARM RAS section: error records of a node of the RAS extension. UEFI Specification, Appendix N, "Arm
//! RAS Section"; node types as in Arm's AEST table, registers as in the Arm Architecture Reference
//! Manual, "RAS System Architecture".
//!
//! ```text
//!  | ArmRasNode 80 | ... | ErrorSyndrome 72 | x N | ... | auxiliary data: contexts, key-value pairs |
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{
    AddressMode, Detail, Details, ErrorAddress, ErrorClass, ErrorRecord, Guid, PhysAddr,
    ProblemKind, Value,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::registers::{self, Field};
use super::{Fields, Section, arm};
use crate::cper::names::push_hex;
use crate::cper::{read, report, size, text};
use crate::layout::number_at;
use crate::mca::findings::meaning;
use crate::mca::phrase;

/// Section type of this section.
pub const SECTION_TYPE: Guid =
    Guid::new(0xbf32_d4d5, 0xb427, 0x4025, [0x84, 0x95, 0x8a, 0x9e, 0x5d, 0x40, 0x30, 0xe4]);

/// The section's beginning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct ArmRasNode {
    pub revision: U32,
    pub component_type: u8,
    pub reserved: [u8; 3],
    pub syndrome_count: U32,
    /// Bytes from the section's start.
    pub syndrome_offset: U16,
    /// Likewise; 0 where there is none.
    pub auxiliary_offset: U16,
    pub ip_instance_format: u8,
    pub ip_type_format: u8,
    pub reserved_2: [u8; 6],
    pub ip_instance: [u8; 16],
    pub ip_type: [u8; 24],
    /// ASCII.
    pub user_data: [u8; 16],
}
const _: () = assert!(size_of::<ArmRasNode>() == 80);

/// "Error Syndrome": the registers of one error record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the registers' own")]
pub struct ErrorSyndrome {
    pub index: U32,
    /// Version in bits 7:4 (REVISION) and 3:0 (ARCHVER); 0: `misc2` and `misc3` don't exist.
    pub ras_extension: u8,
    pub reserved: [u8; 3],
    pub fr: U64,
    pub ctlr: U64,
    pub status: U64,
    pub addr: U64,
    pub misc0: U64,
    pub misc1: U64,
    pub misc2: U64,
    pub misc3: U64,
}
const _: () = assert!(size_of::<ErrorSyndrome>() == 72);

/// "Auxiliary Data Header". Offsets in it count from its own start.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct AuxiliaryHeader {
    pub version: u8,
    pub reserved: u8,
    pub context_count: U16,
    pub size: U32,
    pub pairs_offset: U32,
    pub pair_count: U16,
    pub reserved_2: U16,
}
const _: () = assert!(size_of::<AuxiliaryHeader>() == 16);

/// "Auxiliary Context Header"; registers of 16 bytes each, address and value, follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub struct AuxiliaryContext {
    /// Bytes of it, header included.
    pub length: U32,
    /// Bit 0: addresses are of a local address space.
    pub flags: u8,
    pub reserved: u8,
    pub register_count: U16,
    pub address_space: U16,
    pub reserved_2: [u8; 6],
}
const _: () = assert!(size_of::<AuxiliaryContext>() == 16);

/// Bytes of an auxiliary register: its address and its value.
const REGISTER: usize = 16;
/// Bytes of a key-value pair: a GUID and a value.
const PAIR: usize = 24;

/// "Component Type", as in AEST.
const COMPONENT_TYPES: &[(u64, &str)] = &[
    (0, "processor"),
    (1, "memory"),
    (2, "SMMU"),
    (3, "vendor-defined"),
    (4, "GIC"),
    (5, "PCI Express"),
    (6, "proxy"),
];
/// "IP Instance Format".
const INSTANCE_FORMATS: &[(u64, &str)] =
    &[(0, "PE"), (1, "system physical address"), (2, "local address"), (3, "SoC-specific")];
/// "IP Type Format".
const TYPE_FORMATS: &[(u64, &str)] = &[(0, "PE"), (1, "SMMU"), (2, "GIC"), (3, "PIDR")];
/// Keys of key-value pairs that have a name.
const MPAM_PARTID: Guid =
    Guid::new(0xebb4_5182, 0xfb03, 0x4bf9, [0x9a, 0xca, 0x86, 0x13, 0x70, 0x9f, 0xd7, 0x89]);

/// "`ERR<n>STATUS`".
const STATUS: &[Field] = &[
    Field::flag("address_valid", 31),
    Field::flag("valid", 30),
    Field::flag("uncorrected", 29),
    Field::flag("error_reported", 28),
    Field::flag("overflow", 27),
    Field::flag("misc_valid", 26),
    Field::code("corrected", 24, 2, CORRECTED),
    Field::flag("deferred", 23),
    Field::flag("poison", 22),
    Field::code("uncorrected_type", 20, 2, UNCORRECTED_TYPES),
    Field::flag("critical", 19),
    Field::flag("reset_valid", 18),
    Field::number("implementation_code", 8, 8),
    Field::code("architectural_code", 0, 8, ARCHITECTURAL_CODES),
];
/// "`ERR<n>STATUS`", CE.
const CORRECTED: &[(u64, &str)] = &[(0, "none"), (1, "transient"), (2, "some"), (3, "persistent")];
/// "`ERR<n>STATUS`", UET.
const UNCORRECTED_TYPES: &[(u64, &str)] = &[
    (0, "uncontainable"),
    (1, "unrecoverable"),
    (2, "latent or restartable"),
    (3, "signaled or recoverable"),
];
/// "`ERR<n>STATUS`", SERR.
const ARCHITECTURAL_CODES: &[(u64, &str)] = &[
    (0, "no error"),
    (1, "implementation-defined error"),
    (2, "data of internal memory"),
    (3, "implementation-defined pin"),
    (4, "assertion failure"),
    (5, "internal data path"),
    (6, "data of a cache"),
    (7, "address or control of a cache"),
    (8, "data of a TLB"),
    (9, "address or control of a TLB"),
    (10, "data from a producer"),
    (11, "address or control from a producer"),
    (12, "data of external memory"),
    (13, "illegal address"),
    (14, "illegal access"),
    (15, "illegal state"),
    (16, "internal data register"),
    (17, "internal control register"),
    (18, "error response from a completer"),
    (19, "external timeout"),
    (20, "internal timeout"),
    (21, "deferred error not supported by the requester"),
    (22, "deferred error not supported by the completer"),
    (23, "deferred error from a completer passed through"),
    (24, "deferred error from a requester passed through"),
    (25, "recorded by PCIe"),
    (26, "other internal error"),
];

/// "`ERR<n>ADDR`": bits 55:0 are the address.
const ADDRESS_FLAGS: &[(u32, &str)] = &[
    (63, "non-secure"),
    (62, "secure incorrect"),
    (61, "address incomplete"),
    (60, "virtual"),
    (59, "realm"),
];

/// Fills in a record from the section, which has no validation bits.
pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let fields = Fields::<ArmRasNode>::new(section.body);
    let node = fields.body;
    let details = &mut record.details;
    if section.body.len() < size_of::<ArmRasNode>() {
        let detail = format!("ARM RAS node of {} bytes is cut", section.body.len());
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    } else {
        add_node(details, &node);
    }
    record.class = match node.component_type {
        0 => ErrorClass::Processor,
        1 => ErrorClass::Memory,
        2 => ErrorClass::Iommu,
        3 | 4 => ErrorClass::Platform,
        5 => ErrorClass::Pcie,
        _ => ErrorClass::Unknown,
    };
    let worst = syndromes(section, &node, record);
    auxiliary(section, node.auxiliary_offset.get().into(), record);
    summarize(&node, worst, record);
}

fn summarize(node: &ArmRasNode, worst: Option<ErrorSyndrome>, record: &mut ErrorRecord) {
    let mut summary = String::with_capacity(96);
    summary.push_str("ARM ");
    let component = meaning(COMPONENT_TYPES, node.component_type.into());
    summary.push_str(component.unwrap_or("RAS"));
    summary.push_str(" node: ");
    let status = worst.map_or(0, |worst| worst.status.get());
    let code = status & 0xff;
    let name = meaning(ARCHITECTURAL_CODES, code).filter(|_| code != 0);
    summary.push_str(name.unwrap_or("error"));
    summary.push_str(", ");
    summary.push_str(phrase(record.severity));
    // AV; an address that is incomplete or virtual is no address of a page.
    if let Some(worst) = worst.filter(|_| status >> 31 & 1 == 1) {
        let register = worst.addr.get();
        let addr = PhysAddr(register & (u64::MAX >> 8));
        let mode = match register >> 60 & 0b11 {
            0 => AddressMode::Physical,
            1 => AddressMode::Linear,
            _ => AddressMode::Generic,
        };
        record.address = Some(ErrorAddress { addr, lsb: 0, mode });
        if mode == AddressMode::Physical {
            summary.push_str(", at ");
            push_hex(&mut summary, addr.0);
        }
    }
    record.summary = summary;
}

fn add_node(details: &mut Vec<Detail>, node: &ArmRasNode) {
    let code = |code: u8, table| Value::code(code.into(), table);
    let number = |bytes: &[u8], at, width| number_at(bytes, at, width).unwrap_or(0);
    details.add("revision", node.revision.get());
    details.add("component_type", code(node.component_type, COMPONENT_TYPES));
    details.add("ip_instance_format", code(node.ip_instance_format, INSTANCE_FORMATS));
    let instance = &node.ip_instance;
    match node.ip_instance_format {
        0 => arm::add_mpidr(details, number(instance, 0, 8)),
        1 => details.add_hex("instance_address", number(instance, 0, 8)),
        2 => {
            details.add_hex("instance_address_space", number(instance, 0, 8));
            details.add_hex("instance_base", number(instance, 8, 8));
        }
        _ => details.add("ip_instance", Value::Bytes(node.ip_instance.into())),
    }
    details.add("ip_type_format", code(node.ip_type_format, TYPE_FORMATS));
    let kind = &node.ip_type;
    match node.ip_type_format {
        0 => {
            arm::add_midr(details, number(kind, 0, 8));
            details.add_hex("revidr", number(kind, 8, 8));
            details.add_hex("aidr", number(kind, 16, 8));
        }
        1 | 2 => {
            details.add_hex("iidr", number(kind, 0, 4));
            details.add_hex("aidr", number(kind, 4, 4));
        }
        3 => {
            // Bytes 3 to 0, then 7 to 4.
            let pidr = [3, 2, 1, 0, 7, 6, 5, 4].map(|at| kind.get(at).copied().unwrap_or(0));
            details.add_hex("pidr", u64::from_le_bytes(pidr));
        }
        _ => details.add("ip_type", Value::Bytes(node.ip_type.into())),
    }
    let user_data = text::<String>(&node.user_data);
    details.add_some("user_data", Some(user_data).filter(|text| !text.is_empty()));
}

/// The error records; returns the first valid one, or else the first one.
fn syndromes(
    section: &Section<'_>,
    node: &ArmRasNode,
    record: &mut ErrorRecord,
) -> Option<ErrorSyndrome> {
    let (count, start) = (size(node.syndrome_count), usize::from(node.syndrome_offset.get()));
    if count == 0 {
        return None;
    }
    if start < size_of::<ArmRasNode>() {
        let detail = format!("error syndromes at {start} are inside of the node");
        report(&mut record.problems, section.offset, ProblemKind::OutOfBounds, detail);
        return None;
    }
    let bytes = section.body.get(start..).unwrap_or_default();
    let mut list = Vec::with_capacity(count.min(bytes.len() / size_of::<ErrorSyndrome>()));
    let mut worst: Option<ErrorSyndrome> = None;
    let is_valid = |syndrome: &ErrorSyndrome| syndrome.status.get() >> 30 & 1 == 1;
    for index in 0..count {
        let Some(syndrome) = read::<ErrorSyndrome>(bytes, index * size_of::<ErrorSyndrome>())
        else {
            let detail = format!("error syndrome {index} of {count} is cut");
            let at = section.offset + section.body.len();
            report(&mut record.problems, at, ProblemKind::Truncated, detail);
            break;
        };
        list.push(Value::Group(syndrome_details(&syndrome)));
        if worst.as_ref().is_none_or(|worst| is_valid(&syndrome) && !is_valid(worst)) {
            worst = Some(syndrome);
        }
    }
    if !list.is_empty() {
        record.details.add("error_syndromes", Value::List(list));
    }
    worst
}

fn syndrome_details(syndrome: &ErrorSyndrome) -> Vec<Detail> {
    let mut details = Vec::with_capacity(12);
    details.add("index", syndrome.index.get());
    details.add("ras_revision", syndrome.ras_extension >> 4);
    details.add("ras_architecture", syndrome.ras_extension & 15);
    details.add_hex("fr", syndrome.fr.get());
    details.add_hex("ctlr", syndrome.ctlr.get());
    details.add("status", registers::fields(syndrome.status.get(), STATUS));
    details.add_hex("addr", syndrome.addr.get());
    let flags = syndrome.addr.get() & !(u64::MAX >> 5);
    details.add("addr_flags", Value::flags(flags, ADDRESS_FLAGS));
    details.add_hex("misc0", syndrome.misc0.get());
    details.add_hex("misc1", syndrome.misc1.get());
    if syndrome.ras_extension != 0 {
        details.add_hex("misc2", syndrome.misc2.get());
        details.add_hex("misc3", syndrome.misc3.get());
    }
    details
}

/// Further registers of the node, and key-value pairs.
fn auxiliary(section: &Section<'_>, start: usize, record: &mut ErrorRecord) {
    if start == 0 {
        return;
    }
    if start < size_of::<ArmRasNode>() {
        let detail = format!("auxiliary data at {start} is inside of the node");
        report(&mut record.problems, section.offset, ProblemKind::OutOfBounds, detail);
        return;
    }
    let bytes = section.body.get(start..).unwrap_or_default();
    let Some(header) = read::<AuxiliaryHeader>(bytes, 0) else {
        let detail = format!("auxiliary data at {start} is cut");
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
        return;
    };
    let mut details = Vec::with_capacity(3);
    details.add("version", header.version);
    let announced = size(header.size);
    if announced > bytes.len() {
        let detail = format!("auxiliary data of {announced} bytes is cut");
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    let bytes = bytes.get(..announced).unwrap_or(bytes);
    let mut at = size_of::<AuxiliaryHeader>();
    let mut contexts = Vec::new();
    for index in 0..header.context_count.get() {
        let context = read::<AuxiliaryContext>(bytes, at);
        let Some(context) = context.filter(|c| size(c.length) >= size_of::<AuxiliaryContext>())
        else {
            let detail = format!("auxiliary context {index} is cut or too short");
            let at = section.offset + start + at;
            report(&mut record.problems, at, ProblemKind::Truncated, detail);
            break;
        };
        let end = at.saturating_add(size(context.length));
        if end > bytes.len() {
            let detail = format!("auxiliary context {index} is cut");
            let at = section.offset + start + bytes.len();
            report(&mut record.problems, at, ProblemKind::Truncated, detail);
        }
        let end = end.min(bytes.len());
        let body = bytes.get(at + size_of::<AuxiliaryContext>()..end).unwrap_or_default();
        contexts.push(Value::Group(context_details(&context, body)));
        at = end;
    }
    details.add("contexts", Value::List(contexts));
    let pairs = bytes.get(size(header.pairs_offset)..).unwrap_or_default();
    let (announced, there) = (usize::from(header.pair_count.get()), pairs.len() / PAIR);
    if there < announced {
        let detail = format!("{announced} key-value pairs announced, {there} there");
        let at = section.offset + start + bytes.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    let pairs = pairs.chunks_exact(PAIR).take(header.pair_count.get().into());
    details.add("pairs", Value::List(pairs.filter_map(pair).collect()));
    record.details.add("auxiliary", Value::Group(details));
}

fn context_details(context: &AuxiliaryContext, body: &[u8]) -> Vec<Detail> {
    let mut details = Vec::with_capacity(3);
    let local = context.flags & 1 == 1;
    details.add("scope", if local { "local address space" } else { "system physical" });
    details.add_some("address_space", local.then_some(context.address_space.get()));
    let pairs = body.chunks_exact(REGISTER).take(context.register_count.get().into());
    details.add("registers", Value::List(pairs.map(registers::pair).collect()));
    details
}

fn pair(bytes: &[u8]) -> Option<Value> {
    let key = Guid(bytes.get(..16)?.try_into().ok()?);
    let mut group = Vec::with_capacity(3);
    group.add("key", Value::Guid(key));
    let value = number_at(bytes, 16, 8)?;
    group.add_hex("value", value);
    if key == MPAM_PARTID {
        group.add("mpam_partid", value & 0xffff);
    }
    Some(Value::Group(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::section::tests::{body, decoded, detail};
    use proptest::prelude::*;

    fn memory_node() -> Vec<u8> {
        let mut bytes = body::<ArmRasNode>(|node| {
            node.revision = U32::new(1);
            node.component_type = 1;
            node.syndrome_count = U32::new(2);
            node.syndrome_offset = U16::new(80);
            node.auxiliary_offset = U16::new(80 + 144);
            node.ip_instance_format = 1;
            node.ip_type_format = 3;
            node.ip_instance[1] = 0x10;
            node.ip_type[..8].copy_from_slice(&[3, 2, 1, 0, 7, 6, 5, 4]);
            node.user_data[..4].copy_from_slice(b"DDR0");
        });
        bytes.extend(body::<ErrorSyndrome>(|_| {}));
        bytes.extend(body::<ErrorSyndrome>(|syndrome| {
            syndrome.index = U32::new(4);
            syndrome.ras_extension = 0x12;
            syndrome.status = U64::new(1 << 31 | 1 << 30 | 1 << 29 | 3 << 20 | 12);
            syndrome.addr = U64::new(1 << 63 | 0x80_1234_5600);
            syndrome.misc3 = U64::new(9);
        }));
        bytes.extend(body::<AuxiliaryHeader>(|header| {
            header.version = 1;
            header.context_count = U16::new(1);
            header.size = U32::new(16 + 32 + 24);
            header.pairs_offset = U32::new(48);
            header.pair_count = U16::new(1);
        }));
        bytes.extend(body::<AuxiliaryContext>(|context| {
            context.length = U32::new(32);
            context.flags = 1;
            context.register_count = U16::new(1);
            context.address_space = U16::new(6);
        }));
        bytes.extend([0x1000u64, 0x77].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(MPAM_PARTID.0);
        bytes.extend(0x1_0005u64.to_le_bytes());
        bytes
    }

    #[test]
    fn a_memory_node() {
        let record = decoded(SECTION_TYPE, 0, &memory_node());
        assert_eq!(record.problems, []);
        assert_eq!(record.class, ErrorClass::Memory);
        assert_eq!(
            record.summary,
            "ARM memory node: data of external memory, uncorrected, action optional, \
             at 0x8012345600"
        );
        assert_eq!(record.pages().map(|pages| pages.start.0), Some(0x801_2345));
        let told = |path| detail(&record, path).cloned();
        assert_eq!(told("instance_address"), Some(Value::Hex(0x1000)));
        assert_eq!(told("pidr"), Some(Value::Hex(0x0706_0504_0302_0100)));
        assert_eq!(told("user_data"), Some(Value::from(String::from("DDR0"))));
        assert_eq!(told("error_syndromes.0.misc3"), None, "it does not exist");
        assert_eq!(told("error_syndromes.1.misc3"), Some(Value::Hex(9)));
        assert_eq!(told("error_syndromes.1.addr_flags.0"), Some(Value::from("non-secure")));
        let kind = Value::code(3, UNCORRECTED_TYPES);
        assert_eq!(told("error_syndromes.1.status.uncorrected_type"), Some(kind));
        assert_eq!(told("auxiliary.contexts.0.address_space"), Some(Value::Number(6)));
        assert_eq!(told("auxiliary.contexts.0.registers.0.value"), Some(Value::Hex(0x77)));
        assert_eq!(told("auxiliary.pairs.0.mpam_partid"), Some(Value::Number(5)));
    }

    #[test]
    fn counts_are_bounded_by_the_bytes() {
        let mut bytes = memory_node();
        bytes[8..12].fill(0xff);
        let record = decoded(SECTION_TYPE, 0, &bytes);
        assert_eq!(record.problems[0].detail, "error syndrome 3 of 4294967295 is cut");
        let mut bytes = memory_node();
        bytes[12] = 8;
        let record = decoded(SECTION_TYPE, 0, &bytes);
        assert_eq!(record.problems[0].detail, "error syndromes at 8 are inside of the node");
    }

    proptest! {
        #[test]
        fn any_damage_is_bounded(
            damage in proptest::collection::vec((0usize..296, any::<u8>()), 1..12),
            len in 0usize..296,
        ) {
            let mut bytes = memory_node();
            for (at, value) in damage {
                bytes[at] = value;
            }
            let record = decoded(SECTION_TYPE, 1, &bytes[..len]);
            prop_assert!(record.problems.iter().all(|p| p.offset <= 200 + len as u64));
        }
    }
}
