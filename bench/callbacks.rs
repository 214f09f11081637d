//! The load's callbacks, signed beforehand: 80 % messages, 15 % receipts, 5 % logins, among 5,000 readers and
//! 500 peers. All that a callback says follows from its number, and distinct numbers make distinct callbacks.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use im_callback::callback::ids::Millis;
use im_callback::callback::netease::signature::sign;
use serde_json::{Value, json};

pub const SECRET: &str = "bench-secret";
pub const APP_KEY: &str = "bench-key";
/// The app that they are for.
pub const APP: &str = "otc";

/// The provider's time of number 0, in milliseconds. A fixed one, unless [`begin_now`] was called.
static START: AtomicU64 = AtomicU64::new(1_700_000_000_000);

/// Sets the load's times to now, so that its messages are as fresh as a provider's. They are made beforehand, each a
/// millisecond later than the one before, so they are fresh at any rate.
pub fn begin_now() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    START.store(now.as_millis() as u64, Ordering::Relaxed);
}

/// The provider's time of number 0.
pub fn start() -> Millis {
    Millis::new(START.load(Ordering::Relaxed) as i64).unwrap()
}

/// How many callbacks lie between a message and its receipt: more than are ever in flight.
const LAG: usize = 2000;

/// What a callback says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    /// Acknowledges the message of this number.
    Receipt(usize),
    Login,
}

pub fn kind(n: usize) -> Kind {
    match n % 20 {
        0..16 => Kind::Message,
        // The first ones have no message so far back, and take one that no later receipt takes.
        16..19 => Kind::Receipt(n.checked_sub(LAG + 16).unwrap_or(n - 13)),
        _ => Kind::Login,
    }
}

pub fn is_message(n: usize) -> bool {
    kind(n) == Kind::Message
}

/// The reader and the peer of a message: one of 50,000 pairs, ten peers to a reader.
pub fn pair(n: usize) -> (usize, usize) {
    // Consecutive numbers have unrelated pairs.
    let pair = (scattered(n) % 50_000) as usize;
    let reader = pair % 5000;
    (reader, (reader + pair / 5000 * 50) % 500)
}

/// The provider's time of a number.
pub fn sent_at(n: usize) -> u64 {
    START.load(Ordering::Relaxed) + n as u64
}

pub fn body(n: usize) -> Value {
    match kind(n) {
        Kind::Message => {
            let (reader, peer) = pair(n);
            message(n, reader, peer)
        }
        Kind::Receipt(acknowledged) => receipt(pair(acknowledged), acknowledged),
        Kind::Login => {
            let reader = format!("reader{}", pair(n).0);
            json!({
                "eventType": "2", "accid": reader, "clientType": "AOS", "code": "200", "clientIp": "10.0.0.1",
                "deviceId": format!("device-{reader}"), "timestamp": sent_at(n).to_string(),
            })
        }
    }
}

/// The body of a receipt for what a pair's reader has had from the peer, up to the time of a number.
pub fn receipt((reader, peer): (usize, usize), up_to: usize) -> Value {
    let receipt = json!([{
        "fromAccount": format!("reader{reader}"), "toAccount": format!("peer{peer}"),
        "clientType": "AOS", "timestamp": sent_at(up_to),
    }]);
    json!({ "eventType": "30", "objects": receipt.to_string() })
}

/// One receipt for each pair that some numbers have left unread messages of, up to the last of them.
pub fn last_receipts(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let last = numbers.end;
    let pairs: HashSet<_> = numbers.filter(|n| is_message(*n)).map(pair).collect();
    let bodies = pairs.into_iter().map(|pair| receipt(pair, last));
    bodies.map(|body| request(&body.to_string())).collect()
}

/// The body of a message between any two. Its texts and ids differ from those of its neighbours as real ones
/// do, since MongoDB compresses what it stores.
pub fn message(n: usize, reader: usize, peer: usize) -> Value {
    let device = scattered(peer) ^ scattered(peer + 1) << 64;
    let client = scattered(n) ^ scattered(n + 1) << 64;
    let (reader, peer) = (format!("reader{reader}"), format!("peer{peer}"));
    json!({
        "eventType": "1", "convType": "PERSON", "to": reader, "fromAccount": peer, "fromNick": peer,
        "fromClientType": "IOS", "fromDeviceId": uuid(device).to_uppercase(), "msgType": "TEXT",
        "body": text(n), "msgTimestamp": sent_at(n).to_string(),
        // Nineteen digits, as the provider's.
        "msgidServer": (1_000_000_000_000_000_000 + scattered(n) % 8_000_000_000_000_000_000).to_string(),
        "msgidClient": uuid(client), "resendFlag": "0",
        "ext": json!({ "orderId": format!("A-{}", n % 1000) }).to_string(),
    })
}

