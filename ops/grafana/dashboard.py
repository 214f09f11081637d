#!/usr/bin/env python3
"""Makes im-callback.json, the Grafana dashboard, from the tables of panels below.

  ops/grafana/dashboard.py           writes it
  ops/grafana/dashboard.py --check   fails if the file is another than this would write
"""

import json
import sys
from pathlib import Path

from shapes import (
    BLUE, DATASOURCE, GREEN, GREY, ORANGE, RED, YELLOW,
    counted, happened, heatmap, lines, number, placed, quantile, rate, stat, table, timeline, variable, word,
)

FILE = Path(__file__).resolve().parent / "im-callback.json"
APP = 'app=~"$app",instance=~"$instance"'
ALL = 'instance=~"$instance"'
ACKNOWLEDGED = "stored|spooled|dead_letter|empty"

WELL = [
    stat(
        "Instances that answer", "The share of the instances whose metrics Prometheus gets.", "percentunit",
        f'sum(up{{job="im-callback",{ALL}}}) / count(up{{job="im-callback",{ALL}}})', [(RED, None), (GREEN, 1)],
    ),
    stat(
        "MongoDB", "Whether MongoDB confirms the writes of all instances. In an outage callbacks go to the spool and "
        "queries are answered 503.", "short", f"max(im_callback_outage{{{ALL}}})",
        [(GREEN, None), (RED, 1)],
        [{"type": "value", "options": {"0": word("confirms", GREEN), "1": word("outage", RED, 1)}}],
    ),
    stat(
        "Acknowledged", "The share of the apps' callbacks that was acknowledged in the last five minutes. The others "
        "were rejected: see “Rejected callbacks”.", "percentunit",
        # No answer means that there are no callbacks, and not that none is acknowledged.
        f'(sum(rate(im_callback_callbacks_total{{{APP},app!="unmatched",outcome=~"{ACKNOWLEDGED}"}}[5m])) '
        f'or vector(0)) / (sum(rate(im_callback_callbacks_total{{{APP},app!="unmatched"}}[5m])) > 0)',
        [(RED, None), (ORANGE, 0.9), (GREEN, 0.99)], none="no callbacks", decimals=1,
    ),
    stat(
        "Refused with 503", "Callbacks that neither MongoDB nor the spool took, in the range of the dashboard. The "
        "provider may not send them again.", "short",
        number(counted("callbacks_total", f'{APP},outcome=~"overloaded|unavailable"', "$__range")),
        [(GREEN, None), (RED, 0.5)], decimals=0,
    ),
    stat(
        "Oldest in the spool", "How long the oldest callback has waited for MongoDB. While one waits, counts are "
        "answered with “complete”: false.", "s",
        f"max(im_callback_spool_oldest_age_seconds{{{ALL}}})", [(GREEN, None), (YELLOW, 1), (RED, 300)],
    ),
    stat(
        "Spool used", "Of the fullest spool, quarantined bytes included. When it is full, callbacks that MongoDB "
        "cannot take are refused.", "percentunit",
        f"max((im_callback_spool_bytes{{{ALL}}} + im_callback_spool_quarantined_bytes{{{ALL}}}) "
        f"/ im_callback_spool_limit_bytes{{{ALL}}})",
        [(GREEN, None), (YELLOW, 0.2), (RED, 0.8)], decimals=1,
    ),
    stat(
        "Dead letters", "Callbacks that could not be decoded or stored, in the range of the dashboard. They are kept "
        "whole: im-callback dead-letters list.", "short",
        number(counted("dead_letters_total", APP, "$__range")), [(GREEN, None), (ORANGE, 0.5)], decimals=0,
    ),
    stat(
        "Queries that fail", "The share of queries for unread counts that was answered 5xx in the last five minutes.",
        "percentunit",
        f'(sum(rate(im_callback_http_requests_total{{{ALL},route="unread",status=~"5.."}}[5m])) or vector(0)) '
        f'/ (sum(rate(im_callback_http_requests_total{{{ALL},route="unread"}}[5m])) > 0)',
        [(GREEN, None), (ORANGE, 0.01), (RED, 0.05)], none="no queries", decimals=1,
    ),
    table(
        "Alerts", "Alerts of ops/prometheus/alerts.yml that fire, or will if it goes on. docs/operations.md has a "
        "runbook for each.", 12, 'ALERTS{alertname=~"ImCallback.*"}',
        {"alertname": "alert", "alertstate": "state", "severity": "severity", "instance": "instance", "app": "app"},
        sort="state",
    ),
    table(
        "Instances", "What runs, and for how long.", 12,
        f'(time() - process_start_time_seconds{{job="im-callback",{ALL}}}) '
        "* on (instance) group_left (version) im_callback_build_info",
        {"instance": "instance", "version": "version", "Value": "runs for"}, unit="dtdurations",
    ),
]

