//! Three switches and the cables to them: links 0 and 1 for Corosync (and migration on link 0), link
//! 2 to the management controller. All of it lives in a network namespace that a child process
//! holds: when the lab ends, however it ends, the namespace and every cable go.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

use super::process::{Process, dies_with_us};

/// Links of a node.
pub(super) const LINKS: usize = 3;

/// Address of the management controller, on link 2. The port is IPMI's.
const CONTROLLER: &str = "10.99.2.254";
const CONTROLLER_PORT: u16 = 623;

/// The switches.
pub(super) struct Network {
    holder: Child,
}

impl Network {
    pub(super) fn up() -> Result<Self> {
        let mut holder = dies_with_us("unshare")
            .args(["--net", "--", "sh", "-c", "echo ready; exec sleep infinity"])
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the holder of the switches' network namespace")?;
        let ready = holder.stdout.take().context("its output")?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(ready), &mut line)
            .context("waiting for the network namespace")?;
        let network = Self { holder };
        ensure!(line.trim() == "ready", "a network namespace can't be made");
        let mut batch = "link set lo up\n".to_owned();
        for link in 0..LINKS {
            // An address of its own: otherwise a bridge takes its lowest port's, and when that node
            // dies the others go on talking to a controller that moved. Writing to a String can't
            // fail.
            let _ = writeln!(
                batch,
                "link add br{link} address 02:00:00:00:00:{link:02x} type bridge\n\
                 link set br{link} up"
            );
        }
        let _ = writeln!(batch, "addr add {CONTROLLER}/24 dev br2");
        network.ip(&batch)?;
        Ok(network)
    }

    /// Plugs in the node whose init is `init`: `eth0` to `eth2` appear in its network namespace.
    pub(super) fn plug(&self, node: &str, init: Process) -> Result<()> {
        let mut batch = String::new();
        for link in 0..LINKS {
            let port = port(node, link);
            let _ = writeln!(
                batch,
                "link add {port} type veth peer name eth{link} netns {}\n\
                 link set {port} master br{link} up",
                init.pid()
            );
        }
        // A node that lost its power takes its ends of the cables along, but the kernel does so
        // in its own time.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.ports_are_free(node)? {
            ensure!(Instant::now() < deadline, "the old cables of {node} are still there");
            thread::sleep(Duration::from_millis(20));
        }
        self.ip(&batch)
    }

    fn ports_are_free(&self, node: &str) -> Result<bool> {
        let links = self
            .enter()
            .args(["ip", "-brief", "link", "show"])
            .output()
            .context("listing the switches' ports")?;
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        Ok((0..LINKS).all(|link| !links.contains(&format!("{}@", port(node, link)))))
    }

    /// A listening socket of the management controller. A socket stays in the namespace it was
    /// made in, so a thread that goes there for a moment is enough.
    pub(super) fn controller(&self) -> Result<TcpListener> {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.id()))
            .context("opening the switches' network namespace")?;
        let bound = thread::spawn(move || -> Result<TcpListener> {
            setns(file, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
            TcpListener::bind((CONTROLLER, CONTROLLER_PORT))
                .context("listening as the management controller")
        });
        bound.join().map_err(|_| anyhow::anyhow!("the controller's thread panicked"))?
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "--net", "--"]);
        command
    }

    /// Runs `ip` commands, one a line, in the switches' namespace.
    fn ip(&self, batch: &str) -> Result<()> {
        let mut child = self
            .enter()
            .args(["ip", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip")?;
        let mut input = child.stdin.take().context("its input")?;
        input.write_all(batch.as_bytes()).context("writing to ip")?;
        drop(input);
        let done = child.wait_with_output().context("waiting for ip")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "ip failed: {}\nin {batch}", said.trim());
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn port(node: &str, link: usize) -> String {
    format!("{node}-{link}")
}
