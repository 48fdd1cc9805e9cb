//! What `rasctl` is made of: reading and rendering error records of every kind.
//!
//! [`read::paths`] takes files, directories and standard input, looks at what they are
//! ([`format::FORMATS`]) and hands every record, with its place, to a [`read::Sink`];
//! [`translate::Translating`] and [`join::Joining`] stand on the way: the one gives records their system
//! addresses, the other makes one record of several reports of one error. [`analyze::Analysis`]
//! is a sink that finds what many records have in common, and [`report::page`] draws it.

#![forbid(unsafe_code)]

pub mod join;
pub mod read;
pub mod translate;

pub mod format;
pub mod input;

pub mod cpu;
pub mod host_cpu;
pub mod rasdaemon_db;
pub mod scan;
pub mod whea_xml;

pub mod human;
pub mod json;

pub mod analyze;
pub mod report;

pub mod inject;

pub mod exchange;

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
