//! What a log puts before the kernel's own words: when, where, how important.
//!
//! Linux `kernel/printk/printk.c` (`[seconds]`, `[T123]`, `/dev/kmsg` records), util-linux `dmesg`
//! (`-T`, `-x`, `-r`, `--time-format`), `systemd-journald` (`journalctl -o short…`), RFC 3164 and
//! RFC 5424. They nest in any order.

use ras_core::{Detail, Details, Timestamp};

use super::Options;
use crate::date::civil;
use crate::text::bytes::{decimal, find, word};

/// Parts taken off one line. Nobody nests more than a relay's date around a log's date around the
/// kernel's stamps.
const PARTS_MAX: usize = 12;

/// When a line was written, as far as the line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stamp {
    /// The date, where it is complete.
    pub(crate) time: Option<Timestamp>,
    /// The date did not state its zone.
    local: bool,
    /// Month, day, hour, minute and second of a date without a year.
    yearless: Option<[u8; 5]>,
    /// Nanoseconds since the kernel started.
    pub(crate) monotonic_ns: Option<u64>,
}

impl Stamp {
    /// Given by something that knows, such as a journal.
    pub(crate) const fn known(time: Option<Timestamp>, monotonic_ns: Option<u64>) -> Self {
        Self { time, local: false, yearless: None, monotonic_ns }
    }

    /// What the record's time can't hold.
    pub(crate) fn add_to(&self, details: &mut alloc::vec::Vec<Detail>) {
        details.add_some("monotonic_ns", self.monotonic_ns);
        if let Some([month, day, hour, minute, second]) = self.yearless {
            let date = alloc::format!("{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            details.add("date_without_year", date);
        } else if self.local && self.time.is_some() {
            details.add("time_zone", "not stated");
        }
    }
}

/// A line, and what was before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Prefix<'a> {
    pub(crate) stamp: Stamp,
    /// Thread or processor that wrote the line: `T123`, `C5`.
    pub(crate) caller: Option<(u8, u32)>,
    /// Name of the program that wrote it, where it was not the kernel.
    pub(crate) program: Option<&'a [u8]>,
    /// Anything was before the line at all.
    pub(crate) any: bool,
    /// The kernel's own words.
    pub(crate) text: &'a [u8],
}

/// Takes off all that is understood.
pub(crate) fn parse<'a>(line: &'a [u8], options: &Options) -> Prefix<'a> {
    let mut prefix = Prefix { text: bare(line), ..Prefix::default() };
    for _ in 0..PARTS_MAX {
        let taken = match prefix.text {
            _ if is_word(prefix.text) => None,
            [b'[', ..] => brackets(&mut prefix, options),
            [b'<', ..] => priority(prefix.text),
            [b'0'..=b'9', ..] => digits(&mut prefix, options),
            [b'A'..=b'Z', ..] => date(&mut prefix, options),
            [b'a'..=b'z', ..] => name(&mut prefix),
            _ => None,
        };
        let Some(rest) = taken else { break };
        prefix.any = true;
        prefix.text = bare(rest);
    }
    prefix
}

/// Whether a line begins as most lines about errors do, and as no prefix does.
#[inline]
fn is_word(text: &[u8]) -> bool {
    matches!(text.first_chunk(), Some(b"mce:" | b"EDAC" | b"[Har"))
}

/// Without spaces, carriage returns and colours at its ends.
fn bare(text: &[u8]) -> &[u8] {
    let mut text = text.trim_ascii();
    while let Some(rest) = text.strip_prefix(b"\x1b[") {
        let end = rest.iter().take(8).position(|byte| *byte == b'm');
        let Some(rest) = end.and_then(|end| rest.get(end + 1..)) else { break };
        text = rest.trim_ascii_start();
    }
    text
}

