//! What a machine is to be: from the command line, a TOML file, or both.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Parser;
use serde::{Deserialize, Deserializer};

use crate::devices::virtio::mem::BLOCK_SIZE;
use crate::memory::layout;
use crate::policy::{Actions, Choice};

/// A KVM virtual machine monitor whose guests survive memory errors.
///
/// Boots a kernel by the PVH protocol on one vCPU. Every option can also be given in a TOML file
/// (--config), under the same name; the command line wins.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "rasvmm", version, max_term_width = 100)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// TOML file with any of the options below
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Name of the guest, as `query-name` tells it [default: guest]
    #[arg(long)]
    pub name: Option<String>,

    /// Kernel: an ELF file with a PVH entry point. With --incoming it is what a guest that arrived
    /// starts again with; without it, its reset is a shutdown
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Kernel command line. `virtio_mmio.device=0x200@0xd0000000:5` is added to it [default: empty]
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,

    /// RAM that is there from the start, with K, M or G: at least 1M, a multiple of 4K [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,

    /// Memory that can be plugged and unplugged in blocks of 2M: the most there can be, and how much
    /// the guest is asked to plug at first (default: all of it) [default: no such memory]
    #[arg(long, value_name = "SIZE[,requested=SIZE]")]
    pub virtio_mem: Option<VirtioMemSize>,

    /// Where to listen for QMP clients [default: /run/rasvmm/NAME.qmp]
    #[arg(long, value_name = "unix:PATH")]
    pub qmp: Option<QmpAddress>,

    /// Where the guest's serial line prints to [default: stdio]
    #[arg(long, value_name = "stdio|file:PATH|null")]
    pub serial: Option<SerialTarget>,

    /// Wait for a guest that migrates here, instead of booting one
    #[arg(long, value_name = "unix:PATH|tcp:HOST:PORT|fd:N")]
    pub incoming: Option<String>,

    /// What is done when the guest reboots (reset, shutdown), shuts down (poweroff, pause), panics
    /// (pause, shutdown, exit-failure, none) or starves its watchdog (reset, poweroff, pause,
    /// inject-nmi, debug, none)
    /// [default: reboot=reset,shutdown=poweroff,panic=pause,watchdog=reset]
    #[arg(long, value_name = "EVENT=ACTION[,...]")]
    #[serde(deserialize_with = "choice")]
    pub action: Option<Choice>,

    /// Allow `x-ras-inject-poison`: QMP clients may destroy guest memory
    #[arg(long)]
    pub allow_fault_injection: bool,
}

/// A complete and checked configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The guest's name.
    pub name: String,
    /// What to start.
    pub start: Start,
    /// RAM in bytes.
    pub memory: u64,
    /// Memory device.
    pub virtio_mem: Option<VirtioMemSize>,
    /// Path of the QMP socket.
    pub qmp: PathBuf,
    /// Where the serial line prints to.
    pub serial: SerialTarget,
    /// What is done when the guest ends in one way or another.
    pub actions: Actions,
    /// Whether QMP clients may inject memory errors.
    pub allow_fault_injection: bool,
}

/// What to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// Boot a kernel.
    Kernel(Kernel),
    /// Wait for a migration.
    Incoming {
        /// Where.
        uri: String,
        /// What the guest is started with when it resets.
        kernel: Option<Kernel>,
    },
}

impl Start {
    /// What the guest starts with, if that is known here.
    #[must_use]
    pub const fn kernel(&self) -> Option<&Kernel> {
        match self {
            Self::Kernel(kernel) => Some(kernel),
            Self::Incoming { kernel, .. } => kernel.as_ref(),
        }
    }
}

/// What a guest starts with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// Its file.
    pub path: PathBuf,
    /// Its command line, complete.
    pub cmdline: String,
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Size of a memory device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtioMemSize {
    /// Bytes of its region.
    pub region: u64,
    /// Bytes the guest is asked to plug at first.
    pub requested: u64,
}

/// Where a serial line prints to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SerialTarget {
    /// Standard output.
    Stdio,
    /// A file, which is created or emptied.
    File(PathBuf),
    /// Nowhere.
    Null,
}

/// Path of a QMP socket, written `unix:PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QmpAddress(pub PathBuf);

