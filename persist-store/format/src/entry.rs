//! What the journal says: one [`Entry`] per record, and how each lies on disk.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use ras_core::{
    Dimm, DimmLocation, ErrorSource, Evacuation, Health, Location, NodeState, Pfn, RetireReason,
    RetireState, RetiredPage, Severity, Timestamp,
};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::State;
use crate::origin::{self, Origin};
use crate::wire::{Reader, Texts, Writer};

/// Longest name on disk, in bytes: a FRU text, a person, a guest, a file. Longer ones are cut at a
/// character boundary.
pub const NAME_MAX: u16 = 255;

/// Longest line of prose on disk, in bytes: a diagnosis, an outcome, a note. Longer ones are cut at
/// a character boundary.
pub const LINE_MAX: u16 = 1023;

/// Bytes before each record's payload: kind u16, payload length u16.
pub const RECORD_HEADER_SIZE: usize = 4;

/// One thing to remember. Applied in order by [`State::apply`](crate::State::apply).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A page that must not be used, as it is now; replaces what was known about that page. Where it
    /// says nothing of module, map and the finer location, what was known of the same `since` stays.
    /// Its state is none of the suspended ones: those are reached by [`Entry::Changed`].
    Page(Box<RetiredPage>),
    /// What an entry is worth changed, by a rule's or a person's word.
    Changed(Change),
    /// A person put a page back into use. Suspended entries stay; see [`ChangeKind::Forgotten`].
    Unretired {
        /// The page.
        pfn: Pfn,
        /// When.
        time: Timestamp,
        /// Who, at most [`NAME_MAX`] bytes.
        who: String,
        /// Why, at most [`LINE_MAX`] bytes.
        note: String,
    },
    /// A corrected error below the policy's rate, so that the count survives a restart.
    Observed {
        /// The page.
        pfn: Pfn,
        /// When the error happened.
        time: Timestamp,
    },
    /// The node's state; replaces the one before.
    Node(NodeState),
    /// The store found itself damaged: the list may be incomplete until a person accepts that.
    Damaged(Damage),
    /// A person looked at the damage and accepts the list as it is.
    DamageAccepted {
        /// When.
        time: Timestamp,
        /// Who, at most [`NAME_MAX`] bytes.
        who: String,
        /// Why, at most [`LINE_MAX`] bytes.
        note: String,
    },
}

impl From<RetiredPage> for Entry {
    fn from(page: RetiredPage) -> Self {
        Self::Page(Box::new(page))
    }
}

/// A word on one entry, which `pfn` and `since` name. Where there is no such entry it is noted in the
/// audit and changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The entry's page.
    pub pfn: Pfn,
    /// When that page was first condemned.
    pub since: Timestamp,
    /// When the change was decided.
    pub time: Timestamp,
    /// What becomes of it.
    pub kind: ChangeKind,
    /// Whether it goes into the audit. Not where the record only repeats what an entry is, or is one
    /// step of a change that another record of the commit logs.
    pub logged: bool,
    /// Which rule or who, at most [`NAME_MAX`] bytes.
    pub who: String,
    /// Why, at most [`LINE_MAX`] bytes.
    pub note: String,
}

/// See [`Change`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// To [`RetireState::Probation`].
    Probation,
    /// To [`RetireState::Expired`].
    Expired,
    /// To [`RetireState::Stale`].
    Stale,
    /// A suspended entry keeps its page out of use again, as [`RetireState::Pending`]. Nothing changes
    /// while another entry does so already.
    Reinstated,
    /// A suspended entry leaves: its cells are now at another page, which has its own entry.
    Moved {
        /// That page.
        to: Pfn,
    },
    /// A suspended entry leaves for good.
    Forgotten,
}

impl ChangeKind {
    /// The state an entry is suspended in by this.
    #[must_use]
    pub const fn suspends(self) -> Option<RetireState> {
        match self {
            Self::Probation => Some(RetireState::Probation),
            Self::Expired => Some(RetireState::Expired),
            Self::Stale => Some(RetireState::Stale),
            Self::Reinstated | Self::Moved { .. } | Self::Forgotten => None,
        }
    }

    /// The change that suspends an entry in `state`.
    #[must_use]
    pub const fn suspending(state: RetireState) -> Option<Self> {
        match state {
            RetireState::Probation => Some(Self::Probation),
            RetireState::Expired => Some(Self::Expired),
            RetireState::Stale => Some(Self::Stale),
            _ => None,
        }
    }
}

