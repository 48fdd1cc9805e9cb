//! A guest loses memory and lives: told by a machine check, relieved of the bad block while it runs,
//! given a healthy one in exchange. And what happens when it will not, or can't, give the block up.
//!
//! Each story starts a real `rasvmm` on `/dev/kvm` with the bare-metal test guest inside, which counts
//! ticks and verifies its memory at every one of them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ras_core::Gpa;
use ras_lab::vm::{Line, VirtioMem, Vm, VmOptions};
use ras_qmp::ras::{RetireCause, RetireOutcome};
use ras_qmp::{Client, QmpError, RunState};
use serde_json::{Value, json};

/// Patience for what normally takes milliseconds, on a machine that may be busy with other things.
const SOON: Duration = Duration::from_secs(30);

/// A deadline no guest needs that gives blocks up at all.
const AMPLE: Duration = Duration::from_secs(20);

/// First byte of the virtio-mem region of [`VmOptions::named`].
const VIRTIO_MEM: u64 = 4 << 30;

/// Size of a block in bytes.
const BLOCK: u64 = 2 << 20;

const PAGE: u64 = 4096;

/// Says why a story can't be told here, if so.
fn skipped() -> bool {
    ras_lab::capability::kvm().inspect_err(|why| eprintln!("skipped: {why}")).is_err()
}

fn page_of_block(number: u64) -> Gpa {
    Gpa(VIRTIO_MEM + number * BLOCK + 3 * PAGE)
}

/// A guest that has started, and may be injured.
fn guest(cmdline: &str) -> Result<(Vm, Client)> {
    let cmdline = cmdline.to_owned();
    started(VmOptions { cmdline, fault_injection: true, ..VmOptions::named("vm1") })
}

fn started(options: VmOptions) -> Result<(Vm, Client)> {
    let vm = Vm::start(options)?;
    vm.wait_tick(3, SOON)?;
    let qmp = vm.qmp()?;
    Ok((vm, qmp))
}

fn memory_device(qmp: &mut Client) -> Result<(u64, u64)> {
    let devices = qmp.execute("query-memory-devices", Value::Null, SOON)?;
    let size = |name: &str| devices.pointer(&format!("/0/data/{name}")).and_then(Value::as_u64);
    let found = size("size").zip(size("requested-size"));
    found.with_context(|| format!("unexpected answer {devices}"))
}

/// Waits until the guest has plugged what it was asked to.
fn wait_for_size(qmp: &mut Client, wanted: u64) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let (size, requested) = memory_device(qmp)?;
        if size == wanted && requested == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "size {size}, requested {requested}, not {wanted}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The guest goes on, and all it wrote is still there.
fn lives(vm: &Vm) -> Result<()> {
    vm.wait_ticks(5, SOON)?;
    let bad = vm.bad_sums();
    ensure!(bad.is_empty(), "memory did not hold what was written to it: {bad:?}");
    vm.assert_counter_monotonic()
}

fn about(line: &Line, what: &str, key: &str, gpa: u64) -> bool {
    line.text.starts_with(what) && line.number(key) == Some(gpa)
}

#[test]
fn a_guest_boots_and_is_driven() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let ready = vm.wait_ready(SOON)?;
    assert_eq!((ready.ram, ready.vmem, ready.plugged), (64 << 20, 64 << 20, 32 << 20));
    assert_eq!(qmp.query_status()?, RunState::Running);
    let name = qmp.execute("query-name", Value::Null, SOON)?;
    assert_eq!(name, json!({ "name": "vm1" }));

    qmp.execute("stop", Value::Null, SOON)?;
    assert_eq!(qmp.query_status()?, RunState::Paused);
    // What the serial line had printed by then has arrived.
    std::thread::sleep(Duration::from_millis(100));
    let lines = vm.lines().len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(vm.lines().len(), lines, "a stopped guest says nothing");
    qmp.execute("cont", Value::Null, SOON)?;
    lives(&vm)?;

    for megabytes in [40, 16, 64, 32] {
        let size = megabytes << 20;
        let arguments = json!({
            "path": "/machine/peripheral/vmem0", "property": "requested-size", "value": size,
        });
        qmp.execute("qom-set", arguments, SOON)?;
        wait_for_size(&mut qmp, size)?;
    }
    lives(&vm)?;

    qmp.execute("quit", Value::Null, SOON)?;
    assert_eq!(vm.wait_exit(SOON)?.code(), Some(0));
    assert!(!vm.qmp_path().exists(), "the socket is removed");
    Ok(())
}

