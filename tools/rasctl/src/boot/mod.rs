//! `rasctl boot`: bad pages leave the memory map before any operating system starts.
//!
//! ```text
//! what there should be --compare--> [Change] --Maker--> one durable change after the other
//! ```
//! `install` and `remove` differ in what there should be. Every name that is made is ours alone, so that
//! a run that was interrupted is finished by running the same again, or undone by `remove`; what a name can't
//! tell is in a small file ([`State`]), which is written first and goes last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use persist_store::StoreError;
use persist_store::boot::{BootError, BootList, Wanted, Written, ranges_of};
use persist_store::efivarfs::Efivarfs;
use persist_store::exclusion::{List, flatten, place, plan};
use ras_core::RetiredPage;
use rasctl::chain;
use rasctl::efi::image::Driver;
use rasctl::efi::load_option::{ACTIVE, LoadOption};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Failure;
use crate::options::{Boot, Choice, Global, Install, Remove, Update, Verb};
use crate::source::connect;
use crate::text;

use change::{Change, Maker, Unmade, fresh};
use entries::Entries;
use fallback::Fallback;
use host::{Esp, Host};

mod change;
mod entries;
mod fallback;
mod host;
mod status;

/// What `install` remembers for `remove`.
const STATE: &str = "/var/lib/rampart/boot.json";

/// Where the driver is after a package put it there.
const DRIVER: &str = "/usr/lib/rampart";

/// Largest driver that is read: ours has some 60 KiB.
const DRIVER_MAX: u64 = 16 << 20;

/// systemd-boot on the partition, and where it looks for drivers.
const SYSTEMD_BOOT: &str = "EFI/systemd/systemd-bootx64.efi";
const SYSTEMD_DRIVERS: &str = "EFI/systemd/drivers";

pub(crate) fn run(boot: &Boot, global: &Global, out: &mut dyn Write) -> Result<(), Failure> {
    let host = Host::new(&boot.root);
    match &boot.verb {
        Verb::Install(wanted) => install(&host, wanted, global, out),
        Verb::Refresh(update) => refresh(&host, update, global, out),
        Verb::Status => status::run(&host, global, out),
        Verb::Remove(wanted) => remove(&host, wanted, global, out),
    }
}

/// How pages are kept out.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
enum Method {
    DriverEntry,
    SystemdBoot,
    Grub,
    Memmap,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::DriverEntry => "driver-entry",
            Self::SystemdBoot => "systemd-boot",
            Self::Grub => "grub",
            Self::Memmap => "memmap",
        }
    }

    const fn has_driver(self) -> bool {
        matches!(self, Self::DriverEntry | Self::SystemdBoot)
    }
}

/// What can't be told from the names of files and variables.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct State {
    method: Method,
    /// Where the partition with the driver is mounted.
    esp: Option<String>,
    /// Directories that were not there.
    made: BTreeSet<String>,
    /// The kernel's name for the boot in which the driver was put there: it can't have run in that one.
    boot: Option<String>,
    /// What was asked for.
    ranges: Option<u32>,
}

impl State {
    fn read(host: &Host) -> Option<Self> {
        serde_json::from_str(&host.read_small(STATE).ok()?).ok()
    }
}

/// What there should be. Everything else of ours should not.
#[derive(Default)]
struct Setup {
    files: BTreeMap<PathBuf, (Vec<u8>, u32)>,
    option: Option<LoadOption>,
    list: Option<Wanted>,
    state: Option<State>,
}

/// What there is.
struct Found {
    variables: Option<Efivarfs>,
    entries: Entries,
    /// Or why there is none.
    esp: Result<Esp, String>,
    list: BootList,
    state: Option<State>,
}

