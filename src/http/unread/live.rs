//! Counts the questions of subscribers, as queries are answered.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::{UnreadAnswer, UnreadQuery, check, counts};
use crate::http::Service;
use crate::http::error::{Code, Problem};
use crate::subscriptions::{CountFailure, CountQuestions, LiveCounts, LiveQuestion};

/// Counts by the service, which has the subscriptions: not the other way round, too, or neither would ever end.
pub struct CountLive(Weak<Service>);

impl CountLive {
    /// Counts by this service.
    pub fn new(service: &Arc<Service>) -> Self {
        Self(Arc::downgrade(service))
    }

    async fn counted(
        &self,
        question: &LiveQuestion<UnreadQuery>,
    ) -> Result<LiveCounts, CountFailure> {
        let service = self.0.upgrade().ok_or(CountFailure::Unavailable)?;
        if service.durable.outage.is_known() {
            return Err(CountFailure::Unavailable);
        }
        let current = service.live.current();
        let app = current.app(question.app.as_str());
        let app = app.ok_or(CountFailure::Refused(Code::UnknownApp.as_str()))?;
        let (reader, asked) = (&question.reader, &question.asked);
        // The app may have other settings after a reload.
        check(asked, app, &service.limits).map_err(|problem| failure(&problem))?;
        let counted = counts(&service, app, reader, asked).await;
        let mut answer = counted.map_err(|problem| failure(&problem))?;
        // Whoever wants the next page asks for it; here is always the first one.
        answer.next = None;
        Ok(told(&answer))
    }
}

impl CountQuestions<UnreadQuery> for CountLive {
    fn count<'c>(
        &'c self,
        question: &'c LiveQuestion<UnreadQuery>,
    ) -> BoxFuture<'c, Result<LiveCounts, CountFailure>> {
        self.counted(question).boxed()
    }

    fn is_costly(&self, question: &LiveQuestion<UnreadQuery>) -> bool {
        question.asked.teams.is_some() || question.asked.is_overview()
    }

    fn is_complete(&self) -> BoxFuture<'_, bool> {
        async {
            let Some(service) = self.0.upgrade() else {
                return false;
            };
            let known = service.durable.complete.is_known().await;
            known.unwrap_or_default()
        }
        .boxed()
    }

    fn is_away(&self) -> bool {
        let service = self.0.upgrade();
        service.is_none_or(|service| service.durable.outage.is_known())
    }
}

fn failure(problem: &Problem) -> CountFailure {
    match problem.code {
        Code::Overloaded => CountFailure::Busy,
        Code::Unavailable => CountFailure::Unavailable,
        code => CountFailure::Refused(code.as_str()),
    }
}

/// The event that tells an answer. Its id is a digest, so that a subscriber who comes back says what it has.
fn told(answer: &UnreadAnswer) -> LiveCounts {
    let data = serde_json::to_string(answer).expect("an answer has text keys");
    let mut digest = Sha256::digest(&data).to_vec();
    digest.truncate(8);
    let digest = hex::encode(digest);
    let mut event = String::with_capacity(data.len() + 64);
    let written = write!(event, "event: counts\nid: {digest}\ndata: {data}\n\n");
    written.expect("a string takes all");
    LiveCounts {
        event: Bytes::from(event),
        digest,
        // What waits for a backfill is not counted any sooner by being asked for again and again.
        are_complete: !answer.waits_for_spool,
    }
}
