//! The spool: a local, fsynced queue that takes callbacks while MongoDB cannot.
//!
//! # Promise
//! When [`Spool::append`] returns `Ok`, the callbacks are on this machine's disk, and come back from
//! [`Segment::read`] until [`Spool::remove`] is called, whatever kills the process or the machine in
//! between, as long as the disk keeps what it acknowledged. What is damaged on the disk is told apart from
//! what is not, byte by byte: it is never served, and never deleted.
//!
//! # Constraints
//! - A callback is in the spool at least once, and may come out more than once: every effect in MongoDB is
//!   idempotent. So nothing is recorded about how far a segment was read; it is deleted when all of it
//!   is in MongoDB, and read anew when the process died before that.
//! - Order does not matter, for the same reason. Segments are read oldest first all the same.
//! - Records hold the bytes that were verified, not what was made of them, so that a newer version decodes
//!   them by its own lights.
//!
//! # Format
//! A folder of segments, `{number}-{salt}.v1.spool`, each of some [`SEGMENT_BYTES`]; their bytes are described in
//! `segment.rs`. A file `lock` is locked while a process uses the folder, and a file `id` holds the name by which the
//! instances know it. Files and folder are the
//! user's own: bodies hold what people wrote.
//!
//! # Operations
//! - *Append*: the frames of a batch go to the active segment in one write and one fsync. A segment that is
//!   new has its name fsynced, too. When either fails, the segment is cut back to what was acknowledged and
//!   closed for good: after a failed fsync nobody knows what the system still holds of it, so it is not
//!   asked again.
//! - *Drain*: [`Spool::oldest`] gives the oldest closed segment, and closes the active one when there is no
//!   other. A process never appends to a segment it finds at its start.
//! - *Set aside*: the bytes of a segment that are no frame, and the frames of callbacks that cannot be stored in
//!   any form, go to a file of the segment's name and `.damaged` once all else of it is in MongoDB, and errors
//!   in the log say what and why. Where the disk cannot read all of a segment, the whole file is renamed so.
//!   It counts towards the limit until somebody has looked at it and deleted it. Renamed back while the
//!   service is stopped, it is tried again at the start.
//!
//! # What can be lost
//! Nothing that was acknowledged, but by the disk itself. A process that dies within an append leaves a torn
//! frame, which nobody was promised; it is set aside like any other damage, since a spool cannot know.
//!
//! # Why not an embedded database
//! See `docs/spool.md`: it was tried by experiment.

mod segment;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::store::Received;

pub use segment::{Damage, Reader, Salt, write};

/// The size from which on a segment is closed and the next one begun. Small enough to be read whole.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

const SEGMENT_END: &str = ".v1.spool";
const DAMAGED_END: &str = ".damaged";
/// Written to find out whether the disk takes anything.
const TRIAL: &str = "trial";
/// Holds the spool's id.
const ID: &str = "id";
/// Room for a few callbacks. With less of it, in the spool or on the disk, nothing more counts as taken.
const ROOM: u64 = 64 * 1024;

/// Where the spool is, and how large it may grow.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its folder.
    pub path: PathBuf,
    /// The most bytes in it, what is set aside included.
    pub max_bytes: u64,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process uses the spool {}; give each its own spool.path", .0.display())]
    InUse(PathBuf),
    /// Others may write to the folder, so they could forge what comes out of it.
    #[error(
        "others may write to the spool {}; let spool.path name a folder in it, which is then made, or `chmod 0700` it",
        .0.display()
    )]
    Open(PathBuf),
    /// The folder cannot be made, read or locked.
    #[error("cannot use the spool {}: {error}", path.display())]
    Io {
        /// The folder or the file at fault.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Why callbacks are not in the spool.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It would grow beyond its limit.
    #[error("the spool is full ({0} bytes; spool.max_bytes)")]
    Full(u64),
    /// The disk is full, or failed.
    #[error("the spool cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes on their way into MongoDB.
    pub bytes: u64,
    /// Bytes of damaged segments that wait for somebody to look at them.
    pub set_aside_bytes: u64,
    /// Whether there is room, and the disk took what it was given last.
    pub takes: bool,
}

