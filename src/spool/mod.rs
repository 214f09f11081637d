//! The spool: a local, fsynced queue for callbacks that MongoDB cannot take now.
//!
//! # Promise
//! When [`Spool::append`] returns `Ok`, the callbacks are on this machine's disk, and come back from
//! [`Segment::read`] until [`Spool::remove`] is called, whatever kills the process or the machine in
//! between, as long as the disk keeps what it acknowledged. Damaged bytes are told apart from whole frames:
//! they are never served, and never deleted.
//!
//! # Constraints
//! - A callback is in the spool at least once, and may come out more than once: every effect in MongoDB is
//!   idempotent. So no reading position is kept; a segment is deleted when all of it is in MongoDB, and read again
//!   from its start when the process died before that.
//! - Order does not matter, for the same reason. Segments are still read oldest first.
//! - Records hold the bytes that were verified, not what was decoded from them, so that a newer version decodes
//!   them by its own rules.
//!
//! # Format
//! A folder of segments, `{number}-{salt}.v2.spool` (`.v1.spool` from older versions), each of about
//! [`SEGMENT_BYTES`]; `segment.rs` describes their bytes. A file `lock` is locked while a process uses the folder, and a file `id` holds the id by which the other
//! instances know this spool. A file `confirmed` says, as a digest, which MongoDB has confirmed a write to the service.
//! Files and folder are readable by their owner only: bodies hold what people wrote.
//!
//! # Operations
//! - *Append*: the frames of a batch go to the active segment in one write and one fsync. The name of a new segment
//!   is fsynced, too. When either fails, the segment is cut back to its acknowledged bytes and closed: after a
//!   failed fsync nobody knows which pages the system still holds, so it is never written again.
//! - *Drain*: [`Spool::oldest`] returns the oldest closed segment, and closes the active one when there is no
//!   other. A process never appends to a segment it finds at its start.
//! - *Quarantine*: bytes of a segment that are no frame, and frames of callbacks that cannot be stored in any form, go
//!   to a file with the segment's name and `.damaged`, once everything else is in MongoDB, and errors in the log say
//!   what and why. Where the disk cannot read all of a segment, the whole file is renamed so. Quarantined bytes
//!   count towards the limit until somebody has looked at them and moved the file away
//!   ([`Spool::count_quarantined`]). Renamed back while the service is stopped, a file is tried again at the start.
//!
//! # What can be lost
//! Nothing that was acknowledged, unless the disk loses it. A process that dies in the middle of an append leaves a
//! torn frame that was never acknowledged; it goes to quarantine like damage, since the spool cannot tell them apart.
//!
//! # Why not an embedded database
//! `docs/spool.md` has the experiment.

mod examine;
mod file;
mod folder;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::callback::Received;

use folder::{FolderContents, private, sync_folder};

pub use examine::{SpoolFacts, examine};
pub use file::Segment;
pub use segment::{Damage, Reader, Salt, write};

/// The size at which a segment is closed and the next one begun. Small enough to be read whole.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Enough for a few callbacks. With less than that free, in the spool or on the disk, the spool is not writable.
const LEAST_FREE: u64 = 64 * 1024;

/// Where the spool is, and how large it may grow.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// Its folder.
    pub path: PathBuf,
    /// The most bytes in it, quarantined ones included.
    pub max_bytes: u64,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("another process uses the spool {}; give each its own spool.path", .0.display())]
    InUse(PathBuf),
    /// Others may write to the folder, so they could forge callbacks.
    #[error(
        "others may write to the spool {}; let spool.path name a folder in it, which is then made, or `chmod 0700` it",
        .0.display()
    )]
    Open(PathBuf),
    /// The folder cannot be created, read or locked.
    #[error("cannot use the spool {}: {error}", path.display())]
    Io {
        /// The folder or the file at fault.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Why callbacks could not be appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The spool would grow beyond its limit.
    #[error("the spool is full ({0} bytes; spool.max_bytes)")]
    Full(u64),
    /// The disk is full, or failed.
    #[error("the spool cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// What the spool holds, and whether it can hold more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes on their way into MongoDB.
    pub bytes: u64,
    /// Bytes that wait for somebody to look at them.
    pub quarantined_bytes: u64,
    /// Whether it is below its limit, and the disk's last write succeeded.
    pub is_writable: bool,
}

/// The spool of this process. Cheap to clone.
#[derive(Clone)]
pub struct Spool(Arc<SpoolInner>);

struct SpoolInner {
    settings: SpoolSettings,
    /// Stays the same when the folder is moved.
    id: String,
    /// The lock is held during writes and fsyncs.
    active: Mutex<Active>,
    /// Oldest first. The lock is never held during I/O.
    closed: Mutex<VecDeque<Segment>>,
    bytes: AtomicU64,
    quarantined_bytes: AtomicU64,
    disk_works: AtomicBool,
    /// When the active segment was begun. Apart from it, since its lock is held during I/O.
    active_since: Mutex<Option<SystemTime>>,
    appended: Notify,
    /// Locked until it is closed.
    _lock: File,
}

