//! One error, one record: reports of the same error from different sources become one, with all its
//! witnesses kept.
//!
//! [`Dedupe`](crate::dedupe::Dedupe) answers the daemon, which must act at once and keeps no records;
//! this holds records back for a moment and serves whoever reads a log.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::dedupe::Gravity;
use crate::{
    Detail, Details, DimmLocation, ErrorClass, ErrorRecord, ErrorSource, Location, McaRegisters,
    PciAddress, PfnRange, Raw, Timestamp, Value,
};

/// The bank number under which Linux logs what firmware told it (`arch/x86/kernel/cpu/mce/apei.c`).
const FIRMWARE_BANK: u8 = 255;

/// Holds the last records back so that other reports of the same errors can join them.
///
/// Two reports are of one error when they name the same page, the same machine-check status, bank and
/// address, or (PCI Express) the same function; agree on whether it was corrected, uncorrected or
/// fatal; come from *different* sources; and lie close together: within the window where both have a
/// time, else within [`Self::DISTANCE_MAX`] records of one log. As in [`Dedupe`](crate::dedupe::Dedupe),
/// two reports from one source are always two errors.
///
/// `T` is the place of a record, carried along.
#[derive(Clone, Debug)]
pub struct Join<T> {
    window_ns: u64,
    pending: VecDeque<Pending<T>>,
    /// Of [`Self::pending`], those whose head and witnesses are all from one channel, by channel.
    alone: [u32; CHANNELS],
    newest: Option<Timestamp>,
    pushed: u64,
}

/// An error, with all reports of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined<T> {
    /// Where the head is.
    pub place: T,
    /// The most informative report, the head. The others are the last of its witnesses.
    pub record: Box<ErrorRecord>,
    /// Where the witnesses are that were joined, in their order: it has no places for those that the
    /// head came with.
    pub places: Vec<T>,
}

#[derive(Clone, Debug)]
struct Pending<T> {
    /// The report that came first.
    first: Report<T>,
    /// The others, in their order.
    more: Vec<Report<T>>,
}

#[derive(Clone, Debug)]
struct Report<T> {
    place: T,
    /// Boxed: a record is hundreds of bytes, and most only pass through here.
    record: Box<ErrorRecord>,
    channel: usize,
    stream: u32,
    number: u64,
}

impl<T> Join<T> {
    /// Errors held back. Bounds memory in a storm; real reports of one error are next to one another.
    pub const PENDING_MAX: usize = 256;

    /// Records between two reports of one error in a log without times. Kernels print all their
    /// reports of an error at once; other errors of a storm may come between.
    pub const DISTANCE_MAX: u64 = 64;

    /// Joins what lies within `window_ns` nanoseconds.
    #[must_use]
    pub const fn new(window_ns: u64) -> Self {
        let alone = [0; CHANNELS];
        Self { window_ns, pending: VecDeque::new(), alone, newest: None, pushed: 0 }
    }

