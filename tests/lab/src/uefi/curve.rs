//! What excluded ranges cost each boot: the same machine, booted with more and more of them.

use anyhow::{Context as _, Result};
use ras_store_format::exclusion::{Badness, Limits, List};

use super::checks::Scattered;
use super::lab::{Lab, Setup, encoded};
use crate::image;

/// What a machine is booted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// No driver.
    Nothing,
    /// So many separate ranges of a page each; 0 is the driver without a list.
    Ranges(u32),
    /// 10,000 pages, and the default limits.
    TenThousand,
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Processor time of QEMU until user space runs, in seconds, firmware included.
    pub processor_s: f64,
    /// The same on a clock.
    pub elapsed_s: f64,
    /// The driver's own time in microseconds, by its clock; none without it.
    pub driver_us: Option<u32>,
}

const MEMORY_MIB: u32 = 2048;

/// One page in 480, so that ranges reach through half of the memory at most.
const STEP: u64 = 480;

/// Boots with each of `loads`, `runs` times in turn; the boots are in the order of `loads`.
///
/// # Errors
/// Something can't be had, or a machine did not boot or did not exclude what it was to.
pub fn measure(loads: &[Load], runs: u32) -> Result<Vec<Vec<Boot>>> {
    super::possible().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    let lab = Lab::prepare(false)?;
    let measured = measure_with(&lab, loads, runs);
    lab.close(measured.is_ok());
    measured
}

fn measure_with(lab: &Lab, loads: &[Load], runs: u32) -> Result<Vec<Vec<Boot>>> {
    let mut first = lab.boot(&lab.setup("first", lab.fresh_variables()))?;
    first.install_driver()?;
    let installed = first.keep_variables("installed.fd")?;
    drop(first);
    let mut boots = vec![Vec::new(); loads.len()];
    for run in 0..runs {
        for (number, (load, boots)) in loads.iter().zip(&mut boots).enumerate() {
            let name = format!("run-{run}-{number}");
            let setup = match load {
                Load::Nothing => lab.setup(&name, lab.fresh_variables()),
                _ => lab.setup(&name, &installed),
            };
            let (list, ranges) = match load {
                Load::Nothing | Load::Ranges(0) => (None, 0),
                Load::Ranges(count) => {
                    let pages = Scattered { first: 0x1000, step: STEP, count: (*count).into() };
                    (Some((pages, *count)), *count)
                }
                Load::TenThousand => {
                    let pages = Scattered { first: 0x1000, step: 40, count: 10_000 };
                    (Some((pages, 0)), Limits::RANGES_DEFAULT)
                }
            };
            let copy = list.map(|(pages, ranges_max)| {
                encoded(&List {
                    generation: 1,
                    limits: Limits { ranges_max, bytes_max: 0 },
                    ranges: pages.ranges(Badness::CORRECTED),
                    ..List::default()
                })
            });
            let files = [copy.transpose()?, None];
            let mut booted = lab
                .boot(&Setup { files, memory_mib: MEMORY_MIB, ..setup })
                .with_context(|| format!("booting with {load:?}"))?;
            let outcome = booted.outcome()?;
            let excluded = outcome.as_ref().map_or(0, |outcome| outcome.excluded_ranges);
            // A few pages may be the firmware's own.
            anyhow::ensure!(
                excluded <= ranges && excluded + 8 >= ranges,
                "{load:?}: {excluded} ranges were excluded"
            );
            let boot = Boot {
                processor_s: booted.processor.as_secs_f64(),
                elapsed_s: booted.elapsed.as_secs_f64(),
                driver_us: outcome.map(|outcome| outcome.times.total_us),
            };
            println!("lab: run {run}, {load:?}: {boot:.2?}");
            boots.push(boot);
        }
    }
    Ok(boots)
}
