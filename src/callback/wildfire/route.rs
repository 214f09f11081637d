//! The path of a callback: proves the sender, and names the kind of event.

use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::Wildfire;
use crate::callback::{Envelope, Head, Signed, VerifyError};

/// The first segment of the provider's example addresses. It has no meaning and is optional.
const PREFIX: &str = "im_event/";

/// Replaces a secret in stored parts of a request.
const HIDDEN: &str = "***";

impl Wildfire {
    /// The route of a request: its path without the app's secret. The timing reveals at most the lengths of the
    /// secrets. An unknown route is accepted, too: its body can be stored.
    ///
    /// # Errors
    /// [`VerifyError::PathSecretDiffers`], and [`VerifyError::NoSuchRoute`] if nothing follows the secret.
    pub fn route<'r>(&self, head: &Head<'r>) -> Result<&'r str, VerifyError> {
        let path = head.path.trim_start_matches('/');
        let route = if self.credentials.secrets.is_empty() {
            path
        } else {
            let (sent, route) = path.split_once('/').unwrap_or((path, ""));
            let is_secret = |secret: &str| secret.as_bytes().ct_eq(sent.as_bytes());
            if !self.credentials.any(is_secret) {
                return Err(VerifyError::PathSecretDiffers);
            }
            route
        };
        // The provider's example of an address ends in a slash (`monitor.exception_event_address`).
        let route = route.trim_matches('/');
        if route.is_empty() {
            return Err(VerifyError::NoSuchRoute);
        }
        Ok(route.strip_prefix(PREFIX).unwrap_or(route))
    }

    /// Checks a request by its path alone.
    ///
    /// # Errors
    /// [`VerifyError`]; the body must then not be used.
    pub fn verify(&self, head: &Head<'_>) -> Result<Envelope, VerifyError> {
        Ok(Envelope {
            route: self.without_secrets(self.route(head)?).into(),
            query: self.without_secrets(head.query).into(),
            ..Envelope::default()
        })
    }

    /// Hides secrets. A wrongly configured address may contain a secret twice, and this part of it is stored.
    fn without_secrets(&self, text: &str) -> String {
        let secrets = self.credentials.secrets.iter();
        let secrets = secrets.map(ExposeSecret::expose_secret);
        secrets
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }

    /// The path for a route, with the newest secret if there is one.
    pub fn sign(&self, route: &str) -> Signed {
        let route = route.trim_matches('/');
        let path = match self.credentials.newest() {
            "" => format!("/{route}"),
            secret => format!("/{secret}/{route}"),
        };
        let content_type = "application/json; charset=utf-8".to_owned();
        Signed {
            path,
            headers: vec![("Content-Type", content_type)],
            ..Signed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::WildfireRules;
    use super::*;
    use crate::callback::Credentials;

    const SECRET: &str = "a-secret-of-today";
    const PREVIOUS: &str = "a-secret-of-before";

    fn with_secrets(secrets: &[&str]) -> Wildfire {
        Wildfire {
            credentials: Credentials {
                app_key: String::new(),
                secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
            },
            rules: WildfireRules::default(),
        }
    }

    fn head<'r>(path: &'r str, query: &'r str) -> Head<'r> {
        Head {
            method: "POST",
            path,
            query,
            header: &|_| None,
        }
    }

    #[test]
    fn the_route_is_behind_any_live_secret() {
        let app = with_secrets(&[SECRET, PREVIOUS]);
        for (path, route) in [
            (format!("/{SECRET}/message"), "message"),
            (format!("/{PREVIOUS}/message"), "message"),
            (format!("//{SECRET}/message/"), "message"),
            (format!("/{SECRET}/im_event/user/online"), "user/online"),
            (format!("/{SECRET}/user/online"), "user/online"),
            (
                format!("/{SECRET}/im_exception_event/"),
                "im_exception_event",
            ),
            (format!("/{SECRET}/nobody/knows"), "nobody/knows"),
            // The kind of event is missing, but the body can be stored.
            (format!("/{SECRET}/im_event"), "im_event"),
        ] {
            assert_eq!(app.route(&head(&path, "")), Ok(route), "{path}");
        }
    }

    #[test]
    fn requests_without_the_secret_are_rejected() {
        let app = with_secrets(&[SECRET, PREVIOUS]);
        for path in [
            "".to_owned(),
            "/".to_owned(),
            "/message".to_owned(),
            "/im_event/message".to_owned(),
            format!("/{}/message", &SECRET[1..]),
            format!("/{}/message", &SECRET[..SECRET.len() - 1]),
            format!("/{SECRET}x/message"),
            format!("/{}/message", SECRET.to_uppercase()),
            format!("/message/{SECRET}"),
            format!("/im_event/{SECRET}/message"),
        ] {
            let refused = Err(VerifyError::PathSecretDiffers);
            assert_eq!(app.route(&head(&path, "")), refused, "{path}");
            assert!(app.verify(&head(&path, "")).is_err(), "{path}");
        }
        for path in [format!("/{SECRET}"), format!("/{SECRET}//")] {
            let refused = Err(VerifyError::NoSuchRoute);
            assert_eq!(app.route(&head(&path, "")), refused, "{path}");
        }
    }

    #[test]
    fn without_secrets_the_whole_path_is_the_route() {
        let app = with_secrets(&[]);
        for (path, route) in [
            ("/message", Ok("message")),
            ("/im_event/message/", Ok("message")),
            ("/nobody/knows", Ok("nobody/knows")),
            ("", Err(VerifyError::NoSuchRoute)),
            ("/", Err(VerifyError::NoSuchRoute)),
        ] {
            assert_eq!(app.route(&head(path, "")), route, "{path}");
        }
    }

    #[test]
    fn what_is_signed_is_verified() {
        for secrets in [&[SECRET, PREVIOUS][..], &[]] {
            let app = with_secrets(secrets);
            for route in ["message", "user/online", "/user/online/"] {
                let signed = app.sign(route);
                let verified = app.verify(&head(&signed.path, "")).map(|kept| kept.route);
                assert_eq!(verified.as_deref(), Ok(route.trim_matches('/')));
            }
        }
        assert_eq!(
            with_secrets(&[SECRET]).sign("message").path,
            "/a-secret-of-today/message"
        );
        assert_eq!(with_secrets(&[]).sign("message").path, "/message");
    }

    #[test]
    fn no_secret_is_kept() {
        let app = with_secrets(&[SECRET, PREVIOUS]);
        let query = format!("from=im&key={SECRET}");
        for path in [
            format!("/{SECRET}/message"),
            format!("/{SECRET}/{SECRET}/message"),
            format!("/{SECRET}/im_event/{PREVIOUS}x"),
        ] {
            let kept = app.verify(&head(&path, &query)).expect("the right secret");
            let kept = format!("{kept:?}");
            assert!(!kept.contains(SECRET) && !kept.contains(PREVIOUS), "{kept}");
            assert!(kept.contains("from=im"), "{kept}");
        }
        assert!(!format!("{app:?}").contains(SECRET));
    }
}
