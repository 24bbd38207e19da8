//! Who may ask for what, how often, how much and for how long.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::http::refusal::Refusal;
use crate::http::token::Token;

/// Requests a second of one peer, and how many at once.
const REQUESTS: (u32, u32) = (500, 1_000);
/// The same of those that ask the database or try a token.
const API_REQUESTS: (u32, u32) = (20, 100);
/// Peers remembered before those at rest are forgotten.
const PEERS: usize = 10_000;
/// How long a request may take, its body included.
const LIMIT: Duration = Duration::from_secs(15);

struct Rate(DefaultKeyedRateLimiter<IpAddr>);

impl Rate {
    fn new((per_second, at_once): (u32, u32)) -> Self {
        let some = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(per_second)).allow_burst(some(at_once));
        Self(RateLimiter::keyed(quota))
    }

    fn check(&self, peer: IpAddr) -> Result<(), Refusal> {
        if self.0.len() > PEERS {
            self.0.retain_recent();
        }
        self.0.check_key(&network(peer)).map_err(|_| {
            let text = "too many requests: wait a second";
            Refusal(StatusCode::TOO_MANY_REQUESTS, text.to_owned())
        })
    }
}

pub struct Guard {
    token: Option<Token>,
    rate: Rate,
    api_rate: Rate,
}

impl Guard {
    pub fn new(token: Option<Token>) -> Self {
        Self {
            token,
            rate: Rate::new(REQUESTS),
            api_rate: Rate::new(API_REQUESTS),
        }
    }

    /// Reading needs nothing on this machine; changing, and reading from elsewhere, needs the token.
    fn may(&self, peer: IpAddr, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(header::AUTHORIZATION);
        let given = given.map(|value| {
            let text = value.to_str().unwrap_or_default();
            text.strip_prefix("Bearer ").unwrap_or_default().trim()
        });
        let reads = method == Method::GET || method == Method::HEAD;
        match (&self.token, given) {
            (Some(token), Some(given)) if token.matches(given) => Ok(()),
            (Some(_), Some(_)) => Err(unauthorized("the token is not the one of ADMIN_TOKEN")),
            (_, None) if reads && is_local(peer, headers) => Ok(()),
            (Some(_), None) if reads => Err(unauthorized(
                "from elsewhere than this machine, or under another name than localhost, reading needs the token of ADMIN_TOKEN",
            )),
            (Some(_), None) => Err(unauthorized("changing needs the token of ADMIN_TOKEN")),
            (None, _) if reads => Err(forbidden(
                "only localhost may read: set ADMIN_TOKEN to let others in",
            )),
            (None, _) => Err(forbidden("nobody may change anything: set ADMIN_TOKEN")),
        }
    }
}

fn unauthorized(text: &str) -> Refusal {
    Refusal(StatusCode::UNAUTHORIZED, text.to_owned())
}

fn forbidden(text: &str) -> Refusal {
    Refusal(StatusCode::FORBIDDEN, text.to_owned())
}

/// Whether it is asked on this machine, by somebody who means this machine: a page from elsewhere
/// can give its own name our address, but then it is that name that the browser asks for.
fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let names_us = host.is_some_and(|host| {
        let host = host.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
    });
    // A proxy on this machine speaks for others.
    let is_passed_on = ["forwarded", "x-forwarded-for"]
        .iter()
        .any(|name| headers.contains_key(*name));
    peer.to_canonical().is_loopback() && names_us && !is_passed_on
}

/// Who counts as one: an IPv6 network is as easily had as an address.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

pub async fn only_who_may(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let peer = peer.ip();
    let checked = guard.api_rate.check(peer);
    let checked = checked.and_then(|()| guard.may(peer, request.method(), request.headers()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

pub async fn limit(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(refusal) = guard.rate.check(peer.ip()) {
        return refusal.into_response();
    }
    match tokio::time::timeout(LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let text = format!("the request took longer than {} s", LIMIT.as_secs());
            Refusal(StatusCode::REQUEST_TIMEOUT, text).into_response()
        }
    }
}

/// The page needs its own files and the API, and nothing else.
const HEADERS: [(header::HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

pub async fn with_headers(mut response: Response) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-a-test";
    const HERE: &str = "127.0.0.1";
    const ELSEWHERE: &str = "10.1.2.3";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (header::HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    #[test]
    fn who_may_read_and_who_may_change() {
        let (none, set) = (None, Some(TOKEN));
        let (right, wrong) = ("Bearer a-token-of-a-test", "Bearer a-token-of-a-tesT");
        let (get, post) = (Method::GET, Method::POST);
        let on = |host| vec![("host", host)];
        let with = |host, token| vec![("host", host), ("authorization", token)];
        for (token, peer, method, given, expected) in [
            (none, HERE, &get, on("localhost:3010"), 0),
            (none, HERE, &get, on("127.0.0.1:3010"), 0),
            (none, HERE, &get, on("[::1]:3010"), 0),
            (none, "::1", &get, on("LOCALHOST"), 0),
            (none, "::ffff:127.0.0.1", &get, on("127.9.9.9"), 0),
            (set, HERE, &get, on("localhost"), 0),
            // DNS rebinding, a proxy, nobody's name.
            (none, HERE, &get, on("evil.example:3010"), 403),
            (none, HERE, &get, on("localhost.evil.example"), 403),
            (none, HERE, &get, on("127.0.0.1.evil.example"), 403),
            (none, HERE, &get, vec![], 403),
            (set, HERE, &get, on("evil.example"), 401),
            (
                none,
                HERE,
                &get,
                vec![("host", "localhost"), ("x-forwarded-for", "1.2.3.4")],
                403,
            ),
            (none, ELSEWHERE, &get, on("localhost"), 403),
            (set, ELSEWHERE, &get, on("localhost"), 401),
            (set, ELSEWHERE, &get, with("sluice:3010", wrong), 401),
            (set, ELSEWHERE, &get, with("sluice:3010", right), 0),
            (none, HERE, &post, on("localhost"), 403),
            (none, HERE, &post, with("localhost", right), 403),
            (set, HERE, &post, on("localhost"), 401),
            (set, HERE, &post, with("localhost", wrong), 401),
            (set, HERE, &post, with("localhost", "Basic x"), 401),
            (set, HERE, &post, with("localhost", right), 0),
            (set, ELSEWHERE, &post, with("sluice", right), 0),
            // Whoever gives a token is told whether it is one.
            (set, HERE, &get, with("localhost", wrong), 401),
            (none, HERE, &get, with("localhost", right), 403),
        ] {
            let guard = Guard::new(token.map(Token::new));
            let peer = peer.parse().expect("an address");
            let found = guard.may(peer, method, &headers(&given));
            let found = found.map_or_else(|refusal| refusal.0.as_u16(), |()| 0);
            assert_eq!(found, expected, "{token:?} {peer} {method} {given:?}");
        }
    }

    #[test]
    fn the_rate_of_one_peer_is_not_anothers() {
        let rate = Rate::new((1, 3));
        let takes = |peer: &str| {
            let peer = peer.parse().expect("an address");
            (0..5).filter(|_| rate.check(peer).is_ok()).count()
        };
        assert_eq!(takes("2001:db8::1"), 3);
        assert_eq!(takes("2001:db8::2"), 0, "the same network");
        assert_eq!(takes("2001:db8:0:1::1"), 3);
        assert_eq!(takes("10.0.0.1"), 3);
        assert_eq!(takes("::ffff:10.0.0.1"), 0, "the same address");
    }
}
