//! Loads a kernel by the PVH boot protocol: an ELF file whose note names a 32-bit entry point.
//!
//! Xen, `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h`; ELF: System V ABI,
//! chapters 4 and 5. The file is not trusted: every offset and size in it is checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ras_core::Gpa;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::layout;
use crate::memory::mapping::{GuestRam, RamError, RegionKind};

/// Note type of the 32-bit entry point; the note's name is "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// "xEn3" with the high bit set.
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// `XEN_HVM_MEMMAP_TYPE_RAM`; the same number as in an e820 table.
const MEMORY_RAM: u32 = 1;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;

/// Most program headers looked at. Kernels have less than ten.
const SEGMENTS_MAX: u16 = 64;

/// Longest note segment read, in bytes.
const NOTES_MAX: u64 = 64 << 10;

/// Why a kernel can't be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The file can't be read.
    #[error("reading the kernel {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not such a kernel.
    #[error("{path} is no kernel this VMM can start: {detail}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A segment does not fit.
    #[error("{path} wants {size} bytes at {gpa}, which is not RAM; give the guest more --memory")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// First byte of the segment.
        gpa: Gpa,
        /// Its length.
        size: u64,
    },
    /// The command line does not fit.
    #[error("the kernel command line has {0} bytes; {max} are possible", max = layout::CMDLINE_MAX - 1)]
    CommandLine(usize),
    /// Writing the boot data failed.
    #[error("writing boot data to guest memory")]
    Ram(#[from] RamError),
}

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ElfHeader {
    ident: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    program_headers: U64,
    section_headers: U64,
    flags: U32,
    size: U16,
    program_header_size: U16,
    program_header_count: U16,
    section: [U16; 3],
}
const _: () = assert!(size_of::<ElfHeader>() == 64);

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    kind: U32,
    flags: U32,
    offset: U64,
    virtual_address: U64,
    physical_address: U64,
    file_size: U64,
    memory_size: U64,
    align: U64,
}
const _: () = assert!(size_of::<ProgramHeader>() == 56);

