//! A device that keeps blobs under numbers, each replaced as a whole: EFI variables, error records. A
//! write is durable when it returns; the one during which power goes may have got anywhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::rc::Rc;

use super::erst::RecordStore;
use super::simulated::{Fate, Plan, Rng, SECTOR, Unsynced};
use crate::image::{COPIES, Medium};

#[derive(Clone)]
struct Device {
    blobs: BTreeMap<u64, Vec<u8>>,
    /// What was being written when power went.
    in_flight: Option<(u64, Vec<u8>)>,
    plan: Plan,
    calls: usize,
    rng: Rng,
}

/// A handle: the test keeps one, the list has the other.
#[derive(Clone)]
pub(crate) struct SimulatedDevice(Rc<RefCell<Device>>);

impl SimulatedDevice {
    pub(crate) fn empty(seed: &str) -> Self {
        Self::of(Device {
            blobs: BTreeMap::new(),
            in_flight: None,
            plan: Plan::Nothing,
            calls: 0,
            rng: Rng::seeded(seed),
        })
    }

    fn of(device: Device) -> Self {
        Self(Rc::new(RefCell::new(device)))
    }

    /// An independent copy of everything.
    pub(crate) fn duplicate(&self) -> Self {
        Self::of(self.0.borrow().clone())
    }

    /// Sets what goes wrong from now on; calls count from 0 again.
    pub(crate) fn plan(&self, plan: Plan) {
        let mut device = self.0.borrow_mut();
        (device.plan, device.calls) = (plan, 0);
    }

    pub(crate) fn unsynced(&self) -> Unsynced {
        let device = self.0.borrow();
        let bytes = device.in_flight.as_ref().map_or(0, |(_, bytes)| bytes.len());
        Unsynced { sectors: bytes.div_ceil(SECTOR), changes: 0 }
    }

    /// After power came back; `fate` is asked for each sector of the write that was under way.
    pub(crate) fn with_survivors(&self, fate: &mut dyn FnMut(usize) -> Fate) -> Self {
        let mut device = self.0.borrow().clone();
        device.plan = Plan::Nothing;
        if let Some((key, new)) = device.in_flight.take() {
            device.mix(key, &new, fate);
        }
        Self::of(device)
    }

    /// The process dies; the device finishes what it was told.
    pub(crate) fn after_process_death(&self) -> Self {
        self.with_survivors(&mut |_| Fate::Written)
    }

    /// Blobs, by number.
    pub(crate) fn blobs(&self) -> BTreeMap<u64, Vec<u8>> {
        self.0.borrow().blobs.clone()
    }

    /// Puts a blob there behind the list's back.
    pub(crate) fn put(&self, key: u64, bytes: &[u8]) {
        self.0.borrow_mut().blobs.insert(key, bytes.into());
    }

    pub(crate) fn remove(&self, key: u64) {
        self.0.borrow_mut().blobs.remove(&key);
    }

    pub(crate) fn sectors(&self) -> usize {
        self.0.borrow().blobs.values().map(|blob| blob.len().div_ceil(SECTOR)).sum()
    }

    /// Changes one of [`Self::sectors`], counted over all blobs.
    pub(crate) fn spoil(&self, mut sector: usize, change: &mut dyn FnMut(&mut [u8])) {
        for blob in self.0.borrow_mut().blobs.values_mut() {
            let sectors = blob.len().div_ceil(SECTOR);
            if sector < sectors {
                change(blob.chunks_mut(SECTOR).nth(sector).unwrap());
                return;
            }
            sector -= sectors;
        }
    }

    fn read(&self) -> io::Result<BTreeMap<u64, Vec<u8>>> {
        let mut device = self.0.borrow_mut();
        if !matches!(device.plan, Plan::Full { .. }) {
            device.call()?;
        }
        Ok(device.blobs.clone())
    }

    fn write_blob(&self, key: u64, bytes: &[u8]) -> io::Result<()> {
        let mut device = self.0.borrow_mut();
        let call = device.calls;
        let outcome = device.call();
        match (&outcome, device.plan) {
            (Ok(()), _) => {
                device.blobs.insert(key, bytes.into());
            }
            (Err(_), Plan::PowerLoss { at }) if call == at => {
                device.in_flight = Some((key, bytes.into()));
            }
            // A write that failed: nothing of it is there, all of it, or some.
            (Err(_), Plan::Error { .. }) => {
                let mut rng = device.rng.clone();
                let way = rng.below(3);
                device.mix(key, bytes, &mut |_| match way {
                    0 => Fate::Lost,
                    1 => Fate::Written,
                    _ if rng.below(2) == 0 => Fate::Lost,
                    _ => Fate::Written,
                });
                device.rng.next();
            }
            (Err(_), _) => {}
        }
        outcome
    }
}

impl Device {
    fn call(&mut self) -> io::Result<()> {
        let call = self.calls;
        self.calls += 1;
        match self.plan {
            Plan::PowerLoss { at } if call >= at => Err(io::Error::other("power loss")),
            Plan::Error { at, kind } if call == at => Err(kind.into()),
            Plan::Full { from } if call >= from => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Sector by sector, old or new. Where none is written, nothing happened; where all are, the blob
    /// is the new one; between, it is as long as the longer one.
    fn mix(&mut self, key: u64, new: &[u8], fate: &mut dyn FnMut(usize) -> Fate) {
        let old = self.blobs.get(&key).cloned();
        let mut mixed = old.clone().unwrap_or_default();
        let mut written = 0;
        let sectors = new.len().div_ceil(SECTOR);
        for (sector, bytes) in new.chunks(SECTOR).enumerate() {
            let bytes = match fate(sector) {
                Fate::Lost => continue,
                Fate::Written => {
                    written += 1;
                    bytes
                }
                Fate::Torn(count) => &bytes[..count.min(bytes.len())],
            };
            let start = sector * SECTOR;
            if mixed.len() < start + bytes.len() {
                mixed.resize(start + bytes.len(), 0);
            }
            mixed[start..start + bytes.len()].copy_from_slice(bytes);
        }
        if written == sectors {
            mixed = new.into();
        }
        if old.is_some() || !mixed.is_empty() {
            self.blobs.insert(key, mixed);
        }
    }
}

/// Variables: copy 0 and copy 1.
impl Medium for SimulatedDevice {
    fn place(&self) -> &Path {
        Path::new("/simulated")
    }

    fn size_max(&self) -> usize {
        32_768
    }

    fn read(&mut self, copy: usize) -> io::Result<Option<Vec<u8>>> {
        assert!(copy < COPIES);
        Ok(Self::read(self)?.remove(&(copy as u64)))
    }

    fn write(&mut self, copy: usize, image: &[u8]) -> io::Result<()> {
        self.write_blob(copy as u64, image)
    }
}

/// Records: by the number in their header.
impl RecordStore for SimulatedDevice {
    fn place(&self) -> &Path {
        Path::new("/simulated")
    }

    fn records(&mut self) -> io::Result<Vec<Vec<u8>>> {
        Ok(Self::read(self)?.into_values().collect())
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let id = u64::from_le_bytes(record[96..104].try_into().unwrap());
        self.write_blob(id, record)
    }
}
