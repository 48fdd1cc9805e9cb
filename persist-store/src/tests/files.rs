//! Real files: the lock, a tiny file system that fills up, a directory that can't be written.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Uid;
use tempfile::TempDir;

use super::*;
use crate::{Store, read};

fn io_kind(error: &StoreError) -> Option<ErrorKind> {
    match error {
        StoreError::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

#[test]
fn a_store_is_created_and_read() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path().join("var/lib/rasd");
    assert!(matches!(read(&dir), Err(StoreError::NotFound { .. })));
    let (mut store, recovery) = Store::open(&dir).unwrap();
    assert!(recovery.created && recovery.is_clean(), "{recovery}");
    store.append(page(1, RetireState::Pending)).unwrap();
    store.append_all(&[page(1, RetireState::Retired), node(1)]).unwrap();

    // While the writer holds the lock, and after.
    let (state, recovery) = read(&dir).unwrap();
    assert_eq!(state, *store.state());
    assert_eq!((recovery.is_clean(), recovery.records), (true, 3), "{recovery}");
    drop(store);
    assert_eq!(read(&dir).unwrap().0, state);
    let (store, recovery) = Store::open(&dir).unwrap();
    assert!(!recovery.created && recovery.is_clean(), "{recovery}");
    assert_eq!(*store.state(), state);
}

#[test]
fn an_empty_directory_is_not_a_store() {
    let temp = TempDir::new().unwrap();
    assert!(matches!(read(temp.path()), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_second_writer_is_told_who_holds_the_store() {
    let temp = TempDir::new().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let error = Store::open(temp.path()).err().unwrap();
    assert!(
        matches!(&error, StoreError::Locked { pid: Some(pid), .. } if *pid == std::process::id()),
        "{error}"
    );
    drop(store);
    Store::open(temp.path()).unwrap();
}

/// The real directory does what the simulated one does: mends, sets aside, keeps.
#[test]
fn real_files_are_mended_and_set_aside() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path();
    let (mut store, _) = Store::open(dir).unwrap();
    store.append(page(1, RetireState::Retired)).unwrap();
    store.append(page(2, RetireState::Retired)).unwrap();
    let state = store.state().clone();
    drop(store);
    let journal = fs::File::options().write(true).open(dir.join("journal")).unwrap();
    let block = |number, copy| Geometry::DEFAULT.offset(number, copy);

    journal.write_all_at(b"\xff", block(0, 0) + 100).unwrap();
    let (seen, recovery) = read(dir).unwrap();
    assert_eq!((seen, recovery.damaged_copies), (state.clone(), 1));
    let (store, recovery) = Store::open(dir).unwrap();
    assert_eq!((store.state(), recovery.damaged_copies), (&state, 1));
    drop(store);
    assert!(read(dir).unwrap().1.is_clean());

    // Half a commit that nobody acknowledged.
    journal.write_all_at(&[0xaa; 700], block(2, 0)).unwrap();
    let (store, recovery) = Store::open(dir).unwrap();
    assert_eq!((store.state(), recovery.torn_tail), (&state, Some(4096)));
    assert_eq!(fs::read(recovery.quarantined.unwrap()).unwrap()[..700], [0xaa; 700]);
    drop(store);
    assert!(read(dir).unwrap().1.is_clean());

    // Both copies of an acknowledged commit.
    let before = [block(0, 0), block(0, 1)].map(|offset| journal.write_all_at(&[0; 512], offset));
    assert!(before.iter().all(Result::is_ok));
    let damaged = fs::read(dir.join("journal")).unwrap();
    let (seen, recovery) = read(dir).unwrap();
    assert!(seen.is_damaged() && recovery.damage.is_some(), "{recovery}");
    assert_eq!(fs::read(dir.join("journal")).unwrap(), damaged, "a reader wrote");
    let (store, recovery) = Store::open(dir).unwrap();
    assert_eq!(recovery.damage, Some(ras_store_format::Fault::Gap { first: 0 }));
    assert_eq!(store.state().pages.len(), 1, "the page after the gap");
    assert_eq!(fs::read(recovery.quarantined.unwrap()).unwrap(), damaged);
}

/// However often a commit is torn, the evidence stays bounded.
#[test]
fn torn_tails_are_bounded() {
    let temp = TempDir::new().unwrap();
    drop(Store::open(temp.path()).unwrap());
    for round in 0..40u8 {
        let journal = fs::File::options().write(true).open(temp.path().join("journal")).unwrap();
        journal.write_all_at(&[round + 1; 512], Geometry::DEFAULT.offset(0, 0)).unwrap();
        let (_, recovery) = Store::open(temp.path()).unwrap();
        let kept = fs::read(recovery.quarantined.unwrap()).unwrap();
        assert_eq!(kept[0], round + 1, "the newest is kept");
    }
    assert_eq!(fs::read_dir(temp.path().join("quarantine")).unwrap().count(), 16);
}

#[test]
fn a_file_of_absurd_size_is_refused() {
    let temp = TempDir::new().unwrap();
    let journal = fs::File::create(temp.path().join("journal")).unwrap();
    journal.set_len(1 << 40).unwrap();
    assert!(matches!(Store::open(temp.path()), Err(StoreError::Corrupt { .. })));
    assert!(matches!(read(temp.path()), Err(StoreError::Corrupt { .. })));
    assert_eq!(journal.metadata().unwrap().len(), 1 << 40, "left alone");
}

/// A tmpfs of its own, gone with the value.
struct Mounted(TempDir);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        if !Uid::effective().is_root() {
            println!("skipped: mounting a tmpfs needs root");
            return None;
        }
        let temp = TempDir::new().unwrap();
        let flags = MsFlags::empty();
        let options = format!("size={size}");
        match mount(Some("tmpfs"), temp.path(), Some("tmpfs"), flags, Some(options.as_str())) {
            Ok(()) => Some(Self(temp)),
            Err(errno) => {
                println!("skipped: cannot mount a tmpfs here: {errno}");
                None
            }
        }
    }

    fn remount(&self, flags: MsFlags) {
        let none = None::<&str>;
        mount(none, self.0.path(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_file_system_is_loud_and_passes() {
    let Some(mounted) = Mounted::new("2500k") else { return };
    let dir = mounted.0.path().join("store");
    let (mut store, _) = Store::open(&dir).unwrap();
    let mut filler = fs::File::create(mounted.0.path().join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}

    // There is room for 127 commits of one block without a byte more from the file system.
    let mut acknowledged = 0;
    let error = loop {
        match store.append(page(acknowledged, RetireState::Pending)) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(acknowledged, 127);
    assert_eq!(io_kind(&error), Some(ErrorKind::StorageFull), "{error}");
    assert_eq!(store.state().pages.len(), 127);
    drop(store);
    let (mut store, recovery) = Store::open(&dir).unwrap();
    assert!(recovery.is_clean(), "{recovery}");
    assert_eq!(store.state().pages.len(), 127);
    store.append(page(127, RetireState::Pending)).unwrap_err();

    drop(filler);
    fs::remove_file(mounted.0.path().join("filler")).unwrap();
    store.append(page(127, RetireState::Pending)).unwrap();
    assert_eq!(read(&dir).unwrap().0.pages.len(), 128);
}

#[test]
fn no_room_for_a_first_journal() {
    let Some(mounted) = Mounted::new("64k") else { return };
    let dir = mounted.0.path().join("store");
    let error = Store::open(&dir).err().unwrap();
    assert_eq!(io_kind(&error), Some(ErrorKind::StorageFull), "{error}");
    // Half a journal under a name nobody reads is no store.
    assert!(matches!(read(&dir), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_read_only_file_system_can_be_read() {
    let Some(mounted) = Mounted::new("4m") else { return };
    let dir = mounted.0.path().join("store");
    let (mut store, _) = Store::open(&dir).unwrap();
    store.append(page(1, RetireState::Retired)).unwrap();
    drop(store);
    mounted.remount(MsFlags::MS_RDONLY);
    let error = Store::open(&dir).err().unwrap();
    assert_eq!(io_kind(&error), Some(ErrorKind::ReadOnlyFilesystem), "{error}");
    assert_eq!(read(&dir).unwrap().0.pages.len(), 1);
    let error = Store::open(&mounted.0.path().join("other")).err().unwrap();
    assert_eq!(io_kind(&error), Some(ErrorKind::ReadOnlyFilesystem), "{error}");
}

/// What is no directory, or no file, is an error that names the step.
#[test]
fn something_else_in_the_way() {
    let temp = TempDir::new().unwrap();
    fs::write(temp.path().join("file"), b"").unwrap();
    assert!(io_kind(&Store::open(&temp.path().join("file")).err().unwrap()).is_some());
    fs::create_dir(temp.path().join("journal")).unwrap();
    let error = Store::open(temp.path()).err().unwrap();
    assert_eq!(io_kind(&error), Some(ErrorKind::IsADirectory), "{error}");
}
