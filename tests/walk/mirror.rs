//! The list on a second medium: what comes back from it when the disk is gone, and what is said when it
//! can't be used itself. EFI variables are files in a directory, each a whole one, as efivarfs shows them.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use persist_store::efivarfs::Efivarfs;
use persist_store::{AuditKind, Boot, ChangeKind, EfiVarList, PageList};
use ras_core::{Pfn, RetireReason, RetireState};

use super::T0;
use super::events::uncorrected;
use super::host::Host;
use super::start::{corrected, figures, remember};

const PAGES: [Pfn; 2] = [Pfn(0x12345), Pfn(0x20000)];

impl Host {
    /// A host with EFI variables, and the list mirrored there.
    fn mirrored(settle_s: u64) -> Self {
        let mut host = Self::new();
        fs::create_dir_all(host.efivars()).unwrap();
        // One of the firmware's own.
        let name = "BootCurrent-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        fs::write(host.efivars().join(name), [6, 0, 0, 0, 1, 0]).unwrap();
        host.mirror("efi-variable", settle_s);
        host
    }

    fn efivars(&self) -> PathBuf {
        self.path("sys/firmware/efi/efivars")
    }

    /// The mirror's variables, by name.
    fn variables(&self) -> Vec<(String, Vec<u8>)> {
        let mut variables: Vec<_> = fs::read_dir(self.efivars())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .filter(|(name, _)| name.starts_with("RasPages"))
            .map(|(name, path)| (name, fs::read(path).unwrap()))
            .collect();
        variables.sort();
        variables
    }

    /// Pages in the mirror.
    fn in_mirror(&self) -> Vec<Pfn> {
        let variables = Efivarfs::new(&self.efivars());
        let mut list = EfiVarList::in_variables(variables, Boot([7; 16]));
        let (state, recovery) = list.load().unwrap();
        assert!(recovery.is_clean(), "{recovery}");
        state.pages.into_keys().collect()
    }

    /// The disk is replaced.
    fn lose_store(&self) {
        fs::remove_dir_all(self.store()).unwrap();
    }

    fn replay_errors(&self, step: Option<&str>) -> super::host::Ended {
        let capture: String = (0..).zip(PAGES).map(|(n, page)| uncorrected(page, T0 + n)).collect();
        self.replay_killed_at(&self.capture(capture), step)
    }

    fn on_list(&self) -> Vec<Pfn> {
        self.stored().pages.into_keys().collect()
    }
}

#[test]
fn a_lost_list_is_back_from_its_mirror_before_rasd_is_ready() {
    let mut host = Host::mirrored(0);
    let file = host.path("rasd.prom");
    host.configure(&format!("[metrics]\nfile = {file:?}\n"));
    host.replay_errors(None).assert_success();
    assert_eq!(host.in_mirror(), PAGES, "at the end at the latest");
    let mirror = host.variables();
    assert_eq!(mirror.len(), 2, "{mirror:?}");

    host.lose_store();
    host.reboot();
    let (manager, path) = host.service_manager();
    let mut daemon = host.spawn(host.command().env("NOTIFY_SOCKET", &path));
    super::start::heard_until_ready(&manager);
    let addresses = PAGES.map(|page| page.addr().to_string());
    assert_eq!(host.asked("soft"), addresses, "out of use again, and no data thrown away");
    let status = daemon.wait_status("the walks", |status| {
        status.pages.retired == 2 && status.mirror.state == "in step"
    });
    assert_eq!((status.mirror.brought_back, status.mirror.errors), (2, 0));
    let (_, text, _) = host.rasctl(&["status"]);
    for line in
        ["mirror      in step: 2 entries in EFI variables", "2 ENTRIES THAT THE LIST LACKED"]
    {
        assert!(text.contains(line), "{text}");
    }
    let (_, text, _) = host.rasctl(&["pages", "history", "0x12345000"]);
    assert!(text.contains("reinstated") && text.contains("brought back from EFI"), "{text}");
    let log = daemon.stop().assert_success().log.clone();
    assert!(log.contains("THE LIST HAD LOST ENTRIES"), "{log}");
    assert_eq!(log.matches("AN ENTRY THAT THE LIST LACKED").count(), 2, "{log}");
    let seen = figures(&fs::read_to_string(&file).unwrap());
    assert_eq!(seen["ras_mirror_brought_back_entries"], 2);
    assert_eq!(seen["ras_mirror_failing"], 0);
    assert_eq!(seen["ras_mirror_budget_bytes"], 120_000);

    let state = host.stored();
    let told: Vec<_> = state.audit.iter().map(|event| (event.what, event.who.as_str())).collect();
    let event = |pfn, since| AuditKind::Changed { pfn, since, kind: ChangeKind::Reinstated };
    let expect = PAGES.map(|pfn| (event(pfn, state.pages[&pfn].since), "mirror"));
    assert_eq!(told, expect);
    for page in state.pages.values() {
        assert_eq!((page.reason, page.state), (RetireReason::Uncorrected, RetireState::Retired));
    }

    // Nothing is left to come back, and nothing was written.
    let quiet = host.replay(&host.capture(""));
    assert!(!quiet.assert_success().log.contains("LACKED"), "{}", quiet.log);
    assert_eq!(host.variables(), mirror);
}

