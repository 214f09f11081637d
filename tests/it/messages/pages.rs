//! Pages of a conversation, glued together, are the whole of it.

use mongodb::bson::{DateTime, Document, doc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::{ids, page, plant};
use crate::support::TestApp;
use crate::trace::{SENT, message};

/// All pages from a place on, glued in the order in which a site shows them, the newest first.
async fn glued(
    app: &TestApp,
    who: &str,
    direction: &str,
    from: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let mut glued: Vec<String> = Vec::new();
    let mut place = from.map(str::to_owned);
    loop {
        let at = place.as_ref().map(|place| format!("&{direction}={place}"));
        let page = page(
            app,
            &format!("{who}&limit={limit}{}", at.unwrap_or_default()),
        )
        .await;
        let ids: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
        assert!(ids.len() <= limit);
        let next = match direction {
            "before" => page["older"].as_str(),
            // There is always a place to go on from later.
            _ => page["newer"].as_str().filter(|_| !ids.is_empty()),
        };
        let next = next.map(str::to_owned);
        match direction {
            "before" => glued.extend(ids),
            _ => glued.splice(0..0, ids).for_each(drop),
        }
        match next {
            Some(next) => place = Some(next),
            None => return glued,
        }
    }
}

type Planted = (i64, &'static str, String);

/// Plants the messages of a team, and returns them in the order of its pages.
async fn planted(app: &TestApp, n: usize, messages: &[(usize, i64)]) -> Vec<Planted> {
    let classes = ["super_team", "team"];
    for (class, name) in classes.iter().enumerate() {
        let of_class = messages
            .iter()
            .enumerate()
            .filter(|(_, (c, _))| *c == class);
        let of_class: Vec<_> = of_class
            .map(|(i, (_, at))| (format!("{n}-{i:02}"), SENT + at))
            .collect();
        if !of_class.is_empty() {
            plant(app, &format!("{name}/{n}"), of_class).await;
        }
    }
    let mut all: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(i, (class, at))| (SENT + at, classes[*class], format!("{n}-{i:02}")))
        .collect();
    all.sort();
    all.reverse();
    all
}

/// Compares pages with the whole: all, from a time on, and from a message on.
async fn check(
    app: &TestApp,
    n: usize,
    all: &[Planted],
    limit: usize,
    (start, time): (usize, i64),
) {
    let ids_of = |some: &[Planted]| -> Vec<String> { some.iter().map(|m| m.2.clone()).collect() };
    let who = format!("user=bob&team={n}");
    assert_eq!(glued(app, &who, "before", None, limit).await, ids_of(all));
    let first = glued(app, &who, "after", Some("0"), limit).await;
    assert_eq!(first, ids_of(all), "from the beginning");
    let bound = SENT + time;
    let bound_text = bound.to_string();
    let earlier: Vec<_> = all.iter().filter(|m| m.0 < bound).cloned().collect();
    let later: Vec<_> = all.iter().filter(|m| m.0 > bound).cloned().collect();
    assert_eq!(
        glued(app, &who, "before", Some(&bound_text), limit).await,
        ids_of(&earlier)
    );
    assert_eq!(
        glued(app, &who, "after", Some(&bound_text), limit).await,
        ids_of(&later)
    );
    // From one message on, both ways: neither has it again.
    if let Some(start) = start.checked_rem(all.len()) {
        let place = page(app, &format!("{who}&limit={}", start + 1)).await;
        if let Some(older) = place["older"].as_str() {
            assert_eq!(
                glued(app, &who, "before", Some(older), limit).await,
                ids_of(&all[start + 1..])
            );
            assert_eq!(
                glued(app, &who, "after", Some(older), limit).await,
                ids_of(&all[..start])
            );
        } else {
            assert_eq!(start + 1, all.len(), "the last page has no older one");
        }
    }
}

/// Pages of any size, in both directions and from any place, are the conversation in its order: by time, and at equal times
/// by id.
#[test]
fn pages_are_the_whole_in_its_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(TestApp::start());
    let cases = (
        prop::collection::vec((0..2_usize, 0..5_i64), 0..14),
        1..6_usize,
        0..14_usize,
        0..6_i64,
    );
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let team = std::cell::Cell::new(0);
    let result = runner.run(&cases, |(messages, limit, start, time)| {
        let n = team.replace(team.get() + 1);
        runtime.block_on(async {
            let all = planted(&app, n, &messages).await;
            check(&app, n, &all, limit, (start, time)).await;
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(app.end());
}

/// While messages come, also late ones, who goes on from a page misses nothing that was there and sees nothing twice; who
/// waits at the newest hears of all that is newer.
#[tokio::test]
async fn pages_stay_where_they_are_while_messages_come() {
    let app = TestApp::start().await;
    let who = "user=bob&peer=ann";
    plant(
        &app,
        "p2p/ann/bob",
        (0..20).map(|n| (format!("m{n:02}"), SENT + n / 2 * 10)),
    )
    .await;
    let first = page(&app, &format!("{who}&limit=7")).await;
    let (older, newer) = (
        first["older"].as_str().unwrap(),
        first["newer"].as_str().unwrap(),
    );
    let empty = page(&app, &format!("{who}&after={newer}")).await;
    assert_eq!(
        (ids(&empty), empty["newer"].as_str(), empty.get("older")),
        (vec![], Some(newer), None)
    );
    // Newer ones, late ones among what was read, and late ones that are still to be read.
    for (id, at) in [
        ("new1", 500),
        ("new0", 500),
        ("late-read", 85),
        ("late-unread", 15),
        ("late-equal", 60),
    ] {
        app.deliver(message(id, json!({ "msgTimestamp": SENT + at })))
            .await
            .expect_ok();
    }
    let rest = glued(&app, who, "before", Some(older), 3).await;
    let mut seen: Vec<_> = ids(&first)
        .into_iter()
        .map(str::to_owned)
        .chain(rest)
        .collect();
    // `late-equal` has the time of the place and comes before it by its id.
    assert_eq!(
        seen.iter()
            .filter(|id| id.starts_with("late"))
            .collect::<Vec<_>>(),
        ["late-equal", "late-unread"]
    );
    seen.retain(|id| !id.starts_with("late"));
    let whole: Vec<_> = (0..20).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(seen, whole);
    let news = page(&app, &format!("{who}&after={newer}")).await;
    assert_eq!(ids(&news), ["new1", "new0"]);
    let newest = news["newer"].as_str().unwrap();
    assert_eq!(
        ids(&page(&app, &format!("{who}&after={newest}")).await),
        [""; 0]
    );
    // A place stays when its message is deleted, as by a retention.
    let messages = app.database.collection::<Document>("messages");
    messages
        .delete_many(doc! { "_id": { "$in": ["otc/p2p/new1", "otc/p2p/m19"] } })
        .await
        .unwrap();
    let before = page(&app, &format!("{who}&before={newest}&limit=2")).await;
    assert_eq!(ids(&before), ["new0", "m18"]);
    app.end().await;
}

/// What has no time has no place, and whatever somebody put into a document is told or left out.
#[tokio::test]
async fn odd_documents_break_nothing() {
    let app = TestApp::start().await;
    app.deliver(message(
        "team-without-time",
        json!({ "convType": "TEAM", "to": "7", "msgTimestamp": null }),
    ))
    .await
    .expect_ok();
    app.deliver(message(
        "team-with-a-word",
        json!({ "convType": "TEAM", "to": "7", "msgTimestamp": "soon" }),
    ))
    .await
    .expect_ok();
    app.deliver(message(
        "t",
        json!({ "convType": "TEAM", "to": "7", "body": { "a": [1] } }),
    ))
    .await
    .expect_ok();
    let team = page(&app, "user=bob&team=7&limit=1").await;
    assert_eq!((ids(&team), team.get("older")), (vec!["t"], None), "{team}");
    assert_eq!(team["messages"][0]["text"], "{\"a\":[1]}");
    assert_eq!(ids(&page(&app, "user=bob&team=7&after=0").await), ["t"]);
    plant(
        &app,
        "p2p/ann/bob",
        [("odd".to_owned(), 300_000_000_000_000)],
    )
    .await;
    let messages = app.database.collection::<Document>("messages");
    let odd = doc! { "$set": {
        "msgTimestamp": 3e14, "fromAccount": 5, "receivedAt": "x", "edits": "x", "recall": 1, "provider": "other",
        "attach": DateTime::MAX, "body": null,
    } };
    messages
        .update_one(doc! { "_id": "otc/p2p/odd" }, odd)
        .await
        .unwrap();
    let told = page(&app, "user=bob&peer=ann").await;
    assert_eq!(
        told["messages"],
        json!([{ "id": "odd", "class": "p2p", "to": "bob", "timestamp": 300_000_000_000_000_i64, "read": false,
                 "recall": { "at": null }, "withheld": true }])
    );
    app.end().await;
}

/// A page ends before it has too many bytes.
#[tokio::test]
async fn a_page_of_large_messages_ends_early() {
    let app = TestApp::start().await;
    let large = "x".repeat(900 * 1024);
    for n in 0..11 {
        let more = json!({ "msgTimestamp": SENT + n, "body": &large });
        app.deliver(message(&format!("m{n:02}"), more))
            .await
            .expect_ok();
    }
    let first = page(&app, "user=bob&peer=ann").await;
    assert_eq!(ids(&first).len(), 4);
    assert!(first["older"].is_string());
    let whole = glued(&app, "user=bob&peer=ann", "before", None, 200).await;
    let expected: Vec<_> = (0..11).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(whole, expected);
    assert_eq!(
        glued(&app, "user=bob&peer=ann", "after", Some("0"), 200).await,
        expected
    );
    app.end().await;
}
