//! A disk that remembers what was not yet synced, and can lose it, fail, or lose power at any call.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::rc::Rc;

use super::{Backend, Content, File};

/// What a disk writes or does not write, never half.
pub(crate) const SECTOR: usize = 512;

/// Deterministic choices: SplitMix64, seeded with a text.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn seeded(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// What goes wrong, and at which call (counted from 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    Nothing,
    /// Power goes during this call: its effect is as uncertain as that of any unsynced write.
    PowerLoss {
        at: usize,
    },
    /// This one call fails; a write may have written a part.
    Error {
        at: usize,
        kind: ErrorKind,
    },
    /// From this call on there is no room for anything new; calls that need none are not counted.
    Full {
        from: usize,
    },
}

/// What became of a sector that was written and not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Lost,
    Written,
    /// That many bytes of it were written, which no disk should do.
    Torn(usize),
}

/// What was written and not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unsynced {
    pub(crate) sectors: usize,
    /// Creations and renames.
    pub(crate) changes: usize,
}

#[derive(Clone, Default)]
struct Inode {
    /// Shared until one of its owners is written to: crashes are many and leave most of a file alone.
    durable: Rc<Vec<u8>>,
    /// What a read sees: the page cache.
    cached: Rc<Vec<u8>>,
    pending: Vec<(usize, Rc<[u8]>)>,
}

type Names = BTreeMap<String, usize>;

/// Everything behind a [`Simulated`].
#[derive(Clone)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    durable_names: Names,
    /// The directory after each change since its last sync.
    pending_names: Vec<Names>,
    plan: Plan,
    calls: usize,
    rng: Rng,
}

/// A handle: the test keeps one, the journal has the other.
#[derive(Clone)]
pub(crate) struct Simulated(Rc<RefCell<Disk>>);

impl Simulated {
    pub(crate) fn empty(seed: &str) -> Self {
        Self::of(Disk {
            inodes: Vec::new(),
            durable_names: Names::new(),
            pending_names: Vec::new(),
            plan: Plan::Nothing,
            calls: 0,
            rng: Rng::seeded(seed),
        })
    }

    fn of(disk: Disk) -> Self {
        Self(Rc::new(RefCell::new(disk)))
    }

    /// An independent copy of everything, page cache included.
    pub(crate) fn duplicate(&self) -> Self {
        Self::of(self.0.borrow().clone())
    }

    /// Sets what goes wrong from now on; calls count from 0 again.
    pub(crate) fn plan(&self, plan: Plan) {
        let mut disk = self.0.borrow_mut();
        (disk.plan, disk.calls) = (plan, 0);
    }

    /// What is there after power came back: `keep` says, sector by sector of each unsynced write,
    /// what had reached the medium.
    pub(crate) fn after_power_loss(
        &self,
        rng: &mut Rng,
        mut keep: impl FnMut(&mut Rng) -> bool,
    ) -> Self {
        let changes = rng.below(self.unsynced().changes + 1);
        self.with_survivors(changes, &mut |_| if keep(rng) { Fate::Written } else { Fate::Lost })
    }

    /// What a crash may take.
    pub(crate) fn unsynced(&self) -> Unsynced {
        let disk = self.0.borrow();
        let pending = disk.inodes.iter().flat_map(|inode| &inode.pending);
        let sectors = pending.map(|(offset, bytes)| sectors_of(*offset, bytes.len()).count());
        Unsynced { sectors: sectors.sum(), changes: disk.pending_names.len() }
    }

