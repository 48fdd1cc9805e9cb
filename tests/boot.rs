//! Bad pages are to be gone before any operating system starts: `rasctl boot` on machines made of files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use persist_store::boot::BootList;
use persist_store::exclusion::{CopyState, Outcome, place};
use persist_store::{Entry, Store};
use ras_core::{
    ErrorSource, Location, Pfn, RetireReason, RetireState, RetiredPage, Severity, Timestamp,
};
use rasctl::efi::load_option::{GLOBAL, LoadOption, Signature};
use serde_json::Value;
use tempfile::TempDir;

const ESP: &str = "boot/efi";
const EFIVARS: &str = "sys/firmware/efi/efivars";
const DRIVER: &str = "boot/efi/EFI/rampart/rampart-x64.efi";
const DROP_IN: &str = "etc/default/grub.d/rampart.cfg";
const SCRIPT: &str = "etc/grub.d/01_rampart";
const GUID: &str = "c0ffee00-1234-5678-9abc-def012345678";

/// Fails a change of `rasctl boot`, see there.
const FAULT: &str = "RASCTL_BOOT_FAULT";

/// More changes than any run of `rasctl boot` makes.
const CHANGES_MAX: u32 = 30;

/// The headers of a boot service driver.
fn image(subsystem: u8, signed: bool) -> Vec<u8> {
    let mut file = vec![0; 512];
    for (at, bytes) in [
        (0, &b"MZ"[..]),
        (0x3c, &[0x40]),
        (0x40, b"PE\0\0\x64\x86"),
        (0x58, &[0x0b, 0x02]),
        (0x58 + 44, &[1, 0, 2, 0]),
        (0x58 + 68, &[subsystem]),
        (0x58 + 108, &[16]),
        (0x58 + 144, if signed { &[0, 1, 0, 0, 64] } else { &[0; 5] }),
    ] {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

fn page(pfn: u64, reason: RetireReason) -> RetiredPage {
    RetiredPage {
        pfn: Pfn(pfn),
        reason,
        state: RetireState::Retired,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp::from_secs(1_700_000_000),
        updated: Timestamp::from_secs(1_700_000_000),
        attempts: 1,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: "".into(),
        outcome: "".into(),
    }
}

/// A whole system below a directory.
struct Machine {
    root: TempDir,
}

/// Every file, directory and link with its mode and content.
type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Machine {
    /// Started by its BIOS; GRUB is Debian's.
    fn with_bios() -> Self {
        let machine = Self { root: TempDir::new().unwrap() };
        fs::set_permissions(machine.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        machine.put("proc/cmdline", b"BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet\n");
        machine.put("proc/self/mountinfo", b"1 0 8:2 / / rw - ext4 /dev/sda2 rw\n");
        machine
            .put("usr/sbin/grub-mkconfig", b"for x in ${sysconfdir}/default/grub.d/*.cfg ; do\n");
        machine.put("etc/default/grub", b"GRUB_CMDLINE_LINUX=\"\"\n");
        machine.put("etc/grub.d/10_linux", b"#!/bin/sh\n");
        machine.retire(&[]);
        machine.boot("one");
        machine
    }

    /// Started by UEFI, with a partition at /boot/efi and a driver of somebody else's.
    fn with_uefi() -> Self {
        let machine = Self::with_bios();
        machine.mount("vfat", "rw");
        machine.put("boot/efi/EFI/debian/grubx64.efi", b"grub");
        machine.put("usr/lib/rampart/rampart-x64.efi", &image(11, false));
        let partition = "sys/devices/pci/sda/sda1";
        for (file, text) in [
            ("partition", "1\n"),
            ("start", "2048\n"),
            ("size", "1048576\n"),
            ("uevent", &format!("DEVNAME=sda1\nPARTUUID={GUID}\n")),
        ] {
            machine.put(&format!("{partition}/{file}"), text.as_bytes());
        }
        machine.put("sys/devices/pci/sda/queue/logical_block_size", b"512\n");
        fs::create_dir_all(machine.at("sys/dev/block")).unwrap();
        symlink("../../devices/pci/sda/sda1", machine.at("sys/dev/block/8:1")).unwrap();
        machine.put_variable("SecureBoot", GLOBAL, 6, &[0]);
        machine.put_variable("BootOrder", GLOBAL, 7, &[0, 0]);
        machine.put_variable("Driver0000", GLOBAL, 7, b"\x01\0\0\0\x04\0N\0\0\0\x7f\xff\x04\0");
        // 0002 is not there, but somebody may have plans with it.
        machine.put_variable("DriverOrder", GLOBAL, 7, &[0, 0, 2, 0]);
        machine
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.at(path)).ok()
    }

    fn mount(&self, kind: &str, options: &str) {
        let text = format!(
            "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n2 1 8:1 / /boot/efi {options} - {kind} /dev/sda1 rw\n"
        );
        self.put("proc/self/mountinfo", text.as_bytes());
    }

    fn put_variable(&self, name: &str, vendor: &str, attributes: u32, data: &[u8]) {
        let bytes = [&attributes.to_le_bytes()[..], data].concat();
        self.put(&format!("{EFIVARS}/{name}-{vendor}"), &bytes);
    }

    /// The data of a variable of the specification's.
    fn variable(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.get(&format!("{EFIVARS}/{name}-{GLOBAL}"))?[4..].to_vec())
    }

    /// Puts pages on rasd's list.
    fn retire(&self, pages: &[RetiredPage]) {
        let dir = self.at("var/lib/rasd");
        fs::create_dir_all(&dir).unwrap();
        let (mut store, _) = Store::open(&dir).unwrap();
        for page in pages {
            store.append(Entry::Page(Box::new(page.clone()))).unwrap();
        }
    }

    fn boot(&self, id: &str) {
        self.put("proc/sys/kernel/random/boot_id", format!("{id}\n").as_bytes());
    }

    /// The machine starts without the driver, as it once did: the driver's word is the firmware's own and
    /// goes with the reset.
    fn reset(&self) {
        let outcome = format!("{}-{}", place::OUTCOME_VARIABLE, place::VENDOR);
        fs::remove_file(self.at(EFIVARS).join(outcome)).unwrap();
        self.boot("one");
    }

    /// The machine starts again, and the driver does what it does.
    fn reboot(&self) {
        self.boot("another");
        let list =
            BootList::new(&self.at(EFIVARS), Some(&self.at(ESP))).read().unwrap().list.unwrap();
        let pages = list.ranges.iter().map(|range| range.pages.count).sum();
        let outcome = Outcome {
            source: Some(0),
            copies: [CopyState::Sound, CopyState::Sound, CopyState::Absent, CopyState::Absent],
            generation: list.generation,
            listed_pages: pages,
            excluded_pages: pages,
            excluded_ranges: u32::try_from(list.ranges.len()).unwrap(),
            ..Outcome::default()
        };
        self.put_variable(place::OUTCOME_VARIABLE, place::VENDOR, 6, &outcome.encode());
    }

    /// What is there but for rasd's own list.
    fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut dirs = vec![self.root.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                let name = path.strip_prefix(self.root.path()).unwrap().to_owned();
                if name == Path::new("var/lib/rasd") {
                    continue;
                }
                let content = if kind.is_symlink() {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                } else if kind.is_dir() {
                    dirs.push(path.clone());
                    vec![]
                } else {
                    fs::read(&path).unwrap()
                };
                tree.insert(name, (kind.permissions().mode(), content));
            }
        }
        tree
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ras_lab::artifacts::program("rasctl").unwrap());
        command.arg("boot").args(arguments).arg("--root").arg(self.root.path()).env_remove(FAULT);
        command
    }

    fn rasctl(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments))
    }

    fn with_fault(&self, arguments: &[&str], fault: &str) -> Answer {
        let mut command = self.command(arguments);
        command.env(FAULT, fault);
        Answer::of(command)
    }

    fn status(&self) -> (i32, Value) {
        let answer = self.rasctl(&["status", "--json"]);
        (answer.code, serde_json::from_str(&answer.text).unwrap())
    }
}

