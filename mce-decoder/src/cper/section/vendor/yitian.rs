//! Alibaba T-Head Yitian 710's section: a memory controller's ECC registers. rasdaemon,
//! `non-standard-yitian.h`; the registers are those of Synopsys' DDR controller.

use ras_core::{Details, ErrorClass, ErrorRecord, Guid, Value};

use super::{add, summarize};
use crate::cper::section::Section;
use crate::layout::{Field, code, hex, size};

/// Section type of this section.
pub(super) const SECTION_TYPE: Guid =
    Guid::new(0xa698_0811, 0x16ea, 0x4e4d, [0xb9, 0x36, 0xfb, 0x00, 0xa2, 0x3f, 0xf2, 0x9c]);

const DDR: u8 = 0x50;

const HEADER: &[Field] =
    &[code("type", 1, &[(DDR as u64, "DDR")]), hex("sub_type", 1), hex("instance", 2)];

const DDR_REGISTERS: &[Field] = &[
    hex("ecccfg0", 4),
    hex("ecccfg1", 4),
    hex("eccstat", 4),
    hex("eccerrcnt", 4),
    hex("ecccaddr0", 4),
    hex("ecccaddr1", 4),
    hex("ecccsyn0", 4),
    hex("ecccsyn1", 4),
    hex("ecccsyn2", 4),
    hex("eccuaddr0", 4),
    hex("eccuaddr1", 4),
    hex("eccusyn0", 4),
    hex("eccusyn1", 4),
    hex("eccusyn2", 4),
    hex("eccbitmask0", 4),
    hex("eccbitmask1", 4),
    hex("eccbitmask2", 4),
    hex("adveccstat", 4),
    hex("eccapstat", 4),
    hex("ecccdata0", 4),
    hex("ecccdata1", 4),
    hex("eccudata0", 4),
    hex("eccudata1", 4),
    hex("eccsymbol", 4),
    hex("eccerrcntctl", 4),
    hex("eccerrcntstat", 4),
    hex("eccerrcnt0", 4),
    hex("eccerrcnt1", 4),
    hex("reserved0", 4),
    hex("reserved1", 4),
    hex("reserved2", 4),
];
const _: () = assert!(size(HEADER) + size(DDR_REGISTERS) == 128);

pub(super) fn decode(section: &Section<'_>, record: &mut ErrorRecord) {
    add("Yitian", HEADER, 0, 0, section, record);
    if section.body.first() == Some(&DDR) {
        add("Yitian", DDR_REGISTERS, size(HEADER), 0, section, record);
        return summarize(record, ErrorClass::Memory, "Yitian memory controller error".into());
    }
    let rest = section.body.get(size(HEADER)..).unwrap_or_default();
    record.details.add("payload", Value::Bytes(rest.into()));
    summarize(record, ErrorClass::Platform, "Yitian error of unknown type".into());
}
