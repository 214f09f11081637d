//! Answers that are the same for as long as the program is: its documentation. A client keeps them, and asks each time
//! whether they are still the same, so that it sees an upgrade at once.

use actix_web::http::header::{
    CACHE_CONTROL, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A body with its tag.
pub struct Fixed {
    content_type: &'static str,
    body: Bytes,
    tag: HeaderValue,
    policy: Option<HeaderValue>,
}

impl Fixed {
    /// A body of this type.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let digest = hex::encode(&Sha256::digest(&body)[..8]);
        let tag = HeaderValue::try_from(format!("\"{digest}\""));
        Self {
            content_type,
            body,
            tag: tag.expect("hexadecimal digits are a header's value"),
            policy: None,
        }
    }

    /// The same for browsers, with a content security policy.
    pub fn with_policy(self, policy: &'static str) -> Self {
        Self {
            policy: Some(HeaderValue::from_static(policy)),
            ..self
        }
    }

    /// The answer: the body, or that the client has it already.
    pub fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_known = self.is_known_to(request);
        let mut answer = if is_known {
            HttpResponse::NotModified()
        } else {
            HttpResponse::Ok()
        };
        answer
            .insert_header((ETAG, self.tag.clone()))
            .insert_header((CACHE_CONTROL, "no-cache"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
        if let Some(policy) = &self.policy {
            answer.insert_header((CONTENT_SECURITY_POLICY, policy.clone()));
        }
        if is_known {
            return answer.finish();
        }
        answer
            .content_type(self.content_type)
            .body(self.body.clone())
    }

    fn is_known_to(&self, request: &HttpRequest) -> bool {
        let lists = request.headers().get_all(IF_NONE_MATCH);
        let mut tags = lists
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','));
        // A proxy that compresses the body makes the tag a weak one.
        tags.any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.tag.as_bytes()
        })
    }
}

const CONTENT_SECURITY_POLICY: HeaderName = HeaderName::from_static("content-security-policy");

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_client_gets_the_body_once() {
        let fixed = Fixed::new("text/plain", "a text");
        let tag = fixed.tag.to_str().expect("ASCII").to_owned();
        let asked = |known: &str| {
            let request = TestRequest::default().insert_header((IF_NONE_MATCH, known));
            fixed.answer(&request.to_http_request()).status().as_u16()
        };
        for known in [&tag, "*", &format!("W/{tag}"), &format!("\"x\", {tag}")] {
            assert_eq!(asked(known), 304, "{known}");
        }
        for known in ["", "\"x\"", tag.trim_matches('"')] {
            assert_eq!(asked(known), 200, "{known}");
        }
    }
}