#[test]
fn killed_between_the_commit_and_the_mirror_the_next_start_catches_up() {
    // The whole run is one change for this mirror, which it gets at the end, if there is one.
    let host = Host::mirrored(3600);
    let log = fs::File::create(host.path("log")).unwrap();
    let mut command = host.command();
    command.args(["--replay", "-"]).env("RASD_KILL_AT", "remembered").stdin(Stdio::piped());
    let mut child = command.stderr(log).spawn().unwrap();
    let mut errors = child.stdin.take().unwrap();
    let mut daemon = host.adopt(child);
    daemon.wait_status("the mirror's first look", |status| status.mirror.state == "in step");
    errors.write_all(uncorrected(PAGES[0], T0).as_bytes()).unwrap();
    let killed = daemon.wait();
    assert_eq!(killed.status.signal(), Some(9), "{}", killed.log);
    assert_eq!((host.on_list(), host.in_mirror()), (vec![PAGES[0]], vec![]));
    let killed = host.replay_killed_at(&host.capture(""), Some("mirroring"));
    assert_eq!(killed.status.signal(), Some(9), "{}", killed.log);
    assert_eq!(host.in_mirror(), []);

    let killed = host.replay_killed_at(&host.capture(""), Some("mirrored"));
    assert_eq!(killed.status.signal(), Some(9), "{}", killed.log);
    assert_eq!(host.in_mirror(), [PAGES[0]]);
    let mirror = host.variables();
    host.replay(&host.capture("")).assert_success();
    assert_eq!(host.variables(), mirror, "it is there already");

    host.replay_errors(None).assert_success();
    assert_eq!(host.in_mirror(), PAGES);
    host.lose_store();
    host.reboot();
    host.replay(&host.capture("")).assert_success();
    assert_eq!(host.on_list(), PAGES);
    assert_eq!(host.states(), [0, 2, 0]);
}

#[test]
fn what_a_person_gave_back_does_not_come_back() {
    let host = Host::mirrored(3600);
    host.replay_errors(None).assert_success();
    let daemon = host.start();
    let (code, _, error) = host.rasctl(&["pages", "unretire", "0x12345000", "--note", "replaced"]);
    assert_eq!(code, 0, "{error}");
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    assert_eq!((host.on_list(), host.in_mirror()), (vec![PAGES[1]], PAGES.into()));

    host.reboot();
    host.start().stop().assert_success();
    assert_eq!((host.on_list(), host.in_mirror()), (vec![PAGES[1]], vec![PAGES[1]]));
    assert_eq!([host.asked("soft"), host.asked("hard")].concat(), ["0x20000000"]);
}

#[test]
fn a_mirror_that_can_t_be_used_is_said_and_stops_nothing() {
    // There is no such device; there are no variables; they are not mounted; their names are taken.
    for (medium, spoil) in [
        ("erst", (|_| ()) as fn(&Host)),
        ("efi-variable", |_| ()),
        ("efi-variable", |host| fs::create_dir_all(host.efivars()).unwrap()),
        ("efi-variable", |host| {
            for copy in ["A", "B"] {
                let name = format!("RasPages{copy}-def1345f-e988-423b-ac3b-68ad5dc6f43e");
                fs::create_dir_all(host.efivars().join(name)).unwrap();
            }
        }),
    ] {
        let mut host = Host::new();
        host.mirror(medium, 0);
        let file = host.path("rasd.prom");
        host.configure(&format!("[metrics]\nfile = {file:?}\n"));
        spoil(&host);
        remember(&host, [corrected(0x999)]);
        let capture = host.capture(uncorrected(PAGES[0], T0));
        let mut daemon = host.start_with(host.command().arg("--replay").arg(&capture));
        let status = daemon.wait_status("the walk", |status| {
            status.pages.retired == 2 && status.mirror.state == "failing"
        });
        assert!(status.mirror.errors > 0 && !status.mirror.detail.is_empty(), "{status:?}");
        let (_, text, _) = host.rasctl(&["status"]);
        assert!(text.contains("mirror      FAILING: "), "{text}");
        let log = daemon.stop().assert_success().log.clone();
        assert!(log.contains("THE MIRROR OF THE LIST "), "{log}");
        let seen = figures(&fs::read_to_string(&file).unwrap());
        assert_eq!(seen["ras_mirror_failing"], 1, "{medium}");
        assert!(seen["ras_mirror_errors_total"] > 0);
    }
}

