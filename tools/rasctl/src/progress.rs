//! A bar on the terminal while a long input is read.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter inputs are done before a bar could be read.
const LONG: u64 = 64 << 20;

const TICK: Duration = Duration::from_millis(200);

/// Shows a bar until `progress` of `size` bytes is dropped. Nothing where nobody looks, or where the
/// output goes to the same terminal.
pub(crate) fn show(file: &str, progress: &Arc<AtomicU64>, size: u64) {
    if size < LONG || !std::io::stderr().is_terminal() || std::io::stdout().is_terminal() {
        return;
    }
    let bar = ProgressBar::new(size).with_message(file.to_owned());
    let template = "{msg}  {bar:30}  {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let progress = Arc::downgrade(progress);
    thread::spawn(move || {
        while let Some(progress) = Weak::upgrade(&progress) {
            bar.set_position(progress.load(Ordering::Relaxed));
            drop(progress);
            thread::sleep(TICK);
        }
        bar.finish_and_clear();
    });
}