/// `struct hvm_start_info`, version 1.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    modules: U32,
    module_list: U64,
    cmdline: U64,
    rsdp: U64,
    memory_map: U64,
    memory_map_entries: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_memmap_table_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MemoryMapEntry {
    addr: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

/// Loads the kernel and its boot data; answers the entry point. The vCPU enters there with
/// [`layout::START_INFO`] in EBX.
///
/// # Errors
/// See [`BootError`].
pub fn load(ram: &GuestRam, kernel: &Path, cmdline: &str) -> Result<u32, BootError> {
    let entry = Image::open(kernel)?.load(ram)?;
    write_boot_data(ram, cmdline)?;
    Ok(entry)
}

struct Image<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Image<'a> {
    fn open(path: &'a Path) -> Result<Self, BootError> {
        match File::open(path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(BootError::Io { path: path.to_owned(), source }),
        }
    }

    fn load(&self, ram: &GuestRam) -> Result<u32, BootError> {
        let mut bytes = [0; size_of::<ElfHeader>()];
        self.read(0, &mut bytes)?;
        let header = ElfHeader::read_from_bytes(&bytes).map_err(|_| self.bad("no ELF header"))?;
        if header.ident[..6] != *b"\x7fELF\x02\x01" || header.machine != EM_X86_64 {
            return Err(self.bad("not an ELF file for x86-64 (a bzImage has to be unpacked first)"));
        }
        if usize::from(header.program_header_size) != size_of::<ProgramHeader>() {
            return Err(self.bad("program headers of an unknown size"));
        }
        let mut entry = None;
        for index in 0..header.program_header_count.get().min(SEGMENTS_MAX) {
            let offset = u64::from(index) * size_of::<ProgramHeader>() as u64;
            let offset = header.program_headers.get().checked_add(offset);
            let mut bytes = [0; size_of::<ProgramHeader>()];
            self.read(offset.ok_or_else(|| self.bad("offsets overflow"))?, &mut bytes)?;
            let Ok(segment) = ProgramHeader::read_from_bytes(&bytes) else { continue };
            match segment.kind.get() {
                PT_LOAD => self.copy(ram, &segment)?,
                PT_NOTE => entry = entry.or(self.entry(&segment)?),
                _ => {}
            }
        }
        entry.ok_or_else(|| {
            self.bad("it has no PVH entry point (note XEN_ELFNOTE_PHYS32_ENTRY; Linux: CONFIG_PVH)")
        })
    }

    /// Copies a segment. The rest of its memory is zero: guest memory is fresh.
    fn copy(&self, ram: &GuestRam, segment: &ProgramHeader) -> Result<(), BootError> {
        let (gpa, size) = (Gpa(segment.physical_address.get()), segment.memory_size.get());
        let file_size = segment.file_size.get();
        if file_size > size {
            return Err(self.bad("a segment larger in the file than in memory"));
        }
        let fits = size == 0 || ram.hva_of(gpa, size).is_some();
        let in_ram = ram.regions().iter().any(|region| {
            region.kind() == RegionKind::Ram
                && (region.gpa().0..region.gpa().0 + region.size()).contains(&gpa.0)
        });
        if !fits || !in_ram {
            return Err(BootError::TooLarge { path: self.path.to_owned(), gpa, size });
        }
        let mut buffer = vec![0; 64 << 10];
        let mut done = 0;
        while done < file_size {
            let part = (file_size - done).min(buffer.len() as u64);
            let part = &mut buffer[..usize::try_from(part).unwrap_or(0)];
            let offset = segment.offset.get().checked_add(done);
            self.read(offset.ok_or_else(|| self.bad("offsets overflow"))?, part)?;
            ram.write(Gpa(gpa.0 + done), part)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    /// The 32-bit entry point, if this note segment has it.
    fn entry(&self, segment: &ProgramHeader) -> Result<Option<u32>, BootError> {
        let size = usize::try_from(segment.file_size.get().min(NOTES_MAX)).unwrap_or(0);
        let mut notes = vec![0; size];
        self.read(segment.offset.get(), &mut notes)?;
        Ok(find_entry(&notes))
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), BootError> {
        self.file.read_exact_at(bytes, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.bad("it ends too early"),
            _ => BootError::Io { path: self.path.to_owned(), source },
        })
    }

    fn bad(&self, detail: &'static str) -> BootError {
        BootError::Image { path: self.path.to_owned(), detail }
    }
}

/// Looks through notes (name size, description size, type, name, description; each padded to 4).
fn find_entry(mut notes: &[u8]) -> Option<u32> {
    loop {
        let (header, rest) = <[U32; 3]>::read_from_prefix(notes).ok()?;
        let [name_size, size, kind] = header.map(|field| field.get() as usize);
        let (name, rest) = rest.split_at_checked(name_size)?;
        let rest = rest.get(name_size.next_multiple_of(4) - name_size..)?;
        let (description, rest) = rest.split_at_checked(size)?;
        if kind == XEN_ELFNOTE_PHYS32_ENTRY as usize && name == b"Xen\0" {
            // Linux writes a 32-bit, others a 64-bit address; both are below 4 GiB.
            let (entry, high) = U32::read_from_prefix(description).ok()?;
            return high.iter().all(|byte| *byte == 0).then(|| entry.get());
        }
        notes = rest.get(size.next_multiple_of(4) - size..)?;
    }
}

fn write_boot_data(ram: &GuestRam, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(BootError::CommandLine(cmdline.len()));
    }
    ram.write(layout::CMDLINE, cmdline.as_bytes())?;
    ram.write(Gpa(layout::CMDLINE.0 + cmdline.len() as u64), &[0])?;
    let map: Vec<_> = ram
        .regions()
        .iter()
        .filter(|region| region.kind() == RegionKind::Ram)
        .map(|region| MemoryMapEntry {
            addr: region.gpa().0.into(),
            size: region.size().into(),
            kind: MEMORY_RAM.into(),
            reserved: 0.into(),
        })
        .collect();
    ram.write(layout::MEMORY_MAP, map.as_slice().as_bytes())?;
    let info = StartInfo {
        magic: START_INFO_MAGIC.into(),
        version: 1.into(),
        flags: 0.into(),
        modules: 0.into(),
        module_list: 0.into(),
        cmdline: layout::CMDLINE.0.into(),
        rsdp: 0.into(),
        memory_map: layout::MEMORY_MAP.0.into(),
        memory_map_entries: u32::try_from(map.len()).unwrap_or(0).into(),
        reserved: 0.into(),
    };
    ram.write(layout::START_INFO, info.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::mapping::RegionConfig;
    use proptest::prelude::*;
    use std::io::Write;

    fn note(kind: u32, name: &[u8], description: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for field in [u32::try_from(name.len()), u32::try_from(description.len()), Ok(kind)] {
            note.extend(field.unwrap().to_le_bytes());
        }
        for part in [name, description] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    /// A kernel of one loaded segment and one note segment.
    pub(crate) fn kernel(load_at: u64, code: &[u8], notes: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [2u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        for long in [0u64, 64, 0] {
            file.extend(long.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let (code_at, notes_at) = (64 + 2 * 56, 64 + 2 * 56 + code.len() as u64);
        for (kind, offset, at, bytes) in [(1u32, code_at, load_at, code), (4, notes_at, 0, notes)] {
            file.extend(kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            let size = bytes.len() as u64;
            for long in [offset, at, at, size, size, 8] {
                file.extend(long.to_le_bytes());
            }
        }
        file.extend(code);
        file.extend(notes);
        file
    }

    fn ram() -> GuestRam {
        let (gpa, size, kind) = (Gpa(0), 4 << 20, RegionKind::Ram);
        GuestRam::new(&[RegionConfig { gpa, size, kind }]).unwrap()
    }

    fn boot(bytes: &[u8]) -> Result<u32, BootError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        load(&ram(), file.path(), "a b")
    }

    fn fails(bytes: &[u8], expected: &str) {
        let error = boot(bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_kernel_is_loaded_and_told_where_things_are() {
        let ram = ram();
        let mut notes = note(1, b"GNU\0", b"other");
        notes.extend(note(18, b"Xen\0", &0x10_0010u64.to_le_bytes()));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&kernel(0x10_0000, b"code", &notes)).unwrap();
        assert_eq!(load(&ram, file.path(), "a b").unwrap(), 0x10_0010);
        let read = |gpa, len| {
            let mut bytes = vec![0; len];
            ram.read(gpa, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(Gpa(0x10_0000), 5), b"code\0");
        assert_eq!(read(layout::CMDLINE, 4), b"a b\0");
        assert_eq!(read(layout::START_INFO, 4), 0x336e_c578u32.to_le_bytes());
        assert_eq!(read(Gpa(layout::MEMORY_MAP.0 + 8), 8), (4u64 << 20).to_le_bytes());
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_a_reason() {
        let xen = note(18, b"Xen\0", &0x10_0000u32.to_le_bytes());
        let good = kernel(0x10_0000, b"code", &xen);
        assert_eq!(boot(&good).unwrap(), 0x10_0000);
        fails(b"", "ends too early");
        fails(&[0; 4096], "not an ELF file");
        fails(&good[..100], "ends too early");
        fails(&kernel(0x10_0000, b"code", b""), "no PVH entry point");
        fails(&kernel(4 << 20, b"code", &xen), "not RAM");
        fails(&kernel(u64::MAX - 1, b"code", &xen), "not RAM");
        let error = load(&ram(), Path::new("/does/not/exist"), "").unwrap_err();
        assert!(matches!(error, BootError::Io { .. }));
    }

    proptest! {
        #[test]
        fn any_notes(notes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = find_entry(&notes);
        }

        #[test]
        fn any_damage(at in 0usize..230, byte in any::<u8>()) {
            let xen = note(18, b"Xen\0", &0x10_0000u32.to_le_bytes());
            let mut bytes = kernel(0x10_0000, b"code", &xen);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = boot(&bytes);
        }
    }
}