#[derive(Debug)]
struct Answer {
    /// Its exit code; that of a killed one is 128 and the signal's number, as a shell has it.
    code: i32,
    text: String,
    error: String,
}

impl Answer {
    fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let signal = || output.status.signal().map(|signal| 128 + signal);
        Self {
            code: output.status.code().or_else(signal).unwrap(),
            text: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn expect(self, code: i32, said: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.text.contains(said) || self.error.contains(said), "{said:?}: {self:?}");
        self
    }
}

#[track_caller]
fn assert_same(before: &Tree, after: &Tree) {
    for (path, before) in before {
        assert_eq!(after.get(path), Some(before), "{}", path.display());
    }
    for path in after.keys() {
        assert!(before.contains_key(path), "{} is left behind", path.display());
    }
}

#[test]
fn a_driver_is_installed_kept_in_step_and_gone_without_a_trace() {
    let machine = Machine::with_uefi();
    machine.retire(&[
        page(0x12345, RetireReason::Uncorrected),
        page(0x12346, RetireReason::Uncorrected),
    ]);
    let before = machine.tree();
    machine.rasctl(&["status"]).expect(1, "nothing is installed: rasctl boot install");
    machine.rasctl(&["refresh"]).expect(1, "nothing is installed");
    machine.rasctl(&["install", "--dry-run"]).expect(0, "would write /boot/efi/EFI/rampart/");
    assert_same(&before, &machine.tree());

    machine.rasctl(&["install"]).expect(0, "it takes effect at the next boot");
    assert_eq!(machine.get(DRIVER), Some(image(11, false)));
    let option = LoadOption::decode(&machine.variable("Driver0001").unwrap()).unwrap();
    let partition = option.partition.unwrap();
    assert_eq!(option.file, r"\EFI\rampart\rampart-x64.efi");
    assert_eq!((partition.number, partition.start, partition.size), (1, 2048, 1_048_576));
    assert_eq!(Some(partition.signature), Signature::of_partuuid(GUID));
    assert_eq!(machine.variable("DriverOrder"), Some(vec![0, 0, 2, 0, 1, 0]));
    let (code, status) = machine.status();
    assert_eq!((code, &status["next"]), (1, &"it takes effect at the next boot: reboot".into()));
    assert_eq!(status["driver"]["version"], "1.2");
    assert_eq!(status["list"]["pages"], 2);

    let installed = machine.tree();
    machine.rasctl(&["install"]).expect(0, "nothing was changed");
    assert_same(&installed, &machine.tree());

    machine.reboot();
    let (code, status) = machine.status();
    assert_eq!((code, &status["next"]), (0, &Value::Null), "{status}");
    assert_eq!(status["boot"]["excluded_pages"], 2);
    machine.rasctl(&["status"]).expect(0, "in step with the store (2 pages)");
    let rebooted = machine.tree();
    machine.rasctl(&["install"]).expect(0, "nothing was changed");
    assert_same(&rebooted, &machine.tree());

    machine.retire(&[page(0x99999, RetireReason::CorrectedThreshold)]);
    machine.rasctl(&["status"]).expect(1, "out of step with the store (3 pages)");
    machine.rasctl(&["refresh"]).expect(0, "write the list for firmware: 3 pages");
    machine.rasctl(&["refresh"]).expect(0, "nothing was changed");
    machine.rasctl(&["status"]).expect(0, "newer than this boot's");

    // What somebody else did meanwhile stays, and what somebody else broke is mended.
    machine.put_variable("DriverOrder", GLOBAL, 7, &[2, 0]);
    machine.rasctl(&["status"]).expect(1, "DriverOrder leaves it out: rasctl boot install");
    machine.rasctl(&["install"]).expect(0, "DriverOrder: 0002 0001");
    machine.put_variable("DriverOrder", GLOBAL, 7, &[1, 0, 0, 0, 2, 0]);
    machine.rasctl(&["status"]).expect(0, "all in step");

    machine
        .rasctl(&["remove", "--dry-run"])
        .expect(0, "would delete the firmware's variable Driver0001");
    machine.rasctl(&["status"]).expect(0, "all in step");
    machine.rasctl(&["remove"]).expect(0, "stays excluded until the next one");
    machine.reset();
    assert_same(&before, &machine.tree());
    machine.rasctl(&["remove"]).expect(0, "nothing was changed");
}

