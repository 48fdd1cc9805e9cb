//! One error, one walk: the daemon end to end, killed at every step.

/// Prints why a story is not told here.
macro_rules! needs {
    ($capability:expr) => {
        if let Err(reason) = $capability {
            eprintln!("skipped: {reason}");
            return;
        }
    };
}

mod events;
mod guest;
mod host;
mod machine;
mod mirror;
mod pages;
mod start;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use ras_core::{Evacuation, Gpa, Health, Pfn, RetireState};
use ras_lab::capability;
use ras_lab::vm::{Vm, VmOptions};
use ras_qmp::ras::RegionKind;

use events::{corrected, fatal, firmware_uncorrected, uncorrected};
use guest::{BASE, Behaviour, FakeGuest};
use host::{Host, SOON};

const SECOND: u64 = 1_000_000_000;
const T0: u64 = 1_700_000_000 * SECOND;
const PEER: &str = "[cluster.standalone]\npeer = \"unix:/run/peer/{guest}.sock\"\n";

#[test]
fn an_uncorrected_error_takes_its_page_at_once_and_a_corrected_one_the_second_time() {
    let host = Host::new();
    let capture = host.capture(
        uncorrected(Pfn(0x12345), T0)
            + &corrected(Pfn(0x777), T0 + SECOND)
            + &corrected(Pfn(0x888), T0 + SECOND)
            + &corrected(Pfn(0x777), T0 + 60 * SECOND),
    );
    host.replay(&capture).assert_success();
    assert_eq!(host.asked("hard"), ["0x12345000"]);
    assert_eq!(host.asked("soft"), ["0x777000"]);
    assert_eq!(host.states(), [0, 2, 0]);
    let state = host.stored();
    assert_eq!(state.pages[&Pfn(0x12345)].since.0, T0);
    assert_eq!(state.observed.of_page(Pfn(0x888)).count(), 1, "counted on across restarts");
    assert_eq!(state.node.unwrap().health, Health::Yellow);

    let later = host.capture(corrected(Pfn(0x888), T0 + 120 * SECOND));
    host.replay(&later).assert_success();
    assert_eq!(host.states(), [0, 3, 0], "its first error was seen by the process before");
}

#[test]
fn one_event_from_two_sources_is_acted_on_once() {
    let host = Host::new();
    let page = Pfn(0x4_5678);
    let capture =
        host.capture(uncorrected(page, T0) + &firmware_uncorrected(page, T0 + SECOND / 2));
    let mut daemon = host.start_with(host.command().arg("--replay").arg(capture));
    let status = daemon.wait_status("both reports", |status| status.counts.events == 2);
    assert_eq!((status.counts.faults, status.counts.duplicates), (1, 1), "{}", daemon.log());
    daemon.stop().assert_success();
    assert_eq!(host.asked("hard"), ["0x45678000"]);

    let host = Host::new();
    let firmware_only = host.capture(firmware_uncorrected(page, T0));
    host.replay(&firmware_only).assert_success();
    assert_eq!(host.asked("hard"), ["0x45678000"], "the firmware alone is believed, too");
}

/// A guest keeps its bad page, so the walk goes all the way to a migration. Wherever rasd is killed
/// on it, the next start leads to the same end, and nothing is done twice that must not be.
#[test]
fn killed_at_every_step_a_restart_finishes_the_walk() {
    needs!(capability::root());
    let steps = [
        "decoded",
        "diagnosed",
        "planned",
        "remembered",
        "offlined",
        "guest_retired",
        "recorded",
        "escalated",
    ];
    for step in steps {
        let host = Host::with(PEER);
        let guest = FakeGuest::start(&host.path("guests"), "vm1", Behaviour::Refuses);
        let page = guest.frame(5);
        let capture = host.capture(uncorrected(page, T0));

        let killed = host.replay_killed_at(&capture, Some(step));
        assert_eq!(killed.status.signal(), Some(9), "{step}: {}", killed.log);
        if !matches!(step, "decoded" | "diagnosed" | "planned") {
            let remembered = host.page(page).expect(step);
            assert_eq!(remembered.since.0, T0, "{step}");
        }

        // Up to `planned` nothing was promised; the capture stands for the kernel's own buffer then.
        let restarted = host.replay(&capture);
        restarted.assert_success();
        let stored = host.page(page).expect(step);
        assert_eq!(stored.state, RetireState::Retired, "{step}: {stored:?}\n{}", restarted.log);
        assert_eq!(host.stored().node.unwrap().evacuation, Evacuation::Done, "{step}");
        let calls = guest.calls();
        let migrations = calls.iter().filter(|call| call.starts_with("migrate")).count();
        assert_eq!(migrations, 1, "{step}: {calls:?}");
        assert!(calls.contains(&"migrate unix:/run/peer/vm1.sock".to_owned()), "{step}: {calls:?}");

        let quiet = host.replay(&capture);
        quiet.assert_success();
        assert_eq!(guest.calls(), calls, "{step}: a third start finds nothing left to do");
    }
}

