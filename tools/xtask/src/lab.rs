//! The labs by name.

use anyhow::Result;
use clap::ValueEnum;
use ras_lab::Summary;
use ras_lab::power::Extent;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Walk,
    Erst,
    Cluster,
    Uefi,
    Power,
}

pub(crate) const ALL: [Name; 5] = [Name::Walk, Name::Power, Name::Erst, Name::Cluster, Name::Uefi];

/// Tells one lab's story; an error where this machine can't.
pub(crate) fn run(name: Name, extent: Extent) -> Result<bool> {
    requirements(name).map_err(anyhow::Error::msg)?;
    story(name, extent).map(|summary| summary.is_success())
}

/// Tells one lab's story, or says why it is skipped.
pub(crate) fn run_or_skip(name: Name) -> Result<Option<Summary>> {
    match requirements(name) {
        Ok(()) => story(name, Extent::BRIEF).map(Some),
        Err(why) => {
            let lab = name.to_possible_value().map(|value| value.get_name().to_owned());
            println!("SKIPPED lab {}: {why}", lab.unwrap_or_default());
            Ok(None)
        }
    }
}

fn requirements(name: Name) -> Result<(), String> {
    match name {
        Name::Walk => ras_lab::walk::possible(),
        Name::Erst => ras_lab::erst::possible(),
        Name::Cluster => ras_lab::cluster::requirements(),
        Name::Uefi => ras_lab::uefi::possible(),
        Name::Power => ras_lab::power::possible(),
    }
}

fn story(name: Name, extent: Extent) -> Result<Summary> {
    match name {
        Name::Walk => ras_lab::walk::run(),
        Name::Erst => ras_lab::erst::run(),
        Name::Cluster => ras_lab::cluster::run(),
        Name::Uefi => ras_lab::uefi::run(),
        Name::Power => ras_lab::power::run(extent),
    }
}