    /// Takes the next record, of log `stream`, and hands out what nothing can join any more.
    ///
    /// # Errors
    /// What `out` says.
    pub fn push<E>(
        &mut self,
        stream: u32,
        place: T,
        record: impl Into<Box<ErrorRecord>>,
        out: &mut impl FnMut(Joined<T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let record = record.into();
        let (channel, time) = (channel(&record), record.time);
        let report = Report { place, record, channel, stream, number: self.pushed };
        self.pushed = self.pushed.saturating_add(1);
        self.newest = self.newest.max(time);
        match self.event_of(&report) {
            Some(index) => {
                if let Some(event) = self.pending.get_mut(index) {
                    if event.more.is_empty() {
                        count(&mut self.alone, event.first.channel, -1);
                    }
                    event.more.push(report);
                }
            }
            None => {
                count(&mut self.alone, channel, 1);
                self.pending.push_back(Pending { first: report, more: Vec::new() });
            }
        }
        while self
            .pending
            .front()
            .is_some_and(|event| self.pending.len() > Self::PENDING_MAX || self.is_past(event))
        {
            self.pop(out)?;
        }
        Ok(())
    }

    /// Hands out all that is left.
    ///
    /// # Errors
    /// What `out` says.
    pub fn finish<E>(&mut self, out: &mut impl FnMut(Joined<T>) -> Result<(), E>) -> Result<(), E> {
        while !self.pending.is_empty() {
            self.pop(out)?;
        }
        Ok(())
    }

    fn pop<E>(&mut self, out: &mut impl FnMut(Joined<T>) -> Result<(), E>) -> Result<(), E> {
        let Some(event) = self.pending.pop_front() else { return Ok(()) };
        if event.more.is_empty() {
            count(&mut self.alone, event.first.channel, -1);
        }
        out(event.join())
    }

    /// The event that this is another report of.
    fn event_of(&self, report: &Report<T>) -> Option<usize> {
        // With one kind of source there is nothing to look for.
        let alone = self.alone.get(report.channel).copied().unwrap_or(0);
        if usize::try_from(alone).is_ok_and(|alone| alone == self.pending.len()) {
            return None;
        }
        let key = Key::of(&report.record)?;
        self.pending.iter().position(|event| {
            event.reports().all(|other| other.channel != report.channel)
                && event.reports().any(|other| {
                    self.is_near(other, report)
                        && Key::of(&other.record).is_some_and(|other| other.matches(&key))
                })
        })
    }

    fn is_near(&self, a: &Report<T>, b: &Report<T>) -> bool {
        match (a.record.time, b.record.time) {
            (Some(a), Some(b)) => a.0.abs_diff(b.0) <= self.window_ns,
            _ => a.stream == b.stream && b.number.abs_diff(a.number) <= Self::DISTANCE_MAX,
        }
    }

    /// Whether nothing that comes later can be of this event. A log's times never go back by more than
    /// the window, or what joins too late stays apart.
    fn is_past(&self, event: &Pending<T>) -> bool {
        event.reports().all(|report| {
            self.pushed.abs_diff(report.number) > Self::DISTANCE_MAX
                && match (report.record.time, self.newest) {
                    (Some(time), Some(newest)) => {
                        newest.0.saturating_sub(time.0) > self.window_ns.saturating_mul(2)
                    }
                    _ => true,
                }
        })
    }
}

fn count(alone: &mut [u32; CHANNELS], channel: usize, by: i32) {
    if let Some(count) = alone.get_mut(channel) {
        *count = count.saturating_add_signed(by);
    }
}

impl<T> Pending<T> {
    fn reports(&self) -> impl Iterator<Item = &Report<T>> {
        core::iter::once(&self.first).chain(&self.more)
    }

    /// One record of all reports.
    fn join(self) -> Joined<T> {
        let Self { first, mut more } = self;
        if more.is_empty() {
            return Joined { place: first.place, record: first.record, places: Vec::new() };
        }
        // Stable: of two equally informative reports the first one stays first.
        more.sort_by_key(|report| rank(&report.record));
        let mut head = first;
        if let Some(best) = more.first_mut()
            && rank(&best.record) < rank(&head.record)
        {
            core::mem::swap(best, &mut head);
            more.sort_by_key(|report| rank(&report.record));
        }
        let Report { place, mut record, .. } = head;
        let mut filled = Vec::new();
        let (mut places, mut others) = (Vec::new(), Vec::new());
        for other in more {
            fill(&mut record.location, &other.record, &mut filled);
            places.push(other.place);
            others.push(*other.record);
        }
        record.witnesses.append(&mut others);
        if !filled.is_empty() {
            record.details.add("location_from", Value::Group(filled));
        }
        Joined { place, record, places }
    }
}

/// Channels that [`channel`] tells apart: two for each source, with room for more sources.
const CHANNELS: usize = 64;

/// What counts as a source of its own: a machine check that Linux made from a firmware record is not
/// one that a processor raised.
fn channel(record: &ErrorRecord) -> usize {
    2 * (record.source as usize) + usize::from(is_firmware_bank(record))
}

fn mca(record: &ErrorRecord) -> Option<&McaRegisters> {
    match &record.raw {
        Raw::Mca(registers) => Some(registers),
        _ => None,
    }
}

fn is_firmware_bank(record: &ErrorRecord) -> bool {
    mca(record).is_some_and(|registers| registers.bank == FIRMWARE_BANK)
}

/// How much a report tells, the best first: the hardware's own registers, firmware's account of them,
/// a driver's reading of either, what the kernel made of it.
fn rank(record: &ErrorRecord) -> u8 {
    use ErrorSource as Source;
    match record.source {
        _ if is_firmware_bank(record) => 2,
        Source::MceRecord | Source::KernelMce | Source::Mcelog => 0,
        Source::Cper
        | Source::ApeiStatusBlock
        | Source::Bert
        | Source::Erst
        | Source::Whea
        | Source::ExtlogMem
        | Source::KernelApei
        | Source::CxlEvent
        | Source::NonStandard
        | Source::ArmEvent => 1,
        Source::McEvent | Source::KernelEdac | Source::AerEvent | Source::KernelAer => 3,
        Source::Rasdaemon | Source::KernelLog | Source::EdacCounter => 4,
        Source::MemoryFailure | Source::Operator | Source::ErrorSourceTable => 5,
    }
}

/// By what a report is known to be of the same error as another one.
struct Key {
    gravity: Gravity,
    pages: Option<PfnRange>,
    /// Status, bank, address.
    bank: Option<(u64, u8, u64)>,
    pci: Option<PciAddress>,
}

impl Key {
    /// `None` for a report that names nothing.
    fn of(record: &ErrorRecord) -> Option<Self> {
        let bank = mca(record).filter(|registers| registers.bank != FIRMWARE_BANK);
        let key = Self {
            gravity: Gravity::of(record.severity),
            pages: record.pages(),
            bank: bank.map(|registers| (registers.status, registers.bank, registers.addr)),
            pci: record.location.pci.filter(|_| record.class == ErrorClass::Pcie),
        };
        (key.pages.is_some() || key.bank.is_some() || key.pci.is_some()).then_some(key)
    }