#[test]
fn a_bad_block_leaves_while_the_guest_ticks() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let (bad, block) = (page_of_block(5), VIRTIO_MEM + 5 * BLOCK);
    let pfn = qmp.inject_poison(bad)?;

    let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    assert_eq!(answer.blocks, [Gpa(block)]);
    vm.wait_line(|line| about(line, "unplug", "gpa", block), SOON)?;

    // A healthy block takes its place; the bad one is asked for in vain, and its page is kept.
    wait_for_size(&mut qmp, 32 << 20)?;
    let plugs = vm.lines().into_iter().filter(|line| about(line, "plug", "gpa", block)).count();
    assert_eq!(plugs, 0, "the bad block must not come back");
    let map = qmp.memory_map()?;
    let [page] = map.poisoned.as_slice() else { panic!("one page is bad: {:?}", map.poisoned) };
    assert_eq!((page.gpa, page.pfn, page.held), (bad, pfn, true));

    // Doing it again changes nothing.
    let again = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!((again.outcome, again.blocks), (RetireOutcome::Unplugged, vec![Gpa(block)]));
    assert_eq!(memory_device(&mut qmp)?, (32 << 20, 32 << 20));
    lives(&vm)?;

    let mut events = Vec::new();
    while let Some(event) = qmp.next_event(Duration::from_millis(10))? {
        events.push(event);
    }
    let failure = events.iter().find(|event| event.event == "MEMORY_FAILURE");
    let failure = failure.context("MEMORY_FAILURE was not sent")?;
    assert_eq!(failure.data["recipient"], "guest");
    assert_eq!(failure.data["action"], "inject");
    assert_eq!(failure.data["x-ras-gpa"], json!(bad));
    let sizes = events.iter().filter(|event| event.event == "MEMORY_DEVICE_SIZE_CHANGE");
    let sizes: Vec<_> = sizes.filter_map(|event| event.data["size"].as_u64()).collect();
    assert_eq!(sizes, [30 << 20, 32 << 20]);
    Ok(())
}

#[test]
fn a_failing_block_leaves_with_its_data_saved() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    // More of the block than is worth other frames.
    let failing = Gpa(VIRTIO_MEM + 2 * BLOCK);
    let answer = qmp.retire_range(failing, BLOCK, RetireCause::Corrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    vm.wait_line(|line| about(line, "CMC", "addr", failing.0), SOON)?;
    wait_for_size(&mut qmp, 32 << 20)?;
    lives(&vm)?;
    assert_eq!(vm.last_tick().context("it ticked")?.mce, 0, "nobody was interrupted");
    let lost = vm.lines().into_iter().find(|line| line.text.starts_with("lost page"));
    assert_eq!(lost, None);
    let held = qmp.memory_map()?.poisoned;
    assert!(held.iter().any(|page| page.gpa == failing && page.held), "{held:?}");
    Ok(())
}

