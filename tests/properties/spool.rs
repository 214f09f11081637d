//! Any bytes, and any damage to a segment, are told apart from what is whole.

use im_callback::spool::Salt;

use crate::choices::Choices;
use crate::segment::{check, read, received, segment_of};

pub fn holds(data: &[u8]) {
    let salt = salt_of(data);
    let mut choices = Choices::new(data);
    if choices.once_in(8) {
        read(choices.rest(), salt);
        return;
    }
    let callbacks: Vec<_> = (0..1 + choices.below(8))
        .map(|n| received(n, choices.bytes(100)))
        .collect();
    let (segment, frames) = segment_of(&callbacks, salt);
    let mut bytes = segment.clone();
    for _ in 0..choices.below(6) {
        damage(&mut bytes, &segment, &mut choices);
    }
    // Told from the bytes alone, at each place: is one of the frames here?
    let frames = frames.into_iter().map(|range| &segment[range]);
    let frames: Vec<_> = frames.zip(&callbacks).collect();
    let mut whole = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let here = frames.iter().find(|(f, _)| bytes[at..].starts_with(f));
        whole.extend(here.map(|(_, callback)| *callback));
        at += here.map_or(1, |(frame, _)| frame.len());
    }
    check(&bytes, salt, &whole);
}

fn damage(bytes: &mut Vec<u8>, segment: &[u8], choices: &mut Choices<'_>) {
    let kind = choices.below(7);
    let at = choices.below(bytes.len());
    let end = bytes.len().min(at + 1 + choices.below(300));
    match kind {
        0 if at < bytes.len() => bytes[at] ^= 1 << choices.below(8),
        1 => bytes.truncate(at),
        // The file's length was written, its bytes were not.
        2 => bytes[at..].fill(0),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.extend_from_within(at..end),
        // A frame begins, and does not go on.
        5 => {
            let begun = &segment[..segment.len().min(1 + choices.below(60))];
            bytes.splice(at..at, begun.iter().copied());
        }
        _ => {
            let with = choices.bytes(60);
            bytes.splice(at..at, with.iter().copied());
        }
    }
}

/// A salt that differs with every byte of the input, so that no fuzzer comes to know it.
fn salt_of(data: &[u8]) -> Salt {
    let hash = |seed: u64| {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        data.iter().fold(0xcbf2_9ce4_8422_2325 ^ seed, step)
    };
    Salt::from_hex(&format!("{:016x}{:016x}", hash(0), hash(1))).unwrap()
}
