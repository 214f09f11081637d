//! What the spool's reader must make of any bytes. Shared by the tests of the spool and its fuzz target.

use std::ops::Range;

use bytes::Bytes;
use im_callback::callback::ids::{AppName, Millis};
use im_callback::callback::{Envelope, Origin, ProviderName, Received};
use im_callback::spool::{Damage, Reader, Salt, write};

pub fn received(n: usize, body: &[u8]) -> Received {
    let envelope = Envelope {
        route: ["", "user/online", "消息"][n % 3].into(),
        query: ["", "a=b&c"][n / 3 % 2].into(),
        headers: Vec::new(),
    };
    Received {
        origin: Origin {
            app: AppName::new(format!("app{}", n % 3)).unwrap(),
            provider: ProviderName::ALL[n % 4],
            received_at: Millis::nearest(1_700_000_000_000 + n as i64),
        },
        envelope: envelope
            .with_header("type", (n % 2 == 1).then_some("RTC"))
            .with_header("empty", (n % 5 == 1).then_some("")),
        body: Bytes::copy_from_slice(body),
    }
}

/// A segment's bytes, and where each callback's frame is.
pub fn segment_of(callbacks: &[Received], salt: Salt) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    for callback in callbacks {
        let from = bytes.len();
        write(callback, salt, &mut bytes);
        frames.push(from..bytes.len());
    }
    (bytes, frames)
}

pub fn same(a: &Received, b: &Received) -> bool {
    a.origin == b.origin && a.envelope == b.envelope && a.body == b.body
}

/// Reads any bytes: what comes back is what stands there, and every other byte is reported, once, in order.
#[track_caller]
pub fn read(bytes: &[u8], salt: Salt) -> Vec<Received> {
    let mut callbacks = Vec::new();
    let mut at = 0;
    for read in Reader::new(Bytes::copy_from_slice(bytes), salt) {
        match read {
            Ok(received) => {
                let mut frame = Vec::new();
                write(&received, salt, &mut frame);
                assert!(bytes[at..].starts_with(&frame), "a frame that is not there");
                at += frame.len();
                callbacks.push(received);
            }
            Err(Damage(range)) => {
                assert_eq!(range.start, at, "bytes accounted for");
                assert!(!range.is_empty());
                at = range.end;
            }
        }
    }
    assert_eq!(at, bytes.len(), "bytes accounted for");
    callbacks
}

/// Checks what is read of bytes that were a segment: the callbacks whose frames are whole, those only, in
/// order; and every other byte reported, once.
#[track_caller]
pub fn check(bytes: &[u8], salt: Salt, expected: &[&Received]) {
    let callbacks = read(bytes, salt);
    assert_eq!(callbacks.len(), expected.len(), "callbacks that came back");
    assert!(callbacks.iter().zip(expected).all(|(a, b)| same(a, b)));
}
