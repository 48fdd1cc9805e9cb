//! Numbers in texts, without the general formatter.

use alloc::string::String;

/// `0x` and the number's digits. Records are made by the hundred thousand a second, and the general
/// formatter takes longer than the whole rest of a summary.
pub(crate) fn push_hex(text: &mut String, number: u64) {
    text.push_str("0x");
    push_digits::<16>(text, number);
}

/// The number in decimal.
pub(crate) fn push_number(text: &mut String, number: u64) {
    push_digits::<10>(text, number);
}

fn push_digits<const BASE: u64>(text: &mut String, mut number: u64) {
    // As many as a 64-bit number has in decimal.
    let mut digits = [0; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        let value = (number % BASE).to_le_bytes()[0];
        *digit = if value < 10 { b'0' + value } else { b'a' - 10 + value };
        number /= BASE;
        used += 1;
        if number == 0 {
            break;
        }
    }
    let digits = digits.get(digits.len() - used..).unwrap_or_default();
    text.push_str(core::str::from_utf8(digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn numbers_are_written_as_the_formatter_writes_them() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 0xdead_beef, u64::MAX] {
            let mut text = String::new();
            push_hex(&mut text, number);
            text.push(' ');
            push_number(&mut text, number);
            assert_eq!(text, format!("{number:#x} {number}"));
        }
    }
}
