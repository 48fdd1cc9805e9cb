//! The configuration file. `rasd.toml` beside the sources is its documentation and its defaults; a
//! test holds the two together.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_glue::{PacemakerConfig, StandaloneConfig};
use ras_core::Policy;
use serde::{Deserialize, Serialize};

/// The default file, with every key and what it means.
pub const DEFAULT_FILE: &str = include_str!("../rasd.toml");

/// Everything that can be set. The file documents each key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Config {
    #[serde(deserialize_with = "store::deserialize")]
    pub store: Store,
    pub control: PathBuf,
    pub paths: Paths,
    pub machine: Machine,
    pub sources: Sources,
    pub policy: Policy,
    pub offline: Offline,
    pub guests: Guests,
    pub cluster: Cluster,
    pub boot: Boot,
    pub metrics: Metrics,
}

/// Where the list of bad pages is kept. As a text it is the directory alone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Store {
    pub dir: PathBuf,
    pub mirror: Option<Medium>,
    pub mirror_settle_s: u64,
    pub mirror_pause_s: u64,
}

/// What the list can be mirrored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// EFI variables: `persist_store::EfiVarList`.
    EfiVariable,
    /// ACPI's error record store: `persist_store::ErstList`.
    Erst,
}

/// Where the kernel's file systems are mounted; elsewhere in tests and containers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Paths {
    pub sysfs: PathBuf,
    pub proc: PathBuf,
    pub tracefs: PathBuf,
    pub dev: PathBuf,
}

/// What can't be read from the machine.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Machine {
    pub address_map: Option<PathBuf>,
}

/// Where errors come from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Sources {
    pub tracefs: Switch,
    pub queue: NonZeroUsize,
}

/// Whether a source is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Where it is there; a warning says so where it is not.
    Auto,
    /// It has to be there: without it rasd does not start.
    On,
    /// Not used.
    Off,
}

/// How the kernel is asked to give up a page.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Offline {
    pub attempts: NonZeroU32,
    pub backoff_ms: u64,
}

/// How guests are found and asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Guests {
    pub dir: PathBuf,
    pub connect_ms: u64,
    pub scan_ms: u64,
    pub retire_ms: u64,
    pub migrate_s: u64,
}

/// The list that firmware reads at the next boot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Boot {
    pub list: Switch,
    pub settle_s: u64,
    pub pause_s: u64,
    pub esp: Option<PathBuf>,
}

/// Figures for monitoring.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Metrics {
    pub file: Option<PathBuf>,
}

/// Who moves guests.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented in rasd.toml")]
pub struct Cluster {
    pub engine: Engine,
    pub retry_s: u64,
    pub standalone: StandaloneConfig,
    pub pacemaker: PacemakerConfig,
}

/// The implementations of `cluster_glue::HaEngine`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the engines' own names")]
pub enum Engine {
    Standalone,
    Pacemaker,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("reading the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// It is no TOML, has an unknown key, or a value of the wrong type.
    #[error("in the configuration {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        source: toml::de::Error,
    },
    /// A value is out of range.
    #[error("in the configuration: {key} {wants}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it wants.
        wants: &'static str,
    },
}

impl Config {
    /// Reads a file; keys that are not in it have their defaults.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.check()?;
        Ok(config)
    }

    /// Where the firmware's variables are, if it has any.
    #[must_use]
    pub fn efivars(&self) -> PathBuf {
        self.paths.sysfs.join("firmware/efi/efivars")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |fine: bool, key, wants| {
            if fine { Ok(()) } else { Err(ConfigError::Value { key, wants }) }
        };
        value(
            self.policy.corrected_per_page.count > 0,
            "policy.corrected_per_page.count",
            "is at least 1",
        )?;
        value(
            self.policy.uncorrected_per_host.count > 0,
            "policy.uncorrected_per_host.count",
            "is at least 1",
        )?;
        value(
            self.offline.attempts.get() <= 16,
            "offline.attempts",
            "is at most 16: each waits twice as long",
        )?;
        value(self.offline.backoff_ms <= 10_000, "offline.backoff_ms", "is at most 10000")?;
        value(self.guests.retire_ms <= 600_000, "guests.retire_ms", "is at most 600000")?;
        value(self.cluster.retry_s > 0, "cluster.retry_s", "is at least 1")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: Store::default(),
            control: "/run/rasd/rasd.sock".into(),
            paths: Paths::default(),
            machine: Machine::default(),
            sources: Sources::default(),
            policy: Policy::default(),
            offline: Offline::default(),
            guests: Guests::default(),
            cluster: Cluster::default(),
            boot: Boot::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { dir: "/var/lib/rasd".into(), mirror: None, mirror_settle_s: 10, mirror_pause_s: 60 }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            sysfs: "/sys".into(),
            proc: "/proc".into(),
            tracefs: "/sys/kernel/tracing".into(),
            dev: "/dev".into(),
        }
    }
}