impl Found {
    fn look(host: &Host, asked: Option<&Path>) -> Result<Self, Failure> {
        let variables = host.variables()?;
        let entries = variables.as_ref().map(Entries::read).transpose()?.unwrap_or_default();
        let state = State::read(host);
        let known = state.as_ref().and_then(|state| state.esp.as_deref()).map(Path::new);
        let esp = match asked.or(known) {
            // What was asked for, or was there once, has to be there.
            Some(dir) => Ok(host.find_esp(Some(dir)).map_err(Failure::NotReached)?),
            None => host.find_esp(None),
        };
        let efivars = host.at("/sys/firmware/efi/efivars");
        let list = BootList::new(&efivars, esp.as_ref().ok().map(|esp| esp.dir.as_path()));
        Ok(Self { variables, entries, esp, list, state })
    }

    fn has_systemd_boot(&self) -> bool {
        self.esp.as_ref().is_ok_and(|esp| esp.dir.join(SYSTEMD_BOOT).is_file())
    }

    /// Every file we could have made.
    fn names(&self, host: &Host) -> Vec<PathBuf> {
        let mut names = vec![host.at(fallback::DROP_IN), host.at(fallback::SCRIPT)];
        if let Ok(esp) = &self.esp {
            names.push(esp.dir.join(place::DIRECTORY).join(place::DRIVER_FILE));
            names.push(esp.dir.join(SYSTEMD_DRIVERS).join(place::DRIVER_FILE));
        }
        names
    }

    /// What makes of what there is what there should be, in an order that can be interrupted.
    fn changes(&self, host: &Host, mut setup: Setup) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        let mut made = self.state.as_ref().map(|state| state.made.clone()).unwrap_or_default();
        let files: Vec<(PathBuf, (Vec<u8>, u32))> = std::mem::take(&mut setup.files)
            .into_iter()
            .filter(|(path, (bytes, _))| !std::fs::read(path).is_ok_and(|there| there == *bytes))
            .collect();
        let news = self.entries.changes(setup.option.as_ref())?;
        let missing: BTreeSet<&Path> = files.iter().flat_map(|(path, _)| missing(path)).collect();
        made.extend(missing.iter().map(|dir| host.shown(dir)));
        let state_file = host.at(STATE);
        if let Some(state) = &mut setup.state {
            let known = self.state.as_ref().and_then(|state| state.boot.clone());
            let is_new = known.is_none() || !files.is_empty() || !news.is_empty();
            state.boot = if is_new { host.boot_id() } else { known };
            state.made.clone_from(&made);
            if self.state.as_ref() != Some(state) {
                let state_missing = self::missing(&state_file);
                changes.extend(state_missing.into_iter().map(|dir| Change::Directory(dir.into())));
                let mut bytes = serde_json::to_vec_pretty(&state)?;
                bytes.push(b'\n');
                changes.push(Change::File { path: state_file.clone(), bytes, mode: 0o644 });
            }
        }
        let missing = missing.into_iter().map(|dir| Change::Directory(dir.into()));
        changes.extend(missing);
        changes.extend(files.into_iter().map(|(path, (bytes, mode))| Change::File {
            path,
            bytes,
            mode,
        }));
        changes.extend(news);
        match setup.list.take() {
            Some(list) => {
                let there = self.list.read().map_err(|error| list_failure(&error))?;
                let in_step = there.list.as_ref().is_some_and(|there| is_in_step(there, &list));
                if !in_step || !there.damaged.is_empty() {
                    changes.push(Change::List(list));
                }
            }
            None if self.list.is_installed() => changes.push(Change::RemoveList),
            None => {}
        }
        for path in self.names(host) {
            for name in [fresh(&path), path.clone()] {
                if name.exists() && !setup.keeps(&name, host, self) {
                    changes.push(Change::RemoveFile(name));
                }
            }
        }
        if setup.state.is_none() {
            let mut dirs: BTreeSet<PathBuf> = made.iter().map(|dir| host.at(dir)).collect();
            if let Ok(esp) = &self.esp {
                // Ours by its name, in case an installation was interrupted before it was written down.
                let ours = esp.dir.join(place::DIRECTORY);
                let lists = place::LIST_FILES.map(|name| fresh(&ours.join(name)));
                let lists = lists.into_iter().filter(|list| list.exists());
                changes.extend(lists.map(Change::RemoveFile));
                dirs.insert(ours);
            }
            // The deepest first.
            let dirs = dirs.into_iter().rev().filter(|dir| dir.is_dir());
            changes.extend(dirs.map(Change::RemoveDirectory));
            for name in [fresh(&state_file), state_file.clone()] {
                if name.exists() {
                    changes.push(Change::RemoveFile(name));
                }
            }
            if let Some(dir) = state_file.parent().filter(|dir| dir.is_dir()) {
                changes.push(Change::RemoveDirectory(dir.into()));
            }
        }
        Ok(changes)
    }

    /// A partition that can't be written to is found out before anything is changed.
    fn check_writable(&self, changes: &[Change]) -> Result<(), Failure> {
        let Some(esp) = self.esp.as_ref().ok().filter(|esp| esp.read_only) else { return Ok(()) };
        let touches = changes.iter().any(|change| match change {
            Change::Directory(path)
            | Change::File { path, .. }
            | Change::RemoveFile(path)
            | Change::RemoveDirectory(path) => path.starts_with(&esp.dir),
            _ => false,
        });
        if !touches {
            return Ok(());
        }
        let at = &esp.mounted;
        Err(Failure::NotDone(format!(
            "the EFI system partition is mounted read-only, and nothing was changed: mount -o remount,rw {at}"
        )))
    }
}

