//! Migrations between two fake VMs with real memory, over real sockets.

mod arrive;
mod faults;
mod garbage;
mod poison;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ras_core::{Gpa, PAGE_SIZE};

use super::*;
use crate::memory::mapping::{RegionConfig, RegionKind, bytes};

const MIB: u64 = 1 << 20;
const VIRTIO_MEM: Gpa = Gpa(1 << 32);

/// A VM without vCPUs: the test is its guest.
struct FakeVm {
    ram: GuestRam,
    running: Mutex<bool>,
    /// How often the guest was set running.
    starts: AtomicU32,
    populated: Mutex<Vec<(Gpa, u64)>>,
    poisoned: Mutex<BTreeSet<Gpa>>,
    found: Mutex<BTreeSet<Gpa>>,
    /// Pages the guest wrote, as KVM would log them.
    dirty: Mutex<BTreeSet<Gpa>>,
    state: Mutex<Vec<u8>>,
    /// What breaks.
    fault: Option<Fault>,
    /// Called with the number of the round at each `take_dirty`.
    on_round: Option<RoundHook>,
    rounds: AtomicU32,
}

type RoundHook = Box<dyn Fn(&FakeVm, u32) + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    LogStart,
    TakeDirty,
    Pause,
    Save,
    MarkPoisoned,
    Load,
    Resume,
}

impl FakeVm {
    fn new(regions: &[(Gpa, u64, RegionKind)]) -> Self {
        let configs: Vec<_> =
            regions.iter().map(|&(gpa, size, kind)| RegionConfig { gpa, size, kind }).collect();
        Self {
            ram: GuestRam::new(&configs).unwrap(),
            running: Mutex::new(false),
            starts: AtomicU32::new(0),
            populated: Mutex::new(regions.iter().map(|(gpa, size, _)| (*gpa, *size)).collect()),
            poisoned: Mutex::default(),
            found: Mutex::default(),
            dirty: Mutex::default(),
            state: Mutex::default(),
            fault: None,
            on_round: None,
            rounds: AtomicU32::new(0),
        }
    }

    /// 4 MiB of RAM and a virtio-mem device of 4 MiB.
    fn medium() -> Self {
        Self::new(&[
            (Gpa(0), 4 * MIB, RegionKind::Ram),
            (VIRTIO_MEM, 4 * MIB, RegionKind::VirtioMem),
        ])
    }

    /// 16 pages.
    fn tiny() -> Self {
        Self::new(&[(Gpa(0), 16 * PAGE_SIZE, RegionKind::Ram)])
    }

    /// Running, with a pattern in the first `pages` pages and something in the state.
    fn started(self, pages: u64) -> Self {
        for page in 0..pages {
            self.ram.write(Gpa(page * PAGE_SIZE), &pattern(page)).unwrap();
        }
        *self.state.lock().unwrap() = b"the state".to_vec();
        *self.running.lock().unwrap() = true;
        self
    }

    fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    fn with_rounds(mut self, hook: impl Fn(&Self, u32) + Send + Sync + 'static) -> Self {
        self.on_round = Some(Box::new(hook));
        self
    }

    fn is_running(&self) -> bool {
        *self.running.lock().unwrap()
    }

    /// Writes as the guest does: nobody in the VMM notices but KVM's log. `false` while it stands still.
    fn guest_writes(&self, gpa: Gpa, data: &[u8]) -> bool {
        let running = self.running.lock().unwrap();
        if *running {
            self.ram.restore(gpa, data).unwrap();
            self.dirty.lock().unwrap().insert(gpa.page());
        }
        *running
    }

    fn fails(&self, fault: Fault) -> VmResult<()> {
        match self.fault {
            Some(ours) if ours == fault => Err(format!("{fault:?} broke").into()),
            _ => Ok(()),
        }
    }
}

