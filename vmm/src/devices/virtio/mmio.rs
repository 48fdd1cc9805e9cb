//! The virtio-mmio transport, version 2. VIRTIO 1.2, section 4.2 "Virtio Over MMIO".

use ras_core::Gpa;
use serde::{Deserialize, Serialize};

use super::queue::{Chain, Queue, QueueError};
use crate::memory::mapping::{GuestRam, RamError};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"RAMP");

/// `VIRTIO_F_VERSION_1`: not a legacy device.
const F_VERSION_1: u64 = 1 << 32;

const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 64;

const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

/// Most entries of a queue.
pub const QUEUE_SIZE_MAX: u16 = 64;

/// Most requests one notification is answered with: a queue that was full when it came. The vCPU waits
/// meanwhile, and a driver that offers more notifies again. Each request costs at most as many reads of
/// descriptors again, so that the hostile worst case is some 8,000 short system calls: milliseconds.
pub const REQUESTS_PER_KICK_MAX: u16 = QUEUE_SIZE_MAX;

/// Offset of the device's configuration in the register window.
const CONFIG: u64 = 0x100;

/// What a device with one queue is, behind its transport.
pub trait Device {
    /// Its number. VIRTIO 1.2, section 5 "Device Types".
    const ID: u32;

    /// Feature bits of its own; the transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Its configuration space.
    fn config(&self) -> Vec<u8>;

    /// Carries out one request; answers the bytes written into it.
    ///
    /// # Errors
    /// A request so malformed, or so inaccessible, that the device needs a reset.
    fn handle(&mut self, chain: &Chain, ram: &GuestRam) -> Result<u32, QueueError>;
}

/// A device behind its register window.
#[derive(Debug)]
pub struct MmioTransport<D> {
    device: D,
    registers: Registers,
}

/// What the driver set up: saved, and carried by a migration.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Registers {
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queue: Queue,
    interrupt_status: u32,
    status: u32,
    config_generation: u32,
}

/// What a register write leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effect {
    /// The interrupt line is to be pulsed.
    pub interrupt: bool,
    /// The queue was worked on: the device's state may have changed.
    pub worked: bool,
    /// A page of the queue or of a request turned out to be poisoned.
    pub poisoned: Option<Gpa>,
}