COMES_IN = [
    lines(
        "Callbacks by outcome", "stored: in MongoDB. spooled: in the local spool, later in MongoDB. dead_letter: kept, "
        "but not decoded. empty: the provider's address probe. All others are codes of rejections, explained in "
        "docs/errors.md.", "cps", [(happened(rate("callbacks_total", APP, "outcome")), "{{outcome}}")], stacked=True,
        colors={"stored": GREEN, "spooled": YELLOW, "dead_letter": ORANGE, "empty": GREY}, others=RED,
    ),
    lines(
        "Callbacks by kind", "The kind of the first event. none: rejected before it was decoded, or without an event.",
        "cps", [(happened(rate("callbacks_total", APP, "kind")), "{{kind}}")], stacked=True, colors={"none": GREY},
    ),
    lines(
        "Callbacks by app", "unmatched: the address belongs to no app.", "cps",
        [(rate("callbacks_total", APP, "app"), "{{app}}")],
    ),
    lines(
        "Rejected callbacks", "By app and code. checksum_mismatch of an app that worked: its secret was changed. "
        "unmatched: the address at the provider is wrong.", "cps",
        [
            (
                happened(rate("callbacks_total", f'{APP},outcome!~"{ACKNOWLEDGED}"', "app, outcome")),
                "{{app}}: {{outcome}}",
            )
        ],
        width=12,
    ),
    lines(
        "Provider lag", "From an event to the arrival of its callback. Hours: the provider redelivers what it could "
        "not deliver.", "s",
        [(quantile(q, "provider_lag_seconds", APP, "app"), f"{{{{app}}}} p{int(q * 100)}") for q in (0.5, 0.9)],
        width=12,
    ),
]

HOW_FAST = [
    lines(
        "Acknowledgement", "From the head of a callback to its acknowledgement. The provider gives up after 5 s.", "s",
        [(quantile(q, "ack_duration_seconds", APP), f"p{int(q * 100)}") for q in (0.5, 0.9, 0.99)], limits=[5],
    ),
    lines(
        "Acknowledgement by app", "99 of 100 callbacks of each app are acknowledged within this time.", "s",
        [(quantile(0.99, "ack_duration_seconds", APP, "app"), "{{app}}")],
    ),
    heatmap(
        "Acknowledgements", "How many callbacks took how long. Two bands: some wait for something that others do not.",
        "s", f"sum by (le) (increase(im_callback_ack_duration_seconds_bucket{{{APP}}}[$__rate_interval]))",
    ),
    lines(
        "Commit latency", "The time that MongoDB takes to confirm a commit on a majority, retries included. It is most "
        "of an acknowledgement.", "s",
        [(quantile(q, "commit_duration_seconds", ALL), f"p{int(q * 100)}") for q in (0.5, 0.99)],
    ),
    lines(
        "Callbacks in a commit", "Callbacks that are in flight together share a commit, so this grows with the load.",
        "short",
        [
            (
                f"sum(rate(im_callback_commit_callbacks_sum{{{ALL}}}[$__rate_interval])) "
                f"/ sum(rate(im_callback_commit_callbacks_count{{{ALL}}}[$__rate_interval]))", "mean",
            ),
            (quantile(0.99, "commit_callbacks", ALL), "p99"),
        ],
    ),
    lines(
        "Append latency", "The time that the spool's disk takes for a batch, fsync included.", "s",
        [(quantile(q, "spool_append_duration_seconds", ALL), f"p{int(q * 100)}") for q in (0.5, 0.99)],
    ),
]