/// What is known about damage the store recovered from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// When it was found.
    pub time: Timestamp,
    /// What was found, in one line of at most [`LINE_MAX`] bytes.
    pub detail: String,
    /// Name of the file in `quarantine/` that holds the damaged journal; empty where there is none.
    pub quarantined: String,
}

/// A record as it lies in a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// One this version can read.
    Known(Entry),
    /// A module that origins speak of by its digest.
    Dimm(Dimm),
    /// What kind 1 has no room for: belongs to a page.
    Origin(Origin),
    /// One it can't.
    Unknown(UnknownRecord),
}

/// A record of a newer minor version, or one whose fields this version can't read. It is kept as it
/// is through every rewrite and counted in reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownRecord {
    /// The record's kind.
    pub kind: u16,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// A value that has no code on disk yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the journal format has no code for {field} {value:?}")]
pub struct EncodeError {
    /// Which field.
    pub field: &'static str,
    /// The value's name.
    pub value: &'static str,
}

const KIND_PAGE: u16 = 1;
const KIND_UNRETIRED: u16 = 2;
const KIND_OBSERVED: u16 = 3;
const KIND_NODE: u16 = 4;
const KIND_DAMAGED: u16 = 5;
const KIND_DAMAGE_ACCEPTED: u16 = 6;
// Since version 1.1.
const KIND_DIMM: u16 = 7;
const KIND_ORIGIN: u16 = 8;
const KIND_CHANGED: u16 = 9;

// Codes on disk. One table per type serves both directions; a code is never given a second meaning.
pub(crate) const REASONS: &[(u8, RetireReason)] = &[
    (0, RetireReason::Uncorrected),
    (1, RetireReason::CorrectedThreshold),
    (2, RetireReason::Operator),
];
const STATES: &[(u8, RetireState)] =
    &[(0, RetireState::Pending), (1, RetireState::Retired), (2, RetireState::Failed)];
pub(crate) const SEVERITIES: &[(u8, Severity)] = &[
    (0, Severity::Unknown),
    (1, Severity::Informational),
    (2, Severity::Corrected),
    (3, Severity::Deferred),
    (4, Severity::Ucna),
    (5, Severity::Srao),
    (6, Severity::Srar),
    (7, Severity::Fatal),
];
pub(crate) const SOURCES: &[(u8, ErrorSource)] = &[
    (0, ErrorSource::MceRecord),
    (1, ErrorSource::Cper),
    (2, ErrorSource::ApeiStatusBlock),
    (3, ErrorSource::MemoryFailure),
    (4, ErrorSource::Operator),
];
const HEALTHS: &[(u8, Health)] = &[(0, Health::Green), (1, Health::Yellow), (2, Health::Red)];

impl Entry {
    /// All that has to be written for it: one record, or a page's with its module's and its origin's.
    /// They fit in one block and belong in the same one.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        Encoder::default().encode(self)
    }

    /// The one record that older versions can read.
    fn encode_record(&self) -> Result<Vec<u8>, EncodeError> {
        let mut payload = Writer::default();
        let kind = match self {
            Self::Page(page) => {
                encode_page(&mut payload, page)?;
                KIND_PAGE
            }
            Self::Changed(change) => {
                encode_change(&mut payload, change);
                KIND_CHANGED
            }
            Self::Unretired { pfn, time, who, note } => {
                payload.u64(pfn.0);
                encode_audit(&mut payload, *time, who, note);
                KIND_UNRETIRED
            }
            Self::Observed { pfn, time } => {
                payload.u64(pfn.0);
                payload.u64(time.0);
                KIND_OBSERVED
            }
            Self::Node(node) => {
                encode_node(&mut payload, node)?;
                KIND_NODE
            }
            Self::Damaged(damage) => {
                payload.u64(damage.time.0);
                payload.text(&damage.detail, LINE_MAX);
                payload.text(&damage.quarantined, NAME_MAX);
                KIND_DAMAGED
            }
            Self::DamageAccepted { time, who, note } => {
                encode_audit(&mut payload, *time, who, note);
                KIND_DAMAGE_ACCEPTED
            }
        };
        Ok(frame(kind, &payload.0))
    }
}

