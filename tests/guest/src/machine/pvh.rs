//! What the VMM tells at start. xen/include/public/arch-x86/hvm/start_info.h.
// UNSAFETY: follows the physical addresses that the VMM passes.
#![allow(unsafe_code)]

use core::ptr;

use guest::page::Gpa;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;

/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;

/// Bytes of the command line that are looked at.
const CMDLINE_MAX: usize = 2048;

/// `hvm_start_info`, version 1.
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

/// `hvm_memmap_table_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<MemoryMapEntry>() == 24);

/// What the guest needs of it.
pub struct BootInfo {
    /// All RAM, in bytes.
    pub ram_bytes: u64,
    /// End of the range of RAM that the guest's image lies in.
    pub ram_end: Gpa,
    /// The command line; empty if it is missing or not text.
    pub cmdline: &'static str,
}

/// Reads the structure at `address`, as PVH passes it in `ebx`. Must come before the heap opens:
/// the VMM may have put the structure, or what it points to, where the heap goes.
///
/// # Errors
/// What is wrong with it.
pub fn read(address: u64) -> Result<BootInfo, &'static str> {
    // SAFETY: by the protocol the address is that of a `hvm_start_info`; the first GiB is mapped.
    let info: StartInfo = unsafe { ptr::read_unaligned(address as *const StartInfo) };
    if info.magic != MAGIC || info.version < 1 || info.memmap_entries == 0 {
        return Err("no hvm_start_info with a memory map");
    }
    let (mut ram_bytes, mut ram_end) = (0, None);
    for index in 0..u64::from(info.memmap_entries.min(128)) {
        let entry = (info.memmap_paddr + index * 24) as *const MemoryMapEntry;
        // SAFETY: the map has this entry; it lies in the first GiB as all VMMs place it.
        let entry = unsafe { ptr::read_unaligned(entry) };
        if entry.kind == RAM {
            ram_bytes += entry.size;
            if (entry.addr..entry.addr + entry.size).contains(&0x10_0000) {
                ram_end = Some(Gpa(entry.addr + entry.size));
            }
        }
    }
    Ok(BootInfo {
        ram_bytes,
        ram_end: ram_end.ok_or("no RAM at 1 MiB")?,
        cmdline: cmdline(info.cmdline_paddr),
    })
}

/// Copies the zero-terminated line at `address`, for the reason given above.
fn cmdline(address: u64) -> &'static str {
    static mut COPY: [u8; CMDLINE_MAX] = [0; CMDLINE_MAX];
    if address == 0 {
        return "";
    }
    let copy = &raw mut COPY;
    // SAFETY: called once, before anything else could look at the copy.
    let copy = unsafe { &mut *copy };
    for (offset, slot) in copy.iter_mut().enumerate() {
        // SAFETY: the VMM's string, up to its end; in the first GiB, which is mapped.
        *slot = unsafe { *(address as *const u8).add(offset) };
        if *slot == 0 {
            return str::from_utf8(&copy[..offset]).unwrap_or("");
        }
    }
    ""
}