/// `<6>`, and the version that RFC 5424 puts after it.
fn priority(text: &[u8]) -> Option<&[u8]> {
    let (priority, rest) = decimal(text.get(1..)?)?;
    let rest = rest.strip_prefix(b">").filter(|_| priority < 1024)?;
    match rest {
        [b'1', b' ', b'0'..=b'9', ..] => rest.get(2..),
        _ => Some(rest),
    }
}

/// `[   12.345678]`, `[   12.345678 <    0.000010>]`, `[  +0.000010]`, `[    T1]`, `[C3]`,
/// `[Tue Nov 14 22:13:20 2023]`, `[Nov14 22:13]`.
fn brackets<'a>(prefix: &mut Prefix<'a>, options: &Options) -> Option<&'a [u8]> {
    let inside = prefix.text.get(1..)?.trim_ascii_start();
    let rest = match inside {
        [b'0'..=b'9', ..] => {
            let (nanos, rest) = seconds(inside)?;
            prefix.stamp.monotonic_ns = Some(nanos);
            rest.strip_prefix(b"]").or_else(|| delta(rest))
        }
        [kind @ (b'T' | b'C'), b'0'..=b'9', ..] => {
            let (number, rest) = decimal(inside.get(1..)?)?;
            let rest = rest.trim_ascii_start().strip_prefix(b"]")?;
            prefix.caller = Some((*kind, u32::try_from(number).ok()?));
            Some(rest)
        }
        [b'+', b'0'..=b'9', ..] => seconds(inside.get(1..)?)?.1.strip_prefix(b"]"),
        _ => {
            let end = find(inside.get(..40).unwrap_or(inside), b"]")?;
            let (date, rest) = (inside.get(..end)?, inside.get(end + 1..)?);
            if let Some((_, after)) = month(date) {
                // `dmesg --reltime`: to the minute, and without a year.
                return clock(decimal(after)?.1.trim_ascii_start()).map(|_| rest);
            }
            let (_weekday, date) = word(date);
            let (month, after) = month(date)?;
            let (day, after) = decimal(after.trim_ascii_start())?;
            let (time, after) = clock(after.trim_ascii_start())?;
            let (year, _) = decimal(after.trim_ascii_start())?;
            set(prefix, options, year, [month, day], time, None);
            Some(rest)
        }
    };
    // `journalctl -o short-monotonic` puts host and program after it; most have the kernel's words.
    rest.map(|rest| match rest {
        [b' ', words @ ..] if is_word(words) => words,
        _ => program(prefix, rest).unwrap_or(rest),
    })
}

/// ` <    0.000010>]`.
fn delta(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii_start().strip_prefix(b"<")?.trim_ascii_start();
    seconds(text)?.1.strip_prefix(b">]")
}

/// `12.345678` in nanoseconds.
fn seconds(text: &[u8]) -> Option<(u64, &[u8])> {
    let (whole, rest) = decimal(text)?;
    let (fraction, rest) = fraction(rest.strip_prefix(b".")?)?;
    Some((whole.checked_mul(1_000_000_000)?.checked_add(fraction)?, rest))
}

/// Digits after the point, in nanoseconds.
fn fraction(text: &[u8]) -> Option<(u64, &[u8])> {
    let (value, rest) = decimal(text)?;
    let digits = u32::try_from(text.len() - rest.len()).ok()?;
    let value = match digits {
        6 => value * 1000,
        0..=9 => value.checked_mul(10_u64.pow(9 - digits))?,
        10..=18 => value / 10_u64.pow(digits - 9),
        _ => return None,
    };
    Some((value, rest))
}

