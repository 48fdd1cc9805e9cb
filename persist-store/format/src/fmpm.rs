//! The records in which Linux' FRU Memory Poison Manager (`amd_fmpm`) keeps the addresses that AMD
//! processors reported: one CPER record in ACPI's error record store for each processor package.
//! `persist-store/FORMAT.md`, "Records of the kernel's FMPM", draws the bytes.
//!
//! A [`FruRecord`] is its bytes: whatever was in a record stays in it, and what is added is what the
//! driver would add. Facts from Linux 6.12, `drivers/ras/amd/fmpm.c`; each names its function.
//! Absent: what an address means; see `ras_core::translate`.

use alloc::vec;
use alloc::vec::Vec;

use ras_core::Guid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cper::{PERSISTENCE, RawDescriptor, RawHeader, SIGNATURE};

/// Creator of the driver's records: what it looks for when it starts (`get_saved_records`).
pub const CREATOR: Guid =
    Guid::new(0xcd5c_2993, 0xf4b2, 0x41b2, [0xb5, 0xd4, 0xf9, 0xc3, 0xa0, 0x33, 0x08, 0x75]);

/// Type of the one section in each.
pub const SECTION: Guid =
    Guid::new(0x5e47_06c1, 0x5356, 0x48c6, [0x93, 0x0b, 0x52, 0xf2, 0x12, 0x0a, 0x44, 0x58]);

/// Entries a record has room for, unless the driver's parameter `max_nr_entries` says otherwise.
pub const ROOM_DEFAULT: u8 = 8;

/// `CPER_NOTIFY_MCE`: UEFI Specification, Appendix N, "Notification Type".
const NOTIFY_MCE: Guid =
    Guid::new(0xe8f5_6ffe, 0x919c, 0x4cc5, [0xba, 0x88, 0x65, 0xab, 0xe1, 0x49, 0x13, 0xbb]);

/// `struct cper_sec_fru_mem_poison`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSection {
    checksum: U32,
    validation_bits: U64,
    fru_arch_type: U32,
    fru_arch: U64,
    fru_id_type: U32,
    fru_id: U64,
    nr_entries: U32,
}
const _: () = assert!(size_of::<RawSection>() == 40);

/// `struct cper_fru_poison_desc`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    timestamp: U64,
    hw_id_type: U32,
    hw_id: U64,
    addr_type: U32,
    addr: U64,
}
const _: () = assert!(size_of::<RawEntry>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: RawHeader,
    descriptor: RawDescriptor,
    section: RawSection,
}

/// Bytes before the entries: `sizeof(struct fru_rec)`.
const ENTRIES_AT: usize = size_of::<Raw>();
const ENTRY_SIZE: usize = size_of::<RawEntry>();
const SECTION_AT: usize = size_of::<RawHeader>() + size_of::<RawDescriptor>();

/// The longest record the driver reads: `FMPM_MAX_REC_LEN`.
const LENGTH_MAX: usize = ENTRIES_AT + 255 * ENTRY_SIZE;

// Validation bits, `FMP_VALID_*`: the architecture's type and value, the FRU's type of identifier and
// value, the number of entries, the entries.
const VALID_ARCH_TYPE: u64 = 1;
const VALID_ARCH: u64 = 1 << 1;
const VALID_ID_TYPE: u64 = 1 << 2;
const VALID_ID: u64 = 1 << 3;
const VALID_FRU: u64 = VALID_ARCH_TYPE | VALID_ARCH | VALID_ID_TYPE | VALID_ID;
const VALID_ENTRIES: u64 = 1 << 4 | 1 << 5;

/// Type 0 of the architecture is CPUID.1.EAX, of the FRU's identifier the PPIN, of an entry's hardware
/// MCA_IPID, of its address MCA_ADDR. There are no others.
const TYPE: u32 = 0;

