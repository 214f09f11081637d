//! Documents expire where the configuration says so, counted from the right field.

use im_callback::app::connect;
use mongodb::bson::{DateTime, Document, doc};

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
    ensure(&app, "").await;
    assert_eq!(expiring(&app).await, []);
    app.end().await;
}

async fn ensure(app: &TestApp, more: &str) {
    let config = config(&mongodb_uri(), app.database.name(), more);
    let store = connect(&config).await.unwrap();
    let left = store.ensure_indexes(config.retention).await.unwrap();
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
