//! `rasctl pages`: what a person does with the list, with and without rasd.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ras_core::{Pfn, RetireReason, RetireState, RetiredPage};
use ras_lab::{artifacts, capability};

use super::events::{corrected, uncorrected};
use super::guest::{BASE, Behaviour, FakeGuest};
use super::host::{Host, SOON};
use super::{SECOND, T0};

impl Host {
    /// `rasctl --store` against this host's list.
    fn offline(&self, arguments: &[&str]) -> (i32, String, String) {
        let store = self.store().display().to_string();
        self.rasctl(&[&["--store", &store], arguments].concat())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    fn journal(&self) -> PathBuf {
        self.store().join("journal")
    }

    /// A host whose rasd ran once and left these pages on its list.
    fn after(pages: &[Pfn]) -> Self {
        let host = Self::new();
        let capture: String =
            (0..).zip(pages).map(|(n, page)| uncorrected(*page, T0 + n)).collect();
        host.replay(&host.capture(capture)).assert_success();
        host
    }
}

fn pfns(host: &Host) -> Vec<Pfn> {
    host.stored().pages.into_keys().collect()
}

#[test]
fn a_person_retires_pages_through_a_running_rasd() {
    needs!(capability::root());
    let host = Host::new();
    let guest = FakeGuest::start(&host.path("guests"), "vm1", Behaviour::GivesUp);
    let held = guest.frame(3);
    let daemon = host.start();
    let held_address = held.addr().to_string();
    let places = ["0x12345678", "pfn:0x777", "0x20000000+8K", &held_address];
    let command = [&["pages", "retire"], &places[..], &["--note", "memtest, pass 3"]].concat();
    let (code, text, error) = host.rasctl(&command);
    assert_eq!(code, 0, "{text}{error}{}", daemon.log());
    assert!(text.starts_with("5 pages put on the list, 0 were on it, by "), "{text}");
    assert!(text.contains("0x12345000  retired  host: offline"), "{text}");
    assert!(error.contains("whole pages are meant: 0x12345000"), "{error}");

    let mut expect = [Pfn(0x777), Pfn(0x12345), Pfn(0x20000), Pfn(0x20001), held];
    expect.sort_unstable();
    assert_eq!(pfns(&host), expect);
    let addresses: Vec<String> = expect.iter().map(|pfn| pfn.addr().to_string()).collect();
    assert_eq!(host.asked("soft"), addresses, "nobody's data is thrown away");
    assert_eq!(host.asked("hard"), <[String; 0]>::default());
    assert_eq!(guest.calls(), [format!("retire {} 4096 \"corrected\"", BASE + 3 * 4096)]);
    let page = host.page(Pfn(0x12345)).unwrap();
    assert_eq!((page.reason, page.state), (RetireReason::Operator, RetireState::Retired));
    let who = format!("(uid {}): memtest, pass 3", nix::unistd::getuid());
    assert!(page.diagnosis.starts_with("asked for by ") && page.diagnosis.ends_with(&who));

    // Once is enough, and an error there is no news.
    let (code, text, _) = host.rasctl(&command);
    assert!(code == 0 && text.starts_with("0 pages put on the list, 5 were on it"), "{text}");
    assert_eq!(host.asked("soft").len(), 5);
    let (_, text, _) = host.rasctl(&["pages", "history", "0x12345000"]);
    assert!(text.contains("condemned  operator  asked for by "), "{text}");
    assert!(text.contains("retired    rasd"), "{text}");
    daemon.stop().assert_success();
    host.replay(&host.capture(uncorrected(Pfn(0x777), T0))).assert_success();
    assert_eq!(host.page(Pfn(0x777)).unwrap().reason, RetireReason::Operator);
}

#[test]
fn wrong_orders_are_refused_with_the_right_one() {
    let host = Host::new();
    let daemon = host.start();
    for (arguments, says) in [
        (&["retire", "12345", "--note", "x"][..], "Say which"),
        (&["retire", "0x1000"], "--note"),
        (&["retire", "0x1000", "--note", " "], "a note is one line"),
        (&["retire", "0x0-0x3fffffff", "--note", "x"], "at most 65536"),
        (&["retire", "0x2000-0x1000", "--note", "x"], "ends before it begins"),
        (&["show", "0x1000-0x4fff"], "4 pages, not one"),
        (&["show", "0x5000"], "page 0x5000 (pfn:0x5) is not on the list"),
        (&["history", "0x5000"], "never was"),
        (&["list", "--state", "gone"], "the states are pending, retired, failed"),
        (&["list", "--since", "soon"], "a time: "),
        (&["export", "--as", "floppy"], "grub-cutmem"),
    ] {
        let (code, _, error) = host.rasctl(&[&["pages"], arguments].concat());
        assert!(code != 0 && error.contains(says), "{arguments:?}: {error}");
    }
    assert_eq!(pfns(&host), []);
    daemon.stop().assert_success();

    // Nobody to ask: what to do about it.
    for arguments in [&["pages", "list"][..], &["pages", "verify"], &["pages", "repair"]] {
        let (code, _, error) = host.rasctl(arguments);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains("systemctl start rasd") && error.contains("--store DIR"), "{error}");
    }
    let nowhere = host.path("nowhere").display().to_string();
    for verb in [&["list"][..], &["verify"], &["repair"], &["retire", "0x1000", "--note", "x"]] {
        let (code, _, error) = host.rasctl(&[&["--store", &nowhere, "pages"], verb].concat());
        assert!(code == 2 && error.contains("there is no store"), "{verb:?} {error}");
    }
    assert!(!Path::new(&nowhere).exists(), "no store is made by a typing error");
}

