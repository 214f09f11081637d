//! The document of the API and its page. That every answer is as documented is checked by every other test, in
//! `support::contract`.

use crate::support::contract::document;
use crate::support::{ADMIN_KEY, TestApp, send};

/// What the router answers to each method on each path; `send` compares it, `Allow` included, with the document.
#[tokio::test]
async fn each_route_has_its_documented_methods_and_no_other() {
    let app = TestApp::start().await;
    let key = format!("Bearer {ADMIN_KEY}");
    for path in document()["paths"].as_object().unwrap().keys() {
        let path = path
            .replace("{app}", "otc")
            .replace("{digest}", "0a")
            .replace("{file}", "start.js");
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND",
        ] {
            let request = app
                .http
                .request(method.parse().unwrap(), app.instance.url(&path));
            let answer = send(request, &[("Authorization", &key)]).await;
            assert_ne!(answer.status, 500, "{method} {path}");
        }
    }
    app.end().await;
}

#[tokio::test]
async fn the_document_is_open_to_all_and_sent_once() {
    let app = TestApp::start().await;
    let answer = app.get("/openapi.json", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), *document());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-cache");
    let tag = answer.header("etag").to_owned();
    let again = app.get("/openapi.json", &[("If-None-Match", &tag)]).await;
    assert_eq!((again.status, &*again.text), (304, ""));
    assert_eq!(again.header("etag"), tag);
    let wrong = app
        .get("/openapi.json", &[("If-None-Match", "\"x\"")])
        .await;
    assert_eq!(wrong.status, 200);
    app.end().await;
}

/// A browser gets all that the page loads from the service, and may load nothing else.
#[tokio::test]
async fn the_page_and_its_files_come_from_the_service() {
    let app = TestApp::start().await;
    let page = app.get("/docs", &[]).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; "),
        "{policy}"
    );
    for foreign in ["http:", "https:", "*", "unsafe-eval"] {
        assert!(!policy.contains(foreign), "{policy}");
    }
    let names = ["href=\"docs/", "src=\"docs/"].map(|from| page.text.split(from).skip(1));
    let names = names
        .into_iter()
        .flatten()
        .filter_map(|rest| rest.split('"').next());
    let mut kinds = Vec::new();
    for name in names {
        let file = app.get(&format!("/docs/{name}"), &[]).await;
        assert_eq!(
            (file.status, file.header("x-content-type-options")),
            (200, "nosniff"),
            "{name}"
        );
        assert!(!file.text.is_empty(), "{name}");
        kinds.push(
            file.header("content-type")
                .split(';')
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "image/png",
            "text/css",
            "text/javascript",
            "text/javascript"
        ]
    );
    for (path, status, code) in [
        ("/docs/index.html", 404, "not_found"),
        ("/docs/..%2fmod.rs", 404, "not_found"),
        ("/docs/start.js/x", 404, "not_found"),
    ] {
        let answer = app.get(path, &[]).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{path}");
    }
    let plain = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let slash = send(plain.get(app.instance.url("/docs/")), &[]).await;
    assert_eq!((slash.status, slash.header("location")), (308, "../docs"));
    let text = app.get("/metrics", &[]).await.text;
    for label in [
        r#"route="docs",method="GET",status="200""#,
        r#"route="docs",method="GET",status="404""#,
    ] {
        assert!(text.contains(label), "{label}");
    }
    app.end().await;
}
