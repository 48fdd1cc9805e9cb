//! A list on a medium that holds whole images: two copies, each rewritten as a whole.
//!
//! ```text
//! commit --kept, unchanged?--> nothing to do
//!        --Image::encode--> write the worse copy --> write the other one --> acknowledged
//! load   --both copies--> the newest sound one --> the other one is made like it --> State, Recovery
//! ```
//! Whatever power or firmware do during a write, the other copy is whole: it holds what was
//! acknowledged last, or already what is being written. A copy that is damaged later has its like
//! beside it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use ras_store_format::image::{self, Image, ImageFault};
use ras_store_format::{Damage, Entry, Fault, State, UnsupportedVersion};
use tracing::warn;

use crate::error::io_error;
use crate::{Capacity, PageList, Recovery, StoreError};

/// Number of copies.
pub(crate) const COPIES: usize = 2;

/// Something that holds two images, each by itself.
pub trait Medium {
    /// Where it is, for people.
    fn place(&self) -> &Path;

    /// The most bytes an image may have.
    fn size_max(&self) -> usize;

    /// The bytes of copy 0 or 1, sound or not; `None` where there is none.
    ///
    /// # Errors
    /// It can't be read.
    fn read(&mut self, copy: usize) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a copy. It is durable when this returns `Ok`; after an error the copy may hold
    /// anything, and the other one is as it was.
    ///
    /// # Errors
    /// `StorageFull` where there is no room.
    fn write(&mut self, copy: usize, image: &[u8]) -> io::Result<()>;
}

/// The boot this process runs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boot(pub [u8; 16]);

impl Boot {
    /// This machine's, from `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn current() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16)
            .map(|number| Self(number.to_be_bytes()))
            .map_err(|_| ErrorKind::InvalidData.into())
    }
}

/// A [`PageList`] on a [`Medium`]. There is one writer: whoever holds the lock of the store that this
/// list mirrors.
#[derive(Debug)]
pub struct ImageList<M> {
    medium: M,
    boot: Boot,
    budget: u64,
    loaded: Option<Loaded>,
}

/// What is known of the medium since the last load.
#[derive(Debug)]
struct Loaded {
    state: State,
    /// The highest on the medium, or tried.
    generation: u64,
    boot_bytes: u64,
    /// Whether a copy holds `state`, or what a commit that failed half way would have made of it.
    sound: [bool; COPIES],
}

impl Loaded {
    /// Whether every load gives this state: the copies are sound, or there are none because there was
    /// nothing to write yet.
    fn is_settled(&self) -> bool {
        self.sound == [true; COPIES] || self.generation == 0
    }
}

/// One copy as it was found.
enum Found {
    Absent,
    /// With so many bytes.
    Damaged(u64),
    Unreadable(io::Error),
    Sound(Box<Image>),
}

impl<M: Medium> ImageList<M> {
    /// A list on `medium` that takes at most `budget` bytes in one boot, all copies counted. Touches
    /// nothing.
    pub fn new(medium: M, boot: Boot, budget: u64) -> Self {
        Self { medium, boot, budget, loaded: None }
    }

    /// Bytes the medium took in this boot, and how many it may take.
    #[must_use]
    pub fn wear(&self) -> (u64, u64) {
        (self.loaded.as_ref().map_or(0, |loaded| loaded.boot_bytes), self.budget)
    }

    /// The medium.
    pub fn medium_mut(&mut self) -> &mut M {
        &mut self.medium
    }

    /// Writes what is kept of `state`, if that is not what is there.
    pub(crate) fn put(&mut self, state: &State) -> Result<(), StoreError> {
        let place = self.medium.place().to_path_buf();
        let Some(loaded) = &mut self.loaded else {
            return Err(StoreError::Poisoned { dir: place });
        };
        let state = image::kept(state);
        // After a write that failed, the medium may hold what was refused.
        if state == loaded.state && loaded.is_settled() {
            return Ok(());
        }
        let mut image = Image {
            generation: loaded.generation.saturating_add(1),
            boot: self.boot.0,
            boot_bytes: 0,
            state,
        };
        let encode = |image: &Image| {
            let encoded = image.encode();
            encoded.map_err(|source| StoreError::Encode { dir: place.clone(), source })
        };
        let needed = (encode(&image)?.len() * COPIES) as u64;
        image.boot_bytes = loaded.boot_bytes.saturating_add(needed);
        let bytes = encode(&image)?;
        if bytes.len() > self.medium.size_max() {
            let size_max = self.medium.size_max() as u64;
            return Err(StoreError::Full { dir: place, size_max });
        }
        if image.boot_bytes > self.budget {
            let written = loaded.boot_bytes;
            return Err(StoreError::Worn { dir: place, written, needed, budget: self.budget });
        }
        // Numbers are not used twice: a copy that was refused may be there all the same.
        loaded.generation = image.generation;
        let first = usize::from(loaded.sound[0] && !loaded.sound[1]);
        for copy in [first, 1 - first] {
            loaded.sound[copy] = false;
            loaded.boot_bytes = loaded.boot_bytes.saturating_add(bytes.len() as u64);
            self.medium.write(copy, &bytes).map_err(io_error(&place, "write the list"))?;
            loaded.sound[copy] = true;
        }
        loaded.state = image.state;
        Ok(())
    }

