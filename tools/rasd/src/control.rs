//! The control socket: answers `rasctl` in the protocol of `rasd_api`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, User};
use persist_store::StoreError;
use persist_store::exclusion::PFN_BITS;
use ras_core::{Evacuation, Health, NodeState, Pfn, PfnRange, RetireState, RetiredPage};
use rasd_api::message::{NOTE_MAX, ORDER_MAX, PAGES_MAX, REQUEST_MAX};
use rasd_api::{ErrorKind, Failure, Ordered, PageList, Request, Response, Unretired};
use serde::Serialize;
use serde_json::Value;

use crate::guests::chain;
use crate::ledger::Ledger;
use crate::machine::place_ordered;
use crate::shared::Handle;
use crate::source::wall_clock;

/// Clients at the same time; each costs a thread.
const CLIENTS_MAX: usize = 16;

/// A client that says nothing, or does not read, for this long is cut off.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Removes the socket when it is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Listens at `path`, for the owner only, and answers on threads of its own.
    ///
    /// # Errors
    /// The path can't be bound, or somebody else listens there.
    pub fn bind(path: &Path, shared: &Handle) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(IoErrorKind::AddrInUse, "another process listens here"));
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != IoErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let shared = shared.clone();
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &shared))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, shared: &Handle) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: without a pause this would spin.
                tracing::error!(%error, "control socket");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.load(Ordering::Acquire) >= CLIENTS_MAX {
            tracing::warn!("too many control clients; one was turned away");
            continue;
        }
        clients.fetch_add(1, Ordering::AcqRel);
        let (shared, clients) = (shared.clone(), clients.clone());
        let served = std::thread::Builder::new().name("client".into()).spawn({
            let clients = clients.clone();
            move || {
                if let Err(error) = serve(&stream, &shared) {
                    tracing::debug!(%error, "control client");
                }
                clients.fetch_sub(1, Ordering::AcqRel);
            }
        });
        if let Err(error) = served {
            tracing::error!(%error, "no thread for a control client");
            clients.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve(stream: &UnixStream, shared: &Handle) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let who = who(stream)?;
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = (&mut lines).take(REQUEST_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let whole = line.last() == Some(&b'\n');
        let answer = if !whole && line.len() > REQUEST_MAX {
            Err(failure(ErrorKind::BadRequest, "the line is longer than 64 KiB"))
        } else {
            match serde_json::from_slice(&line) {
                Ok(request) => answer(request, &who, shared),
                Err(error) => {
                    Err(failure(ErrorKind::BadRequest, &format!("not a request: {error}")))
                }
            }
        };
        let response = match answer {
            Ok(value) => Response::Return(value),
            Err(failure) => Response::Error(failure),
        };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        (&*stream).write_all(&text)?;
        if !whole {
            return Ok(());
        }
    }
}

fn answer(request: Request, who: &str, shared: &Handle) -> Result<Value, Failure> {
    match request {
        Request::Status {} => value(&shared.status()),
        Request::Health {} => value(&shared.health()),
        Request::Pages { after } => {
            let mut pages = shared.ledger().pages(after, PAGES_MAX + 1);
            let more = pages.len() > PAGES_MAX;
            pages.truncate(PAGES_MAX);
            value(&PageList { pages, more })
        }
        Request::Page { pfn } => {
            let detail = shared.ledger().page_detail(pfn);
            value(&detail.ok_or_else(|| unknown(pfn))?)
        }
        Request::Retire { pages, note } => retire(&pages, &note, who, shared),
        Request::Import { pages, note } => import(pages, &note, who, shared),
        Request::Unretire { pfn, note } => unretire(pfn, &note, who, shared),
        Request::AcceptDamage { note } => accept_damage(&note, who, shared),
        Request::ClearHealth { note } => clear_health(&note, who, shared),
    }
}

fn retire(ranges: &[PfnRange], note: &str, who: &str, shared: &Handle) -> Result<Value, Failure> {
    let note = check_note(note)?;
    let count = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.count));
    check_order(count, ranges.iter().map(|range| range.start.0.saturating_add(range.count)))?;
    let now = wall_clock();
    let ledger = shared.ledger();
    let mut pages: BTreeMap<Pfn, RetiredPage> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for pfn in ranges.iter().flat_map(|range| range.iter()) {
        let Some(page) = ras_core::order::retire(ledger.page(pfn), pfn, now, who, note) else {
            known.insert(pfn);
            continue;
        };
        pages.insert(pfn, place_ordered(page, &shared.map));
    }
    order(ledger, pages, known, who, note, shared)
}

