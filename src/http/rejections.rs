//! Logs rejected and failed requests at a limited rate, so that a flood of them cannot fill a disk.

use std::time::Instant;

use super::error::Code;
use super::lost_callbacks::LostLog;
use crate::throttle::Throttle;

/// A rate limit for each kind of line: a flood of one must not hide another, such as that a secret is wrong.
#[derive(Debug)]
pub struct RejectionLog {
    by_code: [Throttle; Code::ALL.len()],
    /// Of requests that the service itself failed at.
    pub(super) failures: Throttle,
    /// Of queries that it could not answer for now, such as in an outage.
    pub(super) unanswered: Throttle,
    /// Of streams whose clients did not read.
    pub(super) slow_readers: Throttle,
    /// Of callbacks to paths that no app has.
    pub(super) lost: LostLog,
}

impl Default for RejectionLog {
    fn default() -> Self {
        Self {
            by_code: std::array::from_fn(|_| Throttle::default()),
            failures: Throttle::default(),
            unanswered: Throttle::default(),
            slow_readers: Throttle::default(),
            lost: LostLog::default(),
        }
    }
}

impl RejectionLog {
    /// Whether to log this rejection, and if so, how many of its code were not logged since the last.
    pub fn log(&self, code: Code, now: Instant) -> Option<u64> {
        self.by_code[code as usize].pass(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_code() {
        let rejections = RejectionLog::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let logged = (0..1000).filter(|_| rejections.log(Code::Md5Mismatch, now).is_some());
        assert_eq!(logged.count(), 10);
        assert_eq!(rejections.log(Code::ChecksumMismatch, now), Some(0));
        assert_eq!(rejections.log(Code::Md5Mismatch, later), Some(990));
        assert_eq!(rejections.log(Code::Md5Mismatch, later), Some(0));
    }
}