#[test]
fn a_guest_that_gives_the_page_up_stays() {
    needs!(capability::root());
    let host = Host::with(PEER);
    let guest = FakeGuest::start(&host.path("guests"), "vm1", Behaviour::GivesUp);
    let _other = FakeGuest::start(&host.path("guests"), "vm2", Behaviour::Refuses);
    let page = guest.frame(3);
    let ended = host.replay(&host.capture(uncorrected(page, T0)));
    ended.assert_success();
    let gpa = BASE + 3 * 4096;
    assert_eq!(guest.calls(), [format!("retire {gpa} 4096 \"uncorrected\"")], "{}", ended.log);
    let stored = host.page(page).unwrap();
    assert_eq!(stored.outcome, format!("host: offline; vm1: unplugged {gpa:#x}"));
    assert_eq!(host.states(), [0, 1, 0]);
}

/// The same with a real one: `rasvmm` and the bare-metal guest, whose page is really poisoned.
#[test]
fn a_real_guest_loses_a_page_and_runs_on() {
    needs!(capability::root());
    needs!(capability::kvm());
    let host = Host::with(PEER);
    let options = VmOptions {
        fault_injection: true,
        cmdline: "fill".into(),
        dir: Some(host.path("guests")),
        ..VmOptions::named("vm1")
    };
    let vm = Vm::start(options).unwrap();
    vm.wait_tick(3, SOON).unwrap();
    let mut qmp = vm.qmp().unwrap();
    let regions = qmp.memory_map().unwrap().regions;
    let region = regions.iter().find(|region| region.kind == RegionKind::VirtioMem).unwrap();
    let gpa = Gpa(region.gpa.0 + 5 * 4096);
    let page = qmp.inject_poison(gpa).unwrap().expect("the guest uses all of its memory");

    let ended = host.replay(&host.capture(uncorrected(page, T0)));
    ended.assert_success();
    let stored = host.page(page).unwrap();
    let unplugged = format!("vm1: unplugged {gpa}");
    assert!(stored.outcome.contains(&unplugged), "{}\n{}", stored.outcome, vm.log());
    let after = vm.last_tick().unwrap().number;
    vm.wait_tick(after + 3, SOON).unwrap();
    assert!(vm.bad_sums().is_empty(), "{:?}", vm.bad_sums());
}

/// Whatever a VMM does instead of answering, rasd goes on, says so, and gets the guest away.
#[test]
fn a_vmm_that_does_not_answer_loses_its_guest_to_the_peer() {
    needs!(capability::root());
    for behaviour in [Behaviour::HangsUp, Behaviour::TalksNonsense, Behaviour::SaysNothing] {
        let host = Host::with(PEER);
        let guest = FakeGuest::start(&host.path("guests"), "vm1", behaviour);
        let ended = host.replay(&host.capture(uncorrected(guest.frame(0), T0)));
        ended.assert_success();
        assert!(ended.log.contains("VMM did not answer about"), "{behaviour:?}: {}", ended.log);
        assert_eq!(
            guest.calls().last().map(String::as_str),
            Some("migrate unix:/run/peer/vm1.sock"),
            "{behaviour:?}: {}",
            ended.log
        );
        assert_eq!(host.stored().node.unwrap().evacuation, Evacuation::Done);
    }
}

#[test]
fn without_a_peer_the_evacuation_stays_open_and_is_said_so() {
    needs!(capability::root());
    let host = Host::new();
    let guest = FakeGuest::start(&host.path("guests"), "vm1", Behaviour::Refuses);
    let ended = host.replay(&host.capture(uncorrected(guest.frame(0), T0)));
    ended.assert_success();
    assert!(ended.log.contains("no peer is configured"), "{}", ended.log);
    let node = host.stored().node.unwrap();
    assert_eq!(node.evacuation, Evacuation::Pending { guest: Some("vm1".into()) });
    assert_eq!(host.states(), [0, 0, 1], "the guest still sits on the page");
}

