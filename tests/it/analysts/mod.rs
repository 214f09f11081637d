//! The queries of `docs/analysts.md`, run as they are by the real `mongosh`, on a server with access control, and as the
//! users that the document makes.

mod shell;
mod site;
mod story;
mod users;

use futures_util::TryStreamExt;
use im_callback::app::connect;
use im_callback::store::validators::fields::FIELDS;
use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};

use self::shell::{Block, blocks};
use self::site::{PASSWORD, Site};
use crate::support::config;

const DOCUMENT: &str = include_str!("../../../docs/analysts.md");

/// Who runs a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Root,
    Analyst,
    Reporter,
}

/// What is promised of how a query is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Not looked at.
    Any,
    /// It uses the index with these keys.
    Uses(&'static str),
    /// It reads nothing but that index.
    ReadsOnly(&'static str),
}

const SENT: &str = "IXSCAN { app: 1, sentAt: 1, convType: 1, orderId: 1 }";
const ORDER: &str = "IXSCAN { app: 1, orderId: 1, sentAt: 1 }";
const EVENTS: &str = "IXSCAN { app: 1, kind: 1, at: 1 }";
const UNREAD: &str = "IXSCAN { app: 1, to: 1, state: 1, fromAccount: 1, msgTimestamp: 1 }";

/// Every block of the document, in its order.
const RUN: &[(&str, By, Plan)] = &[
    ("Users that only read", By::Root, Plan::Any),
    ("Users that must not read messages", By::Root, Plan::Any),
    ("Messages a day", By::Analyst, Plan::ReadsOnly(SENT)),
    ("Unanswered buyers", By::Analyst, Plan::Uses(SENT)),
    ("Time to answer", By::Analyst, Plan::Uses(SENT)),
    ("Time to read", By::Analyst, Plan::Uses(SENT)),
    ("Busiest orders", By::Analyst, Plan::ReadsOnly(SENT)),
    ("An order's messages", By::Analyst, Plan::Uses(ORDER)),
    ("Recalled share", By::Analyst, Plan::Uses(SENT)),
    ("Online hours", By::Analyst, Plan::Uses(EVENTS)),
    ("Unread the longest", By::Analyst, Plan::Uses(UNREAD)),
    ("Numbers that outlive the messages", By::Root, Plan::Any),
    (
        "Numbers that outlive the messages",
        By::Reporter,
        Plan::Uses(SENT),
    ),
    (
        "Documents of other types than documented",
        By::Analyst,
        Plan::Any,
    ),
];

/// The blocks that ask something, with who runs them.
fn queries() -> Vec<(Block, By, Plan)> {
    let blocks = blocks(DOCUMENT);
    let headings: Vec<_> = blocks.iter().map(|block| &*block.heading).collect();
    let expected: Vec<_> = RUN.iter().map(|(heading, _, _)| *heading).collect();
    assert_eq!(
        headings, expected,
        "each block of the document has its line here"
    );
    blocks
        .into_iter()
        .zip(RUN)
        .map(|(block, (_, by, plan))| (block, *by, *plan))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_gives_what_the_document_says() {
    let Some(site) = Site::start().await else {
        return;
    };
    site.make_users();
    paste_all(&site);
    site.root.run_command(doc! { "profile": 2 }).await.unwrap();
    for (number, (block, by, plan)) in queries().into_iter().enumerate() {
        let Some(expected) = &block.output else {
            continue;
        };
        if block.heading.starts_with("Documents of other types") {
            add_an_odd_document(&site).await;
        }
        let application = format!("block-{number}");
        let user = if by == By::Reporter {
            "reporter"
        } else {
            "analyst"
        };
        let uri = site.uri(user, PASSWORD, &application);
        let given = tokio::task::block_in_place(|| site.shell.value(&uri, &block.code));
        assert_eq!(&given, expected, "{}", block.heading);
        check_plan(&site.root, &application, &block.heading, plan).await;
    }
    site.end().await;
}

async fn add_an_odd_document(site: &Site) {
    let uri = format!("mongodb://root:root@{}/?replicaSet=rs0", site.mongod.host());
    let store = connect(&config(&uri, "im", "")).await.unwrap();
    for of in FIELDS {
        store.set_validator(of).await.unwrap();
    }
    store.close().await;
    // A time that is a text. MongoDB only warns.
    let odd = doc! {
        "_id": "otc/p2p/by-hand", "app": "otc", "provider": "netease", "to": "bob", "msgTimestamp": "2025-09-01",
    };
    let messages = site.root.collection::<Document>("messages");
    messages.insert_one(odd).await.unwrap();
}

/// What MongoDB's profiler saw, which is what was really done. A query of a view is seen as one of its collection.
async fn check_plan(im: &Database, application: &str, heading: &str, plan: Plan) {
    let (Plan::Uses(index) | Plan::ReadsOnly(index)) = plan else {
        return;
    };
    let profile = im.collection::<Document>("system.profile");
    let asked = doc! {
        "appName": application, "command.aggregate": { "$exists": true }, "planSummary": { "$exists": true },
    };
    let seen = profile.find(asked).await.unwrap();
    let seen: Vec<Document> = seen.try_collect().await.unwrap();
    assert!(!seen.is_empty(), "{heading}");
    for seen in seen {
        assert_eq!(seen.get_str("planSummary").unwrap(), index, "{heading}");
        let keys = seen.get_i32("keysExamined").unwrap();
        assert!(keys > 0 && keys < 40, "{heading}: {keys} keys");
        if plan == Plan::ReadsOnly(index) {
            let read = seen.get_i32("docsExamined").unwrap();
            assert_eq!(read, 0, "{heading} reads documents");
        }
    }
}

/// One session, as somebody who reads the document has it: names are used again from query to query.
fn paste_all(site: &Site) {
    let of_analyst = queries().into_iter().filter(|(block, by, _)| {
        *by == By::Analyst && !block.heading.starts_with("Documents of other types")
    });
    let (mut pasted, mut count) = ("use im\n".to_owned(), 0);
    for (block, _, _) in of_analyst {
        pasted.push_str(&block.code);
        pasted.push('\n');
        count += 1;
    }
    let said = tokio::task::block_in_place(|| site.shell.paste(&site.as_user("analyst"), &pasted));
    assert!(
        !said.contains("Error") && !said.contains("Uncaught"),
        "{said}"
    );
    for word in [
        "withinAnHour: 4",
        "order: 'A1'",
        "share: 0.1667",
        "hours: 2.5",
    ] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(count, 9);
}

/// Retention takes the messages, and no number that was kept falls.
#[tokio::test(flavor = "multi_thread")]
async fn kept_numbers_outlive_their_messages() {
    let Some(site) = Site::start().await else {
        return;
    };
    site.make_users();
    let (block, _, _) = queries()
        .into_iter()
        .find(|(_, by, _)| *by == By::Reporter)
        .unwrap();
    let uri = site.as_user("reporter");
    let kept = || tokio::task::block_in_place(|| site.shell.value(&uri, &block.code));
    assert_eq!(Some(kept()), block.output);
    assert_eq!(Some(kept()), block.output, "run again");
    let messages = site.root.collection::<Document>("messages");
    // Half a day, as retention leaves it.
    let gone = doc! { "app": "otc", "msgidServer": { "$in": ["1", "2", "3", "10"] } };
    let gone = messages.delete_many(gone).await.unwrap();
    assert_eq!(gone.deleted_count, 4);
    assert_eq!(Some(kept()), block.output, "after retention has begun");
    messages.delete_many(doc! {}).await.unwrap();
    assert_eq!(Some(kept()), block.output, "after retention");
    // A message that comes late is counted.
    let late = doc! {
        "_id": "otc/p2p/late", "app": "otc",
        "sentAt": DateTime::from_millis(1_756_900_000_000),
    };
    let third_day = doc! { "app": "otc", "day": "2025-09-03" };
    let reports = site.root.client().database("im_reports");
    let reports = reports.collection::<Document>("messages_daily");
    let lower = doc! { "$set": { "messages": 0 } };
    reports
        .update_one(doc! { "_id": &third_day }, lower)
        .await
        .unwrap();
    messages.insert_one(late).await.unwrap();
    kept();
    let third = reports.find_one(doc! { "_id": &third_day }).await.unwrap();
    assert_eq!(third.unwrap().get_i32("messages").unwrap(), 1);
    site.end().await;
}

/// The fields that the document lists have the types by which documents are validated.
#[test]
fn fields_have_the_types_of_the_data_model() {
    let mut checked = 0;
    let tables = DOCUMENT.split("## The collections").nth(1).unwrap();
    let tables = tables.split("\n## ").next().unwrap();
    for section in tables.split("\n### ").skip(1) {
        let (name, rows) = section.split_once('\n').unwrap();
        let of = FIELDS.iter().find(|of| of.collection == name).unwrap();
        for row in rows.lines().filter(|row| row.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            for field in cells[1].split(',') {
                let field = field.trim().trim_matches('`');
                let known = of.fields.iter().find(|known| known.name == field);
                let known = known.unwrap_or_else(|| panic!("{name}.{field}"));
                let types = crate::validators::bson_types(cells[2]);
                assert_eq!(known.types, types, "{name}.{field}");
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "{checked} fields");
}

#[test]
fn a_block_has_its_heading_and_its_output() {
    let found = blocks("## A\n```js\n1\n2\n```\ntext\n```json\n[1]\n```\n### B\n```js\n3\n```\n");
    let told: Vec<_> = found
        .iter()
        .map(|block| (&*block.heading, &*block.code, block.output.clone()))
        .collect();
    let output = Some(serde_json::json!([1]));
    assert_eq!(told, [("A", "1\n2", output), ("B", "3", None)]);
}
