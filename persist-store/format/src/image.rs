//! A whole list in one piece: what a medium holds that is small and takes no appends, a firmware
//! variable or an error record. `persist-store/FORMAT.md`, "Image", draws the bytes.
//!
//! ```text
//! State --kept--> State --Image::encode--> bytes, twice on the medium --Image::decode--> State
//! ```
//! Pages are kept with all that tells whether they still mean the same cells; what is said about them
//! for people is not. Whatever changes with every boot is left out too, so that a page costs one
//! write in its life.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ras_core::{
    Dimm, DimmIdentity, DimmLocation, Location, MapEpoch, Pfn, RetireState, RetiredPage, SmolStr,
    Timestamp,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::entry::{NAME_MAX, REASONS, SEVERITIES, SOURCES, code, meaning, narrow};
use crate::wire::{Reader, Writer};
use crate::{Damage, EncodeError, State, Suspended, crc32c};

/// The format's version.
pub const VERSION: u16 = 1;

/// Bytes before the body.
pub const HEADER_SIZE: usize = size_of::<RawHeader>();

/// Findings of damage kept, the newest. The image says that there is damage; the log says the rest.
pub const DAMAGE_KEPT: usize = 2;

/// The most bytes one page can add, with texts, a module and an epoch that no other page shares.
/// `FORMAT.md` adds them up; a test holds the sum.
pub const PAGE_SIZE_MAX: usize = 10 + 5 + 10 + 5 + 5 + 5 + 16 * 5 + 5 + 4 + 8 + 6 * 257 + 35;

/// A list and where it stands in history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Grows with each write.
    pub generation: u64,
    /// The boot in which it was written: Linux' `boot_id`.
    pub boot: [u8; 16],
    /// Bytes the medium took in that boot, this image's copies included.
    pub boot_bytes: u64,
    /// The list: what [`kept`] leaves of it.
    pub state: State,
}

/// Why bytes are no image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageFault {
    /// Not one, or one that was damaged.
    Damaged,
    /// One of a newer version.
    Newer {
        /// Its version; this program's own where only a code in it is newer.
        version: u16,
    },
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    checksum: U32,
    version: U16,
    reserved: U16,
    generation: U64,
    length: U32,
    pages: U32,
    boot: [u8; 16],
    boot_bytes: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 56);

const MAGIC: [u8; 8] = *b"RASIMAGE";

/// What the checksum covers begins behind it.
const CHECKED_FROM: usize = 12;

// One table for both directions, as for the journal; a code is never given a second meaning.
const STATES: &[(u8, RetireState)] = &[
    (0, RetireState::Pending),
    (1, RetireState::Retired),
    (2, RetireState::Failed),
    (3, RetireState::Probation),
    (4, RetireState::Expired),
    (5, RetireState::Stale),
];

/// What an image keeps of a list.
///
/// - Pages: `updated` as `since`, no attempts and no words about them. One that is to be out of use is
///   [`RetireState::Pending`], whatever came of it in this boot: who reads an image back has to act
///   anew.
/// - Suspended entries: the same, and not whose word it was.
/// - Damage: the last [`DAMAGE_KEPT`] findings.
/// - Nothing else: no observations, no audit, no state of the node.
#[must_use]
pub fn kept(state: &State) -> State {
    let mut kept = State::default();
    kept.pages = state.pages.iter().map(|(pfn, page)| (*pfn, Box::new(kept_page(page)))).collect();
    let suspended = state.suspended.iter();
    kept.suspended = suspended.map(|(key, entry)| (*key, suspended_of(&entry.page))).collect();
    let skipped = state.damage.len().saturating_sub(DAMAGE_KEPT);
    kept.damage = state.damage.iter().skip(skipped).map(kept_damage).collect();
    kept
}

fn suspended_of(page: &RetiredPage) -> Suspended {
    Suspended { page: kept_page(page), who: String::new(), note: String::new() }
}

