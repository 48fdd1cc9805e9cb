//! Trace events that carry a firmware record's section: `extlog_mem_event`, `arm_event`,
//! `non_standard_event`. Each is put back into the section's own form and decoded as such.
//!
//! Linux `include/ras/ras_event.h`, `drivers/acpi/acpi_extlog.c`, `drivers/acpi/apei/ghes.c`.

use alloc::string::String;
use alloc::vec::Vec;

use ras_core::{
    AddressMode, Details, ErrorAddress, ErrorRecord, ErrorSource, Guid, PhysAddr, SmolStr,
    format_smolstr,
};

use super::{EventFormat, TraceError};
use crate::cper::{self, section};

/// UEFI Specification, Appendix N, "ARM Processor Error Section".
const ARM_SECTION: Guid =
    Guid::new(0xe19e_3d16, 0xbc11, 0x11e4, [0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0]);

/// The fields of `extlog_mem_event`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtlogMem {
    /// Sequence number, counted by the kernel.
    pub err_seq: u64,
    /// Memory error type of the section.
    pub etype: u8,
    /// Severity, as CPER numbers it.
    pub sev: u32,
    /// Physical address; all ones where the section has none.
    pub pa: u64,
    /// Lowest valid bit of the address; all ones where the section has none.
    pub pa_mask_lsb: u8,
    /// FRU id.
    pub fru_id: [u8; 16],
    /// FRU text.
    pub fru_text: String,
    /// The kernel's compact form of the section, 55 bytes.
    pub data: Vec<u8>,
}

/// Decodes a payload of `ras:extlog_mem_event`, the common fields included.
///
/// # Errors
/// [`TraceError`] where an essential field is missing or the payload ends before it.
pub fn extlog_mem(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let number = |name| format.integer(payload, name);
    Ok(ExtlogMem {
        err_seq: number("err_seq")?,
        etype: number("etype")?.to_le_bytes()[0],
        sev: u32::try_from(number("sev")?).unwrap_or(u32::MAX),
        pa: number("pa")?,
        pa_mask_lsb: number("pa_mask_lsb")?.to_le_bytes()[0],
        fru_id: guid(format, payload, "fru_id")?,
        fru_text: format.string(payload, "fru_text")?.unwrap_or_default(),
        data: format.bytes(payload, "data")?.unwrap_or_default().into(),
    }
    .into())
}

impl From<ExtlogMem> for ErrorRecord {
    fn from(event: ExtlogMem) -> Self {
        let body = memory_section(&event);
        let fru = fru(&event.fru_text, event.fru_id);
        let source = ErrorSource::ExtlogMem;
        let mut record =
            cper::decode_section(source, section::memory::SECTION_TYPE, event.sev, fru, &body);
        // The kernel already made a bit number of the mask.
        if event.pa != u64::MAX {
            let lsb = if event.pa_mask_lsb < 64 { event.pa_mask_lsb } else { 12 };
            let addr = PhysAddr(event.pa >> lsb << lsb);
            record.address = Some(ErrorAddress { addr, lsb, mode: AddressMode::Physical });
        }
        record.details.add("err_seq", event.err_seq);
        record
    }
}

/// The memory error section that the kernel compacted: `struct cper_mem_err_compact`.
fn memory_section(event: &ExtlogMem) -> Vec<u8> {
    const ERROR_TYPE_VALID: u64 = 1 << 14;
    const ADDRESS_VALID: u64 = 1 << 1 | 1 << 2;
    const STATUS_VALID: u64 = 1;
    let at = |from: usize, to: usize| event.data.get(from..to).unwrap_or_default();
    let valid = super::little_endian(&event.data, 0, 8).unwrap_or(0);
    let mut valid = (valid & !(STATUS_VALID | ADDRESS_VALID)) | ERROR_TYPE_VALID;
    if event.pa != u64::MAX {
        valid |= ADDRESS_VALID;
    }
    let mask = u64::MAX.checked_shl(event.pa_mask_lsb.into()).unwrap_or(!0xfff);
    let mut body = Vec::with_capacity(80);
    body.extend(valid.to_le_bytes());
    body.extend([0; 8]);
    body.extend(event.pa.to_le_bytes());
    body.extend(mask.to_le_bytes());
    // Eight 16-bit fields from node to bit position, then requestor, responder and target.
    body.extend(at(8, 48));
    body.push(event.etype);
    body.extend(at(54, 55));
    // Rank, and the handles of the array and of the device.
    body.extend(at(48, 54));
    body
}

