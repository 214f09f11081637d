//! `/metrics`: what happens is counted once, under names that dashboards rely on, and no stranger can add a label.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::support::proxy::{Line, Proxy};
use crate::support::{
    ADMIN_KEY, Answer, Instance, READ_KEY, TestApp, message, mongodb_uri, send, signed,
};

/// The samples of a scrape, by name and labels as they are written.
struct Samples(HashMap<String, f64>);

impl Samples {
    async fn of(app: &TestApp) -> Self {
        Self::at(app, &app.instance).await
    }

    async fn at(app: &TestApp, instance: &Instance) -> Self {
        let answer = send(app.http.get(instance.url("/metrics")), &[]).await;
        Self::read(&answer)
    }

    fn read(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.header("content-type").starts_with("text/plain"));
        let lines = answer.text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            (sample.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    /// A sample without the prefix, zero if it is not there.
    fn get(&self, sample: &str) -> f64 {
        let sample = format!("im_callback_{sample}");
        self.0.get(&sample).copied().unwrap_or_default()
    }

    /// How many samples of this name are not zero.
    fn count(&self, name: &str) -> usize {
        let start = format!("im_callback_{name}{{");
        let samples = self.0.iter();
        let of_it = samples.filter(|(key, value)| key.starts_with(&start) && **value > 0.0);
        of_it.count()
    }
}

#[track_caller]
fn expect(samples: &Samples, expected: &[(&str, f64)]) {
    for (sample, value) in expected {
        assert_eq!(samples.get(sample), *value, "{sample}");
    }
}

fn receipt() -> String {
    json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": 1_700_000_000_001_i64 })
        .to_string()
}

#[actix_web::test]
async fn every_callback_is_counted_with_its_outcome() {
    let app = TestApp::start().await;
    // There before the first event, or Prometheus would see no increase by it.
    let before = Samples::of(&app).await;
    for sample in [
        r#"callbacks_total{app="otc",kind="none",outcome="checksum_mismatch"}"#,
        r#"dead_letters_total{app="otc",code="store_refused"}"#,
        r#"overflows_total{reason="queue_full"}"#,
        r#"callbacks_total{app="unmatched",kind="none",outcome="unknown_app"}"#,
        r#"callbacks_total{app="unmatched",kind="none",outcome="not_found"}"#,
        r#"reconcile_runs_total{outcome="failed"}"#,
    ] {
        let sample = format!("im_callback_{sample}");
        assert_eq!(before.0.get(&sample), Some(&0.0), "{sample}");
    }
    for id in [1, 2, 1] {
        app.deliver(message(id)).await.expect_ok();
    }
    for body in [r#"{"eventType":30}"#, "no JSON", ""] {
        app.deliver(body).await.expect_ok();
    }
    for wrong in ["/callbacks/otc", "/receiveMsg.action"] {
        let headers = signed(b"{}", "no such secret");
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(app.post(wrong, &headers, "{}").await.status, 403);
    }
    for stranger in ["/callbacks/a", "/callbacks/b", "/callbacks/c/d"] {
        assert_eq!(app.post(stranger, &[], "{}").await.status, 404);
    }

    let now = Samples::of(&app).await;
    let callbacks = |labels: &str| now.get(&format!("callbacks_total{{{labels}}}"));
    assert_eq!(
        callbacks(r#"app="otc",kind="message",outcome="stored""#),
        3.0
    );
    assert_eq!(
        callbacks(r#"app="otc",kind="none",outcome="dead_letter""#),
        2.0
    );
    assert_eq!(
        callbacks(r#"app="otc",kind="none",outcome="checksum_mismatch""#),
        2.0
    );
    assert_eq!(
        callbacks(r#"app="unmatched",kind="none",outcome="unknown_app""#),
        3.0
    );
    assert_eq!(callbacks(r#"app="otc",kind="none",outcome="empty""#), 1.0);
    assert_eq!(now.count("callbacks_total"), 5);
    expect(
        &now,
        &[
            (r#"ack_duration_seconds_count{app="otc"}"#, 6.0),
            (r#"provider_lag_seconds_count{app="otc"}"#, 3.0),
            (
                r#"provider_lag_seconds_bucket{app="otc",le="172800.0"}"#,
                0.0,
            ),
            (r#"duplicates_total{collection="messages"}"#, 1.0),
            ("commit_callbacks_sum", 5.0),
            ("commit_retries_total", 0.0),
            ("outage", 0.0),
            ("spool_bytes", 0.0),
            ("spool_writable", 1.0),
            (r#"queue_callbacks{queue="mongodb"}"#, 0.0),
            (r#"queue_bytes{queue="mongodb"}"#, 0.0),
            (r#"queue_limit_bytes{queue="mongodb"}"#, 67_108_864.0),
        ],
    );
    assert!(now.get("commit_duration_seconds_count") >= 1.0);
    let dead_letters: f64 = ["missing_field", "not_json"]
        .iter()
        .map(|code| now.get(&format!(r#"dead_letters_total{{app="otc",code="{code}"}}"#)))
        .sum();
    assert_eq!(dead_letters, 2.0);

    let requests = |labels: &str| now.get(&format!("http_requests_total{{{labels}}}"));
    let route = r#"route="callbacks",method="POST""#;
    assert_eq!(requests(&format!(r#"{route},status="200""#)), 6.0);
    assert_eq!(requests(&format!(r#"{route},status="403""#)), 2.0);
    assert_eq!(requests(&format!(r#"{route},status="404""#)), 3.0);

    // Each service counts for itself.
    let second = app.second_instance();
    assert_eq!(Samples::at(&app, &second).await.count("callbacks_total"), 0);
    tokio::task::spawn_blocking(move || drop(second))
        .await
        .unwrap();
    app.end().await;
}

/// A callback to a misspelt path is lost, so it is counted. Scans are not.
#[actix_web::test]
async fn callbacks_to_no_apps_address_are_counted() {
    let app = TestApp::start().await;
    let counted = async || {
        let sample = r#"callbacks_total{app="unmatched",kind="none",outcome="not_found"}"#;
        Samples::of(&app).await.get(sample)
    };
    let headers = signed(b"{}", "no such secret");
    let signature: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let json = [("Content-Type", "application/json")];
    for (path, headers, is_counted) in [
        ("/hooks/im", &signature[..], true),
        ("/callback/otc", &json[..], true),
        ("/receivemsg.action", &json[..], true),
        ("/callbacks", &[][..], true),
        ("/hooks/im", &json[..], false),
        ("/callback/otc", &[][..], false),
        ("/callback%2fotc", &json[..], false),
    ] {
        let before = counted().await;
        assert_eq!(app.post(path, headers, "{}").await.status, 404);
        assert_eq!(counted().await - before, f64::from(is_counted), "{path}");
    }
    for path in ["/callback/otc", "/callbacks"] {
        let before = counted().await;
        assert_eq!(app.get(path, &signature).await.status, 404);
        assert_eq!(counted().await, before, "{path}");
    }
    app.end().await;
}

#[actix_web::test]
async fn an_outage_and_what_it_leaves_in_the_spool_can_be_seen() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    proxy.set(Line::Cut);
    for id in 0..3 {
        app.deliver(message(id)).await.expect_ok();
    }
    let during = Samples::of(&app).await;
    let spooled = r#"callbacks_total{app="otc",kind="message",outcome="spooled"}"#;
    expect(
        &during,
        &[
            (spooled, 3.0),
            ("outage", 1.0),
            ("spool_appended_callbacks_total", 3.0),
            ("spool_limit_bytes", 1_073_741_824.0),
        ],
    );
    let overflows: f64 = ["outage", "queue_full", "slow", "not_confirmed"]
        .iter()
        .map(|reason| during.get(&format!(r#"overflows_total{{reason="{reason}"}}"#)))
        .sum();
    assert_eq!(overflows, 3.0);
    assert!(during.get(r#"overflows_total{reason="outage"}"#) >= 1.0);
    // A busy machine may have had one before.
    assert!(during.get("outages_total") >= 1.0);
    assert!(during.get("spool_bytes") > 0.0);
    assert!(during.get("spool_oldest_age_seconds") > 0.0);
    assert!(during.get("spool_append_duration_seconds_count") >= 1.0);

    proxy.set(Line::Open);
    app.until_drained().await;
    let after = Samples::of(&app).await;
    expect(
        &after,
        &[
            ("outage", 0.0),
            ("outages_total", during.get("outages_total")),
            ("spool_drained_callbacks_total", 3.0),
            ("spool_bytes", 0.0),
            ("spool_oldest_age_seconds", 0.0),
        ],
    );
    app.end().await;
}

/// At night no callback comes that could show it.
#[actix_web::test]
async fn an_outage_without_traffic_can_be_seen() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    // A busy machine may have had one already.
    let before = Samples::of(&app).await.get("outages_total");
    proxy.set(Line::Cut);
    let outage = async |expected: f64| {
        for _ in 0..150 {
            if Samples::of(&app).await.get("outage") == expected {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("after 15 s the outage is not {expected}");
    };
    outage(1.0).await;
    proxy.set(Line::Open);
    outage(0.0).await;
    expect(&Samples::of(&app).await, &[("outages_total", before + 1.0)]);
    app.end().await;
}

/// Its reports are too late, but it confirms writes.
#[actix_web::test]
async fn a_mongodb_that_is_slow_is_no_outage() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "mongodb.query_timeout = \"250ms\"").await;
    let before = Samples::of(&app).await.get("outages_total");
    proxy.set(Line::Slow(200));
    sleep(Duration::from_secs(8)).await;
    expect(&Samples::of(&app).await, &[("outages_total", before)]);
    app.end().await;
}

#[actix_web::test]
async fn the_lag_of_state_and_the_walks_can_be_seen() {
    let app = TestApp::with(r#"reconcile.delay = "1h""#).await;
    app.deliver(message(1)).await.expect_ok();
    app.deliver(receipt()).await.expect_ok();
    app.until(|ready| ready["state"]["caught_up"] == true).await;
    let now = Samples::of(&app).await;
    expect(
        &now,
        &[
            ("state_pairs", 1.0),
            ("state_caught_up", 1.0),
            (r#"reconcile_runs_total{outcome="ok"}"#, 1.0),
        ],
    );
    assert!(now.get("state_lag_seconds") > 0.0);
    // The walk at start finds what another instance left.
    let second = app.second_instance();
    app.until_at(&second, |ready| ready["state"]["caught_up"] == true)
        .await;
    let found = Samples::at(&app, &second).await;
    expect(&found, &[("reconcile_repaired_total", 1.0)]);
    tokio::task::spawn_blocking(move || drop(second))
        .await
        .unwrap();
    app.end().await;
}

#[actix_web::test]
async fn strangers_add_no_labels() {
    let app = TestApp::start().await;
    for n in 0..20 {
        let path = format!("/{n}/scan.php?n={n}");
        assert_eq!(app.get(&path, &[]).await.status, 404);
        let path = format!("/callbacks/app-{n}");
        assert_eq!(app.post(&path, &[], "").await.status, 404);
        let method = format!("BREW{n}").parse().unwrap();
        let request = app.http.request(method, app.instance.url("/brew"));
        assert_eq!(send(request, &[]).await.status, 404);
    }
    let now = Samples::of(&app).await;
    let requests = |labels: &str| now.get(&format!("http_requests_total{{{labels}}}"));
    let unmatched = r#"route="unmatched",method="GET",status="404""#;
    assert_eq!(requests(unmatched), 20.0);
    let invented = r#"route="unmatched",method="other",status="404""#;
    assert_eq!(requests(invented), 20.0);
    let unknown = r#"callbacks_total{app="unmatched",kind="none",outcome="unknown_app"}"#;
    assert_eq!(now.get(unknown), 20.0);
    let of_strangers = now
        .0
        .keys()
        .filter(|sample| sample.contains("brew") || sample.contains("app-1"));
    assert_eq!(of_strangers.count(), 0);
    // Three of these, and `/readyz`, which was asked until it was ready.
    assert!(now.count("http_requests_total") <= 5);
    app.end().await;
}

#[actix_web::test]
async fn metrics_can_be_closed() {
    const LIMITED: &str = "the-tests-limited-key";
    const SCRAPER: &str = "the-tests-scraper-key";
    let config = format!(
        r#"
        http.open_metrics = false
        [[auth.keys]]
        name = "limited"
        secret = "{LIMITED}"
        scopes = ["admin"]
        apps = ["otc"]
        [[auth.keys]]
        name = "prometheus"
        secret = "{SCRAPER}"
        scopes = ["metrics"]
        "#
    );
    let app = TestApp::with(&config).await;
    let key = |key: &str| format!("Bearer {key}");
    let cases = [
        (key(READ_KEY), 403),
        (key(ADMIN_KEY), 200),
        (key(LIMITED), 403),
        (key(SCRAPER), 200),
    ];
    for (key, status) in &cases {
        let answer = app.get("/metrics", &[("Authorization", key)]).await;
        assert_eq!(answer.status, *status, "{answer:?}");
    }
    assert_eq!(app.get("/metrics", &[]).await.status, 401);
    let answer = app.get("/metrics", &[("Authorization", &cases[1].0)]).await;
    let now = Samples::read(&answer);
    let refused = |reason: &str| now.get(&format!(r#"rejected_keys_total{{reason="{reason}"}}"#));
    let counts = ["scope", "app", "missing", "unknown"].map(refused);
    assert_eq!(counts, [1.0, 1.0, 1.0, 0.0]);
    app.end().await;
}
