//! The order of steps that `store::attempt` describes, checked on a model in thousands of schedules: not
//! that the code takes these steps (`oracle.rs` looks at that), but that these steps suffice.
//!
//! Every delivery is decoded by the real code and becomes the steps that a commit takes. A random
//! schedule interleaves the steps of deliveries under way at once, lets some crash half-way (those are
//! delivered again, as they were not acknowledged), and must end where the oracle says.

use std::collections::{BTreeMap, HashMap};

use im_callback::callback::RawCallback;
use im_callback::callback::event::{Conversation, Effect, Event};
use im_callback::callback::ids::Millis;
use im_callback::callback::netease::{Rules, Verifier, decode};
use proptest::prelude::*;
use serde_json::Value;

use crate::support::signed;
use crate::support::trace::{Happening, bodies, outcome, trace};

#[derive(Debug, Clone)]
enum Step {
    Insert {
        id: String,
        pair: Option<(String, String)>,
        at: i64,
    },
    Raise {
        pair: (String, String),
        up_to: i64,
    },
    Recall {
        id: String,
    },
    /// Reads the pair's mark now and applies it at once, as the store's settling does.
    Settle {
        pair: (String, String),
    },
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<String, Message>,
    marks: HashMap<(String, String), i64>,
}

#[derive(Debug, Default)]
struct Message {
    has_come: bool,
    counts: Option<((String, String), i64)>,
    state: Option<i32>,
    recalled: bool,
}

impl Model {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Insert { id, pair, at } => {
                let message = self.messages.entry(id.clone()).or_default();
                if !message.has_come {
                    message.has_come = true;
                    message.counts = pair.clone().map(|pair| (pair, *at));
                    message.state = pair.as_ref().map(|_| i32::from(message.recalled));
                }
            }
            Step::Raise { pair, up_to } => {
                let mark = self.marks.entry(pair.clone()).or_insert(*up_to);
                *mark = (*mark).max(*up_to);
            }
            Step::Recall { id } => {
                let message = self.messages.entry(id.clone()).or_default();
                message.recalled = true;
                message.state = message.state.map(|_| 1);
            }
            Step::Settle { pair } => {
                let Some(mark) = self.marks.get(pair) else {
                    return;
                };
                for message in self.messages.values_mut() {
                    if message
                        .counts
                        .as_ref()
                        .is_some_and(|(p, at)| p == pair && at <= mark)
                    {
                        message.state = Some(1);
                    }
                }
            }
        }
    }
}

/// The steps of one delivery, through the real verification and decoding.
fn steps(body: &Value) -> Vec<Step> {
    let body = body.to_string();
    let headers = signed(body.as_bytes(), "secret");
    let header = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    };
    let verifier = Verifier {
        app_key: crate::support::APP_KEY.to_owned(),
        secrets: vec!["secret".into()],
        freshness: None,
    };
    let raw = RawCallback {
        body: body.as_bytes(),
        header: &header,
    };
    let verified = verifier.verify(&raw, 0).unwrap();
    let arrived = Millis::new(1_700_000_000_000).unwrap();
    let decoded = decode(&verified, arrived, &Rules::default());
    assert_eq!(decoded.undecodable, None, "{body}");
    let mut steps = Vec::new();
    for event in decoded.events {
        match event {
            Event::Message(message) => {
                let to = message.message.to.clone();
                let (pair, at) = match message.counts {
                    Some(counts) => (Some((to, counts.peer.to_string())), counts.sent_at.get()),
                    None => (None, 0),
                };
                let id = format!("{}/{}", message.message.class.as_str(), message.message.id);
                steps.push(Step::Insert {
                    id,
                    pair: pair.clone(),
                    at,
                });
                steps.extend(pair.map(|pair| Step::Settle { pair }));
            }
            Event::Record(record) => match record.effect {
                Effect::Read(mark) => {
                    let Conversation::Peer(peer) = mark.of else {
                        continue;
                    };
                    let pair = (mark.reader.to_string(), peer.to_string());
                    steps.push(Step::Raise {
                        pair: pair.clone(),
                        up_to: mark.up_to.get(),
                    });
                    steps.push(Step::Settle { pair });
                }
                Effect::Recall(recall) => {
                    let id = format!("{}/{}", recall.message.class.as_str(), recall.message.id);
                    steps.push(Step::Recall { id });
                }
                Effect::None | Effect::Edit(_) | Effect::Presence(_) => {}
            },
        }
    }
    steps
}

