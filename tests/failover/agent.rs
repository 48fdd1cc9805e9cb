//! `ocf:ras:vm`: what it tells Pacemaker in every situation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use ras_ocf::{Code, agent, metadata};
use tempfile::TempDir;

use super::monitor::{Monitor, socket};

/// A node with a definition of `vm1` and a monitor program.
struct Node {
    dir: TempDir,
    extra: Vec<(&'static str, String)>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vm1.toml"), "memory = \"32M\"\n").unwrap();
        let node = Self { dir, extra: Vec::new() };
        node.install("#!/bin/sh\necho 'no kernel' >&2\nexit 3\n");
        node
    }

    fn with(mut self, key: &'static str, value: &str) -> Self {
        self.extra.push((key, value.to_owned()));
        self
    }

    /// Puts a monitor program in place.
    fn install(&self, script: &str) {
        let program = self.dir.path().join("rasvmm");
        fs::write(&program, script).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn act(&self, action: &str) -> Code {
        let path = |name: &str| self.path().join(name).display().to_string();
        agent::run(Some(action), |key| {
            if let Some((_, value)) = self.extra.iter().find(|(name, _)| *name == key) {
                return Some(value.clone());
            }
            Some(match key {
                "OCF_RESOURCE_INSTANCE" => "vm1".to_owned(),
                "OCF_RESKEY_config" => path("vm1.toml"),
                "OCF_RESKEY_run_dir" | "OCF_RESKEY_log_dir" => path(""),
                "OCF_RESKEY_rasvmm" => path("rasvmm"),
                "OCF_RESKEY_qmp_timeout_ms" => "300".to_owned(),
                "OCF_RESKEY_CRM_meta_timeout" => "3000".to_owned(),
                "OCF_RESKEY_CRM_meta_migrate_target" => "n2".to_owned(),
                _ => return None,
            })
        })
    }
}

#[test]
fn the_metadata_is_well_formed_and_names_every_action() {
    let xml = metadata::xml();
    let document = roxmltree::Document::parse(&xml).unwrap();
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.attribute("name")), ("resource-agent", Some("vm")));
    let all = |element: &str, attribute: &str| -> Vec<String> {
        let found = document.descendants().filter(|node| node.has_tag_name(element));
        found.filter_map(|node| node.attribute(attribute)).map(str::to_owned).collect()
    };
    let actions = all("action", "name");
    for action in
        ["start", "stop", "monitor", "migrate_to", "migrate_from", "meta-data", "validate-all"]
    {
        assert!(actions.iter().any(|name| name == action), "{action}");
    }
    assert_eq!(all("action", "timeout").len(), actions.len(), "each has a timeout");
    assert!(all("parameter", "name").contains(&"migrate_uri".to_owned()));
    assert_eq!(agent::run(Some("meta-data"), |_| None), Code::Success, "without any parameter");
}

#[test]
fn unknown_actions_and_none_are_told_apart() {
    assert_eq!(agent::run(Some("promote"), |_| None), Code::Unimplemented);
    assert_eq!(agent::run(None, |_| None), Code::Args);
    assert_eq!(agent::run(Some("start"), |_| None), Code::Configured, "no instance");
    assert_eq!(Node::new().with("OCF_RESOURCE_INSTANCE", "vm1:0").act("monitor"), Code::Configured);
}

#[test]
fn nothing_running_is_not_an_error() {
    let node = Node::new();
    assert_eq!(node.act("monitor"), Code::NotRunning);
    assert_eq!(node.act("stop"), Code::Success);
    fs::write(socket(node.path()), "not even a socket").unwrap();
    assert_eq!(node.act("monitor"), Code::NotRunning, "a left-over is nobody");
    assert_eq!(node.act("stop"), Code::Success);
    assert!(!socket(node.path()).exists(), "and it is tidied away");
}

#[test]
fn the_state_of_the_guest_decides() {
    for (state, code) in [
        ("running", Code::Success),
        ("paused", Code::Success),
        ("finish-migrate", Code::Success),
        // The guest is not, or no longer, in this monitor.
        ("inmigrate", Code::NotRunning),
        ("postmigrate", Code::NotRunning),
        ("shutdown", Code::NotRunning),
        ("guest-panicked", Code::Generic),
        ("internal-error", Code::Generic),
        ("no-such-state", Code::Generic),
        ("hung", Code::Generic),
        ("garbage", Code::Generic),
    ] {
        let node = Node::new();
        let _monitor = Monitor::start(node.path(), state);
        assert_eq!(node.act("monitor"), code, "{state}");
    }
}