impl Setup {
    /// Whether a file of ours is as it should be, so that it was left out of the changes.
    fn keeps(&self, path: &Path, host: &Host, found: &Found) -> bool {
        let Some(state) = &self.state else { return false };
        let esp = |dir: &str| {
            found.esp.as_ref().ok().map(|esp| esp.dir.join(dir).join(place::DRIVER_FILE))
        };
        let kept = match state.method {
            Method::DriverEntry => esp(place::DIRECTORY),
            Method::SystemdBoot => esp(SYSTEMD_DRIVERS),
            Method::Grub => Some(host.at(fallback::SCRIPT)),
            Method::Memmap => Some(host.at(fallback::DROP_IN)),
        };
        kept.as_deref() == Some(path)
    }
}

/// Directories above `path` that are not there, the outermost first.
fn missing(path: &Path) -> Vec<&Path> {
    let above = path.ancestors().skip(1).take_while(|dir| !dir.is_dir());
    let mut missing: Vec<&Path> = above.collect();
    missing.reverse();
    missing
}

fn list_failure(error: &BootError) -> Failure {
    Failure::NotReached(chain(error))
}

/// Whether a list holds what a writer would put into it now: all of it, or what a plan makes of it.
fn is_in_step(list: &List, wanted: &Wanted) -> bool {
    if list.limits != wanted.limits {
        return false;
    }
    let there = flatten(&list.ranges);
    if list.left_over.pages == 0 && there == flatten(&wanted.ranges) {
        return true;
    }
    let plan = plan(&wanted.ranges, wanted.limits);
    list.left_over == plan.left_over() && there == flatten(&plan.ranges)
}

/// The list of bad pages; `None` where there is none yet.
fn pages(host: &Host, global: &Global) -> Result<Option<Vec<RetiredPage>>, Failure> {
    let usual = host.at("/var/lib/rasd");
    let dir = match &global.store {
        Some(dir) => dir.clone(),
        None if host.is_this_machine() => match connect(&global.socket) {
            Ok(mut rasd) => rasd.status()?.store.dir.into(),
            // Its list is there to be read, whether it runs or not.
            Err(_) => usual,
        },
        None => usual,
    };
    match persist_store::read(&dir) {
        Ok((state, _)) => Ok(Some(state.pages.into_values().map(|page| *page).collect())),
        Err(StoreError::NotFound { .. }) if global.store.is_none() => Ok(None),
        Err(error) => Err(Failure::NotReached(chain(&error))),
    }
}

/// What firmware is to exclude. The map's digest is rasd's to know; it stays what it was.
fn wanted_list(pages: &[RetiredPage], found: &Found) -> Result<Wanted, Failure> {
    let there = found.list.read().map_err(|error| list_failure(&error))?;
    let map_epoch = there.list.map_or(0, |list| list.map_epoch);
    Ok(Wanted { ranges: ranges_of(pages), map_epoch, ..Wanted::default() })
}

