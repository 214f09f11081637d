//! A page of a conversation costs what is on the page.

use std::time::Duration;

use futures_util::future::{join, join_all};
use im_callback::callback::event::Class;
use im_callback::callback::ids::AppName;
use im_callback::store::messages::{MessagePlace, WhichPage};
use mongodb::bson::{Document, doc};

use super::{ask, ids, page, plant};
use crate::failpoints::{TURN, fail, service, times_hit};
use crate::support::TestApp;
use crate::trace::SENT;
use crate::unread_indexes::{find, stages};

/// However long a conversation is, and wherever the page: MongoDB walks the index from the page's place, reads as many
/// documents as are on it, and sorts nothing. So it is for a team, of which two conversations are merged.
#[tokio::test]
async fn a_page_is_read_by_the_index_alone() {
    let app = TestApp::start().await;
    const EACH: i64 = 600;
    let messages = app.database.collection::<Document>("messages");
    for class in ["p2p/ann/bob", "team/7", "super_team/7", "p2p/ann/carl"] {
        let name = class.split('/').next().unwrap();
        let many = (0..EACH).map(|n| doc! {
            "_id": format!("otc/{name}/{}-{n}", class.len()), "app": "otc", "conversation": class,
            // Many at one time.
            "msgTimestamp": SENT + n / 100, "to": "bob",
        });
        messages.insert_many(many).await.unwrap();
    }
    let name = AppName::new("otc").unwrap();
    let message = |class: Class, id: &str| MessagePlace::Message {
        sent_at: SENT + 3,
        class,
        id: id.to_owned(),
    };
    for conversations in [&["p2p/ann/bob"][..], &["team/7", "super_team/7"]] {
        let class = match conversations.len() {
            1 => Class::P2p,
            _ => Class::Team,
        };
        let conversations: Vec<_> = conversations.iter().map(|c| (*c).to_owned()).collect();
        // In the middle of those with one time.
        let place = message(class, &format!("{}-350", conversations[0].len()));
        for which in [
            WhichPage::Newest,
            WhichPage::Before(place.clone()),
            WhichPage::After(place),
            WhichPage::Before(MessagePlace::Time(SENT + 2)),
            WhichPage::After(MessagePlace::Time(SENT + 2)),
        ] {
            let command = doc! {
                "find": "messages", "filter": which.filter(&name, &conversations), "sort": which.sort(),
                "hint": "conversation", "limit": 51, "projection": { "to": 1 },
            };
            let explain = doc! { "explain": command, "verbosity": "executionStats" };
            let plan = app.database.run_command(explain).await.unwrap();
            let stages = stages(&plan);
            assert!(
                stages.contains(&"IXSCAN".to_owned()),
                "{stages:?} in {plan}"
            );
            for wrong in ["COLLSCAN", "SORT"] {
                assert!(
                    !stages.contains(&wrong.to_owned()),
                    "{which:?}: {stages:?} in {plan}"
                );
            }
            let stats = find(&plan, "executionStats")
                .unwrap()
                .as_document()
                .unwrap();
            let number = |what| stats.get_i32(what).unwrap();
            assert_eq!(number("nReturned"), 51, "{which:?} {plan}");
            assert_eq!(number("totalDocsExamined"), 51, "{which:?} {plan}");
            // A few more to merge ranges.
            assert!(number("totalKeysExamined") < 60, "{which:?} {plan}");
        }
    }
    app.end().await;
}

/// MongoDB sends a page in small parts, so that no more than a part is in memory beyond what a page may have.
#[tokio::test]
async fn a_page_comes_in_small_parts() {
    let app = TestApp::start().await;
    let many = (0..100).map(|n| (format!("m{n:03}"), SENT + n));
    plant(&app, "p2p/ann/bob", many).await;
    let profile = async |level: i32| app.database.run_command(doc! { "profile": level }).await;
    profile(2).await.unwrap();
    let whole = page(&app, "user=bob&peer=ann&limit=90").await;
    profile(0).await.unwrap();
    assert_eq!(ids(&whole).len(), 90);
    let reads = doc! { "op": { "$in": ["query", "getmore"] }, "ns": { "$regex": "[.]messages$" } };
    let parts = app.documents("system.profile", reads).await;
    let parts: Vec<_> = parts
        .iter()
        .map(|part| part.get_i32("nreturned").unwrap())
        .collect();
    assert!(parts.iter().all(|n| *n <= 16), "{parts:?}");
    assert_eq!(parts.iter().sum::<i32>(), 91);
    app.end().await;
}

/// Few pages are read at once, and the others wait for their turn.
#[tokio::test(flavor = "multi_thread")]
async fn few_pages_are_read_at_once() {
    let _turn = TURN.lock().await;
    let name = "slow-pages";
    let Some((app, client)) = service(name, "").await else {
        return;
    };
    let slow = doc! {
        "failCommands": ["find"], "namespace": format!("{}.messages", app.database.name()),
        "blockConnection": true, "blockTimeMS": 1000,
    };
    let before = times_hit(&client).await;
    fail(&client, name, "alwaysOn", slow).await;
    let asked = (0..20).map(|_| ask(&app, "user=bob&peer=ann"));
    let begun = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        times_hit(&client).await - before
    };
    let (answers, begun) = join(join_all(asked), begun).await;
    // The service's own look at the messages of teams may be among them.
    assert!((8..=9).contains(&begun), "{begun}");
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    app.end().await;
}
