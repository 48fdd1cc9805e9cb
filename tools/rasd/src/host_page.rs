//! Asking the host kernel to give up a page, and checking what it says.
//!
//! Linux, `Documentation/ABI/testing/sysfs-memory-page-offline`: a physical address is written to
//! `devices/system/memory/{soft,hard}_offline_page`. The answers, from `drivers/base/memory.c` and
//! `mm/memory-failure.c`:
//!
//! | errno | Meaning | Here |
//! |---|---|---|
//! | 0 | out of use | `Offlined` |
//! | `EHWPOISON` | was marked before | `AlreadyOffline`, see below |
//! | `EBUSY`, `EAGAIN`, `ENOMEM` | in use, or no page to move to | asked again, then `Busy` |
//! | `EIO` to a soft offline | the kernel's own: slab, page table, text | asked again, then `Busy` |
//! | `ENXIO` | no RAM there | `NoSuchPage` |
//! | `ENOENT`, `ENODEV`, `EOPNOTSUPP`, `EPERM`, `EACCES`, `EROFS` | can't, or may not | `Unsupported` |
//! | others | | `Failed` |
//!
//! Two answers mislead. A hard offline of a page the kernel itself uses says `EBUSY`, but leaves the
//! page marked, so the next attempt says `EHWPOISON` although nothing was freed. After an `EBUSY`,
//! `EHWPOISON` therefore counts as one more `EBUSY`. And a soft offline of a page that is marked says
//! 0, as if it had just been done: the mark is looked up before the question.
//!
//! The kernel's own recovery leaves the same mark on a page it could not free. Only the trace event
//! that goes with it tells: see [`HostPages::left_in_use`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use ras_core::{HostOutcome, OfflineMode, Pfn};

use crate::config::{Config, Offline};
use crate::stop::Stop;

/// The two files. Behind a trait so that tests can give the kernel's answers.
pub trait Kernel: Send {
    /// Writes `text` to the file that must already be there.
    ///
    /// # Errors
    /// The kernel's answer.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// The file's text.
    ///
    /// # Errors
    /// The kernel's answer.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The 64-bit word at `index` of a file of such words.
    ///
    /// # Errors
    /// The kernel's answer; `UnexpectedEof` past the end.
    fn word(&self, path: &Path, index: u64) -> io::Result<u64>;
}

/// The kernel we run on. Files that are asked for page after page stay open: opening one takes longer
/// than most answers.
#[derive(Debug, Default)]
pub struct ThisKernel {
    open: Mutex<BTreeMap<PathBuf, File>>,
}

impl ThisKernel {
    fn with<T>(
        &self,
        path: &Path,
        options: &std::fs::OpenOptions,
        ask: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(path) {
            open.insert(path.to_owned(), options.open(path)?);
        }
        ask(&open[path])
    }
}

impl Kernel for ThisKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        use io::Write;
        // Appending makes no difference in sysfs; on a regular file, as in tests, it keeps a record.
        // One write(2): sysfs takes each as a request of its own.
        self.with(path, File::options().append(true), |mut file| file.write_all(text.as_bytes()))
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn word(&self, path: &Path, index: u64) -> io::Result<u64> {
        use std::os::unix::fs::FileExt;
        let mut word = [0; 8];
        let offset = index.checked_mul(8).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.with(path, File::options().read(true), |file| file.read_exact_at(&mut word, offset))?;
        Ok(u64::from_ne_bytes(word))
    }
}

/// The host's pages.
pub struct HostPages {
    kernel: Box<dyn Kernel>,
    memory: PathBuf,
    soft_offline_switch: PathBuf,
    page_flags: PathBuf,
    limits: Offline,
    stop: Stop,
    /// Pages the kernel marked and left in use, and why.
    left_in_use: BTreeMap<Pfn, String>,
}

/// Pages remembered as left in use. A machine with more has other worries.
const LEFT_IN_USE_MAX: usize = 4096;

/// What came of a request, and how often it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offlined {
    /// The last answer.
    pub outcome: HostOutcome,
    /// How often the kernel was asked.
    pub attempts: u32,
}

