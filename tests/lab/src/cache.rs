//! Where downloads live between runs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// The lab's cache directory, created if missing: `$RAS_CACHE`, else `$XDG_CACHE_HOME/rampart`, else
/// `~/.cache/rampart`. Deleting it at any time loses nothing but time.
///
/// # Errors
/// None of the three variables is set, or the directory can't be created.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("RAS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("rampart")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/rampart")))
        .context("no place for the lab's cache: set RAS_CACHE to a directory")?;
    fs::create_dir_all(&dir).with_context(|| format!("creating the cache {}", dir.display()))?;
    Ok(dir)
}

/// Holds the cache's lock `name` until the result is dropped, waiting for another process that has it.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = cache_dir()?.join(format!("{name}.lock"));
    let describe = || format!("locking {}", path.display());
    let file = File::create(&path).with_context(describe)?;
    file.lock().with_context(describe)?;
    Ok(file)
}

/// Makes the directory `place` appear complete or not at all: `fill` works in a temporary directory
/// beside it, which is then renamed. Where another process was first, its result stays.
pub(crate) fn fill_once(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let parent = place.parent().context("a cache entry has a parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let work = TempDir::with_prefix_in(".filling-", parent)
        .with_context(|| format!("creating a work directory in {}", parent.display()))?;
    fill(work.path())?;
    match fs::rename(work.path(), place) {
        Ok(()) => {
            // Renamed away: there is nothing left to clean up.
            let _ = work.keep();
            Ok(())
        }
        Err(_) if place.is_dir() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("putting {} in place", place.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_appears_whole_or_not_at_all() {
        let cache = tempfile::tempdir().unwrap();
        let place = cache.path().join("entries/kernel");
        let broken = fill_once(&place, |work| {
            fs::write(work.join("half"), "…")?;
            anyhow::bail!("the network went away")
        });
        assert!(broken.is_err() && !place.exists());
        assert_eq!(fs::read_dir(cache.path().join("entries")).unwrap().count(), 0, "no left-overs");

        fill_once(&place, |work| Ok(fs::write(work.join("vmlinuz"), "first")?)).unwrap();
        fill_once(&place, |_| panic!("a complete entry is not filled again")).unwrap();
        assert_eq!(fs::read_to_string(place.join("vmlinuz")).unwrap(), "first");
    }

    #[test]
    fn the_loser_of_a_race_takes_the_winners_entry() {
        let cache = tempfile::tempdir().unwrap();
        let place = cache.path().join("kernel");
        fill_once(&place, |work| {
            fs::write(work.join("vmlinuz"), "slow")?;
            fs::create_dir(&place)?;
            Ok(fs::write(place.join("vmlinuz"), "fast")?)
        })
        .unwrap();
        assert_eq!(fs::read_to_string(place.join("vmlinuz")).unwrap(), "fast");
    }
}
