//! Who is let in, and how a request's caller is found: on loopback without tokens whoever is on this machine and no page of
//! another site; otherwise who shows a token.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};

use super::{MAX_BODY, Problem};
use crate::access::{Access, Caller, Credential, Denied, Forbidden, Role, TokenError, same, session};

/// What pages of this node may do in a browser: load what it serves itself, and nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                              connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Lets a request in with its [`Caller`] in its extensions, or answers why not. The answer carries the caller, too, if there
/// is one: for whoever takes notes.
pub(super) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let credential = credential(request.headers());
    let mut response = match access.identify(credential.as_ref()).await {
        Ok(caller) => {
            let mut response = match may_ask(&caller, request).await {
                Ok(request) => next.run(with(request, caller.clone())).await,
                Err(refused) => refused.into_response(),
            };
            response.extensions_mut().insert(caller);
            response
        }
        Err(denied) => denied_to(&request, denied),
    };
    // What one caller sees is not for others.
    let private = HeaderValue::from_static("private, no-cache");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(private);
    response
}

/// Whether this caller may ask this at all; what it is about is for the handler to see. Gives the request back, whole.
async fn may_ask(caller: &Caller, request: Request) -> Result<Request, Problem> {
    if *caller == Caller::local() {
        from_this_machine(request.headers())?;
    }
    if is_safe(request.method()) {
        return Ok(request);
    }
    from_no_other_site(request.headers())?;
    let request = match caller.csrf() {
        Some(expected) => sent_by_the_page(request, expected).await?,
        None => request,
    };
    caller.must_be(Role::User)?;
    Ok(request)
}

async fn sent_by_the_page(request: Request, expected: &str) -> Result<Request, Problem> {
    let (request, given) = csrf_in(request).await?;
    if given.is_some_and(|given| same(&given, expected)) {
        return Ok(request);
    }
    let problem = forbidden("it does not prove that the page sent it");
    Err(problem.hint("load the page anew; programs send the token as 'Authorization: Bearer …'"))
}

fn with(mut request: Request, caller: Caller) -> Request {
    request.extensions_mut().insert(caller);
    request
}

/// Whether such a request changes nothing.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The token that a request shows.
fn credential(headers: &HeaderMap) -> Option<Credential> {
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    if let Some(bearer) = bearer {
        return Some(Credential::Bearer(bearer.trim().to_owned()));
    }
    let mut cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.find_map(session::token_in).map(Credential::Cookie)
}