impl Source for FakeVm {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }
    fn populated(&self) -> Vec<(Gpa, u64)> {
        self.populated.lock().unwrap().clone()
    }
    fn poisoned(&self) -> Vec<Gpa> {
        self.poisoned.lock().unwrap().iter().copied().collect()
    }
    fn found_poisoned(&self, page: Gpa) {
        self.found.lock().unwrap().insert(page);
    }
    fn dirty_log_start(&self) -> VmResult<()> {
        self.dirty.lock().unwrap().clear();
        self.fails(Fault::LogStart)
    }
    fn dirty_log_stop(&self) -> VmResult<()> {
        Ok(())
    }
    fn take_dirty(&self) -> VmResult<Vec<DirtyBitmap>> {
        self.fails(Fault::TakeDirty)?;
        if let Some(hook) = &self.on_round {
            hook(self, self.rounds.fetch_add(1, Ordering::SeqCst) + 1);
        }
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap());
        let bitmap = |region: &crate::memory::mapping::Region| {
            let mut words = vec![0; bytes((region.size() / PAGE_SIZE).div_ceil(64))];
            for page in dirty.range(region.gpa()..Gpa(region.gpa().0 + region.size())) {
                let index = (page.0 - region.gpa().0) / PAGE_SIZE;
                words[bytes(index / 64)] |= 1 << (index % 64);
            }
            (region.gpa(), words)
        };
        Ok(self.ram.regions().iter().map(bitmap).collect())
    }
    fn pause(&self) -> VmResult<()> {
        *self.running.lock().unwrap() = false;
        self.fails(Fault::Pause)
    }
    fn resume(&self) -> VmResult<()> {
        *self.running.lock().unwrap() = true;
        Ok(())
    }
    fn save(&self) -> VmResult<Vec<u8>> {
        self.fails(Fault::Save)?;
        assert!(!self.is_running(), "saved while running");
        Ok(self.state.lock().unwrap().clone())
    }
}

impl Destination for FakeVm {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }
    fn mark_poisoned(&self, pages: &[Gpa]) -> VmResult<()> {
        self.fails(Fault::MarkPoisoned)?;
        for page in pages {
            self.ram.poison(*page)?;
        }
        self.poisoned.lock().unwrap().extend(pages);
        Ok(())
    }
    fn load(&self, state: &[u8]) -> VmResult<()> {
        self.fails(Fault::Load)?;
        *self.state.lock().unwrap() = state.to_vec();
        Ok(())
    }
    fn resume(&self) -> VmResult<()> {
        self.fails(Fault::Resume)?;
        self.starts.fetch_add(1, Ordering::SeqCst);
        *self.running.lock().unwrap() = true;
        Ok(())
    }
}

/// Contents that tell which page they are of.
fn pattern(page: u64) -> Vec<u8> {
    page.to_le_bytes().iter().map(|byte| byte ^ 0x5a).cycle().take(bytes(PAGE_SIZE)).collect()
}

fn impatient() -> Parameters {
    Parameters { peer_timeout: Duration::from_secs(5), ..Parameters::default() }
}

/// A directory for sockets.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    (directory, path)
}

/// Migrates, each end on its own thread.
fn migrate(
    source: &FakeVm,
    destination: &FakeVm,
    migration: &Migration,
    incoming: Incoming,
) -> (Outcome, Result<Received, MigrateError>) {
    std::thread::scope(|scope| {
        let arriving = scope.spawn(|| incoming.receive(destination));
        let outcome = migration.run(source);
        (outcome, arriving.join().unwrap())
    })
}

/// [`migrate`] over a Unix socket.
fn migrate_unix(
    source: &FakeVm,
    destination: &FakeVm,
    parameters: Parameters,
) -> (Outcome, Result<Received, MigrateError>, Stats) {
    let (_directory, path) = directory();
    let uri = Uri::Unix(path);
    let incoming = Incoming::listen("vm1", &uri, parameters.peer_timeout).unwrap();
    let migration = Migration::new("vm1", uri, parameters);
    let (outcome, received) = migrate(source, destination, &migration, incoming);
    (outcome, received, migration.stats())
}

/// What a middleman does to the bytes of one direction.
type Mangle = dyn Fn(u64, &mut [u8]) -> usize + Send + Sync;

