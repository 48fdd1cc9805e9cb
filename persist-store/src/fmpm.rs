//! What crosses between our list and the records of the kernel's FRU Memory Poison Manager.
//!
//! ```text
//!  FMPM's record: (PPIN, MCA_IPID, MCA_ADDR) --registers of the data fabric--> pages   import
//!  our page --its own machine check, learned when it happened--> FMPM's record         export
//! ```
//! An entry of FMPM's stands for a DRAM row, a page of ours for itself. The way from an entry to pages
//! needs a snapshot of the machine's address map; the way back is never calculated, because nothing
//! says which of a controller's registers would have reported it: only a page that came with a machine
//! check goes into FMPM's records, and the others are in our own alone.

use std::collections::BTreeMap;
use std::io;

use ras_core::translate::{Snapshot, TranslateError};
use ras_core::{
    CpuVendor, ErrorRecord, ErrorSource, McaRegisters, Pfn, PhysAddr, Raw, RetireReason,
    RetireState, RetiredPage, Severity, SmolStr, Timestamp,
};
use ras_store_format::Entry;
use ras_store_format::fmpm::{self, Fru, FruRecord, Overflow, Poison, Rejected};
use tracing::{error, warn};

use crate::backend::erst::RecordStore;

const NANOS: u64 = 1_000_000_000;

/// `MCA_STATUS`: VAL and AddrV, extended code 0: a DRAM ECC error, as every entry of FMPM's is.
const DRAM_ECC: u64 = 1 << 63 | 1 << 58;

/// Pages whose machine address is remembered until they are retired: more than are on their way.
const LEARNED_MAX: usize = 4096;

/// A processor package of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Package {
    /// How FMPM names it.
    pub fru: Fru,
    /// Its number.
    pub socket: u8,
}

/// Reads FMPM's records and, if allowed, writes them.
#[derive(Debug)]
pub struct Crossing {
    packages: Vec<Package>,
    snapshot: Option<Snapshot>,
    /// Whether we may write. Not while the kernel's FMPM is loaded: it writes its own idea of a record
    /// over ours with the next error.
    writes: bool,
    room: u8,
    learned: BTreeMap<Pfn, (u64, Poison)>,
    report: CrossingReport,
}

/// What was found in FMPM's records and what became of our pages there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CrossingReport {
    /// FMPM's records of this machine.
    pub records: usize,
    /// Their entries.
    pub entries: usize,
    /// Entries that could not be translated to pages, each with the reason; `None` without a snapshot.
    pub untranslated: Vec<(Poison, Option<TranslateError>)>,
    /// Records of FMPM's that are damaged, or that it would not take, by their numbers. They are left
    /// alone; FMPM itself erases them.
    pub rejected: Vec<(u64, Rejected)>,
    /// Sound records of processors that are not in this machine. FMPM erases them; we do not.
    pub absent: Vec<Fru>,
    /// Pages that found no room in FMPM's record. They are in our own.
    pub overflowed: Vec<(Pfn, Overflow)>,
    /// Pages that went into FMPM's records.
    pub exported: usize,
    /// Times FMPM's records could not be written.
    pub failed_writes: usize,
}

impl Crossing {
    /// For this machine. Reads only, and translates nothing; see the following.
    #[must_use]
    pub fn new(packages: Vec<Package>) -> Self {
        Self {
            packages,
            snapshot: None,
            writes: false,
            room: fmpm::ROOM_DEFAULT,
            learned: BTreeMap::new(),
            report: CrossingReport::default(),
        }
    }

    /// Translates FMPM's entries by a snapshot of this boot's data fabric.
    #[must_use]
    pub fn translating(self, snapshot: Snapshot) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    /// Also writes FMPM's records, new ones with room for `room` entries: the parameter
    /// `max_nr_entries` that FMPM will be loaded with, 0 for its default. With more room than it has
    /// been given, FMPM does not start; with less, it makes more.
    #[must_use]
    pub fn writing(self, room: u8) -> Self {
        Self { writes: true, room, ..self }
    }

