//! All of a user: every sender and every order with unread messages, a page at a time.
//!
//! First the store says of whom there are unread messages, and when the newest was sent. That orders the lists, and a
//! page of each is taken. Then the newest messages of the page are read, and the counts by the same lanes as for a list
//! of ids: after the messages, so that no count lacks the message beside it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::answer::{LastMessage, NewestLists, NewestOrder, NewestPeer, TotalOf};
use super::cursor::{UnreadCursor, UnreadPlace};
use super::{UnreadAnswer, UnreadQuery};
use crate::callback::ids::Account;
use crate::http::Service;
use crate::http::error::{Code, Problem};
use crate::http::moment::moment;
use crate::ingest::App;
use crate::store::{
    LastUnread, MOST_NEWEST, NewestUnread, Question, Store, UnreadBy, UnreadCount, UnreadPairs,
};

/// Senders of one question for the grand total.
const CHUNK: usize = 2000;

/// Answers, but for whether it is complete.
pub async fn overview(
    service: &Service,
    app: &App,
    reader: &Account,
    asked: &UnreadQuery,
) -> Result<UnreadAnswer, Problem> {
    let store = &service.durable.store;
    let overview = Overview {
        store,
        app,
        reader,
        asked,
        limit: asked.entries(&service.limits),
    };
    // On the heap: the answer is large, and a future within others would be moved on the stack.
    let answer = Box::pin(overview.answer());
    store.in_turn_of_overviews(answer).await
}

struct Overview<'q> {
    store: &'q Store,
    app: &'q App,
    reader: &'q Account,
    asked: &'q UnreadQuery,
    limit: usize,
}

impl Overview<'_> {
    async fn answer(&self) -> Result<UnreadAnswer, Problem> {
        let after = self.asked.after.as_deref();
        let after = after.map(|text| UnreadCursor::parse(text, self.app));
        let after = after.transpose()?.unwrap_or_default();
        let has_orders = self.app.provider.order_id().is_some();
        let (peers, orders) = tokio::try_join!(self.pairs(UnreadBy::Peer), async {
            match has_orders {
                true => self.pairs(UnreadBy::Order).await.map(Some),
                false => Ok(None),
            }
        })?;
        let peers = OverviewPage::of(&peers, after.0, self.limit);
        let orders = orders.as_ref();
        let orders = orders.map(|orders| OverviewPage::of(orders, after.1.clone(), self.limit));
        let next = peers.has_more || orders.as_ref().is_some_and(|orders| orders.has_more);
        let next = next.then(|| {
            let orders = orders.as_ref().map_or(after.1, OverviewPage::end);
            UnreadCursor(peers.end(), orders).text()
        });
        let (by_peer, by_order) = tokio::try_join!(self.peers(&peers), async {
            match &orders {
                Some(orders) => self.orders(orders).await.map(Some),
                None => Ok(None),
            }
        })?;
        let (by_peer, total) = by_peer;
        Ok(UnreadAnswer {
            user: self.asked.user.clone(),
            peers: Some(
                by_peer
                    .iter()
                    .map(|one| (one.peer.clone(), one.unread))
                    .collect(),
            ),
            orders: by_order.as_ref().map(|orders| {
                let counts = orders.iter().map(|one| (one.order.clone(), one.unread));
                counts.collect()
            }),
            teams: None,
            order_peers: None,
            total: self.asked.capped(total),
            total_of: TotalOf::Peers,
            newest: Some(NewestLists {
                peers: by_peer,
                orders: by_order,
            }),
            next,
            complete: true,
            waits_for_spool: false,
        })
    }

    async fn pairs(&self, by: UnreadBy) -> Result<UnreadPairs, Problem> {
        let pairs = self.store.newest_unread(by, &self.app.name, self.reader);
        let pairs = pairs.await?;
        if pairs.is_truncated {
            let (list, what) = match by {
                UnreadBy::Peer => ("peers", "senders"),
                UnreadBy::Order => ("orders", "orders and senders"),
            };
            let detail = format!(
                "the user has unread messages of more than {MOST_NEWEST} {what}; ask by lists"
            );
            return Err(Problem::at(Code::OverviewTooLarge, list, detail));
        }
        Ok(pairs)
    }

    /// The senders of a page, and the grand total.
    async fn peers(&self, page: &OverviewPage<'_>) -> Result<(Vec<NewestPeer>, u64), Problem> {
        let last = self.last(UnreadBy::Peer, page).await?;
        let counts = self.count(UnreadBy::Peer, page.ids()).await?;
        let mut total: u64 = counts.iter().map(|count| count.unread).sum();
        // Each of the others has one at least.
        let is_enough = |least: u64| self.asked.cap.is_some_and(|cap| least >= cap);
        let others = page.others.len() as u64;
        if is_enough(total + others) {
            total += others;
        } else {
            for some in page.others.chunks(CHUNK) {
                let ids = some.iter().map(|one| one.id.clone()).collect();
                let counts = self.count(UnreadBy::Peer, ids).await?;
                total += counts.iter().map(|count| count.unread).sum::<u64>();
                if is_enough(total) {
                    break;
                }
            }
        }
        let counts: HashMap<&str, u64> = counts.iter().map(|c| (c.id.as_str(), c.unread)).collect();
        let entries = page.entries.iter().zip(last).filter_map(|(one, last)| {
            // Absent if all were read in this very moment.
            let unread = self.asked.capped(*counts.get(one.id.as_str())?);
            Some(NewestPeer {
                peer: one.id.clone(),
                unread,
                last_at: moment(one.sent_at),
                last_timestamp: one.sent_at,
                last: message(last, &one.peer),
            })
        });
        Ok((entries.collect(), total))
    }

    /// The orders of a page.
    async fn orders(&self, page: &OverviewPage<'_>) -> Result<Vec<NewestOrder>, Problem> {
        let last = self.last(UnreadBy::Order, page).await?;
        let mut counts: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
        for count in self.count(UnreadBy::Order, page.ids()).await? {
            let of_order = counts.entry(count.id).or_default();
            of_order.insert(count.peer, self.asked.capped(count.unread));
        }
        let entries = page.entries.iter().zip(last).filter_map(|(one, last)| {
            let peers = counts.remove(&one.id)?;
            Some(NewestOrder {
                order: one.id.clone(),
                unread: self.asked.capped(peers.values().sum()),
                peers,
                last_at: moment(one.sent_at),
                last_timestamp: one.sent_at,
                last: message(last, &one.peer),
            })
        });
        Ok(entries.collect())
    }

    async fn last(
        &self,
        by: UnreadBy,
        page: &OverviewPage<'_>,
    ) -> Result<Vec<Option<LastUnread>>, Problem> {
        let (app, provider) = (&self.app.name, self.app.provider.name());
        let last = self
            .store
            .last_unread(by, app, provider, self.reader, &page.entries);
        Ok(last.await?)
    }

    async fn count(&self, by: UnreadBy, ids: Vec<String>) -> Result<Vec<UnreadCount>, Problem> {
        let reserved = self.store.reserve(ids.iter().map(String::as_str))?;
        let question = Question {
            by,
            app: self.app.name.clone(),
            reader: self.reader.clone(),
            ids,
            cap: self.asked.cap,
            is_cap_of_peers: true,
        };
        Ok(self.store.unread(question, &reserved).await?)
    }
}

