//! A guest moves house: with every write it made, with its poisoned pages as marks, and not at all when
//! the new house burns down.
//!
//! Each story starts real `rasvmm` processes on `/dev/kvm` with the bare-metal test guest inside, which
//! counts ticks and verifies its memory at every one of them.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ras_core::Gpa;
use ras_lab::vm::{Line, Vm, VmOptions};
use ras_qmp::RunState;
use ras_qmp::ras::MigrateStatus;
use serde_json::json;

/// Patience for what normally takes milliseconds, on a machine that may be busy with other things.
const SOON: Duration = Duration::from_secs(30);

/// First byte of the virtio-mem region of [`VmOptions::named`].
const VIRTIO_MEM: Gpa = Gpa(4 << 30);

/// A guest with a working set that changes, and a ring it dirties as fast as it can.
fn busy() -> VmOptions {
    VmOptions {
        cmdline: "work=512 dirty=2048".to_owned(),
        fault_injection: true,
        ..VmOptions::named("vm1")
    }
}

/// Directory for migration sockets.
struct Harbour(tempfile::TempDir);

impl Harbour {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::TempDir::with_prefix("ras-migrate-")?))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("in")
    }

    fn uri(&self) -> String {
        format!("unix:{}", self.path().display())
    }
}

/// A machine that waits for `source` at `uri`, and listens already.
fn await_arrival(source: &Vm, uri: &str) -> Result<Vm> {
    let destination = Vm::start(source.options().incoming(uri))?;
    // It listens for the guest before it answers here.
    ensure!(destination.qmp()?.query_status()? == RunState::Inmigrate, "not waiting for a guest");
    Ok(destination)
}

fn migrate(source: &Vm, uri: &str) -> Result<MigrateStatus> {
    let mut qmp = source.qmp()?;
    qmp.migrate(uri)?;
    Ok(qmp.wait_migrated(SOON)?)
}

/// The guest lives at the destination and lost nothing on the way.
fn check_moved(source: &Vm, destination: &Vm, status: &MigrateStatus) -> Result<()> {
    ensure!(status.is_completed(), "{status:?}");
    destination.wait_line(|line| line.tick().is_some(), SOON)?;
    destination.wait_ticks(20, SOON)?;
    destination.assert_counter_continues(source)?;
    for vm in [source, destination] {
        ensure!(vm.bad_sums().is_empty(), "memory changed: {:?}", vm.bad_sums());
    }
    ensure!(source.qmp()?.query_status()? == RunState::Postmigrate);
    ensure!(destination.qmp()?.query_status()? == RunState::Running);
    ensure!(
        source.qmp()?.execute("cont", json!(null), SOON).is_err(),
        "the source must never run the guest again"
    );
    let downtime = status.downtime.context("no downtime")?;
    let total = status.total_time.context("no total time")?;
    println!("moved in {total} ms with a gap of {downtime} ms: {:?}", status.rest.get("ram"));
    Ok(())
}

/// The guest goes on at the source as if nothing had happened.
fn check_stayed(source: &Vm, status: &MigrateStatus) -> Result<()> {
    ensure!(!status.is_completed(), "{status:?}");
    source.wait_ticks(20, SOON)?;
    source.assert_counter_monotonic()?;
    ensure!(source.bad_sums().is_empty(), "memory changed: {:?}", source.bad_sums());
    ensure!(source.qmp()?.query_status()? == RunState::Running);
    Ok(())
}

/// Slows the source down, so that there is a middle of the migration to interfere with.
fn crawl(source: &Vm, bytes_per_s: u64) -> Result<()> {
    let crawl = json!({ "max-bandwidth": bytes_per_s });
    source.qmp()?.execute("migrate-set-parameters", crawl, SOON)?;
    Ok(())
}

/// A migration that is well under way, slowly: a middle to interfere with.
struct UnderWay {
    harbour: Harbour,
    source: Vm,
    destination: Vm,
}

impl UnderWay {
    fn start(options: VmOptions, bytes_per_s: u64) -> Result<Self> {
        let harbour = Harbour::new()?;
        let source = Vm::start(options)?;
        source.wait_tick(10, SOON)?;
        let destination = await_arrival(&source, &harbour.uri())?;
        crawl(&source, bytes_per_s)?;
        source.qmp()?.migrate(&harbour.uri())?;
        wait_half_way(&source)?;
        Ok(Self { harbour, source, destination })
    }
}

