//! The story on a machine without a `/dev/kvm` of its own: in one that QEMU emulates.
//!
//! ```text
//!  this process               QEMU (TCG, an AMD processor), stock Debian kernel, kvm_amd
//!  ------------               ----------------------------------------------------------
//!  prints it <---- serial --- lab-agent (/init) --starts--> demo-story: the same story
//!                                                   +--> rasd, rasctl, two rasvmm + test guest
//! ```
//!
//! That kernel can take pages out of use, as those of few development machines can: what is lost there
//! is lost for real.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::Told;
use crate::agent::Event;
use crate::kernel::{ModuleFile, StockKernel};
use crate::machine::{Machine, lines_of};
use crate::qemu::{Hardware, Processor};
use crate::{Summary, artifacts, image};

/// What `demo-story` leaves behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// How the story ended.
    pub summary: Summary,
    /// The story as data.
    pub told: Told,
}

/// How long a step may take in there, where everything takes ten to a hundred times as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The whole story takes four seconds on an idle machine. Later, the agent would switch off: nobody asks
/// it for anything meanwhile.
const STORY: Duration = Duration::from_secs(170);

const MEMORY_MIB: u32 = 512;

const DISK_MIB: u64 = 64;

/// The machine's programs, and where they go.
const PROGRAMS: [(&str, &str); 5] = [
    ("lab-agent", "init"),
    ("demo-story", "bin/demo-story"),
    ("rasd", "bin/rasd"),
    ("rasctl", "bin/rasctl"),
    ("rasvmm", "bin/rasvmm"),
];

/// The guests in there are trusted, and every instruction counts twice.
const COMMAND_LINE: &str = "mitigations=off";

/// Where `demo-story` puts its [`Outcome`].
const OUTCOME: &str = "/tmp/outcome.json";

/// Whether the story can be told this way here.
///
/// # Errors
/// What is missing, in one line.
pub fn requirements() -> Result<(), String> {
    image::requirements()
}

/// Tells the story, after saying `why` it has to be told this way. Fetches and builds what it needs
/// first.
///
/// # Errors
/// Something it needs can't be had: a package, the kernel, a program; or the machine did not survive.
/// The directory with its logs is then kept and printed.
pub fn run(why: &str, verbose: bool) -> Result<(Summary, Told)> {
    requirements().map_err(anyhow::Error::msg)?;
    image::ensure_packages()?;
    let lab = Lab::prepare()?;
    println!(
        "Nested KVM: {why}.\n\
         So the story is told in a machine that QEMU emulates, with a stock kernel ({}) and its KVM.\n\
         All times are those of an emulated machine: real ones are ten to a hundred times shorter.\n",
        lab.kernel.release
    );
    let outcome = lab.tell(verbose);
    lab.close(outcome.as_ref().is_ok_and(|outcome| outcome.summary.is_success()));
    outcome.map(|Outcome { summary, told }| (summary, told))
}

struct Lab {
    dir: TempDir,
    kernel: StockKernel,
    modules: Vec<ModuleFile>,
}

impl Lab {
    fn prepare() -> Result<Self> {
        let kernel = StockKernel::fetch()?;
        let modules = kernel.modules(&[&image::DISK_MODULES[..], &["kvm_amd"]].concat())?;
        let guest = artifacts::guest()?;
        let guest = fs::read(&guest).with_context(|| format!("reading {}", guest.display()))?;
        // A short path, since sockets live in it.
        let dir = TempDir::with_prefix("ras-demo-").context("creating the lab's directory")?;
        let lab = Self { dir, kernel, modules };
        let files = [("lib/guest", &guest[..])];
        image::initramfs(&lab.file("initramfs.cpio"), &PROGRAMS, &lab.modules, &files)?;
        // The daemon's list has to be on a disk: syncing a file in memory costs nothing.
        image::ext4(&lab.file("disk.img"), DISK_MIB)?;
        Ok(lab)
    }

    fn tell(&self, verbose: bool) -> Result<Outcome> {
        let mut machine = self.boot()?;
        let mut command = vec!["/bin/demo-story", OUTCOME];
        if verbose {
            command.push("--verbose");
        }
        machine.start("story", &command)?;
        let mut told = 0;
        let status = machine.wait("the story's end", STORY, |events| {
            for line in lines_of(events, "story").skip(told) {
                told += 1;
                println!("{line}");
            }
            events.iter().find_map(|event| match event {
                Event::Ended { name, status } if name == "story" => Some(status.clone()),
                _ => None,
            })
        })?;
        let outcome = machine.read(OUTCOME);
        let outcome = outcome.with_context(|| format!("the story ended with {status}"))?;
        let outcome: Outcome = serde_json::from_str(&outcome).context("the story as data")?;
        let succeeded = status == "exit status: 0";
        ensure!(
            succeeded == outcome.summary.is_success(),
            "the story ended with {status}, which does not fit {:?}",
            outcome.summary
        );
        Ok(outcome)
    }

    fn boot(&self) -> Result<Machine> {
        let mut machine = Machine::boot(&Hardware {
            kernel: self.kernel.image.clone(),
            initramfs: self.file("initramfs.cpio"),
            command_line: COMMAND_LINE.to_owned(),
            processor: Processor::Amd,
            error_records: None,
            memory_mib: MEMORY_MIB,
            disks: vec![self.file("disk.img")],
            boots_disk: false,
            uefi: None,
            dir: self.dir.path().to_owned(),
        })?;
        image::load_modules(&mut machine, &self.modules)?;
        machine.mount("/dev/vda", "ext4", "/var/cache")?;
        Ok(machine)
    }

    /// Removes everything after a success; otherwise keeps it and says where.
    fn close(self, success: bool) {
        if !success {
            println!("demo: console.log and agent.log are in {}", self.dir.keep().display());
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