fn import(
    imported: Vec<RetiredPage>,
    note: &str,
    who: &str,
    shared: &Handle,
) -> Result<Value, Failure> {
    let note = check_note(note)?;
    check_order(imported.len() as u64, imported.iter().map(|page| page.pfn.0.saturating_add(1)))?;
    let ledger = shared.ledger();
    let mut pages: BTreeMap<Pfn, RetiredPage> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for page in imported {
        if ledger.page(page.pfn).is_some() {
            known.insert(page.pfn);
            continue;
        }
        // `updated` stays: it tells a restart that nothing was lost on this boot.
        let page = ras_core::order::import(page, who, note);
        pages.insert(page.pfn, place_ordered(page, &shared.map));
    }
    order(ledger, pages, known, who, note, shared)
}

/// Makes the order durable and wakes the walk.
fn order(
    mut ledger: MutexGuard<'_, Ledger>,
    pages: BTreeMap<Pfn, RetiredPage>,
    known: BTreeSet<Pfn>,
    who: &str,
    note: &str,
    shared: &Handle,
) -> Result<Value, Failure> {
    let ordered: Vec<Pfn> = pages.keys().copied().collect();
    if !ordered.is_empty() {
        ledger.order(pages.into_values().collect()).map_err(|error| store(&error))?;
    }
    drop(ledger);
    shared.queue.nudge();
    tracing::warn!(pages = ordered.len(), known = known.len(), who, note, "pages ordered retired");
    value(&Ordered { ordered, known: known.into_iter().collect(), who: who.into() })
}

/// `ends` are the frames behind each range.
fn check_order(count: u64, mut ends: impl Iterator<Item = u64>) -> Result<(), Failure> {
    if count == 0 || count > ORDER_MAX {
        let wants = format!("an order is 1 to {ORDER_MAX} pages, not {count}");
        return Err(failure(ErrorKind::BadRequest, &wants));
    }
    if ends.any(|end| end > 1 << PFN_BITS) {
        return Err(failure(ErrorKind::BadRequest, "no machine has memory at such an address"));
    }
    Ok(())
}

fn unretire(pfn: Pfn, note: &str, who: &str, shared: &Handle) -> Result<Value, Failure> {
    let note = check_note(note)?;
    let mut ledger = shared.ledger();
    let page = ledger.page(pfn).cloned().ok_or_else(|| unknown(pfn))?;
    if page.state == RetireState::Pending {
        return Err(failure(ErrorKind::Busy, "the page is being retired right now; ask again"));
    }
    ledger.unretire(pfn, wall_clock(), who.into(), note.into()).map_err(|error| store(&error))?;
    drop(ledger);
    tracing::warn!(%pfn, who, note, "page taken off the list");
    let advice = "this kernel keeps the page out of use until the next boot; a guest that gave it up \
                  keeps doing without it until then";
    value(&Unretired { page, who: who.into(), advice: advice.into() })
}

fn accept_damage(note: &str, who: &str, shared: &Handle) -> Result<Value, Failure> {
    let note = check_note(note)?;
    let mut ledger = shared.ledger();
    ledger.accept_damage(wall_clock(), who.into(), note.into()).map_err(|error| store(&error))?;
    tracing::warn!(who, note, "damage of the list accepted");
    value(&ledger.store_status())
}

fn clear_health(note: &str, who: &str, shared: &Handle) -> Result<Value, Failure> {
    let note = check_note(note)?;
    let node = NodeState {
        health: Health::Green,
        evacuation: Evacuation::None,
        reason: format!("cleared by {who}: {note}"),
        since: wall_clock(),
    };
    if !shared.ledger().remember(Some(node), Vec::new()) {
        return Err(failure(ErrorKind::Store, "the store did not take it; see rasctl status"));
    }
    // The walk's next look after leftovers tells the cluster.
    shared.set_health_reported(false);
    tracing::warn!(who, note, "health set back to green");
    value(&shared.health())
}

fn check_note(note: &str) -> Result<&str, Failure> {
    let note = note.trim();
    if note.is_empty() || note.len() > NOTE_MAX || note.chars().any(char::is_control) {
        let wants = format!("a note is one line of 1 to {NOTE_MAX} bytes");
        return Err(failure(ErrorKind::BadRequest, &wants));
    }
    Ok(note)
}

/// Who is at the other end, by the kernel's word: `name (uid N)`.
fn who(stream: &UnixStream) -> io::Result<String> {
    let credentials = getsockopt(stream, PeerCredentials)?;
    let uid = credentials.uid();
    Ok(match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    })
}

fn value(answer: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer)
        .map_err(|error| failure(ErrorKind::BadRequest, &format!("can't be answered: {error}")))
}

fn unknown(pfn: Pfn) -> Failure {
    failure(ErrorKind::NotFound, &format!("page {} (pfn:{pfn}) is not on the list", pfn.addr()))
}

fn store(error: &StoreError) -> Failure {
    failure(ErrorKind::Store, &chain(error))
}

fn failure(kind: ErrorKind, message: &str) -> Failure {
    Failure { kind, message: message.into() }
}
