//! Little-endian fields and length-prefixed strings, written and read in order.

use alloc::string::String;
use alloc::vec::Vec;

/// Appends fields to a payload.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Seven bits a byte, the lowest first; bit 7 says that more follow.
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// A u16 byte count and UTF-8. Longer text is cut at the last character that fits in `max` bytes.
    pub(crate) fn text(&mut self, text: &str, max: u16) {
        let fitting = &text[..text.floor_char_boundary(usize::from(max))];
        self.u16(u16::try_from(fitting.len()).unwrap_or(max));
        self.0.extend(fitting.as_bytes());
    }
}

/// Takes fields off a payload; `None` where it ends too early or a string is not UTF-8.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// What [`Writer::varint`] wrote, in the shortest form only.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// What [`Writer::text`] wrote. `None` also beyond `max`: a newer writer has more room.
    pub(crate) fn text(&mut self, max: u16) -> Option<String> {
        let count = self.u16().filter(|&count| count <= max)?;
        core::str::from_utf8(self.bytes(usize::from(count))?).ok().map(String::from)
    }
}
