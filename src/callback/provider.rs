//! The closed set of providers. Each verifies, decodes and replies in its own way. The rest of the program uses only
//! this file, except that `config/apps.rs` and `cli/client.rs` build the providers' settings.

use std::borrow::Cow;

use super::columns::Columns;
use super::derived::Derived;
use super::digest_headers::DigestHeaders;
use super::event::{Class, Conversation, Decoded, MessageRef};
use super::ids::{Account, Millis};
use super::received::Envelope;
use super::{Credentials, Head, OrderIdAt, RawCallback, VerifiedCallback};
use super::{netease, rongcloud, wildfire, yuntongxun};

/// A provider's name, as in the configuration and in documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderName {
    /// NetEase Yunxin (网易云信).
    Netease,
    /// RongCloud (融云).
    Rongcloud,
    /// Wildfire IM (野火IM).
    Wildfire,
    /// Yuntongxun (容联云通讯).
    Yuntongxun,
}

/// The response to a callback that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Its media type; `None` for an empty body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: &'static str,
}

impl ProviderName {
    /// Every provider.
    pub const ALL: [Self; 4] = [
        Self::Netease,
        Self::Rongcloud,
        Self::Wildfire,
        Self::Yuntongxun,
    ];

    /// The name as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Netease => "netease",
            Self::Rongcloud => "rongcloud",
            Self::Wildfire => "wildfire",
            Self::Yuntongxun => "yuntongxun",
        }
    }

    /// Reads what [`ProviderName::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    /// A user's id, normalized so that equal ids are the same user.
    pub fn account(self, id: &str) -> Account {
        match self {
            Self::Netease => netease::account(id),
            Self::Rongcloud | Self::Wildfire | Self::Yuntongxun => Account::new(id),
        }
    }

    /// The columns of a message that may contain its order's id.
    pub fn order_fields(self) -> &'static [&'static str] {
        match self {
            Self::Netease => &["ext", "attach", "body"],
            Self::Rongcloud => &["content"],
            Self::Wildfire => &["payload"],
            Self::Yuntongxun => &[],
        }
    }

    /// The column with the id that the sending client gave a message, if the provider sends it.
    pub fn client_id_field(self) -> Option<&'static str> {
        match self {
            Self::Netease => Some("msgidClient"),
            Self::Rongcloud | Self::Wildfire | Self::Yuntongxun => None,
        }
    }

    /// The provider's word for what kind of message this is.
    pub fn message_type(self, columns: &Columns<'_>) -> Option<String> {
        match self {
            Self::Netease => columns.text("msgType").map(Cow::into_owned),
            Self::Rongcloud => columns.text("objectName").map(Cow::into_owned),
            Self::Wildfire => columns.get("payload")?.scalar_at("/type"),
            Self::Yuntongxun => None,
        }
    }

    /// Whether the provider said of a message that it did not deliver it to its receiver.
    pub fn held_back(self, columns: &Columns<'_>) -> bool {
        match self {
            Self::Netease => netease::held_back(columns),
            Self::Rongcloud => rongcloud::held_back(columns),
            Self::Wildfire | Self::Yuntongxun => false,
        }
    }

    /// The column with the only receivers of a message to a team, if it is not for all of them.
    pub fn receivers_field(self) -> Option<&'static str> {
        match self {
            Self::Rongcloud => Some("groupUserIds"),
            Self::Wildfire => Some("toUsers"),
            Self::Netease | Self::Yuntongxun => None,
        }
    }

    /// The stored field by which [`message_type`](Self::message_type) knows it.
    pub fn message_type_field(self) -> Option<&'static str> {
        match self {
            Self::Netease => Some("msgType"),
            Self::Rongcloud => Some("objectName"),
            Self::Wildfire => Some("payload.type"),
            Self::Yuntongxun => None,
        }
    }

    /// Finds the records of a message's recall and edits: each has one of these keys
    /// ([`Record::key`](super::event::Record::key)), or a longer one.
    pub fn change_keys(self, message: &MessageRef) -> Vec<String> {
        match self {
            Self::Netease => netease::change_keys(message),
            Self::Rongcloud => rongcloud::change_keys(message),
            Self::Wildfire => wildfire::change_keys(message),
            Self::Yuntongxun => Vec::new(),
        }
    }

    /// Finds the records of a conversation's receipts: after one of these the key goes on with the receipt's time.
    /// `None` if the provider's keys do not name the conversation.
    pub fn receipt_keys(self, reader: &Account, of: &Conversation) -> Option<Vec<String>> {
        match self {
            Self::Netease => Some(netease::receipt_keys(reader, of)),
            Self::Wildfire => Some(wildfire::receipt_keys(reader, of)),
            Self::Rongcloud | Self::Yuntongxun => None,
        }
    }

    /// The reply to a callback that is durable.
    pub fn reply(self) -> Reply {
        match self {
            Self::Netease => netease::REPLY,
            Self::Rongcloud => rongcloud::REPLY,
            Self::Wildfire => wildfire::REPLY,
            Self::Yuntongxun => yuntongxun::REPLY,
        }
    }

    /// Whether the provider counts a response with this status as delivered, and does not send the callback again.
    pub fn takes_as_delivered(self, status: u16) -> bool {
        match self {
            Self::Netease => netease::takes_as_delivered(status),
            // Their documents name no other status.
            Self::Rongcloud | Self::Yuntongxun => status == 200,
            Self::Wildfire => wildfire::takes_as_delivered(status),
        }
    }
}