/// The spool of this process. Cheap to clone.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// By which the instances know it, wherever its folder goes.
    id: String,
    /// The segment that is written to. Held while the disk works.
    active: Mutex<Active>,
    /// Closed segments, oldest first. Held for a moment only.
    closed: Mutex<VecDeque<Segment>>,
    bytes: AtomicU64,
    set_aside_bytes: AtomicU64,
    disk_takes: AtomicBool,
    appended: Notify,
    /// Locked as long as it is open.
    _lock: File,
}

struct Active {
    /// The number of the next segment.
    next: u64,
    segment: Option<(Segment, File)>,
}

/// A file of the spool.
#[derive(Debug, Clone)]
pub struct Segment {
    path: PathBuf,
    salt: Salt,
    /// What was acknowledged of it; for a segment found at the start, its size.
    bytes: u64,
}

impl Segment {
    /// Reads it, and says whether the disk gave all of it.
    ///
    /// # Errors
    /// When it cannot be read, for another reason than that the disk has lost a part of it.
    pub fn read(&self) -> io::Result<(Reader, bool)> {
        let (bytes, is_all) = match fs::read(&self.path) {
            Err(error) if error.raw_os_error() == Some(EIO) => {
                let file = File::open(&self.path)?;
                let length = file.metadata()?.len();
                let bytes = around_lost_blocks(length, |block, at| file.read_exact_at(block, at))?;
                (bytes, false)
            }
            bytes => (bytes?, true),
        };
        Ok((Reader::new(bytes.into(), self.salt), is_all))
    }

    /// What its frames are made with.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    fn set_aside_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(DAMAGED_END);
        path.into()
    }

    /// Its file's name, for people.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The system's number for a disk that fails.
const EIO: i32 = 5;

/// Reads a file block by block. Those that the disk has lost are zeros.
fn around_lost_blocks(
    length: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 4096;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    for (n, block) in bytes.chunks_mut(BLOCK).enumerate() {
        match read(block, (n * BLOCK) as u64) {
            Err(error) if error.raw_os_error() == Some(EIO) => block.fill(0),
            read => read?,
        }
    }
    Ok(bytes)
}

