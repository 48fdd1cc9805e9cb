//! Calendar dates to [`Timestamp`].

use ras_core::Timestamp;

/// A date and a time of day, in UTC. `None` where it is no date, or outside of what [`Timestamp`] can
/// hold (1970 to 2554).
pub(crate) fn civil(year: u64, month: u64, day: u64, time: [u64; 3]) -> Option<Timestamp> {
    let [hour, minute, second] = time;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // 60: a leap second. Nobody writes a year of five digits.
    let year_known = (1970..10_000).contains(&year);
    if !year_known || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years counted from March, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days_before_year = year * 365 + year / 4 - year / 100 + year / 400;
    let days_before_month = (153 * month + 2) / 5;
    // 1970-01-01 is day 719,468 of this count.
    let days = days_before_year + days_before_month + day - 1 - 719_468;
    let nanos = (days * 86_400 + hour * 3600 + minute * 60 + second).checked_mul(1_000_000_000)?;
    Some(Timestamp(nanos))
}