fn kept_page(page: &RetiredPage) -> RetiredPage {
    let since = page.since;
    RetiredPage {
        pfn: page.pfn,
        reason: page.reason,
        state: if page.state.is_suspended() { page.state } else { RetireState::Pending },
        severity: page.severity,
        source: page.source,
        since,
        updated: since,
        attempts: 0,
        location: Location {
            fru: page.location.fru.as_deref().map(|fru| cut(fru).into()),
            pci: None,
            ..page.location.clone()
        },
        dimm: page.dimm.as_deref().map(|dimm| Arc::new(kept_dimm(dimm))),
        epoch: page.epoch,
        diagnosis: SmolStr::default(),
        outcome: SmolStr::default(),
    }
}

fn kept_dimm(dimm: &Dimm) -> Dimm {
    let DimmIdentity { manufacturer, part, serial } = &dimm.identity;
    let text = |text: &Option<String>| text.as_deref().map(cut);
    Dimm {
        identity: DimmIdentity {
            manufacturer: text(manufacturer),
            part: text(part),
            serial: text(serial),
        },
        locator: cut(&dimm.locator),
        bank_locator: cut(&dimm.bank_locator),
        size: dimm.size,
    }
}

fn kept_damage(damage: &Damage) -> Damage {
    Damage { time: damage.time, detail: cut(&damage.detail), quarantined: cut(&damage.quarantined) }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(usize::from(NAME_MAX))].into()
}

impl Image {
    /// The whole image.
    ///
    /// # Errors
    /// A page holds a value the format has no code for.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut pages: Vec<&RetiredPage> = self.state.all_pages().collect();
        pages.sort_by_key(|page| page.pfn);
        let mut tables = Tables::default();
        let mut list = Writer::default();
        let base = pages.iter().map(|page| page.since.0).min().unwrap_or(0);
        let mut last = 0;
        for page in &pages {
            list.varint(page.pfn.0.saturating_sub(last));
            last = page.pfn.0;
            let kind = [
                code(REASONS, page.reason, "reason", page.reason.name())?,
                code(STATES, page.state, "state", page.state.name())?,
                code(SEVERITIES, page.severity, "severity", page.severity.name())?,
                code(SOURCES, page.source, "source", page.source.name())?,
            ];
            list.varint(tables.kinds.index(kind));
            list.varint(page.since.0.saturating_sub(base));
            list.varint(tables.dimm(page.dimm.as_deref()));
            list.varint(match page.epoch {
                Some(epoch) => tables.epochs.index(epoch.0).saturating_add(1),
                None => 0,
            });
            encode_location(&mut list, &page.location, &mut tables);
        }
        let mut body = Writer(alloc::vec![0; HEADER_SIZE]);
        tables.encode(&mut body);
        body.varint(base);
        body.varint(self.state.damage.len() as u64);
        for damage in &self.state.damage {
            body.u64(damage.time.0);
            body.text(&damage.detail, NAME_MAX);
            body.text(&damage.quarantined, NAME_MAX);
        }
        body.0.extend(list.0);

        let mut bytes = body.0;
        let mut header = RawHeader {
            magic: MAGIC,
            checksum: U32::ZERO,
            version: VERSION.into(),
            reserved: U16::ZERO,
            generation: self.generation.into(),
            // A page number is as long as the address space is wide: lists stay far below 4 GiB.
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX).into(),
            pages: u32::try_from(pages.len()).unwrap_or(u32::MAX).into(),
            boot: self.boot,
            boot_bytes: self.boot_bytes.into(),
        };
        bytes[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        header.checksum = crc32c(&bytes[CHECKED_FROM..]).into();
        bytes[..HEADER_SIZE].copy_from_slice(header.as_bytes());
        Ok(bytes)
    }

    /// Reads an image: all of `bytes`. Takes time and memory linear in them.
    ///
    /// # Errors
    /// See [`ImageFault`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageFault> {
        let (header, body) = RawHeader::ref_from_prefix(bytes).map_err(|_| ImageFault::Damaged)?;
        let checked = bytes.get(CHECKED_FROM..).unwrap_or_default();
        if header.magic != MAGIC
            || usize::try_from(header.length.get()) != Ok(bytes.len())
            || header.checksum.get() != crc32c(checked)
        {
            return Err(ImageFault::Damaged);
        }
        let version = header.version.get();
        // The checksum holds: what can't be read was written by somebody who knew more.
        let newer = ImageFault::Newer { version };
        if version != VERSION {
            return Err(newer);
        }
        let state = decode_body(&mut Reader(body), header.pages.get()).ok_or(newer)?;
        Ok(Self {
            generation: header.generation.get(),
            boot: header.boot,
            boot_bytes: header.boot_bytes.get(),
            state,
        })
    }
}

