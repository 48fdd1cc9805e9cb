//! The labs by name.

use anyhow::Result;
use clap::ValueEnum;
use ras_lab::Summary;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Walk,
    Cluster,
}

pub(crate) const ALL: [Name; 2] = [Name::Walk, Name::Cluster];

pub(crate) fn run(name: Name) -> Result<bool> {
    summary(name).map(|summary| summary.failed == 0)
}

pub(crate) fn summary(name: Name) -> Result<Summary> {
    match name {
        Name::Walk => ras_lab::walk::run(),
        Name::Cluster => ras_lab::cluster::run(),
    }
}
