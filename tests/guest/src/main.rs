//! The bare-metal test guest. README.md tells what it prints and which words it obeys.
#![no_std]
#![no_main]

extern crate alloc;

mod machine;
mod memory_device;
mod ticks;

use guest::cmdline::Options;
use guest::page::Gpa;

use machine::paging::{self, Kind};
use machine::{console, halt, heap, machine_check, pvh};

/// Where boot.rs hands over: in long mode, on the boot stack, with interrupts off.
fn start(start_info: u64) -> ! {
    console::init();
    let boot = match pvh::read(start_info) {
        Ok(boot) => boot,
        Err(reason) => panic!("{reason}"),
    };
    heap::open(boot.ram_end);
    paging::map(Gpa(0), boot.ram_end.0, Kind::Memory);
    machine::install_traps();
    machine_check::init();
    ticks::run(&boot, Options::parse(boot.cmdline))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // One line, and never in the middle of another.
    match info.location() {
        Some(place) => say!("\npanic: {} ({}:{})", info.message(), place.file(), place.line()),
        None => say!("\npanic: {}", info.message()),
    }
    halt()
}