/// Encodes entries, and names each module once.
#[derive(Default)]
pub struct Encoder<'a> {
    known: Option<&'a BTreeMap<u64, Arc<Dimm>>>,
    told: BTreeSet<u64>,
}

impl<'a> Encoder<'a> {
    /// For entries that follow those `state` was made of.
    #[must_use]
    pub fn after(state: &'a State) -> Self {
        Self { known: Some(&state.dimms), told: BTreeSet::new() }
    }

    /// See [`Entry::encode`].
    pub fn encode(&mut self, entry: &Entry) -> Result<Vec<u8>, EncodeError> {
        let mut records = Vec::new();
        let Entry::Page(page) = entry else { return entry.encode_record() };
        let origin = Origin::of(page);
        if let Some((digest, dimm)) = origin.dimm.zip(page.dimm.as_deref())
            && !self.known.is_some_and(|known| known.contains_key(&digest))
            && self.told.insert(digest)
        {
            let mut payload = Writer::default();
            origin::encode_dimm(&mut payload, dimm);
            records.extend(frame(KIND_DIMM, &payload.0));
        }
        records.extend(entry.encode_record()?);
        if !origin.is_empty() {
            let mut payload = Writer::default();
            origin.encode(&mut payload);
            records.extend(frame(KIND_ORIGIN, &payload.0));
        }
        Ok(records)
    }
}

impl Record {
    /// Takes one record off `bytes`. `None` where the frame itself does not fit, which in a block
    /// with a valid checksum is a writer's bug, never the medium's.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        Self::split_sharing(bytes, &mut Texts::apart())
    }

    /// The same; long texts are shared with those of records before.
    pub(crate) fn split_sharing<'a>(
        bytes: &'a [u8],
        texts: &mut Texts,
    ) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader(bytes);
        let kind = reader.u16()?;
        let length = reader.u16()?;
        let payload = reader.bytes(usize::from(length))?;
        let record = decode(kind, payload, texts)
            .unwrap_or_else(|| Self::Unknown(UnknownRecord { kind, payload: payload.into() }));
        Some((record, reader.0))
    }
}

impl UnknownRecord {
    /// The whole record as it was.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame(self.kind, &self.payload)
    }
}

fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    // The limits above keep payloads far below 64 KiB, and an unknown one was framed before.
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut record = Writer(Vec::with_capacity(RECORD_HEADER_SIZE + payload.len()));
    record.u16(kind);
    record.u16(length);
    record.0.extend(payload);
    record.0
}

/// `None` for an unknown kind, an unknown code, missing bytes or bytes left over: the layout of a
/// kind never changes, so any of these means a newer writer.
fn decode(kind: u16, payload: &[u8], texts: &mut Texts) -> Option<Record> {
    let reader = &mut Reader(payload);
    let record = match kind {
        KIND_DIMM => Record::Dimm(origin::decode_dimm(reader)?),
        KIND_ORIGIN => Record::Origin(Origin::decode(reader)?),
        _ => Record::Known(decode_entry(kind, reader, texts)?),
    };
    reader.0.is_empty().then_some(record)
}

fn decode_entry(kind: u16, reader: &mut Reader<'_>, texts: &mut Texts) -> Option<Entry> {
    Some(match kind {
        KIND_CHANGED => Entry::Changed(decode_change(reader)?),
        KIND_PAGE => Entry::Page(Box::new(decode_page(reader, texts)?)),
        KIND_UNRETIRED => {
            let pfn = Pfn(reader.u64()?);
            let (time, who, note) = decode_audit(reader)?;
            Entry::Unretired { pfn, time, who, note }
        }
        KIND_OBSERVED => {
            Entry::Observed { pfn: Pfn(reader.u64()?), time: Timestamp(reader.u64()?) }
        }
        KIND_NODE => Entry::Node(decode_node(reader)?),
        KIND_DAMAGED => Entry::Damaged(Damage {
            time: Timestamp(reader.u64()?),
            detail: reader.text(LINE_MAX)?,
            quarantined: reader.text(NAME_MAX)?,
        }),
        KIND_DAMAGE_ACCEPTED => {
            let (time, who, note) = decode_audit(reader)?;
            Entry::DamageAccepted { time, who, note }
        }
        _ => return None,
    })
}

/// How a page begins.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPage {
    pfn: U64,
    since: U64,
    updated: U64,
    attempts: U32,
    reason: u8,
    state: u8,
    severity: u8,
    source: u8,
}
const _: () = assert!(size_of::<RawPage>() == 32);

