//! FRU Memory Poison section: what Linux' AMD memory poison manager stores across boots.
//!
//! Linux `drivers/ras/amd/fmpm.c`, `struct cper_sec_fru_mem_poison` and `struct cper_fru_poison_desc`.
//! Each entry is one poisoned place of the memory behind one processor.

use alloc::format;
use alloc::vec::Vec;
use core::mem::size_of;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, ProblemKind, Value};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::summarize;
use crate::cper::report;
use crate::cper::section::{Fields, Section};

/// Section type of this section.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0x5e47_06c1, 0x5356, 0x48c6, [0x93, 0x0b, 0x52, 0xf2, 0x12, 0x0a, 0x44, 0x58]);

/// The driver's own limit for one FRU.
const ENTRIES_MAX: usize = 255;

/// The section's fixed part.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct MemoryPoison {
    /// Makes the sum of its own four bytes, as a number, and of all bytes behind it zero.
    checksum: U32,
    validation_bits: U64,
    fru_arch_type: U32,
    fru_arch: U64,
    fru_id_type: U32,
    fru_id: U64,
    nr_entries: U32,
}
const _: () = assert!(size_of::<MemoryPoison>() == 40);

/// One poisoned place.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    /// Seconds since 1970.
    timestamp: U64,
    hw_id_type: U32,
    hw_id: U64,
    addr_type: U32,
    addr: U64,
}
const _: () = assert!(size_of::<Entry>() == 32);

/// Where a section really is. The driver writes the offset of its own descriptor and a length that
/// includes it; `first` is where bodies can begin.
pub(in crate::cper) fn place(
    section_type: Guid,
    offset: usize,
    length: usize,
    first: usize,
) -> (usize, usize) {
    const DESCRIPTOR: usize = 72;
    let misplaced = section_type == SECTION_TYPE && offset.checked_add(DESCRIPTOR) == Some(first);
    if misplaced { (first, length.saturating_sub(DESCRIPTOR)) } else { (offset, length) }
}

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    let mut fields = Fields::<MemoryPoison>::new(section.body);
    macro_rules! field {
        ($valid:expr, $name:ident) => {
            crate::cper::section::field!(fields, MemoryPoison, $valid, $name)
        };
    }
    let checksum = field!(true, checksum).map(U32::get);
    let valid = field!(true, validation_bits).map(U64::get);
    let is = |bit: u32| valid.unwrap_or(0) >> bit & 1 == 1;
    let details = &mut record.details;
    details.add_some("checksum", checksum.map(|sum| Value::Hex(sum.into())));
    details.add_some("validation_bits", valid.map(Value::Hex));
    let arch_type = field!(is(0), fru_arch_type).map(U32::get);
    let arch_types = &[(0, "CPUID leaf 1, EAX")];
    details.add_some("fru_arch_type", arch_type.map(|kind| Value::code(kind.into(), arch_types)));
    details.add_some("fru_arch", field!(is(1), fru_arch).map(|arch| Value::Hex(arch.get())));
    let id_type = field!(is(2), fru_id_type).map(U32::get);
    details.add_some("fru_id_type", id_type.map(|kind| Value::code(kind.into(), &[(0, "PPIN")])));
    let id = field!(is(3), fru_id).map(U64::get);
    details.add_some("fru_id", id.map(Value::Hex));
    let count = field!(is(4), nr_entries).map(U32::get);
    details.add_some("nr_entries", count);
    let count = count.unwrap_or(0);
    fields.finish("FRU memory poison", section, record);

    let entries = section.body.get(size_of::<MemoryPoison>()..).unwrap_or_default();
    let wanted = if is(5) { usize::try_from(count).unwrap_or(usize::MAX) } else { 0 };
    let read = list(entries, wanted.min(ENTRIES_MAX), record);
    if wanted > ENTRIES_MAX {
        let detail = format!("{wanted} entries, only {ENTRIES_MAX} are decoded");
        report(&mut record.problems, section.offset + 36, ProblemKind::Limit, detail);
    } else if read < wanted {
        let detail = format!("{wanted} entries announced, {read} are there");
        let at = section.offset + section.body.len();
        report(&mut record.problems, at, ProblemKind::Truncated, detail);
    }
    // What is cut has no right sum.
    if section.body.len() == section.length
        && checksum.is_some_and(|checksum| sum(section.body).wrapping_add(checksum) != 0)
    {
        let detail = "checksum of the memory poison section is wrong".into();
        report(&mut record.problems, section.offset, ProblemKind::Inconsistent, detail);
    }

    let of = id.map_or_else(|| "an unknown FRU".into(), |id| format!("the FRU {id:#x}"));
    let what = match read {
        0 => format!("poison in the memory of {of}, its place not told"),
        1 => format!("1 poisoned place in the memory of {of}"),
        _ => format!("{read} poisoned places in the memory of {of}"),
    };
    summarize(record, ErrorClass::Memory, what);
    record.count = u32::try_from(read).unwrap_or(u32::MAX).max(1);
}

/// The bytes behind the checksum, summed.
fn sum(body: &[u8]) -> u32 {
    body.iter().skip(4).fold(0, |sum: u32, byte| sum.wrapping_add(u32::from(*byte)))
}

