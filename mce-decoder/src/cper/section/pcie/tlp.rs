//! The header of the packet that met an error, as the header log keeps it: byte 0 is the most
//! significant one of the first word. PCI Express Base Specification, "TLP Headers" (not flit mode).

use alloc::vec::Vec;

use ras_core::{Detail, Details, Value};

/// Format and type, the first byte, of packets that are not messages.
const TYPES: &[(u64, &str)] = &[
    (0x00, "memory read"),
    (0x20, "memory read, 64-bit address"),
    (0x01, "locked memory read"),
    (0x21, "locked memory read, 64-bit address"),
    (0x40, "memory write"),
    (0x60, "memory write, 64-bit address"),
    (0x02, "I/O read"),
    (0x42, "I/O write"),
    (0x04, "configuration read, type 0"),
    (0x44, "configuration write, type 0"),
    (0x05, "configuration read, type 1"),
    (0x45, "configuration write, type 1"),
    (0x0a, "completion"),
    (0x4a, "completion with data"),
    (0x0b, "completion of a locked read, without data"),
    (0x4b, "completion of a locked read, with data"),
    (0x4c, "fetch and add"),
    (0x6c, "fetch and add, 64-bit address"),
    (0x4d, "swap"),
    (0x6d, "swap, 64-bit address"),
    (0x4e, "compare and swap"),
    (0x6e, "compare and swap, 64-bit address"),
    (0x5b, "deferrable memory write"),
    (0x7b, "deferrable memory write, 64-bit address"),
];

/// "Completion Status".
const COMPLETION_STATUS: &[(u64, &str)] =
    &[(0, "successful"), (1, "unsupported request"), (2, "request retry"), (4, "completer abort")];

/// What the four words say.
pub(super) fn details([first, second, third, fourth]: [u32; 4]) -> Vec<Detail> {
    let mut details = Vec::with_capacity(9);
    let kind = first >> 24;
    // Format 1 or 3, type 0b10rrr; the low bits say how the message is routed.
    let message = match kind & 0xf8 {
        0x30 => Some("message"),
        0x70 => Some("message with data"),
        _ => None,
    };
    details.add(
        "type",
        match message {
            Some(name) => Value::Code { code: kind.into(), meaning: Some(name.into()) },
            None => Value::code(kind.into(), TYPES),
        },
    );
    details.add("traffic_class", first >> 20 & 7);
    details.add("poisoned", first >> 14 & 1 == 1);
    details.add("length", first & 0x3ff);
    let long = kind >> 5 & 1 == 1;
    let base = kind & 0x1f;
    match base {
        _ if message.is_some() => {
            details.add_hex("requester_id", second >> 16);
            details.add_hex("tag", second >> 8 & 0xff);
            details.add_hex("message_code", second & 0xff);
        }
        // Reads, writes, I/O and atomic operations.
        0x00..=0x02 | 0x0c..=0x0e | 0x1b if kind < 0x80 => {
            details.add_hex("requester_id", second >> 16);
            details.add_hex("tag", second >> 8 & 0xff);
            let address = match long {
                true => u64::from(third) << 32 | u64::from(fourth & !3),
                false => u64::from(third & !3),
            };
            details.add_hex("address", address);
        }
        0x04 | 0x05 if kind < 0x80 => {
            details.add_hex("requester_id", second >> 16);
            details.add_hex("tag", second >> 8 & 0xff);
            details.add_hex("target_id", third >> 16);
            details.add_hex("register", third & 0xffc);
        }
        0x0a | 0x0b if kind < 0x80 => {
            details.add_hex("completer_id", second >> 16);
            details.add("status", Value::code((second >> 13 & 7).into(), COMPLETION_STATUS));
            details.add("byte_count", second & 0xfff);
            details.add_hex("requester_id", third >> 16);
            details.add_hex("tag", third >> 8 & 0xff);
            details.add_hex("lower_address", third & 0x7f);
        }
        // Prefixes, and what is not defined: the words are kept.
        _ => {}
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: [u32; 4], name: &str) -> Option<Value> {
        details(words).into_iter().find(|detail| detail.name == name).map(|detail| detail.value)
    }

    #[test]
    fn a_write_and_a_completion() {
        let write = [0x6000_4020, 0x3b00_12ff, 0x0000_0012, 0x3456_7880];
        assert_eq!(told(write, "type"), Some(Value::code(0x60, TYPES)));
        assert_eq!(told(write, "poisoned"), Some(Value::Flag(true)));
        assert_eq!(told(write, "requester_id"), Some(Value::Hex(0x3b00)));
        assert_eq!(told(write, "address"), Some(Value::Hex(0x12_3456_7880)));
        let completion = [0x4a00_0001, 0x0100_8004, 0x3b00_1200, 0];
        let status = told(completion, "status");
        assert_eq!(status, Some(Value::code(4, COMPLETION_STATUS)));
        assert_eq!(told(completion, "completer_id"), Some(Value::Hex(0x0100)));
        let message = [0x3400_0000, 0x3b00_0050, 0, 0];
        assert_eq!(told(message, "message_code"), Some(Value::Hex(0x50)));
        assert_eq!(told([0xff00_0000, 1, 2, 3], "address"), None);
    }
}
