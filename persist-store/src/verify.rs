//! Looking at a store without touching it: what is sound, and where what is not lies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use ras_store_format::layout::{BLOCK_SIZE, COPIES, JOURNAL_SIZE_MAX};
use ras_store_format::survey::{Place, unsound_blocks};
use ras_store_format::{Damage, Fault, Reading, Witness};

use crate::backend::{Backend, Directory, File};
use crate::error::io_error;
use crate::store::{LOOKS, PAUSE, now};
use crate::{Recovery, State, StoreError, recovery};

/// What [`verify`] found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verification {
    /// In a word.
    pub verdict: Verdict,
    /// What a reader finds, and an [open](crate::Store::open) would mend.
    pub recovery: Recovery,
    /// The state that the readable records make.
    pub state: State,
    /// Bytes of the journal.
    pub journal_size: u64,
    /// Every damaged block, in order of offset.
    pub damaged: Vec<DamagedBlock>,
    /// What the witness vouches for; `None` where there is none or it is damaged
    /// ([`Recovery::witness_damaged`]).
    pub witness: Option<Witness>,
    /// Findings that no person has accepted yet: of an earlier open, or of this look.
    pub unaccepted: Vec<Damage>,
}

/// How a store is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// As a writer leaves it.
    Sound,
    /// Damaged, and nothing is lost: the next open mends it.
    Mendable,
    /// Acknowledged entries may be gone.
    Damaged,
}

impl Verdict {
    /// The stable name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Mendable => "mendable",
            Self::Damaged => "damaged",
        }
    }
}

/// A block of the journal that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DamagedBlock {
    /// Byte offset of the block in the journal.
    pub offset: u64,
    /// What it is a copy of; `None` where the header is lost, too.
    pub part: Option<Part>,
    /// Byte offset in the journal of the first byte that differs from the good second copy. `None`
    /// where there is no good one.
    pub byte: Option<u64>,
    /// Bytes in which it differs from the good second copy.
    pub bytes: u64,
    /// It belongs to a commit that was never finished, hence never acknowledged: no loss.
    pub torn: bool,
}

/// See [`DamagedBlock`].
pub type Part = Place;

impl fmt::Display for DamagedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block at offset {:#x}", self.offset)?;
        match self.part {
            Some(Place::Header { copy }) => write!(f, " (copy {copy} of the header)")?,
            Some(Place::Block { number, copy }) => write!(f, " (copy {copy} of block {number})")?,
            None => {}
        }
        match self.byte {
            Some(byte) => write!(
                f,
                ": {} bytes are not those of its good second copy, the first at offset {byte:#x}",
                self.bytes
            ),
            None if self.torn => f.write_str(": left by a commit that was never finished"),
            None => f.write_str(": no good second copy"),
        }
    }
}

/// Looks at every block, checksum and record of the store in `dir`, at both copies of each block, and at the
/// witness. Changes nothing, takes no lock, and works while a writer is at work.
///
/// # Errors
/// As [`crate::read`].
pub fn verify(dir: &Path) -> Result<Verification, StoreError> {
    // As for a reader: a commit under way looks like damage, but not for long.
    let mut found = look(dir)?;
    let mut before = found.clone();
    for _ in 1..LOOKS {
        if found.verdict == Verdict::Sound {
            return Ok(found);
        }
        thread::sleep(PAUSE);
        before = found;
        found = look(dir)?;
        if (&found.damaged, &found.recovery) == (&before.damaged, &before.recovery) {
            return Ok(found);
        }
    }
    // A writer never stopped writing. Its last commit is not a finding; what stays is.
    found.damaged.retain(|block| before.damaged.contains(block));
    found.recovery.torn_tail = None;
    found.recovery.damaged_copies = found.damaged.len() as u64;
    found.verdict = judge(&found.recovery, &found.damaged);
    Ok(found)
}

fn judge(recovery: &Recovery, damaged: &[DamagedBlock]) -> Verdict {
    match recovery {
        Recovery { damage: Some(_), .. } => Verdict::Damaged,
        recovery if recovery.is_clean() && damaged.is_empty() => Verdict::Sound,
        _ => Verdict::Mendable,
    }
}

fn look(dir: &Path) -> Result<Verification, StoreError> {
    let backend = Directory::new(dir);
    let (state, recovery) = recovery::inspect(&backend, dir, now())?;
    let load = |file, max| match backend.load(file, max) {
        // `inspect` has judged that already.
        Err(error) if error.kind() == ErrorKind::FileTooLarge => Ok(None),
        other => other.map_err(io_error(dir, "read the store")),
    };
    let witness = load(File::Witness, BLOCK_SIZE as u64)?;
    let witness = witness.as_deref().and_then(Witness::decode);
    let journal = load(File::Journal, JOURNAL_SIZE_MAX)?.unwrap_or_default();
    let damaged = if journal.is_empty() { Vec::new() } else { survey(&journal, witness, dir)? };
    let verdict = judge(&recovery, &damaged);
    let unaccepted = state.damage.iter().cloned().collect();
    let journal_size = journal.len() as u64;
    Ok(Verification { verdict, recovery, state, journal_size, damaged, witness, unaccepted })
}