/// How far [`HostPages::offline_telling`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Pages in all.
    pub pages: usize,
    /// Questions asked; a busy page is asked about again.
    pub asked: usize,
    /// Pages with a final answer.
    pub settled: usize,
    /// Those of them that were taken out of use just now.
    pub offlined: usize,
    /// How long nothing will be heard, where busy pages get time to become free.
    pub wait: Duration,
}

/// One answer of the kernel.
enum Answer {
    Final(HostOutcome),
    TryAgain,
}

impl HostPages {
    /// The pages of the host whose file systems `config` names.
    #[must_use]
    pub fn new(config: &Config, kernel: Box<dyn Kernel>, stop: Stop) -> Self {
        Self {
            kernel,
            memory: config.paths.sysfs.join("devices/system/memory"),
            soft_offline_switch: config.paths.proc.join("sys/vm/enable_soft_offline"),
            page_flags: config.paths.proc.join("kpageflags"),
            limits: config.offline.clone(),
            stop,
            left_in_use: BTreeMap::new(),
        }
    }

    /// The kernel said that it marked a page but could not free it: from now on, its mark is not taken
    /// for a success.
    pub fn left_in_use(&mut self, pfn: Pfn, why: &str) -> HostOutcome {
        if self.left_in_use.len() < LEFT_IN_USE_MAX {
            self.left_in_use.insert(pfn, why.to_owned());
        }
        in_use(why)
    }

    /// Takes one page out of use, asking again while it is busy: see `[offline]` in `rasd.toml`.
    #[must_use]
    pub fn offline(&self, pfn: Pfn, how: OfflineMode) -> Offlined {
        self.offline_all(&[(pfn, how)]).remove(0)
    }

    /// Takes pages out of use, in rounds: the waits are shared, so that many busy pages take no
    /// longer than one. The results are in the order of `pages`.
    #[must_use]
    pub fn offline_all(&self, pages: &[(Pfn, OfflineMode)]) -> Vec<Offlined> {
        self.offline_telling(pages, &mut |_| {})
    }

    /// The same; `tell` hears of each answer and before each wait. A shutdown ends it early: pages that
    /// were not asked about by then have no attempts.
    #[must_use]
    pub fn offline_telling(
        &self,
        pages: &[(Pfn, OfflineMode)],
        tell: &mut dyn FnMut(Progress),
    ) -> Vec<Offlined> {
        let limit = self.limits.attempts.get();
        let mut results: Vec<Offlined> =
            vec![Offlined { outcome: HostOutcome::Busy { attempts: 0 }, attempts: 0 }; pages.len()];
        let mut open: Vec<usize> = (0..pages.len()).collect();
        let mut wait = Duration::from_millis(self.limits.backoff_ms);
        let mut progress = Progress { pages: pages.len(), ..Progress::default() };
        for attempts in 1..=limit {
            open.retain(|&index| {
                if progress.asked > 0 && self.stop.is_set() {
                    return true;
                }
                let (pfn, how) = pages[index];
                let outcome = match self.ask(pfn, how) {
                    Answer::Final(HostOutcome::AlreadyOffline) if attempts > 1 => None,
                    Answer::Final(HostOutcome::AlreadyOffline) => Some(
                        self.left_in_use
                            .get(&pfn)
                            .map_or(HostOutcome::AlreadyOffline, |why| in_use(why)),
                    ),
                    Answer::Final(outcome) => Some(outcome),
                    Answer::TryAgain => None,
                };
                let again = outcome.is_none();
                progress.asked += 1;
                progress.settled += usize::from(!again);
                progress.offlined += usize::from(outcome == Some(HostOutcome::Offlined));
                let outcome = outcome.unwrap_or(HostOutcome::Busy { attempts });
                results[index] = Offlined { outcome, attempts };
                tell(progress);
                again
            });
            if open.is_empty() || attempts == limit {
                break;
            }
            tell(Progress { wait, ..progress });
            if self.stop.wait(wait) {
                break;
            }
            wait *= 2;
        }
        results
    }

