//! One error, one record: joins reports of the same error on their way to a sink.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use ras_core::{Detail, Join, Joined, Value};

use crate::input::Input;
use crate::read::{Damage, Found, Sink};

/// How far apart two sources may report one error, in nanoseconds: as the daemon takes it. Kernel logs
/// have whole seconds, and firmware takes its time.
const WINDOW_NS: u64 = 2_000_000_000;

/// Damage held back until the records before it are out.
const DAMAGE_MAX: usize = 1024;

/// Joins records before they reach `S`. Records are held back until nothing can join them any more: a
/// few hundred of them, or two seconds of a log's time.
#[derive(Debug)]
pub struct Joining<S> {
    sink: S,
    join: Join<Place>,
    damage: VecDeque<(u64, Damage)>,
    /// Records and damage so far.
    count: u64,
    /// The file that is being read, and its number.
    file: Option<Arc<str>>,
    stream: u32,
    /// There is nothing to join: all that comes goes on at once.
    one_source: bool,
}

#[derive(Debug)]
struct Place {
    number: u64,
    file: Arc<str>,
    offset: u64,
    line: Option<u64>,
}

impl<S: Sink> Joining<S> {
    /// In front of `sink`.
    #[must_use]
    pub fn new(sink: S) -> Self {
        let (join, damage) = (Join::new(WINDOW_NS), VecDeque::new());
        Self { sink, join, damage, count: 0, file: None, stream: 0, one_source: false }
    }

    /// The sink.
    pub fn into_inner(self) -> S {
        self.sink
    }

    const fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

impl<S: Sink> Sink for Joining<S> {
    fn record(&mut self, found: Found) -> io::Result<()> {
        if self.one_source {
            return self.sink.record(found);
        }
        let Found { file, offset, line, record } = found;
        if self.file.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &file)) {
            self.file = Some(Arc::clone(&file));
            self.stream += 1;
        }
        let place = Place { number: self.number(), file, offset, line };
        let Self { sink, damage, join, stream, .. } = self;
        join.push(*stream, place, record, &mut |joined| hand_on(joined, damage, sink))
    }

    fn damage(&mut self, damage: Damage) -> io::Result<()> {
        if self.one_source {
            return self.sink.damage(damage);
        }
        let number = self.number();
        self.damage.push_back((number, damage));
        if self.damage.len() > DAMAGE_MAX
            && let Some((_, damage)) = self.damage.pop_front()
        {
            self.sink.damage(damage)?;
        }
        Ok(())
    }

    fn note(&mut self, file: &str, note: &str) -> io::Result<()> {
        self.sink.note(file, note)
    }

    fn begin(&mut self, file: &str, input: Option<(&Input, u64)>) {
        self.sink.begin(file, input);
    }

    fn one_source(&mut self) {
        self.one_source = true;
    }

    fn finish(&mut self) -> io::Result<()> {
        let Self { sink, damage, join, .. } = self;
        join.finish(&mut |joined| hand_on(joined, damage, sink))?;
        damage.drain(..).try_for_each(|(_, damage)| sink.damage(damage))?;
        sink.finish()
    }
}

/// A joined record, after the damage that came before it. Each witness says where it was found.
fn hand_on(
    joined: Joined<Place>,
    damage: &mut VecDeque<(u64, Damage)>,
    sink: &mut impl Sink,
) -> io::Result<()> {
    let Joined { place, mut record, places } = joined;
    let first = places.iter().map(|place| place.number).fold(place.number, u64::min);
    while damage.front().is_some_and(|(number, _)| *number < first) {
        if let Some((_, damage)) = damage.pop_front() {
            sink.damage(damage)?;
        }
    }
    let own = record.witnesses.len().saturating_sub(places.len());
    for (witness, place) in record.witnesses[own..].iter_mut().zip(places) {
        let detail = |name: &'static str, value: Value| Detail { name: name.into(), value };
        let mut found_in = vec![
            detail("file", place.file.to_string().into()),
            detail("offset", place.offset.into()),
        ];
        found_in.extend(place.line.map(|line| detail("line", line.into())));
        witness.details.push(detail("found_in", Value::Group(found_in)));
    }
    let Place { file, offset, line, .. } = place;
    sink.record(Found { file, offset, line, record })
}