#[test]
fn an_order_without_rasd_waits_for_its_next_start() {
    let host = Host::after(&[Pfn(0x999)]);
    let daemon = host.start();
    let (code, _, error) = host.offline(&["pages", "retire", "0x1000", "--note", "x"]);
    assert!(code == 1 && error.contains("leave out --store"), "{error}");
    daemon.stop().assert_success();

    let (code, text, error) = host.offline(&["pages", "retire", "0x1000+8K", "--note", "vendor"]);
    assert!(code == 0 && text.contains("at its next start"), "{text}{error}");
    assert_eq!(host.states(), [2, 1, 0]);
    host.reboot();
    let mut daemon = host.start();
    daemon.wait_status("the walk", |status| status.pages.retired == 3);
    assert_eq!(host.asked("soft"), ["0x1000", "0x2000"]);
    daemon.stop().assert_success();

    let (code, text, error) =
        host.offline(&["pages", "unretire", "0x0-0xffff", "--note", "replaced"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(text.matches("is off the list, by ").count(), 2, "{text}");
    let (code, _, error) = host.offline(&["pages", "unretire", "0x1000", "--note", "again"]);
    assert!(code == 1 && error.contains("0x1000 is not on the list"), "{error}");
    let (_, text, _) = host.offline(&["pages", "history", "0x1000"]);
    assert!(text.contains("unretired") && text.contains("replaced"), "{text}");
    assert_eq!(pfns(&host), [Pfn(0x999)]);
}

#[test]
fn a_page_that_could_not_be_retired_is_tried_again_when_asked_for() {
    let host = Host::new();
    let soft = host.offline_file("soft");
    fs::rename(&soft, host.path("hidden")).unwrap();
    let daemon = host.start();
    let retire = ["pages", "retire", "0x1000", "--note", "x"];
    let (code, text, error) = host.rasctl(&retire);
    assert!(code == 1 && error.contains("remembered, but"), "{text}{error}");
    assert_eq!(host.states(), [0, 0, 1]);
    fs::rename(host.path("hidden"), &soft).unwrap();
    let (code, text, error) = host.rasctl(&retire);
    assert!(code == 0 && text.contains("0x1000  retired"), "{text}{error}");
    daemon.stop().assert_success();
}

#[test]
fn the_list_is_shown_as_asked_for() {
    let host = Host::new();
    let capture = uncorrected(Pfn(0x900), T0)
        + &corrected(Pfn(0x100), T0 + SECOND)
        + &corrected(Pfn(0x100), T0 + 2 * SECOND)
        + &corrected(Pfn(0x200), T0 + 3 * SECOND);
    host.replay(&host.capture(capture)).assert_success();
    host.offline(&["pages", "retire", "0x300000", "--note", "x"]);
    let addresses = |arguments: &[&str]| {
        let (code, text, error) = host.offline(&[&["pages", "list"], arguments].concat());
        assert_eq!(code, 0, "{error}");
        let lines = text.lines().skip(1);
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&[]), ["0x100000", "0x300000", "0x900000"]);
    assert_eq!(addresses(&["--sort", "since"]), ["0x900000", "0x100000", "0x300000"]);
    assert_eq!(addresses(&["--sort", "severity"]), ["0x900000", "0x100000", "0x300000"]);
    assert_eq!(addresses(&["--state", "pending"]), ["0x300000"]);
    assert_eq!(addresses(&["--state", "pending", "--state", "failed"]), ["0x300000"]);
    assert_eq!(addresses(&["--since", "1h"]), ["0x300000"]);
    assert_eq!(addresses(&["--since", "2023-11-14T22:13:21Z"]), ["0x100000", "0x300000"]);
    assert_eq!(addresses(&["--dimm", "Channel 0"]), ["0x100000", "0x900000"]);
    assert_eq!(addresses(&["--dimm", "nobody"]), <[&str; 0]>::default());
    let (_, text, _) = host.offline(&["--json", "pages", "list", "--state", "retired"]);
    let pages: Vec<RetiredPage> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pages.len(), 2);
    // To a file or a pipe, nothing is coloured.
    let (_, text, _) = host.offline(&["pages", "list"]);
    assert!(!text.contains('\u{1b}'));

    let (_, text, _) = host.offline(&["pages", "history"]);
    let whats: Vec<&str> =
        text.lines().skip(1).map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    for what in ["condemned", "retired", "observed", "health"] {
        assert!(whats.contains(&what), "{what}: {text}");
    }
}

