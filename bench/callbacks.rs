//! The load's callbacks, signed beforehand: 80 % messages, 15 % receipts, 5 % logins, of 5,000 readers and
//! 500 peers.

use im_callback::callback::ids::Millis;
use im_callback::callback::netease::sign;
use serde_json::{Value, json};

pub const SECRET: &str = "bench-secret";
pub const APP_KEY: &str = "bench-key";

/// Whether the callback of this number is a message.
pub fn is_message(n: usize) -> bool {
    n % 20 < 16
}

/// How many of so many are messages.
pub fn messages_in(n: usize) -> u64 {
    (0..n).filter(|n| is_message(*n)).count() as u64
}

/// The body of a callback. Distinct numbers make distinct callbacks.
pub fn body(n: usize) -> Value {
    let (reader, peer) = (
        format!("reader{}", n * 7 % 5000),
        format!("peer{}", n * 13 % 500),
    );
    let at = 1_700_000_000_000 + n;
    if is_message(n) {
        return json!({
            "eventType": "1", "convType": "PERSON", "to": reader, "fromAccount": peer, "fromNick": peer,
            "fromClientType": "IOS", "fromDeviceId": "B0BFF2EB-E2E1-4063-9E73-92FB926BF388", "msgType": "TEXT",
            "body": "Is it still there? I could come by tonight.", "msgTimestamp": at.to_string(),
            "msgidServer": n.to_string(), "msgidClient": format!("b0b703ea-3e10-453e-8650-{n:012}"),
            "resendFlag": "0", "ext": format!("{{\"orderId\":\"A-{}\"}}", n % 1000),
        });
    }
    if n % 20 < 19 {
        let receipt = json!([{ "fromAccount": reader, "toAccount": peer, "clientType": "AOS", "timestamp": at }]);
        return json!({ "eventType": "30", "objects": receipt.to_string() });
    }
    json!({
        "eventType": "2", "accid": reader, "clientType": "AOS", "code": "200", "clientIp": "10.0.0.1",
        "deviceId": format!("device-{reader}"), "timestamp": at.to_string(),
    })
}

/// A whole request for a body.
pub fn request(body: &str) -> Vec<u8> {
    let now = Millis::new(1_700_000_000_000).unwrap();
    let signature = sign(body.as_bytes(), &SECRET.into(), now);
    format!(
        "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAppKey: {APP_KEY}\r\n\
         CurTime: {}\r\nMD5: {}\r\nCheckSum: {}\r\nContent-Length: {}\r\n\r\n{body}",
        signature.cur_time,
        signature.md5,
        signature.checksum,
        body.len()
    )
    .into_bytes()
}

/// The requests of some numbers.
pub fn requests(numbers: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    numbers.map(|n| request(&body(n).to_string())).collect()
}
