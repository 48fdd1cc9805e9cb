//! NVIDIA's event section (Vera, and GPUs): a header, what the device says about itself, and
//! contexts of registers or texts. OpenBMC's libcper, `cper-section-nvidia-events.h`.
//!
//! A context tells only where the next one begins, so they are walked once, in order; their data is
//! taken apart where it lies. Every step moves on by at least a context's header.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{Detail, Details, ErrorClass, ErrorRecord, Guid, ProblemKind, Value};

use super::{add, cut, summarize};
use crate::cper::report;
use crate::cper::section::Section;
use crate::layout::{
    Field, Part, ascii, code, coded_part, found, hex, little, meaning, number, number_at, part,
    parts, read, size, skip, text,
};

/// Section type of this section.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0x9068_e568, 0x6ca0, 0x11f0, [0xae, 0xaf, 0x15, 0x93, 0x43, 0x59, 0x1e, 0xac]);

const HEADER: &[Field] = &[
    number("event_version", 1),
    number("event_context_count", 1),
    code("source_device_type", 1, DEVICE),
    skip(1),
    hex("event_type", 2),
    hex("event_sub_type", 2),
    hex("event_link_id", 8),
    text("signature", 16),
];
const _: () = assert!(size(HEADER) == 32);

const DEVICE: &[(u64, &str)] =
    &[(CPU, "CPU"), (GPU, "GPU"), (2, "DPU"), (3, "NIC"), (4, "switch"), (5, "BMC")];
const CPU: u64 = 0;
const GPU: u64 = 1;

/// Behind the header: version (minor in the low byte) and size of the device's own information.
const INFO_HEADER: usize = 3;

const CPU_INFO: &[Field] = &[
    number("socket", 1),
    parts("architecture", 4, ARCHITECTURE),
    hex("ecid_1", 4),
    hex("ecid_2", 4),
    hex("ecid_3", 4),
    hex("ecid_4", 4),
    hex("instance_base", 8),
];
const _: () = assert!(size(CPU_INFO) == 29);

const ARCHITECTURE: &[Part] = &[
    part("hid_family", 0, 4),
    part("major_revision", 4, 4),
    part("chip_id", 8, 8),
    part("minor_revision", 16, 4),
    part("pre_silicon_platform", 20, 5),
    part("error_injection", 31, 1),
];

const GPU_INFO: &[Field] = &[
    code("event_originator", 1, ORIGINATOR),
    number("source_partition", 2),
    number("source_sub_partition", 2),
    hex("pdi", 8),
];
const _: () = assert!(size(GPU_INFO) == 13);

const ORIGINATOR: &[(u64, &str)] = &[
    (0, "invalid"),
    (2, "PF GSP firmware"),
    (3, "VF GSP firmware"),
    (4, "PF driver"),
    (5, "VF driver"),
];

const CONTEXT: &[Field] = &[
    number("context_size", 4),
    number("context_version", 2),
    skip(2),
    hex("data_format_type", 2),
    number("data_format_version", 2),
    number("data_size", 4),
];
const _: () = assert!(size(CONTEXT) == 16);

/// Context data of format 0x8000.
const GPU_METADATA: &[Field] = &[
    text("device_name", 48),
    text("firmware_version", 16),
    text("pf_driver_microcode_version", 16),
    text("pf_driver_version", 16),
    text("vf_driver_version", 16),
    hex("configuration", 8),
    hex("pdi", 8),
    parts("architecture_id", 4, &[coded_part("architecture", 24, 6, GPU_ARCHITECTURE)]),
    number("hardware_info_type", 1),
    hex("class", 1).valid(0),
    hex("subclass", 1).valid(0),
    hex("revision", 1).valid(0),
    hex("vendor_id", 2).valid(0),
    hex("device_id", 2).valid(0),
    hex("subsystem_vendor_id", 2).valid(0),
    hex("subsystem_id", 2).valid(0),
    hex("bar0_start", 8).valid(0),
    hex("bar0_size", 8).valid(0),
    hex("bar1_start", 8).valid(0),
    hex("bar1_size", 8).valid(0),
    hex("bar2_start", 8).valid(0),
    hex("bar2_size", 8).valid(0),
];
const _: () = assert!(size(GPU_METADATA) == 192);
/// Where the type of the hardware information is: type 0 is the PCI function above.
const HARDWARE_INFO: usize = 132;

const GPU_ARCHITECTURE: &[(u64, &str)] = &[
    (0x16, "Turing"),
    (0x17, "Ampere"),
    (0x18, "Hopper"),
    (0x19, "Ada"),
    (0x1a, "Blackwell"),
    (0x1b, "Blackwell (2)"),
    (0x1c, "Rubin"),
];