/// Why a configuration is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("reading the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("in the configuration {path}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that is not possible, with what would be.
    #[error("{option}: {why}")]
    Value {
        /// The option.
        option: &'static str,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Text that is not a value; the message says what would be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl Options {
    /// Reads the file, if one is named, fills in the defaults and checks everything.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map(Self::read).transpose()?.unwrap_or_default();
        let name = self.name.or(file.name).unwrap_or_else(|| "guest".to_owned());
        if name.is_empty() || name.len() > 64 || name.contains(['/', '\0']) {
            let why = "1 to 64 characters without '/' are needed".to_owned();
            return Err(ConfigError::Value { option: "name", why });
        }
        let memory = self.memory.or(file.memory).unwrap_or(Size(64 << 20)).0;
        let virtio_mem = self.virtio_mem.or(file.virtio_mem);
        check_memory(memory, virtio_mem)?;
        let cmdline = self.cmdline.or(file.cmdline).unwrap_or_default();
        let kernel = self.kernel.or(file.kernel).map(|path| {
            let device = virtio_mem.is_some().then(device_parameter);
            let words: Vec<_> = [Some(cmdline).filter(|text| !text.is_empty()), device]
                .into_iter()
                .flatten()
                .collect();
            Kernel { path, cmdline: words.join(" ") }
        });
        let mut actions = Actions::default();
        for choice in [file.action, self.action].into_iter().flatten() {
            actions.choose(choice);
        }
        let start = match (self.incoming.or(file.incoming), kernel) {
            (Some(uri), kernel) => Start::Incoming { uri, kernel },
            (None, Some(kernel)) => Start::Kernel(kernel),
            (None, None) => {
                let why = "name the ELF file to boot, or use --incoming".to_owned();
                return Err(ConfigError::Value { option: "kernel", why });
            }
        };
        let default_qmp = || QmpAddress(PathBuf::from(format!("/run/rasvmm/{name}.qmp")));
        Ok(Config {
            qmp: self.qmp.or(file.qmp).unwrap_or_else(default_qmp).0,
            serial: self.serial.or(file.serial).unwrap_or(SerialTarget::Stdio),
            actions,
            allow_fault_injection: self.allow_fault_injection || file.allow_fault_injection,
            name,
            start,
            memory,
            virtio_mem,
        })
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ConfigError::Syntax { path, source: Box::new(source) }),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }
}

/// How Linux is told of the memory device (Documentation/admin-guide/kernel-parameters.txt).
fn device_parameter() -> String {
    let (size, base, irq) = (layout::MMIO_SIZE, layout::MMIO_BASE, layout::MMIO_IRQ);
    format!("virtio_mmio.device={size:#x}@{base}:{irq}")
}

fn check_memory(memory: u64, virtio_mem: Option<VirtioMemSize>) -> Result<(), ConfigError> {
    let wrong = |option, why: &str| Err(ConfigError::Value { option, why: why.to_owned() });
    if memory < 1 << 20 || !memory.is_multiple_of(ras_core::PAGE_SIZE) {
        return wrong("memory", "at least 1M and a multiple of 4K is needed");
    }
    let region = virtio_mem.map_or(0, |size| size.region);
    let end = layout::virtio_mem(memory).0.checked_add(region);
    if memory > layout::ADDRESS_MAX || end.is_none_or(|end| end > layout::ADDRESS_MAX) {
        return wrong("memory", "with --virtio-mem, less than 60G are possible");
    }
    let Some(VirtioMemSize { region, requested }) = virtio_mem else { return Ok(()) };
    if region == 0 || !region.is_multiple_of(BLOCK_SIZE) || !requested.is_multiple_of(BLOCK_SIZE) {
        return wrong("virtio-mem", "sizes are multiples of 2M");
    }
    if requested > region {
        return wrong("virtio-mem", "requested= can't be more than the size");
    }
    Ok(())
}

impl FromStr for Size {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError(format!("'{text}' is not a size such as 4096, 64M or 2G"));
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for VirtioMemSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (region, rest) = text.split_once(',').unwrap_or((text, ""));
        let Size(region) = region.parse()?;
        let requested = match (rest, rest.strip_prefix("requested=")) {
            ("", _) => region,
            (_, Some(size)) => size.parse::<Size>()?.0,
            (_, None) => return Err(ParseError(format!("'{rest}' is not requested=SIZE"))),
        };
        Ok(Self { region, requested })
    }
}

impl FromStr for SerialTarget {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match (text, text.strip_prefix("file:")) {
            ("stdio", _) => Ok(Self::Stdio),
            ("null", _) => Ok(Self::Null),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            _ => Err(ParseError(format!("'{text}' is not stdio, file:PATH or null"))),
        }
    }
}

