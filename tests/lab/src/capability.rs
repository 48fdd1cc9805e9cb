//! What this machine can do. Each check answers `Ok` or the reason a test prints when it is skipped.

use std::env;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::Uid;

/// `/dev/kvm` exists and can be opened.
///
/// # Errors
/// The reason in one line.
pub fn kvm() -> Result<(), String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(drop)
        .map_err(|error| format!("/dev/kvm can't be opened: {error}"))
}

/// The process runs as root.
///
/// # Errors
/// The reason in one line.
pub fn root() -> Result<(), String> {
    if Uid::effective().is_root() { Ok(()) } else { Err("only root can do this".to_owned()) }
}

/// The kernel can take a page out of use: `CONFIG_MEMORY_FAILURE`.
///
/// # Errors
/// The reason in one line.
pub fn hard_offline() -> Result<(), String> {
    const FILE: &str = "/sys/devices/system/memory/hard_offline_page";
    if Path::new(FILE).exists() { Ok(()) } else { Err(format!("the kernel has no {FILE}")) }
}

/// Network and mount namespaces can be made.
///
/// # Errors
/// The reason in one line.
pub fn namespaces() -> Result<(), String> {
    let made = Command::new("unshare")
        .args(["--net", "--mount", "--", "true"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`unshare` of util-linux can't be started: {error}"))?;
    if made.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&made.stderr);
        Err(format!("network and mount namespaces can't be made: {}", said.trim()))
    }
}

/// At least `mebibytes` MiB of memory are available to new processes.
///
/// # Errors
/// The reason in one line.
pub fn memory(mebibytes: u64) -> Result<(), String> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| format!("/proc/meminfo can't be read: {error}"))?;
    match meminfo_kib(&text, "MemAvailable") {
        Some(kib) if kib / 1024 >= mebibytes => Ok(()),
        Some(kib) => Err(format!("{} MiB of memory are available, {mebibytes} needed", kib / 1024)),
        None => Err("/proc/meminfo does not say how much memory is available".to_owned()),
    }
}

/// Packages can be had: this is a Debian (or a derivative) with `apt-get`.
///
/// # Errors
/// The reason in one line.
pub fn apt() -> Result<(), String> {
    program("apt-get")
        .map(drop)
        .map_err(|_| "packages come through apt-get, which is not here".to_owned())
}

/// Finds a program on `PATH` or in the system directories ordinary users often lack.
///
/// # Errors
/// The reason in one line.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
        .ok_or_else(|| format!("the program `{name}` is not installed"))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A field of the text of `/proc/meminfo`, in KiB.
#[must_use]
pub fn meminfo_kib(text: &str, field: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_fields_are_found_by_their_whole_name() {
        let text =
            "MemTotal:       24105 kB\nMemAvailable:   1024 kB\nHardwareCorrupted:     8 kB\n";
        assert_eq!(meminfo_kib(text, "MemAvailable"), Some(1024));
        assert_eq!(meminfo_kib(text, "HardwareCorrupted"), Some(8));
        assert_eq!(meminfo_kib(text, "Mem"), None);
        assert_eq!(meminfo_kib("", "MemTotal"), None);
    }

    #[test]
    fn reasons_name_what_is_missing() {
        assert!(program("sh").is_ok());
        assert!(program("no-such-program").unwrap_err().contains("`no-such-program`"));
        assert!(memory(u64::MAX / 1024).unwrap_err().contains("MiB"));
    }
}