/// Context data of format 0x8002.
const GPU_ACTIONS: &[Field] =
    &[hex("flags", 1), skip(3), number("recovery_action", 2), number("diagnostic_flow", 2)];

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    if add("NVIDIA event", HEADER, 0, 0, section, record) {
        contents(section, record);
    }
    let details = &record.details;
    let device = meaning(details, "source_device_type").unwrap_or("device");
    let what = match meaning(details, "signature") {
        Some(signature) => format!("NVIDIA {device} event {signature}"),
        None => format!("NVIDIA {device} event"),
    };
    let class = match found(details, "source_device_type") {
        Some(CPU) => ErrorClass::Processor,
        _ => ErrorClass::Platform,
    };
    summarize(record, class, what);
}

fn contents(section: &Section<'_>, record: &mut ErrorRecord) {
    let at = size(HEADER);
    let info = section.body.get(at..).unwrap_or_default();
    let (Some(version), Some(length)) = (number_at(info, 0, 2), info.get(2).copied()) else {
        return cut(section, record, "NVIDIA event section ends before its information");
    };
    let device = found(&record.details, "source_device_type").unwrap_or(u64::MAX);
    record.details.add("info_version", format!("{}.{}", version >> 8, version & 0xff));
    let length = usize::from(length);
    if length < INFO_HEADER || length > info.len() {
        let detail = format!("information of {length} bytes does not fit the section");
        return report(&mut record.problems, section.offset + at, ProblemKind::OutOfBounds, detail);
    }
    // The major version belongs to the device type.
    let fields = match (device, version >> 8) {
        (CPU, 0) => CPU_INFO,
        (GPU, 1) => GPU_INFO,
        _ => &[],
    };
    let own = info.get(INFO_HEADER..length).unwrap_or_default();
    if fields.is_empty() {
        record.details.add("info", Value::Bytes(own.into()));
    } else if let Some(lacking) = read(fields, own, 0, &mut record.details) {
        let detail = format!("information of {length} bytes ends before {lacking}");
        report(&mut record.problems, section.offset + at, ProblemKind::Malformed, detail);
    }
    record.location.socket =
        found(&record.details, "socket").and_then(|socket| u32::try_from(socket).ok());

    let announced = found(&record.details, "event_context_count").unwrap_or(0);
    let mut list = Vec::new();
    let mut at = at + length;
    for index in 0..announced {
        match context(section, at, device) {
            Ok((group, next)) => {
                list.push(Value::Group(group));
                at = next;
            }
            Err((group, kind, why)) => {
                if !group.is_empty() {
                    list.push(Value::Group(group));
                }
                let detail = format!("context {index} of {announced} {why}");
                let at = section.offset + at.min(section.body.len());
                report(&mut record.problems, at, kind, detail);
                break;
            }
        }
    }
    record.details.add("contexts", Value::List(list));
}

/// The context at `at` and where the next one begins, or what is wrong with it.
#[allow(clippy::type_complexity, reason = "one use, right above")]
fn context(
    section: &Section<'_>,
    at: usize,
    device: u64,
) -> Result<(Vec<Detail>, usize), (Vec<Detail>, ProblemKind, &'static str)> {
    let mut group = Vec::with_capacity(8);
    let rest = section.body.get(at..).unwrap_or_default();
    if read(CONTEXT, rest, 0, &mut group).is_some() {
        return Err((Vec::new(), ProblemKind::Truncated, "is cut"));
    }
    let length = |name| {
        found(&group, name).and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX)
    };
    let (whole, data) = (length("context_size"), length("data_size"));
    let format = found(&group, "data_format_type").unwrap_or(0);
    if whole < size(CONTEXT) || data > whole - size(CONTEXT) {
        return Err((group, ProblemKind::Malformed, "has a size that can't be"));
    }
    let available = rest.get(size(CONTEXT)..).unwrap_or_default();
    let cut = data > available.len();
    let bytes = available.get(..data).unwrap_or(available);
    contents_of(format, device, bytes, &mut group);
    if cut {
        return Err((group, ProblemKind::Truncated, "is cut"));
    }
    Ok((group, at.saturating_add(whole)))
}

