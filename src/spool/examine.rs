//! Looks at a spool from outside, for the doctor. A service may use it meanwhile.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};
use rustix::process::geteuid;

use super::SpoolSettings;
use super::folder::{FolderContents, LOCK, TRIAL};

/// What was found of a spool.
#[derive(Debug)]
pub struct SpoolFacts {
    /// The folder, or the nearest one above it that exists: what can be said is said of this one.
    pub folder: PathBuf,
    /// Whether that is the spool itself.
    pub exists: bool,
    /// Its permissions.
    pub mode: u32,
    /// Whether it belongs to the user of this process.
    pub is_own: bool,
    /// Whether a service uses it.
    pub is_in_use: bool,
    /// Bytes on their way into MongoDB.
    pub waiting_bytes: u64,
    /// Bytes that wait for somebody to look at them.
    pub quarantined_bytes: u64,
    /// What is free on its disk for this user.
    pub free_bytes: u64,
    /// The kind of file system, where that does not survive a restart of the machine or container.
    pub volatile: Option<&'static str>,
    /// Whether a small file could be written and fsynced; of a folder above the spool, whether the spool can be made there.
    pub trial: io::Result<()>,
}

/// Looks at a spool. Writes a small file into it and removes it, and none elsewhere. Blocks on the disk.
///
/// # Errors
/// When a folder cannot be looked at.
pub fn examine(settings: &SpoolSettings) -> io::Result<SpoolFacts> {
    let path = std::path::absolute(&settings.path)?;
    let exists = path.is_dir();
    let folder = path.ancestors().find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("/")).to_owned();
    let metadata = fs::metadata(&folder)?;
    let held = if exists {
        FolderContents::read(&folder)?
    } else {
        FolderContents {
            segments: Vec::new(),
            quarantined_bytes: 0,
            next: 1,
        }
    };
    let space = statvfs(&folder)?;
    Ok(SpoolFacts {
        exists,
        mode: metadata.mode() & 0o7777,
        is_own: metadata.uid() == geteuid().as_raw(),
        is_in_use: exists && is_in_use(&folder),
        waiting_bytes: held.segments.iter().map(|segment| segment.bytes).sum(),
        quarantined_bytes: held.quarantined_bytes,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        volatile: volatile(&folder),
        trial: match exists {
            true => try_to_write(&folder),
            false => access(&folder, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from),
        },
        folder,
    })
}

/// Whether a service has locked the spool. A shared lock, held for an instant, is enough to find out.
fn is_in_use(folder: &Path) -> bool {
    File::open(folder.join(LOCK))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Writes a file of a name of its own: one that stayed behind, of another user, must not be in the way of the service's.
fn try_to_write(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!("{TRIAL}-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(target_os = "linux")]
fn volatile(folder: &Path) -> Option<&'static str> {
    // The numbers of statfs(2); a container's own layer is an overlay, and goes with the container.
    match rustix::fs::statfs(folder).ok()?.f_type {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58f6 => Some("ramfs"),
        0x794c_7630 => Some("overlay"),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn volatile(_folder: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::spool::Spool;

    #[test]
    fn a_spool_is_looked_at_without_being_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            path: folder.path().join("a/spool"),
            max_bytes: 1 << 30,
        };
        let facts = examine(&settings).unwrap();
        let at = folder.path().canonicalize().unwrap();
        assert_eq!((facts.exists, facts.is_in_use), (false, false));
        assert_eq!(facts.folder.canonicalize().unwrap(), at);
        assert!(facts.trial.is_ok() && !settings.path.exists());

        let spool = Spool::open(settings.clone()).unwrap();
        fs::write(spool.path().join("x.damaged"), "12345").unwrap();
        let facts = examine(&settings).unwrap();
        assert!(facts.exists && facts.is_in_use && facts.is_own && facts.trial.is_ok());
        assert_eq!((facts.mode, facts.quarantined_bytes), (0o700, 5));
        let left = fs::read_dir(spool.path()).unwrap().count();
        // `lock`, `id` and the quarantined file.
        assert_eq!(left, 3);
        drop(spool);
        assert!(!examine(&settings).unwrap().is_in_use);
        Spool::open(settings).unwrap();
    }

    #[test]
    fn a_service_that_starts_while_the_doctor_looks_opens_its_spool() {
        let folder = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            path: folder.path().to_owned(),
            max_bytes: 1 << 30,
        };
        drop(Spool::open(settings.clone()).unwrap());
        let lock = File::open(folder.path().join(LOCK)).unwrap();
        lock.try_lock_shared().unwrap();
        let doctor = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            drop(lock);
        });
        Spool::open(settings).unwrap();
        doctor.join().unwrap();
    }

    #[test]
    fn segments_that_a_service_removes_meanwhile_are_no_error() {
        use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
        let folder = tempfile::tempdir().unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    let paths: Vec<_> =
                        (0..50).map(|n| folder.path().join(n.to_string())).collect();
                    paths.iter().for_each(|path| fs::write(path, "x").unwrap());
                    paths.iter().for_each(|path| fs::remove_file(path).unwrap());
                }
            });
            let all = (0..300).map(|_| FolderContents::read(folder.path()).map(drop));
            let read: io::Result<Vec<()>> = all.collect();
            ended.store(true, Relaxed);
            read.unwrap();
        });
    }
}
