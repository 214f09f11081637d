//! Which fsyncs the service makes, and what it does when they fail: `strace` shows the first and injects the second.

use std::process::Command;

use futures_util::future::join_all;
use mongodb::Client;
use serde_json::json;
use tokio::task::block_in_place;

use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{database_name, http, message, mongodb_uri, skip};

/// Whether processes can be traced here.
fn can_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        skip("there is no strace, or no right to trace");
    }
    can
}

/// Lets every `fdatasync` of the process fail, with this injection of strace.
fn spoil_fdatasync(process: &mut Process, how: &str) {
    let inject = format!("inject=fdatasync:{how}");
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null"];
    process.under(&[&strace[..], &["-e", "trace=fdatasync", "-e", &inject]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spooled_is_fsynced_before_it_is_acknowledged() {
    if !can_trace() {
        return;
    }
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let mut process = Process::new(&proxy.uri(), &database_name(), "");
    let trace = process.config_file().with_file_name("trace");
    let calls = "trace=fsync,fdatasync,write,writev,sendto,sendmsg";
    let out = trace.to_str().unwrap();
    process.under(&[
        "strace", "-f", "-y", "-qq", "-s", "32", "-e", calls, "-o", out,
    ]);
    block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    for n in 0..5 {
        let taken = try_deliver(&http, &url, message(n).as_bytes()).await;
        assert_eq!(taken, Some(200));
    }
    block_in_place(|| process.kill());

    let trace = std::fs::read_to_string(trace).unwrap();
    let (mut synced, mut folders, mut answered) = (0, Vec::new(), 0);
    for line in trace.lines() {
        let done = line.trim_end().ends_with("= 0");
        if line.contains("fdatasync") && done {
            synced += 1;
        } else if line.contains("fsync(")
            && let Some((_, path)) = line.split_once('<')
        {
            folders.extend(path.split_once('>').map(|(path, _)| path.to_owned()));
        } else if line.contains("HTTP/1.1 200 OK") {
            answered += 1;
            assert!(
                synced >= answered,
                "answer {answered} came after {synced} fdatasync"
            );
        }
    }
    assert_eq!(answered, 5, "{trace}");
    // The names, too: of the segment, and of the folders that were made for it.
    let made = process.config_file().with_file_name("data");
    let base = process.config_file().parent().unwrap().to_owned();
    for folder in [made.join("spool"), made, base] {
        let folder = folder.canonicalize().unwrap();
        assert!(
            folders.iter().any(|f| *f == folder.to_str().unwrap()),
            "{folder:?} in {folders:?}"
        );
    }
}

/// A hanging disk does not delay a callback's answer beyond the provider's timeout.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_hangs_callbacks_are_refused() {
    if !can_trace() {
        return;
    }
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, "");
    spoil_fdatasync(&mut process, "delay_enter=60s");
    block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    let told = join_all((0..3).map(|n| {
        let (http, url, body) = (&http, &url, message(n));
        async move { try_deliver(http, url, body.as_bytes()).await }
    }));
    assert_eq!(told.await, [Some(503); 3]);
    block_in_place(|| process.kill());
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_does_not_confirm_is_refused_and_nothing_is_left_of_it() {
    if !can_trace() {
        return;
    }
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, "");
    spoil_fdatasync(&mut process, "error=EIO");
    block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    for n in 0..3 {
        let refused = try_deliver(&http, &url, message(n).as_bytes()).await;
        assert_eq!(refused, Some(503));
    }
    let ready = process.ready(&http).await;
    assert_eq!(ready["spool"]["bytes"], 0, "{ready}");
    block_in_place(|| process.kill());

    process.under(&[]);
    block_in_place(|| process.start());
    let taken = try_deliver(&http, &url, message(9).as_bytes()).await;
    assert_eq!(taken, Some(200));
    proxy.set(Line::Open);
    process.until_drained(&http).await;
    assert_eq!(process.ready(&http).await["spool"]["quarantined_bytes"], 0);
    let question = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(process.ask(&http, &question).await.json()["total"], 1);
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}
