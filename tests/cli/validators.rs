//! `im-callback validators`, as an operator sees it.

use mongodb::bson::{Document, doc};

use crate::support::{Bench, succeeded, text};

const COLLECTIONS: [&str; 5] = [
    "messages",
    "read_marks",
    "presence",
    "events",
    "dead_letters",
];

fn each(says: &str) -> String {
    COLLECTIONS.map(|name| format!("{name}: {says}\n")).concat()
}

/// Runs a command of MongoDB, and gives the options of `presence`.
fn command(bench: &Bench, command: Document) -> Document {
    let uri = std::env::var("MONGODB_URI").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ran = runtime.block_on(async {
        let client = mongodb::Client::with_uri_str(uri).await?;
        let database = client.database(&bench.database);
        database.run_command(command).await?;
        let listed = doc! { "listCollections": 1, "filter": { "name": "presence" } };
        database.run_command(listed).await
    });
    let listed = ran.unwrap();
    let batch = listed.get_document("cursor").unwrap();
    let found = batch.get_array("firstBatch").unwrap()[0].as_document();
    found.unwrap().get_document("options").unwrap().clone()
}

#[test]
fn validators_are_printed_without_mongodb_and_without_a_configuration() {
    let bench = Bench::new();
    let printed = succeeded(&bench.run(&["validators", "print"]));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let mut names: Vec<_> = printed.as_object().unwrap().keys().collect();
    names.sort();
    let mut expected = COLLECTIONS;
    expected.sort_unstable();
    assert_eq!(names, expected);
    let schema = &printed["messages"]["$jsonSchema"];
    assert_eq!(schema["title"], "im-callback messages");
    assert_eq!(
        schema["required"],
        serde_json::json!(["_id", "app", "provider", "to"])
    );
    assert_eq!(
        schema["properties"]["sentAt"]["bsonType"],
        serde_json::json!(["date"])
    );
    // Providers add fields.
    assert!(schema.get("additionalProperties").is_none());
}

/// They only warn, and those of others are left alone.
#[test]
fn validators_are_set_shown_and_removed() {
    let bench = Bench::new();
    bench.config("127.0.0.1:0");
    let validators =
        |action: &str| succeeded(&bench.run(&["validators", action, "--config", "im.toml"]));
    let nothing = each("not validated");
    let warns = "MongoDB's log warns of documents that do not match";
    assert_eq!(validators("status"), nothing);
    assert_eq!(validators("remove"), each("nothing to do"));
    assert_eq!(
        validators("apply"),
        each(&format!("validator set; {warns}"))
    );
    assert_eq!(validators("apply"), each("nothing to do"));
    assert_eq!(validators("status"), each(&format!("validated; {warns}")));
    let options = command(&bench, doc! { "ping": 1 });
    assert_eq!(options.get_str("validationAction").unwrap(), "warn");
    assert_eq!(options.get_str("validationLevel").unwrap(), "moderate");

    // Somebody lets ours refuse documents.
    command(
        &bench,
        doc! { "collMod": "presence", "validationAction": "error" },
    );
    let told = validators("status");
    assert!(
        told.contains("presence: validated, by another version's"),
        "{told}"
    );
    let told = validators("apply");
    assert!(told.contains("presence: validator set"), "{told}");
    let options = command(&bench, doc! { "ping": 1 });
    assert_eq!(options.get_str("validationAction").unwrap(), "warn");

    // Somebody has a validator of their own.
    let theirs = doc! { "account": { "$type": "string" } };
    command(&bench, doc! { "collMod": "presence", "validator": &theirs });
    let refused = bench.run(&["validators", "apply", "--config", "im.toml"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let left = "presence: left alone: it has somebody else's validator\n";
    assert!(text(&refused.stdout).contains(left), "{refused:?}");
    let told = validators("remove");
    assert_eq!(
        told,
        each("validator removed").replace("presence: validator removed\n", left)
    );
    let options = command(&bench, doc! { "ping": 1 });
    assert_eq!(options.get_document("validator").unwrap(), &theirs);
}