#[test]
fn a_failing_page_gets_another_frame_and_the_guest_notices_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let before = qmp.memory_map()?;
    let frames = Frames::of(&before)?;
    let plugged = vm.wait_ready(SOON)?.plugged;
    // Boot memory with the guest's code, stack and page tables among it, and its working set, which it
    // verifies and rewrites with every tick.
    let ranges = [(Gpa(0x10_0000), 64), (Gpa(0x110_0000), 256), (Gpa(VIRTIO_MEM), 256)];
    let mut moved = 0;
    for _round in 0..3 {
        for (gpa, count) in ranges {
            let old: Vec<_> = (0..count).map(|page| frames.at(Gpa(gpa.0 + page * PAGE))).collect();
            let answer = qmp.retire_range(gpa, count * PAGE, RetireCause::Corrected, AMPLE)?;
            assert_eq!(answer.outcome, RetireOutcome::Replaced, "{answer:?}");
            assert!(answer.paused_us > 0 && answer.paused_us <= answer.elapsed_us, "{answer:?}");
            for (page, old) in (0..).zip(old) {
                let new = frames.at(Gpa(gpa.0 + page * PAGE));
                assert_ne!(new, None, "page {page} from {gpa} has a frame");
                moved += u64::from(old.is_some() && new != old);
                assert!(old.is_none() || new != old, "page {page} from {gpa} kept its frame");
            }
        }
        lives(&vm)?;
    }
    assert!(moved > 3 * 64, "{moved} pages had frames that changed");
    assert_eq!(vm.last_tick().context("it ticked")?.mce, 0, "nobody was interrupted");
    let after = qmp.memory_map()?;
    assert_eq!((after.regions, after.poisoned), (before.regions, vec![]), "no page of it is bad");

    // A page whose data is lost has nothing to be moved.
    let lost = Gpa(VIRTIO_MEM + 7 * PAGE);
    qmp.inject_poison(lost)?;
    let answer = qmp.retire_range(lost, PAGE, RetireCause::Corrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    wait_for_size(&mut qmp, plugged)?;
    lives(&vm)
}

/// The frames behind a guest's memory, which root may see.
struct Frames {
    pagemap: std::fs::File,
    regions: Vec<ras_qmp::ras::Region>,
}

impl Frames {
    fn of(map: &ras_qmp::ras::MemoryMap) -> Result<Self> {
        let pagemap = std::fs::File::open(format!("/proc/{}/pagemap", map.pid))?;
        Ok(Self { pagemap, regions: map.regions.clone() })
    }

    /// Linux, Documentation/admin-guide/mm/pagemap.rst: bit 63 is "present", bits 54:0 the frame.
    fn at(&self, gpa: Gpa) -> Option<u64> {
        use std::os::unix::fs::FileExt as _;
        let region = self.regions.iter().find(|region| {
            gpa.0.checked_sub(region.gpa.0).is_some_and(|offset| offset < region.size)
        })?;
        let mut entry = [0; 8];
        let at = (region.hva + (gpa.0 - region.gpa.0)) / PAGE * 8;
        self.pagemap.read_exact_at(&mut entry, at).ok()?;
        let entry = u64::from_ne_bytes(entry);
        (entry >> 63 == 1).then_some(entry & ((1 << 55) - 1))
    }
}

#[test]
fn block_after_block_can_leave_until_no_spare_is_left() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let virtio_mem = Some(VirtioMem { region_mib: 20, requested_mib: 16 });
    let (vm, mut qmp) =
        started(VmOptions { virtio_mem, fault_injection: true, ..VmOptions::named("vm1") })?;
    // Ten blocks, eight of them plugged: two can be replaced, the third is missed.
    for (number, size) in [(0, 16), (3, 16), (7, 14)] {
        let bad = page_of_block(number);
        qmp.inject_poison(bad)?;
        let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
        assert_eq!(answer.outcome, RetireOutcome::Unplugged, "block {number}: {answer:?}");
        assert_eq!(answer.detail.contains("no spare block"), size == 14, "{answer:?}");
        wait_for_size(&mut qmp, size << 20)?;
        lives(&vm)?;
    }
    assert_eq!(qmp.memory_map()?.poisoned.iter().filter(|page| page.held).count(), 3);
    Ok(())
}

#[test]
fn a_guest_that_refuses_keeps_its_block_and_its_size() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("refuse")?;
    let (bad, deadline) = (page_of_block(5), Duration::from_millis(700));
    qmp.inject_poison(bad)?;
    let asked = Instant::now();
    let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, deadline)?;
    assert!(asked.elapsed() >= deadline);
    assert!(asked.elapsed() < deadline + Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(answer.outcome, RetireOutcome::Refused);
    assert!(answer.detail.contains("did not give the block up within 700 ms"), "{answer:?}");
    assert_eq!(memory_device(&mut qmp)?, (32 << 20, 32 << 20), "as before");
    let poisoned = qmp.memory_map()?.poisoned;
    assert!(poisoned.iter().all(|page| !page.held), "{poisoned:?}");
    lives(&vm)
}

