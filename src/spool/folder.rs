//! The spool's folder: made private and durable, and looked over at the start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::file::{Segment, is_quarantined, salt_of};
use super::segment::Salt;

/// Locked while a process uses the folder.
pub const LOCK: &str = "lock";
/// Written to find out whether the disk works. So are others whose names begin so.
pub const TRIAL: &str = "trial";
/// Holds the spool's id.
pub const ID: &str = "id";

/// Says that MongoDB has confirmed a write to a service with this spool, and which MongoDB.
pub const CONFIRMED: &str = "confirmed";

/// Creates a private folder, durably, with its missing parents.
pub fn make(folder: &Path) -> io::Result<()> {
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

/// Reads the spool's id, or creates one.
pub fn own_id(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(id) if Salt::from_hex(&id).is_some() => return Ok(id),
        Ok(_) => tracing::warn!("the id of the spool is damaged; it gets a new one"),
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
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Options for a file that only its owner may read.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// What the folder holds at the start.
pub struct FolderContents {
    /// Oldest first.
    pub segments: Vec<Segment>,
    pub quarantined_bytes: u64,
    /// The number of the next segment.
    pub next: u64,
}

impl FolderContents {
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut found = Self {
            segments: Vec::new(),
            quarantined_bytes: 0,
            next: 1,
        };
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // A service may store and remove a segment while the doctor looks.
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let (path, bytes) = (entry.path(), metadata.len());
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.split('-').next().and_then(|n| n.parse::<u64>().ok());
            found.next = found.next.max(number.map_or(1, |n| n.saturating_add(1)));
            if let Some(salt) = salt_of(&name) {
                // A copy is created later than it was last written, and not every file system knows when.
                let modified = metadata.modified()?;
                let since = metadata
                    .created()
                    .map_or(modified, |created| created.min(modified));
                found.segments.push(Segment {
                    path,
                    salt,
                    bytes,
                    since,
                });
            } else if is_quarantined(&name) {
                tracing::error!(
                    file = name,
                    bytes,
                    "quarantined bytes of the spool wait for a person to look at them"
                );
                found.quarantined_bytes += bytes;
            } else if ![LOCK, ID, CONFIRMED].contains(&name.as_str()) && !name.starts_with(TRIAL) {
                tracing::error!(
                    file = name,
                    bytes,
                    "a file in the spool is not of this version"
                );
            }
        }
        // The number comes first and is padded, so names sort by age.
        found.segments.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// The bytes of all files in quarantine.
pub fn quarantined_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_quarantined(&entry.file_name().to_string_lossy()) {
            match entry.metadata() {
                Ok(metadata) => bytes += metadata.len(),
                // It was moved away just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}