/// A page of a list.
struct OverviewPage<'p> {
    /// Of each id the newest, the newest first.
    entries: Vec<&'p NewestUnread>,
    /// Those of other pages.
    others: Vec<&'p NewestUnread>,
    has_more: bool,
    after: Option<UnreadPlace>,
}

impl<'p> OverviewPage<'p> {
    fn of(pairs: &'p UnreadPairs, after: Option<UnreadPlace>, limit: usize) -> Self {
        let mut all: Vec<&NewestUnread> = pairs.newest.iter().collect();
        all.sort_unstable_by_key(|one| (&one.id, Reverse(one.sent_at), &one.peer));
        all.dedup_by_key(|one| &one.id);
        all.sort_unstable_by_key(|one| (Reverse(one.sent_at), &one.id));
        let start = after.as_ref();
        let start = start.map_or(0, |place| all.partition_point(|one| !place.is_before(one)));
        let end = all.len().min(start + limit);
        Self {
            entries: all[start..end].to_vec(),
            others: [&all[..start], &all[end..]].concat(),
            has_more: end < all.len(),
            after,
        }
    }

    fn ids(&self) -> Vec<String> {
        self.entries.iter().map(|one| one.id.clone()).collect()
    }

    /// Where the next page begins.
    fn end(&self) -> Option<UnreadPlace> {
        let last = self.entries.last().map(|one| UnreadPlace::of(one));
        last.or_else(|| self.after.clone())
    }
}

fn message(last: Option<LastUnread>, from: &str) -> Option<LastMessage> {
    let LastUnread {
        id,
        message_type,
        text,
    } = last?;
    Some(LastMessage {
        id,
        message_type,
        from: from.to_owned(),
        text,
    })
}