impl FromStr for QmpAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self(PathBuf::from(path))),
            _ => Err(ParseError(format!("'{text}' is not unix:PATH"))),
        }
    }
}

/// Values in the file are written as on the command line; a size may also be a plain number.
fn text_or_number<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Text(String),
        Number(u64),
    }
    let text = match Raw::deserialize(deserializer)? {
        Raw::Text(text) => text,
        Raw::Number(number) => number.to_string(),
    };
    text.parse().map_err(serde::de::Error::custom)
}

/// In the file as on the command line; QMP has the same choice as an object.
fn choice<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Choice>, D::Error> {
    text_or_number(deserializer).map(Some)
}

macro_rules! from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_or_number(deserializer)
            }
        }
    )*};
}
from_text!(Size, VirtioMemSize, SerialTarget, QmpAddress);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PanicAction, WatchdogAction};
    use std::io::Write;

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let arguments = std::iter::once(&"rasvmm").chain(arguments);
        let options = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
        options.resolve().map_err(|error| crate::migrate::chain(&error))
    }

    fn fails(arguments: &[&str], expected: &str) {
        let error = parse(arguments).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn defaults_are_as_documented() {
        let config = parse(&["--kernel", "k"]).unwrap();
        assert_eq!((config.name.as_str(), config.memory), ("guest", 64 << 20));
        assert_eq!(config.qmp, Path::new("/run/rasvmm/guest.qmp"));
        assert_eq!(config.serial, SerialTarget::Stdio);
        assert_eq!(config.virtio_mem, None);
        assert!(!config.allow_fault_injection);
        let kernel = Kernel { path: "k".into(), cmdline: String::new() };
        assert_eq!((config.start, config.actions), (Start::Kernel(kernel), Actions::default()));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(
            br#"
            name = "vm1"
            kernel = "guest.elf"
            cmdline = "quiet"
            memory = 33554432
            virtio-mem = "256M,requested=128M"
            serial = "null"
            qmp = "unix:/tmp/q"
            allow-fault-injection = true
            action = "panic=shutdown,watchdog=pause"
            "#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let config = parse(&["--config", path, "--memory", "16M"]).unwrap();
        assert_eq!((config.name.as_str(), config.memory), ("vm1", 16 << 20));
        let virtio_mem = VirtioMemSize { region: 256 << 20, requested: 128 << 20 };
        assert_eq!(config.virtio_mem, Some(virtio_mem));
        assert!(config.allow_fault_injection);
        let cmdline = "quiet virtio_mmio.device=0x200@0xd0000000:5".to_owned();
        let kernel = Kernel { path: "guest.elf".into(), cmdline };
        assert_eq!(config.start, Start::Kernel(kernel.clone()));
        let arguments = ["--config", path, "--action", "panic=none", "--incoming", "unix:/tmp/m"];
        let config = parse(&arguments).unwrap();
        let actions = Actions {
            panic: PanicAction::None,
            watchdog: WatchdogAction::Pause,
            ..Actions::default()
        };
        assert_eq!(config.actions, actions);
        let (uri, kernel) = ("unix:/tmp/m".to_owned(), Some(kernel));
        assert_eq!(config.start, Start::Incoming { uri, kernel });
    }

    #[test]
    fn mistakes_are_explained() {
        fails(&[], "kernel: name the ELF file");
        fails(&["--kernel", "k", "--memory", "64X"], "'64X' is not a size");
        fails(&["--kernel", "k", "--memory", "17179869184G"], "is not a size");
        fails(&["--kernel", "k", "--memory", "1K"], "at least 1M");
        fails(&["--kernel", "k", "--memory", "64G"], "less than 60G");
        fails(&["--kernel", "k", "--virtio-mem", "3M"], "multiples of 2M");
        fails(&["--kernel", "k", "--virtio-mem", "4M,requested=6M"], "more than the size");
        fails(&["--kernel", "k", "--virtio-mem", "4M,4M"], "is not requested=SIZE");
        fails(&["--kernel", "k", "--serial", "pty"], "is not stdio");
        fails(&["--kernel", "k", "--qmp", "tcp:1"], "is not unix:PATH");
        fails(&["--kernel", "k", "--action", "panic"], "write EVENT=ACTION");
        fails(&["--kernel", "k", "--name", "a/b"], "without '/'");
        fails(&["--config", "/does/not/exist"], "reading the configuration");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"kernle = \"x\"").unwrap();
        fails(&["--config", file.path().to_str().unwrap()], "unknown field `kernle`");
    }
}
