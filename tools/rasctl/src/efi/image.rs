//! An image that firmware can load: Microsoft, "PE Format"; UEFI 2.10, section 2.1.1.

/// What kind of program an image says it is, of those firmware loads.
const BOOT_SERVICE_DRIVER: u16 = 11;
const SUBSYSTEMS: [(u16, &str); 4] = [
    (10, "an EFI application"),
    (BOOT_SERVICE_DRIVER, "an EFI boot service driver"),
    (12, "an EFI run time driver"),
    (13, "an EFI ROM image"),
];

const MACHINE_X64: u16 = 0x8664;
const PE32_PLUS: u16 = 0x20b;

/// Offsets within the optional header of a PE32+ image.
const IMAGE_VERSION: usize = 44;
const SUBSYSTEM: usize = 68;
const DIRECTORIES: usize = 108;
const CERTIFICATES: usize = 112 + 4 * 8;

/// Index of the certificate table among the directories.
const CERTIFICATE_INDEX: u32 = 4;

/// A boot service driver for x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Driver {
    /// The version its linker gave it.
    pub version: (u16, u16),
    /// Whether it carries a signature of anybody. Whose, and whether the rest is what was signed, is
    /// for the firmware to say.
    pub signed: bool,
}

/// Why firmware would not load an image as a driver.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoDriver {
    /// Something else, or cut short.
    #[error("it is no PE32+ image")]
    NoImage,
    /// For another processor.
    #[error("it is for another machine (type {0:#x}), not for x86-64")]
    Machine(u16),
    /// Another kind of program.
    #[error("it is {0}, not an EFI boot service driver")]
    Kind(String),
}

impl Driver {
    /// Looks at a whole file.
    ///
    /// # Errors
    /// Firmware would not load it, or not as a driver.
    pub fn inspect(file: &[u8]) -> Result<Self, NoDriver> {
        let header = pe_header(file).ok_or(NoDriver::NoImage)?;
        let machine = u16_at(header, 4).ok_or(NoDriver::NoImage)?;
        if machine != MACHINE_X64 {
            return Err(NoDriver::Machine(machine));
        }
        let optional = header.get(24..).ok_or(NoDriver::NoImage)?;
        if u16_at(optional, 0) != Some(PE32_PLUS) {
            return Err(NoDriver::NoImage);
        }
        let subsystem = u16_at(optional, SUBSYSTEM).ok_or(NoDriver::NoImage)?;
        if subsystem != BOOT_SERVICE_DRIVER {
            let known = SUBSYSTEMS.iter().find(|(code, _)| *code == subsystem);
            let other = || format!("a program of subsystem {subsystem}");
            return Err(NoDriver::Kind(known.map_or_else(other, |(_, name)| (*name).into())));
        }
        let directories = u32_at(optional, DIRECTORIES).ok_or(NoDriver::NoImage)?;
        let certificates = (directories > CERTIFICATE_INDEX)
            .then(|| Some((u32_at(optional, CERTIFICATES)?, u32_at(optional, CERTIFICATES + 4)?)))
            .flatten();
        let signed = certificates.is_some_and(|(offset, size)| {
            let end = u64::from(offset) + u64::from(size);
            size > 0 && end <= file.len() as u64
        });
        let version = (u16_at(optional, IMAGE_VERSION), u16_at(optional, IMAGE_VERSION + 2));
        let version = (version.0.unwrap_or(0), version.1.unwrap_or(0));
        Ok(Self { version, signed })
    }
}

/// From the signature on.
fn pe_header(file: &[u8]) -> Option<&[u8]> {
    if !file.starts_with(b"MZ") {
        return None;
    }
    let at = usize::try_from(u32_at(file, 0x3c)?).ok()?;
    file.get(at..).filter(|header| header.starts_with(b"PE\0\0"))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The headers of an image, without any code.
    fn image(machine: u16, magic: u16, subsystem: u16, certificates: (u32, u32)) -> Vec<u8> {
        let mut file = vec![0; 0x40 + 24 + 240];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &0x40_u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x44, &machine.to_le_bytes());
        let optional = 0x40 + 24;
        put(optional, &magic.to_le_bytes());
        put(optional + 44, &[3, 0, 7, 0]);
        put(optional + 68, &subsystem.to_le_bytes());
        put(optional + 108, &16_u32.to_le_bytes());
        put(optional + 144, &certificates.0.to_le_bytes());
        put(optional + 148, &certificates.1.to_le_bytes());
        file
    }

    #[test]
    fn only_a_driver_is_one() {
        let driver = Driver { version: (3, 7), signed: false };
        let plain = image(0x8664, 0x20b, 11, (0, 0));
        assert_eq!(Driver::inspect(&plain), Ok(driver));
        let signed = Driver::inspect(&image(0x8664, 0x20b, 11, (64, 100)));
        assert_eq!(signed, Ok(Driver { signed: true, ..driver }));
        // A table beyond the end of the file is none.
        let cut = Driver::inspect(&image(0x8664, 0x20b, 11, (64, 10_000)));
        assert_eq!(cut, Ok(driver));
        let application = Driver::inspect(&image(0x8664, 0x20b, 10, (0, 0))).unwrap_err();
        assert_eq!(
            application.to_string(),
            "it is an EFI application, not an EFI boot service driver"
        );
        assert_eq!(
            Driver::inspect(&image(0xaa64, 0x20b, 11, (0, 0))),
            Err(NoDriver::Machine(0xaa64))
        );
        assert_eq!(Driver::inspect(&image(0x8664, 0x10b, 11, (0, 0))), Err(NoDriver::NoImage));
        for length in 0..plain.len() - 130 {
            assert!(Driver::inspect(&plain[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_driver_and_no_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            offset in any::<u32>(),
            like_one in any::<bool>(),
        ) {
            if like_one && bytes.len() > 0x44 {
                bytes[..2].copy_from_slice(b"MZ");
                bytes[0x3c..0x40].copy_from_slice(&offset.to_le_bytes());
            }
            let _ = Driver::inspect(&bytes);
        }
    }
}
