//! Which refused callbacks are logged: the first few of each code, so that no flood fills a disk.

use std::time::Instant;

use super::error::Code;
use crate::throttle::Throttle;

/// Counts refusals, each code apart: a flood of garbage must not hide that a secret is wrong.
#[derive(Debug, Default)]
pub struct Refusals([Throttle; Code::ALL.len()]);

impl Refusals {
    /// Whether to log this refusal, and then how many of its code were kept back before it.
    pub fn log(&self, code: Code, now: Instant) -> Option<u64> {
        self.0[code as usize].pass(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_code() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let logged = (0..1000).filter(|_| refusals.log(Code::Md5Mismatch, now).is_some());
        assert_eq!(logged.count(), 10);
        assert_eq!(refusals.log(Code::ChecksumMismatch, now), Some(0));
        assert_eq!(refusals.log(Code::Md5Mismatch, later), Some(990));
        assert_eq!(refusals.log(Code::Md5Mismatch, later), Some(0));
    }
}
