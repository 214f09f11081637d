//! Dead letters, and their retry by the stored route.

use mongodb::bson::{Document, doc};
use serde_json::json;

use super::{dead_letters, deliver, message, start, unread};
use crate::support::{ADMIN_KEY, send};

/// The provider sends nothing twice, so an undecodable body must be kept for a later version.
#[tokio::test]
async fn callbacks_to_unknown_routes_become_dead_letters() {
    let app = start().await;
    let bodies = [r#"{"a":1}"#, "no JSON at all"];
    for body in bodies {
        for _redelivery in 0..2 {
            deliver(&app, "nobody/knows?from=im", body).await;
        }
    }
    // On another route the same bytes mean something else.
    deliver(&app, "message/censor", bodies[0]).await;
    let mut kept = dead_letters(&app).await;
    assert_eq!(kept.len(), 3);
    kept.sort_by_key(|kept| kept.get_str("code").unwrap().to_owned());
    assert_eq!(kept[0].get_str("code").ok(), Some("synchronous_callback"));
    let key = format!("Bearer {ADMIN_KEY}");
    for dead_letter in &kept[1..] {
        let id = dead_letter.get_str("_id").unwrap();
        let path = format!("/v1/dead-letters/{id}");
        let shown = app.get(&path, &[("Authorization", &key)]).await.json();
        assert_eq!(shown["code"], "unknown_route");
        assert_eq!(shown["route"], "nobody/knows");
        assert_eq!(shown["query"], "from=im");
        assert_eq!(shown["provider"], "wildfire");
        assert!(bodies.contains(&shown["body"].as_str().unwrap()));
        let retry = app.http.post(app.instance.url(&format!("{path}/retry")));
        let retried = send(retry, &[("Authorization", &key)]).await;
        assert_eq!(
            (retried.status, retried.code()),
            (422, "still_undecodable".to_owned())
        );
    }
    assert_eq!(dead_letters(&app).await.len(), 3);
    app.end().await;
}

/// A dead letter keeps its route, which a retry needs.
#[tokio::test]
async fn a_dead_letter_is_retried_by_its_route() {
    let app = start().await;
    let mut early = message(1, "ann", "bob", 1_721_013_418_878);
    early["payload"]
        .as_object_mut()
        .unwrap()
        .remove("persistFlag");
    deliver(&app, "message", &early).await;
    let kept = dead_letters(&app).await.remove(0);
    assert_eq!(kept.get_str("path").ok(), Some("$.payload.persistFlag"));
    assert_eq!(unread(&app, "bob", "ann").await, 0);
    // Stands in for a later version that can decode it.
    let mended = message(1, "ann", "bob", 1_721_013_418_878).to_string();
    let id = kept.get_str("_id").unwrap();
    let collection = app.database.collection::<Document>("dead_letters");
    let body = doc! { "$set": { "body": mended } };
    collection
        .update_one(doc! { "_id": id }, body)
        .await
        .unwrap();
    let key = format!("Bearer {ADMIN_KEY}");
    let path = format!("/v1/dead-letters/{id}/retry");
    let retried = app.post(&path, &[("Authorization", &key)], "").await;
    assert_eq!(retried.json(), json!({ "id": id, "outcome": "stored" }));
    assert_eq!(unread(&app, "bob", "ann").await, 1);
    assert_eq!(dead_letters(&app).await, []);
    app.end().await;
}
