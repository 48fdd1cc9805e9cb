//! The list where firmware finds it at the next boot: the driver of `persist-store/retire-efi` reads it,
//! takes the pages out of the memory map, and leaves word of what it did.
//!
//! ```text
//!  pages --ranges_of--> ranges --BootList::write--> an EFI variable; a file on the EFI system
//!                                                   partition where the list outgrows one
//! ```
//! Either medium holds two copies, each whole in itself. The older one is replaced first, so that a
//! sound list is there at any moment; the driver takes the newest it finds. Nothing is written
//! that is there already: firmware's flash wears out, and gives back deleted space at a reboot only.

mod files;
mod variables;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use ras_core::RetiredPage;
use ras_store_format::exclusion::{
    BadRange, Badness, Choice, ENTRIES_MAX, Limits, List, ListDamage, Outcome, OutcomeDamage,
    choose, place, plan,
};

use crate::efivarfs;
use files::Files;
use variables::Variables;

/// Where a host's lists for firmware are.
pub struct BootList {
    variables: Option<Box<dyn Medium>>,
    files: Option<Box<dyn Medium>>,
}

/// A place for the two copies, and for the driver's word. Behind a trait so that tests can fail
/// every step.
trait Medium: Send {
    /// What it is, for people.
    fn describe(&self) -> String;

    /// The content; `None` where there is none.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Makes `bytes` the content, durably. An error may leave any content in the place of this one copy.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes it gone.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// What firmware is asked to exclude.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The pages: see [`ranges_of`].
    pub ranges: Vec<BadRange>,
    /// The map of the machine they belong to ([`ras_core::MapEpoch`]); 0 where unknown.
    pub map_epoch: u64,
    /// How far firmware may go; zeros are its defaults.
    pub limits: Limits,
}

/// What came of [`BootList::write`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// The list was there already.
    Unchanged,
    /// It is there now.
    Stored {
        /// Where, for people.
        place: String,
        /// Entries of the list.
        ranges: usize,
        /// Bytes of a copy.
        bytes: usize,
        /// Pages that found no room and are left to the running kernel.
        left_over_pages: u64,
        /// What did not go well: why a better place was not used, or that there is one copy only.
        note: Option<String>,
    },
}

/// What firmware will find.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The list it will use; `None` where there is no sound one.
    pub list: Option<List>,
    /// Copies that are damaged, by name.
    pub damaged: Vec<(&'static str, ListDamage)>,
}

/// Why firmware's list is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Neither variables nor a partition.
    #[error(
        "there is no place for firmware's list: no EFI variables (a machine without UEFI, or efivarfs \
         not mounted), and no EFI system partition"
    )]
    NoPlace,
    /// A newer program wrote the list that is there. It was left untouched.
    #[error("a newer version (format {major}) wrote the list in {place}; it was left as it is")]
    Newer {
        /// Where.
        place: String,
        /// The format's major version.
        major: u16,
    },
    /// The system refused a step.
    #[error("cannot {step} the list in {place}{}", advice(source))]
    Io {
        /// What was being done.
        step: &'static str,
        /// Where.
        place: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Firmware took it, and does not give it back as it was.
    #[error("the list was written to {place}, and is not there")]
    Lost {
        /// Where.
        place: String,
    },
    /// A range has frames no entry can hold.
    #[error("the list can't be encoded")]
    Encode(#[from] ras_store_format::exclusion::ListTooLong),
    /// What the driver left can't be read.
    #[error("the driver's account of this boot can't be read")]
    Outcome(#[from] OutcomeDamage),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if efivarfs::is_full(error) => {
            ": no room; firmware gives space of deleted variables back at the next reboot"
        }
        io::ErrorKind::PermissionDenied => {
            ": it takes root, and CAP_LINUX_IMMUTABLE for variables that the kernel keeps from changes"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": it is mounted read-only",
        _ => "",
    }
}

/// One of the places a copy can be in, in the order firmware looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Variable,
    File,
}

/// The content of each of [`PLACES`].
type Copies = [Option<Vec<u8>>; 4];

const PLACES: [(Kind, &str); 4] = [
    (Kind::Variable, place::LIST_VARIABLES[0]),
    (Kind::Variable, place::LIST_VARIABLES[1]),
    (Kind::File, place::LIST_FILES[0]),
    (Kind::File, place::LIST_FILES[1]),
];

impl BootList {
    /// The places of a system: its efivarfs, and its EFI system partition ([`find_esp`]). What is not a
    /// directory is not there.
    #[must_use]
    pub fn new(efivars: &Path, esp: Option<&Path>) -> Self {
        Self {
            variables: efivars.is_dir().then(|| Box::new(Variables::new(efivars)) as _),
            files: esp.filter(|esp| esp.is_dir()).map(|esp| Box::new(Files::new(esp)) as _),
        }
    }

