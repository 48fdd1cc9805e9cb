//! Where things lie in guest physical memory. All of it is fixed, so that a guest without firmware
//! tables can find everything, and so that both ends of a migration agree.
//!
//! ```text
//! 0x0000_0000  RAM, up to 3 GiB        (boot data in the first MiB, see below)
//! 0xc000_0000  hole
//! 0xd000_0000  virtio-mmio transport of the virtio-mem device
//! 0xfec0_0000  I/O APIC, local APIC (0xfee0_0000), KVM's own pages (0xfffb_c000)
//! 0x1_0000_0000  the rest of RAM, if there is more than 3 GiB
//! next 128 MiB boundary: region of the virtio-mem device
//! ```

use ras_core::Gpa;

/// `hvm_start_info` of the PVH boot protocol.
pub const START_INFO: Gpa = Gpa(0x6000);

/// The memory map that [`START_INFO`] points to.
pub const MEMORY_MAP: Gpa = Gpa(0x7000);

/// The kernel command line, ended by a zero byte.
pub const CMDLINE: Gpa = Gpa(0x8000);

/// Longest kernel command line in bytes, with its end; as in Linux (`COMMAND_LINE_SIZE`).
pub const CMDLINE_MAX: usize = 2048;

/// RAM above this address continues at [`HIGH_RAM`].
pub const LOW_RAM_MAX: u64 = 3 << 30;

/// First address behind the 32-bit hole.
pub const HIGH_RAM: Gpa = Gpa(4 << 30);

/// The virtio-mmio transport: [`MMIO_SIZE`] bytes of registers.
pub const MMIO_BASE: Gpa = Gpa(0xd000_0000);

/// Size of a virtio-mmio register window in bytes.
pub const MMIO_SIZE: u64 = 0x200;

/// Interrupt line of the virtio-mmio transport.
pub const MMIO_IRQ: u32 = 5;

/// First port of the serial line (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;

/// Interrupt line of the serial line.
pub const SERIAL_IRQ: u32 = 4;

/// Where KVM may keep three pages for real mode on processors that need them (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Where KVM may keep one page table for the same purpose (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// The virtio-mem region starts at a multiple of this: a Linux memory block is 128 MiB.
pub const VIRTIO_MEM_ALIGN: u64 = 128 << 20;

/// Highest guest physical address handed out, exclusive. Every 64-bit processor has 36 bits.
pub const ADDRESS_MAX: u64 = 1 << 36;

/// RAM of `size` bytes as one or two runs of (first address, bytes).
#[must_use]
pub fn ram(size: u64) -> Vec<(Gpa, u64)> {
    let low = size.min(LOW_RAM_MAX);
    let mut runs = vec![(Gpa(0), low)];
    if size > low {
        runs.push((HIGH_RAM, size - low));
    }
    runs
}

/// First address of the virtio-mem region beside `ram` bytes of RAM: never below 4 GiB.
#[must_use]
pub const fn virtio_mem(ram: u64) -> Gpa {
    let end = HIGH_RAM.0 + ram.saturating_sub(LOW_RAM_MAX);
    Gpa(end.next_multiple_of(VIRTIO_MEM_ALIGN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_goes_around_the_hole() {
        assert_eq!(ram(64 << 20), [(Gpa(0), 64 << 20)]);
        assert_eq!(ram(4 << 30), [(Gpa(0), 3 << 30), (HIGH_RAM, 1 << 30)]);
        assert_eq!(virtio_mem(64 << 20), HIGH_RAM);
        assert_eq!(virtio_mem((3 << 30) + 1), Gpa((4 << 30) + VIRTIO_MEM_ALIGN));
    }
}
