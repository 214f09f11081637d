//! The steps of a callback before its commit, one by one: `cargo bench --bench micro`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed"
)]

mod app;
#[allow(dead_code, reason = "of the load, only its bodies are needed")]
mod callbacks;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use im_callback::metrics::{AppLabel, CallbackLabels, Metrics, RequestLabels, RouteLabel};
use im_callback::store::documents::writes;
use serde_json::{Value, json};

use app::{App, Callback};
use callbacks::{Kind, kind, sent_at};

fn body(wanted: fn(Kind) -> bool) -> Value {
    let n = (0..).find(|n| wanted(kind(*n))).unwrap();
    callbacks::body(n)
}

/// As many receipts as a provider sends at once, of one reader.
fn receipts() -> Value {
    let receipts: Vec<Value> = (0..50)
        .map(|n| {
            json!({
                "fromAccount": "reader1", "toAccount": format!("peer{n}"), "clientType": "AOS",
                "timestamp": sent_at(n),
            })
        })
        .collect();
    json!({ "eventType": "30", "objects": Value::from(receipts).to_string() })
}

fn steps(criterion: &mut Criterion) {
    let app = App::new();
    let callbacks = [
        ("message", body(|kind| kind == Kind::Message)),
        ("receipts", receipts()),
        ("login", body(|kind| kind == Kind::Login)),
    ];
    for (name, body) in callbacks {
        let body = body.to_string();
        let length = body.len() as u64;
        let callback = Callback::new(body);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(length));
        group.bench_function(BenchmarkId::from_parameter("verify"), |bencher| {
            bencher.iter(|| app.verified(black_box(&callback), |_| ()));
        });
        app.verified(&callback, |verified| {
            group.bench_function(BenchmarkId::from_parameter("decode"), |bencher| {
                bencher.iter(|| app.decoded(black_box(verified)));
            });
            let (received, decoded) = (app.received(&callback), app.decoded(verified));
            group.bench_function(BenchmarkId::from_parameter("documents"), |bencher| {
                bencher.iter(|| writes(black_box(&received), black_box(&decoded)));
            });
        });
        group.bench_function(BenchmarkId::from_parameter("all"), |bencher| {
            bencher.iter(|| app.writes(black_box(&callback)));
        });
        group.finish();
    }
}

/// What an acknowledged callback adds to the metrics.
fn counting(criterion: &mut Criterion) {
    let metrics = Metrics::new();
    let app: Arc<str> = "otc".into();
    criterion.bench_function("count", |bencher| {
        bencher.iter(|| {
            let labels = CallbackLabels {
                app: app.clone(),
                kind: "message",
                outcome: "stored",
            };
            metrics.callbacks.get_or_create(&labels).inc();
            let label = AppLabel { app: app.clone() };
            let took = black_box(0.003);
            metrics.ack_duration.get_or_create(&label).observe(took);
            metrics.provider_lag.get_or_create(&label).observe(took);
            let labels = RequestLabels {
                route: "callbacks",
                method: "POST",
                status: 200,
            };
            metrics.http_requests.get_or_create(&labels).inc();
            let route = RouteLabel { route: "callbacks" };
            let durations = metrics.http_request_duration.get_or_create(&route);
            durations.observe(took);
        });
    });
}

criterion_group!(benches, steps, counting);
criterion_main!(benches);
