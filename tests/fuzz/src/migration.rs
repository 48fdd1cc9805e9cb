//! What the destination of a migration promises, whatever its source sends: an error or a guest that is
//! right, bounded memory, and no guest that runs without the source's word.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use ras_core::{Gpa, PAGE_SIZE};
use rasvmm::devices::legacy::Serial;
use rasvmm::devices::legacy::serial::{self, Output};
use rasvmm::devices::virtio::mem::device;
use rasvmm::devices::virtio::mmio;
use rasvmm::memory::mapping::{GuestRam, RegionConfig, RegionKind};
use rasvmm::migrate::format::{End, Header, Hello, Kind, Preface, Run, decode_runs, encode_runs};
use rasvmm::migrate::{Destination, Incoming, MigrateError, Received, Uri, VmResult};
use rasvmm::poison::{Page, vmce};
use serde::Deserialize;
use zerocopy::IntoBytes;

use crate::input::Input;
use crate::virtio::Machine;

/// Boot memory, and a device so large that a run of pages may have every length.
const RAM: u64 = 64 * PAGE_SIZE;
const REGION: Gpa = Gpa(4 << 30);
const REGION_SIZE: u64 = 512 << 20;

const MESSAGES_MAX: usize = 64;

/// Pages that are said to be lost in one stream, as often as they are. More are as slow here as there.
const LOST_MAX: u64 = 1 << 17;

/// Contents of pages in one stream, in bytes.
const PAYLOAD_MAX: u64 = 1 << 20;

const KINDS: [Kind; 13] = [
    Kind::Hello,
    Kind::Accept,
    Kind::Pages,
    Kind::Zero,
    Kind::Poison,
    Kind::Sync,
    Kind::Synced,
    Kind::State,
    Kind::End,
    Kind::Loaded,
    Kind::Go,
    Kind::Running,
    Kind::Failed,
];

/// A machine that waits.
struct Arriving {
    ram: GuestRam,
    marked: Mutex<Vec<Gpa>>,
    loaded: Mutex<Option<Vec<u8>>>,
    running: Mutex<bool>,
}

impl Destination for Arriving {
    fn ram(&self) -> &GuestRam {
        &self.ram
    }

    fn mark_poisoned(&self, pages: &[Gpa]) -> VmResult<()> {
        assert!(!pages.is_empty() && pages.is_sorted());
        assert!(self.loaded.lock().expect("one thread").is_none(), "before the state");
        for page in pages {
            assert!(
                page.0.is_multiple_of(PAGE_SIZE) && self.ram.hva_of(*page, PAGE_SIZE).is_some()
            );
        }
        *self.marked.lock().expect("one thread") = pages.to_vec();
        Ok(())
    }

    fn load(&self, state: &[u8]) -> VmResult<()> {
        let before = self.loaded.lock().expect("one thread").replace(state.to_vec());
        assert!(before.is_none(), "the state is loaded once");
        Ok(())
    }

    fn resume(&self) -> VmResult<()> {
        assert!(self.loaded.lock().expect("one thread").is_some());
        assert!(!std::mem::replace(&mut *self.running.lock().expect("one thread"), true));
        Ok(())
    }
}

fn arriving() -> Arriving {
    let region = |gpa, size, kind| RegionConfig { gpa, size, kind };
    let ram = GuestRam::new(&[
        region(Gpa(0), RAM, RegionKind::Ram),
        region(REGION, REGION_SIZE, RegionKind::VirtioMem),
    ]);
    Arriving {
        ram: ram.expect("guest memory"),
        marked: Mutex::default(),
        loaded: Mutex::default(),
        running: Mutex::default(),
    }
}

/// What happens at the end of such a stream.
fn received(vm: &Arriving, stream: &[u8]) -> Result<Received, MigrateError> {
    let (mut near, far) = UnixStream::pair().expect("a pair of sockets");
    let uri = Uri::Fd(far.into_raw_fd());
    let incoming = Incoming::listen("vm1", &uri, Duration::from_secs(5)).expect("it is connected");
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = near.write_all(stream);
            let _ = near.shutdown(Shutdown::Write);
            let _ = near.read_to_end(&mut Vec::new());
        });
        incoming.receive(vm)
    });
    assert_eq!(result.is_ok(), *vm.running.lock().expect("one thread"));
    result
}

fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, body).expect("a short body");
    [header.as_bytes(), body].concat()
}

/// The bytes as a stream, as a stream behind a good beginning, or as what to put into messages.
pub(crate) fn stream(bytes: &[u8]) {
    let mut input = Input(bytes);
    let vm = arriving();
    let hello = Hello::of("vm1", &vm.ram).encode().expect("two regions");
    let beginning = [Preface::ours().as_bytes(), &message(Kind::Hello, &hello)].concat();
    match input.u8() % 8 {
        0 => {
            let _ = received(&vm, input.0);
        }
        1 => {
            let _ = received(&vm, &[&beginning, input.0].concat());
        }
        2 => {
            let theirs = [Preface::ours().as_bytes(), &message(Kind::Hello, input.0)].concat();
            let _ = received(&vm, &theirs);
            if let Ok(hello) = Hello::decode(input.0) {
                assert_eq!(hello.encode().as_deref(), Ok(input.0), "what is read can be written");
            }
        }
        _ => messages(&vm, beginning, &mut input),
    }
}