impl Default for Sources {
    fn default() -> Self {
        const QUEUE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
        Self { tracefs: Switch::Auto, queue: QUEUE }
    }
}

impl Default for Offline {
    fn default() -> Self {
        const ATTEMPTS: NonZeroU32 = NonZeroU32::new(5).unwrap();
        Self { attempts: ATTEMPTS, backoff_ms: 100 }
    }
}

impl Default for Boot {
    fn default() -> Self {
        Self { list: Switch::Auto, settle_s: 30, pause_s: 600, esp: None }
    }
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            dir: "/run/rasvmm".into(),
            connect_ms: 1000,
            scan_ms: 10_000,
            retire_ms: 5000,
            migrate_s: 300,
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            engine: Engine::Standalone,
            retry_s: 30,
            standalone: StandaloneConfig::default(),
            pacemaker: PacemakerConfig::default(),
        }
    }
}

/// Reads [`Store`] from a table or from a text.
mod store {
    use std::fmt;

    use serde::de::value::MapAccessDeserializer;
    use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

    use super::Store;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Store, D::Error> {
        from.deserialize_any(Reader)
    }

    struct Reader;

    impl<'de> Visitor<'de> for Reader {
        type Value = Store;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a directory, or a table with `dir` and `mirror`")
        }

        fn visit_str<E: Error>(self, dir: &str) -> Result<Store, E> {
            Ok(Store { dir: dir.into(), ..Store::default() })
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Store, M::Error> {
            Store::deserialize(MapAccessDeserializer::new(map))
        }
    }
}

impl Guests {
    /// Longest wait for a VMM to accept a connection and greet.
    #[must_use]
    pub const fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// Longest search through all guests' page tables for one fault.
    #[must_use]
    pub const fn scan(&self) -> Duration {
        Duration::from_millis(self.scan_ms)
    }

    /// How long a guest may take to give up a range.
    #[must_use]
    pub const fn retire(&self) -> Duration {
        Duration::from_millis(self.retire_ms)
    }

    /// Longest live migration.
    #[must_use]
    pub const fn migrate(&self) -> Duration {
        Duration::from_secs(self.migrate_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_says_what_the_defaults_are() {
        let from_file: Config = toml::from_str(DEFAULT_FILE).unwrap();
        assert_eq!(from_file, Config::default());
        from_file.check().unwrap();
    }

    #[test]
    fn the_default_file_names_every_key() {
        // A key that serializes but is not in the file is undocumented. Optional keys are
        // commented out there, so the text is searched, not the parsed table.
        let table: toml::Table =
            toml::from_str(&toml::to_string(&Config::default()).unwrap()).unwrap();
        fn check(table: &toml::Table) {
            for (key, value) in table {
                match value {
                    toml::Value::Table(inner) if DEFAULT_FILE.contains(&format!("{key}]")) => {
                        check(inner);
                    }
                    _ => assert!(DEFAULT_FILE.contains(&format!("{key} =")), "{key}"),
                }
            }
        }
        check(&table);
    }

    #[test]
    fn the_store_is_a_directory_or_a_table() {
        let store = |text: &str| toml::from_str::<Config>(text).map(|config| config.store);
        let dir = Store { dir: "/x".into(), ..Store::default() };
        assert_eq!(store("store = '/x'").unwrap(), dir);
        let mirrored = Store { mirror: Some(Medium::EfiVariable), ..dir };
        assert_eq!(store("[store]\ndir = '/x'\nmirror = 'efi-variable'").unwrap(), mirrored);
        let says = |text: &str, word: &str| {
            let error = store(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        says("[store]\nmirror = 'floppy'", "`efi-variable` or `erst`");
        says("[store]\nmirrors = 'erst'", "unknown field `mirrors`");
        says("store = 7", "a directory, or a table");
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rasd.toml");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            format!("{:#}", anyhow::Error::from(Config::load(&path).unwrap_err()))
        };
        assert!(error("stoer = '/x'").contains("stoer"));
        assert!(error("[offline]\nattempts = 0").contains("attempts"));
        assert!(error("[offline]\nattempts = 17").contains("at most 16"));
        assert!(
            error("[policy]\ncorrected_per_page = { count = 0, window_s = 1 }")
                .contains("at least 1")
        );
        assert!(error("[sources]\ntracefs = 'maybe'").contains("maybe"));
        std::fs::remove_file(&path).unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("rasd.toml"));
    }
}