#[test]
fn an_interrupted_run_is_finished_or_undone() {
    let new = || {
        let machine = Machine::with_uefi();
        machine.retire(&[page(7, RetireReason::Uncorrected)]);
        machine
    };
    let fresh = new();
    fresh.rasctl(&["install"]).expect(0, "");
    let (before, complete) = (new().tree(), fresh.tree());
    let mut interrupted = 0;
    for fault in ["kill", "enospc", "eio"] {
        for at in 0..CHANGES_MAX {
            let machine = new();
            let wanted = format!("{at}:{fault}");
            let answer = machine.with_fault(&["install"], &wanted);
            if answer.code == 0 {
                assert!(at > 5, "{answer:?}");
                break;
            }
            interrupted += 1;
            answer.expect(if fault == "kill" { 137 } else { 1 }, "");
            if at % 2 == 0 {
                machine.rasctl(&["install"]).expect(0, "");
                assert_same(&complete, &machine.tree());
            }
            machine.rasctl(&["remove"]).expect(0, "");
            assert_same(&before, &machine.tree());

            // And the way back.
            machine.rasctl(&["install"]).expect(0, "");
            if machine.with_fault(&["remove"], &wanted).code != 0 {
                interrupted += 1;
                assert_eq!(machine.variable("Driver0000"), fresh.variable("Driver0000"));
                if at % 2 == 1 {
                    machine.rasctl(&["install"]).expect(0, "");
                    assert_same(&complete, &machine.tree());
                }
            }
            machine.rasctl(&["remove"]).expect(0, "");
            assert_same(&before, &machine.tree());
        }
    }
    println!("{interrupted} interrupted runs were finished or undone");
    assert!(interrupted > 30);
}

