//! Refused keys and tokens: counted by reason, logged at a limited rate, and unknown ones limited for each client's
//! address.
//!
//! The limit never keeps out a right key, which is found before anything here is asked: behind a proxy that is not
//! trusted all callers share one address, and a stranger among them must not be able to lock the others out. So it
//! does not slow guesses down; secrets are too long to be guessed. It keeps the log short, and tells a caller with
//! a wrong key to stop.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::error::{Code, Problem};
use crate::auth::{AuthError, TokenFault};
use crate::metrics::{Metrics, ReasonLabel};
use crate::throttle::Throttle;

/// How many unknown keys an address may send at once.
const BURST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Seconds after which it may send another one.
pub const SECONDS_EACH: u32 = 6;

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRejection {
    /// There was no key.
    Missing,
    /// The key is not configured.
    Unknown,
    /// The key lacks the route's scope.
    Scope,
    /// The key or token is limited to other apps.
    App,
    /// The key or token is not known either, and its address has sent too many of those.
    Throttled,
    /// No key is configured.
    NoKeys,
    /// The user's token has expired, as every token does.
    Expired,
    /// The user's token is not valid.
    Token,
    /// The route needs a key, not a user's token.
    NotForUsers,
    /// The token is another user's.
    User,
    /// The token does not list the team.
    Team,
}

impl KeyRejection {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Missing,
        Self::Unknown,
        Self::Scope,
        Self::App,
        Self::Throttled,
        Self::NoKeys,
        Self::Expired,
        Self::Token,
        Self::NotForUsers,
        Self::User,
        Self::Team,
    ];

    /// The reason as text, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Scope => "scope",
            Self::App => "app",
            Self::Throttled => "throttled",
            Self::NoKeys => "no_keys",
            Self::Expired => "expired",
            Self::Token => "token",
            Self::NotForUsers => "not_for_users",
            Self::User => "user",
            Self::Team => "team",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Missing => Code::MissingKey,
            Self::Unknown => Code::UnknownKey,
            Self::Scope => Code::MissingScope,
            Self::App => Code::AppNotAllowed,
            Self::Throttled => Code::TooManyFailedKeys,
            Self::NoKeys => Code::NoKeys,
            Self::Expired => Code::TokenExpired,
            Self::Token => Code::InvalidToken,
            Self::NotForUsers => Code::TokenNotAllowed,
            Self::User => Code::UserNotAllowed,
            Self::Team => Code::TeamNotAllowed,
        }
    }
}

/// All refused keys.
pub struct KeyFailures {
    metrics: Arc<Metrics>,
    /// One for each reason, so that a flood of one hides no other.
    logs: [Throttle; KeyRejection::ALL.len()],
    /// Those throttled since the last line about an unknown key or an invalid token, of all clients: the line names
    /// another one.
    throttled: AtomicU64,
    budgets: FailureBudgets,
}

