//! NVIDIA's section of register pairs (Grace). OpenBMC's libcper, `EFI_NVIDIA_ERROR_DATA`.

use alloc::format;
use alloc::vec::Vec;

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Value};

use super::{add, cut, summarize};
use crate::cper::section::Section;
use crate::layout::{
    Field, Part, code, coded_part, found, hex, meaning, number, part, parts, read, size, skip, text,
};

/// Section type of this section.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0x6d52_44f2, 0x2712, 0x11ec, [0xbe, 0xa7, 0xcb, 0x3f, 0xdb, 0x95, 0xc7, 0x86]);

const HEADER: &[Field] = &[
    text("signature", 16),
    number("error_type", 2),
    number("error_instance", 2),
    code("severity", 1, SEVERITY),
    number("socket", 1),
    number("number_regs", 1),
    skip(1),
    hex("instance_base", 8),
];
const _: () = assert!(size(HEADER) == 32);

/// As CPER's own.
const SEVERITY: &[(u64, &str)] =
    &[(0, "recoverable"), (1, "fatal"), (2, "corrected"), (3, "informational")];

/// One register and its value.
const REGISTER: &[Field] = &[hex("address", 8), hex("value", 8)];

/// Instead of a register's value, with the signature `CMET-INFO`: the state of a memory channel.
const CHANNEL: &[Field] =
    &[hex("channel_address", 8), number("error_count", 4), parts("state", 4, CHANNEL_STATE)];
const _: () = assert!(size(REGISTER) == PAIR && size(CHANNEL) == PAIR);
const PAIR: usize = 16;

const CHANNEL_STATE: &[Part] = &[
    part("enabled", 0, 1),
    part("spare", 1, 1),
    part("permanently_disabled", 2, 1),
    coded_part("disabled_reason", 3, 2, DISABLED),
];

const DISABLED: &[(u64, &str)] = &[
    (0, "alias checker failed"),
    (1, "training at the POR frequency failed"),
    (2, "training at the boot frequency failed"),
    (3, "too many bad pages"),
];

/// Instead of registers, with the signature `FWERROR`.
const FIRMWARE: &[Field] = &[
    text("initiating_firmware", 8),
    hex("task_checkpoint", 8),
    hex("mb1_error_code", 8),
    text("mb1_version", 8),
    hex("bad_pages_retired_mask", 8),
    hex("training_or_alias_check_retired_mask", 8),
    number("worst_channel", 4),
    number("worst_channel_bad_pages", 4),
    number("second_worst_channel", 4),
    number("second_worst_channel_bad_pages", 4),
    number("third_worst_channel", 4),
    number("third_worst_channel_bad_pages", 4),
    hex("mss_aon_cfg_scratch_register_0", 8),
    hex("scratch_dram_disable", 8),
];
const _: () = assert!(size(FIRMWARE) == 88);

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    if !add("NVIDIA", HEADER, 0, 0, section, record) {
        return summarize(record, ErrorClass::Platform, "NVIDIA error".into());
    }
    let signature = meaning(&record.details, "signature").unwrap_or_default();
    let what = match signature {
        "" => "NVIDIA error".into(),
        signature => format!("NVIDIA {signature} error"),
    };
    let (is_firmware, is_channels) =
        (signature.starts_with("FWERROR"), signature.starts_with("CMET-INFO"));
    record.location.socket =
        found(&record.details, "socket").and_then(|socket| u32::try_from(socket).ok());
    if is_firmware {
        add("NVIDIA", FIRMWARE, size(HEADER), 0, section, record);
    } else {
        let (name, fields) =
            if is_channels { ("channels", CHANNEL) } else { ("registers", REGISTER) };
        let announced = found(&record.details, "number_regs").unwrap_or(0);
        let announced = usize::try_from(announced).unwrap_or(0);
        let pairs = section.body.get(size(HEADER)..).unwrap_or_default().chunks_exact(PAIR);
        let mut list = Vec::new();
        for pair in pairs.take(announced) {
            let mut group = Vec::with_capacity(3);
            read(fields, pair, 0, &mut group);
            list.push(Value::Group(group));
        }
        if list.len() < announced {
            let there = list.len();
            cut(section, record, &format!("{announced} {name} announced, {there} are there"));
        }
        record.details.add(name, Value::List(list));
    }
    let class = match is_channels {
        true => ErrorClass::Memory,
        false if is_firmware => ErrorClass::Firmware,
        false => ErrorClass::Platform,
    };
    summarize(record, class, what);
}
