//! Interleave modes, by fabric revision. Linux's `drivers/ras/amd/atl` and AMD's Processor
//! Programming References, DramBaseAddress and DramAddressIntlv, `IntLvNumChan`.

use super::TranslateError;
use super::snapshot::Revision;

/// How a map spreads addresses over channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// One channel.
    None,
    /// 2^`bits` channels, side by side, without a hash.
    Plain { bits: u32 },
    /// Two channels, hashed (DF2).
    Df2,
    /// 2^`bits` channels, hashed (DF3).
    Df3 { bits: u32 },
    /// Six channels (DF3).
    Df3Six,
    /// 2^`bits` channels, hashed (DF4).
    Df4 { bits: u32 },
    /// Multiples of 3 or 5 channels (DF4).
    Df4Modulo(Modulo),
    /// 2^`bits` channels, hashed, the first selected by bit 8 and the others by bits from 12 up.
    Df45 { bits: u32 },
    /// 2^`bits` channels, hashed, the first two selected by bits 8 and 9, the others from 12 up.
    Df45By1K { bits: u32 },
    /// Multiples of 3 or 5 channels (DF4.5).
    Df45Modulo(Modulo),
    /// 2^`bits` channels of an MI300.
    Mi300 { bits: u32 },
}

/// An interleave over a number of channels that is no power of two.
///
/// An address has three kinds of bits: those that stay (`keep`), those that select a channel
/// (`select`), and all others, which taken together are a number. Divided by `modulus`, that
/// number's quotient is the upper part of the normalized address; the remainder selects a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Modulo {
    pub(super) modulus: u64,
    pub(super) keep: u64,
    pub(super) select: u64,
    /// What the number counts, in units of 1 KiB: it is weighed with that before the remainder is
    /// taken (DF4.5).
    pub(super) weight: u64,
    /// Whether bit 8 selects the socket (24 channels).
    pub(super) two_sockets: bool,
}

impl Modulo {
    /// The bits that make up the number.
    pub(super) const fn number(&self) -> u64 {
        !(self.keep | self.select)
    }
}

/// Bits of an address, as a mask.
const fn bits<const N: usize>(list: [u32; N]) -> u64 {
    let (mut mask, mut index) = (0, 0);
    while index < N {
        mask |= 1 << list[index];
        index += 1;
    }
    mask
}

const fn df4<const N: usize>(modulus: u64, top: u64, select: [u32; N]) -> Mode {
    let select = bits(select);
    Mode::Df4Modulo(Modulo { modulus, keep: top & !select, select, weight: 1, two_sockets: false })
}

const fn by_1k<const N: usize>(modulus: u64, weight: u64, select: [u32; N]) -> Mode {
    df4_5(modulus, weight, 0xcff, select, false)
}

const fn by_2k<const N: usize>(modulus: u64, weight: u64, select: [u32; N]) -> Mode {
    df4_5(modulus, weight, 0xeff, select, false)
}

const fn df4_5<const N: usize>(
    modulus: u64,
    weight: u64,
    keep: u64,
    select: [u32; N],
    two_sockets: bool,
) -> Mode {
    Mode::Df45Modulo(Modulo { modulus, keep, select: bits(select), weight, two_sockets })
}

type Table = &'static [(u32, Mode)];

const DF2: Table = &[(0x0, Mode::None), (0x1, Mode::Plain { bits: 1 }), (0x8, Mode::Df2)];

const PLAIN: Table = &[
    (0x0, Mode::None),
    (0x1, Mode::Plain { bits: 1 }),
    (0x3, Mode::Plain { bits: 2 }),
    (0x5, Mode::Plain { bits: 3 }),
    (0x7, Mode::Plain { bits: 4 }),
    (0x8, Mode::Plain { bits: 5 }),
];

const DF3_HASHED: Table =
    &[(0xc, Mode::Df3 { bits: 1 }), (0xd, Mode::Df3 { bits: 2 }), (0xe, Mode::Df3 { bits: 3 })];

const DF3_SIX: Table = &[(0x6, Mode::Df3Six)];

