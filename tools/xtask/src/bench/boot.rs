//! `bench boot`: what excluded pages cost each boot. The default number of ranges comes from here.

use anyhow::Result;
use ras_lab::uefi::{Boot, Load, measure};
use ras_store_format::exclusion::Limits;

use super::figure::{Figure, Sample};

const CAP: u32 = Limits::RANGES_DEFAULT;

/// In turn, so that a busy machine is busy for all of them.
const LOADS: [Load; 8] = [
    Load::Nothing,
    Load::Ranges(0),
    Load::Ranges(50),
    Load::Ranges(100),
    Load::Ranges(CAP),
    Load::TenThousand,
    Load::Ranges(300),
    Load::Ranges(500),
];

/// Boots are long: a few of each will do. (Their processor time is what is compared; it varies little.)
const RUNS_MAX: u32 = 3;

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    let runs = runs.min(RUNS_MAX);
    println!("bench: boots with OVMF and a stock kernel, {runs} of each");
    let boots = measure(&LOADS, runs)?;
    let median = |load: Load, pick: fn(&Boot) -> f64| {
        let boots = LOADS.iter().zip(&boots).find(|(found, _)| **found == load);
        boots.into_iter().flat_map(|(_, boots)| boots.iter().map(pick)).collect::<Sample>().median()
    };
    let processor = |load| median(load, |boot| boot.processor_s);
    let mut figures = Vec::new();
    for load in LOADS {
        let what = match load {
            Load::Nothing => "without the driver".to_owned(),
            Load::Ranges(0) => "with the driver and no list".to_owned(),
            Load::Ranges(ranges) => format!("with {ranges} ranges"),
            Load::TenThousand => "with 10,000 pages listed".to_owned(),
        };
        let figure = Figure::new(&format!("boot {what}, processor time"), processor(load), "s");
        figures.push(match load {
            Load::Nothing => figure,
            Load::TenThousand => {
                figure.against("at the cap", processor(Load::Ranges(CAP))).ratio_at_most(1.2)
            }
            _ => figure.against("without the driver", processor(Load::Nothing)),
        });
        if load != Load::Nothing {
            // A clock on a busy machine also counts what others do: the least of them is the driver's.
            let times = LOADS.iter().zip(&boots).find(|(found, _)| **found == load);
            let times = times.into_iter().flat_map(|(_, boots)| boots);
            let least = times.filter_map(|boot| boot.driver_us).min().unwrap_or(u32::MAX);
            let own = Figure::new(
                &format!("the driver's own time {what}, least"),
                f64::from(least) / 1e3,
                "ms",
            );
            figures.push(if load == Load::Ranges(CAP) { own.at_most(20.0) } else { own });
        }
    }
    let elapsed = Figure::new(
        "boot with the ranges of the cap, by the clock",
        median(Load::Ranges(CAP), |boot| boot.elapsed_s),
        "s",
    );
    let without = median(Load::Nothing, |boot| boot.elapsed_s);
    figures.push(elapsed.against("without the driver", without));
    Ok(figures)
}
