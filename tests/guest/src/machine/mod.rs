//! The hardware half: everything that touches the machine.

mod boot;
pub mod console;
pub mod guarded;
pub mod heap;
pub mod machine_check;
pub mod mmio;
pub mod paging;
pub mod ports;
pub mod pvh;
mod traps;

pub use traps::install as install_traps;

/// Stops for good. The VMM sees a halt with interrupts off, which nothing can end.
pub fn halt() -> ! {
    x86_64::instructions::interrupts::disable();
    loop {
        x86_64::instructions::hlt();
    }
}
