//! From records to the list, in parts that several threads may read.
//!
//! ```text
//!  blocks --Part::read--> pages in order, other records --\
//!  blocks --Part::read--> pages in order, other records ---+--State::of--> the list
//! ```
//! A part only takes its records apart, which is nearly all of the work; what they mean depends on the
//! parts before it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use ras_core::{Dimm, Pfn, RetiredPage};

use crate::state::fill;
use crate::wire::Texts;
use crate::{Entry, Origin, Record, State};

/// What consecutive blocks of a journal say.
#[derive(Debug)]
pub struct Part {
    pieces: Vec<Piece>,
    /// Pages after the last piece.
    run: Run,
    dimms: BTreeMap<u64, Arc<Dimm>>,
    texts: Texts,
    /// Records read.
    pub records: u64,
    /// Those of them that only a newer version can read.
    pub unknown: u64,
}

#[derive(Debug)]
enum Piece {
    Run(Run),
    Dimm(u64, Arc<Dimm>),
    Other(Record),
}

/// Pages with their origins, ascending.
#[derive(Debug, Default)]
struct Run {
    pages: Vec<(Pfn, Box<RetiredPage>)>,
    /// Pages, by index, whose module an earlier part names.
    nameless: Vec<(usize, u64)>,
}

impl Run {
    /// Whether `origin` is that of the last page.
    fn is_last(&self, origin: &Origin) -> bool {
        let last = self.pages.last();
        last.is_some_and(|(pfn, page)| (*pfn, page.since) == (origin.pfn, origin.since))
    }

    fn ends_before(&self, next: Pfn) -> bool {
        self.pages.last().is_none_or(|(last, _)| *last < next)
    }
}

impl Default for Part {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            run: Run::default(),
            dimms: BTreeMap::new(),
            texts: Texts::shared(),
            records: 0,
            unknown: 0,
        }
    }
}

impl Part {
    /// Reads a block's records, as far as they are any. `false` where bytes are left that are none.
    pub fn read(&mut self, mut records: &[u8]) -> bool {
        while !records.is_empty() {
            let Some((record, rest)) = Record::split_sharing(records, &mut self.texts) else {
                return false;
            };
            self.records += 1;
            self.unknown += u64::from(matches!(record, Record::Unknown(_)));
            self.add(record);
            records = rest;
        }
        true
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Known(Entry::Page(page)) => {
                if !self.run.ends_before(page.pfn) {
                    self.end_run();
                }
                self.run.pages.push((page.pfn, page));
            }
            Record::Origin(origin) if self.run.is_last(&origin) => self.fill_last(&origin),
            // Says nothing of pages, so that these need not be split up.
            Record::Dimm(dimm) => {
                let (digest, dimm) = (dimm.digest(), Arc::new(dimm));
                self.dimms.insert(digest, dimm.clone());
                self.pieces.push(Piece::Dimm(digest, dimm));
            }
            Record::Origin(_) | Record::Known(_) | Record::Unknown(_) => {
                self.end_run();
                self.pieces.push(Piece::Other(record));
            }
        }
    }

    fn fill_last(&mut self, origin: &Origin) {
        let index = self.run.pages.len().saturating_sub(1);
        let Some((_, page)) = self.run.pages.last_mut() else { return };
        fill(page, origin, &self.dimms);
        if let (None, Some(digest)) = (&page.dimm, origin.dimm) {
            self.run.nameless.push((index, digest));
        }
    }

    fn end_run(&mut self) {
        if !self.run.pages.is_empty() {
            self.pieces.push(Piece::Run(mem::take(&mut self.run)));
        }
    }
}

impl State {
    /// The list that a journal's parts make, in order.
    pub fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut state = Self::default();
        let mut run = Vec::new();
        for piece in
            parts.into_iter().flat_map(|part| part.pieces.into_iter().chain([Piece::Run(part.run)]))
        {
            match piece {
                Piece::Run(mut next) => state.join_run(&mut run, &mut next),
                Piece::Dimm(digest, dimm) => {
                    state.dimms.insert(digest, dimm);
                }
                Piece::Other(record) => {
                    state.add_run(mem::take(&mut run));
                    state.read(record);
                }
            }
        }
        state.add_run(run);
        state.settle();
        state
    }

    fn join_run(&mut self, run: &mut Vec<(Pfn, Box<RetiredPage>)>, next: &mut Run) {
        for (index, digest) in &next.nameless {
            if let Some((_, page)) = next.pages.get_mut(*index) {
                page.dimm = self.dimms.get(digest).cloned();
            }
        }
        if let (Some((last, _)), Some((first, _))) = (run.last(), next.pages.first())
            && last >= first
        {
            self.add_run(mem::take(run));
        }
        match run.is_empty() {
            true => *run = mem::take(&mut next.pages),
            false => run.append(&mut next.pages),
        }
    }
}
