//! What a guest's devices promise, whatever its driver does: no panic, bounded work, and memory that is
//! never plugged where it must not be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use ras_core::{CpuVendor, Gpa, PAGE_SIZE};
use rasvmm::devices::legacy::serial::{Output, PORTS, Serial};
use rasvmm::devices::virtio::mem::{BLOCK_SIZE, VirtioMem, device};
use rasvmm::devices::virtio::mmio::{Device, MmioTransport, REQUESTS_PER_KICK_MAX, Registers};
use rasvmm::devices::virtio::queue::{Chain, QueueError};
use rasvmm::memory::mapping::{GuestRam, RegionConfig, RegionKind};
use rasvmm::memory::unplug::HostMemory;
use rasvmm::poison::{Page, Poison, vmce};

use crate::input::Input;

/// RAM: queues and buffers lie there.
const RAM: u64 = 1 << 20;
/// The device's memory.
const REGION: Gpa = Gpa(4 << 30);
const BLOCKS: u64 = 8;

/// Where the honest part of the driver has its queue and its request.
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFER: u64 = 0x4000;
const SIZE: u16 = 8;

/// Steps of a driver in one input.
const STEPS_MAX: usize = 400;

const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const STATUS: u64 = 0x70;
const QUEUE_READY: u64 = 0x44;
const NEEDS_RESET: u32 = 64;

/// The registers there are, and some that are none.
const REGISTERS: [u64; 24] = [
    0x000, 0x010, 0x014, 0x020, 0x024, 0x030, 0x034, 0x038, 0x044, 0x050, 0x060, 0x064, 0x070,
    0x080, 0x084, 0x090, 0x094, 0x0a0, 0x0a4, 0x0b0, 0x0fc, 0x100, 0x128, 0x1fc,
];

/// Counts requests.
struct Counted {
    device: VirtioMem,
    requests: u16,
}

impl Device for Counted {
    const ID: u32 = <VirtioMem as Device>::ID;

    fn features(&self) -> u64 {
        self.device.features()
    }

    fn config(&self) -> Vec<u8> {
        self.device.config()
    }

    fn handle(&mut self, chain: &Chain, ram: &GuestRam) -> Result<u32, QueueError> {
        self.requests += 1;
        self.device.handle(chain, ram)
    }
}

/// Devices and memory, and a driver that is honest where the input says so.
pub(crate) struct Machine {
    ram: Arc<GuestRam>,
    poison: Arc<Poison>,
    transport: MmioTransport<Counted>,
    available: u16,
}