/// A byte flips on the disk: found where it is while rasd runs, mended when it does not.
#[test]
fn a_flipped_byte_is_found_at_its_offset_and_mended() {
    let host = Host::after(&[Pfn(0x111), Pfn(0x222), Pfn(0x333)]);
    let daemon = host.start();
    let (code, text, error) = host.rasctl(&["pages", "verify"]);
    assert!(code == 0 && text.contains("verdict  sound"), "{text}{error}");

    // The first copy of the second block: see persist-store/FORMAT.md.
    const OFFSET: usize = 3 * 4096 + 123;
    let mut bytes = fs::read(host.journal()).unwrap();
    bytes[OFFSET] ^= 4;
    fs::write(host.journal(), &bytes).unwrap();
    let (code, text, error) = host.rasctl(&["pages", "verify"]);
    assert!(code == 1 && error.contains("nothing is lost"), "{error}");
    let finding = format!(
        "block at offset 0x3000 (copy 0 of block 1): 1 bytes are not those of its good second copy, \
         the first at offset {OFFSET:#x}"
    );
    assert!(text.contains(&finding), "{text}");
    let (code, text, _) = host.rasctl(&["--json", "pages", "verify"]);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &found["verdict"]), (1, &"mendable".into()));
    assert_eq!(found["damaged"][0]["first_byte"], OFFSET);

    for repair in [host.rasctl(&["pages", "repair"]), host.offline(&["pages", "repair"])] {
        let (code, _, error) = repair;
        let process = format!("(process {})", daemon.pid());
        let holds =
            error.contains(&process) || error.contains(&format!("process {}", daemon.pid()));
        assert!(code == 1 && holds && error.contains("systemctl stop rasd"), "{error}");
    }
    assert_eq!(fs::read(host.journal()).unwrap(), bytes, "nothing was touched");
    daemon.stop().assert_success();

    let (code, text, error) = host.offline(&["pages", "repair"]);
    assert!(
        code == 0 && text.contains(&finding) && text.contains("now sound, 3 retired"),
        "{text}{error}"
    );
    bytes[OFFSET] ^= 4;
    assert_eq!(fs::read(host.journal()).unwrap(), bytes, "byte for byte what it was");
    let (code, text, _) = host.offline(&["pages", "verify"]);
    assert!(code == 0 && text.contains("verdict  sound"), "{text}");
    let (code, text, _) = host.offline(&["pages", "repair"]);
    assert!(code == 0 && text.contains("nothing to mend"), "{text}");
}

