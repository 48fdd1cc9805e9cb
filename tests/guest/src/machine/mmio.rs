//! Registers of a virtio device on the MMIO transport. Virtio 1.2, section 4.2.
// UNSAFETY: device registers.
#![allow(unsafe_code)]

use core::ptr;

use guest::page::Gpa;

use crate::machine::paging::{self, Kind};

/// Bytes of registers and configuration space that are mapped.
const LENGTH: u64 = 0x200;

/// Offset of the device's configuration space.
const CONFIG: u64 = 0x100;

/// A register, by its offset and by the specification's name (table 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Register {
    MagicValue = 0x000,
    Version = 0x004,
    DeviceId = 0x008,
    DeviceFeatures = 0x010,
    DeviceFeaturesSel = 0x014,
    DriverFeatures = 0x020,
    DriverFeaturesSel = 0x024,
    QueueSel = 0x030,
    QueueNumMax = 0x034,
    QueueNum = 0x038,
    QueueReady = 0x044,
    QueueNotify = 0x050,
    InterruptStatus = 0x060,
    InterruptAck = 0x064,
    Status = 0x070,
    QueueDescLow = 0x080,
    QueueDriverLow = 0x090,
    QueueDeviceLow = 0x0a0,
    ConfigGeneration = 0x0fc,
}

/// The register page of a virtio device.
pub struct Registers {
    base: Gpa,
}

impl Registers {
    /// The device at `base`, if there is one with this device ID.
    pub fn probe(base: Gpa, device_id: u32) -> Option<Self> {
        const MAGIC: u32 = 0x7472_6976;
        paging::map(base, LENGTH, Kind::Device);
        let registers = Self { base };
        (registers.read(Register::MagicValue) == MAGIC
            && registers.read(Register::Version) == 2
            && registers.read(Register::DeviceId) == device_id)
            .then_some(registers)
    }

    /// Reads a register.
    pub fn read(&self, register: Register) -> u32 {
        self.read_at(register as u64)
    }

    /// Writes a register.
    pub fn write(&self, register: Register, value: u32) {
        self.write_at(register as u64, value);
    }

    /// Writes a 64-bit address to a register pair.
    pub fn write_address(&self, low: Register, address: u64) {
        let [low_half, high_half] = halves(address);
        self.write_at(low as u64, low_half);
        self.write_at(low as u64 + 4, high_half);
    }

    /// Reads 64-bit fields of the configuration space, all of one generation.
    pub fn read_config<const N: usize>(&self, offsets: [u64; N]) -> [u64; N] {
        loop {
            let generation = self.read(Register::ConfigGeneration);
            let fields = offsets.map(|offset| {
                let low = self.read_at(CONFIG + offset);
                let high = self.read_at(CONFIG + offset + 4);
                u64::from(high) << 32 | u64::from(low)
            });
            if self.read(Register::ConfigGeneration) == generation {
                return fields;
            }
        }
    }

    fn read_at(&self, offset: u64) -> u32 {
        // SAFETY: a register inside the mapped page; devices don't touch memory on reads.
        unsafe { ptr::read_volatile((self.base.0 + offset) as *const u32) }
    }

    fn write_at(&self, offset: u64, value: u32) {
        // SAFETY: a register inside the mapped page. What the device does to memory is described
        // by the virtqueue, which is made of atomics.
        unsafe { ptr::write_volatile((self.base.0 + offset) as *mut u32, value) }
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
