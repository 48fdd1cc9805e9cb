//! What lists and records of the store promise: no panic, time and memory that the input bounds, and
//! what was read is read again after it was written.
//!
//! Their checksums would keep a fuzzer out, so that every input is also read with the checksum made right.

use ras_store_format::cper::{Part, Wreck};
use ras_store_format::crc32c;
use ras_store_format::exclusion::{
    self, DETAILS_MAX, ENTRIES_MAX, ENTRY_SIZE, List, Outcome, PFN_BITS,
};
use ras_store_format::fmpm::{FruRecord, Poison};
use ras_store_format::image::{self, Image};

/// `bytes` behind the magic, with `length` and the checksum of what follows at byte 12 put in place:
/// the beginning that lists, outcomes and images have in common.
fn sealed(bytes: &[u8], magic: &[u8; 8], length_at: usize) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let length = u32::try_from(bytes.len()).ok()?;
    bytes.get_mut(length_at..length_at + 4)?.copy_from_slice(&length.to_le_bytes());
    bytes.get_mut(..8)?.copy_from_slice(magic);
    let checksum = crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    Some(bytes)
}

/// The bytes as they are, and sealed.
fn both(bytes: &[u8], magic: &[u8; 8], length_at: usize, check: impl Fn(&[u8])) {
    check(bytes);
    if let Some(sealed) = sealed(bytes, magic, length_at) {
        check(&sealed);
    }
}

pub(crate) fn exclusion_list(bytes: &[u8]) {
    both(bytes, b"RASXLIST", 16, |copy| {
        let choice = exclusion::choose([None, Some(copy), Some(bytes)]);
        let Ok(list) = List::decode(copy) else { return };
        assert!(list.ranges.len() <= ENTRIES_MAX.min(copy.len() / ENTRY_SIZE));
        assert_eq!(choice.chosen, Some((1, list.clone())));
        let limits = list.limits.bounded();
        let plan = exclusion::plan(&list.ranges, limits);
        assert!(plan.ranges.len() <= limits.ranges_max as usize);
        match list.encode() {
            Ok(written) => {
                assert_eq!(List::decode(&written).as_ref(), Ok(&list));
                // What this version writes, it writes the same way again.
                assert_eq!(List::decode(&written).unwrap().encode().as_ref(), Ok(&written));
            }
            // An entry may say more than the format means it to: the frame after its last is too far.
            Err(_) => assert!(list.ranges.iter().any(|range| range.end() > 1 << PFN_BITS)),
        }
    });
}

pub(crate) fn exclusion_outcome(bytes: &[u8]) {
    both(bytes, b"RASXDONE", 16, |record| {
        let Ok(outcome) = Outcome::decode(record) else { return };
        assert!(outcome.details.len() <= DETAILS_MAX.min(record.len() / 8));
        let written = outcome.encode();
        assert_eq!(Outcome::decode(&written).as_ref(), Ok(&outcome));
    });
}

pub(crate) fn store_image(bytes: &[u8]) {
    both(bytes, b"RASIMAGE", 24, |bytes| {
        let Ok(found) = Image::decode(bytes) else { return };
        let pages = found.state.pages.len() + found.state.suspended.len();
        assert!(pages <= bytes.len());
        let written = found.encode().expect("what was read has a code");
        assert!(
            written.len() <= image::HEADER_SIZE + 4096 + pages * image::PAGE_SIZE_MAX + bytes.len()
        );
        assert_eq!(Image::decode(&written).as_ref(), Ok(&found));
        assert_eq!(image::kept(&image::kept(&found.state)), image::kept(&found.state));
    });
}

pub(crate) fn store_part(bytes: &[u8]) {
    let _ = Wreck::of(bytes);
    if let Some(part) = Part::decode(bytes) {
        assert_eq!(part.encode(), bytes);
    }
    // The same bytes as a share of an image.
    let [copy, number, count, ..] = *bytes else { return };
    let part = Part { copy, number, count, bytes };
    assert_eq!(Part::decode(&part.encode()), Some(part));
}

/// Records of the kernel's FMPM: the one found, the same with its checksum made right, and one that
/// the bytes are entries for.
pub(crate) fn fmpm_record(bytes: &[u8]) {
    fmpm_found(bytes);
    if let Some(sealed) = fmpm_sealed(bytes) {
        fmpm_found(&sealed);
    }
}

fn fmpm_found(bytes: &[u8]) {
    let Ok(record) = FruRecord::decode(bytes) else { return };
    assert_eq!(record.as_bytes(), bytes);
    let count = record.entries().count();
    assert!(count <= record.room());
    assert!(record.room() <= bytes.len() / 32);

    let mut word = bytes.iter().rev().copied();
    let mut next = || u64::from_le_bytes(std::array::from_fn(|_| word.next().unwrap_or(0)));
    let poison = Poison { time: next(), ipid: next(), addr: next() };
    let mut more = record.clone();
    match more.add(poison) {
        Ok(added) => {
            assert_eq!(more.entries().count(), count + usize::from(added));
            assert_eq!(FruRecord::decode(more.as_bytes()).as_ref(), Ok(&more));
            assert!(more.entries().any(|entry| entry.is_same_row(&poison)));
            assert!(more.remove(&poison));
        }
        Err(_) => assert_eq!(more, record),
    }
    assert!(more.entries().all(|entry| !entry.is_same_row(&poison)));
    assert_eq!(FruRecord::decode(more.as_bytes()).as_ref(), Ok(&more));
    assert_eq!((more.id(), more.fru(), more.room()), (record.id(), record.fru(), record.room()));
}

/// With the signature, the creator and the checksum that the driver looks for. Linux 6.12,
/// `drivers/ras/amd/fmpm.c`.
fn fmpm_sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get_mut(..4)?.copy_from_slice(b"CPER");
    bytes.get_mut(64..80)?.copy_from_slice(&ras_store_format::fmpm::CREATOR.0);
    let length = bytes.get(132..136)?.first_chunk().map(|word| u32::from_le_bytes(*word))?;
    let summed = usize::try_from(length.wrapping_sub(72)).ok()?;
    let sum = bytes
        .get(204..)?
        .iter()
        .take(summed)
        .fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    bytes.get_mut(200..204)?.copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    Some(bytes)
}