/// `None` where the bytes are none that this version writes.
fn decode_body(reader: &mut Reader<'_>, pages: u32) -> Option<State> {
    let found = Found::decode(reader)?;
    let base = reader.varint()?;
    let mut damage = VecDeque::new();
    for _ in 0..reader.varint()? {
        damage.push_back(Damage {
            time: Timestamp(reader.u64()?),
            detail: reader.text(NAME_MAX)?,
            quarantined: reader.text(NAME_MAX)?,
        });
    }
    let mut state = State::default();
    let mut last = 0u64;
    for _ in 0..pages {
        let pfn = Pfn(last.checked_add(reader.varint()?)?);
        last = pfn.0;
        let [reason, code, severity, source] = *at(&found.kinds, reader.varint()?)?;
        let since = Timestamp(base.checked_add(reader.varint()?)?);
        let dimm = optional(&found.dimms, reader.varint()?)?.cloned();
        let epoch = optional(&found.epochs, reader.varint()?)?.map(|epoch| MapEpoch(*epoch));
        let page = RetiredPage {
            pfn,
            reason: meaning(REASONS, reason)?,
            state: meaning(STATES, code)?,
            severity: meaning(SEVERITIES, severity)?,
            source: meaning(SOURCES, source)?,
            since,
            updated: since,
            attempts: 0,
            location: decode_location(reader, &found.texts)?,
            dimm,
            epoch,
            diagnosis: SmolStr::default(),
            outcome: SmolStr::default(),
        };
        let again = match page.state.is_suspended() {
            true => state.suspended.insert((pfn, since), suspended_of(&page)).is_some(),
            false => state.pages.insert(pfn, Box::new(page)).is_some(),
        };
        if again {
            return None;
        }
    }
    state.damage = damage;
    reader.0.is_empty().then_some(state)
}

/// A list without repetitions; the index of an item is its name in the image.
#[derive(Default)]
struct Table<T>(BTreeMap<T, u64>);

impl<T: Ord> Table<T> {
    fn index(&mut self, item: T) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(item).or_insert(next)
    }

    /// By index.
    fn items(&self) -> Vec<&T> {
        let mut items: Vec<(&T, u64)> = self.0.iter().map(|(item, index)| (item, *index)).collect();
        items.sort_unstable_by_key(|(_, index)| *index);
        items.into_iter().map(|(item, _)| item).collect()
    }
}

/// What pages have in common, each once.
#[derive(Default)]
struct Tables {
    texts: Table<String>,
    /// Three texts or none of the identity, two of the slot, and the size.
    dimms: Table<([u64; 5], u64)>,
    epochs: Table<u64>,
    /// Reason, state, severity, source.
    kinds: Table<[u8; 4]>,
}

impl Tables {
    /// An index one up; 0 for none.
    fn text(&mut self, text: Option<&str>) -> u64 {
        text.map_or(0, |text| self.texts.index(text.into()).saturating_add(1))
    }

    fn dimm(&mut self, dimm: Option<&Dimm>) -> u64 {
        let Some(Dimm { identity, locator, bank_locator, size }) = dimm else { return 0 };
        let DimmIdentity { manufacturer, part, serial } = identity;
        let texts = [
            self.text(manufacturer.as_deref()),
            self.text(part.as_deref()),
            self.text(serial.as_deref()),
            self.text(Some(locator)),
            self.text(Some(bank_locator)),
        ];
        self.dimms.index((texts, *size)).saturating_add(1)
    }

    fn encode(&self, body: &mut Writer) {
        body.varint(self.texts.0.len() as u64);
        self.texts.items().into_iter().for_each(|text| body.text(text, NAME_MAX));
        body.varint(self.dimms.0.len() as u64);
        for (texts, size) in self.dimms.items() {
            texts.iter().for_each(|text| body.varint(*text));
            body.varint(*size);
        }
        body.varint(self.epochs.0.len() as u64);
        self.epochs.items().into_iter().for_each(|epoch| body.u64(*epoch));
        body.varint(self.kinds.0.len() as u64);
        self.kinds.items().into_iter().flatten().for_each(|code| body.u8(*code));
    }
}

