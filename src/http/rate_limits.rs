//! How many requests a caller may send: a key as `auth.keys.rate` says, each user of tokens as `auth.token_rate`.
//!
//! Asked once the caller is known, before its body is read. Budgets are by the name of the key, so that a reload leaves
//! them alone unless it changes the rate.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use prometheus_client::metrics::counter::Counter;

use super::error::{Code, Problem};
use crate::auth::{Identity, Keys, Rate, UserToken};
use crate::callback::ids::Account;
use crate::metrics::{CallerLabels, Metrics};

/// After how many requests the budgets that are full again are forgotten.
const SWEEP_EVERY: u32 = 4096;

/// The most users that have a budget. Beyond it all begin anew, which needs as many users of the site at once.
const MOST_USERS: usize = 200_000;

/// The budgets of all callers.
pub struct RateLimits<C: Clock = DefaultClock> {
    metrics: Arc<Metrics>,
    clock: C,
    /// By the keys' names.
    of_keys: Mutex<HashMap<String, Arc<Budgets<C>>>>,
    /// By the names of the keys that users' tokens are signed with.
    of_users: Mutex<HashMap<String, Arc<Budgets<C>>>>,
    user_hash: RandomState,
}

/// The budgets of one key: its own, or one for each of its users, by a hash of theirs.
struct Budgets<C: Clock> {
    rate: Rate,
    budgets: RateLimiter<u64, HashMapStateStore<u64>, C, NoOpMiddleware<C::Instant>>,
    checks: AtomicU32,
    refused: Counter,
}

impl RateLimits {
    /// Every budget is full.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with_clock(metrics, DefaultClock::default())
    }
}

impl<C: Clock + Clone> RateLimits<C> {
    fn with_clock(metrics: Arc<Metrics>, clock: C) -> Self {
        Self {
            metrics,
            clock,
            of_keys: Mutex::default(),
            of_users: Mutex::default(),
            user_hash: RandomState::new(),
        }
    }

    /// Counts a request of this caller. `account` is a user's own, as its provider normalizes it: however the site spells
    /// it, it has one budget.
    ///
    /// # Errors
    /// A [`Problem`] of 429 with the time to wait, if the caller sends too many.
    pub fn check(
        &self,
        caller: &Identity,
        account: Option<&Account>,
        keys: &Keys,
    ) -> Result<(), Problem> {
        let (name, user, rate) = match caller {
            Identity::Key(key) => match key.rate() {
                Some(rate) => (key.name(), None, rate),
                None => return Ok(()),
            },
            Identity::User(token) => (token.key().name(), Some(token), keys.tokens().rate()),
        };
        let budgets = self.budgets(name, user.is_some(), rate);
        let place = user.map_or(0, |token| self.place(token, account));
        let checked = budgets.budgets.check_key(&place);
        let is_crowded = budgets.sweep();
        if is_crowded {
            self.budgets_of(user.is_some()).remove(name);
        }
        let Err(refused) = checked else {
            return Ok(());
        };
        budgets.refused.inc();
        let wait = refused.wait_time_from(self.clock.now()).as_secs_f64();
        let each = rate.per_second;
        let (who, setting) = match user {
            None => ("key", "auth.keys.rate"),
            Some(_) => ("user", "auth.token_rate"),
        };
        let detail =
            format!("the {who} asks more than {each} times a second ({setting}); ask later");
        Err(Problem {
            retry_after: Some((wait.ceil() as u32).max(1)),
            ..Problem::new(Code::RateLimited, detail)
        })
    }

    /// The budgets of a key, new ones if its rate has changed.
    fn budgets(&self, name: &str, of_users: bool, rate: Rate) -> Arc<Budgets<C>> {
        let mut all = self.budgets_of(of_users);
        if let Some(known) = all.get(name).filter(|known| known.rate == rate) {
            return known.clone();
        }
        let labels = CallerLabels {
            caller: if of_users { "user" } else { "key" },
            key: name.to_owned(),
        };
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let made = Arc::new(Budgets {
            rate,
            budgets: RateLimiter::hashmap_with_clock(quota, self.clock.clone()),
            checks: AtomicU32::new(0),
            refused: self.metrics.limited_requests.get_or_create_owned(&labels),
        });
        all.insert(name.to_owned(), made.clone());
        made
    }

    fn budgets_of(&self, users: bool) -> MutexGuard<'_, HashMap<String, Arc<Budgets<C>>>> {
        let budgets = if users { &self.of_users } else { &self.of_keys };
        budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user's place among the budgets. Two users would meet in one by a chance of one in 2^64.
    fn place(&self, token: &UserToken, account: Option<&Account>) -> u64 {
        let user = account.map_or(token.user(), Account::as_str);
        self.user_hash.hash_one((token.app(), user))
    }
}