    /// What is there after power came back, if that many changes of the directory survived, and of each
    /// unsynced sector, counted in the order of writing within each file, what `fate` says.
    pub(crate) fn with_survivors(
        &self,
        changes: usize,
        fate: &mut dyn FnMut(usize) -> Fate,
    ) -> Self {
        let disk = self.0.borrow();
        let mut sector = 0;
        let mut next = || {
            sector += 1;
            fate(sector - 1)
        };
        let inodes = disk.inodes.iter().map(|inode| inode.after_power_loss(&mut next)).collect();
        let durable_names = match changes {
            0 => disk.durable_names.clone(),
            changes => disk.pending_names[changes - 1].clone(),
        };
        let seed = disk.rng.clone().next();
        Self::of(Disk {
            inodes,
            durable_names,
            pending_names: Vec::new(),
            plan: Plan::Nothing,
            calls: 0,
            rng: Rng(seed),
        })
    }

    /// The process dies, the machine does not: the page cache survives.
    pub(crate) fn after_process_death(&self) -> Self {
        let copy = self.duplicate();
        copy.plan(Plan::Nothing);
        copy
    }

    /// Changes a file behind the store's back, durably.
    pub(crate) fn tamper(&self, file: File, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.0.borrow_mut();
        let inode = disk.inode(file).unwrap();
        let inode = &mut disk.inodes[inode];
        change(Rc::make_mut(&mut inode.cached));
        inode.durable = inode.cached.clone();
        inode.pending.clear();
    }

    pub(crate) fn remove(&self, file: File) {
        let mut disk = self.0.borrow_mut();
        disk.change_names(|names| names.remove(name(file)));
        disk.durable_names = disk.names().clone();
    }

    pub(crate) fn contents(&self, file: File) -> Option<Vec<u8>> {
        let disk = self.0.borrow();
        disk.inode(file).map(|inode| disk.inodes[inode].cached.to_vec())
    }

    /// Names and contents in quarantine.
    pub(crate) fn quarantine(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.0.borrow();
        let names = disk.names().iter().filter(|(name, _)| name.starts_with("journal-"));
        names.map(|(name, inode)| (name.clone(), disk.inodes[*inode].cached.to_vec())).collect()
    }
}

impl Inode {
    fn after_power_loss(&self, fate: &mut impl FnMut() -> Fate) -> Self {
        let mut durable = self.durable.clone();
        let mut put = |offset, bytes: &[u8]| overlay(Rc::make_mut(&mut durable), offset, bytes);
        for (offset, bytes) in &self.pending {
            for sector in sectors_of(*offset, bytes.len()) {
                let new = &bytes[sector.start - offset..sector.end - offset];
                match fate() {
                    Fate::Lost => {}
                    Fate::Written => put(sector.start, new),
                    Fate::Torn(count) => {
                        put(sector.start, &new[..count.min(new.len())]);
                    }
                }
            }
        }
        Self { cached: durable.clone(), durable, pending: Vec::new() }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        overlay(Rc::make_mut(&mut self.cached), offset, bytes);
        self.pending.push((offset, bytes.into()));
    }
}

/// The sectors that a write touches, cut to it.
fn sectors_of(offset: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = offset + length;
    (offset / SECTOR..end.div_ceil(SECTOR))
        .map(move |sector| offset.max(sector * SECTOR)..end.min((sector + 1) * SECTOR))
}

fn overlay(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn name(file: File) -> &'static str {
    match file {
        File::Journal => "journal",
        File::Fresh => "journal.new",
        File::Witness => "witness",
    }
}

impl Disk {
    fn names(&self) -> &Names {
        self.pending_names.last().unwrap_or(&self.durable_names)
    }

    fn inode(&self, file: File) -> Option<usize> {
        self.names().get(name(file)).copied()
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names) -> Option<usize>) {
        let mut names = self.names().clone();
        change(&mut names);
        self.pending_names.push(names);
    }

    /// Whether this call goes on; `Err` carries the failure. After power loss nothing works.
    fn call(&mut self) -> Result<(), io::Error> {
        let call = self.calls;
        self.calls += 1;
        match self.plan {
            Plan::PowerLoss { at } if call >= at => Err(io::Error::other("power loss")),
            Plan::Error { at, kind } if call == at => Err(kind.into()),
            Plan::Full { from } if call >= from => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// What a full disk does not refuse: it takes no new room.
    fn call_without_room(&mut self) -> Result<(), io::Error> {
        if self.is_full() { Ok(()) } else { self.call() }
    }

    fn is_full(&self) -> bool {
        matches!(self.plan, Plan::Full { .. })
    }

    fn lost_power_before(&self) -> bool {
        matches!(self.plan, Plan::PowerLoss { at } if self.calls > at + 1)
    }
}

/// A file's bytes at one time.
struct Snapshot(Vec<u8>);

impl Content for Snapshot {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let found = self.0.get(start..start + bytes.len()).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }
}