/// What a step is compared with.
struct Before {
    plugged: Vec<bool>,
    status: u32,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let region = |gpa, size, kind| RegionConfig { gpa, size, kind };
        let ram = GuestRam::new(&[
            region(Gpa(0), RAM, RegionKind::Ram),
            region(REGION, BLOCKS * BLOCK_SIZE, RegionKind::VirtioMem),
        ]);
        let ram = Arc::new(ram.expect("guest memory"));
        let poison = Arc::new(Poison::default());
        let host = HostMemory::new(Arc::clone(&ram), Arc::clone(&poison));
        let requested = BLOCKS / 2 * BLOCK_SIZE;
        let device = VirtioMem::new(REGION, BLOCKS * BLOCK_SIZE, requested, Arc::new(host));
        let device = Counted { device: device.expect("whole blocks"), requests: 0 };
        Self { ram, poison, transport: MmioTransport::new(device), available: 0 }
    }

    /// As [`rasvmm::vm::Vm`] does when a guest arrived. False if the device is another one.
    pub(crate) fn restore(
        &mut self,
        registers: Registers,
        saved: device::Saved,
        pages: Vec<Page>,
        checks: vmce::Queue,
    ) -> bool {
        let taken = self.transport.device_mut().device.restore(saved);
        if taken {
            self.transport.restore(registers);
            let lost = pages.into_iter().filter(|page| page.lost && !page.held);
            self.poison.list().restore(lost.map(|page| Page { pfn: None, ..page }).collect());
            self.poison.restore_queue(checks);
        }
        taken
    }

    fn device(&self) -> &VirtioMem {
        &self.transport.device().device
    }

    fn get(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn before(&self) -> Before {
        let blocks = self.device().blocks();
        let plugged = (0..BLOCKS).map(|number| blocks.is_plugged(number)).collect();
        Before { plugged, status: self.get(STATUS) }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let before = self.before();
        self.transport.device_mut().requests = 0;
        let effect = self.transport.write(offset, data, &self.ram);
        assert!(self.transport.device().requests <= REQUESTS_PER_KICK_MAX);
        if effect.interrupt {
            assert_ne!(self.get(INTERRUPT_STATUS), 0);
        }
        let reset = offset == STATUS && data == [0; 4];
        if before.status & NEEDS_RESET != 0 && !reset {
            assert_ne!(self.get(STATUS) & NEEDS_RESET, 0, "only a reset helps");
            assert!(!effect.worked);
        }
        if reset {
            assert_eq!([STATUS, INTERRUPT_STATUS, QUEUE_READY].map(|at| self.get(at)), [0; 3]);
        }
        if let Some(page) = effect.poisoned {
            assert!(page.0.is_multiple_of(PAGE_SIZE) && self.ram.hva_of(page, 1).is_some());
            self.lose(page);
        }
        self.check(&before);
    }

    /// A page is lost: as `Machine::early_notice`.
    fn lose(&mut self, page: Gpa) {
        self.poison.note_lost(page, None);
        let blocks = self.device().blocks();
        if blocks.number(page).is_some_and(|number| !blocks.is_plugged(number)) {
            self.poison.list().hold(page, PAGE_SIZE);
        }
    }

    /// What arrived of bad memory can be acted on: pages that are pages of this guest, and no more than
    /// there may be.
    pub(crate) fn bad_pages(&self) {
        for page in self.poison.list().iter() {
            assert!(page.gpa.0.is_multiple_of(PAGE_SIZE), "{page:?}");
        }
        assert!(self.poison.waiting() <= vmce::QUEUE_MAX);
        while let Some(check) = self.poison.next() {
            for vendor in [CpuVendor::Intel, CpuVendor::Amd] {
                assert_eq!(check.raises(vendor), check.encode(vendor).mcg_status & 4 != 0);
            }
            self.poison.done(check);
        }
    }

    /// The books are right, and no block became plugged that must not be.
    pub(crate) fn checked(&self) {
        self.check(&self.before());
    }

    fn check(&self, before: &Before) {
        let device = self.device();
        let blocks = device.blocks();
        let plugged = blocks.plugged_size();
        assert!(plugged.is_multiple_of(BLOCK_SIZE) && plugged <= blocks.size());
        assert!(device.requested_size().is_multiple_of(BLOCK_SIZE));
        assert!(device.requested_size() <= blocks.size());
        assert_eq!((blocks.start(), blocks.size()), (REGION, BLOCKS * BLOCK_SIZE));
        let runs = blocks.plugged();
        assert_eq!(runs.iter().map(|(_, len)| len).sum::<u64>(), plugged);
        for (gpa, len) in runs {
            assert_eq!(
                blocks.touched(gpa, len).map(|run| run.count() as u64 * BLOCK_SIZE),
                Some(len)
            );
        }
        let mut news = false;
        for (number, was) in (0..BLOCKS).zip(&before.plugged) {
            if blocks.is_plugged(number) && !was {
                news = true;
                let held = self.poison.list().is_held(blocks.gpa(number), BLOCK_SIZE);
                assert!(!held, "block {number} has a page that is held, and was plugged");
            }
        }
        assert!(!news || plugged <= device.requested_size());
        // `plugged_size` in `struct virtio_mem_config`.
        let mut word = [0; 8];
        self.transport.read(0x100 + 40, &mut word);
        assert_eq!(u64::from_le_bytes(word), plugged);
    }

    fn set(&mut self, offset: u64, value: u64) {
        let [a, b, c, d, ..] = value.to_le_bytes();
        self.write(offset, &[a, b, c, d]);
    }

    /// As a driver does it.
    fn start(&mut self) {
        self.available = 0;
        let _ = self.ram.write(Gpa(AVAIL), &[0; 4]);
        self.set(STATUS, 0);
        for (offset, value) in [
            (STATUS, 3),
            (0x24, 1),
            (0x20, 1),
            (STATUS, 11),
            (0x38, u64::from(SIZE)),
            (0x80, DESC),
            (0x90, AVAIL),
            (0xa0, USED),
            (QUEUE_READY, 1),
            (STATUS, 15),
        ] {
            self.set(offset, value);
        }
    }

    /// One request in its own words, in a chain of one or two readable buffers and one writable one.
    fn request(&mut self, input: &mut Input<'_>) {
        let [kind, shape, block, count] = [(); 4].map(|()| input.u8());
        let mut request = [0; 24];
        request[0] = kind % 5;
        let gpa = if shape & 0x80 == 0 {
            REGION.0 + u64::from(block % 10) * BLOCK_SIZE
        } else {
            input.u64()
        };
        request[8..16].copy_from_slice(&gpa.to_le_bytes());
        let count = if shape & 0x40 == 0 { u16::from(count % 10) } else { input.u16() };
        request[16..18].copy_from_slice(&count.to_le_bytes());
        let _ = self.ram.write(Gpa(BUFFER), &request);
        let cut = u32::from(shape % 25);
        self.descriptor(0, BUFFER, cut, 1, 1);
        self.descriptor(1, BUFFER + u64::from(cut), 24 - cut, 1, 2);
        self.descriptor(2, BUFFER + 64, if shape & 0x20 == 0 { 10 } else { 9 }, 2, 0);
        let _ = self.ram.write(Gpa(AVAIL + 4 + 2 * u64::from(self.available % SIZE)), &[0; 2]);
        self.available = self.available.wrapping_add(1);
        let _ = self.ram.write(Gpa(AVAIL + 2), &self.available.to_le_bytes());
        self.write(QUEUE_NOTIFY, &[0; 4]);
    }

    fn descriptor(&self, index: u64, gpa: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = gpa.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let _ = self.ram.write(Gpa(DESC + 16 * index), &bytes);
    }

    /// What driver and host do, as the input says.
    pub(crate) fn drive(&mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                return;
            }
            match input.u8() % 16 {
                0 => self.start(),
                1..=3 => self.request(input),
                4 => self.write(QUEUE_NOTIFY, &[0; 4]),
                5 | 6 => {
                    let offset = REGISTERS[usize::from(input.u8()) % REGISTERS.len()];
                    let value = input.u32();
                    self.write(offset, &value.to_le_bytes());
                }
                7 => {
                    let offset = REGISTERS[usize::from(input.u8()) % REGISTERS.len()];
                    // Where queues and buffers are.
                    let value = u64::from(input.u8()) << 8;
                    self.set(offset, value);
                }
                8 => {
                    let (offset, length) = (u64::from(input.u16()), usize::from(input.u8() % 16));
                    self.write(offset, input.bytes(length));
                    self.transport.read(offset, &mut vec![0; length]);
                }
                9 | 10 => {
                    let (gpa, length) = (Gpa(u64::from(input.u16())), usize::from(input.u8()));
                    let _ = self.ram.write(gpa, input.bytes(length));
                }
                11 => {
                    let size = u64::from(input.u8() % 11) * BLOCK_SIZE;
                    let changed = self.transport.device_mut().device.request_size(size);
                    if changed == Ok(true) {
                        let _ = self.transport.config_changed();
                    }
                }
                12 => {
                    let page = u64::from(input.u16()) % (BLOCKS * BLOCK_SIZE / PAGE_SIZE);
                    self.lose(Gpa(REGION.0 + page * PAGE_SIZE));
                }
                13 => {
                    let page = Gpa(u64::from(input.u8() % 8) * PAGE_SIZE);
                    if self.ram.poison(page).is_ok() {
                        self.lose(page);
                    }
                }
                14 => {
                    let frozen = input.u8() & 1 != 0;
                    self.transport.device_mut().device.freeze(frozen);
                }
                _ => self.migrate(),
            }
            self.checked();
        }
    }

    /// There and back again: the driver notices nothing.
    fn migrate(&mut self) {
        let was: Vec<u32> = REGISTERS.iter().map(|offset| self.get(*offset)).collect();
        let state = (self.transport.registers(), self.device().save());
        let text = serde_json::to_vec(&state).expect("a state has a text");
        let (registers, saved): (Registers, device::Saved) =
            serde_json::from_slice(&text).expect("the same state");
        assert!(self.transport.device_mut().device.restore(saved), "it was its own");
        self.transport.restore(registers);
        assert_eq!(REGISTERS.iter().map(|offset| self.get(*offset)).collect::<Vec<_>>(), was);
    }
}