/// The fields of `arm_event`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ArmEvent {
    /// Severity as the kernel numbers it: 0 none, 1 corrected, 2 recoverable, 3 panic. `None` before
    /// Linux 6.14 or so.
    pub sev: Option<u64>,
    /// `MPIDR_EL1`, 0 where the section has none.
    pub mpidr: u64,
    /// `MIDR_EL1`.
    pub midr: u64,
    /// Running state, all ones where the section has none.
    pub running_state: u32,
    /// PSCI state, all ones where the section has none.
    pub psci_state: u32,
    /// Affinity level, all ones where the section has none.
    pub affinity: u8,
    /// Error information structures, where the kernel passes them on.
    pub pei: Vec<u8>,
    /// Context information structures, likewise.
    pub ctx: Vec<u8>,
    /// Vendor-specific information, likewise.
    pub oem: Vec<u8>,
    /// Logical CPU, negative where the kernel does not know.
    pub cpu: Option<i64>,
}

/// Decodes a payload of `ras:arm_event`, the common fields included.
///
/// # Errors
/// [`TraceError`] where an essential field is missing or the payload ends before it.
pub fn arm(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    let number = |name| format.integer(payload, name);
    let word = |name| Ok(u32::try_from(number(name)?).unwrap_or(u32::MAX));
    let bytes = |name| Ok(format.bytes(payload, name)?.unwrap_or_default().into());
    Ok(ArmEvent {
        sev: format.optional_integer(payload, "sev")?,
        mpidr: number("mpidr")?,
        midr: number("midr")?,
        running_state: word("running_state")?,
        psci_state: word("psci_state")?,
        affinity: number("affinity")?.to_le_bytes()[0],
        pei: bytes("pei_buf")?,
        ctx: bytes("ctx_buf")?,
        oem: bytes("oem_buf")?,
        cpu: format.optional_integer(payload, "cpu")?.map(u64::cast_signed),
    }
    .into())
}

impl From<ArmEvent> for ErrorRecord {
    fn from(event: ArmEvent) -> Self {
        let body = arm_section(&event);
        let severity = event.sev.map_or(u32::MAX, ghes_severity);
        let mut record =
            cper::decode_section(ErrorSource::ArmEvent, ARM_SECTION, severity, None, &body);
        record.location.cpu = event.cpu.and_then(|cpu| u32::try_from(cpu).ok());
        record
    }
}

fn arm_section(event: &ArmEvent) -> Vec<u8> {
    const INFO_SIZE: usize = 32;
    let infos = u16::try_from(event.pei.len() / INFO_SIZE).unwrap_or(u16::MAX);
    let valid = u32::from(event.mpidr != 0)
        | u32::from(event.affinity != u8::MAX) << 1
        | u32::from(event.running_state != u32::MAX) << 2
        | u32::from(!event.oem.is_empty()) << 3;
    let mut body = Vec::with_capacity(40);
    body.extend(valid.to_le_bytes());
    body.extend(infos.to_le_bytes());
    body.extend(contexts(&event.ctx).to_le_bytes());
    let length = 40 + event.pei.len() + event.ctx.len() + event.oem.len();
    body.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    body.extend([event.affinity, 0, 0, 0]);
    body.extend(event.mpidr.to_le_bytes());
    body.extend(event.midr.to_le_bytes());
    body.extend(event.running_state.to_le_bytes());
    body.extend(event.psci_state.to_le_bytes());
    body.extend(&event.pei);
    body.extend(&event.ctx);
    body.extend(&event.oem);
    body
}

/// How many context structures there are: a header of 8 bytes, the last four its data's size.
fn contexts(mut bytes: &[u8]) -> u16 {
    let mut count: u16 = 0;
    while let Some(size) = super::little_endian(bytes, 4, 4) {
        count = count.saturating_add(1);
        let whole = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(8);
        bytes = bytes.get(whole..).unwrap_or_default();
    }
    count
}