/// The tables as they were read.
struct Found {
    texts: Vec<String>,
    dimms: Vec<Arc<Dimm>>,
    epochs: Vec<u64>,
    kinds: Vec<[u8; 4]>,
}

impl Found {
    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut found =
            Self { texts: Vec::new(), dimms: Vec::new(), epochs: Vec::new(), kinds: Vec::new() };
        for _ in 0..reader.varint()? {
            found.texts.push(reader.text(NAME_MAX)?);
        }
        for _ in 0..reader.varint()? {
            let mut text = || Some(optional(&found.texts, reader.varint()?)?.cloned());
            let identity = DimmIdentity { manufacturer: text()?, part: text()?, serial: text()? };
            let (locator, bank_locator) = (text()??, text()??);
            let size = reader.varint()?;
            found.dimms.push(Arc::new(Dimm { identity, locator, bank_locator, size }));
        }
        for _ in 0..reader.varint()? {
            found.epochs.push(reader.u64()?);
        }
        for _ in 0..reader.varint()? {
            found.kinds.push([reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?]);
        }
        Some(found)
    }
}

fn at<T>(table: &[T], index: u64) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

/// The item of an index one up; the inner `None` is 0's.
fn optional<T>(table: &[T], index: u64) -> Option<Option<&T>> {
    match index.checked_sub(1) {
        Some(index) => at(table, index).map(Some),
        None => Some(None),
    }
}

/// Numbers of a location, in the order of their presence bits.
const LOCATION_NUMBERS: usize = 16;
const LOCATION_FRU: u64 = 1 << LOCATION_NUMBERS;

fn encode_location(list: &mut Writer, location: &Location, tables: &mut Tables) {
    let dimm = &location.dimm;
    let numbers: [Option<u32>; LOCATION_NUMBERS] = [
        location.cpu,
        location.socket,
        location.imc.map(u32::from),
        location.channel.map(u32::from),
        dimm.node.map(u32::from),
        dimm.card.map(u32::from),
        dimm.module.map(u32::from),
        dimm.rank.map(u32::from),
        dimm.bank_group.map(u32::from),
        dimm.bank.map(u32::from),
        dimm.chip.map(u32::from),
        dimm.device.map(u32::from),
        dimm.row,
        dimm.column,
        dimm.bit_position.map(u32::from),
        dimm.module_handle.map(u32::from),
    ];
    let mut present = if location.fru.is_some() { LOCATION_FRU } else { 0 };
    for (bit, number) in numbers.iter().enumerate() {
        present |= u64::from(number.is_some()) << bit;
    }
    list.varint(present);
    numbers.iter().flatten().for_each(|&number| list.varint(number.into()));
    if let Some(fru) = &location.fru {
        list.varint(tables.texts.index(fru.as_str().into()));
    }
}

fn decode_location(reader: &mut Reader<'_>, texts: &[String]) -> Option<Location> {
    let present = reader.varint()?;
    if present & !(LOCATION_FRU | (LOCATION_FRU - 1)) != 0 {
        return None;
    }
    let mut numbers = [None; LOCATION_NUMBERS];
    for (bit, number) in numbers.iter_mut().enumerate() {
        if present & (1 << bit) != 0 {
            *number = Some(u32::try_from(reader.varint()?).ok()?);
        }
    }
    let [cpu, socket, imc, channel, node, card, module, rank, rest @ ..] = numbers;
    let [bank_group, bank, chip, device, row, column, bit_position, module_handle] = rest;
    let fru = match present & LOCATION_FRU {
        0 => None,
        _ => Some(at(texts, reader.varint()?)?.as_str().into()),
    };
    Some(Location {
        cpu,
        socket,
        imc: narrow(imc)?,
        channel: narrow(channel)?,
        dimm: DimmLocation {
            node: narrow(node)?,
            card: narrow(card)?,
            module: narrow(module)?,
            rank: narrow(rank)?,
            bank_group: narrow(bank_group)?,
            bank: narrow(bank)?,
            chip: narrow(chip)?,
            device: narrow(device)?,
            row,
            column,
            bit_position: narrow(bit_position)?,
            module_handle: narrow(module_handle)?,
        },
        fru,
        pci: None,
    })
}
