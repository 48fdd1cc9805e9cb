//! `rasctl pages retire` and `unretire`: through rasd, which does the rest at once, or in a store that
//! nobody has open, for rasd's next start.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use persist_store::{Entry, Store, StoreError};
use ras_core::{Pfn, PfnRange, RetireState, RetiredPage, Timestamp, order};
use rasctl::chain;
use rasctl::exchange::place::Place;
use rasctl::exchange::{PAGES_MAX, runs, shown};
use rasd_api::message::{NOTE_MAX, ORDER_MAX, REQUEST_MAX};
use rasd_api::{Client, Ordered};
use serde::Serialize;

use crate::Failure;
use crate::options::{Global, Note, Wait};
use crate::source::connect;
use crate::text::json;

/// Bytes of pages in one request: what is left is for the note and the rest of the line.
const PAGES_BYTES: usize = REQUEST_MAX - 4096;

/// Ranges in one request: each takes less than 60 bytes.
const RANGES: usize = 1000;

/// Pages whose outcome is told one by one.
const TOLD_MAX: usize = 20;

pub(super) fn retire(
    places: &[Place],
    note: &Note,
    wait: &Wait,
    global: &Global,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    for place in places.iter().filter(|place| place.rounded) {
        eprintln!("rasctl: note: whole pages are meant: {}", shown(place.range));
    }
    let ranges = runs(places.iter().map(|place| place.range).collect());
    let count: u64 = ranges.iter().map(|range| range.count).sum();
    if count > PAGES_MAX {
        let message = format!("{count} pages: at most {PAGES_MAX} are retired at once");
        return Err(Failure::NotDone(message));
    }
    let mut list = Writer::open(global)?;
    let ordered = list.retire(&ranges, &note.text)?;
    list.report(ordered, wait, global.json, out)
}

pub(super) fn unretire(
    places: &[Place],
    note: &Note,
    global: &Global,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut list = Writer::open(global)?;
    let known = list.pages()?;
    let mut pages = BTreeSet::new();
    for Place { range, .. } in places {
        let found: Vec<Pfn> = range.iter().filter(|pfn| known.contains_key(pfn)).collect();
        if found.is_empty() {
            return Err(Failure::NotDone(format!("{} is not on the list", shown(*range))));
        }
        pages.extend(found);
    }
    for pfn in pages {
        let (who, advice) = list.unretire(pfn, &note.text, global, out)?;
        if !global.json {
            writeln!(out, "page {} is off the list, by {who}", pfn.addr())?;
            writeln!(out, "note: {advice}")?;
        }
    }
    Ok(())
}

/// Whoever can change the list.
pub(super) enum Writer {
    Daemon(Box<Client>),
    Store(Box<Store>),
}

impl Writer {
    pub(super) fn open(global: &Global) -> Result<Self, Failure> {
        match &global.store {
            None => Ok(Self::Daemon(Box::new(connect(&global.socket)?))),
            Some(dir) => open_store(dir).map(|store| Self::Store(Box::new(store))),
        }
    }

    pub(super) fn pages(&mut self) -> Result<BTreeMap<Pfn, RetiredPage>, Failure> {
        match self {
            Self::Daemon(client) => {
                Ok(client.pages()?.into_iter().map(|page| (page.pfn, page)).collect())
            }
            Self::Store(store) => {
                let pages = store.state().active_pages();
                Ok(pages.map(|page| (page.pfn, page.clone())).collect())
            }
        }
    }

    /// Orders pages retired; each is durable when this returns.
    pub(super) fn retire(&mut self, ranges: &[PfnRange], note: &str) -> Result<Ordered, Failure> {
        match self {
            Self::Daemon(client) => {
                let mut all = Orders::default();
                for batch in batches(ranges) {
                    all.add(client.retire(&batch, note))?;
                }
                Ok(all.0)
            }
            Self::Store(store) => {
                let (now, who) = (now(), myself());
                let note = check_note(note)?;
                let mut ordered = Ordered { ordered: vec![], known: vec![], who };
                let mut entries = Vec::new();
                for pfn in ranges.iter().flat_map(|range| range.iter()) {
                    let known = store.state().pages.get(&pfn);
                    match order::retire(known.map(|page| &**page), pfn, now, &ordered.who, note) {
                        Some(page) => {
                            entries.push(Entry::from(page));
                            ordered.ordered.push(pfn);
                        }
                        None => ordered.known.push(pfn),
                    }
                }
                append(store, &entries)?;
                Ok(ordered)
            }
        }
    }

