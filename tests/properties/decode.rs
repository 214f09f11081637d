//! Whatever stands in a verified body, something valid is kept of it, always the same, and none of it is
//! run by MongoDB.

use im_callback::callback::ids::{AppName, Millis};
use im_callback::callback::netease::{NeteaseRules, decode};
use im_callback::callback::{
    Envelope, OrderIdAt, Origin, ProviderName, Received, VerifiedCallback,
};
use im_callback::store::documents::{Write, writes};
use mongodb::bson::{Bson, Document, RawDocumentBuf};

use crate::choices::Choices;
use crate::json::{INJECTED, nearly_a_sample};

const PRODUCTS: &[Option<&str>] = &[
    None,
    Some("RTC"),
    Some("im"),
    Some(""),
    Some("\0$rtc\u{fffd}"),
];
const POINTERS: &[&str] = &[
    "",
    "/",
    "/order/id",
    "/0",
    "/a~1b/~0",
    "/orderId",
    "no/slash",
];

/// The first byte says whether a body follows, or choices that make one of a sample. So a fuzzer's corpus
/// can hold samples as they are.
pub fn holds(data: &[u8], samples: &[&[u8]]) {
    let mut choices = Choices::new(data);
    let is_made = choices.once_in(2);
    let product = choices.of(PRODUCTS);
    let rules = NeteaseRules {
        count_tips: choices.once_in(2),
        order_id: (!choices.once_in(3)).then(|| OrderIdAt {
            field: choices.of(&["ext", "attach", "body"]),
            pointer: choices.of(POINTERS).to_owned(),
        }),
    };
    let body = if is_made {
        nearly_a_sample(samples, &mut choices)
    } else {
        choices.rest().to_vec()
    };
    check(body, product, &rules);
}

fn check(body: Vec<u8>, product: Option<&str>, rules: &NeteaseRules) {
    let app = AppName::new("app").unwrap();
    let arrived = Millis::new(1_700_000_000_000).unwrap();
    let received = Received {
        origin: Origin {
            app: app.clone(),
            provider: ProviderName::Netease,
            received_at: arrived,
        },
        envelope: Envelope::default().with_header("type", product),
        body: body.into(),
    };
    let made_of = |received: &Received| {
        let verified = VerifiedCallback::kept(received);
        writes(received, &decode(&verified, arrived, rules))
    };
    let made = || made_of(&received);
    let first = made();
    if first.is_empty() {
        assert!(says_nothing(&received.body), "a body vanished");
    }
    for write in &first {
        is_valid(write, &app);
    }
    let again = made();
    assert_eq!(first.len(), again.len());
    for (a, b) in first.iter().zip(&again) {
        assert!(parts(a) == parts(b), "the same bytes made another write");
    }
    let without_header = made_of(&Received {
        envelope: Envelope::default(),
        ..received.clone()
    });
    assert_eq!(first.len(), without_header.len());
    for (a, b) in first.iter().zip(&without_header) {
        assert!(
            but_for_its_label(a) == but_for_its_label(b),
            "a header that is not signed changed more than a label"
        );
    }
}

/// A write, and what it says but for what the `type` header may choose.
fn but_for_its_label(write: &Write) -> (u8, Document, String) {
    let (variant, raw, told) = parts(write);
    let mut document = Document::try_from(raw).expect("valid BSON");
    if let Write::Event(_) = write {
        document.remove("product");
        document.remove("kind");
    }
    if let Write::DeadLetter(_) = write {
        document.remove("headers");
    }
    (variant, document, told)
}

/// Whether a body is one of the provider's probes.
pub fn says_nothing(body: &[u8]) -> bool {
    let within = body.trim_ascii().strip_prefix(b"{");
    let inner = within.and_then(|rest| rest.strip_suffix(b"}"));
    body.trim_ascii().is_empty() || inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// What is told to MongoDB and to the commit.
pub fn parts(write: &Write) -> (u8, &RawDocumentBuf, String) {
    match write {
        Write::Message(message) => {
            let told = format!("{:?} {:?}", message.key, message.counts);
            (0, &message.document, told)
        }
        Write::Mark(mark) => (1, &mark.statement, format!("{:?}", mark.pair)),
        Write::Change(raw) => (2, raw, String::new()),
        Write::Presence(raw) => (3, raw, String::new()),
        Write::Event(raw) => (4, raw, String::new()),
        Write::DeadLetter(raw) => (5, raw, String::new()),
    }
}

pub fn is_valid(write: &Write, app: &AppName) {
    let (_, raw, _) = parts(write);
    assert_eq!(write.bytes(), raw.as_bytes().len());
    let document = Document::try_from(raw).expect("valid BSON");
    match write {
        Write::Message(_) | Write::Event(_) | Write::DeadLetter(_) => {
            let id = document.get_str("_id").unwrap();
            assert!(id.starts_with(&format!("{app}/")), "an _id of another app");
            assert_eq!(document.get_str("app").unwrap(), app.as_str());
        }
        Write::Change(_) | Write::Mark(_) | Write::Presence(_) => {
            assert!(document.contains_key("q"));
            match document.get("u").unwrap() {
                // Operators of ours, whose values MongoDB never reads as expressions.
                Bson::Document(operators) => {
                    assert!(
                        operators
                            .keys()
                            .all(|name| ["$max", "$set"].contains(&&**name))
                    );
                    let fields = operators.values().filter_map(Bson::as_document);
                    let mut names = fields.flat_map(Document::keys);
                    assert!(
                        names.all(|name| !name.starts_with(INJECTED)),
                        "a name is run"
                    );
                }
                pipeline => assert_inert(pipeline),
            }
        }
    }
}

/// What a provider sent stands in a `$literal`, where MongoDB reads no expression of it.
fn assert_inert(update: &Bson) {
    match update {
        Bson::String(text) => assert!(!text.starts_with(INJECTED), "a text is run"),
        Bson::Array(items) => items.iter().for_each(assert_inert),
        Bson::Document(members) => {
            for (name, value) in members {
                assert!(!name.starts_with(INJECTED), "a name is run");
                if name != "$literal" {
                    assert_inert(value);
                }
            }
        }
        _ => {}
    }
}
