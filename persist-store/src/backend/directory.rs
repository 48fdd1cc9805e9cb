//! Real files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Backend, Content, File};

/// Torn tails kept; they are small and all alike.
const TAILS_MAX: usize = 16;

/// Names tried for one generation before giving up: a bound, not a size.
const NAMES_MAX: u32 = 10_000;

const QUARANTINE: &str = "quarantine";
const TAIL_SUFFIX: &str = ".tail";

/// A directory of the file system.
pub(crate) struct Directory {
    path: PathBuf,
    open: BTreeMap<File, fs::File>,
}

impl Directory {
    /// Names the directory and touches nothing.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.into(), open: BTreeMap::new() }
    }

    /// Makes the directory and its parents exist, durably.
    pub(crate) fn create_all(path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        Self::create_all(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::File::open(parent)?.sync_all()
    }

    fn name(&self, file: File) -> PathBuf {
        self.path.join(match file {
            File::Journal => "journal",
            File::Fresh => "journal.new",
            File::Witness => "witness",
        })
    }

    fn handle(&mut self, file: File) -> io::Result<&fs::File> {
        use std::collections::btree_map::Entry;
        let path = self.name(file);
        Ok(match self.open.entry(file) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(fs::File::options().write(true).open(path)?),
        })
    }

    /// Makes a new file or name in quarantine; `make` fails with `AlreadyExists` where it is taken.
    fn quarantine(
        &self,
        generation: u64,
        suffix: &str,
        make: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<String> {
        let dir = self.path.join(QUARANTINE);
        Self::create_all(&dir)?;
        for number in 0..NAMES_MAX {
            let name = format!("journal-{generation}-{number}{suffix}");
            match make(&dir.join(&name)) {
                Ok(()) => {
                    fs::File::open(&dir)?.sync_all()?;
                    return Ok(name);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many files in quarantine"))
    }

    /// Leaves room for one more torn tail.
    fn drop_oldest_tails(&self) -> io::Result<()> {
        let mut tails = Vec::new();
        for entry in fs::read_dir(self.path.join(QUARANTINE))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(TAIL_SUFFIX) {
                tails.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        tails.sort();
        let surplus = (tails.len() + 1).saturating_sub(TAILS_MAX);
        tails.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }
}

impl Content for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, bytes, offset)
    }
}

impl Backend for Directory {
    fn open(&self, file: File) -> io::Result<Option<impl Content>> {
        match fs::File::open(self.name(file)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self, file: File) -> io::Result<()> {
        let path = self.name(file);
        let handle = fs::File::options().write(true).create(true).truncate(true).open(path)?;
        self.open.insert(file, handle);
        Ok(())
    }

    fn write(&mut self, file: File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.handle(file)?.write_all_at(bytes, offset)
    }

    fn sync(&mut self, file: File) -> io::Result<()> {
        self.handle(file)?.sync_data()
    }

    fn rename_fresh(&mut self) -> io::Result<()> {
        fs::rename(self.name(File::Fresh), self.name(File::Journal))?;
        self.open.remove(&File::Journal);
        if let Some(handle) = self.open.remove(&File::Fresh) {
            self.open.insert(File::Journal, handle);
        }
        Ok(())
    }

    fn set_aside(&mut self, generation: u64) -> io::Result<String> {
        let journal = self.name(File::Journal);
        self.quarantine(generation, "", |path| fs::hard_link(&journal, path))
    }

    fn keep_tail(&mut self, generation: u64, bytes: &[u8]) -> io::Result<String> {
        Self::create_all(&self.path.join(QUARANTINE))?;
        self.drop_oldest_tails()?;
        self.quarantine(generation, TAIL_SUFFIX, |path| {
            let mut file = fs::File::create_new(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        })
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

/// The right to write. The kernel ends it with the process, however that dies.
pub(crate) struct Lock {
    _file: Flock<fs::File>,
}

/// Why there is no lock.
pub(crate) enum LockError {
    Held { pid: Option<u32> },
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Lock {
    /// Takes the lock of the store in `dir` or says who has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let file =
            fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The number is for people; the lock itself is the kernel's.
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Self { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = file.take(32).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::Held { pid })
            }
            Err((_, errno)) => Err(LockError::Io(errno.into())),
        }
    }
}
