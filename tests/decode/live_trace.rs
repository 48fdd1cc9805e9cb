//! The ring-buffer reader on real sub-buffers of the kernel that runs this test.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use mce_decoder::trace::EventFormat;
use mce_decoder::trace::ring_buffer::{HeaderPage, Missed};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A trace instance of our own: nobody else's tracing is disturbed.
struct Instance {
    path: PathBuf,
    /// Unmounted last: fields are dropped in order, after the instance is removed.
    tracefs: Mount,
}

struct Mount {
    directory: TempDir,
}

impl Mount {
    fn new() -> Result<Self, String> {
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let none = None::<&str>;
        mount(Some("tracefs"), directory.path(), Some("tracefs"), MsFlags::empty(), none)
            .map_err(|error| format!("tracefs can't be mounted: {error}"))?;
        Ok(Self { directory })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

impl Instance {
    fn new(name: &str) -> Result<Self, String> {
        let tracefs = Mount::new()?;
        let path =
            tracefs.directory.path().join(format!("instances/{name}-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("no trace instance: {error}"))?;
        let instance = Self { path, tracefs };
        // One clock for all CPUs: the test moves between them while it writes.
        instance.write("trace_clock", "global");
        Ok(instance)
    }

    fn text(&self, name: &str) -> String {
        let root = self.tracefs.directory.path();
        // One read: of `events/header_page` the kernel gives out the beginning and nothing more.
        let mut text = vec![0; 65_536];
        let mut file = fs::File::open(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let length = file.read(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    fn write(&self, name: &str, value: &str) {
        fs::write(self.path.join(name), value).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Whole sub-buffers of one CPU, until there are no more.
    fn sub_buffers(cpu: &Path, size: usize) -> Vec<Vec<u8>> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = cpu.join("trace_pipe_raw");
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        let mut pages = Vec::new();
        // The bound is far above what the buffers of this test can hold.
        for _ in 0..10_000 {
            let mut page = vec![0; size];
            match file.read(&mut page) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    page.truncate(length);
                    pages.push(page);
                }
            }
        }
        pages
    }

    fn cpus(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path.join("per_cpu")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// What was read back: texts of our marks in order of time, and how many events the kernel lost.
fn read_marks(instance: &Instance) -> (Vec<String>, u64) {
    let header = HeaderPage::parse(&instance.text("events/header_page")).unwrap();
    let format = EventFormat::parse(&instance.text("events/ftrace/print/format")).unwrap();
    let at = format.field("buf").expect("the print event has a text").offset;
    let (mut marks, mut lost) = (Vec::new(), 0);
    for cpu in instance.cpus() {
        for page in Instance::sub_buffers(&cpu, header.sub_buffer_size()) {
            let sub_buffer = header.open(&page).unwrap();
            match sub_buffer.missed() {
                Missed::None => {}
                Missed::Count(count) => lost += count,
                Missed::Unknown => panic!("events of this size leave room for the number"),
            }
            for event in sub_buffer.events() {
                let event = event.unwrap();
                assert_eq!(event.id, format.id, "only marks are traced here");
                format.check_event(event.payload).unwrap();
                let text = event.payload[at..].split(|byte| *byte == 0).next().unwrap();
                let text = String::from_utf8(text.to_vec()).unwrap();
                marks.push((event.timestamp, text.trim_end().to_string()));
            }
        }
    }
    marks.sort();
    (marks.into_iter().map(|(_, text)| text).collect(), lost)
}

/// Marks of many lengths, so that both forms of event length occur, over many pages.
#[test]
fn what_is_marked_is_read_back() {
    let instance = match Instance::new("rampart-marks") {
        Ok(instance) => instance,
        Err(why) => return println!("skipped: {why}"),
    };
    let written: Vec<String> =
        (0..400).map(|n| format!("{}mark {n}", "x".repeat(n * 7 % 300))).collect();
    for text in &written {
        instance.write("trace_marker", text);
    }
    let (read, lost) = read_marks(&instance);
    assert_eq!(lost, 0);
    assert!(read == written, "{} marks read, {} written", read.len(), written.len());
    println!("{} events read back from the running kernel", read.len());
}

/// A buffer too small for what is written: what is not read must be counted as lost.
#[test]
fn what_is_lost_is_counted() {
    let instance = match Instance::new("rampart-lost") {
        Ok(instance) => instance,
        Err(why) => return println!("skipped: {why}"),
    };
    instance.write("buffer_size_kb", "8");
    // Seven of these fill a page and leave 300 bytes: the kernel has room to store the number.
    let text = "y".repeat(500);
    let total = 2000u64;
    for n in 0..total {
        instance.write("trace_marker", &format!("mark {n} {text}"));
    }
    let (read, lost) = read_marks(&instance);
    assert!(lost > 0, "2000 marks of 500 bytes can't fit in 8 KiB");
    assert_eq!(read.len() as u64 + lost, total);
    println!("{} read, {lost} lost", read.len());
}
