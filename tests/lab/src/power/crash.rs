//! From a log of writes to what a disk may hold when power comes back, and what has to be on it.
//!
//! ```text
//!  log      w w w  flush  mark: on 7   w w  flush  w
//!           \____/                     \_/
//!           durable from here on        power goes before this flush: any of these sectors, or none
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};

use super::log::{Event, Request, SECTOR};

/// What the list has to say of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Acknowledged as retired.
    On,
    /// Acknowledged as un-retired.
    Off,
    /// Asked for, and not answered.
    Either,
}

/// Pages by frame number. One that is not here was never asked for, and must not be on the list.
pub type Promises = BTreeMap<u64, Expected>;

/// The mark with which a recording ends; what follows is not looked at.
pub const END: &str = "end";

/// A mark about a page, and what it says: see [`promise`].
#[must_use]
pub fn mark(expected: Expected, pfn: u64) -> String {
    let word = match expected {
        Expected::On => "on",
        Expected::Off => "off",
        Expected::Either => "want",
    };
    format!("{word} {pfn}")
}

/// Takes note of a [`mark`].
///
/// # Errors
/// It is none.
pub fn promise(promises: &mut Promises, text: &str) -> Result<()> {
    let (word, pfn) = text.split_once(' ').with_context(|| format!("an odd mark: {text}"))?;
    let expected = match word {
        "on" => Expected::On,
        "off" => Expected::Off,
        "want" => Expected::Either,
        _ => bail!("an odd mark: {text}"),
    };
    promises.insert(pfn.parse().with_context(|| format!("an odd mark: {text}"))?, expected);
    Ok(())
}

/// A moment just before a flush is done: the time at which most may be lost.
pub struct Moment<'a> {
    /// Its number, from 0.
    pub number: u64,
    /// What is durable.
    pub durable: &'a [u8],
    /// Which bytes of it were not, at the moment before.
    pub made_durable: &'a [Range<usize>],
    /// What was written since the last flush, in the log's order.
    pub unflushed: &'a [Request],
    /// What was acknowledged by now.
    pub promises: &'a Promises,
}

/// Replays a log over the disk it began with, and shows every moment at which power could go.
///
/// # Errors
/// The log is damaged or lacks its end, or `each` fails.
pub fn moments(
    mut disk: Vec<u8>,
    log: impl Iterator<Item = Result<Event>>,
    mut each: impl FnMut(&Moment<'_>) -> Result<()>,
) -> Result<()> {
    let mut promises = Promises::new();
    let mut unflushed: Vec<Request> = Vec::new();
    let mut made_durable = Vec::new();
    let mut number = 0;
    let write = |disk: &mut [u8], request: &Request, written: &mut Vec<Range<usize>>| {
        // The log's reader has checked that it is on the disk it was told of.
        let place = disk.get_mut(request.place()).context("a write beyond the disk")?;
        place.copy_from_slice(&request.data);
        written.push(request.place());
        anyhow::Ok(())
    };
    for event in log {
        match event? {
            Event::Mark(text) if text == END => return Ok(()),
            Event::Mark(text) => promise(&mut promises, &text)?,
            Event::Request(request) => {
                if request.flush {
                    each(&Moment {
                        number,
                        durable: &disk,
                        made_durable: &made_durable,
                        unflushed: &unflushed,
                        promises: &promises,
                    })?;
                    number += 1;
                    made_durable.clear();
                    for request in unflushed.drain(..) {
                        write(&mut disk, &request, &mut made_durable)?;
                    }
                }
                if request.flush && request.fua {
                    write(&mut disk, &request, &mut made_durable)?;
                } else if !request.data.is_empty() {
                    unflushed.push(request);
                }
            }
        }
    }
    bail!("the log lacks its end")
}

/// Which unflushed sectors the disk kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survivors {
    /// What had to be.
    None,
    /// Everything.
    All,
    /// The first requests, up to so many eighths of them.
    First(u8),
    /// Each with so many eighths of a chance.
    Some(u8),
}

impl Survivors {
    const KINDS: [Self; 8] = [
        Self::None,
        Self::Some(4),
        Self::Some(1),
        Self::All,
        Self::Some(7),
        Self::First(4),
        Self::Some(4),
        Self::First(7),
    ];

    /// All kinds in turn.
    #[must_use]
    pub fn nth(number: u64) -> Self {
        let kinds = Self::KINDS.len() as u64;
        Self::KINDS[usize::try_from(number % kinds).unwrap_or(0)]
    }
}

/// Sectors that a disk writes or does not write as one, where the file system relies on it: ext4's and its
/// journal's own blocks have a checksum each, and are not all written twice.
const METADATA_SECTORS: usize = 8;