impl<D: Device> MmioTransport<D> {
    /// Puts `device` behind a fresh register window.
    pub fn new(device: D) -> Self {
        Self { device, registers: Registers::default() }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to change it. A change of its configuration needs [`Self::config_changed`].
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The transport's state for a migration.
    #[must_use]
    pub fn registers(&self) -> Registers {
        self.registers
    }

    /// Takes over a migrated transport's state. A queue the driver may not have is switched off.
    pub fn restore(&mut self, registers: Registers) {
        self.registers = registers;
        let queue = &mut self.registers.queue;
        queue.ready &= queue.is_valid(QUEUE_SIZE_MAX);
    }

    /// Tells the driver that the configuration changed. True if the interrupt is to be pulsed.
    #[must_use]
    pub fn config_changed(&mut self) -> bool {
        self.registers.config_generation = self.registers.config_generation.wrapping_add(1);
        let told = self.registers.status & STATUS_DRIVER_OK != 0;
        if told {
            self.registers.interrupt_status |= INTERRUPT_CONFIG;
        }
        told
    }

    /// Whether a driver has taken the device into service.
    #[must_use]
    pub fn is_driven(&self) -> bool {
        self.registers.status & STATUS_DRIVER_OK != 0
            && self.registers.status & STATUS_NEEDS_RESET == 0
    }

    /// Reads `data.len()` bytes of the window at `offset`. What does not exist reads as zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let config = self.device.config();
            let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
            for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
                *to = *from;
            }
        } else if data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    /// Writes a register. Anything but an aligned 32-bit write of a writable one is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8], ram: &GuestRam) -> Effect {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return Effect::default() };
        let value = u32::from_le_bytes(bytes);
        let registers = &mut self.registers;
        let has_queue = registers.queue_sel == 0;
        let setting_up = has_queue && !registers.queue.ready;
        match offset {
            0x014 => registers.device_features_sel = value,
            0x020 => match registers.driver_features_sel {
                0 => set_low(&mut registers.driver_features, value),
                1 => set_high(&mut registers.driver_features, value),
                _ => {}
            },
            0x024 => registers.driver_features_sel = value,
            0x030 => registers.queue_sel = value,
            // Out of range becomes 0, which never is a valid size.
            0x038 if setting_up => registers.queue.size = u16::try_from(value).unwrap_or(0),
            0x044 if has_queue => {
                if value & 1 == 0 {
                    registers.queue = Queue::default();
                } else if setting_up && registers.queue.is_valid(QUEUE_SIZE_MAX) {
                    registers.queue.ready = true;
                }
            }
            0x050 if value == 0 => return self.notified(ram),
            0x064 => registers.interrupt_status &= !value,
            0x070 => self.set_status(value),
            0x080 if setting_up => set_low(&mut registers.queue.desc, value),
            0x084 if setting_up => set_high(&mut registers.queue.desc, value),
            0x090 if setting_up => set_low(&mut registers.queue.driver, value),
            0x094 if setting_up => set_high(&mut registers.queue.driver, value),
            0x0a0 if setting_up => set_low(&mut registers.queue.device, value),
            0x0a4 if setting_up => set_high(&mut registers.queue.device, value),
            _ => {}
        }
        Effect::default()
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => D::ID,
            0x00c => VENDOR,
            0x010 => half(self.features(), registers.device_features_sel),
            0x034 if registers.queue_sel == 0 => u32::from(QUEUE_SIZE_MAX),
            0x044 if registers.queue_sel == 0 => u32::from(registers.queue.ready),
            0x060 => registers.interrupt_status,
            0x070 => registers.status,
            // No shared memory regions: a length of all ones.
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => registers.config_generation,
            _ => 0,
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | F_VERSION_1
    }

    /// Forgets its driver, as the driver can ask it to, and as a reset of the machine does.
    pub fn reset(&mut self) {
        let config_generation = self.registers.config_generation;
        self.registers = Registers { config_generation, ..Registers::default() };
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let driver = self.registers.driver_features;
        let acceptable = driver & !self.features() == 0 && driver & F_VERSION_1 != 0;
        let mut status = value & !STATUS_NEEDS_RESET & 0xff;
        if !acceptable {
            status &= !(STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        }
        self.registers.status = status | self.registers.status & STATUS_NEEDS_RESET;
    }

    /// Works on all requests the driver made available.
    fn notified(&mut self, ram: &GuestRam) -> Effect {
        if !self.is_driven() {
            return Effect::default();
        }
        let (worked, result) = self.work(ram);
        let mut effect = Effect { worked, ..Effect::default() };
        match result {
            Ok(interrupt) => effect.interrupt = interrupt,
            Err(error) => {
                tracing::warn!("virtio device {}: {error}", D::ID);
                if let QueueError::Ram(RamError::Poisoned(gpa)) = error {
                    effect.poisoned = Some(gpa);
                }
                // VIRTIO 1.2, section 2.1.2: the driver is told by a configuration change.
                self.registers.status |= STATUS_NEEDS_RESET;
                self.registers.interrupt_status |= INTERRUPT_CONFIG;
                effect.interrupt = true;
            }
        }
        effect
    }

    fn work(&mut self, ram: &GuestRam) -> (bool, Result<bool, QueueError>) {
        let mut worked = false;
        // A driver that refills the queue while it is worked on has to notify again.
        for _ in 0..self.registers.queue.size.min(REQUESTS_PER_KICK_MAX) {
            let mut step = || {
                let Some(chain) = self.registers.queue.pop(ram)? else { return Ok(false) };
                let written = self.device.handle(&chain, ram)?;
                self.registers.queue.push(ram, &chain, written)?;
                Ok(true)
            };
            match step() {
                Ok(true) => worked = true,
                Ok(false) => break,
                // The request may have been carried out before its answer failed.
                Err(error) => return (true, Err(error)),
            }
        }
        if !worked {
            return (false, Ok(false));
        }
        self.registers.interrupt_status |= INTERRUPT_USED;
        (true, self.registers.queue.wants_interrupt(ram))
    }
}

