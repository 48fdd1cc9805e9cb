//! The driver as a user gets it: `rasctl boot install` on a machine with a disk of its own, and rasd.
//!
//! ```text
//!  disk: GPT -- EFI system partition: systemd-boot, a stock kernel, and what rasctl puts there
//!           '-- ext4, at /var/lib: rasd's store, rasctl's notes
//! ```
//! The disk and the firmware's variables outlive each boot. No machine is shut down: its plug is pulled.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use persist_store::{Entry, Store};
use ras_core::{
    ErrorSource, Location, Pfn, PfnRange, RetireReason, RetireState, RetiredPage, Severity,
    Timestamp,
};
use ras_store_format::exclusion::{Badness, Limits, Outcome, place, plan, total};
use serde_json::Value;

use super::checks::{Scattered, expect, iomem, is_reserved};
use super::disk::Disk;
use super::lab::{Lab, outcome};
use super::{Tale, hog_gets_none};
use crate::image;
use crate::machine::Machine;
use crate::qemu::{self, Hardware, Processor, Uefi};
use crate::walk::{Report, checks};

/// Beyond what every machine is told; see the stories with the same words.
const COMMAND_LINE: &str = "clearcpuid=erms ras=cec_disable";

/// rasd as it is installed, but for figures, and with seconds instead of minutes until firmware has a list.
pub(super) const CONFIG: &str = "[sources]\ntracefs = \"on\"\n[metrics]\nfile = \"/run/rasd.prom\"\n[boot]\nsettle_s = 1\npause_s = 1\n";

/// An uncorrected error found by the patrol scrubber: see the walk's story.
const SRAO: &str = "0xbd000000000000c0 5";

const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What takes a moment on an idle machine takes a while on a busy one that emulates another.
const SOON: Duration = Duration::from_secs(60);

const MEMORY_MIB: u32 = 1024;

/// A machine that keeps its disk and its variables.
struct Owned<'a> {
    lab: &'a Lab,
    dir: PathBuf,
    disk: Disk,
    variables: PathBuf,
    boots: u32,
}

impl<'a> Owned<'a> {
    /// As an installer leaves it, with a store that has these pages.
    fn new(lab: &'a Lab, name: &str, pages: &[RetiredPage]) -> Result<Self> {
        let dir = lab.dir(name)?;
        let (esp, var) = (dir.join("esp"), dir.join("var"));
        let put = |place: &str, bytes: &[u8]| -> Result<()> {
            let file = esp.join(place);
            fs::create_dir_all(file.parent().unwrap_or(&esp))?;
            fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
        };
        let boot_loader = lab.boot_loader()?;
        put("EFI/BOOT/BOOTX64.EFI", &boot_loader)?;
        put("EFI/systemd/systemd-bootx64.efi", &boot_loader)?;
        put("loader/loader.conf", b"timeout 0\ndefault lab.conf\n")?;
        let entry = format!(
            "title Lab\nlinux /vmlinuz\ninitrd /initramfs.cpio\noptions {} {COMMAND_LINE}\n",
            qemu::command_line()
        );
        put("loader/entries/lab.conf", entry.as_bytes())?;
        put("vmlinuz", &fs::read(lab.kernel())?)?;
        put("initramfs.cpio", &fs::read(lab.installable()?.0)?)?;
        fs::create_dir(&var).context("what becomes /var/lib")?;
        let (mut store, _) = Store::open(&var.join("rasd")).context("making a list")?;
        let entries: Vec<Entry> =
            pages.iter().cloned().map(|page| Entry::Page(Box::new(page))).collect();
        store.append_all(&entries).context("making a list")?;
        drop(store);
        let disk = Disk::gpt(&dir.join("disk.img"), &esp, &var)?;
        fs::remove_dir_all(&esp).and_then(|()| fs::remove_dir_all(&var))?;
        let variables = dir.join("variables.fd");
        fs::copy(lab.fresh_variables(), &variables).context("copying the firmware's variables")?;
        Ok(Self { lab, dir, disk, variables, boots: 0 })
    }

    /// Switches it on, and mounts what a distribution would mount.
    fn boot(&mut self) -> Result<Machine> {
        self.boots += 1;
        let dir = self.dir.join(format!("boot-{}", self.boots));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let mut machine = Machine::boot(&Hardware {
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            command_line: String::new(),
            processor: Processor::Intel,
            error_records: None,
            memory_mib: MEMORY_MIB,
            disks: vec![self.disk.path().to_owned()],
            boots_disk: true,
            uefi: Some(Uefi {
                code: self.lab.code().to_owned(),
                variables: self.variables.clone(),
                partition: None,
            }),
            dir,
        })?;
        image::load_modules(&mut machine, self.lab.installable()?.1)?;
        machine.mount("efivarfs", "efivarfs", super::lab::VARIABLES)?;
        machine.mount("/dev/vda1", "vfat", "/boot/efi")?;
        machine.mount("/dev/vda2", "ext4", "/var/lib")?;
        Ok(machine)
    }
}

