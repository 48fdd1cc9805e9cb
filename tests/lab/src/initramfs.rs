//! Initial RAM file systems, written as the kernel reads them.
//!
//! Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, the "newc" cpio.

/// A cpio archive in the making. Paths are relative to `/` and have no leading slash; a directory has
/// to be added before what lies in it.
#[derive(Debug)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

/// File type bits of `st_mode`. `inode(7)`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Initramfs {
    /// An archive with the console, without which the kernel can't tell what `/init` says.
    #[must_use]
    pub fn new() -> Self {
        let mut archive = Self { bytes: Vec::new(), entries: 0 };
        archive.directory("dev");
        archive.entry("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
        archive
    }

    /// Adds an empty directory.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file that can be run.
    pub fn program(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(path, REGULAR | 0o755, (0, 0), content)
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(path, REGULAR | 0o644, (0, 0), content)
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// # Panics
    /// A file of 4 GiB or more: the format's size field has 32 bits.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Self {
        let size = |length: usize| u32::try_from(length).expect("newc sizes have 32 bits");
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.entries, // c_ino: unique, or entries would count as hard links of one another
            mode,
            0, // c_uid
            0, // c_gid
            links,
            0, // c_mtime
            size(content.len()),
            0, // c_maj
            0, // c_min
            device.0,
            device.1,
            size(path.len() + 1), // c_namesize counts the terminating NUL
            0,                    // c_chksum: only in the "070702" variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    /// Names and contents start at multiples of 4 bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

impl Default for Initramfs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry {
        name: String,
        mode: u32,
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads an archive back by the format's rules.
    fn entries(mut rest: &[u8]) -> Vec<Entry> {
        let total = rest.len();
        let mut found = Vec::new();
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            assert_eq!((total - rest.len()) % 4, 0, "headers are aligned");
            let field = |index: usize| {
                let digits = &rest[6 + index * 8..][..8];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (mode, size, names) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let start = (110 + names).next_multiple_of(4);
            assert_eq!(rest[110 + names - 1], 0, "names end with NUL");
            let name = String::from_utf8(rest[110..110 + names - 1].to_vec()).unwrap();
            let content = rest[start..start + size].to_vec();
            found.push(Entry { name, mode, device, content });
            rest = &rest[(start + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut archive = Initramfs::new();
        archive.directory("etc").file("etc/one", b"1").program("init", b"12345");
        let found = entries(&archive.finish());
        let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "etc", "etc/one", "init", "TRAILER!!!"]);
        assert_eq!((found[1].mode, found[1].device), (0o020_600, (5, 1)));
        assert_eq!((found[3].mode, found[3].content.as_slice()), (0o100_644, &b"1"[..]));
        assert_eq!((found[4].mode, found[4].content.as_slice()), (0o100_755, &b"12345"[..]));
    }
}
