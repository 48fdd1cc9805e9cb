//! What a step of the memory ladder costs: from the QMP request to the page out of use.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ras_core::Gpa;
use ras_lab::vm::{VirtioMem, Vm, VmOptions};
use ras_qmp::ras::{RetireCause, RetireOutcome};
use serde_json::{Value, json};

use super::figure::{Figure, Sample, milliseconds};

const SOON: Duration = Duration::from_secs(30);

/// First page of boot memory that is replaced, in the guest's working set; one after another.
const FIRST: u64 = 0x110_0000;

/// Pages replaced, one request each.
const PAGES: u64 = 500;

/// The region that is unplugged, in MiB.
const REGION_MIB: u64 = 128;

pub(super) fn run(runs: u32) -> Result<Vec<Figure>> {
    let mut figures = replacement()?;
    figures.push(unplug(runs)?);
    Ok(figures)
}

/// Requests of one page each, and beside each a request that does nothing.
fn replacement() -> Result<Vec<Figure>> {
    let vm = Vm::start(VmOptions { cmdline: "dirty=4096".into(), ..VmOptions::named("bench") })?;
    vm.wait_tick(3, SOON)?;
    let mut qmp = vm.qmp()?;
    let (mut requests, mut pauses, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    for page in 0..PAGES {
        let begin = Instant::now();
        qmp.query_status()?;
        empty.push(milliseconds(begin.elapsed()));

        let gpa = Gpa(FIRST + page * 4096);
        let begin = Instant::now();
        let answer = qmp.retire_range(gpa, 4096, RetireCause::Corrected, SOON)?;
        requests.push(milliseconds(begin.elapsed()));
        ensure!(answer.outcome == RetireOutcome::Replaced, "{answer:?}");
        pauses.push(answer.paused_us as f64);
    }
    vm.wait_ticks(5, SOON)?;
    ensure!(vm.bad_sums().is_empty(), "the guest lost what it wrote");
    let (requests, pauses, empty) =
        (Sample::new(requests), Sample::new(pauses), Sample::new(empty));
    let request = |name: &str, value, empty| {
        Figure::new(&format!("ladder: failing page to another frame, {name}"), value, "ms")
            .against("QMP request that only asks", empty)
    };
    let pause = |name: &str, value| {
        Figure::new(&format!("ladder: the vCPU stands still for it, {name}"), value, "µs")
    };
    Ok(vec![
        request("median", requests.median(), empty.median()).at_most(1.0),
        request("p99", requests.percentile(99), empty.percentile(99)),
        pause("median", pauses.median()).at_most(100.0),
        pause("p99", pauses.percentile(99)),
    ])
}

/// All of a memory device, given up by a guest and returned to the host.
fn unplug(runs: u32) -> Result<Figure> {
    let mut rates = Vec::new();
    for _ in 0..runs.min(5) {
        let virtio_mem = Some(VirtioMem { region_mib: REGION_MIB, requested_mib: REGION_MIB });
        let vm = Vm::start(VmOptions { virtio_mem, ..VmOptions::named("bench") })?;
        vm.wait_ready(SOON)?;
        let mut qmp = vm.qmp()?;
        wait_for_size(&mut qmp, REGION_MIB << 20)?;
        let arguments = json!({
            "path": "/machine/peripheral/vmem0", "property": "requested-size", "value": 0,
        });
        let begin = Instant::now();
        qmp.execute("qom-set", arguments, SOON)?;
        wait_for_size(&mut qmp, 0)?;
        rates.push(REGION_MIB as f64 / 1024.0 / begin.elapsed().as_secs_f64());
    }
    let rates = Sample::new(rates);
    Ok(Figure::new("ladder: unplug of a 128 MiB region, median", rates.median(), "GiB/s"))
}

fn wait_for_size(qmp: &mut ras_qmp::Client, wanted: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        let devices = qmp.execute("query-memory-devices", Value::Null, SOON)?;
        let size = devices.pointer("/0/data/size").and_then(Value::as_u64);
        if size == Some(wanted) {
            return Ok(());
        }
        ensure!(begin.elapsed() < SOON, "the memory device has {size:?}, not {wanted}");
        std::thread::sleep(Duration::from_micros(200));
    }
}