struct Active {
    /// The number of the next segment.
    next: u64,
    segment: Option<(Segment, File)>,
}

impl Spool {
    /// Opens the spool, and creates its folder if there is none.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(settings: SpoolSettings) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            |error| OpenError::Io { path, error }
        };
        let folder = &settings.path;
        folder::make(folder).map_err(at(folder))?;
        let mode = folder.metadata().map_err(at(folder))?.permissions().mode();
        if mode & 0o022 != 0 {
            return Err(OpenError::Open(folder.clone()));
        }
        let path = folder.join(folder::LOCK);
        let lock = private().truncate(false).open(&path).map_err(at(&path))?;
        lock_soon(&lock).map_err(|error| match error {
            fs::TryLockError::WouldBlock => OpenError::InUse(folder.clone()),
            fs::TryLockError::Error(error) => at(&path)(error),
        })?;
        let found = FolderContents::read(folder).map_err(at(folder))?;
        let path = folder.join(folder::ID);
        let id = folder::own_id(&path).map_err(at(&path))?;
        Ok(Self(Arc::new(SpoolInner {
            id,
            active: Mutex::new(Active {
                next: found.next,
                segment: None,
            }),
            bytes: AtomicU64::new(found.segments.iter().map(|s| s.bytes).sum()),
            closed: Mutex::new(found.segments.into()),
            quarantined_bytes: AtomicU64::new(found.quarantined_bytes),
            disk_works: AtomicBool::new(true),
            active_since: Mutex::default(),
            appended: Notify::new(),
            settings,
            _lock: lock,
        })))
    }

    /// The id it got when its folder was created.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0.settings.path
    }

    /// The most bytes that it may hold, quarantined ones included.
    pub fn max_bytes(&self) -> u64 {
        self.0.settings.max_bytes
    }

    /// How long the oldest segment has been waiting; zero if there is none. Waits for no disk.
    pub fn oldest_age(&self) -> Duration {
        let closed = self.0.closed().front().map(|segment| segment.since);
        let since = closed.or_else(|| *self.0.active_since());
        // A clock that was set back makes it young.
        since.map_or(Duration::ZERO, |since| since.elapsed().unwrap_or_default())
    }

    /// Makes callbacks durable. Blocks on the disk.
    ///
    /// # Errors
    /// [`AppendError`]; some of the callbacks may still come out of the spool.
    pub fn append<'r>(
        &self,
        callbacks: impl Iterator<Item = &'r Received>,
    ) -> Result<(), AppendError> {
        let appended = self.0.append(callbacks);
        if !matches!(appended, Err(AppendError::Full(_))) {
            self.0.disk_works.store(appended.is_ok(), Ordering::Relaxed);
        }
        self.0.appended.notify_one();
        appended
    }

    /// Whether MongoDB at this place has confirmed a write to a service with this spool, in this process or before.
    pub fn has_confirmed(&self, place: &str) -> bool {
        let path = self.path().join(folder::CONFIRMED);
        fs::read_to_string(path).is_ok_and(|found| found == place)
    }

    /// Records that it has. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note_confirmed(&self, place: &str) -> io::Result<()> {
        if self.has_confirmed(place) {
            return Ok(());
        }
        let path = self.path().join(folder::CONFIRMED);
        let mut file = private().truncate(true).open(path)?;
        file.write_all(place.as_bytes())?;
        file.sync_all()?;
        sync_folder(self.path())
    }

    /// Records that the disk does not answer.
    pub fn disk_hangs(&self) {
        self.0.disk_works.store(false, Ordering::Relaxed);
    }

    /// Checks with a small write whether the disk works again. Blocks on it.
    pub fn try_disk(&self) {
        let path = self.0.settings.path.join(folder::TRIAL);
        let tried = private().truncate(true).open(&path).and_then(|mut file| {
            file.write_all(&[0; LEAST_FREE as usize])?;
            file.sync_all()
        });
        let _ = fs::remove_file(&path);
        self.0.disk_works.store(tried.is_ok(), Ordering::Relaxed);
    }

    /// What it holds, and whether it can hold more.
    pub fn status(&self) -> Status {
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        let quarantined_bytes = self.0.quarantined_bytes.load(Ordering::Relaxed);
        let is_below_limit = bytes + quarantined_bytes + LEAST_FREE <= self.0.settings.max_bytes;
        Status {
            bytes,
            quarantined_bytes,
            is_writable: is_below_limit && self.0.disk_works.load(Ordering::Relaxed),
        }
    }

    /// Waits until something is appended, if nothing was since the last wait.
    pub async fn appended(&self) {
        self.0.appended.notified().await;
    }

    /// The oldest segment, closed; `None` when the spool is empty. May block on a running append.
    pub fn oldest(&self) -> Option<Segment> {
        if let Some(segment) = self.0.closed().front() {
            return Some(segment.clone());
        }
        self.0.close(&mut self.0.active());
        self.0.closed().front().cloned()
    }

    /// Deletes a segment: all of it is in MongoDB.
    ///
    /// # Errors
    /// When the disk refuses; the segment then stays the oldest.
    pub fn remove(&self, segment: &Segment) -> io::Result<()> {
        fs::remove_file(&segment.path)?;
        self.0.forget(segment);
        Ok(())
    }

    /// Drops a segment whose file somebody deleted.
    pub fn forget(&self, segment: &Segment) {
        self.0.forget(segment);
    }

    /// Quarantines these bytes of a segment and deletes the segment: the rest is in MongoDB.
    ///
    /// # Errors
    /// When the disk refuses; the segment then stays the oldest.
    pub fn quarantine(&self, segment: &Segment, bytes: &[u8]) -> io::Result<()> {
        // The file may exist: an earlier try failed, or a process died before it deleted the segment.
        let path = segment.quarantine_path();
        let mut file = private().truncate(true).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_folder(&self.0.settings.path)?;
        self.count_quarantined()?;
        self.remove(segment)
    }

    /// Quarantines the whole file of a segment that the disk cannot read whole: what could be read is in MongoDB.
    ///
    /// # Errors
    /// When the disk refuses; the segment then stays the oldest.
    pub fn quarantine_whole(&self, segment: &Segment) -> io::Result<()> {
        fs::rename(&segment.path, segment.quarantine_path())?;
        self.0.forget(segment);
        // The rename is done, so the segment is in quarantine whether it is counted or not.
        let _ = self.count_quarantined();
        Ok(())
    }

    /// Counts the quarantined bytes again: somebody may have moved files away. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be read; the count then stays as it was.
    pub fn count_quarantined(&self) -> io::Result<()> {
        let bytes = folder::quarantined_bytes(&self.0.settings.path)?;
        self.0.quarantined_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Tries for an instant, since the doctor holds a shared lock for one to find out whether a service runs.
fn lock_soon(lock: &File) -> Result<(), fs::TryLockError> {
    for _ in 0..10 {
        match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            locked => return locked,
        }
    }
    lock.try_lock()
}

