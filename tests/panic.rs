//! A guest panics, hangs or dies, or says so: what is told to whom, what is done, what is left.
//!
//! Each story starts a real `rasvmm` on `/dev/kvm` with the bare-metal test guest inside, which does at
//! a tick what it is told to.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ras_core::Gpa;
use ras_lab::vm::{Line, Vm, VmOptions};
use ras_qmp::ras::{RetireCause, RetireOutcome};
use ras_qmp::{Client, QmpError, RunState};
use serde_json::{Value, json};

/// Patience for what normally takes milliseconds, on a machine that may be busy with other things.
const SOON: Duration = Duration::from_secs(30);

/// First byte of the virtio-mem region of [`VmOptions::named`].
const VIRTIO_MEM: u64 = 4 << 30;

const BLOCK: u64 = 2 << 20;

const PAGE: u64 = 4096;

/// Says why a story can't be told here, if so.
fn skipped() -> bool {
    ras_lab::capability::kvm().inspect_err(|why| eprintln!("skipped: {why}")).is_err()
}

/// A guest that will do what its `cmdline` says, under these actions; and a client that hears of it.
fn guest(cmdline: &str, actions: &str) -> Result<(Vm, Client)> {
    let action = (!actions.is_empty()).then(|| format!("--action={actions}"));
    let vm = Vm::start(VmOptions {
        cmdline: cmdline.to_owned(),
        fault_injection: true,
        arguments: action.into_iter().collect(),
        ..VmOptions::named("vm1")
    })?;
    let qmp = vm.qmp()?;
    Ok((vm, qmp))
}

/// The events up to and with the first named `last`, each as its name and data.
fn events(qmp: &mut Client, last: &str) -> Result<Vec<(String, Value)>> {
    let deadline = Instant::now() + SOON;
    let mut heard = Vec::new();
    while Instant::now() < deadline {
        // The memory device's are another story's.
        let event = qmp.next_event(Duration::from_millis(50))?;
        let Some(event) = event.filter(|event| event.event != "MEMORY_DEVICE_SIZE_CHANGE") else {
            continue;
        };
        let done = event.event == last;
        heard.push((event.event, event.data));
        if done {
            return Ok(heard);
        }
    }
    anyhow::bail!("no {last} among {heard:?}")
}

fn named(events: &[(&str, Value)]) -> Vec<(String, Value)> {
    events.iter().map(|(name, data)| ((*name).to_owned(), data.clone())).collect()
}

fn choose(qmp: &mut Client, choice: &Value) -> Result<()> {
    qmp.execute("set-action", choice.clone(), SOON)?;
    Ok(())
}

fn starts(vm: &Vm) -> usize {
    vm.lines().iter().filter(|line| line.ready().is_some()).count()
}

/// The guest starts once more, and lives.
fn starts_again(vm: &Vm, mark: usize) -> Result<()> {
    vm.wait_line_from(mark, |line| line.ready().is_some(), SOON)?;
    vm.wait_line_from(mark, |line| line.tick().is_some_and(|tick| tick.number == 3), SOON)?;
    ensure!(vm.bad_sums().is_empty(), "memory did not hold what was written: {:?}", vm.bad_sums());
    Ok(())
}

#[test]
fn a_panic_stops_the_guest_to_be_looked_at() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("pvpanic=1 at=40", "")?;
    vm.wait_line(|line| line.text == "pvpanic events=0x7", SOON)?;
    let heard = events(&mut qmp, "STOP")?;
    let expected = [("GUEST_PANICKED", json!({ "action": "pause" })), ("STOP", json!({}))];
    assert_eq!(heard, named(&expected));
    assert_eq!(qmp.query_status()?, RunState::GuestPanicked);
    let status = qmp.execute("query-status", Value::Null, SOON)?;
    assert_eq!((&status["running"], &status["status"]), (&json!(false), &json!("guest-panicked")));
    let ticks = vm.last_tick();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(vm.last_tick(), ticks, "it stands still");

    // Its kernel may have plans.
    qmp.execute("cont", Value::Null, SOON)?;
    vm.wait_ticks(5, SOON)?;
    vm.assert_counter_monotonic()?;
    assert_eq!(qmp.query_status()?, RunState::Running);
    Ok(())
}