    /// What was found and done so far.
    #[must_use]
    pub fn report(&self) -> &CrossingReport {
        &self.report
    }

    /// Remembers where a machine check was, in case its page is retired: an AMD memory controller's,
    /// whose record has a system address by now (`ras_core::translate::apply`).
    pub fn learn(&mut self, record: &ErrorRecord) {
        let Raw::Mca(mca) = &record.raw else { return };
        let (Some(pages), CpuVendor::Amd) = (record.pages(), mca.vendor) else { return };
        if mca.ppin == 0 || mca.status & DRAM_ECC != DRAM_ECC || mca.ipid == 0 {
            return;
        }
        let time = record.time.map_or(0, |time| time.0 / NANOS);
        self.place(pages.start, mca.ppin, Poison { time, ipid: mca.ipid, addr: mca.addr });
    }

    /// Says where a page is in a package's own terms. The oldest pages are forgotten when there are
    /// too many.
    pub fn place(&mut self, pfn: Pfn, ppin: u64, poison: Poison) {
        self.learned.insert(pfn, (ppin, poison));
        if self.learned.len() > LEARNED_MAX {
            let oldest = self.learned.iter().min_by_key(|(_, (_, poison))| poison.time);
            if let Some(pfn) = oldest.map(|(pfn, _)| *pfn) {
                self.learned.remove(&pfn);
            }
        }
    }

    /// The pages that FMPM's records mean. Each entry's row where rows are known, else its page.
    pub(crate) fn import<R: RecordStore>(&mut self, store: &mut R) -> io::Result<Vec<RetiredPage>> {
        let records = self.read(store)?;
        let mut pages = BTreeMap::new();
        (self.report.records, self.report.entries) = (records.len(), 0);
        self.report.untranslated.clear();
        for (record, package) in &records {
            for poison in record.entries() {
                self.report.entries += 1;
                match self.translate(*package, poison) {
                    Ok(found) => {
                        for address in found {
                            let pfn = Pfn(address.0 >> 12);
                            self.learned.insert(pfn, (package.fru.ppin, poison));
                            pages.entry(pfn).or_insert_with(|| page(pfn, *package, poison));
                        }
                    }
                    Err(error) => {
                        warn!(
                            ppin = package.fru.ppin,
                            ipid = poison.ipid,
                            addr = poison.addr,
                            ?error,
                            "an entry of FMPM's names no page"
                        );
                        self.report.untranslated.push((poison, error));
                    }
                }
            }
        }
        Ok(pages.into_values().collect())
    }

    /// Tells FMPM's records of entries that are durable in our own. Nothing here fails the commit.
    pub(crate) fn export<R: RecordStore>(&mut self, store: &mut R, entries: &[Entry]) {
        let concerned = |entry: &&Entry| match entry {
            Entry::Page(page) => self.learned.contains_key(&page.pfn),
            Entry::Unretired { pfn, .. } => self.learned.contains_key(pfn),
            _ => false,
        };
        let entries: Vec<&Entry> = entries.iter().filter(concerned).collect();
        if !self.writes || entries.is_empty() {
            return;
        }
        if let Err(error) = self.try_export(store, &entries) {
            self.report.failed_writes += 1;
            error!(%error, "FMPM's records could not be written: the kernel's list lacks pages of ours");
        }
    }