/// What a `rasctl boot` said, and how it ended.
struct Said {
    code: Option<i32>,
    text: String,
}

fn rasctl(machine: &mut Machine, arguments: &[&str]) -> Result<Said> {
    let command: Vec<&str> = ["/bin/rasctl"].iter().chain(arguments).copied().collect();
    let ran = machine.run(&command, SOON)?;
    Ok(Said { code: ran.code, text: ran.stdout + &ran.stderr })
}

impl Tale {
    /// `rasctl boot VERB…` ends with this code and says all of this.
    fn boot(
        &mut self,
        machine: &mut Machine,
        arguments: &[&str],
        code: i32,
        says: &[&str],
    ) -> Result<()> {
        let Said { code: ended, text } = rasctl(machine, &[&["boot"], arguments].concat())?;
        let holds = ended == Some(code) && says.iter().all(|says| text.contains(says));
        self.check(
            &format!("rasctl boot {}: {}", arguments.join(" "), says.join(", ")),
            expect(holds, || format!("exit code {ended:?}: {}", text.trim())),
        );
        Ok(())
    }
}

/// `rasctl boot status`, as programs read it: its exit code, and the object.
fn status(machine: &mut Machine) -> Result<(Option<i32>, Value)> {
    let Said { code, text } = rasctl(machine, &["boot", "status", "--json"])?;
    let value =
        serde_json::from_str(&text).with_context(|| format!("rasctl boot status: {text}"))?;
    Ok((code, value))
}

fn start_rasd(machine: &mut Machine) -> Result<()> {
    machine.forget_events();
    machine.start("rasd", &["/bin/rasd", "--config", "/etc/rasd.toml"])?;
    checks::ready(machine, SOON).map(drop)
}

fn variable(machine: &mut Machine, name: &str, vendor: &str) -> Option<Vec<u8>> {
    machine.read_bytes(&format!("{}/{name}-{vendor}", super::lab::VARIABLES)).ok()
}

/// Which of the variables that `rasctl boot` makes are there.
fn ours(machine: &mut Machine) -> Vec<&'static str> {
    let names = [
        (place::LIST_VARIABLES[0], place::VENDOR),
        (place::LIST_VARIABLES[1], place::VENDOR),
        ("Driver0000", GLOBAL),
        ("DriverOrder", GLOBAL),
    ];
    let there =
        names.into_iter().filter(|(name, vendor)| variable(machine, name, vendor).is_some());
    there.map(|(name, _)| name).collect()
}

/// The ranges are unusable memory, no other page is, and the kernel gives none of them to anybody.
fn only_these_are_unusable(
    tale: &mut Tale,
    machine: &mut Machine,
    what: &str,
    ranges: &[PfnRange],
) -> Result<()> {
    let unusable = iomem(machine, "Unusable memory")?;
    tale.check(
        &format!("/proc/iomem: unusable memory is {what}, and nothing else"),
        expect(unusable == ranges, || format!("it says {unusable:x?}")),
    );
    let mut gets = Vec::new();
    for range in ranges.iter().step_by(ranges.len().div_ceil(8)) {
        if !is_reserved(machine, range.start)? {
            gets.push(range.start);
        }
    }
    tale.check(
        "the kernel never gives it to anybody",
        expect(gets.is_empty(), || format!("flags of {gets:?} do not say so")),
    );
    Ok(())
}

fn nobody_gets(tale: &mut Tale, machine: &mut Machine, pages: &[Pfn]) -> Result<()> {
    let frames: Vec<Scattered> =
        pages.iter().map(|pfn| Scattered { first: pfn.0, step: 1, count: 1 }).collect();
    hog_gets_none(tale, machine, MEMORY_MIB, &frames)
}

