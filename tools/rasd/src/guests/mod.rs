//! Which guests have a page, and asking them to do without it.

pub mod discover;

pub mod pagemap;

use std::path::PathBuf;
use std::time::Instant;

use ras_core::{Gpa, GuestOutcome, GuestResult, PAGE_SIZE, PfnRange};
use ras_qmp::ras::{RetireCause, RetireOutcome};

use crate::config::{Config, Guests as Limits};
use discover::Guest;
use pagemap::Pagemap;

/// The guests of this host.
#[derive(Clone, Debug)]
pub struct Guests {
    limits: Limits,
    proc: PathBuf,
}

/// A run of guest memory that lies on bad frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// First guest physical address, page aligned.
    pub gpa: Gpa,
    /// Bytes, a multiple of the page size.
    pub size: u64,
}

impl Guests {
    /// The guests whose sockets lie where `config` says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { limits: config.guests.clone(), proc: config.paths.proc.clone() }
    }

    /// The names of the guests that run here now, those that don't answer included.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        discover::names(&self.limits.dir, self.limits.connect())
    }

    /// Finds every guest that has one of `pages`, asks each to give that memory up, and waits for
    /// the decisions. Asking again for what was given up before does no harm.
    ///
    /// A guest that can't be asked is in the result as `Unreachable`, without an address if its
    /// memory could not be searched: it may have the page.
    #[must_use]
    pub fn retire(&self, pages: PfnRange, cause: RetireCause) -> Vec<GuestOutcome> {
        let deadline = Instant::now() + self.limits.scan();
        let mut outcomes = Vec::new();
        for found in discover::guests(&self.limits.dir, self.limits.connect()) {
            match found {
                Ok(guest) => outcomes.extend(self.retire_in(guest, pages, cause, deadline)),
                Err(unreachable) => {
                    outcomes.push(unreachable_guest(unreachable.name, Gpa(0), unreachable.detail));
                }
            }
        }
        outcomes
    }

    fn retire_in(
        &self,
        mut guest: Guest,
        pages: PfnRange,
        cause: RetireCause,
        deadline: Instant,
    ) -> Vec<GuestOutcome> {
        let name = guest.map.name.clone();
        let places = match self.locate(&guest, pages, deadline) {
            Ok(places) => places,
            Err(error) => return vec![unreachable_guest(name, Gpa(0), chain(&error))],
        };
        let mut outcomes = Vec::new();
        for Place { gpa, size } in places {
            tracing::info!(guest = name, %gpa, size, "asking the guest to give up memory");
            let result = match guest.client.retire_range(gpa, size, cause, self.limits.retire()) {
                Ok(answer) => match answer.outcome {
                    RetireOutcome::Replaced => GuestResult::Replaced,
                    RetireOutcome::Unplugged => GuestResult::Unplugged,
                    RetireOutcome::Refused => GuestResult::Refused { detail: answer.detail },
                },
                Err(error) => GuestResult::Unreachable { detail: chain(&error) },
            };
            let lost = matches!(result, GuestResult::Unreachable { .. });
            outcomes.push(GuestOutcome { guest: name.clone(), gpa, result });
            // After a failure the connection's state is unknown.
            if lost {
                match discover::connect(&guest.socket, self.limits.connect()) {
                    Ok(Some(again)) => guest = again,
                    Ok(None) | Err(_) => break,
                }
            }
        }
        outcomes
    }

    /// Where `pages` lie in a guest, ascending, neighbours joined.
    ///
    /// # Errors
    /// The VMM's page tables can't be read, or not in time.
    pub fn locate(
        &self,
        guest: &Guest,
        pages: PfnRange,
        deadline: Instant,
    ) -> Result<Vec<Place>, pagemap::PagemapError> {
        let mut found: Vec<Gpa> = guest
            .map
            .poisoned
            .iter()
            .filter(|page| page.pfn.is_some_and(|pfn| pages.contains(pfn)))
            .map(|page| page.gpa.page())
            .collect();
        let pagemap = Pagemap::open(&self.proc, guest.pid)?;
        for region in &guest.map.regions {
            pagemap.find(region.hva, region.size, pages, deadline, |offset| {
                found.push(Gpa(region.gpa.0.saturating_add(offset)));
            })?;
        }
        Ok(join(found))
    }
}

/// Sorted, without repetition, neighbouring pages joined.
fn join(mut found: Vec<Gpa>) -> Vec<Place> {
    found.sort_unstable();
    found.dedup();
    let mut places: Vec<Place> = Vec::new();
    for gpa in found {
        match places.last_mut() {
            Some(last) if last.gpa.0.checked_add(last.size) == Some(gpa.0) => {
                last.size += PAGE_SIZE;
            }
            _ => places.push(Place { gpa, size: PAGE_SIZE }),
        }
    }
    places
}

fn unreachable_guest(guest: String, gpa: Gpa, detail: String) -> GuestOutcome {
    tracing::error!(guest, detail, "guest could not be asked");
    GuestOutcome { guest, gpa, result: GuestResult::Unreachable { detail } }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_pages_become_one_place() {
        let gpas = [0x5000, 0x3000, 0x4000, 0x9000, 0x4000].map(Gpa).to_vec();
        let expect =
            [Place { gpa: Gpa(0x3000), size: 0x3000 }, Place { gpa: Gpa(0x9000), size: 0x1000 }];
        assert_eq!(join(gpas), expect);
        assert_eq!(join(Vec::new()), []);
    }
}