WAITS = [
    lines(
        "Queues", "Callbacks that wait for a commit (mongodb) or for the disk (spool).", "short",
        [(f"sum by (instance, queue) (im_callback_queue_callbacks{{{ALL}}})", "{{instance}} {{queue}}")],
    ),
    lines(
        "Queues, of their limit", "Bytes that wait or are being written, as a share of the most that may. At 100 % "
        "callbacks overflow into the spool, or are refused.", "percentunit",
        [
            (
                f"im_callback_queue_bytes{{{ALL}}} / im_callback_queue_limit_bytes{{{ALL}}}",
                "{{instance}} {{queue}}",
            )
        ],
    ),
    lines(
        "Spool", "Bytes on their way into MongoDB.", "bytes",
        [(f"im_callback_spool_bytes{{{ALL}}}", "{{instance}}")],
    ),
    lines(
        "Until the spool is full", "At the growth of the last quarter of an hour. Empty if it lasts longer than a day.", "s",
        [
            (
                f"(im_callback_spool_limit_bytes{{{ALL}}} - im_callback_spool_bytes{{{ALL}}} "
                f"- im_callback_spool_quarantined_bytes{{{ALL}}}) "
                f"/ (deriv(im_callback_spool_bytes{{{ALL}}}[15m]) > 0) < 86400",
                "{{instance}}",
            )
        ],
    ),
    lines(
        "Oldest in the spool", "How long the oldest callback in the spool has waited.", "s",
        [(f"im_callback_spool_oldest_age_seconds{{{ALL}}}", "{{instance}}")],
    ),
    lines(
        "Into the spool and out of it", "Callbacks that were appended, and drained into MongoDB. After an interruption "
        "some are drained again.", "cps",
        [
            (f"sum(rate(im_callback_spool_appended_callbacks_total{{{ALL}}}[$__rate_interval]))", "appended"),
            (f"sum(rate(im_callback_spool_drained_callbacks_total{{{ALL}}}[$__rate_interval]))", "drained"),
        ],
        colors={"appended": YELLOW, "drained": GREEN},
    ),
    lines(
        "State: pairs", "Pairs of reader and peer whose “state” in MongoDB has to be updated. Counts do not depend on "
        "it.", "short", [(f"im_callback_state_pairs{{{ALL}}}", "{{instance}}")], width=12,
    ),
    lines(
        "State: lag", "How long the first of these pairs has waited. About a second and a half is usual.", "s",
        [(f"im_callback_state_lag_seconds{{{ALL}}}", "{{instance}}")], width=12,
    ),
]

WENT_WRONG = [
    timeline(
        "Outages and disks", "Whether MongoDB confirmed writes, and whether the spool took callbacks.", 20,
        [
            (f"im_callback_outage{{{ALL}}}", "{{instance}} MongoDB"),
            # Other values than the outage's, so that each has its own words.
            (f"im_callback_spool_writable{{{ALL}}} + 2", "{{instance}} spool"),
            (f"im_callback_state_caught_up{{{ALL}}} + 4", "{{instance}} first walk"),
        ],
        {
            "0": word("confirms", GREEN), "1": word("outage", RED, 1),
            "2": word("takes nothing", RED, 2), "3": word("writable", GREEN, 3),
            "4": word("is under way", YELLOW, 4), "5": word("is done", GREEN, 5),
        },
    ),
    stat(
        "Outages", "Outages of MongoDB that began in the range of the dashboard, on all instances.", "short",
        f"sum(increase(im_callback_outages_total{{{ALL}}}[$__range]))", [(GREEN, None), (ORANGE, 0.5)], decimals=0, size=(4, 6),
    ),
    lines(
        "Overflow into the spool", "outage: MongoDB was known to be away. slow, queue_full: it is too slow for the "
        "load. not_confirmed: it answered without confirming.", "cps",
        [(rate("overflows_total", ALL, "reason"), "{{reason}}")], stacked=True,
    ),
    lines(
        "Dead letters made", "By app and code; docs/errors.md explains the codes.", "short",
        [(happened(counted("dead_letters_total", APP, "$__rate_interval", "app, code")), "{{app}}: {{code}}")],
        bars=True,
    ),
    lines(
        "Quarantined bytes", "Bytes of the spool that were torn or damaged, and wait for somebody to look at them.",
        "bytes", [(f"im_callback_spool_quarantined_bytes{{{ALL}}}", "{{instance}}")],
    ),
    lines(
        "Duplicates", "Documents that were stored already. They do no harm; many mean that the provider does not see "
        "the answers.", "cps", [(rate("duplicates_total", ALL, "collection"), "{{collection}}")],
    ),
    lines(
        "Commits repeated", "Attempts of commits that were repeated because MongoDB was at fault.", "cps",
        [(f"sum by (instance) (rate(im_callback_commit_retries_total{{{ALL}}}[$__rate_interval]))", "{{instance}}")],
    ),
    lines(
        "Walks over unread messages", "Walks by outcome, and messages whose “state” they repaired: many after a crash, "
        "none otherwise.", "short",
        [
            (counted("reconcile_runs_total", ALL, "$__rate_interval", "outcome"), "walks {{outcome}}"),
            (f"sum(increase(im_callback_reconcile_repaired_total{{{ALL}}}[$__rate_interval]))", "messages repaired"),
        ],
        bars=True,
    ),
]

