//! JSON that is nearly a provider's: a real sample with a few things wrong.

use serde_json::Value;

use crate::choices::Choices;

/// A value whose texts need not be valid JSON: scalars and names are the bytes that stand in the body.
#[derive(Clone)]
enum Node {
    Scalar(Vec<u8>),
    List(Vec<Node>),
    Object(Vec<(Vec<u8>, Node)>),
}

/// What MongoDB would read as a field's value, or refuse as an operator, where it runs it.
pub const INJECTED: &str = "$injected";

/// What numbers, times, flags, accounts and nested parts are not, or only just.
const SCALARS: &[&[u8]] = &[
    b"null",
    b"true",
    b"\"false\"",
    b"\"\"",
    b"0",
    b"-1",
    b"-0",
    b"1.5",
    b"1e5",
    b"1e999",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"253402300800000",
    b"123456789012345678901234567890123456789012345678901234567890",
    b"\" 1440570500855 \"",
    b"\"\\u0000\"",
    b"\"\\ud83d\"",
    b"\"\\udc4b\\ud83d\"",
    b"\"\xff\xfe\"",
    b"\"$$ROOT\"",
    b"\"[zhangsan, lisi]\"",
    b"\"[]\"",
    b"\"{}\"",
    b"\"{\\\"a\\\":\"",
    b"\"\xc4\xb0\xc3\x9f\"",
    b"{}",
    b"[]",
    b"[null]",
    b"[[],{}]",
    b"",
    b"nul",
    b"NaN",
];

/// Names of ours, of the provider's, and ones that BSON or MongoDB read otherwise.
const NAMES: &[&[u8]] = &[
    b"",
    b"_id",
    b"$set",
    b"a.b",
    b".",
    b"a\\u0000b",
    b"\\u0000",
    b"\\ud83d",
    b"\xff",
    b"app",
    b"provider",
    b"state",
    b"extra",
    b"orderId",
    b"readAt",
    b"recall",
    b"edits",
    b"at",
    b"by",
    b"receivedAt",
    b"eventType",
    b"convType",
    b"msgidServer",
    b"msgId",
    b"msgType",
    b"msgTimestamp",
    b"to",
    b"from",
    b"fromAccount",
    b"toAccount",
    b"accid",
    b"timestamp",
    b"objects",
    b"data",
    b"ext",
    b"tMembers",
    b"$serde_json::private::RawValue",
];

const EVENT_TYPES: &[&[u8]] = &[
    b"1",
    b"2",
    b"3",
    b"7",
    b"8",
    b"11",
    b"12",
    b"20",
    b"25",
    b"30",
    b"85",
    b"89",
    b"90",
    b"91",
    b"\"30\"",
    b"999",
    b"-1",
    b"\"CALL\"",
];

const CONVERSATIONS: &[&[u8]] = &[
    b"\"PERSON\"",
    b"\"TEAM\"",
    b"\"SUPER_TEAM\"",
    b"\"CUSTOM_PERSON\"",
    b"\"CUSTOM_TEAM\"",
    b"\"\"",
];

/// Around the depth at which values become text, and far beyond what any parser takes.
const DEPTHS: &[usize] = &[1, 2, 98, 99, 100, 101, 126, 127, 128, 129, 5000];

/// The samples in a folder, in the order of their names.
pub fn samples(folder: &str) -> Vec<&'static [u8]> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| &*std::fs::read(path).unwrap().leak())
        .collect()
}

/// One of the samples with up to seven changes, then perhaps bytes that are no JSON.
pub fn nearly_a_sample(samples: &[&[u8]], choices: &mut Choices<'_>) -> Vec<u8> {
    let sample = choices.of(samples);
    let Ok(value) = serde_json::from_slice(sample) else {
        return sample.to_vec();
    };
    let mut root = Node::from(&value);
    for _ in 0..choices.below(8) {
        change(&mut root, choices);
    }
    let mut body = Vec::new();
    root.print(&mut body);
    if choices.once_in(8) {
        let at = choices.below(body.len());
        match choices.below(3) {
            0 => body.truncate(at),
            1 if at < body.len() => body[at] ^= 1 << choices.below(8),
            _ => drop(body.splice(at..at, choices.bytes(20).iter().copied())),
        }
    }
    body
}

fn change(root: &mut Node, choices: &mut Choices<'_>) {
    let spare = root.at(choices.below(root.size())).clone();
    match choices.below(16) {
        0 => return root.set("eventType", choices.of(EVENT_TYPES)),
        1 => return root.set("convType", choices.of(CONVERSATIONS)),
        2 => return root.set("objects", &spare.to_json()),
        3 => return root.set(INJECTED, &spare.to_json()),
        4 => {
            let size = root.size();
            *root.at(choices.below(size)) = Node::Scalar(format!("\"{INJECTED}\"").into());
            return;
        }
        _ => {}
    }
    let size = root.size();
    let at = root.at(choices.below(size));
    match choices.below(12) {
        0 => at.remove(choices),
        1 => at.repeat(choices),
        2 => at.rename(choices),
        3 => *at = spare,
        4 => *at = Node::List(vec![at.clone(), spare]),
        5 => *at = Node::Object(vec![(choices.of(NAMES).to_vec(), at.clone())]),
        6 => *at = Node::Scalar(as_text(&at.to_json())),
        7 => at.loosen(),
        8 => {
            let depth = choices.of(DEPTHS);
            let (open, close): (&[u8], &[u8]) = match choices.below(2) {
                0 => (b"[", b"]"),
                _ => (b"{\"a\":", b"}"),
            };
            let inner = at.to_json();
            *at = Node::Scalar([open.repeat(depth), inner, close.repeat(depth)].concat());
        }
        9 => {
            let mut text = b"\"".to_vec();
            text.extend(choices.bytes(20));
            text.push(b'"');
            *at = Node::Scalar(text);
        }
        _ => *at = Node::Scalar(choices.of(SCALARS).to_vec()),
    }
}

