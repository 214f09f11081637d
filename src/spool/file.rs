//! A segment's file: its name, and how it is read from a disk that may fail.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::segment::{Reader, Salt};

const SEGMENT_END: &str = ".v2.spool";
/// Of segments that version 1 wrote.
const SEGMENT_END_1: &str = ".v1.spool";
const DAMAGED_END: &str = ".damaged";

/// The system's number for a disk that fails.
const EIO: i32 = 5;

/// A segment's file.
#[derive(Debug, Clone)]
pub struct Segment {
    pub(super) path: PathBuf,
    pub(super) salt: Salt,
    /// The bytes acknowledged; for a segment found at the start, its size.
    pub(super) bytes: u64,
    /// When it was begun.
    pub(super) since: SystemTime,
}

impl Segment {
    /// A new segment in a folder.
    pub(super) fn new(folder: &Path, number: u64, salt: Salt) -> Self {
        let name = format!("{number:020}-{}{SEGMENT_END}", salt.to_hex());
        Self {
            path: folder.join(name),
            salt,
            bytes: 0,
            since: SystemTime::now(),
        }
    }

    /// Reads the segment, and says whether the disk returned all of it.
    ///
    /// # Errors
    /// When it cannot be read for any reason but lost blocks, which are read as zeros.
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

    /// The salt of its frames' digests.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// The file that its quarantined bytes go to.
    pub(super) fn quarantine_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(DAMAGED_END);
        path.into()
    }

    /// The name of its file, for logs.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Reads a file block by block, with zeros in place of blocks that the disk has lost.
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

/// The salt in the name of a segment's file; `None` where the name is no segment's.
pub fn salt_of(name: &str) -> Option<Salt> {
    let ends = [SEGMENT_END, SEGMENT_END_1];
    let stem = ends.iter().find_map(|end| name.strip_suffix(end))?;
    let (_, salt) = stem.split_once('-')?;
    Salt::from_hex(salt)
}

/// Whether a file of this name is in quarantine.
pub fn is_quarantined(name: &str) -> bool {
    name.ends_with(DAMAGED_END)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn lost_blocks_are_zeros_and_the_rest_is_read() {
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
        // Any other error may be temporary, and says nothing about the data.
        const EACCES: i32 = 13;
        assert!(read(Some(0), EACCES).is_err());
    }
}