#[test]
fn a_fatal_error_turns_the_node_red_and_sends_everybody_away() {
    let host = Host::with(PEER);
    let guests =
        ["vm1", "vm2"].map(|name| FakeGuest::start(&host.path("guests"), name, Behaviour::GivesUp));
    host.replay(&host.capture(fatal(Pfn(0x12345), T0))).assert_success();
    for guest in guests {
        assert!(
            guest.calls().iter().any(|call| call.starts_with("migrate")),
            "{:?}",
            guest.calls()
        );
    }
    let node = host.stored().node.unwrap();
    assert_eq!((node.health, node.evacuation), (Health::Red, Evacuation::Done));
}

#[test]
fn after_a_reboot_the_pages_are_offline_before_rasd_is_ready() {
    let host = Host::new();
    host.replay(&host.capture(uncorrected(Pfn(0x12345), T0))).assert_success();
    host.reboot();
    let (manager, path) = host.service_manager();
    let mut daemon = host.spawn(host.command().env("NOTIFY_SOCKET", &path));
    let heard = start::heard_until_ready(&manager);
    assert!(heard.iter().any(|message| message.contains("EXTEND_TIMEOUT_USEC=")), "{heard:?}");
    let asked = [host.asked("soft"), host.asked("hard")].concat();
    assert_eq!(asked, ["0x12345000"], "asked before READY=1");
    let status = daemon.wait_status("health told", |status| status.health.reported);
    assert_eq!((status.gap.pages, status.pages.retired), (1, 1));
    assert_eq!(status.health.health, Health::Yellow, "health outlives the boot");
    daemon.stop().assert_success();
}

#[test]
fn a_kernel_that_cannot_offline_leaves_the_page_failed_and_says_why() {
    let host = Host::new();
    fs::remove_file(host.offline_file("hard")).unwrap();
    let page = Pfn(0x12345);
    host.replay(&host.capture(uncorrected(page, T0))).assert_success();
    let stored = host.page(page).unwrap();
    assert_eq!(stored.state, RetireState::Failed);
    assert!(stored.outcome.contains("CONFIG_MEMORY_FAILURE"), "{}", stored.outcome);

    host.reboot();
    host.replay(&host.capture("")).assert_success();
    assert_eq!(host.states(), [0, 1, 0], "tried again at the next start, on a better kernel");
}

#[test]
fn a_bad_capture_never_stops_the_walk() {
    let good = uncorrected(Pfn(0x12345), T0);
    let half = &good[..good.len() / 2];
    let nul = [b"{\0}\n".repeat(3), vec![0xff; 5000], vec![b'\n']].concat();
    let long = vec![b'{'; (1 << 20) + 10];
    // Content, whether it ends with the good line, lines that are garbage.
    let captures: [(&str, Vec<u8>, u64); 6] = [
        ("empty", vec![], 0),
        ("truncated", half.into(), 1),
        ("garbage", nul, 4),
        ("an endless line", long, 1),
        ("deep", b"[".repeat(100_000), 1),
        ("other JSON", b"{\"a\":1}\n[]\n7\n\"x\"\nnull\n".to_vec(), 5),
    ];
    for (name, bad, garbage) in captures {
        let separator = if bad.is_empty() || bad.ends_with(b"\n") { "" } else { "\n" };
        let capture = [&bad, separator.as_bytes(), good.as_bytes()].concat();
        let host = Host::new();
        let capture = host.capture(&capture);
        let mut daemon = host.start_with(host.command().arg("--replay").arg(capture));
        let status = daemon.wait_status("the end of the capture", |status| {
            status.sources.iter().any(|source| source.name == "replay" && source.state == "done")
                && status.counts.events == 1
                && status.pages.pending == 0
        });
        assert_eq!((status.counts.garbage, status.pages.retired), (garbage, 1), "{name}");
        assert!(garbage == 0 || daemon.log().contains("line 1: "), "{name}: {}", daemon.log());
        daemon.stop().assert_success();
    }

    let host = Host::new();
    let missing = host.replay(Path::new("/nonexistent/capture"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.log.contains("opening /nonexistent/capture"), "{}", missing.log);
}

#[test]
fn a_huge_capture_costs_no_memory() {
    const LINES: u64 = 200_000;
    const PAGES: u64 = 100_000;
    let policy = "[policy]\ncorrected_per_page = { count = 1000, window_s = 86400 }\n";
    let host = Host::with(policy);
    let capture: String = (0..LINES)
        .map(|n| match n % 100 {
            0 => "garbage\n".into(),
            _ => corrected(Pfn(0x1000 + n % PAGES), T0 + n * 1000),
        })
        .collect();
    let capture = host.capture(capture);
    let mut daemon = host.start_with(host.command().arg("--replay").arg(capture));
    let status =
        daemon.wait_status("all of them", |status| status.counts.events == LINES - LINES / 100);
    assert_eq!(status.counts.garbage, LINES / 100);
    assert_eq!(status.counts.counted, LINES - LINES / 100);
    assert_eq!(status.queue.lost, 0, "a capture can wait");
    let process = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak_kib = capability::meminfo_kib(&process, "VmHWM").unwrap();
    assert!(peak_kib < 64 << 10, "peak memory {peak_kib} KiB");
    let log = daemon.stop().assert_success().log.clone();
    assert!(log.lines().count() < 100, "the log stays short:\n{log}");
}

#[test]
fn a_damaged_list_is_reported_and_never_read_as_empty() {
    let host = Host::new();
    let capture: String = (0..20).map(|n| uncorrected(Pfn(0x1000 + n), T0 + n)).collect();
    host.replay(&host.capture(capture)).assert_success();
    let journal = host.store().join("journal");
    let mut bytes = fs::read(&journal).unwrap();
    // Both copies of a block in the middle of the list: see persist-store/FORMAT.md.
    for copy in [2, 130] {
        let block = (copy + 10) * 4096;
        bytes[block..block + 4096].fill(0x55);
    }
    fs::write(&journal, bytes).unwrap();

    let mut daemon = host.start();
    let status = daemon.wait_status("ready", |status| status.ready);
    assert!(!status.store.damage.is_empty(), "{:?}", status.store);
    assert!(daemon.log().contains("DAMAGED"), "{}", daemon.log());
    let (code, text, _) = host.rasctl(&["status"]);
    assert!(code == 0 && text.contains("THE LIST MAY BE INCOMPLETE"), "{text}");
    let (code, _, error) = host.rasctl(&["accept-damage", "--note", "compared with the vendor"]);
    assert_eq!(code, 0, "{error}");
    daemon.stop().assert_success();
    assert!(!host.stored().is_damaged());
}

#[test]
fn a_store_that_cannot_be_written_is_refused_at_the_start() {
    needs!(capability::root());
    needs!(capability::namespaces());
    let host = Host::new();
    fs::create_dir(host.store()).unwrap();
    let rasd = host.command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount -t tmpfs -o ro none \"$0\" && exec \"$@\""])
        .arg(host.store())
        .arg(rasd.get_program())
        .args(rasd.get_args())
        .stdin(Stdio::null());
    let ended = host.spawn(&mut command).wait();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("Read-only file system"), "{}", ended.log);
}

