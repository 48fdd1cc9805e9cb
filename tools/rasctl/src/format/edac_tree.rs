//! EDAC's counters as the kernel shows them: a tree of small files.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use mce_decoder::text::edac_sysfs;

use crate::read::{Options, Output, Stop};

/// Files read of a tree: a controller has a few dozen, and a large machine two dozen controllers.
const FILES_MAX: usize = 16 * 1024;

/// Bytes read of a file: the kernel's are lines.
const FILE_MAX: u64 = 4096;

/// Directories inside of one another: `edac/mc/mc0/csrow0`, and links' targets beside them.
const DEPTH_MAX: usize = 8;

/// Whether it is the tree, or a part of it above the controllers: `mc/mc0`, `mc0` with counters in it.
pub(super) fn is_edac(path: &Path) -> bool {
    [path.to_owned(), path.join("mc"), path.join("edac/mc")]
        .iter()
        .any(|path| path.join("mc0/ce_count").is_file() || path.join("mc0/mc_name").is_file())
}

pub(super) fn read(path: &Path, _options: &Options, output: &mut Output<'_>) -> Result<(), Stop> {
    let mut files = Vec::new();
    collect(path, path, 0, &mut files)?;
    let files = files.iter().map(|(name, contents)| (name.as_str(), contents.as_slice()));
    edac_sysfs::tree(files).into_iter().try_for_each(|record| output.record(0, None, record))
}

/// Files by their paths below `root`, in the order of their names. Those that can't be read, as some
/// of sysfs can't, say nothing.
fn collect(
    root: &Path,
    path: &Path,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() && depth < DEPTH_MAX {
            collect(root, &path, depth + 1, files)?;
        } else if kind.is_file() && files.len() < FILES_MAX {
            let mut contents = Vec::new();
            let read =
                File::open(&path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut contents));
            if read.is_ok() {
                let name = path.strip_prefix(root).unwrap_or(&path);
                files.push((name.to_string_lossy().into_owned(), contents));
            }
        }
    }
    Ok(())
}