#[test]
fn two_clients_get_both_their_blocks_out() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let outcomes = std::thread::scope(|scope| {
        let retire = |number| {
            let vm = &vm;
            move || -> Result<RetireOutcome> {
                let bad = page_of_block(number);
                let mut qmp = vm.qmp()?;
                qmp.inject_poison(bad)?;
                Ok(qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?.outcome)
            }
        };
        let threads = [1, 6].map(|number| scope.spawn(retire(number)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    for outcome in outcomes {
        assert_eq!(outcome?, RetireOutcome::Unplugged);
    }
    wait_for_size(&mut qmp, 32 << 20)?;
    assert_eq!(qmp.memory_map()?.poisoned.iter().filter(|page| page.held).count(), 2);
    lives(&vm)
}

#[test]
fn a_guest_on_the_move_keeps_its_blocks_until_it_has_arrived_or_stayed() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("work=512")?;
    let uri = format!("unix:{}", vm.dir().join("migration").display());
    let elsewhere = Vm::start(vm.options().incoming(&uri))?;
    elsewhere.qmp()?;
    // Slow enough that there is a middle.
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }), SOON)?;
    qmp.migrate(&uri)?;
    let deadline = Instant::now() + SOON;
    while qmp.query_migrate()?.status.as_deref() == Some("setup") {
        ensure!(Instant::now() < deadline, "the migration does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let bad = page_of_block(5);
    let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Refused, "{answer:?}");
    assert!(answer.detail.contains("migration is under way"), "{answer:?}");
    assert!(answer.elapsed_us < 5_000_000, "{answer:?}");

    qmp.execute("migrate_cancel", Value::Null, SOON)?;
    let status = qmp.wait_migrated(SOON)?;
    assert_eq!(status.status.as_deref(), Some("cancelled"));
    let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    lives(&vm)
}

#[test]
fn boot_memory_is_refused_at_once() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let answer = qmp.retire_range(Gpa(0x200_1000), PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Refused);
    assert!(answer.detail.contains("boot memory"), "{answer:?}");
    assert!(answer.elapsed_us < 1_000_000, "{answer:?}");

    let outside = qmp.retire_range(Gpa(VIRTIO_MEM - PAGE), PAGE, RetireCause::Corrected, AMPLE);
    assert!(matches!(outside, Err(QmpError::Command { .. })), "{outside:?}");

    qmp.execute("stop", Value::Null, SOON)?;
    let answer = qmp.retire_range(page_of_block(1), PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Refused);
    assert!(answer.detail.contains("not running"), "{answer:?}");
    qmp.execute("cont", Value::Null, SOON)?;
    lives(&vm)
}

#[test]
fn a_touch_of_poison_is_a_machine_check_and_not_the_end() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let bad = page_of_block(5);
    let (vm, mut qmp) = guest(&format!("touch={bad}"))?;
    qmp.inject_poison(bad)?;
    vm.wait_line(|line| about(line, "#MC", "addr", bad.0), SOON)?;
    lives(&vm)?;
    assert_eq!(qmp.query_status()?, RunState::Running);
    let touched = |event: &ras_qmp::Event| {
        event.event == "MEMORY_FAILURE" && event.data["flags"]["action-required"] == true
    };
    let mut failures = 0;
    let checks = vm.lines().into_iter().filter(|line| about(line, "#MC", "addr", bad.0)).count();
    assert!(checks <= 3, "the guest knows by now: {checks} machine checks");
    while let Some(event) = qmp.next_event(Duration::from_millis(50))? {
        failures += u32::from(touched(&event));
    }
    assert_eq!(failures, 1, "however often it is touched");

    // And then the block leaves like any other.
    let answer = qmp.retire_range(bad, PAGE, RetireCause::Uncorrected, AMPLE)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    lives(&vm)
}