    fn try_export<R: RecordStore>(&mut self, store: &mut R, entries: &[&Entry]) -> io::Result<()> {
        let mut records: Vec<FruRecord> =
            self.read(store)?.into_iter().map(|(record, _)| record).collect();
        let mut changed = vec![false; records.len()];
        for entry in entries {
            let (pfn, add) = match entry {
                Entry::Page(page) => (page.pfn, !page.state.is_suspended()),
                Entry::Unretired { pfn, .. } => (*pfn, false),
                _ => continue,
            };
            let Some(&(ppin, poison)) = self.learned.get(&pfn) else { continue };
            let Some(package) = self.packages.iter().find(|package| package.fru.ppin == ppin)
            else {
                continue;
            };
            let known = records.iter().position(|record| record.fru() == package.fru);
            let index = match known {
                Some(index) => index,
                None if !add => continue,
                None => {
                    records.push(FruRecord::new(record_id(*package), package.fru, self.room));
                    changed.push(false);
                    records.len() - 1
                }
            };
            let record = &mut records[index];
            if !add {
                changed[index] |= record.remove(&poison);
                continue;
            }
            match record.add(poison) {
                Ok(new) => {
                    changed[index] |= new;
                    self.report.exported += usize::from(new);
                }
                Err(overflow) => {
                    error!(%pfn, %overflow, "FMPM has no room for a page: only our own list holds it");
                    self.report.overflowed.push((pfn, overflow));
                }
            }
        }
        for (record, _) in records.iter().zip(changed).filter(|(_, changed)| *changed) {
            store.write(record.as_bytes())?;
        }
        Ok(())
    }

    /// FMPM's sound records of this machine; the others go into the report.
    fn read<R: RecordStore>(&mut self, store: &mut R) -> io::Result<Vec<(FruRecord, Package)>> {
        let mut found = Vec::new();
        self.report.rejected.clear();
        self.report.absent.clear();
        for bytes in store.records()? {
            match FruRecord::decode(&bytes) {
                Err(Rejected::Foreign) => {}
                Err(rejected) => {
                    let id = bytes.get(96..104).and_then(|id| id.try_into().ok());
                    let id = id.map_or(0, u64::from_le_bytes);
                    warn!(id, %rejected, "a record of FMPM's is unusable");
                    self.report.rejected.push((id, rejected));
                }
                Ok(record) => {
                    let fru = record.fru();
                    match self.packages.iter().find(|package| package.fru == fru) {
                        Some(package) => found.push((record, *package)),
                        None => self.report.absent.push(fru),
                    }
                }
            }
        }
        Ok(found)
    }

    fn translate(
        &self,
        package: Package,
        poison: Poison,
    ) -> Result<Vec<PhysAddr>, Option<TranslateError>> {
        let snapshot = self.snapshot.as_ref().ok_or(None)?;
        let mca = McaRegisters {
            vendor: CpuVendor::Amd,
            cpuid: package.fru.cpuid,
            ppin: package.fru.ppin,
            status: DRAM_ECC,
            addr: poison.addr,
            ipid: poison.ipid,
            ..McaRegisters::default()
        };
        match snapshot.umc_row(&mca, Some(package.socket)) {
            Err(TranslateError::NoRows(_)) => snapshot
                .umc_address(&mca, Some(package.socket))
                .map(|found| vec![found.system])
                .map_err(Some),
            other => other.map_err(Some),
        }
    }
}

/// A page that the kernel condemned.
fn page(pfn: Pfn, package: Package, poison: Poison) -> RetiredPage {
    let since = Timestamp(poison.time.saturating_mul(NANOS));
    RetiredPage {
        pfn,
        reason: RetireReason::Uncorrected,
        state: RetireState::Pending,
        severity: Severity::Unknown,
        source: ErrorSource::Cper,
        since,
        updated: since,
        attempts: 0,
        location: ras_core::Location {
            socket: Some(package.socket.into()),
            ..ras_core::Location::default()
        },
        dimm: None,
        epoch: None,
        diagnosis: SmolStr::default(),
        outcome: SmolStr::default(),
    }
}

/// A number for a package's record where FMPM has made none: of our own range, the same each time.
fn record_id(package: Package) -> u64 {
    ras_store_format::cper::ID_BASE | 0xf000 | u64::from(package.socket)
}
