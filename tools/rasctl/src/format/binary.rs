//! Firmware's records as bytes.

use mce_decoder::{Decoded, cper};
use ras_core::{ErrorRecord, Problem, ProblemKind};

use crate::input::Input;
use crate::read::{Options, Output, Stop};

/// Longest record taken, in bytes. Real ones are below 64 KiB, those that carry crash logs below 1 MiB.
const RECORD_MAX: usize = 4 << 20;

/// UEFI Specification, Appendix N, "Record Header": its size, and where the record's length is.
const HEADER: usize = 128;
const LENGTH_AT: usize = 20;

const SIGNATURE: &[u8] = b"CPER";

pub(super) fn is_cper(start: &[u8]) -> bool {
    start.starts_with(SIGNATURE)
}

/// Records one after the other. Padding between them is passed over; other bytes are damage.
pub(super) fn cper(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    loop {
        input.skip_while(|byte| matches!(byte, 0 | 0xff))?;
        let at = input.offset();
        let head = input.peek(HEADER)?;
        if head.is_empty() {
            return Ok(());
        }
        if !is_cper(head) {
            let count = input.skip_to(SIGNATURE)?;
            let detail = format!("{count} bytes are no record");
            output.damage(None, Problem { offset: at, kind: ProblemKind::Malformed, detail })?;
            continue;
        }
        let length = match word(head, LENGTH_AT) {
            Some(length) if (HEADER..=RECORD_MAX).contains(&length) => length,
            // A length that can't be: the record ends where the next one begins.
            _ => {
                let seen = input.peek(RECORD_MAX)?;
                let seen = &seen[..seen.len().min(RECORD_MAX)];
                let next = memchr::memmem::find(&seen[SIGNATURE.len()..], SIGNATURE);
                next.map_or(seen.len(), |next| next + SIGNATURE.len())
            }
        };
        let available = input.peek(length)?;
        let record = &available[..length.min(available.len())];
        let decoded = cper::decode_record(record);
        let count = record.len();
        hand_on(decoded, at, None, output)?;
        input.consume(count);
    }
}

/// ACPI Specification, "Generic Error Status Block": five words.
const BLOCK_HEADER: usize = 20;

/// Whether this can be a block: reserved bits are zero, it announces an entry that has room in it, and
/// its severity is defined.
pub(super) fn is_status_block(start: &[u8]) -> bool {
    const ENTRY: usize = 64;
    let block = |start| -> Option<bool> {
        let (status, severity) = (word(start, 0)?, word(start, 16)?);
        let (entries, reserved) = (status >> 4 & 0x3ff, status >> 14);
        let data = word(start, 12)?;
        let length = block_length(start)?;
        Some(
            reserved == 0
                && status & 0xf != 0
                && severity <= 3
                && length <= RECORD_MAX
                && data >= ENTRY * entries.max(1),
        )
    };
    block(start).unwrap_or(false)
}

/// Blocks one after the other. They have no signature to find the next one by: zeros after the last
/// one are the rest of its region, anything else is damage.
pub(super) fn status_block(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    loop {
        let at = input.offset();
        let head = input.peek(BLOCK_HEADER)?;
        if head.is_empty() {
            return Ok(());
        }
        if head.iter().take(BLOCK_HEADER).all(|byte| *byte == 0) {
            input.skip_while(|byte| byte == 0)?;
            if input.peek(1)?.is_empty() {
                return Ok(());
            }
            return rest_is_no_block(input, output);
        }
        let length = block_length(head).filter(|length| *length <= RECORD_MAX);
        let severity = word(head, 16);
        let Some(length) = length.filter(|_| severity.is_some_and(|number| number <= 3)) else {
            // Where it is the first one, the decoder shall say what is wrong with it.
            if at > 0 {
                return rest_is_no_block(input, output);
            }
            let available = input.peek(RECORD_MAX)?;
            let decoded = cper::decode_status_block(&available[..available.len().min(RECORD_MAX)]);
            let count = decoded.consumed.max(1);
            hand_on(decoded, at, None, output)?;
            input.consume(count);
            continue;
        };
        let available = input.peek(length)?;
        let block = &available[..length.min(available.len())];
        let count = block.len();
        hand_on(cper::decode_status_block(block), at, None, output)?;
        input.consume(count);
    }
}

fn rest_is_no_block(input: &mut Input, output: &mut Output<'_>) -> Result<(), Stop> {
    let detail = "no error status block; the rest is not read".into();
    output.damage(None, Problem { offset: input.offset(), kind: ProblemKind::Malformed, detail })
}

/// Bytes of the block that starts here.
fn block_length(head: &[u8]) -> Option<usize> {
    let (raw_offset, raw_length, data) = (word(head, 4)?, word(head, 8)?, word(head, 12)?);
    let raw_end = if raw_length > 0 { raw_offset.checked_add(raw_length)? } else { 0 };
    Some(raw_end.max(BLOCK_HEADER.checked_add(data)?))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(word).ok()
}

/// What was decoded from bytes that begin at `base`.
pub(super) fn hand_on(
    decoded: Decoded,
    base: u64,
    line: Option<u64>,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let (records, outside) = split(decoded);
    for mut record in records {
        record.problems.iter_mut().for_each(|problem| shift(problem, base));
        output.record(base, line, record)?;
    }
    for mut problem in outside {
        shift(&mut problem, base);
        output.damage(line, problem)?;
    }
    Ok(())
}

const fn shift(problem: &mut Problem, base: u64) {
    problem.offset = problem.offset.saturating_add(base);
}

/// Records, and the problems that are in none of them.
pub(super) fn split(decoded: Decoded) -> (Vec<ErrorRecord>, Vec<Problem>) {
    let Decoded { records, mut problems, .. } = decoded;
    problems.retain(|problem| !records.iter().any(|record| record.problems.contains(problem)));
    (records, problems)
}