/// A driver, from reset or from a good start.
pub(crate) fn virtio_mem(bytes: &[u8]) {
    let mut machine = Machine::new();
    let mut input = Input(bytes);
    if input.u8() & 1 == 0 {
        machine.start();
    }
    machine.drive(&mut input);
    machine.set(STATUS, 0);
    machine.start();
    assert_eq!(machine.get(STATUS), 15, "whatever it was, a reset gets it back");
}

/// Where the serial line prints to.
static PRINTED: LazyLock<File> = LazyLock::new(crate::input::file);

/// Accesses to the serial line, two bytes each: what leaves is what was sent, no more and no less.
pub(crate) fn serial_line(bytes: &[u8]) {
    const DLAB: u8 = 0x80;
    const LOOP: u8 = 0x10;
    const ACCESSES_MAX: usize = 1024;
    PRINTED.set_len(0).expect("an empty file");
    let file = PRINTED.try_clone().expect("a second handle");
    std::io::Seek::rewind(&mut &file).expect("the beginning");
    let mut serial = Serial::new(Output::File(file, PathBuf::from("fuzz")));
    let (mut sent, mut lcr, mut mcr, mut ier) = (Vec::new(), 0, 0, 0);
    for access in bytes.chunks_exact(2).take(ACCESSES_MAX) {
        let (offset, value) = (u16::from(access[0] % 16), access[1]);
        if access[0] & 0x80 != 0 {
            let found = serial.read(offset);
            match offset {
                5 => assert_eq!(found & 0x60, 0x60, "a byte leaves at once"),
                3 => assert_eq!(found, lcr),
                4 => assert_eq!(found, mcr),
                PORTS.. => assert_eq!(found, 0xff),
                _ => {}
            }
            continue;
        }
        let latch = lcr & DLAB != 0 && offset < 2;
        if offset == 0 && !latch && mcr & LOOP == 0 {
            sent.push(value);
        }
        match offset {
            1 if !latch => ier = value & 0xf,
            3 => lcr = value,
            4 => mcr = value & 0x1f,
            _ => {}
        }
        let interrupt = serial.write(offset, value);
        assert_eq!(interrupt, offset < 2 && !latch && ier & 2 != 0);
        // The state travels; nobody notices.
        if value == 0x55 {
            let text = serde_json::to_vec(&serial.registers()).expect("a state has a text");
            serial.restore(serde_json::from_slice(&text).expect("the same state"));
        }
    }
    let mut printed = Vec::new();
    let size = PRINTED.metadata().expect("a size").len();
    printed.resize(usize::try_from(size).expect("small"), 0);
    PRINTED.read_exact_at(&mut printed, 0).expect("what was printed");
    assert_eq!(printed, sent);
}
