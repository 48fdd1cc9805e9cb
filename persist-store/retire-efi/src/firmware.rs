//! The firmware, asked through the `uefi` crate; the image's entry, and its end.

#![allow(unsafe_code)]
// UNSAFETY: the processor's time-stamp counter, protocols opened beside their owners instead of taking
// them away, a table written into a page of our own, and the exit of a program that can't go on.

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::fmt::Write as _;
use core::panic::PanicInfo;
use core::time::Duration;

use ras_core::{PAGE_SIZE, Pfn, PfnRange};
use ras_store_format::exclusion::{Clock, LIST_SIZE_MAX, Outcome, place};
use retire_efi::{Firmware, Found, HAND_OVER_MAX, Kind, Map, Region, Summary};
use uefi::boot::{
    self, AllocateType, MemoryType, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol,
};
use uefi::mem::memory_map::MemoryMap as _;
use uefi::proto::ProtocolPointer;
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{Directory, File as _, FileAttribute, FileInfo, FileMode};
use uefi::proto::media::fs::SimpleFileSystem;
use uefi::proto::misc::Timestamp;
use uefi::runtime::{self, VariableAttributes, VariableVendor};
use uefi::{CString16, Guid, Handle, Status, entry, guid, system, table};

const VENDOR: VariableVendor = VariableVendor(Guid::parse_or_panic(place::VENDOR));

/// Linux' table of memory to reserve: `LINUX_EFI_MEMRESERVE_TABLE_GUID` of `linux/efi.h`.
static MEMRESERVE: Guid = guid!("888eb0c6-8ede-4ff5-a8f0-9aee5cb977c2");

/// How long the time-stamp counter is watched to learn its rate.
const CALIBRATION: Duration = Duration::from_millis(1);

/// Nothing has to stay: an error makes the firmware unload the image, and what was taken stays taken.
#[entry]
fn main() -> Status {
    let outcome = retire_efi::run(&mut Uefi::new());
    leave(&outcome);
    say(format_args!("{}", Summary(&outcome)));
    Status::ABORTED
}

/// Goes back to whoever started us: a driver that fails must not keep the machine from booting.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("rampart: {info}\r\n"));
    // SAFETY: this image has no callbacks and owns nothing that anybody else uses.
    let _ = unsafe { boot::exit(boot::image_handle(), Status::ABORTED, 0, core::ptr::null_mut()) };
    // Not reached with a firmware that keeps to its specification.
    loop {
        core::hint::spin_loop();
    }
}

/// Writes to the console, if there is one.
fn say(text: core::fmt::Arguments<'_>) {
    // SAFETY: the entry point's system table, which outlives us.
    let console = table::system_table_raw().map(|table| unsafe { table.as_ref() }.stdout);
    if console.is_some_and(|console| !console.is_null()) {
        // A console that is not there yet has nobody to read it.
        system::with_stdout(|console| {
            let _ = console.write_fmt(text);
        });
    }
}

/// Puts the outcome where the operating system finds it.
fn leave(outcome: &Outcome) {
    let Ok(name) = CString16::try_from(place::OUTCOME_VARIABLE) else { return };
    let attributes = VariableAttributes::from_bits_retain(place::OUTCOME_ATTRIBUTES);
    let record = outcome.encode();
    if runtime::set_variable(&name, &VENDOR, attributes, &record).is_ok() {
        return;
    }
    // One of that name with other attributes, which is not ours, is in the way.
    let _ = runtime::delete_variable(&name, &VENDOR);
    if let Err(error) = runtime::set_variable(&name, &VENDOR, attributes, &record) {
        say(format_args!("rampart: the outcome can't be left: {:?}\r\n", error.status()));
    }
}

struct Uefi {
    clock: Ticks,
}

impl Uefi {
    fn new() -> Self {
        Self { clock: Ticks::new() }
    }
}