/// Migrates through a middleman. `mangle` gets the offset of a piece and the piece, may change it,
/// and says how much of it goes on; less than all of it closes both connections.
fn migrate_through(
    source: &FakeVm,
    destination: &FakeVm,
    to_destination: Box<Mangle>,
    to_source: Box<Mangle>,
) -> (Outcome, Result<Received, MigrateError>) {
    let parameters = impatient();
    let (_directory, path) = directory();
    let front = path.with_file_name("front");
    let incoming =
        Incoming::listen("vm1", &Uri::Unix(path.clone()), parameters.peer_timeout).unwrap();
    let listener = UnixListener::bind(&front).unwrap();
    let migration = Migration::new("vm1", Uri::Unix(front), parameters);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let near = Arc::new(listener.accept().unwrap().0);
            let far = Arc::new(UnixStream::connect(path).unwrap());
            let back = (Arc::clone(&far), Arc::clone(&near));
            std::thread::scope(|scope| {
                scope.spawn(move || pump(&near, &far, &*to_destination));
                scope.spawn(move || pump(&back.0, &back.1, &*to_source));
            });
        });
        migrate(source, destination, &migration, incoming)
    })
}

fn pump(from: &UnixStream, to: &UnixStream, mangle: &Mangle) {
    let (mut reader, mut writer) = (from, to);
    let mut buffer = vec![0; 1 << 16];
    let mut offset = 0;
    loop {
        let length = reader.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            let _ = writer.shutdown(std::net::Shutdown::Write);
            return;
        }
        let piece = &mut buffer[..length];
        let pass = mangle(offset, piece);
        offset += length as u64;
        if writer.write_all(&piece[..pass]).is_err() || pass < length {
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn untouched() -> Box<Mangle> {
    Box::new(|_, piece| piece.len())
}

/// Lets the first `limit` bytes through.
fn cut(limit: u64) -> Box<Mangle> {
    Box::new(move |offset, piece| {
        usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.len())
    })
}

/// Flips one bit.
fn flip(at: u64, bit: u8) -> Box<Mangle> {
    Box::new(move |offset, piece| {
        if let Some(index) = at.checked_sub(offset).and_then(|index| usize::try_from(index).ok())
            && let Some(byte) = piece.get_mut(index)
        {
            *byte ^= 1 << bit;
        }
        piece.len()
    })
}

/// Migrates once untouched and returns what each side said.
fn recorded(source: &FakeVm, destination: &FakeVm) -> (Vec<u8>, Vec<u8>) {
    let record = |into: &Arc<Mutex<Vec<u8>>>| -> Box<Mangle> {
        let into = Arc::clone(into);
        Box::new(move |_, piece| {
            into.lock().unwrap().extend_from_slice(piece);
            piece.len()
        })
    };
    let (there, back) = (Arc::default(), Arc::default());
    let (outcome, received) = migrate_through(source, destination, record(&there), record(&back));
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    received.unwrap();
    let taken = |from: &Arc<Mutex<Vec<u8>>>| std::mem::take(&mut *from.lock().unwrap());
    (taken(&there), taken(&back))
}

/// Offsets at which the source's messages begin, and the parts of the stream that are page contents.
fn landmarks(stream: &[u8]) -> (Vec<usize>, Vec<std::ops::Range<usize>>) {
    use zerocopy::FromBytes;
    let mut at = size_of::<format::Preface>();
    let (mut starts, mut payloads) = (vec![0, at], Vec::new());
    while at < stream.len() {
        let (header, _) = format::Header::read_from_prefix(&stream[at..]).unwrap();
        let (kind, length) = header.check().unwrap();
        let body = &stream[at + 16..at + 16 + length];
        at += 16 + length;
        if kind == format::Kind::Pages {
            let runs = format::decode_batch(body).unwrap();
            let pages = bytes(runs.iter().map(|run| run.byte_len()).sum());
            payloads.push(at..at + pages);
            at += pages;
        }
        starts.push(at);
    }
    assert_eq!(at, stream.len());
    (starts, payloads)
}