/// An error, rasd, the firmware, and the way back.
pub(super) fn driver_entry(tale: &mut Tale, lab: &Lab) -> Result<()> {
    let mut owned = Owned::new(lab, "owned", &[])?;
    let before = owned.disk.listing()?;

    let mut machine = owned.boot()?;
    start_rasd(&mut machine)?;
    tale.boot(&mut machine, &["status"], 1, &["nothing is installed: rasctl boot install"])?;
    let says = ["set the firmware's variable Driver0000", "it takes effect at the next boot"];
    tale.boot(&mut machine, &["install"], 0, &says)?;
    tale.boot(&mut machine, &["install"], 0, &["nothing was changed"])?;
    let (code, told) = status(&mut machine)?;
    tale.check(
        &format!("rasctl boot status: {}", told["next"]),
        expect(
            code == Some(1)
                && told["method"] == "driver-entry"
                && told["entry"]["right_partition"] == true
                && told["next"] == "it takes effect at the next boot: reboot",
            || told.to_string(),
        ),
    );

    let [doomed, unwanted] = two_bad_pages(tale, &mut machine)?;
    machine.pull_the_plug()?;
    tale.note("the plug is pulled, and the machine boots again".to_owned());

    let mut machine = owned.boot()?;
    let did = outcome(&mut machine)?.context("the driver left no outcome")?;
    excluded_all(tale, &did, 2);
    let pages = format!("{} and {}", doomed.addr(), unwanted.addr());
    let mut ranges = [doomed, unwanted].map(PfnRange::single);
    ranges.sort_unstable_by_key(|range| range.start);
    only_these_are_unusable(tale, &mut machine, &pages, &ranges)?;
    nobody_gets(tale, &mut machine, &[doomed, unwanted])?;
    start_rasd(&mut machine)?;
    let gap = checks::status(&mut machine)?.gap;
    let exported = checks::figure(&mut machine, "ras_start_gap_pages")?;
    tale.check(
        &format!("rasd finds {} of 2 pages excluded, and a gap of {exported}", gap.excluded),
        expect((gap.excluded, gap.pages, gap.in_use, exported) == (2, 0, 0, 0), || {
            format!("{gap:?}")
        }),
    );
    let says = ["2 pages excluded in 2 ranges", "next       nothing: all in step"];
    tale.boot(&mut machine, &["status"], 0, &says)?;
    tale.boot(&mut machine, &["remove"], 0, &["delete the firmware's variable Driver0000"])?;
    tale.boot(&mut machine, &["status"], 1, &["nothing is installed"])?;
    machine.pull_the_plug()?;
    tale.note("the plug is pulled, and the machine boots again".to_owned());

    let mut machine = owned.boot()?;
    let there = ours(&mut machine);
    let ran = outcome(&mut machine)?.is_some();
    tale.check(
        "no variable of ours is left, and the driver did not run",
        expect(there.is_empty() && !ran, || format!("there is {there:?}; it ran: {ran}")),
    );
    let state = machine.read("/var/lib/rampart/boot.json").is_ok();
    let after = owned.disk.listing()?;
    tale.check(
        &format!("the partition has the same {} files and directories as before", after.len()),
        expect(after == before && !state, || {
            let others: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
            format!("new are {others:?}; rasctl's notes: {state}")
        }),
    );
    let unusable = iomem(&mut machine, "Unusable memory")?;
    let ram = iomem(&mut machine, "System RAM")?;
    let is_ram = |pfn: &Pfn| ram.iter().any(|range| range.contains(*pfn));
    let back = [doomed, unwanted].iter().all(is_ram);
    let free = !is_reserved(&mut machine, doomed)?;
    tale.check(
        "both pages are ordinary memory again",
        expect(unusable.is_empty() && back && free, || format!("{unusable:x?}, {ram:x?}")),
    );
    start_rasd(&mut machine)?;
    let gap = checks::status(&mut machine)?.gap;
    tale.check(
        &format!("rasd offlines them itself: a gap of {} pages, {} s", gap.pages, gap.seconds),
        expect(gap.pages + gap.in_use == 2 && gap.excluded == 0, || format!("{gap:?}")),
    );
    machine.pull_the_plug()
}

/// One page by an error, and rasd tells firmware; another by a person's order without rasd, and `refresh` does.
fn two_bad_pages(tale: &mut Tale, machine: &mut Machine) -> Result<[Pfn; 2]> {
    machine.start("holder", &["/bin/page-holder"])?;
    let watched = checks::report(machine, "its first report", |report| match report {
        Report::Holding { watched, .. } => Some(watched.map(Pfn)),
        _ => None,
    })?;
    let [doomed, unwanted, _] = watched;
    machine.qemu().human_monitor(&format!("mce 0 8 {SRAO} {} 0x8c", doomed.addr()))?;
    let page = checks::retired(machine, doomed)?;
    tale.check(
        &format!("an uncorrected error: rasd retires {}: {}", doomed.addr(), page.outcome),
        expect(page.reason == RetireReason::Uncorrected, || format!("{page:?}")),
    );
    let told = checks::wait_status(machine, "firmware to be told", |status| {
        status.boot.state == "in step" && status.boot.detail.starts_with("1 pages")
    })?;
    tale.check(
        &format!("rasd tells the firmware: {}", told.boot.detail),
        expect(told.boot.detail.contains("EFI variables"), || told.boot.detail.clone()),
    );
    let says = ["1 pages in 1 ranges", "in step with the store (1 pages)", "reboot"];
    tale.boot(machine, &["status"], 1, &says)?;
    tale.boot(machine, &["refresh"], 0, &["nothing was changed"])?;

    machine.kill("rasd")?;
    let address = unwanted.addr().to_string();
    let order = ["--store", "/var/lib/rasd", "pages", "retire", &address, "--note", "by a tester"];
    let ordered = rasctl(machine, &order)?;
    tale.check(
        &format!("without rasd, rasctl pages retire {address}"),
        expect(ordered.code == Some(0), || ordered.text),
    );
    tale.boot(machine, &["status"], 1, &["out of step with the store (2 pages)"])?;
    tale.boot(machine, &["refresh"], 0, &["write the list for firmware: 2 pages"])?;
    Ok([doomed, unwanted])
}