/// Runs the deliveries with their steps interleaved: each number picks one of those under way, or lets
/// it crash. What crashed is delivered again, whole, at the end.
fn run(deliveries: &[Vec<Step>], schedule: &[(usize, bool)]) -> Model {
    let mut model = Model::default();
    let mut under_way: Vec<&[Step]> = deliveries.iter().map(Vec::as_slice).collect();
    let mut again: Vec<&[Step]> = Vec::new();
    let mut ways = schedule.iter().cycle();
    let whole = |steps: &[Step]| {
        deliveries
            .iter()
            .find(|d| d.ends_with_steps(steps))
            .map(Vec::as_slice)
    };
    while !under_way.is_empty() {
        let (pick, crashes) = *ways.next().unwrap();
        let at = pick % under_way.len();
        match under_way[at] {
            [] => {
                under_way.swap_remove(at);
            }
            steps if crashes && again.len() < deliveries.len() => {
                again.extend(whole(steps));
                under_way.swap_remove(at);
            }
            [first, rest @ ..] => {
                model.take(first);
                under_way[at] = rest;
            }
        }
    }
    for step in again.into_iter().flatten() {
        model.take(step);
    }
    model
}

trait EndsWithSteps {
    fn ends_with_steps(&self, rest: &[Step]) -> bool;
}

impl EndsWithSteps for Vec<Step> {
    /// Whether `rest` is what is left of this very list.
    fn ends_with_steps(&self, rest: &[Step]) -> bool {
        self.as_ptr_range().end == rest.as_ptr_range().end
    }
}

fn states(model: &Model) -> BTreeMap<String, Option<i32>> {
    let come = model.messages.iter().filter(|(_, m)| m.has_come);
    come.map(|(id, m)| (id.rsplit('/').next().unwrap().to_owned(), m.state))
        .collect()
}

fn expected(trace: &[Happening]) -> BTreeMap<String, Option<i32>> {
    let outcome = outcome("m", trace);
    outcome
        .messages
        .into_iter()
        .map(|(id, (state, _))| (id, state))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_schedule_ends_where_the_oracle_says(
        trace in trace(),
        copies in 1..3_usize,
        schedule in prop::collection::vec((any::<usize>(), prop::bool::weighted(0.1)), 64),
    ) {
        let bodies = bodies("m", &trace);
        let once: Vec<_> = bodies.iter().map(steps).collect();
        let deliveries: Vec<_> = std::iter::repeat_n(once, copies).flatten().collect();
        prop_assert_eq!(states(&run(&deliveries, &schedule)), expected(&trace));
    }
}

/// The check above can fail: with the mark read before the message is inserted, there is a schedule that
/// leaves a read message unread.
#[test]
fn the_other_order_of_steps_would_lose_a_receipt() {
    let trace = [
        Happening::Message {
            from: 0,
            to: 1,
            at: 5,
            sort: crate::support::trace::Sort::Text,
            order: None,
        },
        Happening::Receipts(vec![(1, 0, 9)]),
    ];
    let mut deliveries: Vec<_> = bodies("m", &trace).iter().map(steps).collect();
    let settles_last = [(0, false), (1, false), (1, false), (0, false)];
    assert_eq!(states(&run(&deliveries, &settles_last)), expected(&trace));
    deliveries[0].reverse();
    assert_ne!(states(&run(&deliveries, &settles_last)), expected(&trace));
}