fn messages(vm: &Arriving, mut stream: Vec<u8>, input: &mut Input<'_>) {
    // What the destination has to believe, if it accepts all of it.
    let (mut lost, mut state, mut pages) = (BTreeSet::new(), Vec::new(), 0);
    let (mut go, mut payload, mut said) = (false, 0, 0);
    for _ in 0..MESSAGES_MAX {
        if input.is_empty() {
            break;
        }
        let byte = input.u8();
        let kind = KINDS[usize::from(byte & 0xf) % KINDS.len()];
        let body = match kind {
            Kind::Pages | Kind::Zero | Kind::Poison => runs(byte, input),
            Kind::Sync => input.bytes(4).to_vec(),
            Kind::End if byte & 0x80 == 0 => End::of(&state).as_bytes().to_vec(),
            Kind::Go | Kind::Accept | Kind::Loaded => Vec::new(),
            _ => {
                let length = usize::from(input.u8());
                input.bytes(length).to_vec()
            }
        };
        stream.extend(message(kind, &body));
        let runs = decode_runs(&body).unwrap_or_default();
        match kind {
            Kind::Pages => {
                let wanted: u64 = runs.iter().map(|run| run.byte_len()).sum();
                payload += wanted;
                if payload > PAYLOAD_MAX {
                    break;
                }
                stream.resize(stream.len() + usize::try_from(wanted).expect("small"), byte);
                pages += wanted / PAGE_SIZE;
                runs.iter().for_each(|run| lift(&mut lost, *run));
            }
            Kind::Zero => runs.iter().for_each(|run| lift(&mut lost, *run)),
            Kind::Poison => {
                let more = runs.iter().map(|run| u64::from(run.pages)).sum::<u64>();
                said += more;
                if said > LOST_MAX {
                    break;
                }
                // More of them than the destination takes need not be believed.
                if more <= 1 << 16 {
                    lost.extend(runs.iter().flat_map(|run| run.iter()));
                }
            }
            Kind::State => state.extend(&body),
            Kind::Go => {
                go = true;
                break;
            }
            _ => {}
        }
    }
    match received(vm, &stream) {
        Ok(received) => {
            assert!(go, "it runs without the source's word");
            assert_eq!(received.poisoned, lost.iter().copied().collect::<Vec<_>>());
            assert_eq!(*vm.marked.lock().expect("one thread"), received.poisoned);
            assert_eq!(vm.loaded.lock().expect("one thread").as_ref(), Some(&state));
            assert_eq!((received.state_length, received.pages), (state.len() as u64, pages));
        }
        Err(error) => assert!(!rasvmm::migrate::chain(&error).is_empty()),
    }
    let memory: u64 = [(Gpa(0), RAM), (REGION, REGION_SIZE)]
        .iter()
        .flat_map(|(gpa, len)| vm.ram.allocated(*gpa, *len))
        .map(|(_, len)| len)
        .sum();
    assert!(memory <= payload, "{memory} bytes of memory for {payload} of contents");
}

/// Up to sixteen runs, in memory for the most part; or whatever the bytes are.
fn runs(shape: u8, input: &mut Input<'_>) -> Vec<u8> {
    let count = usize::from(input.u8() % 17);
    match shape >> 4 & 7 {
        0 => input.bytes(count).to_vec(),
        // Many that are alike.
        1 => {
            let run = long(input);
            encode_runs(&vec![run; 1 + usize::from(input.u8() & 0x1f) * 256])
        }
        2 => encode_runs(&(0..count).map(|_| long(input)).collect::<Vec<_>>()),
        _ => {
            let short = |_| {
                let (at, pages) = (input.u8(), input.u8());
                let start = if at & 0x80 == 0 { 0 } else { REGION.0 };
                let gpa = Gpa(start + u64::from(at & 0x3f) * PAGE_SIZE);
                Run { gpa, pages: 1 + u32::from(pages % 4) }
            };
            encode_runs(&(0..count).map(short).collect::<Vec<_>>())
        }
    }
}

fn long(input: &mut Input<'_>) -> Run {
    let (page, pages) = (input.u16(), input.u16());
    Run { gpa: Gpa(REGION.0 + u64::from(page) * PAGE_SIZE), pages: 1 + u32::from(pages) }
}

fn lift(lost: &mut BTreeSet<Gpa>, run: Run) {
    let end = Gpa(run.gpa.0 + run.byte_len());
    while let Some(page) = lost.range(run.gpa..end).next().copied() {
        lost.remove(&page);
    }
}

/// The devices' part of the state that arrives. The processor's part is KVM's to refuse.
#[derive(Deserialize)]
struct Carried {
    serial: serial::Registers,
    virtio_mem: (mmio::Registers, device::Saved),
    poison: Vec<Page>,
    machine_checks: vmce::Queue,
}

/// A state as text, and what the guest does then: the machine is as sound as one that was started here.
pub(crate) fn state(bytes: &[u8]) {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Carried>();
    let Some(Ok(carried)) = values.next() else { return };
    let rest = &bytes[values.byte_offset()..];
    let Carried { serial, virtio_mem: (registers, saved), poison, machine_checks } = carried;
    let mut line = Serial::new(Output::Null);
    line.restore(serial);
    for offset in 0..serial::PORTS {
        line.write(offset, 0xff);
        line.read(offset);
    }
    let mut machine = Machine::new();
    if machine.restore(registers, saved, poison, machine_checks) {
        machine.checked();
        machine.bad_pages();
        machine.drive(&mut Input(rest));
    }
}
