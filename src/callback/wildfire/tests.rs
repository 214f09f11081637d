//! Decoding without a database: rejected bodies and effects.

use super::{Wildfire, WildfireRules};
use crate::callback::columns::Columns;
use crate::callback::event::{Class, Conversation, Decoded, Effect, Event, Reason, Record};
use crate::callback::ids::Millis;
use crate::callback::presence::{LogoutReason, PresenceChange};
use crate::callback::{Credentials, Head, OrderIdAt, Provider, RawCallback};

const ARRIVED: i64 = 1_721_013_500_000;
const DAY: i64 = 24 * 60 * 60 * 1000;

fn app(line: i64) -> Provider {
    Provider::Wildfire(Wildfire {
        credentials: Credentials::default(),
        rules: WildfireRules {
            line,
            order_id: Some(OrderIdAt {
                field: "payload",
                pointer: "/extra/orderId".to_owned(),
            }),
        },
    })
}

/// Verifies and decodes a body, and passes the result on.
fn decoded<T>(
    line: i64,
    route: &str,
    body: impl AsRef<[u8]>,
    look: impl FnOnce(Decoded<'_>) -> T,
) -> T {
    let app = app(line);
    let now = Millis::nearest(ARRIVED);
    let raw = RawCallback {
        head: Head {
            method: "POST",
            path: &format!("/{route}"),
            query: "",
            header: &|_| None,
        },
        body: body.as_ref(),
    };
    let verified = app.verify(&raw, now).expect("no secret is needed");
    look(app.decode(&verified, now))
}

/// Receiver, peer and time of the one message, if it counts as unread.
fn counted(line: i64, body: &str) -> Option<(String, String, i64)> {
    decoded(line, "message", body, |decoded| match &decoded.events[..] {
        [Event::Message(message)] => {
            assert_eq!(decoded.undecodable, None);
            let counts = message.derived.counts.as_ref().ok()?;
            let peer = counts.peer.to_string();
            Some((message.message.to.clone(), peer, counts.sent_at.get()))
        }
        other => panic!("{other:?}"),
    })
}

fn record<T>(route: &str, body: &str, look: impl FnOnce(&Record<'_>) -> T) -> T {
    decoded(0, route, body, |decoded| match &decoded.events[..] {
        [Event::Record(record)] => {
            assert_eq!(decoded.undecodable, None);
            look(record)
        }
        other => panic!("{other:?} {:?}", decoded.undecodable),
    })
}

/// Why a body is undecodable, and the path.
fn fault(route: &str, body: impl AsRef<[u8]>) -> (Reason, String) {
    decoded(0, route, body, |decoded| {
        assert!(decoded.events.is_empty(), "{:?}", decoded.events);
        let fault = decoded.undecodable.expect("a fault");
        (fault.reason, fault.path)
    })
}

/// A private message with one part replaced; `part` must occur in it.
fn message(part: &str, by: &str) -> String {
    let message = r#"{"messageId":432595101554835586,"sender":"ann","conv":{"type":0,"target":"bob","line":0},"payload":{"type":1,"searchableContent":"hi","persistFlag":3},"timestamp":1721013418878}"#;
    assert!(message.contains(part), "{part}");
    message.replace(part, by)
}

const MISSING: Reason = Reason::MissingField;

#[test]
fn an_empty_body_is_no_event() {
    for route in ["message", "nobody/knows", "message/censor", "user/info"] {
        for body in ["", " \n", "{}", " { } "] {
            decoded(0, route, body, |decoded| {
                assert!(decoded.events.is_empty(), "{route} {body}");
                assert_eq!(decoded.undecodable, None, "{route} {body}");
            });
        }
    }
}

#[test]
fn the_route_is_checked_before_the_body() {
    for body in [&b"{\"a\":1}"[..], b"no JSON", b"[1]", b"\xff"] {
        let whole = "$".to_owned();
        assert_eq!(
            fault("nobody/knows", body),
            (Reason::UnknownRoute, whole.clone())
        );
        // Other case or more segments make a different route.
        assert_eq!(
            fault("Message", body),
            (Reason::UnknownRoute, whole.clone())
        );
        assert_eq!(
            fault("message/x", body),
            (Reason::UnknownRoute, whole.clone())
        );
        assert_eq!(
            fault("message/censor", body),
            (Reason::SynchronousCallback, whole)
        );
    }
    assert_eq!(
        fault("user/info", "[1]"),
        (Reason::NotAnObject, "$".to_owned())
    );
    let syntax = Reason::NotJson { line: 1, column: 2 };
    assert_eq!(fault("user/info", "no JSON"), (syntax, "$".to_owned()));
}

/// The provider's address for exceptions may be shortened.
#[test]
fn one_event_may_have_two_routes() {
    for route in ["im_exception_event", "exception"] {
        record(route, r#"{"event_type":1}"#, |record| {
            assert_eq!(record.kind, "server_exception");
            assert_eq!(record.event_type.to_string(), route);
        });
    }
}

#[test]
fn a_private_message_needs_the_fields_that_counts_depend_on() {
    let bad = Reason::BadValue;
    for (part, by, reason, path) in [
        (r#","persistFlag":3"#, "", MISSING, "$.payload.persistFlag"),
        (
            r#""persistFlag":3"#,
            r#""persistFlag":"many""#,
            bad("a whole number"),
            "$.payload.persistFlag",
        ),
        (
            r#""persistFlag":3"#,
            r#""persistFlag":3.0"#,
            bad("a whole number"),
            "$.payload.persistFlag",
        ),
        (
            r#""persistFlag":3"#,
            r#""persistFlag":-1"#,
            bad("a whole number"),
            "$.payload.persistFlag",
        ),
        (r#""payload":{"#, r#""other":{"#, MISSING, "$.payload"),
        (
            r#""conv":{"type":0,"target":"bob","line":0}"#,
            r#""conv":7"#,
            bad("an object"),
            "$.conv",
        ),
        (r#""conv""#, r#""conversation""#, MISSING, "$.conv"),
        (r#""type":0,"#, "", MISSING, "$.conv.type"),
        (
            r#""target":"bob""#,
            r#""target":"""#,
            MISSING,
            "$.conv.target",
        ),
        (
            r#""line":0"#,
            r#""line":"first""#,
            bad("a whole number"),
            "$.conv.line",
        ),
        (
            r#""line":0"#,
            r#""line":[]"#,
            bad("a whole number"),
            "$.conv.line",
        ),
        (r#""sender":"ann""#, r#""sender":null"#, MISSING, "$.sender"),
        (
            r#""sender":"ann""#,
            r#""sender":["ann"]"#,
            bad("a string or a number"),
            "$.sender",
        ),
        (r#","timestamp":1721013418878"#, "", MISSING, "$.timestamp"),
        (
            "1721013418878",
            "-1",
            bad("milliseconds since 1970"),
            "$.timestamp",
        ),
        (
            r#""messageId":432595101554835586,"#,
            "",
            MISSING,
            "$.messageId",
        ),
        (
            "432595101554835586",
            "4.325951015548356e17",
            bad("a whole number above zero"),
            "$.messageId",
        ),
        (
            "432595101554835586",
            "0",
            bad("a whole number above zero"),
            "$.messageId",
        ),
        (
            "432595101554835586",
            "9223372036854775808",
            bad("a whole number above zero"),
            "$.messageId",
        ),
    ] {
        let body = message(part, by);
        assert_eq!(fault("message", &body), (reason, path.to_owned()), "{body}");
    }
}

#[test]
fn a_private_message_counts_by_flag_line_and_sides() {
    let at = 1_721_013_418_878;
    let yes = Some(("bob".to_owned(), "ann".to_owned(), at));
    for (part, by, expected) in [
        ("hi", "hi", &yes),
        (r#""persistFlag":3"#, r#""persistFlag":1"#, &None),
        (r#""persistFlag":3"#, r#""persistFlag":2"#, &yes),
        (r#""persistFlag":3"#, r#""persistFlag":"7""#, &yes),
        (r#""persistFlag":3"#, r#""persistFlag":5"#, &None),
        (r#","line":0"#, "", &yes),
        (r#""line":0"#, r#""line":null"#, &yes),
        (r#""line":0"#, r#""line":"0""#, &yes),
        (r#""line":0"#, r#""line":1"#, &None),
        (r#""target":"bob""#, r#""target":"ann""#, &None),
        (r#""type":0"#, r#""type":"0""#, &yes),
        (r#""type":0"#, r#""type":1"#, &None),
        ("1721013418878", r#""1721013418878""#, &yes),
        (
            r#"{"type":0,"target":"bob","line":0}"#,
            r#""{\"type\":0,\"target\":\"bob\",\"line\":0}""#,
            &yes,
        ),
    ] {
        let body = message(part, by);
        assert_eq!(&counted(0, &body), expected, "{body}");
    }
    // The same on line 1 if that is configured.
    assert_eq!(counted(1, &message(r#""line":0"#, r#""line":1"#)), yes);
    assert_eq!(counted(1, &message("hi", "hi")), None);
    // Ids that differ in case are different users.
    let body = message(r#""target":"bob""#, r#""target":"Ann""#);
    assert_eq!(
        counted(0, &body),
        Some(("Ann".to_owned(), "ann".to_owned(), at))
    );
}

/// A message that the provider does not store cannot be unread, so it needs no further fields.
#[test]
fn a_message_that_is_not_persisted_is_a_status_message() {
    for flag in [0, 4, 8] {
        let flag = format!(r#""persistFlag":{flag}"#);
        let body = message(r#""persistFlag":3"#, &flag);
        for sort in ["0", "1"] {
            let body = body.replace(r#""type":0"#, &format!(r#""type":{sort}"#));
            let body = body.replace(r#""sender":"ann","#, "");
            record("message", &body, |record| {
                assert_eq!(record.kind, "status_message", "{body}");
                assert!(matches!(record.effect, Effect::None));
            });
        }
    }
}

/// A group's message does not count, so it needs only an id and a group.
#[test]
fn a_groups_message_needs_its_id_and_its_group() {
    let group = |part, by| message(part, by).replace(r#""type":0"#, r#""type":1"#);
    for (part, by) in [
        (r#","persistFlag":3"#, ""),
        (r#""persistFlag":3"#, r#""persistFlag":[]"#),
        (r#""sender":"ann","#, ""),
        ("1721013418878", r#""soon""#),
        (r#""payload""#, r#""other""#),
    ] {
        assert_eq!(counted(0, &group(part, by)), None);
    }
    let place = [
        (r#""target":"bob","#, "$.conv.target"),
        (r#""messageId":432595101554835586,"#, "$.messageId"),
    ];
    for (part, path) in place {
        let body = group(part, "");
        assert_eq!(fault("message", &body), (MISSING, path.to_owned()));
    }
}

#[test]
fn derive_reads_columns_alone() {
    let look = |line: &str| {
        let body = message(r#""line":0"#, line).replace(
            r#""persistFlag":3"#,
            r#""persistFlag":3,"extra":"{\"orderId\":\"o-1\"}""#,
        );
        decoded(0, "message", body, |decoded| match &decoded.events[..] {
            [Event::Message(message)] => {
                let again = app(0).derive(Class::P2p, &message.columns);
                assert_eq!(again, message.derived);
                assert_eq!(again.order_id.as_deref(), Some("o-1"));
                again.conversation
            }
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(look(r#""line":0"#).as_deref(), Some("p2p/ann/bob"));
    assert_eq!(look(r#""line":2"#).as_deref(), Some("p2p/ann/bob/2"));
}

/// A field with the name of a common column is neither lost nor taken for that column.
#[test]
fn no_member_takes_the_place_of_another() {
    let body = message(
        r#""sender":"ann""#,
        r#""sender":"ann","to":"eve","body":"no","msgTimestamp":1,"sent":2,"state":3"#,
    );
    decoded(0, "message", body, |decoded| match &decoded.events[..] {
        [Event::Message(message)] => {
            let columns: &Columns<'_> = &message.columns;
            let mut names: Vec<_> = columns.iter().map(|(name, _)| name).collect();
            assert_eq!(columns.text("to").as_deref(), Some("bob"));
            assert_eq!(columns.text("body").as_deref(), Some("hi"));
            assert_eq!(message.extra.text("to").as_deref(), Some("eve"));
            assert_eq!(message.extra.text("body").as_deref(), Some("no"));
            assert_eq!(columns.text("sent").as_deref(), Some("2"));
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{names:?}");
        }
        other => panic!("{other:?}"),
    });
}

#[test]
fn a_recall_needs_its_messages_conversation() {
    let recall = |message: &str| format!(r#"{{"message":{message},"userId":"ann","timestamp":5}}"#);
    for (body, reason, path) in [
        (r#"{"userId":"ann"}"#.to_owned(), MISSING, "$.message"),
        (recall("7"), Reason::BadValue("an object"), "$.message"),
        (recall("{}"), MISSING, "$.message.conv"),
        (
            recall(&message(r#""type":0,"#, "")),
            MISSING,
            "$.message.conv.type",
        ),
        (
            recall(&message(r#""target":"bob","#, "")),
            MISSING,
            "$.message.conv.target",
        ),
        (
            recall(&message("432595101554835586", "1.5")),
            Reason::BadValue("a whole number above zero"),
            "$.message.messageId",
        ),
    ] {
        let fault = fault("recall_message", &body);
        assert_eq!(fault, (reason, path.to_owned()), "{body}");
    }
    record("recall_message", &recall(&message("hi", "hi")), |record| {
        let Effect::Recall(recall) = &record.effect else {
            panic!("{record:?}");
        };
        assert_eq!(record.kind, "recall");
        assert_eq!(record.key, "recall_message/432595101554835586/ann/5");
        assert_eq!(recall.message.id, "432595101554835586");
        assert_eq!(recall.message.to, "bob");
        assert_eq!(recall.by.as_ref().map(|by| by.as_str()), Some("ann"));
    });
}

#[test]
fn a_read_applies_to_its_line_and_never_in_the_future() {
    let read = |conversation: &str, at: i64| {
        format!(r#"{{"user":"bob","conversation":{conversation},"readTime":{at}}}"#)
    };
    let effect = |conversation: &str| {
        record("message_read", &read(conversation, ARRIVED), |record| {
            assert_eq!(record.kind, "conversation_read");
            match &record.effect {
                Effect::Read(mark) => Some(mark.clone()),
                Effect::None => None,
                other => panic!("{other:?}"),
            }
        })
    };
    let mark = effect(r#"{"type":0,"target":"ann","line":0}"#).expect("a mark");
    assert_eq!(mark.reader.as_str(), "bob");
    assert!(matches!(&mark.of, Conversation::Peer(peer) if peer.as_str() == "ann"));
    assert_eq!(mark.up_to.get(), ARRIVED);
    let mark = effect(r#"{"type":1,"target":"g1"}"#).expect("a mark");
    assert_eq!(mark.of, Conversation::Team("g1".to_owned()));
    for without in [
        r#"{"type":0,"target":"ann","line":1}"#,
        r#"{"type":1,"target":"g1","line":1}"#,
        r#"{"type":2,"target":"c1","line":0}"#,
        r#"{"type":"x","target":"c1"}"#,
    ] {
        assert_eq!(effect(without), None, "{without}");
    }
    let ann = r#"{"type":0,"target":"ann","line":0}"#;
    let ahead = (Reason::TimeAhead, "$.readTime".to_owned());
    assert_eq!(fault("message_read", read(ann, ARRIVED + DAY + 1)), ahead);
    // Exactly a day is still tolerated for clocks that differ.
    let in_a_day = read(ann, ARRIVED + DAY);
    record("message_read", &in_a_day, |record| {
        assert!(matches!(record.effect, Effect::Read(_)));
    });
    let no_user = read(ann, 5).replace("bob", "");
    assert_eq!(
        fault("message_read", no_user),
        (MISSING, "$.user".to_owned())
    );
    let no_target = read(r#"{"type":0}"#, 5);
    let missing = (MISSING, "$.conversation.target".to_owned());
    assert_eq!(fault("message_read", no_target), missing);
    let no_line = read(r#"{"type":0,"target":"ann","line":{}}"#, 5);
    let bad = Reason::BadValue("a whole number");
    assert_eq!(
        fault("message_read", no_line),
        (bad, "$.conversation.line".to_owned())
    );
}

#[test]
fn presence_is_read_from_the_top_level() {
    let online = |status: &str| {
        format!(
            r#"{{"userId":"bob","clientId":"c1","platform":12,"status":{status},"timestamp":5,
            "sessions":[{{"clientId":"bob","userId":"c1","status":0}}]}}"#
        )
    };
    let logout = |reason| Some(PresenceChange::Logout(Some(reason)));
    for (status, kind, change) in [
        ("0", "login", Some(PresenceChange::Login)),
        ("\"0\"", "login", Some(PresenceChange::Login)),
        ("1", "logout", logout(LogoutReason::Disconnected)),
        ("-1", "logout", logout(LogoutReason::Logout)),
        ("2", "unknown_status", None),
    ] {
        record("user/online", &online(status), |record| {
            assert_eq!(record.kind, kind);
            let said = match &record.effect {
                Effect::Presence(presence) => {
                    assert_eq!(presence.account.as_str(), "bob");
                    assert_eq!(presence.device_id, "c1");
                    assert_eq!(presence.client_type, "HARMONYPC");
                    Some(presence.change)
                }
                Effect::None => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(said, change);
        });
    }
    for (part, path) in [
        (r#""status":0"#, "$.status"),
        (r#""userId":"bob""#, "$.userId"),
        (r#""timestamp":5"#, "$.timestamp"),
    ] {
        let body = online("0").replacen(part, &part.replacen('"', "\"no-", 1), 1);
        assert_eq!(fault("user/online", body), (MISSING, path.to_owned()));
    }
}
