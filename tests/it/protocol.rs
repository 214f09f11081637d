//! What `store::write` and `store::projection` describe, checked on a model in thousands of schedules: not that the
//! code takes these steps (`oracle.rs` looks at that), but that these steps suffice.
//!
//! Every delivery is decoded by the real code and becomes the facts that its commit writes, in any order. Some
//! deliveries crash half-way; those are not acknowledged, and are delivered again, whole. At any time the
//! projection copies a mark, and applies a copy that may be old by then. At any time somebody counts: reads the
//! keys of unread messages and the marks, one after the other, with other steps in between.
//!
//! Whatever the schedule, no count has a message that an acknowledged receipt or recall covers, and every count has
//! every acknowledged message that nothing covers. At the end the counts are the oracle's, and `state` is
//! when all marks are applied.

use std::collections::{BTreeMap, BTreeSet};

use im_callback::callback::Decoded;
use im_callback::callback::event::{Conversation, Effect, Event};
use im_callback::callback::ids::Millis;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use serde_json::Value;

use crate::support::trace::{Happening, bodies, outcome, trace};
use crate::support::{netease, with_verified};

/// A reader and a peer.
type Pair = (String, String);

/// A fact, written in one step.
#[derive(Debug, Clone)]
enum Step {
    Insert {
        id: String,
        counts: Option<(Pair, i64)>,
    },
    Raise {
        pair: Pair,
        up_to: i64,
    },
    Recall {
        id: String,
    },
}

#[derive(Debug, Default)]
struct Model {
    messages: BTreeMap<String, Message>,
    marks: Marks,
}

#[derive(Debug, Default)]
struct Message {
    has_come: bool,
    counts: Option<(Pair, i64)>,
    state: Option<i32>,
    recalled: bool,
}

/// The keys of the unread index.
type Keys = Vec<(String, Pair, i64)>;

type Marks = BTreeMap<Pair, i64>;

impl Model {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Insert { id, counts } => {
                let message = self.messages.entry(id.clone()).or_default();
                if !message.has_come {
                    message.has_come = true;
                    message.counts = counts.clone();
                    message.state = counts.as_ref().map(|_| i32::from(message.recalled));
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
        }
    }

    /// The projection's step.
    fn apply(&mut self, pair: &Pair, mark: i64) {
        for message in self.messages.values_mut() {
            if message
                .counts
                .as_ref()
                .is_some_and(|(p, at)| p == pair && *at <= mark)
            {
                message.state = Some(1);
            }
        }
    }

    fn keys(&self) -> Keys {
        let unread = self.messages.iter().filter(|(_, m)| m.state == Some(0));
        let key = |(id, m): (&String, &Message)| {
            let (pair, at) = m.counts.clone()?;
            Some((id.clone(), pair, at))
        };
        unread.filter_map(key).collect()
    }

    fn states(&self) -> BTreeMap<String, Option<i32>> {
        let come = self.messages.iter().filter(|(_, m)| m.has_come);
        come.map(|(id, m)| (number(id), m.state)).collect()
    }
}

/// An id without its class.
fn number(id: &str) -> String {
    id.rsplit('/').next().unwrap().to_owned()
}

/// The facts of one delivery, through the real verification and decoding.
fn steps(body: &Value) -> Vec<Step> {
    let body = body.to_string();
    let provider = netease();
    with_verified(&provider, body.as_bytes(), |verified| {
        steps_of(provider.decode(verified, Millis::nearest(1_700_000_000_000)))
    })
}

fn steps_of(decoded: Decoded<'_>) -> Vec<Step> {
    assert_eq!(decoded.undecodable, None);
    let step = |event| match event {
        Event::Message(message) => {
            let to = message.message.to.clone();
            let pair = |peer: &dyn ToString| (to, peer.to_string());
            Some(Step::Insert {
                id: format!("{}/{}", message.message.class.as_str(), message.message.id),
                counts: message
                    .derived
                    .counts
                    .ok()
                    .map(|c| (pair(&c.peer), c.sent_at.get())),
            })
        }
        Event::Record(record) => match record.effect {
            Effect::Read(mark) => match mark.of {
                Conversation::Peer(peer) => Some(Step::Raise {
                    pair: (mark.reader.to_string(), peer.to_string()),
                    up_to: mark.up_to.get(),
                }),
                _ => None,
            },
            Effect::Recall(recall) => Some(Step::Recall {
                id: format!("{}/{}", recall.message.class.as_str(), recall.message.id),
            }),
            Effect::None | Effect::Edit(_) | Effect::Presence(_) => None,
        },
    };
    decoded.events.into_iter().filter_map(step).collect()
}

