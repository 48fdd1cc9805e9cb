//! A stock kernel in QEMU with the lab's agent as its `/init`, asked and watched from here.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use ras_core::Pfn;

use crate::agent::{Answer, Event, Message, Ran, Request};
use crate::qemu::{Hardware, Qemu};

/// A booted machine. Dropping it kills its QEMU.
#[derive(Debug)]
pub struct Machine {
    qemu: Qemu,
    serial: UnixStream,
    inbox: Receiver<Message>,
    events: Vec<Event>,
}

/// Deadline of requests that only touch files.
const QUICK: Duration = Duration::from_secs(15);

/// From QEMU's start to user space: 5 s on an idle machine, and test machines are not idle.
/// UEFI firmware takes as long again, and a kernel with a long memory map longer still.
const BOOT: Duration = Duration::from_secs(180);

impl Machine {
    /// Boots, and waits for the agent.
    ///
    /// # Errors
    /// QEMU does not start, or user space is not reached in time; the message ends with the console.
    pub fn boot(hardware: &Hardware) -> Result<Self> {
        let (qemu, serial) = Qemu::start(hardware)?;
        let log = File::create(hardware.dir.join("agent.log")).context("creating agent.log")?;
        let reader = serial.try_clone().context("sharing the serial port")?;
        let (sender, inbox) = channel();
        thread::spawn(move || listen(reader, log, &sender));
        let mut machine = Self { qemu, serial, inbox, events: Vec::new() };
        machine.wait("user space", BOOT, |events| {
            events.iter().any(|event| matches!(event, Event::Up { .. })).then_some(())
        })?;
        Ok(machine)
    }

    /// Loads one module, given by its file inside the machine.
    ///
    /// # Errors
    /// The kernel refused, or no answer came in time.
    pub fn load_module(&mut self, path: &str) -> Result<()> {
        self.done(Request::LoadModule { path: path.to_owned() })
    }

    /// Mounts a file system.
    ///
    /// # Errors
    /// The kernel refused, or no answer came in time.
    pub fn mount(&mut self, source: &str, kind: &str, target: &str) -> Result<()> {
        let [source, kind, target] = [source, kind, target].map(str::to_owned);
        self.done(Request::Mount { source, kind, target })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, or no answer came in time.
    pub fn read(&mut self, path: &str) -> Result<String> {
        match self.ask(&Request::Read { path: path.to_owned() }, QUICK)? {
            Answer::Text(text) => Ok(text),
            other => bail!("the agent answered {other:?} to a read of {path}"),
        }
    }

    /// Writes a file in one `write(2)`.
    ///
    /// # Errors
    /// It can't be written, or no answer came in time.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        self.done(Request::Write { path: path.to_owned(), text: text.to_owned() })
    }

