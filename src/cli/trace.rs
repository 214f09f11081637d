//! `im-callback trace`: uses MongoDB directly, so it also works while the service is down.

use std::io::Write;

use anyhow::{Context, anyhow};

use super::client::unknown_app;
use super::dead_letters::plain;
use super::{Failure, Load};
use crate::app::connect;
use crate::http::trace::view::TraceAnswer;
use crate::http::trace::words::{Completeness, absences, agreement, lag, millis, time, why};
use crate::ingest::App;
use crate::store::indexes::Retention;
use crate::store::trace::{
    MOST_DEAD_LETTERS, MOST_READERS, MessageTrace, TraceQuestion, TracedMessage, TracedRecord,
    UnreadableDocument, Wanted,
};
use crate::store::{Store, StoreError};

#[derive(clap::Args, Debug)]
pub struct TraceArgs {
    #[command(flatten)]
    id: WantedId,
    /// With --client-id: who sent it
    #[arg(long, value_name = "ACCOUNT", requires = "client_id")]
    from: Option<String>,
    /// With --client-id: who it was sent to, an account or a team
    #[arg(long, value_name = "ID", requires = "client_id")]
    to: Option<String>,
    /// Only this app's messages instead of those of all configured apps
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// A member whose read mark to show, if it was sent to a team; several with commas or repeated
    #[arg(long, value_name = "ACCOUNT", value_delimiter = ',')]
    reader: Vec<String>,
    /// Print one JSON object per app instead of text
    #[arg(long)]
    json: bool,
}

/// One of the two. A group of their own, so that the usage names both.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct WantedId {
    /// The provider's id of the message (msgidServer, msgUID, messageId), or its whole `_id` such as otc/p2p/123
    #[arg(value_name = "MSGID")]
    id: Option<String>,
    /// Look for the id that the sending client gave it (NetEase: msgidClient), among the newest messages of the
    /// conversation
    #[arg(long, value_name = "ID", requires_all = ["from", "to"])]
    client_id: Option<String>,
}

pub async fn run(args: TraceArgs, load: impl Load) -> Result<(), Failure> {
    if args.reader.len() > MOST_READERS {
        let limit = anyhow!("at most {MOST_READERS} readers at once (--reader)");
        return Err(Failure::Usage(limit));
    }
    let config = load(&[])?;
    let apps = || config.apps.iter().map(|configured| &configured.app);
    let named = |app: &&App| {
        args.app
            .as_deref()
            .is_none_or(|name| app.name.as_str() == name)
    };
    let chosen: Vec<&App> = apps().filter(named).collect();
    if chosen.is_empty() {
        let name = args.app.unwrap_or_default();
        return Err(unknown_app(&name, apps().map(|app| &app.name)));
    }
    let store = connect(&config).await?;
    let done = trace_all(&store, &chosen, &args, config.retention).await;
    store.close().await;
    Ok(done?)
}

async fn trace_all(
    store: &Store,
    apps: &[&App],
    args: &TraceArgs,
    retention: Retention,
) -> anyhow::Result<()> {
    // Before the facts: what a spool held at the question is in MongoDB when its lease says that it is empty.
    let spools = store.known_spools().await;
    let spools = spools.context("the spools cannot be read")?;
    let completeness = Completeness {
        is_complete: spools.iter().all(|spool| spool.is_empty),
        outage: None,
        spools,
    };
    let wanted = wanted(args);
    let (mut is_found, mut dead_letters) = (false, 0);
    let mut out = std::io::stdout().lock();
    for app in apps {
        let question = TraceQuestion {
            app: &app.name,
            provider: &app.provider,
            wanted: wanted.clone(),
            readers: args.reader.clone(),
        };
        let trace = store.trace(&question).await.map_err(|error| match error {
            // Nothing else of these queries can be refused.
            StoreError::Refused(_) => {
                anyhow!("the indexes are not there; `im-callback indexes` makes them first")
            }
            other => anyhow!(other).context("the message cannot be looked up"),
        })?;
        dead_letters += trace.dead_letters;
        if trace.is_empty() {
            continue;
        }
        is_found = true;
        let told = if args.json {
            let answer = TraceAnswer::of(app.name.as_str(), &completeness, &trace);
            serde_json::to_string(&answer)? + "\n"
        } else {
            told(&trace)
        };
        write!(out, "{told}").context("cannot print")?;
    }
    if !is_found {
        let ways = absences(&wanted, &completeness, dead_letters, retention);
        let ways: String = ways.iter().map(|way| format!("\n  - {way}")).collect();
        return Err(anyhow!("no such message is stored; perhaps:{ways}"));
    }
    if !args.json {
        writeln!(out, "{}", complete(&completeness)).context("cannot print")?;
    }
    Ok(())
}

fn wanted(args: &TraceArgs) -> Wanted {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match &args.id.client_id {
        Some(id) => Wanted::ClientId {
            id: id.clone(),
            from: text(&args.from),
            to: text(&args.to),
        },
        None => Wanted::Id(text(&args.id.id)),
    }
}

fn complete(completeness: &Completeness) -> &'static str {
    match completeness.is_complete {
        true => "This is complete: no callback waits in a spool.",
        false => {
            "This may not be complete: callbacks may wait in a spool (`im-callback spools`), and change it."
        }
    }
}