fn excluded_all(tale: &mut Tale, did: &Outcome, pages: u64) {
    tale.check(
        &format!("the driver excluded {pages} pages, in {} us", did.times.total_us),
        expect(did.excluded_pages == pages && did.listed_pages == pages, || format!("{did:?}")),
    );
}

/// The boot loader's directory instead of the firmware's variables, and a list that is too long for these.
pub(super) fn driver_directory(tale: &mut Tale, lab: &Lab) -> Result<()> {
    const PAGES: Scattered = Scattered { first: 0x1_2007, step: 120, count: 1100 };
    let list: Vec<RetiredPage> = PAGES.frames().map(retired_before).collect();
    let planned = plan(&PAGES.ranges(Badness::UNCORRECTED), Limits::default());
    let ranges: Vec<PfnRange> = planned.ranges.iter().map(|range| range.pages).collect();
    let mut owned = Owned::new(lab, "loaded", &list)?;
    let before = owned.disk.listing()?;

    let mut machine = owned.boot()?;
    let says = ["EFI/rampart/rampart-x64.efi", "write the list for firmware: 1100 pages"];
    tale.boot(&mut machine, &["install"], 0, &says)?;
    let says = ["EFI/systemd/drivers/rampart-x64.efi", "delete the firmware's variable Driver0000"];
    tale.boot(&mut machine, &["install", "--method", "systemd-boot"], 0, &says)?;
    let there = ours(&mut machine);
    tale.check(
        "the firmware is to load no driver, and has no list",
        expect(there.is_empty(), || format!("it has {there:?}")),
    );
    let says = ["method     systemd-boot", "it takes effect at the next boot: reboot"];
    tale.boot(&mut machine, &["status"], 1, &says)?;
    machine.pull_the_plug()?;
    tale.note("the plug is pulled, and the machine boots again".to_owned());
    let installed = owned.disk.listing()?;
    let new: Vec<&str> = installed
        .iter()
        .filter(|name| !before.contains(name) && !name.ends_with('/'))
        .map(|name| name.trim_start_matches(':'))
        .collect();
    let files = [
        "/EFI/rampart/exclude-a.bin",
        "/EFI/rampart/exclude-b.bin",
        "/EFI/systemd/drivers/rampart-x64.efi",
    ];
    tale.check(
        &format!("new on the partition are {}", new.join(", ")),
        expect(new == files, String::new),
    );

    let mut machine = owned.boot()?;
    let did = outcome(&mut machine)?.context("the driver left no outcome")?;
    let told = (did.listed_pages, did.excluded_pages, did.left_over.pages);
    tale.check(
        &format!(
            "the driver excluded {} of {} pages, in {} ranges and {} us",
            did.excluded_pages, did.listed_pages, did.excluded_ranges, did.times.total_us
        ),
        expect(
            told == (PAGES.count, total(&ranges), planned.left_over().pages)
                && did.source.is_some_and(|place| place >= 2),
            || format!("{did:?}"),
        ),
    );
    only_these_are_unusable(tale, &mut machine, "what the plan says", &ranges)?;
    let says = ["method     systemd-boot", "200 pages excluded", "next       nothing: all in step"];
    tale.boot(&mut machine, &["status"], 0, &says)?;
    let says = ["delete /boot/efi/EFI/systemd/drivers/rampart-x64.efi"];
    tale.boot(&mut machine, &["remove"], 0, &says)?;
    let there = ours(&mut machine);
    machine.pull_the_plug()?;
    let after = owned.disk.listing()?;
    tale.check(
        "after its removal nothing of ours is left, neither on the partition nor in variables",
        expect(after == before && there.is_empty(), || format!("{there:?}; {after:?}")),
    );
    Ok(())
}

/// An entry of a list from before this story.
pub(super) fn retired_before(pfn: Pfn) -> RetiredPage {
    RetiredPage {
        pfn,
        reason: RetireReason::Uncorrected,
        state: RetireState::Retired,
        severity: Severity::Srao,
        source: ErrorSource::MceRecord,
        since: Timestamp(1_700_000_000_000_000_000),
        updated: Timestamp(1_700_000_000_000_000_000),
        attempts: 1,
        location: Location::default(),
        dimm: None,
        epoch: None,
        diagnosis: "made for this story".into(),
        outcome: "host: offline".into(),
    }
}
