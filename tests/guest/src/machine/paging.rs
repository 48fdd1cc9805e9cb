//! Identity mapping: every virtual address is its physical address.
// UNSAFETY: page tables are memory that the processor reads behind the language's back.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::page::Gpa;

const PRESENT_WRITABLE: u64 = 0b11;
const HUGE: u64 = 1 << 7;
/// PCD and PWT: device registers are not cached.
const UNCACHED: u64 = 0b11 << 3;

const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

/// Addresses that one page directory pointer table covers: as far as the guest can see.
pub const LIMIT: Gpa = Gpa(512 * GIB);

/// What lies at the mapped addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory.
    Memory,
    /// Device registers.
    Device,
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

unsafe extern "C" {
    /// From boot.rs. Entry 0 is the first GiB, mapped there.
    static boot_pdpt: Table;
}

/// Maps every large page that `bytes` from `start` touch. Mapping twice is harmless. Addresses
/// beyond [`LIMIT`] are left out.
pub fn map(start: Gpa, bytes: u64, kind: Kind) {
    // SAFETY: boot.rs defines the table, zeroed but for entry 0; it is written through atomics only.
    let directories = unsafe { &boot_pdpt };
    let end = start.0.saturating_add(bytes).min(LIMIT.0);
    let mut address = start.0 & !(LARGE_PAGE - 1);
    while address < end {
        let entry = &directories.0[slot(address / GIB)];
        if entry.load(Ordering::Relaxed) == 0 {
            let table = Box::leak(Box::new(Table([const { AtomicU64::new(0) }; 512])));
            entry.store(guest::virtqueue::addr(table) | PRESENT_WRITABLE, Ordering::Relaxed);
        }
        let directory = (entry.load(Ordering::Relaxed) & !0xfff) as *const Table;
        // SAFETY: the entry points to boot.rs's directory or to one leaked above; both live for
        // ever and are identity mapped.
        let leaf = unsafe { &(*directory).0[slot(address % GIB / LARGE_PAGE)] };
        if leaf.load(Ordering::Relaxed) == 0 {
            let cache = if kind == Kind::Device { UNCACHED } else { 0 };
            // The processor does not remember that a page was absent: no flush is needed.
            leaf.store(address | cache | HUGE | PRESENT_WRITABLE, Ordering::Release);
        }
        address += LARGE_PAGE;
    }
}

fn slot(number: u64) -> usize {
    usize::try_from(number % 512).unwrap_or(0)
}
