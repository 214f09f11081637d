//! Every sample: how it is stored, and what `backfill` derives from it.

use std::path::Path;

use im_callback::callback::wildfire::wire;
use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{CONFIG, dead_letters, deliver, deliver_to, start};
use crate::support::{config_text, mongodb_uri};

/// The route of a sample: the first entry whose prefix matches its file name.
const ROUTES: &[(&str, &str)] = &[
    ("message_read", "message_read"),
    ("message_censor", "message/censor"),
    ("message_", "message"),
    ("things_message", "things/message"),
    ("recall_message", "recall_message"),
    ("user_online", "user/online"),
    ("user_info", "user/info"),
    ("user_relation", "user/relation"),
    ("group_info", "group/info"),
    ("group_member", "group/member"),
    ("channel_info", "channel/info"),
    ("channel_message", "channel/message"),
    ("channel_subscribe", "channel/subscribe"),
    ("chatroom_info", "chatroom/info"),
    ("chatroom_member", "chatroom/member"),
    ("robot_message", "robot/message"),
    ("im_exception_event", "im_exception_event"),
    ("conference_create", "conference/create"),
    ("conference_destroy", "conference/destroy"),
    ("conference_member_join", "conference/member_join"),
    ("conference_member_leave", "conference/member_leave"),
    ("conference_member_publish", "conference/member_publish"),
    ("conference_member_unpublish", "conference/member_unpublish"),
    ("moments_feed_recall", "moments_feed_recall"),
    ("moments_feed", "moments_feed"),
    ("moments_comment_recall", "moments_comment_recall"),
    ("moments_comment", "moments_comment"),
];

pub struct Sample {
    pub name: String,
    pub route: &'static str,
    pub body: Vec<u8>,
}

fn samples(folder: &Path) -> Option<Vec<Sample>> {
    let mut samples: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let route = ROUTES.iter().find(|(start, _)| name.starts_with(start));
            Sample {
                name: name.replace(".constructed", "").replace(".json", ""),
                route: route.unwrap_or_else(|| panic!("{name} has no route")).1,
                body: std::fs::read(&path).unwrap(),
            }
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    Some(samples)
}

pub fn own_samples() -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/wildfire");
    let samples = samples(&folder).unwrap();
    assert!(samples.len() >= 54, "{} samples", samples.len());
    samples
}

#[test]
fn every_route_has_a_sample_and_is_documented() {
    let documentation = include_str!("../../../docs/providers/wildfire.md");
    let stored = wire::STORED.iter().map(|(route, _)| *route);
    let others = [wire::RECALL, wire::READ, wire::ONLINE, wire::CENSOR];
    let has_sample: Vec<_> = own_samples().iter().map(|sample| sample.route).collect();
    for route in stored.chain(wire::MESSAGES.iter().copied()).chain(others) {
        // An alias.
        let is_alias = route == "exception";
        assert!(is_alias || has_sample.contains(&route), "{route}");
        let is_told = route == wire::CENSOR || documentation.contains(route);
        assert!(is_told, "{route}");
    }
    let kinds = wire::STORED.iter().map(|(_, kind)| kind.name);
    for kind in kinds.filter(|kind| !kind.starts_with("conference") && !kind.starts_with("moments"))
    {
        assert!(documentation.contains(kind), "{kind}");
    }
}

#[tokio::test]
async fn samples_match_their_snapshots_and_redelivery_changes_nothing() {
    let app = start().await;
    for Sample { name, route, body } in own_samples() {
        deliver_to(&app, "wild", route, body.clone()).await;
        let stored = app.dump().await;
        let received = app.documents("messages", doc! {}).await;
        deliver_to(&app, "wild", route, body).await;
        assert_eq!(app.dump().await, stored, "{name} delivered again");
        let again = app.documents("messages", doc! {}).await;
        assert_eq!(again, received, "{name} delivered again, with the clock");
        let folder = "../snapshots/wildfire";
        insta::with_settings!({
            omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => folder,
        }, {
            insta::assert_json_snapshot!(name, stored);
        });
        app.empty().await;
    }
    app.end().await;
}

/// A proxy or a later version may serialize differently from the provider's current server.
#[tokio::test]
async fn json_types_do_not_change_what_is_stored() {
    let app = start().await;
    for Sample { name, route, body } in own_samples() {
        deliver_to(&app, "wild", route, body.clone()).await;
        let stored = app.dump().await;
        app.empty().await;
        let mut sample: Value = serde_json::from_slice(&body).unwrap();
        for (_, value) in sample.as_object_mut().unwrap() {
            *value = match &*value {
                Value::Number(number) => json!(number.to_string()),
                nested @ (Value::Object(_) | Value::Array(_)) => json!(nested.to_string()),
                _ => continue,
            };
        }
        deliver(&app, route, &sample).await;
        let loosened = app.dump().await;
        app.empty().await;
        // Payloads, dead letters, and keys that are digests keep the types that were sent.
        for collection in ["messages", "read_marks", "presence"] {
            let both = (loosened.get(collection), stored.get(collection));
            assert_eq!(both.0, both.1, "{name} {sample}");
        }
        let kinds = |events: Option<&Vec<Value>>| {
            let events = events.into_iter().flatten();
            let said = events.map(|e| json!([e["kind"], e["eventType"], e["at"]]));
            said.collect::<Vec<_>>()
        };
        let both = (kinds(loosened.get("events")), kinds(stored.get("events")));
        assert_eq!(both.0, both.1, "{name}");
    }
    app.end().await;
}

/// Further samples outside the repository, if they are available.
#[tokio::test]
async fn samples_outside_the_repository_are_accepted_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples/wildfire");
    let Some(samples) = samples(&folder) else {
        eprintln!("skipped: there is no {}", folder.display());
        return;
    };
    let app = start().await;
    for Sample { name, route, body } in samples {
        deliver_to(&app, "wild", route, body).await;
        assert_eq!(dead_letters(&app).await, [], "{name}");
        assert!(!app.dump().await.is_empty(), "{name} left nothing");
        app.empty().await;
    }
    app.end().await;
}

/// Backfill derives the same from a stored message as decoding did, also from nested fields.
#[tokio::test(flavor = "multi_thread")]
async fn backfill_derives_what_decoding_derived() {
    let app = start().await;
    for Sample { route, body, .. } in own_samples() {
        deliver_to(&app, "wild", route, body).await;
    }
    let stored = app.dump().await;
    let backfill = |config: &str| {
        let name = app.database.name();
        let text = config_text("127.0.0.1:0", &mongodb_uri(), name, config);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_im-callback"))
            .args(["backfill", "--json", "--app", "wild", "--config"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let same = backfill(CONFIG);
    assert_eq!(same["changed"], 0, "{same}");
    assert_eq!(app.dump().await, stored);
    // On another line, other messages count.
    let on_line_1 = CONFIG.replace("callback_path", "line = 1\ncallback_path");
    let other = backfill(&on_line_1);
    assert_eq!(other["count_now"], 1, "{other}");
    let counted = doc! { "state": { "$exists": true } };
    let counted = app.documents("messages", counted).await;
    assert_eq!(counted.len(), 1);
    let conversation = counted[0].get_str("conversation").unwrap();
    assert_eq!(conversation, "p2p/JcgmLm55/cgc8c8VV/1");
    backfill(CONFIG);
    let there_and_back = app.documents("messages", doc! { "state": { "$exists": true } });
    assert_eq!(there_and_back.await.len() as u64, other["count_no_more"]);
    app.end().await;
}
