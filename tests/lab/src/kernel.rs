//! A distribution's own kernel: what runs on the hosts this project is for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::packages::{self, output};

/// A line of Debian 12's stock kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Series {
    /// Debian 12's own.
    V6_1,
    /// From bookworm-security: the oldest long-term kernel with everything the walk needs, and the one the
    /// facts about QEMU were gathered with.
    V6_12,
}

impl Series {
    /// What comes before and after the number that grows.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::V6_1 => ("linux-image-6.1.0-", "-amd64"),
            Self::V6_12 => ("linux-image-6.12.", "+deb12-amd64"),
        }
    }

    /// The last number of a stock kernel's version; `None` for variants (cloud, rt, dbg, unsigned).
    fn version(self, package: &str) -> Option<u32> {
        let (prefix, suffix) = self.name();
        package.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
    }

    fn newest(self, packages: &[String]) -> Option<String> {
        let numbered = packages.iter().filter_map(|name| Some((self.version(name)?, name)));
        numbered.max().map(|(_, name)| name.clone())
    }

    /// Kernel packages that were unpacked before.
    fn cached(self) -> Result<Vec<String>> {
        let dir = packages::unpacked_dir()?;
        let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
        Ok(entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| self.version(name).is_some())
            .collect())
    }
}

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct StockKernel {
    /// The release, as `uname -r` gives it.
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The directory of the modules.
    modules: PathBuf,
    /// By module name: its file and those of the modules it needs, relative to `modules`.
    dependencies: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// A module's file, as the distribution has it: packed (xz) or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleFile {
    /// The module's name, with underscores.
    pub name: String,
    /// Its file on this host.
    pub path: PathBuf,
}

impl StockKernel {
    /// The newest 6.12 kernel, see [`Self::fetch_series`].
    ///
    /// # Errors
    /// As there.
    pub fn fetch() -> Result<Self> {
        Self::fetch_series(Series::V6_12)
    }

    /// The newest stock kernel of a series, from the cache where one is there, else downloaded (about 100 MB).
    ///
    /// # Errors
    /// No such kernel in the configured repositories, or the download or unpacking failed.
    pub fn fetch_series(series: Series) -> Result<Self> {
        let package = match series.newest(&series.cached()?) {
            Some(package) => package,
            None => {
                let pattern = format!("^{}", series.name().0.replace('.', "\\."));
                let known = packages::search(&pattern, |name| series.version(name).is_some())?;
                series.newest(&known).context("no stock kernel among the packages found")?
            }
        };
        let root = packages::download_unpack(&package)?;
        Self::unpacked(&root, package.trim_start_matches("linux-image-"))
    }

    /// The files to load, in order, so that all of `wanted` are there: what they need comes first.
    /// Modules built into the kernel are left out.
    ///
    /// # Errors
    /// This kernel has no such module.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<ModuleFile>> {
        let mut ordered: Vec<ModuleFile> = Vec::new();
        for name in wanted {
            let name = name.replace('-', "_");
            if self.builtin.contains(&name) {
                continue;
            }
            let files = self
                .dependencies
                .get(&name)
                .with_context(|| format!("the kernel {} has no module {name}", self.release))?;
            // modules.dep lists a module's needs so that each one's own needs come after it.
            for file in files.iter().rev() {
                let name = module_name(file);
                if !ordered.iter().any(|module| module.name == name) {
                    ordered.push(ModuleFile { name, path: self.modules.join(file) });
                }
            }
        }
        Ok(ordered)
    }

    fn unpacked(root: &Path, release: &str) -> Result<Self> {
        let modules = root.join("lib/modules").join(release);
        let order = modules.join("modules.dep");
        if !order.is_file() {
            // The package leaves this to its installation script.
            packages::ensure(&["kmod"])?;
            let depmod = crate::capability::program("depmod").map_err(anyhow::Error::msg)?;
            output(Command::new(depmod).arg("-b").arg(root).arg(release))?;
        }
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let builtin = read(modules.join("modules.builtin"))?;
        let image = root.join(format!("boot/vmlinuz-{release}"));
        anyhow::ensure!(image.is_file(), "the package has no {}", image.display());
        Ok(Self {
            release: release.to_owned(),
            image,
            dependencies: parse_dependencies(&read(order)?),
            builtin: builtin.lines().map(module_name).collect(),
            modules,
        })
    }
}

/// Lines of `modules.dep(5)`: `file: needed-file needed-file …`.
fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            let files = std::iter::once(file).chain(needs.split_whitespace());
            (module_name(file), files.map(str::to_owned).collect())
        })
        .collect()
}

/// `kernel/fs/ext4/ext4.ko.xz` is the file of module `ext4`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_chosen_by_number() {
        let known = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.118+deb12-cloud-amd64",
            "linux-image-6.12.119+deb12-amd64-dbg",
            "linux-image-6.1.0-50-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(Series::V6_12.newest(&known), Some(known[1].clone()));
        assert_eq!(Series::V6_12.newest(&known[2..]), None);
        assert_eq!(Series::V6_1.newest(&known), Some(known[4].clone()));
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let order = "kernel/fs/jbd2/jbd2.ko.xz:\n\
                     kernel/fs/mbcache.ko.xz:\n\
                     kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n\
                     kernel/crypto/crc32c-generic.ko.xz:\n";
        let kernel = StockKernel {
            release: "6.12.1".to_owned(),
            image: PathBuf::new(),
            modules: PathBuf::from("/m"),
            dependencies: parse_dependencies(order),
            builtin: ["virtio_pci".to_owned()].into(),
        };
        let names = |wanted: &[&str]| -> Vec<String> {
            kernel.modules(wanted).unwrap().into_iter().map(|module| module.name).collect()
        };
        assert_eq!(
            names(&["crc32c-generic", "ext4", "virtio_pci", "jbd2"]),
            ["crc32c_generic", "mbcache", "jbd2", "ext4"]
        );
        assert_eq!(
            kernel.modules(&["jbd2"]).unwrap()[0].path,
            Path::new("/m/kernel/fs/jbd2/jbd2.ko.xz")
        );
        assert!(kernel.modules(&["zfs"]).unwrap_err().to_string().contains("zfs"));
    }
}