impl<C: Clock> Budgets<C> {
    /// Forgets now and then what is as good as new, and says whether too many are left.
    fn sweep(&self) -> bool {
        let n = self.checks.fetch_add(1, Ordering::Relaxed);
        if n % SWEEP_EVERY != SWEEP_EVERY - 1 {
            return false;
        }
        self.budgets.retain_recent();
        self.budgets.shrink_to_fit();
        self.budgets.len() > MOST_USERS
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::auth::{Key, TokenKey, TokenKeys, TokenSecret};
    use crate::callback::ids::AppName;

    fn rate(per_second: u32, burst: u32) -> Rate {
        let part = |n| NonZeroU32::new(n).expect("not zero");
        Rate {
            per_second: part(per_second),
            burst: part(burst),
        }
    }

    fn limits() -> (
        RateLimits<FakeRelativeClock>,
        FakeRelativeClock,
        Arc<Metrics>,
    ) {
        let (clock, metrics) = (FakeRelativeClock::default(), Arc::new(Metrics::new()));
        let limits = RateLimits::with_clock(metrics.clone(), clock.clone());
        (limits, clock, metrics)
    }

    fn key(name: &str, rate: Option<Rate>) -> Identity {
        let key = Key::new(name.to_owned(), "a-secret".into(), vec![], None);
        Identity::Key(Arc::new(key.limited_to(rate)))
    }

    fn with_user_rate(rate: Rate) -> Keys {
        Keys::new(
            vec![],
            TokenKeys::new(vec![], Duration::from_secs(60), rate),
        )
    }

    fn user(key: &str, app: &str, user: &str) -> Identity {
        let secret = TokenSecret::EdDsa([0; 32]);
        let key = Arc::new(TokenKey::new(key.to_owned(), secret, None, None));
        let app = AppName::new(app).expect("a name");
        Identity::User(UserToken::new(key, app, user, &[], 0))
    }

    /// How many of a hundred requests pass, and the longest wait that others are told.
    fn passed(
        limits: &RateLimits<FakeRelativeClock>,
        caller: &Identity,
        keys: &Keys,
    ) -> (usize, Option<u32>) {
        let checks = (0..100).map(|_| limits.check(caller, None, keys));
        let (passed, refused): (Vec<_>, Vec<_>) = checks.partition(Result::is_ok);
        let waits = refused.into_iter().filter_map(Result::err);
        let waits = waits.map(|problem| {
            assert_eq!(problem.code, Code::RateLimited);
            problem.retry_after.expect("a time to wait")
        });
        (passed.len(), waits.max())
    }

    #[test]
    fn a_key_has_a_burst_and_then_its_rate() {
        let (limits, clock, metrics) = limits();
        let keys = with_user_rate(rate(1, 1));
        let pages = key("pages", Some(rate(5, 20)));
        assert_eq!(passed(&limits, &pages, &keys), (20, Some(1)));
        clock.advance(Duration::from_millis(1000));
        assert_eq!(passed(&limits, &pages, &keys), (5, Some(1)));
        assert_eq!(
            passed(&limits, &key("other", Some(rate(5, 20))), &keys).0,
            20
        );
        assert_eq!(passed(&limits, &key("free", None), &keys), (100, None));
        let labels = CallerLabels {
            caller: "key",
            key: "pages".to_owned(),
        };
        let refused = metrics.limited_requests.get_or_create(&labels).get();
        assert_eq!(refused, 80 + 95);
    }

    /// The rate does not change, so the budgets stay where they are over a reload.
    #[test]
    fn a_reload_keeps_budgets_unless_it_changes_the_rate() {
        let (limits, ..) = limits();
        let keys = with_user_rate(rate(1, 1));
        let pages = || key("pages", Some(rate(5, 20)));
        assert_eq!(passed(&limits, &pages(), &keys).0, 20);
        assert_eq!(passed(&limits, &pages(), &keys).0, 0);
        assert_eq!(
            passed(&limits, &key("pages", Some(rate(5, 30))), &keys).0,
            30
        );
    }

    #[test]
    fn each_user_of_each_app_has_a_budget() {
        let (limits, clock, metrics) = limits();
        let keys = with_user_rate(rate(10, 40));
        for who in [("otc", "ann"), ("otc", "bob"), ("shop", "ann")] {
            let who = user("site", who.0, who.1);
            assert_eq!(passed(&limits, &who, &keys), (40, Some(1)));
        }
        clock.advance(Duration::from_secs(3600));
        assert_eq!(passed(&limits, &user("site", "otc", "ann"), &keys).0, 40);
        let labels = CallerLabels {
            caller: "user",
            key: "site".to_owned(),
        };
        let refused = metrics.limited_requests.get_or_create(&labels).get();
        assert_eq!(refused, 4 * 60);
    }

    #[test]
    fn an_account_has_one_budget_however_it_is_spelled() {
        let (limits, ..) = limits();
        let keys = with_user_rate(rate(10, 40));
        let account = Account::new("ann");
        let passed = |app, spelled: &str, account| {
            let who = user("site", app, spelled);
            let checks = (0..30).map(|_| limits.check(&who, account, &keys));
            checks.filter(Result::is_ok).count()
        };
        assert_eq!(passed("otc", "Ann", Some(&account)), 30);
        assert_eq!(passed("otc", "ANN", Some(&account)), 10);
        assert_eq!(passed("shop", "ANN", Some(&account)), 30);
    }

    #[test]
    fn users_who_are_gone_take_no_memory() {
        let (limits, clock, _) = limits();
        let keys = with_user_rate(rate(10, 40));
        let held = || {
            limits.of_users.lock().expect("no panic")["site"]
                .budgets
                .len()
        };
        for n in 0..3 * SWEEP_EVERY {
            let who = user("site", "otc", &n.to_string());
            limits.check(&who, None, &keys).expect("one request");
            clock.advance(Duration::from_millis(1));
        }
        assert!(held() <= 2 * SWEEP_EVERY as usize, "{}", held());
    }

    #[test]
    fn a_crowd_begins_anew_instead_of_growing() {
        let (limits, ..) = limits();
        let keys = with_user_rate(rate(1, 1));
        let held = || {
            let all = limits.of_users.lock().expect("no panic");
            all.get("site").map_or(0, |site| site.budgets.len())
        };
        for n in 0..MOST_USERS + 2 * SWEEP_EVERY as usize {
            let who = user("site", "otc", &n.to_string());
            limits.check(&who, None, &keys).expect("one request");
        }
        assert!(held() <= 2 * SWEEP_EVERY as usize, "{}", held());
    }
}
