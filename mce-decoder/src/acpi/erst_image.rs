//! The error record store as a file: QEMU's `acpi-erst` backend, or any dump with CPER records.
//!
//! QEMU `hw/acpi/erst.c`: a header (magic `ERSTSTOR`, record size, where records begin, version, how
//! many there are), a map of record identifiers, then slots of the record size, one record each.

use alloc::format;

use ras_core::{ErrorSource, Guid, Problem, ProblemKind as Kind, Timestamp};

use super::{come_from, shift};
use crate::Decoded;
use crate::cper::decode_record;
use crate::layout::number_at;

/// Records taken from one image. QEMU's default store of 64 KiB holds seven.
const RECORDS_MAX: usize = 4096;

/// What Linux' pstore writes for a creator.
const PSTORE: Guid =
    Guid::new(0x75a5_74e3, 0x5052, 0x4b29, [0x8a, 0x8e, 0xbe, 0x2c, 0x64, 0x90, 0xb8, 0x9d]);

/// Decodes every record of a store's image. Free slots are passed over. Problems carry offsets into
/// `input`; time is linear in it.
#[must_use]
pub fn decode_erst_image(input: &[u8]) -> Decoded {
    let mut all = Decoded { consumed: input.len(), ..Decoded::default() };
    match slots(input) {
        Some(Ok((first, size))) => {
            let mut at = first;
            while let Some(slot @ [_, ..]) = input.get(at..) {
                let slot = slot.get(..size).unwrap_or(slot);
                if slot.starts_with(b"CPER") && !take(slot, at, &mut all) {
                    break;
                }
                at = at.saturating_add(size);
            }
        }
        Some(Err(problem)) => {
            all.problems.push(problem);
            scan(input, &mut all);
        }
        None => scan(input, &mut all),
    }
    all
}

/// Where QEMU's slots begin and how large they are; `None` if it is not QEMU's.
fn slots(input: &[u8]) -> Option<Result<(usize, usize), Problem>> {
    const HEADER: usize = 24;
    if !input.starts_with(b"ERSTSTOR") {
        return None;
    }
    let field = |at| number_at(input, at, 4).and_then(|number| usize::try_from(number).ok());
    let (size, first) = (field(8).unwrap_or(0), field(12).unwrap_or(0));
    if size < 128 || first < HEADER || first > input.len() {
        let detail = format!("store with records of {size} bytes from {first} on can't be");
        return Some(Err(Problem { offset: 8, kind: Kind::Malformed, detail }));
    }
    Some(Ok((first, size)))
}

/// Looks for records wherever they begin.
fn scan(input: &[u8], all: &mut Decoded) {
    /// The signature, and the end of it behind the revision.
    fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(b"CPER") && bytes.get(6..10) == Some(&[0xff; 4])
    }
    let mut at = 0;
    while let Some(rest @ [_, ..]) = input.get(at..) {
        if !begins(rest) {
            at += 1;
            continue;
        }
        // A record that lies about its length must not swallow the next one.
        let longest = number_at(rest, 20, 4).and_then(|length| usize::try_from(length).ok());
        let end = match longest {
            Some(length) if length >= 128 && length <= rest.len() => length,
            _ => {
                let behind = rest.get(128..).unwrap_or_default();
                let next = behind.windows(10).position(begins);
                next.map_or(rest.len(), |next| next + 128)
            }
        };
        if !take(rest.get(..end).unwrap_or(rest), at, all) {
            return;
        }
        at += end.max(1);
    }
}

/// Decodes the record in `slot`, which begins at `at`. Returns whether there may be more.
fn take(slot: &[u8], at: usize, all: &mut Decoded) -> bool {
    if all.records.len() >= RECORDS_MAX {
        let detail = format!("more than {RECORDS_MAX} records, the others are left out");
        let offset = u64::try_from(at).unwrap_or(u64::MAX);
        all.problems.push(Problem { offset, kind: Kind::Limit, detail });
        return false;
    }
    let mut decoded = decode_record(slot);
    if slot.get(64..80) == Some(&PSTORE.0) && number_at(slot, 16, 4).unwrap_or(0) & 2 != 0 {
        seconds(slot, &mut decoded);
    }
    all.problems.extend(decoded.problems.into_iter().map(|problem| shift(problem, at)));
    all.records.extend(decoded.records.into_iter().map(|mut record| {
        come_from(ErrorSource::Erst, &mut record);
        record.problems = record.problems.into_iter().map(|problem| shift(problem, at)).collect();
        record
    }));
    true
}

/// Linux' pstore puts seconds since 1970 where CPER has a date.
fn seconds(slot: &[u8], decoded: &mut Decoded) {
    const TIMESTAMP: usize = 24;
    let time = number_at(slot, TIMESTAMP, 8).and_then(|secs| secs.checked_mul(1_000_000_000));
    for record in &mut decoded.records {
        record.time = time.map(Timestamp);
    }
    let is_date = |problem: &Problem| usize::try_from(problem.offset) == Ok(TIMESTAMP);
    decoded.problems.retain(|problem| !is_date(problem));
}