impl SpoolInner {
    // A panic under one of these locks leaves no state that is unsafe to go on with.
    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active_since(&self) -> MutexGuard<'_, Option<SystemTime>> {
        let since = self.active_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> MutexGuard<'_, VecDeque<Segment>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append<'r>(&self, callbacks: impl Iterator<Item = &'r Received>) -> Result<(), AppendError> {
        let mut active = self.active();
        let is_large = |(segment, _): &(Segment, File)| segment.bytes >= SEGMENT_BYTES;
        if active.segment.as_ref().is_some_and(is_large) {
            self.close(&mut active);
        }
        let salt = match &active.segment {
            Some((segment, _)) => segment.salt,
            None => Salt::random()?,
        };
        let mut frames = Vec::new();
        callbacks.for_each(|received| write(received, salt, &mut frames));
        let length = frames.len() as u64;
        let held =
            self.bytes.load(Ordering::Relaxed) + self.quarantined_bytes.load(Ordering::Relaxed);
        if held + length > self.settings.max_bytes {
            return Err(AppendError::Full(held));
        }
        if active.segment.is_none() {
            active.segment = Some(self.begin(active.next, salt)?);
            active.next += 1;
            *self.active_since() = active.segment.as_ref().map(|(segment, _)| segment.since);
        }
        let Some((segment, file)) = &mut active.segment else {
            unreachable!("a segment was begun above");
        };
        let written = file.write_all(&frames).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Frees the space, and keeps frames that were not acknowledged from looking like damage.
            let _ = file.set_len(segment.bytes);
            self.close(&mut active);
            return Err(error.into());
        }
        segment.bytes += length;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&self, number: u64, salt: Salt) -> io::Result<(Segment, File)> {
        let segment = Segment::new(&self.settings.path, number, salt);
        let file = private().create_new(true).open(&segment.path)?;
        if let Err(error) = sync_folder(&self.settings.path) {
            let _ = fs::remove_file(&segment.path);
            return Err(error);
        }
        Ok((segment, file))
    }

    /// Closes the active segment.
    fn close(&self, active: &mut Active) {
        match active.segment.take() {
            Some((segment, _)) if segment.bytes > 0 => self.closed().push_back(segment),
            Some((segment, _)) => {
                // Nothing in it was acknowledged, and the next start would read it.
                let _ = fs::remove_file(&segment.path);
            }
            None => {}
        }
        *self.active_since() = None;
    }

    fn forget(&self, segment: &Segment) {
        self.closed().retain(|closed| closed.path != segment.path);
        self.bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
    }
}
