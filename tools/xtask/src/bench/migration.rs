//! How long a guest stands still while it moves, by the monitor's account and by the guest's own ticks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ras_lab::vm::{Vm, VmOptions};

use super::figure::{Figure, Sample, milliseconds};

const SOON: Duration = Duration::from_secs(30);

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    let (mut totals, mut downtimes, mut gaps, mut ticks) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        let dir = tempfile::tempdir().context("a directory for the migration's socket")?;
        let uri = format!("unix:{}", dir.path().join("arrivals").display());
        // 16 MiB dirtied round and round, so that pre-copy has something to chase.
        let options = VmOptions { cmdline: "dirty=4096".into(), ..VmOptions::named("bench") };
        let source = Vm::start(options)?;
        let destination = Vm::start(source.options().incoming(&uri))?;
        destination.qmp()?;
        source.wait_tick(20, SOON)?;
        let mut qmp = source.qmp()?;
        qmp.migrate(&uri)?;
        let status = qmp.wait_migrated(SOON)?;
        ensure!(
            status.is_completed(),
            "the migration {:?}: {:?}",
            status.status,
            status.error_desc
        );
        let arrived = destination.wait_line(|line| line.tick().is_some(), SOON)?;
        destination.assert_counter_continues(&source)?;

        let here = source.ticks();
        let last = here.last().context("the source ticked")?;
        gaps.push(milliseconds(arrived.at.saturating_duration_since(last.at)));
        ticks.extend(here.windows(2).map(|pair| milliseconds(pair[1].at - pair[0].at)));
        totals.push(status.total_time.unwrap_or(0) as f64);
        downtimes.push(status.downtime.unwrap_or(0) as f64);
    }
    let period = Sample::new(ticks).median();
    let figure = |name: &str, values: Vec<f64>| {
        Figure::new(&format!("migration, unix socket: {name}"), Sample::new(values).median(), "ms")
    };
    Ok(vec![
        figure("the guest's gap, tick to tick, median", gaps)
            .against("a tick's usual period", period),
        figure("stopped, by the monitor, median", downtimes),
        figure("start to finish, median", totals),
    ])
}
