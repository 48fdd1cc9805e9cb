//! Intel's log of the last retried read of a channel, as EDAC prints it behind an error:
//! `retry_rd_err_log[0001a209 00000000 00110000 04c4f2c2 00012345]`.
//!
//! Its parity syndrome tells which data lines (DQ) and which beats of the burst a correction changed:
//! what foretells loss of data better than any count of errors.
//!
//! ```text
//!   Skylake, Cascade, Cooper Lake   log misc parity address1 address2        (Linux, skx_base.c)
//!   Ice Lake                        log misc parity address1 address2 (64)   (Linux, i10nm_base.c)
//!   Sapphire Rapids and later       6 or 12 registers, a parity of 64 bits: its order is not published
//! ```

use alloc::vec::Vec;

use ras_core::{Detail, Details as _, ErrorRecord, Severity, Value};

/// Registers taken: Linux prints 12 at most.
const REGISTERS_MAX: usize = 16;

/// RETRY_RD_ERR_LOG: V, and UC. Linux, `i10nm_base.c`.
const VALID: u64 = 1 << 0;
const UNCORRECTED: u64 = 1 << 1;

/// Beats of a DDR4 burst, and data lines of an x4 device. Nothing published tells from the log that the
/// device is one and that its errors are corrected as a whole; whoever evaluates the bits says so.
const BEATS: u32 = 8;
const LINES: u32 = 4;

/// Takes the registers out of `text` into details; and into `error_bits` where they locate the error
/// of `record`.
pub(crate) fn take(text: &str, record: &mut ErrorRecord) {
    for name in ["retry_rd_err_log", "correrrcnt"] {
        let Some((_, after)) = text.split_once(name) else { continue };
        let Some((inside, _)) = after.strip_prefix('[').and_then(|after| after.split_once(']'))
        else {
            continue;
        };
        let words = inside.split_whitespace().take(REGISTERS_MAX);
        let words: Option<Vec<(u64, usize)>> =
            words.map(|word| Some((u64::from_str_radix(word, 16).ok()?, word.len()))).collect();
        let Some(words) = words.filter(|words| !words.is_empty()) else { continue };
        let registers = words.iter().map(|(value, _)| Value::Hex(*value)).collect();
        record.details.add(name, Value::List(registers));
        if name == "retry_rd_err_log"
            && let Some(bits) = error_bits(&words, record)
        {
            record.details.add("error_bits", Value::Group(bits));
        }
    }
}

/// The data lines and beats that were wrong. `None` where the log does not say so for certain: it is
/// not valid, of an uncorrected error, or of a generation whose syndrome has another form.
///
/// The order of the 32 bits is that of the SmartMem data set and of M2-MFP (KDD 2025): four lines of
/// one beat, eight times.
fn error_bits(registers: &[(u64, usize)], record: &ErrorRecord) -> Option<Vec<Detail>> {
    let (log, parity) = match registers {
        // The widths tell generations apart.
        [(log, 8), (_, 8), (parity, 8), (_, 8), (_, 8)]
        | [(log, 8), (_, 8), (parity, 8), (_, 8), (_, 8), (_, 16)] => (*log, *parity),
        _ => return None,
    };
    let located = log & (VALID | UNCORRECTED) == VALID && parity != 0;
    if !located || record.severity != Severity::Corrected {
        return None;
    }
    let beat = |number: u32| parity >> (number * LINES) & ((1 << LINES) - 1);
    let beats = (0..BEATS).filter(|number| beat(*number) != 0).count();
    let lines = (0..BEATS).fold(0, |lines, number| lines | beat(number)).count_ones();
    let mut bits = Vec::new();
    bits.add_hex("mask", parity);
    bits.add("bits", parity.count_ones());
    bits.add("dqs", lines);
    bits.add("beats", beats as u64);
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::{ErrorSource, Severity};

    fn taken(severity: Severity, text: &str) -> ErrorRecord {
        let mut record = ErrorRecord { severity, ..ErrorRecord::new(ErrorSource::KernelEdac) };
        take(text, &mut record);
        record
    }

    fn figures(record: &ErrorRecord) -> Option<(u64, u64)> {
        let bits = record.details.iter().find(|detail| detail.name == "error_bits")?;
        let Value::Group(bits) = &bits.value else { return None };
        let number = |name: &str| {
            bits.iter().find_map(|detail| match detail.value {
                Value::Number(number) if detail.name == name => Some(number),
                _ => None,
            })
        };
        Some((number("dqs")?, number("beats")?))
    }

    #[test]
    fn the_syndrome_tells_lines_and_beats() {
        let figures = |parity: &str| {
            let text = alloc::format!(
                "row:0x1f retry_rd_err_log[0000a209 00000000 {parity} 04c4f2c2 0000001f] \
                 correrrcnt[0001 0000 0000 0000 0000 0000 0000 0000]"
            );
            let record = taken(Severity::Corrected, &text);
            let names: Vec<_> = record.details.iter().map(|detail| detail.name.as_ref()).collect();
            assert_eq!(names.first(), Some(&"retry_rd_err_log"));
            assert_eq!(names.last(), Some(&"correrrcnt"));
            super::tests::figures(&record)
        };
        assert_eq!(figures("00000001"), Some((1, 1)));
        assert_eq!(figures("00000003"), Some((2, 1)), "two lines in one beat");
        assert_eq!(figures("00000011"), Some((1, 2)), "one line in two beats");
        assert_eq!(figures("00000012"), Some((2, 2)));
        assert_eq!(figures("ffffffff"), Some((4, 8)));
        assert_eq!(figures("00000000"), None);
    }

    #[test]
    fn what_is_not_of_this_error_or_of_this_form_says_nothing() {
        let log = "retry_rd_err_log[0000a209 00000000 00000012 04c4f2c2 0000001f]";
        let corrected = Severity::Corrected;
        assert!(figures(&taken(corrected, log)).is_some());
        // Ice Lake prints one more.
        let ice = log.replace(']', " 0000000123456780]");
        assert!(figures(&taken(corrected, &ice)).is_some());
        for (severity, log) in [
            (Severity::Ucna, log.into()),
            (corrected, log.replace("0000a209", "0000a208")),
            (corrected, log.replace("0000a209", "0000a20b")),
            // Sapphire Rapids.
            (corrected, log.replace("00000012", "0000000000000012")),
            (corrected, log.replace("]", " 0000000123456780 00000000]")),
            (corrected, log.replace(" 04c4f2c2", "")),
        ] {
            assert_eq!(figures(&taken(severity, &log)), None, "{log}");
        }
        for damaged in
            ["retry_rd_err_log", "retry_rd_err_log[", "retry_rd_err_log[]", "retry_rd_err_log[x]"]
        {
            assert!(taken(corrected, damaged).details.is_empty(), "{damaged}");
        }
    }
}