    fn ask(&self, pfn: Pfn, how: OfflineMode) -> Answer {
        let name = match how {
            OfflineMode::Soft => "soft_offline_page",
            OfflineMode::Hard => "hard_offline_page",
        };
        if how == OfflineMode::Soft && self.is_marked(pfn) {
            return Answer::Final(HostOutcome::AlreadyOffline);
        }
        let path = self.memory.join(name);
        let Some(answer) = self.kernel.write(&path, &format!("{}\n", pfn.addr())).err() else {
            return Answer::Final(HostOutcome::Offlined);
        };
        let unsupported = |detail| Answer::Final(HostOutcome::Unsupported { detail });
        let path = path.display();
        match answer.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBUSY | Errno::EAGAIN | Errno::ENOMEM | Errno::EINTR) => Answer::TryAgain,
            Some(Errno::EIO) if how == OfflineMode::Soft => Answer::TryAgain,
            Some(Errno::EHWPOISON) => Answer::Final(HostOutcome::AlreadyOffline),
            Some(Errno::ENXIO) => Answer::Final(HostOutcome::NoSuchPage),
            Some(Errno::ENOENT | Errno::ENODEV) => unsupported(format!(
                "{path} is missing: the kernel needs CONFIG_MEMORY_FAILURE and CONFIG_MEMORY_HOTPLUG"
            )),
            Some(Errno::EOPNOTSUPP) if how == OfflineMode::Soft && self.soft_is_switched_off() => {
                unsupported(format!(
                    "soft offlining is switched off: set {} to 1",
                    self.soft_offline_switch.display()
                ))
            }
            Some(Errno::EOPNOTSUPP) => unsupported(format!("the kernel does not offer {path}")),
            Some(Errno::EPERM | Errno::EACCES) => unsupported(format!(
                "writing {path} is not permitted: run as root with CAP_SYS_ADMIN"
            )),
            Some(Errno::EROFS) => unsupported(format!(
                "{path} is on a read-only mount: let rasd see a writable sysfs"
            )),
            _ => Answer::Final(HostOutcome::Failed { detail: format!("writing {path}: {answer}") }),
        }
    }

    /// Whether the kernel has marked the page as poisoned: `KPF_HWPOISON`, Linux
    /// `Documentation/admin-guide/mm/pagemap.rst`. False where it can't be known; then it is asked.
    fn is_marked(&self, pfn: Pfn) -> bool {
        const KPF_HWPOISON: u64 = 1 << 19;
        self.kernel.word(&self.page_flags, pfn.0).is_ok_and(|flags| flags & KPF_HWPOISON != 0)
    }

    /// Whether the kernel keeps the page for good and hands it to nobody: `KPF_RESERVED`, Linux
    /// `include/linux/kernel-page-flags.h`. False where it can't be known.
    #[must_use]
    pub fn is_reserved(&self, pfn: Pfn) -> bool {
        const KPF_RESERVED: u64 = 1 << 32;
        self.kernel.word(&self.page_flags, pfn.0).is_ok_and(|flags| flags & KPF_RESERVED != 0)
    }

    fn soft_is_switched_off(&self) -> bool {
        self.kernel.read(&self.soft_offline_switch).is_ok_and(|text| text.trim() == "0")
    }
}