#[test]
fn a_list_that_outgrows_its_mirror_is_kept_where_it_is() {
    let host = Host::mirrored(0);
    host.replay_errors(None).assert_success();
    let mirror = host.variables();
    remember(&host, (0..6000).map(|n| corrected(0x4_0000 + 7 * n * n)));
    let mut daemon = host.start();
    let status = daemon.wait_status("the mirror", |status| !status.mirror.state.is_empty());
    assert_eq!(status.mirror.state, "failing");
    assert!(status.mirror.detail.contains("is full"), "{status:?}");
    let log = daemon.stop().assert_success().log.clone();
    assert_eq!(
        log.matches("THE MIRROR OF THE LIST IS NOT UP TO DATE").count(),
        1,
        "said once: {log}"
    );
    assert_eq!(host.variables(), mirror, "what was in it still is");
}

#[test]
fn a_damaged_mirror_is_said_and_written_anew() {
    let host = Host::mirrored(0);
    host.replay_errors(None).assert_success();
    let sound = host.variables();
    let spoil = |copies: usize| {
        for (name, _) in &sound[..copies] {
            let path = host.efivars().join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[70] ^= 0x10;
            fs::write(&path, bytes).unwrap();
        }
    };
    for copies in [1, 2] {
        spoil(copies);
        let mut daemon = host.start();
        let status = daemon.wait_status("the mirror", |status| status.mirror.state == "in step");
        assert_eq!((status.mirror.damaged, status.mirror.brought_back), (1, 0), "{status:?}");
        assert!(daemon.log().contains("THE MIRROR OF THE LIST WAS DAMAGED"), "{}", daemon.log());
        daemon.stop().assert_success();
        assert_eq!(host.in_mirror(), PAGES);
        assert_eq!(host.on_list(), PAGES);
        assert!(!host.stored().is_damaged(), "the list itself is sound");
    }

    // Both are gone: that the list may lack pages is all that is left to know, and is not forgotten.
    spoil(2);
    host.lose_store();
    let lost = host.variables();
    let mut daemon = host.start();
    let status = daemon.wait_status("the mirror", |status| !status.mirror.detail.is_empty());
    assert_eq!(status.mirror.state, "failing");
    assert!(!status.store.damage.is_empty(), "{status:?}");
    let (_, text, _) = host.rasctl(&["status"]);
    assert!(text.contains("THE LIST MAY BE INCOMPLETE"), "{text}");
    daemon.stop().assert_success();
    assert_eq!(host.variables(), lost, "no empty list takes its place");
}

/// What is there and can't be seen yet is never taken for an empty mirror, and written over.
#[test]
fn variables_that_are_mounted_late_give_the_list_back_to_a_running_rasd() {
    let host = Host::mirrored(0);
    host.replay_errors(None).assert_success();
    let mirror = host.variables();
    host.lose_store();
    host.reboot();
    let hidden = host.path("hidden");
    fs::rename(host.efivars(), &hidden).unwrap();
    fs::create_dir(host.efivars()).unwrap();
    let mut daemon = host.start();
    let status = daemon.wait_status("a second try", |status| status.mirror.errors > 1);
    assert!(status.mirror.detail.contains("efivarfs is not mounted"), "{status:?}");
    assert_eq!(daemon.log().matches("CAN'T BE READ").count(), 1, "said once");
    assert_eq!(fs::read_dir(host.efivars()).unwrap().count(), 0);

    fs::remove_dir(host.efivars()).unwrap();
    fs::rename(&hidden, host.efivars()).unwrap();
    let status = daemon.wait_status("the list", |status| status.pages.retired == 2);
    assert_eq!(status.mirror.brought_back, 2);
    let addresses = PAGES.map(|page| page.addr().to_string());
    assert_eq!(host.asked("soft"), addresses);
    daemon.stop().assert_success();
    assert_eq!((host.on_list(), host.variables()), (PAGES.into(), mirror));
}