impl std::fmt::Display for ProviderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a request has a part of a signature such as any provider sends, for whichever app it was meant.
pub fn looks_signed(head: &Head<'_>) -> bool {
    DigestHeaders::has_any(head) || rongcloud::signature::is_there(head)
}

/// A provider with an app's settings for it.
#[derive(Debug)]
pub enum Provider {
    /// NetEase Yunxin (网易云信).
    Netease(netease::Netease),
    /// RongCloud (融云).
    Rongcloud(rongcloud::Rongcloud),
    /// Wildfire IM (野火IM).
    Wildfire(wildfire::Wildfire),
    /// Yuntongxun (容联云通讯).
    Yuntongxun(yuntongxun::Yuntongxun),
}

/// Why a callback was not proven to come from the provider. No variant contains a value of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The provider sends callbacks by `POST`.
    #[error("use POST")]
    Method,
    /// The provider sends nothing to this path.
    #[error("the app's provider sends nothing to this path")]
    NoSuchRoute,
    /// The path does not contain the app's secret segment.
    #[error("the path does not contain the app's secret segment")]
    PathSecretDiffers,
    /// A signature header is missing; the field is its name.
    #[error("the header `{0}` is missing")]
    MissingHeader(&'static str),
    /// Parameters or headers of the signature are missing.
    #[error(
        "neither query nor headers contain a complete signature: `signature`, `nonce` and `signTimestamp`"
    )]
    MissingSignature,
    /// The app key that was sent belongs to another app.
    #[error("the app key that was sent belongs to another app")]
    AppKeyDiffers,
    /// `MD5` is not the digest of the body.
    #[error("the header `MD5` is not the digest of the body")]
    Md5Differs,
    /// No live secret yields this `CheckSum`.
    #[error("the header `CheckSum` matches none of the app's secrets")]
    ChecksumDiffers,
    /// No live secret yields this `signature`.
    #[error("the signature matches none of the app's secrets")]
    SignatureDiffers,
    /// The signature is valid, but its time is outside the app's freshness window.
    #[error("the time of signing is outside the app's freshness window")]
    NotFresh,
}

/// What a request needs, besides its body, to pass verification.
#[derive(Debug, Default)]
pub struct Signed {
    /// The path below the app, with its slash; usually empty.
    pub path: String,
    /// The query string; usually empty.
    pub query: String,
    /// Headers, including the body's type.
    pub headers: Vec<(&'static str, String)>,
}

impl Provider {
    /// The provider's name.
    pub fn name(&self) -> ProviderName {
        match self {
            Self::Netease(_) => ProviderName::Netease,
            Self::Rongcloud(_) => ProviderName::Rongcloud,
            Self::Wildfire(_) => ProviderName::Wildfire,
            Self::Yuntongxun(_) => ProviderName::Yuntongxun,
        }
    }

    /// The app's key and secrets.
    pub fn credentials(&self) -> &Credentials {
        match self {
            Self::Netease(app) => &app.credentials,
            Self::Rongcloud(app) => &app.credentials,
            Self::Wildfire(app) => &app.credentials,
            Self::Yuntongxun(app) => &app.credentials,
        }
    }

    /// Where messages contain their order's id, if the app is configured to look for it.
    pub fn order_id(&self) -> Option<&OrderIdAt> {
        match self {
            Self::Netease(app) => app.rules.order_id.as_ref(),
            Self::Rongcloud(app) => app.rules.order_id.as_ref(),
            Self::Wildfire(app) => app.rules.order_id.as_ref(),
            Self::Yuntongxun(_) => None,
        }
    }

    /// The path below the app's address to which callbacks come, as a pattern for people.
    pub fn route_pattern(&self) -> &'static str {
        match self {
            Self::Netease(_) | Self::Rongcloud(_) | Self::Yuntongxun(_) => "",
            Self::Wildfire(app) if app.credentials.secrets.is_empty() => "/{event}",
            Self::Wildfire(_) => "/{secret}/{event}",
        }
    }

    /// Whether paths of the provider's callbacks may hold a secret, and so are not to be logged.
    pub fn has_secret_path(&self) -> bool {
        match self {
            Self::Wildfire(_) => true,
            Self::Netease(_) | Self::Rongcloud(_) | Self::Yuntongxun(_) => false,
        }
    }

