//! What each kind of event becomes, including unknown kinds and those of other products.

use mongodb::bson::doc;
use serde_json::json;

use crate::callbacks::{MESSAGE, deliver_to};
use crate::support::{SECRET, TestApp, signed};

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
    // Nor does it hide events that act on messages, marks and presence.
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

/// A replay of a signed callback may have another header, which must not create a second document.
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
                document.remove("headers");
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
async fn a_data_object_suppresses_no_effect() {
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

/// A list may have its elements as text. A body with thousands of them is stored whole, although its documents exceed
/// one MongoDB command.
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

/// Only unread counts need sender and time.
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