#[test]
fn a_loss_is_named_kept_in_quarantine_and_remembered_until_accepted() {
    let host = Host::after(&[Pfn(0x111), Pfn(0x222), Pfn(0x333)]);
    let mut bytes = fs::read(host.journal()).unwrap();
    for block in [3, 131] {
        bytes[block * 4096 + 50] ^= 1;
    }
    fs::write(host.journal(), &bytes).unwrap();
    let (code, text, error) = host.offline(&["pages", "verify"]);
    assert!(code == 1 && error.contains("entries may be lost"), "{error}");
    for offset in ["offset 0x3000", "offset 0x83000"] {
        assert!(text.contains(offset) && text.contains("no good second copy"), "{text}");
    }
    let (code, text, error) = host.offline(&["pages", "repair"]);
    assert!(code == 1 && error.contains("may have been lost before"), "{text}{error}");
    let quarantine: Vec<_> = fs::read_dir(host.store().join("quarantine")).unwrap().collect();
    let [Ok(kept)] = quarantine.as_slice() else { panic!("{quarantine:?}") };
    assert_eq!(fs::read(kept.path()).unwrap(), bytes);
    assert!(text.contains(kept.path().to_str().unwrap()), "{text}");
    let (code, text, _) = host.offline(&["pages", "verify"]);
    assert!(code == 1 && text.contains("verdict  sound") && text.contains("loss     "), "{text}");

    let daemon = host.start();
    host.rasctl(&["accept-damage", "--note", "compared"]);
    let (code, _, error) = host.rasctl(&["pages", "verify"]);
    assert_eq!(code, 0, "{error}");
    daemon.stop().assert_success();
}

const BCDEDIT: &str = "RAM Defects\r\n-----------\r\nidentifier              {badmemory}\r\n\
                       badmemorylist           0x111\r\n                        0x222\r\n";

#[test]
fn what_other_programs_know_is_imported_whole_or_not_at_all() {
    let host = Host::after(&[Pfn(0x111)]);
    let list = host.write(
        "list",
        format!("{BCDEDIT}\r\n# more\r\n0x333000\r\nnonsense\r\nmemmap=4K$0x444000\r\n"),
    );
    let daemon = host.start();
    let (code, text, error) = host.rasctl(&["pages", "import", &list]);
    assert!(code == 1 && error.contains("nothing was imported"), "{text}{error}");
    assert!(error.contains(":9: not understood: \"nonsense\""), "{error}");
    assert_eq!(pfns(&host), [Pfn(0x111)]);

    let (code, text, _) = host.rasctl(&["pages", "import", &list, "--partial", "--dry-run"]);
    let expect =
        "would put 3 pages on the list; 1 are on it already\n0x222000\n0x333000\n0x444000\n";
    assert_eq!((code, text.as_str()), (0, expect));
    assert_eq!(pfns(&host), [Pfn(0x111)]);

    let (code, text, error) = host.rasctl(&["pages", "import", &list, "--partial"]);
    assert!(code == 0 && text.contains("3 pages put on the list"), "{text}{error}");
    assert_eq!(pfns(&host), [0x111, 0x222, 0x333, 0x444].map(Pfn));
    let imported = host.page(Pfn(0x222)).unwrap();
    assert!(imported.diagnosis.ends_with(&format!(": from {list}")), "{}", imported.diagnosis);
    assert_eq!(
        host.page(Pfn(0x111)).unwrap().reason,
        RetireReason::Uncorrected,
        "stays what it is"
    );
    let (code, text, _) = host.rasctl(&["pages", "import", &list, "--partial"]);
    assert!(code == 0 && text.contains("nothing to import: 4 pages"), "{text}");
    daemon.stop().assert_success();
}