/// `2023-11-14T22:13:20.123456+00:00 host program[1]: `, `1700000000.123456 host program: `, or a
/// record of `/dev/kmsg`: `6,1234,5678901,-;`.
fn digits<'a>(prefix: &mut Prefix<'a>, options: &Options) -> Option<&'a [u8]> {
    let text = prefix.text;
    let (first, rest) = decimal(text)?;
    let rest = match rest {
        [b'-', ..] => {
            let (month, rest) = decimal(rest.get(1..)?)?;
            let (day, rest) = decimal(rest.strip_prefix(b"-")?)?;
            let rest = rest.strip_prefix(b"T").or_else(|| rest.strip_prefix(b" "))?;
            let (time, rest) = clock(rest)?;
            let (zone, rest) = zone(rest);
            set(prefix, options, first, [month, day], time, zone);
            rest
        }
        [b',', ..] => {
            let (_sequence, rest) = decimal(rest.get(1..)?)?;
            let (micros, rest) = decimal(rest.strip_prefix(b",")?)?;
            let end = find(rest.get(..64).unwrap_or(rest), b";")?;
            prefix.stamp.monotonic_ns = micros.checked_mul(1000);
            return rest.get(end + 1..);
        }
        [b'.', ..] if text.len() - rest.len() >= 9 => {
            let (nanos, rest) = seconds(text)?;
            prefix.stamp.time = Some(Timestamp(nanos));
            rest
        }
        _ => return None,
    };
    Some(program(prefix, rest).unwrap_or(rest))
}

/// `Nov 14 22:13:20.123456 host program[1]: `, `Tue 2023-11-14 22:13:20 UTC host program[1]: `.
fn date<'a>(prefix: &mut Prefix<'a>, options: &Options) -> Option<&'a [u8]> {
    let text = prefix.text;
    if let Some((month, rest)) = month(text) {
        let (day, rest) = decimal(rest.trim_ascii_start())?;
        let (time, rest) = clock(rest.trim_ascii_start())?;
        match options.year {
            Some(year) => set(prefix, options, year.into(), [month, day], time, None),
            None => {
                let byte = |part: u64| u8::try_from(part).ok();
                let [hour, minute, second, _] = time;
                let [hour, minute, second] = [byte(hour)?, byte(minute)?, byte(second)?];
                prefix.stamp.yearless = Some([byte(month)?, byte(day)?, hour, minute, second]);
            }
        }
        return Some(program(prefix, rest).unwrap_or(rest));
    }
    let weekday = WEEKDAYS.iter().any(|day| text.starts_with(day.as_bytes()));
    let rest = text.get(4..).filter(|rest| weekday && rest.starts_with(b"20"))?;
    prefix.text = rest;
    digits(prefix, options).or(Some(rest))
}

/// `kern  :emerg : ` of `dmesg -x`, `kernel: `, or `program[1]: `.
fn name<'a>(prefix: &mut Prefix<'a>) -> Option<&'a [u8]> {
    let text = prefix.text;
    let facility = FACILITIES.iter().find_map(|facility| text.strip_prefix(facility.as_bytes()));
    if let Some(rest) = facility
        && let Some(rest) = rest.trim_ascii_start().strip_prefix(b":")
    {
        let level = LEVELS.iter().find_map(|level| rest.strip_prefix(level.as_bytes()));
        if let Some(rest) = level.and_then(|rest| rest.trim_ascii_start().strip_prefix(b":")) {
            return Some(rest);
        }
    }
    let (first, rest) = word(text);
    tag(prefix, first, rest)
}

const FACILITIES: [&str; 4] = ["kern", "user", "daemon", "syslog"];
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
const WEEKDAYS: [&str; 7] = ["Mon ", "Tue ", "Wed ", "Thu ", "Fri ", "Sat ", "Sun "];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `host program[1]: ` or `program[1]: `.
fn program<'a>(prefix: &mut Prefix<'a>, rest: &'a [u8]) -> Option<&'a [u8]> {
    if is_word(rest.strip_prefix(b" ").unwrap_or(rest)) {
        return None;
    }
    let (first, rest) = word(rest);
    if let Some(rest) = tag(prefix, first, rest) {
        return Some(rest);
    }
    if first.ends_with(b":") || first.starts_with(b"[") {
        return None;
    }
    let (second, rest) = word(rest);
    // RFC 5424: process, message id and structured data, all empty.
    if second == b"kernel" {
        return rest.strip_prefix(b"- - - ");
    }
    tag(prefix, second, rest)
}

