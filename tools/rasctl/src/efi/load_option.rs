//! `Driver####` and `DriverOrder`: what firmware loads before any boot loader. UEFI 2.10, sections 3.1.1
//! to 3.1.3 (load options), 10.3.5.1 and 10.3.5.4 (nodes of a device path).

/// Vendor GUID of the variables the specification itself defines.
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The option is to be loaded (`LOAD_OPTION_ACTIVE`).
pub const ACTIVE: u32 = 1;

/// Longest load option that is looked at, in bytes. Those in use have some hundred.
pub const SIZE_MAX: usize = 64 << 10;

const MEDIA: u8 = 4;
const MEDIA_PARTITION: u8 = 1;
const MEDIA_FILE: u8 = 4;
const END: u8 = 0x7f;
const END_ENTIRE: u8 = 0xff;
const PARTITION_SIZE: usize = 42;

/// A partition as a device path has it: firmware looks for the signature on all disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partition {
    /// From 1 on.
    pub number: u32,
    /// First block, in blocks of the disk.
    pub start: u64,
    /// Blocks of the disk.
    pub size: u64,
    /// Which one it is.
    pub signature: Signature,
}

/// What tells a partition from all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signature {
    /// GPT: the partition's own GUID, in the bytes of the disk.
    Gpt([u8; 16]),
    /// MBR: the disk's signature.
    Mbr(u32),
    /// Of another kind.
    Other,
}

impl Signature {
    /// Linux' `PARTUUID`: a GUID, or `SIGNATURE-NUMBER` of a disk with MBR, all in hexadecimal digits.
    #[must_use]
    pub fn of_partuuid(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some((disk, number)) = text.split_once('-')
            && disk.len() == 8
            && number.len() == 2
        {
            return Some(Self::Mbr(u32::from_str_radix(disk, 16).ok()?));
        }
        let lengths = text.split('-').map(str::len);
        if !lengths.eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
        let [a, b, c, d, e, f, g, h, rest @ ..] = number.to_be_bytes();
        // The first three groups are numbers, which a GUID has with the low byte first.
        let [i, j, k, l, m, n, o, p] = rest;
        Some(Self::Gpt([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]))
    }
}

/// The parts of a load option that matter here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadOption {
    /// [`ACTIVE`] and others.
    pub attributes: u32,
    /// For people.
    pub description: String,
    /// Where the file is; `None` where the path begins otherwise.
    pub partition: Option<Partition>,
    /// Path of the file from the partition's root, with `\`; empty where none is named.
    pub file: String,
}

impl LoadOption {
    /// Reads a variable's data; `None` where it is no load option.
    #[must_use]
    pub fn decode(data: &[u8]) -> Option<Self> {
        let (attributes, rest) = data.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (description, rest) = text(rest)?;
        let mut path = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
        let mut option = Self {
            attributes: u32::from_le_bytes(*attributes),
            description,
            partition: None,
            file: String::new(),
        };
        while let Some(&[kind, sub, low, high]) = path.first_chunk() {
            let length = usize::from(u16::from_le_bytes([low, high]));
            if kind == END {
                break;
            }
            // A node without end: whatever follows can't be found.
            let node = path.get(4..length)?;
            match (kind, sub) {
                (MEDIA, MEDIA_PARTITION) => option.partition = partition(node),
                (MEDIA, MEDIA_FILE) => {
                    let (part, _) = text(node)?;
                    if !option.file.is_empty() && !option.file.ends_with('\\') {
                        option.file.push('\\');
                    }
                    option.file += part
                        .strip_prefix('\\')
                        .filter(|_| !option.file.is_empty())
                        .unwrap_or(&part);
                }
                _ => {}
            }
            path = path.get(length..)?;
        }
        Some(option)
    }

