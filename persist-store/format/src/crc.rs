//! CRC32C (Castagnoli), as in RFC 3720, appendix B.4. The `crc32c` crate needs std, and asks the
//! processor; without it, as in firmware, this does.

/// Reflected polynomial 0x1EDC6F41.
#[cfg(any(test, not(feature = "std")))]
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[k][b]`: the checksum of byte `b` followed by `k` zero bytes ("slicing by 8").
#[cfg(any(test, not(feature = "std")))]
static TABLES: [[u32; 256]; 8] = tables();

/// The CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    #[cfg(feature = "std")]
    return ::crc32c::crc32c(bytes);
    #[cfg(not(feature = "std"))]
    software(bytes)
}

#[cfg(any(test, not(feature = "std")))]
fn software(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let low = crc.to_le_bytes();
        crc = 0;
        for (index, &byte) in word.iter().enumerate() {
            let byte = byte ^ low.get(index).copied().unwrap_or(0);
            crc ^= TABLES[7 - index][usize::from(byte)];
        }
    }
    for &byte in words.remainder() {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ TABLES[0][usize::from(low ^ byte)];
    }
    !crc
}

#[cfg(any(test, not(feature = "std")))]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    let mut seed = 0u32;
    while byte < 256 {
        let mut crc = seed;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
        seed += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[slice - 1][byte];
            tables[slice][byte] = (previous >> 8) ^ tables[0][(previous & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn matches_the_published_vectors() {
        let mut ascending = [0u8; 32];
        for (value, byte) in (0u8..).zip(&mut ascending) {
            *byte = value;
        }
        for (input, expect) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            assert_eq!(super::software(input), expect, "{input:?}");
            assert_eq!(crc32c(input), expect, "{input:?}");
        }
    }
}
