//! Where the answers come from: the running daemon, or its store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use persist_store::{AuditKind, Recovery, State};
use ras_core::{Pfn, RetiredPage};
use rasd_api::{ApiError, Client, ErrorKind, PageDetail, Unretirement};

use crate::Failure;
use rasctl::chain;

/// Longest wait for an answer. A change waits for at most one write of the daemon.
const TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) enum Source {
    Daemon(Client),
    Store(Box<(State, Recovery)>),
}

impl Source {
    pub(crate) fn open(socket: &Path, store: Option<&Path>) -> Result<Self, Failure> {
        match store {
            Some(dir) => persist_store::read(dir)
                .map(|read| Self::Store(Box::new(read)))
                .map_err(|error| Failure::NotReached(chain(&error))),
            None => connect(socket).map(Self::Daemon),
        }
    }

    /// The daemon, for what only it can do.
    pub(crate) fn daemon(&mut self) -> Result<&mut Client, Failure> {
        match self {
            Self::Daemon(client) => Ok(client),
            Self::Store(_) => {
                Err(Failure::NotDone("only rasd can do that: leave out --store".into()))
            }
        }
    }

    pub(crate) fn pages(&mut self) -> Result<Vec<RetiredPage>, Failure> {
        match self {
            Self::Daemon(client) => Ok(client.pages()?),
            Self::Store(read) => Ok(read.0.active_pages().cloned().collect()),
        }
    }

    /// All entries: those that keep a page out of use, and those that do not for now.
    pub(crate) fn entries(&mut self) -> Result<Vec<RetiredPage>, Failure> {
        let mut entries = self.pages()?;
        let suspended = match self {
            Self::Store(read) => suspended(&read.0),
            // rasd's socket has no word for them; its list is there to be read.
            Self::Daemon(client) => {
                let dir = PathBuf::from(client.status()?.store.dir);
                match persist_store::read(&dir) {
                    Ok((state, _)) => suspended(&state),
                    Err(error) => {
                        let error = chain(&error);
                        eprintln!("rasctl: note: suspended entries are not shown: {error}");
                        Vec::new()
                    }
                }
            }
        };
        entries.extend(suspended);
        entries.sort_by_key(|page| (page.pfn, page.since));
        Ok(entries)
    }

    pub(crate) fn page(&mut self, pfn: Pfn) -> Result<PageDetail, Failure> {
        match self {
            Self::Daemon(client) => Ok(client.page(pfn)?),
            Self::Store(read) => {
                stored_page(&read.0, pfn).ok_or_else(|| Failure::NotDone(unknown(pfn)))
            }
        }
    }
}

/// The daemon, or what to do where it does not run.
pub(crate) fn connect(socket: &Path) -> Result<Client, Failure> {
    Client::connect(socket, TIMEOUT).map_err(|error| {
        let hint = "is rasd running? Start it (systemctl start rasd), or name the directory of its \
                    list: --store DIR, by default /var/lib/rasd";
        Failure::NotReached(format!("{}; {hint}", chain(&error)))
    })
}

/// Where the list is: as asked for, or by the daemon's word.
pub(crate) fn directory(socket: &Path, store: Option<&Path>) -> Result<PathBuf, Failure> {
    match store {
        Some(dir) => Ok(dir.to_owned()),
        None => Ok(connect(socket)?.status()?.store.dir.into()),
    }
}

/// What is said of a page that is nowhere.
pub(crate) fn unknown(pfn: Pfn) -> String {
    format!("page {} (pfn:{pfn}) is not on the list", pfn.addr())
}

fn suspended(state: &State) -> Vec<RetiredPage> {
    state.suspended.values().map(|suspended| suspended.page.clone()).collect()
}

fn stored_page(state: &State, pfn: Pfn) -> Option<PageDetail> {
    let page = state.pages.get(&pfn).map(|page| RetiredPage::clone(page));
    let unretired: Vec<Unretirement> = state
        .audit
        .iter()
        .filter(|event| event.what == AuditKind::Unretired(pfn))
        .map(|event| Unretirement {
            time: event.time,
            who: event.who.clone(),
            note: event.note.clone(),
        })
        .collect();
    let observed: Vec<_> = state.observed.of_page(pfn).collect();
    let known = page.is_some() || !unretired.is_empty() || !observed.is_empty();
    known.then_some(PageDetail { page, unretired, observed })
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match &error {
            ApiError::Failed(failure) if failure.kind != ErrorKind::BadRequest => {
                Self::NotDone(chain(&error))
            }
            _ => Self::NotReached(chain(&error)),
        }
    }
}