/// The processor package that a record is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fru {
    /// CPUID leaf 1, EAX: family, model and stepping.
    pub cpuid: u32,
    /// The protected processor inventory number.
    pub ppin: u64,
}

/// An address that a memory controller reported, as the controller counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Poison {
    /// When, in seconds since 1970.
    pub time: u64,
    /// MCA_IPID of the bank.
    pub ipid: u64,
    /// MCA_ADDR of the bank.
    pub addr: u64,
}

/// Column and row bit 13 of MI300's MCA_ADDR (`MI300_UMC_MCA_COL`, `MI300_UMC_MCA_ROW13` in
/// `drivers/ras/amd/atl/internal.h`). An entry stands for a whole row, which these do not tell apart.
const ROW_MASK: u64 = !(0x1f << 1 | 1 << 23);

impl Poison {
    /// Whether the driver takes both for one (`fpds_equal`): the same row of the same controller.
    #[must_use]
    pub fn is_same_row(&self, other: &Self) -> bool {
        self.ipid == other.ipid && self.addr & ROW_MASK == other.addr & ROW_MASK
    }
}

/// One record, sound and of this layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FruRecord {
    bytes: Vec<u8>,
}

/// Why bytes are no record of the driver's, or one it would not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejected {
    /// Another program's record (`erst_read_record` passes it over).
    #[error("it is another program's")]
    Foreign,
    /// Shorter than its fixed part (`erst_read_record` fails), or longer than any.
    #[error("it can't be {0} bytes long")]
    Length(usize),
    /// The section's length leaves no room for its fixed part (`fmp_is_valid`).
    #[error("its section can't be {0} bytes long")]
    SectionLength(u32),
    /// The bytes of the section don't add up (`fmp_is_valid`).
    #[error("its checksum is wrong")]
    Checksum,
    /// The processor or the FRU is not named, or in another way than by CPUID and PPIN
    /// (`fmp_is_usable`).
    #[error("it does not say of which processor it is")]
    Unnamed,
    /// More entries than there is room for. The driver does not ask, and reads on behind the record.
    #[error("it claims {0} entries, more than it has room for")]
    Entries(u32),
}

/// A record that has no room for one more entry. The driver drops the entry and says so in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the record of FRU {ppin:#x} is full with {room} entries")]
pub struct Overflow {
    /// The package.
    pub ppin: u64,
    /// How many there are.
    pub room: usize,
}

