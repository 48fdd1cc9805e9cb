//! Nodes: power, commands, and what they write down.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use cluster_glue::EngineError;
use cluster_glue::pacemaker::command::{Runner, SystemRunner};
use cluster_glue::pacemaker::status::{self, ClusterStatus};
use tempfile::TempDir;

use super::console::Console;
use super::controller::{Controller, PowerEvent};
use super::network::Network;
use super::process::{Process, dies_with_us, wait_until};
use super::{config, rootfs};
use crate::artifacts;

/// A running cluster. Dropping it ends every process and removes every trace.
pub struct Lab {
    // Fields are dropped in this order: nodes before the network they hang on.
    nodes: BTreeMap<String, Node>,
    controller: Controller,
    network: Network,
    rootfs: PathBuf,
    state: TempDir,
    formed_in: Duration,
}

struct Node {
    /// `unshare`, the parent of the node's init: when it ends, init is killed.
    child: Child,
    init: Process,
}

/// Something a node did, as written down by the lab's wrappers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct JournalEntry {
    pub(super) time: SystemTime,
    pub(super) node: String,
    /// `vm migrate_to`, `attrd_updater -n #health-memory -U red -d 0`, …
    pub(super) call: String,
}

/// Longest wait for a command in a node.
const COMMAND: Duration = Duration::from_secs(15);

/// Longest wait for a cluster to form.
const FORM: Duration = Duration::from_secs(60);

