//! A limit on the memory for heads and bodies that are still arriving, shared by all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of each head and each body that need no reservation. Callbacks are smaller, so they are taken even
/// when the budget is used up.
pub const FREE: usize = 16 * 1024;

/// Bytes that all heads and bodies together may hold beyond [`FREE`] (`http.bytes_reading`).
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    reserved: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let reserved = AtomicUsize::new(0);
        Arc::new(Self { limit, reserved })
    }

    /// An empty reservation, to grow as bytes arrive.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

/// The part of the budget that one head or body holds. Returned on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Reservation {
    /// Grows to cover a head or body of `bytes` in total, of which [`FREE`] are not counted. Returns false and
    /// changes nothing when the budget does not allow it.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(FREE);
        let more = wanted.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let fits = |reserved: usize| {
            reserved
                .checked_add(more)
                .filter(|all| *all <= self.budget.limit)
        };
        let reserved = &self.budget.reserved;
        let grown = reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if grown.is_ok() {
            self.bytes = wanted;
        }
        grown.is_ok()
    }

    /// Returns all bytes to the budget.
    pub fn release(&mut self) {
        self.budget
            .reserved
            .fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_grow_within_the_limit_and_are_returned() {
        let budget = MemoryBudget::new(100);
        let (mut one, mut other) = (budget.reservation(), budget.reservation());
        assert!(one.grow_to(FREE) && other.grow_to(FREE));
        assert!(one.grow_to(FREE + 60));
        assert!(!other.grow_to(FREE + 41) && other.grow_to(FREE + 40));
        assert!(!one.grow_to(FREE + 61) && one.grow_to(FREE + 60));
        drop(one);
        assert!(other.grow_to(FREE + 100));
        other.release();
        assert_eq!(budget.reserved.load(Ordering::Relaxed), 0);
    }
}