/// Whether `word` names the program whose words `rest` are. The kernel's own lines begin with words
/// and colons too, so only names that no driver has, or a process number, will do.
fn tag<'a>(prefix: &mut Prefix<'a>, word: &'a [u8], rest: &'a [u8]) -> Option<&'a [u8]> {
    let name = word.strip_suffix(b":")?;
    let bare = name.strip_suffix(b"]").and_then(|name| {
        let open = find(name, b"[")?;
        let (_pid, after) = decimal(name.get(open + 1..)?)?;
        after.is_empty().then(|| name.get(..open))?
    });
    match (bare, name) {
        (Some(b"kernel"), _) | (None, b"kernel") => Some(rest),
        (Some(program), _) if !program.is_empty() => {
            prefix.program = Some(program);
            Some(rest)
        }
        (None, b"mcelog" | b"rasdaemon") => {
            prefix.program = Some(name);
            Some(rest)
        }
        _ => None,
    }
}

/// A month's number from its name.
fn month(text: &[u8]) -> Option<(u64, &[u8])> {
    let name = text.get(..3)?;
    let index = MONTHS.iter().position(|month| month.as_bytes() == name)?;
    Some((u64::try_from(index).ok()? + 1, text.get(3..)?.trim_ascii_start()))
}

/// Hour, minute, second and nanoseconds: `22:13:20`, `22:13:20.123456`, `22:13:20,123456`, `22:13`.
fn clock(text: &[u8]) -> Option<([u64; 4], &[u8])> {
    let (hour, rest) = decimal(text)?;
    let (minute, rest) = decimal(rest.strip_prefix(b":")?)?;
    let Some(rest) = rest.strip_prefix(b":") else {
        return Some(([hour, minute, 0, 0], rest));
    };
    let (second, rest) = decimal(rest)?;
    let point = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b","));
    let (nanos, rest) = point.and_then(fraction).unwrap_or((0, rest));
    Some(([hour, minute, second, nanos], rest))
}