QUERIES = [
    lines(
        "Queries by status", "Queries for unread counts. 503: MongoDB cannot answer. 401 and 403: see “Rejected "
        "keys”.", "reqps",
        [(rate("http_requests_total", f'{ALL},route="unread"', "status"), "{{status}}")], stacked=True,
        colors={"200": GREEN}, others=RED,
    ),
    lines(
        "Query latency", "A count costs as much as there are unread messages of the users asked for.", "s",
        [
            (quantile(q, "http_request_duration_seconds", f'{ALL},route="unread"'), f"p{int(q * 100)}")
            for q in (0.5, 0.9, 0.99)
        ],
    ),
    lines(
        "Rejected keys", "Requests whose key was refused, by reason. Many unknown: a wrong deployment, or somebody "
        "guesses.", "reqps", [(rate("rejected_keys_total", ALL, "reason"), "{{reason}}")], stacked=True,
    ),
    lines(
        "Limited requests", "Requests that were answered 429, because a key or a user sends more than auth.keys.rate or "
        "auth.token_rate allow.", "reqps",
        [(rate("limited_requests_total", ALL, "caller, key"), "{{caller}} {{key}}")], stacked=True,
    ),
    lines(
        "Streams", "Subscribers of live counts, and streams that ended, by reason. Many slow_reader: clients that stay "
        "connected and do not read.", "short",
        [
            (f"sum by (instance) (im_callback_streams{{{ALL}}})", "open {{instance}}"),
            (counted("streams_ended_total", ALL, "$__rate_interval", "reason"), "ended {{reason}}"),
        ],
    ),
    lines(
        "Live counts", "From a change, as MongoDB tells it, until its recount is told.", "s",
        [(quantile(q, "stream_delay_seconds", ALL), f"p{int(q * 100)}") for q in (0.5, 0.99)],
    ),
    lines(
        "Work for live counts", "Recounts, and openings of MongoDB's change stream: one for each time that others are "
        "asked about.", "ops",
        [
            (f"sum(rate(im_callback_stream_recounts_total{{{ALL}}}[$__rate_interval]))", "recounts"),
            (f"sum(rate(im_callback_change_streams_opened_total{{{ALL}}}[$__rate_interval]))", "change streams"),
        ],
    ),
    lines(
        "Requests by route", "All requests. unmatched: no route and no app has the path.", "reqps",
        [(rate("http_requests_total", ALL, "route"), "{{route}}")],
    ),
    lines(
        "Latency by route", "99 of 100 requests take at most this long, rejected ones included.", "s",
        [(quantile(0.99, "http_request_duration_seconds", ALL, "route"), "{{route}}")],
    ),
]

ROWS = [
    ("Is it well?", WELL),
    ("What comes in?", COMES_IN),
    ("How fast?", HOW_FAST),
    ("What waits?", WAITS),
    ("What went wrong?", WENT_WRONG),
    ("Queries", QUERIES),
]


def dashboard():
    return {
        "title": "im-callback",
        "uid": "im-callback",
        "description": "Callbacks of IM providers: what comes in, how fast, what waits, what went wrong. Made by "
        "ops/grafana/dashboard.py.",
        "tags": ["im-callback"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {
            "list": [
                {
                    "name": "Starts", "enable": True, "iconColor": BLUE, "datasource": DATASOURCE,
                    "expr": 'changes(process_start_time_seconds{job="im-callback"}[$__rate_interval]) > 0',
                    "titleFormat": "{{instance}} started",
                }
            ]
        },
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"},
                variable("app", "App", "label_values(im_callback_callbacks_total, app)"),
                variable("instance", "Instance", "label_values(im_callback_build_info, instance)"),
            ]
        },
        "panels": placed(ROWS),
    }


def main():
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != text:
            sys.exit(f"error: {FILE.name} differs; run ops/grafana/dashboard.py")
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
