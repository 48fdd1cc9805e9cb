//! How a page is written on the command line and in plain lists.
//!
//! | Written | Means |
//! |---|---|
//! | `0x12345678` | the page that holds this physical address |
//! | `pfn:0x12345`, `pfn:74565` | this page frame number |
//! | `0x1000-0x2fff`, `pfn:1-2` | from the first to the last one, both included, as in `/proc/iomem` |
//! | `0x1000+8K`, `pfn:1+8K` | that many bytes from there on |
//!
//! A bare decimal number could be either and is refused.

use ras_core::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// Frames lie below this: x86 has at most 52 bits of physical address.
const FRAMES: u64 = 1 << persist_store::exclusion::PFN_BITS;

/// One or several pages that somebody named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The pages.
    pub range: PfnRange,
    /// An address was no page's first byte (or, of a range, no page's last): the whole page is meant.
    pub rounded: bool,
}

impl Place {
    /// Reads one; see the module. The error says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?}: {why}");
        let (unit, rest) = match text.strip_prefix("pfn:") {
            Some(rest) => (Unit::Frame, rest),
            None => (Unit::Address, text),
        };
        let unit_number = |text: &str| unit.number(text).map_err(|why| wrong(&why));
        let place = if let Some((first, size)) = rest.split_once('+') {
            let size = size_of(size).filter(|&size| size > 0);
            let size = size.ok_or_else(|| wrong("a size is bytes, with K, M or G: 8K"))?;
            unit.range(unit_number(first)?, Some(size - 1))
        } else if let Some((first, last)) = rest.split_once('-') {
            let again = last.strip_prefix("pfn:").filter(|_| unit == Unit::Frame);
            let (first, last) = (unit_number(first)?, unit_number(again.unwrap_or(last))?);
            let length =
                last.checked_sub(first).ok_or_else(|| wrong("it ends before it begins"))?;
            unit.range(first, length.checked_mul(unit.bytes()))
        } else {
            unit.range(unit_number(rest)?, Some(0))
        };
        let place = place.filter(|place| place.range.start.0 + place.range.count <= FRAMES);
        place.ok_or_else(|| wrong("no machine has memory at such an address"))
    }

    /// The one page; `None` where there are several.
    #[must_use]
    pub fn page(&self) -> Option<Pfn> {
        (self.range.count == 1).then_some(self.range.start)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Address,
    Frame,
}

impl Unit {
    const fn bytes(self) -> u64 {
        match self {
            Self::Address => 1,
            Self::Frame => PAGE_SIZE,
        }
    }

    fn number(self, text: &str) -> Result<u64, String> {
        let number = number(text).ok_or("no number: 0x…, or pfn:0x… for a page frame number")?;
        if self == Self::Address && !text.starts_with("0x") && !text.starts_with("0X") {
            return Err("an address (0x…) or a page frame number (pfn:…)? Say which".into());
        }
        Ok(number)
    }

    /// From `first` on, and `more` bytes after its first one.
    fn range(self, first: u64, more: Option<u64>) -> Option<Place> {
        let (more, address) = (more?, first.checked_mul(self.bytes())?);
        // Frames are whole pages: the last one's bytes belong to it.
        let whole =
            if self == Self::Frame && more.is_multiple_of(PAGE_SIZE) { PAGE_SIZE - 1 } else { 0 };
        let last = address.checked_add(more)?.checked_add(whole)?;
        let (start, end) = (PhysAddr(address).pfn(), PhysAddr(last).pfn());
        let range = PfnRange { start, count: end.0 - start.0 + 1 };
        // A single address names its page; only one inside the page is worth a word.
        let ends_inside = more > 0 && !(last.wrapping_add(1)).is_multiple_of(PAGE_SIZE);
        Some(Place { range, rounded: !address.is_multiple_of(PAGE_SIZE) || ends_inside })
    }
}

/// `0x…` or decimal, no sign and no octal.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => hex(digits),
        None if text.len() > 1 && text.starts_with('0') => None,
        None => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?,
    }
}

/// Hexadecimal digits without a prefix.
pub(super) fn hex(digits: &str) -> Option<u64> {
    let digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A number of bytes with an optional unit, as Linux' `memparse` and GRUB read it.
pub(super) fn size_of(text: &str) -> Option<u64> {
    let shift = match text.bytes().last()?.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => return number(text),
    };
    number(&text[..text.len() - 1])?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_without_guessing() {
        let range = |start, count| PfnRange { start: Pfn(start), count };
        for (text, expect, rounded) in [
            ("0x12345000", range(0x12345, 1), false),
            ("0x12345678", range(0x12345, 1), true),
            ("pfn:0x12345", range(0x12345, 1), false),
            ("pfn:17", range(17, 1), false),
            ("0x1000-0x2fff", range(1, 2), false),
            ("0x1000-0x3000", range(1, 3), true),
            ("pfn:0x10-0x1f", range(0x10, 16), false),
            ("pfn:16-pfn:17", range(16, 2), false),
            ("0x1000+4K", range(1, 1), false),
            ("0x1000+0x1001", range(1, 2), true),
            ("pfn:5+2M", range(5, 512), false),
            ("0xfffffffffffff", range((1 << 40) - 1, 1), true),
        ] {
            assert_eq!(Place::parse(text), Ok(Place { range: expect, rounded }), "{text}");
        }
        for wrong in [
            "",
            "17",
            "12345",
            "0x",
            "0xg",
            "-1",
            "0x2000-0x1000",
            "0x1000+0",
            "0x1000+K",
            "pfn:",
            "pfn:012",
            "0x10000000000000",
            "pfn:0x10000000000",
            "0xffffffffffffffff+2G",
            "x",
            "0x1 ",
        ] {
            assert!(Place::parse(wrong).is_err(), "{wrong:?} {:?}", Place::parse(wrong));
        }
        assert!(Place::parse("4096").unwrap_err().contains("Say which"));
    }
}