#[test]
fn stopping_ends_the_monitor_however_it_behaves() {
    for behaviour in ["running", "postmigrate", "deaf-to-quit", "hung", "garbage"] {
        let node = Node::new();
        let mut monitor = Monitor::start(node.path(), behaviour);
        let began = Instant::now();
        assert_eq!(node.act("stop"), Code::Success, "{behaviour}");
        assert!(began.elapsed() < Duration::from_secs(3), "{behaviour}: in Pacemaker's time");
        assert!(!monitor.is_alive(), "{behaviour}");
        assert_eq!(node.act("monitor"), Code::NotRunning, "{behaviour}");
        assert_eq!(node.act("stop"), Code::Success, "{behaviour}: twice");
    }
}

#[test]
fn starting_what_runs_is_a_success_and_touches_nothing() {
    let node = Node::new();
    let mut monitor = Monitor::start(node.path(), "running");
    assert_eq!(node.act("start"), Code::Success);
    assert!(monitor.is_alive());
}

#[test]
fn a_monitor_that_ends_at_once_fails_the_start() {
    let node = Node::new();
    assert_eq!(node.act("start"), Code::Generic);
    assert!(fs::read_to_string(node.path().join("vm1.log")).unwrap().contains("no kernel"));
    assert_eq!(node.act("monitor"), Code::NotRunning);
}

#[test]
fn a_monitor_that_never_listens_is_found_and_ended() {
    let node = Node::new();
    node.install("#!/bin/sh\nexec sleep 60\n");
    let began = Instant::now();
    assert_eq!(node.act("start"), Code::Generic);
    assert!(began.elapsed() < Duration::from_secs(3), "with a reason, before Pacemaker kills it");
    assert_eq!(node.act("monitor"), Code::Generic, "it is there, and does not answer");
    assert_eq!(node.act("stop"), Code::Success);
    assert_eq!(node.act("monitor"), Code::NotRunning);
}

#[test]
fn starting_needs_a_definition_and_a_program_on_this_node() {
    let node = Node::new();
    assert_eq!(node.act("validate-all"), Code::Success);
    fs::remove_file(node.path().join("vm1.toml")).unwrap();
    assert_eq!(node.act("start"), Code::Installed);
    assert_eq!(node.act("validate-all"), Code::Installed);
    let node = Node::new().with("OCF_RESKEY_rasvmm", "no-such-program");
    assert_eq!(node.act("start"), Code::Installed);
}

#[test]
fn a_migration_that_arrives_leaves_no_shell_behind() {
    let node = Node::new();
    let mut monitor = Monitor::start(node.path(), "running");
    assert_eq!(node.act("migrate_to"), Code::Success);
    assert!(!monitor.is_alive());
    assert_eq!(node.act("stop"), Code::Success, "Pacemaker stops the source afterwards");
}

#[test]
fn a_migration_that_fails_leaves_the_guest_running_here() {
    for behaviour in ["migration-fails", "migration-hangs"] {
        let node = Node::new();
        let mut monitor = Monitor::start(node.path(), behaviour);
        let began = Instant::now();
        assert_eq!(node.act("migrate_to"), Code::Generic, "{behaviour}");
        assert!(began.elapsed() < Duration::from_secs(3), "{behaviour}: in Pacemaker's time");
        assert!(monitor.is_alive(), "{behaviour}");
        assert_eq!(node.act("monitor"), Code::Success, "{behaviour}");
    }
}

#[test]
fn there_is_nothing_to_migrate_without_a_guest_or_a_target() {
    let node = Node::new();
    assert_eq!(node.act("migrate_to"), Code::Generic);
    let node = Node::new().with("OCF_RESKEY_CRM_meta_migrate_target", "");
    let _monitor = Monitor::start(node.path(), "running");
    assert_eq!(node.act("migrate_to"), Code::Args);
}

#[test]
fn migrate_from_waits_for_the_guest_but_not_for_ever() {
    let node = Node::new().with("OCF_RESKEY_CRM_meta_timeout", "1000");
    assert_eq!(node.act("migrate_from"), Code::Generic);
    {
        let _monitor = Monitor::start(node.path(), "inmigrate");
        assert_eq!(node.act("migrate_from"), Code::Generic, "it is still on its way");
    }
    fs::remove_file(socket(node.path())).unwrap();
    let _monitor = Monitor::start(node.path(), "running");
    assert_eq!(node.act("migrate_from"), Code::Success);
}
