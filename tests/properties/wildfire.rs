//! Whatever comes for an app of Wildfire IM or of Yuntongxun: only its secret opens the way, no secret is kept,
//! something valid is kept of every body, always the same, and none of it is run by MongoDB.

use im_callback::callback::event::{Decoded, Event};
use im_callback::callback::ids::{AppName, Millis};
use im_callback::callback::wildfire::{Wildfire, WildfireRules};
use im_callback::callback::yuntongxun::Yuntongxun;
use im_callback::callback::{
    Credentials, Head, OrderIdAt, Origin, Provider, RawCallback, Received, VerifiedCallback,
    VerifyError,
};
use im_callback::store::documents::{Write, writes};

use crate::choices::Choices;
use crate::decode::{is_valid, parts, says_nothing};
use crate::json::nearly_a_sample;

/// Two that are live, and two that are not and begin or end alike.
const SECRETS: &[&str] = &[
    "segment-of-today",
    "segment-of-before",
    "segment-of-todaY",
    "egment-of-before",
    "",
];
const LIVE: usize = 2;

pub const ROUTES: &[&str] = &[
    "message",
    "recall_message",
    "message_read",
    "user/online",
    "things/message",
    "message/censor",
    "user/info",
    "group/member",
    "robot/message",
    "exception",
    "nobody/knows",
    "segment-of-today",
    "im_event",
];
const LINES: &[i64] = &[0, 1, -1, i64::MAX];
const POINTERS: &[&str] = &["", "/", "/extra/orderId", "/mentionedTarget/0", "no/slash"];
const ARRIVED: i64 = 1_721_013_500_000;

fn app(rules: WildfireRules, secrets: &[&str]) -> Provider {
    Provider::Wildfire(Wildfire {
        credentials: credentials(secrets),
        rules,
    })
}

fn credentials(secrets: &[&str]) -> Credentials {
    Credentials {
        app_key: "app-id".to_owned(),
        secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
    }
}

/// The first byte says whether a body follows, or choices that make one of a sample. So a fuzzer's corpus can
/// hold samples as they are.
pub fn holds(data: &[u8], samples: &[&[u8]]) {
    let mut choices = Choices::new(data);
    let is_made = choices.once_in(2);
    let route = choices.of(ROUTES);
    let rules = WildfireRules {
        line: choices.of(LINES),
        order_id: (!choices.once_in(3)).then(|| OrderIdAt {
            field: "payload",
            pointer: choices.of(POINTERS).to_owned(),
        }),
    };
    let body = if is_made {
        nearly_a_sample(samples, &mut choices)
    } else {
        choices.rest().to_vec()
    };
    let app = app(rules, &SECRETS[..LIVE]);
    let path = app.sign(&body, route, Millis::nearest(ARRIVED)).path;
    let head = Head {
        method: "POST",
        path: &path,
        query: "",
        header: &|_| None,
    };
    let body_again = body.clone();
    is_kept(&app, RawCallback { head, body: &body }, |decoded| {
        for event in &decoded.events {
            if let Event::Message(message) = event {
                let again = app.derive(message.message.class, &message.columns);
                assert_eq!(again, message.derived);
                let names: Vec<_> = message.columns.iter().map(|(name, _)| name).collect();
                let mut distinct = names.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), names.len(), "a column hides another");
            }
        }
        if decoded.events.is_empty() && decoded.undecodable.is_none() {
            assert!(says_nothing(&body_again), "a body vanished");
        }
    });
}