/// A name that somebody else made point here (DNS rebinding) is not this machine's.
fn from_this_machine(headers: &HeaderMap) -> Result<(), Problem> {
    if text(headers, header::HOST).is_none_or(is_loopback_name) {
        return Ok(());
    }
    Err(forbidden("its Host is not this machine's loopback"))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Browsers say which page a change comes from.
pub(super) fn from_no_other_site(headers: &HeaderMap) -> Result<(), Problem> {
    match text(headers, header::ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != text(headers, header::HOST) => {
            Err(forbidden("it comes from a page of another site"))
        }
        _ => Ok(()),
    }
}

/// What a request carries to prove that the page sent it: in its header, or in the field of a form, which is read for that.
async fn csrf_in(request: Request) -> Result<(Request, Option<String>), Problem> {
    if let Some(given) = request.headers().get(session::CSRF_HEADER) {
        let given = given.to_str().ok().map(str::to_owned);
        return Ok((request, given));
    }
    let is_form = text(request.headers(), header::CONTENT_TYPE)
        .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
    if !is_form {
        return Ok((request, None));
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(Problem::bad_request)?;
    let field = form_urlencoded::parse(&body).find(|(name, _)| name == session::CSRF_FIELD);
    let given = field.map(|(_, value)| value.into_owned());
    Ok((Request::from_parts(parts, Body::from(body)), given))
}

/// Programs hear why they are not let in; people are sent to where they can log in.
fn denied_to(request: &Request, denied: Denied) -> Response {
    let path = request.uri().path();
    let is_page = request.method() == Method::GET
        && !path.starts_with("/api/")
        && text(request.headers(), header::ACCEPT).is_some_and(|accept| accept.contains("text/html"));
    if is_page && !matches!(denied, Denied::State(_)) {
        let next = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        return Redirect::to(&format!("/login?next={next}")).into_response();
    }
    let mut response = Problem::from(denied).into_response();
    if response.status() == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer realm=\"workrs\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Headers of every answer that tell browsers to be careful with it. An answer that says more of its own keeps that, too.
pub(super) async fn careful(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // Of several policies, all count.
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: with that, browsers say of the page's own forms that they come from nowhere (`Origin: null`).
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

fn forbidden(reason: impl std::fmt::Display) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "the request is not allowed", reason)
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        forbidden(&error).hint("ask an admin of the group for a token that may (`workrs token create`)")
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let kind = match denied {
            Denied::NoToken => "no-token",
            Denied::Expired => "token-expired",
            Denied::Revoked => "token-revoked",
            Denied::State(error) => return error.into(),
        };
        let hint = match denied {
            Denied::NoToken => "send a token as 'Authorization: Bearer …', or set WORKRS_TOKEN",
            _ => "ask an admin of the group for a new one (`workrs token create`)",
        };
        Self::new(StatusCode::UNAUTHORIZED, kind, "the request is not allowed", denied).hint(hint)
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::FirstIsNoAdmin => Self::new(StatusCode::CONFLICT, "no-admin", "the token cannot be made", text)
                .field("role")
                .hint("make an admin's first: workrs token create --owner NAME --role admin"),
            TokenError::LastAdmin => Self::new(StatusCode::CONFLICT, "no-admin", "the token cannot be revoked", text)
                .hint("make another admin's token first"),
            TokenError::Unknown(_) => Self::not_found(text).hint("see `workrs token ls`"),
            TokenError::State(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, routing::any};
    use tower::ServiceExt;
    use workrs_store::redb::RedbStore;

    use super::*;

    const NODE_TOKEN: &str = "s3cret";

    /// What becomes of a request to a node that has this token.
    async fn check(
        token: Option<&str>,
        method: Method,
        headers: &[(HeaderName, &str)],
        body: &'static str,
        expect: u16,
    ) {
        let address = "127.0.0.1:7480".parse().unwrap();
        let store = Arc::new(RedbStore::in_memory());
        let access = Arc::new(Access::new(address, token.map(str::to_owned), store));
        let echo = |Extension(_): Extension<Caller>, body: String| async move { body };
        let router: Router<()> =
            Router::new().route("/", any(echo)).layer(axum::middleware::from_fn_with_state(access, super::check));
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = router.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), expect, "{headers:?}");
        if expect == 200 {
            let read = axum::body::to_bytes(response.into_body(), MAX_BODY).await.unwrap();
            assert_eq!(read, body, "the handler has the whole body, whoever read it before");
        }
    }

    #[tokio::test]
    async fn only_this_machine_or_the_token_gets_in() {
        use header::{AUTHORIZATION, HOST, ORIGIN};
        check(None, Method::GET, &[(HOST, "127.0.0.1:7480")], "", 200).await;
        check(None, Method::GET, &[(HOST, "localhost:7480")], "", 200).await;
        check(None, Method::GET, &[(HOST, "[::1]:7480")], "", 200).await;
        check(None, Method::GET, &[(HOST, "evil.example:7480")], "", 403).await;
        check(None, Method::POST, &[(HOST, "localhost:7480"), (ORIGIN, "http://evil.example")], "", 403).await;
        check(None, Method::POST, &[(HOST, "localhost:7480"), (ORIGIN, "http://localhost:7480")], "", 200).await;
        let token = Some(NODE_TOKEN);
        check(token, Method::GET, &[(HOST, "node:7480")], "", 401).await;
        check(token, Method::GET, &[(HOST, "node:7480"), (AUTHORIZATION, "Bearer wrong")], "", 401).await;
        check(token, Method::GET, &[(HOST, "node:7480"), (AUTHORIZATION, "Bearer s3cret")], "", 200).await;
    }

    #[tokio::test]
    async fn what_a_browser_sends_by_itself_changes_nothing() {
        use header::{CONTENT_TYPE, COOKIE};
        const FORM: &str = "application/x-www-form-urlencoded";
        let (token, csrf) = (Some(NODE_TOKEN), session::csrf(NODE_TOKEN));
        let cookie = (COOKIE, "workrs_session=733363726574");
        let header = HeaderName::from_static(session::CSRF_HEADER);
        check(token, Method::GET, std::slice::from_ref(&cookie), "", 200).await;
        check(token, Method::POST, std::slice::from_ref(&cookie), "", 403).await;
        check(token, Method::DELETE, &[cookie.clone(), (header.clone(), csrf.as_str())], "", 200).await;
        check(token, Method::POST, &[cookie.clone(), (header, "0")], "", 403).await;
        let body: &'static str = format!("a=b&csrf={csrf}").leak();
        check(token, Method::POST, &[cookie.clone(), (CONTENT_TYPE, FORM)], body, 200).await;
        check(token, Method::POST, &[cookie.clone(), (CONTENT_TYPE, FORM)], "a=b&csrf=0", 403).await;
        check(token, Method::POST, &[cookie, (CONTENT_TYPE, "text/plain")], body, 403).await;
    }

    #[tokio::test]
    async fn people_are_sent_to_where_they_can_log_in() {
        use header::ACCEPT;
        check(Some(NODE_TOKEN), Method::GET, &[(ACCEPT, "text/html,*/*")], "", 303).await;
        check(Some(NODE_TOKEN), Method::GET, &[(ACCEPT, "application/json")], "", 401).await;
        check(Some(NODE_TOKEN), Method::POST, &[(ACCEPT, "text/html")], "", 401).await;
    }
}
