//! Driver of one virtio-mem device. Virtio 1.2, section 5.15.

use guest::frames::Region;
use guest::page::{Gpa, PAGE_SIZE};
use guest::policy::Sizes;
use guest::virtio_mem::{
    Buffers, DEVICE_ID, F_UNPLUGGED_INACCESSIBLE, F_VERSION_1, Request, Response, config,
};
use guest::virtqueue::{self, Queue, Rings};

use crate::machine::mmio::{Register, Registers};

/// Where the device is unless the command line says otherwise.
pub const DEFAULT_BASE: Gpa = Gpa(0xd000_0000);

/// Looks at the used ring before a request counts as unanswered: minutes on an emulating KVM.
const POLLS_MAX: u32 = 100_000_000;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const FAILED: u32 = 128;

static RINGS: Rings = Rings::new();
static BUFFERS: Buffers = Buffers::new();

/// The device, ready for requests.
pub struct MemoryDevice {
    registers: Registers,
    queue: Queue,
    region: Region,
    generation: u32,
    sizes: Sizes,
}

/// Why there is no device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absent {
    /// Nothing answers at the address, or another device.
    NotThere,
    /// The device and the driver can't work together.
    Unusable(&'static str),
}

impl MemoryDevice {
    /// Takes the device at `base` into service, with all its memory unplugged.
    ///
    /// # Errors
    /// [`Absent`].
    pub fn start(base: Gpa) -> Result<Self, Absent> {
        let registers = Registers::probe(base, DEVICE_ID).ok_or(Absent::NotThere)?;
        match Self::negotiate(&registers) {
            Ok(region) => {
                let sizes = read_sizes(&registers);
                let queue = Queue::new(&RINGS);
                let mut device = Self { registers, queue, region, generation: 0, sizes };
                // Whatever a predecessor had plugged is unknown to us, so it goes, as in Linux.
                if device.sizes.plugged != 0
                    && device.request(Request::UnplugAll) != Ok(Response::ACK)
                {
                    return Err(Absent::Unusable("UNPLUG_ALL was refused"));
                }
                device.refresh();
                Ok(device)
            }
            Err(reason) => {
                registers.write(Register::Status, FAILED);
                Err(Absent::Unusable(reason))
            }
        }
    }

    /// Where the device's blocks are.
    pub fn region(&self) -> Region {
        self.region
    }

    /// What the device wants. Only the generation is read as long as it stays the same: every
    /// register is an exit.
    pub fn sizes(&mut self) -> Sizes {
        if self.registers.read(Register::ConfigGeneration) != self.generation {
            self.refresh();
        }
        self.sizes
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn request(&mut self, request: Request) -> Result<Response, &'static str> {
        BUFFERS.write(request);
        let [read, write] = BUFFERS.descriptors();
        self.queue.submit(read, write);
        self.registers.write(Register::QueueNotify, 0);
        for _ in 0..POLLS_MAX {
            if self.queue.completed().is_some() {
                // The used-buffer interrupt is not wired; acknowledging keeps the device tidy.
                let pending = self.registers.read(Register::InterruptStatus);
                if pending != 0 {
                    self.registers.write(Register::InterruptAck, pending);
                }
                let response = BUFFERS.response();
                if response == Response::ACK {
                    self.account(request);
                }
                return Ok(response);
            }
            core::hint::spin_loop();
        }
        Err("virtio-mem: no answer")
    }

    fn negotiate(registers: &Registers) -> Result<Region, &'static str> {
        registers.write(Register::Status, 0);
        registers.write(Register::Status, ACKNOWLEDGE);
        registers.write(Register::Status, ACKNOWLEDGE | DRIVER);

        let mut wanted = [0; 2];
        for (select, known) in [(0, F_UNPLUGGED_INACCESSIBLE), (1, F_VERSION_1 >> 32)] {
            registers.write(Register::DeviceFeaturesSel, select);
            let offered = registers.read(Register::DeviceFeatures);
            wanted[select as usize] = offered & u32::try_from(known).unwrap_or(0);
            registers.write(Register::DriverFeaturesSel, select);
            registers.write(Register::DriverFeatures, wanted[select as usize]);
        }
        if wanted[1] == 0 {
            return Err("the device is not of version 1");
        }
        let status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        registers.write(Register::Status, status);
        if registers.read(Register::Status) & FEATURES_OK == 0 {
            return Err("the device refused the features");
        }

        registers.write(Register::QueueSel, 0);
        if registers.read(Register::QueueNumMax) < u32::from(virtqueue::SIZE) {
            return Err("the queue is too short");
        }
        registers.write(Register::QueueNum, u32::from(virtqueue::SIZE));
        let [descriptors, driver, device] = RINGS.addresses();
        registers.write_address(Register::QueueDescLow, descriptors);
        registers.write_address(Register::QueueDriverLow, driver);
        registers.write_address(Register::QueueDeviceLow, device);
        registers.write(Register::QueueReady, 1);
        registers.write(Register::Status, status | DRIVER_OK);

        let [start, block_size, bytes] =
            registers.read_config([config::ADDR, config::BLOCK_SIZE, config::REGION_SIZE]);
        if block_size < PAGE_SIZE || !block_size.is_power_of_two() || start % block_size != 0 {
            return Err("blocks of an odd size or place");
        }
        let blocks = usize::try_from(bytes / block_size).unwrap_or(0);
        Ok(Region { start: Gpa(start), block_size, blocks })
    }

    fn refresh(&mut self) {
        self.generation = self.registers.read(Register::ConfigGeneration);
        self.sizes = read_sizes(&self.registers);
    }

    /// Keeps `plugged_size` without asking for it. The device agrees, or changes its generation.
    fn account(&mut self, request: Request) {
        let block_size = self.region.block_size;
        match request {
            Request::Plug(_, blocks) => self.sizes.plugged += u64::from(blocks) * block_size,
            Request::Unplug(_, blocks) => self.sizes.plugged -= u64::from(blocks) * block_size,
            Request::UnplugAll => self.sizes.plugged = 0,
        }
    }
}

fn read_sizes(registers: &Registers) -> Sizes {
    let [requested, plugged, usable] = registers.read_config([
        config::REQUESTED_SIZE,
        config::PLUGGED_SIZE,
        config::USABLE_REGION_SIZE,
    ]);
    Sizes { requested, plugged, usable }
}
