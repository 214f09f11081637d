//! A callback's path through the service's own code, up to the documents: no HTTP, no MongoDB.

use bytes::Bytes;
use im_callback::callback::ids::AppName;
use im_callback::callback::netease::{Netease, NeteaseRules};
use im_callback::callback::{
    Credentials, Decoded, Envelope, Head, OrderIdAt, Origin, Provider, ProviderName, RawCallback,
    Received, VerifiedCallback,
};
use im_callback::store::documents::{Write, writes};

use crate::callbacks::{APP, APP_KEY, SECRET, signed, start};

/// A signed callback, as the HTTP side hands it on.
pub struct Callback {
    body: Bytes,
    headers: [(&'static str, String); 4],
}

impl Callback {
    pub fn new(body: String) -> Self {
        Self {
            headers: signed(&body),
            body: body.into(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

/// The app, configured as for the servers.
pub struct App {
    pub provider: Provider,
    origin: Origin,
}

impl App {
    pub fn new() -> Self {
        let order_id = OrderIdAt {
            field: "ext",
            pointer: "/orderId".to_owned(),
        };
        Self {
            origin: Origin {
                app: AppName::new(APP).unwrap(),
                provider: ProviderName::Netease,
                received_at: start(),
            },
            provider: Provider::Netease(Netease {
                credentials: Credentials {
                    app_key: APP_KEY.to_owned(),
                    secrets: vec![SECRET.into()],
                },
                freshness: None,
                rules: NeteaseRules {
                    count_tips: false,
                    order_id: Some(order_id),
                },
            }),
        }
    }

    /// Verifies a callback.
    pub fn verified<T>(
        &self,
        callback: &Callback,
        then: impl FnOnce(&VerifiedCallback<'_>) -> T,
    ) -> T {
        let header = |name: &str| callback.header(name);
        let raw = RawCallback {
            body: &callback.body,
            head: Head {
                method: "POST",
                path: "",
                query: "",
                header: &header,
            },
        };
        then(&self.provider.verify(&raw, start()).unwrap())
    }

    pub fn received(&self, callback: &Callback) -> Received {
        Received {
            origin: self.origin.clone(),
            envelope: Envelope::default(),
            body: callback.body.clone(),
        }
    }

    pub fn decoded<'r>(&self, verified: &'r VerifiedCallback<'_>) -> Decoded<'r> {
        self.provider.decode(verified, start())
    }

    /// All that a callback changes in the store.
    pub fn writes(&self, callback: &Callback) -> Vec<Write> {
        self.verified(callback, |verified| {
            writes(&self.received(callback), &self.decoded(verified))
        })
    }
}