    /// Reads a file as bytes.
    ///
    /// # Errors
    /// It can't be read, or no answer came in time.
    pub fn read_bytes(&mut self, path: &str) -> Result<Vec<u8>> {
        match self.ask(&Request::ReadBytes { path: path.to_owned() }, QUICK)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => bail!("the agent answered {other:?} to a read of {path}"),
        }
    }

    /// Writes an EFI variable (efivarfs has to be mounted); without data, deletes it.
    ///
    /// # Errors
    /// The firmware refused, or no answer came in time.
    pub fn write_variable(&mut self, name: &str, attributes: u32, data: &[u8]) -> Result<()> {
        let (name, data) = (name.to_owned(), data.to_owned());
        self.done(Request::WriteVariable { name, attributes, data })
    }

    /// The kernel's flags of a page frame, `KPF_*` of `linux/kernel-page-flags.h`.
    ///
    /// # Errors
    /// There is no such frame, or no answer came in time.
    pub fn page_flags(&mut self, pfn: Pfn) -> Result<u64> {
        match self.ask(&Request::PageFlags { pfn: pfn.0 }, QUICK)? {
            Answer::PageFlags(flags) => Ok(flags),
            other => bail!("the agent answered {other:?} to a question for {pfn}'s flags"),
        }
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// It can't be created, or no answer came in time.
    pub fn make_directory(&mut self, path: &str) -> Result<()> {
        self.done(Request::MakeDirectory { path: path.to_owned() })
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// It can't be started, or takes longer than `timeout`. Exit codes are the caller's to judge.
    pub fn run(&mut self, command: &[&str], timeout: Duration) -> Result<Ran> {
        let request = Request::Run {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        };
        match self.ask(&request, timeout + QUICK)? {
            Answer::Ran(ran) => Ok(ran),
            other => bail!("the agent answered {other:?} to {command:?}"),
        }
    }

    /// Starts a program under `name` and leaves it running.
    ///
    /// # Errors
    /// It can't be started, or no answer came in time.
    pub fn start(&mut self, name: &str, command: &[&str]) -> Result<()> {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        self.done(Request::Start { name: name.to_owned(), command })
    }

    /// Kills a program that was started, and waits for its end.
    ///
    /// # Errors
    /// It is not running, or no answer came in time.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.done(Request::Kill { name: name.to_owned() })?;
        self.wait(&format!("the end of {name}"), QUICK, |events| {
            let ended =
                |event: &Event| matches!(event, Event::Ended { name: who, .. } if who == name);
            events.iter().any(ended).then_some(())
        })
    }

    /// Forgets all events so far, so that [`Self::wait`] only finds new ones.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Waits until `seen` finds what it looks for among the events, oldest first.
    ///
    /// # Errors
    /// It was not found within `timeout` (`what` says what was expected), or the machine is gone.
    pub fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut seen: impl FnMut(&[Event]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = seen(&self.events) {
                return Ok(found);
            }
            match self.receive(deadline).with_context(|| format!("waiting for {what}"))? {
                Message::Event(event) => self.events.push(event),
                Message::Answer(answer) => bail!("an answer nobody asked for: {answer:?}"),
            }
        }
    }

    /// Everything the program `name` printed so far, oldest first.
    pub fn said<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        lines_of(&self.events, name)
    }

    /// Everything that happened since [`Self::forget_events`], oldest first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The QEMU below.
    pub fn qemu(&mut self) -> &mut Qemu {
        &mut self.qemu
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// QEMU can't be killed.
    pub fn pull_the_plug(self) -> Result<()> {
        self.qemu.pull_the_plug()
    }

    fn done(&mut self, request: Request) -> Result<()> {
        self.ask(&request, QUICK).map(drop)
    }

    fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Answer> {
        let line = serde_json::to_string(request).context("putting a request into words")?;
        writeln!(self.serial, "{line}").with_context(|| format!("asking the agent: {line}"))?;
        let deadline = Instant::now() + timeout;
        loop {
            let message = self
                .receive(deadline)
                .with_context(|| format!("waiting for an answer to {line}"))?;
            match message {
                Message::Event(event) => self.events.push(event),
                Message::Answer(Ok(answer)) => return Ok(answer),
                Message::Answer(Err(why)) => bail!("the agent on {line}: {why}"),
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message> {
        let wait = deadline.saturating_duration_since(Instant::now());
        self.inbox.recv_timeout(wait).map_err(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => "the time is over",
                RecvTimeoutError::Disconnected => "the machine went down",
            };
            anyhow!("{why}; the console's last lines:\n{}", console_tail(self.qemu.dir()))
        })
    }
}

/// The lines `name` printed, among `events`.
pub fn lines_of<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a str> {
    events.iter().filter_map(move |event| match event {
        Event::Said { name: who, line } if who == name => Some(line.as_str()),
        _ => None,
    })
}

/// Passes the agent's messages on, and keeps each line with its time. What is no message (the
/// firmware's greeting, say) is only kept.
fn listen(serial: UnixStream, mut log: File, inbox: &Sender<Message>) {
    let started = Instant::now();
    let mut reader = BufReader::new(serial);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        // A log that can't be written is no reason to stop the story.
        let _ = writeln!(log, "{:9.3} {text}", started.elapsed().as_secs_f64());
        if let Ok(message) = serde_json::from_str(text)
            && inbox.send(message).is_err()
        {
            return;
        }
        line.clear();
    }
}

fn console_tail(dir: &Path) -> String {
    const LINES: usize = 25;
    let text = fs::read(dir.join("console.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