#[test]
fn a_panic_ends_the_process_or_nothing_as_chosen() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let panicked = json!({ "action": "poweroff" });
    let shutdown = json!({ "guest": true, "reason": "guest-panic" });
    let ends = named(&[
        ("GUEST_PANICKED", panicked.clone()),
        ("STOP", json!({})),
        ("SHUTDOWN", shutdown.clone()),
    ]);
    for (action, code) in [("panic=shutdown", 0), ("panic=exit-failure", 5)] {
        let (vm, mut qmp) = guest("pvpanic=1 at=40", action)?;
        assert_eq!(events(&mut qmp, "SHUTDOWN")?, ends, "{action}");
        assert_eq!(vm.wait_exit(SOON)?.code(), Some(code), "{action}");
    }

    // "panic=shutdown" with a shutdown that is none stops it as a panic does.
    let (_vm, mut qmp) = guest("pvpanic=1 at=40", "panic=shutdown,shutdown=pause")?;
    events(&mut qmp, "STOP")?;
    assert_eq!(qmp.query_status()?, RunState::GuestPanicked);

    let (vm, mut qmp) = guest("pvpanic=1 at=40", "")?;
    choose(&mut qmp, &json!({ "panic": "none" }))?;
    let heard = events(&mut qmp, "GUEST_PANICKED")?;
    assert_eq!(heard, named(&[("GUEST_PANICKED", json!({ "action": "run" }))]));
    vm.wait_ticks(5, SOON)?;
    assert_eq!(qmp.query_status()?, RunState::Running);
    Ok(())
}

#[test]
fn a_crash_kernel_is_let_run_and_a_shutdown_is_one() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("pvpanic=2 at=40", "panic=exit-failure")?;
    let heard = events(&mut qmp, "GUEST_CRASHLOADED")?;
    assert_eq!(heard, named(&[("GUEST_CRASHLOADED", json!({ "action": "run" }))]));
    vm.wait_ticks(5, SOON)?;
    assert_eq!(qmp.query_status()?, RunState::Running);

    let shutdown = ("SHUTDOWN", json!({ "guest": true, "reason": "guest-shutdown" }));
    let (vm, mut qmp) = guest("pvpanic=4 at=40", "")?;
    let heard = events(&mut qmp, "SHUTDOWN")?;
    assert_eq!(heard, named(&[("GUEST_PVSHUTDOWN", json!({})), shutdown]));
    assert_eq!(vm.wait_exit(SOON)?.code(), Some(0));

    // A shutdown that leaves the process: for somebody to look, or to start the guest again.
    let (vm, mut qmp) = guest("pvpanic=4 at=40", "shutdown=pause")?;
    events(&mut qmp, "STOP")?;
    assert_eq!(qmp.query_status()?, RunState::Shutdown);
    assert!(matches!(qmp.execute("cont", Value::Null, SOON), Err(QmpError::Command { .. })));
    let mark = vm.mark();
    qmp.execute("system_reset", Value::Null, SOON)?;
    let heard = events(&mut qmp, "RESET")?;
    let reset = json!({ "guest": false, "reason": "host-qmp-system-reset" });
    assert_eq!(heard, named(&[("RESET", reset)]));
    assert_eq!(qmp.query_status()?, RunState::Paused);
    qmp.execute("cont", Value::Null, SOON)?;
    starts_again(&vm, mark)
}

#[test]
fn a_starved_watchdog_does_what_was_chosen() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    // Two seconds.
    let hangs = "watchdog=14 at=5";
    let (vm, mut qmp) = guest(hangs, "watchdog=pause")?;
    let heard = events(&mut qmp, "STOP")?;
    assert_eq!(heard, named(&[("WATCHDOG", json!({ "action": "pause" })), ("STOP", json!({}))]));
    let status = qmp.execute("query-status", Value::Null, SOON)?;
    assert_eq!((&status["running"], &status["status"]), (&json!(false), &json!("watchdog")));
    qmp.execute("cont", Value::Null, SOON)?;
    vm.wait_ticks(5, SOON)?;

    let (vm, mut qmp) = guest(hangs, "watchdog=poweroff")?;
    let heard = events(&mut qmp, "WATCHDOG")?;
    assert_eq!(heard, named(&[("WATCHDOG", json!({ "action": "poweroff" }))]));
    assert_eq!(vm.wait_exit(SOON)?.code(), Some(6));

    let (vm, mut qmp) = guest(hangs, "")?;
    qmp.execute("watchdog-set-action", json!({ "action": "none" }), SOON)?;
    let heard = events(&mut qmp, "WATCHDOG")?;
    assert_eq!(heard, named(&[("WATCHDOG", json!({ "action": "none" }))]));
    vm.wait_ticks(5, SOON)?;
    assert_eq!(qmp.next_event(Duration::from_secs(3))?.map(|event| event.event), None, "once");

    let (vm, mut qmp) = guest(hangs, "watchdog=inject-nmi")?;
    events(&mut qmp, "WATCHDOG")?;
    vm.wait_line(|line| line.text.starts_with("panic: vector=2 "), SOON)?;
    Ok(())
}