#[test]
fn firmware_without_room_leaves_it_to_systemd_boot() {
    let systemd = "boot/efi/EFI/systemd/drivers/rampart-x64.efi";
    let mut refused = 0;
    for at in 0..CHANGES_MAX {
        let machine = Machine::with_uefi();
        machine.retire(&[page(7, RetireReason::Uncorrected)]);
        let fault = format!("{at}:enospc");
        let answer = machine.with_fault(&["install"], &fault);
        if answer.code == 0 {
            break;
        }
        if !answer.error.contains("the firmware has no room for it") {
            continue;
        }
        // Without systemd-boot there is nothing else, and that is said. With it, there is.
        refused += 1;
        machine.rasctl(&["remove"]).expect(0, "");
        machine.put("boot/efi/EFI/systemd/systemd-bootx64.efi", b"systemd-boot");
        let before = machine.tree();
        let answer = machine.with_fault(&["install"], &fault);
        answer.expect(0, "systemd-boot loads the driver instead");
        assert_eq!(machine.get(systemd), Some(image(11, false)));
        assert_eq!((machine.get(DRIVER), machine.variable("Driver0001")), (None, None));
        assert_eq!(machine.variable("DriverOrder"), Some(vec![0, 0, 2, 0]));
        machine.reboot();
        machine.rasctl(&["status"]).expect(0, "method     systemd-boot");
        // It can be had the other way once there is room.
        machine.rasctl(&["install", "--method", "driver-entry"]).expect(0, "");
        assert_eq!((machine.get(systemd), machine.get(DRIVER)), (None, Some(image(11, false))));
        machine.rasctl(&["remove"]).expect(0, "");
        machine.reset();
        assert_same(&before, &machine.tree());
    }
    assert_eq!(refused, 2, "Driver0001 and DriverOrder");
}