fn contents_of(format: u64, device: u64, bytes: &[u8], group: &mut Vec<Detail>) {
    let pairs = |width: usize| {
        let pair = |pair: &[u8]| {
            let (key, value) = pair.split_at(width);
            let mut group = Vec::with_capacity(2);
            group.add_hex("key", little(key));
            group.add_hex("value", little(value));
            Value::Group(group)
        };
        Value::List(bytes.chunks_exact(2 * width).map(pair).collect())
    };
    let values = |width: usize| {
        Value::List(bytes.chunks_exact(width).map(|word| Value::Hex(little(word))).collect())
    };
    match (device, format) {
        (_, 1) => group.add("registers", pairs(8)),
        (_, 2) => group.add("registers", pairs(4)),
        (_, 3) => group.add("values", values(8)),
        (_, 4) => group.add("values", values(4)),
        (GPU, 0x8000) => {
            let is_pci = bytes.get(HARDWARE_INFO) == Some(&0);
            read(GPU_METADATA, bytes, u64::from(is_pci), group);
        }
        (GPU, 0x8001) => {
            group.add_some("xid_code", number_at(bytes, 0, 4));
            group.add("message", ascii(bytes.get(4..).unwrap_or_default()));
        }
        (GPU, 0x8002) => {
            read(GPU_ACTIONS, bytes, 0, group);
        }
        _ => group.add("data", Value::Bytes(bytes.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cper::decode_record;
    use crate::cper::tests::record as cper;
    use alloc::vec;

    /// A CPU event with contexts of the given sizes, formats and data.
    fn event(contexts: &[(u32, u16, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![1, u8::try_from(contexts.len()).unwrap(), 0, 0, 7, 0, 9, 0];
        bytes.extend(0x1122_3344u64.to_le_bytes());
        bytes.extend(*b"L2-TAG\0\0\0\0\0\0\0\0\0\0");
        bytes.extend([0, 0, 32, 1]);
        bytes.extend(0x8021_4137u32.to_le_bytes());
        bytes.extend([0xaa; 16]);
        bytes.extend(0xffff_0000u64.to_le_bytes());
        for (size, format, data) in contexts {
            bytes.extend(size.to_le_bytes());
            bytes.extend([3, 0, 0, 0]);
            bytes.extend(format.to_le_bytes());
            bytes.extend([1, 0]);
            bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            bytes.extend(data);
        }
        bytes
    }

    fn decoded(body: Vec<u8>) -> ErrorRecord {
        decode_record(&cper(&[(SECTION_TYPE, 2, body)])).records.remove(0)
    }

    fn contexts(record: &ErrorRecord) -> &[Value] {
        let list = record.details.iter().find(|detail| detail.name == "contexts").unwrap();
        let Value::List(list) = &list.value else { panic!("{list:?}") };
        list
    }

    #[test]
    fn registers_and_values() {
        let record = decoded(event(&[(32, 1, vec![1; 16]), (20, 4, vec![2; 4])]));
        assert_eq!(record.problems, []);
        assert_eq!(record.location.socket, Some(1));
        assert_eq!(record.summary, "NVIDIA CPU event L2-TAG, corrected");
        assert_eq!(contexts(&record).len(), 2);
        let Value::Group(group) = &contexts(&record)[1] else { panic!() };
        let values = group.iter().find(|detail| detail.name == "values").unwrap();
        assert_eq!(values.value, Value::List(vec![Value::Hex(0x0202_0202)]));
    }

    #[test]
    fn a_context_that_goes_nowhere_ends_the_walk() {
        for size in [0, 15, 17] {
            let record = decoded(event(&[(size, 3, vec![0; 8]), (24, 3, vec![0; 8])]));
            assert_eq!(contexts(&record).len(), 1);
            assert_eq!(record.problems[0].detail, "context 0 of 2 has a size that can't be");
        }
        let record = decoded(event(&[(u32::MAX, 3, vec![0; 8]), (24, 3, vec![0; 8])]));
        assert_eq!(record.problems[0].detail, "context 1 of 2 is cut");
    }

    /// The most contexts a section can announce, then twice the data: values, not time, are counted.
    #[test]
    fn work_grows_with_the_data_and_no_faster() {
        let values = |bytes: usize| {
            let size = u32::try_from(16 + bytes).unwrap();
            let record = decoded(event(&vec![(size, 4, vec![1; bytes]); 255]));
            assert_eq!(record.problems.iter().filter(|p| p.kind != ProblemKind::Limit).count(), 0);
            let count = |value: &Value| match value {
                Value::Group(group) => match &group.last().unwrap().value {
                    Value::List(list) => list.len(),
                    _ => 0,
                },
                _ => 0,
            };
            contexts(&record).iter().map(count).sum::<usize>()
        };
        assert_eq!(values(16), 255 * 4);
        assert_eq!(values(32), 2 * values(16));
    }
}