/// The disk fills up under a running rasd: pages are protected all the same, it is said loudly, and
/// once there is room again nothing is missing.
#[test]
fn a_full_disk_is_loud_and_heals() {
    /// More than fit into what the journal has allocated.
    const PAGES: u64 = 200;
    needs!(capability::root());
    needs!(capability::namespaces());
    let host = Host::new();
    fs::create_dir(host.store()).unwrap();
    let rasd = host.command();
    let script = "mount -t tmpfs -o size=4m none \"$0\" && exec \"$@\" --replay -";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(host.store())
        .arg(rasd.get_program())
        .args(rasd.get_args())
        .stdin(Stdio::piped());
    let log = fs::File::create(host.path("log")).unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut daemon = host.adopt(child);
    let status = daemon.wait_status("ready", |status| status.ready);
    let inside = format!("/proc/{}/root{}", status.pid, host.store().join("filler").display());
    // The file system is full when nothing more can be written.
    let filled = fs::write(&inside, vec![1; 8 << 20]);
    assert!(filled.is_err(), "4 MiB do not hold 8 MiB");

    use std::io::Write as _;
    for n in 0..PAGES {
        input.write_all(uncorrected(Pfn(0x1000 + n), T0 + n).as_bytes()).unwrap();
    }
    let status = daemon.wait_status("all of them", |status| {
        status.counts.offlined == PAGES && status.store.unsaved > 0
    });
    assert!(status.store.failing.is_some() && status.counts.store_errors > 0);
    assert_eq!(host.asked("hard").len() as u64, PAGES, "protected although not remembered");
    let (_, text, _) = host.rasctl(&["status"]);
    assert!(text.contains("FAILING"), "{text}");

    fs::remove_file(&inside).unwrap();
    let status = daemon.wait_status("room", |status| status.store.unsaved == 0);
    assert_eq!((status.store.failing, status.pages.retired), (None, PAGES));
    let inside = format!("/proc/{}/root{}", status.pid, host.store().display());
    let (stored, _) = persist_store::read(Path::new(&inside)).unwrap();
    assert_eq!(stored.pages.len() as u64, PAGES);
    daemon.stop().assert_success();
}