#[test]
fn what_can_not_be_done_is_said_and_nothing_is_touched() {
    let check = |prepare: &dyn Fn(&Machine), arguments: &[&str], code: i32, said: &str| {
        let machine = Machine::with_uefi();
        prepare(&machine);
        let before = machine.tree();
        machine.rasctl(&[&["install"], arguments].concat()).expect(code, said);
        assert_same(&before, &machine.tree());
    };
    check(&|machine| machine.mount("vfat", "ro"), &[], 1, "mount -o remount,rw /boot/efi");
    check(
        &|machine| machine.mount("ext4", "rw"),
        &[],
        2,
        "/boot/efi is ext4, which firmware can't read",
    );
    let unmounted =
        |machine: &Machine| machine.put("proc/self/mountinfo", b"1 0 8:2 / / rw - ext4 x rw\n");
    check(&unmounted, &[], 2, "no EFI system partition is mounted");
    check(&|_| {}, &["--esp", "/mnt"], 2, "nothing is mounted at /mnt");
    let no_driver =
        |machine: &Machine| machine.put("usr/lib/rampart/rampart-x64.efi", &image(10, false));
    check(&no_driver, &[], 1, "it is an EFI application, not an EFI boot service driver");
    check(&|_| {}, &["--driver", "/nowhere"], 2, "reading /nowhere");
    let raid = |machine: &Machine| {
        fs::remove_file(machine.at("sys/devices/pci/sda/sda1/partition")).unwrap();
    };
    check(&raid, &[], 1, "on no partition of a disk");
    check(&|_| {}, &["--method", "systemd-boot"], 1, "systemd-boot is not on the partition");
    let odd = |machine: &Machine| machine.put_variable("DriverOrder", GLOBAL, 7, &[0, 0, 2]);
    check(&odd, &[], 1, "DriverOrder is damaged");
    let bare = |machine: &Machine| {
        fs::remove_dir_all(machine.at(EFIVARS)).unwrap();
        fs::create_dir(machine.at(EFIVARS)).unwrap();
    };
    check(&bare, &[], 2, "mount -t efivarfs");

    let secure = |machine: &Machine| machine.put_variable("SecureBoot", GLOBAL, 6, &[1]);
    check(&secure, &[], 1, "sbsign --key");
    check(&secure, &["--signed"], 1, "carries no signature");
    check(&secure, &["--method", "grub"], 1, "refuses cutmem");
    let signed = |machine: &Machine| {
        secure(machine);
        machine.put("usr/lib/rampart/rampart-x64.efi", &image(11, true));
    };
    check(&signed, &[], 1, "carries a signature");
    let machine = Machine::with_uefi();
    signed(&machine);
    machine.rasctl(&["install", "--signed"]).expect(0, "");
    // The package's own copy has no signature; it is no news for that.
    machine.put("usr/lib/rampart/rampart-x64.efi", &image(11, false));
    machine.rasctl(&["status"]).expect(1, "version 1.2, signed\n");
    machine.reboot();
    machine.rasctl(&["status"]).expect(0, "all in step");

    // A number that only the order has is somebody's, too.
    let machine = Machine::with_uefi();
    machine.put_variable("DriverOrder", GLOBAL, 7, &[0, 0, 1, 0]);
    machine.rasctl(&["install"]).expect(0, "DriverOrder: 0000 0001 0002");

    // Garbage among the firmware's variables is somebody else's.
    let machine = Machine::with_uefi();
    machine.put_variable("Driver0001", GLOBAL, 7, &[0xff; 40]);
    machine.put(&format!("{EFIVARS}/Driver0003-{GLOBAL}"), b"");
    machine.rasctl(&["install"]).expect(0, "Driver0004");
    assert_eq!(machine.variable("Driver0001"), Some(vec![0xff; 40]));
}