impl Backend for Simulated {
    fn open(&self, file: File) -> io::Result<Option<impl Content>> {
        let mut disk = self.0.borrow_mut();
        disk.call_without_room()?;
        Ok(disk.inode(file).map(|inode| Snapshot(disk.inodes[inode].cached.to_vec())))
    }

    fn create(&mut self, file: File) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call()?;
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.change_names(|names| names.insert(name(file).into(), inode));
        Ok(())
    }

    fn write(&mut self, file: File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let inode = disk.inode(file).ok_or(ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap();
        let inside = disk.inodes[inode].cached.len() >= offset + bytes.len();
        let outcome = if inside { disk.call_without_room() } else { disk.call() };
        let written = match &outcome {
            Ok(()) => bytes.len(),
            Err(_) if disk.lost_power_before() => 0,
            Err(_) => disk.rng.clone().below(bytes.len() / SECTOR + 1) * SECTOR,
        };
        disk.rng.next();
        disk.inodes[inode].write(offset, &bytes[..written]);
        outcome
    }

    fn sync(&mut self, file: File) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let inode = disk.inode(file).ok_or(ErrorKind::NotFound)?;
        let outcome = disk.call_without_room();
        match (&outcome, disk.plan) {
            (Ok(()), _) => {
                let synced = &mut disk.inodes[inode];
                synced.pending.clear();
                synced.durable = synced.cached.clone();
            }
            (Err(_), Plan::PowerLoss { .. }) => {}
            // What Linux does: some pages made it, the others are marked clean all the same.
            (Err(_), _) => {
                let mut rng = disk.rng.clone();
                let failed = &mut disk.inodes[inode];
                let durable = failed.after_power_loss(&mut || match rng.below(2) {
                    0 => Fate::Written,
                    _ => Fate::Lost,
                });
                failed.durable = durable.durable;
                failed.pending.clear();
                disk.rng = rng;
            }
        }
        outcome
    }

    fn rename_fresh(&mut self) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call_without_room()?;
        disk.change_names(|names| {
            let fresh = names.remove(name(File::Fresh)).unwrap();
            names.insert(name(File::Journal).into(), fresh)
        });
        Ok(())
    }

    fn set_aside(&mut self, generation: u64) -> io::Result<String> {
        let mut disk = self.0.borrow_mut();
        disk.call()?;
        let quarantined = format!("journal-{generation}-{}", disk.names().len());
        let journal = disk.inode(File::Journal).ok_or(ErrorKind::NotFound)?;
        disk.change_names(|names| names.insert(quarantined.clone(), journal));
        disk.durable_names = disk.names().clone();
        disk.pending_names.clear();
        Ok(quarantined)
    }

    fn keep_tail(&mut self, generation: u64, bytes: &[u8]) -> io::Result<String> {
        let mut disk = self.0.borrow_mut();
        disk.call()?;
        let quarantined = format!("journal-{generation}-{}.tail", disk.names().len());
        let inode = disk.inodes.len();
        disk.inodes.push(Inode {
            durable: Rc::new(bytes.into()),
            cached: Rc::new(bytes.into()),
            pending: Vec::new(),
        });
        disk.change_names(|names| names.insert(quarantined.clone(), inode));
        Ok(quarantined)
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        disk.call_without_room()?;
        disk.durable_names = disk.names().clone();
        disk.pending_names.clear();
        Ok(())
    }
}