fn survey(
    journal: &[u8],
    witness: Option<Witness>,
    dir: &Path,
) -> Result<Vec<DamagedBlock>, StoreError> {
    let reading = Reading::of(journal, witness)
        .map_err(|source| StoreError::UnsupportedVersion { dir: dir.into(), source })?;
    let geometry = reading.header.map(|header| header.geometry);
    let unsound: BTreeSet<u64> = unsound_blocks(journal).into_iter().collect();
    let mut offsets = unsound.clone();
    // Sound in themselves, or zero, and yet not what belongs there.
    let repairs: BTreeMap<u64, _> =
        reading.repairs.iter().map(|repair| (repair.offset, repair)).collect();
    offsets.extend(repairs.keys());
    if let (Some(Fault::Gap { first }), Some(geometry)) = (reading.fault, geometry) {
        offsets.extend((0..COPIES).map(|copy| geometry.offset(first, copy)));
    }
    let blocks = offsets.into_iter().map(|offset| {
        let part = geometry.map(|geometry| Place::at(geometry, offset));
        let repair = repairs.get(&offset);
        // A repair knows the good copy; after a loss elsewhere, a sound copy is taken at its word.
        let twin = repair.and_then(|repair| repair.twin).or_else(|| {
            let twin = part?.twin(geometry?);
            let good = repair.is_none() && !unsound.contains(&twin);
            (good && !is_unused(block(journal, twin))).then_some(twin)
        });
        let differing = twin.map(|twin| {
            let pairs = block(journal, offset).iter().zip(block(journal, twin));
            pairs.enumerate().filter(|(_, (one, other))| one != other).map(|(index, _)| index)
        });
        let (first, count) = differing.map_or((None, 0), |mut differing| {
            let first = differing.next();
            (first, differing.count() as u64 + u64::from(first.is_some()))
        });
        DamagedBlock {
            offset,
            part,
            byte: first.map(|first| offset + first as u64),
            bytes: count,
            torn: repair.is_some_and(|repair| repair.twin.is_none()),
        }
    });
    Ok(blocks.collect())
}

fn block(journal: &[u8], offset: u64) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|start| journal.get(start..));
    rest.and_then(|rest| rest.get(..BLOCK_SIZE)).unwrap_or_default()
}

fn is_unused(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ras_core::{Pfn, Timestamp};

    use super::*;
    use crate::{Entry, Store};

    /// A store of three commits in a directory that is removed when the first value is dropped.
    fn store() -> (tempfile::TempDir, std::path::PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("store");
        let (mut store, _) = Store::open(&dir).unwrap();
        for n in 0..3 {
            store.append(Entry::Observed { pfn: Pfn(n), time: Timestamp(n) }).unwrap();
        }
        (temp, dir)
    }

    fn damage(dir: &Path, change: impl Fn(&mut Vec<u8>)) -> Verification {
        let mut bytes = fs::read(dir.join("journal")).unwrap();
        change(&mut bytes);
        fs::write(dir.join("journal"), bytes).unwrap();
        verify(dir).unwrap()
    }

    #[test]
    fn a_flipped_byte_is_found_where_it_is() {
        // Either header, either copy of the first block, the second copy of the last.
        for offset in [20, 4096 + 4095, 8192 + 77, (2 + 128) * 4096, (2 + 130) * 4096 + 4000] {
            let (_temp, dir) = store();
            assert_eq!(verify(&dir).unwrap().verdict, Verdict::Sound);
            let found = damage(&dir, |bytes| bytes[offset] ^= 0x10);
            assert_eq!(found.verdict, Verdict::Mendable, "{offset}");
            let [damaged] = found.damaged.as_slice() else { panic!("{:?}", found.damaged) };
            assert_eq!((damaged.byte, damaged.bytes), (Some(offset as u64), 1));
            assert_eq!(damaged.offset, offset as u64 / 4096 * 4096);

            drop(Store::open(&dir).unwrap());
            let mended = verify(&dir).unwrap();
            assert_eq!((mended.verdict, mended.damaged), (Verdict::Sound, vec![]), "{offset}");
        }
    }

    #[test]
    fn a_zeroed_block_and_a_lost_one_are_named() {
        let (_temp, dir) = store();
        let found = damage(&dir, |bytes| bytes[3 * 4096..4 * 4096].fill(0));
        assert_eq!(found.verdict, Verdict::Mendable);
        assert_eq!(found.damaged[0].part, Some(Place::Block { number: 1, copy: 0 }));

        let found = damage(&dir, |bytes| bytes[131 * 4096..132 * 4096].fill(0));
        assert_eq!(found.verdict, Verdict::Damaged);
        let offsets: Vec<u64> = found.damaged.iter().map(|block| block.offset).collect();
        assert_eq!(offsets, [3 * 4096, 131 * 4096]);
        assert!(found.damaged.iter().all(|block| block.byte.is_none()));
        assert!(!found.unaccepted.is_empty());
    }

    #[test]
    fn a_witness_is_looked_at_and_no_store_is_no_verdict() {
        let (temp, dir) = store();
        fs::write(dir.join("witness"), "nonsense").unwrap();
        let found = verify(&dir).unwrap();
        assert_eq!((found.verdict, found.witness), (Verdict::Mendable, None));
        assert!(matches!(verify(temp.path()), Err(StoreError::NotFound { .. })));
    }
}