impl KeyFailures {
    /// No key is refused yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        for reason in KeyRejection::ALL.map(KeyRejection::as_str) {
            // Prometheus sees no increase in a series that begins with its first event.
            drop(metrics.rejected_keys.get_or_create(&ReasonLabel { reason }));
        }
        Self {
            metrics,
            logs: Default::default(),
            throttled: AtomicU64::new(0),
            budgets: FailureBudgets::default(),
        }
    }

    /// Counts and logs a refusal, and gives its answer. No refusal of a key is answered in another way.
    pub fn refuse(&self, error: &AuthError, client: Option<IpAddr>) -> Problem {
        let reason = match error {
            AuthError::NoKeys => KeyRejection::NoKeys,
            AuthError::MissingKey => KeyRejection::Missing,
            AuthError::InvalidToken { fault, .. } if *fault == TokenFault::Expired => {
                KeyRejection::Expired
            }
            // A token that a key has signed is nobody's guess: its page needs the answer, to fetch a better one.
            AuthError::UnknownKey | AuthError::InvalidToken { key: None, .. }
                if !self.budgets.spend(client) =>
            {
                KeyRejection::Throttled
            }
            AuthError::UnknownKey => KeyRejection::Unknown,
            AuthError::InvalidToken { .. } => KeyRejection::Token,
            AuthError::MissingScope { .. } => KeyRejection::Scope,
            AuthError::AppNotAllowed { .. } | AuthError::TokenOfOtherApp { .. } => {
                KeyRejection::App
            }
            AuthError::TokenNotAllowed { .. } => KeyRejection::NotForUsers,
            AuthError::UserNotAllowed { .. } => KeyRejection::User,
            AuthError::TeamNotAllowed { .. } => KeyRejection::Team,
        };
        let label = ReasonLabel {
            reason: reason.as_str(),
        };
        self.metrics.rejected_keys.get_or_create(&label).inc();
        self.log(reason, error, client);
        let detail = match reason {
            KeyRejection::Throttled => {
                "this address has sent too many unknown keys or invalid tokens; send the right one"
                    .to_owned()
            }
            _ => error.to_string(),
        };
        Problem::new(reason.code(), detail)
    }

    fn log(&self, reason: KeyRejection, error: &AuthError, client: Option<IpAddr>) {
        if reason == KeyRejection::Throttled {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(kept_back) = self.logs[reason as usize].pass(Instant::now()) else {
            return;
        };
        let is_counted = matches!(reason, KeyRejection::Unknown | KeyRejection::Token);
        let throttled_of_all = is_counted.then(|| self.throttled.swap(0, Ordering::Relaxed));
        let client = client.map(tracing::field::display);
        let (reason, key) = (reason.as_str(), error.key());
        let fault = match error {
            AuthError::InvalidToken { fault, .. } => Some(fault.as_str()),
            _ => None,
        };
        tracing::warn!(
            reason,
            fault,
            key,
            client,
            kept_back,
            throttled_of_all,
            "a key was refused"
        );
    }
}

/// How many budgets there are.
const BUDGETS: usize = 1024;

/// A budget of unknown keys for each address, or for each /64 network of IPv6, which one client may have whole.
/// Addresses share a fixed table, so no number of them needs more memory; two that meet in it spend one budget,
/// which costs neither of them a right key. Who meets whom cannot be known from outside.
struct FailureBudgets<C: Clock = DefaultClock> {
    place: RandomState,
    budgets: Vec<Budget<C>>,
}

type Budget<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

impl Default for FailureBudgets {
    fn default() -> Self {
        Self::with_clock(&DefaultClock::default())
    }
}

impl<C: Clock + Clone> FailureBudgets<C> {
    fn with_clock(clock: &C) -> Self {
        let each = Duration::from_secs(SECONDS_EACH.into());
        let quota = Quota::with_period(each)
            .expect("not zero")
            .allow_burst(BURST);
        let budget = || RateLimiter::direct_with_clock(quota, clock.clone());
        Self {
            place: RandomState::new(),
            budgets: std::iter::repeat_with(budget).take(BUDGETS).collect(),
        }
    }
}

impl<C: Clock> FailureBudgets<C> {
    /// Whether this address, if it is known, had a failure left.
    fn spend(&self, client: Option<IpAddr>) -> bool {
        let network = client.map(|address| match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => {
                let network = v6.to_bits() >> 64 << 64;
                IpAddr::V6(network.into())
            }
        });
        let place = self.place.hash_one(network) as usize % BUDGETS;
        self.budgets[place].check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn budgets() -> (FailureBudgets<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (FailureBudgets::with_clock(&clock), clock)
    }

    /// An address whose budget is another's.
    fn apart(
        budgets: &FailureBudgets<FakeRelativeClock>,
        from: &str,
        mut others: impl Iterator<Item = IpAddr>,
    ) -> IpAddr {
        let place = |address: IpAddr| budgets.place.hash_one(Some(address)) as usize % BUDGETS;
        let from = place(from.parse().expect("an address"));
        let other = others.find(|other| place(*other) != from);
        other.expect("not all addresses meet")
    }