    /// Replaces the app's key and secrets, for signing.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        *match self {
            Self::Netease(app) => &mut app.credentials,
            Self::Rongcloud(app) => &mut app.credentials,
            Self::Wildfire(app) => &mut app.credentials,
            Self::Yuntongxun(app) => &mut app.credentials,
        } = credentials;
    }

    /// Checks the path and method. Needs no body and little time.
    ///
    /// # Errors
    /// [`VerifyError::NoSuchRoute`], [`VerifyError::PathSecretDiffers`] and [`VerifyError::Method`].
    pub fn check_route(&self, head: &Head<'_>) -> Result<(), VerifyError> {
        match self {
            Self::Wildfire(app) => app.route(head).map(drop),
            Self::Netease(_) | Self::Rongcloud(_) | Self::Yuntongxun(_) => {
                let is_right = head.path.is_empty();
                is_right.then_some(()).ok_or(VerifyError::NoSuchRoute)
            }
        }?;
        match head.method {
            "POST" => Ok(()),
            _ => Err(VerifyError::Method),
        }
    }

    /// Checks everything that does not need the body, so that large bodies are read only from the provider.
    ///
    /// # Errors
    /// [`VerifyError`], but never [`VerifyError::Md5Differs`].
    pub fn verify_head(&self, head: &Head<'_>, now: Millis) -> Result<(), VerifyError> {
        self.check_route(head)?;
        match self {
            Self::Netease(app) => app.verify_head(head, now),
            Self::Rongcloud(app) => app.verify(head, now).map(drop),
            Self::Wildfire(_) => Ok(()),
            Self::Yuntongxun(app) => app.verify_head(head, now),
        }
    }

    /// Checks a request. Only a verified callback has a body to decode.
    ///
    /// # Errors
    /// [`VerifyError`]; the body must then not be used.
    pub fn verify<'r>(
        &self,
        raw: &RawCallback<'r>,
        now: Millis,
    ) -> Result<VerifiedCallback<'r>, VerifyError> {
        self.check_route(&raw.head)?;
        let envelope: Envelope = match self {
            Self::Netease(app) => app.verify(raw, now)?,
            Self::Rongcloud(app) => app.verify(&raw.head, now)?,
            Self::Wildfire(app) => app.verify(&raw.head)?,
            Self::Yuntongxun(app) => app.verify(raw, now)?,
        };
        Ok(VerifiedCallback {
            body: raw.body,
            envelope,
        })
    }

    /// Decodes a callback that was received at `arrived`. Never fails: what cannot be decoded is part of the
    /// result.
    pub fn decode<'r>(&self, callback: &'r VerifiedCallback<'_>, arrived: Millis) -> Decoded<'r> {
        match self {
            Self::Netease(app) => netease::decode(callback, arrived, &app.rules),
            Self::Rongcloud(app) => rongcloud::decode(callback, arrived, &app.rules),
            Self::Wildfire(app) => wildfire::decode(callback, arrived, &app.rules),
            Self::Yuntongxun(_) => yuntongxun::decode(callback),
        }
    }

    /// Derives from a message's columns by the app's current rules, both for new messages and for stored ones.
    pub fn derive(&self, class: Class, columns: &Columns<'_>) -> Derived {
        match self {
            Self::Netease(app) => app.rules.derive(class, columns),
            Self::Rongcloud(app) => app.rules.derive(class, columns),
            Self::Wildfire(app) => app.rules.derive(class, columns),
            Self::Yuntongxun(_) => Derived::NONE,
        }
    }

    /// The `conversation`s that are a reader's with a peer, or a team's: of a team both classes, because its number
    /// does not say which it is. Wildfire's is on the app's line. Channels of RongCloud's ultra groups are
    /// conversations of their own, and not among these.
    pub fn conversations(&self, reader: &Account, of: &Conversation) -> Vec<String> {
        let reader = Some(reader.as_str());
        let keys = match of {
            Conversation::Peer(peer) => vec![Class::P2p.conversation(reader, peer.as_str())],
            Conversation::Team(team) => [Class::Team, Class::SuperTeam]
                .map(|class| class.conversation(None, team))
                .to_vec(),
        };
        let keys = keys.into_iter().flatten();
        match self.line() {
            None | Some(0) => keys.collect(),
            Some(line) => keys.map(|key| format!("{key}/{line}")).collect(),
        }
    }

    fn line(&self) -> Option<i64> {
        match self {
            Self::Wildfire(app) => Some(app.rules.line),
            Self::Netease(_) | Self::Rongcloud(_) | Self::Yuntongxun(_) => None,
        }
    }

    /// Signs a body with the app's newest secret. `route` is the path below the app, for a provider that has one
    /// for each kind of event.
    pub fn sign(&self, body: &[u8], route: &str, now: Millis) -> Signed {
        match self {
            Self::Netease(app) => app.sign(body, now),
            Self::Rongcloud(app) => app.sign(body, now),
            Self::Wildfire(app) => app.sign(route),
            Self::Yuntongxun(app) => app.sign(body, now),
        }
    }
}
