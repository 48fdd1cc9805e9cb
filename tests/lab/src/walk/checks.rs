//! What the story looks at inside the machine, each as one question.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use ras_core::{Pfn, PhysAddr, RetireState, RetiredPage, Timestamp};
use rasd_api::{PageDetail, Status};

use super::{Report, SOON};
use crate::agent::Event;
use crate::capability::meminfo_kib;
use crate::machine::{Machine, lines_of};

/// `holds`, or the reason why not.
pub(crate) fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// The machine's clock starts as ours: a time it remembers lies in the last minutes.
pub(super) fn is_recent(time: Timestamp) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let age = now.abs_diff(time.secs());
    expect(age < 300, || format!("it is {age} s off"))
}

/// Waits for rasd's `READY=1`; the kernel's `HardwareCorrupted` at that moment, in KiB.
pub(crate) fn ready(machine: &mut Machine, timeout: Duration) -> Result<u64> {
    let found = machine.wait("rasd to be ready", timeout, |events| {
        events.iter().find_map(|event| match event {
            Event::Notified { state, corrupted_kib }
                if state.lines().any(|line| line == "READY=1") =>
            {
                Some(Ok(*corrupted_kib))
            }
            Event::Ended { name, status } if name == "rasd" => Some(Err(status.clone())),
            _ => None,
        })
    })?;
    found.or_else(|status| {
        let said: Vec<&str> = machine.said("rasd").collect();
        bail!("rasd ended ({status}) before it was ready:\n{}", said.join("\n"))
    })
}

/// Waits for the first report of the page holder that `pick` takes.
pub(crate) fn report<T>(
    machine: &mut Machine,
    what: &str,
    pick: impl Fn(&Report) -> Option<T>,
) -> Result<T> {
    machine.wait(&format!("page-holder: {what}"), SOON, |events| {
        lines_of(events, "holder")
            .filter_map(|line| serde_json::from_str(line).ok())
            .find_map(|report: Report| pick(&report))
    })
}

/// The page holder's account of its whole working set after `pfn` was moved: pages read, pages
/// damaged.
pub(super) fn verification_after_move(machine: &mut Machine, pfn: Pfn) -> Result<(usize, usize)> {
    machine.wait("page-holder: a verification after the move", SOON, |events| {
        let mut reports =
            lines_of(events, "holder").filter_map(|line| serde_json::from_str(line).ok());
        reports.find(|report| matches!(report, Report::Moved { from, .. } if *from == pfn.0))?;
        reports.find_map(|report| match report {
            Report::Verified { pages, damaged } => Some((pages, damaged)),
            _ => None,
        })
    })
}

/// Whether the service manager heard, before anything else, how the offlining goes and that it may take
/// longer.
pub(super) fn told_of_progress(machine: &Machine) -> Result<(), String> {
    let first = machine.events().iter().find_map(|event| match event {
        Event::Notified { state, .. } => Some(state.as_str()),
        _ => None,
    });
    let told = first.is_some_and(|state| {
        state.contains("EXTEND_TIMEOUT_USEC=") && state.contains("STATUS=Offlining stored pages")
    });
    expect(told, || format!("it heard {first:?}"))
}

/// A figure rasd exports.
pub(crate) fn figure(machine: &mut Machine, name: &str) -> Result<u64> {
    let text = machine.read("/run/rasd.prom")?;
    let mut samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = samples.find(|(sample, _)| *sample == name).context("no such figure")?;
    value.parse().with_context(|| format!("the value of {name}"))
}

/// `rasctl status --json`.
pub(crate) fn status(machine: &mut Machine) -> Result<Status> {
    serde_json::from_str(&rasctl(machine, &["status", "--json"])?).context("reading rasd's status")
}

/// Asks for the status until `reached`.
pub(crate) fn wait_status(
    machine: &mut Machine,
    what: &str,
    reached: impl Fn(&Status) -> bool,
) -> Result<Status> {
    until(what, || {
        let status = status(machine)?;
        Ok(if reached(&status) { Ok(status) } else { Err(format!("{:?}", status.counts)) })
    })
}

/// `rasctl pages list --json`.
pub(crate) fn pages(machine: &mut Machine) -> Result<Vec<RetiredPage>> {
    let text = rasctl(machine, &["pages", "list", "--json"])?;
    parse_pages(&text)
}

/// `rasctl pages show --json` of a page that is on the list. All of a long list would take minutes over
/// an emulated serial line.
pub(super) fn page(machine: &mut Machine, pfn: Pfn) -> Result<RetiredPage> {
    let address = pfn.addr().to_string();
    let text = rasctl(machine, &["pages", "show", &address, "--json"])?;
    let detail: PageDetail = serde_json::from_str(&text).context("reading a page")?;
    detail.page.context("it is not on the list")
}