#[test]
fn it_takes_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can become somebody else");
        return;
    }
    let machine = Machine::with_uefi();
    let before = machine.tree();
    // A copy where nobody may read it.
    let program = machine.root.path().with_extension("rasctl");
    // By another process: a child that a test beside this one forks would hold our copy open for
    // writing, and a program that somebody writes can't be started.
    let ours = ras_lab::artifacts::program("rasctl").unwrap();
    assert!(Command::new("cp").arg(ours).arg(&program).status().unwrap().success());
    let run = |verb: &str| {
        let mut command = Command::new(&program);
        command.args(["boot", verb, "--root"]).arg(machine.root.path()).uid(65534).gid(65534);
        Answer::of(command)
    };
    let (install, status) = (run("install"), run("status"));
    fs::remove_file(&program).unwrap();
    install.expect(1, "this takes root");
    assert_same(&before, &machine.tree());
    status.expect(1, "nothing is installed");
}

#[test]
fn without_uefi_linux_is_told_through_grub() {
    let machine = Machine::with_bios();
    // Six separate pages, of which those that lost data are the worst.
    let pages: Vec<RetiredPage> = (0..6)
        .map(|number| {
            let lost = number != 0 && number != 5;
            let reason =
                if lost { RetireReason::Uncorrected } else { RetireReason::CorrectedThreshold };
            page(0x140_000 + 0x100 * number, reason)
        })
        .collect();
    machine.retire(&pages);
    let before = machine.tree();
    machine.rasctl(&["install", "--method", "driver-entry"]).expect(1, "not started by UEFI");
    let installed = machine.rasctl(&["install"]).expect(0, "2 pages are beyond the limits");
    assert!(installed.text.contains("run update-grub"), "{installed:?}");

    // A shell reads it, GRUB reads what the shell made of it, and the kernel what is left then.
    let parameter = "memmap=4K$0x140100000,4K$0x140200000,4K$0x140300000,4K$0x140400000";
    let shell = |script: &str| {
        let output =
            Command::new("sh").args(["-c", script]).current_dir(machine.root.path()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let read =
        format!("GRUB_CMDLINE_LINUX=splash; . ./{DROP_IN}; printf %s \"$GRUB_CMDLINE_LINUX\"");
    assert_eq!(shell(&read), format!("splash {}", parameter.replace('$', "\\$")));

    machine.put("boot/grub/grub.cfg", b"linux /vmlinuz root=/dev/sda2 ro\n");
    machine.rasctl(&["status"]).expect(1, "GRUB does not know of it yet");
    machine.put("usr/sbin/update-grub", b"#!/bin/sh\necho broken >&2; exit 3\n");
    let update = fs::Permissions::from_mode(0o755);
    fs::set_permissions(machine.at("usr/sbin/update-grub"), update).unwrap();
    machine.rasctl(&["refresh", "--update-grub"]).expect(1, "broken");
    let grub = machine.at("boot/grub/grub.cfg");
    let make = format!(
        "#!/bin/sh\n. {}\necho \"linux /vmlinuz $GRUB_CMDLINE_LINUX\" > {}\n",
        machine.at(DROP_IN).display(),
        grub.display()
    );
    machine.put("usr/sbin/update-grub", make.as_bytes());
    machine.rasctl(&["refresh", "--update-grub"]).expect(0, "GRUB's configuration made anew");
    machine.rasctl(&["status"]).expect(1, "it takes effect at the next boot");
    machine.put("proc/cmdline", format!("BOOT_IMAGE=/vmlinuz quiet {parameter}\n").as_bytes());
    machine.rasctl(&["status"]).expect(0, "2 pages left over");
    machine.rasctl(&["install"]).expect(0, "nothing was changed");

    // More ranges than go with the kernel's random place are for those who ask for them.
    machine.rasctl(&["install", "--ranges", "6"]).expect(0, "gives up its random place");
    assert!(shell(&read).contains("0x140500000"));
    machine.retire(&[page(0x180_000, RetireReason::Uncorrected)]);
    machine.rasctl(&["status"]).expect(1, "rasctl boot refresh");

    machine.rasctl(&["remove"]).expect(0, "run update-grub");
    fs::remove_dir_all(machine.at("boot")).unwrap();
    fs::remove_file(machine.at("usr/sbin/update-grub")).unwrap();
    machine.put("proc/cmdline", b"BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet\n");
    assert_same(&before, &machine.tree());
}

#[test]
fn a_command_line_is_never_longer_than_the_kernel_reads() {
    let machine = Machine::with_bios();
    machine.retire(
        &(0..300)
            .map(|number| page(0x10_000 + 2 * number, RetireReason::Uncorrected))
            .collect::<Vec<_>>(),
    );
    for (others, ranges) in [(20, "200"), (1000, "200"), (1990, "200"), (2000, "4"), (2040, "4")] {
        machine.put("proc/cmdline", format!("{}\n", "x".repeat(others)).as_bytes());
        machine.rasctl(&["install", "--ranges", ranges]).expect(0, "");
        let text = String::from_utf8(machine.get(DROP_IN).unwrap()).unwrap();
        let line = text.lines().find(|line| line.starts_with("GRUB_CMDLINE_LINUX=")).unwrap_or("");
        let parameter = line.rsplit(' ').next().unwrap().trim_end_matches('"').replace('\\', "");
        assert!(others + 1 + parameter.len() <= 2047, "{others}: {}", parameter.len());
        assert_eq!(parameter.is_empty(), others > 2020, "{others}: {text}");
    }
    // Where the kernel has a fixed place anyway, there is no reason to stop at four.
    machine.put("proc/cmdline", b"quiet nokaslr\n");
    machine.rasctl(&["install"]).expect(0, "nokaslr is set");
    let text = String::from_utf8(machine.get(DROP_IN).unwrap()).unwrap();
    assert!(text.matches(",").count() > 20, "{text}");
}

#[test]
fn grub_takes_pages_away_itself() {
    let machine = Machine::with_bios();
    machine.retire(&[
        page(0x12_345, RetireReason::Uncorrected),
        page(0x140_000, RetireReason::Operator),
    ]);
    let before = machine.tree();
    machine.rasctl(&["install", "--method", "grub"]).expect(0, "above 4 GiB");
    let script = Command::new(machine.at(SCRIPT)).output().unwrap();
    assert_eq!(script.stdout, b"insmod mmap\ncutmem 0x12345000 0x12346000\n");
    machine.put("boot/grub/grub.cfg", &script.stdout);
    machine.rasctl(&["status"]).expect(0, "1 pages left over");
    // The other way leaves one file of ours.
    machine.rasctl(&["install", "--method", "memmap"]).expect(0, "");
    assert_eq!((machine.get(SCRIPT), machine.get(DROP_IN).is_some()), (None, true));
    machine.rasctl(&["remove"]).expect(0, "");
    fs::remove_dir_all(machine.at("boot")).unwrap();
    assert_same(&before, &machine.tree());

    machine.put("usr/sbin/grub-mkconfig", b"# reads no drop-ins\n");
    machine.rasctl(&["install"]).expect(1, "does not read /etc/default/grub.d");
    fs::remove_file(machine.at("usr/sbin/grub-mkconfig")).unwrap();
    machine.rasctl(&["install"]).expect(1, "there is no GRUB here");
}

/// 200 pages spread evenly over 1 GiB, and a boot loader that can't put a kernel anywhere.
#[test]
fn grub_leaves_room_for_a_kernel() {
    let machine = Machine::with_bios();
    let map = |number: u32, start: u64, end: u64, kind: &str| {
        let text = |name: &str, text: String| {
            machine.put(&format!("sys/firmware/memmap/{number}/{name}"), text.as_bytes());
        };
        text("start", format!("{start:#x}\n"));
        text("end", format!("{:#x}\n", end - 1));
        text("type", format!("{kind}\n"));
    };
    map(0, 0, 0x9_fc00, "System RAM");
    map(1, 0xf_0000, 0x10_0000, "Reserved");
    map(2, 0x10_0000, 0x4000_0000, "System RAM");
    let mut pages: Vec<RetiredPage> = (0..200)
        .map(|number| page(0x1000 + 1200 * number, RetireReason::CorrectedThreshold))
        .collect();
    for page in &mut pages[..40] {
        page.reason = RetireReason::Uncorrected;
    }
    machine.retire(&pages);
    let cut = || -> Vec<[u64; 2]> {
        let text = String::from_utf8(machine.get(SCRIPT).unwrap()).unwrap();
        let number = |word: &str| u64::from_str_radix(&word[2..], 16).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("cutmem "));
        lines.filter_map(|line| line.split_once(' ')).map(|(a, b)| [a, b].map(number)).collect()
    };
    let in_one_piece = |cut: &[[u64; 2]]| {
        let edges = [[0, 0x10_0000]].into_iter().chain(cut.iter().copied());
        let edges: Vec<[u64; 2]> = edges.chain([[0x4000_0000, 0]]).collect();
        edges.windows(2).map(|pair| pair[1][0] - pair[0][1]).max().unwrap()
    };
    machine.rasctl(&["install", "--method", "grub"]).expect(0, "pages are beyond the limits");
    let first = cut();
    assert!(in_one_piece(&first) >= 0x3ff0_0000 / 4, "{:#x}", in_one_piece(&first));
    assert!((140..180).contains(&first.len()), "{}", first.len());
    assert_eq!(
        first[..40],
        pages[..40]
            .iter()
            .map(|page| {
                let start = page.pfn.addr().0;
                [start, start + 4096]
            })
            .collect::<Vec<_>>(),
        "the worst are taken"
    );

    // Booted with these, the machine has less memory (holes by a BIOS, unusable by UEFI); the plan is the same.
    for holes in [true, false] {
        let mut at = 0x10_0000;
        for (number, [start, end]) in (10..).step_by(2).zip(&first) {
            map(number, at, *start, "System RAM");
            if !holes {
                map(number + 1, *start, *end, "Unusable memory");
            }
            at = *end;
        }
        map(2, at, 0x4000_0000, "System RAM");
        machine.rasctl(&["refresh"]).expect(0, "nothing was changed");
    }

    // What somebody else found unusable is no room. Without a map, nobody knows.
    machine.rasctl(&["remove"]).expect(0, "");
    fs::remove_dir_all(machine.at("sys/firmware/memmap")).unwrap();
    map(0, 0x10_0000, 0x800_0000, "System RAM");
    map(1, 0x800_0000, 0x800_1000, "Unusable memory");
    map(2, 0x800_1000, 0x1000_0000, "System RAM");
    machine.rasctl(&["install", "--method", "grub"]).expect(0, "");
    assert!(in_one_piece(&cut()) < 0x3ff0_0000 / 4, "a quarter of the larger half");
    fs::remove_dir_all(machine.at("sys/firmware/memmap")).unwrap();
    machine.rasctl(&["refresh"]).expect(0, "");
    assert_eq!(cut().len(), 200);
}

#[test]
fn the_real_driver_is_one() {
    let machine = Machine::with_uefi();
    let driver = ras_lab::artifacts::uefi_driver().unwrap();
    machine.rasctl(&["install", "--driver", driver.to_str().unwrap()]).expect(0, "");
    assert_eq!(machine.get(DRIVER).unwrap(), fs::read(driver).unwrap());
    assert_eq!(machine.status().1["driver"]["version"], "0.1");
}
