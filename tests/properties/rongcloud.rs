//! RongCloud: whatever stands in a verified body, something valid is kept of it, always the same; and nothing
//! is verified but what was signed.

use std::collections::BTreeMap;
use std::time::Duration;

use im_callback::callback::ids::{AppName, Millis};
use im_callback::callback::rongcloud::{Rongcloud, RongcloudRules, Weight, decode};
use im_callback::callback::{
    Credentials, Envelope, Head, OrderIdAt, Origin, ProviderName, Received, VerifiedCallback,
};
use im_callback::store::documents::{Write, writes};
use mongodb::bson::{Bson, Document, RawDocument};
use url::form_urlencoded;

use crate::choices::Choices;
use crate::decode::{is_valid, parts};
use crate::json::{INJECTED, nearly_a_sample};
use crate::signature::near;

const WEIGHTS: &[Weight] = &[Weight::Counted, Weight::Stored, Weight::Status];
const POINTERS: &[&str] = &["", "/", "/content", "/a~1b/~0", "/0", "no/slash"];

/// The first byte says whether a body follows, or choices that make one of a sample.
pub fn decodes(data: &[u8], samples: &[&[u8]]) {
    let mut choices = Choices::new(data);
    let is_made = choices.once_in(2);
    let other_types = choices.of(WEIGHTS);
    let named = ["RC:TxtMsg", "app:order", "RC:RcCmd"];
    let types = named.map(|name| (name.to_owned(), choices.of(WEIGHTS)));
    let pointer = choices.of(POINTERS).to_owned();
    let field = "content";
    let rules = RongcloudRules {
        types: types.into(),
        other_types,
        order_id: Some(OrderIdAt { field, pointer }),
    };
    if !is_made {
        check(choices.rest(), &rules);
        return;
    }
    let sample = choices.of(samples);
    if sample.starts_with(b"{") || sample.starts_with(b"[") {
        check(&nearly_a_sample(&[sample], &mut choices), &rules);
        return;
    }
    let mut parameters = pairs(sample);
    for _ in 0..choices.below(6) {
        change(&mut parameters, samples, &mut choices);
    }
    let first = check(&form(&parameters), &rules);
    shuffle(&mut parameters, &mut choices);
    let shuffled = check(&form(&parameters), &rules);
    let names: Vec<_> = parameters.iter().map(|(name, _)| name).collect();
    let is_repeated = |name: &&&String| names.iter().filter(|n| n == name).count() > 1;
    // The order of the values of one name means something, that of names does not.
    if names.iter().any(|name| is_repeated(&name)) {
        return;
    }
    assert_eq!(first.len(), shuffled.len());
    for (a, b) in first.iter().zip(&shuffled) {
        assert!(
            unordered(a) == unordered(b),
            "the order of parameters matters"
        );
    }
}

type Parameters = Vec<(String, String)>;

fn pairs(form: &[u8]) -> Parameters {
    form_urlencoded::parse(form).into_owned().collect()
}

fn form(parameters: &Parameters) -> Vec<u8> {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish()
        .into_bytes()
}

/// Values and names that numbers, ids, types and nested parts are not, or only just.
const TEXTS: &[&str] = &[
    "",
    " ",
    "0",
    "1",
    "-1",
    "1.5",
    "9223372036854775808",
    "253402300800000",
    "9743499753581",
    " 1743499753581 ",
    "PERSON",
    "group",
    "10",
    "RC:TxtMsg",
    "RC:ReadNtf",
    "RC:RcCmd",
    "RC:SRSMsg",
    "RC:TypSts",
    "app:order",
    "[543,567]",
    "[[[[",
    "{}",
    "[]",
    "null",
    "{\"content\":[]}",
    "{\"content\":null,\"messageUId\":1}",
    "{\"MESSAGEUID\":\"$$ROOT\",\"$injected\":1,\"at\":2,\"by\":3}",
    "{\"lastMessageSendTime\":\"1\"}",
    "{\"a\\u0000\":1,\"a\\u2400\":2}",
    INJECTED,
    "$$ROOT",
    "a.b",
    "\0",
    "\u{fffd}",
    "_id",
    "state",
    "extra",
    "to",
    "to_",
    "body",
    "convType",
    "msgidServer",
    "toUserId",
    "targetId",
    "timestamp",
    "msgUID",
    "objectName",
    "channelType",
    "content",
    "groupUserIds",
    "msgType",
];