impl Firmware for Uefi {
    fn read_copy(&mut self, place: usize) -> Found {
        if let Some(name) = place::LIST_VARIABLES.get(place) {
            return read_variable(name);
        }
        match place::LIST_FILES.get(place.saturating_sub(place::LIST_VARIABLES.len())) {
            Some(name) => read_file(name),
            None => Found::Absent,
        }
    }

    fn memory_map(&mut self) -> Option<Map> {
        let map = boot::memory_map(MemoryType::BOOT_SERVICES_DATA).ok()?;
        let regions = map.entries().map(|descriptor| Region {
            pages: PfnRange {
                start: Pfn(descriptor.phys_start / PAGE_SIZE),
                count: descriptor.page_count,
            },
            kind: Kind::of(descriptor.ty.0),
        });
        Some(Map::new(regions.collect()))
    }

    fn exclude(&mut self, pages: PfnRange) -> bool {
        let address = AllocateType::Address(pages.start.addr().0);
        let Ok(count) = usize::try_from(pages.count) else { return false };
        boot::allocate_pages(address, MemoryType::UNUSABLE, count).is_ok()
    }

    fn hand_over(&mut self, pages: &[PfnRange]) -> bool {
        memreserve(pages)
    }

    fn now_us(&mut self) -> Option<u64> {
        self.clock.now_us()
    }

    fn clock(&self) -> Clock {
        match self.clock {
            Ticks::Timestamp { .. } => Clock::Timestamp,
            Ticks::Tsc { .. } => Clock::Tsc,
        }
    }
}

fn read_variable(name: &str) -> Found {
    let Ok(name) = CString16::try_from(name) else { return Found::Unreadable };
    match runtime::get_variable_boxed(&name, &VENDOR) {
        Ok((bytes, _)) if bytes.len() <= LIST_SIZE_MAX => Found::Bytes(bytes.into_vec()),
        Ok(_) => Found::Unreadable,
        Err(error) if error.status() == Status::NOT_FOUND => Found::Absent,
        Err(_) => Found::Unreadable,
    }
}

fn read_file(name: &str) -> Found {
    // Whoever started us from memory has no file system for us.
    let Some(mut root) = root() else { return Found::Absent };
    let mut path = CString16::new();
    for part in place::DIRECTORY.split('/').chain([name]) {
        let Ok(part) = CString16::try_from(part) else { return Found::Unreadable };
        path.push(uefi::char16!('\\'));
        path.push_str(&part);
    }
    let file = match root.open(&path, FileMode::Read, FileAttribute::empty()) {
        Ok(file) => file,
        Err(error) if error.status() == Status::NOT_FOUND => return Found::Absent,
        Err(_) => return Found::Unreadable,
    };
    let Some(mut file) = file.into_regular_file() else { return Found::Unreadable };
    let size = file.get_boxed_info::<FileInfo>().map_or(u64::MAX, |info| info.file_size());
    let Some(size) = usize::try_from(size).ok().filter(|size| *size <= LIST_SIZE_MAX) else {
        return Found::Unreadable;
    };
    let mut bytes: Vec<u8> = vec![0; size];
    match file.read(&mut bytes) {
        Ok(read) => {
            bytes.truncate(read);
            Found::Bytes(bytes)
        }
        Err(_) => Found::Unreadable,
    }
}

/// The root of the file system this image came from.
fn root() -> Option<Directory> {
    let image: ScopedProtocol<LoadedImage> = look_at(boot::image_handle())?;
    let mut file_system: ScopedProtocol<SimpleFileSystem> = look_at(image.device()?)?;
    file_system.open_volume().ok()
}

/// Opens a protocol beside its other users. Opening it exclusively would make the firmware stop drivers
/// that the boot needs.
fn look_at<P: ProtocolPointer + ?Sized>(handle: Handle) -> Option<ScopedProtocol<P>> {
    let agent = boot::image_handle();
    let params = OpenProtocolParams { handle, agent, controller: None };
    // SAFETY: drivers and devices come and go between images, not while one runs without events, and the
    // protocol is closed before we return.
    unsafe { boot::open_protocol::<P>(params, OpenProtocolAttributes::GetProtocol) }.ok()
}