const DF4: Table = &[
    (0x10, Mode::Df4 { bits: 1 }),
    (0x11, Mode::Df4 { bits: 2 }),
    (0x12, Mode::Df4 { bits: 3 }),
    // 3, 6 and 12 channels; 5 and 10 channels.
    (0x13, df4(3, 0x3fff, [8])),
    (0x14, df4(3, 0x3fff, [8, 13])),
    (0x15, df4(3, 0x3fff, [8, 12, 13])),
    (0x16, df4(5, 0x3fff, [8])),
    (0x17, df4(5, 0x3fff, [8, 13])),
];

const DF4_5: Table = &[
    (0x0c, Mode::Df45By1K { bits: 4 }),
    (0x10, Mode::Df45 { bits: 1 }),
    (0x11, Mode::Df45By1K { bits: 2 }),
    (0x12, Mode::Df45By1K { bits: 3 }),
    (0x20, Mode::Df45 { bits: 1 }),
    (0x21, Mode::Df45 { bits: 2 }),
    (0x22, Mode::Df45 { bits: 3 }),
    (0x23, Mode::Df45 { bits: 4 }),
    // 3, 6, 12, 24, 5 and 10 channels, each by 1 KiB and by 2 KiB.
    (0x13, by_1k(3, 1, [])),
    (0x14, by_1k(3, 2, [8])),
    (0x15, by_1k(3, 4, [8, 9])),
    (0x0e, df4_5(3, 8, 0xcff, [8, 9, 12], true)),
    (0x16, by_1k(5, 1, [])),
    (0x17, by_1k(5, 2, [8])),
    (0x24, by_2k(3, 2, [])),
    (0x25, by_2k(3, 4, [8])),
    (0x26, by_2k(3, 8, [8, 12])),
    (0x27, df4_5(3, 16, 0xeff, [8, 12, 13], true)),
    (0x28, by_2k(5, 2, [])),
    (0x29, by_2k(5, 4, [8])),
];

const MI300: Table = &[
    (0x18, Mode::Mi300 { bits: 3 }),
    (0x19, Mode::Mi300 { bits: 4 }),
    (0x1a, Mode::Mi300 { bits: 5 }),
];

/// The mode that a map's `IntLvNumChan` names.
pub(super) fn lookup(revision: Revision, mi300: bool, code: u32) -> Result<Mode, TranslateError> {
    let tables: &[Table] = match revision {
        Revision::Df2 => &[DF2],
        Revision::Df3 => &[PLAIN, DF3_HASHED, DF3_SIX],
        Revision::Df3_5 => &[PLAIN, DF3_HASHED],
        Revision::Df4 => &[PLAIN, DF4],
        Revision::Df4_5 if mi300 => &[PLAIN, MI300],
        Revision::Df4_5 => &[PLAIN, DF4_5],
    };
    let mut rows = tables.iter().copied().flatten();
    let row = rows.find(|(known, _)| *known == code);
    row.map(|(_, mode)| *mode).ok_or(TranslateError::UnsupportedMode { revision, code })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number of channels has its select bits and its remainder: together they tell exactly
    /// as many channels apart.
    #[test]
    fn every_modulo_mode_tells_its_channels_apart() {
        let channels = |code, table: Table| match table.iter().find(|row| row.0 == code) {
            Some((_, Mode::Df4Modulo(m))) => m.modulus << (m.select.count_ones() - 1),
            Some((_, Mode::Df45Modulo(m))) => m.modulus << m.select.count_ones(),
            other => panic!("{other:?}"),
        };
        for (code, count) in [(0x13, 3), (0x14, 6), (0x15, 12), (0x16, 5), (0x17, 10)] {
            assert_eq!(channels(code, DF4), count);
            assert_eq!(channels(code, DF4_5), count);
        }
        for (code, count) in [(0x24, 3), (0x25, 6), (0x26, 12), (0x28, 5), (0x29, 10)] {
            assert_eq!(channels(code, DF4_5), count);
        }
        assert_eq!((channels(0x0e, DF4_5), channels(0x27, DF4_5)), (24, 24));
    }
}