    /// Orders pages of another list retired; none of them is on this one.
    pub(super) fn import(
        &mut self,
        pages: Vec<RetiredPage>,
        note: &str,
    ) -> Result<Ordered, Failure> {
        match self {
            Self::Daemon(client) => {
                let mut all = Orders::default();
                let (mut batch, mut size) = (Vec::new(), 0);
                for page in pages {
                    let bytes = serde_json::to_vec(&page)?.len() + 1;
                    if size + bytes > PAGES_BYTES || batch.len() as u64 == ORDER_MAX {
                        all.add(client.import(&batch, note))?;
                        (batch, size) = (Vec::new(), 0);
                    }
                    batch.push(page);
                    size += bytes;
                }
                if !batch.is_empty() {
                    all.add(client.import(&batch, note))?;
                }
                Ok(all.0)
            }
            Self::Store(store) => {
                let (who, note) = (myself(), check_note(note)?);
                let ordered = pages.iter().map(|page| page.pfn).collect();
                let entries: Vec<Entry> = pages
                    .into_iter()
                    .map(|page| Entry::from(order::import(page, &who, note)))
                    .collect();
                append(store, &entries)?;
                Ok(Ordered { ordered, known: vec![], who })
            }
        }
    }

    /// Who did it, and what the operator should know.
    fn unretire(
        &mut self,
        pfn: Pfn,
        note: &str,
        global: &Global,
        out: &mut dyn Write,
    ) -> Result<(String, String), Failure> {
        match self {
            Self::Daemon(client) => {
                let done = client.unretire(pfn, note)?;
                if global.json {
                    json(&done, out)?;
                }
                Ok((done.who, done.advice))
            }
            Self::Store(store) => {
                let (who, note) = (myself(), check_note(note)?.to_owned());
                let page = store.state().pages.get(&pfn).cloned();
                append(store, &[Entry::Unretired { pfn, time: now(), who: who.clone(), note }])?;
                let advice = "the kernel that took it out of use keeps it so until the next boot";
                if let (true, Some(page)) = (global.json, page) {
                    let (who, advice) = (who.clone(), advice.into());
                    json(&rasd_api::Unretired { page: *page, who, advice }, out)?;
                }
                Ok((who, advice.into()))
            }
        }
    }

    /// Says what became of an order, once it is known or the wait is over.
    pub(super) fn report(
        &mut self,
        ordered: Ordered,
        wait: &Wait,
        as_json: bool,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let pages = match self {
            Self::Daemon(_) => self.outcome(&ordered.ordered, wait.longest())?,
            Self::Store(_) => Vec::new(),
        };
        let count = |state| pages.iter().filter(|page| page.state == state).count();
        let [pending, failed] = [RetireState::Pending, RetireState::Failed].map(count);
        if as_json {
            json(&Report { order: &ordered, pages: &pages }, out)?;
        } else {
            writeln!(
                out,
                "{} pages put on the list, {} were on it, by {}",
                ordered.ordered.len(),
                ordered.known.len(),
                ordered.who
            )?;
            for page in pages.iter().filter(|_| pages.len() <= TOLD_MAX) {
                writeln!(out, "{}  {}  {}", page.pfn.addr(), page.state, page.outcome)?;
            }
            if pages.len() > TOLD_MAX {
                let retired = count(RetireState::Retired);
                writeln!(out, "{retired} retired, {pending} pending, {failed} failed")?;
            }
            if matches!(self, Self::Store(_)) && !ordered.ordered.is_empty() {
                writeln!(out, "rasd takes them out of use at its next start")?;
            }
            if pending > 0 {
                writeln!(out, "rasd goes on with {pending}: rasctl pages list --state pending")?;
            }
        }
        if failed > 0 {
            return Err(Failure::NotDone(format!(
                "{failed} pages are remembered, but could not be taken out of use on this boot: \
                 rasctl pages list --state failed"
            )));
        }
        Ok(())
    }