/// A JSON string whose content is these bytes.
fn as_text(json: &[u8]) -> Vec<u8> {
    let mut text = b"\"".to_vec();
    for byte in json {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
    text
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| {
                    let quoted = Value::from(name.as_str()).to_string();
                    (
                        quoted.as_bytes()[1..quoted.len() - 1].to_vec(),
                        value.into(),
                    )
                };
                Self::Object(members.iter().map(member).collect())
            }
            scalar => Self::Scalar(scalar.to_string().into_bytes()),
        }
    }
}

impl Node {
    fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        self.print(&mut json);
        json
    }

    fn print(&self, json: &mut Vec<u8>) {
        let (open, close) = match self {
            Self::Scalar(scalar) => return json.extend(scalar),
            Self::List(_) => (b'[', b']'),
            Self::Object(_) => (b'{', b'}'),
        };
        json.push(open);
        let start = json.len();
        let separate = |json: &mut Vec<u8>| {
            if json.len() > start {
                json.push(b',');
            }
        };
        match self {
            Self::Scalar(_) => {}
            Self::List(items) => {
                for item in items {
                    separate(json);
                    item.print(json);
                }
            }
            Self::Object(members) => {
                for (name, value) in members {
                    separate(json);
                    json.push(b'"');
                    json.extend(name);
                    json.extend(b"\":");
                    value.print(json);
                }
            }
        }
        json.push(close);
    }

    /// How many values it is, itself included.
    fn size(&self) -> usize {
        1 + self.children().map(Self::size).sum::<usize>()
    }

    fn children(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match self {
            Self::Scalar(_) => Box::new(std::iter::empty()),
            Self::List(items) => Box::new(items.iter()),
            Self::Object(members) => Box::new(members.iter().map(|(_, value)| value)),
        }
    }

    /// The value of this number, counted from the outside in.
    fn at(&mut self, mut number: usize) -> &mut Self {
        if number == 0 {
            return self;
        }
        number -= 1;
        let children: Box<dyn Iterator<Item = &mut Self>> = match self {
            Self::Scalar(_) => unreachable!("a number below its size"),
            Self::List(items) => Box::new(items.iter_mut()),
            Self::Object(members) => Box::new(members.iter_mut().map(|(_, value)| value)),
        };
        for child in children {
            let size = child.size();
            if number < size {
                return child.at(number);
            }
            number -= size;
        }
        unreachable!("a number below its size")
    }

    fn set(&mut self, name: &str, json: &[u8]) {
        if let Self::Object(members) = self {
            let value = Self::Scalar(json.to_vec());
            match members.iter_mut().find(|(n, _)| n == name.as_bytes()) {
                Some(member) => member.1 = value,
                None => members.push((name.into(), value)),
            }
        }
    }

    fn remove(&mut self, choices: &mut Choices<'_>) {
        match self {
            Self::Scalar(scalar) => scalar.clear(),
            Self::List(items) if !items.is_empty() => {
                items.remove(choices.below(items.len()));
            }
            Self::Object(members) if !members.is_empty() => {
                members.remove(choices.below(members.len()));
            }
            Self::List(_) | Self::Object(_) => {}
        }
    }

    fn repeat(&mut self, choices: &mut Choices<'_>) {
        match self {
            Self::List(items) if !items.is_empty() => {
                items.push(items[choices.below(items.len())].clone())
            }
            Self::Object(members) if !members.is_empty() => {
                let name = members[choices.below(members.len())].0.clone();
                let value = members[choices.below(members.len())].1.clone();
                members.push((name, value));
            }
            Self::Scalar(_) | Self::List(_) | Self::Object(_) => {}
        }
    }

    fn rename(&mut self, choices: &mut Choices<'_>) {
        if let Self::Object(members) = self
            && !members.is_empty()
        {
            let at = choices.below(members.len());
            members[at].0 = choices.of(NAMES).to_vec();
        }
    }

    /// A number where there was a text, a text where there was none.
    fn loosen(&mut self) {
        if let Self::Scalar(scalar) = self {
            let inner = scalar
                .strip_prefix(b"\"")
                .and_then(|s| s.strip_suffix(b"\""));
            *scalar = match inner {
                Some(inner) => inner.to_vec(),
                None => as_text(scalar),
            };
        }
    }
}