#[test]
fn a_watchdog_that_is_fed_or_stopped_says_nothing() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for cmdline in ["watchdog=14 at=1000000", "watchdog=14 at=5 disarm"] {
        let (vm, mut qmp) = guest(cmdline, "")?;
        vm.wait_tick(6, SOON)?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let event = qmp.next_event(Duration::from_millis(100))?;
            let bad = event.filter(|event| event.event != "MEMORY_DEVICE_SIZE_CHANGE");
            assert_eq!(bad.map(|event| event.event), None, "{cmdline}");
        }
        vm.wait_ticks(5, SOON)?;
        assert_eq!(starts(&vm), 1);
    }
    Ok(())
}

#[test]
fn time_that_a_guest_is_stopped_is_not_held_against_it() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("watchdog=14 at=5", "watchdog=pause")?;
    vm.wait_tick(5, SOON)?;
    qmp.execute("stop", Value::Null, SOON)?;
    events(&mut qmp, "STOP")?;
    assert_eq!(qmp.next_event(Duration::from_secs(3))?.map(|event| event.event), None);
    let resumed = Instant::now();
    qmp.execute("cont", Value::Null, SOON)?;
    events(&mut qmp, "WATCHDOG")?;
    assert!(resumed.elapsed() < Duration::from_secs(3), "{:?}", resumed.elapsed());
    Ok(())
}

#[test]
fn a_hungry_watchdog_travels_with_its_guest() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    // Six seconds, of which the journey takes next to nothing.
    let (source, mut qmp) = guest("watchdog=12 at=5", "watchdog=pause")?;
    source.wait_tick(5, SOON)?;
    let starved = Instant::now();
    let uri = format!("unix:{}", source.dir().join("migration").display());
    let there = Vm::start(source.options().incoming(&uri))?;
    let mut there_qmp = there.qmp()?;
    qmp.migrate(&uri)?;
    ensure!(qmp.wait_migrated(SOON)?.is_completed());
    there.wait_line(|line| line.tick().is_some(), SOON)?;
    let heard = events(&mut there_qmp, "WATCHDOG")?;
    let after = starved.elapsed();
    assert!(heard.iter().any(|(name, _)| name == "WATCHDOG"));
    assert!((5..12).contains(&after.as_secs()), "it went off after {after:?}");
    while let Some(event) = qmp.next_event(Duration::from_millis(50))? {
        assert_ne!(event.event, "WATCHDOG", "the guest is not there any more");
    }
    Ok(())
}

#[test]
fn a_reset_or_a_triple_fault_starts_the_guest_again() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for end in ["reset", "triple"] {
        let (vm, mut qmp) = guest(&format!("{end} at=20"), "")?;
        let pid = vm.pid();
        let heard = events(&mut qmp, "RESET")?;
        let reset = json!({ "guest": true, "reason": "guest-reset" });
        assert_eq!(heard, named(&[("RESET", reset.clone())]), "{end}");
        // Again and again, in the same process.
        for _ in 0..2 {
            assert_eq!(events(&mut qmp, "RESET")?, named(&[("RESET", reset.clone())]), "{end}");
        }
        assert_eq!((qmp.query_status()?, vm.pid()), (RunState::Running, pid));
        starts_again(&vm, vm.mark())?;
        let ready: Vec<_> = vm.lines().iter().filter_map(Line::ready).collect();
        assert!(ready.iter().all(|start| *start == ready[0]), "each like the first: {ready:?}");
    }
    Ok(())
}

