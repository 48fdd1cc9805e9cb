//! The list in ACPI's error record store (ERST): what is left when the disk is not, on servers.
//!
//! ```text
//!  the list   ImageList --Part--> our own records, two copies of one or more parts
//!  the kernel FMPM's records, one for each package  <--Crossing--> pages whose MCA_ADDR is known
//! ```
//! Our own records hold every page; the kernel's hold what `amd_fmpm` retires by itself when it
//! starts. Reached through `/dev/erst_dbg` (CONFIG_ACPI_APEI_ERST_DEBUG), which distributions leave
//! out: without it there is no such list.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ras_store_format::State;
use ras_store_format::cper::{PART_OVERHEAD, Part, Wreck};

use crate::efivarfs::is_full;
use crate::fmpm::Crossing;
use crate::image::{Boot, ImageList, Medium};
use crate::{Capacity, Entry, PageList, Recovery, StoreError};

/// The kernel's device.
const DEVICE: &str = "/dev/erst_dbg";

/// `ERST_DBG_RECORD_LEN_MAX`.
const RECORD_LENGTH_MAX: usize = 0x4000;

/// Records read before giving up: a bound, not a size. QEMU's default store holds seven.
const RECORDS_MAX: usize = 4096;

/// Bytes of one of our records: a slot of QEMU's store, and the exchange buffer of real firmware.
const PART_LENGTH_MAX: usize = 8192;

/// Parts of a copy. With two copies that leaves three of QEMU's seven slots to FMPM and pstore.
const PARTS_MAX: usize = 2;

const SHARE: usize = PART_LENGTH_MAX - PART_OVERHEAD;

/// Bytes written in one boot, both copies counted. Unlike variables, records are replaced in place;
/// what this bounds is the wear of a flash of 100,000 cycles, and a writer gone mad.
const BOOT_BUDGET: u64 = 1 << 20;

/// The kernel has one lock for all users of the store and does not wait for it.
const BUSY_RETRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A store of CPER records. A record with the number of one that is there replaces it.
pub trait RecordStore {
    /// Where it is, for people.
    fn place(&self) -> &Path;

    /// All records, in any order.
    ///
    /// # Errors
    /// The store can't be read, or has more records than any.
    fn records(&mut self) -> io::Result<Vec<Vec<u8>>>;

    /// Writes a record; it is durable when this returns `Ok`. After an error it may be there, whole
    /// or not, and its predecessor may be gone.
    ///
    /// # Errors
    /// `StorageFull` where there is no room.
    fn write(&mut self, record: &[u8]) -> io::Result<()>;
}

/// The machine's own store.
#[derive(Clone, Debug)]
pub struct ErstDevice {
    path: PathBuf,
}

impl Default for ErstDevice {
    fn default() -> Self {
        Self::new(Path::new(DEVICE))
    }
}

impl ErstDevice {
    /// The store behind a device like `/dev/erst_dbg`. Touches nothing.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }
}

impl RecordStore for ErstDevice {
    fn place(&self) -> &Path {
        &self.path
    }

    fn records(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut device = File::open(&self.path)?;
        let mut records = Vec::new();
        let mut buffer = vec![0; RECORD_LENGTH_MAX];
        // One read, one record; no bytes are the end.
        loop {
            match patiently(|| device.read(&mut buffer))? {
                0 => return Ok(records),
                _ if records.len() == RECORDS_MAX => return Err(ErrorKind::FileTooLarge.into()),
                length => records.push(buffer[..length].to_vec()),
            }
        }
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let mut device = OpenOptions::new().read(true).write(true).open(&self.path)?;
        match patiently(|| device.write(record)) {
            Ok(written) if written == record.len() => Ok(()),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            // Larger than the firmware's buffer: EINVAL.
            Err(error) if is_full(&error) => Err(ErrorKind::StorageFull.into()),
            Err(error) => Err(error),
        }
    }
}

fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && tries < BUSY_RETRIES => {
                tries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Records as a [`Medium`]: each copy is cut into parts.
#[derive(Debug)]
pub struct ErrorRecords<R> {
    store: R,
}

impl<R: RecordStore> Medium for ErrorRecords<R> {
    fn place(&self) -> &Path {
        self.store.place()
    }

    fn size_max(&self) -> usize {
        PARTS_MAX * SHARE
    }

    /// What the parts say together. Parts that do not fit together give bytes that are no image,
    /// because its checksum is over all of them.
    fn read(&mut self, copy: usize) -> io::Result<Option<Vec<u8>>> {
        let records = self.store.records()?;
        let mut parts: Vec<Part<'_>> = records
            .iter()
            .filter_map(|record| Part::decode(record))
            .filter(|part| usize::from(part.copy) == copy)
            .collect();
        parts.sort_unstable_by_key(|part| part.number);
        // A longer list may have left parts behind the first ones.
        let Some(count) = parts.first().map(|first| usize::from(first.count)) else {
            let wrecks = records.iter().filter(|record| Part::decode(record).is_none());
            let mut wrecks = wrecks.filter_map(|record| Wreck::of(record));
            let wreck = wrecks.find(|wreck| match wreck {
                Wreck::Of(of) => usize::from(*of) == copy,
                Wreck::Ours => true,
            });
            // No bytes are no image: a copy that is damaged, not one that was never there.
            return Ok(wreck.map(|_| Vec::new()));
        };
        Ok(Some(parts.iter().take(count).flat_map(|part| part.bytes).copied().collect()))
    }

    fn write(&mut self, copy: usize, image: &[u8]) -> io::Result<()> {
        let shares = image.chunks(SHARE);
        let narrow = |number: usize| u8::try_from(number).map_err(io::Error::other);
        let count = narrow(shares.len())?;
        for (number, bytes) in shares.enumerate() {
            let part = Part { copy: narrow(copy)?, number: narrow(number)?, count, bytes };
            self.store.write(&part.encode())?;
        }
        Ok(())
    }
}

/// The list in an error record store.
#[derive(Debug)]
pub struct ErstList<R = ErstDevice> {
    own: ImageList<ErrorRecords<R>>,
    crossing: Option<Crossing>,
}

impl<R: RecordStore> ErstList<R> {
    /// The list in `store`. Touches nothing.
    #[must_use]
    pub fn new(store: R, boot: Boot) -> Self {
        let own = ImageList::new(ErrorRecords { store }, boot, BOOT_BUDGET);
        Self { own, crossing: None }
    }

    /// Also reads what the kernel's FMPM keeps in the store, and tells it of our pages where the
    /// crossing may.
    #[must_use]
    pub fn crossing(self, crossing: Crossing) -> Self {
        Self { crossing: Some(crossing), ..self }
    }

    /// As [`ImageList`]'s; pages that are new go to FMPM's records as with a commit.
    pub(crate) fn put(&mut self, state: &State) -> Result<(), StoreError> {
        self.own.put(state)?;
        if let Some(crossing) = &mut self.crossing {
            let pages: Vec<Entry> = state.pages.values().cloned().map(Entry::Page).collect();
            crossing.export(&mut self.own.medium_mut().store, &pages);
        }
        Ok(())
    }

    /// Bytes our own records took in this boot, and how many they may take.
    #[must_use]
    pub fn wear(&self) -> (u64, u64) {
        self.own.wear()
    }

    /// What was found and done in FMPM's records; also how pages get their machine address.
    pub fn crossing_mut(&mut self) -> Option<&mut Crossing> {
        self.crossing.as_mut()
    }
}

impl<R: RecordStore> PageList for ErstList<R> {
    /// With a [`Crossing`], pages of FMPM's records are taken into the list as well.
    fn load(&mut self) -> Result<(State, Recovery), StoreError> {
        let (mut state, recovery) = self.own.load()?;
        if let Some(crossing) = &mut self.crossing {
            let store = &mut self.own.medium_mut().store;
            let found: Vec<Entry> = crossing
                .import(store)
                .map_err(crate::error::io_error(store.place(), "read FMPM's records"))?
                .into_iter()
                .filter(|page| !state.pages.contains_key(&page.pfn))
                .map(Entry::from)
                .collect();
            // The kernel's record is as durable as ours will be; not getting them into ours is told,
            // and tried again with the next load.
            if let Err(error) = self.own.commit(&found) {
                tracing::warn!(%error, "cannot take FMPM's pages into the list");
            }
            found.into_iter().for_each(|entry| state.apply(entry));
            state = self.kept(&state);
        }
        Ok((state, recovery))
    }

    /// Our own records first: they are what is acknowledged. FMPM's are told then; what it has no
    /// room for is in [`Crossing::report`] and in the log, and no less remembered.
    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        self.own.commit(entries)?;
        if let Some(crossing) = &mut self.crossing {
            crossing.export(&mut self.own.medium_mut().store, entries);
        }
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        self.own.capacity()
    }

    fn kept(&self, state: &State) -> State {
        self.own.kept(state)
    }
}