/// The pages on the disk, without rasd.
pub(super) fn stored_pages(machine: &mut Machine) -> Result<Vec<RetiredPage>> {
    let store = ["--store", "/var/lib/rasd"];
    let text = rasctl(machine, &[&store[..], &["pages", "list", "--json"]].concat())?;
    parse_pages(&text)
}

fn parse_pages(text: &str) -> Result<Vec<RetiredPage>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading the page {line}")))
        .collect()
}

/// `rasctl pages list`, as people read it.
pub(super) fn listed(machine: &mut Machine) -> Result<Vec<String>> {
    Ok(rasctl(machine, &["pages", "list"])?.lines().map(str::to_owned).collect())
}

/// Waits until rasd lists `pfn` in `state`.
pub(super) fn listed_as(
    machine: &mut Machine,
    pfn: Pfn,
    state: RetireState,
) -> Result<RetiredPage> {
    until(&format!("{} to be {state}", pfn.addr()), || {
        let pages = pages(machine)?;
        Ok(match pages.iter().find(|page| page.pfn == pfn && page.state == state) {
            Some(page) => Ok(page.clone()),
            None => Err(format!("listed are {pages:?}")),
        })
    })
}

/// Waits until rasd lists `pfn` as retired.
pub(crate) fn retired(machine: &mut Machine, pfn: Pfn) -> Result<RetiredPage> {
    listed_as(machine, pfn, RetireState::Retired)
}

/// The first page of the kernel's own program.
pub(super) fn kernel_code(machine: &mut Machine) -> Result<Pfn> {
    let text = machine.read("/proc/iomem")?;
    let line = text.lines().find(|line| line.ends_with(": Kernel code"));
    let start = line.and_then(|line| line.trim().split_once('-')).context("no kernel code")?.0;
    let address = u64::from_str_radix(start, 16).context("an address in /proc/iomem")?;
    Ok(PhysAddr(address).pfn())
}

/// `HardwareCorrupted` of `/proc/meminfo`, in KiB.
pub(super) fn hardware_corrupted_kib(machine: &mut Machine) -> Result<u64> {
    let text = machine.read("/proc/meminfo")?;
    meminfo_kib(&text, "HardwareCorrupted").context("this kernel has no HardwareCorrupted")
}

/// Asks the kernel itself, past rasd, whether it marked the page as unusable.
pub(super) fn kernel_says_poisoned(machine: &mut Machine, pfn: Pfn) -> Result<Result<(), String>> {
    const KPF_HWPOISON: u64 = 1 << 19;
    let flags = machine.page_flags(pfn)?;
    Ok(expect(flags & KPF_HWPOISON != 0, || format!("its flags are {flags:#x}")))
}

fn rasctl(machine: &mut Machine, arguments: &[&str]) -> Result<String> {
    let command: Vec<&str> = ["/bin/rasctl"].iter().chain(arguments).copied().collect();
    let ran = machine.run(&command, SOON)?;
    ensure!(ran.code == Some(0), "{command:?} exited with {:?}: {}", ran.code, ran.stderr.trim());
    Ok(ran.stdout)
}

/// Repeats a question until its answer is good; the last bad one goes into the error.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let deadline = Instant::now() + SOON;
    loop {
        match ask()? {
            Ok(answer) => return Ok(answer),
            Err(last) if Instant::now() >= deadline => {
                bail!("waited {SOON:?} for {what}; {last}")
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The kernel's own trace, in an instance that rasd knows nothing of: a second witness.
pub(super) mod traced {
    use super::{Machine, Pfn, Result, until};

    const INSTANCE: &str = "/sys/kernel/tracing/instances/lab";

    /// Begins to watch.
    pub(in crate::walk) fn watch(machine: &mut Machine) -> Result<()> {
        machine.make_directory(INSTANCE)?;
        machine.write(&format!("{INSTANCE}/events/mce/mce_record/enable"), "1")
    }

    /// Number of `mce_record` events at `pfn`.
    pub(in crate::walk) fn count(machine: &mut Machine, pfn: Pfn) -> Result<usize> {
        let trace = machine.read(&format!("{INSTANCE}/trace"))?;
        let address = format!("{:016x}", pfn.addr().0);
        Ok(trace
            .lines()
            .filter(|line| line.contains("mce_record:") && line.contains(&address))
            .count())
    }

    /// Waits for the `number`th.
    pub(in crate::walk) fn wait(machine: &mut Machine, pfn: Pfn, number: usize) -> Result<()> {
        until(&format!("trace event {number} at {}", pfn.addr()), || {
            let seen = count(machine, pfn)?;
            Ok(if seen >= number { Ok(()) } else { Err(format!("{seen} so far")) })
        })
    }
}
