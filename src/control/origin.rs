//! What a web page that somebody has open may be made to ask of the admin server by a browser on the same machine: nothing that
//! changes anything, and nothing at all by a host name that is not ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderName, Method, Request, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is refused. `is_open`: no token is wanted, so that who reaches the server may use it.
pub fn objection<B>(request: &Request<B>, is_open: bool) -> Option<&'static str> {
    let host = host_of(request);
    // A page that has its own name point at a loopback address (DNS rebinding) asks with its own name. Where a token is wanted it
    // has none to bear, and the name may be that of a proxy before us.
    if is_open && host.is_some_and(|host| !is_of_this_machine(host)) {
        return Some("the admin server is asked by an IP address or as localhost\n");
    }
    if !sets_to_work(request) {
        return None;
    }
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or("?"))
    };
    if header(SEC_FETCH_SITE).is_some_and(|site| site.eq_ignore_ascii_case("cross-site")) {
        return Some("refused: the request comes from a page of another site\n");
    }
    // RFC 6454 §7: a browser says who asks; programs say nothing. `null` has no host.
    let from = header(header::ORIGIN).map(|origin| origin.split_once("://").map(|(_, host)| host));
    match from {
        Some(from) if !same(from, host) => Some("refused: the request comes from a page of another host\n"),
        Some(_) | None => None,
    }
}

/// Whether a request does more than read: a trace makes the shards tell what they see.
fn sets_to_work<B>(request: &Request<B>) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD) || request.uri().path() == "/api/v1/trace"
}

/// RFC 9112 §3.2.2: the authority of an absolute URI stands before the Host. Something that is no text is no host of ours.
fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    authority.or_else(|| {
        let host = request.headers().get(header::HOST)?;
        Some(host.to_str().unwrap_or("?"))
    })
}

fn same(a: Option<&str>, b: Option<&str>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

/// An IP address or `localhost`, with a port or without.
fn is_of_this_machine(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(ip, port)| {
            ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
        });
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(method: Method, path: &str, headers: &[(&str, &str)], is_open: bool) -> bool {
        let request = headers.iter().fold(
            Request::builder().method(method).uri(path),
            |request, (name, value)| request.header(*name, *value),
        );
        objection(&request.body(()).expect("a request"), is_open).is_some()
    }

    #[test]
    fn nobody_asks_by_a_name_that_may_point_anywhere() {
        for (host, is_right) in [
            ("127.0.0.1:5080", true),
            ("127.0.0.1", true),
            ("[::1]:5080", true),
            ("[::1]", true),
            ("LocalHost:5080", true),
            ("evil.example:5080", false),
            ("127.0.0.1.evil.example:5080", false),
            ("localhost.evil.example", false),
            ("[::1].evil.example", false),
            ("[evil.example]", false),
            ("", false),
        ] {
            for method in [Method::GET, Method::POST] {
                let refused = is_refused(method, "/api/v1/status", &[("host", host)], true);
                assert_eq!(refused, !is_right, "{host}");
            }
            // Where a token is wanted a proxy may stand before us, with a name.
            assert!(!is_refused(
                Method::GET,
                "/api/v1/status",
                &[("host", host)],
                false
            ));
        }
        assert!(!is_refused(Method::GET, "/healthz", &[], true), "HTTP/1.0");
        let absolute = "http://evil.example/api/v1/status";
        assert!(is_refused(Method::GET, absolute, &[("host", "127.0.0.1")], true));
    }

    #[test]
    fn another_site_changes_nothing() {
        let host = ("host", "127.0.0.1:5080");
        for (name, value, is_right) in [
            ("origin", "http://127.0.0.1:5080", true),
            ("origin", "http://127.0.0.1:5081", false),
            ("origin", "http://localhost:5080", false),
            ("origin", "https://evil.example", false),
            ("origin", "null", false),
            ("origin", "", false),
            ("sec-fetch-site", "cross-site", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", true),
            ("accept", "*/*", true),
        ] {
            for (method, path) in [
                (Method::POST, "/api/v1/drain"),
                (Method::DELETE, "/api/v1/calls/x"),
                (Method::GET, "/api/v1/trace?aor=a"),
            ] {
                for is_open in [true, false] {
                    let refused = is_refused(method.clone(), path, &[host, (name, value)], is_open);
                    assert_eq!(refused, !is_right, "{method} {path} {name}: {value}");
                }
            }
            let reads = is_refused(Method::GET, "/api/v1/status", &[host, (name, value)], true);
            assert!(!reads, "the same-origin policy keeps the answer from it");
        }
    }
}