/// Waits until the migration that was started is well under way.
fn wait_half_way(source: &Vm) -> Result<()> {
    let mut qmp = source.qmp()?;
    let deadline = Instant::now() + SOON;
    loop {
        let status = qmp.query_migrate()?;
        ensure!(!status.is_over(), "over before the middle: {status:?}");
        let transferred = status.rest.get("ram").and_then(|ram| ram.get("transferred")?.as_u64());
        if transferred.is_some_and(|bytes| bytes > 1 << 20) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no progress: {status:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn skip() -> bool {
    ras_lab::capability::kvm().inspect_err(|why| println!("skipped: {why}")).is_err()
}

#[test]
fn a_busy_guest_moves_over_a_unix_socket_and_on_from_there() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let harbour = Harbour::new()?;
    let mut home = Vm::start(busy())?;
    home.wait_tick(20, SOON)?;
    for _ in 0..3 {
        let next = await_arrival(&home, &harbour.uri())?;
        let status = migrate(&home, &harbour.uri())?;
        check_moved(&home, &next, &status)?;
        home = next;
    }
    Ok(())
}

#[test]
fn a_busy_guest_moves_over_tcp() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let source = Vm::start(busy())?;
    source.wait_tick(20, SOON)?;
    // Free a moment ago; that nobody else takes it meanwhile is very likely on a loopback.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let uri = format!("tcp:127.0.0.1:{port}");
    let destination = await_arrival(&source, &uri)?;
    let status = migrate(&source, &uri)?;
    check_moved(&source, &destination, &status)
}

#[test]
fn poisoned_pages_travel_as_marks_and_stay_poisoned() -> Result<()> {
    if skip() {
        return Ok(());
    }
    // The guest will read this page at every tick; it lies in RAM beyond its working set.
    let touched = Gpa(0x2f0_0000);
    let pages = [touched, VIRTIO_MEM, Gpa(VIRTIO_MEM.0 + (2 << 20) + 0x3000)];
    let cmdline = format!("work=64 touch={touched}");
    let source = Vm::start(VmOptions { cmdline, ..busy() })?;
    source.wait_tick(10, SOON)?;

    // Poisoned while it stands still: the guest must not know before it has moved.
    let mut qmp = source.qmp()?;
    qmp.execute("stop", json!(null), SOON)?;
    let mark = source.mark();
    for page in pages {
        qmp.inject_poison(page)?;
    }
    let harbour = Harbour::new()?;
    let destination = await_arrival(&source, &harbour.uri())?;
    let status = migrate(&source, &harbour.uri())?;
    ensure!(status.is_completed(), "{status:?}");
    ensure!(status.x_ras_poisoned_pages == Some(3), "{status:?}");
    let heard = source.lines().into_iter().skip(mark).any(|line| line.text.starts_with("#MC"));
    ensure!(!heard, "the guest was to learn of it at the destination");

    // A guest that was paused arrives paused.
    let mut qmp = destination.qmp()?;
    ensure!(qmp.query_status()? == RunState::Paused);
    let listed: Vec<Gpa> = qmp.memory_map()?.poisoned.iter().map(|page| page.gpa).collect();
    ensure!(listed == pages, "listed are {listed:?}");

    qmp.execute("cont", json!(null), SOON)?;
    let told = |line: &Line| {
        line.text.starts_with("#MC")
            && line.number("addr").is_some_and(|at| Gpa(at).page() == touched)
    };
    destination.wait_line(told, SOON).context("touching the page raised no machine check")?;
    let lost = |line: &Line| line.text == format!("lost page={touched}");
    destination.wait_line(lost, SOON).context("the guest did not understand")?;
    destination.wait_ticks(20, SOON)?;
    destination.assert_counter_continues(&source)?;
    ensure!(destination.bad_sums().is_empty(), "{:?}", destination.bad_sums());
    Ok(())
}

#[test]
fn a_page_that_dies_in_the_middle_of_the_move_goes_along_as_a_mark() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let options = VmOptions { cmdline: "work=768".to_owned(), ..busy() };
    // The guest looks at each page every few ticks, which take long on a busy machine.
    let UnderWay { harbour: _harbour, source, destination } = UnderWay::start(options, 512 << 10)?;
    let mut qmp = source.qmp()?;
    // The first page of the first block is in the working set: the guest notices at once.
    qmp.inject_poison(VIRTIO_MEM)?;
    let lost = format!("lost page={VIRTIO_MEM}");
    source.wait_line(|line| line.text == lost, SOON).context("it did not notice")?;
    ensure!(!qmp.query_migrate()?.is_over(), "it noticed too late for this story");
    let status = qmp.wait_migrated(SOON)?;
    check_moved(&source, &destination, &status)?;
    ensure!(status.x_ras_poisoned_pages == Some(1), "{status:?}");
    let listed = destination.qmp()?.memory_map()?.poisoned;
    ensure!(listed.iter().map(|page| page.gpa).eq([VIRTIO_MEM]), "listed are {listed:?}");
    Ok(())
}