fn change(parameters: &mut Parameters, samples: &[&[u8]], choices: &mut Choices<'_>) {
    let at = choices.below(parameters.len());
    let Some((name, value)) = parameters.get_mut(at) else {
        let added = (choices.of(TEXTS).to_owned(), choices.text(10));
        return parameters.push(added);
    };
    match choices.below(8) {
        0 => drop(parameters.remove(at)),
        1 => *name = choices.of(TEXTS).to_owned(),
        2 => *value = choices.text(20),
        3 => {
            let added = (choices.of(TEXTS).to_owned(), choices.of(TEXTS).to_owned());
            parameters.push(added);
        }
        4 => {
            let twice = (name.clone(), choices.of(TEXTS).to_owned());
            parameters.push(twice);
        }
        5 if value.starts_with('{') => {
            let content = nearly_a_sample(&[value.as_bytes()], choices);
            *value = String::from_utf8_lossy(&content).into_owned();
        }
        6 => parameters.extend(pairs(choices.of(samples)).into_iter().nth(at)),
        _ => *value = choices.of(TEXTS).to_owned(),
    }
}

fn shuffle(parameters: &mut Parameters, choices: &mut Choices<'_>) {
    for end in (1..parameters.len()).rev() {
        parameters.swap(end, choices.below(end + 1));
    }
}

fn check(body: &[u8], rules: &RongcloudRules) -> Vec<Write> {
    let app = AppName::new("app").unwrap();
    let arrived = Millis::new(1_780_000_000_000).unwrap();
    let received = Received {
        origin: Origin {
            app: app.clone(),
            provider: ProviderName::Rongcloud,
            received_at: arrived,
        },
        envelope: Envelope::default(),
        body: body.to_vec().into(),
    };
    let made = || {
        let verified = VerifiedCallback::kept(&received);
        writes(&received, &decode(&verified, arrived, rules))
    };
    let first = made();
    if first.is_empty() {
        let text = body.iter().filter(|b| !b.is_ascii_whitespace());
        let said: Vec<_> = text.copied().collect();
        assert!(said.is_empty() || said == b"{}", "a body vanished");
    }
    let again = made();
    assert_eq!(first.len(), again.len());
    for (a, b) in first.iter().zip(&again) {
        is_valid(a, &app);
        assert!(parts(a) == parts(b), "the same bytes made another write");
        has_each_name_once(parts(a).1);
        if let Write::Message(message) = a {
            is_counted_rightly(&parts(a).1.try_into().unwrap(), message.counts.is_some());
        }
    }
    first
}

/// BSON can hold a name twice, and MongoDB would take it.
fn has_each_name_once(raw: &RawDocument) {
    let mut names: Vec<_> = raw.iter().map(|part| part.unwrap().0).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands twice: {names:?}");
}

/// What must be so of a message that counts, whatever the rules are.
fn is_counted_rightly(document: &Document, counts: bool) {
    assert_eq!(document.get("state").is_some(), counts);
    if counts {
        assert_eq!(document.get_str("convType").unwrap(), "PERSON");
        let both = ["to", "fromAccount"].map(|name| document.get_str(name).unwrap());
        assert!(both[0] != both[1] && both.iter().all(|id| !id.is_empty()));
        document.get_i64("msgTimestamp").unwrap();
        assert!(document.get_str("sensitiveType").ok() != Some("1"));
    }
}

/// What a write says but for the order of its fields and for what is made of the body's very bytes.
fn unordered(write: &Write) -> (u8, BTreeMap<String, String>, String) {
    let (variant, raw, told) = parts(write);
    let mut document = Document::try_from(raw).expect("valid BSON");
    if let Write::DeadLetter(_) | Write::Event(_) = write {
        document.remove("_id");
        document.remove("body");
    }
    let sorted = |value: Bson| match value {
        Bson::Document(inner) => {
            let inner: BTreeMap<_, _> = inner.into_iter().collect();
            format!("{inner:?}")
        }
        value => format!("{value:?}"),
    };
    let fields = document
        .into_iter()
        .map(|(name, value)| (name, sorted(value)));
    (variant, fields.collect(), told)
}