#[test]
fn a_reset_ends_the_process_where_that_is_chosen() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let shutdown = ("SHUTDOWN", json!({ "guest": true, "reason": "guest-reset" }));
    for (end, code) in [("reset", 0), ("triple", 3)] {
        let (vm, mut qmp) = guest(&format!("{end} at=40"), "reboot=shutdown")?;
        assert_eq!(events(&mut qmp, "SHUTDOWN")?, named(std::slice::from_ref(&shutdown)), "{end}");
        assert_eq!(vm.wait_exit(SOON)?.code(), Some(code), "{end}");
    }
    let (vm, mut qmp) = guest("", "reboot=shutdown")?;
    vm.wait_tick(3, SOON)?;
    qmp.execute("system_reset", Value::Null, SOON)?;
    let asked = json!({ "guest": false, "reason": "host-qmp-system-reset" });
    assert_eq!(events(&mut qmp, "SHUTDOWN")?, named(&[("SHUTDOWN", asked)]));
    assert_eq!(vm.wait_exit(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_watchdog_resets_the_guest() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("watchdog=14 at=5", "")?;
    let reset = json!({ "guest": true, "reason": "guest-reset" });
    let heard = events(&mut qmp, "RESET")?;
    let expected = [("WATCHDOG", json!({ "action": "reset" })), ("RESET", reset)];
    assert_eq!(heard, named(&expected));
    starts_again(&vm, vm.mark())
}

#[test]
fn bad_memory_is_repaired_or_kept_out_when_the_guest_starts_again() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("", "")?;
    let before = vm.wait_ready(SOON)?;
    vm.wait_tick(3, SOON)?;
    // In the guest's own image, where nothing helps but a reset; in memory that it does not use now;
    // and in a block, two pages of which are bad.
    let block = VIRTIO_MEM + 5 * BLOCK;
    let boot = [Gpa(0x10_0000), Gpa(0x300_0000)];
    let plugged = [Gpa(block + 3 * PAGE), Gpa(block + 9 * PAGE)];
    qmp.execute("stop", Value::Null, SOON)?;
    for page in boot.iter().chain(&plugged) {
        qmp.inject_poison(*page)?;
    }
    assert_eq!(qmp.memory_map()?.poisoned.len(), 4);
    let mark = vm.mark();
    qmp.execute("system_reset", Value::Null, SOON)?;
    events(&mut qmp, "RESET")?;
    qmp.execute("cont", Value::Null, SOON)?;
    starts_again(&vm, mark)?;

    let held: Vec<_> =
        qmp.memory_map()?.poisoned.iter().map(|page| (page.gpa, page.held)).collect();
    assert_eq!(held, plugged.map(|page| (page, true)), "boot memory is healthy again");
    let ready = vm.lines()[mark..].iter().find_map(Line::ready).context("it started")?;
    assert_eq!(ready, before, "another block is plugged instead");
    let device = qmp.execute("query-memory-devices", Value::Null, SOON)?;
    assert_eq!(device[0]["data"]["size"], json!(before.plugged));
    let tick = vm.wait_ticks(5, SOON)?;
    assert_eq!(tick.mce, 0, "nobody met a bad page");

    // And all of it can happen again, to a page that was renewed before.
    qmp.execute("stop", Value::Null, SOON)?;
    qmp.inject_poison(boot[0])?;
    let mark = vm.mark();
    qmp.execute("system_reset", Value::Null, SOON)?;
    events(&mut qmp, "RESET")?;
    qmp.execute("cont", Value::Null, SOON)?;
    starts_again(&vm, mark)?;
    let held = qmp.memory_map()?.poisoned.len();
    assert_eq!(held, 2);
    // The ladder still works.
    let answer = qmp.retire_range(Gpa(VIRTIO_MEM), PAGE, RetireCause::Uncorrected, SOON)?;
    assert_eq!(answer.outcome, RetireOutcome::Unplugged, "{answer:?}");
    vm.wait_ticks(5, SOON)?;
    Ok(())
}

#[test]
fn a_guest_that_lost_its_own_code_can_only_start_again() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (vm, mut qmp) = guest("", "panic=none")?;
    vm.wait_tick(3, SOON)?;
    qmp.execute("stop", Value::Null, SOON)?;
    // Its whole image: whatever it does next, machine checks included, it can't do.
    for page in 0..16 {
        qmp.inject_poison(Gpa(0x10_0000 + page * PAGE))?;
    }
    let mark = vm.mark();
    qmp.execute("cont", Value::Null, SOON)?;
    let deadline = Instant::now() + SOON;
    // By what it dies is the processor's choice; that it stops, or starts again, is ours.
    while qmp.query_status()? == RunState::Running && vm.mark() == mark {
        ensure!(Instant::now() < deadline, "the guest goes on without its code");
        std::thread::sleep(Duration::from_millis(5));
    }
    if qmp.query_status()? == RunState::GuestPanicked {
        assert!(qmp.execute("cont", Value::Null, SOON).is_err(), "there is nothing to go on with");
        qmp.execute("system_reset", Value::Null, SOON)?;
        events(&mut qmp, "RESET")?;
        qmp.execute("cont", Value::Null, SOON)?;
    }
    starts_again(&vm, mark)?;
    assert_eq!(qmp.memory_map()?.poisoned, []);
    Ok(())
}

