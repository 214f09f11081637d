//! Which refused callbacks are logged: the first few of each code, so that no flood fills a disk.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Code;

/// How many refusals of a code are logged in each [`SPAN`].
const LINES: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);

/// Counts refusals, each code apart: a flood of garbage must not hide that a secret is wrong.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<[Count; Code::ALL.len()]>);

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    since: Option<Instant>,
    logged: u32,
    kept_back: u64,
}

impl Refusals {
    /// Whether to log this refusal, and then how many of its code were kept back before it.
    pub fn log(&self, code: Code, now: Instant) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = &mut counts[code as usize];
        if count.since.is_none_or(|since| now >= since + SPAN) {
            count.since = Some(now);
            count.logged = 0;
        }
        if count.logged == LINES {
            count.kept_back += 1;
            return None;
        }
        count.logged += 1;
        Some(std::mem::take(&mut count.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_code() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let logged = (0..1000).filter(|_| refusals.log(Code::Md5Mismatch, now).is_some());
        assert_eq!(logged.count(), LINES as usize);
        assert_eq!(refusals.log(Code::ChecksumMismatch, now), Some(0));
        assert_eq!(refusals.log(Code::Md5Mismatch, now + SPAN), Some(990));
        assert_eq!(refusals.log(Code::Md5Mismatch, now + SPAN), Some(0));
    }
}
