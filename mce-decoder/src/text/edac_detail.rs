//! What an EDAC driver says beside the error itself: `key:value` pairs, each driver its own.

use alloc::string::ToString;
use alloc::vec::Vec;

use ras_core::{Detail, ErrorRecord, Value};

use super::retry_log;

/// Pairs taken from one text. Drivers give about a dozen.
const PAIRS_MAX: usize = 64;

/// Takes location and details from `text`: `area:DRAM err_code:0001:0091 socket:0 imc:0 rank:0 row:0x1f`.
///
/// A pair that names a place goes into the record's location, where that is still empty; all others
/// become details. A value is a number where it is one in the radix that its driver writes.
pub(crate) fn take(text: &str, record: &mut ErrorRecord) {
    let pairs = text.split_whitespace().filter_map(|word| word.split_once(':'));
    for (key, value) in pairs.take(PAIRS_MAX) {
        let value = value.trim_end_matches([',', ')', ';']);
        if key.is_empty() || value.is_empty() || place(key, value, record) {
            continue;
        }
        let value = match value.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
            Some(Ok(bits)) => Value::Hex(bits),
            _ => value.to_string().into(),
        };
        push(&mut record.details, key, value);
    }
    // It is weighed against the row, which has its place by now.
    retry_log::take(text, record);
}

fn push(details: &mut Vec<Detail>, key: &str, value: Value) {
    let name = key.trim_start_matches(['(', '-']).to_ascii_lowercase();
    details.push(Detail { name: name.into(), value });
}

/// Whether the pair named a place.
fn place(key: &str, value: &str, record: &mut ErrorRecord) -> bool {
    let Some(number) = number(value) else { return false };
    let location = &mut record.location;
    let dimm = &mut location.dimm;
    let narrow = |number: u64| u16::try_from(number).ok();
    let byte = |number: u64| u8::try_from(number).ok();
    let word = |number: u64| u32::try_from(number).ok();
    // The last names are those of Intel's address translation (ADXL), which EDAC passes on.
    match key {
        "socket" | "src_id" | "SrcID" | "ProcessorSocketId" => {
            set(&mut location.socket, word(number))
        }
        "imc" | "mc" | "MemoryControllerId" => set(&mut location.imc, narrow(number)),
        "channel" | "channel_id" | "ChannelId" => set(&mut location.channel, byte(number)),
        "slot" | "dimm" | "module" | "DimmSlotId" => set(&mut dimm.module, narrow(number)),
        "node" => set(&mut dimm.node, narrow(number)),
        "card" => set(&mut dimm.card, narrow(number)),
        "rank" | "PhysicalRankId" => set(&mut dimm.rank, narrow(number)),
        "bank_group" | "bg" | "BankGroup" => set(&mut dimm.bank_group, byte(number)),
        "bank" | "bank_address" | "ba" | "Bank" => set(&mut dimm.bank, narrow(number)),
        "row" | "Row" => set(&mut dimm.row, word(number)),
        "col" | "column" | "Column" => set(&mut dimm.column, word(number)),
        "device" | "dev" => set(&mut dimm.device, narrow(number)),
        "bit_pos" | "bit_position" => set(&mut dimm.bit_position, narrow(number)),
        "chip" | "ChipId" | "chipID" | "chip_id" => set(&mut dimm.chip, byte(number)),
        _ => false,
    }
}

/// Fills in a place that nobody named yet. A second, different statement is kept as a detail.
fn set<T: PartialEq>(place: &mut Option<T>, value: Option<T>) -> bool {
    match (&*place, value) {
        (_, None) => false,
        (None, value) => {
            *place = value;
            true
        }
        (Some(known), Some(value)) => *known == value,
    }
}

/// Decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::ErrorSource;

    #[test]
    fn places_go_into_the_location_and_the_rest_into_details() {
        let mut record = ErrorRecord::new(ErrorSource::McEvent);
        let text = "area:DRAM err_code:0001:0091 socket:1 imc:0 rank:0 bg:2 ba:3 row:0x1f col:0x3f8 \
                    row:0x20 x: :y retry_rd_err_log[0001a209]";
        take(text, &mut record);
        let dimm = &record.location.dimm;
        assert_eq!((record.location.socket, record.location.imc), (Some(1), Some(0)));
        assert_eq!((dimm.rank, dimm.bank_group, dimm.bank), (Some(0), Some(2), Some(3)));
        assert_eq!((dimm.row, dimm.column), (Some(0x1f), Some(0x3f8)));
        let names: Vec<_> = record.details.iter().map(|detail| detail.name.as_ref()).collect();
        let kept = ["area", "err_code", "row", "retry_rd_err_log"];
        assert_eq!(names, kept, "the contradiction is kept");
    }
}