#[test]
fn a_guest_that_moved_starts_again_where_its_kernel_is_known() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for knows in [true, false] {
        let (source, mut qmp) = guest("", "")?;
        source.wait_tick(5, SOON)?;
        let uri = format!("unix:{}", source.dir().join("migration").display());
        let mut options = source.options().incoming(&uri);
        if knows {
            let kernel = ras_lab::artifacts::guest()?;
            options.arguments.push(format!("--kernel={}", kernel.display()));
        }
        let there = Vm::start(options)?;
        let mut there_qmp = there.qmp()?;
        assert!(there_qmp.execute("system_reset", Value::Null, SOON).is_err(), "not there yet");
        qmp.migrate(&uri)?;
        ensure!(qmp.wait_migrated(SOON)?.is_completed());
        there.wait_line(|line| line.tick().is_some(), SOON)?;
        let mark = there.mark();
        there_qmp.execute("system_reset", Value::Null, SOON)?;
        if knows {
            events(&mut there_qmp, "RESET")?;
            starts_again(&there, mark)?;
            assert_eq!(there_qmp.query_status()?, RunState::Running);
        } else {
            events(&mut there_qmp, "SHUTDOWN")?;
            assert_eq!(there.wait_exit(SOON)?.code(), Some(0));
        }
    }
    Ok(())
}

#[test]
fn a_reset_in_the_middle_of_a_migration_waits_for_its_end() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for arrives in [false, true] {
        let (source, mut qmp) = guest("work=512", "")?;
        source.wait_tick(5, SOON)?;
        let uri = format!("unix:{}", source.dir().join("migration").display());
        let mut options = source.options().incoming(&uri);
        let kernel = ras_lab::artifacts::guest()?;
        options.arguments.push(format!("--kernel={}", kernel.display()));
        let there = Vm::start(options)?;
        let mut there_qmp = there.qmp()?;
        // Slow enough that there is a middle.
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }), SOON)?;
        qmp.migrate(&uri)?;
        let deadline = Instant::now() + SOON;
        while qmp.query_migrate()?.status.as_deref() == Some("setup") {
            ensure!(Instant::now() < deadline, "the migration does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        qmp.execute("system_reset", Value::Null, SOON)?;
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(qmp.query_migrate()?.status.as_deref(), Some("active"), "still under way");
        assert_eq!(starts(&source), 1, "not while it is on the move");
        if !arrives {
            qmp.execute("migrate_cancel", Value::Null, SOON)?;
        }
        ensure!(qmp.wait_migrated(SOON)?.is_completed() == arrives);
        let (vm, qmp) = if arrives { (&there, &mut there_qmp) } else { (&source, &mut qmp) };
        let mark = if arrives { 0 } else { 1 + first_ready(vm)? };
        events(qmp, "RESET")?;
        starts_again(vm, mark)?;
        assert_eq!(qmp.query_status()?, RunState::Running);
        assert_eq!(starts(&source), if arrives { 1 } else { 2 });
    }
    Ok(())
}

/// Number of the line in which the guest said that it is ready.
fn first_ready(vm: &Vm) -> Result<usize> {
    vm.lines().iter().position(|line| line.ready().is_some()).context("it never was ready")
}

#[test]
fn wrong_choices_are_refused_with_what_is_possible() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (_vm, mut qmp) = guest("", "")?;
    for wrong in [
        json!({ "panic": "shrug" }),
        json!({ "watchdog": "shutdown" }),
        json!({ "panik": "pause" }),
        json!({ "reboot": 1 }),
    ] {
        let answer = qmp.execute("set-action", wrong.clone(), SOON);
        assert!(matches!(answer, Err(QmpError::Command { .. })), "{wrong}: {answer:?}");
    }
    choose(&mut qmp, &json!({}))?;
    let all =
        json!({ "reboot": "reset", "shutdown": "pause", "panic": "none", "watchdog": "debug" });
    choose(&mut qmp, &all)
}
