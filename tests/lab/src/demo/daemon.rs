//! `rasd` and `rasctl` as a person would run them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ras_core::{Pfn, RetireState, RetiredPage};
use rasd_api::Status;
use serde_json::Value;

use crate::{artifacts, mortal};

/// A running `rasd`, fed through its standard input. Killed when dropped.
pub(super) struct Daemon {
    child: Child,
    input: Option<ChildStdin>,
    control: PathBuf,
    log: PathBuf,
    timings: PathBuf,
}

impl Daemon {
    /// Starts it with `DIR/rasd.toml`.
    pub(super) fn start(dir: &Path, verbose: bool) -> Result<Self> {
        let (log, timings) = (dir.join("rasd.log"), dir.join("rasd.timings"));
        let stderr = if verbose { Stdio::inherit() } else { File::create(&log)?.into() };
        let mut child = mortal::command(artifacts::program("rasd")?)
            .arg("--config")
            .arg(dir.join("rasd.toml"))
            .args(["--replay", "-", "--timings"])
            .arg(&timings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("starting rasd")?;
        let input = child.stdin.take();
        Ok(Self { child, input, control: dir.join("rasd.sock"), log, timings })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Hands it one line of a capture.
    pub(super) fn feed(&mut self, line: &Value) -> Result<()> {
        let input = self.input.as_mut().context("rasd's standard input is a pipe")?;
        writeln!(input, "{line}").and_then(|()| input.flush()).context("feeding rasd")
    }

    pub(super) fn wait_ready(&self, timeout: Duration) -> Result<Status> {
        self.wait_status("rasd to be ready", timeout, |status| status.ready)
    }

    pub(super) fn wait_status(
        &self,
        what: &str,
        timeout: Duration,
        reached: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        until(what, timeout, || {
            let status = self.status()?;
            ensure!(reached(&status), "it is at {:?}, {:?}", status.health, status.counts);
            Ok(status)
        })
    }

    pub(super) fn status(&self) -> Result<Status> {
        serde_json::from_str(&self.rasctl(&["status", "--json"])?).context("rasd's status")
    }

    /// Waits until the walk of a page is over, one way or another.
    pub(super) fn wait_page(&self, pfn: Pfn, timeout: Duration) -> Result<RetiredPage> {
        until("the page's walk to end", timeout, || {
            let pages = self.pages()?;
            let page = pages.into_iter().find(|page| page.pfn == pfn);
            let page = page.context("the page is not on the list")?;
            ensure!(page.state != RetireState::Pending, "it is still pending");
            Ok(page)
        })
    }

    pub(super) fn pages(&self) -> Result<Vec<RetiredPage>> {
        let text = self.rasctl(&["pages", "list", "--json"])?;
        text.lines().map(|line| serde_json::from_str(line).context("a listed page")).collect()
    }

    /// `rasctl pages list`, as people read it.
    pub(super) fn list(&self) -> Result<String> {
        self.rasctl(&["pages", "list"])
    }

    fn rasctl(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new(artifacts::program("rasctl")?)
            .args(arguments)
            .arg("--socket")
            .arg(&self.control)
            .stdin(Stdio::null())
            .output()
            .context("starting rasctl")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "rasctl {arguments:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// The first line of its log that has all the words.
    pub(super) fn log_line(&self, words: &[&str], timeout: Duration) -> Result<String> {
        if !self.log.exists() {
            return Ok("see the log above".to_owned());
        }
        until("a line in rasd's log", timeout, || {
            let log = fs::read_to_string(&self.log)?;
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).with_context(|| format!("no line with {words:?}"))
        })
    }

    /// Times of the `number`th fault's walk.
    pub(super) fn timings(&self, number: usize, timeout: Duration) -> Result<Value> {
        until("the walk's times", timeout, || {
            let text = fs::read_to_string(&self.timings)?;
            let line = text.lines().nth(number - 1).context("not written yet")?;
            Ok(serde_json::from_str(line)?)
        })
    }

    /// Kills it as a crash would: no chance to put anything away.
    pub(super) fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks it to stop.
    pub(super) fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a PID is an i32")?);
        kill(pid, Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "rasd ended with {status} on SIGTERM");
        Ok(status)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer; the last reason why not goes into the error.
fn until<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => {
                bail!("waited {timeout:?} for {what}: {error:#}")
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
