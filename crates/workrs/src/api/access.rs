//! Who may use the API: on loopback, whoever is on this machine and no page of a browser; beyond it, who has the
//! token.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Access, Problem};

pub(super) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match verdict(&access, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn verdict(access: &Access, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(token) = &access.token {
        let given = header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|given| same(given, token)) {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "no-token",
                "the request is not allowed",
                "it carries no valid token",
            )
            .hint("send the node's token as 'Authorization: Bearer …', or set WORKRS_TOKEN"));
        }
    } else if access.address.ip().is_loopback() && !header(header::HOST).is_none_or(is_loopback_name) {
        // A name that somebody else made point here (DNS rebinding).
        return Err(forbidden("its Host is not this machine's loopback"));
    }
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(origin) = header(header::ORIGIN)
        && !is_safe
        && origin.split_once("://").map(|(_, host)| host) != header(header::HOST)
    {
        return Err(forbidden("it comes from a page of another site"));
    }
    Ok(())
}

fn forbidden(reason: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "the request is not allowed", reason)
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Compares without telling by its time where the difference lies: hashes differ everywhere.
fn same(given: &str, token: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(token.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(token: Option<&str>, method: &Method, headers: &[(header::HeaderName, &str)], expect: Option<u16>) {
        let access = Access { address: "127.0.0.1:7480".parse().unwrap(), token: token.map(str::to_owned) };
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let verdict = verdict(&access, method, &headers);
        assert_eq!(verdict.err().map(|problem| problem.status), expect, "{headers:?}");
    }

    #[test]
    fn only_this_machine_or_the_token_gets_in() {
        use header::{AUTHORIZATION, HOST, ORIGIN};
        check(None, &Method::GET, &[(HOST, "127.0.0.1:7480")], None);
        check(None, &Method::GET, &[(HOST, "localhost:7480")], None);
        check(None, &Method::GET, &[(HOST, "[::1]:7480")], None);
        check(None, &Method::GET, &[(HOST, "evil.example:7480")], Some(403));
        check(None, &Method::POST, &[(HOST, "localhost:7480"), (ORIGIN, "http://evil.example")], Some(403));
        check(None, &Method::POST, &[(HOST, "localhost:7480"), (ORIGIN, "http://localhost:7480")], None);
        check(Some("s3cret"), &Method::GET, &[(HOST, "node:7480")], Some(401));
        check(Some("s3cret"), &Method::GET, &[(HOST, "node:7480"), (AUTHORIZATION, "Bearer wrong")], Some(401));
        check(Some("s3cret"), &Method::GET, &[(HOST, "node:7480"), (AUTHORIZATION, "Bearer s3cret")], None);
    }
}
