//! What Pacemaker tells the agent: `OCF_RESKEY_*` in the environment.

use std::path::PathBuf;
use std::time::Duration;

use cluster_glue::engine::check_guest_name;

use crate::{Code, Failure};

/// Where VM definitions are: `NAME.toml`.
pub const CONFIG_DIR: &str = "/etc/rasvmm";
/// Where the QMP sockets of all VMs of a host are: `NAME.qmp`.
pub const RUN_DIR: &str = "/run/rasvmm";
/// Where each VM's monitor logs to: `NAME.log`.
pub const LOG_DIR: &str = "/var/log/rasvmm";
/// The monitor, found through `PATH`.
pub const RASVMM: &str = "rasvmm";
/// Where guests are sent. Must match the landing service's address on every node.
pub const MIGRATE_URI: &str = "tcp:{target}:16520";
/// Longest wait for an answer over QMP. A monitor that needs longer counts as hung.
pub const QMP_TIMEOUT: Duration = Duration::from_secs(3);

/// Kept back from Pacemaker's timeout, so that the agent ends with a reason instead of being killed.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);
/// When Pacemaker names no timeout, or when a person calls the agent.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Parameters of one call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Params {
    /// The VM's name, which is the resource's id. A file name and nothing else.
    pub name: String,
    /// Its definition.
    pub config: PathBuf,
    /// Directory of the QMP sockets.
    pub run_dir: PathBuf,
    /// Directory of the monitors' logs.
    pub log_dir: PathBuf,
    /// The monitor program.
    pub rasvmm: PathBuf,
    /// Template of the migration URI; `{target}` and `{name}` are replaced.
    pub migrate_uri: String,
    /// Longest wait for one answer over QMP.
    pub qmp_timeout: Duration,
    /// Time for the whole action.
    pub timeout: Duration,
    /// The node to migrate to. Only for `migrate_to`.
    pub migrate_target: Option<String>,
}

impl Params {
    /// Reads the parameters through `get`, which is the process environment outside of tests.
    ///
    /// # Errors
    /// A parameter is missing or malformed: [`Code::Configured`].
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let given = |key: &str| get(&format!("OCF_RESKEY_{key}")).filter(|value| !value.is_empty());
        let configured = |reason: String| Failure::new(Code::Configured, reason);
        let name = get("OCF_RESOURCE_INSTANCE")
            .ok_or_else(|| configured("OCF_RESOURCE_INSTANCE is not set".into()))?;
        // A clone's instance is called NAME:0 and ends here too: a VM must not be cloned.
        check_guest_name(&name).map_err(|error| configured(error.to_string()))?;
        let path = |key, default: &str| PathBuf::from(given(key).unwrap_or(default.to_owned()));
        let millis = |key: &str| match given(key) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(ms @ 1..=86_400_000) => Ok(Some(Duration::from_millis(ms))),
                _ => Err(configured(format!("{key}={text} is not 1 to 86400000 milliseconds"))),
            },
        };
        let timeout = millis("CRM_meta_timeout")?.unwrap_or(TIMEOUT_DEFAULT);
        let migrate_uri = given("migrate_uri").unwrap_or_else(|| MIGRATE_URI.to_owned());
        if !migrate_uri.starts_with("tcp:") && !migrate_uri.starts_with("unix:") {
            return Err(configured(format!("migrate_uri={migrate_uri} is neither tcp: nor unix:")));
        }
        Ok(Self {
            config: path("config", &format!("{CONFIG_DIR}/{name}.toml")),
            run_dir: path("run_dir", RUN_DIR),
            log_dir: path("log_dir", LOG_DIR),
            rasvmm: path("rasvmm", RASVMM),
            migrate_uri,
            qmp_timeout: millis("qmp_timeout_ms")?.unwrap_or(QMP_TIMEOUT),
            timeout: timeout.saturating_sub(TIMEOUT_MARGIN).max(timeout / 2),
            migrate_target: given("CRM_meta_migrate_target"),
            name,
        })
    }

    /// The VM's QMP socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.qmp", self.name))
    }

    /// Where to send the VM, once Pacemaker named a target.
    pub(crate) fn uri(&self) -> Result<String, Failure> {
        let target = self.migrate_target.as_deref().ok_or_else(|| {
            Failure::new(Code::Args, "migrate_to needs OCF_RESKEY_CRM_meta_migrate_target")
        })?;
        Ok(self.migrate_uri.replace("{target}", target).replace("{name}", &self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Params, Failure> {
        Params::read(|key| {
            pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_follow_the_name() {
        let params = read(&[("OCF_RESOURCE_INSTANCE", "vm1")]).unwrap();
        assert_eq!(params.socket(), PathBuf::from("/run/rasvmm/vm1.qmp"));
        assert_eq!(params.config, PathBuf::from("/etc/rasvmm/vm1.toml"));
        assert_eq!(params.uri().unwrap_err().code, Code::Args);
    }

    #[test]
    fn the_target_lands_in_the_uri() {
        let params = read(&[
            ("OCF_RESOURCE_INSTANCE", "vm1"),
            ("OCF_RESKEY_CRM_meta_migrate_target", "n2"),
            ("OCF_RESKEY_CRM_meta_timeout", "20000"),
        ])
        .unwrap();
        assert_eq!(params.uri().unwrap(), "tcp:n2:16520");
        assert_eq!(params.timeout, Duration::from_secs(19));
    }

    #[test]
    fn malformed_parameters_are_a_configuration_error() {
        let name = ("OCF_RESOURCE_INSTANCE", "vm1");
        for bad in [
            &[][..],
            &[("OCF_RESOURCE_INSTANCE", "vm1:0")],
            &[("OCF_RESOURCE_INSTANCE", "../vm1")],
            &[name, ("OCF_RESKEY_CRM_meta_timeout", "soon")],
            &[name, ("OCF_RESKEY_qmp_timeout_ms", "0")],
            &[name, ("OCF_RESKEY_migrate_uri", "exec:rm")],
        ] {
            assert_eq!(read(bad).unwrap_err().code, Code::Configured, "{bad:?}");
        }
    }
}
