//! The records of Linux' FMPM, held against what the driver itself wrote: `golden/fmpm_linux_*.bin`
//! are records that `amd_fmpm` of a stock 6.12.117 kernel left in QEMU's `acpi-erst`, at its start and
//! after a machine check of bank 4. `cargo xtask lab erst` lets it read ours.

use ras_store_format::fmpm::{Fru, FruRecord, Overflow, Poison, ROOM_DEFAULT, Rejected};

const EMPTY: &[u8] = include_bytes!("golden/fmpm_linux_6.12.117_empty.bin");
const ONE: &[u8] = include_bytes!("golden/fmpm_linux_6.12.117.bin");

/// The emulated processor and the PPIN it was given.
const FRU: Fru = Fru { cpuid: 0xa9_0f00, ppin: 0x1122_3344_5566_7788 };

fn id(record: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| record[96 + index]))
}

fn poison(number: u64) -> Poison {
    Poison {
        time: 1_795_620_167 + number,
        ipid: 0x96_3009_0000,
        addr: 0x1000_0000 + (number << 10),
    }
}

/// A sound record with `change` made to it, and the checksum right again unless that is what changes.
fn changed(change: impl FnOnce(&mut [u8])) -> Result<FruRecord, Rejected> {
    let mut bytes = ONE.to_vec();
    change(&mut bytes);
    let sum = bytes[204..].iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
    bytes[200..204].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    FruRecord::decode(&bytes)
}

#[test]
fn we_write_what_the_driver_writes_byte_for_byte() {
    let mut record = FruRecord::new(id(EMPTY), FRU, ROOM_DEFAULT);
    assert_eq!(record.as_bytes(), EMPTY, "a new record");
    let seen = Poison { time: 0x6b06_fd47, ipid: 0, addr: 0x2234_5640 };
    assert_eq!(record.add(seen), Ok(true));
    let mut expected = ONE.to_vec();
    expected[96..104].copy_from_slice(&EMPTY[96..104]);
    assert_eq!(record.as_bytes(), expected, "with one entry");
}

#[test]
fn we_read_what_the_driver_wrote() {
    let record = FruRecord::decode(ONE).unwrap();
    assert_eq!((record.id(), record.fru(), record.room()), (id(ONE), FRU, 8));
    let entries: Vec<_> = record.entries().collect();
    assert_eq!(entries, [Poison { time: 0x6b06_fd47, ipid: 0, addr: 0x2234_5640 }]);
    assert_eq!(record.as_bytes(), ONE);
    assert_eq!(FruRecord::decode(EMPTY).unwrap().entries().count(), 0);
}

#[test]
fn a_full_record_says_so() {
    let mut record = FruRecord::new(1, FRU, ROOM_DEFAULT);
    for number in 0..8 {
        assert_eq!(record.add(poison(number)), Ok(true));
    }
    let full = record.clone();
    assert_eq!(record.add(poison(8)), Err(Overflow { ppin: FRU.ppin, room: 8 }));
    // The same row is no new entry, full or not: another column, row bit 13, a later time.
    let again = Poison { time: 0, addr: poison(3).addr ^ (0x1f << 1 | 1 << 23), ..poison(3) };
    assert_eq!(record.add(again), Ok(false));
    assert_eq!(record, full);
    assert_eq!(FruRecord::decode(full.as_bytes()), Ok(full));

    assert!(record.remove(&again));
    assert!(!record.remove(&again));
    let left: Vec<_> = record.entries().collect();
    assert_eq!(left, [0, 1, 2, 4, 5, 6, 7].map(poison));
    assert_eq!(FruRecord::decode(record.as_bytes()).as_ref(), Ok(&record));
    assert_eq!(record.add(poison(8)), Ok(true));
    assert_eq!(FruRecord::new(1, FRU, 0).room(), 8);
    assert_eq!(FruRecord::new(1, FRU, 255).as_bytes().len(), 8400);
}

/// `erst_read_record`, `fmp_is_valid` and `fmp_is_usable`, one by one.
#[test]
fn what_the_driver_refuses_we_refuse() {
    assert_eq!(changed(|_| {}).unwrap().as_bytes(), ONE);
    for (change, expected) in [
        // erst_read_record: creator, length.
        ((64, 0), Rejected::Foreign),
        ((0, b'X'), Rejected::Foreign),
        // fmp_is_usable: each validation bit, each type.
        ((204, 0x3e), Rejected::Unnamed),
        ((204, 0x3d), Rejected::Unnamed),
        ((204, 0x3b), Rejected::Unnamed),
        ((204, 0x37), Rejected::Unnamed),
        ((212, 1), Rejected::Unnamed),
        ((224, 1), Rejected::Unnamed),
    ] {
        let (at, byte) = change;
        assert_eq!(changed(|bytes| bytes[at] = byte), Err(expected), "byte {at}");
    }
    assert_eq!(FruRecord::decode(&ONE[..239]), Err(Rejected::Length(239)));
    // fmp_is_valid: the section's length, which counts from the descriptor's place.
    let length =
        |length: u32| changed(|bytes| bytes[132..136].copy_from_slice(&length.to_le_bytes()));
    assert_eq!(length(111), Err(Rejected::SectionLength(111)));
    assert_eq!(length(71), Err(Rejected::SectionLength(71)), "wraps around in 32 bits");
    // rec_has_valid_entries: without its bits a list is none, whatever its count says.
    for bits in [0x1f, 0x2f] {
        assert_eq!(changed(|bytes| bytes[204] = bits).unwrap().entries().count(), 0);
    }
    // retire_mem_fmp: an entry of another kind.
    assert_eq!(changed(|bytes| bytes[248] = 1).unwrap().entries().count(), 0);
    assert_eq!(changed(|bytes| bytes[260] = 1).unwrap().entries().count(), 0);
    // The driver does not ask this one, and reads behind its buffer.
    assert_eq!(changed(|bytes| bytes[236] = 9), Err(Rejected::Entries(9)));
    // Another machine's is sound; the caller compares, and the driver erases it.
    assert_eq!(changed(|bytes| bytes[228] = 0).unwrap().fru().ppin, 0x1122_3344_5566_7700);
}

#[test]
fn a_flipped_bit_in_the_section_is_seen_or_leaves_the_meaning() {
    for at in 0..ONE.len() {
        for bit in 0..8 {
            let mut bytes = ONE.to_vec();
            bytes[at] ^= 1 << bit;
            let read = FruRecord::decode(&bytes);
            // One additive checksum over the section sees every single flip there.
            if at >= 200 {
                assert_eq!(read, Err(Rejected::Checksum), "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn no_input_is_a_panic() {
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap()
    };
    for _ in 0..20_000 {
        let mut bytes = ONE.to_vec();
        bytes.resize(random() % 9000, 0xff);
        for _ in 0..random() % 8 {
            let length = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(random() % length) {
                *byte = random().to_le_bytes()[0];
            }
        }
        let sum = bytes
            .get(204..)
            .unwrap_or_default()
            .iter()
            .fold(0u32, |a, &b| a.wrapping_add(b.into()));
        if let Some(checksum) = bytes.get_mut(200..204) {
            checksum.copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        }
        if let Ok(mut record) = FruRecord::decode(&bytes) {
            let _ = record.add(poison(1));
            record.remove(&poison(1));
            assert!(record.entries().count() <= record.room());
        }
    }
}