    fn look(&mut self, copy: usize) -> Result<Found, StoreError> {
        let bytes = match self.medium.read(copy) {
            Ok(None) => return Ok(Found::Absent),
            Ok(Some(bytes)) => bytes,
            // Larger than any image: whatever it is, it is none.
            Err(error) if error.kind() == ErrorKind::FileTooLarge => return Ok(Found::Damaged(0)),
            Err(error) => return Ok(Found::Unreadable(error)),
        };
        match Image::decode(&bytes) {
            Ok(image) => Ok(Found::Sound(Box::new(image))),
            Err(ImageFault::Damaged) => Ok(Found::Damaged(bytes.len() as u64)),
            Err(ImageFault::Newer { version }) => Err(StoreError::UnsupportedVersion {
                dir: self.medium.place().into(),
                source: UnsupportedVersion { found: version },
            }),
        }
    }

    /// Makes the copies that are not sound like the one that is. A list that can be read is worth
    /// more than a second copy: failing is only told.
    fn mend(&mut self, loaded: &mut Loaded) {
        for copy in 0..COPIES {
            if loaded.sound[copy] {
                continue;
            }
            let cost = |bytes: &[u8]| loaded.boot_bytes.saturating_add(bytes.len() as u64);
            let image = |boot_bytes| Image {
                generation: loaded.generation,
                boot: self.boot.0,
                boot_bytes,
                state: loaded.state.clone(),
            };
            // The number of bytes has a fixed size, so the first encoding knows the length.
            let written = image(0).encode().map(|bytes| cost(&bytes));
            let bytes = written.and_then(|written| Ok((image(written).encode()?, written)));
            let outcome = match bytes {
                Ok((bytes, written)) => self.medium.write(copy, &bytes).map(|()| written),
                Err(error) => Err(io::Error::other(error)),
            };
            match outcome {
                Ok(written) => (loaded.sound[copy], loaded.boot_bytes) = (true, written),
                Err(error) => {
                    let place = self.medium.place().display();
                    warn!(%place, copy, %error, "cannot mend the second copy of the list");
                }
            }
        }
    }
}

impl<M: Medium> PageList for ImageList<M> {
    fn load(&mut self) -> Result<(State, Recovery), StoreError> {
        self.loaded = None;
        let found = [self.look(0)?, self.look(1)?];
        let generation = |found: &Found| match found {
            Found::Sound(image) => Some(image.generation),
            _ => None,
        };
        let newest = found.iter().filter_map(generation).max();
        let is_newest = |found: &Found| newest.is_some() && generation(found) == newest;
        let mut recovery = Recovery::default();
        let mut loaded = Loaded {
            state: State::default(),
            generation: newest.unwrap_or(0),
            boot_bytes: 0,
            sound: [is_newest(&found[0]), is_newest(&found[1])],
        };
        let lost = found.iter().filter(|copy| match copy {
            Found::Damaged(_) | Found::Unreadable(_) => true,
            // The first commit of all may have got no further than its first copy.
            Found::Absent => newest.is_some_and(|generation| generation > 1),
            Found::Sound(_) => false,
        });
        let lost = lost.count();
        let absent = found.iter().all(|copy| matches!(copy, Found::Absent));
        // A first commit writes copy 0 first, and is acknowledged with copy 1 only.
        let unborn = match &found {
            [Found::Damaged(bytes), Found::Absent] => Some(*bytes),
            _ => None,
        };
        let mut images = Vec::new();
        for copy in found {
            match copy {
                Found::Sound(image) if Some(image.generation) == newest => images.push(*image),
                // With nothing else to go by, what can't be read may be all there is.
                Found::Unreadable(error) if newest.is_none() => {
                    return Err(io_error(self.medium.place(), "read the list")(error));
                }
                _ => {}
            }
        }
        // A number is used for one state only; two of them are two writers' work.
        if let [one, other] = images.as_slice()
            && one.state != other.state
        {
            loaded.sound[0] = false;
            recovery.damaged_copies += 1;
        }
        if let Some(image) = images.pop() {
            recovery.records = image.state.pages.len() as u64;
            recovery.damaged_copies += lost as u64;
            if image.boot == self.boot.0 {
                loaded.boot_bytes = image.boot_bytes;
            }
            loaded.state = image.state;
            self.mend(&mut loaded);
        } else if absent {
            recovery.created = true;
        } else if unborn.is_some() {
            recovery.torn_tail = unborn;
            loaded.generation = 1;
            self.mend(&mut loaded);
        } else {
            recovery.damage = Some(Fault::ImagesLost);
            // Nothing is written over the damaged copies before there is something to say: until then
            // every load comes to the same conclusion.
            loaded.state.apply(Entry::Damaged(Damage {
                time: crate::store::now(),
                detail: format!("{} in {}", Fault::ImagesLost, self.medium.place().display()),
                quarantined: String::new(),
            }));
            loaded.state = image::kept(&loaded.state);
        }
        let state = loaded.state.clone();
        self.loaded = Some(loaded);
        Ok((state, recovery))
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(loaded) = &self.loaded else {
            return Err(StoreError::Poisoned { dir: self.medium.place().into() });
        };
        let mut state = loaded.state.clone();
        entries.iter().cloned().for_each(|entry| state.apply(entry));
        self.put(&state)
    }

    fn capacity(&self) -> Capacity {
        let bytes = self.medium.size_max();
        // What is not a page's: the header, counts, and findings of damage.
        let fixed = image::HEADER_SIZE + 6 * 10 + image::DAMAGE_KEPT * (8 + 2 * 257);
        let pages = bytes.saturating_sub(fixed) / image::PAGE_SIZE_MAX;
        Capacity { bytes: (bytes * COPIES) as u64, pages: pages as u64 }
    }

    fn kept(&self, state: &State) -> State {
        image::kept(state)
    }
}
