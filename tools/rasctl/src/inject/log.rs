//! Errors as lines of a kernel log, the way Linux prints them.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::describe::{Common, Error, Kind, Section, number};
use super::{Failed, mca};

/// All errors; each line has the seconds since boot before it where the error has a time.
pub(super) fn text(errors: &[Error]) -> Result<Vec<u8>, Failed> {
    let mut all = String::new();
    for (index, error) in errors.iter().enumerate() {
        let lines = match &error.kind {
            Kind::Mce(mce) => mca::kernel_log(mce, &error.common),
            Kind::Section(section) => {
                apei(section, &error.common, index + 1).ok_or(Failed::At(index))?
            }
            Kind::Edac(members) => edac(members),
            Kind::MemoryFailure(members) => memory_failure(members),
            Kind::Trace(_) => return Err(Failed::At(index)),
        };
        for line in lines.lines() {
            // One second for each error: a log has times, and they grow.
            let _ = writeln!(all, "[{:>5}.000000] {line}", index + 1);
        }
    }
    Ok(all.into_bytes())
}

fn get(members: &Map<String, Value>, name: &str) -> u64 {
    members.get(name).and_then(number).unwrap_or(0)
}

fn word<'a>(members: &'a Map<String, Value>, name: &str, default: &'a str) -> &'a str {
    members.get(name).and_then(Value::as_str).unwrap_or(default)
}

/// `drivers/edac/edac_mc.c`, the line of a corrected or uncorrected error.
fn edac(members: &Map<String, Value>) -> String {
    let number = |name| get(members, name);
    let label = word(members, "label", "unknown memory");
    let message = word(members, "message", "memory read error");
    let place = format!("channel:{} slot:{}", number("channel"), number("slot"));
    let detail = word(members, "detail", "");
    let detail = if detail.is_empty() { String::new() } else { format!(" - {detail}") };
    let (address, count) = (number("address"), number("count").max(1));
    let (page, offset) = (address >> 12, address & 0xfff);
    let (kind, syndrome) = match word(members, "type", "CE") {
        "UE" => ("UE", String::new()),
        _ => ("CE", format!(" syndrome:{:#x}", number("syndrome"))),
    };
    format!(
        "EDAC MC{}: {count} {kind} {message} on {label} ({place} page:{page:#x} \
         offset:{offset:#x} grain:{}{syndrome}{detail})\n",
        number("mc"),
        number("grain").max(1),
    )
}

/// `mm/memory-failure.c`, what was done about a page.
fn memory_failure(members: &Map<String, Value>) -> String {
    let (page, kind) = (get(members, "page"), word(members, "page_type", "dirty LRU page"));
    let result = word(members, "result", "Recovered");
    format!("Memory failure: {page:#x}: recovery action for {kind}: {result}\n")
}

/// `drivers/firmware/efi/cper.c`, for memory and PCI Express. `None` for other sections.
fn apei(section: &Section, common: &Common, number: usize) -> Option<String> {
    let body = match section.name {
        "memory" => memory(&section.members),
        "pcie" => pcie(&section.members),
        _ => return None,
    };
    let severity = match common.severity {
        0 => "recoverable",
        1 => "fatal",
        2 => "corrected",
        _ => "info",
    };
    let mut lines = vec![
        "Hardware error from APEI Generic Hardware Error Source: 1".to_owned(),
        format!("event severity: {severity}"),
        format!(" Error 0, type: {severity}"),
    ];
    if let Some(fru) = &common.fru_text {
        lines.push(format!(" fru_text: {fru}"));
    }
    lines.extend(body.into_iter().map(|line| format!("  {line}")));
    let lines = lines.iter().map(|line| format!("{{{number}}}[Hardware Error]: {line}\n"));
    Some(lines.collect())
}

fn memory(members: &Map<String, Value>) -> Vec<String> {
    let mut lines = vec!["section_type: memory error".to_owned()];
    let wide = |name: &str| members.get(name).and_then(number);
    if let Some(status) = wide("error_status") {
        lines.push(format!("error_status: unknown (0x{status:016x})"));
    }
    if let Some(address) = wide("physical_address") {
        lines.push(format!("physical_address: 0x{address:016x}"));
    }
    if let Some(mask) = wide("physical_address_mask") {
        lines.push(format!("physical_address_mask: 0x{mask:016x}"));
    }
    let row = wide("row").map(|row| row | wide("extended_row").unwrap_or(0) << 16);
    let place: Vec<String> = [
        ("node", wide("node")),
        ("card", wide("card")),
        ("module", wide("module")),
        ("rank", wide("rank")),
        ("bank", wide("bank")),
        ("bank_group", wide("bank_group")),
        ("bank_address", wide("bank_address")),
        ("device", wide("device")),
        ("row", row),
        ("column", wide("column")),
        ("bit_position", wide("bit_position")),
        ("chip_id", wide("chip_identification")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!("{name}:{}", value?)))
    .collect();
    if !place.is_empty() {
        lines.push(place.join(" "));
    }
    if let Some(kind) = wide("error_type") {
        lines.push(format!(
            "error_type: {kind}, {}",
            if kind == 2 { "single-bit ECC" } else { "unknown" }
        ));
    }
    lines
}

fn pcie(members: &Map<String, Value>) -> Vec<String> {
    let number = |name| get(members, name);
    let mut lines = vec!["section_type: PCIe error".to_owned()];
    lines.push(format!("port_type: {}, unknown", number("port_type")));
    lines.push(format!("version: {}.{}", number("version_major"), number("version_minor")));
    lines.push(format!("command: 0x{:04x}, status: 0x{:04x}", number("command"), number("status")));
    lines.push(format!(
        "device_id: {:04x}:{:02x}:{:02x}.{:x}",
        number("segment"),
        number("bus"),
        number("device"),
        number("function")
    ));
    lines.push(format!("slot: {}", 0));
    lines.push(format!("secondary_bus: 0x{:02x}", number("secondary_bus")));
    lines.push(format!(
        "vendor_id: 0x{:04x}, device_id: 0x{:04x}",
        number("vendor_id"),
        number("device_id")
    ));
    lines.push(format!("class_code: {:06x}", number("class_code")));
    if members.contains_key("aer_uncorrectable_status") {
        lines.push(format!(
            "aer_uncor_status: 0x{:08x}, aer_uncor_mask: 0x{:08x}",
            number("aer_uncorrectable_status"),
            number("aer_uncorrectable_mask")
        ));
        lines.push(format!("aer_uncor_severity: 0x{:08x}", number("aer_uncorrectable_severity")));
    }
    if members.contains_key("aer_correctable_status") {
        lines.push(format!(
            "aer_cor_status: 0x{:08x}, aer_cor_mask: 0x{:08x}",
            number("aer_correctable_status"),
            number("aer_correctable_mask")
        ));
    }
    lines
}