    /// The pages as they are when each has walked, or the wait is over.
    fn outcome(&mut self, pfns: &[Pfn], longest: Duration) -> Result<Vec<RetiredPage>, Failure> {
        let deadline = Instant::now() + longest;
        let mut pause = Duration::from_millis(20);
        loop {
            let mut known = self.pages()?;
            let pages: Vec<RetiredPage> = pfns.iter().filter_map(|pfn| known.remove(pfn)).collect();
            let walking = pages.iter().any(|page| page.state == RetireState::Pending);
            if !walking || Instant::now() >= deadline {
                return Ok(pages);
            }
            thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    order: &'a Ordered,
    /// As they are now; empty where nobody walks them.
    pages: &'a [RetiredPage],
}

/// Several answers as one.
struct Orders(Ordered);

impl Default for Orders {
    fn default() -> Self {
        Self(Ordered { ordered: vec![], known: vec![], who: String::new() })
    }
}

impl Orders {
    /// One more answer. After the first, a refusal also has to say how far it got.
    fn add(&mut self, answer: Result<Ordered, rasd_api::ApiError>) -> Result<(), Failure> {
        let next = answer.map_err(|error| match (self.0.ordered.len(), Failure::from(error)) {
            (0, failure) => failure,
            (done, Failure::NotDone(why) | Failure::NotReached(why)) => Failure::NotDone(format!(
                "{why}; {done} pages are on the list by now, and the same command goes on from there"
            )),
            (_, failure) => failure,
        })?;
        self.0.ordered.extend(next.ordered);
        self.0.known.extend(next.known);
        self.0.who = next.who;
        Ok(())
    }
}

/// Requests of at most [`ORDER_MAX`] pages and [`RANGES`] ranges.
fn batches(ranges: &[PfnRange]) -> Vec<Vec<PfnRange>> {
    let mut batches: Vec<Vec<PfnRange>> = Vec::new();
    let mut room = 0;
    for &range in ranges {
        let (mut start, mut left) = (range.start.0, range.count);
        while left > 0 {
            if room == 0 || batches.last().is_none_or(|batch| batch.len() == RANGES) {
                batches.push(Vec::new());
                room = ORDER_MAX;
            }
            let count = left.min(room);
            if let Some(batch) = batches.last_mut() {
                batch.push(PfnRange { start: Pfn(start), count });
            }
            (start, left, room) = (start + count, left - count, room - count);
        }
    }
    batches
}

/// A store that exists, for writing: the typing error in a path makes no new one.
pub(super) fn open_store(dir: &Path) -> Result<Store, Failure> {
    let opened = persist_store::read(dir).and_then(|_| Store::open(dir));
    let (store, recovery) = opened.map_err(|error| match &error {
        StoreError::Locked { .. } => Failure::NotDone(format!(
            "{}; leave out --store, and what has it open is asked instead",
            chain(&error)
        )),
        StoreError::NotFound { .. } => {
            Failure::NotReached(format!("{}; rasd makes one when it starts", chain(&error)))
        }
        _ => Failure::NotReached(chain(&error)),
    })?;
    if !recovery.is_clean() {
        eprintln!("rasctl: the store was mended: {recovery}");
    }
    Ok(store)
}

fn append(store: &mut Store, entries: &[Entry]) -> Result<(), Failure> {
    store.append_all(entries).map_err(|error| Failure::NotDone(chain(&error)))
}

/// The rule of rasd for what is kept for good.
fn check_note(note: &str) -> Result<&str, Failure> {
    let note = note.trim();
    if note.is_empty() || note.len() > NOTE_MAX || note.chars().any(char::is_control) {
        return Err(Failure::NotReached(format!("a note is one line of 1 to {NOTE_MAX} bytes")));
    }
    Ok(note)
}

/// Who runs this, by the kernel's word, as rasd writes it.
fn myself() -> String {
    let uid = Uid::current();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    }
}

fn now() -> Timestamp {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_stay_within_what_rasd_takes() {
        let many: Vec<PfnRange> =
            (0..2500).map(|n| PfnRange { start: Pfn(n * 10_000), count: 1 + n % 9000 }).collect();
        let batches = batches(&many);
        for batch in &batches {
            assert!(batch.iter().map(|range| range.count).sum::<u64>() <= ORDER_MAX);
            let request =
                rasd_api::Request::Retire { pages: batch.clone(), note: "é".repeat(256) };
            assert!(serde_json::to_vec(&request).unwrap().len() < REQUEST_MAX);
        }
        assert_eq!(runs(batches.concat()), many);
    }
}