    /// The variable's data. What can't be in a load option, as a path of 64 KiB, gives `None`.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        if let Some(Partition { number, start, size, signature }) = self.partition {
            let (signature, format, kind) = match signature {
                Signature::Gpt(guid) => (guid, 2, 2),
                Signature::Mbr(disk) => {
                    let mut bytes = [0; 16];
                    bytes[..4].copy_from_slice(&disk.to_le_bytes());
                    (bytes, 1, 1)
                }
                Signature::Other => return None,
            };
            let data = [
                &number.to_le_bytes()[..],
                &start.to_le_bytes(),
                &size.to_le_bytes(),
                &signature,
                &[format, kind],
            ];
            path.extend(node(MEDIA, MEDIA_PARTITION, &data.concat())?);
        }
        path.extend(node(MEDIA, MEDIA_FILE, &units(&self.file))?);
        path.extend(node(END, END_ENTIRE, &[])?);
        let length = u16::try_from(path.len()).ok()?;
        let mut data = self.attributes.to_le_bytes().to_vec();
        data.extend(length.to_le_bytes());
        data.extend(units(&self.description));
        data.extend(path);
        Some(data)
    }

    /// Whether it names this file. FAT knows no case.
    #[must_use]
    pub fn is_of_file(&self, file: &str) -> bool {
        self.file.trim_start_matches('\\').eq_ignore_ascii_case(file.trim_start_matches('\\'))
    }
}

fn node(kind: u8, sub: u8, data: &[u8]) -> Option<Vec<u8>> {
    let [low, high] = u16::try_from(data.len().checked_add(4)?).ok()?.to_le_bytes();
    Some([&[kind, sub, low, high], data].concat())
}

fn partition(node: &[u8]) -> Option<Partition> {
    if node.len() != PARTITION_SIZE - 4 {
        return None;
    }
    let (number, rest) = node.split_first_chunk()?;
    let (start, rest) = rest.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (guid, kinds) = rest.split_first_chunk::<16>()?;
    let signature = match (kinds, guid) {
        ([_, 2], _) => Signature::Gpt(*guid),
        ([_, 1], [a, b, c, d, ..]) => Signature::Mbr(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => Signature::Other,
    };
    Some(Partition {
        number: u32::from_le_bytes(*number),
        start: u64::from_le_bytes(*start),
        size: u64::from_le_bytes(*size),
        signature,
    })
}

/// UCS-2 up to its end, and what is behind it. What is no character is replaced.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (pairs, _) = bytes.as_chunks::<2>();
    let length = pairs.iter().position(|pair| *pair == [0, 0])?;
    let units = pairs.iter().take(length).map(|pair| u16::from_le_bytes(*pair));
    let text = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
    Some((text.collect(), bytes.get(length.checked_add(1)?.checked_mul(2)?..)?))
}

