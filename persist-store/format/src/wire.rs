//! Little-endian fields and length-prefixed strings, written and read in order.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ras_core::SmolStr;

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
        core::str::from_utf8(self.text_bytes(max)?).ok().map(String::from)
    }

    /// The same, sharing what was read before.
    pub(crate) fn shared_text(&mut self, max: u16, texts: &mut Texts) -> Option<SmolStr> {
        texts.get(self.text_bytes(max)?)
    }

    fn text_bytes(&mut self, max: u16) -> Option<&'a [u8]> {
        let count = self.u16().filter(|&count| count <= max)?;
        self.bytes(usize::from(count))
    }
}

/// Texts read before. Pages of one list say much the same: it need not be checked, nor kept, for each.
#[derive(Debug)]
pub(crate) struct Texts(Vec<SmolStr>);

impl Texts {
    /// A few diagnoses and outcomes, and the labels of a machine's modules. A text that finds its place
    /// taken costs what it would cost without this.
    const COUNT: usize = 256;

    pub(crate) fn shared() -> Self {
        Self(vec![SmolStr::default(); Self::COUNT])
    }

    /// For one record that is read alone.
    pub(crate) const fn apart() -> Self {
        Self(Vec::new())
    }

    /// `None` where `bytes` is not UTF-8.
    fn get(&mut self, bytes: &[u8]) -> Option<SmolStr> {
        let read = || core::str::from_utf8(bytes).ok().map(SmolStr::new);
        let Some(place) = self.0.get_mut(Self::place(bytes)) else { return read() };
        if place.as_bytes() != bytes {
            *place = read()?;
        }
        Some(place.clone())
    }

    /// By length and end: labels and diagnoses begin alike.
    fn place(bytes: &[u8]) -> usize {
        let end = match bytes.last_chunk() {
            Some(end) => u64::from_le_bytes(*end),
            None => bytes.iter().fold(0, |end, byte| end << 8 | u64::from(*byte)),
        };
        let mixed = (end ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::from(mixed.to_be_bytes()[0])
    }
}