fn install(
    host: &Host,
    wanted: &Install,
    global: &Global,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut found = Found::look(host, wanted.esp.as_deref())?;
    let method = match wanted.method {
        Choice::Auto if found.variables.is_some() => Method::DriverEntry,
        Choice::Auto | Choice::Memmap => Method::Memmap,
        Choice::DriverEntry => Method::DriverEntry,
        Choice::SystemdBoot => Method::SystemdBoot,
        Choice::Grub => Method::Grub,
    };
    let mut report = Report::new(wanted.dry_run)?;
    match apply(host, &mut found, method, wanted, global, &mut report) {
        Err(Trouble::Firmware(unmade))
            if wanted.method == Choice::Auto && found.has_systemd_boot() =>
        {
            report.notes.push(format!("{}: systemd-boot loads the driver instead", unmade.message));
            found = Found::look(host, wanted.esp.as_deref())?;
            apply(host, &mut found, Method::SystemdBoot, wanted, global, &mut report)?;
        }
        other => other?,
    }
    report.finish_grub(host, wanted.update.update_grub)?;
    if !report.changes.is_empty() {
        report.notes.push("it takes effect at the next boot".into());
    }
    report.print(global.json, "it is installed, and in step: nothing was changed", out)
}

/// Why an installation did not come about.
enum Trouble {
    Firmware(Unmade),
    Other(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Firmware(unmade) => unmade.into(),
            Trouble::Other(failure) => failure,
        }
    }
}

fn apply(
    host: &Host,
    found: &mut Found,
    method: Method,
    wanted: &Install,
    global: &Global,
    report: &mut Report,
) -> Result<(), Trouble> {
    let pages = pages(host, global)?;
    if pages.is_none() {
        report
            .notes
            .push("there is no list of bad pages yet: rasd makes it when it first runs".into());
    }
    let pages = pages.unwrap_or_default();
    let mut setup = Setup {
        state: Some(State {
            method,
            esp: found
                .esp
                .as_ref()
                .ok()
                .filter(|_| method.has_driver())
                .map(|esp| esp.mounted.clone()),
            made: BTreeSet::new(),
            boot: None,
            ranges: wanted.ranges,
        }),
        ..Setup::default()
    };
    if method.has_driver() {
        with_driver(host, found, method, wanted, &pages, report, &mut setup)?;
    } else {
        let (file, contents, mode, fallback) = fallback_file(host, method, &pages, wanted.ranges)?;
        fallback::check_grub(host, file, fallback.parameter())?;
        setup.files.insert(host.at(file), (contents.into_bytes(), mode));
        report.left_over = fallback.left_over;
        report.notes.extend(fallback.notes);
        report.notes.push(
            "rasd keeps the store, not GRUB's files: `rasctl boot refresh` after changes".into(),
        );
    }
    let changes = found.changes(host, setup)?;
    found.check_writable(&changes)?;
    make(host, found, &changes, report).map_err(|unmade| {
        if unmade.by_firmware { Trouble::Firmware(unmade) } else { Trouble::Other(unmade.into()) }
    })
}

/// The file, its contents and its mode.
fn fallback_file(
    host: &Host,
    method: Method,
    pages: &[RetiredPage],
    ranges: Option<u32>,
) -> Result<(&'static str, String, u32, Fallback), Failure> {
    if method == Method::Grub {
        if host.secure_boot()? {
            return Err(Failure::NotDone(
                "Secure Boot is on: GRUB is locked down, and refuses cutmem".into(),
            ));
        }
        let fallback = Fallback::cutmem(host, pages, ranges);
        return Ok((fallback::SCRIPT, fallback.text.clone(), 0o755, fallback));
    }
    let fallback = Fallback::memmap(host, pages, ranges);
    Ok((fallback::DROP_IN, fallback.drop_in(), 0o644, fallback))
}