/// What happens next, to one of those to whom it may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A delivery's next fact is written; after the last it is acknowledged.
    Fact,
    /// A delivery crashes, and begins anew.
    Crash,
    /// The projection copies a pair's mark.
    Copy,
    /// The projection applies a copy.
    Apply,
    /// Somebody counts by keys as they are now and by marks as they are when the count ends.
    CountByKeys,
    /// The other way round.
    CountByMarks,
    EndCount,
}

fn schedule() -> impl Strategy<Value = Vec<(Next, usize)>> {
    let next = prop_oneof![
        12 => Just(Next::Fact),
        1 => Just(Next::Crash),
        2 => Just(Next::Copy),
        2 => Just(Next::Apply),
        1 => Just(Next::CountByKeys),
        1 => Just(Next::CountByMarks),
        2 => Just(Next::EndCount),
    ];
    prop::collection::vec((next, any::<usize>()), 0..120)
}

/// What could be wrong with the protocol, to see that it would be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    CountsByStateAlone,
    AppliesMoreThanTheMark,
    AcknowledgesTheFirstFact,
}

/// A delivery under way.
struct Delivery<'s> {
    left: Vec<&'s Step>,
    whole: &'s [Step],
}

impl<'s> Delivery<'s> {
    fn new(whole: &'s [Step]) -> Self {
        let left = whole.iter().collect();
        Self { left, whole }
    }
}

/// A count under way.
struct Count {
    keys: Option<Keys>,
    marks: Option<Marks>,
    /// How many facts were acknowledged when it began.
    acknowledged: usize,
}

/// Everything, as far as it has come.
struct Run<'s> {
    flaw: Flaw,
    model: Model,
    /// The messages that count.
    counting: BTreeMap<&'s str, &'s (Pair, i64)>,
    under_way: Vec<Delivery<'s>>,
    written: Vec<&'s Step>,
    acknowledged: Vec<&'s Step>,
    copies: Vec<(Pair, i64)>,
    counts: Vec<Count>,
}

impl<'s> Run<'s> {
    fn new(deliveries: &'s [Vec<Step>], flaw: Flaw) -> Self {
        let counting = deliveries.iter().flatten().filter_map(|step| match step {
            Step::Insert { id, counts } => Some((id.as_str(), counts.as_ref()?)),
            Step::Raise { .. } | Step::Recall { .. } => None,
        });
        let with_facts = deliveries.iter().filter(|steps| !steps.is_empty());
        Self {
            flaw,
            model: Model::default(),
            counting: counting.collect(),
            under_way: with_facts.map(|steps| Delivery::new(steps)).collect(),
            written: Vec::new(),
            acknowledged: Vec::new(),
            copies: Vec::new(),
            counts: Vec::new(),
        }
    }

    fn go_on(&mut self, next: Next, pick: usize) -> TestCaseResult {
        let begun = |keys, marks| Count {
            keys,
            marks,
            acknowledged: self.acknowledged.len(),
        };
        let choices = match next {
            Next::Fact | Next::Crash => self.under_way.len(),
            Next::Copy => self.model.marks.len(),
            Next::Apply => self.copies.len(),
            Next::CountByKeys | Next::CountByMarks => 1,
            Next::EndCount => self.counts.len(),
        };
        if choices == 0 {
            return Ok(());
        }
        let (at, pick) = (pick % choices, pick / choices);
        match next {
            Next::Fact => self.write(at, pick),
            Next::Crash => self.under_way[at] = Delivery::new(self.under_way[at].whole),
            Next::Copy => {
                let (pair, mark) = self.model.marks.iter().nth(at).unwrap();
                self.copies.push((pair.clone(), *mark));
            }
            Next::Apply => {
                let (pair, mark) = self.copies.swap_remove(at);
                let more = i64::from(self.flaw == Flaw::AppliesMoreThanTheMark);
                self.model.apply(&pair, mark + more);
            }
            Next::CountByKeys => self.counts.push(begun(Some(self.model.keys()), None)),
            Next::CountByMarks => {
                let marks = self.model.marks.clone();
                self.counts.push(begun(None, Some(marks)));
            }
            Next::EndCount => {
                let count = self.counts.swap_remove(at);
                return self.check(count);
            }
        }
        Ok(())
    }

    /// Writes a fact of a delivery.
    fn write(&mut self, at: usize, pick: usize) {
        let delivery = &mut self.under_way[at];
        let is_first = delivery.left.len() == delivery.whole.len();
        let step = delivery.left.swap_remove(pick % delivery.left.len());
        self.model.take(step);
        self.written.push(step);
        let is_last = delivery.left.is_empty();
        if is_last || is_first && self.flaw == Flaw::AcknowledgesTheFirstFact {
            self.acknowledged.extend(delivery.whole);
        }
        if is_last {
            self.under_way.swap_remove(at);
        }
    }

