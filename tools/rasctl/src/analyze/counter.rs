//! Errors by name, bounded.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ras_core::diagnosis::grouping::Tally;
use ras_core::{ErrorRecord, ErrorSource};

/// Counts by name. Beyond `MAX` names, all further ones are counted together.
#[derive(Debug)]
pub struct Counter<K, const MAX: usize = 4096> {
    counts: BTreeMap<K, Tally>,
    others: Tally,
}

/// What a counter counted, those with the most errors first.
#[derive(Clone, Debug)]
pub struct Totals<K> {
    /// By name.
    pub list: Vec<Total<K>>,
    /// Of names that were too many to tell apart.
    pub others: Tally,
}

/// What was counted under one name.
#[derive(Clone, Debug)]
pub struct Total<K> {
    /// The name.
    pub name: K,
    /// The counts.
    pub tally: Tally,
}

impl<K, const MAX: usize> Default for Counter<K, MAX> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), others: nothing() }
    }
}

impl<K: Ord, const MAX: usize> Counter<K, MAX> {
    /// Counts one report under `name`.
    pub fn add(&mut self, name: K, record: &ErrorRecord) {
        self.at(name).add(record);
    }

    /// Counts under `name` what was counted elsewhere.
    pub fn join(&mut self, name: K, tally: &Tally) {
        self.at(name).join(tally);
    }

    fn at(&mut self, name: K) -> &mut Tally {
        if self.counts.len() >= MAX && !self.counts.contains_key(&name) {
            return &mut self.others;
        }
        self.counts.entry(name).or_insert_with(nothing)
    }

    /// Sorts.
    #[must_use]
    pub fn finish(self) -> Totals<K> {
        let Self { counts, others } = self;
        let mut list: Vec<_> =
            counts.into_iter().map(|(name, tally)| Total { name, tally }).collect();
        list.sort_by_key(|total| {
            Reverse((total.tally.uncorrected, total.tally.errors(), total.tally.reports))
        });
        Totals { list, others }
    }
}

const fn nothing() -> Tally {
    Tally::new(ErrorSource::Operator)
}