fn half(value: u64, sel: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match sel {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff_0000_0000 | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{AVAIL, DESC, Driver, SIZE, USED};
    use super::*;
    use proptest::prelude::*;

    /// Answers each request with its first byte plus one.
    struct Increment;

    impl Device for Increment {
        const ID: u32 = 24;
        fn features(&self) -> u64 {
            2
        }
        fn config(&self) -> Vec<u8> {
            vec![1, 2, 3]
        }
        fn handle(&mut self, chain: &Chain, ram: &GuestRam) -> Result<u32, QueueError> {
            let mut byte = [0];
            chain.read(ram, &mut byte)?;
            chain
                .write(ram, &[byte[0].wrapping_add(1)])?
                .ok_or(QueueError::Driver("no room for the answer"))
        }
    }

    fn set(transport: &mut MmioTransport<Increment>, driver: &Driver, offset: u64, value: u64) {
        let value = half(value, 0).to_le_bytes();
        assert_eq!(transport.write(offset, &value, &driver.ram), Effect::default());
    }

    fn get(transport: &MmioTransport<Increment>, offset: u64) -> u32 {
        let mut value = [0; 4];
        transport.read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    fn started(driver: &Driver) -> MmioTransport<Increment> {
        let mut transport = MmioTransport::new(Increment);
        assert_eq!([get(&transport, 0), get(&transport, 4), get(&transport, 8)], [MAGIC, 2, 24]);
        for (offset, value) in [
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x38, u64::from(SIZE)),
            (0x80, DESC),
            (0x90, AVAIL),
            (0xa0, USED),
            (0x44, 1),
            (0x70, 15),
        ] {
            set(&mut transport, driver, offset, value);
        }
        assert_eq!(get(&transport, 0x70), 15);
        assert_eq!(get(&transport, 0x44), 1);
        transport
    }

    #[test]
    fn a_driver_sets_it_up_and_is_served() {
        let mut driver = Driver::new(&[]);
        let mut transport = started(&driver);
        driver.ram.write(Gpa(0x8000), &[41]).expect("buffer");
        driver.descriptor(0, 0x8000, 1, 1, 1);
        driver.descriptor(1, 0x8001, 1, 2, 0);
        driver.offer(0);
        let effect = transport.write(0x50, &[0; 4], &driver.ram);
        assert_eq!(effect, Effect { interrupt: true, worked: true, poisoned: None });
        let mut answer = [0];
        driver.ram.read(Gpa(0x8001), &mut answer).expect("buffer");
        assert_eq!(answer, [42]);
        assert_eq!(get(&transport, 0x60), INTERRUPT_USED);
        set(&mut transport, &driver, 0x64, 1);
        assert_eq!(get(&transport, 0x60), 0);
        assert!(transport.config_changed());
        assert_eq!((get(&transport, 0x60), get(&transport, 0xfc)), (INTERRUPT_CONFIG, 1));
    }

    #[test]
    fn a_broken_driver_has_to_reset() {
        let mut driver = Driver::new(&[]);
        let mut transport = started(&driver);
        driver.offer(SIZE);
        assert!(transport.write(0x50, &[0; 4], &driver.ram).interrupt);
        assert_eq!(get(&transport, 0x70), 15 | STATUS_NEEDS_RESET);
        assert_eq!(transport.write(0x50, &[0; 4], &driver.ram), Effect::default(), "ignored now");
        set(&mut transport, &driver, 0x70, 0);
        assert_eq!((get(&transport, 0x70), get(&transport, 0x44)), (0, 0));
    }

    #[test]
    fn legacy_drivers_and_wrong_queues_are_not_accepted() {
        let driver = Driver::new(&[]);
        let mut transport = MmioTransport::new(Increment);
        set(&mut transport, &driver, 0x70, 11);
        assert_eq!(get(&transport, 0x70), 3, "FEATURES_OK needs VERSION_1");
        for size in [0, 3, 128, 0x1_0008] {
            set(&mut transport, &driver, 0x38, size);
            set(&mut transport, &driver, 0x44, 1);
            assert_eq!(get(&transport, 0x44), 0, "size {size}");
        }
        let mut config = [9; 8];
        transport.read(0x101, &mut config);
        assert_eq!(config, [2, 3, 0, 0, 0, 0, 0, 0]);
        transport.read(0xffff_ffff_ffff_ffff, &mut config);
        assert_eq!(config, [0; 8]);
    }

    proptest! {
        /// Whatever a driver writes into the registers and its queue, the device answers in bounded
        /// time, and a reset gets it back.
        #[test]
        fn any_driver_is_survived(
            memory in prop::collection::vec(any::<u8>(), 0x2100),
            writes in prop::collection::vec((0u64..0x120, any::<u32>(), any::<bool>()), 0..200),
        ) {
            let driver = Driver::new(&[]);
            driver.ram.write(Gpa(DESC), &memory).expect("inside");
            let mut transport = started(&driver);
            for (offset, value, small) in writes {
                let value = if small { value % 0x4000 } else { value };
                let _ = transport.write(offset, &value.to_le_bytes(), &driver.ram);
                let _ = transport.write(0x50, &[0; 4], &driver.ram);
                transport.read(offset, &mut [0; 8]);
                prop_assert!(!transport.registers.queue.ready || transport.registers.queue.is_valid(QUEUE_SIZE_MAX));
            }
            set(&mut transport, &driver, 0x70, 0);
            prop_assert_eq!((get(&transport, 0x70), get(&transport, 0x44)), (0, 0));
        }
    }
}
