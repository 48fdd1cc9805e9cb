//! Which block to give up or to ask for next.

use core::cmp::Reverse;

use crate::frames::Frames;

/// Ticks for which a block is left alone after the device said no about it.
pub const RETRY_TICKS: u64 = 256;

/// What the device wants, in bytes; from its configuration space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sizes {
    /// `requested_size`.
    pub requested: u64,
    /// `plugged_size`.
    pub plugged: u64,
    /// `usable_region_size`.
    pub usable: u64,
}

/// The next thing to do about the device's wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Empty this block, then give it back.
    Unplug(usize),
    /// Ask for this block.
    Plug(usize),
    /// Nothing to do, or nothing that can be done on this tick.
    Rest,
}

/// Decides. Bad memory goes first: a host that asks for less after a machine check means that
/// block. Then the emptiest kind, then the highest.
#[must_use]
pub fn next_step(frames: &Frames, sizes: Sizes, tick: u64) -> Step {
    let block_size = frames.region().block_size;
    let may_ask = |retry_at: u64| retry_at <= tick;
    let blocks = frames.blocks().iter().enumerate();
    if sizes.plugged > sizes.requested {
        blocks
            .filter(|(_, block)| block.plugged && may_ask(block.retry_at))
            .max_by_key(|(index, block)| (block.health, Reverse(block.used.min(1)), *index))
            .map_or(Step::Rest, |(index, _)| Step::Unplug(index))
    } else if sizes.plugged + block_size <= sizes.requested {
        blocks
            .take_while(|(index, _)| (*index as u64 + 1) * block_size <= sizes.usable)
            .find(|(_, block)| !block.plugged && may_ask(block.retry_at))
            .map_or(Step::Rest, |(index, _)| Step::Plug(index))
    } else {
        Step::Rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Health, Owner, Region};
    use crate::page::Gpa;

    const MIB: u64 = 1 << 20;
    const REGION: Region = Region { start: Gpa(4 << 30), block_size: 2 * MIB, blocks: 4 };

    fn frames(plugged: &[usize]) -> Frames {
        let mut frames = Frames::new(Gpa(0), 1, REGION);
        plugged.iter().for_each(|block| frames.plugged(*block));
        frames
    }

    fn sizes(requested: u64, plugged: u64) -> Sizes {
        Sizes { requested, plugged, usable: 6 * MIB }
    }

    #[test]
    fn poisoned_goes_before_failing_before_empty_before_high() {
        let mut frames = frames(&[0, 1, 2, 3]);
        let shrink = sizes(6 * MIB, 8 * MIB);
        assert_eq!(next_step(&frames, shrink, 0), Step::Unplug(3));
        frames.set(REGION.block(3), Owner::Entry(0));
        assert_eq!(next_step(&frames, shrink, 0), Step::Unplug(2));
        frames.worsen(REGION.block(1), Health::Failing);
        assert_eq!(next_step(&frames, shrink, 0), Step::Unplug(1));
        frames.set(REGION.block(0), Owner::Entry(1));
        frames.worsen(REGION.block(0), Health::Poisoned);
        assert_eq!(next_step(&frames, shrink, 0), Step::Unplug(0));
    }

    #[test]
    fn a_refused_block_rests_and_the_next_is_tried() {
        let mut frames = frames(&[]);
        let grow = sizes(4 * MIB, 0);
        assert_eq!(next_step(&frames, grow, 0), Step::Plug(0));
        frames.postpone(0, 10);
        assert_eq!(next_step(&frames, grow, 9), Step::Plug(1));
        assert_eq!(next_step(&frames, grow, 10), Step::Plug(0));
    }

    #[test]
    fn never_beyond_what_is_usable_or_asked_for() {
        let frames = frames(&[0, 1, 2]);
        assert_eq!(next_step(&frames, sizes(8 * MIB, 6 * MIB), 0), Step::Rest, "not usable");
        assert_eq!(next_step(&frames, sizes(6 * MIB, 6 * MIB), 0), Step::Rest);
        assert_eq!(next_step(&frames, sizes(7 * MIB, 6 * MIB), 0), Step::Rest, "half a block");
        assert_eq!(next_step(&self::frames(&[]), sizes(0, 0), 0), Step::Rest);
    }
}