/// A list moves to another host with all that is known of each page; addresses alone in any form.
#[test]
fn a_list_moves_from_host_to_host() {
    let old = Host::after(&[Pfn(0x111), Pfn(0x222), Pfn(0x223)]);
    let file = old.path("pages.json").display().to_string();
    let (code, _, error) = old.offline(&["pages", "export", "--as", "json", "--output", &file]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = old.offline(&["pages", "export", "--as", "json", "--output", &file]);
    assert!(code == 2 && error.contains("--force overwrites it"), "{error}");

    let new = Host::after(&[Pfn(0x222)]);
    let before = new.page(Pfn(0x222)).unwrap();
    let daemon = new.start();
    let (code, text, error) = new.rasctl(&["pages", "import", &file, "--note", "disk moved"]);
    assert!(code == 0 && text.contains("1 pages are on the list already"), "{text}{error}");
    daemon.stop().assert_success();
    assert_eq!(new.page(Pfn(0x222)).unwrap(), before);
    let (there, here) = (old.page(Pfn(0x111)).unwrap(), new.page(Pfn(0x111)).unwrap());
    assert_eq!(
        (here.since, here.reason, &here.location),
        (there.since, there.reason, &there.location)
    );
    assert!(
        here.diagnosis.starts_with(there.diagnosis.as_str())
            && here.diagnosis.ends_with(": disk moved")
    );
    assert_eq!(
        new.asked("soft").len(),
        2,
        "what lies there is sound so far: moved, not thrown away"
    );

    for form in ["memmap", "grub-cutmem", "grub-badram", "xen", "bcdedit", "memtest", "json"] {
        let (code, text, notes) = old.offline(&["pages", "export", "--as", form]);
        assert_eq!(code, 0, "{notes}");
        assert!(form == "json" || notes.starts_with("rasctl: 3 of 3 bad pages\n"), "{notes}");
        let host = Host::after(&[Pfn(0x999)]);
        let list = host.write("list", &text);
        let (code, _, error) = host.offline(&["pages", "import", &list]);
        assert_eq!(code, 0, "{form}: {text}{error}");
        assert_eq!(pfns(&host), [0x111, 0x222, 0x223, 0x999].map(Pfn), "{form}: {text}");
    }
}

/// Killed in the middle of an import and started again: nothing is lost, nothing is there twice.
#[test]
fn an_interrupted_import_is_simply_started_again() {
    const PAGES: u64 = 5000;
    let text: String = (0..PAGES).map(|n| format!("pfn:{}\n", 0x10_0000 + 2 * n)).collect();
    let host = Host::new();
    let list = host.write("list", &text);
    let mut daemon = host.start();
    let program = artifacts::program("rasctl").unwrap();
    let import = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).args(["pages", "import", &list, "--wait", "0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let socket = host.path("rasd.sock").display().to_string();
    let mut child = import(&["--socket", &socket]);
    let deadline = Instant::now() + SOON;
    while daemon.client().pages().unwrap().is_empty() {
        assert!(Instant::now() < deadline);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let first = daemon.client().pages().unwrap().len() as u64;
    println!("{first} of {PAGES} pages when it was killed");

    let (code, text, error) = host.rasctl(&["pages", "import", &list, "--wait", "0"]);
    assert_eq!(code, 0, "{text}{error}");
    daemon.wait_status("every walk", |status| status.pages.retired == PAGES);
    let mut asked = host.asked("soft");
    assert_eq!(asked.len() as u64, PAGES, "no page walked twice");
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len() as u64, PAGES);
    daemon.stop().assert_success();

    // Without rasd an import is one commit: all of it or nothing, wherever it is killed.
    let host = Host::after(&[Pfn(1)]);
    let store = host.store().display().to_string();
    let mut delay = Duration::from_millis(2);
    let mut kills = 0;
    // A little later each time, up to the first time that all of them are there.
    while host.stored().pages.len() == 1 {
        let mut child = import(&["--store", &store]);
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap();
        let pages = host.stored().pages.len() as u64;
        assert!(pages == 1 || pages == 1 + PAGES, "{pages}");
        (delay, kills) = (delay.mul_f64(1.2), kills + 1);
        assert!(delay < SOON, "it never ends");
    }
    println!("killed {kills} times, the last time after {delay:?}");
    assert!(kills > 1, "never killed before the commit");
    let (code, _, error) = host.offline(&["pages", "import", &list]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(host.stored().pages.len() as u64, 1 + PAGES);
    assert_eq!(host.offline(&["pages", "verify"]).0, 0);
}

#[test]
fn lists_come_through_pipes_and_leave_through_closed_ones() {
    let host = Host::after(&[Pfn(0x111), Pfn(0x222)]);
    let store = host.store().display().to_string();
    let program = artifacts::program("rasctl").unwrap();
    let mut child = Command::new(&program)
        .args(["--store", &store, "pages", "import", "-", "--frames", "--note", "memtest"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"0x333,0x444..0x445").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(pfns(&host), [0x111, 0x222, 0x333, 0x444, 0x445].map(Pfn));
    let script = "\"$0\" --store \"$1\" pages list | head -n 1 >/dev/null; exit ${PIPESTATUS[0]}";
    let closed = Command::new("bash").args(["-c", script]).arg(&program).arg(&store).output();
    assert!(closed.unwrap().status.success());
}