impl Spool {
    /// Opens the spool, making its folder if there is none.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            |error| OpenError::Io { path, error }
        };
        let folder = &settings.path;
        make(folder).map_err(at(folder))?;
        let mode = folder.metadata().map_err(at(folder))?.permissions().mode();
        if mode & 0o022 != 0 {
            return Err(OpenError::Open(folder.clone()));
        }
        let path = folder.join("lock");
        let lock = private().truncate(false).open(&path).map_err(at(&path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => OpenError::InUse(folder.clone()),
            fs::TryLockError::Error(error) => at(&path)(error),
        })?;
        let found = Found::in_folder(folder).map_err(at(folder))?;
        let path = folder.join(ID);
        let id = own_id(&path).map_err(at(&path))?;
        Ok(Self(Arc::new(Inner {
            id,
            active: Mutex::new(Active {
                next: found.next,
                segment: None,
            }),
            bytes: AtomicU64::new(found.segments.iter().map(|s| s.bytes).sum()),
            closed: Mutex::new(found.segments.into()),
            set_aside_bytes: AtomicU64::new(found.set_aside_bytes),
            disk_takes: AtomicBool::new(true),
            appended: Notify::new(),
            settings,
            _lock: lock,
        })))
    }

    /// The id that it has had since its folder was made.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0.settings.path
    }

    /// Makes callbacks durable. Blocks on the disk.
    ///
    /// # Errors
    /// [`AppendError`]; then perhaps some of them come out of the spool all the same.
    pub fn append<'r>(
        &self,
        callbacks: impl Iterator<Item = &'r Received>,
    ) -> Result<(), AppendError> {
        let appended = self.0.append(callbacks);
        if !matches!(appended, Err(AppendError::Full(_))) {
            self.0.disk_takes.store(appended.is_ok(), Ordering::Relaxed);
        }
        self.0.appended.notify_one();
        appended
    }

    /// Notes that the disk does not answer.
    pub fn disk_hangs(&self) {
        self.0.disk_takes.store(false, Ordering::Relaxed);
    }

    /// Finds out whether the disk takes some bytes again. Blocks on it.
    pub fn try_disk(&self) {
        let path = self.0.settings.path.join(TRIAL);
        let tried = private().truncate(true).open(&path).and_then(|mut file| {
            file.write_all(&[0; ROOM as usize])?;
            file.sync_all()
        });
        let _ = fs::remove_file(&path);
        self.0.disk_takes.store(tried.is_ok(), Ordering::Relaxed);
    }

    /// What is in it.
    pub fn status(&self) -> Status {
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        let set_aside_bytes = self.0.set_aside_bytes.load(Ordering::Relaxed);
        let has_room = bytes + set_aside_bytes + ROOM <= self.0.settings.max_bytes;
        Status {
            bytes,
            set_aside_bytes,
            takes: has_room && self.0.disk_takes.load(Ordering::Relaxed),
        }
    }

    /// Waits until something was appended since the last wait.
    pub async fn appended(&self) {
        self.0.appended.notified().await;
    }

    /// The oldest segment, closed. `None` when the spool is empty. May block on an append under way.
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
    /// When the disk refuses; the segment then is still the oldest.
    pub fn remove(&self, segment: &Segment) -> io::Result<()> {
        fs::remove_file(&segment.path)?;
        self.0.forget(segment);
        Ok(())
    }

    /// Knows a segment no longer whose file is gone.
    pub fn forget(&self, segment: &Segment) {
        self.0.forget(segment);
    }

    /// Deletes a segment but for these bytes: all else is in MongoDB.
    ///
    /// # Errors
    /// When the disk refuses; the segment then is still the oldest.
    pub fn set_aside(&self, segment: &Segment, bytes: &[u8]) -> io::Result<()> {
        // Perhaps over what a try left that failed, or a process that died before it deleted the segment.
        let path = segment.set_aside_path();
        let mut file = private().truncate(true).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_folder(&self.0.settings.path)?;
        self.0.count_set_aside()?;
        self.remove(segment)
    }

    /// Renames a segment that the disk cannot read whole: all that could be read is in MongoDB.
    ///
    /// # Errors
    /// When the disk refuses; the segment then is still the oldest.
    pub fn set_all_aside(&self, segment: &Segment) -> io::Result<()> {
        fs::rename(&segment.path, segment.set_aside_path())?;
        self.0.forget(segment);
        // It is aside all the same.
        let _ = self.0.count_set_aside();
        Ok(())
    }
}

impl Inner {
    // A panic while one of these was held cannot leave them half-changed in a way that matters.
    fn active(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.bytes.load(Ordering::Relaxed) + self.set_aside_bytes.load(Ordering::Relaxed);
        if held + length > self.settings.max_bytes {
            return Err(AppendError::Full(held));
        }
        if active.segment.is_none() {
            active.segment = Some(self.begin(active.next, salt)?);
            active.next += 1;
        }
        let Some((segment, file)) = &mut active.segment else {
            unreachable!("a segment was begun above");
        };
        let written = file.write_all(&frames).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // To make room, and so that what nobody was promised is not taken for damage.
            let _ = file.set_len(segment.bytes);
            self.close(&mut active);
            return Err(error.into());
        }
        segment.bytes += length;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn begin(&self, number: u64, salt: Salt) -> io::Result<(Segment, File)> {
        let name = format!("{number:020}-{}{SEGMENT_END}", salt.to_hex());
        let path = self.settings.path.join(name);
        let file = private().create_new(true).open(&path)?;
        if let Err(error) = sync_folder(&self.settings.path) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let segment = Segment {
            path,
            salt,
            bytes: 0,
        };
        Ok((segment, file))
    }

