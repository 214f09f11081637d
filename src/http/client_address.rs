//! Whom a request comes from, behind trusted proxies.

use std::net::IpAddr;

use actix_web::HttpRequest;

use crate::config::Http;

/// The client's address. If the peer is a trusted proxy, this is the last address in `X-Forwarded-For` that is not
/// a trusted proxy's.
pub(super) fn client_address(request: &HttpRequest, limits: &Http) -> Option<IpAddr> {
    let is_trusted = |ip: &IpAddr| limits.trusted_proxies.iter().any(|net| net.contains(ip));
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
