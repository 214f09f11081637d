//! Keeps a flood of log lines from filling a disk.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines of one kind pass in each [`WINDOW`].
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Lets the first lines of each ten seconds pass, and counts the others. One for each kind of line.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl Throttle {
    /// Whether to log this line, and then how many were suppressed since the last one that passed.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| now >= since + WINDOW) {
            window.since = Some(now);
            window.passed = 0;
        }
        if window.passed == LINES {
            window.suppressed += 1;
            return None;
        }
        window.passed += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}