/// As good as random, and different for different numbers.
fn scattered(n: usize) -> u128 {
    // The finalizer of MurmurHash3, which is a bijection.
    let mut n = n as u64 + 0x9E37_79B9_7F4A_7C15;
    for factor in [0xFF51_AFD7_ED55_8CCD_u64, 0xC4CE_B9FE_1A85_EC53] {
        n = (n ^ n >> 33).wrapping_mul(factor);
    }
    u128::from(n ^ n >> 33)
}

fn uuid(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// Some words of a chat, about forty bytes.
fn text(n: usize) -> String {
    const WORDS: [&str; 32] = [
        "still", "there", "price", "could", "tonight", "the", "bank", "card", "when", "you",
        "paid", "it", "please", "check", "order", "account", "name", "sent", "wait", "a", "moment",
        "again", "now", "ok", "thanks", "not", "yet", "received", "will", "release", "coins",
        "soon",
    ];
    let mut bits = scattered(n);
    let word = || {
        let word = WORDS[(bits % 32) as usize];
        bits /= 32;
        word
    };
    let words: Vec<&str> = std::iter::repeat_with(word).take(8).collect();
    words.join(" ")
}

/// The headers that sign a body.
pub fn signed(body: &str) -> [(&'static str, String); 4] {
    let cur_time = start().get().to_string();
    let (md5, checksum) = sign(body.as_bytes(), SECRET, &cur_time);
    [
        ("AppKey", APP_KEY.to_owned()),
        ("CurTime", cur_time),
        ("MD5", md5),
        ("CheckSum", checksum),
    ]
}

/// A whole request for a body.
pub fn request(body: &str) -> Vec<u8> {
    let headers = signed(body).map(|(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "POST /callbacks/{APP} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n{body}",
        headers.concat(),
        body.len()
    )
    .into_bytes()
}

/// The requests of some numbers.
pub fn requests(numbers: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let bodies = numbers.into_iter().map(|n| body(n).to_string());
    bodies.map(|body| request(&body)).collect()
}

/// Numbers of which half are redeliveries of what was sent a little earlier.
pub fn half_repeated(n: usize) -> impl Iterator<Item = usize> {
    (0..n / 2).flat_map(|n| [n, n.checked_sub(500).unwrap_or(n / 2)])
}

/// What is in MongoDB once some callbacks are acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub messages: u64,
    pub unread: u64,
    pub events: u64,
    pub read_marks: u64,
}

impl Stored {
    /// By the plain rule: a message is unread when it is later than its pair's mark.
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        let numbers: HashSet<usize> = numbers.into_iter().collect();
        let mut marks: HashMap<(usize, usize), usize> = HashMap::new();
        for n in &numbers {
            if let Kind::Receipt(acknowledged) = kind(*n) {
                let mark = marks.entry(pair(acknowledged)).or_default();
                *mark = acknowledged.max(*mark);
            }
        }
        let messages = || numbers.iter().filter(|n| is_message(**n));
        let is_unread = |n: &&usize| marks.get(&pair(**n)).is_none_or(|mark| *n > mark);
        Self {
            messages: messages().count() as u64,
            unread: messages().filter(is_unread).count() as u64,
            events: (numbers.len() - messages().count()) as u64,
            read_marks: marks.len() as u64,
        }
    }
}

/// Checks that the mix is what its description says.
pub fn check() {
    const SOME: usize = 100_000;
    let stored = Stored::of(0..SOME);
    let (mut receipts, mut acknowledged) = (0, HashSet::new());
    let (mut pairs, mut readers) = (HashSet::new(), HashSet::new());
    let ids: HashSet<u128> = (0..SOME)
        .map(|n| scattered(n) % 8_000_000_000_000_000_000)
        .collect();
    assert_eq!(ids.len(), SOME, "two messages have one id");
    for n in 0..SOME {
        match kind(n) {
            Kind::Message => {
                pairs.insert(pair(n));
                readers.insert(pair(n).0);
            }
            Kind::Receipt(message) => {
                assert!(is_message(message) && message < n, "receipt {n}");
                receipts += 1;
                acknowledged.insert(message);
            }
            Kind::Login => {}
        }
    }
    assert_eq!((stored.messages, receipts), (80_000, 15_000));
    assert_eq!(acknowledged.len(), receipts, "two receipts are the same");
    assert!(stored.messages - stored.unread >= receipts as u64);
    let peers = pairs.len() as f64 / readers.len() as f64;
    assert!(
        readers.len() == 5000 && (7.0..=10.0).contains(&peers),
        "{} readers, {peers} peers",
        readers.len()
    );
}