    /// Whether somebody made a list here before: see [`Self::write`] for making the first.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        PLACES.iter().any(|&(kind, name)| {
            self.medium(kind).is_some_and(|medium| matches!(medium.read(name), Ok(Some(_))))
        })
    }

    /// What is there.
    ///
    /// # Errors
    /// A copy can't be read.
    pub fn read(&self) -> Result<Found, BootError> {
        let (_, Choice { chosen, damaged }) = self.find()?;
        let damaged = damaged.into_iter().filter_map(|(at, why)| Some((PLACES.get(at)?.1, why)));
        Ok(Found { list: chosen.map(|(_, list)| list), damaged: damaged.collect() })
    }

    /// Makes firmware exclude what is wanted from the next boot on. Writes only where something changed
    /// or a copy is damaged.
    ///
    /// # Errors
    /// See [`BootError`]. Whatever happens, the list that was there before is still there in one copy.
    pub fn write(&mut self, wanted: &Wanted) -> Result<Written, BootError> {
        let (copies, choice) = self.find()?;
        for (at, damage) in &choice.damaged {
            if let (ListDamage::Version(major), Some((kind, _))) = (*damage, PLACES.get(*at)) {
                return Err(BootError::Newer { place: self.describe(*kind), major });
            }
        }
        let (mut list, bytes) = encode(wanted, ENTRIES_MAX)?;
        let fits = bytes.len() <= place::VARIABLE_SIZE_MAX;
        let kind = match (&self.variables, &self.files) {
            (Some(_), _) if fits => Kind::Variable,
            (_, Some(_)) => Kind::File,
            (Some(_), None) => Kind::Variable,
            (None, None) => return Err(BootError::NoPlace),
        };
        if kind == Kind::Variable && !fits {
            // The worst that fit into a variable, planned as firmware would.
            (list, _) = encode(wanted, 0)?;
        }
        let newest = choice.chosen.as_ref().map_or(0, |(_, list)| list.generation);
        if let Some((at, known)) = &choice.chosen {
            list.generation = known.generation;
            if *known == list && PLACES.get(*at).is_some_and(|(of, _)| *of == kind) {
                return self.mend(kind, &copies, &choice, &list);
            }
        }
        list.generation = newest.saturating_add(1);
        match self.store(kind, &copies, &choice, &list) {
            Err(error) if kind == Kind::Variable && self.files.is_some() => {
                let note = Some(chain(&error));
                let stored = self.store(Kind::File, &copies, &choice, &list)?;
                Ok(match stored {
                    Written::Stored { place, ranges, bytes, left_over_pages, .. } => {
                        Written::Stored { place, ranges, bytes, left_over_pages, note }
                    }
                    unchanged => unchanged,
                })
            }
            stored => stored,
        }
    }

    /// Removes every copy: firmware excludes nothing any more.
    ///
    /// # Errors
    /// A copy can't be removed.
    pub fn remove(&mut self) -> Result<(), BootError> {
        for (kind, name) in PLACES {
            let place = self.describe(kind);
            let Some(medium) = self.medium_mut(kind) else { continue };
            medium.remove(name).map_err(io_error("remove", &place))?;
        }
        Ok(())
    }

    /// What the driver did before this boot; `None` where it did not run.
    ///
    /// # Errors
    /// It can't be read, or is damaged.
    pub fn outcome(&self) -> Result<Option<Outcome>, BootError> {
        let Some(variables) = &self.variables else { return Ok(None) };
        let place = variables.describe();
        let record = variables.read(place::OUTCOME_VARIABLE).map_err(io_error("read", &place))?;
        Ok(record.map(|record| Outcome::decode(&record)).transpose()?)
    }

    fn find(&self) -> Result<(Copies, Choice), BootError> {
        let mut copies = [const { None }; 4];
        for (copy, (kind, name)) in copies.iter_mut().zip(PLACES) {
            if let Some(medium) = self.medium(kind) {
                let place = medium.describe();
                *copy = medium.read(name).map_err(io_error("read", &place))?;
            }
        }
        let choice = choose(copies.iter().map(Option::as_deref));
        Ok((copies, choice))
    }

    /// Writes a new list. The copy that firmware would not use is replaced first.
    fn store(
        &mut self,
        kind: Kind,
        copies: &Copies,
        choice: &Choice,
        list: &List,
    ) -> Result<Written, BootError> {
        let bytes = list.encode()?;
        let chosen = choice.chosen.as_ref().map(|(at, _)| *at);
        let is_sound = |at: usize| {
            copies.get(at).is_some_and(Option::is_some)
                && !choice.damaged.iter().any(|(damaged, _)| *damaged == at)
        };
        let generation = |at: usize| {
            let copy = copies.get(at).and_then(Option::as_deref);
            copy.and_then(|copy| List::decode(copy).ok()).map_or(0, |list| list.generation)
        };
        let mut order: Vec<usize> = (0..PLACES.len())
            .filter(|&at| PLACES.get(at).is_some_and(|(of, _)| *of == kind))
            .collect();
        order.sort_by_key(|&at| (chosen == Some(at), is_sound(at), generation(at)));
        let mut note = None;
        for (nth, at) in order.into_iter().enumerate() {
            // Variables wear out: a sound second copy stays as it is, one change behind.
            if nth > 0 && kind == Kind::Variable && is_sound(at) {
                break;
            }
            match self.put(at, &bytes) {
                // The first one is in force already.
                Err(error) if nth > 0 => note = Some(chain(&error)),
                put => put?,
            }
        }
        Ok(Written::Stored {
            place: self.describe(kind),
            ranges: list.ranges.len(),
            bytes: bytes.len(),
            left_over_pages: list.left_over.pages,
            note,
        })
    }

    /// The list is there. A damaged or missing second copy of it is not.
    fn mend(
        &mut self,
        kind: Kind,
        copies: &Copies,
        choice: &Choice,
        list: &List,
    ) -> Result<Written, BootError> {
        let bytes = list.encode()?;
        for (at, (of, _)) in PLACES.iter().enumerate() {
            let missing = copies.get(at).is_some_and(Option::is_none);
            let damaged = choice.damaged.iter().any(|(damaged, _)| *damaged == at);
            if *of == kind && (missing || damaged) {
                self.put(at, &bytes)?;
            }
        }
        Ok(Written::Unchanged)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), BootError> {
        let Some(&(kind, name)) = PLACES.get(at) else { return Ok(()) };
        let place = self.describe(kind);
        let medium = self.medium_mut(kind).ok_or(BootError::NoPlace)?;
        medium.replace(name, bytes).map_err(io_error("write", &place))?;
        // There is firmware that says yes and does nothing.
        match medium.read(name) {
            Ok(Some(there)) if there == bytes => Ok(()),
            Ok(_) => Err(BootError::Lost { place }),
            Err(error) => Err(io_error("read back", &place)(error)),
        }
    }

    fn medium(&self, kind: Kind) -> Option<&dyn Medium> {
        match kind {
            Kind::Variable => self.variables.as_deref(),
            Kind::File => self.files.as_deref(),
        }
    }

    fn medium_mut(&mut self, kind: Kind) -> Option<&mut Box<dyn Medium>> {
        match kind {
            Kind::Variable => self.variables.as_mut(),
            Kind::File => self.files.as_mut(),
        }
    }

    fn describe(&self, kind: Kind) -> String {
        self.medium(kind).map_or_else(String::new, Medium::describe)
    }
}