fn with_driver(
    host: &Host,
    found: &Found,
    method: Method,
    wanted: &Install,
    pages: &[RetiredPage],
    report: &mut Report,
    setup: &mut Setup,
) -> Result<(), Failure> {
    if found.variables.is_none() {
        return Err(Failure::NotDone(format!(
            "this machine was not started by UEFI: {} needs it; --method memmap or grub does not",
            method.name()
        )));
    }
    let esp = found.esp.as_ref().map_err(|reason| Failure::NotReached(reason.clone()))?;
    let (file, bytes) = read_driver(host, wanted.driver.as_deref())?;
    let driver = Driver::inspect(&bytes).map_err(|error| {
        Failure::NotDone(format!("{} can't be the driver: {error}", file.display()))
    })?;
    check_secure_boot(host, &file, driver, wanted.signed)?;
    let dir = if method == Method::DriverEntry {
        let partition = host.partition(esp).map_err(|error| {
            Failure::NotDone(format!("{error}. --method systemd-boot needs no such thing"))
        })?;
        setup.option = Some(LoadOption {
            attributes: ACTIVE,
            description: "Rampart: excludes bad memory".into(),
            partition: Some(partition),
            file: entries::file_path(),
        });
        place::DIRECTORY
    } else {
        if !found.has_systemd_boot() {
            return Err(Failure::NotDone(format!(
                "systemd-boot is not on the partition at {} ({SYSTEMD_BOOT})",
                esp.mounted
            )));
        }
        SYSTEMD_DRIVERS
    };
    setup.files.insert(esp.dir.join(dir).join(place::DRIVER_FILE), (bytes, 0o644));
    setup.list = Some(wanted_list(pages, found)?);
    let usual = persist_store::boot::find_esp(host.root());
    if usual.is_some_and(|usual| usual != esp.dir) {
        report.notes.push(format!(
            "rasd looks for the partition elsewhere: set esp = {:?} under [boot] in its configuration",
            esp.mounted
        ));
    }
    Ok(())
}

fn read_driver(host: &Host, asked: Option<&Path>) -> Result<(PathBuf, Vec<u8>), Failure> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(Path::parent).map(|dir| dir.join(place::DRIVER_FILE));
    let file = match asked {
        Some(file) => file.to_owned(),
        None => [Some(host.at(DRIVER).join(place::DRIVER_FILE)), beside]
            .into_iter()
            .flatten()
            .find(|file| file.is_file())
            .ok_or_else(|| {
                Failure::NotReached(format!(
                    "the driver ({}) is neither in {DRIVER} nor beside this program: name it with \
                     --driver (`cargo xtask dist` builds it)",
                    place::DRIVER_FILE
                ))
            })?,
    };
    let size = std::fs::metadata(&file).map(|file| file.len());
    let bytes = size.and_then(|size| match size {
        ..=DRIVER_MAX => std::fs::read(&file),
        _ => Err(std::io::ErrorKind::FileTooLarge.into()),
    });
    let bytes = bytes
        .map_err(|error| Failure::NotReached(format!("reading {}: {error}", file.display())))?;
    Ok((file, bytes))
}

fn check_secure_boot(
    host: &Host,
    file: &Path,
    driver: Driver,
    signed: bool,
) -> Result<(), Failure> {
    if !host.secure_boot()? || (signed && driver.signed) {
        return Ok(());
    }
    let has = if driver.signed { "carries a signature" } else { "carries no signature" };
    let file = file.display();
    Err(Failure::NotDone(format!(
        "Secure Boot is on: firmware loads the driver only if it is signed by a key in its variable `db`; \
         {file} {has}. Sign it with a key of your own that is enrolled there (a machine owner's key of \
         shim is not asked):\n  \
         sbsign --key db.key --cert db.crt --output rampart-x64.efi {file}\n  \
         rasctl boot install --signed --driver rampart-x64.efi"
    )))
}

