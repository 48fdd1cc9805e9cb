//! The interleave itself: where the channel goes in an address, and how it comes out again.

use alloc::vec::Vec;

use super::TranslateError;
use super::bits::{deposit, extract, ones};
use super::hash::{self, Fold, unfold};
use super::map::Map;
use super::modes::{Mode, Modulo};

impl Map<'_> {
    /// A normalized address, counted from where this map's begin, to the system address. The
    /// caller compares it with the map's limit.
    pub(super) fn denormalize(&self, normalized: u64) -> Result<u64, TranslateError> {
        match self.mode {
            Mode::Df3Six => Ok(self.place(self.six(normalized)?)),
            Mode::Df4Modulo(modulo) => Ok(self.place(self.df4(&modulo, normalized)?)),
            Mode::Df45Modulo(modulo) => self.df4_5(&modulo, normalized),
            _ => {
                let Lanes { gaps, channel, folds } = self.lanes()?;
                let within = deposit(normalized, !gaps) | deposit(channel, gaps);
                Ok(match self.hashes_before_base() {
                    true => self.place(unfold(within, &folds, self.switches)),
                    false => unfold(self.place(within), &folds, self.switches),
                })
            }
        }
    }

    /// The normalized address that a system address would have, if it is this station's: that it
    /// is, [`Self::denormalize`] has to confirm. `None` where no address of this map looks so.
    pub(super) fn candidate(&self, address: u64) -> Option<u64> {
        let within = self.unplace(address)?;
        match self.mode {
            Mode::Df3Six => self.six_back(within),
            Mode::Df4Modulo(modulo) => Some(self.df4_back(&modulo, within)),
            Mode::Df45Modulo(modulo) => {
                let quotient = extract(within, modulo.number()) / modulo.modulus;
                Some(extract(within, modulo.keep) | quotient << modulo.keep.count_ones())
            }
            // What selects the channel is taken out, so that the hash does not matter. It would if
            // adding the base changed those bits; base and hole are far above them.
            _ => self.lanes().ok().map(|lanes| extract(within, !lanes.gaps)),
        }
    }

    /// Channels in a power of two.
    fn lanes(&self) -> Result<Lanes, TranslateError> {
        let (dies, sockets) = (self.die_bits, self.socket_bits);
        let lanes = match self.mode {
            Mode::Plain { bits } => Lanes {
                gaps: ones(self.position, bits + dies + sockets),
                channel: self.channel_die_socket(bits),
                folds: Vec::new(),
            },
            Mode::Df2 => Lanes {
                gaps: ones(self.position, 1),
                channel: self.channel_die_socket(1),
                folds: [hash::DF2.at(self.position)].into(),
            },
            Mode::Df3 { bits } => {
                let [first, rest @ ..] = hash::DF3;
                Lanes::split(self.position, bits, self.channel_die_socket(bits))
                    .hashed([first.at(self.position)].into_iter().chain(rest))
            }
            Mode::Df4 { bits } => {
                let [first, rest @ ..] = hash::DF4;
                let first = if sockets == 0 { first.and_always(1 << 14) } else { first };
                Lanes::split(8, bits + sockets, self.socket_channel(bits))
                    .hashed([first].into_iter().chain(rest))
            }
            Mode::Df45 { bits } => {
                let [first, _by_1k, rest @ ..] = hash::DF4_5;
                Lanes::split(8, bits + sockets, self.socket_channel(bits))
                    .hashed([first].into_iter().chain(rest))
            }
            Mode::Df45By1K { bits } => Lanes {
                gaps: ones(8, 2) | ones(12, bits.saturating_sub(2)),
                channel: self.socket_channel(bits),
                folds: Vec::new(),
            }
            .hashed(hash::DF4_5),
            Mode::Mi300 { bits } => self.mi300(bits)?,
            // One channel needs no lane, and what is divided has none.
            Mode::None | Mode::Df3Six | Mode::Df4Modulo(_) | Mode::Df45Modulo(_) => {
                Lanes::default()
            }
        };
        Ok(lanes)
    }

    /// Channel, die and socket, from bit 0 up.
    fn channel_die_socket(&self, bits: u32) -> u64 {
        let channel = u64::from(self.station.wrapping_sub(self.destination));
        let die = u64::from(self.fabric.die.of(self.station));
        let socket = u64::from(self.fabric.socket.of(self.station));
        channel & ones(0, bits)
            | (die & ones(0, self.die_bits)) << bits
            | (socket & ones(0, self.socket_bits)) << (bits + self.die_bits)
    }

    /// Socket and channel, from bit 0 up.
    fn socket_channel(&self, bits: u32) -> u64 {
        let socket = u64::from(self.fabric.socket.of(self.station));
        (self.component() & ones(0, bits)) << self.socket_bits | socket & ones(0, self.socket_bits)
    }

    /// How many stations of the map come before this one in its die.
    fn component(&self) -> u64 {
        let component = |id: u32| id & self.fabric.component_mask;
        u64::from(component(self.station).wrapping_sub(component(self.destination)) & 0xffff)
    }

    /// MI300: up to four channel bits at 8, dies at 12, the stack at 14.
    fn mi300(&self, bits: u32) -> Result<Lanes, TranslateError> {
        let id = self.station.wrapping_sub(self.destination) & 0xffff;
        let (die, stack) = (u64::from(self.fabric.die.of(id)), u64::from(id >> 4 & 1));
        let (lane, low) = (u64::from(id & 0xf), bits.min(4));
        let stacks = bits - low;
        if lane >> low != 0 || die >> self.die_bits != 0 || stack >> stacks != 0 {
            return Err(TranslateError::NotInMap(self.id));
        }
        let folds = hash::MI300_CHANNEL.into_iter().zip(0..bits).map(|(fold, _)| fold);
        let dies = hash::MI300_DIE.into_iter().zip(0..self.die_bits).map(|(fold, _)| fold);
        Ok(Lanes {
            gaps: ones(8, low) | ones(12, self.die_bits) | ones(14, stacks),
            channel: lane | die << low | stack << (low + self.die_bits),
            folds: folds.chain(dies).collect(),
        })
    }

    /// Log2 of one channel's third quarter: the bit above which the fourth quarter of a six-channel
    /// map is folded.
    fn six_top(&self) -> Option<u32> {
        let top = self.log2_64k?.checked_add(11)?;
        // Beyond, no address could be in the fold.
        (top > self.position && top < NORMALIZED_BITS - 2).then_some(top)
    }

    /// Six channels share a space for eight: what would be the memory of channels 6 and 7 is the
    /// last quarter of all six, spread over three pairs by the address modulo 3.
    fn six(&self, normalized: u64) -> Result<u64, TranslateError> {
        let top = self.six_top().ok_or_else(|| self.bad_size())?;
        let channel = u64::from(self.station & self.fabric.component_mask);
        if channel >= 6 || normalized >> (top + 2) != 0 {
            return Err(TranslateError::NotInMap(self.id));
        }
        let (width, upper) = (top - self.position, normalized >> self.position);
        let (lane, number) = match normalized >> top {
            3 => {
                let low = upper & ones(0, width);
                // The upper two bits that make the whole number's remainder the pair's: 2^width is
                // its own inverse modulo 3, namely 1 or 2.
                let weight = u64::from(1 + (width & 1));
                let high = weight * (3 - low % 3 + (channel >> 1)) % 3;
                (6 | channel & 1, low | high << width)
            }
            _ => (channel, upper),
        };
        let address = normalized & ones(0, self.position)
            | lane << self.position
            | number << (self.position + 3);
        Ok(unfold(address, &hash::df3_six(self.position), self.switches))
    }

    fn six_back(&self, within: u64) -> Option<u64> {
        let width = self.six_top()? - self.position;
        let chosen = unfold(within, &hash::df3_six(self.position), self.switches);
        let number = within >> (self.position + 3);
        let number = match chosen >> self.position & 6 {
            6 => number & ones(0, width) | 3 << width,
            _ => number,
        };
        Some(within & ones(0, self.position) | number << self.position)
    }

    fn bad_size(&self) -> TranslateError {
        TranslateError::Inconsistent {
            register: "Np2ChannelConfig",
            value: super::Register(self.log2_64k.unwrap_or_default()),
            detail: "the size of six channels is none that a map can have",
        }
    }

    /// DF4: the socket, or without it one bit of the normalized address, shifts the remainder.
    fn df4(&self, modulo: &Modulo, normalized: u64) -> Result<u64, TranslateError> {
        let Modulo { modulus, keep, select, .. } = *modulo;
        let station = self.component();
        let (group, remainder) = (station / modulus, station % modulus);
        if group >> (select.count_ones() - 1) != 0 {
            return Err(TranslateError::NotInMap(self.id));
        }
        let upper = normalized >> keep.count_ones();
        let (first, quotient) = match self.socket_bits {
            0 => (upper & 1, upper >> 1),
            _ => (u64::from(self.fabric.socket.of(self.station) & 1), upper),
        };
        let number = quotient * modulus + (remainder + modulus - first) % modulus;
        let address = deposit(normalized, keep) | deposit(number, modulo.number());
        let folds = hash::DF4.map(with_bit_14);
        Ok(self.choose(address, select, first | group << 1, &folds))
    }

    fn df4_back(&self, modulo: &Modulo, within: u64) -> u64 {
        let Modulo { modulus, keep, .. } = *modulo;
        let [fold, ..] = hash::DF4.map(with_bit_14);
        let first = within >> 8 & 1 ^ fold.of(within, self.switches);
        let quotient = extract(within, modulo.number()) / modulus;
        let upper = if self.socket_bits == 0 { quotient << 1 | first } else { quotient };
        extract(within, keep) | upper << keep.count_ones()
    }

    /// DF4.5: the remainder is taken of the system address, which is known when the remainder is.
    /// So each is tried; with the base and the hole apart there is one that fits.
    fn df4_5(&self, modulo: &Modulo, normalized: u64) -> Result<u64, TranslateError> {
        let Modulo { modulus, keep, select, weight, two_sockets } = *modulo;
        let mut id = u64::from(self.station.wrapping_sub(self.destination) & 0xffff);
        let mut chosen = 0;
        let mut width = select.count_ones();
        if two_sockets {
            let socket = ones(self.fabric.socket.shift, 1);
            chosen = u64::from(id & socket != 0);
            id &= !socket;
            width -= 1;
            chosen |= (id & ones(0, width)) << 1;
        } else {
            chosen |= id & ones(0, width);
        }
        let wanted = id >> width;
        let quotient = normalized >> keep.count_ones();
        let folds = hash::DF4_5.map(with_bit_14);
        // From above: where the hole makes two fit, the upper one is memory's.
        (0..modulus)
            .rev()
            .map(|remainder| {
                let number = quotient * modulus + remainder;
                self.place(deposit(normalized, keep) | deposit(number, modulo.number()))
            })
            .find(|address| {
                extract(*address, modulo.number()) % modulus * weight % modulus == wanted
            })
            .map(|address| self.choose(address, select, chosen, &folds))
            .ok_or(TranslateError::NotInMap(self.id))
    }

    /// Sets the bits of `select`, clear so far, such that with their hashes they choose `chosen`.
    fn choose(&self, address: u64, select: u64, chosen: u64, folds: &[Fold]) -> u64 {
        let selecting = folds.iter().filter(|fold| select >> fold.bit & 1 == 1);
        let set = |address: u64, (index, fold): (u32, &Fold)| {
            address | ((chosen >> index & 1) ^ fold.of(address, self.switches)) << fold.bit
        };
        (0..).zip(selecting).fold(address, set)
    }
}

/// Normalized addresses have to be below 2^52: no AMD processor has longer system addresses, and
/// the arithmetic here relies on it.
pub(super) const NORMALIZED_BITS: u32 = 52;

/// Channels in a power of two, laid out.
#[derive(Default)]
struct Lanes {
    /// The bits of a system address that a normalized one lacks.
    gaps: u64,
    /// What they choose, from bit 0 up.
    channel: u64,
    /// How they are hashed.
    folds: Vec<Fold>,
}

impl Lanes {
    /// The first of `bits` at `position`, the others from bit 12 up.
    fn split(position: u32, bits: u32, channel: u64) -> Self {
        let gaps = ones(position, 1) | ones(12, bits.saturating_sub(1));
        Self { gaps, channel, folds: Vec::new() }
    }

    /// With the hash of each gap from `folds`, of which there may be more.
    fn hashed(mut self, folds: impl IntoIterator<Item = Fold>) -> Self {
        self.folds = folds.into_iter().filter(|fold| self.gaps >> fold.bit & 1 == 1).collect();
        self
    }
}

/// Bit 8 has one hash more in the modes that are no powers of two.
fn with_bit_14(fold: Fold) -> Fold {
    if fold.bit == 8 { fold.and_always(1 << 14) } else { fold }
}
