//! The start of a migration stream, as far as it takes to learn whose guest it is.
//!
//! ```text
//! 0            8         12    16     20       24            32       34        36      36+n
//! +------------+---------+-----+------+--------+-------------+--------+---------+-------+
//! | "RASVMMIG" | version | crc | kind | length | body, header| name n | regions | name  | ...
//! |            |         |     |  1   |        | crc         |        |         |       |
//! +------------+---------+-----+------+--------+-------------+--------+---------+-------+
//!   preface                       message `Hello`               its body
//! ```
//!
//! Little-endian; `vmm/src/migrate/format.rs` is the definition. Checksums, lengths and the memory
//! layout are the monitor's to judge: it reads the same bytes again.

use anyhow::{Context as _, Result, ensure};
use cluster_glue::engine::check_guest_name;

const MAGIC: &[u8; 8] = b"RASVMMIG";
const VERSION: u32 = 1;
const KIND_HELLO: u32 = 1;
const NAME: usize = 36;
const NAME_MAX: usize = 64;

/// The bytes that hold the longest name that is taken in.
pub(crate) const LEN_MAX: usize = NAME + NAME_MAX;

/// The guest's name in a stream that starts with `start`; `None` if it is too short to tell.
pub(crate) fn guest_name(start: &[u8]) -> Result<Option<String>> {
    let known = start.len().min(MAGIC.len());
    ensure!(start[..known] == MAGIC[..known], "not a rasvmm migration stream");
    let Some(version) = word(start, 8) else { return Ok(None) };
    ensure!(version == VERSION, "stream version {version}, this service knows {VERSION}");
    let Some(kind) = word(start, 16) else { return Ok(None) };
    ensure!(kind == KIND_HELLO, "the stream starts with message {kind} instead of Hello");
    let Some([low, high]) = start.get(32..34) else { return Ok(None) };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    ensure!(length <= NAME_MAX, "a guest name of {length} bytes");
    let Some(name) = start.get(NAME..NAME + length) else { return Ok(None) };
    let name = str::from_utf8(name).context("the guest's name")?;
    check_guest_name(name)?;
    Ok(Some(name.to_owned()))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stream's start. Checksums are left out: they are not this module's business.
    pub(crate) fn stream(name: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for field in [1, 0, 1, 4 + name.len() as u64, 0, 0] {
            bytes.extend(u32::try_from(field).unwrap().to_le_bytes());
        }
        bytes.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(name);
        bytes
    }

    #[test]
    fn every_prefix_waits_for_more_and_the_whole_has_the_name() {
        let whole = stream(b"vm-1.a_b");
        for cut in 0..whole.len() {
            assert_eq!(guest_name(&whole[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(guest_name(&whole).unwrap().unwrap(), "vm-1.a_b");
    }

    #[test]
    fn strangers_and_paths_are_refused() {
        let mut other_version = stream(b"vm1");
        other_version[8] = 2;
        let mut other_message = stream(b"vm1");
        other_message[16] = 3;
        let refused = [
            b"GET / HTTP/1.1\r\n".to_vec(),
            other_version,
            other_message,
            stream(b""),
            stream(b"../etc/passwd"),
            stream(b".hidden"),
            stream(b"-rf"),
            stream(b"a\0b"),
            stream(b"\xff\xff"),
            stream(&[b'x'; 65]),
        ];
        for bytes in refused {
            assert!(guest_name(&bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(guest_name(&stream(&[b'x'; 64])).unwrap().unwrap().len(), 64);
    }

    #[test]
    fn no_single_byte_makes_it_panic() {
        let whole = stream(b"vm1");
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = guest_name(&bytes);
            }
        }
    }
}
