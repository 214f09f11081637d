//! The routes by name, for the access log and for metrics: few names, whatever paths are asked for.

use actix_web::dev::ServiceRequest;
use actix_web::web;

use super::Service;

macro_rules! routes {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $pattern:literal;)+) => {
        /// The route that a request takes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route {
            $($(#[$doc])* $name,)+
            /// None. All paths without a route count as one.
            Unmatched,
        }

        impl Route {
            /// Every route that has a path.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name, in logs and metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                    Self::Unmatched => "unmatched",
                }
            }

            /// Its path; a part in braces is any part.
            pub fn pattern(self) -> &'static str {
                match self {
                    $(Self::$name => $pattern,)+
                    Self::Unmatched => "",
                }
            }
        }
    };
}

// Callbacks first: they are asked for most.
routes! {
    /// Callbacks: this path and all below, and the apps' second paths.
    Callbacks = "callbacks", "/callbacks";
    /// Unread counts.
    Unread = "unread", "/v1/unread";
    /// A conversation.
    Messages = "messages", "/v1/messages";
    /// What the site itself marks as read.
    Read = "read", "/v1/read";
    /// Who is online.
    Presence = "presence", "/v1/presence";
    /// Unread counts, and every change of them.
    UnreadStream = "unread_stream", "/v1/unread/stream";
    /// The list of dead letters.
    DeadLetters = "dead_letters", "/v1/dead-letters";
    /// One dead letter.
    DeadLetter = "dead_letter", "/v1/dead-letters/{app}/{digest}";
    /// The retry of a dead letter.
    DeadLetterRetry = "dead_letter_retry", "/v1/dead-letters/{app}/{digest}/retry";
    /// What happened to a message.
    Trace = "trace", "/v1/trace";
    /// Metrics.
    Metrics = "metrics", "/metrics";
    /// Whether the process runs.
    Livez = "livez", "/livez";
    /// What of the work can be done.
    Readyz = "readyz", "/readyz";
    /// The API for programs.
    OpenApi = "openapi", "/openapi.json";
    /// The API for people: this path and the files below it.
    Docs = "docs", "/docs";
}

impl Route {
    /// The route of a request. actix knows its pattern only after the request was handled, and only by trying
    /// regular expressions.
    pub(super) fn of(request: &ServiceRequest) -> Self {
        // As actix compares it: with `%6C` read as `l`.
        let path = request.match_info().as_str();
        if let Some(route) = Self::at(path) {
            return route;
        }
        let service = request.app_data::<web::Data<Service>>();
        let is_second_path =
            service.is_some_and(|service| service.live.current().app_at(request.path()).is_some());
        if is_second_path {
            Self::Callbacks
        } else {
            Self::Unmatched
        }
    }

    /// Whether users' tokens are for this route, and so pages of other origins.
    pub(super) fn is_for_users(self) -> bool {
        matches!(
            self,
            Self::Unread | Self::UnreadStream | Self::Messages | Self::Presence
        )
    }

    /// The route that has this path, without the apps' second paths.
    pub(super) fn at(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|route| route.has(path))
    }

    fn has(self, path: &str) -> bool {
        let pattern = self.pattern();
        if matches!(self, Self::Callbacks | Self::Docs) {
            let below = path.strip_prefix(pattern);
            return below.is_some_and(|below| below.is_empty() || below.starts_with('/'));
        }
        let mut parts = path.split('/');
        let fits = pattern.split('/').all(|expected| {
            let part = parts.next().unwrap_or_default();
            part == expected || (expected.starts_with('{') && !part.is_empty())
        });
        fits && parts.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_route_or_none() {
        for (path, route) in [
            ("/callbacks", Some(Route::Callbacks)),
            ("/callbacks/", Some(Route::Callbacks)),
            ("/callbacks/wild/secret/message", Some(Route::Callbacks)),
            ("/callbacksx", None),
            ("/Callbacks/otc", None),
            ("//callbacks/otc", None),
            ("/v1/unread", Some(Route::Unread)),
            ("/v1/unread/", None),
            ("/v1/read", Some(Route::Read)),
            ("/v1/messages", Some(Route::Messages)),
            ("/v1/unread/stream", Some(Route::UnreadStream)),
            ("/v1", None),
            ("/v1/dead-letters", Some(Route::DeadLetters)),
            ("/v1/dead-letters/otc", None),
            ("/v1/dead-letters/otc/0a", Some(Route::DeadLetter)),
            ("/v1/dead-letters/otc/", None),
            (
                "/v1/dead-letters/otc/0a/retry",
                Some(Route::DeadLetterRetry),
            ),
            ("/v1/dead-letters/otc/0a/retry/x", None),
            ("/livez", Some(Route::Livez)),
            ("/readyz", Some(Route::Readyz)),
            ("/docs", Some(Route::Docs)),
            ("/docs/start.js", Some(Route::Docs)),
            ("/docsx", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Route::at(path), route, "{path}");
        }
    }
}
