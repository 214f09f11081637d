//! What a callback may look like, and what each bad one is answered.

use std::io::{Read, Write};
use std::net::TcpStream;

use mongodb::bson::{Bson, DateTime, doc};
use serde_json::{Value, json};

use crate::support::{APP_KEY, Answer, PREVIOUS_SECRET, SECRET, TestApp, signed};

const MESSAGE: &str = r#"{"eventType":"1","convType":"PERSON","to":"bob","fromAccount":"ann","msgType":"TEXT","body":"hi","msgTimestamp":"1700000000000","msgidServer":"1"}"#;

async fn deliver_to(app: &TestApp, path: &str, headers: &[(&str, String)], body: &str) -> Answer {
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
async fn what_is_not_the_providers_is_refused_and_leaves_nothing() {
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
    let other_body = MESSAGE.replace("hi", "ho");
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
        assert!(!told.contains(SECRET) && !told.contains("hi\""), "{told}");
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
    let frame = MESSAGE.replace("hi", "");
    let body = MESSAGE.replace("hi", &"x".repeat(1024 * 1024 - frame.len()));
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

/// A signed body of which no event can be made is kept whole, with the reason and the place.
#[tokio::test]
async fn what_cannot_be_decoded_is_kept_as_a_dead_letter() {
    let app = TestApp::start().await;
    let cases: &[(&str, &str, &str)] = &[
        ("hello", "not_json", "$"),
        ("{\"eventType\":", "not_json", "$"),
        ("[1,2]", "not_an_object", "$"),
        ("\"text\"", "not_an_object", "$"),
        (r#"{"a":1}"#, "missing_field", "$.eventType"),
        (r#"{"eventType":{}}"#, "missing_field", "$.eventType"),
        (
            r#"{"eventType":"1","convType":"PERSON","msgidServer":"1"}"#,
            "missing_field",
            "$.to",
        ),
        (
            &MESSAGE.replace(r#""msgidServer":"1""#, r#""msgidServer":"""#),
            "missing_field",
            "$.msgidServer",
        ),
        (
            &MESSAGE.replace(r#""ann""#, "null"),
            "missing_field",
            "$.fromAccount",
        ),
        (
            &MESSAGE.replace(r#""ann""#, "[1]"),
            "bad_value",
            "$.fromAccount",
        ),
        (
            &MESSAGE.replace("1700000000000", "yesterday"),
            "bad_value",
            "$.msgTimestamp",
        ),
        (
            &MESSAGE.replace("1700000000000", "-1"),
            "bad_value",
            "$.msgTimestamp",
        ),
        (
            &MESSAGE.replace(r#""1700000000000""#, "1.7e12"),
            "bad_value",
            "$.msgTimestamp",
        ),
        (
            r#"{"eventType":2,"timestamp":1700000000000}"#,
            "missing_field",
            "$.accid",
        ),
        (r#"{"eventType":7,"to":"bob"}"#, "missing_field", "$.msgId"),
        (
            r#"{"eventType":30,"objects":"nothing"}"#,
            "bad_value",
            "$.objects",
        ),
        (
            r#"{"eventType":30,"objects":[{"fromAccount":"a","toAccount":"b"}]}"#,
            "missing_field",
            "$.objects[0].timestamp",
        ),
        (
            r#"{"eventType":85,"accid":"a","ackMsgTime":1}"#,
            "missing_field",
            "$.ackAccid",
        ),
        (
            r#"{"eventType":89,"to":"b","msgId":1,"text":"x"}"#,
            "missing_field",
            "$.modifyTime",
        ),
        (
            r#"{"eventType":1,"fromAccount":"a","to":"b","msgType":"TEXT","msgTimestamp":"1541560157286"}"#,
            "synchronous_callback",
            "$.convType",
        ),
        (
            r#"{"eventType":7,"fromClientIp":"1.2.3.4","tname":"x"}"#,
            "synchronous_callback",
            "$.to",
        ),
    ];
    for (body, code, path) in cases {
        for _redelivery in 0..2 {
            app.deliver(body).await.expect_ok();
        }
        let letters = app.documents("dead_letters", doc! {}).await;
        assert_eq!(letters.len(), 1, "{body}");
        let letter = &letters[0];
        assert_eq!(
            (letter.get_str("code").ok(), letter.get_str("path").ok()),
            (Some(*code), Some(*path)),
            "{body}"
        );
        assert_eq!(letter.get_str("body").ok(), Some(*body));
        assert!(!letter.get_str("reason").unwrap().is_empty());
        assert_eq!(app.dump().await.len(), 1, "{body} left more than a letter");
        app.empty().await;
    }
    app.deliver(b"\xff\xfe".as_slice()).await.expect_ok();
    let letter = &app.documents("dead_letters", doc! {}).await[0];
    assert!(matches!(letter.get("body"), Some(Bson::Binary(b)) if b.bytes == b"\xff\xfe"));
    app.end().await;
}

/// A bad element of a list does not hold up its neighbours.
#[tokio::test]
async fn a_bad_receipt_does_not_hold_up_the_good_ones_beside_it() {
    let app = TestApp::start().await;
    app.deliver(MESSAGE).await.expect_ok();
    let good =
        json!({ "fromAccount": "bob", "toAccount": "ann", "timestamp": 1_700_000_000_000_i64 });
    let receipts = json!({ "eventType": "30", "objects": [{ "fromAccount": "bob" }, good, 5] });
    app.deliver(receipts.to_string()).await.expect_ok();
    app.until_followed().await;
    assert_eq!(
        app.document("messages", "otc/p2p/1")
            .await
            .get_i32("state")
            .ok(),
        Some(1)
    );
    let letter = &app.documents("dead_letters", doc! {}).await[0];
    assert_eq!(letter.get_str("path").ok(), Some("$.objects[0].toAccount"));
    app.end().await;
}

/// Marks only rise, so one time far in the future would silence a conversation for good.
#[tokio::test]
async fn a_receipt_of_a_time_to_come_raises_no_mark() {
    let app = TestApp::start().await;
    let now = DateTime::now().timestamp_millis();
    let (soon, ahead) = (now + 23 * 3_600_000, now + 25 * 3_600_000);
    let receipt = |reader: &str, at: Value| json!({ "fromAccount": reader, "toAccount": "ann", "timestamp": at });
    let mut alone = receipt("ahead", json!(ahead));
    alone["eventType"] = json!(30);
    let objects = [
        receipt("soon", json!(soon)),
        receipt("ahead", json!(ahead.to_string())),
        receipt("bob", json!(1_700_000_000_000_i64)),
    ];
    let mark = |reader: &str, up_to: i64| (reader.to_owned(), up_to);
    let cases = [
        (alone, "$.timestamp", vec![]),
        (
            json!({ "eventType": 30, "objects": objects }),
            "$.objects[1].timestamp",
            vec![mark("bob", 1_700_000_000_000), mark("soon", soon)],
        ),
        (
            json!({ "eventType": 85, "accid": "ahead", "ackAccid": "ann", "ackMsgTime": ahead }),
            "$.ackMsgTime",
            vec![],
        ),
        (
            json!({ "eventType": 85, "accid": "ahead", "ackTeamId": 7, "ackMsgTime": ahead, "data": {} }),
            "$.ackMsgTime",
            vec![],
        ),
    ];
    for (body, path, marks) in cases {
        app.deliver(body.to_string()).await.expect_ok();
        let letters = app.documents("dead_letters", doc! {}).await;
        assert_eq!(letters.len(), 1, "{body}");
        let said = |name: &str| letters[0].get_str(name).ok();
        assert_eq!(
            (said("code"), said("path")),
            (Some("time_ahead"), Some(path))
        );
        let stored = app.documents("read_marks", doc! {}).await;
        let stored: Vec<_> = stored
            .iter()
            .map(|stored| {
                let id = stored.get_document("_id").unwrap();
                mark(
                    id.get_str("reader").unwrap(),
                    stored.get_i64("readUpTo").unwrap(),
                )
            })
            .collect();
        assert_eq!(stored, marks, "{body}");
        app.empty().await;
    }
    app.end().await;
}

#[tokio::test]
async fn kinds_that_nobody_knows_are_stored() {
    let app = TestApp::start().await;
    let bodies = [
        r#"{"eventType":"777","new":{"id":9007199254740993,"big":123456789012345678901234567890}}"#,
        r#"{"eventType":"MEETING_STATE_CHANGE_EVENT","x":1}"#,
        r#"{"eventType":1,"convType":"PLANET","fromAccount":"A","to":"b","msgidServer":"1"}"#,
        r#"{"eventType":3,"data":{"channelId":123}}"#,
        r#"{"type":"CALL","callback":"{}"}"#,
        r#"{"eventType":"13","accid":"a","$where":{"a.b":{"":1}},"":2,"a.b":3}"#,
    ];
    for body in bodies {
        app.deliver(body).await.expect_ok();
    }
    insta::assert_json_snapshot!(app.dump().await);
    app.end().await;
}

/// Kinds that the provider documents without a sample, built from its field tables.
#[tokio::test]
async fn documented_kinds_without_a_sample_are_stored_under_their_names() {
    let app = TestApp::start().await;
    let cases: &[(&str, &[&str])] = &[
        (
            r#"{"eventType":"12","objects":"[{\"mobile\":\"1\",\"content\":\"T\",\"replytime\":\"2017-06-02 14:40:45\"}]"}"#,
            &["sms_uplink"],
        ),
        (
            r#"{"eventType":"13","accid":"A","roomId":1,"timestamp":1700000000000}"#,
            &["avroom_inout"],
        ),
        (
            r#"{"eventType":"20","objects":"[{\"type\":\"P2P_MSG_PICTURE\",\"serverMsgId\":\"1\",\"antispam\":true,\"yidunRes\":{}}]"}"#,
            &["antispam_hit"],
        ),
        (
            r#"{"eventType":"21","channelId":"6265489843204131361","createtime":"1458798033925"}"#,
            &["av_duration"],
        ),
        (
            r#"{"eventType":"25","msgId":"9","from":"a","to":"77","deleteTime":"1700000000000"}"#,
            &["super_team_recall"],
        ),
        (
            r#"{"eventType":"84","event":1,"code":302,"accid":"A","timestamp":"1700000000000"}"#,
            &["login_failed"],
        ),
        (
            r#"{"eventType":"85","ackTeamId":"2348369454","msgType":"1","accid":"yx1","ackMsgTime":"1658283965194"}"#,
            &["conversation_read"],
        ),
        (
            r#"{"eventType":"90","msgId":9,"from":"a","to":77,"modifyTime":1700000000000,"text":"x"}"#,
            &["team_message_update"],
        ),
        (
            r#"{"eventType":"91","msgId":9,"from":"a","to":77,"modifyTime":1700000000000,"text":"x"}"#,
            &["super_team_message_update"],
        ),
        (
            r#"{"eventType":11,"objects":"[{\"sendid\":\"1\"},{\"sendid\":\"2\"},{\"sendid\":\"1\"}]"}"#,
            &["sms_receipt", "sms_receipt"],
        ),
        (
            r#"{"eventType":11,"objects":"not a list"}"#,
            &["sms_receipt"],
        ),
        (r#"{"eventType":30,"objects":[]}"#, &["p2p_receipt"]),
        (
            r#"{"eventType":30,"objects":{"fromAccount":"a","toAccount":"b","timestamp":1}}"#,
            &["p2p_receipt"],
        ),
    ];
    for (body, kinds) in cases {
        for _redelivery in 0..2 {
            app.deliver(body).await.expect_ok();
        }
        let events = app.documents("events", doc! {}).await;
        let stored: Vec<_> = events.iter().map(|e| e.get_str("kind").unwrap()).collect();
        assert_eq!(stored, *kinds, "{body}");
        assert!(
            app.documents("dead_letters", doc! {}).await.is_empty(),
            "{body}"
        );
        app.empty().await;
    }
    app.end().await;
}

/// The `type` header is not signed: it may confirm the product, and never hides a message.
#[tokio::test]
async fn the_type_header_labels_and_never_hides() {
    let app = TestApp::start().await;
    let mut headers = signed(MESSAGE.as_bytes(), SECRET).to_vec();
    headers.push(("type", "RTC2".to_owned()));
    deliver_to(&app, "/callbacks/otc", &headers, MESSAGE)
        .await
        .expect_ok();
    assert_eq!(
        app.document("messages", "otc/p2p/1")
            .await
            .get_i32("state")
            .ok(),
        Some(0)
    );
    // Neither does it hide what acts on messages, marks and presence.
    let acting = [
        r#"{"eventType":30,"fromAccount":"bob","toAccount":"ann","timestamp":1700000000000}"#,
        r#"{"eventType":7,"msgId":"1","from":"ann","to":"bob","deleteTime":1}"#,
        r#"{"eventType":2,"accid":"bob","clientType":"IOS","timestamp":1}"#,
    ];
    for body in acting {
        let mut headers = signed(body.as_bytes(), SECRET).to_vec();
        headers.push(("type", "RTC2".to_owned()));
        deliver_to(&app, "/callbacks/otc", &headers, body)
            .await
            .expect_ok();
    }
    let message = app.document("messages", "otc/p2p/1").await;
    assert!(message.get_i32("state").ok() == Some(1) && message.contains_key("recall"));
    assert_eq!(app.dump().await["presence"].len(), 1);
    app.empty().await;
    let room = r#"{"eventType":4,"uid":5}"#;
    let mut headers = signed(room.as_bytes(), SECRET).to_vec();
    headers.push(("type", "RTC2".to_owned()));
    deliver_to(&app, "/callbacks/otc", &headers, room)
        .await
        .expect_ok();
    let event = &app.documents("events", doc! {}).await[0];
    assert_eq!(
        (event.get_str("product").ok(), event.get_str("kind").ok()),
        (Some("rtc"), Some("rtc"))
    );
    app.end().await;
}

/// Whoever replays a signed callback may change the header: that must make no second document.
#[tokio::test]
async fn the_type_header_makes_no_second_document() {
    let app = TestApp::start().await;
    let bodies = [
        r#"{"eventType":4,"uid":5}"#,
        r#"{"eventType":"777","x":1}"#,
        r#"{"eventType":"MEETING_STATE_CHANGE_EVENT","x":1}"#,
        r#"{"eventType":1,"convType":"PLANET","msgidServer":"1"}"#,
        r#"{"eventType":2,"uid":5}"#,
        r#"{"eventType":2,"accid":"a","code":302,"timestamp":1}"#,
        r#"{"eventType":11,"objects":[{"sendid":"1"}]}"#,
        r#"{"eventType":11,"objects":"no list"}"#,
        r#"{"eventType":30,"objects":[]}"#,
        r#"{"eventType":30,"objects":[{"fromAccount":"bob"}]}"#,
        r#"{"eventType":30,"fromAccount":"bob","toAccount":"ann","timestamp":1}"#,
        r#"{"eventType":3,"data":{"channelId":123}}"#,
        r#"{"uid":5}"#,
        "no JSON",
        MESSAGE,
    ];
    for body in bodies {
        let mut alone = None;
        for deliveries in [
            vec![None],
            vec![Some("RTC2")],
            vec![None, Some("RTC2")],
            vec![Some("RTC2"), None],
            vec![Some("rtc"), Some("im")],
        ] {
            for header in &deliveries {
                let mut headers = signed(body.as_bytes(), SECRET).to_vec();
                headers.extend(header.map(|product| ("type", product.to_owned())));
                deliver_to(&app, "/callbacks/otc", &headers, body)
                    .await
                    .expect_ok();
            }
            let mut stored = json!(app.dump().await);
            for document in stored.as_object_mut().unwrap().values_mut() {
                let document = document[0].as_object_mut().unwrap();
                // What the header may choose: the label of the first delivery.
                document.remove("product");
                document.remove("kind");
            }
            let alone = alone.get_or_insert_with(|| stored.clone());
            assert_eq!(stored, *alone, "{body} {deliveries:?}");
            app.empty().await;
        }
    }
    app.end().await;
}

/// Rooms share numbers with chat, and the provider may add fields: `data` alone makes no room's event of
/// one that chat can read.
#[tokio::test]
async fn a_data_object_takes_no_effect_away() {
    let app = TestApp::start().await;
    app.deliver(MESSAGE).await.expect_ok();
    let acting = [
        json!({ "eventType": 30, "objects": [{ "fromAccount": "bob", "toAccount": "ann", "timestamp": 1 }] }),
        json!({ "eventType": 85, "accid": "bob", "ackAccid": "carl", "ackMsgTime": 1 }),
        json!({ "eventType": 89, "msgId": 1, "from": "ann", "to": "bob", "modifyTime": 1, "text": "ho" }),
        json!({ "eventType": 7, "msgId": 1, "from": "ann", "to": "bob", "deleteTime": 1 }),
        json!({ "eventType": 2, "accid": "bob", "clientType": "IOS", "timestamp": 1 }),
        json!({ "eventType": 2, "accid": "bob", "code": 302, "timestamp": 2 }),
        json!({ "eventType": 11, "objects": [{ "sendid": "1" }, { "sendid": "2" }] }),
    ];
    for (n, mut body) in acting.into_iter().enumerate() {
        body["data"] = if n % 2 == 0 {
            json!({ "channelId": 5 })
        } else {
            json!("{}")
        };
        app.deliver(body.to_string()).await.expect_ok();
    }
    let message = app.document("messages", "otc/p2p/1").await;
    assert_eq!(message.get_str("body").ok(), Some("ho"));
    assert!(message.contains_key("recall"));
    let dump = app.dump().await;
    let counts =
        ["read_marks", "presence", "events"].map(|name| dump.get(name).map_or(0, Vec::len));
    assert_eq!(counts, [2, 1, 8], "{dump:?}");
    assert!(
        dump["events"].iter().all(|event| event["product"] == "im"),
        "{dump:?}"
    );
    app.empty().await;

    // Where chat can do nothing with it, it is a room's, whatever the number means in chat.
    let numbers = [1, 2, 3, 4, 7, 8, 11, 20, 25, 30, 85, 89, 90, 91, 777];
    for number in numbers {
        let room = json!({ "eventType": number, "data": { "channelId": 5, "timestamp": 1 } });
        app.deliver(room.to_string()).await.expect_ok();
    }
    let dump = app.dump().await;
    assert_eq!(dump.len(), 1, "{dump:?}");
    assert_eq!(dump["events"].len(), numbers.len());
    for event in &dump["events"] {
        assert_eq!(
            (&event["product"], &event["kind"]),
            (&json!("rtc"), &json!("rtc"))
        );
    }
    app.end().await;
}

/// A body in chunks has no length to announce: it is taken, and cut at the limit.
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
    let too_large = MESSAGE.replace("hi", &"x".repeat(2 * 1024 * 1024));
    let refused = tokio::task::block_in_place(|| send(&too_large));
    // The client may still be writing when the answer comes, and then not see it.
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 413"),
        "{refused}"
    );
    assert_eq!(app.dump().await["messages"].len(), 1);
    app.end().await;
}

/// Raw bytes on a socket: what no HTTP client sends.
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
        // The client is gone before the body is whole: there may be nobody to answer.
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

/// New fields may come at any time, also such as the synchronous callback has.
#[tokio::test]
async fn a_field_of_the_synchronous_callback_does_not_make_a_copy_one() {
    let app = TestApp::start().await;
    let body = MESSAGE.replacen('{', r#"{"fromClientIp":"1.2.3.4","fromClientPort":5,"#, 1);
    app.deliver(&body).await.expect_ok();
    assert_eq!(
        app.document("messages", "otc/p2p/1")
            .await
            .get_i32("state")
            .ok(),
        Some(0)
    );
    app.end().await;
}

#[tokio::test]
async fn conversation_read_goes_by_its_msg_type() {
    let app = TestApp::start().await;
    let cases = [
        (
            r#""msgType":"0","ackAccid":"ann","ackTeamId":0"#,
            doc! { "app": "otc", "reader": "bob", "peer": "ann" },
        ),
        (
            r#""msgType":1,"ackAccid":"ann","ackTeamId":77"#,
            doc! { "app": "otc", "reader": "bob", "team": "77" },
        ),
        (
            r#""ackAccid":"ann""#,
            doc! { "app": "otc", "reader": "bob", "peer": "ann" },
        ),
        (
            r#""ackTeamId":"77""#,
            doc! { "app": "otc", "reader": "bob", "team": "77" },
        ),
    ];
    for (fields, id) in cases {
        let body =
            format!(r#"{{"eventType":85,"accid":"Bob","ackMsgTime":1700000000000,{fields}}}"#);
        app.deliver(&body).await.expect_ok();
        let marks = app.documents("read_marks", doc! {}).await;
        assert_eq!(marks.len(), 1, "{body}");
        assert_eq!(marks[0].get_document("_id").unwrap(), &id, "{body}");
        app.empty().await;
    }
    app.end().await;
}

/// A list may hold its elements as text, and a body of thousands of them is stored whole: it grows on its
/// way beyond what MongoDB takes in one command.
#[tokio::test]
async fn every_receipt_of_a_long_list_takes_effect() {
    const RECEIPTS: usize = 8000;
    let app = TestApp::start().await;
    let receipts: Vec<_> = (0..RECEIPTS)
        .map(|n| format!(r#"{{"fromAccount":"r{n}","toAccount":"ann","timestamp":1700000000000}}"#))
        .collect();
    let as_text: Vec<_> = receipts[..2].iter().map(|r| json!(r)).collect();
    let body = json!({ "eventType": 30, "objects": as_text });
    app.deliver(body.to_string()).await.expect_ok();
    let marks = app.database.collection::<bson::Document>("read_marks");
    assert_eq!(marks.count_documents(doc! {}).await.unwrap(), 2);

    app.empty().await;
    let pad = "x".repeat(300 * 1024);
    let body = format!(
        r#"{{"eventType":30,"pad":"{pad}","objects":[{}]}}"#,
        receipts.join(",")
    );
    app.deliver(&body).await.expect_ok();
    assert_eq!(
        marks.count_documents(doc! {}).await.unwrap(),
        RECEIPTS as u64
    );
    assert!(app.documents("dead_letters", doc! {}).await.is_empty());
    let events = app.database.collection::<bson::Document>("events");
    let padded = events
        .count_documents(doc! { "payload.pad": { "$exists": true } })
        .await
        .unwrap();
    assert_eq!(padded, 1, "what stands beside the list is kept once");
    app.end().await;
}

/// Only a badge needs to know sender and time.
#[tokio::test]
async fn a_notice_without_sender_or_time_is_stored() {
    let app = TestApp::start().await;
    let body = r#"{"eventType":1,"convType":"CUSTOM_TEAM","to":"77","msgType":"TEAM_APPLY","msgidServer":"5"}"#;
    app.deliver(body).await.expect_ok();
    assert!(
        !app.document("messages", "otc/custom_team/5")
            .await
            .contains_key("state")
    );
    app.end().await;
}

/// What may be a message's text is in no `Debug` output.
#[test]
fn debug_shows_no_text() {
    use im_callback::callback::RawCallback;
    use im_callback::callback::ids::Millis;
    use im_callback::callback::netease::{Rules, Verifier, decode};
    let edit = r#"{"eventType":89,"msgId":1,"to":"bob","modifyTime":1,"text":"secret text"}"#;
    for body in [MESSAGE.replace("hi", "secret text"), edit.to_owned()] {
        let headers = signed(body.as_bytes(), SECRET);
        let header = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_str())
        };
        let raw = RawCallback {
            body: body.as_bytes(),
            header: &header,
        };
        let verifier = Verifier {
            app_key: APP_KEY.to_owned(),
            secrets: vec![SECRET.into()],
            freshness: None,
        };
        let verified = verifier.verify(&raw, 0).unwrap();
        let arrived = Millis::new(0).unwrap();
        let shown = format!("{:?}", decode(&verified, arrived, &Rules::default()));
        assert!(
            shown.contains("bob") && !shown.contains("secret text"),
            "{shown}"
        );
    }
}
