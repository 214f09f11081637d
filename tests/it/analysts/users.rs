//! What the users of the document may see and do.

use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;

use super::site::{PASSWORD, Site};
use super::{By, Plan, check_plan, queries, story};

/// Who must not read messages can ask all the same questions, and finds no text whatever the way.
#[tokio::test(flavor = "multi_thread")]
async fn users_see_what_they_may_and_cannot_write() {
    let Some(site) = Site::start().await else {
        return;
    };
    site.make_users();
    check_that_readers_cannot_write(&site).await;
    let counter = site.of_user("counter").await;
    for name in ["messages", "events", "dead_letters", "spools"] {
        let documents = counter.collection::<Document>(name);
        assert!(!is_allowed(documents.find_one(doc! {}).await), "{name}");
        let joined = [doc! { "$lookup": {
            "from": name, "localField": "_id", "foreignField": "_id", "as": "whole",
        } }];
        let view = counter.collection::<Document>("messages_without_text");
        assert!(!is_allowed(view.aggregate(joined).await), "{name}");
    }
    for (view, whole) in [
        ("messages_without_text", "messages"),
        ("events_without_text", "events"),
    ] {
        let shown = all(&counter, view).await;
        let stored = all(&site.root, whole).await;
        assert_eq!(shown.len(), stored.len(), "{view}");
        let (shown, stored) = (format!("{shown:?}"), format!("{stored:?}"));
        assert!(
            story::TEXTS.iter().any(|text| stored.contains(text)),
            "{whole}"
        );
        for text in story::TEXTS {
            assert!(!shown.contains(text), "{text} in {view}");
        }
        let views = counter.collection::<Document>(view);
        assert!(!is_allowed(views.insert_one(doc! {}).await), "{view}");
    }

    site.root.run_command(doc! { "profile": 2 }).await.unwrap();
    let asked = queries().into_iter().filter(|(block, by, _)| {
        *by == By::Analyst && !block.heading.starts_with("Documents of other types")
    });
    for (number, (block, _, plan)) in asked.enumerate() {
        let code = block
            .code
            .replace("db.messages.", "db.messages_without_text.")
            .replace("db.events.", "db.events_without_text.")
            .replace("coll: \"events\"", "coll: \"events_without_text\"");
        let application = format!("view-{number}");
        let uri = site.uri("counter", PASSWORD, &application);
        let given = tokio::task::block_in_place(|| site.shell.value(&uri, &code));
        assert_eq!(Some(given), block.output, "{}", block.heading);
        // A view's documents are read, whatever the index has.
        let plan = match plan {
            Plan::ReadsOnly(index) => Plan::Uses(index),
            plan => plan,
        };
        check_plan(&site.root, &application, &block.heading, plan).await;
    }
    site.end().await;
}

async fn check_that_readers_cannot_write(site: &Site) {
    let analyst = site.of_user("analyst").await;
    for (name, may_read) in [
        ("messages", true),
        ("events", true),
        ("read_marks", true),
        ("presence", true),
        ("dead_letters", false),
        ("spools", false),
        ("system.users", false),
    ] {
        let documents = analyst.collection::<Document>(name);
        assert_eq!(
            is_allowed(documents.find_one(doc! {}).await),
            may_read,
            "{name}"
        );
        let inserted = documents.insert_one(doc! { "_id": "by an analyst" }).await;
        assert!(!is_allowed(inserted), "{name}");
        let set = doc! { "$set": { "state": 1 } };
        assert!(
            !is_allowed(documents.update_many(doc! {}, set).await),
            "{name}"
        );
        assert!(!is_allowed(documents.delete_many(doc! {}).await), "{name}");
        assert!(!is_allowed(documents.drop().await), "{name}");
    }
    let out = [doc! { "$merge": { "into": "copy" } }];
    let messages = analyst.collection::<Document>("messages");
    assert!(!is_allowed(messages.aggregate(out).await));
    let reporter = site.of_user("reporter").await;
    let messages = reporter.collection::<Document>("messages");
    assert!(!is_allowed(messages.delete_many(doc! {}).await));
}

async fn all(database: &Database, collection: &str) -> Vec<Document> {
    let documents = database.collection::<Document>(collection);
    let found = documents.find(doc! {}).await.unwrap();
    found.try_collect().await.unwrap()
}

/// Whether MongoDB does something; any error but the lack of a right fails the test.
#[track_caller]
fn is_allowed<T>(done: mongodb::error::Result<T>) -> bool {
    const UNAUTHORIZED: i32 = 13;
    match done {
        Ok(_) => true,
        Err(error) => {
            let is_refused = matches!(
                error.kind.as_ref(),
                ErrorKind::Command(command) if command.code == UNAUTHORIZED
            );
            assert!(is_refused, "{error}");
            false
        }
    }
}
