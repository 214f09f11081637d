//! Callbacks that cannot be decoded, or only in part, become dead letters.

use mongodb::bson::{Bson, DateTime, doc};
use serde_json::{Value, json};

use crate::callbacks::MESSAGE;
use crate::support::TestApp;

/// A signed body that cannot be decoded is kept whole, with the reason and the place.
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
        let dead_letters = app.documents("dead_letters", doc! {}).await;
        assert_eq!(dead_letters.len(), 1, "{body}");
        let dead_letter = &dead_letters[0];
        assert_eq!(
            (
                dead_letter.get_str("code").ok(),
                dead_letter.get_str("path").ok()
            ),
            (Some(*code), Some(*path)),
            "{body}"
        );
        assert_eq!(dead_letter.get_str("body").ok(), Some(*body));
        assert!(!dead_letter.get_str("reason").unwrap().is_empty());
        assert_eq!(
            app.dump().await.len(),
            1,
            "{body} left more than a dead letter"
        );
        app.empty().await;
    }
    app.deliver(b"\xff\xfe".as_slice()).await.expect_ok();
    let dead_letter = &app.documents("dead_letters", doc! {}).await[0];
    assert!(matches!(dead_letter.get("body"), Some(Bson::Binary(b)) if b.bytes == b"\xff\xfe"));
    app.end().await;
}

/// A bad element of a list does not affect the others.
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
    let dead_letter = &app.documents("dead_letters", doc! {}).await[0];
    assert_eq!(
        dead_letter.get_str("path").ok(),
        Some("$.objects[0].toAccount")
    );
    app.end().await;
}

/// Marks only rise, so a time far in the future would hide all later messages of a conversation.
#[tokio::test]
async fn a_receipt_in_the_future_raises_no_mark() {
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
        let dead_letters = app.documents("dead_letters", doc! {}).await;
        assert_eq!(dead_letters.len(), 1, "{body}");
        let said = |name: &str| dead_letters[0].get_str(name).ok();
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

/// New fields may appear at any time, even ones that the synchronous callback has.
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