    fn spent(budgets: &FailureBudgets<FakeRelativeClock>, client: Option<IpAddr>) -> usize {
        (0..100).filter(|_| budgets.spend(client)).count()
    }

    #[test]
    fn an_address_has_ten_failures_and_one_more_each_six_seconds() {
        let (budgets, clock) = budgets();
        let client = "192.0.2.1".parse().ok();
        assert_eq!(spent(&budgets, client), 10);
        clock.advance(Duration::from_millis(5_999));
        assert_eq!(spent(&budgets, client), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(spent(&budgets, client), 1);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(spent(&budgets, client), 10);
    }

    #[test]
    fn other_addresses_have_their_own() {
        let (budgets, _) = budgets();
        let v4 = (1..=255).map(|n| IpAddr::from([192, 0, 2, n]));
        let other = apart(&budgets, "198.51.100.1", v4);
        assert_eq!(spent(&budgets, "198.51.100.1".parse().ok()), 10);
        assert_eq!(spent(&budgets, Some(other)), 10);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let (budgets, _) = budgets();
        assert_eq!(spent(&budgets, "2001:db8::1".parse().ok()), 10);
        assert_eq!(spent(&budgets, "2001:db8::ffff:0:0:2".parse().ok()), 0);
        let (budgets, _) = self::budgets();
        let networks = (1..=255).map(|n| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 0]));
        let other = apart(&budgets, "2001:db8::", networks);
        assert_eq!(spent(&budgets, "2001:db8::".parse().ok()), 10);
        assert_eq!(spent(&budgets, Some(other)), 10);
    }

    #[test]
    fn no_number_of_addresses_takes_more_memory() {
        let (budgets, _) = budgets();
        for n in 0..200_000_u32 {
            budgets.spend(Some(IpAddr::from(n.to_be_bytes())));
        }
        assert_eq!(budgets.budgets.len(), BUDGETS);
        let bytes = size_of_val(&*budgets.budgets);
        assert!(bytes < 128 * 1024, "{bytes}");
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let metrics = Arc::new(Metrics::new());
        let failures = KeyFailures::new(metrics.clone());
        let client = "192.0.2.1".parse().ok();
        let key = || "pages".to_owned();
        let errors = [
            AuthError::NoKeys,
            AuthError::MissingKey,
            AuthError::AppNotAllowed { key: key() },
            AuthError::MissingScope {
                key: key(),
                scope: crate::auth::Scope::Admin,
            },
            AuthError::InvalidToken {
                fault: TokenFault::Expired,
                key: Some(key()),
            },
            // Signed for this service, so it is nobody's guess.
            AuthError::InvalidToken {
                fault: TokenFault::Audience,
                key: Some(key()),
            },
            AuthError::TokenNotAllowed { key: key() },
            AuthError::TokenOfOtherApp { key: key() },
            AuthError::UserNotAllowed { key: key() },
            AuthError::TeamNotAllowed { key: key() },
        ];
        for error in &errors {
            for _ in 0..30 {
                failures.refuse(error, client);
            }
        }
        // One budget for both: neither is known.
        let invalid = AuthError::InvalidToken {
            fault: TokenFault::Signature,
            key: None,
        };
        for n in 0..15 {
            let codes =
                [&AuthError::UnknownKey, &invalid].map(|error| failures.refuse(error, client).code);
            let expected = match n < 5 {
                true => [Code::UnknownKey, Code::InvalidToken],
                false => [Code::TooManyFailedKeys; 2],
            };
            assert_eq!(codes, expected, "{n}");
        }
        let counts = KeyRejection::ALL.map(KeyRejection::as_str).map(|reason| {
            let label = ReasonLabel { reason };
            (reason, metrics.rejected_keys.get_or_create(&label).get())
        });
        let expected = [
            ("missing", 30),
            ("unknown", 5),
            ("scope", 30),
            ("app", 60),
            ("throttled", 20),
            ("no_keys", 30),
            ("expired", 30),
            ("token", 35),
            ("not_for_users", 30),
            ("user", 30),
            ("team", 30),
        ];
        assert_eq!(counts, expected);
    }
}