    fn check(&self, count: Count) -> TestCaseResult {
        let counted = self.count(
            count.keys.unwrap_or_else(|| self.model.keys()),
            &count.marks.unwrap_or_else(|| self.model.marks.clone()),
        );
        let before = &self.acknowledged[..count.acknowledged];
        let covered = self.covered(before);
        let wrong: Vec<_> = counted
            .iter()
            .filter(|id| covered.contains(&***id))
            .collect();
        prop_assert!(wrong.is_empty(), "counted, though covered: {wrong:?}");
        let covered = self.covered(&self.written);
        let missing: Vec<_> = before
            .iter()
            .filter_map(|step| match step {
                Step::Insert {
                    id,
                    counts: Some(_),
                } => Some(id),
                _ => None,
            })
            .filter(|id| !covered.contains(&***id) && !counted.contains(*id))
            .collect();
        prop_assert!(missing.is_empty(), "not counted: {missing:?}");
        Ok(())
    }

    /// The messages that are covered by receipts and recalls.
    fn covered(&self, facts: &[&'s Step]) -> BTreeSet<&'s str> {
        let mut covered = BTreeSet::new();
        for fact in facts {
            match fact {
                Step::Insert { .. } => {}
                Step::Recall { id } => drop(covered.insert(id.as_str())),
                Step::Raise { pair, up_to } => {
                    let of_pair = self.counting.iter().filter(|(_, (p, _))| p == pair);
                    let read = of_pair.filter(|(_, (_, at))| at <= up_to);
                    covered.extend(read.map(|(id, _)| *id));
                }
            }
        }
        covered
    }

    /// The messages that are unread by some keys and marks.
    fn count(&self, keys: Keys, marks: &Marks) -> BTreeSet<String> {
        let by_state = self.flaw == Flaw::CountsByStateAlone;
        let is_unread = |(_, pair, at): &(String, Pair, i64)| {
            by_state || marks.get(pair).is_none_or(|mark| at > mark)
        };
        let unread = keys.into_iter().filter(is_unread);
        unread.map(|(id, ..)| id).collect()
    }
}

/// Plays a trace by a schedule, delivers what is left after it, and checks every count, and the end.
fn play(
    trace: &[Happening],
    copies: usize,
    schedule: &[(Next, usize)],
    flaw: Flaw,
) -> TestCaseResult {
    let once: Vec<_> = bodies("m", trace).iter().map(steps).collect();
    let deliveries: Vec<_> = std::iter::repeat_n(once, copies).flatten().collect();
    let mut run = Run::new(&deliveries, flaw);
    for (next, pick) in schedule {
        run.go_on(*next, *pick)?;
    }
    while !run.under_way.is_empty() {
        run.go_on(Next::Fact, 0)?;
    }
    while !run.counts.is_empty() {
        run.go_on(Next::EndCount, 0)?;
    }

    let messages = outcome("m", trace).messages.into_iter();
    let expected: BTreeMap<_, _> = messages.map(|(id, (state, _))| (id, state)).collect();
    let unread = expected.iter().filter(|(_, state)| **state == Some(0));
    let unread: BTreeSet<_> = unread.map(|(id, _)| id.clone()).collect();
    let counted = run.count(run.model.keys(), &run.model.marks);
    let counted: BTreeSet<_> = counted.iter().map(|id| number(id)).collect();
    prop_assert_eq!(counted, unread);

    while !run.copies.is_empty() {
        run.go_on(Next::Apply, 0)?;
    }
    for (pair, mark) in run.model.marks.clone() {
        run.model.apply(&pair, mark);
    }
    prop_assert_eq!(run.model.states(), expected);
    Ok(())
}

fn cases() -> impl Strategy<Value = (Vec<Happening>, usize, Vec<(Next, usize)>)> {
    (trace(), 1..3_usize, schedule())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_schedule_counts_right_and_ends_where_the_oracle_says(
        (trace, copies, schedule) in cases(),
    ) {
        play(&trace, copies, &schedule, Flaw::None)?;
    }
}

/// The check above can fail: each flaw is found.
#[test]
fn a_protocol_with_a_flaw_is_found_out() {
    for flaw in [
        Flaw::CountsByStateAlone,
        Flaw::AppliesMoreThanTheMark,
        Flaw::AcknowledgesTheFirstFact,
    ] {
        let config = ProptestConfig {
            cases: 4000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        };
        let played = TestRunner::new(config).run(&cases(), |(trace, copies, schedule)| {
            play(&trace, copies, &schedule, flaw)
        });
        assert!(played.is_err(), "{flaw:?} is not found");
    }
}
