//! The HTTP side of callbacks: which requests are accepted, and the answer to each bad one.

use std::io::{Read, Write};
use std::net::TcpStream;

use mongodb::bson::doc;

use im_callback::callback::ids::Millis;

use crate::support::{
    APP_KEY, Answer, PREVIOUS_SECRET, SECRET, TestApp, netease, signed, with_verified,
};

/// The text of [`MESSAGE`].
pub const TEXT: &str = "a text that no log may have";
pub const MESSAGE: &str = r#"{"eventType":"1","convType":"PERSON","to":"bob","fromAccount":"ann","msgType":"TEXT","body":"a text that no log may have","msgTimestamp":"1700000000000","msgidServer":"1"}"#;

pub async fn deliver_to(
    app: &TestApp,
    path: &str,
    headers: &[(&str, String)],
    body: &str,
) -> Answer {
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    app.post(path, &headers, body.to_owned()).await
}

#[tokio::test]
async fn both_addresses_both_secrets_and_any_header_case_are_taken() {
    let app = TestApp::start().await;
    let current = signed(MESSAGE.as_bytes(), SECRET);
    deliver_to(&app, "/callbacks/otc", &current, MESSAGE)
        .await
        .expect_ok();
    deliver_to(&app, "/receiveMsg.action", &current, MESSAGE)
        .await
        .expect_ok();
    let previous = signed(MESSAGE.as_bytes(), PREVIOUS_SECRET);
    deliver_to(&app, "/callbacks/otc", &previous, MESSAGE)
        .await
        .expect_ok();
    let without_app_key = &current[1..];
    deliver_to(&app, "/callbacks/otc", without_app_key, MESSAGE)
        .await
        .expect_ok();
    let upper = [
        ("appkey", APP_KEY.to_owned()),
        ("CURTIME", current[1].1.clone()),
        ("md5", current[2].1.to_uppercase()),
        ("checksum", current[3].1.to_uppercase()),
        ("content-type", "text/plain".to_owned()),
    ];
    deliver_to(&app, "/callbacks/otc", &upper, MESSAGE)
        .await
        .expect_ok();
    assert_eq!(app.dump().await["messages"].len(), 1);
    app.end().await;
}

/// Each forged or broken request, its status and its code; none may leave anything in the database.
#[tokio::test]
async fn forged_requests_are_rejected_and_leave_nothing() {
    let app = TestApp::start().await;
    let good = signed(MESSAGE.as_bytes(), SECRET);
    let without = |name: &str| {
        good.iter()
            .filter(|(n, _)| *n != name)
            .cloned()
            .collect::<Vec<_>>()
    };
    let with = |name: &str, value: &str| {
        let mut headers = good.to_vec();
        headers.iter_mut().find(|(n, _)| *n == name).unwrap().1 = value.to_owned();
        headers
    };
    let other_body = MESSAGE.replace(TEXT, "ho");
    let too_large = format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024));
    let large_signed = signed(too_large.as_bytes(), SECRET).to_vec();
    type Case<'c> = (&'c str, Vec<(&'c str, String)>, &'c str, u16, &'c str);
    let cases: &[Case<'_>] = &[
        (
            "/callbacks/otc",
            without("MD5"),
            MESSAGE,
            400,
            "missing_header_md5",
        ),
        (
            "/callbacks/otc",
            without("CheckSum"),
            MESSAGE,
            400,
            "missing_header_checksum",
        ),
        (
            "/callbacks/otc",
            without("CurTime"),
            MESSAGE,
            400,
            "missing_header_curtime",
        ),
        ("/callbacks/otc", Vec::new(), "", 400, "missing_header_md5"),
        (
            "/callbacks/otc",
            good.to_vec(),
            &other_body,
            403,
            "md5_mismatch",
        ),
        (
            "/callbacks/otc",
            with("MD5", "x"),
            MESSAGE,
            403,
            "md5_mismatch",
        ),
        (
            "/callbacks/otc",
            with("CheckSum", &"0".repeat(40)),
            MESSAGE,
            403,
            "checksum_mismatch",
        ),
        (
            "/callbacks/otc",
            with("CurTime", "1700000000000"),
            MESSAGE,
            403,
            "checksum_mismatch",
        ),
        (
            "/callbacks/otc",
            signed(MESSAGE.as_bytes(), "forged").to_vec(),
            MESSAGE,
            403,
            "checksum_mismatch",
        ),
        (
            "/callbacks/otc",
            with("AppKey", "another"),
            MESSAGE,
            403,
            "app_key_mismatch",
        ),
        (
            "/callbacks/none",
            good.to_vec(),
            MESSAGE,
            404,
            "unknown_app",
        ),
        ("/callbacks", good.to_vec(), MESSAGE, 404, "not_found"),
        ("/callbacks//otc", good.to_vec(), MESSAGE, 404, "not_found"),
        ("/callbacks/otc/", good.to_vec(), MESSAGE, 404, "not_found"),
        ("/callbacks/otc/x", good.to_vec(), MESSAGE, 404, "not_found"),
        (
            "/callbacks/otc",
            large_signed,
            &too_large,
            413,
            "body_too_large",
        ),
    ];
    for (path, headers, body, status, code) in cases {
        let answer = deliver_to(&app, path, headers, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{answer:?}"
        );
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let told = format!("{answer:?}");
        assert!(!told.contains(SECRET) && !told.contains(TEXT), "{told}");
    }
    for path in ["/receiveMsg.action", "/v1/unread"] {
        let key = format!("Bearer {}", crate::support::READ_KEY);
        let answer = app
            .post(path, &[("Authorization", &key)], too_large.clone())
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (413, "body_too_large")
        );
    }
    for path in ["/callbacks/otc", "/receiveMsg.action"] {
        let answer = app.get(path, &[]).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed")
        );
        assert_eq!(answer.header("allow"), "POST");
    }
    assert!(app.dump().await.is_empty());
    app.end().await;
}

