//! The service's metrics, as it writes them itself, and as the guide describes them.

use im_callback::metrics::{
    AppLabel, CallbackLabels, CallerLabels, CollectionLabel, DeadLetterLabels, Metrics, QueueLabel,
    ReasonLabel, ReconcileLabel, RequestLabels, RouteLabel,
};

/// A metric's name, type and labels.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    pub name: String,
    pub kind: String,
    pub labels: Vec<String>,
}

/// The metric of this name, with which each series of a histogram begins.
pub fn find<'k>(known: &'k [Described], name: &str) -> Option<&'k Described> {
    let series = ["_bucket", "_sum", "_count"];
    let of_histogram = |metric: &Described| {
        let rest = name.strip_prefix(&*metric.name);
        metric.kind == "histogram" && rest.is_some_and(|rest| series.contains(&rest))
    };
    let is_it = |metric: &&Described| metric.name == name || of_histogram(metric);
    known.iter().find(is_it)
}

/// All that a service writes after everything has happened once.
pub fn of_the_service() -> Vec<Described> {
    let metrics = Metrics::new();
    touch(&metrics);
    let mut text = String::new();
    metrics.encode(&mut text).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let described = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        Described {
            name: name.to_owned(),
            kind: kind.to_owned(),
            labels: labels_of(&text, name),
        }
    });
    described.collect()
}

/// A family shows its labels only when it has a sample.
fn touch(metrics: &Metrics) {
    let app: std::sync::Arc<str> = "otc".into();
    let of_app = AppLabel { app: app.clone() };
    let callback = CallbackLabels {
        app: app.clone(),
        kind: "message",
        outcome: "stored",
    };
    metrics.callbacks.get_or_create(&callback).inc();
    metrics.ack_duration.get_or_create(&of_app).observe(0.1);
    metrics.provider_lag.get_or_create(&of_app).observe(0.1);
    let duplicate = CollectionLabel {
        collection: "messages",
    };
    metrics.duplicates.get_or_create(&duplicate).inc();
    let queue = QueueLabel { queue: "mongodb" };
    metrics.queue_callbacks.get_or_create(&queue).set(1);
    metrics.queue_bytes.get_or_create(&queue).set(1);
    metrics.queue_limit_bytes.get_or_create(&queue).set(1);
    let reason = ReasonLabel { reason: "slow" };
    metrics.overflows.get_or_create(&reason).inc();
    metrics.rejected_keys.get_or_create(&reason).inc();
    metrics.streams_ended.get_or_create(&reason).inc();
    let caller = CallerLabels {
        caller: "key",
        key: "pages".to_owned(),
    };
    metrics.limited_requests.get_or_create(&caller).inc();
    let dead_letter = DeadLetterLabels {
        app,
        code: "not_json",
    };
    metrics.dead_letters.get_or_create(&dead_letter).inc();
    let walk = ReconcileLabel { outcome: "ok" };
    metrics.reconcile_runs.get_or_create(&walk).inc();
    let request = RequestLabels {
        route: "unread",
        method: "GET",
        status: 200,
    };
    metrics.http_requests.get_or_create(&request).inc();
    let route = RouteLabel { route: "unread" };
    metrics
        .http_request_duration
        .get_or_create(&route)
        .observe(0.1);
}

/// The labels of a metric's first sample, but for the `le` of a histogram.
#[track_caller]
fn labels_of(text: &str, name: &str) -> Vec<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut rests = samples.filter_map(|line| line.strip_prefix(name));
    let sample = rests
        .next()
        .unwrap_or_else(|| panic!("{name} has no sample: add it to `touch`"));
    let Some((_, labels)) = sample.split_once('{') else {
        return Vec::new();
    };
    let (labels, _) = labels.split_once('}').unwrap();
    let names = labels
        .split(',')
        .filter_map(|label| Some(label.split_once('=')?.0));
    names
        .filter(|name| *name != "le")
        .map(str::to_owned)
        .collect()
}

/// The rows of the guide's table of metrics.
pub fn in_the_guide(guide: &str) -> Vec<Described> {
    let (_, section) = guide.split_once("\n## Metrics\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let described = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, ..] = cells[..] else {
            panic!("{row}")
        };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        Described {
            name: name.trim_matches('`').to_owned(),
            kind: kind.to_owned(),
            labels: labels
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    });
    described.collect()
}