fn list(bytes: &[u8], wanted: usize, record: &mut ErrorRecord) -> usize {
    let mut list = Vec::new();
    for entry in bytes.chunks_exact(size_of::<Entry>()).take(wanted) {
        let Ok(entry) = Entry::read_from_bytes(entry) else { break };
        let mut group = Vec::with_capacity(5);
        group.add("timestamp", entry.timestamp.get());
        group.add("hw_id_type", Value::code(entry.hw_id_type.get().into(), &[(0, "MCA_IPID")]));
        group.add_hex("hw_id", entry.hw_id.get());
        group.add("addr_type", Value::code(entry.addr_type.get().into(), &[(0, "MCA_ADDR")]));
        group.add_hex("addr", entry.addr.get());
        list.push(Value::Group(group));
    }
    let read = list.len();
    if read > 0 {
        record.details.add("entries", Value::List(list));
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::decode_record;
    use crate::cper::tests::record;
    use crate::layout::found;
    use alloc::vec;
    use proptest::prelude::*;

    /// A section as the driver builds it.
    pub(super) fn body(ppin: u64, entries: &[(u64, u64, u64)]) -> Vec<u8> {
        let mut fixed = MemoryPoison {
            checksum: U32::ZERO,
            validation_bits: U64::new(0x3f),
            fru_arch_type: U32::ZERO,
            fru_arch: U64::new(0xa0_0f11),
            fru_id_type: U32::ZERO,
            fru_id: U64::new(ppin),
            nr_entries: U32::new(u32::try_from(entries.len()).unwrap()),
        };
        let mut bytes = fixed.as_bytes().to_vec();
        for (time, ipid, addr) in entries {
            let entry = Entry {
                timestamp: U64::new(*time),
                hw_id_type: U32::ZERO,
                hw_id: U64::new(*ipid),
                addr_type: U32::ZERO,
                addr: U64::new(*addr),
            };
            bytes.extend(entry.as_bytes());
        }
        fixed.checksum = U32::new(0u32.wrapping_sub(sum(&bytes)));
        bytes[..4].copy_from_slice(fixed.checksum.as_bytes());
        bytes
    }

    /// The driver's record: descriptor and section share an offset.
    fn as_stored(body: Vec<u8>) -> Vec<u8> {
        let mut bytes = record(&[(SECTION_TYPE, 0, body)]);
        let length = u32::try_from(bytes.len() - 128).unwrap();
        bytes[128..132].copy_from_slice(&128u32.to_le_bytes());
        bytes[132..136].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn entries(record: &ErrorRecord) -> Vec<(u64, u64, u64)> {
        let list = record.details.iter().find(|detail| detail.name == "entries");
        let Some(Value::List(list)) = list.map(|detail| &detail.value) else { return vec![] };
        list.iter()
            .map(|entry| {
                let Value::Group(group) = entry else { panic!("{entry:?}") };
                let number = |name| found(group, name).unwrap();
                (number("timestamp"), number("hw_id"), number("addr"))
            })
            .collect()
    }

    #[test]
    fn the_descriptor_in_the_section_is_passed_over() {
        let list = [(1_700_000_000, 0x96_0005_0f00, 0x1234), (0, 1, 2)];
        for bytes in
            [as_stored(body(0x1122, &list)), record(&[(SECTION_TYPE, 0, body(0x1122, &list))])]
        {
            let decoded = decode_record(&bytes);
            assert_eq!(decoded.problems, []);
            assert_eq!(decoded.records.len(), 1);
            assert_eq!(entries(&decoded.records[0]), list);
            assert!(
                decoded.records[0]
                    .summary
                    .starts_with("2 poisoned places in the memory of the FRU 0x1122")
            );
        }
    }

    #[test]
    fn a_wrong_sum_and_a_short_list_are_problems() {
        let mut bytes = as_stored(body(1, &[(0, 1, 2)]));
        *bytes.last_mut().unwrap() ^= 1;
        let decoded = decode_record(&bytes);
        assert_eq!(decoded.problems[0].detail, "checksum of the memory poison section is wrong");
        assert_eq!(decoded.records.len(), 1);

        let mut short = body(1, &[(0, 1, 2)]);
        short[36] = 3;
        let decoded = decode_record(&as_stored(short));
        assert_eq!(decoded.problems[0].detail, "3 entries announced, 1 are there");
    }

    #[test]
    fn a_list_without_end_is_limited() {
        let mut long = body(1, &vec![(0, 1, 2); 300]);
        let decoded = decode_record(&as_stored(long.clone()));
        assert_eq!(entries(&decoded.records[0]).len(), ENTRIES_MAX);
        long[36..40].copy_from_slice(&u32::MAX.to_le_bytes());
        let decoded = decode_record(&as_stored(long));
        assert_eq!(entries(&decoded.records[0]).len(), ENTRIES_MAX);
        // What the header announces beyond that is not believed.
        assert_eq!(decoded.records[0].count as usize, ENTRIES_MAX);
    }

    proptest! {
        #[test]
        fn what_was_built_is_decoded(
            ppin: u64, list in proptest::collection::vec(any::<(u64, u64, u64)>(), 0..40),
        ) {
            let decoded = decode_record(&as_stored(body(ppin, &list)));
            prop_assert_eq!(&decoded.problems, &[]);
            prop_assert_eq!(found(&decoded.records[0].details, "fru_id"), Some(ppin));
            prop_assert_eq!(entries(&decoded.records[0]), list);
        }
    }
}