/// The messages of one app. What the provider sent is escaped, because it may contain control characters.
fn told(trace: &MessageTrace) -> String {
    let mut told: String = trace.messages.iter().map(message).collect();
    for UnreadableDocument { collection, id } in &trace.unreadable {
        let id = plain(id);
        told.push_str(&format!(
            "{id} in `{collection}` cannot be read: somebody changed it, or a restore broke it.\n"
        ));
    }
    let dead_letters = match trace.dead_letters {
        0 => return told,
        1 => "1 dead letter".to_owned(),
        MOST_DEAD_LETTERS.. => format!("{MOST_DEAD_LETTERS} dead letters or more"),
        n => format!("{n} dead letters"),
    };
    told.push_str(&format!(
        "The app has {dead_letters}, which cannot be searched for this message (`im-callback dead-letters`).\n"
    ));
    told
}

fn message(message: &TracedMessage) -> String {
    let mut head = format!("{} (", message.id);
    head.push_str(&message.provider);
    for (name, value) in [
        ("type", &message.message_type),
        ("client's id", &message.client_id),
        ("conversation", &message.conversation),
        ("order", &message.order_id),
    ] {
        if let Some(value) = value {
            head.push_str(&format!(", {name} {value}"));
        }
    }
    let mut lines = vec![plain(&head) + ")"];
    let mut happened = happened(message);
    // Without a time at the end; the sort keeps the order of those with the same.
    happened.sort_by_key(|(at, _)| at.unwrap_or(i64::MAX));
    for (at, what) in happened {
        let at = at.and_then(millis);
        let at = at.unwrap_or_else(|| "at an unknown time".to_owned());
        lines.push(format!("  {at:<24}  {}", plain(&what)));
    }
    lines.push(format!("  It {}.", plain(&why(message))));
    let state = message
        .state
        .map_or("none".to_owned(), |state| state.to_string());
    lines.push(format!(
        "  state: {state}, which {}.",
        agreement(message.verdict.agreement)
    ));
    lines.join("\n") + "\n"
}

/// What happened, with its time in milliseconds.
fn happened(message: &TracedMessage) -> Vec<(Option<i64>, String)> {
    let from = message.from.as_deref().unwrap_or("an unknown account");
    let to = &message.message.to;
    let mut happened = Vec::new();
    if message.received_at.is_some() {
        let team = match message.message.class.is_to_account() {
            true => "",
            false => "team ",
        };
        happened.push((message.sent_at, format!("sent by {from} to {team}{to}")));
    }
    let received = match lag(message) {
        Some(late @ 0..) => format!("its callback arrived, {} after it was sent", span(late)),
        Some(early) => format!(
            "its callback arrived, {} before it was sent: the clocks differ",
            span(early.saturating_neg())
        ),
        None => "its callback arrived".to_owned(),
    };
    if let Some(at) = message.received_at {
        happened.push((Some(at.timestamp_millis()), received));
    }
    let changes = message.recall.iter().map(|recall| ("recalled", recall));
    let changes = changes.chain(message.edits.iter().map(|edit| ("edited", edit)));
    for (what, change) in changes {
        let by = change.by.as_deref().map(|by| format!(" by {by}"));
        let at = change.at.map(|at| at.timestamp_millis());
        happened.push((at, format!("{what}{}", by.unwrap_or_default())));
    }
    if message.edit_count > message.edits.len() {
        let more = message.edit_count - message.edits.len();
        happened.push((None, format!("edited {more} more times")));
    }
    happened.extend(reads(message));
    for record in &message.records {
        let at = record.received_at.map(|at| at.timestamp_millis());
        let (kind, id, before) = (&record.kind, &record.id, before(message, record));
        let what = format!("{kind} arrived{before}, stored as the event {id}");
        happened.push((at, what));
    }
    happened
}

/// The read marks and the receipts, each with its time in milliseconds.
fn reads(message: &TracedMessage) -> Vec<(Option<i64>, String)> {
    let mut reads = Vec::new();
    for mark in &message.marks {
        let covers = match mark.covers(message) {
            true => "covers",
            false => "does not cover",
        };
        let last = time(mark.updated_at).map(|at| format!("; the last receipt arrived {at}"));
        let what = format!(
            "{}'s read mark, which {covers} the message{}",
            mark.reader,
            last.unwrap_or_default()
        );
        reads.push((Some(mark.read_up_to), what));
    }
    for receipt in message.receipts.iter().flat_map(|receipts| &receipts.found) {
        let TracedRecord {
            id, received_at, ..
        } = &receipt.record;
        let arrived = time(*received_at).unwrap_or_default();
        let before = before(message, &receipt.record);
        let what = format!("read up to here by the receipt {id}, which arrived {arrived}{before}");
        reads.push((Some(receipt.up_to), what));
    }
    if message.receipts.as_ref().is_some_and(|found| found.more) {
        reads.push((None, "read again: there are more receipts".to_owned()));
    }
    reads
}

fn before(message: &TracedMessage, record: &TracedRecord) -> &'static str {
    match record.is_before(message) {
        Some(true) => ", before the message",
        Some(false) | None => "",
    }
}

/// A time span for people.
fn span(millis: i64) -> String {
    format!("{:#}", jiff::SignedDuration::from_millis(millis))
}
