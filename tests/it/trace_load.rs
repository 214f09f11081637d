//! What traces leave to commits: few of their queries run at once, and none for long.

use std::time::Duration;

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::doc;
use serde_json::json;

use crate::failpoints::{TURN, are_there, fail, off};
use crate::support::{TestApp, mongodb_uri};
use crate::trace::{ask, message};

/// A trace of a team message that takes as many queries as any: more than twenty.
async fn ask_for_members(app: &TestApp) -> (u16, String) {
    let readers: String = (0..20).map(|n| format!("&reader=r{n}")).collect();
    let answer = ask(app, &format!("id=1{readers}")).await;
    let code = if answer.status == 200 {
        String::new()
    } else {
        answer.code()
    };
    (answer.status, code)
}

/// A service whose lookups of events take this long each.
async fn slow_service(name: &str, millis: i32, more: &str) -> Option<(TestApp, Client)> {
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !are_there(&client).await {
        return None;
    }
    let separator = if mongodb_uri().contains('?') {
        "&"
    } else {
        "/?"
    };
    let uri = format!("{}{separator}appName={name}", mongodb_uri());
    let app = TestApp::connected(&uri, more).await;
    let team = json!({ "convType": "TEAM", "to": "77" });
    app.deliver(message("1", team)).await.expect_ok();
    let slow = doc! {
        "failCommands": ["find"], "namespace": format!("{}.events", app.database.name()),
        "blockConnection": true, "blockTimeMS": millis,
    };
    fail(&client, name, "alwaysOn", slow).await;
    Some((app, client))
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_run_few_queries_at_once() {
    let _turn = TURN.lock().await;
    let more = "mongodb.query_timeout = \"1m\"";
    let Some((app, client)) = slow_service("traces-many", 100, more).await else {
        return;
    };
    let most_at_once = async |traces: usize| {
        let mut most = 0;
        let watch = async {
            loop {
                let of_traces = doc! {
                    "currentOp": 1, "appName": "traces-many", "command.find": "events",
                };
                let running = client.database("admin").run_command(of_traces).await;
                let running = running.unwrap().get_array("inprog").unwrap().len();
                most = most.max(running);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = join_all((0..traces).map(|_| ask_for_members(&app)));
        tokio::select! {
            answers = asked => assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}"),
            () = watch => unreachable!("it has no end"),
        }
        most
    };
    let (alone, together) = (most_at_once(1).await, most_at_once(5).await);
    off(&client).await;
    assert!((2..=4).contains(&alone), "{alone}");
    assert!((5..=8).contains(&together), "{together}");
    app.end().await;
}

/// No query of it takes too long, but all of them together do.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_as_a_whole_has_one_timeout() {
    let _turn = TURN.lock().await;
    let more = "mongodb.query_timeout = \"2s\"";
    let Some((app, client)) = slow_service("traces-slow", 600, more).await else {
        return;
    };
    let (status, code) = ask_for_members(&app).await;
    off(&client).await;
    assert_eq!((status, &*code), (503, "unavailable"));
    app.end().await;
}