#[tokio::test]
async fn the_largest_body_is_taken() {
    let app = TestApp::start().await;
    let frame = MESSAGE.replace(TEXT, "");
    let body = MESSAGE.replace(TEXT, &"x".repeat(1024 * 1024 - frame.len()));
    assert_eq!(body.len(), 1024 * 1024);
    app.deliver(&body).await.expect_ok();
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(
        stored.get_str("body").unwrap().len(),
        1024 * 1024 - frame.len()
    );
    app.end().await;
}

#[tokio::test]
async fn the_address_probe_is_delivered_and_leaves_nothing() {
    let app = TestApp::start().await;
    for body in ["", "{}", " {} \n", "\r\n"] {
        app.deliver(body).await.expect_ok();
    }
    assert!(app.dump().await.is_empty());
    app.end().await;
}

/// A chunked body announces no length: it is accepted up to the limit.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_are_taken_up_to_the_limit() {
    let app = TestApp::start().await;
    let address = app.instance.address;
    let send = |body: &str| {
        let mut request =
            "POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_owned();
        for (name, value) in signed(body.as_bytes(), SECRET) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("Transfer-Encoding: chunked\r\n\r\n");
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        for chunk in body.as_bytes().chunks(60_000) {
            let sent = socket
                .write_all(format!("{:x}\r\n", chunk.len()).as_bytes())
                .and_then(|()| socket.write_all(chunk))
                .and_then(|()| socket.write_all(b"\r\n"));
            if sent.is_err() {
                break; // refused before the end
            }
        }
        let _ = socket.write_all(b"0\r\n\r\n");
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let taken = tokio::task::block_in_place(|| send(MESSAGE));
    assert!(taken.starts_with("HTTP/1.1 200"), "{taken}");
    let too_large = MESSAGE.replace(TEXT, &"x".repeat(2 * 1024 * 1024));
    let refused = tokio::task::block_in_place(|| send(&too_large));
    // The client may still be writing when the answer arrives, and then never see it.
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 413"),
        "{refused}"
    );
    assert_eq!(app.dump().await["messages"].len(), 1);
    app.end().await;
}

/// Raw bytes on a socket that no HTTP client would send.
#[tokio::test(flavor = "multi_thread")]
async fn broken_http_is_refused_and_the_next_request_is_served() {
    let app = TestApp::start().await;
    let address = app.instance.address;
    let say = |bytes: &'static [u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    let broken: [(&[u8], &str); 5] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "HTTP/1.1 400"),
        (b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nMD5: x\r\nCheckSum: x\r\nCurTime: 1\r\nAppKey: \xff\xff\r\n\r\nhello", "HTTP/1.1 403"),
        (b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000\r\n\r\n", "HTTP/1.1 413"),
        // The client closes before the body is complete, so there may be no answer.
        (b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{}", ""),
        (b"POST /callbacks/otc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400"),
    ];
    for (bytes, expected) in broken {
        let answer = tokio::task::block_in_place(|| say(bytes));
        assert!(answer.starts_with(expected), "{answer}");
    }
    assert!(app.dump().await.is_empty());
    app.deliver(MESSAGE).await.expect_ok();
    app.end().await;
}

/// `Debug` output never contains what may be a message's text.
#[test]
fn debug_shows_no_text() {
    let provider = netease();
    let edit = r#"{"eventType":89,"msgId":1,"to":"bob","modifyTime":1,"text":"secret text"}"#;
    for body in [MESSAGE.replace(TEXT, "secret text"), edit.to_owned()] {
        let shown = with_verified(&provider, body.as_bytes(), |verified| {
            format!("{:?}", provider.decode(verified, Millis::nearest(0)))
        });
        assert!(
            shown.contains("bob") && !shown.contains("secret text"),
            "{shown}"
        );
    }
}
