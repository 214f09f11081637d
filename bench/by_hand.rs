//! Handlers in Rust to compare with: the one a user would write by hand, and one that stores nothing.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse, HttpServer, web};
use im_callback::callback::ids::Millis;
use im_callback::callback::{Head, Provider, RawCallback};
use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, IndexModel};
use serde_json::Value;

use crate::app::App;
use crate::confirmed;

static PROVIDER: LazyLock<Provider> = LazyLock::new(|| App::new().provider);

/// Serves until it is killed.
pub async fn serve(uri: &str, database: &str) {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.max_pool_size = Some(64);
    options.write_concern = Some(confirmed());
    let database = Client::with_options(options).unwrap().database(database);
    let collections = ["messages", "logins"].map(|name| database.collection::<Document>(name));
    // For the updates of receipts, which would otherwise scan the collection.
    let keys = doc! { "to": 1, "fromAccount": 1, "state": 1, "msgTimestamp": 1 };
    let index = IndexModel::builder().keys(keys).build();
    collections[0].create_index(index).await.unwrap();
    let server = HttpServer::new(move || {
        actix_web::App::new()
            .app_data(web::Data::new(collections.clone()))
            .route("/callbacks/otc", web::post().to(store))
    });
    let server = server.bind("127.0.0.1:0").unwrap();
    eprintln!("address={}", server.addrs()[0]);
    server.run().await.unwrap();
}

/// The same for the handler that does all but store.
pub async fn serve_no_op() {
    let no_op = async |request: HttpRequest, body: web::Bytes| match verified(&request, &body) {
        Some(_event) => delivered(),
        None => HttpResponse::Forbidden().finish(),
    };
    let server = HttpServer::new(move || {
        actix_web::App::new().route("/callbacks/otc", web::post().to(no_op))
    });
    let server = server.bind("127.0.0.1:0").unwrap();
    eprintln!("address={}", server.addrs()[0]);
    server.run().await.unwrap();
}

fn delivered() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(r#"{"code":200}"#)
}

fn verified(request: &HttpRequest, body: &[u8]) -> Option<Value> {
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    let raw = RawCallback {
        body,
        head: Head {
            method: "POST",
            path: "",
            query: "",
            header: &header,
        },
    };
    PROVIDER.verify(&raw, Millis::nearest(0)).ok()?;
    serde_json::from_slice(body).ok()
}

async fn store(
    request: HttpRequest,
    body: web::Bytes,
    collections: web::Data<[Collection<Document>; 2]>,
) -> HttpResponse {
    let Some(event) = verified(&request, &body) else {
        return HttpResponse::Forbidden().finish();
    };
    let [messages, logins] = collections.as_ref();
    let stored = match event["eventType"].as_str() {
        Some("1") => {
            let fields = event.as_object().unwrap().iter();
            let mut message: Document = fields
                .map(|(k, v)| (k.clone(), v.as_str().unwrap().into()))
                .collect();
            message.insert(
                "_id",
                format!("otc/p2p/{}", event["msgidServer"].as_str().unwrap()),
            );
            let sent_at = event["msgTimestamp"]
                .as_str()
                .unwrap()
                .parse::<i64>()
                .unwrap();
            message.insert("msgTimestamp", sent_at);
            message.insert("state", 0);
            message.insert("receivedAt", DateTime::now());
            messages.insert_one(message).await.map(drop)
        }
        Some("30") => {
            let receipts: Value = serde_json::from_str(event["objects"].as_str().unwrap()).unwrap();
            let filter = doc! {
                "to": receipts[0]["fromAccount"].as_str(), "fromAccount": receipts[0]["toAccount"].as_str(),
                "state": 0, "msgTimestamp": { "$lte": receipts[0]["timestamp"].as_i64() },
            };
            let read = doc! { "$set": { "state": 1 } };
            messages.update_many(filter, read).await.map(drop)
        }
        _ => {
            let login =
                doc! { "accid": event["accid"].as_str(), "timestamp": event["timestamp"].as_str() };
            logins.insert_one(login).await.map(drop)
        }
    };
    match stored {
        Ok(()) => delivered(),
        Err(error) if is_duplicate(&error) => delivered(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == 11000
    )
}
