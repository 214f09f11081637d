//! Cursors: places in a conversation, as texts that a client sends back.
//!
//! A cursor is `c` and the hexadecimal digits of `{time}/{class}/{id}` of a message. It names a place and not a page, so
//! it stays right whatever comes or goes. It proves nothing, and gives no right: who makes one up asks about the same
//! conversation from another place.

use crate::callback::event::{Class, Conversation};
use crate::callback::ids::Millis;
use crate::store::messages::{MessagePage, MessagePlace, WhichPage};

/// Reads a cursor of this conversation, or a time in milliseconds.
pub fn parse(text: &str, of: &Conversation) -> Option<MessagePlace> {
    if !text.starts_with('c') {
        let is_number = text.bytes().all(|b| b.is_ascii_digit());
        let time = text.parse().ok().filter(|_| is_number);
        return time
            .and_then(Millis::new)
            .map(|at| MessagePlace::Time(at.get()));
    }
    let bytes = hex::decode(text.strip_prefix('c')?).ok()?;
    let place = String::from_utf8(bytes).ok()?;
    let mut parts = place.splitn(3, '/');
    let (sent_at, class, id) = (parts.next()?, parts.next()?, parts.next()?);
    let class = Class::parse(class)?;
    let is_of_it = match of {
        Conversation::Peer(_) => class == Class::P2p,
        Conversation::Team(_) => class.is_team(),
    };
    let place = MessagePlace::Message {
        sent_at: sent_at.parse().ok()?,
        class,
        id: id.to_owned(),
    };
    // One place has one cursor.
    let is_ours = is_of_it && !id.is_empty() && spell(&place) == text;
    is_ours.then_some(place)
}

/// Writes a place as [`parse`] reads it.
fn spell(place: &MessagePlace) -> String {
    match place {
        MessagePlace::Time(at) => at.to_string(),
        MessagePlace::Message { sent_at, class, id } => {
            let place = format!("{sent_at}/{}/{id}", class.as_str());
            format!("c{}", hex::encode(place))
        }
    }
}

/// The `before` of the next older page; `None` where it is known that there is none.
pub fn older(page: &MessagePage, which: &WhichPage) -> Option<String> {
    let (_, oldest) = page.ends.as_ref()?;
    let may_be = match which {
        WhichPage::Newest | WhichPage::Before(_) => page.more,
        WhichPage::After(_) => true,
    };
    may_be.then(|| spell(oldest))
}

/// The `after` of what is newer, now or later. An empty page after a place keeps the place.
pub fn newer(page: &MessagePage, which: &WhichPage) -> Option<String> {
    match (&page.ends, which) {
        (Some((newest, _)), _) => Some(spell(newest)),
        (None, WhichPage::After(place)) => Some(spell(place)),
        (None, WhichPage::Newest | WhichPage::Before(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback::ids::Account;

    fn place(class: Class, id: &str) -> MessagePlace {
        MessagePlace::Message {
            sent_at: 1_700_000_000_000,
            class,
            id: id.to_owned(),
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let peer = Conversation::Peer(Account::new("ann"));
        let team = Conversation::Team("7".to_owned());
        for id in ["1", "a/b", "c", "你", "-", "0123456789"] {
            for (of, other, classes) in [
                (&peer, &team, &[Class::P2p][..]),
                (&team, &peer, &[Class::Team, Class::SuperTeam]),
            ] {
                for class in classes {
                    let place = place(*class, id);
                    let cursor = spell(&place);
                    assert_eq!(parse(&cursor, of), Some(place));
                    assert_eq!(parse(&cursor, other), None, "of another conversation");
                }
            }
        }
        assert_eq!(parse("17", &peer), Some(MessagePlace::Time(17)));
    }

    #[test]
    fn nothing_else_is_a_cursor() {
        let peer = Conversation::Peer(Account::new("ann"));
        let good = spell(&place(Class::P2p, "ab"));
        let hexed = |text: &str| format!("c{}", hex::encode(text));
        let bad = [
            String::new(),
            "c".to_owned(),
            "-1".to_owned(),
            "+1".to_owned(),
            "1.5".to_owned(),
            " 1".to_owned(),
            "9".repeat(30),
            "253402300800000".to_owned(),
            "2023-11-14T22:13:20Z".to_owned(),
            good.to_uppercase(),
            format!("c{}", good[1..].to_uppercase()),
            good[1..].to_owned(),
            good[..good.len() - 1].to_owned(),
            format!("{good}ff"),
            format!("{good} "),
            hexed("1/p2p/"),
            hexed("1/p2p"),
            hexed("01/p2p/a"),
            hexed("+1/p2p/a"),
            hexed("x/p2p/a"),
            hexed("1/P2P/a"),
            hexed("1/custom_person/a"),
            hexed("1/team/a"),
        ];
        for text in bad {
            assert_eq!(parse(&text, &peer), None, "{text}");
        }
    }
}
