//! Ports of the devices that watch over a guest, and the ways in which a machine ends.
// UNSAFETY: port I/O, none of which touches memory; and an exception that nobody can handle.
#![allow(unsafe_code)]

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use crate::machine::halt;

/// QEMU, docs/specs/pvpanic.rst.
const PVPANIC: u16 = 0x505;

/// IB700: any write stops the timer, or starts it with the timeout of a code.
const WATCHDOG_DISABLE: u16 = 0x441;
const WATCHDOG_ENABLE: u16 = 0x443;

/// i8042: command port, and the command that pulls the reset line.
const KEYBOARD: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

fn write(port: u16, value: u8) {
    // SAFETY: the ports above touch no memory.
    unsafe { Port::<u8>::new(port).write(value) };
}

/// The events that the machine wants to hear of.
pub fn panic_events() -> u8 {
    // SAFETY: reading the port has no effect.
    unsafe { Port::<u8>::new(PVPANIC).read() }
}

/// Tells the machine of events.
pub fn tell_panic(events: u8) {
    write(PVPANIC, events);
}

/// Starts the watchdog, or feeds it.
pub fn feed(code: u8) {
    write(WATCHDOG_ENABLE, code);
}

/// Stops the watchdog.
pub fn chain_up() {
    write(WATCHDOG_DISABLE, 0);
}

/// Pulls the reset line.
pub fn reset() -> ! {
    write(KEYBOARD, PULSE_RESET);
    halt()
}

/// An exception without a handler, while an exception without a handler is handled.
pub fn triple_fault() -> ! {
    let none = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: this is the end: no handler is found, and the processor shuts down.
    unsafe {
        lidt(&none);
        asm!("ud2", options(noreturn));
    }
}
