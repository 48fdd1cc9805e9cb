//! COM1, polled.
// UNSAFETY: port I/O; the ports belong to the serial line.
#![allow(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use x86_64::instructions::port::Port;

const DATA: u16 = 0x3f8;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_STATUS: u16 = DATA + 5;

/// Line status: transmitter holding register (and FIFO) empty.
const THRE: u8 = 1 << 5;

/// Bytes that a 16550 takes at once. Asking once per FIFO instead of once per byte halves the
/// exits, the price of a line here.
const FIFO_BYTES: u8 = 16;

/// Polls of the line status before the bytes are sent anyhow: a machine without a serial line must
/// not stop the guest.
const POLLS_MAX: u32 = 10_000;

/// Free bytes that are left in the FIFO.
static ROOM: AtomicU8 = AtomicU8::new(0);

/// Switches the FIFO on, and ends the line that boot.rs began with its '@'.
pub fn init() {
    // SAFETY: FIFO control, enable and clear both FIFOs; touches no memory.
    unsafe { Port::<u8>::new(FIFO_CONTROL).write(0x07) };
    send(b'\n');
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::machine::console::line(format_args!($($argument)*)) };
}

/// Prints `arguments` and a line feed.
pub fn line(arguments: fmt::Arguments<'_>) {
    // Console::write_str never fails.
    let _ = fmt::write(&mut Console, arguments);
    send(b'\n');
}

struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(send);
        Ok(())
    }
}

fn send(byte: u8) {
    if ROOM.load(Ordering::Relaxed) == 0 {
        for _ in 0..POLLS_MAX {
            // SAFETY: reading the line status has no effect on memory.
            if unsafe { Port::<u8>::new(LINE_STATUS).read() } & THRE != 0 {
                break;
            }
            core::hint::spin_loop();
        }
        ROOM.store(FIFO_BYTES, Ordering::Relaxed);
    }
    ROOM.fetch_sub(1, Ordering::Relaxed);
    // SAFETY: a byte for the transmitter; touches no memory.
    unsafe { Port::<u8>::new(DATA).write(byte) };
}
