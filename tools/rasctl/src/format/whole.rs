//! Formats whose decoders take an input as a whole: tables and stores that firmware or Windows keeps
//! small.

use mce_decoder::{Decoded, acpi, pstore, whea};
use ras_core::{Problem, ProblemKind};

use super::binary;
use crate::input::Input;
use crate::read::{Options, Output, Stop};
use crate::whea_xml;

/// Bytes taken of such an input. Firmware's stores have below a megabyte, a saved event log of Windows'
/// some 20 MiB by default; what is longer is decoded up to here.
const WHOLE_MAX: usize = 64 << 20;

/// ACPI Specification, "System Description Table Header".
const TABLE_HEADER: usize = 36;

/// The table, or the region alone where its name says so. Linux shows both as `BERT`, the region in
/// `/sys/firmware/acpi/tables/data`. The region is a generic error status block (ACPI Specification,
/// "Boot Error Source"): by its bytes it could be any other source's.
pub(super) fn is_bert(name: &str, start: &[u8]) -> bool {
    let base = name.rsplit('/').next().unwrap_or(name);
    let stem = base.split('.').next().unwrap_or(base);
    is_bert_table(start) || stem.eq_ignore_ascii_case("BERT") && binary::is_status_block(start)
}

fn is_bert_table(start: &[u8]) -> bool {
    is_table_of(start, &[b"BERT"])
}

pub(super) fn is_acpi_table(start: &[u8]) -> bool {
    is_table_of(start, &[b"HEST", b"ERST", b"EINJ"])
}

/// A header's length and revision are plausible: text may begin with such a word, too.
fn is_table_of(start: &[u8], signatures: &[&[u8; 4]]) -> bool {
    let Some((signature, rest)) = start.split_first_chunk::<4>() else { return false };
    let length = rest.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    let header = usize::try_from(length).is_ok_and(|length| length >= TABLE_HEADER);
    signatures.contains(&signature) && header && length < 1 << 24
}

/// The table with what follows it, or the region alone.
pub(super) fn bert(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    whole(input, output, |bytes| match is_bert_table(bytes) {
        true => acpi::decode_table(bytes),
        false => acpi::decode_bert_region(bytes),
    })
}

/// Tables one after the other.
pub(super) fn acpi_table(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    whole(input, output, |bytes| Decoded::sequence(bytes, acpi::decode_table))
}

/// QEMU's store has a signature; others are told by their records, as CPER.
pub(super) fn is_erst(start: &[u8]) -> bool {
    start.starts_with(b"ERSTSTOR")
}

pub(super) fn erst(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    whole(input, output, acpi::decode_erst_image)
}

/// Files of pstore have no signature but their names, which the kernel gives: KIND-BACKEND-NUMBER.
pub(super) fn is_pstore(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let mut parts = name.splitn(3, '-');
    let kind = matches!(parts.next(), Some("dmesg" | "mce"));
    let backend = matches!(
        parts.next(),
        Some("erst" | "efi" | "efi_pstore" | "ramoops" | "pstore_blk" | "nvram")
    );
    let number = parts.next().is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    kind && backend && number
}

pub(super) fn pstore(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let name = output.file().to_owned();
    whole(input, output, |bytes| pstore::decode(&name, bytes))
}

pub(super) fn is_whea_raw(start: &[u8]) -> bool {
    [b"WhLg", b"WHEA", b"ErPt"].iter().any(|signature| start.starts_with(*signature))
        && start.get(4..8).is_some_and(|version| version.contains(&0))
}

pub(super) fn whea_raw(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    whole(input, output, whea::decode_raw)
}

/// Events of hardware errors among the first; UTF-16 has a zero in every character.
pub(super) fn is_whea_xml(start: &[u8]) -> bool {
    let found = |needle: &[u8]| memchr::memmem::find(start, needle).is_some();
    whea_xml::looks_like(start)
        && (found(b"WHEA") || found(b"W\0H\0E\0A\0") || found(b"\0W\0H\0E\0A"))
}

pub(super) fn whea_xml(
    input: &mut Input,
    _options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    whole(input, output, whea_xml::decode)
}

/// Decodes all of the input at once. Its records have no places of their own in it.
fn whole(
    input: &mut Input,
    output: &mut Output<'_>,
    decode: impl Fn(&[u8]) -> Decoded,
) -> Result<(), Stop> {
    let available = input.peek(WHOLE_MAX + 1)?;
    let bytes = &available[..available.len().min(WHOLE_MAX)];
    let decoded = decode(bytes);
    let is_longer = available.len() > WHOLE_MAX;
    input.consume(usize::MAX);
    binary::hand_on(decoded, 0, None, output)?;
    if is_longer {
        let detail = format!("only the first {WHOLE_MAX} bytes are decoded");
        let offset = WHOLE_MAX as u64;
        output.damage(None, Problem { offset, kind: ProblemKind::Limit, detail })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pstore_is_told_by_its_names() {
        for name in ["/sys/fs/pstore/dmesg-erst-7265938475", "mce-erst-12", "dmesg-efi-1.enc.z"] {
            assert!(is_pstore(name), "{name}");
        }
        for name in
            ["dmesg", "dmesg-2024-01-01.log", "dmesg-erst", "console-ramoops-0", "a/mce-x-1"]
        {
            assert!(!is_pstore(name), "{name}");
        }
    }

    #[test]
    fn a_region_is_told_by_its_name() {
        let mut block = vec![0; 20 + 72];
        block[0] = 0x11;
        block[12] = 72;
        block[16] = 2;
        for name in ["/sys/firmware/acpi/tables/data/BERT", "BERT", "bert.bin"] {
            assert!(is_bert(name, &block), "{name}");
            assert!(!is_bert(name, &[0; 92]), "{name}");
        }
        assert!(!is_bert("ghes.bin", &block));
        let found = crate::format::detect(&block, "-");
        assert_eq!(found.map(|format| format.name), Some("status-block"));
    }

    #[test]
    fn words_are_no_tables() {
        for text in ["BERT went home today and saw nothing at all", "HEST", "WHEA was a wheal"] {
            assert!(!is_bert("BERT", text.as_bytes()) && !is_acpi_table(text.as_bytes()), "{text}");
            assert!(!is_whea_raw(text.as_bytes()), "{text}");
        }
    }
}
