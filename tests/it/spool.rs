//! The spool's crash model: whatever is cut off or flipped in its files, what was fsynced and is whole comes
//! back, and every other byte is reported; `tests/properties` tries any damage. Also: its limit, a full disk,
//! and two processes at one folder.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[path = "../properties/segment.rs"]
mod segment;

use im_callback::callback::{ProviderName, Received};
use im_callback::spool::{
    AppendError, Damage, OpenError, SEGMENT_BYTES, Salt, Spool, SpoolSettings,
};

use crate::support::disk::SmallDisk;
use segment::{check, received, same, segment_of};

fn callbacks(number: usize) -> Vec<Received> {
    let body = |n: usize| format!(r#"{{"eventType":"1","msgidServer":"{n}","body":"你好 {n}"}}"#);
    (0..number)
        .map(|n| received(n, body(n).as_bytes()))
        .collect()
}

fn spool(folder: &Path) -> Spool {
    spool_of(folder, 64 * SEGMENT_BYTES)
}

fn spool_of(folder: &Path, max_bytes: u64) -> Spool {
    let path = folder.to_owned();
    Spool::open(SpoolSettings { path, max_bytes }).unwrap()
}

/// Everything that comes out of a spool, and the damage; the segments are removed.
fn emptied(spool: &Spool) -> (Vec<Received>, Vec<Damage>) {
    let (mut callbacks, mut damage) = (Vec::new(), Vec::new());
    while let Some(segment) = spool.oldest() {
        for read in segment.read().unwrap().0 {
            match read {
                Ok(received) => callbacks.push(received),
                Err(found) => damage.push(found),
            }
        }
        spool.remove(&segment).unwrap();
    }
    (callbacks, damage)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "spool"))
        .collect();
    found.sort();
    found
}

fn salted_segment_of(callbacks: &[Received]) -> (Vec<u8>, Salt, Vec<Range<usize>>) {
    let salt = Salt::random().unwrap();
    let (bytes, frames) = segment_of(callbacks, salt);
    (bytes, salt, frames)
}

#[test]
fn what_was_appended_comes_back_also_to_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/spool");
    let all = callbacks(100);
    let first = spool(&path);
    for batch in all.chunks(7) {
        first.append(batch.iter()).unwrap();
    }
    let held = first.status().bytes;
    drop(first);
    let second = spool(&path);
    assert_eq!(second.status().bytes, held);
    second.append(callbacks(5).iter()).unwrap();
    let (found, damage) = emptied(&second);
    assert!(damage.is_empty());
    assert_eq!(found.len(), 105);
    assert!(
        found
            .iter()
            .zip(all.iter().chain(&callbacks(5)))
            .all(|(a, b)| same(a, b))
    );
    assert_eq!(second.status().bytes, 0);
    assert!(segments(&path).is_empty());
}

/// A crash while the last records were written leaves any part of them.
#[test]
fn a_segment_cut_at_any_byte_gives_what_is_whole_and_reports_the_rest() {
    let all = callbacks(20);
    let (bytes, salt, frames) = salted_segment_of(&all);
    for cut in 0..=bytes.len() {
        let whole: Vec<_> = all
            .iter()
            .zip(&frames)
            .filter(|(_, f)| f.end <= cut)
            .map(|(c, _)| c)
            .collect();
        check(&bytes[..cut], salt, &whole);
        // The same where the file's length was written before its bytes.
        let mut zeros = bytes.clone();
        zeros[cut..].fill(0);
        check(&zeros, salt, &whole);
    }
}

#[test]
fn a_flipped_bit_costs_its_own_record_only() {
    let all = callbacks(12);
    let (bytes, salt, frames) = salted_segment_of(&all);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let whole: Vec<_> = all
            .iter()
            .zip(&frames)
            .filter(|(_, f)| !f.contains(&(bit / 8)))
            .map(|(c, _)| c)
            .collect();
        check(&flipped, salt, &whole);
    }
}

/// Whoever writes messages could write a frame into one.
#[test]
fn a_frame_inside_of_a_message_is_not_read_as_one() {
    let (forged, _, _) = salted_segment_of(&callbacks(1));
    let all = [received(1, &forged), received(2, b"{}")];
    let (mut bytes, salt, frames) = salted_segment_of(&all);
    check(&bytes, salt, &[&all[0], &all[1]]);
    // Even where the frame around it is damaged.
    bytes[frames[0].start] ^= 1;
    check(&bytes, salt, &[&all[1]]);
}

#[test]
fn segments_end_at_their_size_and_are_given_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool(folder.path());
    let body = vec![b'x'; 1024 * 1024];
    for n in 0..10 {
        spool.append([received(n, &body)].iter()).unwrap();
    }
    assert_eq!(segments(folder.path()).len(), 3);
    let (found, _) = emptied(&spool);
    let times: Vec<_> = found.iter().map(|r| r.origin.received_at).collect();
    assert_eq!(times.len(), 10);
    assert!(times.is_sorted());
}

#[test]
fn at_its_limit_it_refuses_and_takes_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let spool = spool_of(folder.path(), SEGMENT_BYTES);
    let body = vec![b'x'; 1024 * 1024];
    let append = |n: usize| spool.append([received(n, &body)].iter());
    let taken = (0..6).take_while(|n| append(*n).is_ok()).count();
    assert_eq!(taken, 3);
    assert!(matches!(append(9), Err(AppendError::Full(_))));
    // Smaller ones still fit, and nothing of the refused ones is there.
    assert!(spool.status().is_writable);
    let small = |n: usize| spool.append([received(n, &body[..50_000])].iter());
    let more = (10..100).take_while(|n| small(*n).is_ok()).count();
    assert!(!spool.status().is_writable);
    assert_eq!(emptied(&spool).0.len(), 3 + more);
    assert!(spool.status().is_writable);
    append(8).unwrap();
}

