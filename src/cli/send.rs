//! `im-callback send`

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use futures_util::{Stream, StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::bodies::{Files, SourcedBody};
use super::client::{
    NOBODY_LISTENS, Signer, SignerArgs, TIMEOUT, http, no_answer, now, refused, usage, web_address,
};
use super::{Failure, Load};
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub struct SendArgs {
    /// Files with one body each, .jsonl or .ndjson files with one body per line, folders with .json and such files at
    /// any depth, or `-` for JSON lines on standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    signer: SignerArgs,
    /// Callback address; by default the configured app's
    #[arg(long, value_name = "URL", value_parser = web_address)]
    url: Option<String>,
    /// Callbacks in flight at once; 1 keeps their order
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
}

/// The outcome of one callback: status and problem code, or why there was no answer.
struct Answer {
    from: String,
    outcome: String,
    delivered: bool,
    /// Nothing listens at the address.
    refused: bool,
    took: Duration,
}

pub async fn run(args: SendArgs, load: impl Load, has_config: bool) -> Result<(), Failure> {
    let signer = args.signer.signer(load, has_config)?;
    let url = signer.callback_url(args.url.as_deref())?;
    let client = http(TIMEOUT)?;
    let files = Files::find(&args.paths)?;
    if let Some(skipped) = files.skipped() {
        eprintln!("{skipped}");
    }
    let progress = ProgressBar::new_spinner();
    if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{spinner} {pos} sent, {per_sec}, {elapsed}");
        progress.set_style(style.map_err(|e| anyhow!(e))?);
    } else {
        progress.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }

    let started = Instant::now();
    let sent = stream_of(files.bodies())
        .map(|body| send(&client, &signer, &url, body))
        .buffered(usize::from(args.connections));
    let mut sent = std::pin::pin!(sent);
    let mut summary = Summary::default();
    let mut unreadable = None;
    while let Some(answer) = sent.next().await {
        progress.inc(1);
        match answer {
            Ok(answer) => summary.add(answer),
            Err(error) => {
                unreadable = Some(error);
                break;
            }
        }
    }
    progress.finish_and_clear();
    // Bodies that were sent before a read error are in the summary, too.
    if !summary.took.is_empty() {
        summary.print(started.elapsed()).context("cannot print")?;
    }
    if let Some(error) = unreadable {
        return Err(error.into());
    }
    if summary.took.is_empty() {
        return Err(usage("there is nothing to send in these paths"));
    }
    if summary.failed > 0 {
        let failed = counted(summary.failed, "callback");
        let verb = if summary.failed == 1 { "was" } else { "were" };
        let hint = match summary.refused {
            true => format!("; {NOBODY_LISTENS}"),
            false => String::new(),
        };
        return Err(anyhow!("{failed} {verb} not delivered{hint}").into());
    }
    Ok(())
}

async fn send(
    client: &reqwest::Client,
    signer: &Signer,
    url: &str,
    body: anyhow::Result<SourcedBody>,
) -> anyhow::Result<Answer> {
    let (from, body) = body?;
    let (url, headers) = signer.sign(url, &body, now()?);
    let mut request = client.post(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let started = Instant::now();
    let response = request.body(body).send().await;
    let took = started.elapsed();
    let is_refused = response.as_ref().is_err_and(refused);
    let (delivered, outcome) = match response {
        Ok(response) => {
            let status = response.status();
            let text = response.text().await.unwrap_or_default();
            let problem: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let code = problem.as_ref().and_then(|p| p["code"].as_str());
            let code = code.map(|code| format!(" {code}"));
            (
                status.is_success(),
                format!("{}{}", status.as_u16(), code.unwrap_or_default()),
            )
        }
        Err(error) => (false, format!("no answer: {}", no_answer(&error))),
    };
    Ok(Answer {
        from,
        outcome,
        delivered,
        refused: is_refused,
        took,
    })
}

#[derive(Default)]
struct Summary {
    outcomes: BTreeMap<String, usize>,
    took: Vec<Duration>,
    failed: usize,
    refused: bool,
    first_failures: Vec<String>,
}

impl Summary {
    /// The most failures listed one by one.
    const NAMED: usize = 5;

    fn add(&mut self, answer: Answer) {
        if !answer.delivered {
            self.failed += 1;
            if self.first_failures.len() < Self::NAMED {
                self.first_failures
                    .push(format!("{}: {}", answer.from, answer.outcome));
            }
        }
        self.refused |= answer.refused;
        self.took.push(answer.took);
        *self.outcomes.entry(answer.outcome).or_default() += 1;
    }

    fn print(&mut self, elapsed: Duration) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let n = self.took.len();
        let rate = n as f64 / elapsed.as_secs_f64();
        writeln!(
            out,
            "{} in {:.2} s ({rate:.0} a second)",
            counted(n, "callback"),
            elapsed.as_secs_f64()
        )?;
        for (outcome, n) in &self.outcomes {
            writeln!(out, "  {n} × {outcome}")?;
        }
        self.took.sort_unstable();
        if let (Some(median), Some(worst)) = (self.took.get(n / 2), self.took.last()) {
            let ms = |d: &Duration| d.as_secs_f64() * 1000.0;
            writeln!(
                out,
                "  answered in {:.1} ms (median), {:.1} ms (worst)",
                ms(median),
                ms(worst)
            )?;
        }
        for failure in &self.first_failures {
            eprintln!("not delivered: {failure}");
        }
        Ok(())
    }
}

/// Reads ahead in a separate thread: standard input may be a blocking pipe, which must not block requests in
/// flight.
fn stream_of(
    bodies: impl Iterator<Item = anyhow::Result<SourcedBody>> + Send + 'static,
) -> impl Stream<Item = anyhow::Result<SourcedBody>> {
    let (ahead, mut read) = mpsc::channel(64);
    std::thread::spawn(move || {
        bodies
            .take_while(|_| !ahead.is_closed())
            .try_for_each(|body| ahead.blocking_send(body))
    });
    stream::poll_fn(move |context| read.poll_recv(context))
}
