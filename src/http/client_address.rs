//! The address of a request's client, behind proxies that are trusted.

use std::net::IpAddr;
use std::sync::Once;

use actix_web::HttpRequest;
use ipnet::IpNet;

use crate::config::Http;

/// The client's address. If the peer is a trusted proxy, this is the last address in `X-Forwarded-For` that is not
/// a trusted proxy's.
pub(super) fn client_address(request: &HttpRequest, limits: &Http) -> Option<IpAddr> {
    if limits.trusted_proxies.is_empty() {
        warn_of_proxy(request);
    }
    address_behind(request, &limits.trusted_proxies)
}

/// Says once that there seems to be a proxy that is not trusted: then all clients seem to be one.
fn warn_of_proxy(request: &HttpRequest) {
    static TOLD: Once = Once::new();
    if TOLD.is_completed() || !request.headers().contains_key("x-forwarded-for") {
        return;
    }
    let Some(peer) = request.peer_addr() else {
        return;
    };
    TOLD.call_once(|| {
        tracing::warn!(
            peer = %peer.ip().to_canonical(),
            "a request has X-Forwarded-For, which is ignored, because http.trusted_proxies is empty; if the peer is \
             your proxy, list it there, or every client has the proxy's address"
        );
    });
}

fn address_behind(request: &HttpRequest, trusted_proxies: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |ip: &IpAddr| trusted_proxies.iter().any(|net| net.contains(ip));
    let mut address = request.peer_addr()?.ip().to_canonical();
    if !is_trusted(&address) {
        return Some(address);
    }
    let forwarded = request.headers().get_all("x-forwarded-for");
    // A line that cannot be read may name the client.
    let forwarded: Option<Vec<_>> = forwarded.map(|value| value.to_str().ok()).collect();
    for hop in forwarded?.iter().flat_map(|value| value.split(',')).rev() {
        if !is_trusted(&address) {
            break;
        }
        // An entry that is not an address makes the client's address unknown.
        address = hop.trim().parse::<IpAddr>().ok()?.to_canonical();
    }
    Some(address)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let proxies: [IpNet; 2] = [
            "10.0.0.0/8".parse().unwrap(),
            "192.0.2.1/32".parse().unwrap(),
        ];
        let cases: [(&str, &[&str], Option<&str>); 9] = [
            ("203.0.113.9", &[], Some("203.0.113.9")),
            ("203.0.113.9", &["198.51.100.7"], Some("203.0.113.9")),
            ("::ffff:203.0.113.9", &[], Some("203.0.113.9")),
            ("10.1.2.3", &["198.51.100.7"], Some("198.51.100.7")),
            // What the client itself wrote into the header comes first.
            ("10.1.2.3", &["1.1.1.1, 198.51.100.7"], Some("198.51.100.7")),
            (
                "10.1.2.3",
                &["1.1.1.1", "198.51.100.7, 192.0.2.1"],
                Some("198.51.100.7"),
            ),
            ("10.1.2.3", &["2001:db8::1"], Some("2001:db8::1")),
            ("10.1.2.3", &["unknown"], None),
            ("10.1.2.3", &[], Some("10.1.2.3")),
        ];
        for (peer, forwarded, expected) in cases {
            let peer = (peer.parse::<IpAddr>().unwrap(), 4711).into();
            let request = TestRequest::default().peer_addr(peer);
            let request = forwarded.iter().fold(request, |request, value| {
                request.append_header(("X-Forwarded-For", *value))
            });
            let found = address_behind(&request.to_http_request(), &proxies);
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(found, expected, "{peer} {forwarded:?}");
        }
        let unknown = TestRequest::default().to_http_request();
        assert_eq!(address_behind(&unknown, &proxies), None);
    }
}