impl FruRecord {
    /// An empty record, as the driver writes it for a package that has none (`set_rec_fields`,
    /// `set_fmp_fields`). `id` tells it from all others in the store. No room at all is made the
    /// default, as for the driver's parameter.
    #[must_use]
    pub fn new(id: u64, fru: Fru, room: u8) -> Self {
        let room = if room == 0 { ROOM_DEFAULT } else { room };
        let mut bytes = vec![0; ENTRIES_AT + ENTRY_SIZE * usize::from(room)];
        // At most 8400 bytes.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let raw = Raw {
            header: RawHeader {
                signature: SIGNATURE,
                revision: 0x100.into(),
                signature_end: [0xff; 4],
                section_count: 1.into(),
                // Recoverable, here and in the descriptor.
                error_severity: U32::ZERO,
                validation_bits: U32::ZERO,
                record_length: length.into(),
                timestamp: [0; 8],
                platform_id: [0; 16],
                partition_id: [0; 16],
                creator_id: CREATOR.0,
                notification_type: NOTIFY_MCE.0,
                record_id: id.into(),
                // CPER_HW_ERROR_FLAGS_PREVERR.
                flags: 2.into(),
                persistence_information: PERSISTENCE,
                reserved: [0; 12],
            },
            descriptor: RawDescriptor {
                // The descriptor's own place, not the section's behind it; the length is counted from
                // there as well. So the driver reads it, and so must anybody.
                section_offset: 128.into(),
                section_length: (length - 128).into(),
                revision: 0x100.into(),
                validation_bits: 0,
                reserved: 0,
                // CPER_SEC_PRIMARY.
                flags: 1.into(),
                section_type: SECTION.0,
                fru_id: [0; 16],
                section_severity: U32::ZERO,
                fru_text: [0; 20],
            },
            section: RawSection {
                checksum: U32::ZERO,
                validation_bits: VALID_FRU.into(),
                fru_arch_type: TYPE.into(),
                fru_arch: u64::from(fru.cpuid).into(),
                fru_id_type: TYPE.into(),
                fru_id: fru.ppin.into(),
                nr_entries: U32::ZERO,
            },
        };
        bytes[..ENTRIES_AT].copy_from_slice(raw.as_bytes());
        let mut record = Self { bytes };
        record.seal();
        record
    }

    /// Reads a record of the store by the driver's own rules, in its order, and by one more: its
    /// entries have to be inside. That it is of this machine is the caller's to ask, with
    /// [`Self::fru`]; the driver erases a record that is not.
    ///
    /// # Errors
    /// See [`Rejected`].
    pub fn decode(record: &[u8]) -> Result<Self, Rejected> {
        if record.len() < ENTRIES_AT || record.len() > LENGTH_MAX {
            // Of any length, it is nobody's business whose creator is another.
            return Err(match RawHeader::ref_from_prefix(record) {
                Ok((header, _)) if header.creator_id == CREATOR.0 => Rejected::Length(record.len()),
                _ => Rejected::Foreign,
            });
        }
        let found = Self { bytes: record.into() };
        let raw = found.raw().ok_or(Rejected::Foreign)?;
        if raw.header.signature != SIGNATURE || raw.header.creator_id != CREATOR.0 {
            return Err(Rejected::Foreign);
        }
        let section_length = raw.descriptor.section_length.get();
        let length = raw.summed();
        if (length as usize) < size_of::<RawSection>() || length as usize > LENGTH_MAX {
            return Err(Rejected::SectionLength(section_length));
        }
        if found.sum(length as usize).wrapping_add(raw.section.checksum.get()) != 0 {
            return Err(Rejected::Checksum);
        }
        let section = &raw.section;
        let types = [section.fru_arch_type.get(), section.fru_id_type.get()];
        let cpuid = u32::try_from(section.fru_arch.get());
        let valid = section.validation_bits.get() & VALID_FRU;
        if valid != VALID_FRU || types != [TYPE; 2] || cpuid.is_err() {
            return Err(Rejected::Unnamed);
        }
        let entries = section.nr_entries.get();
        if entries as usize > found.room() {
            return Err(Rejected::Entries(entries));
        }
        Ok(found)
    }

    /// The bytes to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record's number in the store.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.raw().map_or(0, |raw| raw.header.record_id.get())
    }

    /// The package it is of.
    #[must_use]
    pub fn fru(&self) -> Fru {
        let section = self.raw().map(|raw| &raw.section);
        Fru {
            cpuid: section.and_then(|raw| raw.fru_arch.get().try_into().ok()).unwrap_or(0),
            ppin: section.map_or(0, |raw| raw.fru_id.get()),
        }
    }

    /// How many entries it has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.bytes.len() - ENTRIES_AT) / ENTRY_SIZE
    }

    /// Its entries, oldest first. One that names its hardware or its address in another way than by
    /// MCA registers is left out, as the driver does (`retire_mem_fmp`), but keeps its place.
    pub fn entries(&self) -> impl Iterator<Item = Poison> {
        self.raw_entries().filter_map(RawEntry::poison)
    }

    /// Adds an entry; `Ok(false)` where its row is there already (`update_fru_record`).
    ///
    /// # Errors
    /// There is no room: [`Overflow`].
    pub fn add(&mut self, poison: Poison) -> Result<bool, Overflow> {
        if self.entries().any(|known| known.is_same_row(&poison)) {
            return Ok(false);
        }
        let count = self.raw_entries().count();
        let room = self.room();
        if count >= room {
            return Err(Overflow { ppin: self.fru().ppin, room });
        }
        let entry = RawEntry {
            timestamp: poison.time.into(),
            hw_id_type: TYPE.into(),
            hw_id: poison.ipid.into(),
            addr_type: TYPE.into(),
            addr: poison.addr.into(),
        };
        let at = ENTRIES_AT + count * ENTRY_SIZE;
        self.bytes[at..at + ENTRY_SIZE].copy_from_slice(entry.as_bytes());
        self.set_count(count + 1);
        Ok(true)
    }

    /// Takes out the entries of a row, and closes the gap; whether there were any. The driver has no
    /// such thing: its list only grows.
    pub fn remove(&mut self, poison: &Poison) -> bool {
        let count = self.raw_entries().count();
        let same = |raw: &RawEntry| raw.poison().is_some_and(|known| known.is_same_row(poison));
        let kept: Vec<u8> = self
            .raw_entries()
            .filter(|raw| !same(raw))
            .flat_map(|raw| raw.as_bytes().iter().copied())
            .collect();
        let left = kept.len() / ENTRY_SIZE;
        if left == count {
            return false;
        }
        self.bytes[ENTRIES_AT..].fill(0);
        self.bytes[ENTRIES_AT..ENTRIES_AT + kept.len()].copy_from_slice(&kept);
        self.set_count(left);
        true
    }

    fn raw(&self) -> Option<&Raw> {
        Raw::ref_from_prefix(&self.bytes).ok().map(|(raw, _)| raw)
    }

    /// None where the validation bits say that there are none (`rec_has_valid_entries`).
    fn raw_entries(&self) -> impl Iterator<Item = &RawEntry> {
        let count = self.raw().map_or(0, |raw| {
            let valid = raw.section.validation_bits.get() & VALID_ENTRIES == VALID_ENTRIES;
            if valid { raw.section.nr_entries.get() as usize } else { 0 }
        });
        let entries = self.bytes.get(ENTRIES_AT..).unwrap_or_default();
        entries
            .chunks_exact(ENTRY_SIZE)
            .filter_map(|bytes| RawEntry::ref_from_bytes(bytes).ok())
            .take(count)
    }

    fn set_count(&mut self, count: usize) {
        if let Ok((raw, _)) = Raw::mut_from_prefix(&mut self.bytes) {
            raw.section.nr_entries = u32::try_from(count).unwrap_or(u32::MAX).into();
            raw.section.validation_bits |= U64::new(VALID_ENTRIES);
        }
        self.seal();
    }

    /// Makes the checksum right: the section's bytes and it add up to 0 (`update_record_on_storage`).
    fn seal(&mut self) {
        let length = self.raw().map_or(0, Raw::summed);
        let checksum = self.sum(length as usize).wrapping_neg();
        if let Ok((raw, _)) = Raw::mut_from_prefix(&mut self.bytes) {
            raw.section.checksum = checksum.into();
        }
    }

    /// The sum of `length` bytes behind the checksum (`do_fmp_checksum`). `length` is the section's,
    /// checksum included, so that the driver adds up four bytes behind the record; in its buffers
    /// those are zero.
    fn sum(&self, length: usize) -> u32 {
        let behind = self.bytes.get(SECTION_AT + 4..).unwrap_or_default();
        behind.iter().take(length).fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()))
    }
}

impl Raw {
    /// Bytes of the section, as the driver counts them (`get_fmp_len`): in 32 bits, where a small
    /// length wraps around.
    fn summed(&self) -> u32 {
        self.descriptor.section_length.get().wrapping_sub(72)
    }
}

impl RawEntry {
    fn poison(&self) -> Option<Poison> {
        let known = self.hw_id_type.get() == TYPE && self.addr_type.get() == TYPE;
        known.then(|| Poison {
            time: self.timestamp.get(),
            ipid: self.hw_id.get(),
            addr: self.addr.get(),
        })
    }
}