#[test]
fn poison_in_the_working_set_costs_that_page_only() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    // Every page of memory is in use, so whichever is hit is touched soon.
    let (vm, mut qmp) = guest("work=512")?;
    let pages = [Gpa(VIRTIO_MEM), Gpa(VIRTIO_MEM + BLOCK)];
    for page in pages {
        qmp.inject_poison(page)?;
    }
    for page in pages {
        vm.wait_line(|line| about(line, "#MC", "addr", page.0), SOON)?;
        vm.wait_line(|line| about(line, "lost page", "page", page.0), SOON)?;
    }
    lives(&vm)
}

#[test]
fn only_those_who_may_can_injure() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = started(VmOptions::named("vm1"))?;
    let error = qmp.inject_poison(page_of_block(1)).expect_err("it was not allowed");
    assert!(format!("{:#}", anyhow::Error::new(error)).contains("--allow-fault-injection"));
    lives(&vm)?;
    assert_eq!(qmp.memory_map()?.poisoned, []);
    Ok(())
}

#[test]
fn nonsense_over_qmp_costs_nothing_but_an_error() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    let garbage: [&[u8]; 5] = [
        b"\xff\xfe\x00garbage\n",
        b"{\"execute\":",
        &[b'['; 100_000],
        b"{\"execute\":\"quit\"}\n",
        b"{}{}{}[]\n1\n\"quit\"\n",
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(vm.qmp_path())?;
        // The machine may hang up first.
        let _ = stream.write_all(bytes);
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let _ = stream.read(&mut [0; 4096]);
    }
    let wrong = [
        ("no-such-command", json!({})),
        ("stop", json!({ "extra": 1 })),
        ("qom-set", json!({ "path": "vmem0", "property": "requested-size", "value": 1 })),
        ("qom-set", json!({ "path": "vmem0", "property": "requested-size", "value": 1u64 << 40 })),
        ("qom-set", json!({ "path": "vmem0", "property": "requested-size", "value": -1 })),
        ("qom-set", json!({ "path": "vmem9", "property": "requested-size", "value": 0 })),
        ("qom-get", json!({ "path": "vmem0", "property": "colour" })),
        ("x-ras-retire-range", json!({ "gpa": u64::MAX, "size": 4096, "cause": "uncorrected" })),
        ("x-ras-retire-range", json!({ "gpa": 0, "size": u64::MAX, "cause": "uncorrected" })),
        ("x-ras-retire-range", json!({ "gpa": 0, "size": 0, "cause": "uncorrected" })),
        ("x-ras-retire-range", json!({ "gpa": 0, "size": 4096, "cause": "boredom" })),
        ("x-ras-inject-poison", json!({ "gpa": 1u64 << 50 })),
        ("x-ras-inject-poison", json!({ "gpa": VIRTIO_MEM + (60 << 20) })),
        ("migrate", json!({ "uri": "carrier-pigeon:coop" })),
        ("migrate-set-parameters", json!({ "downtime-limit": u64::MAX })),
    ];
    for (command, arguments) in wrong {
        let answer = qmp.execute(command, arguments.clone(), SOON);
        let refused = matches!(answer, Err(QmpError::Command { .. }));
        assert!(refused, "{command} {arguments}: {answer:?}");
    }
    assert_eq!(memory_device(&mut qmp)?, (32 << 20, 32 << 20));
    lives(&vm)
}

#[test]
fn sigterm_is_a_clean_end() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("")?;
    kill(Pid::from_raw(i32::try_from(vm.pid())?), Signal::SIGTERM)?;
    assert_eq!(vm.wait_exit(SOON)?.code(), Some(0));
    assert!(!vm.qmp_path().exists(), "the socket is removed");
    let mut shut_down = false;
    while let Ok(Some(event)) = qmp.next_event(Duration::from_millis(50)) {
        shut_down |= event.event == "SHUTDOWN" && event.data["reason"] == "host-signal";
    }
    assert!(shut_down, "the end is announced");
    Ok(())
}