fn encode_page(payload: &mut Writer, page: &RetiredPage) -> Result<(), EncodeError> {
    let raw = RawPage {
        pfn: page.pfn.0.into(),
        since: page.since.0.into(),
        updated: page.updated.0.into(),
        attempts: page.attempts.into(),
        reason: code(REASONS, page.reason, "reason", page.reason.name())?,
        state: code(STATES, page.state, "state", page.state.name())?,
        severity: code(SEVERITIES, page.severity, "severity", page.severity.name())?,
        source: code(SOURCES, page.source, "source", page.source.name())?,
    };
    payload.0.extend(raw.as_bytes());
    encode_location(payload, &page.location);
    payload.text(&page.diagnosis, LINE_MAX);
    payload.text(&page.outcome, LINE_MAX);
    Ok(())
}

fn decode_page(reader: &mut Reader<'_>, texts: &mut Texts) -> Option<RetiredPage> {
    let raw = RawPage::ref_from_bytes(reader.bytes(size_of::<RawPage>())?).ok()?;
    Some(RetiredPage {
        pfn: Pfn(raw.pfn.get()),
        since: Timestamp(raw.since.get()),
        updated: Timestamp(raw.updated.get()),
        attempts: raw.attempts.get(),
        reason: meaning(REASONS, raw.reason)?,
        state: meaning(STATES, raw.state)?,
        severity: meaning(SEVERITIES, raw.severity)?,
        source: meaning(SOURCES, raw.source)?,
        location: decode_location(reader, texts)?,
        // The origin's.
        dimm: None,
        epoch: None,
        diagnosis: reader.shared_text(LINE_MAX, texts)?,
        outcome: reader.shared_text(LINE_MAX, texts)?,
    })
}

/// Presence bits in the order below, then each present number as a u32, then the FRU text.
const LOCATION_NUMBERS: usize = 14;
const LOCATION_FRU: u16 = 1 << LOCATION_NUMBERS;

fn encode_location(payload: &mut Writer, location: &Location) {
    let dimm = &location.dimm;
    let numbers: [Option<u32>; LOCATION_NUMBERS] = [
        location.cpu,
        location.socket,
        location.channel.map(u32::from),
        dimm.node.map(u32::from),
        dimm.card.map(u32::from),
        dimm.module.map(u32::from),
        dimm.rank.map(u32::from),
        dimm.bank_group.map(u32::from),
        dimm.bank.map(u32::from),
        dimm.device.map(u32::from),
        dimm.row,
        dimm.column,
        dimm.bit_position.map(u32::from),
        dimm.module_handle.map(u32::from),
    ];
    let mut present = if location.fru.is_some() { LOCATION_FRU } else { 0 };
    for (bit, number) in numbers.iter().enumerate() {
        present |= u16::from(number.is_some()) << bit;
    }
    payload.u16(present);
    numbers.iter().flatten().for_each(|&number| payload.u32(number));
    if let Some(fru) = &location.fru {
        payload.text(fru, NAME_MAX);
    }
}

fn decode_location(reader: &mut Reader<'_>, texts: &mut Texts) -> Option<Location> {
    let present = reader.u16()?;
    if present & !(LOCATION_FRU | (LOCATION_FRU - 1)) != 0 {
        return None;
    }
    let mut numbers = [None; LOCATION_NUMBERS];
    let mut left = present & (LOCATION_FRU - 1);
    for bytes in reader.bytes(4 * left.count_ones() as usize)?.chunks_exact(4) {
        let number = numbers.get_mut(left.trailing_zeros() as usize)?;
        *number = bytes.try_into().ok().map(u32::from_le_bytes);
        left &= left - 1;
    }
    let [
        cpu,
        socket,
        channel,
        node,
        card,
        module,
        rank,
        bank_group,
        bank,
        device,
        row,
        column,
        bit_position,
        module_handle,
    ] = numbers;
    Some(Location {
        cpu,
        socket,
        channel: narrow(channel)?,
        dimm: DimmLocation {
            node: narrow(node)?,
            card: narrow(card)?,
            module: narrow(module)?,
            rank: narrow(rank)?,
            bank_group: narrow(bank_group)?,
            bank: narrow(bank)?,
            device: narrow(device)?,
            row,
            column,
            bit_position: narrow(bit_position)?,
            module_handle: narrow(module_handle)?,
            // The rest is the origin's.
            ..DimmLocation::default()
        },
        fru: match present & LOCATION_FRU {
            0 => None,
            _ => Some(reader.shared_text(NAME_MAX, texts)?),
        },
        ..Location::default()
    })
}