#[test]
fn a_destination_that_dies_half_way_costs_nothing_and_the_next_try_works() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let UnderWay { harbour, source, destination: doomed } = UnderWay::start(busy(), 2 << 20)?;
    doomed.kill()?;
    let status = source.qmp()?.wait_migrated(SOON)?;
    ensure!(status.status.as_deref() == Some("failed"), "{status:?}");
    ensure!(
        status.error_desc.as_deref().is_some_and(|why| why.contains("peer closed")),
        "{status:?}"
    );
    check_stayed(&source, &status)?;

    let unlimited = json!({ "max-bandwidth": 0 });
    source.qmp()?.execute("migrate-set-parameters", unlimited, SOON)?;
    let destination = await_arrival(&source, &harbour.uri())?;
    let status = migrate(&source, &harbour.uri())?;
    check_moved(&source, &destination, &status)
}

#[test]
fn a_source_that_dies_half_way_leaves_no_half_guest() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let UnderWay { harbour: _harbour, source, destination } = UnderWay::start(busy(), 2 << 20)?;
    source.kill()?;
    let status = destination.wait_exit(SOON)?;
    ensure!(!status.success(), "{status}");
    ensure!(destination.log().contains("peer closed"), "{}", destination.log());
    ensure!(destination.lines().is_empty(), "it ran: {:?}", destination.lines());
    Ok(())
}

#[test]
fn a_cancelled_guest_stays() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let UnderWay { harbour: _harbour, source, destination } = UnderWay::start(busy(), 2 << 20)?;
    source.qmp()?.execute("migrate_cancel", json!(null), SOON)?;
    let status = source.qmp()?.wait_migrated(SOON)?;
    ensure!(status.status.as_deref() == Some("cancelled"), "{status:?}");
    check_stayed(&source, &status)?;
    ensure!(!destination.wait_exit(SOON)?.success(), "the destination has no guest");
    Ok(())
}

#[test]
fn a_machine_of_another_shape_refuses_the_guest_in_words() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let harbour = Harbour::new()?;
    let source = Vm::start(busy())?;
    source.wait_tick(10, SOON)?;
    let smaller = VmOptions { memory_mib: 32, ..source.options().incoming(&harbour.uri()) };
    let destination = Vm::start(smaller)?;
    destination.qmp()?;
    let status = migrate(&source, &harbour.uri())?;
    let why = status.error_desc.clone().unwrap_or_default();
    ensure!(why.contains("the incoming VM does not fit: its memory is 67108864 bytes"), "{why}");
    check_stayed(&source, &status)?;
    ensure!(!destination.wait_exit(SOON)?.success());
    Ok(())
}

#[test]
fn garbage_at_the_door_is_called_garbage() -> Result<()> {
    if skip() {
        return Ok(());
    }
    let harbour = Harbour::new()?;
    let destination = Vm::start(busy().incoming(&harbour.uri()))?;
    destination.qmp()?;
    UnixStream::connect(harbour.path())?.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let status = destination.wait_exit(SOON)?;
    ensure!(!status.success(), "{status}");
    let log = destination.log();
    ensure!(log.contains("not a rasvmm migration stream"), "{log}");
    ensure!(destination.lines().is_empty(), "it ran: {:?}", destination.lines());
    Ok(())
}
