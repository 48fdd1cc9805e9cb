//! Headless Chromium, watched: what it shows, complains about and asks for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;

use ras_lab::{capability, packages};

/// A browser that is installed.
pub(super) struct Browser {
    program: PathBuf,
}

/// A page as the browser understood it.
pub(super) struct Dom {
    /// The document after its script ran.
    pub(super) text: String,
    /// Messages of its console.
    pub(super) complaints: Vec<String>,
    /// Addresses it wanted from the network.
    pub(super) asked_for: Vec<String>,
}

impl Browser {
    /// The browser; without one, prints why the test is skipped. `cargo xtask test` installs it.
    pub(super) fn or_say_why() -> Option<Self> {
        match capability::program(packages::BROWSER) {
            Ok(program) => Some(Self { program }),
            Err(why) => {
                println!("SKIPPED: {why}; `cargo xtask test` installs it");
                None
            }
        }
    }

    /// Opens `page`.
    pub(super) fn dom(&self, page: &Path) -> Dom {
        let proxy = Proxy::start();
        let output =
            self.run(page, proxy.port, &["--dump-dom".into(), "--enable-logging=stderr".into()]);
        let complaints = String::from_utf8_lossy(&output.stderr);
        let complaints = complaints.lines().filter(|line| line.contains(":CONSOLE"));
        Dom {
            text: String::from_utf8(output.stdout).unwrap(),
            complaints: complaints.map(str::to_owned).collect(),
            asked_for: proxy.asked.try_iter().filter(|line| !is_own(line)).collect(),
        }
    }

    /// A picture of the top of `page`, as PNG.
    pub(super) fn picture(&self, page: &Path, width: u32, height: u32, dark: bool) -> Vec<u8> {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("picture.png");
        let mut arguments = vec![
            format!("--screenshot={}", file.display()),
            format!("--window-size={width},{height}"),
            "--hide-scrollbars".into(),
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".into());
        }
        let output = self.run(page, Proxy::start().port, &arguments);
        std::fs::read(&file)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn run(&self, page: &Path, proxy: u16, arguments: &[String]) -> Output {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--disable-dev-shm-usage", "--disable-extensions", "--disable-default-apps"])
            .arg("--force-color-profile=srgb")
            // Nothing leaves this machine.
            .arg(format!("--proxy-server=http://127.0.0.1:{proxy}"))
            .arg("--proxy-bypass-list=<-loopback>")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

/// What the browser asks for by itself, whatever the page: its clock, its updates, its accounts. The
/// hosts are named in full, so that a font or a script from their neighbours is still noticed.
fn is_own(request: &str) -> bool {
    const HOSTS: [&str; 3] =
        ["clients2.google.com", "update.googleapis.com", "accounts.google.com"];
    let url = request.split(' ').nth(1).unwrap_or_default();
    let host = url.strip_prefix("http://").unwrap_or(url);
    HOSTS.contains(&host.split(['/', ':']).next().unwrap_or_default())
}

/// Stands in for the network: notes what is asked for, and refuses.
struct Proxy {
    port: u16,
    asked: mpsc::Receiver<String>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = mpsc::channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(stream);
                let _ = reader.read_line(&mut line);
                if tell.send(line.trim().to_owned()).is_err() {
                    break;
                }
                let _ = reader
                    .get_mut()
                    .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { port, asked }
    }
}