fn units(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The numbers of `DriverOrder` or `BootOrder`; `None` where that is damaged.
#[must_use]
pub fn decode_order(data: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = data.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
}

/// The other way.
#[must_use]
pub fn encode_order(order: &[u16]) -> Vec<u8> {
    order.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// `Driver0001-8be4…`, as Linux has it.
#[must_use]
pub fn driver_variable(number: u16) -> String {
    format!("Driver{number:04X}-{GLOBAL}")
}

/// The number in such a name; `None` for every other variable.
#[must_use]
pub fn driver_number(variable: &str) -> Option<u16> {
    let number = variable.strip_prefix("Driver")?.strip_suffix(GLOBAL)?.strip_suffix('-')?;
    let number = u16::from_str_radix(number, 16).ok()?;
    (driver_variable(number) == variable).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r"\EFI\rampart\rampart-x64.efi";

    fn option(signature: Signature) -> LoadOption {
        LoadOption {
            attributes: ACTIVE,
            description: "Rampart".into(),
            partition: Some(Partition { number: 1, start: 2048, size: 1_048_576, signature }),
            file: FILE.into(),
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let guid = Signature::of_partuuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        let data = option(guid).encode().unwrap();
        let path = 42 + 4 + 2 * (FILE.len() + 1) + 4;
        assert_eq!(&data[..6], [1, 0, 0, 0, u8::try_from(path).unwrap(), 0]);
        assert_eq!(&data[6..22], b"R\0a\0m\0p\0a\0r\0t\0\0\0");
        let expect = "04012a000100000000080000000000000000100000000000332211005544776688\
                      99aabbccddeeff0202";
        let hex: String = data[22..64].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expect);
        assert_eq!(&data[64..72], b"\x04\x04\x3e\0\\\0E\0");
        assert_eq!(&data[data.len() - 4..], [0x7f, 0xff, 4, 0]);
        assert_eq!(data.len(), 22 + path);
        assert_eq!(LoadOption::decode(&data), Some(option(guid)));
        assert!(option(guid).is_of_file(r"EFI\RAMPART\rampart-X64.efi"));

        // A disk with MBR, as QEMU's virtual FAT.
        let mbr = Signature::of_partuuid("be1afdfa-01").unwrap();
        assert_eq!(mbr, Signature::Mbr(0xbe1a_fdfa));
        let data = option(mbr).encode().unwrap();
        assert_eq!(&data[46..64], b"\xfa\xfd\x1a\xbe\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01");
        assert_eq!(LoadOption::decode(&data), Some(option(mbr)));
    }

    #[test]
    fn signatures_and_names_are_what_they_look_like() {
        for wrong in
            ["", "-", "0011223344556677-8899", "be1afdfa-1", "00112233-4455-6677-8899-aabbccddeefg"]
        {
            assert_eq!(Signature::of_partuuid(wrong), None, "{wrong}");
        }
        let named = |name: &str| driver_number(&format!("{name}-{GLOBAL}"));
        assert_eq!((named("Driver00AF"), named("DriverFFFF")), (Some(0xaf), Some(0xffff)));
        for other in ["Driver00af", "DriverOrder", "Driver001", "Boot0001", "Driver+001", "Driver"]
        {
            assert_eq!(named(other), None, "{other}");
        }
        assert_eq!(driver_number("Driver0001-def1345f-e988-423b-ac3b-68ad5dc6f43e"), None);
        assert_eq!(decode_order(&[1, 0, 0, 2]), Some(vec![1, 0x200]));
        assert_eq!((decode_order(&[]), decode_order(&[1])), (Some(vec![]), None));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            attributes in any::<u32>(),
            description in "[ -~]{0,40}",
            file in r"\\[a-zA-Z0-9.\\]{0,40}",
            numbers in any::<(u32, u64, u64)>(),
            guid in proptest::option::of(any::<[u8; 16]>()),
        ) {
            let (number, start, size) = numbers;
            let signature = guid.map_or(Signature::Mbr(number), Signature::Gpt);
            let partition = Some(Partition { number, start, size, signature });
            let option = LoadOption { attributes, description, partition, file };
            let data = option.encode().unwrap();
            prop_assert_eq!(LoadOption::decode(&data), Some(option));
        }

        /// And what is cut or changed is read or refused, without any panic.
        #[test]
        fn garbage_is_no_panic(
            mut data in proptest::collection::vec(any::<u8>(), 0..200),
            like_one in any::<bool>(),
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
            length in any::<usize>(),
        ) {
            if like_one {
                data = option(Signature::Gpt([7; 16])).encode().unwrap();
                for (at, byte) in changes {
                    let at = at % data.len();
                    data[at] = byte;
                }
                data.truncate(length % (data.len() + 1));
            }
            if let Some(option) = LoadOption::decode(&data) {
                prop_assert!(option.file.len() <= 3 * data.len());
            }
            let _ = decode_order(&data);
            let _ = Signature::of_partuuid(&String::from_utf8_lossy(&data));
            let _ = driver_number(&String::from_utf8_lossy(&data));
        }
    }
}
