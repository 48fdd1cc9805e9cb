//! What the lab and its agent inside a machine say to each other: JSON, a line each, over the
//! machine's second serial port. The agent (`src/bin/lab-agent.rs`) is the machine's `/init`.

use serde::{Deserialize, Serialize};

/// The lab asks; each request gets exactly one [`Message::Answer`], in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Load a kernel module from its file, compressed (`.xz`) or not.
    LoadModule {
        /// The module's file.
        path: String,
    },
    /// Mount a file system.
    Mount {
        /// What: a device, or the kind once more for file systems without one.
        source: String,
        /// The kind of file system.
        kind: String,
        /// Where; the directory is created.
        target: String,
    },
    /// Read a file as text.
    Read {
        /// The file.
        path: String,
    },
    /// Write a file in one `write(2)`, as sysfs and tracefs want it.
    Write {
        /// The file.
        path: String,
        /// All it is to hold.
        text: String,
    },
    /// Read a file as bytes.
    ReadBytes {
        /// The file.
        path: String,
    },
    /// Write an EFI variable, as efivarfs shows it; no data deletes it.
    WriteVariable {
        /// Its name, a dash, its vendor's GUID.
        name: String,
        /// Its attributes.
        attributes: u32,
        /// Its data.
        data: Vec<u8>,
    },
    /// Read the kernel's flags of a page frame: `/proc/kpageflags`.
    PageFlags {
        /// The page frame number.
        pfn: u64,
    },
    /// Create a directory with its parents; in tracefs, that makes an instance.
    MakeDirectory {
        /// The directory.
        path: String,
    },
    /// Run a program to its end.
    Run {
        /// The program's path and its arguments.
        command: Vec<String>,
        /// Milliseconds after which it is killed.
        timeout_ms: u64,
    },
    /// Start a program and leave it running; its lines arrive as [`Event::Said`].
    Start {
        /// How the lab calls it.
        name: String,
        /// The program's path and its arguments.
        command: Vec<String>,
    },
    /// Send SIGKILL to a program that was started; its end arrives as [`Event::Ended`].
    Kill {
        /// The program, by the lab's name.
        name: String,
    },
}

/// The agent says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to the oldest open request: what came of it, or why it failed.
    Answer(Result<Answer, String>),
    /// Something happened by itself.
    Event(Event),
}

/// See [`Message::Answer`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing more to tell.
    Done,
    /// The file's content.
    Text(String),
    /// The file's content.
    Bytes(Vec<u8>),
    /// The frame's flags, `KPF_*` of `linux/kernel-page-flags.h`.
    PageFlags(u64),
    /// The program ended.
    Ran(Ran),
}

/// How a program ended and what it printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// Exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// See [`Message::Event`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// User space runs.
    Up {
        /// `uname -r`.
        release: String,
    },
    /// A program that was started printed a line, on either stream.
    Said {
        /// The program, by the lab's name.
        name: String,
        /// The line.
        line: String,
    },
    /// A program spoke to its service manager: the agent, which follows `sd_notify(3)`.
    Notified {
        /// The assignments, such as `READY=1`, one a line.
        state: String,
        /// The kernel's `HardwareCorrupted` in KiB when this arrived.
        corrupted_kib: u64,
    },
    /// A program that was started has ended.
    Ended {
        /// The program, by the lab's name.
        name: String,
        /// How.
        status: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_said_stays_on_one_line() {
        let text = "two\nlines\r\n\u{2028}and \"more\"\0".to_owned();
        let request = Request::Write { path: "/tmp/file".to_owned(), text: text.clone() };
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains(['\n', '\r']), "{line}");
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);

        for message in [
            Message::Answer(Err(text.clone())),
            Message::Answer(Ok(Answer::Text(text.clone()))),
            Message::Event(Event::Notified { state: text, corrupted_kib: 8 }),
        ] {
            let line = serde_json::to_string(&message).unwrap();
            assert!(!line.contains(['\n', '\r']), "{line}");
            assert_eq!(serde_json::from_str::<Message>(&line).unwrap(), message);
        }
    }
}