fn encode_change(payload: &mut Writer, change: &Change) {
    let (code, to) = match change.kind {
        ChangeKind::Probation => (0, Pfn(0)),
        ChangeKind::Expired => (1, Pfn(0)),
        ChangeKind::Stale => (2, Pfn(0)),
        ChangeKind::Reinstated => (3, Pfn(0)),
        ChangeKind::Moved { to } => (4, to),
        ChangeKind::Forgotten => (5, Pfn(0)),
    };
    payload.u64(change.pfn.0);
    payload.u64(change.since.0);
    payload.u64(to.0);
    payload.u8(code);
    payload.u8(change.logged.into());
    encode_audit(payload, change.time, &change.who, &change.note);
}

fn decode_change(reader: &mut Reader<'_>) -> Option<Change> {
    let (pfn, since) = (Pfn(reader.u64()?), Timestamp(reader.u64()?));
    let to = Pfn(reader.u64()?);
    let kind = match (reader.u8()?, to) {
        (4, to) => ChangeKind::Moved { to },
        // A page where none belongs: a newer writer's.
        (_, Pfn(1..)) => return None,
        (0, _) => ChangeKind::Probation,
        (1, _) => ChangeKind::Expired,
        (2, _) => ChangeKind::Stale,
        (3, _) => ChangeKind::Reinstated,
        (5, _) => ChangeKind::Forgotten,
        _ => return None,
    };
    let logged = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (time, who, note) = decode_audit(reader)?;
    Some(Change { pfn, since, time, kind, logged, who, note })
}

fn encode_node(payload: &mut Writer, node: &NodeState) -> Result<(), EncodeError> {
    payload.u64(node.since.0);
    payload.u8(code(HEALTHS, node.health, "health", node.health.name())?);
    let (evacuation, guest) = match &node.evacuation {
        Evacuation::None => (0, None),
        Evacuation::Pending { guest: None } => (1, None),
        Evacuation::Pending { guest: Some(guest) } => (2, Some(guest)),
        Evacuation::Done => (3, None),
    };
    payload.u8(evacuation);
    if let Some(guest) = guest {
        payload.text(guest, NAME_MAX);
    }
    payload.text(&node.reason, LINE_MAX);
    Ok(())
}

fn decode_node(reader: &mut Reader<'_>) -> Option<NodeState> {
    Some(NodeState {
        since: Timestamp(reader.u64()?),
        health: meaning(HEALTHS, reader.u8()?)?,
        evacuation: match reader.u8()? {
            0 => Evacuation::None,
            1 => Evacuation::Pending { guest: None },
            2 => Evacuation::Pending { guest: Some(reader.text(NAME_MAX)?) },
            3 => Evacuation::Done,
            _ => return None,
        },
        reason: reader.text(LINE_MAX)?,
    })
}

fn encode_audit(payload: &mut Writer, time: Timestamp, who: &str, note: &str) {
    payload.u64(time.0);
    payload.text(who, NAME_MAX);
    payload.text(note, LINE_MAX);
}

fn decode_audit(reader: &mut Reader<'_>) -> Option<(Timestamp, String, String)> {
    Some((Timestamp(reader.u64()?), reader.text(NAME_MAX)?, reader.text(LINE_MAX)?))
}

pub(crate) fn code<T: PartialEq>(
    table: &[(u8, T)],
    wanted: T,
    field: &'static str,
    value: &'static str,
) -> Result<u8, EncodeError> {
    let found = table.iter().find(|(_, meaning)| *meaning == wanted);
    found.map(|(code, _)| *code).ok_or(EncodeError { field, value })
}

pub(crate) fn meaning<T: Copy>(table: &[(u8, T)], wanted: u8) -> Option<T> {
    table.iter().find(|(code, _)| *code == wanted).map(|(_, meaning)| *meaning)
}

/// `None` where a present number does not fit: the writer knew a wider field.
pub(crate) fn narrow<T: TryFrom<u32>>(number: Option<u32>) -> Option<Option<T>> {
    number.map(T::try_from).transpose().ok()
}