    /// Closes the active segment.
    fn close(&self, active: &mut Active) {
        match active.segment.take() {
            Some((segment, _)) if segment.bytes > 0 => self.closed().push_back(segment),
            Some((segment, _)) => {
                // Nothing in it was acknowledged. Left behind it would be read at the next start.
                let _ = fs::remove_file(&segment.path);
            }
            None => {}
        }
    }

    fn count_set_aside(&self) -> io::Result<()> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.settings.path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(DAMAGED_END) {
                bytes += entry.metadata()?.len();
            }
        }
        self.set_aside_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn forget(&self, segment: &Segment) {
        self.closed().retain(|closed| closed.path != segment.path);
        self.bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
    }
}

/// Makes a folder that is its owner's alone, and durable, with those above it that are missing.
fn make(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        let parent = match folder.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        make(parent)?;
        DirBuilder::new().mode(0o700).create(folder)?;
        sync_folder(parent)?;
    }
    Ok(())
}

/// Reads the spool's id, or gives it one.
fn own_id(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(id) if Salt::from_hex(&id).is_some() => return Ok(id),
        Ok(_) => tracing::warn!("the id of the spool is damaged; it has a new one"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = Salt::random()?.to_hex();
    let mut file = private().truncate(true).open(path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    sync_folder(path.parent().unwrap_or(path))?;
    Ok(id)
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// What a folder holds when a process comes to it.
struct Found {
    segments: Vec<Segment>,
    set_aside_bytes: u64,
    next: u64,
}

impl Found {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let mut found = Self {
            segments: Vec::new(),
            set_aside_bytes: 0,
            next: 1,
        };
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, bytes) = (entry.path(), entry.metadata()?.len());
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.split('-').next().and_then(|n| n.parse::<u64>().ok());
            found.next = found.next.max(number.map_or(1, |n| n.saturating_add(1)));
            if let Some(salt) = salt_of(&name) {
                found.segments.push(Segment { path, salt, bytes });
            } else if name.ends_with(DAMAGED_END) {
                tracing::error!(
                    file = name,
                    bytes,
                    "a damaged segment waits to be looked at"
                );
                found.set_aside_bytes += bytes;
            } else if !["lock", TRIAL, ID].contains(&name.as_str()) {
                tracing::error!(
                    file = name,
                    bytes,
                    "a file in the spool is none of this version's"
                );
            }
        }
        // The number comes first and is padded, so names sort by age.
        found.segments.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

fn salt_of(name: &str) -> Option<Salt> {
    let (_, salt) = name.strip_suffix(SEGMENT_END)?.split_once('-')?;
    Salt::from_hex(salt)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_has_lost_is_zeros_and_the_rest_is_read() {
        let disk: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
        let read = |lost: Option<u64>, error| {
            around_lost_blocks(disk.len() as u64, |block, at| {
                block.copy_from_slice(&disk[at as usize..][..block.len()]);
                match lost {
                    Some(lost) if lost == at => Err(io::Error::from_raw_os_error(error)),
                    _ => Ok(()),
                }
            })
        };
        assert_eq!(read(None, 0).unwrap(), disk);
        for lost in [0, 4096, 8192] {
            let mut expected = disk.clone();
            let end = disk.len().min(lost + 4096);
            expected[lost..end].fill(0);
            assert_eq!(read(Some(lost as u64), EIO).unwrap(), expected);
        }
        // Any other error may pass, and says nothing of what is on the disk.
        const EACCES: i32 = 13;
        assert!(read(Some(0), EACCES).is_err());
    }
}
