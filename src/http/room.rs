//! Room for bytes that are still being read, shared by all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every head and every body may have without asking for room, in bytes. Callbacks are smaller, so
/// they are taken even while others have all the room.
pub const FREE: usize = 16 * 1024;

/// Bytes that may be held beyond what is free (`http.bytes_reading`).
#[derive(Debug)]
pub struct Room {
    limit: usize,
    taken: AtomicUsize,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let taken = AtomicUsize::new(0);
        Arc::new(Self { limit, taken })
    }

    /// A share of nothing, to grow as bytes arrive.
    pub fn share(self: &Arc<Self>) -> Share {
        Share {
            room: self.clone(),
            bytes: 0,
        }
    }
}

/// What one head or body has of the room. Dropped, it gives all back.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Share {
    /// Takes what is missing for so many bytes, the free ones among them. Without room the share stays as
    /// it was, and the answer is no.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE);
        let more = wanted.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let fits = |taken: usize| {
            taken
                .checked_add(more)
                .filter(|all| *all <= self.room.limit)
        };
        let taken = &self.room.taken;
        let grown = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if grown.is_ok() {
            self.bytes = wanted;
        }
        grown.is_ok()
    }

    /// Gives all back.
    pub fn clear(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_within_the_limit_and_give_back() {
        let room = Room::new(100);
        let (mut one, mut other) = (room.share(), room.share());
        assert!(one.grow_to(FREE) && other.grow_to(FREE));
        assert!(one.grow_to(FREE + 60));
        assert!(!other.grow_to(FREE + 41) && other.grow_to(FREE + 40));
        assert!(!one.grow_to(FREE + 61) && one.grow_to(FREE + 60));
        drop(one);
        assert!(other.grow_to(FREE + 100));
        other.clear();
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }
}