#[test]
fn a_full_disk_is_refused_without_harm_and_taken_again_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let spool = spool(&disk.path().join("spool"));
    let body = vec![b'x'; 100 * 1024];
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![0; 500 * 1024]).unwrap();
    let append = |n: usize| spool.append([received(n, &body)].iter());
    let taken = (0..20).take_while(|n| append(*n).is_ok()).count();
    assert!((2..=6).contains(&taken), "{taken}");
    for n in 0..5 {
        assert!(matches!(append(n), Err(AppendError::Io(_))));
    }
    fs::remove_file(&filler).unwrap();
    append(50).unwrap();
    let (found, damage) = emptied(&spool);
    assert_eq!((found.len(), damage), (taken + 1, Vec::new()));
}

#[test]
fn a_damaged_segment_is_quarantined_and_counts_towards_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    spool(folder.path()).append(callbacks(3).iter()).unwrap();
    let [file] = &segments(folder.path())[..] else {
        panic!()
    };
    let mut damaged = OpenOptions::new().write(true).open(file).unwrap();
    damaged.seek(SeekFrom::Start(30)).unwrap();
    damaged.write_all(b"damage").unwrap();
    let length = file.metadata().unwrap().len();

    let open = spool(folder.path());
    let segment = open.oldest().unwrap();
    let (mut reader, is_all) = segment.read().unwrap();
    assert!(is_all);
    let Some(Err(damage)) = reader.next() else {
        panic!()
    };
    let aside = reader.damaged(&damage);
    assert_eq!(reader.filter(Result::is_ok).count(), 2);
    // After a process that died before it deleted the segment, and a try that failed half-way.
    let path = file.with_extension("spool.damaged");
    fs::write(&path, b"of an earlier time").unwrap();
    drop(open);
    let open = spool(folder.path());
    fs::write(&path, vec![0; 10_000]).unwrap();
    open.quarantine(&segment, &aside).unwrap();
    assert!(open.oldest().is_none());
    let held = aside.len() as u64;
    assert!(held < length / 2);
    assert_eq!(fs::read(&path).unwrap(), aside);
    let status = open.status();
    assert_eq!((status.bytes, status.quarantined_bytes), (0, held));
    drop(open);
    let open = spool(folder.path());
    assert_eq!(open.status().quarantined_bytes, held);
    // Somebody looks at it, and frees its bytes.
    fs::rename(&path, path.with_extension("looked-at")).unwrap();
    open.count_quarantined().unwrap();
    assert_eq!(open.status().quarantined_bytes, 0);
    // Its number is not given again.
    open.append(callbacks(1).iter()).unwrap();
    assert!(segments(folder.path())[0].file_name() > file.file_name());
}

#[test]
fn a_second_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = spool(folder.path());
    let settings = SpoolSettings {
        path: folder.path().to_owned(),
        max_bytes: SEGMENT_BYTES,
    };
    let refused = Spool::open(settings.clone()).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    assert!(refused.to_string().contains("spool.path"), "{refused}");
    drop(first);
    assert!(Spool::open(settings).is_ok());
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let settings = |path: &Path| SpoolSettings {
        path: path.to_owned(),
        max_bytes: SEGMENT_BYTES,
    };
    let refused = Spool::open(settings(folder.path())).err().unwrap();
    assert!(matches!(refused, OpenError::Open(_)), "{refused}");
    assert!(refused.to_string().contains("chmod 0700"), "{refused}");
    assert!(Spool::open(settings(&folder.path().join("own"))).is_ok());
}

#[test]
fn its_files_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let spool = spool(&path);
    spool.append(callbacks(1).iter()).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&segments(&path)[0])), (0o700, 0o600));
}

/// A segment that version 1 wrote; its bytes were made by a program of their own, after the format's description.
#[test]
fn what_version_1_wrote_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    drop(spool(&path));
    let name = "00000000000000000007-000102030405060708090a0b0c0d0e0f.v1.spool";
    let made = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/spool")
        .join(name);
    fs::copy(made, path.join(name)).unwrap();
    let spool = spool(&path);
    spool.append(callbacks(1).iter()).unwrap();
    assert!(
        segments(&path)[1]
            .to_string_lossy()
            .contains("/00000000000000000008-")
    );
    let (found, damage) = emptied(&spool);
    assert!(damage.is_empty(), "{damage:?}");
    let seen: Vec<_> = found
        .iter()
        .map(|r| {
            let origin = &r.origin;
            let is_rtc = r.envelope.header("type") == Some("RTC");
            (origin.provider, origin.received_at.get(), is_rtc)
        })
        .collect();
    let netease = ProviderName::Netease;
    assert_eq!(
        seen[..3],
        [
            (netease, 1_700_000_000_500, false),
            (netease, 1_700_000_000_600, true),
            (netease, 1_700_000_000_700, false),
        ]
    );
    assert_eq!(found.len(), 4);
    assert!(found[0].body.starts_with(b"{\"eventType\": 1"));
    assert!(found[2].body.ends_with(b"}"));
}
