//! Bit scatter and gather. Interleaving takes bits out of an address and puts them elsewhere; with
//! these two the bits that move are written down as one mask.

/// The low bits of `value`, in order, at the places that `mask` has set; the rest is lost.
pub(super) const fn deposit(mut value: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if value & 1 == 1 {
            result |= lowest;
        }
        value >>= 1;
        mask ^= lowest;
    }
    result
}

/// The bits of `value` at the places that `mask` has set, side by side from bit 0.
pub(super) const fn extract(value: u64, mut mask: u64) -> u64 {
    let (mut result, mut place) = (0, 1u64);
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if value & lowest != 0 {
            result |= place;
        }
        place = place.wrapping_shl(1);
        mask ^= lowest;
    }
    result
}

/// Exclusive or of all bits: 0 or 1.
pub(super) const fn parity(value: u64) -> u64 {
    (value.count_ones() & 1) as u64
}

/// `count` bits set from bit `start` up, whatever the numbers.
pub(super) const fn ones(start: u32, count: u32) -> u64 {
    let run = match 1u64.checked_shl(count) {
        Some(end) => end - 1,
        None => u64::MAX,
    };
    match run.checked_shl(start) {
        Some(mask) => mask,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_go_where_the_mask_says() {
        assert_eq!(deposit(0b1011, 0b1101_0100), 0b1001_0100);
        assert_eq!(extract(0b1001_0100, 0b1101_0100), 0b1011);
        assert_eq!(ones(8, 3), 0x700);
        assert_eq!(ones(0, 64), u64::MAX);
        assert_eq!(ones(64, 1), 0);
        assert_eq!(parity(0b111), 1);
    }

    proptest! {
        #[test]
        fn gathering_undoes_scattering(value: u64, mask: u64) {
            let low = value & ones(0, mask.count_ones());
            prop_assert_eq!(extract(deposit(value, mask), mask), low);
            prop_assert_eq!(deposit(extract(value, mask), mask), value & mask);
        }
    }
}
