//! Hashes: the address bits that the fabric folds into the choice of a channel, so that no stride
//! stays on one channel.

use super::bits::parity;

/// Which hashes are switched on. DF2's is not among them: it is part of its mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Switches {
    pub(super) k4: bool,
    pub(super) k64: bool,
    pub(super) m2: bool,
    pub(super) g1: bool,
    pub(super) t1: bool,
}

/// One address bit that selects a channel, and what is folded into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fold {
    /// The selecting bit.
    pub(super) bit: u32,
    /// Bits that are always folded in, and bits that each switch adds, as masks.
    pub(super) always: u64,
    k4: u64,
    k64: u64,
    m2: u64,
    g1: u64,
    t1: u64,
}

impl Fold {
    /// `bit` is selected by itself, and by one bit for each switch.
    const fn new(bit: u32, k64: u32, m2: u32, g1: u32) -> Self {
        Self { bit, always: 0, k4: 0, k64: 1 << k64, m2: 1 << m2, g1: 1 << g1, t1: 0 }
    }

    const fn and_1t(mut self, mask: u64) -> Self {
        self.t1 = mask;
        self
    }

    const fn and_4k(mut self, bit: u32) -> Self {
        self.k4 = 1 << bit;
        self
    }

    pub(super) const fn and_always(mut self, mask: u64) -> Self {
        self.always |= mask;
        self
    }

    /// The same folds into another bit: where the interleave begins is programmable in some modes.
    pub(super) const fn at(mut self, bit: u32) -> Self {
        self.bit = bit;
        self
    }

    /// What is folded into the bit for this address: 0 or 1.
    pub(super) const fn of(&self, address: u64, on: Switches) -> u64 {
        let mut mask = self.always;
        if on.k4 {
            mask |= self.k4;
        }
        if on.k64 {
            mask |= self.k64;
        }
        if on.m2 {
            mask |= self.m2;
        }
        if on.g1 {
            mask |= self.g1;
        }
        if on.t1 {
            mask |= self.t1;
        }
        parity(address & mask)
    }
}

/// Turns what the selecting bits choose into what the address has there, or back: folding is its
/// own inverse, as long as later folds don't read bits that earlier ones wrote.
pub(super) fn unfold(address: u64, folds: &[Fold], on: Switches) -> u64 {
    folds.iter().fold(address, |address, fold| address ^ (fold.of(address, on) << fold.bit))
}

/// DF2, two channels; the place is the map's own.
pub(super) const DF2: Fold = Fold {
    bit: 8,
    always: 1 << 12 | 1 << 18 | 1 << 21 | 1 << 30,
    k4: 0,
    k64: 0,
    m2: 0,
    g1: 0,
    t1: 0,
};

/// DF3, powers of two; the place of the first is the map's own.
pub(super) const DF3: [Fold; 3] = [
    Fold::new(8, 18, 23, 32).and_always(1 << 14),
    Fold::new(12, 16, 21, 30),
    Fold::new(13, 17, 22, 31),
];

/// DF3, six channels, for a map whose interleave begins at `position`: these are not hashed by 64K.
pub(super) const fn df3_six(position: u32) -> [Fold; 3] {
    [
        Fold { k64: 0, ..Fold::new(position, 0, 23, 32).and_always(1 << (position + 3)) },
        Fold { k64: 0, ..Fold::new(position + 1, 0, 21, 30) },
        Fold { k64: 0, ..Fold::new(position + 2, 0, 22, 31) },
    ]
}

/// DF4. Without socket interleaving, bit 14 is folded into bit 8 as well.
pub(super) const DF4: [Fold; 4] = [
    Fold::new(8, 16, 21, 30),
    Fold::new(12, 17, 22, 31),
    Fold::new(13, 18, 23, 32),
    Fold::new(14, 19, 24, 33),
];

/// DF4.5. In the modes that are not powers of two, bit 14 is folded into bit 8 as well.
pub(super) const DF4_5: [Fold; 5] = [
    Fold::new(8, 16, 21, 30).and_1t(1 << 40),
    Fold::new(9, 17, 22, 31).and_1t(1 << 41),
    Fold::new(12, 18, 23, 32).and_1t(1 << 42),
    Fold::new(13, 19, 24, 33).and_1t(1 << 43),
    Fold::new(14, 20, 25, 34).and_1t(1 << 44),
];

/// MI300, channels: four channel bits, then the stack.
pub(super) const MI300_CHANNEL: [Fold; 5] = [
    Fold::new(8, 15, 22, 29).and_1t(1 << 36 | 1 << 43).and_4k(12),
    Fold::new(9, 16, 23, 30).and_1t(1 << 37 | 1 << 44).and_4k(13),
    Fold::new(10, 17, 24, 31).and_1t(1 << 38 | 1 << 45).and_4k(14),
    Fold::new(11, 18, 25, 32).and_1t(1 << 39 | 1 << 46),
    Fold::new(14, 19, 26, 33).and_1t(1 << 40 | 1 << 47),
];

/// MI300, dies.
pub(super) const MI300_DIE: [Fold; 2] =
    [Fold::new(12, 20, 27, 34).and_1t(1 << 41), Fold::new(13, 21, 28, 35).and_1t(1 << 42)];
