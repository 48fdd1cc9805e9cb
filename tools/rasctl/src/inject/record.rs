//! Firmware's records around sections.

use ras_core::{Guid, Timestamp};

use super::Failed;
use super::describe::{Common, Error, Kind, Section};
use crate::human::rfc3339;

/// "Notification Type": corrected machine checks, and non-maskable interrupts for what is worse.
/// UEFI Specification, Appendix N, "Error Record Header".
const CORRECTED: Guid =
    Guid::new(0x2dce_8bb1, 0xbdd7, 0x450e, [0xb9, 0xad, 0x9c, 0xf4, 0xeb, 0xd4, 0xf8, 0x90]);
const INTERRUPT: Guid =
    Guid::new(0x5bad_89ff, 0xb7e6, 0x42c9, [0x81, 0x4a, 0xcf, 0x24, 0x85, 0xd6, 0xe9, 0x8a]);

/// Revision of sections: 3.0 and its validation bits.
const REVISION: u16 = 0x0300;

type Part<'a> = (&'a Common, &'a Section);

/// The sections, or the number of an error that is none.
fn sections(errors: &[Error]) -> Result<Vec<Part<'_>>, Failed> {
    let section = |(index, error): (usize, &'_ Error)| match &error.kind {
        Kind::Section(_) => Ok(index),
        _ => Err(Failed::At(index)),
    };
    errors.iter().enumerate().map(section).collect::<Result<Vec<_>, _>>()?;
    Ok(errors
        .iter()
        .filter_map(|error| match &error.kind {
            Kind::Section(section) => Some((&error.common, section)),
            _ => None,
        })
        .collect())
}

/// UEFI's records: one for each section, or one of all.
pub(super) fn cper(errors: &[Error], one_record: bool) -> Result<Vec<u8>, Failed> {
    let sections = sections(errors)?;
    Ok(grouped(&sections, one_record).flat_map(record).collect())
}

/// ACPI's blocks, likewise.
pub(super) fn status_blocks(errors: &[Error], one_record: bool) -> Result<Vec<u8>, Failed> {
    let sections = sections(errors)?;
    Ok(grouped(&sections, one_record).flat_map(block).collect())
}

fn grouped<'a, 'b>(
    sections: &'b [Part<'a>],
    one_record: bool,
) -> impl Iterator<Item = &'b [Part<'a>]> {
    sections.chunks(if one_record { sections.len().max(1) } else { 1 })
}

fn record(sections: &[Part<'_>]) -> Vec<u8> {
    let time = sections.iter().find_map(|(common, _)| common.time);
    let severity = worst(sections);
    let start = 128 + 72 * sections.len();
    let length = start + sections.iter().map(|(_, section)| section.body.len()).sum::<usize>();
    let mut bytes = b"CPER".to_vec();
    bytes.extend(0x0101u16.to_le_bytes());
    bytes.extend([0xff; 4]);
    bytes.extend(u16::try_from(sections.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(severity.to_le_bytes());
    bytes.extend((u32::from(time.is_some()) << 1).to_le_bytes());
    bytes.extend(word(length));
    bytes.extend(time.map_or([0; 8], timestamp));
    // Platform, partition, creator.
    bytes.extend([0; 48]);
    bytes.extend(if severity == 2 { CORRECTED } else { INTERRUPT }.0);
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(
        sections.iter().fold(0, |flags, (common, _)| flags | common.record_flags).to_le_bytes(),
    );
    bytes.resize(128, 0);
    let mut offset = start;
    for (common, section) in sections {
        bytes.extend(word(offset));
        bytes.extend(word(section.body.len()));
        bytes.extend(REVISION.to_le_bytes());
        bytes.extend([u8::from(common.fru_text.is_some()) << 1, 0]);
        bytes.extend(common.flags.to_le_bytes());
        bytes.extend(section.section_type.0);
        bytes.extend([0; 16]);
        bytes.extend(common.severity.to_le_bytes());
        bytes.extend(fru_text(common));
        offset += section.body.len();
    }
    sections.iter().for_each(|(_, section)| bytes.extend(&section.body));
    bytes
}

/// ACPI Specification, "Generic Error Status Block", with data entries of revision 3.
fn block(sections: &[Part<'_>]) -> Vec<u8> {
    let severity = worst(sections);
    let corrected = sections.iter().filter(|(common, _)| common.severity >= 2).count();
    let others = sections.len() - corrected;
    let count = u32::try_from(sections.len()).unwrap_or(u32::MAX).min(0x3ff);
    let status = u32::from(others > 0)
        | u32::from(corrected > 0) << 1
        | u32::from(others > 1) << 2
        | u32::from(corrected > 1) << 3
        | count << 4;
    let mut entries = Vec::new();
    for (common, section) in sections {
        entries.extend(section.section_type.0);
        entries.extend(common.severity.to_le_bytes());
        entries.extend(REVISION.to_le_bytes());
        let valid = u8::from(common.fru_text.is_some()) << 1 | u8::from(common.time.is_some()) << 2;
        entries.extend([valid, common.flags.to_le_bytes()[0]]);
        entries.extend(word(section.body.len()));
        entries.extend([0; 16]);
        entries.extend(fru_text(common));
        entries.extend(common.time.map_or([0; 8], timestamp));
        entries.extend(&section.body);
    }
    let mut bytes = Vec::new();
    for number in [status, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(word(entries.len()));
    bytes.extend(severity.to_le_bytes());
    bytes.extend(entries);
    bytes
}

/// Fatal before recoverable before corrected before informational.
fn worst(sections: &[Part<'_>]) -> u32 {
    let order = [1, 0, 2, 3];
    let has = |severity: &u32| sections.iter().any(|(common, _)| common.severity == *severity);
    order.into_iter().find(has).unwrap_or(3)
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// ASCII in a fixed field.
fn fru_text(common: &Common) -> [u8; 20] {
    let mut field = [0; 20];
    let text = common.fru_text.as_deref().unwrap_or_default();
    field.iter_mut().zip(text.bytes()).for_each(|(byte, character)| *byte = character);
    field
}

/// Decimal digits, two in a byte: seconds, minutes, hours, precise, day, month, year, century.
fn timestamp(time: Timestamp) -> [u8; 8] {
    let text = rfc3339(time);
    let pair = |at: usize| {
        let digits = text.get(at..at + 2).unwrap_or("00");
        u8::from_str_radix(digits, 16).unwrap_or(0)
    };
    [pair(17), pair(14), pair(11), 1, pair(8), pair(5), pair(2), pair(0)]
}
