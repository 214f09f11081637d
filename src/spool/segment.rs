//! A segment's format: frames one after the other, written once, read whole.
//!
//! ```text
//! frame   = marker(4) length(4) digest(16) payload(length)
//! payload = receivedAt(8) app provider route query headers(2) { name value } body
//! ```
//! Numbers are little-endian; a text before the body is its length(4) and its bytes; `digest` is the first half
//! of SHA-256 over salt, length and payload. Each segment has a random salt, which is part of the file's name, so
//! damage to the file's bytes cannot change it.
//!
//! The marker says which version wrote a frame. Frames of version 1, which knew only one provider, are still read:
//! their payload is `receivedAt(8) appLength(2) app productLength(4) product body`.
//!
//! A user may write any text, even the bytes of a frame. But nobody can compute a valid digest without the salt, so
//! such bytes are never read as a frame.

use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::callback::ids::{AppName, Millis};
use crate::callback::{Envelope, Origin, ProviderName, Received};

/// Begins a frame. UTF-8 text never contains its first byte, so the next frame is found quickly.
const MARKER: [u8; 4] = [0xfe, b'I', b'2', 0xff];
/// Begins a frame of version 1.
const MARKER_1: [u8; 4] = [0xfe, b'I', b'M', 0xff];
const HEAD: usize = 4 + 4 + 16;
/// Longer than any payload can be: a body is at most 8 MiB.
const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// Random bytes of a segment that go into each frame's digest: without them nobody can make a valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 16]);

impl Salt {
    /// A fresh one.
    ///
    /// # Errors
    /// If the system provides no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Self(salt))
    }

    /// Reads what [`Salt::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut salt = [0; 16];
        hex::decode_to_slice(text, &mut salt).ok()?;
        Some(Self(salt))
    }

    /// 32 lower-case digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    fn digest(self, payload: &[u8]) -> [u8; 16] {
        let whole = Sha256::new()
            .chain_update(self.0)
            .chain_update((payload.len() as u64).to_le_bytes())
            .chain_update(payload)
            .finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        half
    }
}

/// Appends a callback's frame to `bytes`.
pub fn write(received: &Received, salt: Salt, bytes: &mut Vec<u8>) {
    let Received {
        origin,
        envelope,
        body,
    } = received;
    let start = bytes.len();
    bytes.extend([0; HEAD]);
    bytes.extend(origin.received_at.get().to_le_bytes());
    for text in [
        origin.app.as_str(),
        origin.provider.as_str(),
        &envelope.route,
        &envelope.query,
    ] {
        write_text(text, bytes);
    }
    bytes.extend((envelope.headers.len() as u16).to_le_bytes());
    for text in envelope.headers.iter().flat_map(|(n, v)| [n, v]) {
        write_text(text, bytes);
    }
    bytes.extend(&body[..]);
    let digest = salt.digest(&bytes[start + HEAD..]);
    let length = (bytes.len() - start - HEAD) as u32;
    bytes[start..start + 4].copy_from_slice(&MARKER);
    bytes[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    bytes[start + 8..start + HEAD].copy_from_slice(&digest);
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    // The head of a request is far below 4 GiB.
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Reads a segment's frames in order.
pub struct Reader {
    bytes: Bytes,
    salt: Salt,
    at: usize,
}

/// A range of a segment's bytes without a valid frame: it was damaged, or never completely written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage(pub Range<usize>);

impl Reader {
    /// Reads the bytes of a whole segment.
    pub fn new(bytes: Bytes, salt: Salt) -> Self {
        Self { bytes, salt, at: 0 }
    }

    /// The bytes in a damaged range.
    pub fn damaged(&self, damage: &Damage) -> Bytes {
        self.bytes.slice(damage.0.clone())
    }

    /// The frame that begins at `at`, and where it ends.
    fn frame(&self, at: usize) -> Option<(Received, usize)> {
        let head = self.bytes.get(at..at + HEAD)?;
        let read = match head[..4].try_into().ok()? {
            MARKER => payload,
            MARKER_1 => payload_1,
            _ => return None,
        };
        let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        let from = at + HEAD;
        let range = from..from + length.min(MAX_PAYLOAD + 1);
        let bytes = self.bytes.get(range.clone())?;
        if length > MAX_PAYLOAD || self.salt.digest(bytes) != head[8..] {
            return None;
        }
        Some((read(&self.bytes.slice(range))?, from + length))
    }

    fn next_marker(&self, from: usize) -> usize {
        let rest = self.bytes.get(from..).unwrap_or_default();
        let found = rest
            .windows(MARKER.len())
            .position(|w| w == MARKER || w == MARKER_1);
        found.map_or(self.bytes.len(), |n| from + n)
    }
}

impl Iterator for Reader {
    type Item = Result<Received, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        if start >= self.bytes.len() {
            return None;
        }
        if let Some((received, end)) = self.frame(start) {
            self.at = end;
            return Some(Ok(received));
        }
        // Skips the damage: reading continues at the next valid frame.
        let mut next = self.next_marker(start + 1);
        while next < self.bytes.len() && self.frame(next).is_none() {
            next = self.next_marker(next + 1);
        }
        self.at = next;
        Some(Err(Damage(start..next)))
    }
}

/// Reads a payload from its start.
struct Parts<'p>(&'p [u8]);

impl<'p> Parts<'p> {
    fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*part)
    }

    fn text(&mut self, length: usize) -> Option<&'p str> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(part).ok()
    }

    fn sized_text(&mut self) -> Option<&'p str> {
        let length = u32::from_le_bytes(self.fixed()?);
        self.text(length as usize)
    }

    fn time(&mut self) -> Option<Millis> {
        Some(Millis::nearest(i64::from_le_bytes(self.fixed()?)))
    }
}

/// Parses a payload with a valid digest. `None` would mean that another version wrote it.
fn payload(payload: &Bytes) -> Option<Received> {
    let mut parts = Parts(payload);
    let received_at = parts.time()?;
    let app = AppName::new(parts.sized_text()?).ok()?;
    let provider = ProviderName::parse(parts.sized_text()?)?;
    let mut envelope = Envelope {
        route: parts.sized_text()?.into(),
        query: parts.sized_text()?.into(),
        headers: Vec::new(),
    };
    for _ in 0..u16::from_le_bytes(parts.fixed()?) {
        let header = (parts.sized_text()?.into(), parts.sized_text()?.into());
        envelope.headers.push(header);
    }
    Some(Received {
        origin: Origin {
            app,
            provider,
            received_at,
        },
        envelope,
        body: payload.slice_ref(parts.0),
    })
}

/// Parses a payload of version 1, which knew only one provider and one header.
fn payload_1(payload: &Bytes) -> Option<Received> {
    let mut parts = Parts(payload);
    let received_at = parts.time()?;
    let app_length = u16::from_le_bytes(parts.fixed()?);
    let app = AppName::new(parts.text(app_length.into())?).ok()?;
    let product = parts.sized_text()?;
    let product = (!product.is_empty()).then_some(product);
    Some(Received {
        origin: Origin {
            app,
            provider: ProviderName::Netease,
            received_at,
        },
        envelope: Envelope::default().with_header("type", product),
        body: payload.slice_ref(parts.0),
    })
}