/// Seconds east of Greenwich: `Z`, ` UTC`, `+01:00`, `+0100`.
fn zone(text: &[u8]) -> (Option<i64>, &[u8]) {
    if let Some(rest) = text.strip_prefix(b"Z").or_else(|| text.strip_prefix(b" UTC")) {
        return (Some(0), rest);
    }
    let offset = |text: &[u8]| {
        let (sign, digits) = text.split_first()?;
        let sign = match sign {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let pair = |at: usize| decimal(digits.get(at..at + 2)?).filter(|(_, rest)| rest.is_empty());
        let colon = usize::from(digits.get(2) == Some(&b':'));
        let (hours, minutes) = (pair(0)?.0, pair(2 + colon)?.0);
        let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
        Some((sign * seconds, 5 + colon))
    };
    match offset(text) {
        Some((seconds, length)) => (Some(seconds), text.get(length..).unwrap_or_default()),
        None => (None, text),
    }
}

/// Keeps a complete date. One without a zone is read in the zone of the options.
fn set(
    prefix: &mut Prefix<'_>,
    options: &Options,
    year: u64,
    [month, day]: [u64; 2],
    [hour, minute, second, nanos]: [u64; 4],
    zone: Option<i64>,
) {
    let offset = zone.unwrap_or_else(|| i64::from(options.utc_offset_minutes) * 60);
    prefix.stamp.local = zone.is_none();
    prefix.stamp.time = civil(year, month, day, [hour, minute, second])
        .and_then(|time| time.0.checked_add(nanos))
        .and_then(|nanos| nanos.checked_add_signed(-offset.checked_mul(1_000_000_000)?))
        .map(Timestamp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn check(line: &str, time: Option<Timestamp>, monotonic_ns: Option<u64>) {
        let prefix = parse(line.as_bytes(), &Options::default());
        assert_eq!(prefix.text, b"mce: [Hardware Error]: x", "{line}");
        assert_eq!((prefix.stamp.time, prefix.stamp.monotonic_ns), (time, monotonic_ns), "{line}");
    }

    #[test]
    fn every_log_has_its_own_way_of_putting_it() {
        let (up, dated) = (Some(12_345_678_000), Some(AT));
        let micro = Some(Timestamp(AT.0 + 123_456_000));
        for (before, time, monotonic) in [
            ("", None, None),
            ("\r", None, None),
            ("<0>", None, None),
            ("[   12.345678] ", None, up),
            ("<6>[   12.345678] ", None, up),
            ("[   12.345678][    T1] ", None, up),
            ("[   12.345678] [C17] ", None, up),
            ("[   12.345678 <    0.000100>] ", None, up),
            ("\x1b[32m[   12.345678] \x1b[0m\x1b[31m", None, up),
            ("[  +0.000010] ", None, None),
            ("[Nov14 22:13] ", None, None),
            ("[Tue Nov 14 22:13:20 2023] ", dated, None),
            ("kern  :emerg : [   12.345678] ", None, up),
            ("kern  :err   : [Tue Nov 14 22:13:20 2023] ", dated, None),
            ("2023-11-14T22:13:20,123456+00:00 ", micro, None),
            ("kernel: ", None, None),
            ("6,1234,12345678,-;", None, up),
            ("6,1234,12345678,-,caller=T1;", None, up),
            ("Nov 14 22:13:20 host kernel: [   12.345678] ", None, up),
            ("Nov  4 22:13:20.123456 host kernel: ", None, None),
            ("2023-11-14T22:13:20+0000 host kernel: ", dated, None),
            ("2023-11-14T23:13:20.123456+01:00 host kernel: [   12.345678] ", micro, up),
            ("2023-11-14 22:13:20 host kernel: ", dated, None),
            ("1700000000.123456 host kernel: ", micro, None),
            ("[   12.345678] host kernel: ", None, up),
            ("Tue 2023-11-14 22:13:20 UTC host kernel: ", dated, None),
            ("<2>1 2023-11-14T22:13:20Z host kernel - - - ", dated, None),
        ] {
            check(&format!("{before}mce: [Hardware Error]: x"), time, monotonic);
            check(&format!("{before}mce: [Hardware Error]: x\r"), time, monotonic);
        }
    }

    #[test]
    fn a_year_can_be_given() {
        let options = Options { year: Some(2023), utc_offset_minutes: 60, ..Options::default() };
        let prefix = parse(b"Nov 14 23:13:20 host kernel: x", &options);
        assert_eq!(prefix.stamp.time, Some(AT));
        let prefix = parse(b"Nov 14 22:13:20 host kernel: x", &Options::default());
        let mut details = alloc::vec![];
        prefix.stamp.add_to(&mut details);
        assert_eq!(details[0].value, "11-14T22:13:20".into());
    }

    #[test]
    fn callers_and_programs_are_told() {
        let read = |line: &'static str| parse(line.as_bytes(), &Options::default());
        assert_eq!(read("[    1.000000][  T12] x").caller, Some((b'T', 12)));
        assert_eq!(read("Nov 14 22:13:20 host mcelog[12]: x").program, Some(&b"mcelog"[..]));
        assert_eq!(read("mcelog: x").program, Some(&b"mcelog"[..]));
        assert_eq!(read("Nov 14 22:13:20 host kernel[1]: x").program, None);
        let line = "pcieport 0000:00:1c.0: AER: x";
        assert_eq!((read(line).text, read(line).any), (line.as_bytes(), false));
    }

    proptest! {
        #[test]
        fn any_line_has_some_rest(line in "[\\[\\]<>0-9:. TNovkern-]{0,60}") {
            let prefix = parse(line.as_bytes(), &Options::default());
            prop_assert!(prefix.text.len() <= line.len());
        }

        #[test]
        fn any_bytes_have_some_rest(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let prefix = parse(&line, &Options { year: Some(2023), ..Options::default() });
            prop_assert!(prefix.text.len() <= line.len());
        }
    }
}