#[test]
fn a_kernel_without_trace_events_is_explained() {
    let host = Host::with("[sources]\ntracefs = \"on\"\n");
    let ended = host.spawn(&mut host.command()).wait();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("mount -t tracefs"), "{}", ended.log);

    let host = Host::new();
    let mut daemon = host.start();
    let status = daemon.wait_status("ready", |status| status.ready);
    let tracefs = status.sources.iter().find(|source| source.name == "tracefs").unwrap();
    assert_eq!(tracefs.state, "failed");
    assert!(tracefs.detail.contains("mount -t tracefs"), "{}", tracefs.detail);
    daemon.stop().assert_success();
}

#[test]
fn one_daemon_per_list_and_a_clean_end() {
    let host = Host::new();
    let daemon = host.start();
    let second = host.spawn(&mut host.command()).wait();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.log.contains(&format!("in use by process {}", daemon.pid())), "{}", second.log);
    assert!(host.path("rasd.sock").exists(), "the second left the first's socket alone");

    let stopping = std::time::Instant::now();
    let ended = daemon.stop();
    ended.assert_success();
    assert!(stopping.elapsed() < SOON / 6, "{}", ended.log);
    assert!(!host.path("rasd.sock").exists());

    let interrupted = host.start();
    interrupted.signal(Signal::SIGINT);
    interrupted.wait().assert_success();
}

#[test]
fn an_operator_takes_a_page_off_the_list() {
    let host = Host::new();
    let capture = uncorrected(Pfn(0x12345), T0) + &uncorrected(Pfn(0x777), T0 + SECOND);
    host.replay(&host.capture(capture)).assert_success();
    let daemon = host.start();
    let (code, list, _) = host.rasctl(&["pages", "list"]);
    assert_eq!((code, list.lines().count()), (0, 3), "{list}");
    let head: Vec<&str> = list.lines().next().unwrap().split_whitespace().collect();
    let columns = "ADDRESS STATE REASON SEVERITY SINCE SOURCE ATTEMPTS MODULE OUTCOME";
    assert_eq!(head.join(" "), columns);
    assert!(
        list.contains("0x12345000  retired  uncorrected  srao      2023-11-14T22:13:20Z"),
        "{list}"
    );

    let (code, _, error) = host.rasctl(&["pages", "unretire", "pfn:0x999", "--note", "x"]);
    assert_eq!(code, 1, "{error}");
    let (code, _, error) = host.rasctl(&["pages", "unretire", "pfn:0x12345", "--note", " "]);
    assert!(code != 0 && error.contains("a note is one line"), "{error}");
    let (code, text, error) =
        host.rasctl(&["pages", "unretire", "0x12345678", "--note", "module replaced"]);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("until the next boot"), "{text}");
    let detail = daemon.client().page(Pfn(0x12345)).unwrap();
    assert!(detail.page.is_none());
    assert_eq!(detail.unretired[0].note, "module replaced");
    let uid = format!("(uid {})", nix::unistd::getuid());
    assert!(detail.unretired[0].who.ends_with(&uid), "{}", detail.unretired[0].who);

    daemon.stop().assert_success();
    host.reboot();
    host.start().stop().assert_success();
    assert_eq!([host.asked("soft"), host.asked("hard")].concat(), ["0x777000"]);

    let (code, _, error) = host.rasctl(&["pages", "list"]);
    assert!(code == 2 && error.contains("--store"), "{error}");
    let store = host.store().display().to_string();
    let (code, line, _) = host.rasctl(&["--store", &store, "--json", "pages", "list"]);
    let page: ras_core::RetiredPage = serde_json::from_str(&line).unwrap();
    assert_eq!((code, page.pfn), (0, Pfn(0x777)));
}

#[test]
fn rasctl_decodes_a_capture_and_a_closed_pipe_is_no_error() {
    let host = Host::new();
    let good = uncorrected(Pfn(0x12345), T0) + &firmware_uncorrected(Pfn(0x777), T0);
    let file = host.capture(&good).display().to_string();
    let (code, text, error) = host.rasctl(&["decode", &file]);
    assert_eq!(code, 0, "{error}");
    assert!(text.contains("1 from 0x12345") && text.contains("1 from 0x777"), "{text}");
    let (_, json, _) = host.rasctl(&["--json", "decode", &file]);
    let records: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["raw"]["mca"]["addr"], "0x12345000");

    host.capture(good.repeat(5000) + "garbage\n");
    let (code, text, _) = host.rasctl(&["decode", &file]);
    assert!(code == 1 && text.contains("line 10001: "));
    let script = "\"$0\" decode \"$1\" | head -n 1; exit ${PIPESTATUS[0]}";
    let program = ras_lab::artifacts::program("rasctl").unwrap();
    let done = Command::new("bash").args(["-c", script]).arg(program).arg(&file).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
}
