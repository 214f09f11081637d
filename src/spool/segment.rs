//! A segment's format: frames one after the other, written once, read whole.
//!
//! ```text
//! frame   = marker(4) length(4) digest(16) payload(length)
//! payload = receivedAt(8) appLength(2) app productLength(4) product body
//! ```
//! Numbers are little-endian; `digest` is the first half of SHA-256 over salt, length and payload. The salt
//! is random, one for each segment, and stands in the file's name, out of reach of damage to its bytes.
//!
//! A message's text is whatever a user wrote, perhaps the bytes of a frame. Without the salt nobody can
//! make a digest that is right, so what reads as a frame is one.

use std::ops::Range;

use bytes::Bytes;
use mongodb::bson::DateTime;
use sha2::{Digest, Sha256};

use crate::callback::ids::AppName;
use crate::store::Received;
use crate::store::documents::Origin;

/// Where a frame begins: no text in UTF-8 has such bytes, so looking for the next one is quick.
const MARKER: [u8; 4] = [0xfe, b'I', b'M', 0xff];
const HEAD: usize = 4 + 4 + 16;
/// Longer than any payload can be: a body is at most 8 MiB.
const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// What keeps a segment's frames apart from bytes that only look like them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 16]);

impl Salt {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
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
        product,
        body,
    } = received;
    let app = origin.app.as_str();
    let product = product.as_deref().unwrap_or_default();
    let start = bytes.len();
    bytes.extend([0; HEAD]);
    bytes.extend(origin.received_at.timestamp_millis().to_le_bytes());
    // An app's name has at most 64 bytes, and a header cannot reach 4 GiB.
    bytes.extend((app.len() as u16).to_le_bytes());
    bytes.extend(app.as_bytes());
    bytes.extend((product.len() as u32).to_le_bytes());
    bytes.extend(product.as_bytes());
    bytes.extend(&body[..]);
    let digest = salt.digest(&bytes[start + HEAD..]);
    let length = (bytes.len() - start - HEAD) as u32;
    bytes[start..start + 4].copy_from_slice(&MARKER);
    bytes[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    bytes[start + 8..start + HEAD].copy_from_slice(&digest);
}

/// Reads a segment's frames in order.
pub struct Reader {
    bytes: Bytes,
    salt: Salt,
    at: usize,
}

/// Bytes of a segment that are no frame. What stood there is either damaged or was never written whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage(pub Range<usize>);

impl Reader {
    /// Reads the bytes of a whole segment.
    pub fn new(bytes: Bytes, salt: Salt) -> Self {
        Self { bytes, salt, at: 0 }
    }

    /// The bytes that damage tells of.
    pub fn damaged(&self, damage: &Damage) -> Bytes {
        self.bytes.slice(damage.0.clone())
    }

    /// The frame that begins at `at`, and where it ends.
    fn frame(&self, at: usize) -> Option<(Received, usize)> {
        let head = self.bytes.get(at..at + HEAD)?;
        if head[..4] != MARKER {
            return None;
        }
        let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        let from = at + HEAD;
        let payload = self.bytes.get(from..from + length.min(MAX_PAYLOAD + 1))?;
        if length > MAX_PAYLOAD || self.salt.digest(payload) != head[8..] {
            return None;
        }
        Some((self.payload(from..from + length)?, from + length))
    }

    /// A payload whose digest is right. `None` would mean that another version wrote it.
    fn payload(&self, range: Range<usize>) -> Option<Received> {
        let (received_at, rest) = self.bytes[range.clone()].split_first_chunk()?;
        let (app_length, rest) = rest.split_first_chunk()?;
        let (app, rest) = rest.split_at_checked(u16::from_le_bytes(*app_length).into())?;
        let (product_length, rest) = rest.split_first_chunk()?;
        let product_length = u32::from_le_bytes(*product_length) as usize;
        let (product, body) = rest.split_at_checked(product_length)?;
        let app = AppName::new(std::str::from_utf8(app).ok()?).ok()?;
        let product = std::str::from_utf8(product).ok()?;
        let received_at = DateTime::from_millis(i64::from_le_bytes(*received_at));
        Some(Received {
            origin: Origin::new(&app, received_at),
            product: (!product.is_empty()).then(|| product.into()),
            body: self.bytes.slice(range.end - body.len()..range.end),
        })
    }

    fn next_marker(&self, from: usize) -> usize {
        let rest = self.bytes.get(from..).unwrap_or_default();
        let found = rest.windows(MARKER.len()).position(|w| w == MARKER);
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
        // Whatever is damaged, the next frame that is right is where reading goes on.
        let mut next = self.next_marker(start + 1);
        while next < self.bytes.len() && self.frame(next).is_none() {
            next = self.next_marker(next + 1);
        }
        self.at = next;
        Some(Err(Damage(start..next)))
    }
}
