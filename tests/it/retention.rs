//! Documents expire where the configuration says so, counted from the right field.

use im_callback::app::connect;
use im_callback::store::indexes::IndexChange;
use mongodb::IndexModel;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::IndexOptions;

use crate::support::process::Process;
use crate::support::{Instance, TestApp, config, mongodb_uri};

/// By collection: the field and the seconds of its expiring index.
async fn expiring(app: &TestApp) -> Vec<(String, String, i64)> {
    let mut found = Vec::new();
    for name in ["dead_letters", "events", "messages", "presence"] {
        let command = doc! { "listIndexes": name };
        let answer = app.database.run_command(command).await.unwrap();
        let batch = answer.get_document("cursor").unwrap();
        for index in batch.get_array("firstBatch").unwrap() {
            let index = index.as_document().unwrap();
            let seconds = match index.get("expireAfterSeconds") {
                None => continue,
                Some(seconds) => seconds.as_i64().or(seconds.as_i32().map(i64::from)),
            };
            let key: &Document = index.get_document("key").unwrap();
            let fields: Vec<_> = key.keys().map(String::as_str).collect();
            found.push((name.to_owned(), fields.join(","), seconds.unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn retention_follows_the_configuration() {
    let app = TestApp::start().await;
    assert_eq!(expiring(&app).await, []);
    let all = [
        ("dead_letters", "receivedAt"),
        ("events", "receivedAt"),
        ("messages", "receivedAt"),
        ("presence", "lastEventAt"),
    ];
    for hours in [2, 3] {
        let more: String = all
            .iter()
            .map(|(name, _)| format!("retention.{name} = \"{hours}h\"\n"))
            .collect();
        ensure(&app, &more).await;
        let expected: Vec<_> = all
            .iter()
            .map(|(name, field)| ((*name).to_owned(), (*field).to_owned(), hours * 3600))
            .collect();
        assert_eq!(expiring(&app).await, expected);
    }
    // Without a yes no retention ends: what was to be deleted would pile up.
    let config = config(&mongodb_uri(), app.database.name(), "");
    let store = connect(&config).await.unwrap();
    let left = store.ensure_retention(config.retention).await.unwrap();
    assert_eq!(left.len(), 4);
    assert!(left.iter().all(IndexChange::needs_yes), "{left:?}");
    assert_eq!(expiring(&app).await.len(), 4);
    store.apply_index_changes(&left, |_| {}).await.unwrap();
    assert_eq!(expiring(&app).await, []);
    store.close().await;
    app.end().await;
}

async fn ensure(app: &TestApp, more: &str) {
    let config = config(&mongodb_uri(), app.database.name(), more);
    let store = connect(&config).await.unwrap();
    let left = store.ensure_retention(config.retention).await.unwrap();
    assert_eq!(left, []);
    store.close().await;
}

/// The age of a document in hours.
fn aged(id: i64, hours: i64) -> Document {
    let at = DateTime::now().timestamp_millis() - hours * 3_600_000;
    doc! { "_id": format!("otc/p2p/{id}"), "receivedAt": DateTime::from_millis(at) }
}

/// A shorter retention is a history's end, so the service leaves it to somebody who says yes.
#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_deletes_needs_a_yes() {
    let app = TestApp::start().await;
    let messages = app.database.collection::<Document>("messages");
    let all = [aged(1, 30), aged(2, 4), aged(3, 3), aged(4, 1)];
    messages.insert_many(all).await.unwrap();
    let kept = async |expected: &[(&str, &str, i64)]| {
        let found = expiring(&app).await;
        let found: Vec<_> = found
            .iter()
            .map(|(c, f, s)| (&**c, &**f, s / 3600))
            .collect();
        assert_eq!(found, expected);
    };
    // Of `events` there are none, so that retention deletes nothing.
    let both = "retention.messages = \"2h\"\nretention.events = \"2h\"";
    let uri = mongodb_uri();
    let instance = Instance::start(config(&uri, app.database.name(), both));
    app.until_at(&instance, |ready| ready["checks"]["retention"] == "waits")
        .await;
    kept(&[("events", "receivedAt", 2)]).await;

    let process = Process::new(&uri, app.database.name(), both);
    let indexes = |flags: &[&str]| {
        let output = process.run(&[&["indexes"], flags].concat());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), out, error)
    };
    let oldest = DateTime::from_millis(DateTime::now().timestamp_millis() - 30 * 3_600_000);
    let oldest = oldest.try_to_rfc3339_string().unwrap();
    let change = format!(
        "messages: retention for ever → 2h: deletes about 3 documents, the oldest of {}\n",
        &oldest[..10]
    );
    let (code, said, _) = indexes(&["--dry-run"]);
    assert_eq!((code, said), (Some(0), format!("to do: {change}")));
    let (code, said, error) = indexes(&[]);
    assert_eq!((code, said), (Some(1), format!("not done: {change}")));
    assert!(error.contains("`im-callback indexes --yes`"), "{error}");
    kept(&[("events", "receivedAt", 2)]).await;
    let (code, said, _) = indexes(&["--yes"]);
    let name = app.database.name();
    let present = format!("indexes are present in database {name}\n");
    assert_eq!((code, said), (Some(0), format!("{change}{present}")));
    kept(&[("events", "receivedAt", 2), ("messages", "receivedAt", 2)]).await;
    let (code, said, _) = indexes(&[]);
    assert_eq!((code, said), (Some(0), format!("nothing to do: {present}")));
    assert_eq!(indexes(&["--dry-run"]).1, "nothing to do\n");
    app.until_at(&instance, |ready| ready["checks"]["retention"] == "applied")
        .await;
    app.end().await;
}

/// A longer one deletes nothing and is adopted; shortened again it waits, also by its index.
#[tokio::test(flavor = "multi_thread")]
async fn a_longer_retention_is_adopted_and_a_shorter_waits() {
    let app = TestApp::start().await;
    let messages = app.database.collection::<Document>("messages");
    messages.insert_many([aged(1, 3)]).await.unwrap();
    let (uri, name) = (mongodb_uri(), app.database.name());
    for (hours, word, kept) in [(4, "applied", 4), (6, "applied", 6), (2, "waits", 6)] {
        let more = format!("retention.messages = \"{hours}h\"");
        let instance = Instance::start(config(&uri, name, &more));
        app.until_at(&instance, |ready| ready["checks"]["retention"] == word)
            .await;
        let found = expiring(&app).await;
        let found: Vec<_> = found.iter().map(|(_, _, seconds)| seconds / 3600).collect();
        assert_eq!(found, [kept]);
    }
    let process = Process::new(&uri, name, "retention.messages = \"2h\"");
    let output = process.run(&["doctor"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let line = "messages: retention 6h → 2h: deletes 1 document, the oldest of";
    assert!(said.contains(line), "{said}");
    app.end().await;
}

/// Two instances whose configurations differ: the one that leaves the retention out does not end it, and what somebody
/// changes in MongoDB is told by the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_is_left_out_stays_and_a_change_by_others_is_told() {
    let app = TestApp::start().await;
    let (uri, name) = (mongodb_uri(), app.database.name());
    let more = "retention.events = \"2h\"";
    let with = Instance::start(config(&uri, name, more));
    app.until_at(&with, |ready| ready["checks"]["retention"] == "applied")
        .await;
    let without = Instance::start(config(&uri, name, ""));
    app.until_at(&without, |ready| ready["checks"]["retention"] == "waits")
        .await;
    assert_eq!(expiring(&app).await.len(), 1);

    let process = Process::new(&uri, name, "");
    let said = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let output = process.run(&["indexes"]);
    assert_eq!(output.status.code(), Some(1));
    let change = "events: retention 2h → for ever: documents are no longer deleted\n";
    assert_eq!(said(output), format!("not done: {change}"));
    assert!(said(process.run(&["doctor"])).contains("`im-callback indexes --yes`"));
    assert_eq!(expiring(&app).await.len(), 1);
    let output = process.run(&["indexes", "--yes"]);
    assert!(said(output).starts_with(change));
    assert_eq!(expiring(&app).await, []);
    app.until_at(&with, |ready| ready["checks"]["retention"] == "differs")
        .await;
    app.until_at(&without, |ready| ready["checks"]["retention"] == "applied")
        .await;
    app.end().await;
}

/// MongoDB makes no second index of the same keys. It is named, nothing else waits for it, and one that expires as
/// configured will do.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_somebody_else_in_the_way_is_named() {
    let app = TestApp::start().await;
    let (uri, name) = (mongodb_uri(), app.database.name());
    let messages = app.database.collection::<Document>("messages");
    let index = |name: &str, keys: Document| {
        let options = IndexOptions::builder().name(name.to_owned()).build();
        IndexModel::builder().keys(keys).options(options).build()
    };
    let mine = index("mine", doc! { "receivedAt": 1 });
    messages.create_index(mine).await.unwrap();
    let marks = app.database.collection::<Document>("read_marks");
    let keys = doc! { "app": 1, "reader": 1, "peer": 1, "readUpTo": 1 };
    marks.drop_index("marks").await.unwrap();
    let theirs = index("theirs", keys);
    marks.create_index(theirs).await.unwrap();

    let more = "retention.messages = \"2h\"\nretention.events = \"3h\"";
    let instance = Instance::start(config(&uri, name, more));
    app.until_at(&instance, |ready| ready["checks"]["retention"] == "differs")
        .await;
    // The reconcile goes on, and the other retention is there.
    app.until_at(&instance, |ready| ready["state"]["caught_up"] == true)
        .await;
    assert_eq!(expiring(&app).await.len(), 1);

    let process = Process::new(&uri, name, more);
    let said = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let retention =
        "retention on messages cannot be made beside the index `mine`, which has the same keys";
    let marks_too = "marks on read_marks cannot be made beside the index `theirs`";
    let doctor = said(process.run(&["doctor"]));
    let output = process.run(&["indexes"]);
    assert_eq!(output.status.code(), Some(1));
    let indexes = said(output);
    for text in [retention, marks_too, "collMod"] {
        assert!(doctor.contains(text), "{text} in {doctor}");
        assert!(indexes.contains(text), "{text} in {indexes}");
    }
    let by_mine = doc! {
        "collMod": "messages",
        "index": { "name": "mine", "expireAfterSeconds": 7200 },
    };
    app.database.run_command(by_mine).await.unwrap();
    marks.drop_index("theirs").await.unwrap();
    let output = process.run(&["indexes"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    app.until_at(&instance, |ready| {
        ready["checks"]["retention"] == "applied" && ready["queries"] == "ready"
    })
    .await;
    app.end().await;
}

/// An index of the right name and keys that is hidden or partial by another condition answers no query.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_hidden_or_partial_otherwise_is_mended() {
    let app = TestApp::start().await;
    let messages = app.database.collection::<Document>("messages");
    let hidden = doc! {
        "collMod": "messages",
        "index": { "name": "unread_by_peer", "hidden": true },
    };
    app.database.run_command(hidden).await.unwrap();
    messages.drop_index("conversation").await.unwrap();
    let options = IndexOptions::builder()
        .name("conversation".to_owned())
        .partial_filter_expression(doc! { "state": 0 })
        .build();
    let keys = doc! { "app": 1, "conversation": 1, "msgTimestamp": 1, "_id": 1 };
    let partial = IndexModel::builder().keys(keys).options(options).build();
    messages.create_index(partial).await.unwrap();
    let process = Process::new(&mongodb_uri(), app.database.name(), "");
    let said = |arguments: &[&str]| String::from_utf8(process.run(arguments).stdout).unwrap();
    let both = "to do: unhide unread_by_peer on messages\n\
                to do: replace conversation on messages: its partialFilterExpression is another\n";
    assert_eq!(said(&["indexes", "--dry-run"]), both);
    assert!(said(&["doctor"]).contains("unhide unread_by_peer"));
    let made = said(&["indexes"]);
    assert!(
        made.starts_with("unhid unread_by_peer on messages\nreplaced conversation"),
        "{made}"
    );
    assert_eq!(said(&["indexes", "--dry-run"]), "nothing to do\n");
    app.end().await;
}