/// Linux' `struct linux_efi_memreserve`, as long as it can be: Linux maps the page it begins in.
#[repr(C)]
struct Memreserve {
    /// Entries there is room for, and entries there are: nobody is to add any to ours.
    size: u32,
    count: u32,
    /// Address of the next table, or 0.
    next: u64,
    /// Address and length in bytes.
    entries: [[u64; 2]; HAND_OVER_MAX as usize],
}
const _: () = assert!(size_of::<Memreserve>() as u64 == PAGE_SIZE);

/// Puts our table in front of those that are there. Its memory stays after boot services (ACPI reclaim
/// memory), and Linux reserves it.
fn memreserve(pages: &[PfnRange]) -> bool {
    let next = system::with_config_table(|tables| {
        let known = tables.iter().find(|table| table.guid == MEMRESERVE);
        known.map_or(0, |table| table.address as u64)
    });
    let mut entries = [[0; 2]; HAND_OVER_MAX as usize];
    for (entry, pages) in entries.iter_mut().zip(pages) {
        *entry = [pages.start.addr().0, pages.count.saturating_mul(PAGE_SIZE)];
    }
    let Ok(count) = u32::try_from(pages.len()) else { return false };
    if count > HAND_OVER_MAX {
        return false;
    }
    let below_4g = AllocateType::MaxAddress(u32::MAX.into());
    let Ok(page) = boot::allocate_pages(below_4g, MemoryType::ACPI_RECLAIM, 1) else {
        return false;
    };
    let table = page.cast::<Memreserve>();
    // SAFETY: a page of our own, aligned to itself and as large as the table.
    unsafe { table.write(Memreserve { size: count, count, next, entries }) };
    // SAFETY: the table is complete and stays where it is.
    let installed =
        unsafe { boot::install_configuration_table(&MEMRESERVE, table.as_ptr().cast::<c_void>()) };
    if installed.is_err() {
        // SAFETY: nobody was told of the page.
        let _ = unsafe { boot::free_pages(page, 1) };
    }
    installed.is_ok()
}

/// A clock that begins with us.
enum Ticks {
    /// The firmware's, where it has one.
    Timestamp { protocol: ScopedProtocol<Timestamp>, frequency: u64, mask: u64, start: u64 },
    /// The processor's, of a rate that was measured.
    Tsc { per_ms: u64, start: u64 },
}

impl Ticks {
    fn new() -> Self {
        Self::timestamp().unwrap_or_else(|| {
            let start = tsc();
            boot::stall(CALIBRATION);
            Self::Tsc { per_ms: tsc().wrapping_sub(start), start }
        })
    }

    fn timestamp() -> Option<Self> {
        let handle = boot::get_handle_for_protocol::<Timestamp>().ok()?;
        let protocol: ScopedProtocol<Timestamp> = look_at(handle)?;
        let properties = protocol.get_properties().ok().filter(|known| known.frequency > 0)?;
        let start = protocol.get_timestamp();
        let (frequency, mask) = (properties.frequency, properties.end_value);
        Some(Self::Timestamp { protocol, frequency, mask, start })
    }

    fn now_us(&self) -> Option<u64> {
        let (ticks, per_second) = match self {
            // A counter that wraps does so at a power of two, and not while we run.
            Self::Timestamp { protocol, frequency, mask, start } => {
                (protocol.get_timestamp().wrapping_sub(*start) & mask, u128::from(*frequency))
            }
            Self::Tsc { per_ms, start } => (tsc().wrapping_sub(*start), u128::from(*per_ms) * 1000),
        };
        u64::try_from((u128::from(ticks) * 1_000_000).checked_div(per_second)?).ok()
    }
}

fn tsc() -> u64 {
    // SAFETY: every processor of this architecture has one.
    unsafe { core::arch::x86_64::_rdtsc() }
}
