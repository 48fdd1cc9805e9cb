//! CPER's date and time: eight bytes of binary-coded decimal.
//!
//! UEFI Specification, Appendix N, "Error record header", Timestamp: seconds, minutes, hours, a flag
//! byte (bit 0: precise), day, month, year, century. It names no time zone; it is read as UTC, which
//! is what firmware's clock is expected to run in on servers.
//!
//! Windows writes the same fields as plain binary numbers. The century tells the two apart: 20 is
//! `0x20` or `0x14`, and no error was recorded in the 1300s.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use ras_core::{Detail, Problem, ProblemKind, Timestamp, Value};

use super::report;

/// The time of a field at `offset` of the input, if its container says that it is valid, and what
/// else there is to say of it: whether it is precise, or the bytes where they are no date.
pub(super) fn read(
    valid: bool,
    bytes: [u8; 8],
    offset: usize,
    problems: &mut Vec<Problem>,
) -> (Option<Timestamp>, Option<Detail>) {
    if !valid {
        return (None, None);
    }
    let time = parse(bytes);
    let (name, value) = match time {
        Some(_) => ("time_precise", Value::Flag(bytes[3] & 1 == 1)),
        None => {
            let detail = "timestamp is no date from 1970 to 2554".into();
            report(problems, offset, ProblemKind::Malformed, detail);
            ("timestamp", Value::Bytes(bytes.into()))
        }
    };
    (time, Some(Detail { name: Cow::Borrowed(name), value }))
}

use crate::date::civil;

/// The time in `bytes`; `None` where it is no date, or outside of what [`Timestamp`] can hold.
fn parse(bytes: [u8; 8]) -> Option<Timestamp> {
    let [second, minute, hour, _flags, day, month, year, century] = bytes;
    let decimal = if (0x13..=0x15).contains(&century) { binary } else { decimal };
    let year = decimal(century)? * 100 + decimal(year)?;
    let (month, day) = (decimal(month)?, decimal(day)?);
    let (hour, minute, second) = (decimal(hour)?, decimal(minute)?, decimal(second)?);
    civil(year, month, day, [hour, minute, second])
}

fn binary(byte: u8) -> Option<u64> {
    (byte <= 99).then(|| byte.into())
}

fn decimal(byte: u8) -> Option<u64> {
    let (tens, units) = (byte >> 4, byte & 15);
    (tens <= 9 && units <= 9).then(|| u64::from(tens) * 10 + u64::from(units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let secs = |bytes| parse(bytes).map(Timestamp::secs);
        assert_eq!(secs([0, 0, 0, 1, 1, 1, 0x70, 0x19]), Some(0));
        assert_eq!(secs([0x20, 0x13, 0x22, 0, 0x14, 0x11, 0x23, 0x20]), Some(1_700_000_000));
        assert_eq!(secs([0x58, 0x59, 0x23, 1, 0x29, 0x02, 0x24, 0x20]), Some(1_709_251_198));
        assert_eq!(secs([20, 13, 22, 0, 14, 11, 23, 20]), Some(1_700_000_000), "binary");
        assert_eq!(secs([20, 13, 22, 0, 14, 11, 123, 20]), None, "a year of 123");
        assert_eq!(secs([0, 0, 0, 0, 0x29, 0x02, 0x23, 0x20]), None, "no leap year");
        assert_eq!(secs([0, 0, 0, 0, 0x29, 0x02, 0x00, 0x20]), Some(951_782_400));
        assert_eq!(secs([0, 0, 0, 0, 0x29, 0x02, 0x00, 0x21]), None, "no leap year either");
        assert_eq!(secs([0, 0, 0, 0, 1, 1, 0x69, 0x19]), None);
        assert_eq!(secs([0x0a, 0, 0, 0, 1, 1, 0x70, 0x19]), None, "no decimal digit");
        assert_eq!(secs([0, 0, 0x24, 0, 1, 1, 0x70, 0x19]), None);
        assert_eq!(secs([0, 0, 0, 0, 0, 1, 0x70, 0x19]), None);
        assert_eq!(secs([0, 0, 0, 0, 1, 0x13, 0x70, 0x19]), None);
        assert_eq!(secs([0, 0, 0, 0, 1, 1, 0, 0x99]), None, "beyond what nanoseconds can count");
    }
}