    fn matches(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            a.is_some() && a == b
        }
        let overlap = |a: PfnRange, b: PfnRange| {
            a.start.0 < b.start.0.saturating_add(b.count)
                && b.start.0 < a.start.0.saturating_add(a.count)
        };
        self.gravity == other.gravity
            && (self.pages.zip(other.pages).is_some_and(|(a, b)| overlap(a, b))
                || same(&self.bank, &other.bank)
                || same(&self.pci, &other.pci))
    }
}

/// Fills in what the head does not know, from a witness, and notes whom it is from. Numbers that only
/// mean something together are taken together: a driver's channel is counted within that driver's
/// controller.
fn fill(location: &mut Location, witness: &ErrorRecord, filled: &mut Vec<Detail>) {
    let from = witness.source.name();
    let Location { cpu, socket, imc, channel, dimm, fru, pci } = &witness.location;
    let mut note = |names: &[&'static str]| {
        let note = |name| Detail { name: Cow::Borrowed(name), value: from.into() };
        filled.extend(names.iter().map(|name| note(*name)));
    };
    fn single<T: Clone>(
        mine: &mut Option<T>,
        theirs: &Option<T>,
        name: &'static str,
        note: &mut impl FnMut(&[&'static str]),
    ) {
        if mine.is_none() && theirs.is_some() {
            mine.clone_from(theirs);
            note(&[name]);
        }
    }
    single(&mut location.cpu, cpu, "cpu", &mut note);
    single(&mut location.socket, socket, "socket", &mut note);
    single(&mut location.fru, fru, "fru", &mut note);
    single(&mut location.pci, pci, "pci", &mut note);
    if location.imc.is_none() && location.channel.is_none() {
        single(&mut location.imc, imc, "imc", &mut note);
        single(&mut location.channel, channel, "channel", &mut note);
    }
    let mine = &mut location.dimm;
    if mine.node.is_none() && mine.card.is_none() && mine.module.is_none() {
        single(&mut mine.node, &dimm.node, "dimm.node", &mut note);
        single(&mut mine.card, &dimm.card, "dimm.card", &mut note);
        single(&mut mine.module, &dimm.module, "dimm.module", &mut note);
    }
    if mine.bank_group.is_none() && mine.bank.is_none() {
        single(&mut mine.bank_group, &dimm.bank_group, "dimm.bank_group", &mut note);
        single(&mut mine.bank, &dimm.bank, "dimm.bank", &mut note);
    }
    let DimmLocation { rank, chip, device, row, column, bit_position, module_handle, .. } = dimm;
    single(&mut mine.rank, rank, "dimm.rank", &mut note);
    single(&mut mine.chip, chip, "dimm.chip", &mut note);
    single(&mut mine.device, device, "dimm.device", &mut note);
    single(&mut mine.row, row, "dimm.row", &mut note);
    single(&mut mine.column, column, "dimm.column", &mut note);
    single(&mut mine.bit_position, bit_position, "dimm.bit_position", &mut note);
    single(&mut mine.module_handle, module_handle, "dimm.module_handle", &mut note);
}

#[cfg(test)]
mod tests;
