//! A program with a working set, as a virtual machine has one. It keeps reading its pages, asks to be
//! told early about lost ones (`PR_MCE_KILL_EARLY`), stops using these, and reports what it lives
//! through as `ras_lab::walk::Report`, a JSON object a line.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::{PrctlMCEKillPolicy, set_mce_kill, set_thp_disable};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ras_lab::walk::{Report, WATCHED};

/// 128 MiB. The kernel hands frames out from low to high, so a large set reaches beyond all that a boot
/// takes for itself. A frame the next boot gave to its kernel could not be offlined there.
const PAGES: usize = 32 * 1024;

const PAGE_SIZE: usize = 4096;

#[repr(align(4096))]
struct Page([u8; PAGE_SIZE]);

fn main() -> Result<()> {
    // Base pages only: the story is about one page, and splitting a huge one is another story.
    set_thp_disable(true).context("asking for base pages")?;
    set_mce_kill(PrctlMCEKillPolicy::PR_MCE_KILL_EARLY).context("asking for early SIGBUS")?;
    // BUS_MCEERR_AO is queued like any signal, so it can wait to be read. BUS_MCEERR_AR can't: it
    // ends the program, which the story would notice.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGBUS);
    signals.thread_block().context("blocking SIGBUS")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK).context("signalfd")?;
    let pagemap = File::open("/proc/self/pagemap").context("opening pagemap")?;

    let mut set: Vec<Page> = (0..PAGES).map(|index| Page([pattern(index); PAGE_SIZE])).collect();
    let mut lost = [false; PAGES];
    let mut by_frame = Vec::with_capacity(PAGES);
    for (index, page) in set.iter().enumerate() {
        by_frame.push((frame(&pagemap, page)?.context("a page is not in memory")?, index));
    }
    by_frame.sort_unstable();
    // From the upper half, far from one another and from the end.
    let place = |number| PAGES / 2 + (number + 1) * PAGES / 2 / (WATCHED + 1);
    let watched: [usize; WATCHED] = std::array::from_fn(|number| by_frame[place(number)].1);
    let mut frames: [u64; WATCHED] = std::array::from_fn(|number| by_frame[place(number)].0);
    report(&Report::Holding { pages: PAGES, watched: frames })?;

    loop {
        while let Some(signal) = signals.read_signal().context("reading signals")? {
            let offset = usize::try_from(signal.ssi_addr)?.wrapping_sub(set.as_ptr().addr());
            let page = offset / PAGE_SIZE;
            if let Some(lost) = lost.get_mut(page) {
                *lost = true;
            }
            let number = watched.iter().position(|index| *index == page);
            let lsb = u8::try_from(signal.ssi_addr_lsb)?;
            let frame = number.map(|number| frames[number]);
            report(&Report::Sigbus { code: signal.ssi_code, frame, lsb })?;
            verify(&mut set, &lost)?;
        }
        for (known, index) in frames.iter_mut().zip(watched) {
            // Absent for a moment while the kernel moves it, and for good once it is lost.
            let Some(now) = frame(&pagemap, &set[index])? else { continue };
            if now != *known {
                let intact = set[index].0.iter().all(|byte| *byte == pattern(index));
                report(&Report::Moved { from: *known, to: now, intact })?;
                *known = now;
                verify(&mut set, &lost)?;
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads every page that is not lost, and writes to it: a page that was moved must take both.
fn verify(set: &mut [Page], lost: &[bool]) -> Result<()> {
    let (mut pages, mut damaged) = (0, 0);
    for (index, page) in set.iter_mut().enumerate().filter(|(index, _)| !lost[*index]) {
        pages += 1;
        damaged += usize::from(page.0.iter().any(|byte| *byte != pattern(index)));
        page.0.fill(std::hint::black_box(pattern(index)));
    }
    report(&Report::Verified { pages, damaged })
}

/// Differs between neighbours, so that pages taken for one another are noticed.
fn pattern(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap_or(0)
}

/// The page's frame. Linux `Documentation/admin-guide/mm/pagemap.rst`: bit 63 is "present", bits 54:0
/// the frame of a page that is.
fn frame(pagemap: &File, page: &Page) -> Result<Option<u64>> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let index = std::ptr::from_ref(page).addr() / PAGE_SIZE;
    let mut entry = [0; 8];
    let offset = u64::try_from(index * entry.len())?;
    match pagemap.read_exact_at(&mut entry, offset) {
        Ok(()) => {
            let entry = u64::from_ne_bytes(entry);
            Ok((entry & PRESENT != 0).then_some(entry & FRAME))
        }
        Err(error) if error.raw_os_error() == Some(Errno::EINTR as libc::c_int) => Ok(None),
        Err(error) => Err(error).context("reading pagemap"),
    }
}

fn report(report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(report)?).context("reporting")?;
    out.flush().context("reporting")
}