/// Verifies and decodes what the app must take, twice, and once more as if it had been kept in between.
fn is_kept(app: &Provider, raw: RawCallback<'_>, look: impl Fn(&Decoded<'_>)) {
    let now = Millis::nearest(ARRIVED);
    let verified = app.verify(&raw, now).expect("what was signed");
    let received = Received {
        origin: Origin {
            app: AppName::new("app").unwrap(),
            provider: app.name(),
            received_at: now,
        },
        envelope: verified.envelope().clone(),
        body: raw.body.to_vec().into(),
    };
    let made = |callback: &VerifiedCallback<'_>| {
        let decoded = app.decode(callback, now);
        look(&decoded);
        writes(&received, &decoded)
    };
    let first = made(&verified);
    for again in [made(&verified), made(&VerifiedCallback::kept(&received))] {
        assert_eq!(first.len(), again.len());
        for (a, b) in first.iter().zip(&again) {
            assert!(parts(a) == parts(b), "the same bytes made another write");
        }
    }
    for write in &first {
        is_valid(write, &received.origin.app);
        let (_, raw, _) = parts(write);
        // A body is the sender's; all else that is kept is ours.
        if !matches!(write, Write::DeadLetter(_)) {
            continue;
        }
        for name in ["route", "query"] {
            let kept = raw.get_str(name).unwrap_or_default();
            let mut live = SECRETS[..LIVE].iter();
            assert!(
                !live.any(|secret| kept.contains(secret)),
                "a secret is kept"
            );
        }
    }
}

/// A path is taken when a live secret and something behind it stand in it, and only then; and nothing of the
/// secret is kept.
pub fn path_holds(data: &[u8]) {
    let mut choices = Choices::new(data);
    let has_secrets = !choices.once_in(4);
    let secrets = if has_secrets { &SECRETS[..LIVE] } else { &[] };
    let mut path = String::new();
    for _ in 0..choices.below(5) {
        path.push_str(&"/".repeat(choices.below(3)));
        match choices.below(4) {
            0 => path.push_str(&choices.text(20)),
            1 => path.push_str("im_event/"),
            2 => path.push_str(choices.of(ROUTES)),
            _ => path.push_str(choices.of(SECRETS)),
        }
    }
    let query = format!("a={}", choices.of(SECRETS));
    let head = Head {
        method: "POST",
        path: &path,
        query: &query,
        header: &|_| None,
    };
    let app = app(WildfireRules::default(), secrets);
    let raw = RawCallback { head, body: b"{}" };
    let taken = app.verify(&raw, Millis::nearest(ARRIVED));

    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let is_live = |segment: &str| SECRETS[..LIVE].contains(&segment);
    let expected = if has_secrets && !segments.next().is_some_and(is_live) {
        Err(VerifyError::PathSecretDiffers)
    } else if segments.next().is_none() {
        Err(VerifyError::NoSuchRoute)
    } else {
        Ok(())
    };
    if let Ok(verified) = &taken {
        let kept = format!("{:?}", verified.envelope());
        let is_kept = secrets.iter().any(|secret| kept.contains(secret));
        assert!(!is_kept, "{path} {kept}");
    }
    assert_eq!(taken.map(drop), expected, "{path}");
}

/// A body is kept whole as one event, whatever it is.
pub fn raw_holds(data: &[u8]) {
    let now = Millis::nearest(ARRIVED);
    let app = Provider::Yuntongxun(Yuntongxun {
        credentials: credentials(&SECRETS[..LIVE]),
        freshness: None,
    });
    let signed = app.sign(data, "", now);
    let header = |name: &str| {
        let mut headers = signed.headers.iter();
        let found = headers.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    };
    let head = Head {
        method: "POST",
        path: "",
        query: "",
        header: &header,
    };
    is_kept(&app, RawCallback { head, body: data }, |decoded| {
        assert_eq!(decoded.undecodable, None);
        let is_blank = data.trim_ascii().is_empty();
        assert_eq!(decoded.events.len(), usize::from(!is_blank));
    });
    // One bit of the body, and it is not what was signed.
    let mut other = data.to_vec();
    match other.first_mut() {
        Some(first) => *first ^= 1,
        None => other.push(0),
    }
    let refused = app.verify(&RawCallback { head, body: &other }, now);
    assert_eq!(refused.map(drop), Err(VerifyError::Md5Differs));
}
