//! A verified callback, as it is kept until all of its events are stored.

use bytes::Bytes;

use super::ids::{AppName, Millis};
use super::provider::ProviderName;

/// Where and when a callback was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its app.
    pub app: AppName,
    /// Its provider.
    pub provider: ProviderName,
    /// When it was received, by this machine's clock.
    pub received_at: Millis,
}

/// The parts of a request that decoding needs besides the body. It contains no proof of the sender: neither a
/// signature nor the secret segment of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The path below the app, without its leading slash, such as `message`. Empty if the provider has one address
    /// for all events.
    pub route: Box<str>,
    /// The query string, without the parameters of the signature.
    pub query: Box<str>,
    /// Headers, by lower-case name.
    pub headers: Vec<(Box<str>, Box<str>)>,
}

impl Envelope {
    /// A header's value; the name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| &**n == name).map(|(_, v)| &**v)
    }

    /// Adds a header if it was sent; the name is in lower case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers
            .extend(value.map(|value| (name.into(), value.into())));
        self
    }
}

/// A complete verified callback. Not `Debug`: it contains a message's text.
#[derive(Clone)]
pub struct Received {
    /// Where and when it was received.
    pub origin: Origin,
    /// The other parts that decoding needs.
    pub envelope: Envelope,
    /// Its body, unchanged.
    pub body: Bytes,
}

impl Received {
    /// What it takes in memory, and about what it takes in the spool, in bytes.
    pub fn bytes(&self) -> usize {
        let Envelope {
            route,
            query,
            headers,
        } = &self.envelope;
        let headers = headers.iter().map(|(n, v)| n.len() + v.len());
        self.body.len() + route.len() + query.len() + headers.sum::<usize>()
    }
}