fn refresh(
    host: &Host,
    update: &Update,
    global: &Global,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut found = Found::look(host, None)?;
    let Some(state) = found.state.clone() else {
        return Err(Failure::NotDone("nothing is installed: rasctl boot install".into()));
    };
    let pages = pages(host, global)?.unwrap_or_default();
    let mut report = Report::new(false)?;
    let change = if state.method.has_driver() {
        // It knows by itself whether there is anything to write.
        Some(Change::List(wanted_list(&pages, &found)?))
    } else {
        let (file, contents, mode, fallback) =
            fallback_file(host, state.method, &pages, state.ranges)?;
        let path = host.at(file);
        report.left_over = fallback.left_over;
        report.notes.extend(fallback.notes);
        let same = std::fs::read(&path).is_ok_and(|there| there == contents.as_bytes());
        (!same).then(|| Change::File { path, bytes: contents.into_bytes(), mode })
    };
    let changes: Vec<Change> = change.into_iter().collect();
    found.check_writable(&changes)?;
    make(host, &mut found, &changes, &mut report)?;
    report.finish_grub(host, update.update_grub)?;
    report.print(global.json, "the list is in step: nothing was changed", out)
}

fn remove(
    host: &Host,
    wanted: &Remove,
    global: &Global,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut found = Found::look(host, None)?;
    let mut report = Report::new(wanted.dry_run)?;
    let changes = found.changes(host, Setup::default())?;
    found.check_writable(&changes)?;
    make(host, &mut found, &changes, &mut report)?;
    report.finish_grub(host, wanted.update.update_grub)?;
    if !report.changes.is_empty() {
        report.notes.push("what this boot excluded stays excluded until the next one".into());
    }
    report.print(global.json, "nothing is installed: nothing was changed", out)
}

/// Makes the changes, or only says what they are.
fn make(
    host: &Host,
    found: &mut Found,
    changes: &[Change],
    report: &mut Report,
) -> Result<(), Unmade> {
    let grub = [host.at(fallback::DROP_IN), host.at(fallback::SCRIPT)];
    for change in changes {
        if let Change::File { path, .. } | Change::RemoveFile(path) = change {
            report.grub_is_stale |= grub.contains(path);
        }
        let said = change.describe(host);
        if report.dry_run {
            report.changes.push(said);
            continue;
        }
        match report.maker.make(change, host, found.variables.as_ref(), &mut found.list)? {
            None => report.changes.push(said),
            Some(Written::Unchanged) => {}
            Some(Written::Stored { place, ranges, bytes, left_over_pages, note }) => {
                report.changes.push(format!("{said} in {ranges} ranges, {bytes} bytes, {place}"));
                report.left_over = left_over_pages;
                report.notes.extend(note);
            }
        }
    }
    Ok(())
}

/// What was done, for whoever asked for it.
struct Report {
    dry_run: bool,
    maker: Maker,
    changes: Vec<String>,
    notes: Vec<String>,
    /// Pages that are left to rasd.
    left_over: u64,
    grub_is_stale: bool,
}

impl Report {
    fn new(dry_run: bool) -> Result<Self, Failure> {
        let maker = Maker::new()?;
        let (changes, notes) = (Vec::new(), Vec::new());
        Ok(Self { dry_run, maker, changes, notes, left_over: 0, grub_is_stale: false })
    }

    /// GRUB's own configuration has what its files had when it was made.
    fn finish_grub(&mut self, host: &Host, update: bool) -> Result<(), Failure> {
        if update && !self.dry_run {
            fallback::update_grub(host)?;
            self.changes.push("have GRUB's configuration made anew".into());
        } else if self.grub_is_stale {
            self.notes
                .push("GRUB does not know of it yet: run update-grub (grub2-mkconfig -o …)".into());
        }
        Ok(())
    }

    fn print(&self, as_json: bool, nothing: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let Self { dry_run, changes, notes, left_over, .. } = self;
        if as_json {
            let object = json!({
                "dry_run": dry_run, "changes": changes, "left_over_pages": left_over, "notes": notes,
            });
            return text::json(&object, out);
        }
        let did = if *dry_run { "would" } else { "done:" };
        for change in changes {
            writeln!(out, "{did} {change}")?;
        }
        if changes.is_empty() {
            writeln!(out, "{nothing}")?;
        }
        if *left_over > 0 {
            writeln!(
                out,
                "note: {left_over} pages are beyond the limits: rasd offlines them after the boot"
            )?;
        }
        for note in notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }
}