impl Lab {
    /// Builds a cluster of `count` nodes, `n1` and so on, without resources. Returns when all of
    /// them are online. Has to be called, like [`Lab::power_on`], by a thread that lives as long
    /// as the lab: the kernel ends the nodes with it.
    ///
    /// # Errors
    /// No root file system, a program that does not build, a missing capability, or a cluster that
    /// does not form in a minute (the message says where it got).
    pub fn up(count: usize) -> Result<Self> {
        ensure!((1..=9).contains(&count), "1 to 9 nodes");
        let rootfs = rootfs::ensure()?;
        let state = TempDir::with_prefix("ras-cluster-").context("making a place for the lab")?;
        // Pacemaker's daemons run as a user of their own.
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755))
            .context("opening the lab's directory")?;
        for dir in ["power", "log", "bin", "mnt"] {
            fs::create_dir(state.path().join(dir)).with_context(|| format!("creating {dir}"))?;
        }
        // Written by root and by Pacemaker's own user.
        let journal = state.path().join("journal");
        File::create(&journal)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o666)))
            .context("creating the journal")?;
        config::write(&state.path().join("etc"), count)?;
        programs(&state.path().join("bin"))?;
        let began = Instant::now();
        let network = Network::up()?;
        let controller = Controller::start(network.controller()?, state.path().join("power"))?;
        let formed_in = Duration::ZERO;
        let mut lab =
            Self { nodes: BTreeMap::new(), controller, network, rootfs, state, formed_in };
        for index in 1..=count {
            lab.power_on(&config::name(index))?;
        }
        lab.wait_formed(count)?;
        lab.formed_in = began.elapsed();
        Ok(lab)
    }

    /// From the first node's power to every node online.
    #[must_use]
    pub const fn formed_in(&self) -> Duration {
        self.formed_in
    }

    /// Starts a node that is off.
    ///
    /// # Errors
    /// It runs, or does not start.
    pub fn power_on(&mut self, node: &str) -> Result<()> {
        if let Some(mut old) = self.nodes.remove(node) {
            if old.init.is_alive() {
                self.nodes.insert(node.to_owned(), old);
                bail!("{node} is on");
            }
            old.child.wait().context("waiting for the node's end")?;
        }
        let dir = self.state.path();
        let identity = dir.join("power").join(node);
        // From here on nobody may take the node's former init for this one.
        if identity.exists() {
            fs::remove_file(&identity).context("forgetting the old init")?;
        }
        let log = dir.join("log").join(node);
        fs::create_dir_all(&log).with_context(|| format!("creating {}", log.display()))?;
        let console = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log.join("console"))
            .context("opening the node's console")?;
        let child = dies_with_us("unshare")
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child=KILL"])
            .args(["--", "/bin/bash"])
            .args([&dir.join("bin/node-init"), dir, &self.rootfs])
            .arg(node)
            .stdout(console.try_clone().context("sharing the console")?)
            .stderr(console)
            .spawn()
            .context("starting unshare")?;
        let Some(init) = wait_until(Duration::from_secs(10), || Process::read(&identity)) else {
            bail!("{node} does not start:\n{}", self.tail(node, "console"));
        };
        self.nodes.insert(node.to_owned(), Node { child, init });
        self.network.plug(node, init)
    }

    /// Pulls the plug: SIGKILL to the node's init, and with it to everything inside.
    ///
    /// # Errors
    /// It survives.
    pub fn kill(&self, node: &str) -> Result<()> {
        self.node(node)?.init.kill()
    }

    /// Whether the node has power.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.init.is_alive())
    }

    /// The nodes that have power.
    #[must_use]
    pub fn alive(&self) -> Vec<String> {
        let on = |(_, node): &(&String, &Node)| node.init.is_alive();
        self.nodes.iter().filter(on).map(|(name, _)| name.clone()).collect()
    }

    /// Runs a command inside a node and returns its output.
    ///
    /// # Errors
    /// The node is off, or the command fails or takes longer than 15 s.
    pub fn exec(&self, node: &str, command: &[&str]) -> Result<String> {
        let describe = || format!("on {node}: {}", command.join(" "));
        let (program, args) = command.split_first().context("a command")?;
        self.runner(node)?.run(program, args, COMMAND).with_context(describe)
    }

    /// Runs programs inside a node, for an engine that believes to be there.
    pub(super) fn runner(&self, node: &str) -> Result<NodeRunner> {
        Ok(NodeRunner { init: self.node(node)?.init })
    }

    /// The cluster as `node` sees it.
    ///
    /// # Errors
    /// See [`Lab::exec`]; or the answer is not understood.
    pub fn status(&self, node: &str) -> Result<ClusterStatus> {
        let xml = self.exec(node, &["crm_mon", "-1", "--output-as=xml"])?;
        status::parse(&xml).map_err(anyhow::Error::msg)
    }

    /// Waits until `count` nodes are online and agree.
    ///
    /// # Errors
    /// They are not within a minute.
    pub fn wait_formed(&self, count: usize) -> Result<()> {
        let mut seen = String::from("nothing");
        let formed = wait_until(FORM, || {
            let mut formed = true;
            for node in self.alive() {
                match self.status(&node) {
                    Ok(status) => {
                        let online = status.nodes.iter().filter(|node| node.online).count();
                        formed &= status.quorum && online == count;
                        seen = format!("{node} sees {online} of {count} online");
                    }
                    Err(error) => {
                        formed = false;
                        seen = format!("{error:#}");
                    }
                }
            }
            (formed && self.alive().len() == count).then_some(())
        });
        formed.with_context(|| format!("the cluster does not form: {seen}"))
    }

    /// Hands errors to the `rasd` of a node: JSON lines of its replay format.
    ///
    /// # Errors
    /// The node is off, or its `rasd` has no error source.
    pub fn inject(&self, node: &str, lines: &str) -> Result<()> {
        let pid = self.node(node)?.init.pid();
        let path = format!("/proc/{pid}/root/run/rasd/errors");
        // Not created: without its reader this would only be a file.
        let mut source = OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("opening the error source of {node}"))?;
        source.write_all(lines.as_bytes()).context("writing to the error source")
    }

    pub(super) fn journal(&self) -> Vec<JournalEntry> {
        let text = fs::read_to_string(self.state.path().join("journal")).unwrap_or_default();
        text.lines().filter_map(entry).collect()
    }

    pub(super) fn power_events(&self) -> Vec<PowerEvent> {
        self.controller.events()
    }

    /// Starts to follow the guest's console on every node.
    pub(super) fn console(&self, vm: &str) -> Console {
        let log = |node: &String| {
            let path = self.log(node).join(format!("rasvmm/{vm}.serial"));
            (node.clone(), path)
        };
        Console::follow(self.nodes.keys().map(log).collect())
    }

    /// Where a node logs to, from outside.
    pub(super) fn log(&self, node: &str) -> PathBuf {
        self.state.path().join("log").join(node)
    }

    /// Keeps the logs for a person to read, and says where.
    pub(super) fn keep_logs(&self) -> Result<PathBuf> {
        let place = crate::cache_dir()?.join("cluster-last-run");
        let _ = fs::remove_dir_all(&place);
        copy_tree(&self.state.path().join("log"), &place)?;
        let journal = self.state.path().join("journal");
        if journal.is_file() {
            fs::copy(journal, place.join("journal")).context("keeping the journal")?;
        }
        Ok(place)
    }

    fn tail(&self, node: &str, log: &str) -> String {
        let text = fs::read_to_string(self.log(node).join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn node(&self, name: &str) -> Result<&Node> {
        let node = self.nodes.get(name).filter(|node| node.init.is_alive());
        node.with_context(|| format!("{name} is off"))
    }
}

/// See [`Lab::runner`].
pub(super) struct NodeRunner {
    init: Process,
}

impl Runner for NodeRunner {
    fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, EngineError> {
        let pid = self.init.pid().to_string();
        let mut line = vec!["-t", &pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--root"];
        line.extend(["--wd=/", "--", "env", "-i", "HOME=/root", "LC_ALL=C"]);
        line.push("PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        line.push(program);
        line.extend(args);
        SystemRunner.run("nsenter", &line, limit)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            let _ = node.init.kill();
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}

/// Puts what the nodes run into the directory that they share.
fn programs(bin: &Path) -> Result<()> {
    let script = |name: &str, text: &str| -> Result<()> {
        let path = bin.join(name);
        fs::write(&path, text).with_context(|| format!("writing {name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {name} executable"))
    };
    script("node-init", include_str!("node-init.sh"))?;
    script("node-main", include_str!("node-main.sh"))?;
    script("fence_lab", include_str!("fence_lab.sh"))?;
    for (name, program) in [("vm", "/lab/bin/vm"), ("attrd_updater", "/usr/sbin/attrd_updater")] {
        let text = include_str!("timed.sh").replace("@NAME@", name).replace("@PROGRAM@", program);
        script(&format!("{name}-timed"), &text)?;
    }
    // Static, so that they run in the nodes whatever this machine's C library is.
    let names = ["rasvmm", "rasd", "rasctl", "vm", "ras-landing"];
    for (name, program) in names.iter().zip(artifacts::static_programs(&names)?) {
        fs::copy(&program, bin.join(name)).with_context(|| format!("copying {name}"))?;
    }
    let guest = artifacts::guest()?;
    fs::copy(guest, bin.join("guest.elf")).context("copying the test guest")?;
    Ok(())
}

/// `SECONDS.MICROSECONDS NODE CALL…`
fn entry(line: &str) -> Option<JournalEntry> {
    let (time, rest) = line.split_once(' ')?;
    let (node, call) = rest.split_once(' ')?;
    let (seconds, micros) = time.split_once('.')?;
    let time = Duration::new(seconds.parse().ok()?, micros.parse::<u32>().ok()? * 1000);
    let time = SystemTime::UNIX_EPOCH + time;
    Some(JournalEntry { time, node: node.to_owned(), call: call.to_owned() })
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_file() {
            let mut read = File::open(&source)?;
            std::io::copy(&mut read, &mut File::create(&target)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_read_back() {
        let found = entry("1700000000.000250 n2 vm migrate_to").unwrap();
        assert_eq!(found.node, "n2");
        assert_eq!(found.call, "vm migrate_to");
        let since = found.time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.subsec_micros(), 250);
        assert_eq!(entry("torn li"), None);
    }
}