/// What is on the disk when power comes back, beyond what is durable: bytes and their places, in the order
/// of writing.
#[must_use]
pub fn kept<'a>(
    moment: &Moment<'a>,
    survivors: Survivors,
    rng: &mut Rng,
) -> Vec<(usize, &'a [u8])> {
    let mut all = Vec::new();
    let count = moment.unflushed.len();
    for (index, request) in moment.unflushed.iter().enumerate() {
        let unit = SECTOR * if request.metadata { METADATA_SECTORS } else { 1 };
        for (number, bytes) in request.data.chunks(unit).enumerate() {
            let is_kept = match survivors {
                _ if request.fua => true,
                Survivors::None => false,
                Survivors::All => true,
                Survivors::First(eighths) => index * 8 < count * usize::from(eighths),
                Survivors::Some(eighths) => rng.below(8) < u64::from(eighths),
            };
            if is_kept {
                all.push((request.place().start + number * unit, bytes));
            }
        }
    }
    all
}

/// Choices that can be made again: SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 0 to `bound` - 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sector: u64, byte: u8, sectors: usize) -> Request {
        Request { sector, data: vec![byte; sectors * SECTOR], ..Request::default() }
    }

    /// The first byte of each sector.
    fn made(moment: &Moment<'_>, survivors: Survivors, rng: &mut Rng) -> Vec<u8> {
        let mut disk = moment.durable.to_vec();
        for (at, bytes) in kept(moment, survivors, rng) {
            disk[at..at + bytes.len()].copy_from_slice(bytes);
        }
        disk.into_iter().step_by(SECTOR).collect()
    }

    #[test]
    fn a_flush_makes_durable_what_came_before_it_and_no_more() {
        let flush = Request { flush: true, ..Request::default() };
        let log = [
            Event::Mark(mark(Expected::Either, 7)),
            Event::Request(written(0, 1, 1)),
            // Cached, like any other write: the flush is what it does first.
            Event::Request(Request { flush: true, ..written(1, 2, 1) }),
            Event::Mark(mark(Expected::On, 7)),
            Event::Request(Request { fua: true, ..written(2, 3, 1) }),
            Event::Request(Request { flush: true, fua: true, ..written(3, 4, 1) }),
            Event::Request(flush.clone()),
            Event::Mark(END.to_owned()),
            Event::Request(flush),
        ];
        let mut seen = Vec::new();
        let replay = |log: Vec<Event>, seen: &mut Vec<_>| {
            moments(vec![0; 4 * SECTOR], log.into_iter().map(Ok), |moment| {
                let least = made(moment, Survivors::None, &mut Rng(1));
                let most = made(moment, Survivors::All, &mut Rng(1));
                let durable = moment.made_durable.iter().map(|range| range.start / SECTOR);
                let durable: Vec<usize> = durable.collect();
                seen.push((least, most, durable, moment.promises.get(&7).copied()));
                Ok(())
            })
        };
        replay(log.to_vec(), &mut seen).unwrap();
        assert_eq!(
            seen,
            [
                (vec![0, 0, 0, 0], vec![1, 0, 0, 0], vec![], Some(Expected::Either)),
                (vec![1, 0, 3, 0], vec![1, 2, 3, 0], vec![0], Some(Expected::On)),
                (vec![1, 2, 3, 4], vec![1, 2, 3, 4], vec![1, 2, 3], Some(Expected::On)),
            ]
        );
        let cut = replay(log[..6].to_vec(), &mut Vec::new()).unwrap_err();
        assert!(cut.to_string().contains("lacks its end"));
        let odd = replay(vec![Event::Mark("maybe 7".to_owned())], &mut Vec::new()).unwrap_err();
        assert!(odd.to_string().contains("odd mark"));
    }

    #[test]
    fn sectors_survive_one_by_one_and_blocks_of_metadata_as_a_whole() {
        let metadata = Request { metadata: true, ..written(16, 2, 16) };
        let unflushed = [written(0, 1, 16), metadata];
        let promises = Promises::new();
        let moment = Moment {
            number: 0,
            durable: &vec![0; 32 * SECTOR],
            made_durable: &[],
            unflushed: &unflushed,
            promises: &promises,
        };
        let mut rng = Rng(3);
        let images: Vec<Vec<u8>> =
            (0..64).map(|_| made(&moment, Survivors::Some(4), &mut rng)).collect();
        let torn = |range: Range<usize>| {
            images.iter().any(|image| image[range.clone()].windows(2).any(|two| two[0] != two[1]))
        };
        assert!(torn(0..16) && torn(16..32));
        assert!(!torn(16..24) && !torn(24..32));
        let first = made(&moment, Survivors::First(4), &mut rng);
        assert_eq!(first, [[1; 16], [0; 16]].concat());
        let all: Vec<_> = (0..8).map(Survivors::nth).collect();
        assert_eq!(all, Survivors::KINDS);
    }
}