/// The fields of `non_standard_event`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NonStandard {
    /// Section type.
    pub section_type: Guid,
    /// FRU id.
    pub fru_id: [u8; 16],
    /// FRU text.
    pub fru_text: String,
    /// Severity as the kernel numbers it: 0 none, 1 corrected, 2 recoverable, 3 panic.
    pub sev: u64,
    /// The section's body.
    pub body: Vec<u8>,
}

/// Decodes a payload of `ras:non_standard_event`, the common fields included.
///
/// # Errors
/// [`TraceError`] where an essential field is missing or the payload ends before it.
pub fn non_standard(format: &EventFormat, payload: &[u8]) -> Result<ErrorRecord, TraceError> {
    format.check_event(payload)?;
    Ok(NonStandard {
        section_type: Guid(guid(format, payload, "sec_type")?),
        fru_id: guid(format, payload, "fru_id")?,
        fru_text: format.string(payload, "fru_text")?.unwrap_or_default(),
        sev: format.integer(payload, "sev")?,
        body: format.bytes(payload, "buf")?.unwrap_or_default().into(),
    }
    .into())
}

/// The text that names a part, or else its number.
fn fru(text: &str, id: [u8; 16]) -> Option<SmolStr> {
    let text = (!text.is_empty()).then(|| SmolStr::new(text));
    text.or_else(|| (id != [0; 16]).then(|| format_smolstr!("{}", Guid(id))))
}

impl From<NonStandard> for ErrorRecord {
    fn from(event: NonStandard) -> Self {
        let fru = fru(&event.fru_text, event.fru_id);
        let severity = ghes_severity(event.sev);
        let source = ErrorSource::NonStandard;
        cper::decode_section(source, event.section_type, severity, fru, &event.body)
    }
}

/// CPER's number for one of the kernel's `GHES_SEV_*`.
const fn ghes_severity(sev: u64) -> u32 {
    match sev {
        0 => 3,
        1 => 2,
        2 => 0,
        3 => 1,
        _ => u32::MAX,
    }
}

fn guid(format: &EventFormat, payload: &[u8], name: &str) -> Result<[u8; 16], TraceError> {
    let bytes = format.bytes(payload, name)?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::{ErrorClass, Raw, Severity};

    #[test]
    fn a_compacted_section_is_whole_again() {
        let mut data = Vec::new();
        data.extend(((1u64 << 18) - 1).to_le_bytes());
        for field in [1u16, 2, 3, 4, 5, 0x8001, 0x3f8, 13] {
            data.extend(field.to_le_bytes());
        }
        data.extend([0; 24]);
        for field in [1u16, 0x1000, 0x1101] {
            data.extend(field.to_le_bytes());
        }
        data.push(0);
        assert_eq!(data.len(), 55);
        let record: ErrorRecord = ExtlogMem {
            etype: 2,
            sev: 2,
            pa: 0x12_3456_789a,
            pa_mask_lsb: 6,
            fru_text: "DIMM_A1".into(),
            data,
            ..ExtlogMem::default()
        }
        .into();
        assert_eq!(record.problems, []);
        assert_eq!((record.severity, record.class), (Severity::Corrected, ErrorClass::Memory));
        let dimm = &record.location.dimm;
        assert_eq!((dimm.node, dimm.rank, dimm.row), (Some(1), Some(1), Some(0x8001)));
        assert_eq!(dimm.module_handle, Some(0x1101));
        assert_eq!(record.address.map(|a| (a.addr.0, a.lsb)), Some((0x12_3456_7880, 6)));
    }

    #[test]
    fn a_section_nobody_knows_keeps_its_bytes_and_the_kernel_s_severity() {
        let event = NonStandard {
            section_type: Guid([7; 16]),
            fru_id: [0; 16],
            fru_text: String::new(),
            sev: 1,
            body: Vec::from([1, 2, 3]),
        };
        let record = ErrorRecord::from(event);
        assert_eq!(record.severity, Severity::Corrected);
        assert!(matches!(record.raw, Raw::Section { ref bytes, .. } if *bytes == [1, 2, 3]));
        assert_eq!(record.source, ErrorSource::NonStandard);
    }

    #[test]
    fn contexts_are_counted_by_their_sizes() {
        let one = [0, 0, 5, 0, 4, 0, 0, 0, 9, 9, 9, 9];
        assert_eq!(contexts(&[one, one].concat()), 2);
        assert_eq!(contexts(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]), 1);
        assert_eq!(contexts(&[]), 0);
    }
}