fn io_error(step: &'static str, place: &str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Io { step, place: place.into(), source }
}

/// An error with what caused it, in one line.
fn chain(error: &BootError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The list as firmware gets it, and one copy of it. Beyond `entries_max` entries it is planned down to
/// what firmware could take at all; `0` plans always.
fn encode(wanted: &Wanted, entries_max: usize) -> Result<(List, Vec<u8>), BootError> {
    let mut list = List {
        map_epoch: wanted.map_epoch,
        limits: wanted.limits,
        ranges: wanted.ranges.clone(),
        ..List::default()
    };
    let encoded = if wanted.ranges.len() > entries_max { None } else { list.encode().ok() };
    let bytes = match encoded {
        Some(bytes) => bytes,
        None => {
            let plan = plan(&wanted.ranges, wanted.limits);
            list.left_over = plan.left_over();
            list.ranges = plan.ranges;
            list.encode()?
        }
    };
    // As a reader has it: long ranges in pieces.
    let list = List::decode(&bytes).unwrap_or(list);
    Ok((list, bytes))
}

/// Pages as firmware's list has them: neighbours of one badness are one range, ascending. Suspended
/// entries keep no page out of use, and are left out.
#[must_use]
pub fn ranges_of<'a>(pages: impl IntoIterator<Item = &'a RetiredPage>) -> Vec<BadRange> {
    let bad = pages.into_iter().filter(|page| !page.state.is_suspended());
    let mut singles: Vec<BadRange> =
        bad.map(|page| BadRange::single(page.pfn, Badness::of(page))).collect();
    singles.sort_unstable_by_key(|range| range.pages.start);
    singles.dedup_by(|next, run| {
        let joins = next.badness == run.badness && next.pages.start.0 == run.end();
        run.pages.count += u64::from(joins);
        joins
    });
    singles
}

/// Where the EFI system partition is mounted below `root`, by custom: the Boot Loader Specification,
/// Debian, Fedora.
#[must_use]
pub fn find_esp(root: &Path) -> Option<PathBuf> {
    ["efi", "boot/efi", "boot"]
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.join("EFI").is_dir())
}