/// Secrets that begin and end alike.
const SECRETS: &[&str] = &[
    "current-secret",
    "current-secre",
    "CURRENT-SECRET",
    "current-secret0",
    "密钥",
];
const KEY: &str = "app-key";
const WINDOWS: &[u64] = &[0, 1, 300, u64::MAX];

/// A callback is accepted when it was signed with one of the app's secrets within its window, and only then.
pub fn verifies(data: &[u8]) {
    let mut choices = Choices::new(data);
    let secret = choices.of(SECRETS);
    let secrets: Vec<_> = (0..choices.below(4)).map(|_| choices.of(SECRETS)).collect();
    let freshness = (!choices.once_in(2)).then(|| Duration::from_secs(choices.of(WINDOWS)));
    let at = 1_743_499_753_581 + choices.below(1000) as i64;
    let now = match choices.below(3) {
        0 => at,
        1 => at + choices.below(2001) as i64 - 1000,
        _ => at + 300_000 * (choices.below(3) as i64 - 1) + choices.below(3) as i64 - 1,
    };
    let app = |secrets: &[&str]| Rongcloud {
        credentials: Credentials {
            app_key: KEY.to_owned(),
            secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
        },
        freshness,
        rules: RongcloudRules {
            types: Default::default(),
            other_types: Weight::Counted,
            order_id: None,
        },
    };
    let signed = app(&[secret]).sign(choices.bytes(20), Millis::new(at).unwrap());
    let made: BTreeMap<_, _> = form_urlencoded::parse(signed.query.as_bytes()).collect();
    let mut sent = ["appKey", "nonce", "signTimestamp", "signature"].map(|name| {
        let value = near(&made[name], &mut choices);
        (name, value)
    });
    if choices.once_in(2) {
        sent[2].0 = "timestamp";
    }
    let twice = choices.once_in(4).then(|| choices.below(4));
    let mut parameters: Vec<_> = sent
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .collect();
    let is_twice = twice.and_then(|twice| sent[twice].1.as_deref().map(|v| (sent[twice].0, v)));
    parameters.extend(is_twice);
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(&parameters)
        .finish();
    let in_headers = choices.once_in(2) && is_twice.is_none();
    let header = |name: &str| {
        let names = ["RC-App-Key", "RC-Nonce", "RC-Timestamp", "RC-Signature"];
        let at = names.iter().position(|n| *n == name)?;
        sent[at].1.as_deref().filter(|_| in_headers)
    };
    let head = Head {
        method: "POST",
        path: "",
        query: if in_headers {
            "nonce=1&timestamp=2"
        } else {
            &query
        },
        header: &header,
    };
    let verified = app(&secrets).verify(&head, Millis::nearest(now));

    let text = |at: usize| sent[at].1.as_deref();
    let whole = format!("{secret}{}{}", made["nonce"], made["signTimestamp"]);
    // Where one text ends and the next begins is not part of the signature.
    let is_signed = |secret: &&str| {
        let sent = text(1).zip(text(2));
        sent.is_some_and(|(nonce, time)| format!("{secret}{nonce}{time}") == whole)
    };
    let age = text(2)
        .and_then(|time| time.parse::<i64>().ok())
        .map(|time| {
            let seconds = (0..100_000_000_000).contains(&time);
            Duration::from_millis(now.abs_diff(if seconds { time * 1000 } else { time }))
        });
    let right = is_twice.is_none()
        && secrets.iter().any(is_signed)
        && text(3).is_some_and(|s| s.eq_ignore_ascii_case(&made["signature"]))
        && text(0).is_none_or(|key| key == KEY)
        && freshness.is_none_or(|window| age.is_some_and(|age| age <= window));
    assert_eq!(verified.is_ok(), right, "{verified:?} of {sent:?}");
}