fn in_use(why: &str) -> HostOutcome {
    let detail =
        format!("the kernel marked the page but still uses it ({why}); only a reboot helps");
    HostOutcome::Failed { detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// Gives the answers it was told to give, then success; remembers what was written.
    #[derive(Clone, Default)]
    struct Scripted {
        answers: Arc<Mutex<VecDeque<Errno>>>,
        written: Arc<Mutex<Vec<(String, String)>>>,
        switch: Option<&'static str>,
        flags: Option<u64>,
    }

    impl Kernel for Scripted {
        fn write(&self, path: &Path, text: &str) -> io::Result<()> {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            self.written.lock().unwrap().push((name, text.to_owned()));
            match self.answers.lock().unwrap().pop_front() {
                Some(errno) => Err(errno.into()),
                None => Ok(()),
            }
        }
        fn read(&self, _: &Path) -> io::Result<String> {
            self.switch.map(str::to_owned).ok_or_else(|| Errno::ENOENT.into())
        }
        fn word(&self, path: &Path, index: u64) -> io::Result<u64> {
            assert_eq!(path, Path::new("/proc/kpageflags"));
            assert!(self.flags.is_none() || index == 0x1234);
            self.flags.ok_or_else(|| Errno::ENOENT.into())
        }
    }

    fn quick() -> Config {
        let mut config = Config::default();
        config.offline.backoff_ms = 1;
        config
    }

    fn check(how: OfflineMode, answers: &[Errno], expect: &HostOutcome, attempts: u32) {
        let kernel = Scripted::default();
        kernel.answers.lock().unwrap().extend(answers);
        let pages = HostPages::new(&quick(), Box::new(kernel.clone()), Stop::default());
        let result = pages.offline(Pfn(0x1234), how);
        assert_eq!(result, Offlined { outcome: expect.clone(), attempts }, "{answers:?}");
        assert_eq!(kernel.written.lock().unwrap().len(), attempts as usize);
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use OfflineMode::{Hard, Soft};
        check(Soft, &[], &HostOutcome::Offlined, 1);
        check(Hard, &[Errno::EHWPOISON], &HostOutcome::AlreadyOffline, 1);
        check(Soft, &[Errno::ENXIO], &HostOutcome::NoSuchPage, 1);
        check(Soft, &[Errno::EBUSY, Errno::EAGAIN], &HostOutcome::Offlined, 3);
        check(Soft, &[Errno::EBUSY; 9], &HostOutcome::Busy { attempts: 5 }, 5);
        check(Soft, &[Errno::EIO; 9], &HostOutcome::Busy { attempts: 5 }, 5);
        check(
            Hard,
            &[Errno::EIO],
            &HostOutcome::Failed {
                detail: "writing /sys/devices/system/memory/hard_offline_page: \
                         Input/output error (os error 5)"
                    .into(),
            },
            1,
        );
    }

    #[test]
    fn a_soft_offline_of_a_marked_page_is_not_asked_for_since_the_answer_would_mislead() {
        let anonymous = 0x20_5018;
        for (flags, expect, asked) in [
            (Some(anonymous | 1 << 19), HostOutcome::AlreadyOffline, 0),
            (Some(anonymous), HostOutcome::Offlined, 1),
            (None, HostOutcome::Offlined, 1),
        ] {
            let kernel = Scripted { flags, ..Scripted::default() };
            let pages = HostPages::new(&quick(), Box::new(kernel.clone()), Stop::default());
            assert_eq!(pages.offline(Pfn(0x1234), OfflineMode::Soft).outcome, expect);
            assert_eq!(kernel.written.lock().unwrap().len(), asked);
        }
    }

    #[test]
    fn a_page_marked_by_our_own_failed_attempt_is_not_out_of_use() {
        let answers =
            [Errno::EBUSY, Errno::EHWPOISON, Errno::EHWPOISON, Errno::EHWPOISON, Errno::EHWPOISON];
        check(OfflineMode::Hard, &answers, &HostOutcome::Busy { attempts: 5 }, 5);
    }

    #[test]
    fn a_mark_on_a_page_the_kernel_kept_is_not_a_success() {
        let kernel = Scripted::default();
        kernel.answers.lock().unwrap().extend([Errno::EHWPOISON, Errno::EHWPOISON]);
        let mut pages = HostPages::new(&quick(), Box::new(kernel), Stop::default());
        let outcome = |pages: &HostPages| pages.offline(Pfn(0x1234), OfflineMode::Hard).outcome;
        assert_eq!(outcome(&pages), HostOutcome::AlreadyOffline);
        pages.left_in_use(Pfn(0x1234), "reserved kernel page: Ignored");
        assert!(
            matches!(outcome(&pages), HostOutcome::Failed { detail } if detail.contains("Ignored"))
        );
    }

    #[test]
    fn what_the_kernel_cannot_do_says_what_to_do() {
        let detail = |errno, switch| {
            let kernel = Scripted { switch, ..Scripted::default() };
            kernel.answers.lock().unwrap().push_back(errno);
            let pages = HostPages::new(&quick(), Box::new(kernel), Stop::default());
            match pages.offline(Pfn(1), OfflineMode::Soft).outcome {
                HostOutcome::Unsupported { detail } => detail,
                other => panic!("{errno}: {other}"),
            }
        };
        assert!(detail(Errno::ENOENT, None).contains("CONFIG_MEMORY_FAILURE"));
        assert!(detail(Errno::ENODEV, None).contains("CONFIG_MEMORY_FAILURE"));
        assert!(
            detail(Errno::EOPNOTSUPP, Some("0\n"))
                .contains("set /proc/sys/vm/enable_soft_offline to 1")
        );
        assert!(detail(Errno::EOPNOTSUPP, Some("1\n")).contains("does not offer"));
        assert!(detail(Errno::EPERM, None).contains("CAP_SYS_ADMIN"));
        assert!(detail(Errno::EROFS, None).contains("writable sysfs"));
    }

    #[test]
    fn real_files_get_the_address_and_missing_ones_are_unsupported() {
        let root = tempfile::tempdir().unwrap();
        let mut config = quick();
        config.paths.sysfs = root.path().to_owned();
        let pages = HostPages::new(&config, Box::new(ThisKernel::default()), Stop::default());
        assert!(matches!(
            pages.offline(Pfn(0x1234), OfflineMode::Soft).outcome,
            HostOutcome::Unsupported { .. }
        ));
        let dir = root.path().join("devices/system/memory");
        std::fs::create_dir_all(&dir).unwrap();
        assert!(!dir.join("soft_offline_page").exists(), "never created by us");
        std::fs::write(dir.join("soft_offline_page"), "").unwrap();
        for pfn in [Pfn(0x1234), Pfn(5)] {
            assert_eq!(pages.offline(pfn, OfflineMode::Soft).outcome, HostOutcome::Offlined);
        }
        let text = std::fs::read_to_string(dir.join("soft_offline_page")).unwrap();
        assert_eq!(text, "0x1234000\n0x5000\n");
    }

    #[test]
    fn many_busy_pages_share_their_waits_and_a_shutdown_ends_them() {
        let kernel = Scripted::default();
        kernel.answers.lock().unwrap().extend([Errno::EBUSY; 100]);
        let mut config = quick();
        config.offline.backoff_ms = 20;
        let stop = Stop::default();
        let pages = HostPages::new(&config, Box::new(kernel.clone()), stop.clone());
        let many: Vec<_> = (0..50).map(|pfn| (Pfn(pfn), OfflineMode::Soft)).collect();
        let started = std::time::Instant::now();
        let results = pages.offline_all(&many);
        assert!(results.iter().all(|result| result.outcome == HostOutcome::Offlined));
        assert_eq!(results[0].attempts, 3, "two rounds were refused");
        assert!(started.elapsed() < Duration::from_secs(2), "50 waits of 60 ms would be 3 s");
        let mut heard = Vec::new();
        kernel.answers.lock().unwrap().push_back(Errno::EBUSY);
        let _ = pages.offline_telling(&many[..2], &mut |progress| heard.push(progress));
        let heard: Vec<_> =
            heard.iter().map(|p| (p.asked, p.offlined, p.wait.as_millis())).collect();
        assert_eq!(heard, [(1, 0, 0), (2, 1, 0), (2, 1, 20), (3, 2, 0)]);

        kernel.answers.lock().unwrap().extend([Errno::EBUSY; 100]);
        stop.set();
        let results = pages.offline_all(&many);
        assert_eq!(
            (results[0].attempts, results[1].attempts),
            (1, 0),
            "the rest is not asked about"
        );
        assert_eq!(
            pages.offline(Pfn(1), OfflineMode::Soft).outcome,
            HostOutcome::Busy { attempts: 1 }
        );
    }
}
